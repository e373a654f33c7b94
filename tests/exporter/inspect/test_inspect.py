"""The counts of inspect, against figures computed by hand and against exports of single tasks."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path

import onnx_ir as ir
import pytest
from adapters import GPT2AdapterModel
from rich.console import Console
from transformers import GPT2Config

from exporter import ExportError, export
from exporter.cli.main import main
from exporter.inspect import Inspection, inspect_bundle
from exporter.inspect.flops import Cost, node_cost, product_type
from exporter.inspect.shapes import concrete_values
from exporter.inspect.text import print_inspection
from tests.helpers.pass_testing import parse
from tests.helpers.tiny_models import bert_config, tiny_model

ROOT = Path(__file__).parents[3]
HIDDEN, INNER, HEADS, BOTTLENECK = 32, 64, 4, 2
LENGTH = 16


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two tasks of one structure and one of another, at two drops."""
    model = tiny_model({"a": ("seq_bn", "2"), "b": ("seq_bn", "3"), "words": ("seq_bn", "tag")}, bert_config(layers=3))
    folder = tmp_path_factory.mktemp("inspect") / "onnx"
    export(model, drop=[1, 3], output=folder)
    return folder


@pytest.fixture(scope="module")
def inspection(bundle: Path) -> Inspection:
    return inspect_bundle(bundle, (2, LENGTH))


def _layer(batch: int, length: int) -> int:
    """Operations of one BERT layer by its definition, without an adapter."""
    rows = batch * length
    matrix = 2 * rows * (4 * HIDDEN * HIDDEN + 2 * HIDDEN * INNER) + 2 * 2 * batch * length * length * HIDDEN
    biases = rows * (5 * HIDDEN + INNER)
    attention = (1 + 5) * batch * HEADS * length * length  # the mask's sum and the softmax
    norms = 2 * rows * HIDDEN * (1 + 8)  # with the residual sums
    return matrix + biases + attention + norms + 8 * rows * INNER


def _adapter(rows: int) -> int:
    """Down, up, their biases and the activation; the residual and the norm behind them."""
    return 4 * rows * HIDDEN * BOTTLENECK + rows * (2 * BOTTLENECK + HIDDEN) + rows * HIDDEN * (1 + 8)


def _flops(inspection: Inspection, level: str, owner: str) -> int:
    return sum(cell.flops for cell in inspection.graphs[0].cells if (cell.level, cell.owner) == (level, owner))


def test_a_layer_costs_what_its_definition_says(inspection: Inspection) -> None:
    assert inspection.graphs[0].levels == ("embeddings", "layer 0", "layer 1", "layer 2", "heads")
    assert _flops(inspection, "layer 0", "trunk") == _layer(2, LENGTH)
    assert _flops(inspection, "layer 1", "trunk") == _layer(2, LENGTH)  # the adapter reads the layer's result
    assert _flops(inspection, "layer 1", "stem0") == 3 * _adapter(2 * LENGTH)  # those of all tasks are equal
    assert _flops(inspection, "layer 2", "tasks1") == _layer(2, LENGTH) + _adapter(2 * LENGTH)
    # classification reads only [CLS]: of the last layer, keys and values are computed in full
    assert _flops(inspection, "layer 2", "tasks0") < _layer(2, LENGTH)


def test_sums_are_sums_of_their_parts(inspection: Inspection) -> None:
    assert len(inspection.graphs) == 2
    for graph in inspection.graphs:
        assert graph.uncounted == ()
        assert graph.flops == sum(operator.flops for operator in graph.operators)
        assert graph.products == {"float32": sum(operator.matrix for operator in graph.operators)}
        assert graph.flops == pytest.approx(graph.trunk_flops + sum(sum(task.flops) for task in graph.tasks), abs=10)
        assert graph.bytes == sum(cell.shared_bytes + cell.task_bytes for cell in graph.cells)
    assert inspection.weights_bytes < inspection.read_bytes


@pytest.mark.parametrize("task", ["a", "words"])
def test_a_single_task_costs_what_an_export_of_it_costs(tmp_path: Path, inspection: Inspection, task: str) -> None:
    model = tiny_model({"a": ("seq_bn", "2"), "b": ("seq_bn", "3"), "words": ("seq_bn", "tag")}, bert_config(layers=3))
    export(model, tasks=[task], drop=1, output=tmp_path / "single")
    single = inspect_bundle(tmp_path / "single", (2, LENGTH)).graphs[0]
    expected = {view.name: view for view in inspection.graphs[0].tasks}[task]
    assert sum(expected.alone_flops) == pytest.approx(single.flops, abs=10)
    assert expected.alone_bytes == pytest.approx(single.bytes, abs=500)  # but for constants of shapes


