"""Graphs in int8 give a text the same result with padding and in any batch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from adapters.composition import Fuse
from transformers import BertConfig

from exporter import ExportError, add, export
from exporter.compile.target_passes import ranges_of
from runtime.bundle import read_manifest
from tests.helpers.sweep import swept
from tests.helpers.tiny_models import tiny_model

MAX_LENGTH = 128
# A difference in the last bit of an fp32 sum, whose order depends on the length, can move a number to the next of 255 steps.
TOLERANCE = 1e-5


def _model(**tasks: tuple[Any, str]) -> Any:
    # Large enough that its products are worth quantizing.
    config = BertConfig(
        num_hidden_layers=2,
        hidden_size=128,
        num_attention_heads=4,
        intermediate_size=256,
        vocab_size=101,
        max_position_embeddings=MAX_LENGTH,
    )
    return tiny_model(tasks, config)


def _fusion() -> Any:
    model = _model(a=("seq_bn", "2"), b=("seq_bn", "3"))
    model.add_adapter_fusion(["a", "b"])
    return model


def _text(length: int, seed: int, width: int) -> dict[str, np.ndarray]:
    """One text of `length` tokens in `width` columns."""
    generator = np.random.default_rng((seed, length))
    ids = np.zeros((1, width), np.int64)
    ids[0, :length] = generator.integers(1, 101, length)
    mask = (np.arange(width) < length).astype(np.int64)[None]
    return {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros((1, width), np.int64)}


def _together(*texts: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: np.concatenate([text[name] for text in texts]) for name in texts[0]}


def _open(path: Path) -> Any:
    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])


def _differences(folder: Path) -> list[float]:
    """How far the logits of a text move by padding and by other texts, in each graph of a bundle."""
    manifest, found = read_manifest(folder), []
    outputs = [task.outputs[0] for task in manifest.tasks]
    lengths = (2, 7, 19, 40, 128)
    alone = [_text(length, 0, length) for length in lengths]
    wide = [_text(length, 0, MAX_LENGTH) for length in lengths]
    # Texts of other lengths, in which tokens have other ranges.
    others = [_text(length, seed, MAX_LENGTH) for seed, length in enumerate((1, 128, 3, 90), 1)]
    for variant in manifest.variants:
        graph = _open(folder / variant.model)
        routed = _open(folder / variant.routed) if variant.routed else None
        batch = graph.run(outputs, _together(*wide, *others))
        for row, (text, padded) in enumerate(zip(alone, wide, strict=True)):
            single = graph.run(outputs, text)
            for number, (logits, long) in enumerate(zip(single, graph.run(outputs, padded), strict=True)):
                found += [float(np.abs(long - logits).max()), float(np.abs(batch[number][row] - logits[0]).max())]
            if routed is not None:
                ids = {"row_ids": np.array([row, 0, 5, 8, row]), "task_ids": np.array([0, 0, 1, 0, 1])}
                mixed = routed.run(["logits"], _together(*wide, *others) | ids)[0]
                found += [
                    float(np.abs(mixed[line, : single[task].shape[1]] - single[task][0]).max())
                    for line, task in ((0, 0), (4, 1))
                ]
    return found


@pytest.mark.parametrize("target", ["cpu", *swept("portable")])
@pytest.mark.parametrize(
    ("make", "options"),
    [
        (lambda: _model(a=("seq_bn", "2"), b=("seq_bn", "3")), {"routed": True, "drop": [0, 1]}),
        *swept((lambda: _model(a=("lora", "2"), b=("lora", "3")), {}), (_fusion, {"tasks": {"a": Fuse("a", "b")}})),
    ],
    ids=["bottlenecks", "lora", "fusion"],
)
def test_no_result_depends_on_padding_or_other_texts(tmp_path: Path, make: Any, options: dict[str, Any], target: str) -> None:
    export(make(), precision="int8", target=target, output=tmp_path / "onnx", **options)
    assert max(_differences(tmp_path / "onnx")) <= TOLERANCE


def test_one_range_for_all_depends_on_them(tmp_path: Path) -> None:
    """The option is another graph, and the check above sees the difference."""
    model = _model(a=("seq_bn", "2"))
    export(model, precision="int8", int8_ranges="tensor", output=tmp_path / "onnx")
    assert max(_differences(tmp_path / "onnx")) > 10 * TOLERANCE


@pytest.mark.parametrize("ranges", ["row", *swept("tensor")])
def test_added_tasks_keep_the_ranges(tmp_path: Path, ranges: str) -> None:
    model = _model(a=("seq_bn", "2"), b=("seq_bn", "2"))
    export(model, tasks=["a"], precision="int8", int8_ranges=ranges, extendable=True, output=tmp_path / "onnx")
    add(tmp_path / "onnx", model=model)
    (variant,) = read_manifest(tmp_path / "onnx").variants
    assert set(variant.tasks) == {"a", "b"}
    assert ranges_of(row.name for row in variant.passes) == ranges


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"int8_ranges": "row"}, "int8_ranges is for the precision int8, found 'row' with fp32: omit it"),
        (
            {"int8_ranges": "x", "precision": "int8"},
            "int8_ranges for the target portable must be one of row, tensor, calibrated, found 'x'",
        ),
        (
            {"int8_ranges": "row", "precision": "int8", "target": "openvino"},
            "int8_ranges for the target openvino must be one of calibrated, found 'row'",
        ),
    ],
)
def test_wrong_ranges_are_refused(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ExportError, match=message):
        export(_model(a=("seq_bn", "2")), output=tmp_path / "onnx", **options)
