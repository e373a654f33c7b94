"""Options of the execution providers, the requested and the actual provider, and progress messages."""

import json
import shutil
import subprocess
import sys
import tempfile
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

import runtime
from runtime import CudaOptions, OpenVINOOptions, Options, TensorRTOptions
from runtime.bundle import PassRow, read_manifest
from runtime.command_options import read_settings
from runtime.options import MOST_THREADS
from runtime.ort import cpu, provider_options, seen_devices
from runtime.ort import open_sessions as open_module
from runtime.ort import session as session_module
from runtime.ort.cache_folder import cache_folder
from runtime.ort.known_providers import CPU, CUDA, KNOWN, OPENVINO, TENSORRT
from runtime.ort.libraries import library_failure
from runtime.ort.plugins import reason_of
from runtime.ort.progress import announced
from runtime.ort.provider_options import profile, session_providers
from runtime.ort.providers import installed, resolve
from runtime.ort.session import create_session
from tests.helpers.runtime_bundles import feeds, write_attention, write_bundle

ROOT = Path(runtime.__file__).parents[1]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bundle(tmp_path_factory.mktemp("providers") / "bundle", tokenizer=False)


def test_faulty_options_are_named_all_at_once() -> None:
    with pytest.raises(runtime.InputError) as caught:
        Options(
            threads=0,
            cuda=CudaOptions(graphs=((1, 0),), conv_search="FAST"),  # type: ignore[arg-type]
            tensorrt=TensorRTOptions(best=(64, 128)),
            openvino=OpenVINOOptions(precision="int3", kernels=-1),  # type: ignore[arg-type]
        )
    assert "openvino.kernels: expected a whole number, found -1" in str(caught.value)
    for part in ("threads: expected", "cuda.graphs", "found 'FAST'", "tensorrt.best: expected at most", "openvino.precision"):
        assert part in str(caught.value)


