"""Damaged installations of ONNX Runtime, which would end the process when they are imported."""

import importlib.util
from pathlib import Path

import pytest

from runtime.import_ort import refuse_truncated


def _library(folder: Path, length: int) -> None:
    """Write the first bytes of a library whose list of sections begins at byte 400."""
    whole = (b"\x7fELF\2\1".ljust(40, b"\0") + (400).to_bytes(8, "little")).ljust(500, b"\0")
    (folder / "onnxruntime_pybind11_state.so").write_bytes(whole[:length])


@pytest.mark.parametrize("length", [64, 399])
def test_a_truncated_library_is_named(tmp_path: Path, length: int) -> None:
    _library(tmp_path, length)
    with pytest.raises(ImportError, match=rf"onnxruntime_pybind11_state\.so: {length} of 400 bytes"):
        refuse_truncated(tmp_path)


@pytest.mark.parametrize("length", [0, 30, 500])  # the loader itself refuses the first two
def test_other_libraries_are_loaded(tmp_path: Path, length: int) -> None:
    _library(tmp_path, length)
    refuse_truncated(tmp_path)


def test_the_installed_library_is_complete() -> None:
    spec = importlib.util.find_spec("onnxruntime")
    assert spec is not None
    assert spec.origin is not None
    refuse_truncated(Path(spec.origin).parent / "capi")
