"""Operators that mix rows of the batch or depend on their position: split or right, never wrong."""

import numpy as np
import onnx_ir as ir
import pytest

from tests.exporter.compile.vmap.test_route_tasks import route
from tests.exporter.compile.vmap.test_vectorize_tasks import vectorize
from tests.helpers.pass_testing import Weights, rand, tasks_of

_CONSTANTS = """<int64 zero = {0}, int64 one = {1}, int64[1] front = {0}, int64[1] back = {1}, int64[2] ones = {1, 1},
    int64[2] twice = {2, 1}, int64[1] huge = {9223372036854775807}, int64[1] four = {4},
    float[2] off_on = {0.5, 2}, int64[2] flat = {-1, 1}>"""
# What follows h = MatMul(x, w), [batch, 4]; the result is r.
_BODIES = {
    "Trilu": "r = Trilu(h)",
    "Trilu of a square": "t = Transpose<perm = [1, 0]>(h) s = MatMul(h, t) u = Trilu(s) r = MatMul(u, h)",
    "Tile": "tiled = Tile(h, twice) n = Shape<start = 0, end = 1>(x) r = Slice(tiled, n, huge, front)",
    "Gemm that contracts": "g = Gemm<transA = 1>(h, h) r = MatMul(h, g)",
    "Gemm that adds rows of the batch": "t = Transpose<perm = [1, 0]>(h) s = ReduceSum(h, back) r = Gemm(h, v, s)",
    "Gemm of the trunk and the branch": "g = Gemm<transA = 1>(x, h) r = MatMul(h, g)",
    "MatMul that contracts": "t = Transpose<perm = [1, 0]>(h) g = MatMul(t, h) r = MatMul(h, g)",
    "MatMul with a trunk of the batch": "t = Transpose<perm = [1, 0]>(x) s = MatMul(x, t) r = MatMul(s, h)",
    "product of rows": "t = Transpose<perm = [1, 0]>(h) s = MatMul(h, t) r = MatMul(s, h)",
    "Softmax of an old default axis": "r = Softmax<axis = 0>(h)",
    "LayerNormalization from axis 0": "r = LayerNormalization<axis = 0>(h, lone)",
    "CumSum": "r = CumSum(h, zero)",
    "TopK": "a, b = TopK<axis = 0>(h, front1) r = Mul(h, a)",
    "TopK of labels": "a, b = TopK<axis = 1>(h, front1) r = Mul(h, a)",
    "ArgMax": "a = ArgMax<axis = 0>(h) c = Cast<to = 1>(a) r = Add(h, c)",
    "ArgMax of labels": "a = ArgMax<axis = 1>(h) c = Cast<to = 1>(a) r = Add(h, c)",
    "NonZero": "n = NonZero(h) c = Cast<to = 1>(n) s = ReduceSum(c, ) r = Add(h, s)",
    "EyeLike": "e = EyeLike(h) r = Mul(h, e)",
    "OneHot of the batch": """a = ArgMax<axis = 1, keepdims = 0>(h) o = OneHot(a, four, off_on) r = Mul(h, o)""",
    "OneHot over the batch": """s = ReduceSum<keepdims = 0>(h, front) c = Cast<to = 7>(s) n = Shape<start = 0, end = 1>(h)
        o = OneHot<axis = 0>(c, n, off_on) r = Mul(h, o)""",
    "Range as data": """n = Shape<start = 0, end = 1>(h) q = Squeeze(n) d = Range(zero, q, one) c = Cast<to = 1>(d)
        u = Unsqueeze(c, back) r = Add(h, u)""",
    "Range of the trunk as data": """n = Shape<start = 0, end = 1>(x) q = Squeeze(n) d = Range(zero, q, one) c = Cast<to = 1>(d)
        u = Unsqueeze(c, back) r = Add(h, u)""",
    "batch size of the trunk as data": "n = Shape<start = 0, end = 1>(x) c = Cast<to = 1>(n) r = Div(h, c)",
    "batch size of the branch as data": "n = Shape<start = 0, end = 1>(h) c = Cast<to = 1>(n) r = Div(h, c)",
    "Expand by a computed batch": "n = Shape(h) e = Expand(c1, n) r = Add(h, e)",
    "ConstantOfShape": "n = Shape(h) e = ConstantOfShape(n) r = Add(h, e)",
    "batch plus one": """n = Shape(x) m = Add(n, onezero) e = ConstantOfShape(m) b = Shape<start = 0, end = 1>(e)
        f = Cast<to = 1>(b) r = Div(h, f)""",
    "Gather along the batch": "a = Gather(h, front) r = Add(h, a)",
    "Gather from the trunk": "a = ArgMax<axis = 1, keepdims = 0>(h) m = Mod(a, n1) g = Gather(x, m) r = Add(h, g)",
    "Gather backwards": """n = Shape<start = 0, end = 1>(x) q = Squeeze(n) d = Range(zero, q, one) e = Sub(q, d)
        f = Sub(e, one) r = Gather(h, f)""",
    "GatherND": """n = Shape<start = 0, end = 1>(x) q = Squeeze(n) d = Range(zero, q, one) e = Sub(q, d) f = Sub(e, one)
        u = Unsqueeze(f, back) r = GatherND(h, u)""",
    "GatherElements": "a = ArgMax<axis = 0>(h) r0 = GatherElements<axis = 0>(h, a) r = Add(h, r0)",
    "ScatterND": "u = Unsqueeze(front, back) v0 = Neg(row) r = ScatterND(h, u, v0)",
    "ScatterElements": "a = ArgMax<axis = 0>(h) g = ReduceSum(h, front) r = ScatterElements<axis = 0>(h, a, g)",
    "Slice of the batch": "s = Slice(h, front, back, front) r = Add(h, s)",
    "Concat along the batch": "c = Concat<axis = 0>(h, h) n = Shape<start = 0, end = 1>(x) r = Slice(c, n, huge, front)",
    "Concat with the trunk": "c = Concat<axis = 0>(x, h) m = ReduceMax(c, front) r = Add(h, m)",
    "Split of the batch": "d = Concat<axis = 0>(h, x) a, r = Split<axis = 0, num_outputs = 2>(d)",
    "Pad": "p = Pad(h, pads) r = Slice(p, back, huge, front)",
    "vector against a square": """s = ReduceSum<keepdims = 0>(h, back) t = Transpose<perm = [1, 0]>(x) q = MatMul(x, t)
        p = Add(q, s) r = MatMul(p, h)""",
    "column against a row": """s = ReduceSum(h, back) t = Transpose<perm = [1, 0]>(s) q = Add(s, t) r = MatMul(q, h)""",
    "batch at the last axis": """t = Transpose<perm = [1, 0]>(h) e = Neg(t) p = Softmax<axis = 0>(e)
        r = Transpose<perm = [1, 0]>(p)""",
    "Softmax over a batch at the last axis": "t = Transpose<perm = [1, 0]>(h) p = Softmax(t) r = Transpose<perm = [1, 0]>(p)",
    "two places of the batch": """t = Transpose<perm = [1, 0]>(h) f = Reshape(t, flat) u = Transpose<perm = [1, 0]>(x)
        g = Reshape(u, flat) k = Add(f, g) n = Shape(t) b = Reshape(k, n) r = Transpose<perm = [1, 0]>(b)""",
    "Reshape that scrambles": """t = Transpose<perm = [1, 0]>(h) n = Shape(h) b = Reshape(t, n) r = Add(b, h)""",
    "Reshape that merges": "f = Reshape(h, flat) g = Relu(f) n = Shape(h) r = Reshape(g, n)",
    "Einsum that contracts": 'g = Einsum<equation = "bi,bj->ij">(h, h) r = MatMul(h, g)',
    "Einsum that keeps": 'g = Einsum<equation = "bi,bj->bij">(h, x) r = ReduceSum<keepdims = 0>(g, back)',
    "mean over the batch": "m = ReduceMean(h, front) r = Sub(h, m)",
    "ReverseSequence": """n = Shape<start = 0, end = 1>(h) l = Expand(n, four)
        r = ReverseSequence<time_axis = 0, batch_axis = 1>(h, l)""",
    "MeanVarianceNormalization": "r = MeanVarianceNormalization<axes = [0]>(h)",
    "Unsqueeze before the batch": "u = Unsqueeze(h, front) k = Relu(u) r = Squeeze(k, front)",
}
_TRUNK = {
    "v": rand(4, 4),
    "lone": np.ones(1, np.float32),
    "c1": rand(1, 4),
    "row": rand(1, 4, seed=3),
    "s4": rand(4),
    "front1": np.array([1]),
    "onezero": np.array([1, 0]),
    "n1": np.array(1),
    "pads": np.array([1, 0, 0, 0]),
}
# Lengths that torch.onnx declares and ONNX's inference does not find.
_SHAPES: dict[str, list[str | int]] = {"tiled": ["2*batch", 4]}
# Those in which each row of the result needs no other row of the batch.
_ROUTED = {
    "ArgMax of labels",
    "ConstantOfShape",
    "Einsum that keeps",
    "Expand by a computed batch",
    "Gather from the trunk",
    "Gemm that adds rows of the batch",
    "OneHot of the batch",
    "TopK of labels",
    "Unsqueeze before the batch",
    "batch at the last axis",
    "batch plus one",
    "batch size of the trunk as data",
}


def _text(body: str, last: str) -> str:
    return f"(float[batch, 4] x) => (float[batch, labels] y) {_CONSTANTS} {{ h = MatMul(x, w) {body} {last} }}"


_WEIGHTS: Weights = {"w": tasks_of(4, 4), "head": tasks_of(4, 4, seed=4)}


@pytest.mark.parametrize("name", _BODIES)
def test_vectorized_is_right(name: str) -> None:
    text = _text(_BODIES[name], "y = Add(r, x)")
    vectorize(text, {"w": _WEIGHTS["w"]}, trunk=_TRUNK, shapes=_SHAPES, sizes=[{"batch": batch} for batch in (3, 1, 4)])


def _route(name: str) -> None:
    route(_text(_BODIES[name], "y = MatMul(r, head)"), _WEIGHTS, trunk=_TRUNK, shapes=_SHAPES, labels=4)


@pytest.mark.parametrize("name", sorted(_ROUTED))
def test_routed_is_right(name: str) -> None:
    _route(name)


@pytest.mark.parametrize("name", sorted(set(_BODIES) - _ROUTED))
def test_routed_is_refused(name: str) -> None:
    with pytest.raises(ir.passes.PassError, match="may compute across the rows of a batch"):
        _route(name)
