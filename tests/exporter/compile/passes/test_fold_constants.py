"""Constants that are known at export time."""

import pytest

from exporter.compile.passes import FoldConstantsPass
from tests.helpers.pass_testing import op_types, parse, prove, rand

HEAD = "(float[batch, 4] x) => (float[batch, 4] y)"
WEIGHTS = {"w": rand(4), "v": rand(4, seed=1)}


def test_computes_what_reads_only_constants() -> None:
    prove(FoldConstantsPass(), f"{HEAD} {{ s = Add(w, v) t = Mul(s, w) y = Add(x, t) }}", "Add", initializers=WEIGHTS)


def test_follows_symbolic_shapes() -> None:
    text = """(float[batch, sequence, 4] x) => (float[1] y) {
        i = Constant<value_ints = [2]>() s = Shape(x) d = Gather<axis = 0>(s, i) f = Cast<to = 1>(d) y = Neg(f) }"""
    model = parse(text)
    FoldConstantsPass()(model)
    assert "Gather" not in op_types(model)


@pytest.mark.parametrize("protected", ["w", "v"])
def test_leaves_alone_what_reads_a_protected_weight(protected: str) -> None:
    text = f"{HEAD} {{ s = Add(w, v) t = Mul(s, w) y = Add(x, t) }}"
    prove(FoldConstantsPass([protected]), text, None, initializers=WEIGHTS)


def test_folds_next_to_a_protected_weight() -> None:
    text = f"{HEAD} {{ s = Add(w, w) t = Mul(s, v) y = Add(x, t) }}"
    prove(FoldConstantsPass(["v"]), text, "Mul Add", initializers=WEIGHTS)


@pytest.mark.parametrize(("limit", "operators"), [(4, "Add"), (3, None)])
def test_counts_elements_against_the_limit(limit: int, operators: str | None) -> None:
    text = f"{HEAD} {{ s = Add(w, v) y = Add(x, s) }}"
    prove(FoldConstantsPass(size_limit=limit), text, operators, initializers=WEIGHTS)


MATRIX = {"m": rand(6, 4)}
TRANSPOSED = "(float[batch, 4] x) => (float[batch, 6] y) { t = Transpose<perm = [1, 0]>(m) y = MatMul(x, t) }"


def test_transposes_a_weight_above_the_limit_when_told() -> None:
    prove(FoldConstantsPass(transpose_weights=True, size_limit=3), TRANSPOSED, "MatMul", initializers=MATRIX, tolerance=1e-6)


def test_leaves_a_transpose_of_a_weight_above_the_limit_alone() -> None:
    prove(FoldConstantsPass(size_limit=3), TRANSPOSED, None, initializers=MATRIX)


def test_leaves_a_transpose_alone_that_is_protected() -> None:
    prove(FoldConstantsPass(["m"], transpose_weights=True), TRANSPOSED, None, initializers=MATRIX)


def test_leaves_a_transpose_of_an_input_alone() -> None:
    text = "(float[batch, 4] x, float[6, 4] m) => (float[batch, 6] y) { t = Transpose<perm = [1, 0]>(m) y = MatMul(x, t) }"
    prove(FoldConstantsPass(transpose_weights=True), text, None)


def test_leaves_a_transpose_of_a_weight_that_may_be_overridden() -> None:
    text = "(float[batch, 4] x, float[6, 4] m) => (float[batch, 6] y) { t = Transpose<perm = [1, 0]>(m) y = MatMul(x, t) }"
    prove(FoldConstantsPass(transpose_weights=True), text, None, initializers=MATRIX)


def test_keeps_the_name_of_an_output() -> None:
    text = "(float[batch, 4] x) => (float[4] y, float[batch, 4] z) { y = Add(w, v) z = Add(x, w) }"
    prove(FoldConstantsPass(), text, "Add", initializers=WEIGHTS)


def test_a_norm_of_constants_prints_no_warning(caplog: pytest.LogCaptureFixture) -> None:
    """DeBERTa normalises the embeddings of its relative positions."""
    text = f"{HEAD} {{ s = LayerNormalization(w, v) y = Add(x, s) }}"
    prove(FoldConstantsPass(), text, None, initializers=WEIGHTS)
    assert not caplog.records


def test_nothing_is_logged_of_what_stays(caplog: pytest.LogCaptureFixture) -> None:
    text = f"{HEAD} {{ a, b = Split<axis = 0, num_outputs = 2>(w) c = Concat<axis = 0>(b, a) y = Add(x, c) }}"
    model = parse(text, WEIGHTS)
    FoldConstantsPass()(model)
    assert "Split" in op_types(model)
    assert not caplog.records
