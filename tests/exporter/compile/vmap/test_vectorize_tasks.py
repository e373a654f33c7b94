"""All tasks as one batch: each output must be what the template computes with that task's weights."""

from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir
import pytest

from exporter.compile.vmap.vectorize_tasks import VectorizeTasksPass
from tests.helpers.pass_testing import (
    Sizes,
    Weights,
    assert_close,
    check_valid,
    compute,
    op_types,
    parse,
    rand,
    random_feeds,
    serialize,
    tasks_of,
    template,
)

TASKS = ("first", "second", "third")
SIZES = ({"batch": 1, "sequence": 3}, {"batch": 2, "sequence": 5}, {"batch": 5, "sequence": 1}, {"batch": 3, "sequence": 3})

HEAD = "(float[batch, sequence, 4] x) => (float[batch, sequence, 4] y)"


def vectorize(
    text: str,
    weights: Weights,
    operators: str | None = None,
    *,
    trunk: Mapping[str, np.ndarray] | None = None,
    tasks: Sequence[str] = TASKS,
    shapes: Mapping[str, list[str | int]] | None = None,
    tolerance: float = 1e-5,
    sizes: Sequence[Sizes] = SIZES,
) -> ir.Model:
    """Compares the vectorized template with one run of the template per task, at every size.

    Args:
        text: the template.
        weights: the task weights.
        operators: the operators to find, in order, but for the Identity of each task; None asks for none in particular.
        trunk: the other weights.
        tasks: the names of the tasks.
        shapes: shapes of inner values that ONNX's inference cannot express, such as "batch*sequence".
        tolerance: as in `prove`.
        sizes: the batch and sequence sizes at which numbers are compared.
    """
    model = template(text, weights, trunk or {})
    for node in model.graph:
        for value in node.outputs:
            if str(value.name) in (shapes or {}):
                value.shape = ir.Shape((shapes or {})[str(value.name)])
    model = VectorizeTasksPass(tasks, weights, "group", "batch")(model).model
    assert [value.name for value in model.graph.outputs] == list(tasks)
    if operators is not None:
        assert [op for op in op_types(model) if op != "Identity"] == operators.split()
    check_valid(model)
    for size in sizes:
        feeds = random_feeds(model, size)
        for task, found in enumerate(compute(model, feeds)):
            (expected,) = compute(template(text, weights, trunk or {}, task), feeds)
            assert_close(found, expected, tolerance)
    return model


ADAPTER = f"{HEAD} {{ h = Tanh(x) d = MatMul(h, down) e = Add(d, b) r = Relu(e) u = MatMul(r, up) y = Add(u, h) }}"
ADAPTER_WEIGHTS = {"down": tasks_of(4, 2), "b": tasks_of(2), "up": tasks_of(2, 4, seed=1)}


def test_runs_an_adapter_for_all_tasks_at_once() -> None:
    vectorize(ADAPTER, ADAPTER_WEIGHTS, "Tanh Tile Reshape MatMul Add Relu MatMul Add Shape Concat Reshape Split")


def test_normalizes_with_the_weights_of_each_task() -> None:
    text = f"{HEAD} {{ y = LayerNormalization<epsilon = 0.1>(x, s, b) }}"
    vectorize(
        text, {"s": tasks_of(4), "b": tasks_of(4, seed=1)}, "Tile Reshape LayerNormalization Mul Add Shape Concat Reshape Split"
    )


@pytest.mark.parametrize(
    ("operator", "weights"),
    [
        ("LayerNormalization<axis = 2>(x, w)", {"w": tasks_of(4)}),
        ("Mul(x, w)", {"w": tasks_of(4)}),  # per channel
        ("Mul(w, x)", {"w": tasks_of(1, 1, 4)}),
        ("Sub(w, x)", {"w": tasks_of(4)}),
        ("Div(x, w)", {"w": tasks_of()}),  # a scalar
        ("Add(x, w)", {"w": tasks_of(1)}),
        ("Max(x, w)", {"w": tasks_of(4)}),
        ("MatMul(x, w)", {"w": tasks_of(4, 4)}),
    ],
)
def test_has_a_rule_for(operator: str, weights: Weights) -> None:
    model = vectorize(f"{HEAD} {{ y = {operator} }}", weights)
    assert len([op for op in op_types(model) if op == operator.split("(")[0].split("<")[0]]) == 1


