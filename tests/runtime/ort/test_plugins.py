"""Plug-in execution providers: registration, devices, options; with a stand-in, and with those that are installed."""

import importlib.metadata
import json
import re
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime
import pytest

import runtime
from runtime import OpenVINOOptions, Options, TensorRTOptions
from runtime.bundle import read_manifest
from runtime.ort import devices, option_names, plugins
from runtime.ort import open_sessions as open_module
from runtime.ort.devices import described, survey
from runtime.ort.known_providers import (
    CUDA,
    KNOWN,
    OPENVINO,
    OPENVINO_PLUGIN,
    OTHERS,
    PLUGINS,
    RTX_PLUGIN,
    WEBGPU_PLUGIN,
    Provider,
)
from runtime.ort.provider_options import session_providers
from runtime.ort.providers import find, installed, remedy, resolve
from tests.helpers.runtime_bundles import feeds, write_bundle


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bundle(tmp_path_factory.mktemp("plugins") / "bundle", tokenizer=False)


@dataclass
class Stand:
    """Stands in for ONNX Runtime's list of plug-ins, and for the package of OpenVINO's.

    Attributes:
        names: devices that OpenVINO's plug-in shall see.
        libraries: registrations that were made, name -> path.
        error: raised by a registration.
    """

    names: tuple[str, ...] = ("CPU",)
    libraries: dict[str, str] = field(default_factory=dict)
    error: Exception | None = None

    def register(self, name: str, path: str) -> None:
        if self.error is not None:
            raise self.error
        assert name not in self.libraries
        self.libraries[name] = path

    def devices(self) -> list[Any]:
        found = [device("CPUExecutionProvider", "CPU")]
        for name in self.libraries:  # the provider has the name of its registration, as QNN's
            found += [device(name, each, ov_device=each, library_path="x") for each in self.names]
        return found


def device(key: str, kind: str, virtual: bool = False, **own: str) -> Any:
    hardware = SimpleNamespace(
        type=SimpleNamespace(name=kind),
        vendor="maker",
        metadata={"is_virtual": "1"} if virtual else {"Description": kind.lower()},
    )
    return SimpleNamespace(ep_name=key, ep_metadata=own, device=hardware)


@pytest.fixture
def stand(monkeypatch: pytest.MonkeyPatch) -> Iterator[Stand]:
    found = Stand()
    module = ModuleType(str(OPENVINO_PLUGIN.module))
    module.get_library_path = lambda: "/library"  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(plugins, "is_importable", lambda plugin: plugin is OPENVINO_PLUGIN)
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    monkeypatch.setattr(onnxruntime, "register_execution_provider_library", found.register)
    monkeypatch.setattr(onnxruntime, "get_ep_devices", found.devices)
    monkeypatch.setattr(devices, "ended_process", lambda _: None)
    plugins._register.cache_clear()
    yield found
    plugins._register.cache_clear()


def test_a_plugin_is_registered_once_and_gives_its_device(stand: Stand, bundle: Path) -> None:
    assert resolve("OpenVINO", read_manifest(bundle)) == (OPENVINO_PLUGIN,)
    stand.names = ("GPU", "CPU")
    for _ in range(2):
        assert [each.ep_metadata["ov_device"] for each in plugins.select(OPENVINO_PLUGIN, Options())] == ["CPU"]
    assert stand.libraries == {OPENVINO.key: "/library"}
    assert plugins.built_in() == ["CPUExecutionProvider"]
    assert [each.name for each in resolve("auto", read_manifest(bundle))] == ["openvino", "cpu"]