def test_options_of_another_type_are_named(bundle: Path) -> None:
    with pytest.raises(runtime.InputError, match=r"options: expected runtime\.Options\(…\), found \{'threads': 1\}"):
        runtime.load(bundle, options={"threads": 1})  # type: ignore[arg-type]
    with pytest.raises(runtime.InputError, match=r"cuda: expected CudaOptions\(…\), found \{'device': 0\}"):
        Options(cuda={"device": 0})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"spin": "off"}, r"spin: expected True or False, found 'off'"),
        ({"share_weights": None}, r"share_weights: expected True or False, found None"),
        ({"cuda": CudaOptions(tf32="off")}, r"cuda\.tf32: expected True or False, found 'off'"),  # type: ignore[arg-type]
        ({"tensorrt": TensorRTOptions(fp16=0)}, r"tensorrt\.fp16: expected True, False or None, found 0"),  # type: ignore[arg-type]
        ({"compiled": 0}, r"compiled: expected True, False or None, found 0"),  # 0 is no False: graphs for GPUs were taken
        ({"cuda": CudaOptions(device=True)}, r"cuda\.device: expected the index of a GPU, found True"),
        ({"cuda": CudaOptions(graphs=(1, 32))}, r"cuda\.graphs: expected pairs .*, found \(1, 32\)$"),  # type: ignore[arg-type]
        ({"cuda": CudaOptions(graphs=None)}, r"cuda\.graphs: expected pairs .*, found None$"),  # type: ignore[arg-type]
        ({"tensorrt": TensorRTOptions(best=8)}, r"tensorrt\.best: expected \(batch, .*found 8"),  # type: ignore[arg-type]
        ({"tensorrt": TensorRTOptions(largest=8)}, r"tensorrt\.largest: expected .*found 8"),  # type: ignore[arg-type]
        ({"openvino": OpenVINOOptions(device="")}, r"openvino\.device: expected OpenVINO's name .*found ''"),
        ({"openvino": OpenVINOOptions(device=0)}, r"openvino\.device: .*found 0"),  # type: ignore[arg-type]
        ({"openvino": OpenVINOOptions(precision="")}, r"precision: expected one of f32, bf16, f16, found ''"),  # type: ignore[arg-type]
        ({"progress": None}, r"progress: expected a function of a message, found None"),
        ({"cache": 5}, r"cache: expected the path of a folder or None, found 5"),
        (
            {"session_config": {"session.load_model_format": "ORT"}},
            r"session_config\['session.load_model_format'\]: graphs of bundles have the format ONNX, found 'ORT': omit it",
        ),
        ({"cache": b"folder"}, r"cache: expected the path"),
    ],
)
def test_a_value_of_another_type_is_no_choice(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(runtime.InputError, match=message):
        Options(**fields)


def test_verify_is_a_switch(bundle: Path) -> None:
    with pytest.raises(runtime.InputError, match="verify: expected True, False or None, found 'no'"):
        runtime.load(bundle, verify="no")  # type: ignore[arg-type]


def test_a_folder_is_a_path() -> None:
    with pytest.raises(runtime.InputError, match="folder: expected a path or an id of the hub, found 3"):
        runtime.load(3)  # type: ignore[arg-type]


def test_numbers_that_onnx_runtime_does_not_take(bundle: Path) -> None:
    assert runtime.load(bundle, provider="cpu", options=Options(threads=MOST_THREADS, spin=False))
    for threads in (MOST_THREADS + 1, 2**32):
        with pytest.raises(runtime.InputError, match=rf"threads: expected at most 1,024, found {threads:,}"):
            runtime.load(bundle, provider="cpu", threads=threads)
    with pytest.raises(runtime.InputError, match=r"memory_limit: .* cuda\.device: expected .* openvino\.kernels: "):
        Options(memory_limit=2**63, cuda=CudaOptions(device=2**31), openvino=OpenVINOOptions(kernels=2**31))


def test_cuda_keeps_fp32_and_tensorrt_has_cuda_behind_it(bundle: Path) -> None:
    manifest = read_manifest(bundle)
    ((name, requested),) = session_providers(CUDA, Options(cuda=CudaOptions(memory_limit=7, graphs=((1, 8),))), manifest)
    assert name == "CUDAExecutionProvider"
    assert (requested["use_tf32"], requested["gpu_mem_limit"], requested["enable_cuda_graph"]) == ("0", "7", "1")
    keys = [key for key, _ in session_providers(TENSORRT, Options(), manifest)]
    assert keys == ["TensorrtExecutionProvider", "CUDAExecutionProvider"]


def test_outputs_stay_on_the_gpu_that_the_provider_got(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its options may name the GPU as well, and take precedence."""
    create = create_session
    monkeypatch.setattr(
        open_module, "create_session", lambda graph, _, manifest, *_more: create(graph, CPU, manifest, Options())
    )
    monkeypatch.setattr(open_module, "resolve", lambda *_: (CUDA,))
    for given, found in (({}, 3), ({"device_id": "1"}, 1)):
        options = Options(cuda=CudaOptions(device=3), provider_options=given)
        assert runtime.load(bundle, "cuda", options=options)._bundle.device == found
    with pytest.raises(runtime.InputError, match="device_id: expected the index of a GPU, found 'first'"):
        runtime.load(bundle, "cuda", options=Options(provider_options={"device_id": "first"}))


@pytest.mark.parametrize(("given", "used"), [("AUTO", "AUTO:CPU"), ("GPU.0", "GPU.0")])
def test_the_device_of_the_provider_options_is_openvinos(
    bundle: Path, monkeypatch: pytest.MonkeyPatch, given: str, used: str
) -> None:
    """Its properties, whether it is there and whether it works in forks depend on it."""
    monkeypatch.setattr(provider_options, "openvino_devices", lambda: ("CPU",))
    options = provider_options.with_device(OPENVINO, Options(provider_options={"device_type": given, "num_streams": "1"}))
    assert (options.openvino.device, dict(options.provider_options)) == (given, {"num_streams": "1"})
    ((_, requested),) = session_providers(OPENVINO, options, read_manifest(bundle))
    assert requested["device_type"] == used
    assert list(json.loads(requested["load_config"])) == (["AUTO", "CPU"] if given == "AUTO" else ["GPU"])
    monkeypatch.setattr(open_module, "resolve", lambda *_: (OPENVINO,))
    monkeypatch.setattr(session_module, "missing_device", lambda _, own: f"no {own.openvino.device}")
    with pytest.raises(runtime.ProviderError, match=f"openvino: .*no {given}"):
        runtime.load(bundle, "openvino", options=Options(provider_options={"device_type": given}))


@pytest.mark.parametrize(("files", "seen"), [("null", None), ("nvidia-is-not-here*", ())])
def test_a_gpu_without_nvidia_smi_is_unknown(monkeypatch: pytest.MonkeyPatch, files: str, seen: tuple[str, ...] | None) -> None:
    """A container can have nvidia1 only."""
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(seen_devices, "_GPU_FILES", files)
    assert seen_devices.gpus() == seen


def test_the_profile_is_the_axes_of_the_manifest(bundle: Path, tmp_path: Path) -> None:
    manifest = read_manifest(bundle)  # takes 16 tokens
    options = Options(tensorrt=TensorRTOptions(best=(4, 8), largest=(32, 64), fp16=True), cache=tmp_path)
    found = profile(manifest, options)
    assert {bound: shapes["input_ids"] for bound, shapes in found.items()} == {"min": "1x1", "opt": "4x8", "max": "32x16"}
    _, requested = session_providers(TENSORRT, options, manifest)[0]
    assert requested["trt_profile_max_shapes"] == "input_ids:32x16,attention_mask:32x16,token_type_ids:32x16"
    assert requested["trt_fp16_enable"] == "True"
    assert Path(requested["trt_engine_cache_path"]).parent == Path(requested["trt_timing_cache_path"]).parent == tmp_path


def test_openvino_gets_the_requested_precision(bundle: Path) -> None:
    options = Options(threads=3, openvino=OpenVINOOptions(precision="bf16"))
    ((_, requested),) = session_providers(OPENVINO, options, read_manifest(bundle))
    found = json.loads(requested["load_config"])["CPU"]
    assert (found["INFERENCE_PRECISION_HINT"], found["INFERENCE_NUM_THREADS"]) == ("bf16", "3")


@pytest.mark.parametrize(("settings", "kept"), [([], "64"), (["openvino.kernels=0"], "0"), (["openvino.kernels=7"], "7")])
def test_openvino_keeps_a_bounded_number_of_kernels(bundle: Path, settings: list[str], kept: str) -> None:
    ((_, requested),) = session_providers(OPENVINO, read_settings(settings, Options()), read_manifest(bundle))
    assert json.loads(requested["load_config"])["CPU"]["CPU_RUNTIME_CACHE_CAPACITY"] == kept
    gpu = replace(Options(), openvino=OpenVINOOptions(device="GPU"))
    ((_, requested),) = session_providers(OPENVINO, gpu, read_manifest(bundle))
    assert "CPU_RUNTIME_CACHE_CAPACITY" not in requested["load_config"]  # devices refuse settings that they do not know


def test_a_cache_belongs_to_one_bundle_setting_and_release(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = read_manifest(bundle)
    first = cache_folder(tmp_path, manifest, "x", "a")
    assert cache_folder(tmp_path, manifest, "x", "a") == first
    assert cache_folder(tmp_path, manifest, "x", "b") != first
    monkeypatch.setattr(onnxruntime, "__version__", "0")
    assert cache_folder(tmp_path, manifest, "x", "a") != first


def test_a_cache_that_cannot_be_written_is_refused_by_name(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(runtime.InputError, match=r"options\.cache: cannot write to .*file: .*give a writable folder"):
        runtime.load(bundle, provider="cpu", options=Options(cache=tmp_path / "file"))


def test_nodes_are_counted_where_they_ran(bundle: Path) -> None:
    predictor = runtime.load(bundle, provider="cpu", options=Options(threads=1, spin=False))
    (provider, count), *rest = predictor.node_counts().items()
    assert (provider, rest) == ("cpu", [])
    assert 8 < count < 20


def test_a_profile_that_cannot_be_written(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder is missing; or the disk is full, and ONNX Runtime writes as much as fits."""
    predictor = runtime.load(bundle, provider="cpu", options=Options(threads=1, spin=False))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "none"))
    with pytest.raises(runtime.AdapterDropError, match=r"the profile .*: No such file or directory; .*set TMPDIR"):
        predictor.node_counts()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    read = Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda path: read(path)[: 99 if path.name.startswith("profile") else None])
    with pytest.raises(runtime.AdapterDropError, match=r"the profile .*: it is incomplete; free disk space"):
        predictor.node_counts()
    assert list(tmp_path.iterdir()) == []


