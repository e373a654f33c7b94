"""Tables and figures in the pages are those of the raw results."""

from __future__ import annotations

import json
import re
import statistics
from pathlib import Path
from typing import Any

import pytest

from benchmarks import fusion, growth_model, mixed_ranks, paper, paper_tables, peft_tasks, results_page, routed, states
from benchmarks.markdown_tables import shares, table
from benchmarks.results_file import read_rows
from benchmarks.serving.tables import markdown as load_test_table
from benchmarks.serving.tables import read as read_load_test
from runtime.options import KERNELS
from tests.helpers.pages import ROOT, text_of
from training.quality import fusion_members, tables
from training.quality.results import read_results
from training.quality.scores import Scores

_SHAPES = ((1, 32), (1, 128), (4, 128))


def _results(page: str, name: str) -> Path:
    """The newest results file of a benchmark that a page links to."""
    found: list[str] = re.findall(rf"benchmarks/results/{name}-\d+\.jsonl?", text_of(page))
    return ROOT / max(found)


def _lines(page: str, name: str) -> list[dict[str, Any]]:
    """The lines of that file."""
    return [json.loads(line) for line in _results(page, name).read_text(encoding="utf-8").splitlines()]


def _spoken(page: str) -> str:
    """The page in one line, as sentences run over line ends."""
    return " ".join(text_of(page).split())


def test_the_measured_tables_are_those_of_the_results_files() -> None:
    assert table(_results("README.md", "bert-base")) in text_of("README.md")
    assert shares(_results("docs/benchmarks.md", "bert-base")) in text_of("docs/benchmarks.md")
    fusions = read_rows(_results("docs/fusion.md", "fusion"), fusion.Row)
    assert fusion.markdown(fusions) in text_of("docs/fusion.md")
    assert routed.markdown(read_rows(_results("docs/routing.md", "routed"), routed.Row)) in text_of("docs/routing.md")
    kept = read_rows(_results("docs/trunk_states.md", "states"), states.Row)
    assert states.markdown(kept) in text_of("docs/trunk_states.md")
    growth = read_rows(_results("docs/benchmarks.md", "growth"), growth_model.Row)
    assert growth_model.markdown(growth) in text_of("docs/benchmarks.md")
    assert load_test_table(read_load_test(_results("docs/benchmarks.md", "serving-base"))) in text_of("docs/benchmarks.md")
    tasks = read_rows(_results("docs/benchmarks.md", "peft-tasks"), peft_tasks.Row)
    assert peft_tasks.markdown(tasks) in text_of("docs/benchmarks.md")
    ranks = read_rows(_results("docs/benchmarks.md", "mixed-ranks"), mixed_ranks.Row)
    assert mixed_ranks.markdown(ranks) in text_of("docs/benchmarks.md")


def test_the_page_of_results_is_made_from_the_results() -> None:
    assert results_page.table(ROOT / "benchmarks" / "results") in text_of("docs/results.md")


def test_the_figures_of_the_paper_are_those_of_the_results() -> None:
    figures = paper.read_figures(_results("docs/benchmarks.md", "paper"))
    assert paper_tables.markdown(figures) in text_of("docs/benchmarks.md")
    assert all(paper_tables.REASONS[row.table] in _spoken("docs/benchmarks.md") for row in figures)
    shares = [100 * (tasks - 1) / (12 * tasks) for tasks in paper_tables.PER_LAYER]
    assert "{:.1f}, {:.1f}, {:.1f} and {:.1f} %".format(*shares) in _spoken("docs/benchmarks.md")


