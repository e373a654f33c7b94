"""Keeps each structure's template and its tasks' weights in the bundle, so that tasks can be added without a trace."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common as common

from exporter.compile.passes import FoldConstantsPass
from exporter.compile.pipeline import TracedGroup
from exporter.errors import ExportError
from exporter.models.binding import task_slots
from exporter.prune.task_groups import TaskGroup
from exporter.write.weights_file import WeightsFile

_KEY = "adapterdrop"


@dataclass(frozen=True)
class StoredGroup:
    """Attributes:
    structure: that of the group's tasks, as in `Task`.
    places: weight by its name in the template -> its place in any task of the structure, as `task_places` calls it.
    group: the clean template with the weights of all its tasks.
    """

    structure: str
    places: Mapping[str, str]
    group: TracedGroup


def make_stored_groups(groups: Sequence[TracedGroup], task_groups: Sequence[TaskGroup]) -> list[StoredGroup]:
    """Templates of clean groups, each of one branch. They take the groups' graphs, so give those that nobody else needs."""
    templates = []
    for group, task_group in zip(groups, task_groups, strict=True):
        places = task_slots(task_group.model, task_group.tasks[0])
        model = group.model
        # As in the finished graph, so that both read the same bytes; the weights of tasks stay as PyTorch has them. Scales are
        # not folded here: whether they can be depends on what the groups share once they are joined.
        FoldConstantsPass(group.weights, transpose_weights=True)(model)
        common.RemoveUnusedNodesPass()(model)
        weights = {name: arrays for name, arrays in group.weights.items() if name in model.graph.initializers}
        own = {name: places[name] for name in weights}
        templates.append(StoredGroup(task_group.tasks[0].structure, own, replace(group, model=model, weights=weights)))
    return templates


def stored_group_files(graph: str, count: int) -> list[str]:
    """What the templates of the graph `graph` are called."""
    return [f"{graph.removesuffix('.onnx')}_template{number}.onnx" for number in range(count)]


def save_stored_groups(templates: Sequence[StoredGroup], weights: WeightsFile, graph: Path) -> None:
    """Writes the templates beside `graph`, over the same weights."""
    for template, name in zip(templates, stored_group_files(graph.name, len(templates)), strict=True):
        model = template.group.model.clone()
        common.ClearMetadataAndDocStringPass()(model)  # torch notes the paths of this machine
        for weight, arrays in template.group.weights.items():
            for number, array in enumerate(arrays[1:], 1):
                tensor = ir.tensor(np.ascontiguousarray(array), name=_nth(weight, number))
                value = ir.Value(
                    name=tensor.name, shape=ir.Shape(array.shape), type=ir.TensorType(tensor.dtype), const_value=tensor
                )
                model.graph.register_initializer(value)
        said = {"structure": template.structure, "places": template.places, "tasks": list(template.group.tasks)}
        model.metadata_props[_KEY] = json.dumps(said, sort_keys=True)
        weights.place(model)
        ir.save(model, graph.with_name(name))


def load_stored_groups(graph: Path, names: Sequence[str]) -> list[StoredGroup]:
    """The templates beside `graph`, of those files that the bundle lists.

    Raises:
        ExportError: there are none, or a file is no template.
    """
    count = sum(name.startswith(f"{graph.stem}_template") for name in names)
    if not count:
        raise ExportError(
            f"{graph.parent}: nothing can be added to a bundle without templates; export it again with --extendable"
        )
    return [_load(graph.with_name(name)) for name in stored_group_files(graph.name, count)]


def _load(path: Path) -> StoredGroup:
    try:
        model = ir.load(path)
        said = json.loads(model.metadata_props[_KEY])
        tasks = tuple(said["tasks"])
        found = model.graph.initializers
        weights = {
            name: [_numpy(found[name]), *(_numpy(found[_nth(name, number)]) for number in range(1, len(tasks)))]
            for name in said["places"]
        }
        for name in said["places"]:
            for number in range(1, len(tasks)):
                del found[_nth(name, number)]
        return StoredGroup(said["structure"], said["places"], TracedGroup(tasks, model, weights))
    except Exception as error:  # onnx-ir's, protobuf's, and what a foreign file lacks
        raise ExportError(f"{path}: no template of an export ({error!r}): export the bundle again") from error


def _nth(name: str, number: int) -> str:
    return f"{name}#{number}"


def _numpy(value: ir.Value) -> np.ndarray:
    assert value.const_value is not None  # an initializer
    return value.const_value.numpy()
