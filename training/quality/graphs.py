"""Exported graphs of the trained adapters: many adapters and drops in one bundle, and their predictions."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

import runtime
from exporter import export
from runtime.bundle import MANIFEST, read_manifest
from training.quality.methods import MAX_LENGTH, SPECIALISED
from training.quality.mpnet import load_base_model
from training.quality.train import RESULT, Piece
from training.texts import read_task

_BATCH = 16
# With random tokens, PyTorch in fp16 differs from PyTorch in fp32 by up to 2.4 % of the largest logit of some of the adapters,
# and the graph by 4 %, more than the 2 % of an export. What counts here are the predictions for the test texts.
_ATOL = {"fp16": 0.1}
# Texts of each adapter and drop whose logits are compared with those of the library.
COMPARED = 4
Result = Mapping[str, Any]


@dataclass(frozen=True, eq=False)
class TestSet:
    """Tokenized test texts of a task.

    Attributes:
        inputs: token ids of each text, with special tokens.
        expected: number of the label of each text.
        labels: names of the labels.
    """

    __test__ = False  # no class of tests
    inputs: tuple[tuple[int, ...], ...]
    expected: tuple[int, ...]
    labels: tuple[str, ...]


def trained(folder: Path) -> dict[Piece, Result]:
    """Return the finished adapters of `python -m training.quality` with their training results."""
    found = {}
    for path in sorted(folder.glob(f"*/{RESULT}")):
        if path.parent.suffix != ".partial":
            result = json.loads(path.read_text(encoding="utf-8"))
            found[Piece(result["task"], result["method"], result["seed"])] = result
    return found


def read_test_set(path: Path, tokenizer: Any, labels: Sequence[str], texts: int) -> TestSet:
    """Read `texts` lines of a test set, truncated as in training.

    They are chosen by hash, because the file may be sorted by label; a larger number includes the texts of a smaller one.
    """
    rows = sorted(read_task(path), key=lambda row: hashlib.sha256(row["text"].encode()).digest())[:texts]
    encoded = tokenizer([row["text"] for row in rows], truncation=True, max_length=MAX_LENGTH)["input_ids"]
    return TestSet(tuple(map(tuple, encoded)), tuple(labels.index(row["label"]) for row in rows), tuple(labels))


def load_adapters(folder: Path, base_model: Path, pieces: Sequence[Piece]) -> Any:
    """Return the base model with adapters and their heads, in evaluation mode."""
    model = load_base_model(base_model)
    for piece in pieces:
        model.load_adapter(str(folder / piece.name), load_as=piece.name, use_safetensors=True)
    return model.eval()


def runs_at(piece: Piece, drop: int) -> bool:
    """Return whether an adapter is measured at a drop: below its own, a specialised adapter is the same graph."""
    return piece.method != "specialised" or drop >= SPECIALISED


def bundle(model: Any, tokenizer: Any, pieces: Sequence[Piece], drops: Sequence[int], precision: str, folder: Path) -> Path:
    """Export adapters at several drops over one weights file, or return a finished bundle that has them.

    Args:
        model: the base model with the adapters.
        tokenizer: its tokenizer.
        pieces: the adapters.
        drops: numbers of layers without adapters, a variant each.
        precision: precision of the graphs.
        folder: folder of the bundles.

    Raises:
        ExportError: the export failed.
    """
    names = [piece.name for piece in pieces]
    for path in sorted(folder.glob(f"{precision}-*/{MANIFEST}")):
        manifest = read_manifest(path.parent)
        if {task.name for task in manifest.tasks} >= set(names) and {each.drop for each in manifest.variants} >= set(drops):
            return path.parent
    digest = hashlib.sha256(json.dumps([names, list(drops)]).encode()).hexdigest()[:12]
    output = folder / f"{precision}-{digest}"
    export(
        model,
        tokenizer,
        names,
        list(drops),
        output,
        precision=precision,
        routed=True,
        overwrite=True,
        atol=_ATOL.get(precision),
    )
    return output


def predictions(
    predictor: runtime.Predictor, pieces: Sequence[Piece], drop: int, tests: TestSet, padding: int
) -> Iterator[tuple[list[int], np.ndarray]]:
    """Yield numbers of texts and the logits of all adapters of a task for them, [texts, adapters, labels].

    The trunk is computed once for all adapters.

    Args:
        predictor: a bundle with a routed graph.
        pieces: adapters of one task.
        drop: number of layers without adapters.
        tests: the texts.
        padding: token id of padding.
    """
    order = sorted(range(len(tests.inputs)), key=lambda number: len(tests.inputs[number]))
    for start in range(0, len(order), _BATCH):
        numbers = order[start : start + _BATCH]
        feeds = padded([tests.inputs[number] for number in numbers], padding)
        rows = np.repeat(np.arange(len(numbers)), len(pieces)).tolist()
        found = predictor.run_routed(feeds, [piece.name for piece in pieces] * len(numbers), rows, drop)
        yield numbers, np.stack(found).reshape(len(numbers), len(pieces), -1)


def padded(inputs: Sequence[Sequence[int]], padding: int) -> dict[str, np.ndarray]:
    """Return texts as inputs of the model, int64 [texts, longest]."""
    width = max(map(len, inputs))
    ids = np.array([[*each, *[padding] * (width - len(each))] for each in inputs], np.int64)
    mask = np.array([[1] * len(each) + [0] * (width - len(each)) for each in inputs], np.int64)
    return {"input_ids": ids, "attention_mask": mask}


@torch.inference_mode()
def library_logits(model: Any, piece: Piece, drop: int, inputs: Sequence[Sequence[int]], padding: int) -> np.ndarray:
    """Return the logits of the library's own forward pass, [texts, labels]."""
    model.set_active_adapters(piece.name, skip_layers=list(range(drop)))
    model.active_head = piece.name
    feeds = {name: torch.from_numpy(value) for name, value in padded(inputs, padding).items()}
    found: np.ndarray = model(**feeds).logits.numpy()
    return found