def test_the_times_on_a_gpu_are_those_of_the_results() -> None:
    results = _results("docs/benchmarks.md", "bert-base-cuda")
    assert table(results) in text_of("docs/benchmarks.md")
    lines = [line for line in _lines("docs/benchmarks.md", "bert-base-cuda") if "variant" in line and line["length"] == 128]
    rows = {(row["variant"], row["batch"]): row for row in lines}

    def median(variant: str, batch: int) -> float:
        return float(rows[variant, batch]["median_ms"])

    text = _spoken("docs/benchmarks.md")
    compiled = [median("compile-fp16", batch) / median("ours-fp16-graph", batch) for batch in (1, 32)]
    assert "takes {:.1f} times (1 x 128) and {:.1f} times (32 x 128) as long".format(*compiled) in text
    drop = {batch: median("ours-fp16-graph", batch) / median("ours-fp16-graph-drop0", batch) for batch in (1, 32)}
    assert f"saves {100 * (1 - drop[32]):.0f} % of the time at 32 x 128 ({1 / drop[32]:.2f} times the throughput)" in text
    assert f"{100 * (1 - drop[1]):.0f} % at 1 x 128" in text
    peak = rows["ours", 32]
    assert f"{peak['median_ms']:.0f} ms at 32 x 128 is {100 * peak['peak_share']:.0f} % of the GPU's fp32 peak" in text
    measured = [line for line in _lines("docs/benchmarks.md", "bert-base-cuda") if line.get("max_difference") is not None]
    worst = {
        name: max(row["max_difference"] for row in measured if row["variant"] == name)
        for name in ("ours", "ours-tf32", "ours-fp16")
    }
    said = "fp32 to {ours:.1e}, TF32 to {ours-tf32:.1e}, fp16 to {ours-fp16:.1e}".format_map(worst)
    assert said.replace("e-0", "e-") in text
    best = rows["ours-fp16-graph", 1]
    expected = f"{best['median_ms']:.2f} ms for a text of 128 tokens, {best['throughput_ratio']:.0f} times the throughput"
    assert f"{expected} of the fastest eager PyTorch and {compiled[0]:.1f} times" in _spoken("docs/gpu.md")


@pytest.fixture(scope="module")
def main_rows() -> dict[tuple[str, int, int], dict[str, Any]]:
    rows = _lines("README.md", "bert-base")
    return {(row["variant"], row["batch"], row["length"]): row for row in rows if "variant" in row}


def _times(rows: dict[tuple[str, int, int], dict[str, Any]], variant: str, other: str) -> str:
    """By how much the variant's throughput exceeds the other's, shape by shape, over the rounds; as the pages write it."""
    found = []
    for shape in _SHAPES:
        ours, theirs = rows[variant, *shape]["times_ms"], rows[other, *shape]["times_ms"]
        found.append(statistics.median(their / our for our, their in zip(ours, theirs, strict=True)))
    return "{:.1f}, {:.1f} and {:.1f}".format(*found)


@pytest.mark.parametrize("page", ["README.md", "docs/benchmarks.md"])
def test_the_throughput_is_that_of_the_results(page: str, main_rows: dict[tuple[str, int, int], dict[str, Any]]) -> None:
    text = _spoken(page)
    for variant, other in (
        ("ours", "files"),
        ("ours", "parallel"),
        ("ours-int8", "parallel-bf16"),
        ("openvino-int8", "parallel-bf16"),
        ("openvino-bf16", "parallel-bf16"),
        ("compile-bf16", "parallel-bf16"),
        ("ours-int8", "compile-bf16"),
        *([("ours", "parallel-drop0")] if page != "README.md" else []),
    ):
        assert f"{_times(main_rows, variant, other)} times" in text, (variant, other, _times(main_rows, variant, other))
    sizes = {name: main_rows[name, 1, 32]["file_bytes"] / 1e9 for name in ("ours", "ours-int8", "files")}
    assert f"{sizes['ours']:.2f} GB (int8: {sizes['ours-int8']:.2f} GB)" in text
    assert f"{sizes['files']:.1f} GB" in text


def test_the_peak_is_that_of_the_results(main_rows: dict[tuple[str, int, int], dict[str, Any]]) -> None:
    text = _spoken("docs/benchmarks.md")
    for precision in ("fp32", "bf16", "int8"):
        found = [
            row["gflops"] for row in _lines("README.md", "bert-base") if row.get("fastest") and row["precision"] == precision
        ]
        assert re.search(rf"{min(found):.0f} to {max(found):.0f}( GFLOP/s)? in {precision}", text)
    rounds = [row["rounds"] for row in main_rows.values() if row["median_ms"] is not None]
    assert f"in {min(rounds)} to {max(rounds)} rounds" in text
    assert f"load of {main_rows['ours', 1, 32]['machine']['load']:.1f}" in text


def test_the_growth_is_that_of_the_results() -> None:
    rows = read_rows(_results("docs/benchmarks.md", "growth"), growth_model.Row)

    def greatest(chosen: list[growth_model.Row]) -> float:
        return 100 * max(row.by_operations for row in chosen)

    few = [100 * row.by_operations for row in rows if row.tasks <= 2]
    many = [row for row in rows if row.tasks > 2]
    high, low = greatest([row for row in many if row.drop == 9]), greatest([row for row in many if row.drop < 9])
    expected = (
        f"takes {min(few):.0f} to {max(few):.0f} % longer than predicted, and a graph of more tasks up to {high:.0f} % at"
    )
    assert f"{expected} drop 9 and up to {low:.0f} % at lower drops" in _spoken("docs/benchmarks.md")


