"""Stored groups: the templates and task weights in a bundle, which allow adding tasks without a trace."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common as common

from exporter.errors import ExportError
from exporter.models.binding import generic_names
from exporter.prune.task_groups import TaskGroup
from exporter.traced_group import TracedGroup
from exporter.write.weights_file import WeightsFile

_KEY = "adapterdrop"


@dataclass(frozen=True)
class StoredGroup:
    """A template with the weights of its tasks.

    Attributes:
        structure: the structure of the group's tasks, as in `Task`.
        generic_names: name of a weight in the template -> its generic name, as in `TracedGroup`.
        group: the template with the weights of all its tasks.
    """

    structure: str
    generic_names: Mapping[str, str]
    group: TracedGroup


def make_stored_groups(
    groups: Sequence[TracedGroup], task_groups: Sequence[TaskGroup], structures: Sequence[str]
) -> list[StoredGroup]:
    """Make stored groups.

    Args:
        groups: groups in the form of `stored_form`.
        task_groups: the patched model that each was traced from.
        structures: the structure of each group, into which all its tasks fit.
    """
    stored = []
    for group, task_group, structure in zip(groups, task_groups, structures, strict=True):
        names = generic_names(task_group.model, task_group.tasks[0])
        own = {name: names[name] for name in group.weights}
        stored.append(StoredGroup(structure, own, group))
    return stored


def stored_group_files(graph: str, count: int) -> list[str]:
    """Return the file names of the `count` templates that belong to the graph `graph`."""
    return [f"{graph.removesuffix('.onnx')}_template{number}.onnx" for number in range(count)]


def save_stored_groups(stored: Sequence[StoredGroup], weights: WeightsFile, graph: Path) -> None:
    """Write stored groups to the folder of a graph.

    Args:
        stored: the groups.
        weights: the weights file of the bundle.
        graph: the file of the graph.
    """
    for each, name in zip(stored, stored_group_files(graph.name, len(stored)), strict=True):
        model = each.group.model.clone()
        common.ClearMetadataAndDocStringPass()(model)  # torch stores local paths
        for weight, arrays in each.group.weights.items():
            # The template of a padded group was traced with its largest task, which need not be the first.
            _set_value(model.graph.initializers[weight], arrays[0])
            for number, array in enumerate(arrays[1:], 1):
                value = ir.Value(name=_nth(weight, number))
                _set_value(value, array)
                model.graph.register_initializer(value)
        entry = {"structure": each.structure, "generic_names": each.generic_names, "tasks": list(each.group.tasks)}
        model.metadata_props[_KEY] = json.dumps(entry, sort_keys=True)
        weights.externalize(model)
        ir.save(model, graph.with_name(name))


def _set_value(value: ir.Value, array: np.ndarray) -> None:
    tensor = ir.tensor(np.ascontiguousarray(array), name=str(value.name))
    value.const_value, value.shape, value.type = tensor, ir.Shape(array.shape), ir.TensorType(tensor.dtype)


def load_stored_groups(graph: Path, names: Sequence[str]) -> list[StoredGroup]:
    """Load the stored groups of a graph.

    Args:
        graph: the file of the graph.
        names: the files that the bundle's manifest lists.

    Raises:
        ExportError: the bundle has no templates, or a file is damaged.
    """
    count = sum(name.startswith(f"{graph.stem}_template") for name in names)
    if not count:
        raise ExportError(f"{graph.parent} has no templates, so that tasks cannot be added: export it again with --extendable")
    return [_load(graph.with_name(name)) for name in stored_group_files(graph.name, count)]


def _load(path: Path) -> StoredGroup:
    try:
        model = ir.load(path)
        entry = json.loads(model.metadata_props[_KEY])
        tasks, names = tuple(entry["tasks"]), entry["generic_names"]
        found = model.graph.initializers
        weights = {
            name: [_numpy(found[name]), *(_numpy(found[_nth(name, number)]) for number in range(1, len(tasks)))]
            for name in names
        }
        for name in names:
            for number in range(1, len(tasks)):
                del found[_nth(name, number)]
        return StoredGroup(entry["structure"], names, TracedGroup(tasks, model, weights, names))
    except Exception as error:  # of onnx-ir and protobuf, and missing keys in other files
        raise ExportError(f"{path} is damaged or of another version ({error!r}): export the bundle again") from error


def _nth(name: str, number: int) -> str:
    return f"{name}#{number}"


def _numpy(value: ir.Value) -> np.ndarray:
    assert value.const_value is not None  # an initializer
    return value.const_value.numpy()
