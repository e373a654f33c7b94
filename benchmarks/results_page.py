"""The table of docs/results.md, from the committed results: `python -m benchmarks.results_page benchmarks/results`."""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.command import exit_status
from benchmarks.serving.candidates import CANDIDATES

_Lines = list[dict[str, Any]]
# Flag of the processor -> its name on the page.
_FLAGS = {
    "avx2": "AVX2",
    "avx512f": "AVX-512",
    "avx512_vnni": "VNNI",
    "avx512_bf16": "bf16",
    "amx_tile": "AMX",
}


def _rows(lines: _Lines, **wanted: object) -> _Lines:
    return [line for line in lines if all(line.get(key) == value for key, value in wanted.items())]


def _measured_options(lines: _Lines) -> str:
    """Return the options that a file records; the others of the committed runs were the defaults."""
    head = lines[0]
    rows = _rows(lines, kind="row") or head["graphs"]
    shapes = ",".join(dict.fromkeys(row["shape"] for row in rows))
    rounds = head.get("rounds", max(row.get("rounds", 0) for row in rows))
    vocabulary = [f"--vocabulary {head['vocabulary']}"] if "vocabulary" in head else []
    return " ".join((*vocabulary, f"--shapes {shapes}", f"--rounds {rounds}"))


def _serving_options(lines: _Lines) -> str:
    """Return the options for the shown figures; a load test has the rows of several commands."""
    head = lines[0]
    objectives = ",".join(f"{each:g}" for each in head["objectives"])
    late = [re.fullmatch(r"not done after (\d+) s", row.get("reason", "")) for row in _rows(lines, kind="row")]
    limits = [int(match[1]) for match in late if match]
    found = [f"--size {head['size']}", f"--objectives {objectives}", f"--load-seconds {head['load_seconds']:g}"]
    found += [f"--device {head['device']}"] if head["device"] != "cpu" else []
    found += ["--texts DIR"] if head["texts"] != "made" else []
    found += [f"--limit {max(limits)}"] if limits else []
    return " ".join(found)


@dataclass(frozen=True)
class _Source:
    """Files of one benchmark.

    Attributes:
        command: what was run, without options.
        shown: lines of a file -> what to expect, and the measured ratio.
        options: lines of a file that does not name its command -> the options of `command` that give these figures.
    """

    command: str
    shown: Callable[[_Lines], list[tuple[str, str]]]
    options: Callable[[_Lines], str] = _measured_options

    def command_of(self, lines: _Lines) -> str:
        """Return the command that gives the shown figures."""
        recorded = next((line["command"] for line in lines if "command" in line), None)
        return str(recorded or f"{self.command} {self.options(lines)}".rstrip())


def _main(contenders: Mapping[str, str], batches: Sequence[int]) -> Callable[[_Lines], list[tuple[str, str]]]:
    def shown(lines: _Lines) -> list[tuple[str, str]]:
        found = []
        for contender, name in contenders.items():
            for row in _rows(lines, variant=contender, length=128):
                if row["batch"] in batches and row["throughput_ratio"] is not None:
                    (other,) = _rows(lines, variant=row["reference"], batch=row["batch"], length=128)
                    text = f"{row['throughput_ratio']:.2f} times the throughput of {other['label']}"
                    found.append((f"eight tasks, {name}, {row['batch']} x 128", text))
        return found

    return shown


def _growth(lines: _Lines) -> list[tuple[str, str]]:
    times = {row["drop"]: row["median_ms"] for row in _rows(lines, kind="row", tasks=8, shape="1x128")}
    return [("eight tasks, drop 6 instead of 0, 1 x 128", f"{100 * (1 - times[6] / times[0]):.0f} % less time")]


def _fusion(lines: _Lines) -> list[tuple[str, str]]:
    rows = _rows(lines, kind="row", shape="1x128", case="8 members")
    return [("a fusion of eight members, 1 x 128", f"{row['ratio']:.2f} times the throughput of PyTorch") for row in rows]


def _call(call: str, shape: str, what: str, other: str) -> Callable[[_Lines], list[tuple[str, str]]]:
    def shown(lines: _Lines) -> list[tuple[str, str]]:
        found = [row for row in _rows(lines, kind="row", shape=shape) if call in (row.get("call"), row.get("way"))]
        return [(f"{what}, {shape.replace('x', ' x ')}", f"{row['ratio']:.2f} times the time of {other}") for row in found]

    return shown


def _hot(lines: _Lines) -> list[tuple[str, str]]:
    found = lines[0]["graphs"][-1]
    shape = found["shape"].replace("x", " x ")
    return [(f"tasks in slots, {shape}", f"{found['ratio']:.2f} times the time of the routed graph")]


def _paper(lines: _Lines) -> list[tuple[str, str]]:
    rows = _rows(lines, kind="row", table="five", what="8 tasks")
    return [
        (
            f"eight tasks, drop 5 instead of 0, {row['shape'].replace('x', ' x ')}",
            f"{100 * row['ours'][0]:.0f} % less time, in PyTorch {100 * row['eager'][0]:.0f} %; the paper: 39 %",
        )
        for row in rows
    ]