def test_a_missing_device_is_named_with_those_that_are(stand: Stand, bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(runtime.ProviderError, match=r"openvino: .*does not work here: .*sees no device NPU, only CPU; check"):
        runtime.load(bundle, "openvino", options=Options(openvino=OpenVINOOptions(device="NPU")))
    stand.names = ()
    for _ in range(2):  # registered once although the list of devices does not show it
        with pytest.raises(
            runtime.ProviderError, match=r"sees no device CPU; it supports devices of Intel only: .*; check the device"
        ):
            runtime.load(bundle, "openvino")
    assert runtime.load(bundle).provider == "cpu"
    monkeypatch.setattr(onnxruntime, "__version__", "1.23.2")  # registers it, and lists none of its devices
    with pytest.raises(runtime.ProviderError, match=r"sees no device CPU; it is a plug-in for ONNX Runtime 1\.24\.1 or newer"):
        runtime.load(bundle, "openvino")


def test_a_library_that_does_not_load_says_what_to_install(stand: Stand, bundle: Path) -> None:
    stand.error = RuntimeError("ORT runtime version\n1.24 is below the minimum")
    with pytest.raises(
        runtime.ProviderError,
        match=r"cannot load onnxruntime-ep-openvino.*: ORT runtime version 1\.24 is .*pip install --upgrade",
    ) as caught:
        runtime.load(bundle, "openvino")
    assert "\n" not in str(caught.value)
    assert runtime.load(bundle).provider == "cpu"
    found = survey()
    assert found["auto"] == ["cpu"]
    (openvino,) = (each for each in found["providers"] if each["name"] == "openvino")
    assert (openvino["devices"], "cannot load" in openvino["problem"]) == ((), True)


def test_an_older_onnxruntime_is_named(stand: Stand, bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(onnxruntime, "register_execution_provider_library")
    with pytest.raises(runtime.ProviderError, match=r"plug-in for ONNX Runtime 1\.24\.1 or newer, found .*--upgrade onnx"):
        runtime.load(bundle, "openvino")


def test_each_plugin_names_the_onnxruntime_it_needs() -> None:
    extras = tomllib.loads((Path(runtime.__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8"))
    needed = extras["tool"]["hatch"]["metadata"]["hooks"]["custom"]["extras"]
    for plugin in (OPENVINO_PLUGIN, RTX_PLUGIN, WEBGPU_PLUGIN):
        assert f"onnxruntime>={plugin.needs}" in needed[plugin.name]
        assert f"ONNX Runtime {plugin.needs} or newer" in remedy(plugin)


def test_a_truncated_library_is_not_loaded(stand: Stand, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record = tmp_path / "onnxruntime_ep_openvino-9.dist-info" / "RECORD"
    record.parent.mkdir()
    (record.parent / "METADATA").write_text("Name: onnxruntime-ep-openvino\nVersion: 9\n", encoding="utf-8")
    # An image without the licence is complete
    lines = ("half.so.1,sha256=0,8", "gone.dll,sha256=0,6", "whole.so,sha256=0,4", "LICENSE,sha256=0,9", "RECORD,,")
    record.write_text("\n".join(lines), encoding="utf-8")
    for name in ("half.so.1", "whole.so"):
        (tmp_path / name).write_bytes(b"\x7fELF")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(
        runtime.ProviderError,
        match=r"openvino 9 is installed incompletely: half\.so\.1 \(4 of 8 bytes\), gone\.dll \(0 of 6 bytes\); `pip install -",
    ):
        runtime.load(bundle, "openvino")
    assert stand.libraries == {}


@pytest.mark.parametrize("name", ["", "-cu13"])
def test_the_part_with_the_files_is_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """TensorRT-RTX's distribution requires the one with the files, which may also be installed without it."""
    for part in {name, "-cu13"}:
        record = tmp_path / f"onnxruntime_ep_nv_tensorrt_rtx{part.replace('-', '_')}-0.5.dist-info" / "RECORD"
        record.parent.mkdir()
        (record.parent / "METADATA").write_text(f"Name: {RTX_PLUGIN.package}{part}\nVersion: 0.5\n", encoding="utf-8")
        record.write_text("half.so,sha256=0,8\n" if part else "RECORD,,\n", encoding="utf-8")
    (tmp_path / "half.so").write_bytes(b"\x7fELF")
    monkeypatch.syspath_prepend(tmp_path)
    plugins._register.cache_clear()
    message = (
        rf"{RTX_PLUGIN.package}{name} 0\.5 is installed incompletely: half\.so \(4 of 8 .*--no-deps {RTX_PLUGIN.package}-cu13`"
    )
    with pytest.raises(runtime.ProviderError, match=message):
        plugins.register(RTX_PLUGIN)


def test_devices_outlive_a_library_that_ends_the_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / f"{WEBGPU_PLUGIN.module}.py"
    package.write_text("import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)\n", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    (found,) = (each for each in survey()["providers"] if each["name"] == "webgpu")
    message = f"the library of {WEBGPU_PLUGIN.package} ends the process that loads it (SIGSEGV): `pip install --force-reinstall"
    assert found["problem"].startswith(message)
    package.write_text("raise RuntimeError('as load reports it')\n", encoding="utf-8")
    assert devices.ended_process(WEBGPU_PLUGIN) is None


def test_a_truncated_build_is_not_loaded(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The libraries of the providers that ONNX Runtime contains are loaded late, too."""
    found = {"onnxruntime-openvino": ["libopenvino.so (1 of 9 bytes)"]}
    monkeypatch.setattr(plugins, "version", lambda package: "1" if package == "onnxruntime-openvino" else None)
    monkeypatch.setattr(plugins, "_is_imported", lambda _: True)
    monkeypatch.setattr(plugins, "truncated_libraries", lambda package: found.get(package, []))
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [OPENVINO.key, "CPUExecutionProvider"])
    plugins._truncated_build.cache_clear()
    message = (
        r"openvino: onnxruntime-openvino is installed incompletely: libopenvino\.so \(1 of 9 bytes\); `pip install --force"
    )
    with pytest.raises(runtime.ProviderError, match=message):
        runtime.load(bundle, "openvino")
    assert "\nopenvino      onnxruntime-openvino is installed incompletely: libop" in described([])
    assert runtime.load(bundle).provider == "cpu"
    plugins._truncated_build.cache_clear()


def test_a_package_without_its_library_is_reported(stand: Stand, bundle: Path) -> None:
    def fails() -> str:
        raise FileNotFoundError("plugin library not found")

    sys.modules[str(OPENVINO_PLUGIN.module)].get_library_path = fails  # type: ignore[attr-defined]
    with pytest.raises(runtime.ProviderError, match=r"openvino: .*library not found; install the driver or library"):
        runtime.load(bundle, "openvino")


def test_gpus_are_chosen_by_index_and_virtual_ones_left_out(stand: Stand, monkeypatch: pytest.MonkeyPatch) -> None:
    found = [device(RTX_PLUGIN.key, "GPU", library_path="x", index=each) for each in "01"]
    found.append(device(WEBGPU_PLUGIN.key, "GPU", virtual=True, library_path="x"))
    monkeypatch.setattr(onnxruntime, "get_ep_devices", lambda: found)
    assert plugins.select(RTX_PLUGIN, Options()) == found[:1]
    assert plugins.select(RTX_PLUGIN, Options(cuda=runtime.CudaOptions(device=1))) == found[1:2]
    with pytest.raises(runtime.ProviderError, match="sees no device 2, only GPU"):
        plugins.select(RTX_PLUGIN, Options(cuda=runtime.CudaOptions(device=2)))
    with pytest.raises(runtime.ProviderError, match="sees no device; check"):
        plugins.select(WEBGPU_PLUGIN, Options())
    kinds = [device("QNNExecutionProvider", each, library_path="x") for each in ("CPU", "NPU", "GPU")]
    monkeypatch.setattr(onnxruntime, "get_ep_devices", lambda: kinds)
    assert plugins.select(PLUGINS["qnn"], Options()) == kinds[1:2]


def test_options_of_the_plugins_are_theirs(bundle: Path, tmp_path: Path) -> None:
    manifest = read_manifest(bundle)
    more = {"load_config": '{"CPU": {"NUM_STREAMS": "2"}, "GPU": {}}'}
    ((_, found),) = session_providers(OPENVINO_PLUGIN, Options(cache=tmp_path, provider_options=more, threads=2), manifest)
    assert set(found) == {"load_config"}
    config = json.loads(found["load_config"])
    assert Path(config["CPU"].pop("CACHE_DIR")).parent == tmp_path
    assert config == {
        "CPU": {
            "INFERENCE_PRECISION_HINT": "f32",
            "CPU_RUNTIME_CACHE_CAPACITY": "64",
            "INFERENCE_NUM_THREADS": "2",
            "NUM_STREAMS": "2",
        },
        "GPU": {},
    }
    for text in ("{", "[]", '{"NUM_STREAMS": "2"}'):
        with pytest.raises(runtime.InputError, match="load_config: expected"):
            session_providers(OPENVINO_PLUGIN, Options(provider_options={"load_config": text}), manifest)
    with pytest.raises(runtime.InputError, match=r"plug-in ignores cache_dir \(use options\.cache\)"):
        session_providers(OPENVINO_PLUGIN, Options(provider_options={"cache_dir": "x"}), manifest)
    rtx = Options(
        tensorrt=TensorRTOptions(best=(1, 8), largest=(4, 8), workspace=7), cache=tmp_path, provider_options={"nv_dump": "1"}
    )
    ((key, found),) = session_providers(RTX_PLUGIN, rtx, manifest)
    assert key == "NvTensorRTRTXExecutionProvider"
    assert found["nv_profile_max_shapes"].startswith("input_ids:4x8,")
    assert (found["nv_max_workspace_size"], found["nv_dump"]) == ("7", "1")
    assert Path(found["nv_runtime_cache_path"]).parent == tmp_path


def test_options_pass_through_to_the_named_provider(bundle: Path) -> None:
    manifest = read_manifest(bundle)
    options = Options(provider_options={"use_tf32": "1", "new": "x"})
    ((_, found),) = session_providers(CUDA, options, manifest)
    assert (found["use_tf32"], found["new"]) == ("1", "x")
    assert session_providers(find("coreml"), options, manifest) == [("CoreMLExecutionProvider", options.provider_options)]
    with pytest.raises(runtime.InputError, match=r"belong to one provider: name it"):
        runtime.load(bundle, options=options)
    with pytest.raises(runtime.InputError, match=r"provider cpu has none, found use_tf32, new"):
        runtime.load(bundle, "cpu", options=options)


def test_the_session_configuration_reaches_onnxruntime(bundle: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    configured = []
    real = onnxruntime.InferenceSession

    def create(model: Any, settings: Any, *rest: Any, **more: Any) -> Any:
        configured.append(settings.get_session_config_entry("session.set_denormal_as_zero"))
        return real(model, settings, *rest, **more)

    monkeypatch.setattr(onnxruntime, "InferenceSession", create)
    options = Options(session_config={"session.set_denormal_as_zero": "1"}, cache=tmp_path)
    runtime.load(bundle, "cpu", options=options)
    runtime.load(bundle, "cpu", options=Options(session_config={"session.set_denormal_as_zero": "0"}, cache=tmp_path))
    assert configured == ["1", "1", "0", "0"]  # the weights are packed with the same configuration
    assert len(list(tmp_path.glob("packed-*"))) == 2


def test_an_entry_may_be_the_reason_of_a_failure(bundle: Path) -> None:
    options = Options(threads=2, session_config={"session.intra_op_thread_affinities": "none"})
    message = (
        r"cannot load it: .*; with options\.session_config \(session\.intra_op_thread_affinities\), which may be the reason$"
    )
    with pytest.raises(runtime.BundleError, match=message):
        runtime.load(bundle, "cpu", options=options)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"provider_options": {"a": 1}}, "provider_options: expected strings, as ONNX Runtime takes them, found 'a': 1"),
        ({"session_config": {"": "1"}}, "session_config: expected keys of 1 to 1023 bytes"),
        ({"session_config": ["a"]}, "session_config: expected a mapping of strings"),
        (
            {"session_config": {"session.model_external_initializers_file_folder_path": "/"}},
            "would read weights that were not compared",
        ),
    ],
)
def test_entries_that_cannot_be_passed_are_refused(given: Any, message: str) -> None:
    with pytest.raises(runtime.InputError, match=message):
        Options(**given)


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("session.set_denormal_as_zer", "; the nearest is session.set_denormal_as_zero"),
        ("mlas.enable_gemm_fastmath_arm64_bf16", "; the nearest is mlas.enable_gemm_fastmath_arm64_bfloat16"),
        ("ep.contxt_enable", "; the nearest is ep.context_enable"),
        ("banana", "; see ONNX Runtime's documentation"),
    ],
)
def test_misspelt_session_entries_are_refused(bundle: Path, monkeypatch: pytest.MonkeyPatch, name: str, nearest: str) -> None:
    monkeypatch.setattr(onnxruntime, "__version__", "1.24.1")
    with pytest.raises(runtime.InputError, match=rf"session_config: ONNX Runtime 1\.24\.1 has no entry {name}{nearest}"):
        runtime.load(bundle, "cpu", options=Options(session_config={name: "1"}))


def test_entries_of_a_newer_onnxruntime_are_passed_on(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(onnxruntime, "__version__", "1.99.0")
    monkeypatch.setattr(option_names, "SESSION_KEYS", frozenset())
    # Those that the installed library contains are known
    option_names.check_session_config(["session.disable_prepacking", "session.of_tomorrow", "ep.mine.x"])
    assert [record.message for record in caplog.records] == [
        f"options.session_config: ONNX Runtime 1.99.0 has no entry {name}; see ONNX Runtime's documentation for its names; it "
        "may be ignored"
        for name in ("session.of_tomorrow", "ep.mine.x")
    ]


def test_misspelt_provider_options_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for provider, name, nearest in (
        (CUDA, "use_tf23", "use_tf32"),
        (OPENVINO, "LOAD_CONFIGS", "load_config"),
        (find("coreml"), "MLComputeUnit", "MLComputeUnits"),
        (find("qnn"), "backend_typ", "backend_type"),
    ):
        with pytest.raises(
            runtime.InputError, match=f"{provider.name} has no documented option {name}; the nearest is {nearest}$"
        ):
            option_names.check_provider_options(provider, [name])
    option_names.check_provider_options(CUDA, ["new", "use_tf32"])  # CUDA refuses what it does not know
    (tmp_path / "capi").mkdir()
    (tmp_path / "capi" / "libonnxruntime_providers_cuda.so").write_bytes(b"\0has_user_compute_stream\0")
    monkeypatch.setattr(onnxruntime, "__file__", str(tmp_path / "__init__.py"))
    option_names.check_provider_options(CUDA, ["has_user_compute_stream"])  # nearly a documented one, and in the library
    assert not caplog.records
    option_names.check_provider_options(Provider("mine", "MineExecutionProvider", module=""), ["anything"])
    assert "provider mine has no documented option anything" in caplog.text


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("CoreMLExecutionProvider", "coreml"),
        ("DML", "dml"),
        ("migraphx", "migraphx"),
        ("nvtensorrtrtx", "tensorrt-rtx"),
        ("WebGPU", "webgpu"),
        ("openvinoexecutionprovider", "openvino"),
    ],
)
def test_names_of_onnxruntime_are_understood(name: str, found: str) -> None:
    assert find(name).name == found


@pytest.mark.parametrize(
    ("name", "nearest"), [("cudaa", "cuda"), ("directml", "dml"), ("CoreMLProvider", "coreml"), ("tensorrtrtx", "tensorrt-rtx")]
)
def test_unknown_names_get_the_nearest(name: str, nearest: str) -> None:
    with pytest.raises(runtime.ProviderError, match=f"found '{name}'; the nearest is {nearest}$"):
        find(name)


def test_azure_computes_nothing_here(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("azure", "AzureExecutionProvider"):
        with pytest.raises(runtime.ProviderError, match=r"^provider azure: it .*runs no node of a graph; use another one"):
            runtime.load(bundle, provider=name)
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["AzureExecutionProvider", "CPUExecutionProvider"])
    rows = {each["name"]: each for each in survey()["providers"]}
    assert rows["azure"]["problem"].endswith("runs no node of a graph")


@pytest.mark.skipif(not hasattr(onnxruntime.InferenceSession, "get_provider_graph_assignment_info"), reason="older version")
def test_a_provider_that_takes_no_node_is_refused(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    idle = next((key for key in onnxruntime.get_available_providers() if key.startswith("Azure")), None)
    if idle is None:
        pytest.skip("needs a provider without kernels")
    monkeypatch.setattr(open_module, "resolve", lambda *_: (Provider("azure", idle),))
    with pytest.raises(
        runtime.ProviderError, match=r"^provider azure: it takes none of the nodes of model\.onnx, so another .*: use"
    ):
        runtime.load(bundle)


def test_what_is_no_name_is_refused(bundle: Path) -> None:
    with pytest.raises(runtime.ProviderError, match=r"found None$"):
        runtime.load(bundle, provider=None)  # type: ignore[arg-type]


def test_names_of_providers_are_unambiguous() -> None:
    keys = [each.key for each in (*KNOWN, *OTHERS)]
    assert len(set(keys)) == len(keys)
    assert {each.key for each in PLUGINS.values()} <= set(keys)
    if hasattr(onnxruntime, "get_all_providers"):  # that this version can be built with, but for those of browsers
        assert set(onnxruntime.get_all_providers()) <= {*keys, "JsExecutionProvider", "WebNNExecutionProvider"}


def test_a_plugin_that_the_process_registered_is_used(stand: Stand, monkeypatch: pytest.MonkeyPatch) -> None:
    own = device("MyExecutionProvider", "NPU", library_path="x")
    monkeypatch.setattr(onnxruntime, "get_ep_devices", lambda: [own])
    provider = installed(find("my"))
    assert provider == Provider("MyExecutionProvider", "MyExecutionProvider", module="")
    assert provider is not None
    assert plugins.select(provider, Options()) == [own]
    assert stand.libraries == {}


def test_devices_are_listed_with_what_is_missing(stand: Stand) -> None:
    text = described([])
    assert "auto takes openvino, else cpu\n  for portable int8 bundles: cpu\n  for --target cpu bundles: cpu\n" in text
    assert "\nopenvino      CPU: cpu (onnxruntime-ep-openvino" in text
    assert "\nwebgpu        `pip install onnxruntime-ep-webgpu`" in text
    found = json.loads(described(["--json"]))
    assert found["auto"] == ["openvino", "cpu"]
    assert found["auto_otherwise"] == {"portable int8": ["cpu"], "--target cpu": ["cpu"], "--target cuda": ["cpu"]}
    rows = {each["name"]: each for each in found["providers"]}
    assert rows["openvino"]["devices"] == ["CPU: cpu"]
    assert rows["cuda"]["install"].startswith("`pip install onnxruntime-gpu` in place of")


def test_devices_name_what_load_takes(stand: Stand, monkeypatch: pytest.MonkeyPatch) -> None:
    """A plug-in of this process, and an Intel plug-in on another processor."""
    stand.names = ()
    own = device("own", "GPU", library_path="x")
    monkeypatch.setattr(onnxruntime, "get_ep_devices", lambda: [own])
    text = described([])
    assert re.search(r"^own +GPU: gpu \(registered by this process\)$", text, re.MULTILINE)
    assert re.search(r"^openvino +onnxruntime-ep-openvino.* sees no device; it supports devices of Intel", text, re.MULTILINE)


def test_cuda_without_a_gpu_is_not_what_auto_takes(stand: Stand, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [CUDA.key, "CPUExecutionProvider"])
    monkeypatch.setenv("PATH", "")
    if not Path("/dev/nvidia0").exists():
        assert survey()["auto"] == ["openvino", "cpu"]
        assert "\ncuda          sees no device (ONNX Runtime)\n" in described([])


def test_builds_over_each_other_are_a_problem(
    bundle: Path, stand: Stand, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(plugins, "version", lambda package: "1" if package in ("onnxruntime", "onnxruntime-gpu") else None)
    assert "problem: onnxruntime 1, onnxruntime-gpu 1 are installed over each other" in described([])
    with pytest.raises(runtime.ProviderError, match=r"^provider cann: .*onnxruntime-gpu 1 are installed over each other"):
        resolve("cann", read_manifest(bundle))
    assert "onnxruntime-gpu 1 are installed over each other" in plugins.failure(find("cuda"), "no such file")
    open_module.warn_overlaid.cache_clear()
    runtime.load(bundle, "cpu")  # works, perhaps as a mixture of both
    assert "onnxruntime-gpu 1 are installed over each other" in caplog.text
    open_module.warn_overlaid.cache_clear()


def test_a_build_in_another_folder_is_no_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder ahead on PYTHONPATH hides another build, and overwrites none of its files."""
    own = Path(onnxruntime.__file__).parent
    folders = {"onnxruntime": own, "onnxruntime-gpu": tmp_path / "onnxruntime"}
    folders["onnxruntime-gpu"].mkdir()
    found = {name: SimpleNamespace(locate_file=lambda _, folder=folder: folder) for name, folder in folders.items()}
    monkeypatch.setattr(importlib.metadata, "distribution", found.__getitem__)
    monkeypatch.setattr(plugins, "version", dict.fromkeys(folders, "1").get)
    assert (plugins.builds(), plugins.overlaid()) == (["onnxruntime 1"], None)
    folders["onnxruntime-gpu"].rmdir()  # unknown
    assert plugins.overlaid() is not None


@pytest.mark.parametrize("name", ["openvino", "webgpu", "tensorrt-rtx"])
def test_an_installed_provider_agrees_or_says_why_not(bundle: Path, name: str) -> None:
    if installed(find(name)) is None:
        pytest.skip(f"needs {PLUGINS[name].package}")
    wanted = runtime.load(bundle, provider="cpu").run(feeds())
    try:
        predictor = runtime.load(bundle, provider=name)
    except runtime.ProviderError as error:
        # A machine without the device or its driver
        assert re.search("sees no device|libcuda|libvulkan", str(error))  # noqa: PT017
        return
    assert predictor.provider == name
    for task, logits in predictor.run(feeds()).items():
        np.testing.assert_allclose(logits, wanted[task], atol=1e-4)
