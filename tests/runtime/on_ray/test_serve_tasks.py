"""Tasks from files in Ray Serve: a replica loads a task with the first request, and later requests come to it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import runtime
from exporter import export, task
from tests.helpers.local_http import send
from tests.helpers.local_ray import served
from tests.helpers.tiny_models import bert_config, tiny_model, tokenizer

TASKS = {"topic": ("seq_bn", "4"), "spam": ("seq_bn", "2"), "news": ("seq_bn", "3"), "tone": ("seq_bn", "2")}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A bundle with two slots, and a folder with files of three further tasks."""
    place = tmp_path_factory.mktemp("ray-tasks")
    files = place / "files"
    files.mkdir()
    config = bert_config(len(tokenizer()))
    export(tiny_model(TASKS, config), tokenizer(), tasks=["topic"], drop=1, slots=2, output=place / "onnx")
    for name in list(TASKS)[1:]:
        model = tiny_model(TASKS, config)
        for other in TASKS.keys() - {name}:
            model.delete_adapter(other)
            model.delete_head(other)
        task(place / "onnx", output=files / f"{name}.safetensors", model=model)
    return place / "onnx", files


@pytest.fixture(scope="module")
def url(serve_url: str, folders: tuple[Path, Path]) -> Iterator[str]:
    bundle, files = folders
    with served(bundle, {"task_files": str(files), "max_tasks": 2}):
        yield serve_url


def _post(url: str, body: dict[str, Any], header: str = "") -> tuple[int, Any]:
    return send(url, body, {"serve_multiplexed_model_id": header} if header else None)


def test_tasks_come_from_files_and_stay_correct(url: str, folders: tuple[Path, Path], tmp_path: Path) -> None:
    bundle, files = folders
    predictor = runtime.load(bundle, provider="cpu", threads=1)
    for name in list(TASKS)[1:]:
        predictor.add_task(name, files / f"{name}.safetensors")
    texts = ["one text", "another"]
    expected = predictor.predict(texts, list(TASKS))

    def check(names: list[str], header: str = "", body: dict[str, Any] | None = None) -> None:
        status, answer = _post(url, {"texts": texts, **({"tasks": names} if body is None else body)}, header)
        assert status == 200, answer
        assert list(answer["predictions"]) == names
        for name in names:
            for found, row in zip(answer["predictions"][name], expected[name], strict=True):
                assert found["scores"] == pytest.approx(dict(row.scores or {}), abs=1e-5)

    for _ in range(3):  # more tasks than Ray remembers for a replica, and than slots
        for name in TASKS:
            check([name], name if name != "topic" else "")
    check(["news"], "news", {})  # the header names the task
    check(["spam", "topic"])
    status, answer = _post(url, {"texts": texts, "tasks": ["../spam"]})
    assert (status, answer["error"]) == (400, "tasks: expected a task of the bundle or of the task files, found '../spam'")
    assert _post(url, {"texts": texts}, "none")[0] == 400
    # A task that comes while the service runs
    temporary = tmp_path / "copy"
    shutil.copy(files / "tone.safetensors", temporary)
    os.replace(temporary, files / "late.safetensors")  # noqa: PTH105
    status, answer = _post(url, {"texts": texts}, "late")
    assert status == 200
    assert answer["predictions"]["late"][0]["scores"] == pytest.approx(dict(expected["tone"][0].scores or {}), abs=1e-5)
    # A task that every replica has, and that is replaced and deleted
    shutil.copy(files / "spam.safetensors", temporary)
    os.replace(temporary, files / "late.safetensors")  # noqa: PTH105
    for _ in range(4):
        status, answer = _post(url, {"texts": texts, "tasks": ["late"]})
        assert status == 200
        assert answer["predictions"]["late"][0]["scores"] == pytest.approx(dict(expected["spam"][0].scores or {}), abs=1e-5)
    (files / "late.safetensors").unlink()
    assert {_post(url, {"texts": texts, "tasks": ["late"]})[0] for _ in range(4)} == {400}
