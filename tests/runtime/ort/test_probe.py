"""Providers are compared with the logits that the export verified; one that computes wrongly is refused by name."""

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper

import runtime
from runtime import CudaOptions, OpenVINOOptions, Options, TensorRTOptions
from runtime.__main__ import main
from runtime.bundle import FLOATS, MODEL, Probe, open_bundle, probe_file, read_manifest
from runtime.bundle.probe import repeated_block, thinned
from runtime.ort import open_sessions as session
from runtime.ort.float_types import float_type
from runtime.ort.known_providers import CPU, CUDA, OPENVINO, OTHERS, TENSORRT, TENSORRT_RTX, WEBGPU, Provider
from runtime.ort.probe import ProbeCheck
from runtime.ort.provider_options import session_providers
from runtime.ort.session import create_session
from tests.helpers.runtime_bundles import feeds, rewrite, write_bundle, write_decoder, write_heads, write_routed, write_vision
from tests.helpers.small_vocabulary import VOCABULARY

PROBE = probe_file(MODEL)
Array = np.ndarray[Any, Any]


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_routed(tmp_path_factory.mktemp("probe") / "bundle")


@pytest.fixture
def bundle(template: Path, tmp_path: Path) -> Path:
    return shutil.copytree(template, tmp_path / "bundle")


def run_of(folder: Path, graph: str = MODEL) -> Callable[[Sequence[str], Any], list[Array]]:
    return onnxruntime.InferenceSession(folder / graph, providers=["CPUExecutionProvider"]).run  # type: ignore[no-any-return]


def check_of(folder: Path, provider: Provider = CPU, options: Options | None = None) -> ProbeCheck:
    manifest, files = open_bundle(folder)
    files.bind(manifest.files)
    return ProbeCheck(files, manifest, provider, Options() if options is None else options)


def shift(folder: Path) -> None:
    """Change the logits of the probe by one."""
    probe = Probe.parse((folder / PROBE).read_bytes(), read_manifest(folder).inputs)
    Probe(probe.feeds, {name: array + 1 for name, array in probe.outputs.items()}).write(folder / PROBE)
    rewrite(folder)


def changed(run: Any, change: Callable[[Array], Array], name: str = "") -> Any:
    """The answers of another provider: those of `name`, or all, are other ones."""
    return lambda names, given: [
        change(array) if name in ("", each) else array for each, array in zip(names, run(names, given), strict=True)
    ]


@pytest.mark.parametrize("write", [write_bundle, write_routed, write_heads, write_decoder, write_vision])
def test_every_kind_of_task_is_compared(tmp_path: Path, write: Callable[[Path], Path]) -> None:
    predictor = runtime.load(write(tmp_path / "bundle"), provider="cpu", verify=True)
    rows = predictor.verify()
    graphs = 1 + bool(predictor.manifest.variants[0].routed)
    assert [row.task for row in rows] == list(predictor.tasks) * graphs
    assert len({row.graph for row in rows}) == graphs
    assert all(row.difference < 1e-5 < row.tolerance == 1e-4 for row in rows)
    assert (tmp_path / "bundle" / PROBE).stat().st_size < 64_000


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (np.zeros_like, r"topic by [0-9.]+.* expected less than 0\.0001"),
        (lambda array: array + np.float32(0.01), "topic by 0.0"),
        (lambda array: array[::-1], "topic by"),
        (lambda array: np.full_like(array, np.nan), "topic by nan"),
        (lambda array: np.full_like(array, -np.inf), "topic by nan"),
        (lambda array: array[:, :1], "topic by inf"),
    ],
)
@pytest.mark.parametrize("graph", [MODEL, "model_routed.onnx"])
def test_other_logits_are_refused_by_name(bundle: Path, graph: str, change: Callable[[Array], Array], message: str) -> None:
    check, run = check_of(bundle, CUDA), run_of(bundle, graph)
    assert len(check.check(graph, run)) == 3
    with pytest.raises(runtime.ProviderError, match=rf"^provider cuda: its logits differ .*{message}.*use provider cpu"):
        check.check(graph, changed(run, change))


