"""Several graphs over one set of inputs."""

import numpy as np
import onnx_ir as ir
import pytest

from exporter.compile.vmap.join_groups import JoinGroupsPass
from tests.helpers.pass_testing import SIZES, check_valid, compute, op_types, parse, rand, random_feeds, serialize

GROUP = "(float[batch, 4] x) => (float[batch, 4] {0}) {{ h = MatMul(x, w) r = Add(h, b) {0} = Relu(r) }}"
WEIGHTS = {"w": rand(4, 4), "b": rand(4)}


def group(name: str, **weights: np.ndarray) -> ir.Model:
    return parse(GROUP.format(name), {**WEIGHTS, **weights})


def test_computes_what_each_group_computes() -> None:
    alone = [group("a"), group("b2", b=rand(4, seed=1)), group("c", w=rand(4, 4, seed=2))]
    joined = JoinGroupsPass([group("b2", b=rand(4, seed=1)), group("c", w=rand(4, 4, seed=2))])(group("a")).model
    check_valid(joined)
    assert op_types(joined) == ["MatMul", "Add", "Relu"] * 3
    for sizes in SIZES:
        feeds = random_feeds(joined, sizes)
        expected = [compute(model, feeds)[0] for model in alone]
        np.testing.assert_array_equal(compute(joined, feeds), expected)


def test_names_the_outputs_in_the_order_of_the_groups() -> None:
    joined = JoinGroupsPass([group("z"), group("b2")])(group("m")).model
    assert [value.name for value in joined.graph.outputs] == ["m", "z", "b2"]


def test_shares_weights_of_one_name_and_the_same_numbers() -> None:
    joined = JoinGroupsPass([group("z", b=rand(4, seed=1))])(group("m")).model
    assert sorted(joined.graph.initializers) == ["b", "b_2", "w"]


def test_shares_large_weights_only_by_storage() -> None:
    large = rand(130, 130)
    text = "(float[batch, 130] x) => (float[batch, 130] {0}) {{ {0} = MatMul(x, w) }}"

    def model(name: str, weight: np.ndarray) -> ir.Model:
        parsed = parse(text.format(name), {"w": large})
        parsed.graph.initializers["w"].const_value = ir.tensor(weight, name="w")
        return parsed

    joined = JoinGroupsPass([model("b", large), model("c", large.copy())])(model("a", large)).model
    assert sorted(joined.graph.initializers) == ["w", "w_2"]


def test_keeps_weights_apart_that_differ_in_type_or_shape() -> None:
    text = "(float[batch, 4] x) => (float[batch, 4] {0}) {{ {0} = Add(x, b) }}"
    models = [parse(text.format(f"y{i}"), {"b": np.zeros((1,) * i, np.float32)}) for i in range(3)]
    joined = JoinGroupsPass(models[1:])(models[0]).model
    assert sorted(joined.graph.initializers) == ["b", "b_2", "b_3"]


def test_shares_a_weight_that_is_an_output() -> None:
    text = "(float[batch, 4] x) => (float[batch, 4] {0}, float[4] b) {{ {0} = Add(x, b) }}"
    other = "(float[batch, 4] x) => (float[batch, 4] {0}) {{ {0} = Add(x, b) }}"
    joined = JoinGroupsPass([parse(other.format("z"), {"b": rand(4)})])(parse(text.format("y"), {"b": rand(4)})).model
    check_valid(joined)
    assert [value.name for value in joined.graph.outputs] == ["y", "b", "z"]


def test_leaves_a_model_alone_that_is_joined_with_nothing() -> None:
    model = group("a")
    before = serialize(model)
    assert not JoinGroupsPass([])(model).modified
    assert serialize(model) == before


def test_changes_nothing_the_second_time() -> None:
    step, model = JoinGroupsPass([group("b2")]), group("a")
    once = serialize(step(model).model)
    assert serialize(step(model).model) == once


def test_refuses_other_inputs() -> None:
    other = parse("(float[batch, 4] z) => (float[batch, 4] y) { y = Relu(z) }")
    with pytest.raises(ir.passes.PreconditionError, match=r"expected the inputs \['x'\], found \['z'\]"):
        JoinGroupsPass([other])(group("a"))


def test_an_output_keeps_a_name_used_inside_the_first_group() -> None:
    joined = JoinGroupsPass([parse("(float[batch, 4] x) => (float[batch, 4] r) { r = Neg(x) }")])(group("a")).model
    assert [value.name for value in joined.graph.outputs] == ["a", "r"]


def test_brings_the_operator_sets_of_every_group() -> None:
    other = group("z")
    other.graph[-1].domain = "com.microsoft"
    other.graph[-1].op_type = "Gelu"
    other.graph.opset_imports["com.microsoft"] = 1
    assert JoinGroupsPass([other])(group("a")).model.graph.opset_imports["com.microsoft"] == 1