def test_finds_layers_with_equal_biases_and_double_transposes(tmp_path: Path) -> None:
    model = GPT2AdapterModel(
        GPT2Config(n_embd=32, n_layer=3, n_head=4, n_inner=64, vocab_size=101, n_positions=48, pad_token_id=0)
    )
    for name in "ab":  # as they are initialized: the biases are zeros, and one of them is stored for all
        model.add_adapter(name, config="seq_bn")
        model.add_classification_head(name, num_labels=2)
    export(model, drop=2, output=tmp_path / "onnx")
    graph = inspect_bundle(tmp_path / "onnx", (1, LENGTH)).graphs[0]
    matrix = 2 * LENGTH * (4 * HIDDEN * HIDDEN + 2 * HIDDEN * INNER) + 4 * LENGTH * LENGTH * HIDDEN
    layers = [cell for cell in graph.cells if cell.owner == "trunk" and cell.level in ("layer 0", "layer 1")]
    assert len(layers) == 2
    for cell in layers:
        assert matrix < cell.flops < 1.4 * matrix
        assert cell.shared_bytes >= 4 * (4 * HIDDEN * HIDDEN + 2 * HIDDEN * INNER)
    assert [cell.level for cell in graph.cells if cell.owner == "tasks0" and cell.flops][-2:] == ["layer 2", "heads"]


def test_doubling_the_batch_doubles_the_operations(bundle: Path, inspection: Inspection) -> None:
    once = inspect_bundle(bundle, (1, LENGTH)).graphs[0]
    assert inspection.graphs[0].flops == pytest.approx(2 * once.flops, rel=0.002)  # positions are embedded once


PROJECTED = """(float[1, 8, 6] x, float[6, 12] w, float[12] b) => (float[1, 8, 4] y) {
    y = com.microsoft.Attention<num_heads = 2>(x, w, b) }"""


def _graph(text: str) -> ir.Graph:
    import onnx.parser

    header = '<ir_version: 10, opset_import: ["" : 20, "com.microsoft" : 1]>'
    return ir.from_proto(onnx.parser.parse_model(f"{header} agraph {text}")).graph


def _cost(text: str) -> Cost | None:
    graph = _graph(text)
    return node_cost(graph.node(0), concrete_values(graph, {}))


@pytest.mark.parametrize(
    ("text", "matrix"),
    [
        ("(float[2, 3, 4] a, float[4, 5] b) => (float[2, 3, 5] y) { y = MatMul(a, b) }", 2 * 2 * 3 * 4 * 5),
        ("(float[4, 3] a, float[5, 4] b) => (float[3, 5] y) { y = Gemm<transA = 1, transB = 1>(a, b) }", 2 * 3 * 4 * 5),
        ("(uint8[3, 4] a, int8[4, 5] b) => (int32[3, 5] y) { y = MatMulInteger(a, b) }", 2 * 3 * 4 * 5),
        (
            "(float[1, 3, 8, 8] x, float[6, 3, 4, 4] w) => (float[1, 6, 2, 2] y) { y = Conv<strides = [4, 4]>(x, w) }",
            4 * 2 * 6 * 48,
        ),
        ('(float[2, 3] a, float[3, 5] b) => (float[2, 5] y) { y = Einsum<equation = "ij,jk->ik">(a, b) }', 2 * 2 * 3 * 5),
        (
            "(float[2, 4, 3] a, float[2, 4, 5] b) => (float[2, 3, 5] y) { y = com.microsoft.FusedMatMul<transA = 1>(a, b) }",
            2 * 2 * 60,
        ),
        (
            "(float[3, 4] a, int8[4, 5] b, float[1] s) => (float[3, 5] y) { y = com.microsoft.DynamicQuantizeMatMul(a, b, s) }",
            2 * 3 * 4 * 5,
        ),
        # projections of 8 rows to 3 x 4, and scores and sums of 8 x 8 pairs
        (PROJECTED, 2 * 8 * 6 * 12 + 2 * 2 * 8 * 8 * 4),
        (
            "(float[1, 8, 4] q, float[1, 9, 4] k, float[1, 9, 6] v) => (float[1, 8, 6] y) "
            "{ y = com.microsoft.MultiHeadAttention<num_heads = 2>(q, k, v) }",
            2 * 8 * 9 * 4 + 2 * 8 * 9 * 6,
        ),
        ("(float[2, 3] a) => (float[3, 2] y) { y = Transpose(a) }", 0),
        ("(float s) => (float[2] y) <int8[2] w = {1, 2}> { y = DequantizeLinear(w, s) }", 0),
    ],
)
def test_matrix_products_are_counted_exactly(text: str, matrix: int) -> None:
    cost = _cost(text)
    assert cost is not None
    assert cost.matrix == matrix


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("(float[2, 3] a, float[3, 5] b) => (float[2, 5] y) { y = MatMul(a, b) }", "float32"),
        ("(float16[2, 3] a, float16[3, 5] b) => (float16[2, 5] y) { y = MatMul(a, b) }", "float16"),
        ("(uint8[3, 4] a, int8[4, 5] b) => (int32[3, 5] y) { y = MatMulInteger(a, b) }", "int8"),
        (
            "(uint8[2, 3] a, int8[3, 5] b, float s) => (float[2, 5] y) "
            "{ x = DequantizeLinear(a, s) w = DequantizeLinear(b, s) y = MatMul(x, w) }",
            "int8",
        ),
        (
            "(float[2, 3] x, int8[3, 5] b, float s) => (float[2, 5] y) { w = DequantizeLinear(b, s) y = MatMul(x, w) }",
            "float32",
        ),
    ],
)
def test_products_are_told_apart_by_what_they_multiply(text: str, expected: str) -> None:
    graph = _graph(text)
    assert product_type(graph.node(len(graph) - 1), concrete_values(graph, {})) == expected


