"""Finds what a compiled graph computes for nothing, by the sizes and numbers of its values rather than by the passes' rules."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import onnx_ir as ir

from exporter.inspect.shapes import Known, concrete_values

# Lengths that no two axes share, and no constant of a tiny model.
SIZES: tuple[Mapping[str, int], ...] = (
    {"batch": 3, "sequence": 11, "decoder_sequence": 7, "words": 5, "rows": 13},
    {"batch": 5, "sequence": 19, "decoder_sequence": 17, "words": 9, "rows": 21},
)
_SAME_ELEMENTS = frozenset({"Expand", "Flatten", "Pad", "Reshape", "Slice", "Squeeze", "Tile", "Transpose", "Unsqueeze"})
_SAME_ORDER = frozenset({"Flatten", "Reshape", "Squeeze", "Unsqueeze"})
_BROADCAST = frozenset({"Add", "And", "Div", "Equal", "Greater", "Less", "Mul", "Or", "Sub", "Where"})
_Sizes = Sequence[Mapping[ir.Value, Known]]


def leftovers(model: ir.Model) -> list[str]:
    """One line for each node that could be left out."""
    with np.errstate(all="ignore"):  # logarithms of distances that a mask leaves out
        runs = [concrete_values(model.graph, sizes) for sizes in SIZES]
    checks = (_changes_nothing, _undoes, _moves_twice, _repeats, _widens_for_nothing, _casts_back, _lengths_twice)
    return [f"{line}: {_text(node)}" for check in checks for node, line in check(model.graph, runs)]


def _text(node: ir.Node) -> str:
    inputs = ", ".join("-" if value is None else f"{value.name}{value.shape or ''}" for value in node.inputs)
    return f"{node.op_type}({inputs}) -> {node.outputs[0].name}{node.outputs[0].shape or ''}"


def _dims(value: ir.Value | None, runs: _Sizes) -> list[tuple[int, ...]] | None:
    known = [run.get(value) if value is not None else None for run in runs]
    return [entry.dims for entry in known if entry is not None] if None not in known else None


def _changes_nothing(graph: ir.Graph, runs: _Sizes) -> Iterator[tuple[ir.Node, str]]:
    for node in graph:
        before, after = _dims(node.inputs[0] if node.inputs else None, runs), _dims(node.outputs[0], runs)
        same = before is not None and before == after and not node.outputs[0].is_graph_output()
        order = list(node.attributes.get_ints("perm", ()))
        if node.op_type == "Transpose":
            # Also where only axes of length one change places: then it moves nothing.
            moved = [axis for axis in order if before is not None and any(dims[axis] != 1 for dims in before)]
            if same and moved == sorted(moved):
                yield node, "changes nothing"
        elif same and node.op_type in _SAME_ELEMENTS and not _reverses(node, runs):
            yield node, "changes nothing"
        elif node.op_type == "Concat" and len(node.inputs) == 1:
            yield node, "joins one value"


def _reverses(node: ir.Node, runs: _Sizes) -> bool:
    steps = runs[0].get(node.inputs[4]) if node.op_type == "Slice" and len(node.inputs) > 4 and node.inputs[4] else None
    return steps is not None and steps.array is not None and bool((steps.array < 0).any())


def _undoes(graph: ir.Graph, runs: _Sizes) -> Iterator[tuple[ir.Node, str]]:
    for node in graph:
        if node.op_type not in _SAME_ORDER or node.outputs[0].is_graph_output():
            continue
        source, after = node.inputs[0], _dims(node.outputs[0], runs)
        while source is not None and (made := source.producer()) is not None and made.op_type in _SAME_ORDER:
            source = made.inputs[0]
            if after is not None and _dims(source, runs) == after:
                yield node, f"brings back the shape of {source.name if source else ''}"
                break


def _moves_twice(graph: ir.Graph, _runs: _Sizes) -> Iterator[tuple[ir.Node, str]]:
    for node in graph:
        made = node.inputs[0].producer() if node.inputs and node.inputs[0] is not None else None
        if made is None or (node.op_type == "Reshape" and _copies(node)) or (made.op_type == "Reshape" and _computes(made)):
            continue  # the target would have to be computed, or attention hides
        kinds = {node.op_type, made.op_type}
        if len(kinds) == 1 and node.op_type in ("Cast", "Expand", "Reshape", "Squeeze", "Tile", "Transpose", "Unsqueeze"):
            yield node, f"two of one kind: {made.outputs[0].name}"
        elif kinds <= _SAME_ORDER and "Reshape" in kinds:
            yield node, f"two for one Reshape: {made.outputs[0].name}"


def _computes(node: ir.Node) -> bool:
    return node.inputs[1] is not None and node.inputs[1].const_value is None


def _copies(node: ir.Node) -> bool:
    target = node.inputs[1].const_value if node.inputs[1] is not None else None
    return target is not None and bool((target.numpy() == 0).any())


def _repeats(graph: ir.Graph, _runs: _Sizes) -> Iterator[tuple[ir.Node, str]]:
    first: dict[object, ir.Node] = {}
    numbers: dict[ir.Value, object] = {}
    for node in graph:
        inputs = [_number(value, numbers) for value in node.inputs]
        attributes = sorted((name, str(attribute.value)) for name, attribute in node.attributes.items())
        key = (node.domain, node.op_type, str(attributes), *inputs)
        twin = first.setdefault(key, node)
        for mine, other in zip(node.outputs, twin.outputs, strict=True):
            numbers[mine] = numbers.get(other, other)
        if twin is not node and not any(value.is_graph_output() for value in node.outputs):
            yield node, f"as {twin.outputs[0].name}"


def _number(value: ir.Value | None, numbers: Mapping[ir.Value, object]) -> object:
    if value is not None and value.const_value is not None and not value.is_graph_input():
        array = value.const_value.numpy()
        return (str(array.dtype), array.shape, array.tobytes())
    return numbers.get(value, value) if value is not None else None


def _widens_for_nothing(graph: ir.Graph, runs: _Sizes) -> Iterator[tuple[ir.Node, str]]:
    """An Expand whose readers would broadcast by themselves."""
    for node in graph:
        output = node.outputs[0]
        if node.op_type not in ("Expand", "Tile") or output.is_graph_output():
            continue
        readers = [use.node for use in output.uses()]
        if node.op_type == "Tile" and any(dim != 1 for dims in _repeated(node, runs) for dim in dims):
            continue
        if all(reader.op_type in _BROADCAST and _same_without(reader, output, node.inputs[0], runs) for reader in readers):
            yield node, "would be broadcast"


def _repeated(node: ir.Node, runs: _Sizes) -> list[tuple[int, ...]]:
    """The lengths of the axes that a Tile repeats."""
    before, after = _dims(node.inputs[0], runs), _dims(node.outputs[0], runs)
    if before is None or after is None:
        return [(2,)]
    return [tuple(b for b, a in zip(*pair, strict=True) if a != b) for pair in zip(before, after, strict=True)]


def _same_without(reader: ir.Node, wide: ir.Value, narrow: ir.Value | None, runs: _Sizes) -> bool:
    after = _dims(reader.outputs[0], runs)
    operands = [_dims(narrow if value is wide else value, runs) for value in reader.inputs]
    if after is None or None in operands:
        return False
    for run, result in enumerate(after):
        for axis in range(1, len(result) + 1):
            lengths = [dims[run][-axis] for dims in operands if dims is not None and len(dims[run]) >= axis]
            if max(lengths, default=1) != result[-axis]:
                return False
    return True


def _casts_back(graph: ir.Graph, runs: _Sizes) -> Iterator[tuple[ir.Node, str]]:
    for node in graph:
        value = node.inputs[0] if node.op_type == "Cast" else None
        known = runs[0].get(value) if value is not None else None
        if known is not None and known.dtype == node.attributes.get_int("to", 0):
            yield node, "casts to the type that is there"


def _lengths_twice(graph: ir.Graph, runs: _Sizes) -> Iterator[tuple[ir.Node, str]]:
    """Shape arithmetic with the results of other shape arithmetic, whatever the inputs' sizes."""
    first: dict[object, ir.Node] = {}
    for node in graph:
        known = [run.get(node.outputs[0]) for run in runs]
        arrays = [entry.array for entry in known if entry is not None]
        if len(arrays) < len(runs) or any(array is None or array.ndim > 1 for array in arrays):
            continue
        key = tuple((str(array.dtype), array.shape, tuple(array.reshape(-1).tolist())) for array in arrays if array is not None)
        if len(set(key)) == 1:
            yield node, "is constant"
        elif (twin := first.setdefault(key, node)) is not node:
            yield node, f"the numbers of {twin.outputs[0].name}"