def test_runs_a_gemm_head_for_all_tasks_at_once() -> None:
    text = "(float[batch, 4] x) => (float[batch, 2] y) { h = Relu(x) y = Gemm<transB = 1>(h, w, b) }"
    vectorize(text, {"w": tasks_of(2, 4), "b": tasks_of(2)}, "Relu Tile Reshape MatMul Add Reshape Split")


@pytest.mark.parametrize(
    ("operator", "weights"),
    [
        ("Gemm<alpha = 0.5, transB = 1>(x, w, b)", {"w": tasks_of(2, 4), "b": tasks_of(2)}),
        ("Gemm<transB = 1>(x, w, c)", {"w": tasks_of(2, 4)}),  # the bias belongs to the trunk
        ("Gemm<transB = 1>(x, v, b)", {"b": tasks_of(2)}),  # the weight does
        ("Gemm<transB = 1>(x, w)", {"w": tasks_of(2, 4)}),
        ('Einsum<equation = "bi,oi->bo">(x, w)', {"w": tasks_of(2, 4)}),
    ],
)
def test_splits_or_not_a_head_is_right(operator: str, weights: Weights) -> None:
    text = f"(float[batch, 4] x) => (float[batch, 2] y) {{ y = {operator} }}"
    vectorize(text, weights, trunk={"c": rand(2), "v": rand(2, 4)})


@pytest.mark.parametrize(
    ("body", "weights"),
    [
        ("t = Transpose<perm = [1, 0]>(w) y = MatMul(x, t)", {"w": tasks_of(4, 4)}),
        ("p = MatMul(w, v) y = MatMul(x, p)", {"w": tasks_of(4, 2), "v": tasks_of(2, 4, seed=1)}),
        ("p = Mul(w, c) y = Mul(x, p)", {"w": tasks_of(4)}),
    ],
)
def test_evaluates_what_depends_only_on_weights(body: str, weights: Weights) -> None:
    last = body.split("y = ")[1].split("(")[0]
    vectorize(f"{HEAD} {{ {body} }}", weights, f"Tile Reshape {last} Shape Concat Reshape Split", trunk={"c": rand(4)})


def test_answers_with_a_weight_where_the_output_is_one() -> None:
    vectorize("(float[batch, 4] x) => (float[2, 4] y) { y = Transpose<perm = [1, 0]>(w) }", {"w": tasks_of(4, 2)}, "")


@pytest.mark.parametrize("tail", ["y = Gemm<transB = 1>(h, w, b)", "g = Gemm<transB = 1>(h, w, b) y = Sigmoid(g)"])
def test_lets_heads_have_different_label_counts(tail: str) -> None:
    weights = {"w": [rand(2, 4), rand(5, 4), rand(1, 4)], "b": [rand(2), rand(5), rand(1)]}
    model = vectorize(f"(float[batch, 4] x) => (float[batch, labels] y) {{ h = Relu(x) {tail} }}", weights)
    assert [value.shape[1] for value in model.graph.outputs if value.shape is not None] == [2, 5, 1]


@pytest.mark.parametrize(
    "body",
    [
        "g = MatMul(x, w) y = Softmax(g)",
        "g = MatMul(x, w) y = Concat<axis = 1>(g, x)",
        "t = Transpose<perm = [1, 0]>(w) u = Unsqueeze(x, i) m = MatMul(t, u) y = Squeeze(m, i)",
        "g = MatMul(x, w) p = PRelu(x, s) h = MatMul(p, one) y = Mul(h, g)",
    ],
)
def test_different_label_counts_may_end_in_any_operator(body: str) -> None:
    weights = {"w": [rand(4, 2), rand(4, 5), rand(4, 3)], "s": tasks_of(4), "one": tasks_of(4, 1)}
    text = f"(float[batch, 4] x) => (float[batch, labels] y) <int64[1] i = {{2}}> {{ {body} }}"
    vectorize(text, weights)


def test_puts_a_prefix_of_each_task_before_the_sequence() -> None:
    text = """(float[batch, sequence, 4] x) => (float[batch, longer, 4] y) <int64[2] ones = {1, 1}, int64[1] i = {0}> {
        s = Shape(x) b = Gather(s, i) t = Concat<axis = 0>(b, ones) e = Expand(p, t) q = Concat<axis = 1>(e, x)
        y = MatMul(q, w) }"""
    vectorize(text, {"p": tasks_of(1, 2, 4), "w": tasks_of(4, 4)})


