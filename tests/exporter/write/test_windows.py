"""Exports over an export in use, with the files of Windows (tests/helpers/windows.py)."""

from __future__ import annotations

import gc
import shutil
import sys
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pytest

import runtime
from exporter import ExportError
from exporter.write import staging
from exporter.write.staging import check_destination, staged
from runtime.bundle import MANIFEST
from tests.helpers.runtime_bundles import write_bundle
from tests.helpers.windows import as_windows, mapped

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads the files of this process from /proc")
_FEEDS = {"input_ids": np.full((1, 3), 4), "attention_mask": np.ones((1, 3), np.int64)}


@pytest.fixture
def new(tmp_path: Path) -> Path:
    """A finished export, as a stage receives it."""
    return write_bundle(tmp_path / "new")


@pytest.fixture
def output(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = write_bundle(tmp_path / "out" / "onnx")
    as_windows(monkeypatch)
    return folder


def _export(output: Path, new: Path) -> None:
    with staged(output, overwrite=True) as folder:
        shutil.copytree(new, folder, dirs_exist_ok=True)


def _names(output: Path) -> list[str]:
    return sorted(path.name for path in output.parent.iterdir())


def test_an_empty_folder_is_taken(tmp_path: Path, new: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    as_windows(monkeypatch)
    (tmp_path / "out" / "onnx").mkdir(parents=True)
    _export(tmp_path / "out" / "onnx", new)
    assert _names(tmp_path / "out" / "onnx") == ["onnx"]
    assert (tmp_path / "out" / "onnx" / MANIFEST).is_file()


def test_an_export_is_replaced(output: Path, new: Path) -> None:
    check_destination(output, overwrite=True)
    _export(output, new)
    assert _names(output) == ["onnx"]


def test_a_predictor_maps_the_weights_that_are_replaced(output: Path, new: Path) -> None:
    predictor = runtime.load(output, provider="cpu", options=runtime.Options(share_weights=False))
    before = predictor.run(_FEEDS)
    check_destination(output, overwrite=True)
    _export(output, new)
    after = predictor.run(_FEEDS)
    assert all((before[name] == after[name]).all() for name in before)
    left = [name for name in _names(output) if name != "onnx"]
    # The weights cannot be removed while they are mapped; the next export does it.
    assert len(left) <= 1
    del predictor
    gc.collect()
    _export(output, new)
    assert _names(output) == ["onnx"]


def test_mapped_files_stay_until_the_next_export(output: Path, new: Path) -> None:
    with mapped(output / "model.onnx.data"):
        _export(output, new)
        (left,) = (name for name in _names(output) if name != "onnx")
        assert left.startswith(".onnx.replaced-")
        assert [path.name for path in (output.parent / left).iterdir()] == ["model.onnx.data"]
    _export(output, new)
    assert _names(output) == ["onnx"]


def test_an_open_file_is_named_before_any_work(output: Path) -> None:
    with (output / "model.onnx.data").open("rb"), pytest.raises(ExportError) as raised:
        check_destination(output, overwrite=True)
    assert f"{str(output)!r} cannot be replaced: a program has model.onnx.data open" in str(raised.value)
    assert "close that program, such as a service that runs the folder, or choose another output" in str(raised.value)
    check_destination(output, overwrite=True)


def test_a_file_that_is_opened_meanwhile(output: Path, new: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = {path.name: path.read_bytes() for path in output.iterdir()}
    # Between the check at the end of the stage and the rename
    monkeypatch.setattr(staging, "check_unused", lambda _: None)
    with (output / MANIFEST).open("rb"), pytest.raises(ExportError, match="a program has one of its files open"):
        _export(output, new)
    assert {path.name: path.read_bytes() for path in output.iterdir()} == before
    assert _names(output) == ["onnx"]


def test_a_scanner_opens_new_files_for_a_moment(output: Path, new: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    streams: list[BinaryIO] = []
    monkeypatch.setattr("time.sleep", lambda _: streams.pop().close())
    with staged(output, overwrite=True) as folder:
        shutil.copytree(new, folder, dirs_exist_ok=True)
        streams.append((folder / MANIFEST).open("rb"))
    assert not streams
    assert _names(output) == ["onnx"]
