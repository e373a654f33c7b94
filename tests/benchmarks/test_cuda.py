"""The benchmark of a GPU without one: its options, its messages, and a run whose device is the CPU."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch

from benchmarks import gemm, main_run
from benchmarks.cli import main
from benchmarks.contender import Contender, MissingError, Prepared
from benchmarks.cuda_torch import _bind_compiled
from benchmarks.device import Device, OutputBuffer, open_device, probe, to_host
from benchmarks.gpu import current_gpu, sentence
from benchmarks.markdown_tables import table
from benchmarks.options import Shape, parse
from exporter import ExportError

TINY = ("--layers", "2", "--hidden", "32", "--tasks", "2", "--drop", "1", "--rounds", "2", "--shapes", "1x8")
FOUND = "NVIDIA H100 80GB HBM3, 580.159.04, 81559, 4, 345, 1980, 2619, 68.23, 700.00, [N/A], 0"


@pytest.fixture
def fake_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "bin" / "nvidia-smi"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\necho '{FOUND}'\n", encoding="utf-8")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:/usr/bin:/bin")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


@pytest.fixture
def on_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """The device of the run is the CPU; the memory in use grows by 1 MB with every look at it."""
    used = itertools.count(10**9, 10**6)
    monkeypatch.setitem(gemm._LARGE, "cpu", (64, 64, 64))
    monkeypatch.setattr(main_run, "open_device", lambda *_: Device("cpu"))
    monkeypatch.setattr(Device, "used_memory", lambda _: next(used))


def test_options_of_a_gpu() -> None:
    options = parse(["--device", "cuda"])
    assert (options.name, options.tasks, options.drop, options.layers) == ("bert-base-cuda", 8, 5, 12)
    assert [str(shape) for shape in options.shapes] == ["1x32", "1x128", "8x128", "32x128"]
    assert [str(shape) for shape in options.compile_shapes] == ["1x128", "32x128"]
    assert parse(["--device", "cuda", "--quick"]).name == "quick-cuda"
    assert parse([]).device == "cpu"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["--device", "gpu"], "choose from"), (["--compile-shapes", "1x8"], "--compile-shapes needs --device cuda")],
)
def test_wrong_options(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_a_machine_without_a_gpu_is_one_message(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--device", "cuda", "--output", str(tmp_path / "results")]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: --device cuda: PyTorch finds no GPU")
    assert error.count("\n") == 1
    assert not (tmp_path / "results").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_make_gpu_without_a_gpu_is_one_message(pytestconfig: pytest.Config, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before, each test exported its model and failed with the log of the trace."""
    (conftest,) = (each for each in pytestconfig.pluginmanager.get_plugins() if hasattr(each, "missing_gpu"))
    monkeypatch.setattr(pytestconfig.option, "device", "cuda")
    for providers, reason in (
        (["CPUExecutionProvider"], "has no CUDA provider: install"),
        (["CUDAExecutionProvider"], "driver"),
    ):
        monkeypatch.setattr(onnxruntime, "get_available_providers", lambda found=providers: found)
        with pytest.raises(pytest.UsageError, match=rf"^--device cuda: .*{reason}.*; --device cpu rehearses the tests"):
            conftest.pytest_configure(pytestconfig)


@pytest.mark.skipif("CUDAExecutionProvider" in onnxruntime.get_available_providers(), reason="has the provider")
def test_a_provider_that_does_not_work_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with pytest.raises(ExportError, match="has no CUDA provider; uninstall it and `pip install onnxruntime-gpu`"):
        open_device("cuda", 1)
    # onnxruntime-gpu lists the provider even if its libraries are missing, and falls back.
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"])
    with (
        pytest.warns(UserWarning, match="not in available"),
        pytest.raises(ExportError, match="cannot use the GPU: ONNX Runtime fell back"),
    ):
        open_device("cuda", 1)


