"""The cache folder: what is in it is what this user put there, or is made again."""

import json
import os
import shutil
import signal
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import runtime
from runtime import Options
from runtime.bundle import read_manifest
from runtime.bundle.scratch import FolderLock, locked_folder, remove_leftovers, scratch
from runtime.ort import cache_folder as cache_module
from runtime.ort.cache_folder import cache_folder
from tests.helpers.two_exports import DROPS, scale_of, write_export

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_export(tmp_path_factory.mktemp("cache") / "bundle")


def load(bundle: Path, cache: Path, verify: bool | None = None) -> runtime.Predictor:
    return runtime.load(bundle, provider="cpu", verify=verify, options=Options(cache=cache, threads=1))


def packed(cache: Path) -> Path:
    """The folder of packed graphs in it."""
    (found,) = (path for path in cache.glob("packed-*/*") if not path.name.startswith("making-"))
    return found


def _truncate(place: Path) -> None:
    with (place / "weights.bin").open("r+b") as file:
        file.truncate(100)


def _flip(place: Path) -> None:
    content = bytearray((place / "weights.bin").read_bytes())
    content[len(content) // 2] ^= 1
    (place / "weights.bin").write_bytes(content)


def _graph(place: Path) -> None:
    shutil.copyfile(place / "model_drop2.onnx", place / "model.onnx")


def _record(place: Path) -> None:
    (place / "files.json").write_text("[[[")


def _empty_record(place: Path) -> None:
    (place / "files.json").write_text("{}")


def _no_record(place: Path) -> None:
    (place / "files.json").unlink()


def _more(place: Path) -> None:
    (place / "more").write_text("")


def _link(place: Path) -> None:
    (place / "weights.bin").rename(place.parent.parent / "weights.bin")
    (place / "weights.bin").symlink_to(place.parent.parent / "weights.bin")


def _deep_record(place: Path) -> None:
    (place / "files.json").write_text("[" * 100_000)


def _linked_folder(place: Path) -> None:
    place.rename(place.parent.parent / "elsewhere")
    place.symlink_to(place.parent.parent / "elsewhere")


def _file(place: Path) -> None:
    shutil.rmtree(place)
    place.write_text("", encoding="utf-8")


@pytest.mark.parametrize(
    "harm", [_truncate, _flip, _graph, _record, _deep_record, _empty_record, _no_record, _more, _link, _linked_folder, _file]
)
def test_a_broken_cache_is_made_again(bundle: Path, tmp_path: Path, harm: Callable[[Path], None]) -> None:
    load(bundle, tmp_path)
    harm(place := packed(tmp_path))
    predictor = load(bundle, tmp_path)
    assert [scale_of(predictor, drop) for drop in DROPS] == [1, 1]
    assert place.is_dir()
    assert not place.is_symlink()
    made = (place / "weights.bin").stat().st_mtime_ns
    predictor = load(bundle, tmp_path)
    assert (place / "weights.bin").stat().st_mtime_ns == made, "used, not made again"
    assert [path.name for path in place.parent.iterdir()] == [place.name]


def test_the_record_says_sizes_and_hashes(bundle: Path, tmp_path: Path) -> None:
    load(bundle, tmp_path)
    record = json.loads((packed(tmp_path) / "files.json").read_text())
    assert set(record) == {"model.onnx", "model_drop2.onnx", "weights.bin"}
    assert all(len(sha256) == 64 and size > 0 for size, sha256 in record.values())


@pytest.mark.skipif(os.name != "posix", reason="modes are POSIX's")
def test_only_this_user_may_write_there(bundle: Path, tmp_path: Path) -> None:
    load(bundle, tmp_path)
    folder = packed(tmp_path).parent
    for place in (folder, packed(tmp_path)):
        assert stat.S_IMODE(place.stat().st_mode) == 0o700
    (folder / "planted").mkdir()
    folder.chmod(0o777)  # other users may have written what is in it
    load(bundle, tmp_path)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert [path.name for path in folder.iterdir()] == [packed(tmp_path).name]
    made = (packed(tmp_path) / "weights.bin").stat().st_mtime_ns
    folder.chmod(0o755)  # as an earlier version made it: others could only read
    load(bundle, tmp_path)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert (packed(tmp_path) / "weights.bin").stat().st_mtime_ns == made


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="no users here")
def test_another_users_folder_is_not_used(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = cache_folder(tmp_path, manifest := read_manifest(bundle), "packed")
    (first / "planted").mkdir()
    monkeypatch.setattr(os, "geteuid", lambda: 54321)
    monkeypatch.setattr(cache_module, "owned", lambda folder: folder != first)
    second = cache_folder(tmp_path, manifest, "packed")
    assert second == first.with_name(f"{first.name}-54321")
    assert list(second.iterdir()) == []
    monkeypatch.setattr(cache_module, "owned", lambda _: False)
    with pytest.raises(runtime.InputError, match=r"options\.cache: cannot write .* belong to another user, or are links"):
        cache_folder(tmp_path, manifest, "packed")


def test_a_link_in_the_place_of_the_cache_is_not_followed(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "theirs").mkdir()
    first = cache_folder(tmp_path / "cache", manifest := read_manifest(bundle), "packed")
    first.rmdir()
    first.symlink_to(tmp_path / "theirs")
    assert cache_folder(tmp_path / "cache", manifest, "packed") != first
    predictor = load(bundle, tmp_path / "cache")
    assert [scale_of(predictor, drop) for drop in DROPS] == [1, 1]
    assert list((tmp_path / "theirs").iterdir()) == []


def test_an_unverified_bundle_fills_no_verified_cache(bundle: Path, tmp_path: Path) -> None:
    altered = Path(shutil.copytree(bundle, tmp_path / "altered"))
    shutil.copyfile(altered / "model_drop2.onnx", altered / "model.onnx")
    assert scale_of(load(altered, tmp_path / "cache", verify=False), 5) == -1
    assert scale_of(load(bundle, tmp_path / "cache"), 5) == 1


def _kill_while_packing(bundle: Path, cache: Path | None, temporary: Path) -> None:
    script = (
        "import sys, time\nimport runtime\nfrom pathlib import Path\nfrom runtime.ort import prepacked\n"
        "def wait(*_):\n    print('packing', flush=True)\n    time.sleep(60)\n"
        "prepacked._moved = wait\n"
        "cache = Path(sys.argv[2]) if len(sys.argv) > 2 else None\n"
        "runtime.load(sys.argv[1], provider='cpu', options=runtime.Options(cache=cache, threads=1)).prepare()"
    )
    command = [sys.executable, "-c", script, str(bundle), *([] if cache is None else [str(cache)])]
    environment = {**os.environ, "TMPDIR": str(temporary)}
    with subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, encoding="utf-8") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "packing\n"
        process.send_signal(signal.SIGKILL)


