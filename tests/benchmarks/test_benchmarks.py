"""The statistics of the benchmark, its command line, and complete runs on a tiny model."""

from __future__ import annotations

import json
import os
import re
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnxruntime
import pytest

from benchmarks import hot_tasks, main_run, routed
from benchmarks import options as options_module
from benchmarks.cli import main
from benchmarks.contender import Contender, MissingError, Precision, Prepared, max_difference, one_line
from benchmarks.gemm import Gemm, Peak, gemms, peak_share, peaks
from benchmarks.markdown_tables import shares, table
from benchmarks.options import Shape, parse, parse_shapes
from benchmarks.provider_contenders import named, provider_contenders
from benchmarks.results_file import read_rows
from benchmarks.rounds import fastest, measure, p95, paired_ratio, paired_saving, rounds_within, summarize
from benchmarks.torch_contenders import with_parallel
from exporter import ExportError
from runtime.ort import seen_devices
from runtime.ort.cpu import CpuLimits
from runtime.ort.known_providers import CPU, CUDA, OPENVINO, WEBGPU
from runtime.ort.providers import installed
from tests.helpers.runtime_bundles import expected, feeds, write_bundle

TINY = ("--layers", "2", "--hidden", "32", "--tasks", "2", "--drop", "1", "--rounds", "2", "--no-compile", "--shapes", "1x8")


def test_ratios_are_paired_within_the_round() -> None:
    # The third round is slow for both: a ratio of medians would be 2.0 / 1.5.
    assert paired_ratio([2.0, 2.0, 30.0], [1.0, 1.5, 10.0]) == 2.0
    assert paired_saving([2.0, 2.0, 30.0], [1.0, 1.5, 10.0]) == 0.5
    assert paired_saving([1.0], [4.0]) == -3.0


def test_p95_is_interpolated() -> None:
    assert p95([3.0]) == 3.0
    assert p95(list(range(101))) == 95.0
    assert p95([1.0, 2.0]) == pytest.approx(1.95)


def test_summary_takes_the_fastest_eager_contender_as_reference() -> None:
    times = {"eager": [4.0, 4.0], "parallel": [2.0, 2.0], "ours": [0.5, 0.5], "parallel-drop0": [0.1, 0.1]}
    stats = summarize(times, ["eager", "parallel", "parallel-bf16"], "parallel", answers=16)
    assert stats["parallel"].throughput_ratio == 1.0
    assert (stats["ours"].throughput_ratio, stats["ours"].time_saved, stats["ours"].versus_parallel) == (4.0, 0.75, 4.0)
    assert (stats["ours"].median_ms, stats["ours"].answers_per_second) == (500.0, 32.0)
    assert stats["eager"].time_saved == -1.0


def test_summary_without_a_reference_has_no_ratios() -> None:
    assert fastest({"ours": [1.0]}, ["eager"]) is None
    alone = summarize({"ours": [1.0]}, ["eager"], "parallel", answers=1)["ours"]
    assert (alone.time_saved, alone.throughput_ratio, alone.versus_parallel) == (None, None, None)


def test_rounds_run_every_call_once_in_a_seeded_order() -> None:
    def order(seed: int) -> list[str]:
        ran: list[str] = []
        times = measure(dict.fromkeys("abc", list), 4, seed, ran.append)
        assert [len(times[key]) for key in "abc"] == [4, 4, 4]
        return ran

    ran = order(0)
    assert all(sorted(ran[start : start + 3]) == ["a", "b", "c"] for start in range(0, 12, 3))
    assert ran == order(0)
    assert len({tuple(ran[start : start + 3]) for start in range(0, 12, 3)}) > 1


@pytest.mark.parametrize(("one_round", "rounds"), [(1.0, 10), (0.01, 50), (9.0, 3), (0.0, 50)])
def test_rounds_fit_the_time(one_round: float, rounds: int) -> None:
    assert rounds_within(10.0, one_round, 3, 50) == rounds


def test_the_peak_is_the_fastest_product_of_its_precision() -> None:
    small, large = Gemm("PyTorch", "fp32", 1, 1, 50), Gemm("ONNX Runtime", "fp32", 10, 10, 10)
    known = peaks({small: [1.0, 1.0, 9.0], large: [20.0, 10.0, 1.0], Gemm("PyTorch", "bf16", 1, 1, 1): [1.0, 1.0, 1.0]})
    assert (known["fp32"].gemm, known["fp32"].rates, known["fp32"].rate) == (large, (100.0, 200.0, 2000.0), 200.0)
    assert known["bf16"].rate == 2.0


