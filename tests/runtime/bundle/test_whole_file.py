"""Files that are written as a whole, and what they may replace."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from runtime.bundle import MANIFEST
from runtime.bundle.tensors import pack
from runtime.bundle.whole_file import belongs_to_bundle, unreplaceable, write_whole
from runtime.slots.task_file import is_task_file
from runtime.states.states_file import is_states_file
from tests.helpers.runtime_bundles import write_bundle


@pytest.mark.skipif(os.name != "posix", reason="modes are those of POSIX")
@pytest.mark.parametrize("mask", [0o022, 0o027, 0o077])
def test_permissions_are_those_of_a_new_file(tmp_path: Path, mask: int) -> None:
    before = os.umask(mask)
    try:
        write_whole(tmp_path / "states", [b"a", memoryview(b"b")])
    finally:
        os.umask(before)
    assert (tmp_path / "states").stat().st_mode & 0o777 == 0o666 & ~mask
    assert (tmp_path / "states").read_bytes() == b"ab"


def test_a_failure_keeps_the_former_file(tmp_path: Path) -> None:
    longest = tmp_path / ("é" * 127)  # 254 bytes; the name of the file before it is renamed is not longer
    write_whole(longest, [b"former"])
    with pytest.raises(TypeError):
        write_whole(longest, [b"new", None])  # type: ignore[list-item]
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [(longest.name, b"former")]


@pytest.mark.skipif(os.name != "posix", reason="the system has no such locks")
def test_files_of_killed_writers_are_removed(tmp_path: Path) -> None:
    """Not those that are being written, and no other file."""
    left, name = [tmp_path / f".{name}.partial-{'0' * 16}" for name in ("states", "other")], f".states.partial-{'0' * 15}"
    for path in (*left, tmp_path / name, tmp_path / ".states"):
        path.write_bytes(b"half")

    def parts() -> Iterator[bytes]:
        assert not left[0].exists()
        (own,) = tmp_path.glob(f".states.partial-{'?' * 16}")
        write_whole(tmp_path / "states", [b"second"])  # another writer of the same file
        assert own.exists()
        yield b"first"

    write_whole(tmp_path / "states", parts())
    assert (tmp_path / "states").read_bytes() == b"first"
    left[1].with_name(f".states.partial-{'1' * 16}").write_bytes(b"half")
    write_whole(tmp_path / "states", [b"a"], tidy=False)
    assert {path.name for path in tmp_path.iterdir()} == {
        *("states", ".states", name, left[1].name),
        f".states.partial-{'1' * 16}",
    }


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="the system has no named pipes")
def test_what_is_no_file_is_not_replaced(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "to").symlink_to("pipe")
    (tmp_path / "link").symlink_to("states")
    for name in ("pipe", "to", ".", os.devnull):
        with pytest.raises(OSError, match="not a regular file"):
            write_whole(tmp_path / name, [b"new"])
        assert "is not a regular file" in unreplaceable(tmp_path / name, tmp_path, is_states_file)
    assert (tmp_path / "pipe").is_fifo()
    write_whole(tmp_path / "link", [b"new"])
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "states").read_bytes() == b"new"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "pipe", "states", "to"]


def test_only_an_earlier_output_is_replaced(tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "bundle")
    (tmp_path / "texts").write_text("a text", encoding="utf-8")
    (tmp_path / "empty").write_bytes(b"")
    write_whole(tmp_path / "old", [pack({}, {"format": "adapterdrop trunk states 1"})])
    write_whole(tmp_path / "task", [pack({}, {"format": "adapterdrop-task"})])
    (tmp_path / "linked").hardlink_to(bundle / "model.onnx")

    def reason(name: str) -> str:
        return unreplaceable(tmp_path / name, bundle, is_states_file)

    assert [reason(name) for name in ("new", "empty", "old")] == [""] * 3
    assert "exists, and is not an earlier output" in reason("texts")
    assert "exists, and is not an earlier output" in reason("task")
    for name in ("bundle/model.onnx", f"bundle/{MANIFEST}", "linked"):
        assert f"is a file of the bundle {bundle}" in reason(name)
    assert is_task_file(tmp_path / "task")
    assert not is_task_file(tmp_path / "texts")
    assert not belongs_to_bundle(tmp_path / "texts", bundle)
    assert not belongs_to_bundle(tmp_path / "texts", "organisation/bundle")
