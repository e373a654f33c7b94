"""Advice on a tiny model, against PyTorch for every drop and against all combinations of drops."""

from __future__ import annotations

import contextlib
import errno
import functools
import itertools
import json
import shlex
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from matplotlib.figure import Figure

from exporter.advise.advise import advise
from exporter.advise.combinations import Branch, Combination, Templates
from exporter.advise.measurement_files import only_run, replace_arrays, replace_text
from exporter.advise.measurements import Measurements
from exporter.advise.metrics import Estimate, estimates
from exporter.advise.picture import save_picture
from exporter.advise.read import read
from exporter.advise.request import Request
from exporter.advise.result import Advice
from exporter.advise.text import lines
from exporter.checkpoints.load import load
from exporter.cli.main import main
from exporter.errors import ExportError
from exporter.planning.make_plan import make_plan
from runtime.bundle import read_manifest
from tests.helpers.advice_cases import FUSION, LAYERS, TASKS, accuracy, cost, save_model, write_labels
from tests.helpers.sweep import swept
from tests.helpers.tiny_models import inputs, reference, run_graph

SHAPE = (2, 12)
TEXTS = 150
DROPS = range(LAYERS + 1)


@dataclass(frozen=True)
class Case:
    """A model, its labelled texts, and the folder of their measurements."""

    model: Any
    request: Request
    folder: Path

    @property
    def measured(self) -> Path:
        return self.folder / self.request.key()


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Case]:
    """Times are counted in the graph of each combination, so that the best one does not depend on the machine.

    Each graph is compiled once.
    """
    known: dict[str, float] = {}
    graphs: dict[str, ir.Model] = {}
    compile_branches = Templates.compile

    def compiled(self: Templates, branches: Mapping[str, Branch]) -> ir.Model:
        key = f"{self._folder} {branches}"
        if key not in graphs:
            graphs[key] = compile_branches(self, branches)
        return graphs[key].clone()

    def seconds(self: Measurements, wanted: Sequence[Combination], _: Combination, shape: tuple[int, int]) -> dict[str, float]:
        for each in wanted:
            if str(each) not in known:
                known[str(each)] = cost(self._templates.compile(each.branches).graph, shape)
        return {str(each): known[str(each)] for each in wanted}

    folder = tmp_path_factory.mktemp("advise")
    model = save_model(folder / "model")
    evaluation = {task: str(path) for task, path in write_labels(model, folder, TEXTS).items()}
    fusion = folder / "fusion"
    model.save_adapter_fusion(str(fusion), FUSION, with_head=FUSION)
    request = Request(evaluation, str(folder / "model"), tasks=TASKS, shape=SHAPE, max_loss=0.05, threads=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Measurements, "seconds", seconds)
        patch.setattr(Templates, "compile", compiled)
        yield Case(model, request, folder / "advice")


@pytest.fixture(scope="module")
def advice(case: Case) -> Advice:
    return advise(case.request, case.folder)


@pytest.fixture(scope="module")
def templates(case: Case, advice: Advice) -> Templates:
    plan = make_plan(load(case.request.model, None, (), (), None), list(TASKS), 0)
    return Templates(plan, None, case.measured / "all", {1: case.measured / "keep1"})


def _expected(case: Case, feeds: Mapping[str, np.ndarray]) -> dict[Branch, np.ndarray]:
    from adapters.composition import Fuse

    setups = {task: Fuse("a", "b") if task == FUSION else task for task in TASKS}
    return {Branch(task, drop): reference(case.model, setups[task], feeds, drop, task) for task in TASKS for drop in DROPS}


