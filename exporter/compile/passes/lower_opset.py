"""Rewrite a graph of operator set 18 in operator set 17."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx.defs
import onnx_ir as ir

from exporter.compile.rewrite.builder import Builder, const_array, known_shape

__all__ = ["LowerOpsetPass"]

_NEWER, _OLDER = 18, 17


class LowerOpsetPass(ir.passes.InPlacePass):
    """The operators that changed from set 17 to 18, as far as an export makes them; bit-exact.

    1. Reductions have their axes as an attribute.
    2. Split has lengths, or equal parts, instead of a number of parts.
    3. Pad counts all axes.
    4. Scatters combine by addition, multiplication or not at all.
    """

    def requires(self, model: ir.Model) -> None:
        """Refuse a graph of another set.

        Raises:
            onnx_ir.passes.PreconditionError: the graph is not of set 18.
        """
        found = model.graph.opset_imports.get("")
        if found != _NEWER:
            raise ir.passes.PreconditionError(f"{type(self).__name__}: expected a graph of opset {_NEWER}, found {found}")

    # Not a NodeRewritePass: all operators are rewritten or none, and those without a rule are named together.

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Rewrite all operators that changed.

        Raises:
            onnx_ir.passes.PassError: an operator has no form in set 17.
        """
        build = Builder(model.graph, "")
        changed = [node for node in model.graph if node.domain == "" and _is_newer(node.op_type)]
        rules = [_RULES.get("Reduce" if node.op_type.startswith("Reduce") else node.op_type) for node in changed]
        stuck = [node for node, rule in zip(changed, rules, strict=True) if rule is None or not rule(node, build)]
        if stuck:
            names = ", ".join(f"{node.op_type} ({node.name!r})" for node in stuck)
            raise ir.passes.PassError(
                f"{type(self).__name__}: opset {_OLDER} has no form of {names}: export with opset {_NEWER} or higher"
            )
        model.graph.opset_imports[""] = _OLDER
        return ir.passes.PassResult(model, modified=True)


def _is_newer(op_type: str) -> bool:
    return bool(onnx.defs.get_schema(op_type, _NEWER, "").since_version > _OLDER)


def _reduce(node: ir.Node, _build: Builder) -> bool:  # rule 1
    axes = const_array(node.inputs[1]) if len(node.inputs) > 1 else np.empty(0, np.int64)
    if axes is None or (axes.size == 0 and node.attributes.get_int("noop_with_empty_axes", 0) != 0):
        return False
    node.attributes.pop("noop_with_empty_axes", None)
    if len(node.inputs) > 1:
        node.resize_inputs(1)
    if axes.size:
        node.attributes["axes"] = ir.AttrInt64s("axes", axes.reshape(-1).tolist())
    return True


def _split(node: ir.Node, build: Builder) -> bool:  # rule 2
    parts = node.attributes.pop("num_outputs", None)
    shape = known_shape(node.inputs[0])
    length = None if shape is None else shape[node.attributes.get_int("axis", 0)]
    if parts is not None and isinstance(length, int):
        # The last one may be shorter.
        size = -(-length // len(node.outputs))
        lengths = [min(size, length - number * size) for number in range(len(node.outputs))]
        node.resize_inputs(2)
        node.replace_input_with(1, build.ints(lengths))
    return True  # an axis of unknown length is the batch of all tasks, which has equal parts


def _pad(node: ir.Node, build: Builder) -> bool:  # rule 3
    if len(node.inputs) < 4 or node.inputs[3] is None:
        return node.attributes.get_string("mode", "constant") != "wrap"
    pads, axes, shape = const_array(node.inputs[1]), const_array(node.inputs[3]), known_shape(node.inputs[0])
    if pads is None or axes is None or shape is None:
        return False
    whole = np.zeros((2, len(shape)), np.int64)
    whole[:, axes] = pads.reshape(2, -1)
    node.replace_input_with(1, build.ints(whole.reshape(-1).tolist()))
    node.resize_inputs(3)
    return True


def _scatter(node: ir.Node, _build: Builder) -> bool:  # rule 4
    return node.attributes.get_string("reduction", "none") in ("none", "add", "mul")


_RULES: dict[str, Callable[[ir.Node, Builder], bool]] = {
    "Reduce": _reduce,
    "Split": _split,
    "Pad": _pad,
    "ScatterND": _scatter,
    "ScatterElements": _scatter,
}
