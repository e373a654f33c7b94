"""The bundle format: round trip, the message of every refusal, and the modules that `import runtime` loads."""

import json
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import runtime
from runtime.bundle import HEADS, MANIFEST, MODEL, WEIGHTS, check_files, digest, read_manifest
from tests.helpers.runtime_bundles import TASKS, TEXT_INPUTS, entry, rewrite, task, write_bundle

ROOT = Path(runtime.__file__).parents[1]


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bundle(tmp_path_factory.mktemp("template") / "bundle", tokenizer=False)


@pytest.fixture
def bundle(template: Path, tmp_path: Path) -> Path:
    return shutil.copytree(template, tmp_path / "bundle")


def edit(folder: Path, *path: Any, value: Any = None, remove: bool = False) -> None:
    document = json.loads((folder / MANIFEST).read_text())
    target = document
    for key in path[:-1]:
        target = target[key]
    if remove:
        del target[path[-1]]
    else:
        target[path[-1]] = value
    (folder / MANIFEST).write_text(json.dumps(document))


def test_manifest_survives_the_round_trip_byte_for_byte(bundle: Path) -> None:
    before = (bundle / MANIFEST).read_bytes()
    manifest = read_manifest(bundle)
    assert manifest.tasks == TASKS
    assert manifest.drops == (5,)
    assert manifest.files[MODEL] == digest(bundle / MODEL)
    manifest.write(bundle)
    assert (bundle / MANIFEST).read_bytes() == before
    assert before.endswith(b"}\n")
    keys = list(json.loads(before))
    assert keys[:3] == ["format_version", "inputs", "max_lengths"]
    assert keys[-2:] == ["versions", "files"]
    assert list(json.loads(before)["versions"]) == ["adapters", "onnx"]


def test_write_refuses_what_read_would_refuse(bundle: Path) -> None:
    before = (bundle / MANIFEST).read_bytes()
    with pytest.raises(runtime.BundleError, match="opset: expected at least 1, found 0"):
        rewrite(bundle, opset=0)
    assert (bundle / MANIFEST).read_bytes() == before


_LAYERS = ("variants", 0, "tasks")
FIELDS = "inputs max_lengths layers tasks variants precision target opset tokenizer versions files"


