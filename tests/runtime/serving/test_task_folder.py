"""A folder of task files: names come from requests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from runtime.errors import InputError
from runtime.serving.task_folder import TaskFolder


class _Tasks:
    """Records what is added and replaced."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, str, str]] = []

    @property
    def tasks(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(name for _, name, _ in self.calls))

    def add_task(self, name: str, file: str | os.PathLike[str]) -> None:
        self.calls.append(("add", name, Path(file).name))

    def replace_task(self, name: str, file: str | os.PathLike[str]) -> None:
        self.calls.append(("replace", name, Path(file).name))


def test_a_file_is_added_and_later_replaced(tmp_path: Path) -> None:
    (tmp_path / "rte.safetensors").touch()
    tasks = _Tasks()
    folder = TaskFolder(tmp_path, tasks)
    assert not folder.is_current("rte")
    for _ in range(2):
        folder.load("rte")
        assert folder.is_current("rte")
    assert tasks.calls == [("add", "rte", "rte.safetensors")]
    (tmp_path / "new").write_bytes(b"other weights")
    (tmp_path / "new").replace(tmp_path / "rte.safetensors")
    assert not folder.is_current("rte")
    folder.load("rte")
    assert tasks.calls[1:] == [("replace", "rte", "rte.safetensors")]
    (tmp_path / "rte.safetensors").unlink()
    assert not folder.is_current("rte")
    with pytest.raises(InputError, match="expected a task of the bundle or of the task files, found 'rte'"):
        folder.load("rte")


@pytest.mark.parametrize("name", ["other", "../rte", "/rte", "a/rte", ".rte", ".", "", "rte\0", "rte\n", "r" * 300])
def test_a_name_stays_in_the_folder(tmp_path: Path, name: str) -> None:
    inner = tmp_path / "a" / "b"
    inner.mkdir(parents=True)
    for folder in (tmp_path / "a", inner / "a", inner):
        folder.mkdir(exist_ok=True)
        (folder / ("rte.safetensors" if folder != inner else ".rte.safetensors")).touch()
    tasks = _Tasks()
    with pytest.raises(InputError, match="expected a task of the bundle or of the task files, found "):
        TaskFolder(inner, tasks).load(name)
    assert tasks.calls == []


def test_a_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="task_files: expected a folder of files of"):
        TaskFolder(tmp_path / "none", _Tasks())
