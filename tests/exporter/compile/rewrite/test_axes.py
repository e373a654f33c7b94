"""The operator table: which axis of each input a position of the result reads."""

import onnx_ir as ir
import pytest

from exporter.compile.rewrite.axes import (
    BROADCASTING,
    ELEMENTWISE,
    MOVES,
    OPERATORS,
    PERMUTES,
    SAME_ORDER,
    block_sources,
    sources,
)
from tests.helpers.pass_testing import parse

_INPUTS = """float[batch, sequence, 4] x, float[4, 2] w, float[batch, sequence, 1] m, int64[batch, 3] i, float[4, batch] t,
    bool c, float[4] w1, float[4, 4] w2, float[3, 4] w3, int64[batch, 3, 1] i3, int64[batch, 5, 4] ix, int64[3] shape"""
_CONSTANTS = """<int64[1] one = {1}, int64[1] zero = {0}, int64[1] two = {2}, int64[2] twice = {2, 1},
    int64[3] rows = {1, 2, 1},
    int64[4] heads = {0, 0, 2, 2}, int64 three = {3}, float[2] values = {0, 1}, int64[6] pads = {0, 1, 0, 0, 0, 0}>"""
_MIXED = None
_CASES = [
    ("Relu(x)", [(0,), (1,), (2,)]),
    ("Add(x, m)", [(0, 0), (1, 1), (2, None)]),
    ("Where(c, x, w1)", [(None, 0, None), (None, 1, None), (None, 2, 0)]),
    ("MatMul(x, w)", [(0, None), (1, None), (None, 1)]),
    ("Gemm<transA = 1>(t, w2, w1)", [(1, None, None), (None, 1, 0)]),
    ("Gemm<transA = 1, transB = 1>(w, w3)", [(1, None), (None, 0)]),
    ("Transpose<perm = [2, 0, 1]>(x)", [(2,), (0,), (1,)]),
    ("Unsqueeze(x, one)", [(0, None), (None, None), (1, None), (2, None)]),
    ("Squeeze(m, two)", [(0, None), (1, None)]),
    ("Reshape(x, heads)", [(0, None), (1, None), _MIXED, _MIXED]),
    ("Flatten<axis = 1>(w)", [(0,), (1,)]),
    ("Softmax(x)", [(0,), (1,), _MIXED]),
    ("LayerNormalization(x, w1)", [(0, None), (1, None), _MIXED]),
    ("Trilu(x)", [(0,), _MIXED, _MIXED]),
    ("CumSum(x, zero)", [_MIXED, (1, None), (2, None)]),
    ("Tile(x, rows)", [(0, None), _MIXED, (2, None)]),
    ("Tile(w, twice)", [_MIXED, (1, None)]),
    ("Concat<axis = 1>(x, x)", [(0, 0), _MIXED, (2, 2)]),
    ("Slice(x, zero, one, one)", [(0, None, None, None), _MIXED, (2, None, None, None)]),
    ("Pad(x, pads)", [(0, None), _MIXED, (2, None)]),
    ("Gather(w, i)", [(None, 0), (None, 1), (1, None)]),
    ("Gather<axis = 1>(x, one)", [(0, None), (None, 0), (2, None)]),
    ("GatherND<batch_dims = 1>(x, i3)", [(0, 0), (None, 1), (2, None)]),
    ("GatherElements<axis = 1>(x, ix)", [(0, 0), (None, 1), (2, 2)]),
    ("OneHot(i, three, values)", [(0, None, None), (1, None, None), _MIXED]),
    ("ReduceSum<keepdims = 0>(x, one)", [(0, None), (2, None)]),
    ("ReduceSum(x)", [_MIXED, _MIXED, _MIXED]),
    ("ArgMax<axis = 1>(x)", [(0,), _MIXED, (2,)]),
    ("Expand(m, shape)", [(0, None), (1, None), (None, None)]),
    ('Einsum<equation = "bsi,io->sbo">(x, w)', [(1, None), (0, None), (None, 1)]),
    ("Sin(x)", [(0,), (1,), (2,)]),
    ("NonZero(x)", _MIXED),
]


@pytest.mark.parametrize(("expression", "expected"), _CASES, ids=[expression for expression, _ in _CASES])
def test_names_the_axes_that_are_read(expression: str, expected: list[tuple[int | None, ...] | None] | None) -> None:
    rank = 2 if expected is None else len(expected)
    text = f"({_INPUTS}) => (float[{', '.join('abcd'[:rank])}] y) {_CONSTANTS} {{ v = {expression} y = Cast<to = 1>(v) }}"
    node = parse(text).graph[0]
    if node.op_type == "Expand":  # its target is known only at run time
        node.outputs[0].shape = ir.Shape(["batch", "sequence", 4])
    found = [sources(node, axis) for axis in range(rank)]
    assert found == (expected or [_MIXED] * rank)


def test_a_reshape_keeps_blocks_of_its_outermost_axes() -> None:
    text = "(float[batch, sequence, 4] x) => (float[r, 4] y) <int64[2] merged = {-1, 4}> { y = Reshape(x, merged) }"
    node = parse(text).graph[0]
    assert sources(node, 0) is None
    assert block_sources(node, 0) == (0, None)
    assert block_sources(node, 1) == (2, None)


def test_groups_of_operators_are_nested() -> None:
    assert SAME_ORDER < PERMUTES < MOVES < set(OPERATORS)
    assert ELEMENTWISE < BROADCASTING
