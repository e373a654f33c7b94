"""Comparison of a provider with the probe of a bundle: logits that the export verified."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from runtime.bundle import BoundFolder, Manifest, Probe, VariantEntry, slots_file
from runtime.checks.feeds import check_feeds
from runtime.errors import BundleError, InputError, ProviderError
from runtime.options import Options
from runtime.ort.float_types import float_type
from runtime.ort.graph_file import GraphFile
from runtime.ort.known_providers import CPU, TENSORRT, TENSORRT_RTX, Provider
from runtime.ort.probe_graphs import Compared, Run, run_on_probe
from runtime.ort.provider_options import session_providers
from runtime.ort.session import create_session, is_routed

Array = npt.NDArray[Any]


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
        slots: file name of a graph with slots -> number of its slots, of all groups.
    """

    files: BoundFolder
    manifest: Manifest
    provider: Provider
    options: Options
    slots: Mapping[str, int] = field(default_factory=dict)

    def check(self, graph: str, run: Run, reads: Sequence[str] = ()) -> tuple[ProbeRow, ...]:
        """Compare a graph. Graphs with slots are compared with the CPU, so on other providers only.

        `reads` are the names of its inputs, which only the graphs of branches need.

        Returns:
            A row for each task; for a graph with slots, one row.

        Raises:
            ProviderError: the graph fails, or the logits of a task differ; the message names all such tasks.
            BundleError: the file of the probe is damaged or does not belong to the bundle.
        """
        slots = self.slots.get(graph, 0)
        if slots and self.provider is CPU:
            return ()
        variant = next(each for each in self.manifest.variants if graph in self._graphs(each))
        probe = self._read(variant)
        try:
            found = list(run_on_probe(graph, variant, self.manifest, probe, run, reads, slots, self._on_cpu))
        except BundleError:
            raise
        except Exception as error:  # ONNX Runtime's exceptions have no common base but Exception
            reason = " ".join(str(error).split())
            raise ProbeError(
                f"provider {self.provider.name}: it fails on the probe of the bundle ({graph}): {reason}; {self._other}"
            ) from error
        limit = self._limits(variant)
        rows = tuple(ProbeRow(each.task, variant.drop, graph, _difference(each), limit(each.task)) for each in found)
        if wrong := [row for row in rows if not row.is_right]:
            worst = ", ".join(f"{row.task} by {row.difference:.2g}" for row in wrong[:10])
            least = min(row.tolerance for row in wrong)
            more = f" and {len(wrong) - 10} more" * (len(wrong) > 10)
            raise ProbeError(
                f"provider {self.provider.name}: its logits differ from those that the export verified ({graph}, drop "
                f"{variant.drop}): {worst}{more}, relative to the largest logit; expected less than {least:.2g}; "
                f"{self._other}, or accept more with options.probe_tolerance, or any logits with verify=False"
            )
        return rows

    @property
    def _other(self) -> str:
        return "export the bundle again" if self.provider.name == "cpu" else "use provider cpu"

    def _limits(self, variant: VariantEntry) -> Callable[[str], float]:
        """Return the function from a task to its tolerance."""
        if (given := self.options.probe_tolerance) is not None:
            return lambda _: given
        requested = session_providers(self.provider, self.options, self.manifest, graphs=False)
        floats = float_type(self.provider, requested, self.options.session_config)
        return lambda task: variant.probe.tolerance(task, floats)

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

    def _graphs(self, variant: VariantEntry) -> tuple[str, ...]:
        split = self.manifest.splits.get(variant.model)
        return (variant.model, variant.routed, slots_file(variant.model), *(split.graphs if split else ()))

    def _on_cpu(self, graph: str) -> Any:
        """Open a graph on the CPU, with which the export was verified."""
        file = GraphFile(self.files, graph, is_routed(graph, self.manifest))
        return create_session(file, CPU, self.manifest, Options(threads=self.options.threads, spin=self.options.spin))


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


def _difference(compared: Compared) -> float:
    """Return the largest difference over the outputs of a task; infinity for other shapes, NaN for NaN and infinities."""
    largest = 0.0
    for one, other in zip(compared.found, compared.expected, strict=True):
        if one.shape != other.shape:
            return float("inf")
        if not np.isfinite(one).all():
            return float("nan")
        scale = max(1.0, float(np.abs(other).max(initial=0.0)))
        largest = max(largest, float(np.abs(one.astype(np.float64) - other).max(initial=0.0)) / scale)
    return largest
