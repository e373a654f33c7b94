"""The examples in Python run on tiny bundles; exports as far as the trace, which tests/exporter has."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import runtime
from runtime.bundle import TaskEntry, read_manifest
from tests.helpers.doc_sources import write_sources
from tests.helpers.runtime_bundles import ROUTED, TASKS, keep_tasks, rewrite, variant, write_bundle, write_routed

FOLDER = Path(__file__).parents[2] / "examples" / "python"


def example(name: str) -> Any:
    """The module of an example, which is no package."""
    spec = importlib.util.spec_from_file_location(f"example_{name}", FOLDER / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class _Reached(Exception):  # noqa: N818 - not an error: the point to which an export runs
    """The export has come to the trace."""


@pytest.fixture
def traced(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The task groups that exports reach, which end there."""
    found: list[Any] = []

    def reached(*arguments: Any) -> None:
        found.extend(arguments)
        raise _Reached

    monkeypatch.setattr("exporter.variant.trace_group", reached)
    monkeypatch.setattr("exporter.export_tasks.with_padding_side", lambda tokenizer, *_: (tokenizer, False))
    return found


def test_a_router_runs_what_the_first_label_asks_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_routed(tmp_path / "router")
    predictor = runtime.load(folder, provider="cpu")
    texts = ["a text", "another one", "the third"]
    alone = predictor.predict(texts)
    first = [each.label for each in alone["topic"]]
    module = example("lora_router")
    found = module.route(predictor, texts, "topic", {str(first[0]): ["flags", "stars"]})
    for row, predictions in enumerate(found):
        assert list(predictions) == (["topic", "flags", "stars"] if first[row] == first[0] else ["topic"])
        for name, prediction in predictions.items():
            assert prediction.scores == pytest.approx(alone[name][row].scores, abs=1e-5)
    module.main([str(folder), "--first", "topic", "--text", texts[0], "--skip", str(first[0])])
    assert capsys.readouterr().out == f"{texts[0]}\ttopic={first[0]}\n"


def test_the_nearest_texts_come_first(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_routed(tmp_path / "onnx")
    task = TaskEntry("topic", "sentence_embedding", (), ("topic",), "search", 3, {})
    keep_tasks(folder, task)
    rewrite(folder, variants=(replace(read_manifest(folder).variants[0], routed=ROUTED),))
    corpus = ["the film is fine", "a new phone", "rain in the north"]
    (tmp_path / "texts.txt").write_text("\n".join(corpus), encoding="utf-8")
    given = [str(folder), "--task", "topic", "--corpus", str(tmp_path / "texts.txt"), "--query", corpus[1]]
    example("embeddings").main(given)
    lines = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert lines[0] == ["1.000", corpus[1]]
    assert sorted(text for _, text in lines) == sorted(corpus)
    cosines = [float(cosine) for cosine, _ in lines]
    assert cosines == sorted(cosines, reverse=True)


@pytest.mark.parametrize(("target", "expected"), [(1e-9, 5), (1e9, 2)])
def test_the_drop_follows_the_target(tmp_path: Path, target: float, expected: int) -> None:
    folder = write_bundle(tmp_path / "onnx")
    (folder / "model_drop2.onnx").write_bytes((folder / "model.onnx").read_bytes())
    rewrite(folder, variants=(variant(TASKS), variant(TASKS, 2, "model_drop2.onnx")))
    predictor = runtime.load(folder, provider="cpu", policy=runtime.LatencyTarget(target, window=2))
    counts = example("dynamic_drop").drops_under_load(predictor, clients=2, calls=6)
    assert counts.total() == 12
    assert counts[expected] >= 8


def test_the_drops_are_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    example("dynamic_drop").main([str(write_bundle(tmp_path / "onnx")), "--clients", "2", "--calls", "2"])
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(":")[0] for line in lines] == ["1 clients", "2 clients", "1 clients"]
    assert lines[1].endswith("drop 5: 4 calls")


def test_a_language_is_under_each_task(tmp_path: Path, traced: list[Any]) -> None:
    write_sources(tmp_path, ["my-base", "adapters"], layers=2)
    module = example("language_and_task")
    given = [str(tmp_path / "my-base"), "--language", str(tmp_path / "adapters" / "rte"), "--drop", "1"]
    given += ["--task", str(tmp_path / "adapters" / "sst2"), "--task", str(tmp_path / "adapters" / "mnli")]
    with pytest.raises(_Reached):
        module.main([*given, "--output", str(tmp_path / "onnx")])
    (group, *_) = traced
    assert [task.name for task in group.tasks] == ["sst2", "mnli"]
    assert all("rte" in str(task) for task in group.tasks)


def test_members_are_pruned(tmp_path: Path, traced: list[Any]) -> None:
    write_sources(tmp_path, ["my-fusion", "texts.jsonl"], layers=1)
    given = [str(tmp_path / "my-fusion"), "--calibration", str(tmp_path / "texts.jsonl"), "--keep", "1"]
    with pytest.raises(_Reached):
        example("fusion_pruning").main([*given, "--output", str(tmp_path / "onnx")])
    assert traced


def test_every_example_is_tested_and_shown() -> None:
    names = {path.stem for path in FOLDER.glob("*.py")}
    assert names == {"lora_router", "embeddings", "dynamic_drop", "language_and_task", "fusion_pruning"}
    page = (FOLDER.parents[1] / "docs" / "examples.md").read_text(encoding="utf-8")
    assert all(f"(../examples/python/{name}.py)" in page for name in names)