def _serving(lines: _Lines) -> list[tuple[str, str]]:
    head, rows = lines[0], _rows(lines, kind="row", tasks=64, per_text=1, repeats=0.0)
    loads = {row["candidate"]: row["loads"][-1] for row in rows if row["loads"][-1] is not None}
    others = {key: load for key, load in loads.items() if not CANDIDATES[key].ours}
    if not others:
        return []
    best = max(others, key=others.__getitem__)
    what = f"64 tasks, one per text, 95 % within {head['objectives'][-1]:g} ms, {head['model']['title']}"
    return [
        (f"{what}, {name}", f"{loads[key] / others[best]:.1f} times the load of the best alternative: {CANDIDATES[best].label}")
        for key, name in (("ours", "fp32"), ("ours-int8", "int8"))
        if key in loads
    ]


def _streams(lines: _Lines) -> list[tuple[str, str]]:
    (found,) = lines
    ratios = (found[f"{way} / predict"] for way in ("predict_iter", "file"))
    text = "{:.2f} times the CPU time of one call, a file {:.2f} times".format(*ratios)
    return [(f"a stream of {found['texts']:,} texts of 1 to 12 words", text)]


_CPU = {"ours": "fp32", "ours-int8": "int8", "openvino-bf16": "OpenVINO bf16", "openvino-int8": "OpenVINO int8"}
_CUDA = {"ours-fp16": "fp16", "ours-fp16-graph": "fp16 with a CUDA graph"}
# Name of the file without its date -> its lines on the page.
_SOURCES = {
    "bert-base": _Source("python -m benchmarks", _main(_CPU, (1, 4))),
    "bert-base-cuda": _Source("python -m benchmarks", _main(_CUDA, (1, 32))),
    "paper": _Source("python -m benchmarks.paper", _paper),
    "growth": _Source("python -m benchmarks.growth", _growth),
    "fusion": _Source("python -m benchmarks.fusion", _fusion),
    "routed": _Source(
        "python -m benchmarks.routed",
        _call("run_routed(), another task for each row", "8x128", "another task for each text", "the export of one task"),
    ),
    "states": _Source(
        "python -m benchmarks.states",
        _call("run_branches() over kept states", "1x128", "a task over kept states, drop 5", "the whole graph"),
    ),
    "hot-tasks": _Source("python -m benchmarks.hot_tasks", _hot),
    "streams": _Source("python -m benchmarks.streams", _streams),
    "mixed-ranks": _Source(
        "python -m benchmarks.mixed_ranks",
        _call("tasks of the ranks 4 and 8", "1x128", "eight LoRA tasks of the ranks 4 and 8", "tasks of rank 8"),
    ),
    "serving-small": _Source("python -m benchmarks.serving", _serving, _serving_options),
    "serving-base": _Source("python -m benchmarks.serving", _serving, _serving_options),
    "peft-tasks": _Source(
        "python -m benchmarks.peft_tasks", _call("one graph", "1x128", "six LoRA tasks in one graph", "six merged files")
    ),
}


def processor(machine: Mapping[str, Any]) -> str:
    """Return the GPU, or the CPU with its instruction sets."""
    if machine.get("gpu"):
        return str(machine["gpu"]["name"])
    sets = ", ".join(name for flag, name in _FLAGS.items() if machine["flags"].get(flag))
    return f"{machine['cpu'].removesuffix(' Processor')} ({sets}), {machine['threads']} thread{'s' * (machine['threads'] > 1)}"


def table(folder: Path) -> str:
    """Return the Markdown table of all committed results, with links relative to docs/.

    Of several runs on one processor, the newest is a row, and the others are the figures after it.
    """
    lines = ["| what | measured | processor | date | command and file |", "| --- | --- | --- | --- | --- |"]
    for name, source in _SOURCES.items():
        earlier: dict[tuple[str, str], str] = {}
        newest: dict[tuple[str, str], str] = {}
        for path in sorted(folder.glob(f"{name}-*.json*")):
            if not re.fullmatch(rf"{name}-\d{{8}}", path.stem):
                continue
            text = path.read_text(encoding="utf-8")
            found = [json.loads(line) for line in text.splitlines()] if path.suffix == ".jsonl" else [json.loads(text)]
            where = processor(next(line["machine"] for line in found if "machine" in line))
            date = "{}-{}-{}".format(*re.findall(r"(\d{4})(\d\d)(\d\d)$", path.stem)[0])
            link = f"`{source.command_of(found)}`, [file](../benchmarks/results/{path.name})"
            for what, measured in source.shown(found):
                before = earlier.get((what, where), "")
                newest[what, where] = f"| {what} | {measured}{before} | {where} | {date} | {link} |"
                earlier[what, where] = f"; {measured.split()[0]} on {date}{before}"
        lines += newest.values()
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.results_page", description=__doc__)
    parser.add_argument("folder", type=Path, metavar="DIR", help="folder of results")
    print(table(parser.parse_args(arguments).folder))
    return 0


if __name__ == "__main__":
    sys.exit(exit_status(main))
