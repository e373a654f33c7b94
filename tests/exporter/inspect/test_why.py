"""Patterns that were not applied in a written graph."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from exporter import export
from exporter.cli.main import main
from exporter.inspect.why import explain_graph
from runtime.bundle import read_manifest
from tests.helpers.tiny_models import bert_config, tiny_model

ROOT = Path(__file__).parents[3]
SMALL = "MatMul: the weight has fewer than 16,384 numbers: quantizing its operand would cost more"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two groups at two drops in int8 for the CPU, each with a routed graph; every weight is too small for int8."""
    folder = tmp_path_factory.mktemp("why") / "onnx"
    model = tiny_model({"a": ("seq_bn", "2"), "b": ("lora", "3")}, bert_config(layers=3))
    export(model, drop=[1, 3], precision="int8", target="cpu", routed=True, output=folder)
    return folder


@pytest.mark.parametrize("graph", ["model", "model_drop3", "model_routed", "model_drop3_routed"])
def test_every_graph_of_a_bundle_is_explained(bundle: Path, graph: str) -> None:
    before = {path.name: path.read_bytes() for path in bundle.iterdir()}
    explanation = explain_graph(bundle / f"{graph}.onnx", read_manifest(bundle))
    assert explanation.file == f"{graph}.onnx"
    assert {"FuseAttention", "QuantizeRows", "ReuseSums"} <= set(explanation.steps)
    # All attention is fused but that of the single query; no shape is unknown.
    assert not [each.reason for each in explanation.unapplied if "not known" in each.reason and each.step == "FuseAttention"]
    small = [each for each in explanation.select("QuantizeRows") if "16,384" in each.reason]
    assert small
    assert all(each.tensor in explanation.tensors for each in explanation.unapplied)
    shown = [(each.step, each.op_type, each.tensor, each.reason) for each in explanation.unapplied]
    assert len(shown) == len(set(shown))
    assert {path.name: path.read_bytes() for path in bundle.iterdir()} == before


def test_reasons_are_printed_by_pass(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(bundle), "--why"]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("model.onnx, the target cpu in int8: patterns that were not applied\n")
    assert f"  {SMALL} (" in shown
    assert "more; name the pass to see all" in shown
    assert len(shown.splitlines()) < 40


def test_a_pass_is_shown_in_full(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(bundle), "--why", "QuantizeRows", "--drop", "3", "--routed"]) == 0
    shown = capsys.readouterr().out.splitlines()
    found = explain_graph(bundle / "model_drop3_routed.onnx", read_manifest(bundle)).select("QuantizeRowsPass")
    assert shown[0] == "model_drop3_routed.onnx, the target cpu in int8: patterns of QuantizeRows that were not applied"
    assert shown[1] == f"QuantizeRows: {len(found)}"
    assert sorted(line.strip() for line in shown if line.startswith("    ")) == sorted(each.tensor for each in found)


def test_a_tensor_is_explained(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = explain_graph(bundle / "model.onnx", read_manifest(bundle)).select("QuantizeRows")
    weight = next(each.tensor for each in found if "16,384" in each.reason)
    assert main(["inspect", str(bundle), "--why", weight]) == 0
    shown = capsys.readouterr().out
    assert f"  {SMALL}\n    {weight}\n" in shown


def test_a_tensor_without_a_pattern_is_said_to_have_none(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(bundle), "--why", "a"]) == 0
    assert capsys.readouterr().out.startswith("model.onnx: no pattern of a was left")


def test_json_has_the_patterns(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(bundle), "--json", "--why"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert [graph["file"] for graph in document["unapplied"]] == [graph["file"] for graph in document["graphs"]]
    first = document["unapplied"][0]["patterns"][0]
    assert set(first) == {"step", "op_type", "tensor", "reason", "tensors"}
    assert main(["inspect", str(bundle), "--json"]) == 0
    assert "unapplied" not in json.loads(capsys.readouterr().out)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("QuantiseRows", "neither a tensor of model.onnx nor a pass; the nearest name is 'QuantizeRows'"),
        ("input_id", "the nearest name is 'input_ids'"),
        ("zzz", "'zzz' is neither a tensor of model.onnx nor a pass; passes to name: "),
        ("no such", "; --why without a name shows tensors too\n"),
        ("convert_to_half", "the nearest name is 'ConvertToHalf'"),  # it did not run, which the message about that name says
        (
            "FuseSkipLayerNorm",
            "FuseSkipLayerNorm did not run on model.onnx for the target cpu in int8; passes to name: ",
        ),
        ("VectorizeTasks", "VectorizeTasks keeps no reasons; passes to name: "),
        ("MeasureLengths", "MeasureLengths did not run on model.onnx"),
    ],
)
def test_wrong_names_are_refused(bundle: Path, capsys: pytest.CaptureFixture[str], name: str, message: str) -> None:
    assert main(["inspect", str(bundle), "--why", name]) == 2
    assert message in capsys.readouterr().err


def test_the_passes_of_routed_graphs_are_explained(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "MeasureLengths" in explain_graph(bundle / "model_routed.onnx", read_manifest(bundle)).steps
    assert main(["inspect", str(bundle), "--routed", "--why", "MeasureLengths"]) == 0
    assert capsys.readouterr().out.startswith("model_routed.onnx")


@pytest.mark.sweep
def test_prefixes_are_the_reason_for_unfused_attention(tmp_path: Path) -> None:
    export(tiny_model({"a": ("prefix_tuning", "2")}), target="cpu", output=tmp_path / "onnx")
    explanation = explain_graph(tmp_path / "onnx" / "model.onnx", read_manifest(tmp_path / "onnx"))
    reasons = {each.reason for each in explanation.select("FuseAttention")}
    assert reasons == {"the key is split by a Transpose of [0, 1, 3, 2], not of [0, 2, 3, 1]"}


def test_it_needs_no_torch(bundle: Path) -> None:
    code = (
        "import sys; from exporter.cli.main import main; status = main(['inspect', sys.argv[1], '--why']); "
        "sys.exit(status or 3 * bool({'torch', 'transformers', 'adapters'} & set(sys.modules)))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code, str(bundle)], cwd=ROOT, capture_output=True, encoding="utf-8", check=False
    )
    assert result.returncode == 0, result.stderr
