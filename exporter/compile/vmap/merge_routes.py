"""Merges the rows that the groups of a routed graph compute into one output."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from exporter.compile.rewrite.builder import Builder, claim_names, known_shape

__all__ = ["MergeRoutesPass"]

_LOGITS = "logits"


class MergeRoutesPass(ir.passes.InPlacePass):
    """Merges the outputs "<group>/logits" and "<group>/places" of `RouteTasksPass` into one output `logits` [rows, labels].

    `labels` is the largest label count of all groups; columns that a group lacks are minus infinity. The logits of a single
    group are the output as they are.
    """

    def __init__(self, rows: str, every_row: bool = False) -> None:
        """Set the input that gives the number of rows.

        Args:
            rows: the name of a graph input whose length is the number of rows.
            every_row: as in `RouteTasksPass`; a place may then be one beyond the last row.
        """
        super().__init__()
        self.rows = rows
        self.every_row = every_row

    def requires(self, model: ir.Model) -> None:
        """Check that the outputs are pairs of logits and places."""
        names = [str(value.name) for value in model.graph.outputs]
        endings = [name.rpartition("/")[2] for name in names]
        if not names or endings != [_LOGITS, "places"] * (len(names) // 2):
            raise ir.passes.PreconditionError(
                f"{type(self).__name__}: expected outputs in pairs <group>/logits, <group>/places, found {names}"
            )
        if self.rows not in [value.name for value in model.graph.inputs]:
            raise ir.passes.PreconditionError(f"{type(self).__name__}: expected an input {self.rows!r}, found none")

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Scatter the rows of all groups into one output."""
        graph = model.graph
        pairs = list(zip(graph.outputs[::2], graph.outputs[1::2], strict=True))
        graph.outputs.clear()
        merged = pairs[0][0] if len(pairs) == 1 else self._scatter(graph, pairs)
        claim_names(graph, [_LOGITS])
        merged.name = _LOGITS
        graph.outputs.append(merged)
        return ir.passes.PassResult(model, modified=True)

    def _scatter(self, graph: ir.Graph, pairs: Sequence[tuple[ir.Value, ir.Value]]) -> ir.Value:
        build = Builder(graph, "routes/")
        row_ids = next(value for value in graph.inputs if value.name == self.rows)
        int64, dtype = ir.DataType.INT64, pairs[0][0].dtype
        assert dtype is not None
        widths = [_width(logits) for logits, _ in pairs]
        nothing = build.constant(np.array(-np.inf, dtype.numpy()))
        count = build.node("Shape", [row_ids], shape=ir.Shape([1]), dtype=int64)
        rows, kept = count, (row_ids.shape or [None])[0]
        if self.every_row:
            count = build.node("Add", [count, build.ints([1])], shape=ir.Shape([1]), dtype=int64)
        size = build.node(
            "Concat", [count, build.ints([max(widths)])], attributes={"axis": 0}, shape=ir.Shape([2]), dtype=int64
        )
        shape = ir.Shape([None if self.every_row else kept, max(widths)])
        merged = build.node("Expand", [nothing, size], shape=shape, dtype=dtype)
        for (logits, places), width in zip(pairs, widths, strict=True):
            if width < max(widths):
                pads = build.ints([0, 0, 0, max(widths) - width])
                own = logits.shape[0] if logits.shape is not None else None
                logits = build.node("Pad", [logits, pads, nothing], shape=ir.Shape([own, max(widths)]), dtype=dtype)
            index = build.node("Unsqueeze", [places, build.ints([1])], dtype=int64)
            merged = build.node("ScatterND", [merged, index, logits], shape=shape, dtype=dtype)
        if self.every_row:
            bounds = [build.ints([0]), rows, build.ints([0])]
            merged = build.node("Slice", [merged, *bounds], shape=ir.Shape([kept, max(widths)]), dtype=dtype)
        graph.extend(build.take())
        return merged


def _width(logits: ir.Value) -> int:
    width = (known_shape(logits) or (None,))[-1]
    if not isinstance(width, int):
        raise ir.passes.PassError(f"MergeRoutesPass: expected logits of a known label count, found {logits.shape}")
    return width
