"""Groups with equal adapters and different heads: their branches are one batch up to the value from which they part."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common as common
import pytest

from exporter.compile.finish import strip
from exporter.compile.pipeline import compile_groups, route_groups
from exporter.compile.vmap.stems import divide_groups
from exporter.inspect.parts import find_parts
from exporter.traced_group import TracedGroup
from tests.helpers.pass_testing import assert_close, check_valid, compute, op_types, rand, random_feeds, template

_SIZES = ({"batch": 1, "sequence": 3}, {"batch": 2, "sequence": 5}, {"batch": 4, "sequence": 1})
# Two layers with an adapter each
_LAYERS = """
    t = MatMul(x, trunk) d1 = MatMul(t, down1) r1 = Relu(d1)
    a1 = Tanh(r1) b1 = Neg(a1) c1 = Abs(b1) e1 = Exp(c1) u1 = MatMul(e1, up1) h1 = Add(u1, t)
    q = MatMul(h1, square) d2 = MatMul(q, down2) r2 = Relu(d2) u2 = MatMul(r2, up2) h2 = Add(u2, h1)
"""
_TAGS = "w = MatMul(h2, head) y = Add(w, bias)"
_FIRST = "zero = Constant<value_int = 0>() row = Gather<axis = 1>(h2, zero) w = MatMul(row, head) y = Add(w, bias)"
_PLAIN = "(float[batch, sequence, 4] x) => (float[batch, sequence, 3] y)"
_ROW = "(float[batch, sequence, 4] x) => (float[batch, labels] y)"
_TRUNK = {"trunk": rand(4, 4, seed=1), "square": rand(4, 4, seed=2)}


def _group(names: Sequence[str], head: str, labels: int, *, rank: int = 2, second: bool = True) -> TracedGroup:
    """Tasks with adapters of a rank in both layers, or in the second only, and a head."""
    seeds = [sum(map(ord, name)) for name in names]

    def arrays(*shape: int, number: int) -> list[np.ndarray]:
        return [rand(*shape, seed=10 * seed + number) for seed in seeds]

    weights = {
        "down1": arrays(4, rank, number=1),
        "up1": arrays(rank, 4, number=2),
        "down2": arrays(4, rank, number=3),
        "up2": arrays(rank, 4, number=4),
        "head": arrays(4, labels, number=5),
        "bias": arrays(labels, number=6),
    }
    layers = _LAYERS
    if not second:
        layers = layers.replace("h2 = Add(u2, h1)", "h2 = Mul(u2, h1)")
    text = f"{_PLAIN if head == _TAGS else _ROW} {{ {layers} {head} }}".replace("labels", str(labels))
    model = template(text, weights, _TRUNK)
    # The names of weights contain that of the traced task; generic names do not
    for name in weights:
        model.graph.initializers[name].name = f"{names[0]}.{name}"
    return TracedGroup(
        tuple(names),
        model,
        {f"{names[0]}.{name}": each for name, each in weights.items()},
        {f"{names[0]}.{name}": f"<0>.{name}" for name in weights},
    )


def _single(group: TracedGroup, task: int) -> ir.Model:
    model = group.model.clone()
    for name, arrays in group.weights.items():
        if name in model.graph.initializers:
            model.graph.initializers[name].const_value = ir.tensor(arrays[task], name=name)
    return model


def _expected(groups: Sequence[TracedGroup], size: Mapping[str, int]) -> tuple[dict[str, np.ndarray], list[np.ndarray]]:
    feeds = random_feeds(groups[0].model, size)
    return feeds, [compute(_single(group, task), feeds)[0] for group in groups for task in range(len(group.tasks))]


def _check(groups: Sequence[TracedGroup]) -> ir.Model:
    """Compares the joined graph with each task by itself, and returns it."""
    expected = [_expected(groups, size) for size in _SIZES]
    model, _ = compile_groups(groups, "batch")
    assert [value.name for value in model.graph.outputs] == [name for group in groups for name in group.tasks]
    assert [value.name for value in model.graph.inputs] == ["x"]
    strip(model)
    check_valid(model)
    for feeds, arrays in expected:
        for found, each in zip(compute(model, feeds), arrays, strict=True):
            assert_close(found, each, 1e-5)
    return model


@pytest.mark.parametrize(
    ("classified", "tagged"), [(("a", "b"), ("c", "d", "e")), (("a", "b"), ("c",)), (("a",), ("c",)), (("a",), ("c", "d"))]
)
def test_equal_adapters_are_one_batch_up_to_the_heads(classified: tuple[str, ...], tagged: tuple[str, ...]) -> None:
    groups = [_group(classified, _FIRST, 2), _group(tagged, _TAGS, 3)]
    operators = op_types(_check(groups))
    assert operators.count("Relu") == 2  # one for each layer
    assert operators.count("MatMul") == 2 + 4 + 2  # of the trunk, the adapters and the heads
    assert operators.count("Slice") == 2


def test_inspect_finds_the_stem() -> None:
    model = _check([_group(("a", "b"), _FIRST, 2), _group(("c",), _TAGS, 3)])
    parts = find_parts(model.graph, {"a": 1, "b": 2, "c": 4})
    owners = {owner: [node for node in model.graph if parts.owner[node] == owner] for owner in parts.owner.values()}
    assert sorted(owners) == ["stem0", "tasks0", "tasks1", "trunk"]
    assert all(parts.serves[node] == 7 for node in owners["stem0"] if node.op_type == "MatMul")
    assert sum(node.op_type == "MatMul" for node in owners["stem0"]) == 5  # four of adapters, one with a weight of the trunk
    assert {parts.serves[node] for node in owners["tasks1"]} == {4}


def test_three_groups_have_one_stem() -> None:
    groups = [_group(("a", "b"), _TAGS, 3), _group(("c",), _FIRST, 5), _group(("d", "e"), _FIRST.replace("Add(w", "Sub(w"), 2)]
    found = divide_groups([_clone(group) for group in groups], "batch")
    assert [list(each.members) for each in found] == [[0, 1, 2]]
    assert op_types(_check(groups)).count("Relu") == 2


@pytest.mark.parametrize("every_row", [False, True])
@pytest.mark.parametrize("with_other", [False, True])
def test_routed_rows_share_a_stem(every_row: bool, with_other: bool) -> None:
    groups = [_group(("a", "c"), _FIRST, 4), _group(("b", "e"), _FIRST.replace("Add(w", "Sub(w"), 4)]
    groups += [_group(("d",), _FIRST.replace("Add(w", "Mul(w"), 4)]
    if with_other:  # whose adapters are of another rank
        groups.append(_group(("x", "f"), _FIRST, 4, rank=1))
    names = [name for group in groups for name in group.tasks]
    names = sorted(names, key=lambda name: ("acbedxf".index(name) * 2) % 7)
    groups = [_in_order(group, names) for group in groups]
    single = {name: _single(group, task) for group in groups for task, name in enumerate(group.tasks)}
    model, _ = route_groups(groups, "batch", names, every_row)
    strip(model)
    check_valid(model)
    assert op_types(model).count("Relu") == (4 if with_other else 2)
    assert [value.name for value in model.graph.inputs] == ["x", "row_ids", "task_ids"]
    rng = np.random.default_rng(0)
    for batch, rows in ((2, 7), (1, 1), (3, 12)):
        x = rng.standard_normal((batch, 5, 4)).astype(np.float32)
        row_ids, task_ids = rng.integers(batch, size=rows), rng.integers(len(names), size=rows)
        (found,) = compute(model, {"x": x, "row_ids": row_ids, "task_ids": task_ids})
        for row, task, logits in zip(row_ids, task_ids, found, strict=True):
            assert_close(logits[None], compute(single[names[task]], {"x": x[[row]]})[0], 1e-5)


def _in_order(group: TracedGroup, names: Sequence[str]) -> TracedGroup:
    """The group with its tasks in the order of all names, as a plan has them."""
    order = sorted(range(len(group.tasks)), key=lambda task: names.index(group.tasks[task]))
    weights = {name: [arrays[task] for task in order] for name, arrays in group.weights.items()}
    return TracedGroup(tuple(group.tasks[task] for task in order), group.model, weights, group.generic_names)


def test_a_stem_ends_where_branches_differ() -> None:
    groups = [_group(("a", "b"), _TAGS, 3), _group(("c", "d"), _TAGS, 3, second=False)]
    (divided,) = divide_groups([_clone(group) for group in groups], "batch")
    assert divided.stem is not None
    assert divided.stem.tasks == ("a", "b", "c", "d")
    assert set(divided.stem.weights) == {"a.down1", "a.up1"}
    _check(groups)


def test_other_ranks_have_no_common_stem() -> None:
    groups = [_group(("a", "b"), _TAGS, 3), _group(("c", "d"), _FIRST, 3, rank=1)]
    assert [each.stem for each in divide_groups(groups, "batch")] == [None, None]
    assert op_types(_check(groups)).count("Relu") == 4


def test_a_scalar_of_a_task_is_no_stem() -> None:
    def group(names: Sequence[str], activation: str) -> TracedGroup:
        text = (
            f"(float[batch, 2] x) => (float[batch, 2] y) {{ s = Exp(scale) m = Mul(x, s) h = {activation}(m) y = Mul(h, w) }}"
        )
        weights = {"scale": [rand(seed=ord(name)) for name in names], "w": [rand(2, seed=ord(name)) for name in names]}
        return TracedGroup(tuple(names), template(text, weights, {}), weights, {name: name for name in weights})

    _check([group(("a", "b"), "Relu"), group(("c", "d"), "Sigmoid")])


def _clone(group: TracedGroup) -> TracedGroup:
    return TracedGroup(group.tasks, group.model.clone(), group.weights, group.generic_names)


@pytest.mark.parametrize("plain", [("a", "b"), ("a",)])
def test_a_group_may_end_where_the_stem_ends(plain: tuple[str, ...]) -> None:
    """Hidden states without a head, next to a head over equal adapters; nothing reads the weights of the first one's head."""
    groups = [_group(plain, _TAGS, 3), _group(("c", "d"), _TAGS, 3)]
    model = groups[0].model
    model.graph.outputs[:] = [value for node in model.graph for value in node.outputs if value.name == "h2"]
    common.RemoveUnusedNodesPass()(model)
    assert op_types(_check(groups)).count("Relu") == 2
