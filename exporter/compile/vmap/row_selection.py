"""The rows of a routed graph: those that a group computes, and those that it takes from a stem."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import onnx_ir as ir

from exporter.compile.rewrite.builder import Builder, claim_names
from exporter.compile.vmap.stem_rows import StemRows
from runtime.bundle import ROUTE_INPUTS

__all__ = ["RowSettings", "add_route_inputs", "rows_of_routed_stem", "select_rows"]

_ROWS = "rows"


class RowSettings(Protocol):
    """The settings of `RouteTasksPass` that decide on rows."""

    group: str
    numbers: tuple[int, ...]
    total: int
    every_row: bool
    stem: StemRows | None
    stem_numbers: tuple[int, ...]


def add_route_inputs(graph: ir.Graph) -> list[ir.Value]:
    """Add the inputs `row_ids` and `task_ids`, and return them."""
    claim_names(graph, ROUTE_INPUTS)
    added = [ir.Value(name=name, shape=ir.Shape([_ROWS]), type=ir.TensorType(ir.DataType.INT64)) for name in ROUTE_INPUTS]
    graph.inputs.extend(added)
    return added


def select_rows(build: Builder, inputs: Sequence[ir.Value], settings: RowSettings) -> tuple[str, ir.Value, ir.Value, ir.Value]:
    """Return (name of the axis, row_ids, task_ids within the group, places among all rows) for the group's rows."""
    row_ids, task_ids = inputs
    int64, all_rows, zero = ir.DataType.INT64, ir.Shape([_ROWS]), build.constant(np.array(0))

    def count() -> ir.Value:
        every = build.node("Shape", [row_ids], shape=ir.Shape([1]), dtype=int64)
        return build.node("Squeeze", [every], shape=ir.Shape([]), dtype=int64)

    local = task_ids
    if settings.numbers != tuple(range(settings.total)):
        local = build.node(
            "Gather", [_table(build, settings.numbers, settings.total), task_ids], shape=all_rows, dtype=int64, hint="task_ids"
        )
    if len(settings.numbers) == settings.total:
        bounds = [zero, count(), build.constant(np.array(1))]
        return _ROWS, row_ids, local, build.node("Range", bounds, shape=all_rows, dtype=int64, hint="places")
    rows = f"{settings.group}_{_ROWS}"
    own = ir.Shape([rows])
    mask = build.node("GreaterOrEqual", [local, zero], shape=all_rows, dtype=ir.DataType.BOOL)
    if settings.every_row:
        total = count()
        places = build.node("Range", [zero, total, build.constant(np.array(1))], shape=all_rows, dtype=int64)
        places = build.node("Where", [mask, places, total], shape=all_rows, dtype=int64, hint="places")
        return _ROWS, row_ids, build.node("Max", [local, zero], shape=all_rows, dtype=int64, hint="own_task_ids"), places
    found = build.node("NonZero", [mask], shape=ir.Shape([1, rows]), dtype=int64)
    places = build.node("Squeeze", [found, build.ints([0])], shape=own, dtype=int64, hint="places")
    chosen = [build.node("Gather", [ids, places], shape=own, dtype=int64, hint=f"own_{ids.name}") for ids in (row_ids, local)]
    return rows, chosen[0], chosen[1], places


def _table(build: Builder, numbers: Sequence[int], total: int) -> ir.Value:
    """Return the position of each number among `numbers`, [total]; -1 for others."""
    places = np.full(total, -1)
    places[list(numbers)] = np.arange(len(numbers))
    return build.constant(places)


def rows_of_routed_stem(
    graph: ir.Graph, build: Builder, own: ir.Value, rows: str, places: ir.Value, settings: RowSettings
) -> ir.Value:
    """Replace the input `STEM` of one task, `own`, with that of all rows of the stem, and return the group's rows of it."""
    assert settings.stem is not None  # the caller's condition
    dims, every = list(own.shape or ())[1:], len(settings.stem_numbers) == settings.total or settings.every_row
    length = _ROWS if every else f"{settings.stem.name}_{_ROWS}"
    whole = ir.Value(name=settings.stem.name, shape=ir.Shape([length, *dims]), type=own.type)
    graph.inputs[graph.inputs.index(own)] = whole
    if settings.every_row:
        return whole
    index = places
    if not every:
        # The rows of the stem are in the order of all rows: a row's place among them is the number of those before it
        int64, one = ir.DataType.INT64, ir.Shape([_ROWS])
        inside = np.zeros(settings.total, np.int64)
        inside[list(settings.stem_numbers)] = 1
        task_ids = next(value for value in graph.inputs if value.name == ROUTE_INPUTS[1])
        of_stem = build.node("Gather", [build.constant(inside), task_ids], shape=one, dtype=int64)
        count = build.node("CumSum", [of_stem, build.constant(np.array(0))], shape=one, dtype=int64)
        before = build.node("Sub", [count, build.constant(np.array(1))], shape=one, dtype=int64)
        index = build.node("Gather", [before, places], shape=ir.Shape([rows]), dtype=int64)
    return build.node(
        "Gather", [whole, index], attributes={"axis": 0}, shape=ir.Shape([rows, *dims]), dtype=own.dtype, hint="own_rows"
    )