def test_only_the_task_that_differs_is_named(bundle: Path) -> None:
    check = check_of(bundle, CUDA)
    wrong = changed(run_of(bundle), lambda array: array + 1, "flags")
    with pytest.raises(runtime.ProviderError, match=r"drop 5\): flags by") as caught:
        check.check(MODEL, wrong)
    assert "topic" not in str(caught.value)
    accepted = check_of(bundle, CUDA, Options(probe_tolerance=2.0)).check(MODEL, wrong)
    assert [(row.is_right, row.tolerance) for row in accepted] == [(True, 2.0)] * 3


def test_a_provider_that_throws_is_named(bundle: Path) -> None:
    def run(*_: object) -> list[Array]:
        raise RuntimeError("no kernel\nimage")

    with pytest.raises(
        runtime.ProviderError, match=r"^provider cuda: it fails on .*\(model\.onnx\): no kernel image; use provider cpu"
    ):
        check_of(bundle, CUDA).check(MODEL, run)


class Wrong:
    """A session that returns zeros."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def run(self, *given: Any) -> list[Array]:
        return [np.zeros_like(array) for array in self._inner.run(*given)]


@pytest.fixture
def wrong_openvino(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """An OpenVINO that is installed and computes zeros; the graphs that were opened on it."""
    opened: list[str] = []
    create = create_session

    def made(graph: Any, provider: Provider, *more: Any) -> Any:
        if provider is CPU:
            return create(graph, provider, *more)
        opened.append(graph.name)
        return Wrong(create(graph, CPU, *more))

    monkeypatch.setattr(session, "create_session", made)
    monkeypatch.setattr(session, "resolve", lambda name, _: (OPENVINO, CPU) if name == "auto" else (OPENVINO,))
    return opened


def test_a_wrong_provider_is_refused_by_default(bundle: Path, wrong_openvino: list[str]) -> None:
    with pytest.raises(runtime.ProviderError, match=r"^provider openvino: its logits differ"):
        runtime.load(bundle, provider="openvino")
    assert wrong_openvino == [MODEL, "model_routed.onnx"]
    assert runtime.load(bundle, provider="openvino", verify=False).drops == (5,)
    assert runtime.load(bundle, provider="openvino", options=Options(probe_tolerance=99.0)).drops == (5,)


def test_auto_goes_on_and_says_why(bundle: Path, wrong_openvino: list[str]) -> None:
    said: list[str] = []
    assert runtime.load(bundle, options=Options(progress=said.append)).provider == "cpu"
    assert wrong_openvino
    (text,) = said
    assert text.startswith("provider openvino: its logits differ")
    assert text.endswith("; auto goes on with cpu, which is compared with the probe too")


def test_auto_refuses_a_bundle_with_a_wrong_probe(bundle: Path, wrong_openvino: list[str]) -> None:
    shift(bundle)
    with pytest.raises(runtime.ProviderError, match=r"^provider cpu: its logits differ .*; export the bundle again"):
        runtime.load(bundle)
    assert runtime.load(bundle, verify=False).drops == (5,)


def test_auto_says_which_provider_does_not_work(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    create = create_session

    def made(graph: Any, provider: Provider, *more: Any) -> Any:
        if provider is CPU:
            return create(graph, provider, *more)
        raise runtime.ProviderError("provider openvino: its library is missing")

    monkeypatch.setattr(session, "create_session", made)
    monkeypatch.setattr(session, "resolve", lambda *_: (OPENVINO, CPU))
    said: list[str] = []
    assert runtime.load(bundle, options=Options(progress=said.append)).provider == "cpu"
    assert said == ["provider openvino: its library is missing; auto goes on with cpu"]


def test_the_cpu_is_compared_on_request(bundle: Path) -> None:
    shift(bundle)
    predictor = runtime.load(bundle, provider="cpu")
    with pytest.raises(runtime.ProviderError, match=r"provider cpu: its logits differ .*; export the bundle again"):
        predictor.verify()
    with pytest.raises(runtime.ProviderError, match="provider cpu: its logits differ"):
        runtime.load(bundle, provider="cpu", verify=True)


@pytest.mark.parametrize("share", [True, False])
def test_graphs_that_are_opened_later_are_compared(bundle: Path, share: bool) -> None:
    model = onnx.load(bundle / "model_routed.onnx")
    heads = next(each for each in model.graph.initializer if each.name == "heads_w")
    heads.CopyFrom(numpy_helper.from_array(2 * numpy_helper.to_array(heads), "heads_w"))
    onnx.save(model, bundle / "model_routed.onnx")
    rewrite(bundle)
    predictor = runtime.load(bundle, provider="cpu", verify=True, options=Options(share_weights=share))
    predictor.run(feeds())  # the graph of all tasks is right
    for call in (predictor.prepare, lambda: predictor.run_routed(feeds(), ["topic", "flags"])):
        with pytest.raises(runtime.ProviderError, match=r"provider cpu: its logits differ .*model_routed\.onnx"):
            call()
    predictor.run(feeds())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "expected at least 8 bytes"),
        (b"\xff" * 16, "expected a header of"),
        (b"\x02" + bytes(7) + b"[]", "expected an object as the header"),
        (b"\x02" + bytes(7) + b"{}", "input_ids: missing"),
        (b"\x03" + bytes(7) + b"{,}", "Expecting"),
        (b'\x11\0\0\0\0\0\0\0{"input.x": null}', "input.x: expected dtype"),
    ],
)
def test_a_damaged_probe_is_refused(bundle: Path, content: bytes, message: str) -> None:
    (bundle / PROBE).write_bytes(content)
    with pytest.raises(runtime.BundleError, match=f"{PROBE}: truncated or altered"):
        runtime.load(bundle, provider="cpu")
    rewrite(bundle)
    with pytest.raises(runtime.BundleError, match=rf"bundle: {PROBE}: .*{message}.*; export the bundle again"):
        runtime.load(bundle, provider="cpu", verify=True)
    assert runtime.load(bundle, provider="cpu").provider == "cpu"


@pytest.mark.parametrize(
    ("inputs", "outputs", "message"),
    [
        ({}, {"topic": None}, "no logits of 'topic'"),
        ({"input_ids": np.full((3, 5), 10**6)}, {}, f"input_ids: expected values in 0..{VOCABULARY - 1}"),
        ({"input_ids": np.zeros((3, 99), np.int64)}, {}, "axis sequence"),
        ({}, {"topic": np.zeros((2, 3), np.float32)}, "expected 3 rows of logits, which 'topic'"),
        ({}, {"topic": np.zeros((), np.float32)}, "expected 3 rows of logits, which 'topic'"),
        ({}, {"topic": np.full((3, 3), np.nan, np.float32)}, "expected finite logits"),
    ],
)
def test_a_probe_of_another_bundle_is_refused(bundle: Path, inputs: Any, outputs: Any, message: str) -> None:
    probe = Probe.parse((bundle / PROBE).read_bytes(), read_manifest(bundle).inputs)
    given = {name: array for name, array in {**probe.outputs, **outputs}.items() if array is not None}
    Probe({**probe.feeds, **inputs}, given).write(bundle / PROBE)
    rewrite(bundle)
    with pytest.raises(runtime.BundleError, match=f"{PROBE}: .*{message}"):
        runtime.load(bundle, provider="cpu", verify=True)


def test_a_missing_probe_is_named(bundle: Path) -> None:
    (bundle / PROBE).unlink()
    with pytest.raises(runtime.BundleError, match=f"{PROBE}: missing"):
        runtime.load(bundle, provider="cpu", verify=False)


def test_tolerances_are_checked_fields(bundle: Path) -> None:
    entry = read_manifest(bundle).variants[0].probe
    for tolerances, message in (
        ({}, "expected bf16, fp16, fp32, tf32, found none"),
        ({**entry.tolerances, "fp32": 0.0}, "positive"),
    ):
        variants = (replace(read_manifest(bundle).variants[0], probe=replace(entry, tolerances=tolerances)),)
        with pytest.raises(runtime.BundleError, match=rf"variants\[0\].probe.tolerances.*{message}"):
            rewrite(bundle, variants=variants)


def test_large_tensors_take_kilobytes() -> None:
    image = np.random.default_rng(0).standard_normal((2, 3, 224, 200)).astype(np.float32)
    repeated = repeated_block(image)
    assert repeated.shape == image.shape
    np.testing.assert_array_equal(repeated[:, :, :37, :37], image[:, :, :37, :37])
    assert not np.array_equal(repeated[:, :, :16, :16], repeated[:, :, 16:32, :16])  # patches differ
    assert thinned(np.zeros((2, 197, 768))).shape == (2, 50, 64)
    assert thinned(np.zeros((3, 0, 2))).shape == (3, 0, 2)


def test_the_file_survives_the_round_trip(tmp_path: Path, bundle: Path) -> None:
    inputs = read_manifest(bundle).inputs
    probe = Probe.parse((bundle / PROBE).read_bytes(), inputs)
    probe.write(tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == (bundle / PROBE).read_bytes()
    safetensors = pytest.importorskip("safetensors.numpy")
    found = safetensors.load_file(tmp_path / "again")
    assert {"input.input_ids", "output.topic"} <= set(found)
    np.testing.assert_array_equal(found["output.topic"], probe.outputs["topic"])


COREML = next(each for each in OTHERS if each.name == "coreml")


@pytest.mark.parametrize(
    ("provider", "options", "expected"),
    [
        (CPU, Options(), "fp32"),
        (CPU, Options(session_config={"mlas.enable_gemm_fastmath_arm64_bfloat16": "1"}), "bf16"),
        (CUDA, Options(), "fp32"),
        (CUDA, Options(cuda=CudaOptions(tf32=True)), "tf32"),
        (CUDA, Options(provider_options={"use_tf32": "1"}), "tf32"),
        (TENSORRT, Options(), "tf32"),
        (TENSORRT, Options(tensorrt=TensorRTOptions(fp16=True)), "fp16"),
        (TENSORRT_RTX, Options(), "tf32"),
        (OPENVINO, Options(), "fp32"),
        (OPENVINO, Options(openvino=OpenVINOOptions(precision="bf16")), "bf16"),
        (OPENVINO, Options(openvino=OpenVINOOptions(precision="f16")), "fp16"),
        (OPENVINO, Options(provider_options={"load_config": '{"CPU": {"INFERENCE_PRECISION_HINT": "bf16"}}'}), "bf16"),
        (WEBGPU, Options(), "fp32"),
        (COREML, Options(), "fp16"),
    ],
)
def test_the_tolerance_follows_what_is_computed(bundle: Path, provider: Provider, options: Options, expected: str) -> None:
    requested = session_providers(provider, options, read_manifest(bundle))
    assert float_type(provider, requested, options.session_config) == expected
    rows = check_of(bundle, provider, options).check(MODEL, run_of(bundle))
    assert {row.tolerance for row in rows} == {read_manifest(bundle).variants[0].probe.tolerances[expected]}
    assert expected in FLOATS


def test_batches_fit_the_profile_of_tensorrt(bundle: Path) -> None:
    seen = []
    run = run_of(bundle)

    def recorded(names: Sequence[str], given: Mapping[str, Array]) -> list[Array]:
        seen.append(given["input_ids"].shape)
        return run(names, given)

    options = Options(tensorrt=TensorRTOptions(best=(1, 8), largest=(2, 16)))
    assert len(check_of(bundle, TENSORRT, options).check(MODEL, recorded)) == 3
    assert seen == [(2, 5)]


def test_the_command_line_prints_the_differences(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(bundle), "--provider", "cpu", "--verify"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "provider cpu"
    assert [line.split(" as verified")[0] for line in lines[1:]] == [
        "model.onnx, drop 5: 3 tasks",
        "model_routed.onnx, drop 5: 3 tasks",
    ]
    assert main([str(bundle), "--provider", "cpu", "--verify", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [row["task"] for row in found["verified"]] == ["topic", "flags", "stars"] * 2
    shift(bundle)
    given = [str(bundle), "--provider", "cpu", "--text", "a text"]
    assert main(given) == 0
    assert main([*given, "--verify"]) == 2
    assert "error: provider cpu: its logits differ" in capsys.readouterr().err
    assert main([*given, "--verify", "--option", "probe_tolerance=1.5"]) == 0


@pytest.mark.parametrize("tolerance", [0, -1.0, float("nan"), float("inf"), True, "0.1"])
def test_tolerances_of_users_are_positive_numbers(tolerance: Any) -> None:
    with pytest.raises(runtime.InputError, match="probe_tolerance: expected a positive number"):
        Options(probe_tolerance=tolerance)
