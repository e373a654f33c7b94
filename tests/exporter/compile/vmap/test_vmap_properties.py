"""Every operator of the table on random axes and shapes, after a task weight: as in one run of the template per task."""

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from exporter.compile.rewrite.axes import OPERATORS
from exporter.compile.vmap.merge_routes import MergeRoutesPass
from exporter.compile.vmap.route_tasks import RouteTasksPass
from exporter.compile.vmap.vectorize_tasks import VectorizeTasksPass
from tests.helpers.operator_cases import CASES, draw_case
from tests.helpers.operator_graph import Graph
from tests.helpers.pass_testing import compute, parse, random_feeds

TASKS = ("first", "second")
SIZES = (2, 3, 5)
_EXAMPLES = {"unary": 2, "binary": 3}


def _text(graph: Graph, last: Sequence[str], output: str) -> str:
    inputs = ", ".join(f"float[{', '.join(map(str, dims))}] {name}" for name, dims in graph.inputs.items())
    return f"({inputs}) => ({output}) {{ {' '.join([*graph.lines, *last])} }}"


def _declare(model: ir.Model, feeds: Sequence[Mapping[str, np.ndarray]]) -> None:
    """Declares each inner value's shape as torch.onnx does: in numbers, in the batch and in multiples of it."""
    values = [value for node in model.graph for value in node.outputs]
    outputs = list(model.graph.outputs)
    model.graph.outputs.clear()
    model.graph.outputs.extend(values)
    shapes = [[array.shape for array in compute(model, each)] for each in feeds]
    model.graph.outputs.clear()
    model.graph.outputs.extend(outputs)
    for value, found in zip(values, zip(*shapes, strict=True), strict=True):
        value.shape = ir.Shape([_dim(lengths) for lengths in zip(*found, strict=True)])


def _dim(lengths: Sequence[int]) -> int | str | None:
    if len(set(lengths)) == 1:
        return int(lengths[0])
    factor = lengths[0] // SIZES[0]
    if list(lengths) == [factor * size for size in SIZES]:
        return "batch" if factor == 1 else f"{factor}*batch"
    return None


def _template(text: str, graph: Graph, task: int) -> ir.Model:
    return parse(text, {**graph.constants, **{name: arrays[task] for name, arrays in graph.weights.items()}})


def _check_vectorized(graph: Graph, text: str) -> tuple[int | str | None, ...]:
    templates = [_template(text, graph, task) for task in range(2)]
    feeds = [random_feeds(templates[0], {"batch": size}) for size in SIZES]
    model = _template(text, graph, 0)
    _declare(model, feeds)
    shape = model.graph.outputs[0].shape
    assert shape is not None
    VectorizeTasksPass(TASKS, graph.weights, "group", "batch")(model)
    for each in feeds:
        for template, found in zip(templates, compute(model, each), strict=True):
            np.testing.assert_allclose(found, compute(template, each)[0], rtol=1e-4, atol=1e-5, strict=True)
    return tuple(dim if isinstance(dim, int) else dim.value for dim in shape)


def _check_routed(graph: Graph, text: str) -> None:
    templates = [_template(text, graph, task) for task in range(2)]
    feeds = [random_feeds(templates[0], {"batch": size}) for size in SIZES]
    model = _template(text, graph, 0)
    _declare(model, feeds)
    try:
        RouteTasksPass(TASKS, graph.weights, "group", "batch", (0, 1), 2)(model)
    except ir.passes.PassError:
        return  # refused
    MergeRoutesPass("row_ids")(model)
    for size, each in zip(SIZES, feeds, strict=True):
        rows, tasks = np.arange(2 * size)[::-1] % size, np.arange(2 * size) % 2
        (found,) = compute(model, {**each, "row_ids": rows, "task_ids": tasks})
        expected = np.stack([compute(template, each)[0] for template in templates])
        np.testing.assert_allclose(found, expected[tasks, rows], rtol=1e-4, atol=1e-5)


def _check(op_type: str, data: st.DataObject) -> None:
    graph = Graph(data.draw)
    result = graph.add(f"Cast<to = {onnx.TensorProto.FLOAT}>({draw_case(graph, op_type)})")
    shape = _check_vectorized(graph, _text(graph, [f"y = Identity({result})"], "float[unknown] y"))
    # Rows of logits: what the batch is an axis of, flat; of all else the sum, which every row reads.
    if shape.count("batch") == 1:
        axis = shape.index("batch")
        order = [axis, *(i for i in range(len(shape)) if i != axis)]
        width = int(np.prod([int(dim) for dim in shape if isinstance(dim, int)]))
        if all(isinstance(dim, int) or dim == "batch" for dim in shape):
            result = graph.add(f"Transpose<perm = {order}>({result})")
            last = [f"y = Reshape({result}, {graph.constant([-1, width])})"]
            _check_routed(graph, _text(graph, last, f"float[batch, {width}] y"))
            return
    last = [f"total = ReduceSum<keepdims = 0>({result})", f"y = Add({graph.branch(['batch', 2])}, total)"]
    _check_routed(graph, _text(graph, last, "float[batch, 2] y"))


@pytest.mark.parametrize("op_type", sorted(OPERATORS))
def test_each_operator_is_right_split_or_refused(op_type: str) -> None:
    @settings(
        max_examples=_EXAMPLES.get(OPERATORS[op_type].kind, 10),
        derandomize=True,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(st.data())
    def check(data: st.DataObject) -> None:
        _check(op_type, data)

    check()


def test_no_operator_of_the_table_is_left_out() -> None:
    assert set(OPERATORS) == CASES
