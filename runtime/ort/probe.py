"""Comparison of a provider with the probe of a bundle: logits that the export verified."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from runtime.bundle import ROUTE_INPUTS, BoundFolder, Manifest, Probe, TaskEntry, VariantEntry
from runtime.bundle.probe import thinned
from runtime.checks.feeds import check_feeds
from runtime.errors import BundleError, InputError, ProviderError
from runtime.options import Options
from runtime.ort.float_types import float_type
from runtime.ort.known_providers import TENSORRT, TENSORRT_RTX, Provider
from runtime.ort.provider_options import session_providers

Array = npt.NDArray[Any]
Run = Callable[[Sequence[str], Mapping[str, Array]], Sequence[Array]]

_LOGITS: Final = "logits"  # the output of a routed graph


@dataclass(frozen=True)
class ProbeRow:
    """Comparison of one task of a graph with the probe.

    Attributes:
        task: name of the task.
        drop: drop of the variant.
        graph: file name of the graph.
        difference: largest difference of a logit, relative to max(1, largest absolute logit of the task); NaN if a logit is
            NaN or infinite.
        tolerance: limit of `difference`.
    """

    task: str
    drop: int
    graph: str
    difference: float
    tolerance: float

    @property
    def is_right(self) -> bool:
        """Whether the difference is within the tolerance."""
        return self.difference < self.tolerance


class ProbeError(ProviderError):
    """A provider fails on the probe of a bundle, or computes other logits than the export verified."""


@dataclass(frozen=True)
class ProbeCheck:
    """Compares graphs on one provider with the probes of a bundle.

    Attributes:
        files: files of the bundle.
        manifest: its manifest.
        provider: the provider.
        options: session options.
    """

    files: BoundFolder
    manifest: Manifest
    provider: Provider
    options: Options

    def check(self, graph: str, run: Run) -> tuple[ProbeRow, ...]:
        """Compare a graph.

        Args:
            graph: file name of the graph.
            run: function from names of outputs and feeds to outputs.

        Returns:
            A row for each task.

        Raises:
            ProviderError: the graph fails, or the logits of a task differ; the message names all such tasks.
            BundleError: the file of the probe is damaged or does not belong to the bundle.
        """
        variant = next(each for each in self.manifest.variants if graph in (each.model, each.routed))
        probe = self._read(variant)
        compare = self._routed if graph == variant.routed else self._plain
        try:
            found = list(compare(probe, run))
        except BundleError:
            raise
        except Exception as error:  # ONNX Runtime's exceptions have no common base but Exception
            reason = " ".join(str(error).split())
            raise ProbeError(
                f"provider {self.provider.name}: it fails on the probe of the bundle ({graph}): {reason}; {self._other}"
            ) from error
        tolerance = self._tolerance(variant)
        rows = tuple(
            ProbeRow(entry.name, variant.drop, graph, _difference(values, probe, entry), tolerance) for entry, values in found
        )
        if wrong := [row for row in rows if not row.is_right]:
            worst = ", ".join(f"{row.task} by {row.difference:.2g}" for row in wrong[:10])
            more = f" and {len(wrong) - 10} more" * (len(wrong) > 10)
            raise ProbeError(
                f"provider {self.provider.name}: its logits differ from those that the export verified ({graph}, drop "
                f"{variant.drop}): {worst}{more}, relative to the largest logit; expected less than {tolerance:.2g}; "
                f"{self._other}, or accept more with options.probe_tolerance, or any logits with verify=False"
            )
        return rows

    @property
    def _other(self) -> str:
        return "export the bundle again" if self.provider.name == "cpu" else "use provider cpu"

    def _tolerance(self, variant: VariantEntry) -> float:
        if self.options.probe_tolerance is not None:
            return self.options.probe_tolerance
        requested = session_providers(self.provider, self.options, self.manifest, graphs=False)
        return variant.probe.tolerances[float_type(self.provider, requested, self.options.session_config)]

    def _read(self, variant: VariantEntry) -> Probe:
        name = variant.probe.file
        try:
            probe = Probe.parse(self.files.read(name), self.manifest.inputs)
            feeds = check_feeds(probe.feeds, self.manifest)
        except (ValueError, InputError) as error:
            raise self._damaged(name, str(error)) from error
        expected = {output for entry in self.manifest.tasks for output in entry.outputs}
        if missing := sorted(expected - set(probe.outputs)):
            raise self._damaged(name, f"it has no logits of {', '.join(map(repr, missing[:10]))}")
        rows = len(next(iter(feeds.values())))
        if others := sorted(name for name, array in probe.outputs.items() if len(array.shape) < 1 or len(array) != rows):
            raise self._damaged(name, f"expected {rows} rows of logits, which {', '.join(map(repr, others[:10]))} do not have")
        if self.provider.key in (TENSORRT.key, TENSORRT_RTX.key):  # larger batches would make another engine
            most = self.options.tensorrt.largest[0]
            feeds = {name: array[:most] for name, array in feeds.items()}
            return Probe(feeds, {name: array[:most] for name, array in probe.outputs.items()})
        return Probe(feeds, probe.outputs)

    def _damaged(self, name: str, reason: str) -> BundleError:
        return BundleError(f"{self.files.shown}: {name}: {reason}; export the bundle again with `python -m exporter`")

    def _plain(self, probe: Probe, run: Run) -> Iterator[tuple[TaskEntry, list[Array]]]:
        names = [output for entry in self.manifest.tasks for output in entry.outputs]
        found = dict(zip(names, run(names, probe.feeds), strict=True))
        for entry in self.manifest.tasks:
            yield entry, [thinned(found[name]) for name in entry.outputs]

    def _routed(self, probe: Probe, run: Run) -> Iterator[tuple[TaskEntry, list[Array]]]:
        """Every task for every row."""
        tasks, rows = self.manifest.tasks, len(next(iter(probe.feeds.values())))
        ids = (np.tile(np.arange(rows), len(tasks)), np.repeat(np.arange(len(tasks)), rows))
        route = {name: each.astype(np.int64) for name, each in zip(ROUTE_INPUTS, ids, strict=True)}
        (logits,) = run([_LOGITS], {**probe.feeds, **route})
        for number, entry in enumerate(tasks):
            yield entry, [thinned(logits[number * rows : (number + 1) * rows, : entry.columns])]


def described(rows: Sequence[ProbeRow]) -> list[str]:
    """Return a line for each graph, with its task of the largest difference."""
    lines = []
    for graph in dict.fromkeys(row.graph for row in rows):
        own = [row for row in rows if row.graph == graph]
        worst = max(own, key=lambda row: row.difference)
        lines.append(
            f"{graph}, drop {worst.drop}: {len(own)} task{'s' * (len(own) > 1)} as verified, largest difference "
            f"{worst.difference:.1e} ({worst.task}), allowed {worst.tolerance:.1e}"
        )
    return lines


def _difference(found: Sequence[Array], probe: Probe, entry: TaskEntry) -> float:
    """Return the largest difference over the outputs of a task; infinity for other shapes, NaN for NaN and infinities."""
    largest = 0.0
    for one, name in zip(found, entry.outputs, strict=True):
        other = probe.outputs[name]
        if one.shape != other.shape:
            return float("inf")
        if not np.isfinite(one).all():
            return float("nan")
        scale = max(1.0, float(np.abs(other).max(initial=0.0)))
        largest = max(largest, float(np.abs(one.astype(np.float64) - other).max(initial=0.0)) / scale)
    return largest
