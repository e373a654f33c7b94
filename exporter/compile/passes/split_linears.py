"""Replace a linear layer whose result is split by one for each part."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import onnx_ir as ir

from exporter.compile.rewrite.builder import Builder, const_array, known_shape
from exporter.compile.rewrite.match import Linear, match_linear
from exporter.compile.rewrite.node_pass import NodeRewritePass, Rewritten
from exporter.compile.rewrite.refusals import Refusal

__all__ = ["SplitLinearsPass"]


class SplitLinearsPass(NodeRewritePass):
    """Split(x W + b) along the columns becomes x Wi + bi for each part, bit-exact up to the order of sums.

    GPT-2 has one matrix for queries, keys and values. Separate matrices can be scaled, computed for only the rows that
    are read, or absorbed; the joined matrix cannot. Nothing may read the whole result, and W and b must not be task weights.
    """

    op_types = ("Split",)

    def __init__(self, protected: Collection[str] = ()) -> None:
        """Set which weights stay whole.

        Args:
            protected: names of task weights.
        """
        super().__init__()
        self.protected = frozenset(protected)

    def rewrite(self, node: ir.Node, build: Builder) -> Rewritten:
        """Replace a Split of a linear layer's result."""
        linear = match_linear(node.inputs[0])
        if linear is None or isinstance(linear, Refusal):
            return linear
        found = _columns(node, linear, self.protected)
        if isinstance(found, Refusal):
            return found
        assert linear.bias is not None  # _columns
        parts = {}
        for number, (part, (matrix, vector)) in enumerate(zip(node.outputs, found, strict=True)):
            weight = build.initializer(matrix, f"{linear.weight.name}.{number}")
            product = build.node("MatMul", [linear.x, weight], shape=part.shape, dtype=part.dtype)
            bias = build.initializer(vector, f"{linear.bias.name}.{number}")
            parts[part] = build.node("Add", [product, bias], shape=part.shape, dtype=part.dtype, hint=f"{part.name}_part")
        return parts


def _columns(split: ir.Node, linear: Linear, protected: Collection[str]) -> list[tuple[np.ndarray, np.ndarray]] | Refusal:
    """The columns of W and of b that each part of the Split is computed from."""
    matrix, vector, bias = const_array(linear.weight), const_array(linear.bias), linear.bias
    if vector is None or bias is None:
        return Refusal("nothing is added to the product")
    if matrix is None or not {linear.weight.name, bias.name}.isdisjoint(protected):
        return Refusal("the weights belong to a task", linear.weight)
    if matrix.ndim != 2 or vector.shape != matrix.shape[1:]:
        return Refusal("the weights are not one matrix and one vector", linear.weight)
    shapes = [known_shape(value) for value in (split.inputs[0], *split.outputs)]
    widths = [shape[-1] for shape in shapes if shape and isinstance(shape[-1], int)]
    if len(widths) != len(shapes):
        return Refusal("the sizes of the parts are not known")
    if split.attributes.get_int("axis", 0) not in (-1, len(shapes[0] or ()) - 1):
        return Refusal("the result is not split along its columns")
    ends = np.cumsum(widths[1:])[:-1]
    return list(zip(np.split(matrix, ends, axis=1), np.split(vector, ends), strict=True))
