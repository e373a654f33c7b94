"""Hub ids: the local cache, the offline mode and the requests to the hub, without network access."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import requests
from huggingface_hub import constants
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError
from huggingface_hub.utils._paths import filter_repo_objects

from exporter.checkpoints import sources
from exporter.checkpoints.load import load
from exporter.checkpoints.sources import located
from exporter.errors import ExportError
from runtime.hub import Access
from tests.helpers.load_testing import answer, assert_equal, assert_refused, edit, save_base_model
from tests.helpers.tiny_models import tiny_model

ROOT = Path(__file__).parents[3]
COMMIT = "0123456789abcdef0123456789abcdef01234567"


def _publish(cache: Path, hub_id: str, folder: Path) -> Path:
    """Puts a folder into a cache as the hub's client lays it out: blobs, and snapshots that point to them."""
    repository = cache / f"models--{hub_id.replace('/', '--')}"
    snapshot = repository / "snapshots" / COMMIT
    (repository / "blobs").mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(COMMIT)
    for number, path in enumerate(sorted(path for path in folder.rglob("*") if path.is_file())):
        blob = repository / "blobs" / f"{number:064x}"
        blob.write_bytes(path.read_bytes())
        link = snapshot / path.relative_to(folder)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(os.path.relpath(blob, link.parent))
    return snapshot


@pytest.fixture
def published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A cache with a trunk, an adapter and a folder of adapters, in offline mode."""
    model = tiny_model({"a": ("seq_bn", "2"), "b": ("lora", "3")})
    save_base_model(model, tmp_path / "trunk")
    model.save_all_adapters(str(tmp_path / "all"))
    for name in ("a", "b"):
        for file in ("adapter_config.json", "head_config.json"):
            edit(tmp_path / "all" / name / file, model_name="org/tiny-bert")
    cache = tmp_path / "cache"
    _publish(cache, "org/tiny-bert", tmp_path / "trunk")
    _publish(cache, "tiny-bert", tmp_path / "trunk")
    _publish(cache, "org/other-bert", tmp_path / "trunk")
    _publish(cache, "org/adapter-a.v1", tmp_path / "all" / "a")
    _publish(cache, "org/all", tmp_path / "all")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.chdir(tmp_path)
    return model


@pytest.mark.parametrize("base", ["org/tiny-bert", "tiny-bert", Path("org/tiny-bert")])
@pytest.mark.parametrize("adapters", [["org/adapter-a.v1"], ["org/all"]])
def test_models_and_adapters_of_the_cache(published: Any, base: Any, adapters: list[str]) -> None:
    found = load(base, adapters=adapters)
    assert found.source == found.model.config.name_or_path == str(base)
    assert list(found.model.heads) == (["a", "b"] if adapters == ["org/all"] else ["a"])
    assert_equal(answer(found.model, "a"), answer(published, "a"))


@pytest.mark.parametrize("adapter", ["org/all:b", "mine=org/all:b", "all:b"])
def test_an_adapter_in_a_subfolder(published: Any, adapter: str) -> None:
    found = load("org/tiny-bert", adapters=[adapter])
    assert list(found.model.heads) == (["mine"] if "=" in adapter else ["b"])
    assert_equal(answer(found.model, next(iter(found.model.heads))), answer(published, "b"))


@pytest.mark.parametrize(
    ("adapter", "message"),
    [
        ("org/all:c", "'org/all' has no subfolder 'c'"),
        ("org/nothing:c", "the hub id 'org/nothing' of 'org/nothing:c' is not available"),
        ("all:../all/b", "there is no adapter folder 'all:../all/b'"),
    ],
)
def test_subfolders_that_are_none(published: Any, adapter: str, message: str) -> None:
    assert_refused(message, "org/tiny-bert", adapters=[adapter])


@pytest.mark.parametrize("adapter", [f"org/all@{COMMIT}:b", "mine=org/all@main:b", "org/all@refs/pr/1:b"])
def test_revisions_of_models_and_adapters(published: Any, tmp_path: Path, adapter: str) -> None:
    pull = tmp_path / "cache" / "models--org--all" / "refs" / "refs" / "pr"
    pull.mkdir(parents=True)
    (pull / "1").write_text(COMMIT)
    found = load(f"org/tiny-bert@{COMMIT}", adapters=[adapter])
    assert found.model.config.name_or_path == "org/tiny-bert"  # what the adapter names as its base
    assert_equal(answer(found.model, next(iter(found.model.heads))), answer(published, "b"))


def test_a_model_in_a_subfolder_and_another_cache(published: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "parts").mkdir()
    (tmp_path / "trunk").rename(tmp_path / "parts" / "trunk")
    _publish(tmp_path / "second", "org/parts", tmp_path / "parts")
    access = Access(cache_dir=str(tmp_path / "second"))
    assert_refused("it is not in the local cache", "org/parts:trunk", adapters=[str(tmp_path / "all" / "a")])
    for source in (located("org/parts", "main", "trunk"), str(tmp_path / "parts") + ":trunk"):
        found = sources.find(source, "model", access)
        assert (found.folder / "config.json").is_file()
        assert found.hub == ("org/parts" if source.startswith("org") else None)
    assert located("org/parts", None, "") == "org/parts"
    monkeypatch.setattr(constants, "HF_HUB_CACHE", access.cache_dir)
    message = "'org/parts' is not a model folder: it has no config.json; .* name the subfolder that has one: SOURCE:SUBFOLDER"
    assert_refused(message, "org/parts", adapters=[str(tmp_path / "all" / "a")])


@pytest.mark.parametrize(
    ("model", "revision", "subfolder", "message"),
    [
        (None, "v1", "", "revision: expected a model folder or hub id, found no model"),
        ("all", "v1", "", "revision: expected a branch, tag or commit for a hub id that names none, found 'v1' for 'all'"),
        ("org/all@v1", "v2", "", "found 'v2' for 'org/all@v1'"),
        ("org/all", "../x", "", "found '../x' for 'org/all'"),
        ("org/all", None, "../x", "subfolder: expected a relative path of plain names, found '../x'"),
    ],
)
def test_wrong_revisions_and_subfolders(published: Any, model: Any, revision: Any, subfolder: str, message: str) -> None:
    with pytest.raises(ExportError, match=re.escape(message)):
        located(model, revision, subfolder)


def test_an_adapter_of_another_model_of_the_hub(published: Any) -> None:
    assert_refused("trained for the model 'org/tiny-bert', not for 'org/other-bert'", "org/other-bert", adapters=["org/all"])


@pytest.mark.parametrize(
    ("base", "message"),
    [
        ("org/nothing", "the hub id is not available: it is not in the local cache .* and HF_HUB_OFFLINE is set"),
        ("nothing", "there is no model folder 'nothing', and the hub id is not available"),
        ("org/a--b", "the hub id is not available: Cannot have -- or .. in repo_id"),
        ("org/tiny-bert@v9", "the hub id is not available: it is not in the local cache"),
        ("org/tiny-bert@", "there is no model folder 'org/tiny-bert@'"),
        ("org/name/more", "there is no model folder 'org/name/more': expected .* or a hub id"),
        ("./nothing", "there is no model folder './nothing'"),
        ("", "there is no model folder ''"),
        ("a\0b", "there is no model folder"),
        ("cache/version", "there is no model folder"),
    ],
)
def test_ids_that_are_none(published: Any, tmp_path: Path, base: str, message: str) -> None:
    (tmp_path / "cache" / "version").write_text("a file")
    assert_refused(message, base)
    assert_refused(message.replace("model folder", "adapter folder"), "org/tiny-bert", adapters=[base])


def test_a_snapshot_without_its_weights(published: Any, tmp_path: Path) -> None:
    """The client returns a snapshot with only the configuration downloaded."""
    (tmp_path / "half").mkdir()
    (tmp_path / "half" / "config.json").write_text((tmp_path / "trunk" / "config.json").read_text())
    _publish(tmp_path / "cache", "org/half", tmp_path / "half")
    assert_refused("cannot be loaded: Error no file named", "org/half")


class _Hub:
    """A replacement of the hub's client that records the requests."""

    def __init__(self, folder: Path, names: list[str]) -> None:
        self.folder, self.asked = folder, list[dict[str, Any]]()
        folder.mkdir()
        for name in names:
            (folder / name).write_text("{}")

    def __call__(self, hub_id: str, **options: Any) -> str:
        assert hub_id == "org/name"
        self.asked.append(options)
        return str(self.folder)


