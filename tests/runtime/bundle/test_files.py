"""A predictor answers from the export that it checked, whatever happens to the folder."""

import errno
import gc
import itertools
import os
import re
import shutil
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import runtime
from exporter.write.staging import staged
from runtime import Options
from runtime.bundle import MANIFEST, MODEL, WEIGHTS, BoundFolder, digest, open_bundle
from runtime.import_ort import ort
from tests.helpers.runtime_bundles import feeds, write_routed
from tests.helpers.two_exports import DROPS, SECOND, hub_cache, said_scale, scale_of, swapping, write_export

LOAD_AGAIN = "the bundle was replaced or changed while it was open: load it again"
LINUX = pytest.mark.skipif(sys.platform != "linux", reason="folders are held by descriptor on Linux")


@pytest.fixture(scope="module")
def exports(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two exports, of scale 1 and 2."""
    folder = tmp_path_factory.mktemp("exports")
    return write_export(folder / "first", 1, tokenizer=True), write_export(folder / "second", 2, tokenizer=True)


@pytest.fixture
def bundle(exports: tuple[Path, Path], tmp_path: Path) -> Path:
    """A copy of the first."""
    return Path(shutil.copytree(exports[0], tmp_path / "bundle"))


def export_again(exports: tuple[Path, Path], bundle: Path) -> None:
    """As the command line with --overwrite does it."""
    with staged(bundle, overwrite=True) as folder:
        shutil.copytree(exports[1], folder, dirs_exist_ok=True)


def load(folder: Path, share: bool = True, cache: Path | None = None) -> runtime.Predictor:
    return runtime.load(folder, provider="cpu", options=Options(share_weights=share, cache=cache, threads=1))


@pytest.mark.parametrize("share", [False, True])
def test_a_drop_asked_for_after_an_export_is_refused(exports: tuple[Path, Path], bundle: Path, share: bool) -> None:
    predictor = load(bundle, share)
    assert scale_of(predictor, 5) == 1
    export_again(exports, bundle)
    for _ in range(2):
        with pytest.raises(runtime.BundleError, match=LOAD_AGAIN):
            predictor.run(feeds(), drop=2)
        assert scale_of(predictor, 5) == 1, "the open graph answers as before"
    with pytest.raises(runtime.BundleError, match=LOAD_AGAIN):
        predictor.node_counts()
    with pytest.raises(runtime.BundleError, match=LOAD_AGAIN):
        predictor.prepare()
    again = load(bundle, share)
    assert [scale_of(again, drop) for drop in DROPS] == [2, 2]


def test_open_drops_answer_as_before(exports: tuple[Path, Path], bundle: Path, tmp_path: Path) -> None:
    predictors = [load(bundle), load(bundle, share=False), load(bundle, cache=tmp_path / "cache")]
    for predictor in predictors:
        predictor.prepare()
    export_again(exports, bundle)
    for predictor in predictors:
        assert [scale_of(predictor, drop) for drop in DROPS] == [1, 1]
        assert predictor.predict(["a text"], ["topic"])["topic"][0].to_dict()["label"].endswith("1")
    assert [scale_of(load(bundle, cache=tmp_path / "cache"), drop) for drop in DROPS] == [2, 2]


def test_a_routed_graph_opened_late_is_refused(tmp_path: Path) -> None:
    bundle = write_routed(tmp_path / "bundle")
    predictor = load(bundle)
    shutil.copytree(bundle, tmp_path / "other")
    (tmp_path / "other" / "model_routed.onnx").write_bytes((bundle / MODEL).read_bytes())
    bundle.rename(tmp_path / "old")
    (tmp_path / "other").rename(bundle)
    shutil.rmtree(tmp_path / "old")
    with pytest.raises(runtime.BundleError, match=LOAD_AGAIN):
        predictor.run_routed(feeds(1), ["topic"])


@LINUX
def test_a_folder_that_was_moved_is_still_read(exports: tuple[Path, Path], bundle: Path, tmp_path: Path) -> None:
    predictor = load(bundle)
    bundle.rename(tmp_path / "old")
    shutil.copytree(exports[1], bundle)
    assert [scale_of(predictor, drop) for drop in DROPS] == [1, 1]
    assert predictor.node_counts(2)["cpu"] > 0


@pytest.mark.parametrize("name", [MODEL, SECOND, WEIGHTS, MANIFEST, "config.json"])
@pytest.mark.parametrize("replace", [True, False], ids=["replaced", "written"])
def test_a_file_that_changes_is_named(exports: tuple[Path, Path], bundle: Path, name: str, replace: bool) -> None:
    predictor = load(bundle)
    content = (exports[1] / name).read_bytes() if name != "config.json" else b"{}"
    if name == MODEL:
        content += b"\x32\x00"  # an empty description: other bytes, the same graph
    if replace:
        (bundle / "new").write_bytes(content)
        (bundle / "new").replace(bundle / name)
    else:
        (bundle / name).write_bytes(content)
    with pytest.raises(runtime.BundleError, match=rf"{name}: .*{LOAD_AGAIN}".replace(".json", r"\.json")):
        predictor.run(feeds(), drop=2)


def _touch(path: Path) -> None:
    os.utime(path, (1, 1))


def _link(path: Path) -> None:
    path.with_suffix(".copy").hardlink_to(path)


def _copy(path: Path) -> None:
    shutil.copyfile(path, path.with_suffix(".new"))
    path.with_suffix(".new").replace(path)


@pytest.mark.parametrize("change", [_touch, _link, _copy])
def test_the_same_bytes_are_no_change(bundle: Path, change: Callable[[Path], None]) -> None:
    predictor = load(bundle)
    for name in (MANIFEST, MODEL, SECOND, WEIGHTS):
        change(bundle / name)
    assert [scale_of(predictor, drop) for drop in DROPS] == [1, 1]


@pytest.mark.parametrize("verify", [None, False])
def test_loads_while_folders_swap_are_of_one_export(exports: tuple[Path, Path], tmp_path: Path, verify: bool | None) -> None:
    if sys.platform != "linux":
        pytest.skip("folders are exchanged on Linux")
    one, other = (Path(shutil.copytree(folder, tmp_path / folder.name)) for folder in exports)
    found: list[tuple[float, ...]] = []
    refused: list[str] = []
    start = time.monotonic()
    with swapping(one, other):
        while (spent := time.monotonic() - start) < 1.5 or (not found and spent < 60):
            options = Options(share_weights=len(found) % 2 == 0, threads=1)
            try:
                predictor = runtime.load(one, provider="cpu", verify=verify, options=options)
                found.append((said_scale(predictor), *(scale_of(predictor, drop) for drop in DROPS)))
            except runtime.BundleError as error:
                refused.append(str(error))
    assert found, refused
    assert set(found) <= {(1, 1, 1), (2, 2, 2)}
    assert not [message for message in refused if LOAD_AGAIN not in message]


def test_loads_while_exports_follow_each_other(exports: tuple[Path, Path], bundle: Path) -> None:
    stop = threading.Event()

    def export() -> None:
        for number in itertools.count():
            if stop.wait(0.01 * (number % 8)):  # from loads that all succeed to loads that all meet an export
                return
            with staged(bundle, overwrite=True) as folder:
                shutil.copytree(exports[number % 2], folder, dirs_exist_ok=True)

    found: list[tuple[float, ...]] = []
    refused: list[str] = []
    exporter = threading.Thread(target=export)
    exporter.start()
    start = time.monotonic()
    try:
        while (spent := time.monotonic() - start) < 1.5 or (not found and spent < 60):
            try:
                predictor = load(bundle)
                found.append((said_scale(predictor), *(scale_of(predictor, drop) for drop in DROPS)))
            except runtime.BundleError as error:
                refused.append(str(error))
    finally:
        stop.set()
        exporter.join()
    assert found, refused
    assert set(found) <= {(1, 1, 1), (2, 2, 2)}
    assert not [message for message in refused if LOAD_AGAIN not in message]


@pytest.mark.parametrize(
    "failure",
    [
        "Failed to get the weakly canonical path: /proc/self/fd/7",
        "Opened external data file escapes model directory. allowed directory",
        "External data path does not exist",
        "SystemError : 2",
    ],
)
@pytest.mark.parametrize("times", [3, 100])
def test_a_folder_renamed_while_it_opens(bundle: Path, monkeypatch: pytest.MonkeyPatch, failure: str, times: int) -> None:
    real = ort.InferenceSession
    tries = itertools.count()

    def session(*arguments: Any, **more: Any) -> Any:
        if next(tries) < times:
            raise RuntimeError(failure)
        return real(*arguments, **more)

    monkeypatch.setattr(ort, "InferenceSession", session)
    if times == 3:
        assert scale_of(load(bundle), DROPS[0]) == 1
        return
    with pytest.raises(runtime.BundleError, match=f"{re.escape(failure)}.*; {LOAD_AGAIN}"):
        load(bundle)
    assert next(tries) < 10


def test_a_change_while_it_is_hashed_is_seen(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def slow(path: Path) -> str:
        found = digest(path)
        if path.name == WEIGHTS:
            with path.open("r+b") as file:
                file.write(b"\1")
        return found

    monkeypatch.setattr("runtime.bundle.files.digest", slow)
    with pytest.raises(runtime.BundleError, match=rf"{WEIGHTS}: changed while it was read"):
        load(bundle)


def test_chdir_changes_nothing(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    predictors = [load(Path("bundle"), share) for share in (True, False)] + [load(Path("bundle"), cache=Path("cache"))]
    monkeypatch.chdir("/")
    for predictor in predictors:
        assert [scale_of(predictor, drop) for drop in DROPS] == [1, 1]
        assert predictor.node_counts(2)["cpu"] > 0


def test_a_link_to_a_release_is_followed_once(exports: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "current").symlink_to(exports[0])
    predictor = load(tmp_path / "current")
    (tmp_path / "new").symlink_to(exports[1])
    (tmp_path / "new").replace(tmp_path / "current")
    assert [scale_of(predictor, drop) for drop in DROPS] == [1, 1]


def test_no_descriptor_is_left_open(bundle: Path) -> None:
    count = len(list(Path("/proc/self/fd").iterdir())) if sys.platform == "linux" else 0
    gc.disable()  # files are closed with the predictor, not when the garbage collector runs
    try:
        for _ in range(5):
            load(bundle).prepare()
    finally:
        gc.enable()
    if sys.platform == "linux":
        assert len(list(Path("/proc/self/fd").iterdir())) <= count + 1


@pytest.mark.parametrize("share", [False, True])
def test_a_hub_cache_is_read(exports: tuple[Path, Path], tmp_path: Path, share: bool) -> None:
    snapshot = hub_cache(exports[1], tmp_path / "hub")
    for verify in (None, False):
        options = Options(share_weights=share, threads=1)
        predictor = runtime.load(snapshot, provider="cpu", verify=verify, options=options)
        assert [scale_of(predictor, drop) for drop in DROPS] == [2, 2]
        assert predictor.predict(["a text"], ["topic"])["topic"][0].to_dict()["label"].endswith("2")
        assert predictor.node_counts(2)["cpu"] > 0


@pytest.mark.parametrize("verify", [None, False])
@pytest.mark.parametrize("name", [MODEL, WEIGHTS, "tokenizer.json"])
def test_a_link_must_lead_to_the_listed_bytes(bundle: Path, tmp_path: Path, name: str, verify: bool | None) -> None:
    content = (bundle / name).read_bytes()
    (tmp_path / "elsewhere").write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    (bundle / name).unlink()
    (bundle / name).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(runtime.BundleError, match=f"{name}: truncated or altered"):
        runtime.load(bundle, provider="cpu", verify=verify)
    (tmp_path / "elsewhere").write_bytes(content)
    assert scale_of(runtime.load(bundle, provider="cpu", verify=verify), 5) == 1


def test_a_blob_that_changes_later_is_named(exports: tuple[Path, Path], tmp_path: Path) -> None:
    snapshot = hub_cache(exports[0], tmp_path / "hub")
    predictor = load(snapshot, share=False)
    blob = (snapshot / WEIGHTS).resolve()
    blob.unlink()
    shutil.copyfile(exports[1] / WEIGHTS, blob)
    with pytest.raises(runtime.BundleError, match=rf"{WEIGHTS}: .*{LOAD_AGAIN}"):
        predictor.run(feeds(), drop=2)
    assert scale_of(predictor, 5) == 1


def test_links_that_lead_nowhere_are_named(bundle: Path) -> None:
    for name, target in ((WEIGHTS, WEIGHTS), ("config.json", "nothing"), (SECOND, ".")):
        (bundle / name).unlink()
        (bundle / name).symlink_to(target)
    loop = os.strerror(errno.ELOOP)
    with pytest.raises(
        runtime.BundleError, match=rf"config\.json: missing; .*{WEIGHTS}: cannot be read: {loop}; {SECOND}: mis"
    ):
        load(bundle)


def test_a_pipe_is_no_file(bundle: Path) -> None:
    if not hasattr(os, "mkfifo"):
        pytest.skip("no pipes here")
    for name, message in ((WEIGHTS, f"{WEIGHTS}: missing"), (MANIFEST, f"it has no {MANIFEST}")):
        (bundle / name).unlink()
        os.mkfifo(bundle / name)
        with pytest.raises(runtime.BundleError, match=re.escape(message)):
            load(bundle)


def test_elsewhere_than_on_linux_a_replaced_folder_is_noticed(
    exports: tuple[Path, Path], bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runtime.bundle.files.sys.platform", "darwin")
    predictor = load(bundle, share=False)
    assert scale_of(predictor, 5) == 1
    bundle.rename(tmp_path / "old")
    shutil.copytree(exports[1], bundle)
    with pytest.raises(runtime.BundleError, match=LOAD_AGAIN):
        predictor.run(feeds(), drop=2)


def test_who_opens_by_path_sees_another_folder(exports: tuple[Path, Path], bundle: Path, tmp_path: Path) -> None:
    manifest, files = open_bundle(bundle)
    files.bind(manifest.files)
    files.check(by_path=True)
    bundle.rename(tmp_path / "old")
    files.check()
    with pytest.raises(runtime.BundleError, match=f"another folder has this name now; {LOAD_AGAIN}"):
        files.check(by_path=True)
    shutil.copytree(exports[0], bundle)
    with pytest.raises(runtime.BundleError, match=f"another folder has this name now; {LOAD_AGAIN}"):
        files.check(by_path=True)


def test_what_is_not_a_folder_cannot_be_opened(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "loop").symlink_to("loop")
    for name in ("file", "loop", "none"):
        with pytest.raises(OSError):
            BoundFolder.open(tmp_path / name)
        with pytest.raises(runtime.BundleError, match="not a bundle"):
            load(tmp_path / name)