def test_the_cost_of_members_is_that_of_the_results() -> None:
    rows = {row.case: row for row in read_rows(_results("docs/fusion.md", "fusion"), fusion.Row) if row.shape == "1x128"}
    ours = {case: row.ours_ms for case, row in rows.items()}
    more = 100 * (ours["16 members"] / ours["2 members"] - 1)
    kept, dropped = (100 * (1 - ours[case] / ours["8 members"]) for case in ("8 members, 2 kept", "8 members, drop 5"))
    eager = 100 * (1 - rows["8 members, 2 kept"].eager_ms / rows["8 members"].eager_ms)
    text = _spoken("docs/fusion.md")
    assert f"16 members take {more:.0f} % more time than 2, keeping 2 of 8 saves {kept:.0f} %" in text
    assert f"(of PyTorch's time {eager:.0f} %)" in text
    assert f"a drop of 5 layers saves {dropped:.0f} %" in text


def test_the_accuracy_is_that_of_the_results() -> None:
    found = json.loads(_results("docs/precision.md", "int8-example").read_text(encoding="utf-8"))

    def number(row: dict[str, Any], key: str) -> str:
        if row[key] is None:
            return "-"
        return f"{row[key]:.3f}" if row["metric"] == "pearson" else f"{100 * row[key]:.1f} %"

    def share(row: dict[str, Any]) -> str:
        return "-" if row["argmax_agreement"] is None else f"{100 * row['argmax_agreement']:.1f} %"

    lines = []
    for row, other in zip(found["cpu"], found["openvino"], strict=True):
        metric = {"pearson": "correlation", None: "-"}.get(row["metric"], row["metric"])
        own = [number(row, "metric_before"), number(row, "metric_after"), share(row)]
        lines.append("| " + " | ".join([row["task"], str(metric), *own, number(other, "metric_after"), share(other)]) + " |")
    assert "\n".join(lines) in text_of("docs/precision.md")


def test_the_changed_labels_are_those_of_the_results() -> None:
    rows = json.loads(_results("docs/precision.md", "int8-ranges").read_text(encoding="utf-8"))["rows"]
    counts = ("changed_by_padding", "changed_by_batch", "differs_from_fp32", "differs_from_fp32_in_batches")
    labels = [row for row in rows if row["changed_by_padding"] is not None]
    for ranges, shown in (("row", "`row`"), ("tensor", "`tensor`"), ("fp32", "fp32")):
        own = [row for row in labels if row["ranges"] == ranges]
        totals = [str(sum(row[count] for row in own)) for count in counts]
        assert "| " + " | ".join([shown, *totals]) + " |" in text_of("docs/precision.md")
        assert f"of {sum(row['texts'] for row in own)} texts" in _spoken("docs/precision.md")
    moved = [
        max(row[key] for row in rows if row["ranges"] == ranges for key in ("max_abs_padding", "max_abs_batch"))
        for ranges in ("row", "tensor")
    ]
    assert "at most {:.2f}, with `tensor` by {:.2f}".format(*moved) in _spoken("docs/precision.md")


def test_the_streams_are_those_of_the_results() -> None:
    found = json.loads(_results("docs/streams.md", "streams").read_text(encoding="utf-8"))
    text = _spoken("docs/streams.md")
    ratios = (found[f"{way} / predict"] for way in ("predict_iter", "file"))
    first, second = (f"{ratio:.2f} times" for ratio in ratios)
    assert f"`predict_iter` {first} the CPU time of one call, and the command from file to file {second}" in text
    assert f"{found['texts']:,} texts" in text
    assert f"{found['peak MB of a tenth']} MB for a tenth of the texts and {found['peak MB of all']} MB for all" in text


def test_the_soaks_are_those_of_the_results() -> None:
    text = _spoken("docs/runtime.md")
    for name in re.findall(r"results/(soak[\w-]*\.json)", text):
        found = json.loads((ROOT / "benchmarks" / "results" / name).read_text(encoding="utf-8"))
        calls = sum(found["calls"].values())
        assert f"{calls:,} calls, none wrong" in text
        assert found["wrong"] == found["leaks"] == []
    assert "results/soak-tiny" in text


