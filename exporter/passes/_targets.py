"""What a graph is compiled for: the passes that run last."""

from __future__ import annotations

from collections.abc import Mapping

import onnx_ir as ir
import onnx_ir.passes.common as common

from ._convert_to_half import ConvertToHalfPass
from ._fuse_attention import FuseAttentionPass
from ._fuse_skip_layer_norm import FuseSkipLayerNormPass
from ._quantize_dynamic import QuantizeDynamicPass

__all__ = ["PRECISIONS", "TARGETS", "target_passes"]

# Target -> the precisions that are worth having there.
TARGETS: Mapping[str, tuple[str, ...]] = {
    "portable": ("fp32", "fp16", "int8"),
    # ONNX Runtime's CPU kernels have no 16-bit floats on x86: it would cast to 32 bits and back around each.
    "cpu": ("fp32", "int8"),
    "cuda": ("fp32", "fp16"),
    # These compute in 16 bits by an option of their own, from a graph in fp32.
    "tensorrt": ("fp32", "fp16", "bf16"),
    "openvino": ("fp32", "bf16"),
}
PRECISIONS = ("fp32", "fp16", "bf16", "int8")


def target_passes(target: str, precision: str) -> tuple[ir.passes.InPlacePass, ...]:
    """The passes for one of TARGETS in one of its precisions; empty where the portable graph is what the target wants."""
    passes: list[ir.passes.InPlacePass] = []
    if precision == "fp16":
        passes.append(ConvertToHalfPass())
    if target in ("cpu", "cuda"):
        # While q, k and v are still plain products: quantized ones hide the pattern no less than fused ones hide a product.
        passes.append(FuseAttentionPass())
    if target == "cuda":
        # On the CPU the fused norm is slower than its parts: 0.92 to 0.98 of the speed, measured on BERT-base.
        passes.append(FuseSkipLayerNormPass())
    if precision == "int8":
        passes.append(QuantizeDynamicPass())
    if not passes:
        return ()
    return (*passes, common.RemoveUnusedNodesPass(), common.CommonSubexpressionEliminationPass(), common.TopologicalSortPass())
