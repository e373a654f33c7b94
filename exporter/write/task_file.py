"""The content of a task file, which `runtime.slots.task_file` reads."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from runtime.bundle import ParityRow, TaskEntry
from runtime.bundle.schema import encode
from runtime.bundle.tensors import Array, pack, sealed
from runtime.slots.task_file import FORMAT, VERSION


def task_file_bytes(
    entry: TaskEntry, precision: str, graphs: Mapping[str, tuple[int, int, Mapping[str, Array]]], parity: Sequence[ParityRow]
) -> bytes:
    """Return the content of a task file.

    Args:
        entry: the task.
        precision: precision of the graphs.
        graphs: identity of a graph -> (drop, number of the group, input of the graph -> weights).
        parity: comparisons with eager PyTorch.

    Raises:
        ValueError: a weight has a type that the format lacks.
    """
    known = {str(drop): {"identity": identity, "group": group} for identity, (drop, group, _) in graphs.items()}
    metadata = {
        "format": FORMAT,
        "version": VERSION,
        "task": json.dumps(encode(entry), ensure_ascii=False),
        "precision": precision,
        "graphs": json.dumps(known, sort_keys=True),
        "parity": json.dumps(encode(list(parity))),
    }
    arrays = {f"{drop}:{name}": array for drop, _, rows in graphs.values() for name, array in rows.items()}
    return pack(arrays, sealed(arrays, metadata))
