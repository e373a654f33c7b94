"""Graphs that a provider compiled ahead of time: with a stand-in for OpenVINO and its compiler, and with the real one."""

import errno
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper

import runtime
from exporter.errors import ExportError
from exporter.write.replaceable import check_replaceable
from runtime import OpenVINOOptions, Options
from runtime import compile_ahead as ahead
from runtime.__main__ import main
from runtime.bundle import MODEL, Manifest, digest
from runtime.bundle.compiled_entry import RECORD
from runtime.ort import compile as compiler
from runtime.ort import open_sessions as opening
from runtime.ort.graph_file import GraphFile
from runtime.ort.known_providers import CPU, OPENVINO, Provider
from runtime.ort.providers import find, installed
from runtime.ort.session import create_session
from tests.helpers.runtime_bundles import feeds, rewrite, write_routed

ROUTED, DATA = "model_routed.onnx", "model_context.bin"


@dataclass
class Stand:
    """An OpenVINO that is installed, whose compiled graphs stand for those from which they were made.

    Attributes:
        opened: graphs that were opened, with whether they are compiled.
        wrong: whether compiled graphs answer zeros.
        fails: message with which opening of a compiled graph fails.
        takes: whether the compiler takes any node.
    """

    opened: list[tuple[str, bool]] = field(default_factory=list)
    wrong: bool = False
    fails: str = ""
    takes: bool = True


class _Zeros:
    def __init__(self, inner: Any) -> None:
        self._inner = inner

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def run(self, *given: Any) -> list[Any]:
        return [np.zeros_like(array) for array in self._inner.run(*given)]


@pytest.fixture
def stand(monkeypatch: pytest.MonkeyPatch, bundle: Path) -> Stand:
    found, create = Stand(), create_session

    def made(graph: GraphFile, provider: Provider, manifest: Manifest, options: Options, packed: bool = False) -> Any:
        if provider is CPU:
            return create(graph, provider, manifest, options, packed)
        found.opened.append((graph.name, graph.compiled))
        if not graph.compiled:
            return create(graph, CPU, manifest, options)
        graph.external_files()
        if found.fails:
            raise runtime.ProviderError(found.fails)
        files, name = runtime.bundle.open_bundle(bundle)[1], graph.name
        files.bind({path.name: digest(path) for path in bundle.iterdir() if path.is_file()})
        session = create(GraphFile(files, name, graph.routed), CPU, manifest, options)
        return _Zeros(session) if found.wrong else session

    class Compiler:
        def __init__(self, _: Any, model: str) -> None:
            self._model = model

        def compile_to_file(self, path: str) -> None:
            model = onnx.load(self._model, load_external_data=False)
            del model.graph.node[:], model.graph.initializer[:]
            name = f"{Path(path).stem}_context.bin"
            if found.takes:
                model.graph.node.append(context(embed_mode=0, ep_cache_context=name))
                Path(path).with_name(name).write_bytes(b"data")
            onnx.save(model, path)

    for module in (opening, compiler):
        monkeypatch.setattr(module, "create_session", made)
    monkeypatch.setattr(onnxruntime, "ModelCompiler", Compiler)
    monkeypatch.setattr(compiler, "request", lambda *_, **__: None)
    monkeypatch.setattr(opening, "resolve", lambda *_: (OPENVINO,))
    monkeypatch.setattr(ahead, "resolve", lambda name, _: (CPU,) if name == "cpu" else (OPENVINO,))
    return found


def context(**attributes: Any) -> onnx.NodeProto:
    return helper.make_node("EPContext", [], ["topic"], domain="com.microsoft", **attributes)


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_routed(tmp_path_factory.mktemp("compiled") / "bundle")


@pytest.fixture
def bundle(template: Path, tmp_path: Path) -> Path:
    return shutil.copytree(template, tmp_path / "bundle")


def loaded(bundle: Path, **options: Any) -> tuple[runtime.Predictor, list[str]]:
    """A predictor on the stand-in, and what it said."""
    said: list[str] = []
    return runtime.load(bundle, provider="openvino", options=Options(progress=said.append, **options)), said


def place(bundle: Path) -> Path:
    """The only folder of compiled graphs."""
    (found,) = (bundle / "compiled").iterdir()
    return found


