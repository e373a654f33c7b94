"""The printed report: complete, aligned and at most 30 lines."""

from __future__ import annotations

import io
import re
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from exporter.cli.main import main
from exporter.cli.print_report import print_report
from exporter.cli.tables import percent, short_setup
from exporter.prune.fusion_members import FusionReport
from exporter.prune.fusion_scores import AttentionTable, LayerScores
from exporter.report import ExportedTask, GraphReport, Report, VariantReport
from exporter.texts.drift import Drift
from runtime.bundle import ParityRow, PassRow

SHAPES = ((1, 1), (1, 16), (3, 11))
NEXT = ['python -m runtime onnx --text "a text"']


def _variant(names: tuple[str, ...], drop: int = 0, model: str = "model.onnx") -> VariantReport:
    """A variant whose tasks differ from PyTorch by 1e-6, 2e-6, …, in the order of `names`."""
    heads = [("classification", ("x", "y")), ("tagging", ("O", "PER", "LOC")), ("regression", ())]
    tasks = [ExportedTask(name, name, *heads[number % 3], drop, number % 3) for number, name in enumerate(names)]
    parity = [
        ParityRow(name, *shape, (number + 1) * 1e-6, 1e-6, 1.0, 1e-4) for number, name in enumerate(names) for shape in SHAPES
    ]
    passes = (PassRow("FoldConstants", "all", 20, 10, 5_000_000, 4_000_000), PassRow("DropExpands", "all", 10, 10, 4, 4))
    graph = GraphReport(490, 133, 357, 99_200_000, 90_300_000, 8_900_000, passes)
    shared = "embeddings, layer 0 up to its first adapter" if not drop else "embeddings, layers 0 to 2, layer 3"
    return VariantReport(model, "", tuple(tasks), drop, shared, 1000, 1000, graph, (), (), tuple(parity), ())


def _report(*variants: VariantReport) -> Report:
    seconds = {"load": 0.6, "prune": 0.2, "trace": 125.8, "compile": 1.0, "save": 0.3, "verify": 1.6}
    return Report(Path("onnx"), "my-model", 12, variants, seconds)


def _names(count: int) -> tuple[str, ...]:
    return tuple(f"task_{number:02}" for number in range(count))


def _lines(report: Report, width: int = 80, verbose: bool = False) -> list[str]:
    file = io.StringIO()
    print_report(report, NEXT, Console(file=file, width=width), verbose)
    lines = file.getvalue().splitlines()
    assert max(map(len, lines)) <= width
    assert lines[-2:] == ["next:", *NEXT]
    assert len(lines) <= 30 or verbose
    return lines


def _fusion(task: str, members: int, layers: int, keep: int | None) -> FusionReport:
    names = tuple(f"member_{number:02}" for number in range(members))
    scores = tuple(2 * (number + 1) / (members * (members + 1)) for number in range(members))
    table = AttentionTable(task, "f", names, tuple(LayerScores(layer, names, scores) for layer in range(layers)), True)
    return FusionReport(table, None if keep is None else dict.fromkeys(range(layers), names[-keep:]))


def _drift(names: tuple[str, ...]) -> tuple[Drift, ...]:
    return tuple(Drift(name, 0.1, 0.5, 0.99 - number / 100, "accuracy", 0.9, 0.8) for number, name in enumerate(names))


def test_a_report_shows_what_was_exported() -> None:
    lines = _lines(_report(_variant(_names(3))))
    assert lines[0] == "my-model: 3 tasks, drop 0 of 12 layers"
    assert [line.split() for line in lines[2:7] if "──" not in line] == [
        ["task", "head", "labels", "max", "diff", "argmax"],
        ["task_00", "classification", "2", "1.0e-06", "100", "%"],
        ["task_01", "tagging", "3", "2.0e-06", "100", "%"],
        ["task_02", "regression", "-", "3.0e-06", "-"],
    ]
    assert lines[8:-3] == [
        "computed once  embeddings, layer 0 up to its first adapter",
        "graph          490 nodes (133 in the trunk), 99.2 MB (90.3 MB shared)",
        "verified       against single-task PyTorch at 1x1, 1x16, 3x11",
        "time (s)       load 0.6, prune 0.2, trace 126, compile 1.0, save 0.3, verify 1.6",
        "written to     onnx",
    ]


