"""A run of the fuzzer: cases until the time is over, finds confirmed, minimised and counted."""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from tests.fuzz.case import Case, Outcome
from tests.fuzz.minimise import minimise
from tests.fuzz.pool import Pool
from tests.fuzz.surfaces import SURFACES

CORPUS = Path(__file__).parent / "corpus"


@dataclass
class Campaign:
    """Counts and finds of a run.

    Attributes:
        counts: surface -> kind of outcome -> number of cases.
        seconds: surface -> time of its cases, and of the slowest.
        finds: surface and place of the fault -> the first case with it, minimised, and its outcome.
        repeats: the same key -> number of cases with this fault.
    """

    counts: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    seconds: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    finds: dict[tuple[str, str], tuple[Case, Outcome]] = field(default_factory=dict)
    repeats: Counter[tuple[str, str]] = field(default_factory=Counter)
    unconfirmed: list[tuple[Case, Outcome]] = field(default_factory=list)


def generated(seed: int, surfaces: Sequence[str], seeds: Path, end: float, first: int = 0) -> Iterator[Case]:
    """Yield cases until a time: case N of a surface depends on the seed and N only.

    Args:
        seed: the seed of all cases.
        surfaces: names of the surfaces.
        seeds: the folder of the seeds.
        end: the time of `time.monotonic` after which no case starts.
        first: the number of the first case.
    """
    turns = [name for name in surfaces for _ in range(SURFACES[name].weight)]
    number = first
    while time.monotonic() < end:
        name = turns[number % len(turns)]
        yield SURFACES[name].generate(Random(f"{seed} {name} {number}"), seeds)  # noqa: S311  # no cryptography
        number += 1


def run(cases: Iterator[Case], pool: Pool, aside: Pool, write: Path | None) -> Campaign:
    """Run cases and examine what they find.

    Args:
        cases: the cases.
        pool: workers for the cases.
        aside: a worker for the examination of finds.
        write: the folder for minimised finds; None writes none.
    """
    found = Campaign()
    for case, outcome in pool.map(cases):
        found.counts[case.surface][outcome.kind] += 1
        found.seconds[case.surface].append(outcome.seconds)
        if not outcome.is_find:
            continue
        key = (case.surface, place(outcome))
        found.repeats[key] += 1
        if key not in found.finds:
            _examine(case, outcome, aside, found, write)
    return found


def _examine(case: Case, outcome: Outcome, aside: Pool, found: Campaign, write: Path | None) -> None:
    """Repeat a find in a new process; one that is not repeated was the machine's, or needs what the process did before."""
    again = aside.run(case)
    if not again.is_find:
        found.unconfirmed.append((case, outcome))
        return
    key = (case.surface, place(again))
    if key in found.finds:
        return
    slow = again.kind in ("hang", "memory")
    smallest = (
        case if slow else minimise(case, lambda each: (other := aside.run(each)).kind == again.kind and place(other) == key[1])
    )
    found.finds[key] = (smallest, again)
    print(f"find: {case.surface}: {again.kind} {again.where}\n  {again.detail[-1500:]}", flush=True)
    print(f"  {json.dumps(smallest.to_json())[:2000]}", flush=True)
    if write is not None:
        save(smallest, again, write)


def place(outcome: Outcome) -> str:
    """Return what finds of one fault have in common."""
    return f"{outcome.kind} {re.sub(r'[0-9]{2,}', '#', outcome.where)}"


def save(case: Case, outcome: Outcome, folder: Path) -> Path:
    """Write a find into the corpus, and return its file."""
    text = json.dumps({"found": f"{outcome.kind}: {outcome.where}", **case.to_json()}, indent=1, sort_keys=True)
    digest = hashlib.sha256(f"{outcome.where}{case.surface}".encode("utf-8", "replace")).hexdigest()[:8]
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{case.surface}-{outcome.kind}-{digest}.json"
    path.write_text(text + "\n", encoding="utf-8")
    return path


def load(path: Path) -> Case:
    """Read a case of the corpus."""
    return Case.from_json(json.loads(path.read_text(encoding="utf-8")))


def summary(found: Campaign, seconds: float) -> str:
    """Return a table of a run: cases per surface, outcomes, rate, the slowest case and the finds."""
    lines = [f"{'surface':<10} {'cases':>7} {'result':>7} {'refused':>7} {'wrong':>6} {'ms/case':>8} {'slowest':>8}"]
    for name in SURFACES:
        if name not in found.counts:
            continue
        counts, times = found.counts[name], found.seconds[name]
        wrong = sum(counts.values()) - counts["result"] - counts["refused"]
        mean, most = 1000 * sum(times) / len(times), max(times)
        lines.append(
            f"{name:<10} {len(times):>7,} {counts['result']:>7,} {counts['refused']:>7,} {wrong:>6} {mean:>8.1f} {most:>6.1f} s"
        )
    total = sum(len(times) for times in found.seconds.values())
    lines.append(f"{total:,} cases in {seconds:.0f} s, {total / max(seconds, 1e-9):.0f} per second; {len(found.finds)} finds")
    lines += [f"find {name}: {where} ({found.repeats[name, where]} cases)" for name, where in found.finds]
    lines += [
        f"not repeated: {case.surface}: {outcome.kind} {outcome.where} {outcome.detail[:200]}"
        for case, outcome in found.unconfirmed
    ]
    return "\n".join(lines)