def test_the_arena_has_a_limit(bundle: Path) -> None:
    # in a separate process: the arena belongs to the process
    code = f"""
import runtime, numpy
predictor = runtime.load({str(bundle)!r}, provider="cpu", options=runtime.Options(memory_limit=2**20))
ones = numpy.ones((1, 16), numpy.int64)
predictor.run({{"input_ids": ones, "attention_mask": ones}})
try:
    predictor.run({{"input_ids": ones.repeat(4096, 0), "attention_mask": ones.repeat(4096, 0)}})
except runtime.AdapterDropError as error:
    print("refused", error)
"""
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, encoding="utf-8", check=True, timeout=60, cwd=ROOT
    )
    assert found.stdout.startswith("refused ONNX Runtime (cpu) failed on input_ids [4096, 16]")


def test_long_work_says_so_and_short_work_does_not() -> None:
    lines: list[str] = []
    twice = threading.Event()

    def say(line: str) -> None:
        lines.append(line)
        if len(lines) == 2:
            twice.set()

    with announced("building", say, first=0.01, every=0.01):
        assert twice.wait(60)
    assert len(lines) >= 3
    assert lines[-1].startswith("building: ended after")
    lines.clear()
    with announced("quick", lines.append):
        pass
    assert lines == []
    assert not [thread for thread in threading.enumerate() if thread.name == "progress"]