def test_what_a_killed_load_leaves_the_next_one_removes(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(temporary := tmp_path / "tmp"))
    temporary.mkdir()
    for cache in (tmp_path / "cache", None):
        _kill_while_packing(bundle, cache, temporary)
    assert list((tmp_path / "cache").glob("packed-*/making-*"))
    assert list(temporary.glob("adapterdrop-*"))
    load(bundle, tmp_path / "cache")
    assert [path.name for path in packed(tmp_path / "cache").parent.iterdir()] == [packed(tmp_path / "cache").name]
    predictor = runtime.load(bundle, provider="cpu", threads=1)
    assert [scale_of(predictor, drop) for drop in DROPS] == [1, 1]
    assert list(temporary.glob("adapterdrop-*")) == []


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such limit")
def test_a_full_disk_is_no_fault_of_the_bundle(bundle: Path, tmp_path: Path) -> None:
    """ONNX Runtime has the same exception for a graph that it cannot load and for weights that it cannot write."""
    import resource

    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (64, limits[1]))
    try:
        with pytest.raises(runtime.InputError, match=r"options\.cache: .*: the packed weights of model.* cannot be written"):
            load(bundle, tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
    load(bundle, tmp_path)
    assert (packed(tmp_path) / "weights.bin").exists()


def test_several_processes_pack_once(bundle: Path, tmp_path: Path) -> None:
    script = (
        "import sys, runtime\noptions = runtime.Options(cache=sys.argv[2], threads=1)\n"
        "from runtime.ort import prepacked\nmake = prepacked._make\n"
        "def told(*given):\n    print('made')\n    make(*given)\n"
        "prepacked._make = told\n"
        "predictor = runtime.load(sys.argv[1], provider='cpu', options=options)"
    )
    command = [sys.executable, "-c", script, str(bundle), str(tmp_path)]
    processes = [subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, encoding="utf-8") for _ in range(3)]
    said = [process.communicate(timeout=120)[0] for process in processes]
    assert [process.returncode for process in processes] == [0] * 3
    assert sorted(said) == ["", "", "made\n"]
    assert [path.name for path in packed(tmp_path).parent.iterdir()] == [packed(tmp_path).name]


def test_scratch_folders_end_with_their_makers(tmp_path: Path) -> None:
    with scratch(tmp_path, "making-") as folder:
        (folder / "file").write_text("")
        remove_leftovers(tmp_path, "making-")
        assert (folder / "file").exists(), "its maker lives"
    assert list(tmp_path.iterdir()) == []
    left, lock = locked_folder(tmp_path, "making-")
    lock.release()
    for name in ("making-", "making-short", "other-0123456789abcdef"):
        (tmp_path / name).mkdir()
    (tmp_path / "making-0123456789abcdef").symlink_to(tmp_path / "other-0123456789abcdef")
    remove_leftovers(tmp_path, "making-")
    assert not left.exists()
    assert len(list(tmp_path.iterdir())) == 4
    remove_leftovers(tmp_path / "none", "making-")
    assert FolderLock.take(tmp_path / "none") is None
