"""Only the rows that are read."""

import numpy as np
import onnx_ir as ir
import pytest

from exporter.compile.passes import PushSlicesPass
from tests.helpers.pass_testing import parse, prove, rand

HEAD = "(float[batch, sequence, 4] x) => (float[batch, 4] y)"
WEIGHTS = {"w": rand(4, 4), "b": rand(4), "tall": rand(8, 4)}
SIZES = ({"batch": 1, "sequence": 3}, {"batch": 2, "sequence": 5}, {"batch": 3, "sequence": 2})


@pytest.mark.parametrize("index", ["int64 i = {0}", "int64 i = {1}", "int64 i = {-1}", "int64 i = {-2}", "int32 i = {0}"])
def test_computes_one_row_wherever_it_stands(index: str) -> None:
    text = f"{HEAD} <{index}> {{ h = MatMul(x, w) r = Relu(h) y = Gather<axis = 1>(r, i) }}"
    prove(PushSlicesPass(), text, "Slice MatMul Relu Squeeze", initializers=WEIGHTS, tolerance=1e-5, sizes=SIZES)


@pytest.mark.parametrize(
    ("body", "operators"),
    [
        ("h = Relu(x) r = Add(h, b)", "Slice Relu Add"),
        ("h = Relu(x) r = Add(h, x)", "Slice Relu Slice Add"),
        ("c = Cast<to = 9>(x) r = Where(c, x, b)", "Slice Cast Slice Where"),
        ("r = LayerNormalization(x, b, b)", "Slice LayerNormalization"),
        ("r = Softmax(x)", "Slice Softmax"),
        ("r = MatMul(x, w)", "Slice MatMul"),
        ("h = Transpose<perm = [1, 0, 2]>(x) g = Relu(h) r = Transpose<perm = [1, 0, 2]>(g)", "Slice Transpose Relu Transpose"),
        ("h = Reshape(x, heads) g = Relu(h) r = Reshape(g, flat)", "Slice Reshape Relu Reshape"),
        ("h = Relu(x) r = Reshape(h, minus)", "Slice Relu Reshape"),
        ("h = Relu(x) u = Unsqueeze(h, ends) g = Neg(u) r = Squeeze(g, ends)", "Slice Relu Unsqueeze Neg Squeeze"),
        ("h = Relu(x) g = Neg(x) c = Concat<axis = -1>(h, g) r = MatMul(c, tall)", "Slice Relu Slice Neg Concat MatMul"),
    ],
)
def test_moves_a_row_through(body: str, operators: str) -> None:
    constants = """<int64 i = {1}, int64[4] heads = {0, 0, 2, 2}, int64[3] flat = {0, 0, 4},
        int64[2] ends = {0, -1}, int64[3] minus = {-1, 0, 4}>"""
    text = f"{HEAD} {constants} {{ {body} y = Gather<axis = 1>(r, i) }}"
    prove(PushSlicesPass(), text, f"{operators} Squeeze", initializers=WEIGHTS, tolerance=1e-5, sizes=SIZES)


def test_computes_one_row_of_attention_and_all_of_k_and_v() -> None:
    text = f"""{HEAD} <int64 i = {{0}}> {{
        q = MatMul(x, w) k = MatMul(x, w2) v = Relu(x) t = Transpose<perm = [0, 2, 1]>(k) s = MatMul(q, t) p = Softmax(s)
        c = MatMul(p, v) r = Add(c, x) y = Gather<axis = 1>(r, i) }}"""
    operators = "Slice MatMul MatMul Relu Transpose MatMul Softmax MatMul Slice Add Squeeze"
    weights = {**WEIGHTS, "w2": rand(4, 4, seed=1)}
    prove(PushSlicesPass(), text, operators, initializers=weights, tolerance=1e-5, sizes=SIZES)


