"""Exports with --layout transformersjs: where the graph lies, what the runtime and ONNX Runtime read, and what is refused."""

from __future__ import annotations

import json
import shutil
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime
import pytest

import runtime
from exporter import ExportError, export
from exporter.hub.card import card
from exporter.inspect import inspect_bundle
from exporter.write.layout import check_tasks
from runtime.bundle import digest, read_manifest
from runtime.ort.external_data import rewrite
from runtime.serving.triton import write_repository
from tests.helpers.small_vocabulary import VOCABULARY
from tests.helpers.tiny_models import bert_config, inputs, reference, run_graph, tiny_model, tokenizer
from tests.helpers.tiny_tokenizers import tiny_tokenizer

TEXTS = ["a fast phone", "an old one, and a longer text"]


@pytest.fixture(scope="module")
def model() -> Any:
    return tiny_model({"a": ("seq_bn", "2"), "tags": ("lora", "tag")}, bert_config(VOCABULARY))


@pytest.fixture(scope="module")
def bundle(model: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("layout") / "bundle"
    export(model, tokenizer(), tasks=["a"], drop=1, output=folder, layout="transformersjs")
    return folder


def test_the_graph_and_its_weights_are_in_a_folder(bundle: Path, model: Any) -> None:
    assert sorted(path.name for path in (bundle / "onnx").iterdir()) == ["model.onnx", "model.onnx_data"]
    assert not list(bundle.glob("model.onnx*"))
    found = json.loads((bundle / "config.json").read_text())["transformers.js_config"]
    assert found == {"dtype": "fp32", "use_external_data_format": True}
    feeds = inputs((3, 9), VOCABULARY)
    session = onnxruntime.InferenceSession(str(bundle / "onnx" / "model.onnx"))
    np.testing.assert_allclose(session.run(["logits"], feeds)[0], reference(model, "a", feeds, drop=1), atol=1e-4)


@pytest.mark.parametrize("cache", [None, "folder"])
def test_the_runtime_reads_both_layouts(bundle: Path, model: Any, tmp_path: Path, cache: str | None) -> None:
    flat = tmp_path / "flat"
    export(model, tokenizer(), tasks=["a"], drop=1, output=flat)
    options = runtime.Options(cache=None if cache is None else tmp_path / cache)
    for _ in range(2):  # the second time, packed weights come from the cache
        found = runtime.load(bundle, provider="cpu", options=options).predict(TEXTS)
    assert found == runtime.load(flat, provider="cpu").predict(TEXTS)


def test_links_of_a_hub_cache_are_followed(bundle: Path, tmp_path: Path) -> None:
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshots" / "commit"
    blobs.mkdir()
    for number, name in enumerate([*read_manifest(bundle).files, "adapterdrop.json"]):
        shutil.copyfile(bundle / name, blobs / str(number))
        (snapshot / name).parent.mkdir(parents=True, exist_ok=True)
        (snapshot / name).symlink_to(blobs / str(number))
    assert runtime.load(snapshot, provider="cpu").predict(TEXTS) == runtime.load(bundle, provider="cpu").predict(TEXTS)


def test_a_folder_of_graphs_that_is_a_link_is_refused(bundle: Path, tmp_path: Path) -> None:
    shutil.copytree(bundle, copy := tmp_path / "copy")
    (copy / "onnx").rename(tmp_path / "elsewhere")
    (copy / "onnx").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(runtime.BundleError, match=r"onnx/model\.onnx: in a folder that is a link"):
        runtime.load(copy, provider="cpu", verify=False)


def test_weights_outside_the_folder_of_graphs_are_refused(bundle: Path, tmp_path: Path) -> None:
    shutil.copytree(bundle, copy := tmp_path / "copy")
    (tmp_path / "secret").write_bytes((bundle / "onnx" / "model.onnx_data").read_bytes())
    graph = copy / "onnx" / "model.onnx"
    graph.write_bytes(rewrite(graph.read_bytes(), lambda entries: entries | {"location": "../../secret"}))
    document = json.loads((copy / "adapterdrop.json").read_text())
    document["files"]["onnx/model.onnx"] = digest(graph)
    (copy / "adapterdrop.json").write_text(json.dumps(document))
    with pytest.raises(runtime.BundleError, match="expected weights in the files that the manifest lists"):
        runtime.load(copy, provider="cpu")


def test_overwrite_replaces_the_layout_and_nothing_else(bundle: Path, model: Any, tmp_path: Path) -> None:
    shutil.copytree(bundle, output := tmp_path / "output")
    (output / "onnx" / "notes.txt").write_text("mine")
    with pytest.raises(ExportError, match=r"would delete them: onnx/notes\.txt; move them"):
        export(model, tokenizer(), output=output, overwrite=True)
    (output / "onnx" / "notes.txt").unlink()
    export(model, tokenizer(), output=output, overwrite=True)
    assert not (output / "onnx").exists()
    (output / "onnx").mkdir()
    with pytest.raises(ExportError, match="would delete them: onnx/; move them"):
        export(model, tokenizer(), output=output, overwrite=True)


def test_int8_has_the_name_and_the_dtype_of_browsers(model: Any, tmp_path: Path) -> None:
    report = export(model, tokenizer(), tasks=["tags"], output=tmp_path / "out", layout="transformersjs", precision="int8")
    assert any("no matrix is large enough for int8" in note for note in report.variants[0].notes)
    assert report.variants[0].model == "onnx/model_quantized.onnx"
    assert (tmp_path / "out" / "onnx" / "model_quantized.onnx_data").is_file()
    assert json.loads((tmp_path / "out" / "config.json").read_text())["transformers.js_config"]["dtype"] == "q8"
    assert runtime.load(tmp_path / "out", provider="cpu").predict(TEXTS)["tags"]


def test_inspection_card_and_triton_know_the_layout(bundle: Path, tmp_path: Path) -> None:
    found = inspect_bundle(bundle)
    assert found.weights_bytes == (bundle / "onnx" / "model.onnx_data").stat().st_size
    assert found.graphs[0].file == "onnx/model.onnx"
    text = card(read_manifest(bundle), {}, "org/name")
    assert '"transformers.js"' in text
    assert "`onnx/model.onnx`" in text
    (triton,) = write_repository(bundle, tmp_path / "repository")
    feeds = inputs((2, 5), VOCABULARY)
    expected = run_graph(bundle / "onnx", feeds)
    found_there = run_graph(triton / "1", feeds)
    for name, array in expected.items():
        np.testing.assert_array_equal(found_there[name], array)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"layout": "x"}, "layout must be one of flat, transformersjs, found 'x'"),
        ({}, "takes a graph of one task, found a, tags: name one with --tasks"),
        ({"tasks": ["a"], "drop": [0, 1]}, "expected one drop, found 0, 1"),
        ({"tasks": ["a"], "routed": True, "split": True}, "writes one graph: omit --routed and --split"),
        ({"tasks": ["a"], "slots": 2}, "writes one graph: omit --slots"),
        ({"tasks": ["a"], "precision": "bf16"}, "expected a precision of fp32, fp16, int8, found 'bf16'"),
        ({"tasks": ["a"], "target": "tensorrt"}, "expected a target of portable, cpu, found 'tensorrt'"),
        ({"tasks": ["a"], "tokenizer": False}, "need a tokenizer: export with one"),
    ],
)
def test_what_no_pipeline_takes_is_refused(model: Any, tmp_path: Path, arguments: Any, message: str) -> None:
    given = {"tokenizer": tokenizer(), "layout": "transformersjs", "output": tmp_path / "out", **arguments}
    with pytest.raises(ExportError, match=message):
        export(model, **given)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("head", "first", "model_type", "message"),
    [
        (
            "classification",
            "input_ids",
            "gpt2",
            "the pipeline text-classification .* takes .* bart, bert, .*, found gpt2: omit it",
        ),
        ("tagging", "input_ids", "albert", "the pipeline token-classification .*, found albert"),
        ("multilabel", "pixel_values", "vit", "no pipeline for a, a task of the type multilabel"),
        ("classification", "pixel_values", "vit", "needs an image processor"),
    ],
)
def test_models_without_a_pipeline_are_refused(head: str, first: str, model_type: str, message: str) -> None:
    task = SimpleNamespace(name="a", head=SimpleNamespace(kind=head))
    plan: Any = SimpleNamespace(tasks=[task], inputs=[SimpleNamespace(name=first)])
    with pytest.raises(ExportError, match=message):
        check_tasks("transformersjs", [plan], model_type, tokenizer=object(), processor=None)
    check_tasks("flat", [plan], model_type, tokenizer=None, processor=None)


def test_questions_without_token_types_are_refused() -> None:
    """For a tokenizer without a class of its model, a pipeline of transformers.js would pass zeros."""
    generic = tiny_tokenizer("wordpiece", 48)
    for head, given, refused in (
        ("question_answering", generic, True),
        ("classification", generic, False),
        ("question_answering", tokenizer(), False),
    ):
        task = SimpleNamespace(name="a", head=SimpleNamespace(kind=head))
        names = [SimpleNamespace(name=name) for name in ("input_ids", "token_type_ids")]
        plan: Any = SimpleNamespace(tasks=[task], inputs=names)
        expected = pytest.raises(ExportError, match="gives no token types for a") if refused else nullcontext()
        with expected:
            check_tasks("transformersjs", [plan], "bert", given, None)


def test_heads_without_a_pipeline_are_refused(tmp_path: Path) -> None:
    model = tiny_model({"a": ("seq_bn", "2")}, bert_config(VOCABULARY))
    model.add_multiple_choice_head("a", num_choices=2, overwrite_ok=True)
    with pytest.raises(ExportError, match="no pipeline for a, a task of the type multiple_choice: omit it"):
        export(model, tokenizer(), output=tmp_path / "out", layout="transformersjs")