@pytest.mark.parametrize(
    ("text", "weights"),
    [
        ("(int64[batch, sequence] x) => (float[batch, sequence, 4] y) { y = Gather(w, x) }", {"w": tasks_of(3, 4)}),
        ("(float[batch, 4, sequence] x) => (float[batch, 2, sequence] y) { y = Conv(x, w) }", {"w": tasks_of(2, 4, 1)}),
        (f'{HEAD} {{ n = Neg(x) e = Einsum<equation = "bsi,io->bso">(n, w) y = Add(e, n) }}', {"w": tasks_of(4, 4)}),
        (f"{HEAD} {{ m = MatMul(x, w) p = PRelu(m, s) y = MatMul(p, w) }}", {"w": tasks_of(4, 4), "s": tasks_of(4, seed=2)}),
        (f"{HEAD} {{ c = Cast<to = 9>(x) y = Where(c, x, w) }}", {"w": tasks_of(4)}),
    ],
)
def test_splits_where_there_is_no_rule(text: str, weights: Weights) -> None:
    vectorize(text, weights)


def test_attends_inside_the_branch() -> None:
    text = """(float[batch, sequence, 4] x, int64[batch, sequence] m) => (float[batch, sequence, 4] y)
        <int64[4] heads = {0, 0, 2, 2}, int64[3] flat = {0, 0, 4}, int64[2] axes = {1, 2}, float low = {-9},
        float zero = {0}> {
        q = MatMul(x, w) a = Reshape(q, heads) b = Transpose<perm = [0, 2, 1, 3]>(a) c = Transpose<perm = [0, 2, 3, 1]>(a)
        s = MatMul(b, c) k = Cast<to = 9>(m) l = Unsqueeze(k, axes) f = Where(l, zero, low) g = Add(s, f) p = Softmax(g)
        o = MatMul(p, b) t = Transpose<perm = [0, 2, 1, 3]>(o) u = Reshape(t, flat) y = MatMul(u, v) }"""
    model = vectorize(text, {"w": tasks_of(4, 4), "v": tasks_of(4, 4, seed=1)})
    assert op_types(model).count("Softmax") == 1
    assert op_types(model).count("Tile") == 2  # x and the mask


def test_tiles_a_mask_that_enters_through_where() -> None:
    text = """(float[batch, sequence, 4] x, bool[batch, sequence, 1] m) => (float[batch, sequence, 4] y) <float k = {7}> {
        n = Not(m) h = MatMul(x, w) y = Where(n, h, k) }"""
    vectorize(text, {"w": tasks_of(4, 4)}, "Not Tile Reshape MatMul Tile Shape Concat Reshape Where Split")


def test_derives_shape_arithmetic_from_tasks_times_batch() -> None:
    text = """(float[batch, sequence, 4] x) => (float[batch, sequence, 2, 2] y) {
        i = Constant<value_ints = [0]>() j = Constant<value_ints = [1]>() two = Constant<value_ints = [2]>()
        s = Shape(x) b = Gather(s, i) t = Gather(s, j) target = Concat<axis = 0>(b, t, two, two)
        h = MatMul(x, w) y = Reshape(h, target) }"""
    vectorize(text, {"w": tasks_of(4, 4)})


def test_reads_the_shape_of_a_branch_value() -> None:
    text = f"{HEAD} {{ h = MatMul(x, w) s = Shape(h) e = Expand(c, s) y = Mul(h, e) }}"
    vectorize(text, {"w": tasks_of(4, 4)}, trunk={"c": rand(4)})


def test_picks_one_position_of_each_row_by_its_number() -> None:
    text = """(float[batch, sequence, 4] x) => (float[batch, 4] y) <int64 zero = {0}, int64 one = {1}, int64[1] last = {1}> {
        s = Shape(x) n = Gather(s, zero) r = Range(zero, n, one) c = Mul(r, zero) a = Unsqueeze(r, last) d = Unsqueeze(c, last)
        i = Concat<axis = 1>(a, d) h = MatMul(x, w) y = GatherND(h, i) }"""
    shapes: dict[str, list[str | int]] = {
        "r": ["batch"],
        "c": ["batch"],
        "a": ["batch", 1],
        "d": ["batch", 1],
        "i": ["batch", 2],
    }
    vectorize(text, {"w": tasks_of(4, 4)}, shapes=shapes)