def test_the_forms_of_int8_are_those_of_the_results() -> None:
    found = json.loads(_results("docs/precision.md", "int8-processors").read_text(encoding="utf-8"))
    text = text_of("docs/precision.md")
    for row in found["forms"]:
        changed, mean = row["labels_other_than_fp32"], row["mean_abs_from_fp32"]
        own = ["as the first"] * 2 if changed is None else [str(changed), f"{mean:.3f}"]
        exact = "exact" if row["largest_error_without_vnni"] == 0 else "saturates"
        assert "| " + " | ".join([row["form"], *own, f"{row['product_ms']:.1f} ms", exact]) + " |" in text.replace("**", "")
    for row in found["compared"]:
        shown = f"{row['labels_that_differ']} | {row['median_difference']:.3f}, {row['largest_difference']:.2f}"
        assert f"| {row['what']} | {shown} |" in text
    first, written = (row["median_difference"] for row in found["emulated"] if row["what"] == "Haswell and this processor")
    assert f"by {first:.2f} (median of the largest difference per task), the form that is written by {written:.2f}" in (
        _spoken("docs/precision.md")
    )


def test_the_operators_of_int8_are_those_of_the_results() -> None:
    found = json.loads(_results("docs/precision.md", "int8-operators").read_text(encoding="utf-8"))
    text, shapes = text_of("docs/precision.md").replace("**", ""), ("1x128", "4x128")
    for shown, names in (
        ("products (MatMulIntegerToFloat)", ("MatMulIntegerToFloat",)),
        (
            "ranges and quantization (ReduceMax, ReduceMin, Div, QuantizeLinear)",
            ("ReduceMax", "ReduceMin", "Div", "QuantizeLinear"),
        ),
        ("scales of rows, biases, residuals (Mul, Add)", ("Mul", "Add")),
        ("attention", ("MultiHeadAttention",)),
        ("BiasGelu", ("BiasGelu",)),
        ("LayerNormalization", ("LayerNormalization",)),
    ):
        times = [found["operators_ms"][shape] for shape in shapes]
        shares = [f"{100 * sum(own[name] for name in names) / own['total']:.0f} %" for own in times]
        assert f"| {shown} | {shares[0]} | {shares[1]} |" in text
    for row in found["forms"]["rows"]:
        assert f"| {row['form']} | {row['1x128']:.2f} | {row['4x128']:.2f} |" in text
    products = found["products_ms"]["rows"]
    rows, along = products["a range for each row"], products["a range for each row, QuantizeLinear along rows"]
    assert f"takes {along:.0f} ms instead of {rows:.0f} ms" in _spoken("docs/precision.md")
    assert f"by itself, {products['MatMulNBits, 8 bits, blocks of 256']:.0f} ms" in _spoken("docs/precision.md")
    pages = [statistics.median(with_ / without for without, with_ in found["huge_pages"][shape]) for shape in shapes]
    assert "takes {:.2f} and {:.2f} of the CPU time".format(*pages) in _spoken("docs/precision.md")


def test_the_plug_in_of_openvino_is_as_fast_as_its_results() -> None:
    rows = json.loads(_results("docs/runtime.md", "openvino-plugin").read_text(encoding="utf-8"))["rows"]
    ratios = [row["median_of_ratios"] for row in rows]
    cpu = [row["least_cpu_ms"][0] / row["least_cpu_ms"][1] for row in rows]
    assert f"took {min(ratios):.2f} to {max(ratios):.2f} times as long" in _spoken("docs/runtime.md")
    assert f"{min(cpu):.2f} to {max(cpu):.2f} times the CPU time" in _spoken("docs/runtime.md")


def test_the_kernels_of_openvino_are_those_of_the_results() -> None:
    found = json.loads(_results("docs/runtime.md", "openvino-shapes").read_text(encoding="utf-8"))
    text = text_of("docs/runtime.md")
    tiny, example = found["cpu_ms"]["tiny"]["8"], found["cpu_ms"]["example"]["8"]
    memory = {row["kernels"]: row["memory_mb"] for row in found["memory"]["tiny, 600 shapes (2 layers, hidden size 128)"]}
    for kernels, name in ((None, "OpenVINO's default"), (256, "256"), (KERNELS, str(KERNELS)), (0, "0")):
        start, first, _, half, *_, last, _ = memory[kernels]
        key = "none" if kernels is None else name
        shown = f"{start}, {first}, {half} and {last} MB | {tiny[key]:.1f} ms | {example[key]:.0f} ms"
        assert f"| {name} | {shown} |" in text
    assert f"The runtime keeps {KERNELS}" in text