def test_a_share_of_the_peak_is_paired_within_the_round() -> None:
    fp32, int8 = (Peak(gemm, (100.0, 50.0, 100.0)) for gemm in gemms(["bf16", "bf16"], [])[:2])
    known = {"fp32": fp32, "int8": int8}
    # In the second round everything takes twice as long.
    assert peak_share({"fp32": 100}, [2.0, 4.0, 1.0], {"fp32": fp32}) == 0.5
    assert peak_share({"fp32": 100, "int8": 100}, [4.0, 8.0, 4.0], known) == 0.5  # type: ignore[arg-type]
    assert peak_share({}, [1.0], {"fp32": fp32}) is None
    assert peak_share({"int8": 100}, [1.0], {"fp32": fp32}) is None


@pytest.mark.parametrize("gemm", gemms(["fp32", "bf16", "int8"], [(3, 32, 64)]), ids=lambda gemm: gemm.name)
def test_every_bare_product_runs(gemm: Gemm) -> None:
    assert gemm.bind(1, repeats=2)() == []
    assert (gemm.repeats(0), gemm.repeats(3 * gemm.flops + 1)) == (1, min(3, 40 * 10**9 // gemm.flops))
    assert gemm.flops == 2 * gemm.rows * gemm.inner * gemm.columns


def test_differences() -> None:
    assert max_difference([np.array([1.0, 2.0])], [np.array([1.0, 2.5])]) == 0.5
    assert max_difference([np.array([np.nan])], [np.array([1.0])]) == float("inf")
    assert max_difference([np.zeros((1, 2))], [np.zeros((1, 3))]) == float("inf")
    assert max_difference([], [np.zeros(1)]) == float("inf")


def test_a_failure_is_one_line_without_paths() -> None:
    assert one_line(ValueError("\nno file /home/someone/models/a.onnx\nmore")) == "ValueError: no file a.onnx"
    assert one_line(KeyError()) == "KeyError"
    assert len(one_line(RuntimeError("x" * 1000))) == 160


def test_shapes() -> None:
    assert parse_shapes("1x32, 4x128,1x32") == (Shape(1, 32), Shape(4, 128))
    assert str(Shape(4, 128)) == "4x128"


def test_defaults() -> None:
    options = parse([])
    assert (options.tasks, options.drop, options.layers, options.hidden, options.compile) == (8, 5, 12, 768, True)
    assert (options.name, options.shapes) == ("bert-base", (Shape(1, 32), Shape(1, 128), Shape(4, 128)))
    assert (parse(["--quick"]).name, parse(["--quick"]).compile) == ("quick", False)
    assert parse(["--drop", "0"]).drop == 0
    assert parse(["--output", "/x", "--seed", "3", "--output=/y"]).arguments == ("--seed", "3")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--shapes", "1x0"], "expected batch x length"),
        (["--shapes", "32"], "expected batch x length"),
        (["--rounds", "0"], "whole number from 1"),
        (["--tasks", "1"], "whole number from 2"),
        (["--drop", "-1"], "--drop"),
        (["--drop", "13"], "from 0 to 12"),
        (["--hidden", "100"], "multiple of 32"),
        (["--threads", "100000"], "cores"),
        (["--quick", "--layers", "2"], "leave out --layers"),
        (["--output", __file__], "is a file"),
        (["--what"], "--what"),
    ],
)
def test_wrong_use_is_one_message_and_status_2(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert message in error


def test_a_missing_package_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, "benchmarks.main_run", None)
    assert main(["--quick"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: import of benchmarks.main_run")
    assert error.endswith("; install adapterdrop-onnx[export,adapters,cpu,benchmark]\n")


def test_a_shape_beyond_the_model_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*TINY[:-1], "1x513", "--output", str(tmp_path)]) == 2
    assert "at most 512 tokens" in capsys.readouterr().err