def test_computes_one_position_of_a_fusion() -> None:
    """Members are stacked and weighed at each position by itself, a batch of small products."""
    text = f"""{HEAD} <int64 i = {{0}}, int64[1] front = {{0}}, int64[1] third = {{2}}> {{
        a = Relu(x) e = Neg(x) ua = Unsqueeze(a, front) ub = Unsqueeze(e, front) s = Concat<axis = 0>(ua, ub)
        m = Transpose<perm = [1, 2, 0, 3]>(s) v = MatMul(m, w) q = Unsqueeze(x, third)
        t = Transpose<perm = [0, 1, 3, 2]>(m) n = MatMul(q, t) p = Softmax(n) c = MatMul(p, v) r = Squeeze(c, third)
        y = Gather<axis = 1>(r, i) }}"""
    operators = (
        "Slice Relu Slice Neg Unsqueeze Unsqueeze Concat Transpose MatMul Slice Unsqueeze Transpose MatMul Softmax MatMul "
        "Squeeze Squeeze"
    )
    prove(PushSlicesPass(), text, operators, initializers=WEIGHTS, tolerance=1e-5, sizes=SIZES)


def test_lets_several_readers_share_one_row() -> None:
    text = """(float[batch, sequence, 4] x) => (float[batch, 4] y, float[batch, 1, 4] z) <int64 i = {0}, int64[1] j = {0}> {
        h = Relu(x) y = Gather<axis = 1>(h, i) z = Gather<axis = -2>(h, j) }"""
    prove(PushSlicesPass(), text, "Slice Relu Squeeze")


@pytest.mark.parametrize(
    "body",
    [
        "h = Relu(x) g = Gather<axis = 1>(h, i) p = Slice(h, one, last, one) q = ReduceSum<keepdims = 0>(p, one) y = Add(g, q)",
        "h = Relu(x) g = Gather<axis = 1>(h, i) p = ReduceSum<keepdims = 0>(h, one) y = Add(g, p)",  # all rows
        "h = Softmax<axis = 1>(x) y = Gather<axis = 1>(h, i)",
        "h = LayerNormalization<axis = 1>(x, lone) y = Gather<axis = 1>(h, i)",
        "h = CumSum(x, ax) y = Gather<axis = 1>(h, i)",
        "h = Concat<axis = 1>(x, x) y = Gather<axis = 1>(h, i)",
        "h = Relu(x) g = Gather<axis = 1>(h, twice) y = ReduceSum<keepdims = 0>(g, one)",
        "h = Relu(x) g = Gather<axis = 1>(h, ends) y = ReduceSum<keepdims = 0>(g, one)",  # may be one row
        "h = Relu(x) g = Slice(h, last, zero, one, down) y = ReduceSum<keepdims = 0>(g, one)",  # upside down
        "y = Gather<axis = 1>(x, i)",
    ],
)
def test_computes_all_rows_that_someone_reads(body: str) -> None:
    constants = """<int64 i = {0}, int64 j = {1}, int64[1] one = {1}, int64 ax = {1}, int64[2] twice = {1, 1},
        int64[2] ends = {0, -1},
        int64[1] last = {9223372036854775807}, int64[1] zero = {0}, int64[1] down = {-1}, float lone = {1}>"""
    prove(PushSlicesPass(), f"{HEAD} {constants} {{ {body} }}", None)


def test_leaves_a_value_whole_that_is_an_output() -> None:
    text = """(float[batch, sequence, 4] x) => (float[batch, 4] y, float[batch, sequence, 4] h) <int64 i = {0}> {
        h = Relu(x) y = Gather<axis = 1>(h, i) }"""
    prove(PushSlicesPass(), text, None)


def test_leaves_the_batch_to_the_caller() -> None:
    text = "(float[batch, 4] x) => (float[4] y) <int64 i = {0}> { h = Relu(x) y = Gather<axis = 0>(h, i) }"
    prove(PushSlicesPass(), text, None)


