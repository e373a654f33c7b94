"""Builder of nodes and constants, and helpers that read and replace values."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence

import numpy as np
import onnx_ir as ir


class Builder:
    """Factory of nodes and constants of one graph with unique, deterministic names.

    New nodes are not in the graph yet: `take` hands them over in the order in which they were made.
    """

    def __init__(self, graph: ir.Graph, prefix: str) -> None:
        """Collect the names that are taken.

        Args:
            graph: the graph; constants are added at once, nodes by the caller of `take`.
            prefix: the first part of the names of all new values.
        """
        self._graph = graph
        self._prefix = prefix
        self._nodes: list[ir.Node] = []
        self._constants: dict[tuple[str, tuple[int, ...], bytes], ir.Value] = {}
        self._known: dict[Hashable, ir.Value] = {}
        self._taken = {value.name for node in graph for value in node.outputs}
        self._taken |= {*graph.initializers, *(value.name for value in graph.inputs)}
        self._node_names = {node.name for node in graph}

    def _name(self, hint: str) -> str:
        name, number = f"{self._prefix}{hint}", 0
        while name in self._taken:
            number += 1
            name = f"{self._prefix}{hint}_{number}"
        self._taken.add(name)
        return name

    def _node_name(self, hint: str) -> str:
        # A value may have been renamed since its node was named after it.
        name, number = hint, 0
        while name in self._node_names:
            number += 1
            name = f"{hint}_{number}"
        self._node_names.add(name)
        return name

    def initializer(self, array: np.ndarray, name: str) -> ir.Value:
        """Add a weight; its name is made unique."""
        name = self._name(name)
        tensor = ir.tensor(np.asarray(array, order="C"), name=name)  # ascontiguousarray would make a scalar one-dimensional
        value = ir.Value(name=name, type=ir.TensorType(tensor.dtype), shape=ir.Shape(array.shape), const_value=tensor)
        self._graph.register_initializer(value)
        return value

    def constant(self, array: np.ndarray) -> ir.Value:
        """Add a small constant; equal constants share one initializer."""
        array = np.asarray(array)
        key = (str(array.dtype), array.shape, array.tobytes())
        if key not in self._constants:
            self._constants[key] = self.initializer(array, "const")
        return self._constants[key]

    def ints(self, values: Iterable[int]) -> ir.Value:
        """Add a constant int64 vector."""
        return self.constant(np.array(list(values), dtype=np.int64))

    def node(
        self,
        op_type: str,
        inputs: Sequence[ir.Value | None],
        *,
        attributes: Mapping[str, int | float | str | Sequence[int]] | Sequence[ir.Attr] = (),
        shape: ir.Shape | None = None,
        dtype: ir.DataType | None = None,
        hint: str | None = None,
    ) -> ir.Value:
        """Make a node with one output, and return the output."""
        return self.nodes(op_type, inputs, attributes=attributes, shapes=[shape], dtypes=[dtype], hints=[hint])[0]

    def nodes(
        self,
        op_type: str,
        inputs: Sequence[ir.Value | None],
        *,
        attributes: Mapping[str, int | float | str | Sequence[int]] | Sequence[ir.Attr] = (),
        shapes: Sequence[ir.Shape | None],
        dtypes: Sequence[ir.DataType | None],
        hints: Sequence[str | None],
        domain: str = "",
    ) -> Sequence[ir.Value]:
        """Make a node with several outputs, and return the outputs."""
        attrs = ir.convenience.convert_attributes(attributes) if isinstance(attributes, Mapping) else list(attributes)
        node = ir.Node(domain, op_type, list(inputs), attributes=attrs, num_outputs=len(shapes))
        for output, shape, dtype, hint in zip(node.outputs, shapes, dtypes, hints, strict=True):
            output.name = self._name(hint or op_type.lower())
            output.shape = shape
            if dtype is not None:
                output.dtype = dtype
        node.name = self._node_name(f"{node.outputs[0].name}_node")
        self._nodes.append(node)
        return node.outputs

    def clone(
        self, node: ir.Node, inputs: Sequence[ir.Value | None], shapes: Sequence[ir.Shape | None], suffix: str
    ) -> Sequence[ir.Value]:
        """Make a node with the operator and attributes of `node` on other inputs, and return its outputs."""
        return self.nodes(
            node.op_type,
            inputs,
            attributes=list(node.attributes.values()),
            shapes=shapes,
            dtypes=[output.dtype for output in node.outputs],
            hints=[f"{output.name}{suffix}" for output in node.outputs],
            domain=node.domain,
        )

    def known(self, key: Hashable) -> ir.Value | None:
        """Return the value that `once` made for the key, if it is still in the graph."""
        value = self._known.get(key)
        node = None if value is None else value.producer()
        return None if node is not None and node.graph is None and node not in self._nodes else value

    def once(self, key: Hashable, make: Callable[[], ir.Value]) -> ir.Value:
        """Return the value for the key; the first call makes it."""
        value = self.known(key)
        if value is None:
            value = self._known[key] = make()
        return value

    def take(self) -> list[ir.Node]:
        """Return the nodes made since the last call, in topological order."""
        nodes, self._nodes = self._nodes, []
        return nodes


def const_array(value: ir.Value | None) -> np.ndarray | None:
    """Return the numbers of a constant or initializer; None if the value is only known at run time."""
    if value is None or value.const_value is None or value.is_graph_input():
        return None
    return value.const_value.numpy()


def known_shape(value: ir.Value | None) -> tuple[int | ir.SymbolicDim, ...] | None:
    """Return the dimensions if each is a number or a named expression; None otherwise."""
    if value is None or value.shape is None:
        return None
    dims = tuple(value.shape)
    if any(not isinstance(dim, int) and dim.value is None for dim in dims):
        return None
    return dims


def const_scalar(value: ir.Value | None) -> float | None:
    """Return the number of a constant with one element; None for other values."""
    array = const_array(value)
    return float(array.item()) if array is not None and array.size == 1 else None


def replace_value(old: ir.Value, new: ir.Value) -> None:
    """Replace `old` with `new` everywhere; if it is an output of the graph, `new` also takes its name."""
    output, name = old.is_graph_output(), old.name
    old.replace_all_uses_with(new, replace_graph_outputs=True)
    if output:
        old.name, new.name = f"{name}_before", name


def claim_names(graph: ir.Graph, names: Iterable[str]) -> None:
    """Rename every inner value that has one of `names`, so that outputs can get these names."""
    wanted, outputs = set(names), set(graph.outputs)
    inner = [value for node in graph for value in node.outputs] + list(graph.initializers.values())
    taken = wanted | {value.name for value in (*inner, *graph.inputs, *outputs)}
    for value in inner:
        if value.name in wanted and value not in outputs:
            number = 1
            while f"{value.name}_{number}" in taken:
                number += 1
            value.name = f"{value.name}_{number}"
            taken.add(value.name)


def static_target(before: tuple[int | ir.SymbolicDim, ...], after: tuple[int | ir.SymbolicDim, ...]) -> list[int] | None:
    """Return the target of a Reshape, with 0 for "as in the input" and -1 for one unknown length; None if that fails."""
    target: list[int] = []
    for axis, dim in enumerate(after):
        if isinstance(dim, int):
            if dim == 0:
                return None  # 0 would be read as "as in the input"
            target.append(dim)
        else:
            target.append(0 if axis < len(before) and before[axis] == dim else -1)
    return target if target.count(-1) <= 1 else None


def refuse_subgraphs(step: ir.passes.PassBase, model: ir.Model) -> None:
    """Check the model for a pass that follows values by their readers in the main graph only.

    Raises:
        onnx_ir.passes.PreconditionError: an If, Loop or Scan could read a value unseen.
    """
    kinds = (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS)
    for node in model.graph:
        if any(attribute.type in kinds for attribute in node.attributes.values()):
            raise ir.passes.PreconditionError(
                f"{type(step).__name__}: expected a graph without control flow, found {node.op_type} ({node.name!r})"
            )
