"""Bundles of the hub: what is downloaded, what needs no request, and each error, against an endpoint on 127.0.0.1."""

import os
import pickle
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import runtime
from runtime import BundleError
from runtime.hub import Access, HubId, hub_id
from tests.helpers.fake_hub import FakeHub, commit_of, module
from tests.helpers.forked import run_forked
from tests.helpers.runtime_bundles import rewrite, write_bundle
from tests.helpers.sweep import swept

ROOT = Path(__file__).parents[2]
REPOSITORY = "org/tasks"


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[FakeHub]:
    """An endpoint with one bundle on main and on v1, next to files that are not in its manifest."""
    folder = write_bundle(tmp_path / "bundle")
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    fake = FakeHub(
        {REPOSITORY: {"main": files | {"training.bin": b"unlisted"}, "v1": files}, "org/other": {"main": {"a": b""}}}
    )
    with fake.served():
        yield fake


def command(hub: FakeHub, home: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run the command line in a separate process: huggingface_hub reads its settings at import."""
    environment = client(hub, home) | variables
    call = [sys.executable, *module("runtime", variables), *arguments, "--text", "good", "--provider", "cpu"]
    return run_forked(call, cwd=ROOT, env=environment, capture_output=True, forget="huggingface_hub")


def client(hub: FakeHub, home: Path) -> dict[str, str]:
    others = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    return others | hub.environment(str(home))


def downloads(hub: FakeHub) -> set[str]:
    return {path.rsplit("/", 1)[1] for path in hub.requests if path.startswith("GET ") and "/resolve/" in path}


@pytest.mark.parametrize("revision", ["", *swept("@v1"), f"@{commit_of('v1')}"])
def test_a_bundle_of_the_hub(hub: FakeHub, tmp_path: Path, revision: str) -> None:
    home, source = tmp_path / "home", REPOSITORY + revision
    first = command(hub, home, source)
    assert (first.returncode, first.stderr) == (0, "")
    assert "provider cpu" in first.stdout
    listed = {path.name for path in (tmp_path / "bundle").iterdir()}
    assert downloads(hub) == listed  # not training.bin
    hub.requests.clear()
    assert command(hub, home, source).stdout == first.stdout
    assert not downloads(hub)
    assert len(hub.requests) == (0 if len(revision) > 3 else 1)  # a branch may have moved, a commit has not
    assert command(hub, home, source, HF_HUB_OFFLINE="1").stdout == first.stdout


@pytest.mark.parametrize(
    ("source", "variables", "message"),
    [
        (
            "org/nothing",
            {},
            "org/nothing: there is no such folder, and the hub id is not available: it does not exist, or",
        ),
        ("org/gated", {}, "it is gated: request access on its page, then log in with `hf auth login`"),
        (f"{REPOSITORY}@v9", {}, "it has no revision 'v9': expected a branch, a tag or a commit"),
        (REPOSITORY, {"HF_HUB_OFFLINE": "1"}, "it is not in the local cache {home}/hub and HF_HUB_OFFLINE is set"),
        (REPOSITORY, {"HF_ENDPOINT": "http://127.0.0.1:1"}, "and the hub cannot be reached (ConnectionError)"),
        (
            "org/other@v1:a",
            {},
            "run `hf download org/other --revision v1 --include 'a/*' --local-dir DIR`, then load DIR/a",
        ),
        ("org/other", {}, "the repository has no adapterdrop.json at this revision: it is not a bundle"),
        ("a/b/c", {}, "a/b/c: not a bundle: there is no such folder"),
        ("org/na..me", {}, "org/na..me: not a bundle: there is no such folder"),
    ],
)
def test_ids_that_are_not_available(hub: FakeHub, tmp_path: Path, source: str, variables: Any, message: str) -> None:
    hub.gated.add("org/gated")
    result = command(hub, tmp_path / "home", source, **variables)
    assert (result.returncode, result.stdout) == (2, "")
    assert message.format(home=tmp_path / "home") in result.stderr.splitlines()[-1]
    assert result.stderr.count("error:") == 1  # huggingface_hub itself logs that it tries again
    assert "Traceback" not in result.stderr


def test_a_half_downloaded_bundle(hub: FakeHub, tmp_path: Path) -> None:
    home = tmp_path / "home"
    answer = command(hub, home, REPOSITORY).stdout
    weights = next(home.rglob("model.onnx.data"))
    weights.unlink()
    offline = command(hub, home, REPOSITORY, HF_HUB_OFFLINE="1")
    assert offline.returncode == 2
    assert "is incomplete, it lacks model.onnx.data: it is not in the local cache" in offline.stderr
    assert command(hub, home, REPOSITORY).stdout == answer
    weights.resolve().unlink()  # the link is left
    assert "it lacks model.onnx.data" in command(hub, home, REPOSITORY, HF_HUB_OFFLINE="1").stderr
    assert command(hub, home, REPOSITORY).stdout == answer
    blob = weights.resolve()
    blob.write_bytes(bytes(len(blob.read_bytes())))
    damaged = command(hub, home, REPOSITORY).stderr
    assert "model.onnx.data: truncated or altered" in damaged
    assert f" in {blob}; remove that file to download it again" in damaged


def test_a_damaged_file_of_a_cache_without_links(tmp_path: Path) -> None:
    """As on Windows, where the files are in the snapshot itself."""
    commit = "0" * 40
    folder = write_bundle(tmp_path / "models--org--tasks" / "snapshots" / commit)
    weights, manifest = folder / "model.onnx.data", folder / "adapterdrop.json"
    weights.write_bytes(bytes(3))
    with pytest.raises(BundleError, match=re.escape(f" in {weights}; remove that file to download it again")):
        runtime.load(f"org/tasks@{commit}", cache_dir=tmp_path)
    manifest.write_text("{")
    with pytest.raises(BundleError, match="if the download is damaged, remove that file to download it again"):
        runtime.load(f"org/tasks@{commit}", cache_dir=tmp_path)


def test_a_repository_without_a_listed_file(hub: FakeHub, tmp_path: Path) -> None:
    del hub.repositories[REPOSITORY]["v1"]["model.onnx.data"]
    result = command(hub, tmp_path / "home", f"{REPOSITORY}@v1")
    assert (
        "lacks model.onnx.data: the repository has no model.onnx.data at this revision; push the bundle again" in result.stderr
    )


def test_names_are_no_patterns(hub: FakeHub, tmp_path: Path) -> None:
    """A manifest cannot have other files downloaded by listing a pattern."""
    folder = tmp_path / "bundle"
    (folder / "[s]ecret.bin").write_bytes(b"x")
    rewrite(folder)
    hub.repositories["org/patterns"] = {
        "main": {path.name: path.read_bytes() for path in folder.iterdir()} | {"secret.bin": b""}
    }
    result = command(hub, tmp_path / "home", "org/patterns")
    assert (result.returncode, result.stderr) == (0, "")
    assert "secret.bin" not in downloads(hub)


def test_a_pickle_has_the_commit_and_no_token(hub: FakeHub, tmp_path: Path) -> None:
    code = (
        "import pickle, sys, runtime; predictor = runtime.load('org/tasks', provider='cpu', token='hf_secret');"
        "content = pickle.dumps(predictor); assert b'hf_secret' not in content; sys.stdout.buffer.write(content)"
    )
    environment = client(hub, tmp_path / "home")
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, check=True)
    assert f"{REPOSITORY}@{commit_of('main')}".encode() in run.stdout
    with pytest.raises(BundleError, match="the hub id is not available"):
        pickle.loads(run.stdout)  # noqa: S301  # this process has another cache, and is offline


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "empty"))


def test_without_the_client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(
        BundleError, match="org/tasks: there is no such folder, and for a hub id, install huggingface_hub: `pip"
    ):
        runtime.load("org/tasks")
    monkeypatch.chdir(tmp_path)
    write_bundle(tmp_path / "org" / "tasks")
    assert runtime.load("org/tasks", provider="cpu").tasks  # a folder comes first


def test_the_client_is_loaded_for_ids_only(tmp_path: Path) -> None:
    folder = write_bundle(tmp_path / "bundle")
    code = f"import runtime, sys; runtime.load({str(folder)!r}, provider='cpu'); assert 'huggingface_hub' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("org/name", HubId("org/name")),
        ("org/name@refs/pr/1", HubId("org/name", "refs/pr/1")),
        ("org/name@", None),
        ("org/name@../../x", None),
        ("./org/name", None),
        ("a b/c", None),
    ],
)
def test_ids(text: str, found: HubId | None) -> None:
    assert hub_id(text) == found
    assert "secret" not in repr(Access("secret"))
