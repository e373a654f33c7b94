"""`push`: what is published, the model card, and each refusal, against an endpoint on 127.0.0.1."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

import exporter
from exporter.hub.card import MARKER, card
from runtime.bundle import read_manifest
from tests.helpers.fake_hub import FakeHub, module
from tests.helpers.forked import run_forked
from tests.helpers.runtime_bundles import keep_tasks, task, write_bundle

ROOT = Path(__file__).parents[3]


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    with FakeHub().served() as fake:
        yield fake


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    folder = write_bundle(tmp_path / "bundle")
    (folder / ".env").write_text("SECRET=1")
    return folder


def run(hub: FakeHub, home: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    others = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    environment = others | hub.environment(str(home)) | {"HF_TOKEN": "hf_test"} | variables
    call = [sys.executable, *module(arguments[0], variables), *arguments[1:]]
    return run_forked(call, cwd=ROOT, env=environment, capture_output=True, forget="huggingface_hub")


def test_a_pushed_bundle_loads_from_the_hub(hub: FakeHub, bundle: Path, tmp_path: Path) -> None:
    arguments = ("exporter", "push", str(bundle), "org/tasks", "--private", "--base-model", "org/base")
    done = run(hub, tmp_path / "home", *arguments, "--json")
    assert (done.returncode, done.stderr) == (0, "")
    found = json.loads(done.stdout)
    assert found["url"] == f"{hub.url}/org/tasks"
    published = hub.repositories["org/tasks"]["main"]
    listed = {path.name for path in bundle.iterdir()} - {".env"}
    assert set(published) == listed | {"README.md"}
    assert all(published[name] == (bundle / name).read_bytes() for name in listed)
    assert hub.created[0]["private"] is True
    assert not any("torch" in line for line in run(hub, tmp_path / "home", "exporter", "push", "--help").stderr.splitlines())
    loaded = run(hub, tmp_path / "other", "runtime", "org/tasks", "--text", "good", "--provider", "cpu")
    here = run(hub, tmp_path / "other", "runtime", str(bundle), "--text", "good", "--provider", "cpu")
    assert (loaded.returncode, loaded.stdout) == (0, here.stdout)
    snippet = re.search(r"```python\n(.*?)```", published["README.md"].decode(), re.DOTALL)
    assert snippet
    assert run(hub, tmp_path / "other", "runtime", "org/tasks", "--verify").returncode == 0
    code = subprocess.run(
        [sys.executable, "-c", snippet[1]],
        cwd=ROOT,
        env={**os.environ, "HF_HUB_OFFLINE": "0", **hub.environment(str(tmp_path / "other"))},
        capture_output=True,
        encoding="utf-8",
    )
    assert (code.returncode, code.stderr) == (0, "")
    assert code.stdout.startswith("topic Prediction(")


def test_a_pull_request_and_a_card_of_the_author(hub: FakeHub, bundle: Path, tmp_path: Path) -> None:
    hub.repositories["org/tasks"] = {"main": {"README.md": b"my own card"}}
    done = run(hub, tmp_path / "home", "exporter", "push", str(bundle), "org/tasks", "--create-pr")
    assert done.returncode == 0, done.stderr
    assert f"{hub.url}/org/tasks/discussions/1" in done.stdout
    assert "the README.md of the repository is kept, because no push wrote it" in done.stdout
    assert hub.repositories["org/tasks"]["main"] == {"README.md": b"my own card"}
    assert hub.repositories["org/tasks"]["refs/pr/1"]["README.md"] == b"my own card"
    hub.repositories["org/tasks"] = {"main": {"README.md": MARKER.encode()}}
    # Another cache: the branches of this endpoint have one commit each. Files of an earlier push leave, others stay
    earlier = {
        "adapterdrop.json": b'{"files": {"old.onnx": "", "gone.onnx": "", "README.md": ""}}',
        "old.onnx": b"",
        "notes": b"",
    }
    hub.repositories["org/tasks"]["main"] |= earlier
    done = run(hub, tmp_path / "other", "exporter", "push", str(bundle), "org/tasks")
    assert done.returncode == 0
    assert "removed of an earlier push: old.onnx" in done.stdout
    published = hub.repositories["org/tasks"]["main"]
    assert b"## Tasks" in published["README.md"]
    assert set(published) == {path.name for path in bundle.iterdir()} - {".env"} | {"README.md", "notes"}


@pytest.mark.parametrize(
    ("change", "variables", "message"),
    [
        ("read_only", {}, "the token may not write there: use one with write permission for org, or open a pull request"),
        ("unauthorised", {}, "there is no token, or it is not valid: log in with `hf auth login`"),
        ("", {"HF_HUB_OFFLINE": "1"}, "org/tasks cannot be pushed: HF_HUB_OFFLINE is set: unset it to push"),
        ("", {"HF_ENDPOINT": "http://127.0.0.1:1"}, "the hub cannot be reached (ConnectionError)"),
    ],
)
def test_pushes_that_are_refused(
    hub: FakeHub, bundle: Path, tmp_path: Path, change: str, variables: dict[str, str], message: str
) -> None:
    if change:
        setattr(hub, change, True)
    done = run(hub, tmp_path / "home", "exporter", "push", str(bundle), "org/tasks", **variables)
    assert (done.returncode, done.stdout) == (2, "")
    assert message in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
    assert not hub.commits


@pytest.mark.parametrize(
    ("part", "status", "message"),
    [
        ("/upload/", 403, "the token may not write there"),
        ("/commit/", 409, "another commit was made at the same time (status 409); nothing was committed: push again later"),
        ("/commit/", 502, "the hub failed (status 502); nothing was committed"),
    ],
)
def test_a_hub_that_fails_midway(hub: FakeHub, bundle: Path, tmp_path: Path, part: str, status: int, message: str) -> None:
    hub.failing = part, status
    done = run(hub, tmp_path / "home", "exporter", "push", str(bundle), "org/tasks")
    assert (done.returncode, done.stdout) == (2, "")
    assert message in done.stderr.splitlines()[-1]
    assert not hub.commits


def test_private_is_not_ignored_for_a_public_one(hub: FakeHub, bundle: Path, tmp_path: Path) -> None:
    hub.repositories["org/tasks"] = {"main": {}}
    done = run(hub, tmp_path / "home", "exporter", "push", str(bundle), "org/tasks", "--private")
    assert done.returncode == 2
    assert "org/tasks exists and is public: make it private in its settings" in done.stderr
    assert not hub.commits


@pytest.mark.parametrize(
    ("repository", "base", "message"),
    [
        ("tasks", "", "expected the hub id of a repository, organisation/name, found 'tasks'"),
        ("org/tasks@v1", "", "found 'org/tasks@v1'"),
        ("org/../x", "", "found 'org/../x'"),
        ("org/tasks", "a b", "base model: expected a hub id, organisation/name, found 'a b'"),
    ],
)
def test_ids_that_cannot_be_pushed_to(bundle: Path, repository: str, base: str, message: str) -> None:
    with pytest.raises(exporter.ExportError, match=re.escape(message)):
        exporter.push(bundle, repository, base_model=base)


def test_damaged_bundles_are_not_pushed(bundle: Path, tmp_path: Path) -> None:
    (bundle / "model.onnx").write_bytes(b"x")
    with pytest.raises(exporter.ExportError, match=r"model\.onnx: truncated or altered"):
        exporter.push(bundle, "org/tasks")
    with pytest.raises(exporter.ExportError, match="not a bundle"):
        exporter.push(tmp_path / "nothing", "org/tasks")


def test_the_card(bundle: Path) -> None:
    manifest = read_manifest(bundle)
    text = card(manifest, {"model.onnx": 123_456_789, "config.json": 900}, "org/tasks", "org/base")
    head = yaml.safe_load(text.split("---")[1])
    assert head["library_name"] == "adapterdrop-onnx"
    assert head["base_model"] == "org/base"
    assert {"adapterdrop", "onnx", "multi-task", "fp32"} <= set(head["tags"])
    for part in ("`topic` | classification | sport, news, arts |", "| `model.onnx` | 123.5 MB |", "| 0.9 kB |", "1.0e-07"):
        assert part in text
    assert "base_model" not in card(manifest, {}, "org/tasks")


def test_names_do_not_break_the_card(bundle: Path) -> None:
    keep_tasks(bundle, task("a|b", "classification", ("<script>", "x|y", "new\nline", "`", "[l](http://x)"), ("logits",)))
    manifest = replace(read_manifest(bundle), versions={"peft": '1"\n---\nx: y'})
    text = card(manifest, {}, "org/tasks")
    row = next(line for line in text.splitlines() if "script" in line)
    assert "<script>" not in text
    assert row.count(" | ") == 4
    assert "[l](" not in row
    assert yaml.safe_load(text.split("---")[1])["tags"] == ["adapterdrop", "onnx", "onnxruntime", "peft", "fp32"]
