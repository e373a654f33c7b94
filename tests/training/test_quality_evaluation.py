"""The evaluation of trained adapters through graphs: measured once, like the library, and summarised."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.helpers.tiny_quality import TASK, train_all
from training.quality import evaluate, tables
from training.quality.answers import FILE, Answers, accuracy, add_answers, digits, read_answers
from training.quality.graphs import read_test_set
from training.quality.results import Results, read_results
from training.quality.scores import Scores
from training.quality.train import Piece

_LABELS = ("x", "y")


def _evaluate(out: Path, *more: str) -> int:
    calls = ["--drops", "0,5", "--precisions", "fp32", "--texts", "6", "--cache", str(out.parent), "--threads", "1"]
    return evaluate.main([str(out), *calls, *more])


@pytest.mark.sweep
def test_adapters_are_measured_once_and_like_the_library(
    tmp_path: Path, base_model: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    assert train_all(out) == 0
    monkeypatch.setattr(evaluate, "base_model_folder", lambda _: base_model)
    assert _evaluate(out, "--limit-seconds", "-1") == 0
    assert "run the same command again" in capsys.readouterr().out
    assert _evaluate(out) == 0
    rows = read_answers(out / FILE)
    # At drop 0, the specialised adapter is the graph of drop 5.
    assert sorted((row.method, row.drop) for row in rows) == [
        *(("robust", 0), ("robust", 5), ("shared", 0), ("shared", 5)),
        *(("specialised", 5), ("standard", 0), ("standard", 5)),
    ]
    assert all(len(row.predictions) == 6 and row.difference is not None and row.difference < 1e-4 for row in rows)

    # One export for both drops; nothing is measured twice.
    assert len(list((out / "graphs").iterdir())) == 1
    monkeypatch.setattr(evaluate, "bundle", lambda *_: pytest.fail("exported again"))
    assert _evaluate(out, "--results", str(tmp_path / "results.jsonl")) == 0
    results = read_results(tmp_path / "results.jsonl")
    assert results.labels == {TASK: _LABELS}
    assert set(results.adapters) == {Piece(TASK, method, 0) for method in ("standard", "specialised", "robust", "shared")}
    assert "model name" not in str(results.run)
    assert tables.main([str(tmp_path / "results.jsonl"), "--picture", str(tmp_path / "curves.png")]) == 0
    printed = capsys.readouterr().out
    assert "| specialised | 97.1 % |" in printed
    assert "(83 % fewer)" in printed  # one adapter instead of six
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_more_texts_replace_fewer_and_half_a_line_is_ignored(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    assert read_answers(path) == []
    few, many = (Answers("t", "robust", 0, "fp32", 5, text) for text in ("01", "0110"))
    other = Answers("t", "robust", 1, "fp32", 5, "1")
    add_answers(path, [few, other])
    add_answers(path, [many])
    assert read_answers(path) == [many, other]
    path.write_text(path.read_text() + '{"task": "t", "meth')
    assert read_answers(path) == [many, other]


def test_predictions_are_one_character_each() -> None:
    assert digits([0, 9, 10, 35]) == "09az"
    with pytest.raises(ValueError, match="label numbers from 0 to 35, found 36"):
        digits([36])
    assert accuracy("011", "0010") == 2 / 3


def _results() -> Results:
    right = {("standard", 0): ("1111", "1110"), ("standard", 5): ("1100", "1100"), ("specialised", 5): ("1111", "1110")}
    answers = [
        Answers("t", method, seed, precision, drop, predictions if precision == "fp32" else "1111")
        for precision in ("fp32", "int8")
        for (method, drop), own in right.items()
        for seed, predictions in enumerate(own)
    ]
    adapters = {Piece("t", method, 0): {"parameters": 8} for method in ("standard", "specialised")}
    return Results({}, adapters, {"t": "1111"}, {"t": _LABELS}, tuple(answers))


def test_scores_show_the_spread_and_what_is_kept() -> None:
    scores = Scores(_results())
    assert scores.score("t", "standard", "fp32", 0) == (0.875, 0.75, 1.0)
    assert scores.score("t", "specialised", "fp32", 0) == scores.score("t", "specialised", "fp32", 5)
    kept = scores.retained("standard", "fp32", 5)
    assert kept is not None
    assert (kept.low, kept.high) == (0.5, 0.5 / 0.75)
    interval = scores.interval("specialised", "fp32", 5)
    assert interval == (1.0, 1.0)  # the same texts are right, whatever is drawn
    wide = scores.interval("standard", "fp32", 5)
    assert wide is not None
    assert wide[0] < kept.mean < wide[1]
    assert scores.retained("robust", "fp32", 5) is None
    assert scores.agreement("int8") == 18 / 24
    table = tables.by_drop(scores, "fp32").splitlines()
    assert table[2] == "| t | standard | 87.5 (75.0 to 100.0) | 50.0 |"


def test_tables_of_a_part_have_what_was_measured() -> None:
    results = _results()
    assert tables.sharing(results, Scores(results)) == ""  # no shared adapter
    assert tables.checks(results, Scores(results)) == "75.0 % of the predictions in int8 are those in fp32."
    assert "| shared |" not in tables.page(results)


def test_files_without_results_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, content, message in (
        ("a.jsonl", None, "No such file"),
        ("b.jsonl", "no JSON", "expected a file of python -m training.quality.evaluate --results"),
        ("c.jsonl", '{"kind": "run"}', "has no predictions"),
    ):
        if content is not None:
            (tmp_path / name).write_text(content)
        with pytest.raises(SystemExit):
            tables.main([str(tmp_path / name)])
        assert message in capsys.readouterr().err


def test_adapters_without_test_sets_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "training.json").write_text('{"task": "t", "method": "robust", "seed": 0}')
    with pytest.raises(SystemExit):
        evaluate.main([str(tmp_path)])
    assert "t.jsonl: run python -m training.quality --out" in capsys.readouterr().err


def test_wrong_arguments_of_the_evaluation_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, message in (
        ([], "has no finished adapter: run python -m training.quality --out"),
        (["--drops", "13"], "--drops must be numbers from 0 to 12, found 13"),
        (["--texts", "0"], "--texts must be at least 1, found 0"),
        (["--precisions", "int4"], "--precisions must be some of fp32, int8"),
    ):
        with pytest.raises(SystemExit):
            evaluate.main([str(tmp_path), *arguments])
        assert message in capsys.readouterr().err


def test_texts_of_a_sorted_file_have_all_labels(tmp_path: Path) -> None:
    rows = [{"text": f"text {number}", "label": label} for label in _LABELS for number in range(20)]
    path = tmp_path / "task.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")

    def read(count: int) -> tuple[int, ...]:
        return read_test_set(path, lambda texts, **_: {"input_ids": [[len(text)] for text in texts]}, _LABELS, count).expected

    assert set(read(10)) == {0, 1}
    assert read(20)[:10] == read(10)
