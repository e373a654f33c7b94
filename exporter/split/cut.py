"""The choice of the states: which values of the trunk are kept, and what the branches compute again from them.

The values that a branch reads are not the best ones to keep. An adapter may read the output of a layer before and after its
norm, and LoRA in the lowest layer reads four products of one value. Each stored value costs memory for every token of every
text, each value that is not stored costs time for every new task. The choice is a minimum cut: a node of the trunk is computed
in the branches too, which costs its operations, or the values that they read from it are stored, which costs their bytes.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

import networkx as nx
import onnx_ir as ir

from exporter.inspect.flops import node_cost
from exporter.inspect.shapes import Known, concrete_values
from exporter.split.branch import branch_nodes
from exporter.split.identity import Identities, WeightDigests
from runtime.bundle.interface import BATCH

__all__ = ["Cut", "State", "cut_states"]

# A further value of the size of a hidden state is stored if it saves this share of the operations of one task.
_SHARE = 0.02
# The cost of a value that is stored in any case, relative to others: not 0, so that it is stored only if it is read.
_KNOWN = 1e-6
_CONTENTS = ("pixel_values", "input_features")
_IDS = ("input_ids", "decoder_input_ids")
_SELECTORS = ("Gather", "GatherElements", "GatherND")
# Digits of the identity in the name of a state.
_NAME_DIGITS = 12
# Lengths of the named axes at which shapes are computed: two per axis, so that fixed and named lengths differ.
_LENGTHS = ((3, 2), (37, 29), (41, 31), (43, 23), (47, 19))


@dataclass(frozen=True)
class State:
    """A value of the trunk that is stored.

    Attributes:
        value: name of the value in the graph.
        identity: see `Identities`.
        shape: name or length of each axis, the batch first.
        dtype: element type.
    """

    value: str
    identity: str
    shape: tuple[str, ...]
    dtype: ir.DataType

    @property
    def name(self) -> str:
        """Name of the state in the graphs on both sides of the cut."""
        return f"state_{self.identity[:_NAME_DIGITS]}"


@dataclass(frozen=True)
class Cut:
    """The states of a graph, and what they save.

    Attributes:
        states: the values to store; empty if the trunk has nothing that is worth storing.
        saved: share of the operations of one task that the states save, 0 to 1.
        storable: identity -> every value of the trunk that can be stored.
        passed: identities of the values that are computed on the way to the states.
    """

    states: tuple[State, ...]
    saved: float
    storable: Mapping[str, State] = field(repr=False)
    passed: frozenset[str] = field(repr=False)


def cut_states(
    graph: ir.Graph,
    axes: Mapping[str, int | None],
    tasks: int,
    weights: WeightDigests,
    known: Iterable[str] = (),
    among: Collection[str] | None = None,
) -> Cut:
    """Choose the states of a graph.

    Args:
        graph: a graph as it was saved; weights are read only for identities.
        axes: named axis of its inputs, apart from the batch -> its largest length; the rows of a routed graph included.
        tasks: number of tasks, whose branches the graph computes together.
        weights: see `Identities`.
        known: identities of values that are stored in any case and therefore cost next to nothing.
        among: identities of the values that may be stored, such as those that another graph computes; None for all.
    """
    lengths = dict(zip((BATCH, *axes), _LENGTHS, strict=False))
    for axis, longest in axes.items():
        if longest is not None and longest < max(lengths[axis]):
            lengths[axis] = (longest, max(1, longest - 1))
    sizes = [{axis: pair[run] for axis, pair in lengths.items()} for run in (0, 1)]
    runs = [concrete_values(graph, each) for each in sizes]
    branch = branch_nodes(graph)
    values = {output for node in branch for output in node.outputs}
    identities = Identities(graph, values, weights)
    operations = {node: _operations(node, runs[0]) for node in graph}
    total = sum(operations.values()) - (1 - 1 / tasks) * sum(operations[node] for node in branch)
    storage = _Storage(runs, sizes, identities, set(known), _contents(graph), among)
    states, again = _minimum_cut(graph, branch, values, operations, total, storage)
    saved = sum(count for node, count in operations.items() if node not in again and node not in branch)
    inner = [value for node in graph if node not in branch for value in node.outputs]
    storable = {identities[value]: storage.state(value) for value in inner if storage.shape(value) is not None}
    passed = frozenset(identities[value] for value in _ancestors(states))
    return Cut(tuple(map(storage.state, states)), saved / total if states and total else 0.0, storable, passed)


def _contents(graph: ir.Graph) -> set[ir.Value]:
    """Return the values that depend on the content of a text, an image or a sound.

    Token ids are content only as the index of an embedding. The row of a mask or a position that they select, such as that of
    the last token, is a mask or a position.
    """
    found = {value for value in graph.inputs if value.name in _CONTENTS}
    by_ids = {value for value in graph.inputs if value.name in _IDS}
    variable = set(graph.inputs)  # all but weights and constants
    for node in graph:
        operands = {value for value in node.inputs if value is not None}
        if operands & variable:
            variable.update(node.outputs)
        if node.op_type in ("Shape", "Size"):
            continue
        if operands & by_ids:
            by_ids.update(node.outputs)
        selects = node.op_type in _SELECTORS
        is_embedding = selects and node.inputs[0] not in variable and node.inputs[1] in by_ids
        if is_embedding or ({node.inputs[0]} if selects else operands) & found:
            found.update(node.outputs)
    return found


def _ancestors(values: Iterable[ir.Value]) -> Iterable[ir.Value]:
    """Yield all values from which others are computed, apart from inputs and weights."""
    seen: set[ir.Value] = set()
    waiting = list(values)
    while waiting:
        value = waiting.pop()
        if value not in seen and (node := value.producer()) is not None:
            seen.add(value)
            yield value
            waiting += [each for each in node.inputs if each is not None]


class _Storage:
    """The shape of a value, and whether it can be stored."""

    def __init__(
        self,
        runs: list[dict[ir.Value, Known]],
        sizes: list[dict[str, int]],
        identities: Identities,
        known: set[str],
        contents: Collection[ir.Value],
        among: Collection[str] | None,
    ) -> None:
        self.runs, self.sizes, self.identities, self.known = runs, sizes, identities, known
        self.contents, self.among = contents, among

    def shape(self, value: ir.Value) -> tuple[str, ...] | None:
        """Return the axes of a value; None for a value that cannot be stored row by row.

        Masks and positions are not stored: the branches compute them for the batch in which a text is, whose padding differs
        from that of the batch in which its states were computed. Neither are values with two axes of variable length, such as
        attention probabilities: their bytes grow with the square of the length, and texts are joined along one axis.
        """
        if value not in self.contents or (self.among is not None and self.identities[value] not in self.among):
            return None
        one, other = (run.get(value) for run in self.runs)
        if one is None or other is None or one.dtype not in (ir.DataType.FLOAT, ir.DataType.FLOAT16):
            return None
        if len(one.dims) != len(other.dims):
            return None
        names = [self._axis(*pair) for pair in zip(one.dims, other.dims, strict=True)]
        axes = tuple(name for name in names if name is not None)
        if len(axes) != len(names) or axes[:1] != (BATCH,) or BATCH in axes[1:]:
            return None
        if sum(not axis.isdecimal() for axis in axes[1:]) > 1:
            return None
        return axes

    def _axis(self, one: int, other: int) -> str | None:
        if one == other:
            return str(one)
        first, second = self.sizes
        return next((name for name in first if (first[name], second[name]) == (one, other)), None)

    def size(self, value: ir.Value) -> float:
        """Return the bytes of a value in the first run; infinite if it cannot be stored."""
        if self.shape(value) is None:
            return math.inf
        found = self.runs[0][value]
        return float(math.prod(found.dims) * found.dtype.itemsize)

    def cost(self, value: ir.Value) -> float:
        """Return the bytes that storing a value adds to those that are stored in any case."""
        return self.size(value) * (_KNOWN if self.identities[value] in self.known else 1.0)

    def state(self, value: ir.Value) -> State:
        shape = self.shape(value)
        assert shape is not None
        return State(str(value.name), self.identities[value], shape, self.runs[0][value].dtype)


def _minimum_cut(
    graph: ir.Graph,
    branch: Collection[ir.Node],
    values: Collection[ir.Value],
    operations: Mapping[ir.Node, float],
    total: float,
    storage: _Storage,
) -> tuple[list[ir.Value], set[ir.Node]]:
    """Return the values to store, and the nodes of the trunk that the branches compute again."""
    inner = {output for node in graph for output in node.outputs} - set(values)
    read = {value for node in branch for value in node.inputs if value in inner and value is not None}
    read |= {value for value in graph.outputs if value in inner}
    sizes = [size for value in read if math.isfinite(size := storage.size(value))]
    price = _SHARE * total / max(sizes, default=1.0)
    flow = nx.DiGraph()
    flow.add_nodes_from(("trunk", "branches"))
    for node in graph:
        if node not in branch:
            flow.add_edge("trunk", node, capacity=operations[node])
            for value in node.outputs:
                size = storage.cost(value)
                flow.add_edge(node, value, **({"capacity": size * price} if math.isfinite(size) else {}))
    for node in graph:
        for operand in node.inputs:
            if operand is not None and operand in inner:
                flow.add_edge(operand, "branches" if node in branch else node)
    for value in graph.outputs:
        if value in inner:
            flow.add_edge(value, "branches")
    _, (stored, computed) = nx.minimum_cut(flow, "trunk", "branches")
    # Of a stored value, the node is on the side of the trunk and the value on that of the branches.
    states = [value for node in graph if node in stored for value in node.outputs if value in inner and value in computed]
    return states, {node for node in computed if isinstance(node, ir.Node)}


def _operations(node: ir.Node, known: Mapping[ir.Value, Known]) -> float:
    cost = node_cost(node, known)
    return 0.0 if cost is None else float(cost.total)