@pytest.mark.skipif(installed(OPENVINO) is None, reason="needs onnxruntime-ep-openvino or onnxruntime-openvino")
def test_openvino_runs_everything_and_agrees(bundle: Path, tmp_path: Path) -> None:
    wanted = runtime.load(bundle, provider="cpu").run(feeds())
    for _ in range(2):  # the second time from the cache
        predictor = runtime.load(bundle, provider="openvino", options=Options(cache=tmp_path))
        assert predictor.provider == "openvino"
        assert predictor.node_counts() == {"openvino": 1}
        for task, logits in predictor.run(feeds()).items():
            np.testing.assert_allclose(logits, wanted[task], atol=1e-4)
    with pytest.raises(runtime.ProviderError, match=r"openvino: .*does not work here"):
        runtime.load(bundle, provider="openvino", options=Options(openvino=OpenVINOOptions(device="NPU")))


@pytest.mark.skipif(installed(OPENVINO) is None, reason="needs onnxruntime-ep-openvino or onnxruntime-openvino")
def test_openvino_memory_does_not_grow_with_new_shapes(tmp_path: Path) -> None:
    # In a process of which nothing else uses memory. With kernels=5000, the second half of the shapes takes 5.4 MB.
    code = f"""
import numpy, psutil, runtime
predictor = runtime.load({str(write_attention(tmp_path / "bundle"))!r}, provider="openvino", threads=1)
shapes = [(rows, tokens) for rows in range(1, 76) for tokens in range(1, 17)]
numpy.random.default_rng(0).shuffle(shapes)
memory = []
for shape in [(80, 16), *shapes]:
    predictor.run({{"input_ids": numpy.ones(shape, numpy.int64), "attention_mask": numpy.ones(shape, numpy.int64)}})
    memory.append(psutil.Process().memory_info().rss)
print(memory[-1] - memory[len(memory) // 2])
"""
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, encoding="utf-8", check=True, timeout=120, cwd=ROOT
    )
    assert int(found.stdout) < 2 * 2**20


@pytest.mark.parametrize(
    ("flags", "precision", "proven", "refused"),
    [
        ("sse4_2 avx avx2", "int8", False, True),
        ("avx2 avx512f avx512bw", "int8", False, True),
        ("avx2 avx512f", "int8", True, False),
        ("avx2 avx512f", "fp32", False, False),
        ("avx2 avx512f avx512_vnni", "int8", False, False),
        ("avx2 avx_vnni", "int8", False, False),
        ("sse4_2 avx", "int8", False, False),  # its kernels add in 32 bits
        ("asimd", "int8", False, False),
    ],
)
def test_int8_without_the_proof_needs_vnni(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flags: str, precision: str, proven: bool, refused: bool
) -> None:
    monkeypatch.setattr(cpu, "processor", lambda: f"flags : fpu {flags}")
    passes = (PassRow("ProvePairSums", "all", 1, 1, 1, 1),) if proven else ()
    shutil.copytree(bundle, tmp_path / "bundle")
    manifest = read_manifest(bundle)
    variants = tuple(replace(each, passes=passes) for each in manifest.variants)
    replace(manifest, precision=precision, variants=variants).write(tmp_path / "bundle")
    if refused:
        with pytest.raises(runtime.BundleError, match=r"needs a processor with VNNI, .*; export it again"):
            runtime.load(tmp_path / "bundle")
    else:
        assert runtime.load(tmp_path / "bundle", provider="cpu").run(feeds())


