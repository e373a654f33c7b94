"""Streams on a cluster: Ray Data gives the partitions of a folder to actors, each with a predictor."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from runtime.bundle.manifest import Manifest
from runtime.errors import AdapterDropError, BundleError, InputError
from runtime.load_bundle import load
from runtime.options import Options
from runtime.printable import printable
from runtime.standard_output import print_error
from runtime.streams.partitions import Folder
from runtime.streams.read import format_of
from runtime.streams.sinks import FileSink
from runtime.streams.work import Work, score

TRIES: Final = 3
_DONE, _REFUSED, _FAILED = "done", "refused", "failed"
_DEATHS: Final = 3  # of a partition's worker, such as for lack of memory; then the others go on without this partition


@dataclass(frozen=True)
class Job:
    """Settings that the actors share.

    Attributes:
        folder: folder or hub id of the bundle, which every machine must be able to read.
        provider: execution provider.
        options: session options.
        work: what to compute.
        manifest: manifest of the bundle that the driver has seen.
        source: folder of the partitions.
        target: folder of the outputs.
        format: format of all partitions; None for that of their suffixes.
        overwrite: start again where there are outputs.
    """

    folder: str
    provider: str
    options: Options
    work: Work
    manifest: Manifest
    source: Folder
    target: Folder
    format: str | None = None
    overwrite: bool = False


class Begun:
    """An actor that counts how often a partition was begun and not ended. Ray itself would restart its worker forever."""

    def __init__(self) -> None:
        """Start without counts."""
        self._counts: Counter[str] = Counter()

    def begin(self, name: str) -> int:
        """Return how many workers have died of a partition, and count another one."""
        self._counts[name] += 1
        return self._counts[name] - 1

    def end(self, name: str) -> None:
        """Forget a partition."""
        del self._counts[name]


class PartitionScorer:
    """The actor: computes one partition at a time, and returns how it ended."""

    def __init__(self, job: Job, begun: Any) -> None:
        """Load the bundle; `begun` is the handle of an actor `Begun`."""
        self._job, self._begun = job, begun
        self._predictor = load(job.folder, provider=job.provider, drop=job.work.drop, options=job.options)
        if self._predictor.manifest != job.manifest:
            raise BundleError(f"{job.folder}: is another bundle on this machine than where the command runs; copy it again")

    def __call__(self, batch: Mapping[str, Sequence[str]]) -> dict[str, list[Any]]:
        """Compute the partitions of a batch of Ray Data.

        Args:
            batch: the names, under "partition".

        Returns:
            Columns with a row per partition: partition, status, reason, rows, errors.
        """
        found = [self._counted(str(name)) for name in batch["partition"]]
        return {column: [row[column] for row in found] for column in found[0]}

    def _counted(self, name: str) -> dict[str, Any]:
        import ray

        row = {"partition": name, "status": _DONE, "reason": "", "rows": 0, "errors": 0}
        if (deaths := ray.get(self._begun.begin.remote(name))) >= _DEATHS:
            return {**row, "status": _REFUSED, "reason": f"its worker died {deaths} times"}
        found = {**row, **self._one(name)}
        ray.get(self._begun.end.remote(name))
        return found

    def _one(self, name: str) -> dict[str, Any]:
        """Compute a partition; return what differs from the row of an empty one."""
        job = self._job
        try:
            form = format_of(name, job.format, job.work.columns)
            with job.source.opened(name) as source, job.target.output(name) as path:
                settings = job.work.settings(job.manifest, form)
                with FileSink(path, settings, job.overwrite) as sink:
                    done = score(self._predictor, job.work, source, form, name, sink)
        except AdapterDropError as error:  # another try would end in the same way
            return {"status": _REFUSED, "reason": str(error)}
        except Exception as error:
            return {"status": _FAILED, "reason": f"{type(error).__name__}: {error}"}
        return {"rows": done.rows, "errors": done.errors}


def run(job: Job, actors: int, quiet: bool = False) -> str:
    """Compute all partitions of a folder.

    Args:
        job: what to compute.
        actors: number of actors.
        quiet: show only partitions that fail.

    Returns:
        What to print at the end.

    Raises:
        InputError: partitions failed; the message names them. Ray is not installed.
    """
    try:
        import ray
        import ray.data  # noqa: F401  # `ray` does not load it
    except ModuleNotFoundError as error:
        raise InputError(f"--engine ray: needs Ray: pip install 'adapterdrop-onnx[ray]' ({error})") from error
    left = job.source.partitions()
    count = len(left)
    if not ray.is_initialized():
        ray.init(log_to_driver=False)  # RAY_ADDRESS names a cluster
    begun = ray.remote(num_cpus=0)(Begun).remote()
    done: list[Mapping[str, Any]] = []
    refused: dict[str, str] = {}
    reasons: dict[str, str] = {}
    for attempt in range(1, TRIES + 1):
        again = job if attempt == 1 else replace(job, overwrite=False)  # a second try continues the first
        reasons = {}
        for row in _attempt(again, left, actors, begun):
            name = row["partition"]
            if row["status"] == _DONE:
                done.append(row)
                _show(f"{name}: {row['rows']:,} rows, {row['errors']:,} broken ({len(done)} of {count} partitions)", quiet)
            elif row["status"] == _REFUSED:
                refused[name] = row["reason"]
            else:
                reasons[name] = row["reason"]
        left = list(reasons)
        if not left:
            break
        _show(f"try {attempt} of {TRIES}: {len(left)} partitions failed: {_named(reasons)}", quiet=False)
    if failed := refused | {name: f"{reason}, {TRIES} times" for name, reason in reasons.items()}:
        remedy = "the others are done, and the same command runs these again"
        raise InputError(f"{len(failed)} of {count} partitions failed: {_named(failed)}; {remedy}")
    rows, errors = (sum(row[column] for row in done) for column in ("rows", "errors"))
    return f"{rows:,} rows of {count} partitions, {errors:,} broken, in {job.target.name}"


def _attempt(job: Job, names: Sequence[str], actors: int, begun: Any) -> Iterator[Mapping[str, Any]]:
    """Yield the row of each partition. Raises InputError if the actors cannot start."""
    import ray

    context = ray.data.DataContext.get_current()
    before, context.enable_progress_bars = context.enable_progress_bars, False
    try:
        # A block, and so a task that Ray repeats if its worker dies, for each partition
        blocks = ray.data.from_items([{"partition": name} for name in names], override_num_blocks=len(names))
        scored = blocks.map_batches(
            PartitionScorer,
            fn_constructor_args=(job, begun),
            batch_size=1,
            concurrency=min(actors, len(names)),
            num_cpus=job.options.threads or 1,
        )
        yield from scored.iter_rows()
    except ray.exceptions.RayError as error:
        reason = str(error).strip().splitlines()[-1]
        raise InputError(
            f"--engine ray: the actors cannot work: {reason}; each machine needs the bundle and the packages"
        ) from error
    finally:
        context.enable_progress_bars = before


def _named(reasons: Mapping[str, str]) -> str:
    shown = [reason if reason.startswith(name) else f"{name}: {reason}" for name, reason in reasons.items()]
    return "; ".join(shown[:10]) + (f"; and {len(shown) - 10} more" if len(shown) > 10 else "")


def _show(text: str, quiet: bool) -> None:
    if not quiet:
        print_error(printable(text))