def test_an_operator_without_a_rule_is_not_counted_as_nothing() -> None:
    assert _cost("(float[2, 3] a) => (float[2, 3] y) { y = com.microsoft.Unheard(a) }") is None


def test_shapes_that_arithmetic_makes_are_followed() -> None:
    text = """(float[batch, sequence, 4] x) => (float[m, 4] y) {
        s = Shape<start = 0, end = 2>(x) n = ReduceProd<keepdims = 1>(s) f = Constant<value_ints = [4]>()
        t = Concat<axis = 0>(n, f) y = Reshape(x, t) }"""
    graph = parse(text).graph
    assert concrete_values(graph, {"batch": 3, "sequence": 5})[graph.outputs[0]].dims == (15, 4)


def test_it_needs_no_torch(bundle: Path) -> None:
    code = (
        "import sys; from exporter.cli.main import main; status = main(['inspect', sys.argv[1], '--json']); "
        "sys.exit(status or 3 * bool({'torch', 'transformers', 'adapters', 'onnxscript'} & set(sys.modules)))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code, str(bundle)], cwd=ROOT, capture_output=True, encoding="utf-8", check=False
    )
    assert result.returncode == 0, result.stderr


def test_rows_that_are_chosen_at_run_time_are_counted_in_full() -> None:
    text = """(float[rows, 4] x, bool[rows] mine) => (float[m, 4] y) <int64[1] flat = {-1}> {
        n = NonZero(mine) i = Reshape(n, flat) y = Gather<axis = 0>(x, i) }"""
    graph = parse(text).graph
    assert concrete_values(graph, {"rows": 7})[graph.outputs[0]].dims == (7, 4)


def test_the_command_shows_and_draws(capsys: pytest.CaptureFixture[str], tmp_path: Path, bundle: Path) -> None:
    for suffix in (".svg", ".png"):
        assert main(["inspect", str(bundle), "--shape", "2x16", "--drop", "3", "--picture", str(tmp_path / f"p{suffix}")]) == 0
    shown = capsys.readouterr().out
    assert all(text in shown for text in ("model_drop3.onnx", "tasks0", "words", "layer 2", "VectorizeTasks"))
    texts = [element.text for element in ET.parse(tmp_path / "p.svg").iter("{http://www.w3.org/2000/svg}text")]  # noqa: S314
    assert {"a", "b", "words", "layer 2", "trunk"} <= set(texts)
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")
    assert main(["inspect", str(bundle), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert [graph["drop"] for graph in document["graphs"]] == [1, 3]
    assert document["shape"] == [1, 48]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--drop", "2"], "has no graph of drop 2; it has drop 1, drop 3"),
        (["--shape", "1"], "the shape must be BATCHxLENGTH"),
        (["--shape", "0x4"], "the shape must be BATCHxLENGTH"),
        (["--shape", "1x49"], "the model takes lengths up to 48, found 49"),
        (["--picture", "p.gif"], "must be a .svg or .png file"),
        (["--picture", "nowhere/p.svg"], "cannot be written"),
    ],
)
def test_wrong_use_is_refused(capsys: pytest.CaptureFixture[str], bundle: Path, options: list[str], message: str) -> None:
    assert main(["inspect", str(bundle), *options]) == 2
    assert message in capsys.readouterr().err


def test_what_is_no_bundle_is_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path, bundle: Path) -> None:
    assert main(["inspect", str(tmp_path)]) == 2
    assert "not a bundle" in capsys.readouterr().err
    (tmp_path / "adapterdrop.json").write_bytes((bundle / "adapterdrop.json").read_bytes())
    (tmp_path / "model.onnx").write_bytes(b"graph")
    with pytest.raises(ExportError, match=r"model\.onnx: truncated or altered"):
        inspect_bundle(tmp_path)
    (tmp_path / "model.onnx").unlink()
    for name in ("config.json", "model.onnx.data"):
        (tmp_path / name).write_bytes((bundle / name).read_bytes())
    with pytest.raises(ExportError, match=r"model\.onnx: missing"):
        inspect_bundle(tmp_path)
    with pytest.raises(SystemExit, match="2"):
        main(["inspect"])


def test_a_name_with_a_line_break_takes_one_line(inspection: Inspection) -> None:
    graph = inspection.graphs[0]
    broken = replace(graph, tasks=(replace(graph.tasks[0], name="one\ntask"), *graph.tasks[1:]))
    file = io.StringIO()
    print_inspection(replace(inspection, folder=Path("on\nnx")), broken, Console(file=file, width=120))
    assert file.getvalue().startswith("on nx: ")
    assert "one task" in file.getvalue()
