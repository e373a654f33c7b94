"""Benchmark of PEFT tasks in one graph against one merged ONNX file per task, on a ModernBERT of the size of mmBERT-base.

`python -m benchmarks.peft_tasks` makes a base model with random weights and six LoRA adapters in its upper half: five text
classifications and one token classification, of ranks from 8 to 64. All are saved, and exported from their folders into one
graph. PEFT merges each into the base model, from which it is exported into a file. The outputs are compared first; then one
call of the graph and the calls of all files are timed in interleaved rounds.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import peft
import torch
import transformers
from transformers import ModernBertConfig

from benchmarks.call_rows import COLUMNS, CallBenchmark, Prepared, Times, by_shape
from benchmarks.checks import TOLERANCE
from benchmarks.contender import Call, Feeds, MismatchError, Outputs, max_difference
from benchmarks.onnx_contenders import open_session
from benchmarks.options import Shape, random_bert_parser
from benchmarks.rounds import paired_ratio
from exporter import export
from exporter.models.quiet_libraries import quiet
from runtime.bundle import MODEL

# Task -> rank, labels, task type. A task per row.
TASKS: dict[str, tuple[int, int, str]] = {
    "intent": (8, 14, "SEQ_CLS"),
    "domain": (16, 10, "SEQ_CLS"),
    "jailbreak": (32, 2, "SEQ_CLS"),
    "sentiment": (64, 3, "SEQ_CLS"),
    "fact_check": (32, 2, "SEQ_CLS"),
    "entities": (32, 17, "TOKEN_CLS"),
}
_TARGETS = ["Wqkv", "Wo"]
_ONE, _FILES = "one graph", "six merged files"
_CLASSES = {"SEQ_CLS": "ModernBertForSequenceClassification", "TOKEN_CLS": "ModernBertForTokenClassification"}
_STD = 0.02


@dataclass(frozen=True)
class Row:
    """Times of one way at one shape.

    Attributes:
        way: one graph, or one merged file per task.
        shape: batch x length.
        rounds: number of rounds.
        median_ms: median time for all tasks in milliseconds.
        p95_ms: 95th percentile of the time in milliseconds.
        ratio: median over the rounds of (time) / (time of the merged files).
    """

    way: str
    shape: str
    rounds: int
    median_ms: float
    p95_ms: float
    ratio: float


def save_models(folder: Path, layers: int, hidden: int, vocabulary: int, seed: int) -> list[Path]:
    """Write a base model and an adapter for each of `TASKS`; return the folders of the adapters.

    Args:
        folder: where to write; the base model is in `base`.
        layers: layers of the base model; the adapters are in the upper half.
        hidden: hidden size, a multiple of 64; the intermediate size is 1.5 times as large, as in mmBERT.
        vocabulary: tokens of the base model.
        seed: of all weights.
    """
    torch.manual_seed(seed)
    config = ModernBertConfig(
        vocab_size=vocabulary,
        hidden_size=hidden,
        intermediate_size=hidden * 3 // 2,
        num_hidden_layers=layers,
        num_attention_heads=hidden // 64,
        classifier_pooling="mean",
        pad_token_id=0,
    )
    with quiet():
        transformers.ModernBertModel(config).save_pretrained(folder / "base")
    for name, (rank, labels, kind) in TASKS.items():
        settings = peft.LoraConfig(
            task_type=kind,
            r=rank,
            lora_alpha=2 * rank,
            target_modules=_TARGETS,
            layers_to_transform=list(range(layers // 2, layers)),
            modules_to_save=["classifier", "head"],
        )
        with quiet():
            model: Any = peft.get_peft_model(_base(folder, kind, labels), settings)
        with torch.no_grad():
            for key, parameter in model.named_parameters():
                if "lora_B" in key:
                    parameter.normal_(std=_STD)
        model.save_pretrained(str(folder / name))
    return [folder / name for name in TASKS]


def _base(folder: Path, kind: str, labels: int) -> Any:
    with quiet():
        return getattr(transformers, _CLASSES[kind]).from_pretrained(folder / "base", num_labels=labels)


def export_both(folder: Path) -> None:
    """Export the tasks of `save_models` into the folder `one`, and each merged into `merged-NAME`."""
    export(folder / "base", adapters=[str(folder / name) for name in TASKS], output=folder / "one")
    for name, (_, labels, kind) in TASKS.items():
        model: Any = peft.PeftModel.from_pretrained(_base(folder, kind, labels), str(folder / name))
        with quiet():
            merged = model.merge_and_unload().eval()
        export(merged, adapters=[f"{name}=base"], output=folder / f"merged-{name}")


def _calls(folder: Path, shape: Shape, vocabulary: int, threads: int, seed: int) -> dict[str, Call]:
    one = open_session(folder / "one" / MODEL, threads)
    files = [open_session(folder / f"merged-{name}" / MODEL, threads) for name in TASKS]
    size = (shape.batch, shape.length)
    ids = np.random.default_rng(seed).integers(1, vocabulary, size)
    feeds: Feeds = {"input_ids": ids, "attention_mask": np.ones_like(ids)}

    def graph() -> Outputs:
        outputs: Outputs = one.run(list(TASKS), feeds)
        return outputs

    calls: dict[str, Call] = {_ONE: graph, _FILES: lambda: [file.run(None, feeds)[0] for file in files]}
    difference = max_difference(calls[_ONE](), calls[_FILES]())
    if not difference <= TOLERANCE:
        raise MismatchError(f"{_ONE} at {shape} differs from the {_FILES} by {difference:.1e}: nothing was written")
    return calls


def _row(way: str, shape: Shape, own: Mapping[str, float], times: Times) -> Row:
    ratio = paired_ratio(times[way], times[_FILES])
    return Row(way, str(shape), len(times[way]), own["median_ms"], own["p95_ms"], ratio)


def markdown(rows: Sequence[Row]) -> str:
    """Return a Markdown table: a line per way, a column per shape, and in brackets the ratio to the merged files."""
    return by_shape((row.way, row.shape, row.median_ms, row.ratio) for row in rows)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    parser = random_bert_parser("peft_tasks", __doc__, "1x64,1x128", 20)
    parser.set_defaults(layers=22)
    parser.add_argument("--vocabulary", type=int, default=256_000, metavar="N", help="tokens; default 256000")
    parser.add_argument("--folder", type=Path, metavar="DIR", help="keep the models and exports in this new folder")
    options = parser.parse_args(arguments)

    def prepare(scratch: Path) -> Prepared:
        folder = options.folder or scratch
        if not (folder / "one" / MODEL).exists():
            save_models(folder, options.layers, options.hidden, options.vocabulary, options.seed)
            export_both(folder)
        names = ("layers", "hidden", "vocabulary", "seed")
        tasks = {name: {"rank": rank, "labels": labels, "task_type": kind} for name, (rank, labels, kind) in TASKS.items()}
        model = "ModernBERT, random weights"
        head = {"name": model, **{name: getattr(options, name) for name in names}, "tasks": tasks, "targets": _TARGETS}
        title = f"{model}: {len(TASKS)} LoRA tasks"
        return Prepared(title, head, lambda shape: _calls(folder, shape, options.vocabulary, options.threads, options.seed))

    columns = {**COLUMNS, "call": ("way", ""), "x merged files": ("ratio", ".2f")}
    return CallBenchmark("peft-tasks", prepare, _row, _FILES, columns, markdown).run(options)


if __name__ == "__main__":
    sys.exit(main())
