"""run_routed(), and run() with a selection of tasks through the routed graph."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import runtime
from tests.helpers.runtime_bundles import ROUTED, expected, feeds, rewrite, write_bundle, write_routed

TASKS = ("topic", "flags", "stars")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_routed(tmp_path_factory.mktemp("routed") / "bundle")


@pytest.fixture(scope="module")
def predictor(bundle: Path) -> runtime.Predictor:
    return runtime.load(bundle, provider="cpu", threads=1)


def test_each_row_is_answered_by_its_task(predictor: runtime.Predictor) -> None:
    given = feeds(3)
    answers = predictor.run_routed(given, ["stars", "topic", "flags"])
    assert [len(answer) for answer in answers] == [1, 3, 2]
    for row, task in enumerate(("stars", "topic", "flags")):
        np.testing.assert_allclose(answers[row], expected(given)[task][row], rtol=1e-5, atol=1e-5)


def test_rows_may_repeat_and_be_left_out(predictor: runtime.Predictor) -> None:
    given = feeds(4)
    rows, tasks = [2, 2, 0, 2, 3], ["topic", "stars", "topic", "topic", "flags"]
    for row, task, answer in zip(rows, tasks, predictor.run_routed(given, tasks, rows=rows), strict=True):
        np.testing.assert_allclose(answer, expected(given)[task][row], rtol=1e-5, atol=1e-5)


class _Watched:
    """A session that records the number of rows of each run."""

    def __init__(self, session: Any, runs: list[int]) -> None:
        self.session = session
        self.runs = runs
        self.get_providers = session.get_providers

    def run(self, outputs: list[str], given: dict[str, Any]) -> Any:
        self.runs.append(len(given["task_ids"]))
        return self.session.run(outputs, given)


@pytest.mark.parametrize(("tasks", "runs"), [(["flags"], [2]), (["stars", "topic"], [4]), (TASKS, []), (None, [])])
def test_some_tasks_cost_what_they_need(predictor: runtime.Predictor, tasks: list[str] | None, runs: list[int]) -> None:
    seen: list[int] = []
    open_bundle = predictor._bundle
    graph = predictor.manifest.variant().routed
    sessions = {**open_bundle.sessions, graph: _Watched(open_bundle.sessions[graph], seen)}
    watched = replace(predictor, _bundle=replace(open_bundle, sessions=sessions))
    answers = watched.run(feeds(2), tasks)
    assert seen == runs
    assert list(answers) == list(tasks or TASKS)
    for task, answer in answers.items():
        np.testing.assert_allclose(answer, expected(feeds(2))[task], rtol=1e-5, atol=1e-5)


def test_predict_takes_the_same_way(predictor: runtime.Predictor) -> None:
    alone, among = predictor.predict(["good", "so so"], ["stars"]), predictor.predict(["good", "so so"])
    assert [row.value for row in alone["stars"]] == pytest.approx([row.value for row in among["stars"]], rel=1e-5)


@pytest.mark.parametrize(
    ("tasks", "options", "message"),
    [
        (["topic"], {}, r"tasks: expected one name for each of 2 row\(s\), found 1; use rows= to repeat"),
        (["topic"], {"rows": [0, 1]}, r"each of 2 row\(s\), found 1; give as many rows as tasks"),
        (["topic", "mood"], {}, "tasks: expected some of topic, flags, stars, found 'mood'"),
        ("topic", {}, "tasks: expected a list with one name per row, found str"),
        (["topic"], {"rows": [2]}, r"rows: expected numbers in 0\.\.1, found 2"),
        (["topic"], {"rows": [-1]}, r"rows: expected numbers in 0\.\.1, found -1"),
        (["topic"], {"rows": [True]}, "rows: expected a list of at least one row number"),
        ([], {"rows": []}, "rows: expected a list of at least one row number"),
        (["topic"], {"rows": [[0], [0, 1]]}, "rows: expected a list of at least one row number"),
        (["topic", "topic"], {"drop": 4}, "drop: this bundle was loaded with 5, found 4"),
    ],
)
def test_wrong_routes_are_named(predictor: runtime.Predictor, tasks: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(runtime.InputError, match=message):
        predictor.run_routed(feeds(2), tasks, **options)


def test_feeds_are_checked_as_in_run(predictor: runtime.Predictor) -> None:
    with pytest.raises(runtime.InputError, match="attention_mask: missing"):
        predictor.run_routed({"input_ids": feeds(1)["input_ids"]}, ["topic"])


def test_a_bundle_without_a_routed_graph_says_how_to_get_one(tmp_path: Path) -> None:
    predictor = runtime.load(write_bundle(tmp_path / "bundle"), provider="cpu")
    with pytest.raises(runtime.InputError, match="has no routed graph; export it again with `python -m exporter --routed`"):
        predictor.run_routed(feeds(2), ["topic", "stars"])


def _retype(model: onnx.ModelProto) -> None:
    model.graph.input[-1].type.tensor_type.shape.dim.add().dim_value = 1


def _rename(model: onnx.ModelProto) -> None:
    model.graph.node[-1].output[0] = model.graph.output[0].name = "answers"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_retype, r"input task_ids: expected tensor\(int64\) \[rows\], the graph has tensor\(int64\) \['rows', 1\]"),
        (_rename, r"outputs: expected logits \[rows, 3\], the graph has \{'answers'"),
    ],
)
def test_a_graph_that_is_not_the_manifests_is_refused(
    tmp_path: Path, change: Callable[[onnx.ModelProto], None], message: str
) -> None:
    folder = write_routed(tmp_path / "bundle")
    model = onnx.load(folder / ROUTED)
    change(model)
    if change is _retype:  # the nodes that read the input must still load
        model.graph.node.insert(0, onnx.helper.make_node("Flatten", ["task_ids"], ["flat_ids"], axis=0))
        one = onnx.numpy_helper.from_array(np.array([0]), "zeroth")
        model.graph.initializer.append(one)
        model.graph.node.insert(1, onnx.helper.make_node("Squeeze", ["flat_ids", "zeroth"], ["plain_ids"]))
        for node in model.graph.node[2:]:
            node.input[:] = ["plain_ids" if name == "task_ids" else name for name in node.input]
    onnx.save(model, folder / ROUTED)
    rewrite(folder)
    with pytest.raises(runtime.BundleError, match=message):
        runtime.load(folder, provider="cpu").prepare()
