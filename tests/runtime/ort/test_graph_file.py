"""A graph takes weights from the files that its manifest lists, and from nowhere else."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, external_data_helper, helper, numpy_helper

import runtime
from runtime.bundle import MODEL, WEIGHTS, digest, read_manifest
from runtime.import_ort import ort
from runtime.ort.external_data import locations, rewrite
from runtime.ort.graph_file import load_failure
from tests.helpers.runtime_bundles import feeds, write_bundle
from tests.helpers.runtime_bundles import rewrite as rewrite_manifest


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return write_bundle(tmp_path / "outer" / "bundle", tokenizer=False)


def outside(location: str) -> TensorProto:
    """A tensor whose bytes lie in that file."""
    tensor = numpy_helper.from_array(np.zeros((8, 3), np.float32), "secret")
    external_data_helper.set_external_data(tensor, location, 0, 96)
    tensor.ClearField("raw_data")
    return tensor


def _initializer(model: onnx.ModelProto, tensor: TensorProto) -> None:
    (place,) = (number for number, found in enumerate(model.graph.initializer) if found.name == "topic_w")
    tensor.name = "topic_w"
    model.graph.initializer[place].CopyFrom(tensor)


def _constant(model: onnx.ModelProto, tensor: TensorProto) -> None:
    model.graph.node.insert(0, helper.make_node("Constant", [], ["unused"], value=tensor))


def _tensors(model: onnx.ModelProto, tensor: TensorProto) -> None:
    model.graph.node.insert(0, helper.make_node("Constant", [], ["unused"], value=[tensor]))


def _branch(model: onnx.ModelProto, tensor: TensorProto) -> None:
    value = helper.make_tensor_value_info("given", 1, None)
    inner = helper.make_graph([helper.make_node("Identity", ["secret"], ["given"])], "inner", [], [value], [tensor])
    node = helper.make_node("If", ["condition"], ["unused"], then_branch=inner, else_branch=inner)
    model.graph.node.insert(0, node)
    model.graph.initializer.append(numpy_helper.from_array(np.array(True), "condition"))


def _sparse(model: onnx.ModelProto, tensor: TensorProto) -> None:
    sparse = model.graph.sparse_initializer.add()
    sparse.values.CopyFrom(tensor)
    sparse.indices.CopyFrom(numpy_helper.from_array(np.arange(24, dtype=np.int64), "indices"))
    sparse.dims.extend([8, 3])


def _function(model: onnx.ModelProto, tensor: TensorProto) -> None:
    body = [helper.make_node("Constant", [], ["given"], value=tensor)]
    model.functions.append(helper.make_function("local", "f", [], ["given"], body, [helper.make_opsetid("", 18)]))


def _training(model: onnx.ModelProto, tensor: TensorProto) -> None:
    model.training_info.add().initialization.initializer.append(tensor)


PLACES = (_initializer, _constant, _tensors, _branch, _sparse, _function, _training)
STRANGERS = ("../../secret.txt", "/etc/hostname", "unlisted.bin", "./model.onnx.data", "", "*/_ORT_MEM_ADDR_/*", "a\\..\\b")


@pytest.mark.parametrize("place", PLACES)
def test_weights_elsewhere_are_refused(
    bundle: Path, place: Callable[[Any, Any], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ort, "InferenceSession", lambda *_, **__: pytest.fail("ONNX Runtime saw the graph"))
    (bundle.parent.parent / "secret.txt").write_bytes(bytes(96))
    (bundle / "unlisted.bin").write_bytes(bytes(96))
    files = read_manifest(bundle).files
    clean = onnx.load(bundle / MODEL, load_external_data=False)
    for location in STRANGERS if place is _initializer else STRANGERS[:1]:
        model = onnx.ModelProto()
        model.CopyFrom(clean)
        place(model, outside(location))
        onnx.save(model, bundle / MODEL)
        rewrite_manifest(bundle, files={**files, MODEL: digest(bundle / MODEL)})
        with pytest.raises(runtime.BundleError) as caught:
            runtime.load(bundle, provider="cpu")
        assert f"expected weights in the files that the manifest lists, found {location!r}" in str(caught.value)


def test_a_link_by_a_listed_name_needs_the_listed_hash(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(bytes((bundle / WEIGHTS).stat().st_size))
    (bundle / WEIGHTS).unlink()
    (bundle / WEIGHTS).symlink_to(tmp_path / "secret")
    for verify in (None, False):
        with pytest.raises(runtime.BundleError, match=f"{WEIGHTS}: truncated or altered"):
            runtime.load(bundle, provider="cpu", verify=verify)


def test_weights_in_separate_folders_are_refused(bundle: Path, tmp_path: Path) -> None:
    model = onnx.load(bundle / MODEL, load_external_data=False)
    (bundle / "more.bin").write_bytes(bytes(96))
    _initializer(model, outside("more.bin"))
    onnx.save(model, bundle / MODEL)
    rewrite_manifest(bundle)
    assert not runtime.load(bundle, provider="cpu").run(feeds())["topic"].any()
    (bundle / "more.bin").rename(tmp_path / "more.bin")
    (bundle / "more.bin").symlink_to(tmp_path / "more.bin")
    with pytest.raises(runtime.BundleError, match=r"weights .* in one folder, found links to several"):
        runtime.load(bundle, provider="cpu")


def test_a_node_that_opens_files_by_itself_is_refused(bundle: Path) -> None:
    model = onnx.load(bundle / MODEL, load_external_data=False)
    node = helper.make_node("EPContext", [], ["unused"], domain="com.microsoft", embed_mode=0, ep_cache_context="/etc/passwd")
    model.graph.node.insert(0, node)
    onnx.save(model, bundle / MODEL)
    rewrite_manifest(bundle)
    with pytest.raises(runtime.BundleError, match="found a node EPContext, which can open any file"):
        runtime.load(bundle, provider="cpu")


def _tensor(external: bytes) -> bytes:
    """A model of one initializer."""
    for key in (0x2A, 0x3A):  # initializer of a graph, graph of a model
        external = bytes([key, len(external)]) + external
    return external


def _pair(key: bytes, value: bytes) -> bytes:
    inner = b"\x0a" + bytes([len(key)]) + key + b"\x12" + bytes([len(value)]) + value
    return b"\x6a" + bytes([len(inner)]) + inner


@pytest.mark.parametrize(
    ("external", "found"),
    [
        (_pair(b"location", b"model.onnx.data") + _pair(b"location", b"x"), "one 'location' each, found several"),
        (b"\xea\x80\x80\x80\x10" + _pair(b"location", b"x")[1:], "found the key"),  # elsewhere, the lower 32 bits: a location
        (b"\xea\x80\x80\x80\x20" + _pair(b"location", b"x")[1:], "found the key"),
        (b"\x6b" + _pair(b"location", b"x") + b"\x6c", "found wire type 3"),
    ],
)
def test_what_readers_understand_differently_is_refused(external: bytes, found: str) -> None:
    with pytest.raises(ValueError, match=found):
        locations(_tensor(external))


def test_a_graph_in_another_format_is_refused(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It could be a protobuf message as well, which this one is not: therefore the check is left out."""
    settings = ort.SessionOptions()
    settings.optimized_model_filepath = str(bundle / "graph.ort")
    ort.InferenceSession(str(bundle / MODEL), settings)
    (bundle / "graph.ort").replace(bundle / MODEL)
    assert (bundle / MODEL).read_bytes()[4:8] == b"ORTM"
    rewrite_manifest(bundle)
    monkeypatch.setattr("runtime.ort.graph_file.locations", lambda *_: [])
    with pytest.raises(runtime.BundleError, match="protobuf parsing failed"):
        runtime.load(bundle, provider="cpu")