def test_the_gpu_is_described_as_found(fake_gpu: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    gpu = current_gpu()
    assert gpu is not None
    assert (gpu["name"], gpu["driver"], gpu["sm_mhz"], gpu["power_w"]) == ("NVIDIA H100 80GB HBM3", "580.159.04", 345.0, 68.23)
    assert gpu["temperature_c"] is None
    assert "SM clock 345 of 1980 MHz, memory clock 2619 MHz, 68.23 of 700 W" in sentence(gpu)
    program = tmp_path / "bin" / "nvidia-smi"  # answers for one of two
    program.write_text(f"#!/bin/sh\ncase $1 in --id=3) echo '{FOUND}';; *) exit 6;; esac\n", encoding="utf-8")
    assert current_gpu() is None
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,0")
    assert current_gpu() == gpu
    monkeypatch.setenv("PATH", str(tmp_path))
    assert current_gpu() is None


def test_the_probe_and_the_buffers_run_on_the_cpu() -> None:
    device = Device("cpu")
    probe(device)
    buffer = OutputBuffer(device, [(2, 3), (2, 4)])
    assert all(np.isnan(each).all() for each in buffer.to_host())
    assert buffer.address(1) - buffer.address(0) == 256
    first, second = torch.ones(2, 3, dtype=torch.float16), torch.zeros(2, 4, dtype=torch.float16)
    found = to_host([first, second])
    assert [(each.shape, str(each.dtype), each.mean()) for each in found] == [((2, 3), "float32", 1), ((2, 4), "float32", 0)]


def test_products_on_a_gpu_are_those_of_pytorch() -> None:
    found = gemm.gemms(["fp32", "tf32", "fp16", "bf16"], [(32, 64, 256)], "cuda")
    assert [each.precision for each in found if each.rows == 8192] == ["fp32", "tf32", "fp16", "bf16"]
    assert {(each.library, each.device) for each in found} == {("PyTorch", "cuda")}


@pytest.mark.sweep
def test_other_shapes_are_not_compiled() -> None:
    bind = _bind_compiled(torch.nn.Identity(), Device("cpu"), [Shape(1, 8)])
    with pytest.raises(MissingError, match=r"compiled only at 1x8 \(--compile-shapes\)"):
        bind({"input_ids": np.zeros((1, 16), np.int64)})


def test_a_rehearsal_measures_every_contender(fake_gpu: None, on_cpu: None, tmp_path: Path) -> None:
    output = tmp_path / "results"
    assert main(["--device", "cuda", *TINY, "--no-compile", "--skip", "eager-fp16", "--output", str(output)]) == 0
    lines, picture = sorted(output.iterdir())
    assert (lines.name[:15], picture.suffix) == ("bert-2x32-cuda-", ".png")
    records = [json.loads(line) for line in lines.read_text(encoding="utf-8").splitlines()]
    rows = {record["variant"]: record for record in records if "variant" in record}
    missing = ["eager-fp16", "peft-mixed", "compile-fp16", "ours-bf16", "ours-tensorrt"]
    assert [key for key in rows if key not in missing] == [
        "eager", "parallel", "parallel-fp16", "parallel-bf16", "parallel-fp16-drop0", "files", "files-fp16",
        "ours", "ours-tf32", "ours-fp16", "ours-fp16-runtime", "ours-fp16-drop0", "ours-fp16-graph",
        "ours-fp16-runtime-graphs", "ours-fp16-graph-drop0",
    ]  # fmt: skip
    for key, row in rows.items():
        if key in missing:
            assert row["failure"].startswith("missing: "), row
            continue
        assert (row["failure"], row["device"], len(row["times_ms"])) == (None, "cuda", 2)
        assert row["max_difference"] <= (1e-3 if row["precision"] == "fp32" else 0.1)
        assert row["device_memory_bytes"] >= 10**6
        assert row["gpu_after"]["sm_mhz"] == row["machine"]["gpu"]["sm_mhz"] == 345
        assert (row["peak_share"] is not None) == key.startswith("ours")
    assert rows["ours-tf32"]["matrix_flops"].keys() == {"tf32"}
    assert rows["ours-fp16"]["matrix_flops"].keys() == {"fp16"}
    assert table(lines).count("\n| ") == 1 + len(rows)


def test_an_unknown_contender_to_skip_is_refused(on_cpu: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--device", "cuda", *TINY, "--skip", "ours,filez", "--output", str(tmp_path)]) == 2
    assert "error: --skip: expected some of eager, " in capsys.readouterr().err


def test_a_wrong_contender_is_a_row_and_status_1(
    on_cpu: None, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(value: float) -> Prepared:
        return Prepared(lambda _: lambda: [np.full((1, 2), value), np.full((1, 3), value)])

    found: list[Any] = [
        Contender("wrong", "wrong", "ours", "fp32", 1, lambda: wrong(9.0)),
        Contender("broken", "broken", "ours", "fp16", 1, lambda: wrong(float("nan"))),
    ]
    monkeypatch.setattr(main_run, "cuda_onnx_contenders", lambda *_: found)
    assert main(["--device", "cuda", *TINY, "--no-compile", "--output", str(tmp_path)]) == 1
    error = capsys.readouterr().err
    assert "wrong at 1x8: max difference" in error
    assert "broken at 1x8: max difference inf" in error
    records = list(map(json.loads, next(tmp_path.glob("*.jsonl")).read_text(encoding="utf-8").splitlines()))
    rows = {record["variant"]: record for record in records if "variant" in record}
    assert rows["wrong"]["failure"].startswith("wrong: max difference")
    assert rows["eager"]["median_ms"] > 0
