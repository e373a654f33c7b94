"""Sums of two 8-bit products fit 16 bits, which processors without VNNI need."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from exporter.compile.pair_sums import ProvePairSumsPass, column_scales, extreme_sums
from exporter.compile.pipeline import pass_name
from exporter.compile.target_passes import target_passes
from runtime.bundle.entries import PAIR_SUMS
from tests.helpers.pass_testing import compute, parse, rand, serialize

LINEAR = "(float[batch, 256] x) => (float[batch, 64] y) { y = MatMul(x, w) }"
FORMS = [(target, ranges) for target in ("portable", "cpu") for ranges in ("row", "tensor", "calibrated")]
INT16 = np.iinfo(np.int16)
SCRIPT = Path(__file__).with_name("onnxruntime_web.mjs")


def _extreme_weight() -> np.ndarray:
    """Columns whose pairs are as large as pairs can be: of one sign, of two signs, and one large weight among small ones."""
    weight = rand(256, 64)
    weight[:, :16], weight[:, 16:32] = 127, -127
    weight[::2, 32:40], weight[1::2, 32:40] = 127, -127
    weight[7, 40] = 1e6
    return weight


def _quantized(target: str, ranges: str, weight: np.ndarray) -> ir.Model:
    model = parse(LINEAR, {"w": weight})
    for step in target_passes(target, "int8", model, lambda *_: {"x": (-1.0, 1.0)}, int8_ranges=ranges):
        model = step(model).model
    return model


def _integers(model: ir.Model) -> np.ndarray:
    (weight,) = [each for each in model.graph.initializers.values() if str(each.name).endswith("_int8")]
    assert weight.const_value is not None
    return weight.const_value.numpy()


def _saturated(activations: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """The product as `vpmaddubsw` computes it: sums of two neighbours are cut off at 16 bits."""
    products = activations[:, :, None].astype(np.int64) * weight.astype(np.int64)
    return np.asarray(np.clip(products[:, ::2] + products[:, 1::2], INT16.min, INT16.max).sum(1))


@pytest.mark.parametrize(("target", "ranges"), FORMS)
def test_no_activations_exceed_16_bits(target: str, ranges: str) -> None:
    weight = _integers(_quantized(target, ranges, _extreme_weight()))
    assert extreme_sums(weight) == (-128 * 255, 128 * 255)
    # Each column meets the activations that are worst for it, and all of them meet the largest ones.
    worst = np.concatenate([np.where(weight.T > 0, 255, 0), np.where(weight.T < 0, 255, 0), np.full((1, 256), 255)])
    assert (_saturated(worst, weight) == worst @ weight.astype(np.int64)).all()


@pytest.mark.parametrize("rows", [1, 2, 7, 64])
def test_every_column_uses_its_range(rows: int) -> None:
    weight = rand(3, rows, 16) * np.logspace(-3, 3, 16, dtype=np.float32)
    quantized = np.rint(weight / column_scales(weight)).astype(np.int8)
    low, high = extreme_sums(quantized)
    assert INT16.min <= low
    assert high <= INT16.max
    padded = np.concatenate([quantized, np.zeros((3, rows % 2, 16), np.int8)], 1).astype(int)
    pairs = [np.maximum(sign * padded, 0)[:, ::2] + np.maximum(sign * padded, 0)[:, 1::2] for sign in (1, -1)]
    assert (np.maximum(*(each.max(1) for each in pairs)) >= 126).all()


def test_a_column_of_zeros_has_a_scale() -> None:
    assert column_scales(np.zeros((6, 2), np.float32)).tolist() == [[1, 1]]
    assert extreme_sums(np.zeros((0, 2), np.int8)) == (0, 0)


@pytest.mark.parametrize(
    "text",
    [
        "(uint8[batch, 4] a) => (int32[batch, 2] y) { y = MatMulInteger(a, w) }",
        "(float[batch, 4] a) => (float[batch, 2] y) <float s = {1}> { d = DequantizeLinear(w, s) y = MatMul(a, d) }",
    ],
    ids=["integers", "dequantized"],
)
def test_a_graph_without_the_limit_is_refused(text: str) -> None:
    fits, exceeds = np.array([[64, -64]] * 4, np.int8), np.array([[1, 65], [1, 64], [0, 0], [0, 0]], np.int8)
    assert not ProvePairSumsPass()(parse(text, {"w": fits})).modified
    with pytest.raises(ValueError, match=r"ProvePairSumsPass: expected weights .* found w \(0 to 32,895\)"):
        ProvePairSumsPass()(parse(text, {"w": exceeds}))


@pytest.mark.parametrize("target", ["portable", "cpu", "openvino"])
def test_the_manifest_names_the_proof(target: str) -> None:
    ranges = "calibrated" if target == "openvino" else "row"
    model = parse(LINEAR, {"w": rand(256, 64)})
    names = [pass_name(step) for step in target_passes(target, "int8", model, lambda *_: {"x": (-1.0, 1.0)}, None, ranges)]
    assert PAIR_SUMS in names
    assert PAIR_SUMS not in [pass_name(step) for step in target_passes(target, "fp32", model)]


def _web_modules() -> Path | None:
    """The folder that contains onnxruntime-web, from NODE_PATH."""
    found = [Path(each) for each in os.environ.get("NODE_PATH", "").split(os.pathsep) if each]
    return next((each for each in found if (each / "onnxruntime-web").is_dir()), None)


@pytest.mark.skipif(
    shutil.which("node") is None or _web_modules() is None,
    reason="needs node, and onnxruntime-web in a folder of NODE_PATH (npm install onnxruntime-web)",
)
@pytest.mark.parametrize("ranges", ["row", "tensor", "calibrated"])
def test_a_browser_computes_the_same(tmp_path: Path, ranges: str) -> None:
    model = _quantized("portable", ranges, _extreme_weight())
    x = np.concatenate([np.sign(_extreme_weight().T), rand(16, 256)]).astype(np.float32)
    (expected,) = compute(model, {"x": x})
    (tmp_path / "model.onnx").write_bytes(serialize(model))
    (tmp_path / "x.json").write_text(json.dumps(x.tolist()))
    files = [tmp_path / name for name in ("model.onnx", "x.json", "y.json")]
    subprocess.run(["node", SCRIPT, *files, str(_web_modules())], capture_output=True, check=True, timeout=60)
    found = np.array(json.loads(files[-1].read_text())).reshape(expected.shape)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-3)