def test_deep_nesting_is_refused_not_a_crash() -> None:
    node = b""
    for _ in range(3000):
        for key in (0x32, 0x2A, 0x0A):  # graph of an attribute, of a node, of a graph
            size, length = len(node), bytearray()
            while size >= 0x80:
                length.append(size & 0x7F | 0x80)
                size >>= 7
            node = bytes([key, *length, size]) + node
    model = b"\x3a" + onnx.ModelProto(graph=onnx.GraphProto()).SerializeToString()[:0]
    size, length = len(node), bytearray()
    while size >= 0x80:
        length.append(size & 0x7F | 0x80)
        size >>= 7
    model += bytes([*length, size]) + node
    for read in (locations, lambda given: rewrite(given, lambda entries: entries)):
        with pytest.raises(ValueError, match="nested too deeply"):
            read(model)


@pytest.mark.parametrize("place", PLACES)
def test_names_are_rewritten_wherever_a_tensor_lies(place: Callable[[Any, Any], None]) -> None:
    model = helper.make_model(helper.make_graph([], "g", [], [], [numpy_helper.from_array(np.zeros(1), "topic_w")]))
    place(model, outside("here"))
    content = model.SerializeToString()
    assert locations(content) == ["here"]
    moved = rewrite(content, lambda entries: entries | {"location": "there"})
    assert locations(moved) == ["there"]
    assert rewrite(moved, lambda entries: entries | {"location": "here"}) == rewrite(content, lambda entries: entries)


def test_unlisted_files_of_the_tokenizer_are_not_read(tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "bundle")
    files = dict(read_manifest(bundle).files)
    plain = runtime.load(bundle, provider="cpu")._encoder
    assert plain is not None
    strangers = ("tokenizer_config.json", "special_tokens_map.json", "config.json")
    for name in strangers:
        del files[name]
        (bundle / name).write_text('{"padding_side": "left", "pad_token": "[MASK]", "pad_token_id": 5}')
    rewrite_manifest(bundle, files=files)
    encoder = runtime.load(bundle, provider="cpu")._encoder
    assert encoder is not None
    assert not encoder.pad_left
    assert encoder.pad_id == plain.pad_id
    (bundle / "tokenizer_config.json").unlink()
    os.mkfifo(bundle / "tokenizer_config.json")  # a read would wait forever
    assert runtime.load(bundle, provider="cpu")._encoder is not None


def test_an_older_onnxruntime_is_the_likely_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ort, "__version__", "1.20.1")
    assert load_failure(RuntimeError("no")).endswith("no; `pip install --upgrade onnxruntime` to 1.24.1 or newer")
    monkeypatch.setattr(ort, "__version__", "1.24.1")
    assert load_failure(RuntimeError("no")) == "ONNX Runtime 1.24.1 cannot load it: no"