@pytest.mark.parametrize("field", ["format_version", *FIELDS.split()])
def test_every_field_must_be_there_and_of_its_type(bundle: Path, field: str) -> None:
    edit(bundle, field, value=None)
    with pytest.raises(runtime.BundleError, match=rf"{MANIFEST}: {field}: expected .* found None"):
        read_manifest(bundle)
    edit(bundle, field, remove=True)
    with pytest.raises(runtime.BundleError, match=f"{field}: missing"):
        read_manifest(bundle)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (["format_version"], 10, "exported by a newer version .format 10, this one reads 9.; upgrade"),
        (["format_version"], 1, "format_version: exported by another version .format 1, this one reads 9.; export it again"),
        (["layers"], True, "layers: expected an integer, found True"),
        (["variants"], [], "variants: expected at least one, found none"),
        (["variants", 0, "drop"], 6, r"variants\[0\].drop: expected 5, the lowest of all tasks, found 6"),
        (["variants", 0, "tasks"], {}, r"variants\[0\].tasks: expected flags, names, stars, topic, found none"),
        (["inputs"], [], "inputs: expected input_ids, pixel_values or input_features among them, found none"),
        (["inputs", 0], "input_ids", r"inputs\[0\]: expected an object, found 'input_ids'"),
        (["inputs", 1, "name"], "input_ids", "inputs: expected different names, found 'input_ids' 2 times"),
        (["inputs", 1, "name"], "labels", r"inputs\[1\].name: this version knows input_ids, .*, found 'labels'"),
        (["inputs", 1, "dtype"], "float16", r"inputs\[1\].dtype: expected one of int64, float32, found 'float16'"),
        (
            ["inputs", 1, "dtype"],
            "float32",
            r"inputs\[1\].dtype: expected int64 for attention_mask.*limit: expected 0 for floats",
        ),
        (["inputs", 1, "limit"], -1, r"inputs\[1\].limit: expected at least 0, found -1"),
        (["inputs", 1, "limit"], True, r"inputs\[1\].limit: expected an integer, found True"),
        (["inputs", 1, "shape"], [], r"inputs\[1\].shape: expected batch as the first axis and nowhere else, found \[\]"),
        (["inputs", 1, "shape"], ["batch", "batch"], "expected batch as the first axis and nowhere else"),
        (["inputs", 1, "shape", 1], 16, r"inputs\[1\].shape\[1\]: expected a string, found 16"),
        (["inputs", 2, "shape", 1], "words", "expected token_type_ids only together with input_ids and with the same shape"),
        *[
            (["inputs", 1, "shape", 1], axis, "expected names such as sequence and sizes")
            for axis in ("0", "", "-1", "٣", "A b")
        ],
        (["max_lengths", "sequence"], 0, r"max_lengths\['sequence'\]: expected at least 1, found 0"),
        (["max_lengths", "sequence"], "16", r"max_lengths\['sequence'\]: expected an integer, found '16'"),
        (["max_lengths", "sequence"], True, r"max_lengths\['sequence'\]: expected an integer, found True"),
        (["max_lengths", "sequence"], 2**31, r"max_lengths\['sequence'\]: expected at most 2,147,483,647, found 2,147,483,648"),
        (["layers"], 300_000_000, "layers: expected at most 10,000, found 300,000,000"),
        (["layers"], 10**400, "layers: expected at most 10,000, found a number of more than 30 digits"),
        (["opset"], 10**400, "opset: expected at most 2,147,483,647, found a number of more than 30 digits"),
        (["inputs", 0, "limit"], 2**63, r"inputs\[0\].limit: expected at most 2,147,483,647, found 9,223"),
        (["inputs", 0, "shape", 1], "999999999", r"inputs\[0\].shape: expected at most 67,108,864 numbers in one row"),
        (["inputs", 0, "shape"], ["batch", "9999", "9999"], r"inputs\[0\].shape: expected at most"),
        (["variants", 0, "parity", 0, "tolerance"], 10**400, "tolerance: expected a finite number, found 1000"),
        (["variants", 0, "tasks", "topic", "drop"], 300_000_000, r"drop: expected 0\.\.6 \(layers\), found 300000000"),
        (["max_lengths", "batch"], 3, r"max_lengths: expected axes of the inputs \(sequence\), found 'batch'"),
        (["variants", 0, "model"], "other.onnx", r"variants\[0\].model: expected one of the listed files"),
        (["variants", 0, "routed"], "other.onnx", r"variants\[0\].routed: expected one of the listed files"),
        (["variants", 0, "routed"], MODEL, "variants: file: expected different names, found 'model.onnx' 2 times"),
        (["tokenizer"], True, "does not list tokenizer.json"),
        (["tasks"], [], "tasks: expected at least one"),
        (["tasks", 0, "head"], "sorcery", r"tasks\[0\].head: expected one of classification, .* found 'sorcery'"),
        (["tasks", 1, "name"], "topic", "tasks: name: expected different names, found 'topic' 2 times"),
        (["tasks", 1, "name"], "", r"tasks\[1\].name: expected a name"),
        (["tasks", 1, "outputs"], ["topic"], "tasks: outputs: expected different names, found 'topic' 2 times"),
        (["tasks", 1, "outputs"], [], r"tasks\[1\].outputs: expected 1 \(logits\) for multilabel, found \[\]"),
        (["tasks", 1, "outputs"], [""], r"tasks\[1\].outputs: expected 1 "),
        (
            ["tasks", 2, "head"],
            "question_answering",
            r"outputs: expected 2 \(start_logits, end_logits\) for question_answering",
        ),
        (["tasks", 2, "labels"], ["x"], "labels: expected none for regression"),
        (["tasks", 2, "head"], "tagging", "labels: expected some for tagging, found"),
        ([*_LAYERS, "stars", "drop"], 7, r"tasks\['stars'\].drop: expected 0\.\.6 \(layers\), found 7"),
        (
            [*_LAYERS, "stars", "dropped"],
            [0, 1, 2, 3, 5],
            r"dropped: expected all of the lowest 6 layers \(drop\), found",
        ),
        (
            [*_LAYERS, "topic", "members"],
            [["a"]],
            "members: expected none or one list for each of 6 layers, found 1",
        ),
        (
            [*_LAYERS, "topic", "members"],
            [[], [], [], [], [], [""]],
            "members: expected names, found an empty string",
        ),
        (
            [*_LAYERS, "topic", "members"],
            [[], "ab"],
            r"tasks\['topic'\].members\[1\]: expected a list, found 'ab'",
        ),
        (
            [*_LAYERS, "topic", "members"],
            [[], [3]],
            r"tasks\['topic'\].members\[1\]\[0\]: expected a string, found 3",
        ),
        (
            [*_LAYERS, "topic", "padding_bytes"],
            -1,
            r"padding_bytes, padding_operations: expected none or positive numbers of both, found -1 and 0",
        ),
        (["tasks", 0, "labels"], ["x", "x"], "labels: expected different names"),
        (["tasks", 0, "labels"], "xy", r"tasks\[0\].labels: expected a list"),
        (["tasks", 0, "labels", 1], 3, r"tasks\[0\].labels\[1\]: expected a string"),
        ([*_LAYERS, "topic", "dropped"], [0, 6], r"dropped: expected ascending layer indices in 0\.\.5"),
        (["tasks", 0, "surprise"], 1, "surprise: unknown field"),
        (
            ["variants", 0, "parity", 0, "max_abs_diff"],
            "small",
            r"variants\[0\].parity\[0\].max_abs_diff: expected a finite number",
        ),
        (["variants", 0, "parity", 0, "max_abs_diff"], float("nan"), "expected a finite number"),
        (["variants", 0, "parity", 0, "task"], "none", "expected a task of this bundle"),
        (["variants", 0, "parity", 0, "argmax_agreement"], 2, "argmax_agreement: expected 0..1"),
        (["files", MODEL], "abc", "expected a sha256"),
        *[
            (["files", name], "0" * 64, "expected plain names")
            for name in ("../model.onnx", "/etc/hosts", "a/b", "a\\b", "C:b", "..", ".", "", MANIFEST)
        ],
    ],
)
def test_faulty_fields_are_refused_by_name(bundle: Path, path: list[Any], value: Any, message: str) -> None:
    edit(bundle, *path, value=value)
    with pytest.raises(runtime.BundleError, match=message):
        read_manifest(bundle)


