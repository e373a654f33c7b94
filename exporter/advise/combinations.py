"""Graphs of any combination of drops, compiled from the templates of one export without another trace."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from exporter.advise.measurement_files import writing
from exporter.compile.build import compile_plan
from exporter.plan import Plan
from exporter.texts.batches import Calibration
from exporter.traced_group import TracedGroup
from exporter.write.stored_groups import StoredGroup, load_stored_groups
from runtime.bundle import MODEL, WEIGHTS, read_manifest
from runtime.import_ort import ort

_SCRATCH = "graph-"


@dataclass(frozen=True)
class Branch:
    """One task as it may be exported.

    Attributes:
        task: its name.
        drop: the number of lowest layers without its adapters.
        keep: number of members of its fusion; None for all.
    """

    task: str
    drop: int
    keep: int | None = None

    def __str__(self) -> str:
        """Return a name that no other branch has."""
        return f"{self.task}={self.drop}" if self.keep is None else f"{self.task}={self.drop}/{self.keep}"


@dataclass(frozen=True)
class Combination:
    """A drop per task, and the members that fusions keep.

    Attributes:
        drops: task -> drop, in the order of the outputs.
        keep: number of members of each fusion; None for all.
    """

    drops: Mapping[str, int]
    keep: int | None = None

    def __str__(self) -> str:
        """Return the name under which times are kept."""
        kept = "" if self.keep is None else f"/{self.keep}"
        return ",".join(f"{name}={drop}" for name, drop in self.drops.items()) + kept

    @property
    def branches(self) -> dict[str, Branch]:
        """Task -> its branch."""
        return {name: Branch(name, drop, self.keep) for name, drop in self.drops.items()}


class Templates:
    """The templates of the exported bundles, by drop.

    Two bundles that were exported from one model have equal trunks, whose weights are stored in each.
    """

    def __init__(self, plan: Plan, texts: Calibration | None, whole: Path, members: Mapping[int, Path]) -> None:
        """Open the bundles.

        Args:
            plan: the plan of all tasks at any drop.
            texts: texts for the ranges of activations in int8, if the target needs them.
            whole: the folder of the bundle, exported with `extendable` at every drop.
            members: number of members kept -> the folder of the bundle of the fusions with as many.
        """
        self._plan, self._texts, self._folder, self._members = plan, texts, whole, members
        self._manifests = {folder: read_manifest(folder) for folder in (whole, *members.values())}
        self._stored: dict[tuple[Path, int], list[StoredGroup]] = {}
        for left in whole.parent.glob(f"{_SCRATCH}*"):  # of a run that was killed
            shutil.rmtree(left, ignore_errors=True)

    def _groups(self, branches: Mapping[str, Branch]) -> list[TracedGroup]:
        """Return copies of the templates, each with the weights of the branches that it computes."""
        found: list[TracedGroup] = []
        left = dict(branches)
        for drop, keep in dict.fromkeys((branch.drop, branch.keep) for branch in branches.values()):
            folders = [] if keep is None or keep not in self._members else [self._members[keep]]
            for folder in (*folders, self._folder):
                for stored in self._load(folder, drop):
                    names = [
                        name
                        for name, branch in left.items()
                        if (branch.drop, branch.keep) == (drop, keep) and branch.task in stored.group.tasks
                    ]
                    if names:
                        found.append(_subset(stored.group, {name: left.pop(name).task for name in names}))
        return found

    def _load(self, folder: Path, drop: int) -> list[StoredGroup]:
        manifest = self._manifests[folder]
        if drop not in manifest.drops:
            return []
        if (folder, drop) not in self._stored:
            self._stored[folder, drop] = load_stored_groups(folder / manifest.variant(drop).model, list(manifest.files))
        return self._stored[folder, drop]

    def batches(self, drop: int, keep: int | None) -> list[tuple[str, ...]]:
        """Return the tasks of each structure at one drop, which one batch computes.

        Args:
            drop: the drop.
            keep: number of members; then only fusions that are exported with as many; None for all tasks.
        """
        folder = self._folder if keep is None else self._members[keep]
        return [stored.group.tasks for stored in self._load(folder, drop)]

    def compile(self, branches: Mapping[str, Branch]) -> ir.Model:
        """Compile a graph of some branches, with an output for each name.

        One task may be there several times, at several drops: what its branches have in common is computed once.

        Args:
            branches: name -> branch.
        """
        return compile_plan(self._groups(branches), self._plan_of(branches), self._texts, clean=True).graph

    def _plan_of(self, branches: Mapping[str, Branch]) -> Plan:
        tasks = {task.name: task for task in self._plan.tasks}
        named = tuple(replace(tasks[branch.task], name=name, drop=branch.drop) for name, branch in branches.items())
        return replace(self._plan, tasks=named)

    @contextmanager
    def session(self, branches: Mapping[str, Branch], threads: int | None) -> Iterator[tuple[Any, tuple[str, ...]]]:
        """Compile a graph of some branches and open it with ONNX Runtime's CPU provider.

        Args:
            branches: as in `compile`.
            threads: threads within an operator; None for ONNX Runtime's default.

        Yields:
            The session, and the names of the first output of each branch.
        """
        model, outputs = self.compile(branches), self._plan_of(branches).outputs
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads or 0
        options.log_severity_level = 3
        options.add_session_config_entry("session.force_spinning_stop", "1")  # as sessions of the runtime
        # Trunk weights stay where the bundle has them. They must be next to the graph, whichever bundle they are from. The
        # links end before anything else runs: onnx-ir reads no file that has two names.
        where = self._folder.parent
        with (
            writing(where),
            tempfile.TemporaryDirectory(prefix=_SCRATCH, dir=where, ignore_cleanup_errors=True) as scratch,
        ):
            for number, folder in enumerate(self._manifests):
                os.link(folder / WEIGHTS, Path(scratch) / f"{number}.data")
                _point_to(model, folder, f"{number}.data")
            path = Path(scratch) / MODEL
            ir.save(model, path)
            session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        yield session, tuple(outputs[name][0] for name in branches)


def _point_to(graph: ir.Model, folder: Path, name: str) -> None:
    """Let weights that are in the file of `folder` be read from `name`, next to the graph."""
    for value in graph.graph.initializers.values():
        tensor = value.const_value
        if isinstance(tensor, ir.ExternalTensor) and tensor.location == WEIGHTS and Path(tensor.base_dir) == folder:
            value.const_value = ir.ExternalTensor(
                name, tensor.offset, tensor.length, tensor.dtype, shape=tensor.shape, name=str(value.name), base_dir=folder
            )


def _subset(group: TracedGroup, tasks: Mapping[str, str]) -> TracedGroup:
    """Return a copy of the group with some of its tasks, under new names."""
    numbers = [group.tasks.index(task) for task in tasks.values()]
    weights: dict[str, Sequence[np.ndarray]] = {
        name: [arrays[number] for number in numbers] for name, arrays in group.weights.items()
    }
    model = group.model.clone()
    # The template has the weights of the group's first task, which a graph of one task takes from there.
    for name, arrays in weights.items():
        value = model.graph.initializers[name]
        value.const_value = ir.tensor(np.ascontiguousarray(arrays[0]), name=name)
        value.shape = ir.Shape(arrays[0].shape)
    return replace(group, tasks=tuple(tasks), model=model, weights=weights)