@pytest.mark.parametrize(
    ("target", "precision", "expected"),
    [
        ("portable", "fp32", ["cuda", "openvino", "cpu"]),
        ("portable", "int8", ["cpu"]),
        ("cpu", "fp32", ["cpu"]),
        ("cuda", "fp16", ["cuda", "cpu"]),
        ("openvino", "bf16", ["openvino", "cpu"]),
        ("tensorrt", "fp16", ["cuda", "openvino", "cpu"]),
    ],
)
def test_auto_suits_what_the_bundle_was_made_for(
    bundle: Path, monkeypatch: pytest.MonkeyPatch, target: str, precision: str, expected: list[str]
) -> None:
    manifest = replace(read_manifest(bundle), target=target, precision=precision)
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [each.key for each in KNOWN])
    assert [provider.name for provider in resolve("auto", manifest)] == expected


@pytest.mark.parametrize(
    ("exported", "flags", "requested", "found"),
    [
        ("fp32", "avx512_bf16", None, "f32"),
        ("bf16", "avx2", None, "bf16"),
        ("bf16", "avx512_bf16", "f32", "f32"),
        ("int8", "avx512_vnni avx512_bf16", None, "bf16"),
        ("int8", "avx512_vnni", None, "f32"),
        ("int8", "amx_bf16", "f32", "f32"),
    ],
)
def test_openvino_computes_in_the_precision_of_the_export(
    bundle: Path, monkeypatch: pytest.MonkeyPatch, exported: str, flags: str, requested: Any, found: str
) -> None:
    monkeypatch.setattr(cpu, "processor", lambda: f"flags : fpu {flags}")
    manifest = replace(read_manifest(bundle), precision=exported, target="openvino")
    options = Options(openvino=OpenVINOOptions(precision=requested))
    ((_, settings),) = session_providers(OPENVINO, options, manifest)
    assert json.loads(settings["load_config"])["CPU"]["INFERENCE_PRECISION_HINT"] == found


@pytest.mark.parametrize(
    ("device", "asked", "keys"),
    [
        ("CPU", "CPU", ["CPU"]),
        ("GPU.1", "GPU.1", ["GPU"]),
        ("HETERO:GPU.1,CPU", "HETERO:GPU.1,CPU", ["HETERO", "CPU"]),
        ("MULTI:GPU.0,NPU", "MULTI:GPU.0,NPU", ["MULTI"]),
        ("AUTO:CPU", "AUTO:CPU", ["AUTO", "CPU"]),
        ("AUTO", "AUTO:GPU.0,GPU.1,CPU", ["AUTO", "CPU"]),
    ],
)
def test_properties_reach_the_devices_of_the_build(
    bundle: Path, monkeypatch: pytest.MonkeyPatch, device: str, asked: str, keys: list[str]
) -> None:
    """It takes the names of kinds only: GPUs computed in halves, and combined devices in bf16, as they do without a hint."""
    monkeypatch.setattr(provider_options, "openvino_devices", lambda: ("CPU", "GPU.0", "GPU.1", "NPU"))
    options = Options(threads=2, openvino=OpenVINOOptions(device=device))
    ((_, settings),) = session_providers(OPENVINO, options, read_manifest(bundle))
    assert settings["device_type"] == asked
    config = json.loads(settings["load_config"])
    assert list(config) == keys
    assert all(each["INFERENCE_PRECISION_HINT"] == "f32" for each in config.values())
    assert all(("INFERENCE_NUM_THREADS" in each) == (key == "CPU") for key, each in config.items())


def test_a_device_with_another_spelling_is_named(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seen_devices, "openvino_devices", lambda: ("CPU",))
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [OPENVINO.key, "CPUExecutionProvider"])
    with pytest.raises(runtime.ProviderError, match=r"OpenVINO sees no device cpu \(openvino\.device\), only CPU"):
        runtime.load(bundle, "openvino", options=Options(openvino=OpenVINOOptions(device="cpu")))