def test_all_problems_are_named_at_once(bundle: Path) -> None:
    edit(bundle, "opset", value="x")
    edit(bundle, "layers", value=1.5)
    with pytest.raises(runtime.BundleError, match=r"layers: .*; opset: "):
        read_manifest(bundle)


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[1]", b"[" * 100_000])
def test_a_manifest_that_is_no_json_object_is_refused(bundle: Path, content: bytes) -> None:
    (bundle / MANIFEST).write_bytes(content)
    with pytest.raises(runtime.BundleError, match=MANIFEST):
        runtime.load(bundle)


def test_no_folder_and_no_manifest_say_how_to_export(tmp_path: Path) -> None:
    with pytest.raises(runtime.BundleError, match="no such folder; make one with `python -m exporter --output DIR`"):
        runtime.load(tmp_path / "nowhere")
    with pytest.raises(runtime.BundleError, match=f"it has no {MANIFEST}"):
        runtime.load(tmp_path)


@pytest.mark.parametrize("name", [MODEL, WEIGHTS])
def test_missing_truncated_or_altered_files_are_refused_by_name(bundle: Path, name: str) -> None:
    content = (bundle / name).read_bytes()
    for other in (content[:-1], content[:-1] + bytes([content[-1] ^ 1])):
        (bundle / name).write_bytes(other)
        with pytest.raises(runtime.BundleError, match=f"{name}: truncated or altered"):
            runtime.load(bundle, provider="cpu")
    check_files(bundle, read_manifest(bundle), contents=False)
    (bundle / name).unlink()
    with pytest.raises(runtime.BundleError, match=f"{name}: missing"):
        runtime.load(bundle, provider="cpu", verify=False)


def test_files_that_cannot_be_read_are_named(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("runtime.bundle.files.digest", fail)
    with pytest.raises(runtime.BundleError, match=r"model\.onnx: cannot be read: Permission denied; model\.onnx\.data: cannot"):
        runtime.load(bundle)
    monkeypatch.setattr(Path, "read_bytes", fail)
    with pytest.raises(runtime.BundleError, match=r"adapterdrop\.json: cannot be read: Permission denied"):
        runtime.load(bundle)


def test_a_graph_that_does_not_load_is_named(bundle: Path) -> None:
    (bundle / MODEL).write_bytes(b"no model")
    with pytest.raises(runtime.BundleError, match=f"{MODEL}: ONNX Runtime .* cannot load it"):
        runtime.load(bundle, provider="auto", verify=False)


def test_a_graph_that_the_manifest_does_not_describe_is_refused(bundle: Path) -> None:
    model = onnx.load(bundle / MODEL, load_external_data=False)
    del model.graph.output[0]
    onnx.save(model, bundle / MODEL)
    tasks = (*TASKS[:1], TASKS[3], task("flags", "multilabel", ("a", "b", "c")), task("stars", "masked_lm"))
    rewrite(bundle, tasks=tasks, inputs=(*TEXT_INPUTS[:1], entry("attention_mask", "1", limit=2)))
    with pytest.raises(runtime.BundleError) as caught:
        runtime.load(bundle)
    for part in (
        "inputs: the manifest lists ['attention_mask', 'input_ids'], the graph has ['attention_mask', 'input_ids', 'token_",
        "task topic: the graph has no output 'topic'",
        "task flags: expected 3 logits of rank 2, the graph has 'flags' of shape ['batch', 2]",
        "task stars: expected logits of rank 3",
    ):
        assert part in str(caught.value)


def test_a_graph_with_inputs_unlike_the_manifest_is_refused(bundle: Path) -> None:
    model = onnx.load(bundle / MODEL, load_external_data=False)
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 7
    model.graph.input[1].type.tensor_type.elem_type = onnx.TensorProto.INT32
    onnx.save(model, bundle / MODEL)
    rewrite(bundle)
    with pytest.raises(runtime.BundleError) as caught:
        runtime.load(bundle)
    expected = r"expected tensor\(int64\) \[batch, sequence\], the graph has"
    assert re.search(rf"input input_ids: {expected} tensor\(int64\) \['batch', 7\]", str(caught.value))
    assert re.search(rf"input attention_mask: {expected} tensor\(int32\)", str(caught.value))


def _paths(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path] * bool(path) + [found for key, item in items for found in _paths(item, (*path, key))]


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.sampled_from(["0", "batch", *HEADS]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=4,
)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(data=st.data())
def test_any_value_is_accepted_or_refused_without_a_crash(template: Path, data: st.DataObject) -> None:
    document = json.loads((template / MANIFEST).read_text())
    path = data.draw(st.sampled_from(_paths(document)))
    target = document
    for key in path[:-1]:
        target = target[key]
    target[path[-1]] = data.draw(_JSON)
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / MANIFEST).write_text(json.dumps(document))
        try:
            manifest = read_manifest(folder)
        except runtime.BundleError:
            return
        manifest.write(folder)  # what is read can be written again
        assert read_manifest(folder) == manifest


def fresh(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code], check=False, capture_output=True, encoding="utf-8", timeout=60, cwd=ROOT
    )


