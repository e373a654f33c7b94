"""Lets a single query carry the projections of keys and values."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from ._attention import SPLIT, TURNED, Attention, made_by, match_attention
from ._build import Builder, const_array, known_shape, refuse_subgraphs, take_over

__all__ = ["AbsorbProjectionsPass"]


@dataclass(frozen=True)
class _Projection:
    """x W + biases + rest [batch, columns, heads x size], of x [batch, columns, D] and constants W and vectors."""

    x: ir.Value
    weight: ir.Value
    biases: tuple[ir.Value, ...]
    rest: tuple[ir.Value, ...]


class AbsorbProjectionsPass(ir.passes.InPlacePass):
    """Attention of a single query multiplies by the weights of k and v once, not once per position; equal to rounding.

    1. Scores, head by head: q (x W + b)ᵀ becomes (q Wᵀ) xᵀ. The rest of it, q bᵀ, is the same number for all positions of a
       head, and the softmax takes no notice of it.
    2. Values: p (x W + b) becomes (p x) W + b, because probabilities add up to 1.
    3. What else is added to k or v, such as the product of LoRA, stays as it is and is added to the scores or the values.

    In the last layer of a model whose head reads one token there is a single query, and k and v are most of what PushSlices
    leaves of that layer. The identity is the one that DeepSeek-V2 absorbs its up-projections by (arXiv 2405.04434, 2.1.2).
    """

    def requires(self, model: ir.Model) -> None:
        refuse_subgraphs(self, model)

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        build = Builder(model.graph, "")
        modified = False
        for node in list(model.graph):
            found = match_attention(node)
            if found is None or (known_shape(found.query) or (0, 0))[1] != 1:
                continue
            for projected, old, absorb in ((found.key, found.scores, _scores), (found.value, found.output, _values)):
                projection, reader = _projection(projected, found), old.producer()
                if projection is not None and reader is not None:
                    new = absorb(found, projection, build)
                    model.graph.insert_before(reader, build.take())
                    take_over(old, new)
                    modified = True
        return ir.passes.PassResult(model, modified=modified)


def _projection(value: ir.Value, found: Attention) -> _Projection | None:
    """What `value` is the sum of, if nothing else reads it and its parts."""
    shape, query = known_shape(value), known_shape(found.query)
    if shape is None or query is None or shape[0] != query[0]:
        return None
    products: list[ir.Node] = []
    biases: list[ir.Value] = []
    rest: list[ir.Value] = []
    addends: list[ir.Value] = [value]
    while addends:
        addend = addends.pop(0)
        total, product, array = made_by(addend, "Add"), made_by(addend, "MatMul"), const_array(addend)
        if total is not None:
            addends[:0] = [each for each in total.inputs if each is not None]
        elif product is not None and (weight := const_array(product.inputs[1])) is not None and weight.ndim == 2:
            products.append(product)
        elif array is not None and array.shape == (shape[-1],):
            biases.append(addend)
        elif known_shape(addend) == shape:
            rest.append(addend)
        else:
            return None
    if not products:
        return None
    # The largest: low-rank ones cost little where they are.
    main = max(products, key=lambda product: _rows(product.inputs[1]))
    rest += [product.outputs[0] for product in products if product is not main]
    x, weights = main.inputs
    return None if x is None or weights is None else _Projection(x, weights, tuple(biases), tuple(rest))


def _rows(weight: ir.Value | None) -> int:
    array = const_array(weight)
    return 0 if array is None else len(array)


def _scores(found: Attention, key: _Projection, build: Builder) -> ir.Value:  # rule 1
    batch, columns, width, size = _sizes(found, key)
    heads, shape, dtype = found.heads, found.scores.shape, found.scores.dtype
    target = build.ints([-1, heads, size])
    query = build.node("Reshape", [found.query, target], shape=ir.Shape([batch, heads, size]), dtype=dtype)
    array = const_array(key.weight)
    assert array is not None  # _projection
    absorbed = _per_head(query, array.T.reshape(heads, size, width), key, build)
    turn = {"perm": [0, 2, 1]}
    rows = build.node("Transpose", [key.x], attributes=turn, shape=ir.Shape([batch, width, columns]), dtype=dtype)
    scores = build.node("MatMul", [absorbed, rows], shape=ir.Shape([batch, heads, columns]), dtype=dtype)
    scores = build.node("Unsqueeze", [scores, build.ints([2])], shape=shape, dtype=dtype)
    if not key.rest:
        return scores
    split = [_split(found.query, found, SPLIT, build), _split(_sum(key.rest, build), found, TURNED, build)]  # rule 3
    return build.node("Add", [scores, build.node("MatMul", split, shape=shape, dtype=dtype)], shape=shape, dtype=dtype)


def _values(found: Attention, value: _Projection, build: Builder) -> ir.Value:  # rule 2
    batch, columns, width, size = _sizes(found, value)
    heads, shape, dtype = found.heads, found.output.shape, found.output.dtype
    flat = ir.Shape([batch, heads, columns])
    probabilities = build.node("Squeeze", [found.probabilities, build.ints([2])], shape=flat, dtype=dtype)
    mixed = build.node("MatMul", [probabilities, value.x], shape=ir.Shape([batch, heads, width]), dtype=dtype)
    array = const_array(value.weight)
    assert array is not None  # _projection
    absorbed = _per_head(mixed, array.reshape(width, heads, size).transpose(1, 0, 2), value, build)
    total = build.node("Reshape", [absorbed, build.ints([-1, 1, heads * size])], shape=shape, dtype=dtype)
    for bias in value.biases:
        total = build.node("Add", [total, bias], shape=shape, dtype=dtype)
    if not value.rest:
        return total
    split = _split(_sum(value.rest, build), found, SPLIT, build)  # rule 3
    four, turned = ir.Shape([batch, heads, 1, size]), ir.Shape([batch, 1, heads, size])
    context = build.node("MatMul", [found.probabilities, split], shape=four, dtype=dtype)
    context = build.node("Transpose", [context], attributes={"perm": SPLIT}, shape=turned, dtype=dtype)
    context = build.node("Reshape", [context, build.ints([0, 0, heads * size])], shape=shape, dtype=dtype)
    return build.node("Add", [total, context], shape=shape, dtype=dtype)


def _sizes(found: Attention, projection: _Projection) -> tuple[int | ir.SymbolicDim, int | ir.SymbolicDim, int, int]:
    """(batch, columns, D, size of a head)."""
    shape, weight = known_shape(projection.x), known_shape(projection.weight)
    assert shape is not None  # _projection
    assert weight is not None  # it is constant
    width, outputs = (int(str(number)) for number in weight)
    return shape[0], shape[1], width, outputs // found.heads


def _per_head(rows: ir.Value, weight: np.ndarray, projection: _Projection, build: Builder) -> ir.Value:
    """rows [batch, heads, a], one for each head, times weight [heads, a, b]: one product for the whole batch a head."""
    batch, heads, _ = known_shape(rows) or ()
    name, dtype, outputs = str(projection.weight.name), rows.dtype, weight.shape[-1]
    swap = {"perm": [1, 0, 2]}
    turned = build.node("Transpose", [rows], attributes=swap, shape=ir.Shape([heads, batch, weight.shape[1]]), dtype=dtype)
    by_head = build.initializer(weight, f"{name}_heads")
    product = build.node("MatMul", [turned, by_head], shape=ir.Shape([heads, batch, outputs]), dtype=dtype)
    return build.node("Transpose", [product], attributes=swap, shape=ir.Shape([batch, heads, outputs]), dtype=dtype)


def _split(value: ir.Value, found: Attention, perm: list[int], build: Builder) -> ir.Value:
    """value [batch, rows, heads x size] as heads, in that order of axes."""
    batch, rows, width = known_shape(value) or ()
    assert isinstance(width, int)
    sizes = [batch, rows, found.heads, width // found.heads]
    target = build.ints([0, 0, *sizes[2:]])  # type: ignore[list-item]
    split = build.node("Reshape", [value, target], shape=ir.Shape(sizes), dtype=value.dtype)
    turned = ir.Shape([sizes[axis] for axis in perm])
    return build.node("Transpose", [split], attributes={"perm": perm}, shape=turned, dtype=value.dtype)


def _sum(values: tuple[ir.Value, ...], build: Builder) -> ir.Value:
    total = values[0]
    for value in values[1:]:
        total = build.node("Add", [total, value], shape=total.shape, dtype=total.dtype)
    return total
