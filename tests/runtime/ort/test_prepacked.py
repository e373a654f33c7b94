"""Variants that share one copy of their packed weights: equal numbers, one file, and the fallback if it cannot be written."""

import errno
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import runtime
from runtime import Options
from runtime.bundle import MODEL, BoundFolder, digest, read_manifest
from runtime.ort import open_sessions as session
from runtime.ort import prepacked as packed
from runtime.ort.external_data import rewrite as rewrite_wire
from runtime.ort.graph_file import GraphFile
from runtime.ort.lazy_sessions import PackedSessions
from tests.helpers.runtime_bundles import TASKS, expected, feeds, rewrite, variant, write_bundle

DROPS = (5, 2)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two variants over the same weights; the second one negates the logits of topic."""
    folder = write_bundle(tmp_path_factory.mktemp("packed") / "bundle", tokenizer=False)
    model = onnx.load(folder / MODEL, load_external_data=False)
    (node,) = (node for node in model.graph.node if "topic" in node.output)
    node.output[0] = "turned"
    model.graph.node.append(onnx.helper.make_node("Neg", ["turned"], ["topic"]))
    onnx.save(model, folder / "model_drop2.onnx")
    rewrite(folder, variants=(variant(TASKS), variant(TASKS, 2, "model_drop2.onnx")))
    return folder


def check(predictor: runtime.Predictor, bundle: Path) -> None:
    plain = runtime.load(bundle, provider="cpu", options=Options(share_weights=False, threads=1))
    for drop in DROPS:
        for task, logits in plain.run(feeds(), drop=drop).items():
            np.testing.assert_array_equal(predictor.run(feeds(), drop=drop)[task], logits)


def test_variants_share_a_file_that_is_gone_or_kept(bundle: Path, tmp_path: Path) -> None:
    check(runtime.load(bundle, provider="cpu", threads=1), bundle)
    options = Options(cache=tmp_path, threads=1)
    predictor = runtime.load(bundle, provider="cpu", options=options)
    (store,) = tmp_path.glob("packed-*/*/weights.bin")
    assert 0.9 < store.stat().st_size / (bundle / "model.onnx.data").stat().st_size < 1.2
    made = store.stat().st_mtime_ns
    check(predictor, bundle)
    assert predictor.node_counts(2)["cpu"] == predictor.node_counts(5)["cpu"] + 1
    check(runtime.load(bundle, provider="cpu", options=options), bundle)
    assert store.stat().st_mtime_ns == made
    with store.open("r+b") as file:
        file.truncate(100)
    check(runtime.load(bundle, provider="cpu", options=options), bundle)
    assert not list(tmp_path.glob("packed-*/making-*"))


def test_the_second_graph_opens_when_it_is_needed(bundle: Path) -> None:
    said: list[str] = []
    predictor = runtime.load(bundle, provider="cpu", options=Options(progress=said.append, threads=1))
    sessions = predictor._bundle.sessions
    assert isinstance(sessions, PackedSessions)
    first = sessions._open[MODEL]
    assert list(sessions._open) == [MODEL]
    with ThreadPoolExecutor(8) as pool:  # all at once
        assert [answers.drop for answers in pool.map(lambda drop: predictor.run(feeds(), drop=drop), [2, 5] * 8)] == [2, 5] * 8
    assert list(sessions._open) == list(sessions) == [MODEL, "model_drop2.onnx"]
    assert sessions._open[MODEL] is not first, "its own packed weights must be freed"
    check(predictor, bundle)


def test_a_policy_finds_all_graphs_open(bundle: Path) -> None:
    predictor = runtime.load(bundle, provider="cpu", policy=runtime.LatencyTarget(1.0))
    sessions = predictor._bundle.sessions
    assert isinstance(sessions, PackedSessions)
    assert len(sessions._open) == 2


def test_a_graph_that_fails_later_is_named_and_harms_no_other(bundle: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(bundle, tmp_path / "bundle"))
    (folder / "model_drop2.onnx").write_bytes(b"not a graph")
    said: list[str] = []
    predictor = runtime.load(folder, provider="cpu", verify=False, options=Options(progress=said.append, threads=1))
    for _ in range(2):
        with pytest.raises(runtime.BundleError, match=r"model_drop2\.onnx: ONNX Runtime .* cannot load it"):
            predictor.run(feeds(), drop=2)
    assert len(said) == 1
    assert "cannot share packed weights" in said[0]
    np.testing.assert_allclose(predictor.run(feeds())["topic"], expected(feeds())["topic"], rtol=1e-5)


def test_a_full_disk_is_said_and_costs_memory_only(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(packed, "_make", full)
    said: list[str] = []
    check(runtime.load(bundle, provider="cpu", options=Options(progress=said.append, threads=1)), bundle)
    assert said == [
        "the graphs cannot share packed weights (No space left on device): each session packs its own, which takes more memory"
    ]
    with pytest.raises(runtime.InputError, match=r"options\.cache: .*No space left on device; make room"):
        runtime.load(bundle, provider="cpu", options=Options(cache=tmp_path))
    assert not list(tmp_path.glob("packed-*/*"))


def test_a_graph_without_large_weights_shares_with_the_others(bundle: Path, tmp_path: Path) -> None:
    """Such as that of branches whose weights are those of slots."""
    folder = Path(shutil.copytree(bundle, tmp_path / "bundle"))
    small = '<ir_version: 9, opset_import: ["" : 20]> small (float[n] x) => (float[n] y) { y = Neg(x) }'
    onnx.save(onnx.parser.parse_model(small), folder / "small.onnx")
    files = opened(folder)
    graphs = {name: GraphFile(files, name) for name in (MODEL, "small.onnx")}
    shared = packed.packed_graphs(graphs, tmp_path / "cache", {})
    assert [
        value.name
        for value in shared["small.onnx"].session(onnxruntime.SessionOptions(), ["CPUExecutionProvider"]).get_outputs()
    ] == ["y"]


def opened(folder: Path) -> BoundFolder:
    files = BoundFolder.open(folder)
    files.bind({path.name: digest(path) for path in folder.iterdir()})
    return files


def test_a_graph_that_does_not_load_is_named(bundle: Path) -> None:
    with pytest.raises(runtime.BundleError, match=r"adapterdrop\.json.*cannot load it"):
        session.open_sessions(opened(bundle), read_manifest(bundle), ["adapterdrop.json", "model.onnx"], "cpu")


@settings(max_examples=100, deadline=None, derandomize=True)
@given(junk=st.binary(max_size=40))
def test_bytes_are_rewritten_or_refused(junk: bytes) -> None:
    try:
        rewrite_wire(junk, lambda entries: entries)
    except UnicodeDecodeError:
        pass  # a name that is no text
    except ValueError as error:
        assert "expected a protobuf message" in str(error)  # noqa: PT017 - most bytes raise nothing


def test_rewriting_changes_only_external_data(bundle: Path) -> None:
    before = (bundle / MODEL).read_bytes()
    same = onnx.load_model_from_string(rewrite_wire(before, lambda entries: entries))
    assert same == onnx.load_model_from_string(before)
    moved = onnx.load_model_from_string(rewrite_wire(before, lambda entries: entries | {"location": "elsewhere" * 40}))
    assert moved.graph.initializer
    for tensor in moved.graph.initializer:
        assert {entry.key: entry.value for entry in tensor.external_data}["location"] == "elsewhere" * 40
