"""Makes one linear layer for each part of a result that is cut apart."""

from __future__ import annotations

from collections.abc import Collection

import onnx_ir as ir

from exporter.compile.rewrite.builder import Builder, const_array, known_shape, replace_value, sole_producer

__all__ = ["SplitLinearsPass"]


class SplitLinearsPass(ir.passes.InPlacePass):
    """Split(x W + b) along the columns becomes x Wi + bi for each part, bit-exact up to the order of sums.

    GPT-2 has one matrix for queries, keys and values. Each by itself can be scaled, computed for the rows that are read, or
    absorbed, which the joined ones cannot. Only where nothing reads the whole result, and W and b are no task weights.
    """

    def __init__(self, protected: Collection[str] = ()) -> None:
        """`protected`: names of task weights."""
        super().__init__()
        self.protected = frozenset(protected)

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        build = Builder(model.graph, "")
        modified = False
        for node in list(model.graph):
            if node.op_type == "Split" and node.domain == "" and (found := _linear(node, self.protected)) is not None:
                _split(node, *found, build)
                modified = True
        if modified:
            for name, value in list(model.graph.initializers.items()):
                if not value.uses() and not value.is_graph_output():
                    del model.graph.initializers[name]
        return ir.passes.PassResult(model, modified=modified)


def _linear(split: ir.Node, protected: Collection[str]) -> tuple[ir.Node, ir.Node, ir.Value, ir.Value] | None:
    """(the product, the sum, W, b) whose columns the Split cuts apart."""
    add, sizes = sole_producer(split.inputs[0], "Add"), [known_shape(part) for part in split.outputs]
    rank = len(known_shape(split.inputs[0]) or ())
    if add is None or rank < 2 or split.attributes.get_int("axis", 0) % rank != rank - 1:
        return None
    if any(size is None or not isinstance(size[-1], int) for size in sizes):
        return None
    for total, bias in (add.inputs, tuple(reversed(add.inputs))):
        product, offset = sole_producer(total, "MatMul"), const_array(bias)
        weight = None if product is None else product.inputs[1]
        if product is None or weight is None or bias is None or offset is None or offset.ndim != 1:
            continue
        array = const_array(weight)
        if (
            array is not None
            and array.ndim == 2
            and array.shape[1] == offset.size
            and {weight.name, bias.name}.isdisjoint(protected)
        ):
            return product, add, weight, bias
    return None


def _split(split: ir.Node, product: ir.Node, add: ir.Node, weight: ir.Value, bias: ir.Value, build: Builder) -> None:
    matrix, vector = const_array(weight), const_array(bias)
    assert matrix is not None  # _linear
    assert vector is not None
    assert split.graph is not None
    start = 0
    for number, part in enumerate(split.outputs):
        assert part.shape is not None  # _linear
        size = part.shape[-1]
        assert isinstance(size, int)
        columns = slice(start, start + size)
        own = build.initializer(matrix[:, columns], f"{weight.name}.{number}")
        found = build.node("MatMul", [product.inputs[0], own], shape=part.shape, dtype=part.dtype)
        offset = build.initializer(vector[columns], f"{bias.name}.{number}")
        found = build.node("Add", [found, offset], shape=part.shape, dtype=part.dtype, hint=f"{part.name}_part")
        split.graph.insert_before(split, build.take())
        replace_value(part, found)
        start += size
    split.graph.remove([split, add, product], safe=True)
