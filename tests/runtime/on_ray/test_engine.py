"""--engine ray: partitions of a folder in a local Ray that loses a worker, and folders in an object store."""

import json
import os
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

import runtime
from runtime.__main__ import main
from runtime.streams import ray_engine
from runtime.streams.partitions import Folder
from runtime.streams.read import format_of
from runtime.streams.records import Columns
from runtime.streams.sinks import SUFFIX, FileSink
from runtime.streams.work import Work, score
from tests.helpers.local_http import PATIENCE


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def write(folder: Path, counts: Mapping[str, int]) -> Path:
    for name, count in counts.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        lines = (json.dumps({"id": index, "text": f"{name} number {index}"}) for index in range(1, count + 1))
        (folder / name).write_text("\n".join(lines), encoding="utf-8")
    return folder


def call(bundle: Path, source: Path, target: Path, *more: str) -> int:
    arguments = ["--threads", "1", "--tasks", "topic", "--file", str(source), "--output", str(target), "--engine", "ray"]
    return main([str(bundle), *arguments, *more])


def workers() -> list[psutil.Process]:
    """The processes of the actors."""
    found = []
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):  # it has just ended
            if "PartitionScorer" in " ".join(process.cmdline()):
                found.append(process)
    return found


@pytest.mark.sweep
def test_a_killed_worker_costs_no_partition(
    ray: None, bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    counts = {f"part-{number}.jsonl": 3_000 for number in range(4)} | {"more/last.jsonl": 10}
    source, target = write(tmp_path / "in", counts), tmp_path / "out"
    killed: list[int] = []

    def kill() -> None:
        ends = time.monotonic() + PATIENCE
        while time.monotonic() < ends:
            begun = [path for path in target.rglob("*.jsonl") if path.stat().st_size > 100_000] if target.exists() else []
            if begun and (found := workers()):
                found[0].kill()
                killed.append(found[0].pid)
                return
            time.sleep(0.01)

    thread = threading.Thread(target=kill)
    thread.start()
    status = call(bundle, source, target, "--actors", "2", "--keep", "id", "--window", "64")
    thread.join()
    out, err = capsys.readouterr()
    assert status == 0, err
    assert killed
    assert "12,010 rows of 5 partitions, 0 broken, in " in out
    assert "(5 of 5 partitions)" in err
    for name, count in counts.items():
        assert [row["id"] for row in rows(target / f"{name}.jsonl")] == list(range(1, count + 1))


@pytest.mark.parametrize("dies", [False, pytest.param(True, marks=pytest.mark.sweep)])
def test_partitions_that_fail_are_named_and_done_later(
    ray: None, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], dies: bool
) -> None:
    class Faulty(ray_engine.PartitionScorer):
        """Dies of one partition, as without memory, and fails once for another, as a drive that is not there."""

        def _one(self, name: str) -> dict[str, Any]:
            if name == "dies.jsonl" and dies:
                os._exit(1)
            seen = Path(self._job.target.name) / f"_{name}"
            if name == "late.jsonl" and not seen.exists():
                seen.parent.mkdir(exist_ok=True)
                seen.touch()
                return {"status": "failed", "reason": "OSError: [Errno 5] Input/output error"}
            return super()._one(name)

    counts = {"a.jsonl": 5, "b.jsonl": 3, "dies.jsonl": 3, "late.jsonl": 4}
    source, target = write(tmp_path / "in", counts), tmp_path / "out"
    (source / "_SUCCESS").touch()
    (source / "b.jsonl").write_text('{"text": "one"}\n{"text": 2}\n{"text": "three"}\n', encoding="utf-8")
    with monkeypatch.context() as patch:
        patch.setattr(ray_engine, "PartitionScorer", Faulty)
        assert call(bundle, source, target) == 2
    err = capsys.readouterr().err
    assert "try 1 of 3: 1 partitions failed: late.jsonl: OSError: [Errno 5] Input/output error" in err
    last = err.splitlines()[-1]
    assert f"{1 + dies} of 4 partitions failed: " in last
    assert "b.jsonl: line 2: expected a text, or a list of two texts, found int 2" in last
    assert ("dies.jsonl: its worker died 3 times" in last) == dies
    assert "the others are done, and the same command runs these again" in last
    done = [target / f"{name}.jsonl.jsonl" for name in ("a", "late", *([] if dies else ["dies"]))]
    assert [len(rows(path)) for path in done] == [5, 4, *([] if dies else [3])]
    before = [path.stat().st_mtime_ns for path in done]
    assert call(bundle, source, target, "--skip-errors") == 0
    assert "15 rows of 4 partitions, 1 broken" in capsys.readouterr().out
    assert ["error" in row for row in rows(target / "b.jsonl.jsonl")] == [False, True, False]
    assert len(rows(target / "dies.jsonl.jsonl")) == 3
    assert [path.stat().st_mtime_ns for path in done] == before


def test_another_bundle_in_the_same_place_is_refused(bundle: Path, predictor: runtime.Predictor) -> None:
    folder = Folder.of("nowhere")
    manifest = runtime.load(bundle, provider="cpu").manifest
    job = ray_engine.Job(str(bundle), "cpu", runtime.Options(), Work(), manifest, folder, folder)
    ray_engine.PartitionScorer(job, None)
    with pytest.raises(runtime.BundleError, match="is another bundle on this machine"):
        ray_engine.PartitionScorer(replace(job, manifest=replace(manifest, opset=17)), None)


def test_addresses_are_read_and_written(predictor: runtime.Predictor, tmp_path: Path) -> None:
    """Through pyarrow, as s3://: the output is brought here, continued, and taken back."""
    pytest.importorskip("pyarrow.fs", reason="needs pyarrow, which the extra `test` installs")
    source, target = (Folder.of((tmp_path / name).as_uri() + "/") for name in ("in", "out"))
    write(tmp_path / "in", {"deep/a.jsonl": 5})
    assert source.partitions() == ["deep/a.jsonl"]
    form, work = format_of("deep/a.jsonl", None, Columns()), Work(("topic",))
    for count in (5, 7):  # the second time, lines have been added
        write(tmp_path / "in", {"deep/a.jsonl": count})
        with source.opened("deep/a.jsonl") as opened, target.output("deep/a.jsonl") as path:
            assert not path.is_relative_to(tmp_path / "out")
            with FileSink(path, work.settings(predictor.manifest, form)) as sink:
                assert sink.done.rows == (0 if count == 5 else 5)
                score(predictor, work, opened, form, "a", sink)
        assert [row["line"] for row in rows(tmp_path / "out" / "deep" / "a.jsonl.jsonl")] == list(range(1, count + 1))
        assert (tmp_path / "out" / "deep" / f"a.jsonl.jsonl{SUFFIX}").exists()
    with pytest.raises(runtime.InputError, match="cannot be opened"):
        Folder.of("nothing://here").partitions()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--file", "nowhere"], "nowhere: expected a folder with a file per partition, for --engine ray"),
        (["--file", "empty"], "suffixes txt, jsonl, csv, tsv or parquet, found none among 1 file(s)"),
        (["--file", "empty", "--actors", "0"], "--actors: expected a positive number, found 0"),
        (["--file", "empty", "--tasks", "mood"], "found 'mood'"),
        (["--file", "empty", "--task", "a=b"], "--engine ray: expected a folder for --output, and no --task"),
    ],
)
def test_wrong_use_is_refused_before_ray_starts(
    bundle: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "image.png").touch()
    assert main([str(bundle), *arguments, "--output", "out", "--engine", "ray"]) == 2
    assert message in capsys.readouterr().err
