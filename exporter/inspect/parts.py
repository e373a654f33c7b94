"""Which layer each node belongs to, whether it is trunk or branch, and which tasks need it.

All of it is read from names and edges, so it holds for any graph that this package writes:

1. A weight "tasksN/…" belongs to the tasks of group N, a weight "stemN/…" to those of several groups, N the first. The nodes
   that such weights reach are branch, all others trunk.
2. A node serves the tasks whose outputs it reaches.
3. A layer's number is the first integer in the dotted name of a trunk weight ("bert.encoder.layer.3.…"). A node belongs to the
   highest layer of the weights that it or its ancestors read. Equal weights of several layers are stored once, under the name
   of the lowest layer, which the maximum corrects. A weight that has the name of another group's weight gives no layer. A
   matrix without such a name belongs to the lowest layer that reads its product.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import onnx_ir as ir

from exporter.group_names import group_of, is_stem

TRUNK = "trunk"
_INDEXED = re.compile(r"(.+?)\.(\d+)\.")
_HEADS = "heads."
_INDICES = (ir.DataType.INT64, ir.DataType.INT32, ir.DataType.BOOL)

# Levels below and above the layers, which are numbered from 0.
_BELOW = -1


@dataclass(frozen=True)
class Parts:
    """The place of each node in the model.

    Attributes:
        levels: names from the input up: "embeddings", "layer 0", …, "heads".
        level: node -> index in `levels`.
        owner: node -> "trunk", or its group: "tasks0", …, or "stem0", … for what several groups compute as one batch.
        serves: node -> the tasks that need it, as bits in the order of the tasks; 0 for a node that no task needs.
    """

    levels: tuple[str, ...]
    level: Mapping[ir.Node, int]
    owner: Mapping[ir.Node, str]
    serves: Mapping[ir.Node, int]


def find_parts(graph: ir.Graph, outputs: Mapping[str, int]) -> Parts:
    """Find the place of each node.

    Args:
        graph: a graph that an export wrote.
        outputs: output name -> the bits of the tasks whose logits it contains.
    """
    nodes = list(graph)
    layers = _layers(graph)
    numbers = {key: number for number, key in enumerate(layers)}
    owner = _owners(nodes)
    level = _levels(nodes, numbers, owner)
    names = ("embeddings", *_layer_names(list(layers)), "heads")
    return Parts(names, {node: number - _BELOW for node, number in level.items()}, owner, _serves(nodes, outputs))


def _owners(nodes: list[ir.Node]) -> dict[ir.Node, str]:
    owner: dict[ir.Node, str] = {}
    for node in nodes:
        sources = [value for value in node.inputs if value is not None]
        groups = [group_of(value.name) for value in sources if value.is_initializer()]
        groups += [owner[producer] for value in sources if (producer := value.producer()) is not None]
        found = [group for group in groups if group not in (None, TRUNK)]
        found.sort(key=lambda group: is_stem(str(group)))  # sorted is stable; what follows a stem belongs to a group
        # If groups share a node, its name decides: it has the name of the group that made it.
        own = next((group for value in node.outputs if (group := group_of(value.name))), None)
        owner[node] = (own or found[0] or TRUNK) if found else TRUNK
    return owner


def _serves(nodes: list[ir.Node], outputs: Mapping[str, int]) -> dict[ir.Node, int]:
    serves: dict[ir.Node, int] = {}
    for node in reversed(nodes):
        bits = 0
        for value in node.outputs:
            if value.is_graph_output():
                bits |= outputs.get(str(value.name), 0)
            for reader, _ in value.uses():
                bits |= serves.get(reader, 0)
        serves[node] = bits
    return serves


_Layer = tuple[str, int]


def _layers(graph: ir.Graph) -> tuple[_Layer, ...]:
    """Return (dotted path of the stack, number) of every layer, in the order of computation."""
    found = set()
    for name in graph.initializers:
        match = _INDEXED.match(name)
        if match and group_of(name) is None and not name.startswith(_HEADS):
            found.add((match[1], int(match[2])))
    # A decoder reads the encoder's output.
    return tuple(sorted(found, key=lambda layer: ("decoder" in layer[0], layer)))


def _layer_names(layers: list[_Layer]) -> list[str]:
    stacks = {stack for stack, _ in layers}
    if len(stacks) < 2:
        return [f"layer {number}" for _, number in layers]
    kinds = {stack: next((k for k in ("decoder", "encoder") if k in stack.split(".")), stack) for stack in stacks}
    return [f"{kinds[stack]} {number}" for stack, number in layers]


def _levels(nodes: list[ir.Node], numbers: Mapping[_Layer, int], owner: Mapping[ir.Node, str]) -> dict[ir.Node, int]:
    above = len(numbers)
    weights = {node: _weights(node, owner[node]) for node in nodes}
    named = {node: _named(names, numbers) for node, names in weights.items()}
    upcoming: dict[ir.Node, int] = {}
    for node in reversed(nodes):
        readers = [reader for value in node.outputs for reader, _ in value.uses()]
        nearest = [number for reader in readers for number in (upcoming[reader], named[reader]) if number is not None]
        upcoming[node] = min(nearest, default=above)
    level: dict[ir.Node, int] = {}
    for node in nodes:
        sources = [value.producer() for value in node.inputs if value is not None]
        below = max((level[source] for source in sources if source is not None), default=_BELOW)
        own = named[node]
        if own is None and below > _BELOW and upcoming[node] == above and any("." in str(name) for name in weights[node]):
            own = above  # a pooler, a last norm or a head
        level[node] = max(below, _BELOW if own is None else own)
    for node in reversed(nodes):
        if any(name is None for name in weights[node]) and named[node] is None:
            lowest = min((level[reader] for value in node.outputs for reader, _ in value.uses()), default=above)
            level[node] = max(level[node], lowest)
    return level


def _weights(node: ir.Node, owner: str) -> list[str | None]:
    """Return the names of the weights that the node reads, without sizes and indices; None for a matrix without a layer."""
    found: list[str | None] = []
    for value in node.inputs:
        if value is None or value.const_value is None or value.dtype in _INDICES:
            continue
        name = str(value.name)
        if "." in name and group_of(name) in (None, owner):
            found.append(name.removeprefix(f"{group_of(name)}/"))
        elif len(value.shape or ()) > 1:
            found.append(None)
    return found


def _named(names: list[str | None], numbers: Mapping[_Layer, int]) -> int | None:
    """Return the highest layer among the names; heads are above all layers."""
    if any(name and name.startswith(_HEADS) for name in names):
        return len(numbers)
    matches = [_INDEXED.match(name) for name in names if name]
    found = [numbers.get((match[1], int(match[2]))) for match in matches if match]
    return max((number for number in found if number is not None), default=None)
