"""The loop of a pass that rewrites operators one by one."""

from __future__ import annotations

import abc
from collections.abc import Collection, Mapping
from typing import ClassVar

import onnx_ir as ir

from exporter.compile.rewrite.builder import Builder, known_shape, refuse_subgraphs, replace_value
from exporter.compile.rewrite.refusals import Refusal, RefusingPass

__all__ = ["NodeRewritePass", "Rewritten"]

Rewritten = ir.Value | Mapping[ir.Value, ir.Value] | Refusal | None


class NodeRewritePass(RefusingPass):
    """A pass that visits the operators of some types in the graph's order; `rewrite` of a subclass replaces one of them.

    1. New nodes stand before the operator whose result they replace, in the order in which `build` made them.
    2. The operator and what only it read are removed, and at the end of the pass the initializers that nothing reads.
    3. An operator that an earlier rewrite removed is not visited; a new operator is visited only with `repeats`.
    4. Control flow is refused: an If could read a value that seems unread.

    Attributes:
        op_types: the standard operators that are visited.
        keeps_outputs: whether an operator that computes an output of the graph is left as it is. A pass that replaces results
            with existing values must set it, or leave an output whose value has a name that must not change, such as that of
            an input: the name of an output is part of the interface.
        repeats: whether the result of a rewrite is visited again until nothing changes. Each rewrite must then make
            progress, so that the visits end.
    """

    op_types: ClassVar[Collection[str]]
    keeps_outputs: ClassVar[bool] = False
    repeats: ClassVar[bool] = False

    @abc.abstractmethod
    def rewrite(self, node: ir.Node, build: Builder) -> Rewritten:
        """Rewrite one operator.

        Args:
            node: an operator of `op_types`.
            build: makes new nodes and constants, and remembers values for the operators that follow. Nothing may be made
                before it is certain that the pattern applies.

        Returns:
            The value that replaces the operator's first result; that result itself if the operator was changed in place; or a
            mapping from old to new values if several results, or those of other operators, are replaced, in the graph's order.
            None if the operator is not the pattern; a Refusal if it is the pattern and cannot be rewritten.
        """

    def requires(self, model: ir.Model) -> None:
        """Refuse control flow.

        Raises:
            onnx_ir.passes.PreconditionError: an operator has a graph inside.
        """
        refuse_subgraphs(self, model)

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Visit each operator of `op_types` once, or again with `repeats`."""
        self.refusals.clear()
        build, modified = Builder(model.graph, ""), False
        for each in list(model.graph):
            node: ir.Node | None = each
            while node is not None and self._visits(node):
                sources = [value.producer() for value in node.inputs if value is not None]
                result = self.rewrite(node, build)
                if result is None or isinstance(result, Refusal):
                    if isinstance(result, Refusal):
                        self.refuse(node, result)
                    break
                modified = True
                following = _replace(model.graph, node, result, build)
                for source in sources:
                    _remove_unread(source)
                node = following if self.repeats else None
        if modified:
            for name, value in list(model.graph.initializers.items()):
                if not value.uses() and not value.is_graph_output() and not value.is_graph_input():
                    del model.graph.initializers[name]
        return ir.passes.PassResult(model, modified=modified)

    def _visits(self, node: ir.Node) -> bool:
        if node.graph is None or node.domain != "" or node.op_type not in self.op_types:
            return False
        return not (self.keeps_outputs and any(value.is_graph_output() for value in node.outputs))


def _replace(graph: ir.Graph, node: ir.Node, result: ir.Value | Mapping[ir.Value, ir.Value], build: Builder) -> ir.Node | None:
    """Put the result into the graph, and return the operator that computes it."""
    replaced = result if isinstance(result, Mapping) else {node.outputs[0]: result}
    made, first = build.take(), next(iter(replaced)).producer()
    assert first is not None  # it is computed by an operator of the graph
    graph.insert_before(first, made)
    for each in made:
        if each.domain:
            graph.opset_imports.setdefault(each.domain, 1)
    for old, new in replaced.items():
        if old is new:
            continue
        # keeps_outputs, or the pass leaves outputs whose names would meet
        assert not (old.is_graph_output() and (new.is_graph_output() or new.is_graph_input() or new.is_initializer()))
        if new.shape is None or (known_shape(new) is None and known_shape(old) is not None):
            new.shape = old.shape
        replace_value(old, new)
        _remove_unread(old.producer())
    return next(iter(replaced.values())).producer()


def _remove_unread(node: ir.Node | None) -> None:
    """Remove the operator if nothing reads it, and what only it read."""
    found = [node]
    while found:
        node = found.pop()
        if node is None or node.graph is None or any(value.uses() or value.is_graph_output() for value in node.outputs):
            continue
        found += [value.producer() for value in node.inputs if value is not None]
        node.graph.remove(node, safe=True)
