"""One candidate at one setting, in a process without the others: `python -m benchmarks.serving.one JSON`."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.gpu import current_gpu
from benchmarks.serving.candidates import CANDIDATES, Candidate
from benchmarks.serving.engines import create
from benchmarks.serving.memory import peak_mb, reset_peak
from benchmarks.serving.tables import Row, Setting
from benchmarks.serving.texts import made_texts, read_texts
from benchmarks.serving.traffic import LoadTest, highest, requests
from runtime.serving.batcher import Batcher, Batching
from runtime.serving.limits import Limits
from runtime.serving.request import Served

CHECKED = ("a film without a second of boredom", "rain", "the bank raised its rates again, and the shares fell", "one two")
REFERENCE = "reference.json"
_TOLERANCE = 1e-3  # of probabilities in fp32
_ROUNDED = 0.1  # the same in bf16 and int8; another task's weights differ by more


@dataclasses.dataclass(frozen=True)
class Job:
    """One measurement.

    Attributes:
        setting: candidate, tasks and requests.
        objectives: latencies in ms, ascending.
        seconds: duration of a load.
        threads: threads within one operator.
        seed: of the requests.
        folder: folder that `prepare` filled.
        texts: folder of test sets; None for made texts.
        device: "cpu" or "cuda".
    """

    setting: Setting
    objectives: Sequence[float]
    seconds: float
    threads: int
    seed: int
    folder: str
    texts: str | None
    device: str

    @classmethod
    def parse(cls, text: str) -> Job:
        """Read the JSON of `dataclasses.asdict`."""
        fields = json.loads(text)
        return cls(**{**fields, "setting": Setting(**fields["setting"])})


async def measure(job: Job) -> Row:
    """Load the candidate, check its predictions and search for its highest load.

    Raises:
        ValueError: its predictions are not those of the tasks.
    """
    setting, folder = job.setting, Path(job.folder)
    candidate = CANDIDATES[setting.candidate]
    objectives = [each / 1e3 for each in job.objectives]
    served, names, more = create(candidate, folder, setting.tasks, job.threads, max(objectives), job.device)
    difference = check(candidate, served, names, folder)
    texts = read_texts(Path(job.texts)) if job.texts else made_texts()
    given = requests(texts, names, setting.per_text, setting.repeats, job.seed)
    reset_peak()
    points = await LoadTest(Batcher(served, Batching(), Limits()), given, job.seconds, objectives).search()
    loads = [highest(points, number) for number in range(len(objectives))]
    if job.device == "cuda" and (gpu := current_gpu()) is not None:
        more["gpu_used_mib_after"] = gpu["memory_used_mib"]  # of the whole first GPU, after the load test
    return Row(**dataclasses.asdict(setting), loads=loads, peak_mb=peak_mb(), difference=difference, points=points, more=more)


def check(candidate: Candidate, served: Served, names: Sequence[str], folder: Path) -> float:
    """Compare predictions of different tasks in one batch with those of each task on its own.

    The reference is single-task PyTorch; of a candidate with other weights, its own predictions one at a time.

    Returns:
        Largest difference of a probability.

    Raises:
        ValueError: it is too large.
    """
    different = min(len(names), 3)
    chosen = [[names[number % different]] for number in range(len(CHECKED))]
    mixed = served.predict_routed(list(CHECKED), chosen, None, truncate=True)
    found = [list((row[name].scores or {}).values()) for row, (name,) in zip(mixed, chosen, strict=True)]
    expected: list[list[float]]
    if candidate.same:
        drop = min(served.drops) if candidate.drop in ("lowest", "all") else max(served.drops)
        rows: dict[str, Any] = json.loads((folder / REFERENCE).read_text("utf-8"))
        expected = [rows[str(drop)][number % different][number] for number in range(len(CHECKED))]
    else:
        answers = [served.predict([text], own, None, truncate=True) for text, own in zip(CHECKED, chosen, strict=True)]
        expected = [list((row[name][0].scores or {}).values()) for row, (name,) in zip(answers, chosen, strict=True)]
    pairs = [pair for one, other in zip(found, expected, strict=True) for pair in zip(one, other, strict=True)]
    difference = max(abs(one - other) for one, other in pairs)
    if not difference <= (most := _TOLERANCE if candidate.precise else _ROUNDED):
        raise ValueError(f"probabilities differ by {difference:.1e} from single-task PyTorch, expected at most {most:g}")
    return difference


if __name__ == "__main__":
    print(json.dumps(dataclasses.asdict(asyncio.run(measure(Job.parse(sys.argv[1]))))), flush=True)
