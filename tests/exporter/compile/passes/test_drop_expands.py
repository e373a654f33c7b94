"""Expands that broadcasting does anyway."""

import onnx_ir as ir
import pytest

from exporter.compile.passes import DropExpandsPass
from tests.helpers.pass_testing import parse, prove

MASK = "(float[batch, 1, 1, sequence] m, float[batch, 2, sequence, sequence] x) => (float[batch, 2, sequence, sequence] y)"
EXPAND = """zero = Constant<value_ints = [0]>() three = Constant<value_ints = [3]>() one = Constant<value_ints = [1]>()
    s = Shape(m) b = Gather(s, zero) t = Gather(s, three) target = Concat<axis = 0>(b, one, t, t) e = Expand(m, target)"""
WIDE = "float[batch, 1, sequence, sequence]"


@pytest.mark.parametrize(
    ("body", "operators"),
    [
        ("y = Add(x, e)", "Add"),
        ("n = Sub(k, e) f = Mul(n, k) y = Add(f, x)", "Sub Mul Add"),
        ("c = Cast<to = 9>(e) y = Where(c, x, k)", "Cast Where"),
        ("c = Cast<to = 9>(e) n = Not(c) w = Where(n, k, e) y = Add(x, w)", "Cast Not Where Add"),
        ("a = Add(x, e) d = Mul(e, e) y = Add(a, d)", "Add Mul Add"),
    ],
)
def test_drops_an_expand_that_ends_in_full_operands(body: str, operators: str) -> None:
    prove(DropExpandsPass(), f"{MASK} <float k = {{2}}, {WIDE} e> {{ {EXPAND} {body} }}", operators)


def test_gives_what_shrinks_its_new_shape() -> None:
    model = prove(DropExpandsPass(), f"{MASK} <{WIDE} e> {{ {EXPAND} n = Neg(e) y = Add(x, n) }}", "Neg Add")
    assert str(model.graph[0].outputs[0].shape) == "[batch,1,1,sequence]"


@pytest.mark.parametrize(
    "body",
    [
        "r = ReduceSum(e, three) y = Add(x, r)",  # read whole
        "n = Neg(e) p = Softmax(n) y = Add(x, p)",
        "q = MatMul(x, e) y = Add(q, x)",
        "n = Add(e, m) y = Add(x, n)",  # m is as small as e would be
        "v = Add(e, row) y = Mul(v, x)",
    ],
)
def test_keeps_an_expand_that_is_read_whole(body: str) -> None:
    prove(DropExpandsPass(), f"{MASK} <float[1, 2, 1, 1] row = {{1, 2}}, {WIDE} e> {{ {EXPAND} {body} }}", None)


def test_keeps_an_expand_that_is_an_output() -> None:
    outputs = f"({WIDE} e, float[batch, 2, sequence, sequence] y)"
    prove(DropExpandsPass(), f"{MASK.split('=>')[0]} => {outputs} {{ {EXPAND} y = Add(x, e) }}", None)


def test_keeps_an_expand_whose_elementwise_result_is_an_output() -> None:
    outputs = f"({WIDE} n, float[batch, 2, sequence, sequence] y)"
    prove(DropExpandsPass(), f"{MASK.split('=>')[0]} => {outputs} <{WIDE} e> {{ {EXPAND} n = Neg(e) y = Add(x, e) }}", None)


def test_an_expand_that_adds_an_axis_goes_as_well() -> None:
    text = """(float[sequence] v, float[batch, sequence] x) => (float[batch, sequence] y) <float[batch, sequence] e> {
        s = Shape(x) e = Expand(v, s) n = Neg(e) y = Add(x, n) }"""
    prove(DropExpandsPass(), text, "Neg Add")


def test_two_operands_may_give_the_full_shape_together() -> None:
    text = """(float[batch, 1] u, float[1, sequence] v) => (float[batch, sequence] y) <float[batch, sequence] e> {
        b = Shape<start = 0, end = 1>(u) s = Shape<start = 1>(v) t = Concat<axis = 0>(b, s) e = Expand(v, t) y = Add(u, e) }"""
    prove(DropExpandsPass(), text, "Add")


def test_keeps_an_expand_of_unknown_shape() -> None:
    model = parse(f"{MASK} <{WIDE} e> {{ {EXPAND} y = Add(x, e) }}")
    model.graph.inputs[0].shape = None
    assert not DropExpandsPass()(model).modified


def test_refuses_subgraphs_which_could_read_an_expand_whole() -> None:
    branch = "g () => (float[n, 1, p, q] {0}) {{ {0} = {1}(e) }}"
    text = f"""(float[batch, 1, 1, sequence] m, bool c) => (float[batch, 1, sequence, sequence] y) <{WIDE} e> {{
        {EXPAND} y = If(c) <then_branch = {branch.format("u", "Neg")}, else_branch = {branch.format("v", "Abs")}> }}"""
    with pytest.raises(ir.passes.PreconditionError, match="expected a graph without control flow, found If"):
        DropExpandsPass()(parse(text))


def test_keeps_an_expand_before_a_scalar_of_higher_rank() -> None:
    text = """(float[batch, 1] m, float[1, batch, sequence] x) => (float[1, batch, sequence] y)
        <float[1, 1, 1] k = {2}, float[batch, sequence] e> {
        i = Constant<value_ints = [1, 2]>() s = Shape(x) target = Gather(s, i) e = Expand(m, target) f = Mul(e, k)
        y = Add(x, f) }"""
    prove(DropExpandsPass(), text, None)
