"""Random operands for each operator of the table, at least one of which depends on a task."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from hypothesis import strategies as st

from exporter.compile.rewrite.axes import BINARY, UNARY
from tests.helpers.operator_graph import B, Dim, Graph

__all__ = ["CASES", "draw_case"]

_LOGIC = frozenset({"And", "Not", "Or", "Xor"})


def draw_case(graph: Graph, op_type: str) -> str:
    """Adds the operator on random operands, at least one of which depends on a task; returns its result."""
    if op_type in UNARY:
        return _unary(graph, op_type)
    if op_type in BINARY or op_type in ("Mean", "Sum", "Where", "PRelu"):
        return _broadcast(graph, op_type)
    return _CASES[op_type](graph, op_type)


def _unary(graph: Graph, op_type: str) -> str:
    x = graph.branch(graph.dims(graph.number(1, 4)))
    x = graph.bits(x) if op_type == "Not" else x
    attributes = {"Cast": "<to = 6>", "HardSigmoid": "<alpha = 0.3>"}.get(op_type, "")
    return graph.add(f"{op_type}{attributes}({x})")


def _broadcast(graph: Graph, op_type: str) -> str:
    dims = graph.dims(graph.number(1, 4))
    count = 3 if op_type in ("Where", "Max", "Mean", "Sum") else 2
    operands = [graph.branch(dims)]
    for _ in range(count - 1):
        some: list[Dim] = [1 if graph.number(0, 3) == 0 else dim for dim in dims]
        operands.append(graph.operand(some[graph.number(0, len(dims) - 1) :]))
    if op_type != "PRelu" and graph.yes():
        operands.reverse()
    if op_type in _LOGIC:
        operands = [graph.bits(value) for value in operands]
    if op_type == "Where":
        operands[0] = graph.bits(operands[0])
    return graph.add(f"{op_type}{'<fmod = 1>' if op_type == 'Mod' else ''}({', '.join(operands)})")


def _reshape(graph: Graph, op_type: str) -> str:
    dims = graph.dims(graph.number(2, 4))
    x, kind, place = graph.branch(dims), graph.pick("merge", "part", "one", "turn"), graph.number(0, len(dims) - 2)
    target = list(dims)
    if kind == "merge":
        target[place : place + 2] = [-1]
        unknown = [dim for dim in target if dim == B]
        return (
            graph.add(f"{op_type}({x}, {graph.lengths(target)})") if unknown or graph.yes() else _with_zeros(graph, x, target)
        )
    if kind == "part":
        dims[place] = 4 if dims[place] != B else B
        x = graph.branch(dims)
        target = list(dims)
        target[place : place + 1] = [2, 2] if dims[place] != B else [B, 1]
    elif kind == "one":
        target.insert(graph.number(0, len(dims)), 1)
    else:
        target.reverse()
    if graph.yes():
        target = [-1 if dim == B else dim for dim in target]
    return graph.add(f"{op_type}({x}, {graph.lengths(target)})")


def _with_zeros(graph: Graph, x: str, target: Sequence[Dim]) -> str:
    """Copies the axes before the merged one."""
    merged = list(target).index(-1)
    return graph.add(f"Reshape({x}, {graph.constant([0 if i < merged else int(dim) for i, dim in enumerate(target)])})")


def _flatten(graph: Graph, op_type: str) -> str:
    dims = graph.dims(graph.number(2, 4))
    return graph.add(f"{op_type}<axis = {graph.number(0, len(dims))}>({graph.branch(dims)})")


def _squeeze(graph: Graph, op_type: str) -> str:
    dims, place = graph.dims(graph.number(1, 3)), graph.number(0, 1)
    dims.insert(place, 1)
    return graph.add(f"{op_type}({graph.branch(dims)}, {graph.constant([graph.pick(place, place - len(dims))])})")


def _unsqueeze(graph: Graph, op_type: str) -> str:
    rank = graph.number(1, 3)
    return graph.add(f"{op_type}({graph.branch(graph.dims(rank))}, {graph.constant([graph.number(-rank - 1, rank)])})")


def _transpose(graph: Graph, op_type: str) -> str:
    dims = graph.dims(graph.number(2, 4))
    order = list(graph.draw(st.permutations(range(len(dims)))))
    return graph.add(f"{op_type}{graph.pick('', f'<perm = {order}>')}({graph.branch(dims)})")


def _expand(graph: Graph, op_type: str) -> str:
    dims = graph.dims(graph.number(1, 4))
    some: list[Dim] = [1 if graph.number(0, 2) == 0 else dim for dim in dims][graph.number(0, len(dims) - 1) :]
    whole = graph.add(f"{op_type}({graph.operand(some)}, {graph.lengths(dims)})")
    return graph.add(f"Add({whole}, {graph.branch(dims)})")


def _constant_of_shape(graph: Graph, op_type: str) -> str:
    dims = graph.dims(graph.number(1, 3))
    return graph.add(f"Add({graph.add(f'{op_type}({graph.lengths(dims)})')}, {graph.branch(dims)})")


def _tile(graph: Graph, op_type: str) -> str:
    dims = graph.dims(graph.number(1, 3))
    repeats: list[Dim] = [graph.number(1, 2) for _ in dims]
    if 1 in dims and graph.yes():
        repeats[dims.index(1)] = B
    return graph.add(f"{op_type}({graph.branch(dims)}, {graph.lengths(repeats)})")


def _axis(graph: Graph, rank: int) -> int:
    axis = graph.number(0, rank - 1)
    return axis - rank if graph.yes() else axis


def _along_axis(graph: Graph, op_type: str) -> str:
    dims = graph.dims(graph.number(1, 3))
    attributes = f"axis = {_axis(graph, len(dims))}"
    if op_type in ("ArgMax", "ArgMin"):
        attributes += f", keepdims = {graph.number(0, 1)}"
    if op_type == "TopK":
        return _one_of_two(graph, f"{op_type}<{attributes}>({graph.branch(dims)}, {graph.constant([1])})")
    return graph.add(f"{op_type}<{attributes}>({graph.branch(dims)})")


def _one_of_two(graph: Graph, expression: str) -> str:
    """One of the two results."""
    name = f"v{len(graph.lines)}"
    graph.lines.append(f"{name}, {name}_second = {expression}")
    return graph.pick(name, f"{name}_second")


def _split(graph: Graph, op_type: str) -> str:
    dims = graph.dims(graph.number(1, 3))
    axis = graph.number(0, len(dims) - 1)
    dims = [2 if i == axis and dim != B else dim for i, dim in enumerate(dims)]
    return _one_of_two(graph, f"{op_type}<axis = {axis}, num_outputs = 2>({graph.branch(dims)})")


def _reduce(graph: Graph, op_type: str) -> str:
    dims = graph.dims(graph.number(1, 3))
    attributes = f"<keepdims = {graph.number(0, 1)}, noop_with_empty_axes = {graph.number(0, 1)}>"
    axes = graph.pick(", " + graph.constant([_axis(graph, len(dims))]), "")
    return graph.add(f"{op_type}{attributes}({graph.branch(dims)}{axes})")


def _gather(graph: Graph, op_type: str) -> str:
    dims = graph.dims(graph.number(1, 3))
    axis = _axis(graph, len(dims))
    rank = graph.number(0, 2)
    indices = graph.indices(graph.dims(rank) if rank and graph.yes() else [2] * rank, dims[axis])
    data = graph.operand(dims) if graph.yes() else graph.branch(dims)
    return graph.add(f"{op_type}<axis = {axis}>({data}, {indices})")


def _gather_elements(graph: Graph, op_type: str) -> str:
    dims = graph.dims(graph.number(1, 3))
    axis = _axis(graph, len(dims))
    chosen = [graph.number(1, 2) if i == axis % len(dims) else dim for i, dim in enumerate(dims)]
    return graph.add(f"{op_type}<axis = {axis}>({graph.branch(dims)}, {graph.indices(chosen, dims[axis])})")


def _gather_nd(graph: Graph, op_type: str) -> str:
    shared = graph.number(0, 1)
    dims = graph.dims(graph.number(shared + 1, 3))
    rows: list[Dim] = [*dims[:shared], _lengths(graph, 1)[0], 1]
    return graph.add(f"{op_type}<batch_dims = {shared}>({graph.branch(dims)}, {graph.indices(rows, dims[shared])})")


def _cut(graph: Graph, op_type: str) -> str:
    dims = graph.dims(graph.number(1, 3))
    bounds = [graph.constant([bound]) for bound in graph.pick((0, 1), (-1, 1 << 40), (0, 1 << 40))]
    axes = [graph.constant([_axis(graph, len(dims))])] if graph.yes() else []
    return graph.add(f"{op_type}({', '.join([graph.branch(dims), *bounds, *axes])})")


def _concat(graph: Graph, op_type: str) -> str:
    dims = graph.dims(graph.number(1, 3))
    operands = [graph.branch(dims), graph.operand(dims)]
    return graph.add(f"{op_type}<axis = {_axis(graph, len(dims))}>({', '.join(operands if graph.yes() else operands[::-1])})")


def _cumulate(graph: Graph, op_type: str) -> str:
    dims = graph.dims(graph.number(1, 3))
    attributes = f"<exclusive = {graph.number(0, 1)}, reverse = {graph.number(0, 1)}>"
    return graph.add(f"{op_type}{attributes}({graph.branch(dims)}, {graph.constant(np.array(_axis(graph, len(dims))))})")


def _lengths(graph: Graph, count: int) -> list[Dim]:
    options: tuple[Dim, ...] = (B, 2, 3)
    return [graph.pick(*options) for _ in range(count)]


def _pair(graph: Graph, left: Sequence[Dim], right: Sequence[Dim]) -> tuple[str, str]:
    return (graph.branch(left), graph.operand(right)) if graph.yes() else (graph.operand(left), graph.branch(right))


def _matmul(graph: Graph, op_type: str) -> str:
    lead = graph.dims(graph.number(1, 2))[: graph.number(0, 2)]
    m, k, n = _lengths(graph, 3)
    left, right = [*lead, m, k], [*[1 if graph.number(0, 2) == 0 else dim for dim in lead], k, n]
    left = left if graph.yes() else left[-2:]
    left, right = left[graph.number(0, 5) // 5 and len(left) - 1 :], right if graph.number(0, 3) else [k]
    return graph.add(f"{op_type}({', '.join(_pair(graph, left, right))})")


def _gemm(graph: Graph, op_type: str) -> str:
    m, k, n = _lengths(graph, 3)
    turned = [graph.number(0, 1), graph.number(0, 1)]
    left, right = [k, m] if turned[0] else [m, k], [n, k] if turned[1] else [k, n]
    operands = [*_pair(graph, left, right)]
    if graph.yes():
        operands.append(graph.operand(graph.pick([n], [m, n], [m, 1], [1, n], [1])))
    attributes = f"<alpha = {graph.pick(1.0, 0.5)}, transA = {turned[0]}, transB = {turned[1]}>"
    return graph.add(f"{op_type}{attributes}({', '.join(operands)})")


def _einsum(graph: Graph, op_type: str) -> str:
    equation = str(graph.pick("ab,bc->ac", "ab,cb->abc", "ab,ab->b", "abc,cb->ba", "ab,ac->abc", "aab,b->a"))
    lengths = dict(zip("abc", _lengths(graph, 3), strict=True))
    left, right = ([lengths[letter] for letter in term] for term in equation.split("->")[0].split(","))
    return graph.add(f'{op_type}<equation = "{equation}">({", ".join(_pair(graph, left, right))})')


def _one_hot(graph: Graph, op_type: str) -> str:
    dims = graph.dims(graph.number(1, 2))
    indices = graph.add(f"Cast<to = 7>({graph.branch(dims)})")
    depth = graph.length() if graph.yes() else graph.constant([3])
    values = graph.constant(np.array([0.5, 2], np.float32))
    return graph.add(f"{op_type}<axis = {graph.number(-1, len(dims))}>({indices}, {depth}, {values})")


def _pad(graph: Graph, op_type: str) -> str:
    dims = graph.dims(graph.number(1, 3))
    axis = graph.number(0, len(dims) - 1)
    operands = [graph.branch(dims)]
    if graph.yes():
        operands += [graph.constant([1, 2]), graph.constant(np.float32(7)), graph.constant([axis - len(dims)])]
    else:
        operands += [graph.constant([int(i == axis) for i in range(len(dims))] * 2)]
    return graph.add(f"{op_type}({', '.join(operands)})")


def _scatter_elements(graph: Graph, op_type: str) -> str:
    dims = graph.dims(graph.number(1, 3))
    axis = _axis(graph, len(dims))
    some = [graph.number(1, 2) if i == axis % len(dims) else dim for i, dim in enumerate(dims)]
    operands = [graph.branch(dims), graph.indices(some, dims[axis]), graph.operand(some)]
    return graph.add(f'{op_type}<axis = {axis}, reduction = "add">({", ".join(operands)})')


def _scatter_nd(graph: Graph, op_type: str) -> str:
    dims = graph.dims(graph.number(1, 3))
    count = _lengths(graph, 1)[0]
    indices = graph.indices([count, 1], dims[0])
    updates = graph.operand([count, *dims[1:]])
    return graph.add(f'{op_type}<reduction = "add">({graph.branch(dims)}, {indices}, {updates})')


def _trilu(graph: Graph, op_type: str) -> str:
    return graph.add(f"{op_type}<upper = {graph.number(0, 1)}>({graph.branch(graph.dims(graph.number(2, 4)))})")


def _instance_norm(graph: Graph, op_type: str) -> str:
    dims: list[Dim] = [B, 2, 3] if graph.yes() else [2, 3, B]
    scale = [graph.value(dims[1:2], False) for _ in range(2)]
    return graph.add(f"{op_type}({graph.branch(dims)}, {', '.join(scale)})")


def _layer_norm(graph: Graph, op_type: str) -> str:
    dims = graph.dims(graph.number(1, 3))
    axis = _axis(graph, len(dims))
    scale, bias = (graph.operand(dims[axis % len(dims) :]) for _ in range(2))
    operands = [graph.branch(dims), scale, *([bias] if graph.yes() else [])]
    return graph.add(f"{op_type}<axis = {axis}, epsilon = 0.1>({', '.join(operands)})")


def _clip(graph: Graph, op_type: str) -> str:
    low, high = graph.constant(np.float32(-0.5)), graph.constant(np.float32(0.5))
    bounds = graph.pick("", f", {low}", f", {low}, {high}", f", , {high}")
    return graph.add(f"{op_type}({graph.branch(graph.dims(graph.number(1, 4)))}{bounds})")


_CASES: Mapping[str, Callable[[Graph, str], str]] = {
    "Clip": _clip,
    "Concat": _concat,
    "ConstantOfShape": _constant_of_shape,
    "CumSum": _cumulate,
    "Einsum": _einsum,
    "Expand": _expand,
    "Flatten": _flatten,
    "Gather": _gather,
    "GatherElements": _gather_elements,
    "GatherND": _gather_nd,
    "Gemm": _gemm,
    "InstanceNormalization": _instance_norm,
    "LayerNormalization": _layer_norm,
    "MatMul": _matmul,
    "OneHot": _one_hot,
    "Pad": _pad,
    "Reshape": _reshape,
    "ScatterElements": _scatter_elements,
    "ScatterND": _scatter_nd,
    "Slice": _cut,
    "Split": _split,
    "Squeeze": _squeeze,
    "Tile": _tile,
    "Transpose": _transpose,
    "Trilu": _trilu,
    "Unsqueeze": _unsqueeze,
    **dict.fromkeys(("ArgMax", "ArgMin", "Hardmax", "LogSoftmax", "LpNormalization", "Softmax", "TopK"), _along_axis),
    **{
        f"Reduce{kind}": _reduce
        for kind in ("L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod", "Sum", "SumSquare")
    },
}
CASES = UNARY | BINARY | {"Mean", "PRelu", "Sum", "Where"} | set(_CASES)
