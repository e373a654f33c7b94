"""`split=True` with slots: tasks that were added to a predictor, over states, a cache and cascades, against PyTorch."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

import runtime
from exporter import add, export, task
from exporter.plan import Plan
from exporter.split.split_variants import _counterpart
from runtime.bundle import read_manifest
from runtime.command_line import main
from runtime.slots.layout import SlotLayout
from runtime.slots.task_file import own_weights
from tests.helpers.added_tasks import NEW, OWN, TASKS, only
from tests.helpers.small_vocabulary import VOCABULARY
from tests.helpers.tiny_models import assert_parity, bert_config, inputs, reference, tiny_model, tokenizer

TEXTS = ["a fast phone", "an old one, and a longer text", "a fast phone"]


@pytest.fixture(scope="module")
def model() -> Any:
    return tiny_model(TASKS, bert_config(VOCABULARY, layers=3))


@pytest.fixture(scope="module")
def folder(model: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("split_slots") / "onnx"
    export(model, tokenizer(), tasks=OWN, drop=(2, 0), slots=2, split=True, output=folder)
    return folder


@pytest.fixture(scope="module")
def files(model: Any, folder: Path) -> dict[str, Path]:
    others = {name: only(name, config=bert_config(VOCABULARY, layers=3)) for name in NEW}
    return {name: task(folder, output=folder.parent / f"{name}.task", model=other).output for name, other in others.items()}


@pytest.fixture
def predictor(folder: Path, files: dict[str, Path]) -> runtime.Predictor:
    found = runtime.load(folder, provider="cpu", threads=1, state_cache=10**7)
    for name, file in files.items():
        found.add_task(name, file)
    return found


@pytest.mark.parametrize("drop", [2, 0])
def test_added_tasks_over_states_equal_pytorch(model: Any, predictor: runtime.Predictor, drop: int) -> None:
    """More tasks of a structure than slots, and tasks of the bundle among them."""
    feeds = inputs((5, 13), VOCABULARY)
    states = predictor.run_trunk(feeds, drop)
    for names in (NEW, ("topic", "tone"), ("stars",)):
        found = predictor.run_branches(states, names)
        assert list(found) == list(names)
        assert found.drop == drop
        for name, logits in found.items():
            assert_parity(logits, reference(model, name, feeds, drop))


def _hits(predictor: runtime.Predictor) -> int:
    assert predictor.state_cache is not None
    return predictor.state_cache.hits


def test_added_tasks_use_the_cache_of_states(model: Any, predictor: runtime.Predictor) -> None:
    feeds = inputs((4, 9), VOCABULARY)
    predictor.run(feeds, drop=2)  # tasks of the bundle fill the cache
    for hits in (4, 8):
        for name, logits in predictor.run(feeds, ["spam", "mood"], drop=2).items():
            assert_parity(logits, reference(model, name, feeds, 2))
        assert _hits(predictor) == hits
    other = {name: np.concatenate([array, inputs((1, 9), VOCABULARY, 9)[name]]) for name, array in feeds.items()}
    names, rows = ["news", "tone", "stars", "topic"], [4, 0, 0, 3]
    for name, row, logits in zip(names, rows, predictor.run_routed(other, names, rows, drop=2), strict=True):
        assert_parity(logits, reference(model, name, other, 2)[row])
    assert _hits(predictor) == 12


def test_a_cascade_of_added_tasks_answers_as_its_variants(predictor: runtime.Predictor) -> None:
    names = ["news", "tone"]
    found = predictor.predict(TEXTS, names, cascade=[(2, 0.5), (0, 0)])
    for name in names:
        for number, row in enumerate(found[name]):
            (alone,) = predictor.predict([TEXTS[number]], [name], drop=row.drop)[name]
            assert row.label == alone.label
            assert row.scores == pytest.approx(alone.scores, abs=1e-5)
    assert len({row.drop for rows in found.values() for row in rows}) > 1


def test_the_command_runs_an_added_task(
    predictor: runtime.Predictor, folder: Path, files: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "texts").write_text("\n".join(TEXTS), encoding="utf-8")
    states = str(tmp_path / "states")
    assert main([str(folder), "encode", str(tmp_path / "texts"), "--output", states, "--provider", "cpu"]) == 0
    capsys.readouterr()
    given = [f"new={files['spam']}", f"other={files['tone']}"]
    options = ["--provider", "cpu", *(part for each in given for part in ("--task", each))]
    assert main([str(folder), "run", states, *options]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    expected = predictor.predict(TEXTS, ["spam"], drop=2)["spam"]
    assert [line["predictions"]["new"]["label"] for line in lines] == [row.label for row in expected]
    assert set(lines[0]["predictions"]) == {*OWN, "new", "other"}
    assert main([str(folder), "run", states, "--provider", "cpu", "--task", "new"]) == 2
    assert "--task: expected NAME=FILE, found 'new'" in capsys.readouterr().err


@pytest.mark.sweep
def test_added_folders_keep_the_graph(model: Any, folder: Path, files: dict[str, Path], tmp_path: Path) -> None:
    shutil.copytree(folder, grown := tmp_path / "grown")
    states = runtime.load(folder, provider="cpu").run_trunk(feeds := inputs((2, 7), VOCABULARY))
    add(grown, model=only("news", config=bert_config(VOCABULARY, layers=3)))
    assert read_manifest(grown).splits["model.onnx"].slots == "branches_slots.onnx"
    predictor = runtime.load(grown, provider="cpu")
    predictor.add_task("spam", files["spam"])
    for name, logits in predictor.run_branches(states, ["spam", "news", "topic"]).items():
        assert_parity(logits, reference(model, name, feeds, 2))


def test_the_comparison_has_tasks_of_the_bundle_in_slots(folder: Path) -> None:
    """Invented weights give logits of any size, which int8 amplifies beyond its tolerance."""
    layout = SlotLayout.from_bytes((folder / "model_slots.json").read_bytes(), folder)
    found = _counterpart(folder, "model_slots.onnx", cast(Plan, SimpleNamespace(drop=2, tasks=OWN)))
    assert found.tasks == layout.total == 4
    for name in OWN:
        weights = own_weights((folder / layout.own[name]).read_bytes(), name, layout, 2)
        for key, array in weights.read().items():
            assert all(np.array_equal(found.weights[key][slot], array) for slot in range(layout.slots))
    assert set(found.weights) == {weight.name for weight in layout.weights}
    assert _counterpart(folder, "model_routed.onnx", cast(Plan, SimpleNamespace(drop=2, tasks=OWN))).tasks == len(OWN)
