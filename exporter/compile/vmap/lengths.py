"""Shape arithmetic of the template, computed again at the branch's batch."""

from __future__ import annotations

from collections.abc import Collection
from typing import Protocol

import onnx_ir as ir

from exporter.compile.rewrite.builder import Builder, const_array
from exporter.compile.rewrite.match import measured_axes
from exporter.compile.vmap.batch import Batch
from exporter.compile.vmap.layouts import Layout

__all__ = ["Lengths"]


class Folds(Protocol):
    """The part of the environment that lengths need: the branch's values at its batch."""

    def __contains__(self, value: object) -> bool: ...

    def can_fold(self, value: ir.Value) -> bool: ...

    def folded(self, value: ir.Value) -> ir.Value: ...


class Lengths:
    """Values that are computed from lengths of axes and constants only, and have a static shape themselves.

    Such a value is a function of the batch, and the same function of the branch's batch gives the lengths that the branch
    needs. Used as data, it keeps its value: a mean over the batch divides by the template's batch.
    """

    def __init__(self, graph: ir.Graph, build: Builder, layout: Layout, batch: Batch, weights: Collection[ir.Value]) -> None:
        """Find the values of the template that are computed from lengths.

        Args:
            graph: the template.
            build: as in `Env`.
            layout: as in `Env`.
            batch: as in `Env`.
            weights: the task weights, which do not count as constants.
        """
        self._build = build
        self._layout = layout
        self._batch = batch
        self._inputs = list(graph.inputs)
        self._weights = set(weights)
        self._values: set[ir.Value] = set()
        self._made_of_lengths: set[ir.Value] = set()
        self._derived: dict[ir.Value, ir.Value] = {}
        self._possible: dict[ir.Value, bool] = {}
        for node in graph:
            variable = [value for value in node.inputs if value is not None and not self._is_constant(value)]
            if node.op_type == "Shape" or (node.inputs and self._made_of_lengths.issuperset(variable)):
                self._made_of_lengths.update(node.outputs)
            if node.op_type == "Shape" or (node.inputs and self._values.issuperset(variable)):
                self._values.update(output for output in node.outputs if _is_static(output))

    def _is_constant(self, value: ir.Value) -> bool:
        return const_array(value) is not None and value not in self._weights

    def is_made_of_lengths(self, value: ir.Value) -> bool:
        """Return whether the value depends on lengths and constants only, whatever its shape: for example, a zero per text."""
        return value in self._made_of_lengths

    def can_derive(self, value: ir.Value | None, env: Folds) -> bool:
        """Return whether the value holds lengths that can be computed again."""
        if value is None or self._is_constant(value):
            return True
        if value not in self._values:
            return False
        if value not in self._possible:
            self._possible[value] = self._is_possible(value, env)
        return self._possible[value]

    def _is_possible(self, value: ir.Value, env: Folds) -> bool:
        node = value.producer()
        assert node is not None  # lengths are computed
        if node.op_type != "Shape":
            return all(self.can_derive(each, env) for each in node.inputs)
        x = node.inputs[0]
        if x is None or x.shape is None:
            return False
        axis = self._batch.axis(x)
        if not all(self._batch.is_fixed(x.shape[i]) for i in measured_axes(node, len(x.shape)) if i != axis):
            return False
        return x not in env or env.can_fold(x)

    def derive(self, value: ir.Value, env: Folds) -> ir.Value:
        """Return the lengths at the branch's batch; the caller has checked `can_derive`."""
        if self._is_constant(value):
            return value
        if value not in self._derived:
            node = value.producer()
            assert node is not None  # lengths are computed
            self._derived.update(zip(node.outputs, self._again(node, env), strict=True))
        return self._derived[value]

    def _again(self, node: ir.Node, env: Folds) -> list[ir.Value]:
        x, outputs = node.inputs[0], list(node.outputs)
        if node.op_type == "Shape":
            assert x is not None  # can_derive
            if x not in env:
                return [self._of_trunk(node, x)]
            inputs: list[ir.Value | None] = [env.folded(x)]
        else:
            inputs = [None if value is None else self.derive(value, env) for value in node.inputs]
        if all(new is old for new, old in zip(inputs, node.inputs, strict=True)):
            return outputs
        return list(self._build.clone(node, inputs, [output.shape for output in outputs], "_folded"))

    def _of_trunk(self, node: ir.Node, x: ir.Value) -> ir.Value:
        axis, dims = self._batch.axis(x), list(x.shape or ())
        axes = measured_axes(node, len(dims))
        if axis is None or axis not in axes:
            return node.outputs[0]
        return self._layout.lengths(node.outputs[0], axes.index(axis), len(axes), dims[axis])

    def has_target(self, value: ir.Value) -> bool:
        """Return whether `target` can find all lengths."""
        known = {dim for graph_input in self._inputs for dim in graph_input.shape or ()}
        return value.shape is not None and all(isinstance(dim, int) or dim in known for dim in list(value.shape)[1:])

    def target(self, value: ir.Value) -> ir.Value:
        """Return the target of a Reshape from stacked to folded, [-1, d1, ..., features], where `has_target` is true."""
        assert value.shape is not None
        dims = list(value.shape)[1:]
        known = [dim for dim in dims if isinstance(dim, int)]
        if len(known) == len(dims):
            return self._build.ints([-1, *known])
        parts = [self._build.ints([-1])]
        parts += [self._build.ints([dim]) if isinstance(dim, int) else self._input_length(dim, value) for dim in dims]
        return self._build.node("Concat", parts, attributes={"axis": 0}, dtype=ir.DataType.INT64, shape=ir.Shape([len(parts)]))

    def _input_length(self, dim: ir.SymbolicDim, value: ir.Value) -> ir.Value:
        for graph_input in self._inputs:
            for axis, known in enumerate(graph_input.shape or ()):
                if known == dim:
                    return self._build.node(
                        "Shape",
                        [graph_input],
                        attributes={"start": axis, "end": axis + 1},
                        dtype=ir.DataType.INT64,
                        shape=ir.Shape([1]),
                    )
        raise ir.passes.PassError(f"Lengths: the axis {dim} of {value.name!r} is not an axis of a graph input")


def _is_static(value: ir.Value) -> bool:
    return value.shape is not None and all(isinstance(dim, int) for dim in value.shape)
