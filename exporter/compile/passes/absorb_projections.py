"""Apply the projections of keys and values to a single query."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import onnx_ir as ir

from exporter.compile.rewrite.attention import SPLIT, TURNED, Attention, match_attention
from exporter.compile.rewrite.builder import Builder, const_array, known_shape, refuse_subgraphs, replace_value
from exporter.compile.rewrite.match import sole_producer
from exporter.compile.rewrite.refusals import Refusal, RefusingPass

__all__ = ["AbsorbProjectionsPass"]


@dataclass(frozen=True)
class _Projection:
    """x W + biases + rest [batch, columns, heads x size], of x [batch, columns, D] and constants W and vectors."""

    x: ir.Value
    weight: ir.Value
    biases: tuple[ir.Value, ...]
    rest: tuple[ir.Value, ...]


class AbsorbProjectionsPass(RefusingPass):
    """Attention of a single query multiplies by the weights of k and v once, not once per position; equal up to rounding.

    1. Scores, head by head: q (x W + b)ᵀ becomes (q Wᵀ) xᵀ. The other term, q bᵀ, is the same number for all positions of
       a head, and cancels in the softmax.
    2. Values: p (x W + b) becomes (p x) W + b, because probabilities add up to 1.
    3. Other terms of k or v, such as the product of LoRA, stay as they are and are added to the scores or the values.
    4. A weight that something else reads whole is split in the graph, so that it is stored once.

    In the last layer of a model whose head reads one token there is a single query, and k and v are most of what PushSlices
    leaves of that layer. DeepSeek-V2 absorbs its up-projections by the same identity (arXiv 2405.04434, 2.1.2).
    """

    # Not a NodeRewritePass: whether a weight is stored whole is known once all attention is found (rule 4).

    def requires(self, model: ir.Model) -> None:
        """Refuse control flow.

        Raises:
            onnx_ir.passes.PreconditionError: an operator has a graph inside.
        """
        refuse_subgraphs(self, model)

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Find all attention of a single query, then rewrite it."""
        self.refusals.clear()
        build = Builder(model.graph, "")
        keys: list[tuple[Attention, _Projection]] = []
        values: list[tuple[Attention, _Projection]] = []
        for node in model.graph:
            attention = match_attention(node)
            if isinstance(attention, Refusal):
                if (known_shape(node.outputs[0]) or ())[2:3] == (1,):
                    self.refuse(node, attention)
            elif attention is not None and _single(attention):
                for part, found, what in ((attention.key, keys, "key"), (attention.value, values, "value")):
                    projection = _projection(part, attention, what)
                    if isinstance(projection, Refusal):
                        self.refuse(node, projection)
                    else:
                        found.append((attention, projection))
        by_head = _Weights([projection.weight for _, projection in (*keys, *values)], build)
        for attention, key in keys:
            _replace(attention.scores, _scores(attention, key, by_head, build), build)
        for attention, value in values:
            _replace(attention.output, _values(attention, value, by_head, build), build)
        return ir.passes.PassResult(model, modified=bool(keys or values))


def _single(attention: Attention) -> bool:
    return (known_shape(attention.query) or (0, 0))[1] == 1


def _replace(old: ir.Value, new: ir.Value, build: Builder) -> None:
    node = old.producer()
    assert node is not None  # match_attention
    assert node.graph is not None
    node.graph.insert_before(node, build.take())
    replace_value(old, new)


class _Weights:
    """The matrices [D, heads x size] as stacks of a matrix for each head."""

    def __init__(self, absorbed: Sequence[ir.Value], build: Builder) -> None:
        self._whole = {weight for weight in absorbed if len(list(weight.uses())) > absorbed.count(weight)}
        self._stacks: dict[tuple[ir.Value, tuple[int, ...]], ir.Value] = {}
        self._build = build

    def stack(self, weight: ir.Value, heads: int, perm: tuple[int, ...]) -> ir.Value:
        """`perm` of the axes [D, heads, size]."""
        array = const_array(weight)
        assert array is not None  # _projection
        split = array.reshape(len(array), heads, -1)
        build, shape, dtype = self._build, ir.Shape([split.shape[axis] for axis in perm]), weight.dtype
        if weight in self._whole:  # rule 4
            parts = build.node("Reshape", [weight, build.ints([0, heads, -1])], shape=ir.Shape(split.shape), dtype=dtype)
            return build.node("Transpose", [parts], attributes={"perm": perm}, shape=shape, dtype=dtype)
        if (weight, perm) not in self._stacks:
            self._stacks[weight, perm] = build.initializer(split.transpose(perm), f"{weight.name}_heads")
        return self._stacks[weight, perm]


