"""Rows that select their task: each must be what the template computes with that task's weights for that row of the inputs."""

from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir
import pytest

from exporter.compile.vmap.join_groups import JoinGroupsPass
from exporter.compile.vmap.merge_routes import MergeRoutesPass
from exporter.compile.vmap.route_tasks import RouteTasksPass
from tests.helpers.pass_testing import (
    Weights,
    assert_close,
    check_valid,
    compute,
    op_types,
    parse,
    rand,
    random_feeds,
    tasks_of,
    template,
)

TASKS = ("first", "second", "third")
SIZES = ({"batch": 1, "sequence": 3}, {"batch": 4, "sequence": 2})

HEAD = "(float[batch, 4] x) => (float[batch, labels] y)"
TEXT = "(float[batch, sequence, 4] x) => (float[batch, 2] y)"
# The first position, as a text's head reads it.
FIRST = "zero = Constant<value_int = 0>() f = Gather<axis = 1>(a, zero) y = MatMul(f, head)"


def routes(batch: int, count: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """More rows than the batch and fewer, in any order; one task for all rows."""
    generator = np.random.default_rng(batch)
    mixed = [(generator.integers(0, batch, rows), generator.integers(0, count, rows)) for rows in (7, 1)]
    return [*mixed, *((np.arange(batch)[::-1], np.full(batch, task)) for task in range(count))]


def check(model: ir.Model, templates: Sequence[ir.Model], labels: int) -> None:
    """`templates`: the graph of each single task, in the order of the task numbers."""
    assert [value.name for value in model.graph.outputs] == ["logits"]
    check_valid(model)
    for sizes in SIZES:
        given = random_feeds(templates[0], sizes)
        expected = [compute(each, given)[0] for each in templates]
        for row_ids, task_ids in routes(sizes["batch"], len(templates)):
            (logits,) = compute(model, {**given, "row_ids": row_ids, "task_ids": task_ids})
            assert logits.shape == (len(row_ids), labels)
            for found, row, task in zip(logits, row_ids, task_ids, strict=True):
                want = expected[task][row]
                assert_close(found[: len(want)], want, 1e-5)
                assert np.isneginf(found[len(want) :]).all()


def route(
    text: str,
    weights: Weights,
    operators: str | None = None,
    *,
    trunk: Mapping[str, np.ndarray] | None = None,
    shapes: Mapping[str, list[str | int]] | None = None,
    labels: int = 2,
) -> ir.Model:
    """Compares rows of every kind with one run of the template per task.

    Args:
        text, weights, trunk, shapes: as in the tests of VectorizeTasksPass.
        operators: the operators to find, in order, but for Identity and what makes the places; None for none in particular.
        labels: how wide the logits are.
    """
    model = template(text, weights, trunk or {})
    for value in (value for node in model.graph for value in node.outputs):
        if str(value.name) in (shapes or {}):
            value.shape = ir.Shape((shapes or {})[str(value.name)])
    count = len(next(iter(weights.values())))
    RouteTasksPass(TASKS[:count], weights, "group", "batch", range(count), count)(model)
    MergeRoutesPass("row_ids")(model)
    if operators is not None:
        ignored = ("Identity", "Range", "Shape", "Squeeze")
        assert [op for op in op_types(model) if op not in ignored] == operators.split()
    check(model, [template(text, weights, trunk or {}, task) for task in range(count)], labels)
    return model


def test_gathers_what_enters_an_adapter_and_its_weights() -> None:
    text = f"{TEXT} {{ h = Tanh(x) d = MatMul(h, down) e = Add(d, b) r = Relu(e) u = MatMul(r, up) a = Add(u, h) {FIRST} }}"
    weights = {"down": tasks_of(4, 2), "b": tasks_of(2), "up": tasks_of(2, 4, seed=1), "head": tasks_of(4, 2)}
    adapter = "Tanh Gather Gather MatMul Gather Add Relu Gather MatMul Add"  # [rows, sequence, 4] all along: no Reshape
    route(text, weights, f"{adapter} Gather Gather Unsqueeze MatMul")


def test_the_trunk_is_computed_once_per_input_row() -> None:
    model = route(f"{HEAD} {{ h = Tanh(x) y = MatMul(h, w) }}", {"w": tasks_of(4, 2)})
    (tanh,) = (node for node in model.graph if node.op_type == "Tanh")
    assert tanh.inputs[0] is model.graph.inputs[0]


@pytest.mark.parametrize("tail", ["y = Gemm<transB = 1>(h, w, b)", "g = Gemm<transB = 1>(h, w, b) y = Sigmoid(g)"])
def test_pads_different_label_counts_with_minus_infinity(tail: str) -> None:
    weights = {"w": [rand(2, 4), rand(5, 4), rand(1, 4)], "b": [rand(2), rand(5), rand(1)]}
    model = route(f"{HEAD} {{ h = Relu(x) {tail} }}", weights, labels=5)
    assert op_types(model).count("MatMul") == 1


def test_pads_heads_whose_bias_is_added_apart() -> None:
    weights = {"w": [rand(4, 1), rand(4, 3), rand(4, 2)], "b": [rand(1), rand(3), rand(2)]}
    route(f"{HEAD} {{ g = MatMul(x, w) y = Add(g, b) }}", weights, labels=3)


@pytest.mark.parametrize(
    "tail",
    [
        "last = Constant<value_int = 1>() y = Gather<axis = 1>(g, last)",
        "t = Transpose<perm = [0, 2, 1]>(g) last = Constant<value_int = 1>() y = Gather<axis = 2>(t, last)",
        "one = Constant<value_ints = [1]>() s = Gather<axis = 1>(g, one) y = Squeeze(s, one)",
        "one = Constant<value_ints = [1]>() y = ReduceMax<keepdims = 0>(g, one)",
    ],
)
def test_padded_labels_are_carried_to_the_output(tail: str) -> None:
    """The head of a decoder gives logits for each token, of which one is selected."""
    weights = {"w": [rand(4, 1), rand(4, 3), rand(4, 2)]}
    text = f"(float[batch, sequence, 4] x) => (float[batch, labels] y) {{ g = MatMul(x, w) {tail} }}"
    route(text, weights, labels=3)


@pytest.mark.parametrize("tail", ["y = Softmax(g)", "y = Concat<axis = 1>(g, x)", "y = Div(g, x)", "y = MatMul(g, v)"])
def test_refuses_to_combine_padded_labels(tail: str) -> None:
    weights = {"w": [rand(4, 4), rand(4, 5), rand(4, 3)], "v": [rand(4, 2), rand(5, 2), rand(3, 2)]}
    with pytest.raises(ir.passes.PassError, match=f"each row selects its task in {tail[4:7]}"):
        route(f"{HEAD} {{ g = MatMul(x, w) {tail} }}", weights)


@pytest.mark.parametrize(
    ("operator", "weights"),
    [
        ("LayerNormalization<axis = 2>(x, w)", tasks_of(4)),
        ("Mul(x, w)", tasks_of(4)),
        ("Mul(x, w)", tasks_of(1, 3, 1)),  # per position
        ("Sub(w, x)", tasks_of(3, 4)),
        ("Div(x, w)", tasks_of()),
        ("Where(c, x, w)", tasks_of(3, 4)),
        ("PRelu(x, w)", tasks_of(4)),
        ("MatMul(x, w)", tasks_of(4, 4)),
    ],
)
def test_has_a_rule_for(operator: str, weights: Sequence[np.ndarray]) -> None:
    text = f"(float[batch, 3, 4] x) => (float[batch, 2] y) {{ c = Cast<to = 9>(x) a = {operator} {FIRST} }}"
    model = route(text, {"w": weights, "head": tasks_of(4, 2)})
    assert op_types(model).count(operator.split("(")[0].split("<")[0]) == (2 if operator.startswith("MatMul") else 1)


def test_puts_a_prefix_of_each_task_before_the_sequence() -> None:
    text = """(float[batch, sequence, 4] x) => (float[batch, 4] y)
        <int64[2] ones = {1, 1}, int64[1] i = {0}, int64[1] j = {1}> {
        s = Shape(x) b = Gather(s, i) t = Concat<axis = 0>(b, ones) e = Expand(p, t) q = Concat<axis = 1>(e, x)
        y = ReduceMax<keepdims = 0>(q, j) }"""
    route(text, {"p": tasks_of(1, 2, 4)}, labels=4)


def test_derives_lengths_of_merged_axes_from_the_rows() -> None:
    text = """(float[batch, sequence, 4] x) => (float[batch, 4] y) <int64[2] t = {-1, 4}, int64[1] j = {1}> {
        k = Reshape(x, t) h = MatMul(k, w) s = Shape(x) r = Reshape(h, s) y = ReduceMax<keepdims = 0>(r, j) }"""
    route(text, {"w": tasks_of(4, 4)}, shapes={"k": ["batch*sequence", 4], "h": ["batch*sequence", 4]}, labels=4)


def test_uses_the_weights_of_a_single_task_as_they_are() -> None:
    text = f"{HEAD} {{ t = Transpose(w) h = MatMul(x, t) y = Add(h, b) }}"
    route(text, {"w": tasks_of(2, 4, count=1), "b": tasks_of(2, count=1)}, "Gather MatMul Add")


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("kind", ["int64", "int32"])
def test_looks_up_in_the_table_of_each_task(count: int, kind: str) -> None:
    text = f"""({kind}[batch, sequence] ids) => (float[batch, 4] y)
        <int64[1] i = {{1}}, int64[1] j = {{0}}, int64 zero = {{0}}, int64 one = {{1}}> {{
        l = Shape<start = 1, end = 2>(ids) k = Squeeze(l) r = Range(zero, k, one) q = Unsqueeze(r, j)
        tokens = Gather(w, ids) places = Gather(p, q) plain = Gather(p, r)
        e = Add(tokens, places) o = Sub(e, plain) h = Mul(o, tokens) y = ReduceMax<keepdims = 0>(h, i) }}"""
    weights = {"w": tasks_of(9, 4, count=count), "p": tasks_of(3, 4, seed=1, count=count)}
    shapes: dict[str, list[str | int]] = {"r": ["sequence"], "q": [1, "sequence"]}
    shapes |= {"places": [1, "sequence", 4], "plain": ["sequence", 4]}
    route(text, weights, shapes=shapes, labels=4)


def test_moves_what_is_looked_up_for_each_row() -> None:
    """Biases of T5: a table of distances, whose heads are moved to the front."""
    text = """(int64[batch, sequence] ids) => (float[batch, 2] y)
        <int64[1] i = {0}, int64[1] j = {1}, int64[2] both = {1, 2}, int64[2] last = {-1, -2}, int64 zero = {0},
        int64 one = {1}>
        { l = Shape<start = 1, end = 2>(ids) k = Squeeze(l) r = Range(zero, k, one) from = Unsqueeze(r, j) to = Unsqueeze(r, i)
        d = Sub(from, to) n = Abs(d) g = Gather(w, n) p = Transpose<perm = [2, 0, 1]>(g) u = Unsqueeze(p, i) v = Neg(u)
        s = Squeeze(v, i) m = Mul(u, s) f = Cast<to = 1>(ids) e = Unsqueeze(f, both)
        a = Add(e, m) b = Mul(a, s) y = ReduceSum<keepdims = 0>(b, last) }"""
    three: list[str | int] = [2, "sequence", "sequence"]
    shapes: dict[str, list[str | int]] = {name: [1, *three] for name in "uvm"} | {"p": three, "s": three}
    shapes |= {"r": ["sequence"], "from": ["sequence", 1], "to": [1, "sequence"]}
    shapes |= {"d": three[1:], "n": three[1:], "g": [*three[1:], 2], "a": ["batch", *three], "b": ["batch", *three]}
    route(text, {"w": tasks_of(3, 2)}, shapes=shapes)


def test_an_index_below_zero_counts_from_the_end_of_a_table() -> None:
    body = "m = Neg(n) t = Gather(w, m) y = ReduceMax<keepdims = 0>(t, i)"
    route(f"(int64[batch, 4] n) => (float[batch, 2] y) <int64[1] i = {{1}}> {{ {body} }}", {"w": tasks_of(5, 2)})


@pytest.mark.parametrize("own", ["w", "b"])
@pytest.mark.parametrize("operator", ["LayerNormalization(h, w, b)", "Gemm<transB = 1>(h, w, b)"])
def test_selects_one_weight_next_to_one_of_the_trunk(operator: str, own: str) -> None:
    shapes = {"w": (4, 4) if operator.startswith("Gemm") else (4,), "b": (4,)}
    trunk = {name: rand(*shape, seed=9) for name, shape in shapes.items() if name != own}
    text = f"{HEAD} {{ h = Tanh(x) y = {operator} }}".replace("labels", "4")
    route(text, {own: tasks_of(*shapes[own])}, trunk=trunk, labels=4)


@pytest.mark.parametrize("operator", ['Einsum<equation = "bi,io->bo">(h, w)', "GatherElements(w, i)"])
def test_refuses_what_has_no_rule(operator: str) -> None:
    text = f"(float[batch, 4] x, int64[batch, 2] i) => (float[batch, 2] y) {{ h = Relu(x) y = {operator} }}"
    with pytest.raises(ir.passes.PassError, match=f"each row selects its task in {operator[:6]}.*reads w"):
        route(text, {"w": tasks_of(4, 2)})


def test_refuses_a_number_of_all_rows() -> None:
    with pytest.raises(ir.passes.PassError, match="each row selects its task in Mul"):
        route(
            f"{HEAD} {{ m = ReduceMean<keepdims = 0>(x) s = Mul(m, w) y = Add(x, s) }}".replace("labels", "4"),
            {"w": tasks_of()},
        )


def test_refuses_what_mixes_rows() -> None:
    with pytest.raises(ir.passes.PassError, match="may compute across the rows"):
        route(f"{HEAD} {{ g = MatMul(x, w) y = CumSum(g, i) }}", {"w": tasks_of(4, 2)}, trunk={"i": np.array(0)})


@pytest.mark.parametrize("output", ["float[batch, sequence, 4] y", "float[batch] y", "float[sequence, 4] y"])
def test_refuses_outputs_that_are_no_vector_per_row(output: str) -> None:
    text = f"(float[batch, sequence, 4] x) => ({output}) {{ y = MatMul(x, w) }}"
    with pytest.raises(ir.passes.PreconditionError, match="expected one output"):
        RouteTasksPass(TASKS, {"w": tasks_of(4, 4)}, "group", "batch", (0, 1, 2), 3)(parse(text, {"w": rand(4, 4)}))


@pytest.mark.parametrize("numbers", [(0, 2, 0), (0, 1), (1, 2, 3)])
def test_refuses_numbers_that_do_not_fit_the_tasks(numbers: Sequence[int]) -> None:
    model = parse("(float[batch, 4] x) => (float[batch, 2] y) { y = MatMul(x, w) }", {"w": rand(4, 2)})
    with pytest.raises(ir.passes.PreconditionError, match="different numbers below 3"):
        RouteTasksPass(TASKS, {"w": tasks_of(4, 2)}, "group", "batch", numbers, 3)(model)


@pytest.mark.parametrize(("every_row", "order"), [(False, (0, 2)), (True, (0, 2)), (False, (2, 0)), (True, (2, 0))])
def test_groups_answer_their_own_rows(every_row: bool, order: tuple[int, int]) -> None:
    """Two tasks of one structure around one of another, in any order, and heads of other widths in each."""
    trunk = {"t": rand(4, 4)}
    groups = [
        ("h = MatMul(x, t) d = Tanh(h) y = MatMul(d, w)", {"w": [rand(4, 2), rand(4, 3)]}, order),
        ("h = MatMul(x, t) e = Mul(h, s) y = MatMul(e, w)", {"w": tasks_of(4, 5, count=1), "s": tasks_of(4, count=1)}, (1,)),
    ]
    models, templates = [], {}
    for index, (body, weights, numbers) in enumerate(groups):
        text = f"{HEAD} {{ {body} }}"
        templates.update({number: template(text, weights, trunk, place) for place, number in enumerate(numbers)})
        model = template(text, weights, trunk)
        RouteTasksPass(TASKS[: len(numbers)], weights, f"group{index}", "batch", numbers, 3, every_row)(model)
        models.append(model)
    joined = JoinGroupsPass(models[1:])(models[0]).model
    MergeRoutesPass("row_ids", every_row)(joined)
    # How many rows each group has, only the run would know.
    assert ("NonZero" in op_types(joined)) is not every_row
    check(joined, [templates[number] for number in range(3)], labels=5)


@pytest.mark.parametrize(
    ("body", "shape"), [("", ["batch", "sequence", 2, 2]), ("g = Reshape(f, flat) ", ["2*batch*sequence", 2])]
)
def test_a_group_without_rows_computes_none(body: str, shape: list[str | int]) -> None:
    """Neither [batch, sequence, 2, 2] nor merged axes say how many rows of features each row has."""
    text = f"""(float[batch, sequence, 4] x) => (float[batch, 2] y)
        <int64[4] four = {{0, 0, 2, 2}}, int64[2] flat = {{-1, 2}}, int64[2] axes = {{1, 2}}> {{
        f = Reshape(x, four) {body}m = MatMul({body[:1] or "f"}, w) n = Shape<end = 3>(f) l = Concat<axis = 0>(n, two)
        r = Reshape(m, l) y = ReduceMax<keepdims = 0>(r, axes) }}"""
    models = []
    for number in range(2):
        weights = {"w": tasks_of(2, 2, seed=number, count=2)}
        model = template(text, weights, {"two": np.array([2])})
        for value in (value for node in model.graph for value in node.outputs):
            known: dict[str, list[str | int]] = {"g": shape, "m": shape, "r": ["batch", "sequence", 2, 2]}
            if str(value.name) in known:
                value.shape = ir.Shape(known[str(value.name)])
        RouteTasksPass(TASKS[:2], weights, f"group{number}", "batch", (2 * number, 2 * number + 1), 4)(model)
        models.append(model)
    joined = JoinGroupsPass(models[1:])(models[0]).model
    MergeRoutesPass("row_ids")(joined)
    feeds = {"x": rand(2, 3, 4), "row_ids": np.array([1, 0]), "task_ids": np.array([3, 2])}
    (logits,) = compute(joined, feeds)
    single = [template(text, {"w": tasks_of(2, 2, seed=1, count=2)}, {"two": np.array([2])}, task) for task in (1, 0)]
    for found, row, each in zip(logits, (1, 0), single, strict=True):
        assert_close(found, compute(each, {"x": feeds["x"]})[0][row], 1e-5)