@pytest.mark.parametrize("width", [80, 120])
def test_of_40_tasks_the_worst_ten_are_listed(width: int) -> None:
    lines = _lines(_report(_variant(_names(40))), width)
    assert [line.split()[0] for line in lines if line.startswith("task_")] == [f"task_{number}" for number in range(39, 29, -1)]
    assert "and 30 more tasks: max diff at most 3.0e-05, argmax at least 100 %" in lines


@pytest.mark.parametrize("count", [9, 12, 40])
def test_each_further_drop_is_one_line(count: int) -> None:
    drops = (0, 1, 2, 3, 5)
    models = ["model.onnx", *(f"model_drop{drop}.onnx" for drop in drops[1:])]
    report = _report(*(_variant(_names(count), drop, model) for drop, model in zip(drops, models, strict=True)))
    lines = _lines(report)
    assert f"{count} tasks, drops 0, 1, 2, 3, 5 of 12 layers" in lines[0]
    assert [line.split()[:2] for line in lines if line.startswith("model")] == [
        [model, str(drop)] for model, drop in zip(models, drops, strict=True)
    ]
    assert any(line.startswith("computed once  at drop 0: embeddings") for line in lines)
    assert len([line for line in lines if line.startswith("task_")]) == 9


def test_of_many_variants_some_are_counted() -> None:
    lines = _lines(_report(*(_variant(_names(40), drop, f"model_drop{drop}.onnx") for drop in range(25))))
    assert lines[0] == "my-model: 40 tasks, 25 drops from 0 to 24 of 12 layers"
    assert any(re.match(r"and \d+ more variants: max diff at most 4.0e-05", line) for line in lines)


def test_an_int8_report_says_where_the_graph_runs() -> None:
    variant = _variant(_names(2))
    proof = PassRow("ProvePairSums", "all", 10, 10, 4, 4)
    lines = _lines(_report(replace(variant, graph=replace(variant.graph, passes=(*variant.graph.passes, proof)))))
    assert "int8           runs on processors with and without VNNI" in lines
    assert not [line for line in _lines(_report(variant)) if line.startswith("int8")]


def test_a_fusion_of_16_members_takes_two_lines() -> None:
    variant = replace(_variant(_names(2)), fusions=(_fusion("task_00", 16, 12, 2),))
    lines = _lines(_report(variant))
    assert len(lines) == len(_lines(_report(_variant(_names(2))))) + 2
    assert "fusions        task_00: 16 members, 2 kept per layer; mean attention: member_15" in lines
    assert "               12 %, member_14 11 %" in lines
    table = _lines(_report(variant), 100, verbose=True)
    assert all(any(f"member_{number:02}" in line for line in table) for number in range(16))


def test_a_fusion_that_keeps_all_names_the_first_members() -> None:
    lines = _lines(_report(replace(_variant(_names(2)), fusions=(_fusion("task_00", 16, 12, None),))), 120)
    assert "16 members; mean attention: member_15 12 %, member_14 11 %, member_13 10 %, member_12 10 % and" in "".join(lines)
    assert "               12 more" in lines


def test_texts_name_the_tasks_that_differ_most() -> None:
    names = _names(20)
    variant = replace(_variant(names), drift=_drift(names), evaluation=_drift(names[:1]))
    lines = _lines(_report(variant))
    first = lines.index("calibration    compared with all adapters in all layers:")
    assert lines[first + 1] == "               task_19: 80.0 % same argmax, accuracy 0.900 -> 0.800"
    assert any("more, at least" in line for line in lines[first:])
    assert "evaluation     compared with PyTorch in fp32:" in lines