def test_a_tiny_run_writes_its_results(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "results"
    assert main([*TINY, "--output", str(output)]) == 0
    lines, picture = sorted(output.iterdir())
    assert (lines.suffix, picture.suffix) == (".jsonl", ".png")
    assert picture.read_bytes().startswith(b"\x89PNG")
    text = lines.read_text(encoding="utf-8")
    records = [json.loads(line) for line in text.splitlines()]
    rows = [record for record in records if "variant" in record]
    assert [row["variant"] for row in rows] == [
        "eager", "parallel", "parallel-bf16", "parallel-drop0", "peft-mixed", "compile", "compile-bf16",
        "files", "ours", "ours-runtime", "ours-int8", "openvino-fp32", "openvino-bf16", "openvino-int8",
    ]  # fmt: skip
    reasons = {row["variant"]: row["failure"] for row in rows if row["failure"]}
    assert reasons["peft-mixed"] == "missing: PEFT has no seq_bn adapters, of which this model consists"
    assert reasons["compile"] == "missing: torch.compile was omitted (--no-compile or --quick)"
    if installed(OPENVINO) is None:
        assert reasons.pop("openvino-fp32").startswith("missing: provider openvino: the installed ONNX Runtime has only")
    assert set(reasons) <= {"peft-mixed", "compile", "compile-bf16", "openvino-bf16", "openvino-int8"}
    for row in rows:
        if row["failure"]:
            continue
        assert (row["batch"], row["length"], len(row["times_ms"])) == (1, 8, 2)
        assert row["median_ms"] > 0
        assert row["precision"] != "fp32" or row["max_difference"] <= 1e-3
    products = [record for record in records if "gemm" in record]
    assert len(rows) + len(products) == len(records)
    # Two libraries in fp32 and int8, PyTorch in bf16; a large shape, that of the texts and that of all tasks.
    assert [len(product["times_ms"]) for product in products] == [2] * 15
    assert [product["precision"] for product in products if product["fastest"]] == ["fp32", "bf16", "int8"]
    by_key = {row["variant"]: row for row in rows}
    assert by_key["eager"]["peak_share"] is None
    assert by_key["ours"]["matrix_flops"].keys() == {"fp32"}
    assert all(0 < by_key[key]["peak_share"] < 1 for key in ("ours", "ours-runtime", "ours-int8"))
    assert shares(lines).count("\n| ours") == 3
    assert table(lines).count("\n| ") == 1 + len(rows)
    assert by_key[rows[0]["reference"]]["throughput_ratio"] == 1.0
    assert by_key["files"]["file_bytes"] > by_key["ours"]["file_bytes"] > 0
    assert rows[0]["command"] == " ".join(("python -m benchmarks", *TINY))
    assert {"torch", "onnxruntime", "python"} <= rows[0]["machine"]["versions"].keys()
    tables = capsys.readouterr().out.partition("wrote ")[0]
    for text_or_tables in (text, tables):
        assert str(Path.home()) + "/" not in text_or_tables
        assert str(tmp_path) not in text_or_tables
        assert not re.search(rf"\b{re.escape(socket.gethostname())}\b", text_or_tables)


def _contender(key: str, prepare: Callable[[], Prepared]) -> Contender:
    return Contender(key, key, "ours", "fp32", 1, prepare)


def _raise() -> Prepared:
    raise RuntimeError("no such operator\nin /somewhere/else/model.onnx")


def test_parallel_needs_a_layer_with_adapters() -> None:
    """The library's block repeats the texts at the first adapter; its heads would share out the texts otherwise."""
    model = SimpleNamespace(config=SimpleNamespace(num_hidden_layers=2))
    with pytest.raises(MissingError, match="all layers are dropped"):
        with_parallel(model, ("a", "b"), 2)


@pytest.mark.parametrize(("quota", "threads"), [(None, 4), (2.5, 2), (0.5, 1), (64.0, 4)])
def test_threads_fit_the_quota(monkeypatch: pytest.MonkeyPatch, quota: float | None, threads: int) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(4), raising=False)
    monkeypatch.setattr(options_module, "cpu_limits", lambda: CpuLimits(4, 4, quota))
    assert parse([]).threads == threads