def test_the_figures_of_hot_tasks_are_those_of_the_results() -> None:
    text = _spoken("docs/hot_tasks.md")
    found = json.loads(_results("docs/hot_tasks.md", "hot-tasks").read_text(encoding="utf-8"))
    graphs, calls, seen = found["graphs"], found["calls"], found["look_up"]
    assert "takes {:.2f} times (1 x 32) and {:.2f} times (8 x 32)".format(*(each["ratio"] for each in graphs)) in text
    assert f"`add_task` takes {found['add_task_ms']['median']:.1f} ms (a file of {found['file_mb']:.1f} MB)" in text
    quiet, busy = ((calls[f"{kind}median_ms"], calls[f"{kind}largest_ms"]) for kind in ("quiet_", ""))
    assert "takes {:.0f} ms without changes ({:.0f} ms at most)".format(*quiet) in text
    assert "and {:.0f} ms ({:.0f} ms at most) while another thread".format(*busy) in text
    assert f"takes {found['memory']['ratio']:.2f} times the memory" in text
    assert f"look-up takes {seen['many_us']:.1f} µs with 10,000 tasks, and {seen['few_us']:.1f} µs with ten" in text


def test_the_quality_is_that_of_the_results() -> None:
    page, text = text_of("docs/quality.md"), _spoken("docs/quality.md")
    results = read_results(_results("docs/quality.md", "quality"))
    scores = Scores(results)
    assert tables.retained(scores) in page
    assert all(tables.by_drop(scores, precision) in page for precision in scores.precisions)
    assert tables.sharing(results, scores) in page
    assert tables.checks(results, scores) in page

    def mean(task: str, method: str, precision: str, drop: int) -> float:
        spread = scores.score(task, method, precision, drop)
        assert spread is not None
        return 100 * spread.mean

    for method in ("standard", "specialised", "robust"):
        low, high = scores.interval(method, "fp32", 5) or (0.0, 0.0)
        assert low < 1 < high
    for task, name in (("news_topic", "news topics have"), ("reuters_topic", "Reuters topics")):
        robust, standard = (mean(task, method, "fp32", 11) for method in ("robust", "standard"))
        assert f"{name} {robust:.1f} % instead of {standard:.1f} %" in text
    loss = mean("reuters_topic", "standard", "fp32", 0) - mean("reuters_topic", "shared", "fp32", 0)
    assert f"loses {loss:.1f} points on Reuters topics" in text
    cells = [
        (task, method, drop)
        for task in scores.tasks
        for method in scores.methods
        for drop in scores.drops
        if scores.score(task, method, "int8", drop) is not None
    ]
    moved = max(abs(mean(task, method, "int8", drop) - mean(task, method, "fp32", drop)) for task, method, drop in cells)
    assert f"by more than {moved:.1f} points" in text


def test_the_members_of_the_fusion_are_those_of_the_results() -> None:
    rows = fusion_members.read_rows(_results("docs/quality.md", "fusion-members"))
    assert fusion_members.table(rows) in text_of("docs/quality.md")
    accuracy = {row["members"]: 100 * row["accuracy"] for row in rows if row["drop"] == 0}
    assert f"it loses {accuracy[8] - accuracy[1]:.1f} points" in _spoken("docs/quality.md")


def test_the_advice_is_that_of_the_results() -> None:
    found = json.loads(_results("docs/advice.md", "advice").read_text(encoding="utf-8"))
    page, (_, *report) = text_of("docs/advice.md"), found["report"]
    losses, chosen = (next(at for at, line in enumerate(report) if line.startswith(word)) for word in ("Pareto", "chosen"))
    assert "\n".join(line for line in report[:losses] if line) in page
    assert "\n".join(report[chosen : chosen + len(found["tasks"]) + 3]) in page
    assert found["seconds"] == pytest.approx(7.5 * 60, rel=0.02)  # "seven and a half minutes"
    assert f"`word_usage` loses {found['tasks']['word_usage']['by_drop']['2']['loss']:.1%}".replace("%", " %") in page


def test_the_loads_are_those_of_the_results() -> None:
    every = read_load_test(_results("docs/benchmarks.md", "serving-base")).rows
    rows = {row.candidate: row for row in every if (row.tasks, row.per_text, row.repeats) == (64, 1, 0.0)}
    ours = {"ours", "ours-int8"}

    def factors(candidate: str) -> list[float]:
        best = [max(row.loads[number] or 0.0 for key, row in rows.items() if key not in ours) for number in (0, 1)]
        return [(own or 0.0) / other for own, other in zip(rows[candidate].loads, best, strict=True)]

    text = _spoken("docs/benchmarks.md")
    within = "take {:.1f} times the load of the best alternative within 200 ms, and {:.1f} times within 500 ms"
    assert within.format(*factors("ours-int8")) in text
    assert "In fp32 they take {:.1f} and {:.1f} times its load".format(*factors("ours")) in text
    assert f"{rows['files'].more['mb_of_all_files'] / (rows['ours'].peak_mb or 0.0):.0f} times the memory" in text