def record(bundle: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change the record of compiled graphs, whose hashes then are those of the files."""
    (path,) = bundle.glob(f"compiled/*/{RECORD}")
    entry = json.loads(path.read_text())
    change(entry)
    entry["files"] = {name: digest(path.parent / name) for name in entry["files"]}
    path.write_text(json.dumps(entry))


def test_compiled_graphs_are_opened_without_a_build(bundle: Path, stand: Stand) -> None:
    rows = runtime.compile_bundle(bundle, "openvino")
    assert [(row.graph, row.folder) for row in rows] == [(MODEL, place(bundle)), (ROUTED, place(bundle))]
    assert all(row.bytes > 4 for row in rows)
    assert place(bundle).name.startswith("openvino-cpu-")
    stand.opened.clear()
    predictor, said = loaded(bundle)
    assert stand.opened == [(MODEL, True), (ROUTED, True)]
    assert said == [f"provider openvino: {name} opened from {place(bundle)}, without a build" for name in (MODEL, ROUTED)]
    wanted = runtime.load(bundle, provider="openvino", options=Options(compiled=False)).run(feeds())
    assert stand.opened[2:] == [(MODEL, False), (ROUTED, False)]
    assert all(np.array_equal(logits, wanted[task]) for task, logits in predictor.run(feeds()).items())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda entry: entry["machine"].update(onnxruntime="1.0"), "compiled for onnxruntime 1.0, not "),
        (lambda entry: entry["machine"].update(processor="arm64 x"), "compiled for processor arm64 x, not "),
        (lambda entry: entry["machine"].update(package="plug-in 2"), "package plug-in 2, not none"),
        (lambda entry: entry["graphs"][MODEL]["sources"].update({MODEL: "0" * 64}), "compiled for another model.onnx"),
        (lambda entry: entry.update(version=2), "version: expected 1, found 2"),
        (lambda entry: entry["files"].update({"../model.onnx": ""}), "No such file|plain names"),
        (lambda entry: entry.pop("machine"), "machine: missing"),
        (lambda entry: entry["graphs"][MODEL].update(file="other"), "expected one of the listed files, found 'other'"),
    ],
)
def test_what_does_not_fit_is_built(bundle: Path, stand: Stand, change: Any, message: str) -> None:
    runtime.compile_bundle(bundle, "openvino")
    (path,) = bundle.glob(f"compiled/*/{RECORD}")
    entry = json.loads(path.read_text())
    change(entry)
    path.write_text(json.dumps(entry))
    stand.opened.clear()
    (said,) = loaded(bundle)[1]
    assert said.startswith(f"compiled/{place(bundle).name}: its graphs are not used: ")
    assert any(part in said for part in message.split("|"))
    assert stand.opened == [(MODEL, False), (ROUTED, False)]


def test_other_options_are_named(bundle: Path, stand: Stand) -> None:
    runtime.compile_bundle(bundle, "openvino", options=Options(threads=1))
    (said,) = loaded(bundle, threads=1, openvino=OpenVINOOptions(precision="bf16"))[1]
    assert said.endswith("compiled for CPU.INFERENCE_PRECISION_HINT f32, not bf16; compile them again")
    assert "CPU.INFERENCE_NUM_THREADS 1, not 2" in loaded(bundle, threads=2)[1][0]
    assert (
        "session.set_denormal_as_zero none, not 1"
        in loaded(bundle, threads=1, session_config={"session.set_denormal_as_zero": "1"})[1][0]
    )
    assert "without a build" in loaded(bundle, threads=1)[1][0]


def test_another_export_is_built(bundle: Path, stand: Stand) -> None:
    runtime.compile_bundle(bundle, "openvino")
    model = onnx.load(bundle / MODEL, load_external_data=False)
    model.doc_string = "another"
    onnx.save(model, bundle / MODEL)
    (bundle / "compiled").rename(bundle.parent / "compiled")  # the helper lists all files
    rewrite(bundle)
    (bundle.parent / "compiled").rename(bundle / "compiled")
    assert "compiled for another model.onnx; compile them again" in loaded(bundle)[1][0]
    runtime.compile_bundle(bundle, "openvino")
    assert "without a build" in loaded(bundle)[1][0]


def test_altered_data_is_not_opened(bundle: Path, stand: Stand) -> None:
    runtime.compile_bundle(bundle, "openvino")
    (place(bundle) / DATA).write_bytes(b"DATA")
    stand.opened.clear()
    assert f"{DATA}: truncated or altered" in loaded(bundle)[1][0]
    assert stand.opened == [(MODEL, False), (ROUTED, False)]


def test_another_compiled_graph_is_not_used(bundle: Path, stand: Stand) -> None:
    """Its inputs are those of the routed graph."""
    runtime.compile_bundle(bundle, "openvino")
    record(
        bundle,
        lambda entry: entry["graphs"][MODEL].update(entry["graphs"][ROUTED] | {"sources": entry["graphs"][MODEL]["sources"]}),
    )
    assert f"{MODEL} is not used: " in loaded(bundle)[1][0]


def test_a_full_disk_keeps_the_earlier_graphs(bundle: Path, stand: Stand, monkeypatch: pytest.MonkeyPatch) -> None:
    def rename(path: Path, target: Path) -> Path:
        if path.name == "made":
            raise OSError(errno.ENOSPC, "No space left on device")
        return original(path, target)

    runtime.compile_bundle(bundle, "openvino")
    original, before = Path.rename, sorted(bundle.rglob("*"))
    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", rename)
        with pytest.raises(runtime.InputError, match="No space left on device"):
            runtime.compile_bundle(bundle, "openvino")
    assert sorted(bundle.rglob("*")) == before
    assert "without a build" in loaded(bundle)[1][0]
    (place(bundle) / DATA).write_bytes(b"DATA")  # altered, and mended by the next compilation
    runtime.compile_bundle(bundle, "openvino")
    assert "without a build" in loaded(bundle)[1][0]


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({"embed_mode": 0, "ep_cache_context": "/etc/passwd"}, "found '/etc/passwd'"),
        ({"embed_mode": 0, "ep_cache_context": f"../../{DATA}"}, f"found '../../{DATA}'"),
        ({"embed_mode": 2, "ep_cache_context": "x"}, "found 'x'"),
        ({"ep_cache_context": "x"}, "found 'x'"),
        ({"embed_mode": 0}, "found ''"),
    ],
)
def test_other_files_are_not_opened(bundle: Path, stand: Stand, attributes: Any, message: str) -> None:
    runtime.compile_bundle(bundle, "openvino")
    path = place(bundle) / MODEL
    model = onnx.load(path)
    model.graph.node[0].CopyFrom(context(**attributes))
    onnx.save(model, path)
    record(bundle, lambda _: None)
    predictor, said = loaded(bundle)
    assert message in said[0]
    assert stand.opened[-2:] == [(MODEL, False), (ROUTED, True)]
    assert predictor.run(feeds())


def test_data_in_the_node_names_no_file(bundle: Path, stand: Stand) -> None:
    runtime.compile_bundle(bundle, "openvino")
    path = place(bundle) / MODEL
    model = onnx.load(path)
    model.graph.node[0].CopyFrom(context(embed_mode=1, ep_cache_context="/etc/passwd"))
    onnx.save(model, path)
    record(bundle, lambda _: None)
    assert "without a build" in loaded(bundle)[1][0]
    model.graph.node[0].attribute.append(helper.make_attribute("embed_mode", 0))
    onnx.save(model, path)
    record(bundle, lambda _: None)
    assert "expected one file in a node EPContext, found several" in loaded(bundle)[1][0]


def test_a_link_is_not_followed(bundle: Path, stand: Stand, tmp_path: Path) -> None:
    runtime.compile_bundle(bundle, "openvino")
    folder = place(bundle).rename(tmp_path / place(bundle).name)
    (bundle / "compiled" / folder.name).symlink_to(folder)
    assert "are not used" in loaded(bundle)[1][0]
    shutil.rmtree(bundle / "compiled")
    (bundle / "compiled").symlink_to(tmp_path)
    assert loaded(bundle)[1] == []


def test_wrong_logits_are_not_kept(bundle: Path, stand: Stand) -> None:
    stand.wrong = True
    with pytest.raises(runtime.ProviderError, match="its logits differ"):
        runtime.compile_bundle(bundle, "openvino")
    assert not (bundle / "compiled").exists()
    stand.wrong = False
    runtime.compile_bundle(bundle, "openvino")
    stand.wrong = True
    predictor, said = loaded(bundle)
    assert "its graphs are not used: provider openvino: its logits differ" in said[-1]
    assert predictor.run(feeds())["topic"].any()


def test_what_the_provider_does_not_open_is_built(bundle: Path, stand: Stand) -> None:
    runtime.compile_bundle(bundle, "openvino")
    stand.fails = "another driver"
    said = loaded(bundle)[1]
    assert said == [f"{place(bundle)}: {name} is not used: another driver" for name in (MODEL, ROUTED)]


def test_what_the_provider_does_not_open_is_not_kept(bundle: Path, stand: Stand) -> None:
    stand.fails = "Unhandled exception type: 1"
    message = r"it cannot open the compiled model\.onnx that it wrote \(Unhandled exception type: 1\); nothing was kept: load"
    with pytest.raises(runtime.ProviderError, match=message):
        runtime.compile_bundle(bundle, "openvino")
    assert not (bundle / "compiled").exists()


def test_code_for_a_device_needs_consent(bundle: Path, stand: Stand) -> None:
    gpu = OpenVINOOptions(device="GPU")
    runtime.compile_bundle(bundle, "openvino", options=Options(openvino=gpu))
    assert place(bundle).name.startswith("openvino-gpu-")
    assert "they can contain code for the device: options.compiled=on" in loaded(bundle, openvino=gpu)[1][0]
    assert "without a build" in loaded(bundle, openvino=gpu, compiled=True)[1][0]


def test_providers_that_cannot_compile_say_so(bundle: Path, stand: Stand, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, message in (("cpu", "provider cpu compiles nothing ahead of time"), ("auto", "expected the name of a provider")):
        with pytest.raises(runtime.InputError, match=message):
            runtime.compile_bundle(bundle, name)
    stand.takes = False
    with pytest.raises(runtime.ProviderError, match=r"it compiled no node of model\.onnx, model_routed\.onnx"):
        runtime.compile_bundle(bundle, "openvino")
    with pytest.raises(runtime.InputError, match="exported with 5, found 3"):
        runtime.compile_bundle(bundle, "openvino", drop=3)
    monkeypatch.delattr(onnxruntime, "ModelCompiler")
    with pytest.raises(runtime.ProviderError, match=r"needs ONNX Runtime 1\.22 or newer"):
        runtime.compile_bundle(bundle, "openvino")
    assert not (bundle / "compiled").exists()


def test_an_export_replaces_them_and_nothing_else(bundle: Path, stand: Stand) -> None:
    runtime.compile_bundle(bundle, "openvino")
    check_replaceable(bundle)
    (place(bundle) / "notes.txt").write_text("mine")
    with pytest.raises(ExportError, match="compiled/"):
        check_replaceable(bundle)


def test_the_command_prints_sizes_and_times(bundle: Path, stand: Stand, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compile", str(bundle), "--provider", "openvino"]) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith(f"{MODEL}: 0.0 MB in {place(bundle)}, compiled in ")
    assert second.startswith(ROUTED)
    assert main(["compile", str(bundle), "--provider", "cpu"]) == 2
    assert main(["compile", str(bundle / "none"), "--provider", "openvino"]) == 2


@pytest.mark.skipif(installed(find("openvino")) is None, reason="needs onnxruntime-ep-openvino")
def test_openvino_opens_what_it_compiled(bundle: Path) -> None:
    wanted = runtime.load(bundle, provider="openvino").run(feeds())
    rows = runtime.compile_bundle(bundle, "openvino")
    assert all(row.folder for row in rows)
    for _ in range(2):  # compiled again from a predictor that is open
        predictor, said = loaded(bundle)
        assert [line.split(" opened ")[-1].endswith("without a build") for line in said] == [True, True]
        for task, logits in predictor.run(feeds()).items():
            np.testing.assert_allclose(logits, wanted[task], atol=1e-5)
        assert len(predictor.run_routed(feeds(), ["topic", "flags"])) == 2
        runtime.compile_bundle(bundle, "openvino")
