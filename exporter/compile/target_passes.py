"""The passes of a target and a precision, which run last."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import onnx_ir as ir
import onnx_ir.passes.common as common

from exporter.compile.passes.convert_to_half import ConvertToHalfPass
from exporter.compile.passes.fuse_attention import FuseAttentionPass
from exporter.compile.passes.fuse_skip_layer_norm import FuseSkipLayerNormPass
from exporter.compile.passes.lower_opset import LowerOpsetPass
from exporter.compile.passes.quantize_dynamic import QuantizeDynamicPass
from exporter.compile.passes.quantize_rows import QuantizeRowsPass
from exporter.compile.passes.quantize_static import QuantizeStaticPass, quantized_activations
from exporter.targets import chosen_ranges, needs_ranges

__all__ = ["Measure", "ranges_of", "target_passes"]

# Gives the smallest and greatest number of each of a graph's values, by name.
Measure = Callable[[ir.Model, Sequence[str]], Mapping[str, tuple[float, float]]]
_RANGES = {"QuantizeRows": "row", "QuantizeDynamic": "tensor", "QuantizeStatic": "calibrated"}
# A product with fewer weights is not worth quantizing its operand.
_LEAST = 1 << 14


def target_passes(
    target: str,
    precision: str,
    model: ir.Model,
    measure: Measure | None = None,
    opset: int | None = None,
    int8_ranges: str | None = None,
) -> tuple[ir.passes.InPlacePass, ...]:
    """The passes that adapt a model to a target; empty where nothing is to be done.

    Args:
        target: of TARGETS.
        precision: of PRECISIONS.
        model: in fp32 and standard operators.
        measure: gives the ranges of activations; needed where `needs_ranges` says so.
        opset: the ONNX operator set, by default the model's.
        int8_ranges: of INT8_RANGES for the target, by default the first.

    Raises:
        ValueError: `measure` is missing where the target needs it.
    """
    passes: list[ir.passes.InPlacePass] = []
    if precision == "fp16":
        passes.append(ConvertToHalfPass())
    if target in ("cpu", "cuda"):
        # Before products are quantized: the pattern ends in plain ones.
        passes.append(FuseAttentionPass())
    if target == "cuda":
        # On the CPU the fused norm is slower than its parts: 0.92 to 0.98 of the speed, measured on BERT-base.
        passes.append(FuseSkipLayerNormPass())
    if needs_ranges(target, precision, int8_ranges):
        if measure is None:
            raise ValueError(f"expected a way to measure activations for the target {target} in {precision}, found none")
        # Values have other names behind the passes before.
        before = _lowered(passes, model.clone()) if passes else model
        names = [str(value.name) for value in quantized_activations(before, _LEAST)]
        passes.append(QuantizeStaticPass(measure(before, names), _LEAST))
    elif precision == "int8" and chosen_ranges(target, int8_ranges) == "tensor":
        passes.append(QuantizeDynamicPass(_LEAST))
    elif precision == "int8":
        passes.append(QuantizeRowsPass(_LEAST, fused=target == "cpu"))
    if opset is not None and opset < model.graph.opset_imports[""]:
        passes.append(LowerOpsetPass())
    if not passes:
        return ()
    return (*passes, common.RemoveUnusedNodesPass(), common.CommonSubexpressionEliminationPass(), common.TopologicalSortPass())


def _lowered(passes: Iterable[ir.passes.InPlacePass], model: ir.Model) -> ir.Model:
    for step in passes:
        model = step(model).model
    return model


def ranges_of(passes: Iterable[str]) -> str | None:
    """How the activations of a graph got their ranges in int8, by the names of its passes; None for another precision."""
    return next((_RANGES[name] for name in passes if name in _RANGES), None)