def test_everything_at_once_is_still_30_lines() -> None:
    names = _names(40)
    fusions = tuple(_fusion(name, 16, 12, 2) for name in names)
    variant = replace(
        _variant(names), routed="model_routed.onnx", stored_adapter_parameters=10, fusions=fusions, drift=_drift(names)
    )
    variant = replace(variant, evaluation=_drift(names))
    report = _report(*(replace(variant, drop=drop, model=f"model_drop{drop}.onnx") for drop in range(5)))
    for width in (80, 120):
        assert any("more tasks" in line for line in _lines(report, width))
    assert sum(line.startswith("task_39") for line in _lines(report, verbose=True)) > 5


def test_long_names_are_cut_and_do_not_wrap() -> None:
    names = tuple("n" * 60 + str(number) for number in range(3))
    variant = _variant(names)
    composed = replace(variant.tasks[0], setup="Fuse(a, Stack(b, c), d, eeeeeeeeeeee)")
    lines = _lines(_report(replace(variant, tasks=(composed, *variant.tasks[1:]))))
    rows = [line for line in lines if line.startswith("nnn")]
    assert len(rows) == 3
    assert "Fuse of 4" in rows[0]
    assert all("…" in row for row in rows)
    kinds = ("classification", "tagging", "regression")
    assert [[kind for kind in kinds if kind in row] for row in rows] == [[kind] for kind in kinds]


def test_drops_per_task_have_a_column() -> None:
    variant = _variant(_names(2))
    variant = replace(variant, tasks=(variant.tasks[0], replace(variant.tasks[1], drop=5)))
    lines = _lines(_report(variant))
    assert lines[2].split() == ["task", "head", "labels", "drop", "max", "diff", "argmax"]
    assert lines[5].split()[:4] == ["task_01", "tagging", "3", "5"]


def test_passes_are_listed_with_verbose_only() -> None:
    report = _report(_variant(_names(40)))
    assert not any("FoldConstants" in line for line in _lines(report))
    lines = _lines(report, verbose=True)
    assert any(line.split()[:4] == ["FoldConstants", "all", "20", "10"] for line in lines)
    assert not any("DropExpands" in line for line in lines)
    assert len([line for line in lines if line.startswith("task_")]) == 40


def test_shares_are_rounded_down_and_setups_shortened() -> None:
    assert [percent(share) for share in (1.0, 0.9999, 0.5, 0.0)] == ["100 %", "99.9 %", "50.0 %", "0.0 %"]
    assert [short_setup(text) for text in ("a", "Stack(en, qnli)", "a" * 40)] == ["a", "Stack(en, qnli)", "a" * 40]


def test_the_bundled_example(example_bundle: Path) -> None:
    output, progress = ((example_bundle.parent / name).read_text(encoding="utf-8") for name in ("export.txt", "progress.txt"))
    lines = output.splitlines()
    assert len(lines) <= 30
    assert max(map(len, lines[:-1])) <= 80
    assert lines[0] == "the bundled example: 9 tasks, drop 5 of 6 layers"
    assert sum("100 %" in line for line in lines) == 8  # all but the regression
    assert lines[-1] == f'python -m runtime {example_bundle} --text "The phone is fast, and the screen is gorgeous."'
    assert progress.startswith("  load …\n  load: ")


def test_quiet_and_verbose_exclude_each_other(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--quiet", "--verbose"])
    assert (
        capsys.readouterr().err
        == "error: argument --verbose: not allowed with argument --quiet; see python -m exporter --help\n"
    )


def test_a_name_with_a_line_break_takes_one_line() -> None:
    for verbose in (False, True):
        usual, broken = (_lines(_report(_variant((name, "b"))), verbose=verbose) for name in ("one_task", "one\ntask"))
        assert [line.replace("one_task", "one task") for line in usual] == broken


def test_paths_and_members_with_line_breaks() -> None:
    report = _report(_variant(("a",)))
    fusion = _fusion("a", 2, 2, None)
    table = replace(fusion.table, members=("x\ny",), layers=(LayerScores(0, ("x\ny",), (1.0,)),), task="t\na")
    variant = replace(report.variants[0], fusions=(replace(fusion, table=table),))
    report = replace(report, output=Path("on\nnx"), source="my\nmodel", variants=(variant,))
    shown = "\n".join(_lines(report, verbose=True))
    for name in ("on nx", "my model", "x y", "t a: fusion"):
        assert name in shown
