"""Operator set 17."""

import onnx_ir as ir
import pytest

from exporter.compile.passes import LowerOpsetPass
from tests.helpers.pass_testing import parse, prove

CONSTANTS = (
    "<int64[1] last = {-1}, int64[2] pads = {1, 2}, int64[1] one = {1}, int64[3] rows = {2, 0, 1}, int64[3, 1] at = {2, 0, 1}>"
)


@pytest.mark.parametrize(
    "body",
    [
        "y = ReduceMean<keepdims = 0>(x, last)",
        "y = ReduceMax(x)",
        "y = ReduceSum(x, last)",
        "a, b = Split<axis = 1, num_outputs = 2>(x) y = Concat<axis = 0>(a, b)",
        "a, b, c = Split<axis = 0, num_outputs = 3>(x) y = Add(a, c)",
        "a, b = Split<axis = 0, num_outputs = 2>(x) y = Concat<axis = 0>(b, a)",  # two rows and one
        "y = Pad(x, pads, , one)",
        'y = ScatterND<reduction = "add">(x, at, x)',
    ],
)
def test_writes_it_in_the_older_form(body: str) -> None:
    text = f"(float[3, 4] x) => (float[n, m] y) {CONSTANTS} {{ {body} }}"
    if "keepdims" in body:
        text = text.replace("[n, m]", "[n]")
    operators = " ".join(node.op_type for node in parse(text, opset=18).graph)
    model = prove(LowerOpsetPass(), text, operators, opset=18, idempotent=False)
    assert model.graph.opset_imports[""] == 17


@pytest.mark.parametrize("operator", ["Mish(x)", 'ScatterND<reduction = "max">(x, at, x)'])
def test_names_what_has_no_older_form(operator: str) -> None:
    model = parse(f"(float[3, 4] x) => (float[3, 4] y) {CONSTANTS} {{ y = {operator} }}", opset=18)
    with pytest.raises(
        ir.passes.PassError, match=rf"opset 17 has no form of {operator.split('<')[0].split('(')[0]} .*: export with"
    ):
        LowerOpsetPass()(model)


def test_takes_no_other_set() -> None:
    with pytest.raises(ir.passes.PreconditionError, match="expected a graph of opset 18, found 20"):
        LowerOpsetPass()(parse("(float[3] x) => (float[3] y) { y = Neg(x) }"))
