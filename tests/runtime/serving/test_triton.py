"""`python -m runtime triton`: the model repository that it writes, read by Triton's own protobuf classes."""

import errno
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

import runtime
from runtime.__main__ import main
from runtime.bundle import BoundFolder
from runtime.serving.triton import TritonOptions, write_repository
from tests.helpers.runtime_bundles import TASKS, feeds, rewrite, variant, write_bundle, write_routed, write_vision


def parsed(path: Path) -> Any:
    """config.pbtxt, parsed with Triton's protobuf schema."""
    pytest.importorskip("tritonclient.grpc", reason="needs tritonclient[grpc], which the extra `test` installs")
    from google.protobuf import text_format
    from tritonclient.grpc import model_config_pb2

    return text_format.Parse(path.read_text(encoding="utf-8"), model_config_pb2.ModelConfig())


def test_triton_reads_what_is_written(bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["triton", str(bundle), str(tmp_path), "--gpu", "--tensorrt", "--fp16", "--instances", "2"]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'adapterdrop'}\n"
    config = parsed(tmp_path / "adapterdrop" / "config.pbtxt")
    assert (config.name, config.backend, config.max_batch_size) == ("adapterdrop", "onnxruntime", 32)
    assert [(value.name, list(value.dims)) for value in config.input] == [
        ("input_ids", [-1]),
        ("attention_mask", [-1]),
        ("token_type_ids", [-1]),
    ]
    dims = {value.name: list(value.dims) for value in config.output}
    assert dims == {"topic": [3], "flags": [2], "stars": [1], "names": [-1, 3]}
    assert config.dynamic_batching.max_queue_delay_microseconds == 1000
    assert (config.instance_group[0].count, config.instance_group[0].kind) == (2, 1)  # 1: KIND_GPU
    (accelerator,) = config.optimization.execution_accelerators.gpu_execution_accelerator
    assert (accelerator.name, accelerator.parameters["precision_mode"]) == ("tensorrt", "FP16")


def test_the_model_that_triton_gets_runs_by_itself(bundle: Path, predictor: runtime.Predictor, tmp_path: Path) -> None:
    assert main(["triton", str(bundle), str(tmp_path)]) == 0
    session = onnxruntime.InferenceSession(str(tmp_path / "adapterdrop" / "1" / "model.onnx"))
    (topic,) = session.run(["topic"], feeds())
    np.testing.assert_allclose(topic, predictor.run(feeds())["topic"], atol=1e-5)


def test_nothing_is_shared_with_the_bundle(bundle: Path, tmp_path: Path) -> None:
    (model,) = write_repository(bundle, tmp_path)
    assert sorted(path.name for path in (model / "1").iterdir()) == ["model.onnx", "model.onnx.data"]
    for path in (model / "1").iterdir():
        assert path.read_bytes() == (bundle / path.name).read_bytes()
        assert not path.samefile(bundle / path.name)
        assert path.stat().st_nlink == 1


def test_a_bundle_that_changes_is_not_copied(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = shutil.copytree(bundle, tmp_path / "bundle")

    def change(*_: Any) -> str:
        (folder / "model.onnx.data").write_bytes(bytes(8))
        return ""

    monkeypatch.setattr("runtime.serving.triton.config", change)
    with pytest.raises(runtime.BundleError, match="load it again"):
        write_repository(folder, tmp_path / "models")
    assert not (tmp_path / "models").exists()


@pytest.mark.parametrize("number", [1, 2, 3])
@pytest.mark.parametrize("earlier", [True, False])
def test_on_a_full_disk_no_model_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, earlier: bool) -> None:
    folder, models = write_routed(tmp_path / "bundle"), tmp_path / "new" / "models"
    if earlier:
        write_repository(folder, models, TritonOptions(name="earlier"))
    before = sorted(models.parent.rglob("*"))
    calls, copy = [], BoundFolder.copy

    def full(self: BoundFolder, name: str, target: Path) -> None:
        calls.append(name)
        copy(self, name, target)
        if len(calls) == number:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(BoundFolder, "copy", full)
    with pytest.raises(runtime.InputError, match=r"models: cannot be written: No space left on device"):
        write_repository(folder, models)
    assert sorted(models.parent.rglob("*")) == before
    assert models.parent.exists() == earlier
    assert write_repository(folder, models)


def test_models_are_moved_together_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, models, rename = write_routed(tmp_path / "bundle"), tmp_path / "models", Path.rename

    def fails(self: Path, target: Path) -> Path:
        if target.name == "adapterdrop_routed":
            assert (models / "adapterdrop" / "config.pbtxt").exists()
            raise OSError(errno.EIO, "Input/output error")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fails)
    with pytest.raises(runtime.InputError, match=r"models: cannot be written: Input/output error"):
        write_repository(folder, models)
    assert not models.exists()


def test_every_variant_is_a_model_and_images_have_fixed_axes(bundle: Path, tmp_path: Path) -> None:
    folder = write_bundle(tmp_path / "bundle", tokenizer=False)
    (folder / "model_drop2.onnx").write_bytes((folder / "model.onnx").read_bytes())
    rewrite(folder, variants=(variant(TASKS), variant(TASKS, 2, "model_drop2.onnx")))
    assert main(["triton", str(folder), str(tmp_path / "models")]) == 0
    assert sorted(path.name for path in (tmp_path / "models").iterdir()) == ["adapterdrop_drop2", "adapterdrop_drop5"]
    assert main(["triton", str(write_vision(tmp_path / "vision")), str(tmp_path), "--name", "vision-1"]) == 0
    config = parsed(tmp_path / "vision-1" / "config.pbtxt")
    assert (list(config.input[0].dims), config.input[0].data_type) == ([3, 4, 4], 11)  # 11: TYPE_FP32


def test_the_routed_graph_is_a_model(tmp_path: Path) -> None:
    folder = write_routed(tmp_path / "bundle")
    own, model = write_repository(folder, tmp_path / "models")
    assert (own.name, model.name) == ("adapterdrop", "adapterdrop_routed")
    session = onnxruntime.InferenceSession(str(model / "1" / "model.onnx"))
    given = feeds(3)
    route = {"row_ids": np.array([2, 0]), "task_ids": np.array([0, 2])}
    (logits,) = session.run(["logits"], {**given, **route})
    wanted = runtime.load(folder, provider="cpu", threads=1).run_routed(given, ["topic", "stars"], [2, 0])
    np.testing.assert_allclose(logits[0], wanted[0], atol=1e-5)
    np.testing.assert_allclose(logits[1, :1], wanted[1], atol=1e-5)
    config = parsed(model / "config.pbtxt")
    assert config.max_batch_size == 0  # rows of two requests would mix
    assert not config.HasField("dynamic_batching")
    assert {value.name: list(value.dims) for value in config.input} == {
        **{key: [-1, -1] for key in ("input_ids", "attention_mask", "token_type_ids")},
        **{key: [-1] for key in ("row_ids", "task_ids")},
    }
    assert [(value.name, list(value.dims)) for value in config.output] == [("logits", [-1, 3])]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--name", "a/b"], "name: expected letters"),
        (["--max-batch", "0"], "max_batch: expected a positive integer"),
        (["--tensorrt"], "tensorrt only with gpu"),
        (["--name", "taken"], "taken: cannot be written: it already exists"),
    ],
)
def test_a_repository_that_cannot_be_written_is_refused(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    (tmp_path / "taken" / "1").mkdir(parents=True)
    assert main(["triton", str(bundle), str(tmp_path), *arguments]) == 2
    assert message in capsys.readouterr().err
