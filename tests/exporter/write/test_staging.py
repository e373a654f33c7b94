"""`staged` under other processes, kills and folders that hold what no export wrote."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import json
import multiprocessing
import os
import re
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest

from exporter import ExportError, VerificationError
from exporter.write import staging
from exporter.write.exchange import exchange
from exporter.write.replaceable import check_sources
from exporter.write.staging import check_destination, staged
from runtime.bundle import MANIFEST
from runtime.bundle.scratch import FolderLock
from tests.helpers.sweep import swept

ROOT = Path(__file__).parents[3]
FORKED: Any = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")


def write_export(folder: Path, number: int = 0, names: tuple[str, ...] = ("model.onnx",), **fields: Any) -> None:
    """Write files that `check_destination` takes for an export."""
    for name in names:
        (folder / name).write_text(str(number))
    document = {"format_version": 7, "files": dict.fromkeys(names, "0" * 64)} | fields
    (folder / MANIFEST).write_text(json.dumps(document))


@pytest.fixture
def output(tmp_path: Path) -> Path:
    """An earlier export."""
    folder = tmp_path / "onnx"
    folder.mkdir()
    write_export(folder)
    return folder


def export(output: Path, number: int, overwrite: bool = True) -> None:
    with staged(output, overwrite) as folder:
        write_export(folder, number)


def content(output: Path) -> str:
    return (output / "model.onnx").read_text()


def _compete(output: Path, number: int, overwrite: bool, start: Any, answers: Any) -> None:
    start.wait()
    try:
        export(output, number, overwrite)
    except ExportError as error:
        answers.put(f"{number}: {error}")
    else:
        answers.put("done")


def _round(output: Path, overwrite: bool, count: int = 6) -> list[str]:
    start, answers = FORKED.Barrier(count), FORKED.Queue()
    processes = [FORKED.Process(target=_compete, args=(output, number, overwrite, start, answers)) for number in range(count)]
    for process in processes:
        process.start()
    found = [answers.get(timeout=60) for _ in processes]
    for process in processes:
        process.join()
    return found


@pytest.mark.parametrize("empty", [False, *swept(True)])
def test_of_six_exports_at_once_one_succeeds(tmp_path: Path, empty: bool) -> None:
    for number in range(4):
        output = tmp_path / f"onnx{number}"
        if empty:
            output.mkdir()
        answers = _round(output, overwrite=False)
        assert answers.count("done") == 1, answers
        assert all("is not empty" in answer for answer in answers if answer != "done"), answers
    assert len(list(tmp_path.iterdir())) == 4, "nothing is left behind"


def test_six_exports_at_once_with_overwrite_all_succeed(output: Path) -> None:
    assert _round(output, overwrite=True) == ["done"] * 6
    assert [path.name for path in output.parent.iterdir()] == [output.name]


def test_somewhere_between_old_and_new_there_is_never_nothing(output: Path) -> None:
    missing, stop = [], threading.Event()

    def watch() -> None:
        while not stop.is_set():
            if not (output / MANIFEST).exists():
                missing.append(time.monotonic())

    watcher = threading.Thread(target=watch)
    watcher.start()
    with contextlib.suppress(ExportError):
        for number in range(30):
            export(output, number)
    stop.set()
    watcher.join()
    assert content(output) == "29"
    if sys.platform == "linux" and _can_exchange(output.parent):
        assert not missing


def _can_exchange(folder: Path) -> bool:
    one, other = folder / "one", folder / "other"
    one.mkdir()
    other.mkdir()
    done = exchange(one, other)
    one.rmdir()
    other.rmdir()
    return done


def test_where_folders_cannot_be_exchanged_two_renames_do(output: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(staging, "exchange", lambda *_: False)
    export(output, 1)
    assert content(output) == "1"
    assert [path.name for path in output.parent.iterdir()] == [output.name]
    (output / "notes.txt").write_text("mine")
    with pytest.raises(ExportError, match=r"notes\.txt"):
        export(output, 2)
    assert content(output) == "1"


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOSYS, errno.EPERM])
def test_an_unknown_exchange_is_no_error(output: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    monkeypatch.setattr(ctypes, "get_errno", lambda: number)
    monkeypatch.setattr(sys, "platform", "linux")
    assert not exchange(output / "none", output / "neither")


def test_a_missing_folder_is_not_exchanged(output: Path) -> None:
    if sys.platform == "linux" and _can_exchange(output.parent):
        with pytest.raises(FileNotFoundError):
            exchange(output, output.parent / "none")


@pytest.mark.parametrize(
    ("document", "found"),
    [
        (b"", "does not list its files"),
        (b"{", "does not list its files"),
        (b"[]", "does not list its files"),
        (b"\xff", "does not list its files"),
        (b'{"files": {}}', "does not list its files"),
        (b'{"format_version": 7, "files": {"a": 1}}', "does not list its files"),
        (b'{"format_version": 7, "files": []}', "does not list its files"),
        (b"[" * 100_000, "does not list its files"),
    ],
)
def test_any_file_of_that_name_is_no_manifest(output: Path, document: bytes, found: str) -> None:
    (output / MANIFEST).write_bytes(document)
    with pytest.raises(ExportError, match=found):
        check_destination(output, overwrite=True)


def test_an_export_of_another_version_may_be_replaced(output: Path) -> None:
    write_export(output, format_version=1, other="field")
    export(output, 7)
    assert content(output) == "7"


def test_what_no_export_wrote_is_kept_and_named(output: Path) -> None:
    (output / "notes.txt").write_text("mine")
    (output / "model").mkdir()
    (output / ".hidden").write_text("")
    for act in (check_destination, lambda _, overwrite: export(output, 1, overwrite)):
        with pytest.raises(ExportError, match=r"would delete them: \.hidden, model/, notes\.txt; move them"):
            act(output, True)
    assert (output / "notes.txt").read_text() == "mine"
    assert content(output) == "0"
    assert [path.name for path in output.parent.iterdir()] == [output.name]


def test_a_folder_with_the_name_of_a_listed_file_is_kept(output: Path) -> None:
    (output / "model.onnx").unlink()
    (output / "model.onnx").mkdir()
    with pytest.raises(ExportError, match=r"model\.onnx/"):
        check_destination(output, overwrite=True)


def test_what_is_added_in_the_last_moment_is_kept(output: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(staging, "check_destination", lambda *_: (output / "notes.txt").write_text("mine"))
    with pytest.raises(ExportError, match=r"notes\.txt"):
        export(output, 1)
    assert (output / "notes.txt").read_text() == "mine"
    assert content(output) == "0"
    assert [path.name for path in output.parent.iterdir()] == [output.name]


def test_sources_in_the_output_are_refused(output: Path, tmp_path: Path) -> None:
    (output / "model").mkdir()
    link = tmp_path / "link"
    link.symlink_to(output / "model")
    for source in (output / "model", str(link), f"name={output / 'model'}", {"task": output / "model.onnx"}, [str(output)]):
        with pytest.raises(ExportError, match=r"is in the output folder .* choose another output"):
            check_sources(output, [None, object(), source])
    check_sources(output, [tmp_path, "", "a=", "org/name", "\0", "x" * 5000, "~unknown-user/x", None])
    check_sources(tmp_path / "new", [output])


def _hold(folder: Path) -> subprocess.Popen[str]:
    """A process that holds the lock of `folder` until it is killed."""
    script = (
        "import sys, time\nfrom pathlib import Path\nfrom runtime.bundle.scratch import FolderLock\n"
        "lock = FolderLock.take(Path(sys.argv[1]))\nprint('locked', flush=True)\ntime.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", script, str(folder)], cwd=ROOT, stdout=subprocess.PIPE, encoding="utf-8")
    assert process.stdout is not None
    assert process.stdout.readline() == "locked\n"
    return process


def test_a_lock_tells_a_leftover_whatever_its_process_number(output: Path) -> None:
    left = output.parent / f".onnx.partial-{os.getpid()}-0123456789abcdef"  # that of a living process of another container
    busy = output.parent / ".onnx.partial-4194303-0123456789abcdef"  # of a process that is not in this container
    left.mkdir()
    busy.mkdir()
    with _hold(busy) as process:
        export(output, 1)
        assert busy.is_dir()
        assert not left.exists()
        process.kill()
    export(output, 2)
    assert [path.name for path in output.parent.iterdir()] == [output.name]


def test_names_that_only_resemble_a_leftover_are_left_alone(output: Path) -> None:
    names = (".onnx.partial-²-y", ".onnx.partial-1-y", ".onnx.partial-", ".onnx.other-1-0123456789abcdef", ".onnx.replaced-٣-x")
    for name in names:
        (output.parent / name).mkdir()
    elsewhere = output.parent / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "precious").write_text("x")
    (output.parent / ".onnx.partial-1-0123456789abcdef").symlink_to(elsewhere)
    export(output, 1)
    assert {path.name for path in output.parent.iterdir()} >= {*names, "elsewhere"}
    assert (elsewhere / "precious").exists()


def test_what_was_to_be_replaced_comes_back(output: Path) -> None:
    output.rename(old := output.parent / ".onnx.replaced-1-0123456789abcdef")
    with pytest.raises(ExportError, match="is not empty"):
        export(output, 1, overwrite=False)
    assert content(output) == "0"
    assert not old.exists()


def test_a_folder_that_another_process_moves_is_left_alone(output: Path) -> None:
    output.rename(old := output.parent / ".onnx.replaced-1-0123456789abcdef")
    with _hold(old) as process:
        export(output, 1, overwrite=False)
        process.kill()
    assert content(output) == "1"
    assert old.is_dir()


def test_long_names_leave_room(tmp_path: Path) -> None:
    export(tmp_path / ("é" * 127), 1)
    assert [path.name for path in tmp_path.iterdir()] == ["é" * 127]


def test_locks_are_of_the_folder_not_of_its_name(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    lock = FolderLock.take(tmp_path / "a")
    assert lock is not None
    (tmp_path / "a").rename(tmp_path / "b")
    assert FolderLock.take(tmp_path / "b", wait=False) is None
    lock.release()
    assert FolderLock.take(tmp_path / "b", wait=False) is not None
    assert FolderLock.take(tmp_path / "a") is None


@pytest.mark.parametrize("exchanged", [True, False])
def test_an_export_that_was_replaced_meanwhile_is_not_continued(
    output: Path, monkeypatch: pytest.MonkeyPatch, exchanged: bool
) -> None:
    """Of two processes that add tasks to a folder at once, the second would remove those of the first."""
    if not exchanged:
        monkeypatch.setattr(staging, "exchange", lambda *_: False)
    continued = (output / MANIFEST).read_bytes()
    with staged(output, overwrite=True, continued=continued) as folder:
        write_export(folder, 1, tasks=1)
    with (
        pytest.raises(ExportError, match=r"was replaced by another process .* run the command again"),
        staged(output, overwrite=True, continued=continued) as folder,
    ):
        write_export(folder, 2, tasks=2)
    # What was read from both differs from PyTorch
    for manifest, message in ((continued, "was replaced by another process"), ((output / MANIFEST).read_bytes(), "^differs$")):
        with pytest.raises(ExportError, match=message), staged(output, overwrite=True, continued=manifest):
            raise VerificationError("differs")
    assert content(output) == "1"
    # In the last moment, after the first check
    continued = (output / MANIFEST).read_bytes()
    monkeypatch.setattr(staging, "flush", lambda _: write_export(output, 3, tasks=3))
    with pytest.raises(ExportError, match="was replaced"), staged(output, overwrite=True, continued=continued) as folder:
        write_export(folder, 4, tasks=4)
    assert content(output) == "3"
    assert [path.name for path in output.parent.iterdir()] == [output.name]


def test_a_link_is_named_with_the_folder(output: Path) -> None:
    link = output.with_name("current")
    link.symlink_to(output)
    with pytest.raises(ExportError, match=r"'.*current' is a link, which is never replaced: name the folder '.*onnx' itself"):
        check_destination(link, overwrite=True)


@pytest.mark.parametrize("path", ["a/b/../../file/onnx", "a/b/file2/onnx"])
def test_folders_of_a_failed_export_are_removed(tmp_path: Path, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "kept").mkdir()
    make = Path.mkdir

    def mkdir(folder: Path, mode: int = 0o777) -> None:
        if folder.name == "file2":  # as on a full disk
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        make(folder, mode)

    monkeypatch.setattr(Path, "mkdir", mkdir)
    with pytest.raises(ExportError, match="nothing was kept"):
        export(tmp_path / path, 1)
    assert sorted(found.name for found in tmp_path.iterdir()) == ["file", "kept"]


def test_an_empty_folder_that_was_there_is_kept(tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    with pytest.raises(VerificationError), staged(tmp_path / "new" / ".." / "kept" / "onnx", overwrite=False):
        raise VerificationError("differs")
    assert [found.name for found in tmp_path.iterdir()] == ["kept"]


def test_a_lock_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FolderLock, "take", Mock(side_effect=OSError(errno.EIO, "Input/output error")))
    with pytest.raises(ExportError, match="nothing was kept"):
        export(tmp_path / "new" / "onnx", 1)
    assert not list(tmp_path.iterdir())


def test_a_file_in_place_of_a_folder_is_named(tmp_path: Path) -> None:
    file = tmp_path / "mk.py"
    file.touch()
    null = Path(os.devnull)
    for output, named in ((file / "x", file), (file / "x" / "y", file), *([(null / "x", null)] if os.name == "posix" else [])):
        with pytest.raises(ExportError, match=re.escape(f"cannot be written: {str(named)!r} is a file, not a folder")):
            check_destination(output, overwrite=False)