def _run(templates: Templates, branches: Mapping[str, Branch], feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    with templates.session(branches, 1) as (session, names):
        found = session.run(list(names), {each.name: feeds[each.name] for each in session.get_inputs()})
    return dict(zip(branches, found, strict=True))


def test_every_combination_equals_pytorch(case: Case, templates: Templates) -> None:
    feeds = inputs((3, 7))
    expected = _expected(case, feeds)
    ones = [{task: 1} for task in TASKS]  # the next test has all drops of a task
    mixed = [dict(zip(TASKS, drops, strict=True)) for drops in itertools.product(DROPS, repeat=len(TASKS))][::25]
    for drops in [*ones, *mixed]:
        for task, found in _run(templates, Combination(drops).branches, feeds).items():
            np.testing.assert_allclose(found, expected[Branch(task, drops[task])], atol=1e-5, err_msg=str(drops))


def test_one_graph_has_all_drops_of_a_task(case: Case, templates: Templates) -> None:
    feeds = inputs((3, 7))
    expected = _expected(case, feeds)
    for task in TASKS:
        branches = {str(each): each for each in expected if each.task == task}
        for name, found in _run(templates, branches, feeds).items():
            np.testing.assert_allclose(found, expected[branches[name]], atol=1e-5, err_msg=name)


def test_metrics_are_those_of_pytorch(case: Case, advice: Advice) -> None:
    for task, table in advice.tasks.items():
        expected = {drop: accuracy(case.model, task, drop, Path(case.request.evaluation[task])) for drop in DROPS}
        assert {drop: each.metric for drop, each in table.by_drop.items()} == pytest.approx(expected), task
        assert table.texts == TEXTS
    assert list(advice.tasks[FUSION].by_members) == [1]
    assert list(advice.tasks[FUSION].by_members[1]) == [0, 1]


@pytest.fixture(scope="module")
def seconds(templates: Templates) -> Callable[[Mapping[str, int]], float]:
    """The seconds of a combination of drops, counted in its graph."""

    @functools.cache
    def found(*drops: int) -> float:
        return cost(templates.compile(Combination(dict(zip(TASKS, drops, strict=True))).branches).graph, SHAPE)

    return lambda drops: found(*drops.values())


@pytest.mark.parametrize("max_loss", [0.3, *swept(0.05)])
def test_the_choice_is_the_best_of_all_drops(
    case: Case, advice: Advice, seconds: Callable[[Mapping[str, int]], float], max_loss: float
) -> None:
    found = advise(replace(case.request, max_loss=max_loss, keep_fused=[]), case.folder)
    losses = {task: {drop: each.loss for drop, each in table.by_drop.items()} for task, table in advice.tasks.items()}
    within = [
        dict(zip(TASKS, drops, strict=True))
        for drops in itertools.product(DROPS, repeat=len(TASKS))
        if all(losses[task][drop] <= max_loss for task, drop in zip(TASKS, drops, strict=True))
    ]
    best = min(map(seconds, within))
    assert found.estimated.combination.drops in within
    # Predictions of such small graphs are within 2 %, and times that differ by 1 % count as equal.
    assert seconds(found.estimated.combination.drops) <= 1.03 * best


@pytest.mark.sweep
def test_the_printed_command_exports_the_choice(case: Case, advice: Advice, tmp_path: Path, capsys: Any) -> None:
    found = advise(replace(case.request, max_loss=0.3), case.folder)
    assert found.chosen is not None
    words = shlex.split(found.command)
    assert words[:3] == ["python", "-m", "exporter"]
    assert "\n".join(lines(found)).endswith(found.command)
    with contextlib.chdir(tmp_path):
        assert main([*words[3:], "--quiet"]) == 0
        manifest = read_manifest(tmp_path / "onnx-advised")
        feeds = inputs((3, 7))
        logits = run_graph(tmp_path / "onnx-advised", feeds)
    assert {name: entry.drop for name, entry in manifest.variants[0].tasks.items()} == found.chosen.combination.drops
    expected = _expected(case, feeds)
    for task, drop in found.chosen.combination.drops.items():
        if task != FUSION or found.chosen.combination.keep is None:
            np.testing.assert_allclose(logits[task], expected[Branch(task, drop)], atol=1e-5)


def test_few_texts_are_said_instead_of_a_choice(case: Case, advice: Advice, monkeypatch: pytest.MonkeyPatch) -> None:
    """As if no prediction had changed at any drop: even so, 150 texts do not show a loss of at most 1 %."""

    def unchanged(kind: str, by_drop: list[np.ndarray]) -> list[Estimate]:
        return estimates(kind, [by_drop[0]] * len(by_drop))

    monkeypatch.setattr("exporter.advise.advise.estimates", unchanged)
    found = advise(replace(case.request, max_loss=0.01), case.folder)
    assert (found.chosen, found.command) == (None, "")
    assert found.reason.startswith("too few texts to choose: ")
    assert f"on {TEXTS} texts, about 300 are needed" in found.reason
    text = "\n".join(lines(found))
    assert "nothing is chosen: too few texts" in text
    assert "python -m exporter" not in text
    assert advise(replace(case.request, max_loss=0.021), case.folder).chosen is not None


def test_a_latency_takes_the_least_loss(case: Case, advice: Advice) -> None:
    fastest, slowest = (each(point.seconds for point in advice.front) for each in (min, max))
    within = advise(replace(case.request, max_loss=None, latency=(fastest + slowest) / 2), case.folder)
    assert within.nearest.seconds <= (fastest + slowest) / 2
    never = advise(replace(case.request, max_loss=None, latency=fastest / 2), case.folder)
    assert never.chosen is None
    assert never.reason.startswith("no combination takes at most")


def test_a_second_run_measures_nothing(case: Case, advice: Advice, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Templates, "compile", None)
    assert advise(case.request, case.folder) == advice


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no locks of folders")
def test_two_runs_do_not_measure_at_once(case: Case, advice: Advice) -> None:
    with only_run(case.measured), pytest.raises(ExportError, match=r"another run of the same request measures in .*: wait for"):
        advise(case.request, case.folder)
    assert advise(case.request, case.folder) == advice


def test_measurements_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    for write in (functools.partial(replace_text, text=""), functools.partial(replace_arrays, arrays={})):
        with pytest.raises(ExportError, match=r"times\.json cannot be written: Not a directory; after that is mended"):
            write(tmp_path / "file" / "times.json")
    with pytest.raises(ExportError, match="cannot be written"), only_run(tmp_path / "file" / "own"):
        pass


def test_a_graph_that_cannot_be_written(templates: Templates, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("exporter.advise.combinations.ir.save", full)
    branches = Combination(dict.fromkeys(TASKS, 0)).branches
    with (
        pytest.raises(ExportError, match=r"cannot be written: No space left on device; after that is mended"),
        templates.session(branches, 1),
    ):
        pass


def test_an_interrupted_run_continues(case: Case, templates: Templates, advice: Advice, tmp_path: Path) -> None:
    """An array in which the last batch of texts is missing is completed by that batch."""
    data, branches = read(case.request), [Branch("a", drop) for drop in DROPS]
    with np.load(case.measured / "task0.npz") as complete:
        done, sums = complete["done"], complete["sums"]
    last = list(data.texts["a"].batches[-1].rows)
    done[last], sums[:, last] = False, np.nan
    np.savez(tmp_path / "task0.npz", done=done, sums=sums)
    again = Measurements(tmp_path, data.plan, templates, 1)
    found = again.sums(data.plan.tasks[0], branches, data.texts["a"], data.labels["a"])
    with np.load(case.measured / "task0.npz") as complete:
        np.testing.assert_array_equal(found, complete["sums"])


def test_the_picture_and_the_file(case: Case, advice: Advice, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Figure] = []
    save = Figure.savefig

    def keep(self: Figure, *given: Any, **more: Any) -> None:
        drawn.append(self)
        save(self, *given, **more)

    monkeypatch.setattr(Figure, "savefig", keep)
    assert save_picture(advice, tmp_path / "front.png")
    assert (tmp_path / "front.png").read_bytes().startswith(b"\x89PNG")
    # Between two points of the front, what can be kept is what the faster one keeps.
    (stairs,) = [each for each in drawn[0].axes[0].lines if each.get_drawstyle() == "steps-pre"]
    assert np.asarray(stairs.get_xdata()).tolist() == sorted((1e3 * point.seconds for point in advice.front), reverse=True)
    with pytest.raises(ExportError, match="cannot be written"):
        save_picture(advice, tmp_path / "missing" / "front.png")
    saved = json.loads(json.dumps(advice.to_dict()))
    assert saved["tasks"]["a"]["by_drop"]["0"]["loss"] == 0
    assert [point["loss"] for point in saved["front"]] == sorted(point["loss"] for point in saved["front"])


def test_the_command_line(case: Case, advice: Advice, capsys: pytest.CaptureFixture[str]) -> None:
    request = case.request
    arguments = [word for task, file in request.evaluation.items() for word in ("--evaluation", f"{task}={file}")]
    arguments += ["--model", str(request.model), "--tasks", 'a,b,tags,"a,b"', "--shape", "2x12", "--threads", "1", "--quiet"]
    status = main(["advise", *arguments, "--max-loss", "5%", "--output", str(case.folder)])
    printed = capsys.readouterr().out
    assert status == (0 if advice.chosen else 1)
    assert "\n".join(lines(advice)) in printed
    assert json.loads((case.folder / "advice.json").read_text(encoding="utf-8"))["reason"] == advice.reason
    assert (case.folder / "pareto.png").is_file()


def test_the_default_shape_is_one_that_the_model_takes(case: Case) -> None:
    assert read(replace(case.request, shape=None)).shape == (1, 48)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "add --evaluation TASK=FILE for each task"),
        (["--evaluation", "a.jsonl"], "--evaluation must be TASK=FILE"),
        (["--evaluation", "a=a.jsonl", "--evaluation", "a=b.jsonl"], "names the task 'a' twice"),
        (["--evaluation", "a=missing.jsonl"], "missing.jsonl"),
        (["--evaluation", "c=a.jsonl"], "unknown task 'c' in evaluation; tasks: a, b, tags"),
        (["--evaluation", "a=plain.txt"], "the texts of the task 'a' have no labels"),
        (["--evaluation", "a=same.jsonl"], "expected labels of several kinds for the task 'a'"),
        (["--evaluation", "a=other.jsonl"], "other.jsonl, line 1: "),
        (["--evaluation", "tags=a.jsonl"], "a list of 2 labels, one per word between white space"),
        (["--evaluation", "a=a.jsonl", "--shape", "64"], "must be BATCHxLENGTH, such as 1x64, found 64"),
        (["--evaluation", "a=a.jsonl", "--shape", "1x64"], "takes lengths up to 48, found the shape 1x64: pass --shape 1x48"),
        (["--evaluation", "a=a.jsonl", "--max-loss", "0"], "must be a share above 0"),
        (["--evaluation", "a=a.jsonl", "--max-loss", "1"], "must be a share above 0"),
        (["--evaluation", "a=a.jsonl", "--latency", "20"], "must be a time with its unit"),
        (["--evaluation", "a=a.jsonl", "--max-drop", "9"], "drop must be from 0 to 2"),
        (["--evaluation", "a=a.jsonl", "--target", "cuda"], "target must be one of portable, cpu"),
        (["--evaluation", "a=a.jsonl", "--keep-fused", "2"], "no task with evaluation texts is a fusion"),
        (["--evaluation", "a=a.jsonl", "--threads", "0"], "threads must be at least 1"),
        (["--evaluation", "a=a.jsonl", "--model", "nowhere"], "there is no model folder 'nowhere'"),
        (["--evaluation", "a=a.jsonl", "--output", "a.jsonl"], "a.jsonl"),
    ],
)
def test_bad_input(case: Case, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], message: str) -> None:
    rows = {"a": ["0", "1"], "same": ["1", "1"], "other": ['"good"', "1"]}
    for name, labels in rows.items():
        text = "".join(f'{{"text": "Berlin is", "label": {label}}}\n' for label in labels)
        (tmp_path / f"{name}.jsonl").write_text(text, encoding="utf-8")
    (tmp_path / "plain.txt").write_text("Berlin is\n", encoding="utf-8")
    before = sorted(tmp_path.iterdir())
    with contextlib.chdir(tmp_path):
        try:
            status = main(["advise", "--model", str(case.request.model), "--shape", "1x12", *options, "--quiet"])
        except SystemExit as stop:
            status = int(stop.code or 0)
    printed = capsys.readouterr()
    assert status == 2
    assert printed.out == ""
    assert printed.err.startswith("error: ")
    assert message in printed.err
    assert printed.err.count("\n") == 1
    assert sorted(tmp_path.iterdir()) == before
