"""`python -m benchmarks compare A B` compares two folders of results by their ratios.

Absolute times of two machines, or of two days on a shared one, cannot be compared. Each call's time relative to the reference
of its group, such as our graph's relative to PyTorch's, can: the table shows this ratio in both folders, and how it changed,
with the 95 % interval of a bootstrap over the rounds of both.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.intervals import Interval, change, interval
from benchmarks.measured import Measured, Results, read_results
from exporter import ExportError
from runtime.command_options import CommandParser

_EPILOG = """\
exit status: 0 done; 1 a ratio is worse by more than --limit; 2 a folder cannot be read, or the two have nothing in common
"""


@dataclass(frozen=True)
class Change:
    """One ratio in two folders.

    Attributes:
        before: rounds in the first folder.
        after: rounds in the second folder.
        ratio: (ratio in the second) / (ratio in the first); above 1: slower relative to the reference than before.
    """

    before: Measured
    after: Measured
    ratio: Interval

    def verdict(self, limit: float) -> str:
        """Return "slower" or "faster" if the whole interval is beyond the limit, such as 0.05, else nothing."""
        return "slower" if self.ratio.low > 1 + limit else "faster" if self.ratio.high < 1 / (1 + limit) else ""


def changes(before: Results, after: Results) -> list[Change]:
    """Return what both folders measured of one model relative to the same reference, without the references themselves.

    Raises:
        ExportError: they have nothing in common.
    """
    found = []
    others = differences(before, after)
    for key, one in before.rows.items():
        other = None if one.benchmark in others else after.rows.get(key)
        if other is not None and one.reference == other.reference != one.call:
            found.append(Change(one, other, change(one.ratios, other.ratios)))
    if not found:
        raise ExportError(
            "the two folders have no measurement in common: expected the same benchmarks and models at the same shapes, found "
            f"{', '.join(sorted(before.files))} and {', '.join(sorted(after.files))}"
            + "".join(f"; {benchmark}: {text}" for benchmark, text in others.items())
        )
    return found


def differences(before: Results, after: Results) -> dict[str, str]:
    """Return for each benchmark of both folders that measured another model in the second one what differs."""
    found = {}
    for benchmark, one in before.settings.items():
        other = after.settings.get(benchmark, {})
        if own := [f"{name} {one[name]} and {other[name]}" for name in one if name in other and one[name] != other[name]]:
            found[benchmark] = ", ".join(own)
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    parser = CommandParser("python -m benchmarks compare", __doc__, _EPILOG)
    parser.add_argument("before", type=Path, metavar="A", help="a folder of results")
    parser.add_argument("after", type=Path, metavar="B", help="another one")
    parser.add_argument(
        "--limit",
        type=_percent,
        metavar="PERCENT",
        help="exit with status 1 if a ratio is worse by more than this, with its whole interval",
    )
    options = parser.parse_args(arguments)
    try:
        before, after = read_results(options.before), read_results(options.after)
        found = changes(before, after)
    except (ExportError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    limit = 0.05 if options.limit is None else options.limit
    print(*_setting(before, after), sep="\n")
    (Console() if sys.stdout.isatty() else Console(width=140)).print(_table(found, limit))
    worse = [each for each in found if each.verdict(limit) == "slower"]
    better = [each for each in found if each.verdict(limit) == "faster"]
    print(f"{len(found)} ratios: {len(worse)} slower and {len(better)} faster by more than {100 * limit:g} %")
    only = [set(one.rows) - set(other.rows) for one, other in ((before, after), (after, before))]
    for benchmark, text in differences(before, after).items():
        print(f"{benchmark} is not compared, because the models differ: {text}")
    print(f"only in A: {len(only[0])}, only in B: {len(only[1])} measurements")
    for name, results in (("A", before), ("B", after)):
        if results.without:
            print(f"without rounds in {name}: {', '.join(results.without)}")
    return int(bool(worse) and options.limit is not None)


def _percent(text: str) -> float:
    try:
        value = float(text.removesuffix("%"))
    except ValueError:
        value = -1.0
    if not 0 <= value < 1000:
        raise argparse.ArgumentTypeError(f"expected a percentage such as 10, found {text!r}")
    return value / 100


def _setting(before: Results, after: Results) -> list[str]:
    """Return the machines and versions of both folders, where they differ."""
    lines = []
    for name, results in (("A", before), ("B", after)):
        cpus = {_machine(machine) for machine in results.machines.values()}
        lines.append(f"{name}: {'; '.join(sorted(cpus))}")
    one, other = (_versions(results) for results in (before, after))
    lines += [
        f"{package}: {one.get(package, '-')} and {other.get(package, '-')}"
        for package in sorted(one.keys() | other.keys())
        if one.get(package) != other.get(package)
    ]
    return lines


def _machine(machine: Mapping[str, Any]) -> str:
    gpu = machine.get("gpu")
    return f"{gpu['name'] if gpu else machine['cpu']}, {machine['threads']} threads"


def _versions(results: Results) -> dict[str, str]:
    found: dict[str, set[str]] = {}
    for machine in results.machines.values():
        for package, version in machine["versions"].items():
            found.setdefault(package, set()).add(version)
    return {package: ", ".join(sorted(versions)) for package, versions in found.items()}


def _table(found: Sequence[Change], limit: float) -> Table:
    table = Table(title="time relative to the reference of the group")
    for column in ("benchmark", "group", "call", "A", "B", "B / A", "95 % interval", ""):
        table.add_column(column, justify="left" if column in ("benchmark", "group", "call", "") else "right")
    for each in found:
        ratios = [f"{interval(side.ratios).median:.3f}" for side in (each.before, each.after)]
        span = f"{each.ratio.low:.2f} to {each.ratio.high:.2f}"
        table.add_row(*each.before.key, *ratios, f"{each.ratio.median:.2f}", span, each.verdict(limit))
    return table


if __name__ == "__main__":
    sys.exit(main())