@pytest.mark.parametrize("operator", ["Add(h, t)", "Mul(t, h)"])
def test_broadcasts_a_trunk_value_with_a_leading_one(operator: str) -> None:
    text = f"""(float[batch, sequence, 4] x, float[1, sequence, 4] p) => (float[batch, sequence, 4] y) {{
        t = Tanh(p) h = MatMul(x, w) y = {operator} }}"""
    assert "Tile" in op_types(vectorize(text, {"w": tasks_of(4, 4)}))


def test_multiplies_a_trunk_value_with_a_leading_one_per_task() -> None:
    text = """(float[batch, sequence, 4] x, float[1, sequence, 4] p) => (float[batch, sequence, 4] y) {
        h = MatMul(p, w) y = Add(x, h) }"""
    vectorize(text, {"w": tasks_of(4, 4)})


def test_gives_every_task_the_trunk_where_no_weight_is_read() -> None:
    vectorize(f"{HEAD} {{ y = Relu(x) }}", {"w": tasks_of(4)}, "Relu")


def test_leaves_the_trunk_untouched() -> None:
    model = template(ADAPTER, ADAPTER_WEIGHTS, {})
    tanh, before = model.graph[0], str(model.graph[0])
    VectorizeTasksPass(TASKS, ADAPTER_WEIGHTS, "group", "batch")(model)
    assert model.graph[0] is tanh
    assert str(tanh) == before
    assert all(str(value.name).startswith("group/") for node in list(model.graph)[1:-3] for value in node.outputs)


def test_needs_no_more_nodes_for_more_tasks() -> None:
    def nodes(count: int) -> int:
        weights = {"down": tasks_of(4, 2, count=count), "b": tasks_of(2, count=count), "up": tasks_of(2, 4, count=count)}
        names = [f"t{task}" for task in range(count)]
        return len(vectorize(ADAPTER, weights, tasks=names).graph) - count

    assert nodes(2) == nodes(24)


def test_stacks_the_weights_and_drops_the_template_s() -> None:
    model = vectorize(ADAPTER, ADAPTER_WEIGHTS)
    shapes = {name: value.shape for name, value in model.graph.initializers.items()}
    assert shapes["group/down"] == (3, 4, 2)
    assert shapes["group/b"] == (3, 1, 2)
    assert not {"down", "b", "up"} & set(shapes)


def test_keeps_the_template_of_a_single_task() -> None:
    weights = {name: arrays[:1] for name, arrays in ADAPTER_WEIGHTS.items()}
    model = vectorize(ADAPTER, weights, "Tanh MatMul Add Relu MatMul Add", tasks=["only"])
    assert "group/down" in model.graph.initializers


def test_writes_the_same_bytes_twice() -> None:
    assert serialize(vectorize(ADAPTER, ADAPTER_WEIGHTS)) == serialize(vectorize(ADAPTER, ADAPTER_WEIGHTS))


@pytest.mark.parametrize("name", ["down", "b"])
def test_refuses_another_number_of_weights_than_tasks(name: str) -> None:
    weights = {**ADAPTER_WEIGHTS, name: ADAPTER_WEIGHTS[name][:2]}
    with pytest.raises(ir.passes.PreconditionError, match=f"expected 3 arrays for {name}"):
        VectorizeTasksPass(TASKS, weights, "group", "batch")(template(ADAPTER, ADAPTER_WEIGHTS, {}))