def test_importing_runtime_pulls_in_no_training_library() -> None:
    found = fresh(
        "import runtime, runtime.command_line, sys\n"
        "print(sorted({'torch', 'transformers', 'adapters', 'onnx', 'onnx_ir', 'exporter'} & set(sys.modules)))"
    )
    assert found.stdout.strip() == "[]", found.stderr


def test_without_onnxruntime_the_import_says_what_to_install() -> None:
    found = fresh(
        "import sys; sys.modules['onnxruntime'] = None\nfrom runtime.__main__ import main\nassert main(['devices']) == 2\n"
        "import runtime\nruntime.load"
    )
    line, *_, message = found.stderr.strip().splitlines()
    assert line.startswith("error: ONNX Runtime is not installed; install exactly one of")
    assert message.startswith("ModuleNotFoundError: ONNX Runtime is not installed; install exactly one of")
    assert "pip install 'adapterdrop-onnx[cpu]'" in message
    assert "onnxruntime-openvino" in message


def test_a_broken_onnxruntime_is_recognized() -> None:
    found = fresh(
        "import sys, types; sys.modules['onnxruntime'] = types.ModuleType('onnxruntime')\n"
        "from runtime.__main__ import main\nassert main(['devices']) == 2\nimport runtime\nruntime.load"
    )
    line, *_, message = found.stderr.strip().splitlines()
    assert line.startswith("error: ONNX Runtime is installed incompletely")
    assert "installed incompletely" in message


def test_a_damaged_onnxruntime_is_installed_again(tmp_path: Path) -> None:
    """`pip install onnxruntime` would do nothing."""
    package = tmp_path / "onnxruntime"
    package.mkdir()
    program = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r})\nfrom runtime.__main__ import main\nsys.exit(main(['devices']))"
    )
    for source, reason in (
        ("import ctypes, importlib\nimportlib.import_module('onnxruntime.capi')", "No module named 'onnxruntime.capi'"),
        ("raise ImportError('state.so: file too short', name='onnxruntime_pybind11_state')", "state.so: file too short"),
    ):
        (package / "__init__.py").write_text(source, encoding="utf-8")
        assert fresh(program).stderr.startswith(
            f"error: ONNX Runtime is installed incompletely ({reason}): install the library that this names, or the same build "
            "again, such as `pip install --force-reinstall"
        )