def test_providers_are_named_by_the_user(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refusal(name: str) -> str:
        assert main([*TINY, "--provider", name, "--output", str(tmp_path / "results")]) == 2
        assert not (tmp_path / "results").exists()
        return capsys.readouterr().err

    assert re.match(r"error: --provider: expected one of .*; the nearest is openvino\n$", refusal("openvinoo"))
    assert refusal("cann").startswith("error: --provider: provider cann: the installed ONNX Runtime has only")
    assert refusal("OpenVINO") == "error: --provider openvino: measured anyway; omit it\n"
    assert refusal("Auto").startswith("error: --provider: expected the name of one provider, found 'auto'; `python -m runtime")
    with pytest.raises(ExportError, match="--provider cuda: measured anyway"):
        named(["CUDAExecutionProvider"], "cuda")
    with monkeypatch.context() as without_gpu:
        without_gpu.setattr(onnxruntime, "get_available_providers", lambda: [CUDA.key, CPU.key])
        without_gpu.setattr(seen_devices, "gpus", lambda: ())
        assert refusal("cuda") == "error: --provider: provider cuda: the driver of NVIDIA is not installed, or sees no GPU\n"
        assert named(["cpu", "CPUExecutionProvider"], "cuda") == (CPU,)
    assert parse(["--provider", "webgpu", "--provider", "coreml", "--quick"]).name == "quick-with-webgpu-coreml"
    bundle = write_bundle(tmp_path / "bundle", tokenizer=False)
    exported = []

    def portable(precision: Precision) -> Callable[[], Path]:
        def export() -> Path:
            exported.append(precision)
            return bundle

        return export

    found = provider_contenders([CPU, WEBGPU], portable, ["topic"], 5, 1)
    assert [each.key for each in found] == ["cpu-fp32", "webgpu-fp32", "webgpu-fp16"]
    (logits,) = found[0].prepare().bind(feeds())()
    np.testing.assert_allclose(logits, expected(feeds())["topic"], atol=1e-5)
    assert exported == ["fp32"]  # the others are exported when they are measured


@pytest.mark.sweep
def test_a_contender_that_fails_is_shown_with_its_reason(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(main_run, "onnx_contenders", lambda *_: [_contender("broken", _raise)])
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CoreMLExecutionProvider", CPU.key])
    spellings = ("--provider", "CoreMLExecutionProvider", "--provider", "coreml")
    assert main([*TINY, *spellings, "--output", str(tmp_path)]) == 0
    assert len(list(tmp_path.glob("bert-2x32-with-coreml-2*.jsonl"))) == 1  # the date follows
    assert "failed: RuntimeError" in capsys.readouterr().out
    records = map(json.loads, next(tmp_path.glob("*.jsonl")).read_text(encoding="utf-8").splitlines())
    last = [record for record in records if "variant" in record][-1]
    assert (last["variant"], last["failure"]) == ("broken", "RuntimeError: no such operator")
    assert (last["median_ms"], last["times_ms"]) == (None, [])


def test_wrong_numbers_end_the_run_with_status_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = Prepared(lambda _: lambda: [np.zeros((1, 2)), np.full((1, 3), 9.0)])
    monkeypatch.setattr(main_run, "onnx_contenders", lambda *_: [_contender("wrong", lambda: wrong)])
    assert main([*TINY, "--output", str(tmp_path)]) == 1
    assert "wrong at 1x8: max difference" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_the_benchmark_of_hot_tasks_compares_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = ["--layers", "2", "--hidden", "32", "--drop", "1", "--tasks", "2", "--slots", "2", "--shapes", "2x8"]
    tiny = [*sizes, "--rounds", "3", "--registered", "5", "--looked-up", "20"]
    assert hot_tasks.main([*tiny, "--output", str(tmp_path)]) == 0
    found = json.loads(next(tmp_path.glob("hot-tasks-*.json")).read_text(encoding="utf-8"))
    assert [each["shape"] for each in found["graphs"]] == ["2x8"]
    assert found["command"] == " ".join(("python -m benchmarks.hot_tasks", *tiny))
    assert found["memory"]["tasks"] == 5
    monkeypatch.setattr(hot_tasks, "max_difference", lambda *_: 1.0)
    assert hot_tasks.main([*tiny, "--output", str(tmp_path / "none")]) == 1
    assert not (tmp_path / "none").exists()


@pytest.mark.sweep
def test_the_routed_benchmark_measures_what_it_has_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny = ["--layers", "2", "--hidden", "32", "--tasks", "3", "--drop", "1", "--rounds", "2", "--shapes", "2x8"]
    assert routed.main([*tiny, "--output", str(tmp_path)]) == 0
    rows = read_rows(next(tmp_path.glob("routed-*.jsonl")), routed.Row)
    assert len(rows) == 7
    assert all(row.median_ms > 0 and row.rounds == 2 for row in rows)
    assert next(row.ratio for row in rows if row.call == "one task, exported alone") == 1.0
    monkeypatch.setattr(routed, "max_difference", lambda *_: 1.0)
    assert routed.main([*tiny, "--output", str(tmp_path / "none")]) == 1
    assert not (tmp_path / "none").exists()