@pytest.mark.parametrize(("weights", "calls"), [("model.safetensors", 1), ("pytorch_model.bin", 2)])
def test_only_one_format_of_the_weights_is_downloaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, weights: str, calls: int
) -> None:
    hub = _Hub(tmp_path / "snapshot", ["config.json", weights])
    monkeypatch.setattr(sources, "snapshot_download", hub)
    assert sources.find("org/name", "model").hub == "org/name"
    assert len(hub.asked) == calls
    assert ("*.safetensors" in hub.asked[-1]["allow_patterns"]) == (calls == 1)
    assert all(options["ignore_patterns"] == ["*/*"] for options in hub.asked)
    files = ["config.json", "optimizer.bin", "training_args.bin", "onnx/model.safetensors", "tf_model.h5", "pytorch_model.bin"]
    options = {name: hub.asked[-1][name] for name in ("allow_patterns", "ignore_patterns")}
    wanted = filter_repo_objects(files, **options)
    assert list(wanted) == ["config.json", "pytorch_model.bin"][:calls]
    sources.find("org/name", "adapter")
    assert "ignore_patterns" not in hub.asked[-1]


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (GatedRepoError, "it is gated: request access"),
        (RepositoryNotFoundError, "it does not exist, or it is private"),
        (RevisionNotFoundError, "it has no revision 'v1': expected a branch, a tag or a commit"),
        (requests.exceptions.ProxyError, "the hub id is not available: broken"),
    ],
)
def test_answers_of_the_hub(monkeypatch: pytest.MonkeyPatch, error: Any, message: str) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        hub = issubclass(error, HfHubHTTPError)
        raise error("broken", response=requests.Response()) if hub else error("broken")

    monkeypatch.setattr(sources, "snapshot_download", refuse)
    assert_refused(message, "org/name@v1")


def test_the_environment_names_the_cache(published: Any, tmp_path: Path) -> None:
    """In a separate process, because the hub's client reads its settings at import."""
    code = (
        "from exporter.checkpoints.sources import find\n"
        "print(find('org/tiny-bert', 'model').folder, find('org/all', 'adapter').folder)\n"
        "find('org/nothing', 'model')"
    )
    environment = {**os.environ, "HF_HUB_CACHE": str(tmp_path / "cache"), "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)}
    result = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, encoding="utf-8", cwd=tmp_path)
    folders = [tmp_path / "cache" / f"models--org--{name}" / "snapshots" / COMMIT for name in ("tiny-bert", "all")]
    assert result.stdout.split() == [str(folder) for folder in folders]
    assert f"it is not in the local cache {tmp_path / 'cache'} and HF_HUB_OFFLINE is set" in result.stderr
