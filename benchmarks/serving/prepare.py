"""The exports that the candidates of the load test load. This runs in a separate process, and keeps what is there."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer

from benchmarks.models import random_bert
from benchmarks.serving.one import CHECKED, REFERENCE
from benchmarks.serving.sizes import SIZES
from exporter import export
from exporter.example import base_model_folder

_SETTINGS = "settings.json"


def read_settings(folder: Path) -> dict[str, Any]:
    """Return the settings with which a folder was prepared; empty if it was not."""
    path = folder / _SETTINGS
    return dict(json.loads(path.read_text("utf-8"))) if path.is_file() else {}


def main(arguments: Sequence[str]) -> None:
    """Write the exports that are missing: folder, name of the size, seed, and names of the exports are the arguments."""
    folder, size, seed, wanted = Path(arguments[0]), SIZES[arguments[1]], int(arguments[2]), arguments[3].split(",")
    given = {**dataclasses.asdict(size), "seed": seed}
    drops = [size.drop, 0]
    missing = [name for name in wanted if not (folder / name).exists()]
    if not missing and read_settings(folder) == json.loads(json.dumps(given)):
        return
    folder.mkdir(parents=True, exist_ok=True)
    model = random_bert(size.layers, size.hidden, size.tasks, size.drop, seed).model
    tokenizer = AutoTokenizer.from_pretrained(base_model_folder())
    all_graphs: dict[str, Any] = {"drop": size.drop, "split": True, "slots": size.slots}
    for precision, target in (("fp32", "portable"), ("int8", "cpu"), ("fp16", "cuda")):
        if precision in missing:
            export(model, tokenizer, output=folder / precision, precision=precision, target=target, **all_graphs)
    if "drops" in missing:
        export(model, tokenizer, output=folder / "drops", drop=drops, routed=True)
    for number in range(size.files):
        if "files" in wanted and not (own := folder / "files" / str(number)).exists():
            export(model, tokenizer, tasks=[f"task{number}"], drop=size.drop, output=own)
    references = {drop: _reference(model, tokenizer, drop) for drop in drops}
    (folder / REFERENCE).write_text(json.dumps(references), encoding="utf-8")
    (folder / _SETTINGS).write_text(json.dumps(given), encoding="utf-8")


def _reference(model: Any, tokenizer: Any, drop: int) -> list[list[list[float]]]:
    """Probabilities of single-task PyTorch: for each of the first tasks, those of each text."""
    found = []
    for number in range(min(len(CHECKED), len(model.heads))):
        model.set_active_adapters(f"task{number}", skip_layers=list(range(drop)))
        model.active_head = f"task{number}"
        with torch.inference_mode():
            logits = [model(**tokenizer(text, return_tensors="pt")).logits for text in CHECKED]
        found.append([torch.softmax(each[0], dim=-1).tolist() for each in logits])
    return found


if __name__ == "__main__":
    main(sys.argv[1:])
