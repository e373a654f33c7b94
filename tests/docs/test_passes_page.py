"""docs/passes.md is true: each pass does to its example what the page says, and no pass is missing."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import onnx.parser
import onnx_ir as ir
import onnx_ir.passes.common as common
import pytest

from exporter.compile import passes, vmap
from tests.helpers.pass_testing import op_types, parse, rand

PAGE = (Path(__file__).parents[2] / "docs" / "passes.md").read_text(encoding="utf-8")
SECTIONS = dict(re.findall(r"^## (\w+)\n(.*?)(?=^## |\Z)", PAGE, flags=re.DOTALL | re.MULTILINE))
WEIGHTS = {"w": rand(4, 4), "other": rand(4, 4, seed=1), "b": rand(4), "same_as_b": rand(4), "large": rand(128, 128)}
HEADER = '<ir_version: 10, opset_import: ["" : 20, "com.microsoft" : 1]>'


def _pass(name: str) -> ir.passes.InPlacePass:
    arguments: dict[str, tuple[object, ...]] = {
        "VectorizeTasks": (("a", "b"), {"w": [rand(4, 4), rand(4, 4, seed=1)]}, "tasks0", "batch"),
        "RouteTasks": (("a", "b"), {"w": [rand(4, 4), rand(4, 4, seed=1)]}, "tasks0", "batch", (0, 1), 2),
        "MergeRoutes": ("row_ids",),
        "QuantizeStatic": ({"x": (-4.0, 4.0)},),
        "JoinGroups": ([parse("(float[batch, 4] x) => (float[batch, 4] z) { z = MatMul(x, w) }", _weights("MatMul(x, w)"))],),
    }
    made: ir.passes.InPlacePass = getattr(vmap if hasattr(vmap, f"{name}Pass") else passes, f"{name}Pass")(
        *arguments.get(name, ())
    )
    return made


def _weights(text: str) -> dict[str, np.ndarray]:
    return {name: array for name, array in WEIGHTS.items() if re.search(rf"[(, ]{name}[,)]", text)}


def test_no_pass_is_missing() -> None:
    own = {name.removesuffix("Pass") for name in (*passes.__all__, *vmap.__all__)}
    assert own == set(SECTIONS)


@pytest.mark.parametrize("name", SECTIONS)
def test_a_pass_does_what_its_example_shows(name: str) -> None:
    (block,) = re.findall(r"```text\n(.*?)```", SECTIONS[name], flags=re.DOTALL)
    signature, before, after = block.splitlines()
    body, result = before.removeprefix("before").strip(), after.removeprefix("after").strip()
    # torch.onnx writes set 18 where 17 is wanted.
    model = parse(f"{signature} {body}", _weights(body), opset=18 if name == "LowerOpset" else 20)
    assert _pass(name)(model).modified
    common.RemoveUnusedNodesPass()(model)
    text = result if result.startswith("(") else f"{signature} {result}"
    expected = ir.from_proto(onnx.parser.parse_model(f"{HEADER} agraph {text}"))
    # shape arithmetic of the vectoriser is left out of its example
    shown = [op for op in op_types(model) if op not in ("Shape", "Concat")] if name == "VectorizeTasks" else op_types(model)
    assert shown == op_types(expected)
    assert [value.name for value in model.graph.outputs] == [value.name for value in expected.graph.outputs]
    if name in ("NameTransposed", "MergeWeights"):
        names = [[value.name for value in node.inputs if value] for node in model.graph]
        assert names == [[value.name for value in node.inputs if value] for node in expected.graph]