@pytest.mark.parametrize(
    ("read", "operators"),
    [
        ("y = Slice(h, one, last, one)", "Slice MatMul"),  # the patches of an image, without [CLS]
        ("y = Slice(h, back, last, one)", "Slice MatMul"),
        ("y = Slice(h, zero, last, one, two)", "Slice MatMul"),
        ("y = Gather<axis = 1>(h, two_of)", "Slice MatMul"),
        ("y = Gather<axis = 1>(h, apart)", "Gather MatMul"),
        (
            "a = Gather<axis = 1>(h, one) c = Gather<axis = 1>(h, zero) y = Concat<axis = 1>(a, c)",
            "Slice MatMul Slice Slice Concat",
        ),
        ("a = Gather<axis = 1>(h, apart) c = Gather<axis = 1>(h, one) y = Add(a, c)", "Slice MatMul Gather Slice Add"),
    ],
)
def test_computes_several_rows(read: str, operators: str) -> None:
    constants = """<int64[1] zero = {0}, int64[1] one = {1}, int64[1] two = {2}, int64[1] back = {-2}, int64[2] two_of = {1, 2},
        int64[2] apart = {0, 2}, int64[1] last = {9223372036854775807}>"""
    text = f"(float[batch, sequence, 4] x) => (float[batch, rows, 4] y) {constants} {{ h = MatMul(x, w) {read} }}"
    sizes = ({"batch": 2, "sequence": 3}, {"batch": 1, "sequence": 5})
    prove(PushSlicesPass(), text, operators, initializers=WEIGHTS, tolerance=1e-5, sizes=sizes, idempotent="c =" not in read)


def test_computes_the_columns_that_are_read() -> None:
    text = """(float[batch, sequence, 4] x) => (float[batch, sequence, 2] y) <int64[2] i = {0, 2}> {
        h = MatMul(x, w) g = Add(h, b) y = Gather<axis = -1>(g, i) }"""
    prove(PushSlicesPass(), text, "Gather MatMul Gather Add", initializers=WEIGHTS, tolerance=1e-5)


_ENDS = "f = Cast<to = 1>(m) p = ArgMax<axis = 1, keepdims = 0>(f)"
_ATTENTION = """q = MatMul(x, w) g = Reshape(q, heads) qh = Transpose<perm = [0, 2, 1, 3]>(g) k = Reshape(x, heads)
    kh = Transpose<perm = [0, 2, 3, 1]>(k) s = MatMul(qh, kh) t = Add(s, mask) a = Softmax(t)
    vh = Transpose<perm = [0, 2, 1, 3]>(k)
    c = MatMul(a, vh) j = Transpose<perm = [0, 2, 1, 3]>(c) h = Reshape(j, flat)"""


_MASKS = {
    "batch, 1, 1, sequence": "",
    "1, 1, sequence, sequence": "Gather Transpose",
    "2, sequence, sequence": "Gather Transpose Unsqueeze",
    "batch, 2, sequence, sequence": "Transpose Unsqueeze GatherND Transpose",
}


@pytest.mark.parametrize(("mask", "taken"), _MASKS.items())
@pytest.mark.parametrize(
    "read",
    [
        "u = Unsqueeze(p, ends) e = Expand(u, wide) r = GatherElements<axis = 1>(h, e) y = Squeeze(r, one)",
        """n = Shape<start = 0, end = 1>(x) z = Squeeze(n) d = Range(none, z, step) du = Unsqueeze(d, last)
        pu = Unsqueeze(p, last)
        pairs = Concat<axis = 1>(du, pu) y = GatherND(h, pairs)""",
    ],
)
def test_computes_the_row_where_each_text_ends(mask: str, taken: str, read: str) -> None:
    constants = """<int64[4] heads = {0, 0, 2, 2}, int64[3] flat = {0, 0, 4}, int64[2] ends = {1, 2}, int64[3] wide = {1, 1, 4},
        int64[1] one = {1}, int64[1] last = {-1}, int64 none = {0}, int64 step = {1}, int64[batch] d, int64[batch, 2] pairs>"""
    text = f"""(float[batch, sequence, 4] x, int64[batch, sequence] m, float[{mask}] mask) => (float[batch, 4] y) {constants} {{
        {_ATTENTION} {_ENDS} {read} }}"""
    operators = f"""Cast ArgMax Unsqueeze GatherND MatMul Reshape Transpose Reshape Transpose MatMul {taken} Add Softmax
        Transpose MatMul Transpose Reshape Squeeze"""
    prove(PushSlicesPass(), text, operators, initializers=WEIGHTS, tolerance=1e-5)


def test_computes_one_row_that_the_caller_chooses() -> None:
    text = "(float[batch, sequence, 4] x, int64 i) => (float[batch, 4] y) { h = MatMul(x, w) y = Gather<axis = 1>(h, i) }"
    prove(PushSlicesPass(), text, "Unsqueeze Gather MatMul Squeeze", initializers=WEIGHTS, tolerance=1e-5, sizes=SIZES[:2])


