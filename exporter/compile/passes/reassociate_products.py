"""Multiplies in the order that takes the fewest operations."""

from __future__ import annotations

import onnx_ir as ir

from exporter.compile.rewrite.builder import Builder, const_array, known_shape, refuse_subgraphs, sole_producer

__all__ = ["ReassociateProductsPass"]


class ReassociateProductsPass(ir.passes.InPlacePass):
    """Two rules for a small matrix p or q [..., r, n] beside a larger m [..., n, D], r < n, and weights W; equal to rounding:

    1. p (m W) becomes (p m) W: r rows go through W instead of n.
    2. q (m W + b)ᵀ becomes (q Wᵀ) mᵀ + q b, where b is a vector or nothing: again r rows instead of n.

    AdapterFusion weighs the n members of each position by one query: of its 2 n + 1 products with square matrices 3 are left,
    however many members there are. The value has no bias there; the key's adds the same number to each member's score.
    """

    def requires(self, model: ir.Model) -> None:
        refuse_subgraphs(self, model)

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        build = Builder(model.graph, "")
        modified = False
        for node in list(model.graph):
            if node.op_type == "MatMul" and node.domain == "" and not node.outputs[0].is_graph_output():
                result = _weighed(node, build) or _scored(node, build)
                if result is not None:
                    model.graph.insert_before(node, build.take())
                    node.outputs[0].replace_all_uses_with(result)
                    modified = True
        return ir.passes.PassResult(model, modified=modified)


def _weighed(node: ir.Node, build: Builder) -> ir.Value | None:  # rule 1
    small, product = node.inputs[0], _linear(node.inputs[1])
    if small is None or product is None or product[2] is not None:
        return None
    large, weight, _ = product
    if not _fewer(small, large):
        return None
    mixed = _product(small, large, node, build, "mixed")
    return build.node("MatMul", [mixed, weight], shape=node.outputs[0].shape, dtype=node.outputs[0].dtype)


def _scored(node: ir.Node, build: Builder) -> ir.Value | None:  # rule 2
    small, turned = node.inputs[0], sole_producer(node.inputs[1], "Transpose")
    rank = len(known_shape(node.outputs[0]) or ())
    if small is None or turned is None or rank < 3:
        return None
    if list(turned.attributes.get_ints("perm", ())) != [*range(rank - 2), rank - 1, rank - 2]:
        return None
    product = _linear(turned.inputs[0])
    if product is None or not _fewer(small, product[0]):
        return None
    large, weight, bias = product
    output, shape = node.outputs[0], known_shape(large)
    sizes = known_shape(weight)
    assert shape is not None  # _fewer
    assert sizes is not None  # _linear
    upright = _untransposed(weight)
    if upright is None:
        turn = {"perm": [1, 0]}
        upright = build.node("Transpose", [weight], attributes=turn, shape=ir.Shape(sizes[::-1]), dtype=weight.dtype)
    query = _product(small, upright, node, build, "query")
    columns = build.node(
        "Transpose",
        [large],
        attributes={"perm": [*range(rank - 2), rank - 1, rank - 2]},
        shape=ir.Shape([*shape[:-2], shape[-1], shape[-2]]),
        dtype=large.dtype,
    )
    scores = build.node("MatMul", [query, columns], shape=output.shape, dtype=output.dtype)
    if bias is None:
        return scores
    column = build.node("Unsqueeze", [bias, build.ints([1])], shape=ir.Shape([sizes[1], 1]), dtype=bias.dtype)
    offset = _product(small, column, node, build, "offset")
    return build.node("Add", [scores, offset], shape=output.shape, dtype=output.dtype)


def _product(left: ir.Value, right: ir.Value, node: ir.Node, build: Builder, hint: str) -> ir.Value:
    rows, columns = known_shape(left), known_shape(right)
    assert rows is not None  # _fewer
    assert columns is not None  # _fewer, or made here
    name = f"{node.outputs[0].name}_{hint}"
    return build.node("MatMul", [left, right], shape=ir.Shape([*rows[:-1], columns[-1]]), dtype=left.dtype, hint=name)


def _linear(value: ir.Value | None) -> tuple[ir.Value, ir.Value, ir.Value | None] | None:
    """(m, W, b) of m W or m W + b that nothing else reads, with a matrix W and a vector b that are constant."""
    bias, product = None, sole_producer(value, "MatMul")
    if product is None and (add := sole_producer(value, "Add")) is not None:
        for total, offset in (add.inputs, tuple(reversed(add.inputs))):
            array = const_array(offset)
            if array is not None and array.ndim == 1 and (product := sole_producer(total, "MatMul")) is not None:
                bias = offset
                break
    if product is None or product.inputs[0] is None or product.inputs[1] is None:
        return None
    return (product.inputs[0], product.inputs[1], bias) if _is_matrix(product.inputs[1]) else None


def _is_matrix(value: ir.Value) -> bool:
    """A constant matrix, or one that is transposed: task weights keep their names, and are not folded, until they are bound."""
    source = _untransposed(value)
    array = const_array(value if source is None else source)
    return array is not None and array.ndim == 2


def _untransposed(value: ir.Value) -> ir.Value | None:
    """W of Wᵀ."""
    node = value.producer()
    return node.inputs[0] if node is not None and node.op_type == "Transpose" and node.domain == "" else None


def _fewer(small: ir.Value, large: ir.Value) -> bool:
    """Whether `small` [..., r, k] has fewer rows than `large` [..., n, D], both known numbers, with equal axes before them."""
    one, other = known_shape(small), known_shape(large)
    if one is None or other is None or len(one) != len(other) or len(one) < 3 or one[:-2] != other[:-2]:
        return False
    rows, many = one[-2], other[-2]
    return isinstance(rows, int) and isinstance(many, int) and rows < many
