"""The environment of the vectoriser: the forms in which the branch has each value, and the conversions between them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeVar

import numpy as np
import onnx_ir as ir

from exporter.compile.rewrite.builder import Builder, known_shape
from exporter.compile.vmap.batch import Batch, Use, uses_of_inputs
from exporter.compile.vmap.forms import Constant, Folded, Form, Padded, PerRow, PerTask, Stacked
from exporter.compile.vmap.layouts import Layout
from exporter.compile.vmap.lengths import Lengths

__all__ = ["Env"]

_F = TypeVar("_F", Constant, Folded, Stacked, Padded, PerTask, PerRow)


class Env:
    """Maps values of the template to their forms, and makes one form from another on demand, once.

    `value in env` is true if the value belongs to the branch, that is, if it depends on a task weight. A trunk value does not,
    even after a form of it has been made for an operator of the branch.

    Constants of the trunk are the same in the branch. Trunk values are tiled or gathered along their batch axis; lengths, such
    as the target of a Reshape, are computed again at the branch's batch. A chain of operators on stacked values contains no
    Reshape, because a folded form is only made for an operator that needs it, and so is a stacked form.
    """

    def __init__(
        self, graph: ir.Graph, build: Builder, layout: Layout, weights: Mapping[str, Sequence[np.ndarray]], batch: str
    ) -> None:
        """Bind the task weights as constants.

        Args:
            graph: the template.
            build: the builder of the branch's nodes.
            layout: the position of the task in the batch axis.
            weights: initializer name in the template -> one array per task.
            batch: the name of the batch axis.
        """
        self.build = build
        self.layout = layout
        self.batch = Batch(batch, graph.inputs)
        self._forms: dict[tuple[ir.Value, type[Form]], Form] = {}
        self._branch: set[ir.Value] = set()
        for name, arrays in weights.items():
            if name in graph.initializers:
                self.bind(graph.initializers[name], Constant(arrays))
        self._lengths = Lengths(graph, build, layout, self.batch, self._branch)

    def __contains__(self, value: object) -> bool:
        """Return whether the value belongs to the branch."""
        return value in self._branch

    def bind(self, value: ir.Value, form: Form) -> None:
        """Add a value to the branch, in one form."""
        self._branch.add(value)
        self.keep(value, form)

    def keep(self, value: ir.Value, form: Form) -> None:
        """Store a further form of a value."""
        self._forms[value, type(form)] = form

    def held(self, value: ir.Value | None, form: type[_F]) -> _F | None:
        """Return a form of a value if it has been made; trunk values can have forms, too."""
        found = None if value is None else self._forms.get((value, form))
        return found if isinstance(found, form) else None

    def constants(self) -> list[ir.Value]:
        """Return the values that are constants: one array per task."""
        return [value for value, form in self._forms if form is Constant]

    def arrays(self, value: ir.Value | None) -> Sequence[np.ndarray] | None:
        """Return the arrays of a constant, one per task; None for other values."""
        found = self.held(value, Constant)
        return None if found is None else found.arrays

    def widths(self, value: ir.Value | None) -> tuple[int, ...] | None:
        """Return the number of valid columns per task if it differs between tasks; None otherwise."""
        found = self.held(value, Stacked) or self.held(value, Padded)
        return None if found is None else found.widths

    def is_split(self, value: ir.Value | None) -> bool:
        """Return whether a value of the branch has one value per task and no form that all tasks share."""
        if value is None or value not in self:
            return False
        return not any((value, form) in self._forms for form in (Constant, Folded, Stacked, Padded))

    # Folded

    def uses(self, node: ir.Node, given: Mapping[ir.Value, ir.Value] | None = None) -> Sequence[Use] | None:
        """Return how the operator uses its inputs at the branch's batch.

        None if tasks would mix, or if an input cannot be folded.

        Args:
            node: an operator of the template.
            given: replacements of inputs, which hold for all rows or vary row by row.
        """
        uses = self.uses_of(node, given)
        if uses is None:
            return None
        folded = [value for value, use in zip(node.inputs, uses, strict=True) if value is not None and use is Use.FOLDED]
        return uses if all(map(self.can_fold, folded)) else None

    def uses_of(self, node: ir.Node, given: Mapping[ir.Value, ir.Value] | None = None) -> list[Use] | None:
        """Return how the operator uses its inputs, as `uses`, whether or not they can be folded."""
        return uses_of_inputs(node, self.batch, self, lambda value: self._lengths.can_derive(value, self), given or {})

    def are_lengths(self, node: ir.Node) -> bool:
        """Return whether the node computes lengths that can be computed again at the branch's batch."""
        return all(self._lengths.can_derive(output, self) for output in node.outputs)

    def can_fold(self, value: ir.Value) -> bool:
        """Return whether the folded form can be made."""
        if value in self:
            return self.widths(value) is None and (self.held(value, Folded) or self.held(value, Stacked)) is not None
        axis, node = self.batch.axis(value), value.producer()
        if axis is None or self.layout.can_enter(value, axis):
            return axis is not None
        return node is not None and self.uses(node) is not None

    def folded(self, value: ir.Value) -> ir.Value:
        """Return the folded form of a value for which `can_fold` is true."""
        if (held := self.held(value, Folded)) is None:
            held = Folded(self._from_stack(value) if value in self else self._enter(value))
            self.keep(value, held)
        return held.value

    def _enter(self, value: ir.Value) -> ir.Value:
        axis, node = self.batch.axis(value), value.producer()
        assert axis is not None  # can_fold
        # A value that depends on lengths only is computed at the branch's batch, which needs no Tile or Gather.
        remade = self._lengths.is_made_of_lengths(value) and node is not None and self.uses(node) is not None
        if not remade and self.layout.can_enter(value, axis):
            return self.layout.enter(value, axis, self.folded_shape(value))
        assert node is not None  # can_fold
        for output, again in zip(node.outputs, self.rerun(node, {}, "_folded"), strict=True):
            self.keep(output, Folded(again))
        return self.folded(value)

    def _from_stack(self, value: ir.Value) -> ir.Value:
        stack = self.held(value, Stacked)
        assert stack is not None  # can_fold
        folded = self.layout.unflatten(stack.value, value)
        if folded is not None:
            return folded
        inputs, shape = [stack.value, self._lengths.target(value)], self.folded_shape(value)
        return self.build.node("Reshape", inputs, shape=shape, dtype=value.dtype, hint=f"{value.name}_folded")

    def rerun(self, node: ir.Node, given: Mapping[ir.Value, ir.Value], suffix: str = "") -> Sequence[ir.Value]:
        """Run an operator of the template at the branch's batch; the caller has checked that `uses` is not None.

        Args:
            node: as in `uses`.
            given: as in `uses`.
            suffix: the suffix of the results' names.
        """
        uses = self.uses(node, given)
        assert uses is not None
        inputs = self.inputs(node, uses, given)
        return self.build.clone(node, inputs, [self.folded_shape(output) for output in node.outputs], suffix)

    def inputs(self, node: ir.Node, uses: Sequence[Use], given: Mapping[ir.Value, ir.Value]) -> list[ir.Value | None]:
        """Return the inputs of an operator at the branch's batch: replacements, folded values, lengths, and whole values."""
        found: list[ir.Value | None] = []
        for value, use in zip(node.inputs, uses, strict=True):
            if value is None or value in given or use is Use.WHOLE:
                found.append(None if value is None else given.get(value, value))
            else:
                found.append(self.folded(value) if use is Use.FOLDED else self.lengths(value))
        return found

    def lengths(self, value: ir.Value) -> ir.Value:
        """Return lengths at the branch's batch; the caller has checked `uses` or `are_lengths`."""
        return self._lengths.derive(value, self)

    def folded_shape(self, value: ir.Value) -> ir.Shape | None:
        """Return the shape of a value with the length of the branch's batch axis."""
        if value.shape is None:
            return None
        axis = self.batch.axis(value)
        return ir.Shape(
            [self.layout.length(dim) if i == axis and not isinstance(dim, int) else dim for i, dim in enumerate(value.shape)]
        )

    # Stacked

    def can_stack(self, value: ir.Value | None) -> bool:
        """Return whether the stacked form can be made, and the folded form from it."""
        shape = known_shape(value)
        if value is None or shape is None or len(shape) < 2 or not isinstance(shape[-1], int) or self.batch.axis(value) != 0:
            return False
        if self.held(value, Stacked) is not None:
            return True
        return self.can_fold(value) and self.can_unstack(value)

    def can_unstack(self, value: ir.Value) -> bool:
        """Return whether the folded form can be made from the stacked form."""
        return value.shape is not None and (not self.layout.must_reshape(value) or self._lengths.has_target(value))

    def stacked(self, value: ir.Value) -> ir.Value:
        """Return the stacked form of a value for which `can_stack` is true."""
        if (held := self.held(value, Stacked)) is None:
            held = Stacked(self.layout.flatten(self.folded(value), value))
            self.keep(value, held)
        return held.value