@pytest.mark.parametrize(
    "read",
    [
        "y = Gather<axis = 1>(h, several)",  # their number is unknown
        "f = ReduceMean<keepdims = 0>(h, last) p = ArgMax<axis = 1>(f) y = Gather<axis = 1>(h, p)",  # a table
        """f = ReduceMean<keepdims = 0>(h, last) p = ArgMax<axis = 1, keepdims = 0>(f) u = Unsqueeze(p, ends)
        e = Expand(u, wide) y = GatherElements<axis = 1>(h, e)""",  # depends on what it reads
    ],
)
def test_leaves_alone_what_only_the_run_knows(read: str) -> None:
    constants = "<int64[1] last = {-1}, int64[2] ends = {1, 2}, int64[3] wide = {1, 1, 4}>"
    text = f"(float[batch, sequence, 4] x, int64[n] several) => (float[batch, rows, 4] y) {constants} {{ h = Relu(x) {read} }}"
    text = text.replace("[batch, rows, 4] y", "[batch, rows, d, 4] y") if "p)" in read else text
    prove(PushSlicesPass(), text, None)


def test_leaves_a_broadcast_axis_of_an_operand_whole() -> None:
    text = """(float[batch, sequence, 4] x, float[batch, 1, 4] m) => (float[batch, 4] y) <int64 i = {1}> {
        h = Relu(x) n = Neg(m) a = Add(h, n) y = Gather<axis = 1>(a, i) }"""
    prove(PushSlicesPass(), text, "Slice Relu Neg Add Squeeze", sizes=SIZES)


def test_takes_the_right_axis_of_a_matrix_times_a_vector() -> None:
    text = """(float[batch, 3, sequence, 4] x) => (float[batch, sequence] y) <int64 i = {1}> {
        h = MatMul(x, b) y = Gather<axis = 1>(h, i) }"""
    prove(PushSlicesPass(), text, None, initializers=WEIGHTS)


def test_refuses_subgraphs_which_could_read_a_value_whole() -> None:
    branch = "g () => (float[batch, sequence, 4] {0}) {{ {0} = {1}(h) }}"
    text = f"""(float[batch, sequence, 4] x, bool c) => (float[batch, 4] y, float[batch, sequence, 4] z) <int64 i = {{0}}> {{
        h = Relu(x) y = Gather<axis = 1>(h, i)
        z = If(c) <then_branch = {branch.format("u", "Neg")}, else_branch = {branch.format("v", "Abs")}> }}"""
    with pytest.raises(ir.passes.PreconditionError, match="expected a graph without control flow, found If"):
        PushSlicesPass()(parse(text))


def test_cuts_a_row_once() -> None:
    text = f"{HEAD} <int64 i = {{1}}> {{ h = MatMul(x, w) y = Gather<axis = 1>(h, i) }}"
    prove(PushSlicesPass(), text, "Slice MatMul Squeeze", initializers=WEIGHTS, tolerance=1e-5, sizes=SIZES)


def test_leaves_whole_what_a_squeeze_without_axes_reads() -> None:
    """Of a single row, it would remove that axis as well."""
    body = "u = Unsqueeze(x, i) h = Relu(u) s = Squeeze(h) g = Neg(s) a = Slice(g, zero, i, i) y = Squeeze(a, i)"
    text = f"{HEAD} <int64[1] zero = {{0}}, int64[1] i = {{1}}, float[batch, sequence, 4] s> {{ {body} }}"
    prove(PushSlicesPass(), text, "Unsqueeze Relu Squeeze Slice Neg Squeeze", sizes=SIZES[1:])


def test_leaves_the_broadcast_axis_of_an_einsum_whole() -> None:
    text = f"""{HEAD} <int64 i = {{1}}> {{ h = Relu(x) o = ReduceMax<keepdims = 1>(x, axis)
        e = Einsum<equation = "bsd,bsd->bsd">(h, o) y = Gather<axis = 1>(e, i) }}"""
    weights = {"axis": np.array([1])}
    prove(PushSlicesPass(), text, "Slice Relu ReduceMax Einsum Squeeze", initializers=weights, sizes=SIZES)