def _projection(value: ir.Value, found: Attention, what: str) -> _Projection | Refusal:
    """Return the parts that `value` is the sum of, if nothing else reads it and them."""
    shape, query = known_shape(value), known_shape(found.query)
    if shape is None or query is None:
        return Refusal(f"the shape of the {what} is not known", value)
    if shape[0] != query[0]:
        return Refusal(f"the {what} is projected once for all rows of the batch", value)
    products: list[ir.Node] = []
    biases: list[ir.Value] = []
    rest: list[ir.Value] = []
    addends: list[ir.Value] = [value]
    while addends:
        addend = addends.pop(0)
        total, product, array = sole_producer(addend, "Add"), sole_producer(addend, "MatMul"), const_array(addend)
        if total is not None:
            addends[:0] = [each for each in total.inputs if each is not None]
        elif product is not None and (weight := const_array(product.inputs[1])) is not None and weight.ndim == 2:
            products.append(product)
        elif array is not None and array.shape == (shape[-1],):
            biases.append(addend)
        elif known_shape(addend) == shape:
            rest.append(addend)
        else:
            return Refusal(f"a summand of the {what} has another shape", addend)
    if not products:
        return Refusal(f"the {what} is not a product by a constant matrix that nothing else reads", value)
    # The largest: low-rank ones cost little where they are.
    main = max(products, key=lambda product: _rows(product.inputs[1]))
    rest += [product.outputs[0] for product in products if product is not main]
    x, weights = main.inputs
    assert x is not None  # both are required
    assert weights is not None
    if known_shape(x) is None:  # of norms with other weights in each row of a routed graph
        return Refusal(f"the shape of what the {what} is projected from is not known", x)
    return _Projection(x, weights, tuple(biases), tuple(rest))


def _rows(weight: ir.Value | None) -> int:
    array = const_array(weight)
    return 0 if array is None else len(array)


def _scores(found: Attention, key: _Projection, weights: _Weights, build: Builder) -> ir.Value:  # rule 1
    batch, columns, width, size = _sizes(found, key)
    heads, shape, dtype = found.heads, found.scores.shape, found.scores.dtype
    target = build.ints([-1, heads, size])
    query = build.node("Reshape", [found.query, target], shape=ir.Shape([batch, heads, size]), dtype=dtype)
    absorbed = _per_head(query, weights.stack(key.weight, heads, (1, 2, 0)), build)
    turn = {"perm": [0, 2, 1]}
    rows = build.node("Transpose", [key.x], attributes=turn, shape=ir.Shape([batch, width, columns]), dtype=dtype)
    scores = build.node("MatMul", [absorbed, rows], shape=ir.Shape([batch, heads, columns]), dtype=dtype)
    scores = build.node("Unsqueeze", [scores, build.ints([2])], shape=shape, dtype=dtype)
    if not key.rest:
        return scores
    split = [_split(found.query, found, SPLIT, build), _split(_sum(key.rest, build), found, TURNED, build)]  # rule 3
    return build.node("Add", [scores, build.node("MatMul", split, shape=shape, dtype=dtype)], shape=shape, dtype=dtype)


def _values(found: Attention, value: _Projection, weights: _Weights, build: Builder) -> ir.Value:  # rule 2
    batch, columns, width, size = _sizes(found, value)
    heads, shape, dtype = found.heads, found.output.shape, found.output.dtype
    flat = ir.Shape([batch, heads, columns])
    probabilities = build.node("Squeeze", [found.probabilities, build.ints([2])], shape=flat, dtype=dtype)
    mixed = build.node("MatMul", [probabilities, value.x], shape=ir.Shape([batch, heads, width]), dtype=dtype)
    absorbed = _per_head(mixed, weights.stack(value.weight, heads, (1, 0, 2)), build)
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


def _per_head(rows: ir.Value, weight: ir.Value, build: Builder) -> ir.Value:
    """Multiply rows [batch, heads, a], one for each head, by weight [heads, a, b]: one product for the whole batch a head."""
    batch, heads, size = known_shape(rows) or ()
    dtype, (*_, outputs) = rows.dtype, known_shape(weight) or ()
    swap = {"perm": [1, 0, 2]}
    turned = build.node("Transpose", [rows], attributes=swap, shape=ir.Shape([heads, batch, size]), dtype=dtype)
    product = build.node("MatMul", [turned, weight], shape=ir.Shape([heads, batch, outputs]), dtype=dtype)
    return build.node("Transpose", [product], attributes=swap, shape=ir.Shape([batch, heads, outputs]), dtype=dtype)


def _split(value: ir.Value, found: Attention, perm: list[int], build: Builder) -> ir.Value:
    """Split value [batch, rows, heads x size] into heads, in that order of axes."""
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