@pytest.mark.parametrize("tasks", [TASKS, ("only",)])
def test_gives_each_task_all_outputs_of_the_template(tasks: Sequence[str]) -> None:
    text = "(float[batch, 4] x) => (float[batch, 4] y, float[batch, 4] z) { y = Mul(x, w) z = Relu(x) }"
    weights = {"w": tasks_of(4, count=len(tasks))}
    model = VectorizeTasksPass(tasks, weights, "group", "batch")(parse(text, {"w": weights["w"][0]})).model
    assert [value.name for value in model.graph.outputs] == [f"{task}.{field}" for task in tasks for field in "yz"]
    check_valid(model)
    feeds = random_feeds(model, {"batch": 3})
    for number, found in enumerate(compute(model, feeds)):
        expected = feeds["x"] * weights["w"][number // 2] if number % 2 == 0 else np.maximum(feeds["x"], 0)
        assert_close(found, expected, 1e-6)


def test_splits_before_a_reshape_whose_result_is_unknown() -> None:
    text = """(float[batch, sequence, 4] x) => (float[rows, 4] y) <int64[2] t = {-1, 4}> {
        h = MatMul(x, w) y = Reshape(h, t) }"""
    vectorize(text, {"w": tasks_of(4, 4)})


def test_merges_batch_and_sequence() -> None:
    text = """(float[batch, sequence, 4] x) => (float[rows, 4] y) <int64[2] t = {-1, 4}> {
        h = MatMul(x, w) r = Reshape(h, t) y = MatMul(r, w) }"""
    vectorize(text, {"w": tasks_of(4, 4)}, shapes={"r": ["batch*sequence", 4], "y": ["batch*sequence", 4]})


# Where the numbers would be wrong without a sound.


@pytest.mark.parametrize("operator", ["Max(x, w, z)", "Max(x, w, v)", "Min(x, c, w)"])
def test_reads_every_operand_of_a_maximum(operator: str) -> None:
    text = f"(float[batch, sequence, 4] x, float[batch, sequence, 4] z) => (float[batch, sequence, 4] y) {{ y = {operator} }}"
    vectorize(text, {"w": tasks_of(4), "v": tasks_of(4, seed=1)}, trunk={"c": rand(4, seed=9)})


@pytest.mark.parametrize("operator", ["ReduceMax(h, i)", "Softmax<axis = 0>(h)", "CumSum(h, z)"])
def test_keeps_the_tasks_apart_where_rows_of_the_batch_meet(operator: str) -> None:
    text = f"{HEAD} <int64[1] i = {{0}}, int64 z = {{0}}> {{ h = MatMul(x, w) g = {operator} y = Mul(g, x) }}"
    vectorize(text, {"w": tasks_of(4, 4)})


def test_keeps_the_tasks_apart_where_the_sequence_is_outermost() -> None:
    text = """(float[batch, sequence, 4] x) => (float[sequence, batch, 4] y) <int64[2] t = {-1, 4}> {
        h = MatMul(x, w) u = Transpose<perm = [1, 0, 2]>(h) r = Reshape(u, t) v = MatMul(r, w) s = Shape(u)
        y = Reshape(v, s) }"""
    vectorize(text, {"w": tasks_of(4, 4)}, shapes={"r": ["batch*sequence", 4], "v": ["batch*sequence", 4]})


def test_adds_the_axis_of_a_scalar_of_higher_rank() -> None:
    text = "(float[batch, 4] x) => (float[1, batch, 4] y) <float[1, 1, 1] k = {2}> { h = MatMul(x, w) y = Mul(h, k) }"
    vectorize(text, {"w": tasks_of(4, 4)})


def test_scales_by_a_scalar_of_rank_four() -> None:
    text = """(float[batch, 2, sequence, 4] x) => (float[batch, 2, sequence, 4] y) <float[1, 1, 1, 1] k = {2}> {
        h = MatMul(x, w) y = Mul(h, k) }"""
    vectorize(text, {"w": tasks_of(4, 4)})


def test_refuses_a_weight_that_a_subgraph_reads() -> None:
    branch = "g () => (float[batch, sequence, 4] {0}) {{ {0} = {1}(x, w) }}"
    text = f"""(float[batch, sequence, 4] x, bool c) => (float[batch, sequence, 4] y) {{
        y = If(c) <then_branch = {branch.format("u", "Add")}, else_branch = {branch.format("v", "Sub")}> }}"""
    with pytest.raises(ir.passes.PreconditionError):
        VectorizeTasksPass(TASKS, {"w": tasks_of(4)}, "group", "batch")(parse(text, {"w": rand(4)}))


def test_gathers_from_trunk_constants_by_branch_values() -> None:
    text = """(float[batch, sequence, 4] x) => (float[batch, sequence, 3] y) {
        h = MatMul(x, w) i = ArgMax<axis = 2, keepdims = 0>(h) y = Gather(table, i) }"""
    vectorize(text, {"w": tasks_of(4, 4)}, trunk={"table": rand(4, 3)})


def test_splits_one_branch_value_into_parts() -> None:
    text = f"{HEAD} {{ h = MatMul(x, w) a, b = Split<axis = 2, num_outputs = 2>(h) y = Concat<axis = 2>(b, a) }}"
    vectorize(text, {"w": tasks_of(4, 4)})


def test_adds_a_value_to_itself() -> None:
    vectorize(f"{HEAD} {{ h = MatMul(x, w) d = Add(h, h) y = Mul(d, v) }}", {"w": tasks_of(4, 4), "v": tasks_of(4)})


def test_squares_a_task_weight() -> None:
    vectorize(f"{HEAD} {{ d = Mul(w, w) y = Mul(d, x) }}", {"w": tasks_of(4)})


def test_passes_a_missing_optional_input_on() -> None:
    vectorize(f"{HEAD} <float high = {{0.5}}> {{ h = MatMul(x, w) y = Clip(h, , high) }}", {"w": tasks_of(4, 4)})


def test_keeps_the_attributes_of_an_operator_with_a_task_weight() -> None:
    vectorize(f"{HEAD} {{ y = Mod<fmod = 1>(x, w) }}", {"w": tasks_of(4)}, "Tile Reshape Mod Shape Concat Reshape Split")


@pytest.mark.parametrize("own", ["w", "b"])
@pytest.mark.parametrize("operator", ["LayerNormalization(x, w, b)", "Gemm<transB = 1>(x, w, b)"])
def test_stacks_one_weight_next_to_one_of_the_trunk(operator: str, own: str) -> None:
    shapes = {"w": (4, 4) if operator.startswith("Gemm") else (4,), "b": (4,)}
    model = vectorize(
        f"(float[batch, 4] x) => (float[batch, 4] y) {{ y = {operator} }}",
        {own: tasks_of(*shapes[own])},
        trunk={name: rand(*shape, seed=9) for name, shape in shapes.items() if name != own},
    )
    assert op_types(model).count(operator[:4] if operator.startswith("Layer") else "MatMul") <= 1


def test_runs_half_precision() -> None:
    text = "(float16[batch, 4] x) => (float16[batch, 2] y) { h = Relu(x) y = Gemm<transB = 1>(h, w, b) }"
    weights = {"w": [a.astype(np.float16) for a in tasks_of(2, 4)], "b": [a.astype(np.float16) for a in tasks_of(2)]}
    vectorize(text, weights, tolerance=4e-3)


def test_adds_outer_rows_of_two_branch_values() -> None:
    text = """(float[batch, sequence, 4] x) => (float[batch, sequence, sequence, 4] y) <int64[1] i = {1}, int64[1] j = {2}> {
        h = MatMul(x, w) a = Unsqueeze(h, i) b = Unsqueeze(h, j) y = Add(a, b) }"""
    vectorize(text, {"w": tasks_of(4, 4)})


@pytest.mark.parametrize("name", ["h", "c"])
def test_lets_a_task_have_the_name_of_a_trunk_value(name: str) -> None:
    text = f"{HEAD} {{ h = Mul(x, c) d = MatMul(h, w) y = Add(d, h) }}"
    vectorize(text, {"w": tasks_of(4, 4)}, trunk={"c": rand(4)}, tasks=["first", name, "third"])


@pytest.mark.parametrize("tasks", [("first", "x", "third"), ("first", "second", "first")])
def test_refuses_the_name_of_an_input_or_of_another_task(tasks: tuple[str, ...]) -> None:
    model = parse(f"{HEAD} {{ y = Mul(x, w) }}", {"w": rand(4)})
    with pytest.raises(ir.passes.PreconditionError):
        VectorizeTasksPass(tasks, {"w": tasks_of(4)}, "group", "batch")(model)


def test_refuses_weights_of_another_type() -> None:
    model = parse(f"{HEAD} {{ y = Mul(x, w) }}", {"w": rand(4)})
    with pytest.raises(ir.passes.PreconditionError):
        VectorizeTasksPass(TASKS, {"w": [a.astype(np.float64) for a in tasks_of(4)]}, "group", "batch")(model)


def test_a_trunk_value_read_first_by_a_task_stays_in_the_trunk() -> None:
    text = """(float[batch, sequence, 4] x) => (float[batch, sequence, 4] y) {
        h = Relu(x) a = MatMul(h, w) t = Tanh(h) u = Sigmoid(t) y = Add(a, u) }"""
    model = parse(text, {"w": rand(4, 4)})
    VectorizeTasksPass(TASKS, {"w": tasks_of(4, 4)}, "group", "batch")(model)
    trunk = [node.op_type for node in model.graph if not str(node.outputs[0].name).startswith(("group/", *TASKS))]
    assert trunk == ["Relu", "Tanh", "Sigmoid"]


def test_splits_a_product_whose_axes_have_unknown_names() -> None:
    vectorize(f"{HEAD} {{ h = MatMul(x, w) y = Relu(h) }}", {"w": tasks_of(4, 4)}, shapes={"h": ["batch", "other", 4]})