def test_a_failure_carries_the_reason(bundle: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho '0, GPU-1a, H200, 580'\n", encoding="utf-8")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [each.key for each in KNOWN])
    if hasattr(onnxruntime, "preload_dlls"):
        monkeypatch.setattr(onnxruntime, "preload_dlls", lambda **_: None)

    def fails(*_: object, **__: object) -> None:
        raise RuntimeError("[ONNXRuntimeError] : 1 : FAIL : Invalid device ID: 7\nStacktrace:\n0x7f")

    monkeypatch.setattr(onnxruntime, "InferenceSession", fails)
    message = (
        r"does not work here: Invalid device ID: 7; the driver .* no GPU 7 \(cuda\.device\), only 0: H200 \(driver 580\); check"
    )
    with pytest.raises(runtime.ProviderError, match=message):
        runtime.load(bundle, "cuda", options=Options(cuda=CudaOptions(device=7)))
    with pytest.raises(runtime.ProviderError, match=r"does not work here: Invalid device ID: 7; check"):
        runtime.load(bundle, "cuda")
    monkeypatch.setattr(seen_devices, "openvino_devices", lambda: ("CPU", "GPU.0"))
    for device, missing in (
        ("NPU", "NPU"),
        ("HETERO:GPU.0,NPU", "NPU"),
        ("GPU.1", "GPU.1"),
        ("MULTI:CPU.0,GPU.1", "GPU.1"),
        ("GPU.0", None),
        ("GPU", None),
        ("CPU.0", None),
        ("AUTO", None),
    ):
        found = seen_devices.missing_device(OPENVINO, Options(openvino=OpenVINOOptions(device=device)))
        assert found == (missing and f"OpenVINO sees no device {missing} (openvino.device), only CPU, GPU.0")


@pytest.mark.parametrize(
    ("names", "seen"),
    [
        (None, ("0: H200 (driver 580)", "1: L4 (driver 580)")),
        ("1", ("0: L4 (driver 580)",)),
        ("1, 0", ("0: L4 (driver 580)", "1: H200 (driver 580)")),
        ("GPU-2b", ("0: L4 (driver 580)",)),
        ("0,7,1", ("0: H200 (driver 580)",)),  # CUDA reads up to the first that is not there
        ("", ()),
        ("-1", ()),
        ("MIG-3c", None),
    ],
)
def test_hidden_gpus_are_not_seen(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, names: str | None, seen: tuple[str, ...] | None
) -> None:
    program = tmp_path / "nvidia-smi"
    lines = "0, GPU-1a, H200, 580\n1, GPU-2b, L4, 580"
    program.write_text(f"#!/bin/sh\necho '{lines}'\n", encoding="utf-8")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if names is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", names)
    assert seen_devices.gpus() == seen
    if seen is not None and len(seen) < 2:
        message = seen_devices.missing_device(CUDA, Options(cuda=CudaOptions(device=1)))
        assert f"(CUDA_VISIBLE_DEVICES={names!r})" in str(message)


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        ("\n[ONNXRuntimeError] : 2 : INVALID_ARGUMENT : no\n more\nStacktrace:\n0x7f", "no more"),
        ("/src/onnxruntime/a_b.cc:10 std::shared_ptr<X> f::Make(const A&, int) Invalid option: foo", "Invalid option: foo"),
        (
            "/src/call.cc:9 Status g(T, int) [with T = cudaError; bool Z = true] CUDA failure 101: invalid",
            "CUDA failure 101: invalid",
        ),
        ("/src/b.cc:1 Library::Get() [ONNXRuntimeError] : 1 : FAIL : no (x)", "no (x)"),
        ("", "RuntimeError"),
    ],
)
def test_the_reason_is_that_of_onnxruntime(message: str, reason: str) -> None:
    assert reason_of(RuntimeError(message)) == reason


def test_a_library_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "capi").mkdir()
    monkeypatch.setattr(onnxruntime, "__file__", str(tmp_path / "__init__.py"))
    assert library_failure(CUDA) is None
    (tmp_path / "capi" / "libonnxruntime_providers_cuda.so").write_bytes(b"")
    assert "libonnxruntime_providers_cuda.so" in (library_failure(CUDA) or "")
