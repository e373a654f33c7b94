"""The loop that the passes over single operators share."""

from __future__ import annotations

import onnx_ir as ir
import pytest

from exporter.compile.rewrite.builder import Builder
from exporter.compile.rewrite.node_pass import NodeRewritePass, Rewritten
from exporter.compile.rewrite.refusals import Refusal
from tests.helpers.pass_testing import op_types, parse, prove

F = "float[batch, 4]"


class DoublePass(NodeRewritePass):
    """x + x becomes 2 x."""

    op_types = ("Add",)

    def rewrite(self, node: ir.Node, build: Builder) -> Rewritten:
        x, y = node.inputs
        if x is not y:
            return Refusal("the summands differ", y)
        two = build.once("two", lambda: build.node("Cast", [build.ints([2])], attributes={"to": 1}, dtype=ir.DataType.FLOAT))
        return build.node("Mul", [x, two], shape=node.outputs[0].shape, dtype=node.outputs[0].dtype)


class SkipNegPass(NodeRewritePass):
    """-(-x) becomes x."""

    op_types = ("Neg",)
    keeps_outputs = True
    repeats = True

    def rewrite(self, node: ir.Node, _build: Builder) -> Rewritten:
        inner = None if node.inputs[0] is None else node.inputs[0].producer()
        return inner.inputs[0] if inner is not None and inner.op_type == "Neg" else None


class SwapPass(NodeRewritePass):
    """A Split in halves becomes two Slices."""

    op_types = ("Split",)

    def rewrite(self, node: ir.Node, build: Builder) -> Rewritten:
        return {
            part: build.node(
                "Slice",
                [node.inputs[0], *(build.ints([number]) for number in (2 * half, 2 * half + 2, 1))],
                shape=part.shape,
                dtype=part.dtype,
            )
            for half, part in enumerate(node.outputs)
        }


def test_a_result_takes_the_name_of_an_output() -> None:
    prove(DoublePass(), f"({F} x) => ({F} y) {{ y = Add(x, x) }}", "Cast Mul")


def test_a_value_is_made_once_for_several_operators() -> None:
    text = f"({F} x, {F} z) => ({F} y) {{ a = Add(x, x) b = Add(z, z) y = Mul(a, b) }}"
    prove(DoublePass(), text, "Cast Mul Mul Mul")


def test_several_results_are_replaced_together() -> None:
    text = f"({F} x) => (float[batch, 2] y) {{ a, b = Split<axis = 1, num_outputs = 2>(x) y = Sub(a, b) }}"
    prove(SwapPass(), text, "Slice Slice Sub")


def test_operators_and_weights_that_nothing_reads_are_removed() -> None:
    text = f"({F} x) => ({F} y) <float[4] w = {{1, 2, 3, 4}}> {{ a = Add(x, w) b = Neg(a) c = Neg(b) y = Relu(x) }}"
    model = parse(text)
    assert SkipNegPass()(model).modified
    assert op_types(model) == ["Relu"]
    assert not model.graph.initializers


def test_an_output_keeps_the_operator_that_computes_it() -> None:
    prove(SkipNegPass(), f"({F} x) => ({F} y) {{ a = Neg(x) y = Neg(a) }}", None)


def test_reasons_are_those_of_the_last_run() -> None:
    step, text = DoublePass(), f"({F} x, {F} z) => ({F} y) {{ y = Add(x, z) }}"
    for _ in range(2):
        prove(step, text, None, refused="the summands differ")
    (refused,) = step.refusals
    assert (refused.op_type, refused.tensor, refused.tensors) == ("Add", "z", ("z", "y", "x"))
    prove(step, f"({F} x) => ({F} y) {{ y = Neg(x) }}", None)
    assert step.refusals == []


def test_operators_of_other_domains_are_not_visited() -> None:
    model = parse(f"({F} x) => ({F} y) {{ y = Add(x, x) }}")
    model.graph[0].domain = "other"
    assert not DoublePass()(model).modified


def test_control_flow_is_refused() -> None:
    branch = "g () => (float[1] z) { z = Constant<value_floats = [1.0]>() }"
    model = parse(f"(bool c) => (float[1] y) {{ y = If(c) <then_branch = {branch}, else_branch = {branch}> }}")
    with pytest.raises(ir.passes.PreconditionError, match="DoublePass: expected a graph without control flow, found If"):
        DoublePass()(model)
