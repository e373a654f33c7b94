"""Results file of the separate benchmarks (fusion, growth, routed): a line with the setup, then a line per row."""

from __future__ import annotations

import datetime
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from benchmarks.machine import FLAVOURS, Machine, versions
from exporter.advise.measurement_files import replace_text

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

    Row = TypeVar("Row", bound=DataclassInstance)


def write_rows(
    folder: Path,
    name: str,
    head: Mapping[str, Any],
    machine: Machine,
    rows: Iterable[DataclassInstance],
    more: Iterable[Mapping[str, Any]] = (),
    *,
    continued: bool = False,
) -> Path:
    """Write a file of JSON lines, `name`-DATE.jsonl. An earlier file of the day keeps its results under another name.

    Args:
        folder: folder of the file; created if necessary.
        name: name of the benchmark.
        head: description of the measured model and the options.
        machine: machine of the measurement.
        rows: rows of the result, as dataclasses.
        more: further lines, each with a "kind" other than "run" and "row".
        continued: whether they include the results of the earlier file, which is replaced then.

    Returns:
        Path of the file.
    """
    today = datetime.datetime.now(datetime.UTC)
    found = {"versions": versions(("torch", "adapters", *FLAVOURS)), "machine": asdict(machine)}
    lines = [
        {"kind": "run", **head, "date": f"{today:%Y-%m-%d}", **found},
        *({"kind": "row", **asdict(row)} for row in rows),
        *more,
    ]
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}-{today:%Y%m%d}.jsonl"
    if not continued:
        keep_earlier(path)
    replace_text(path, "".join(json.dumps(line) + "\n" for line in lines))
    return path


def keep_earlier(path: Path) -> None:
    """Rename a results file that an earlier run of today wrote, and its plot: their names get the time of day of that run."""
    if not path.exists():
        return
    written = datetime.datetime.fromtimestamp(path.stat().st_mtime, datetime.UTC)
    for found in filter(Path.exists, (path, path.with_suffix(".png"))):
        found.rename(kept := path.with_name(f"{path.stem}-{written:%H%M%S}{found.suffix}"))
        print(f"kept the earlier {found.name} as {kept.name}", file=sys.stderr)


def rounds_lines(times: Mapping[str, Mapping[str, Sequence[float]]], reference: str) -> list[dict[str, Any]]:
    """Return a line per group with the time of each call in each round, for `write_rows`.

    Args:
        times: group of calls that were measured together, such as a shape -> name of the call -> seconds of each round.
        reference: name of the call with which the others of its group are compared.
    """
    return [
        {
            "kind": "rounds",
            "group": group,
            "reference": reference,
            "times_ms": {name: [round(1e3 * each, 4) for each in seconds] for name, seconds in own.items()},
        }
        for group, own in times.items()
    ]


def read_lines(path: Path, kind: str) -> list[dict[str, Any]]:
    """Read the lines of one kind of a results file."""
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [line for line in lines if line.get("kind") == kind]


def read_rows(path: Path, kind: type[Row]) -> Sequence[Row]:
    """Read the rows of a results file as instances of the dataclass `kind`."""
    return [kind(**{key: value for key, value in line.items() if key != "kind"}) for line in read_lines(path, "row")]
