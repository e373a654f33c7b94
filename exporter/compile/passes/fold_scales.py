"""Multiplies a linear layer's weights instead of its results."""

from __future__ import annotations

import onnx_ir as ir

from exporter.compile.rewrite.axes import PERMUTES
from exporter.compile.rewrite.builder import Builder, const_array, const_scalar, known_shape

__all__ = ["FoldScalesPass"]


class FoldScalesPass(ir.passes.InPlacePass):
    """Three rules, equal to rounding; c is a scalar:

    1. MatMul(a, b x c) becomes MatMul(a x c, b) where a is multiplied by a scalar too: attention scales q and k by the
       root of one factor each.
    2. MatMul(a, b) x c and MatMul(a, b) / c become MatMul(a x c, b), where a and b are both computed: some models scale the
       scores of attention instead of the queries.
    3. (x W + b) x c becomes x (W c) + (b c), also with a Reshape or Transpose in between, where nothing else reads x W + b.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        build = Builder(model.graph, "")
        modified = False
        for node in list(model.graph):
            if node.domain == "" and node.op_type == "MatMul":
                modified |= _join_scales(node, build)
            elif node.domain == "" and node.op_type in ("Mul", "Div"):
                modified |= _scale_left(node, build)
        # Two branches may scale one weight of the trunk: it is scaled once.
        scaled: dict[tuple[ir.Value, float], ir.Value] = {}
        for node in list(model.graph):
            if node.domain == "" and node.op_type == "Mul":
                modified |= _fold_scale(node, build, scaled)
        return ir.passes.PassResult(model, modified=modified)


def _used_once(value: ir.Value) -> bool:
    return not value.is_graph_output() and len(list(value.uses())) == 1


def _scaled(value: ir.Value | None) -> tuple[ir.Node, ir.Value, float] | None:
    """(the Mul, x, c) of x times a scalar that is used once."""
    node = value.producer() if value is not None else None
    if value is None or node is None or node.op_type != "Mul" or node.domain != "" or not _used_once(value):
        return None
    for x, c in (node.inputs, tuple(reversed(node.inputs))):
        factor = const_scalar(c)
        if x is not None and factor is not None and known_shape(x) == known_shape(value):
            return node, x, factor
    return None


def _join_scales(matmul: ir.Node, build: Builder) -> bool:
    left, right = _scaled(matmul.inputs[0]), _scaled(matmul.inputs[1])
    if left is None or right is None:
        return False
    node, x, c = left
    dtype = x.dtype.numpy() if x.dtype is not None else None
    if dtype is None:
        return False
    position = list(node.inputs).index(x)
    node.replace_input_with(1 - position, build.constant(dtype.type(c * right[2])))
    matmul.replace_input_with(1, right[1])
    matmul.graph.remove(right[0], safe=True)  # type: ignore[union-attr]
    return True


def _scale_left(node: ir.Node, build: Builder) -> bool:  # rule 2
    output = node.outputs[0]
    for index, scores in enumerate(node.inputs):
        factor, product = const_scalar(node.inputs[1 - index]), scores.producer() if scores is not None else None
        if (
            factor is None
            or not factor
            or scores is None
            or product is None
            or product.op_type != "MatMul"
            or product.domain != ""
        ):
            continue
        left, right = product.inputs
        if node.op_type == "Div":
            if index != 0:
                continue
            factor = 1 / factor
        if left is None or left.dtype is None or const_array(left) is not None or const_array(right) is not None:
            continue
        if known_shape(scores) is None or known_shape(scores) != known_shape(output) or not _used_once(scores):
            continue
        if output.is_graph_output() or not _is_attention(product):
            continue
        scale = build.constant(left.dtype.numpy().type(factor))
        scaled = build.node("Mul", [left, scale], shape=left.shape, dtype=left.dtype, hint=f"{left.name}_times")
        assert product.graph is not None
        product.graph.insert_before(product, build.take())
        product.replace_input_with(0, scaled)
        output.replace_all_uses_with(scores)
        product.graph.remove(node, safe=True)
        return True
    return False


def _is_attention(product: ir.Node) -> bool:
    """Whether many matrices are multiplied pair by pair; a single one may be the stacked weights of the tasks."""
    left, right = (known_shape(value) for value in product.inputs)
    return left is not None and right is not None and len(left) == len(right) > 3


def _fold_scale(node: ir.Node, build: Builder, scaled: dict[tuple[ir.Value, float], ir.Value]) -> bool:
    output = node.outputs[0]
    for x, c in (node.inputs, tuple(reversed(node.inputs))):  # rule 3
        factor = const_scalar(c)
        if x is None or factor is None or known_shape(x) is None or known_shape(x) != known_shape(output):
            continue
        add = _source_of_moves(x)
        if add is None or add.op_type != "Add" or add.domain != "" or output.is_graph_output():
            return False
        for product, bias in (add.inputs, tuple(reversed(add.inputs))):
            matmul = product.producer() if product is not None else None
            offset = const_array(bias)
            if (
                product is None
                or matmul is None
                or matmul.op_type != "MatMul"
                or matmul.domain != ""
                or offset is None
                or not _used_once(product)
            ):
                continue
            weight = const_array(matmul.inputs[1])
            if weight is None:
                continue
            for value, array in ((matmul.inputs[1], weight), (bias, offset)):
                assert value is not None
                if (value, factor) not in scaled:
                    scaled[value, factor] = build.initializer(array * array.dtype.type(factor), f"{value.name}_scaled")
            matmul.replace_input_with(1, scaled[matmul.inputs[1], factor])  # type: ignore[index]
            add.replace_input_with(list(add.inputs).index(bias), scaled[bias, factor])  # type: ignore[index]
            output.replace_all_uses_with(x)
            node.graph.remove(node, safe=True)  # type: ignore[union-attr]
            return True
    return False


def _source_of_moves(value: ir.Value) -> ir.Node | None:
    """The operator whose elements `value` holds in another order, if nothing else reads them on the way."""
    while _used_once(value):
        node = value.producer()
        if node is None or node.domain != "":
            return None
        if node.op_type not in PERMUTES or node.inputs[0] is None:
            return node
        value = node.inputs[0]
    return None
