"""Outputs that are not what the manifest says, and logits without a prediction: an error instead of an answer."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import runtime
from runtime.bundle import MODEL
from runtime.text.check_logits import is_finite
from runtime.text.encode import CPU_LIMITS
from tests.helpers.runtime_bundles import HEAD_TASKS, ROUTED, TASKS, feeds, rewrite, write_bundle, write_heads, write_routed


def load(folder: Path) -> runtime.Predictor:
    return runtime.load(folder, provider="cpu", threads=1)


def change(folder: Path, graph: str = MODEL, **weights: np.ndarray[Any, Any]) -> None:
    """Replace weights of a graph, whose hash is then written into the manifest."""
    model = onnx.load(folder / graph)
    for initializer in model.graph.initializer:
        if initializer.name in weights:
            initializer.CopyFrom(numpy_helper.from_array(weights[initializer.name], initializer.name))
    onnx.save(model, folder / graph)
    rewrite(folder)


def edit(folder: Path, graph: str, edit_graph: Any) -> None:
    model = onnx.load(folder / graph)
    edit_graph(model.graph)
    onnx.save(model, folder / graph)
    rewrite(folder)


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("task", ["topic", "flags", "stars", "names"])
def test_logits_that_are_not_finite_name_the_text(tmp_path: Path, task: str, value: float) -> None:
    folder = write_bundle(tmp_path / "bundle")
    tokens = load(folder)._encoder
    assert tokens is not None
    (row,) = tokens.encode(["bad"])
    words = numpy_helper.to_array(next(each for each in onnx.load(folder / MODEL).graph.initializer if each.name == "words_w"))
    words = words.copy()
    words[row.ids[1]] = value
    change(folder, words_w=words)
    predictor = load(folder)
    assert predictor.predict(["good", "fine"])
    with pytest.raises(runtime.AdapterDropError, match=rf"task {task}, texts\[1\]: expected finite logits.*drop 5.*cpu, fp32"):
        predictor.predict(["good", "bad"], [task])
    assert not np.isfinite(predictor.run(next(tokens.batches([row], CPU_LIMITS)).feeds)[task]).all()  # run() returns them


def test_only_what_is_read_must_be_finite(tmp_path: Path) -> None:
    encoder = load(write_heads(tmp_path / "bundle"))._encoder
    assert encoder is not None
    assert encoder.mask_id is not None
    (row,) = encoder.encode([("a [MASK]", "b")])
    filler = np.full((len(row), 5), np.nan)
    filler[row.ids.index(encoder.mask_id)] = 1
    tasks = {task.name: task for task in (*TASKS, *HEAD_TASKS)}
    assert is_finite(tasks["filler"], [filler], row, encoder)
    assert not is_finite(tasks["filler"], [np.full((len(row), 5), np.nan)], row, encoder)
    assert is_finite(tasks["topic"], [np.array([-np.inf, 1, 2])], row, encoder)  # an excluded label
    assert not is_finite(tasks["topic"], [np.full(3, -np.inf)], row, encoder)
    assert not is_finite(tasks["stars"], [np.array([-np.inf])], row, encoder)
    assert not is_finite(tasks["reader"], [np.zeros(4), np.array([0, np.nan, 0, 0])], row, encoder)
    assert is_finite(tasks["reader"], [np.zeros(0), np.zeros(0)], row, encoder)


def _hide_shapes(graph: Any) -> None:
    for output in graph.output:
        output.type.tensor_type.ClearField("shape")


def _swap(graph: Any, name: str, *nodes: onnx.NodeProto) -> None:
    """Compute the output `name` from its former value, which `nodes` call `before`."""
    for node in graph.node:
        node.output[:] = ["before" if output == name else output for output in node.output]
    graph.node.extend(nodes)
    _hide_shapes(graph)


def _doubled(name: str, width: int) -> list[onnx.NodeProto]:
    """Repeat the logits; ONNX Runtime does not infer the width of Compress."""
    make = onnx.helper.make_node
    every = make("Constant", [], ["every"], value=numpy_helper.from_array(np.ones(2 * width, np.bool_)))
    wide = make("Concat", ["before", "before"], ["wide"], axis=1)
    return [every, wide, make("Compress", ["wide", "every"], [name], axis=1)]


def test_shapes_are_checked_at_each_run(tmp_path: Path) -> None:
    folder = write_bundle(tmp_path / "bundle")
    edit(folder, MODEL, lambda graph: _swap(graph, "flags", *_doubled("flags", 2)))
    predictor = load(folder)  # the graph does not state its shapes
    message = r"task flags: expected 2 row\(s\) of 2 logits of rank 2, the graph returned 'flags' of shape \[2, 4\]; export"
    with pytest.raises(runtime.AdapterDropError, match=message):
        predictor.run(feeds())
    with pytest.raises(runtime.AdapterDropError, match=message):
        predictor.run_on_device(feeds())
    assert predictor.run(feeds(), ["topic"])["topic"].shape == (2, 3)


def test_rows_and_tokens_are_those_of_the_inputs(tmp_path: Path) -> None:
    folder = write_bundle(tmp_path / "rows")
    twice = onnx.helper.make_node("Concat", ["before", "before"], ["topic"], axis=0)
    edit(folder, MODEL, lambda graph: _swap(graph, "topic", twice))
    with pytest.raises(runtime.AdapterDropError, match=r"task topic: expected 2 row\(s\) of 3 .*shape \[4, 3\]"):
        load(folder).run(feeds())
    folder = write_bundle(tmp_path / "tokens")
    twice = onnx.helper.make_node("Concat", ["before", "before"], ["names"], axis=1)
    edit(folder, MODEL, lambda graph: _swap(graph, "names", twice))
    with pytest.raises(runtime.AdapterDropError, match=r"task names: expected logits for 3 tokens, found \[6, 3\]"):
        load(folder).predict(["one"])


def test_a_routed_graph_is_checked_too(tmp_path: Path) -> None:
    folder = write_routed(tmp_path / "bundle")
    edit(folder, ROUTED, lambda graph: _swap(graph, "logits", *_doubled("logits", 3)))
    predictor = load(folder)
    for call in (lambda: predictor.run(feeds(), ["topic"]), lambda: predictor.run_routed(feeds(), ["topic", "flags"])):
        with pytest.raises(runtime.AdapterDropError, match=r"expected logits of shape \[2, 3\], the graph returned \[2, 6\]"):
            call()
    with pytest.raises(runtime.InputError, match=r"rows: expected a list of row numbers, found a masked array"):
        predictor.run_routed(feeds(), ["topic"], np.ma.array([7], mask=[True]))  # type: ignore[arg-type]


def test_outputs_that_are_no_floats_are_refused_at_load(tmp_path: Path) -> None:
    folder = write_bundle(tmp_path / "bundle")
    cast = onnx.helper.make_node("Cast", ["before"], ["topic"], to=onnx.TensorProto.INT64)

    def integers(graph: Any) -> None:
        _swap(graph, "topic", cast)
        graph.output[0].type.tensor_type.elem_type = onnx.TensorProto.INT64

    edit(folder, MODEL, integers)
    with pytest.raises(runtime.BundleError, match=r"output topic: expected tensor\(float\).*, the graph has tensor\(int64\)"):
        load(folder)


def test_masked_arrays_do_not_hide_values(tmp_path: Path) -> None:
    predictor = load(write_bundle(tmp_path / "bundle", tokenizer=False))
    given = feeds()
    ids = np.ma.array(given["input_ids"].copy(), mask=given["attention_mask"] == 0)
    ids.data[ids.mask] = 10**9
    with pytest.raises(
        runtime.InputError, match=r"input_ids: expected a plain array, found a masked array; pass .*filled\(0\)"
    ):
        predictor.run(given | {"input_ids": ids})
    filled = ids.filled(0)
    np.testing.assert_array_equal(predictor.run(given | {"input_ids": filled})["topic"].shape, (2, 3))
    with pytest.raises(runtime.InputError, match=r"input_ids: expected int64, found object; cast it with"):
        predictor.run(given | {"input_ids": given["input_ids"].astype(object)})
    assert replace(predictor, hooks=()).run(given)["topic"].shape == (2, 3)
