"""Scalars that move into weights."""

import numpy as np
import pytest

from exporter.compile.passes import FoldScalesPass
from tests.helpers.pass_testing import parse, prove, rand

LINEAR = "(float[batch, sequence, 4] x) => (float[batch, sequence, 6] y)"
WEIGHTS = {"w": rand(4, 6), "b": rand(6)}
HEADS = "<float c = {0.35}, int64[4] heads = {0, 0, 2, 3}, int64[3] flat = {0, 0, 6}>"


@pytest.mark.parametrize(
    ("body", "operators"),
    [
        ("m = MatMul(x, w) a = Add(m, b) n = Mul(a, c) y = Relu(n)", "MatMul Add Relu"),
        ("m = MatMul(x, w) a = Add(b, m) n = Mul(c, a) y = Relu(n)", "MatMul Add Relu"),
        (
            "m = MatMul(x, w) a = Add(m, b) h = Reshape(a, heads) t = Transpose<perm = [0, 2, 1, 3]>(h) n = Mul(t, c) "
            "u = Transpose<perm = [0, 2, 1, 3]>(n) y = Reshape(u, flat)",
            "MatMul Add Reshape Transpose Transpose Reshape",
        ),
        ("m = MatMul(x, w) a = Add(m, b) n = Mul(a, c) o = Mul(n, c) y = Relu(o)", "MatMul Add Relu"),
    ],
)
def test_scales_weights_and_bias_instead_of_results(body: str, operators: str) -> None:
    prove(FoldScalesPass(), f"{LINEAR} {HEADS} {{ {body} }}", operators, initializers=WEIGHTS, tolerance=1e-5)


def test_scales_a_weight_once_for_two_readers() -> None:
    text = """(float[batch, 4] x, float[batch, 4] z) => (float[batch, 6] y) <float c = {0.5}> {
        m = MatMul(x, w) a = Add(m, b) n = Mul(a, c) p = MatMul(z, w) d = Add(p, b) e = Mul(d, c) y = Sub(n, e) }"""
    model = prove(FoldScalesPass(), text, "MatMul Add MatMul Add Sub", initializers=WEIGHTS, tolerance=1e-5)
    assert len(model.graph.initializers) == 2


def test_leaves_the_weight_as_it_is_for_its_other_reader() -> None:
    text = """(float[batch, 4] x) => (float[batch, 6] y) <float c = {0.5}> {
        m = MatMul(x, w) a = Add(m, b) n = Mul(a, c) p = MatMul(x, w) y = Sub(n, p) }"""
    prove(FoldScalesPass(), text, "MatMul Add MatMul Sub", initializers=WEIGHTS, tolerance=1e-5)


@pytest.mark.parametrize(
    "body",
    [
        "m = MatMul(x, w) a = Add(m, b) n = Mul(a, c) y = Add(n, a)",  # x W + b has two readers
        "m = MatMul(x, w) a = Add(m, b) n = Mul(a, c) y = Add(n, m)",  # x W has
        "m = MatMul(x, w) a = Add(m, b) y = Mul(a, c)",  # the result is an output
        "m = MatMul(x, w) a = Add(m, b) r = Relu(a) n = Mul(r, c) y = Relu(n)",
        "m = MatMul(x, w) n = Mul(m, c) y = Relu(n)",  # no bias
        "m = MatMul(x, w) a = Add(m, b) n = Mul(a, b) y = Relu(n)",  # no scalar
        "m = MatMul(x, w) a = Add(m, v) n = Mul(a, c) y = Relu(n)",  # the bias is no constant
    ],
)
def test_keeps_the_scale_of_a_value_that_others_read(body: str) -> None:
    text = LINEAR.replace("4] x)", "4] x, float[6] v)")
    prove(FoldScalesPass(), f"{text} <float c = {{0.35}}> {{ {body} }}", None, initializers=WEIGHTS)


def test_keeps_a_scale_that_adds_an_axis() -> None:
    text = """(float[batch, 4] x) => (float[1, batch, 6] y) <float[1, 1, 1] c = {2}> {
        m = MatMul(x, w) a = Add(m, b) n = Mul(a, c) y = Relu(n) }"""
    prove(FoldScalesPass(), text, None, initializers=WEIGHTS)


def test_scales_weights_of_half_precision() -> None:
    text = """(float16[batch, 4] x) => (float16[batch, 6] y) {
        m = MatMul(x, w) a = Add(m, b) n = Mul(a, c) y = Relu(n) }"""
    weights = {name: array.astype(np.float16) for name, array in {**WEIGHTS, "c": rand()}.items()}
    prove(FoldScalesPass(), text, "MatMul Add Relu", initializers=weights, tolerance=4e-3)


def test_says_nothing_of_operators_of_other_domains() -> None:
    model = parse(f"{LINEAR} <float c = {{2}}> {{ m = MatMul(x, w) a = Add(m, b) n = Mul(a, c) y = Relu(n) }}", WEIGHTS)
    model.graph[0].domain = "other"
    assert not FoldScalesPass()(model).modified
