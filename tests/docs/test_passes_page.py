"""docs/passes.md and docs/writing_a_pass.md are true: order, examples and quoted files."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import onnx.parser
import onnx_ir as ir
import onnx_ir.passes.common as common
import pytest

from exporter.compile import passes, pipeline, vmap
from tests.helpers.pass_testing import op_types, parse, rand

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "passes.md").read_text(encoding="utf-8")
GUIDE = (ROOT / "docs" / "writing_a_pass.md").read_text(encoding="utf-8")
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
    read = {name: array for name, array in WEIGHTS.items() if re.search(rf"[(, ]{name}[,)]", text)}
    return {name: array for name, array in read.items() if not re.search(rf"\b{name} =", text)}


def _position(name: str) -> str:
    """The stages in which the pass runs."""
    found = []
    for stage, steps in (("template", pipeline.template_passes(())), ("final", pipeline.final_passes())):
        times = [pipeline.pass_name(step) for step in steps].count(name)
        if times:
            found.append(stage if times == 1 else f"{stage} ({times} times)")
    return ", ".join(found)


@pytest.mark.parametrize("name", SECTIONS)
def test_stages_are_those_of_the_pipeline(name: str) -> None:
    (position,) = re.findall(r"\A\n\*([^*\n]+)\*\n", SECTIONS[name])
    expected = _position(name)
    assert position == expected if expected else position.startswith(("vectorise", "final", "target"))


QUOTES = re.findall(r"```python\n# ([\w/]+\.py)\n(.*?)```", GUIDE, flags=re.DOTALL)


@pytest.mark.parametrize(("file", "code"), QUOTES, ids=[Path(file).name for file, _ in QUOTES])
def test_the_guide_quotes_the_files_as_they_are(file: str, code: str) -> None:
    assert code in (ROOT / file).read_text(encoding="utf-8")


def test_the_guide_shows_pass_order_and_test() -> None:
    expected = [
        "compile/passes/merge_casts.py",
        "compile/passes/__init__.py",
        "compile/pipeline.py",
        "passes/test_merge_casts.py",
    ]
    assert len(QUOTES) == len(expected)
    assert all(file.endswith(end) for (file, _), end in zip(QUOTES, expected, strict=True))
    assert QUOTES[0][1] == (ROOT / QUOTES[0][0]).read_text(encoding="utf-8")


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
