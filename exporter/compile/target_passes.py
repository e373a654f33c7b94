"""The passes of a target and a precision, which run last."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import onnx_ir as ir
import onnx_ir.passes.common as common

from exporter.compile.pair_sums import ProvePairSumsPass
from exporter.compile.passes.convert_to_half import ConvertToHalfPass
from exporter.compile.passes.fuse_attention import FuseAttentionPass
from exporter.compile.passes.fuse_skip_layer_norm import FuseSkipLayerNormPass
from exporter.compile.passes.lower_opset import LowerOpsetPass
from exporter.compile.passes.quantize_dynamic import QuantizeDynamicPass
from exporter.compile.passes.quantize_rows import QuantizeRowsPass
from exporter.compile.passes.quantize_static import QuantizeStaticPass, quantized_activations
from exporter.compile.passes.shapes_on_device import ShapesOnDevicePass
from exporter.targets import chosen_ranges, needs_ranges

__all__ = ["Measure", "ranges_of", "target_passes"]

# Measures values of a graph: name -> (minimum, maximum).
Measure = Callable[[ir.Model, Sequence[str]], Mapping[str, tuple[float, float]]]
_RANGES = {"QuantizeRows": "row", "QuantizeDynamic": "tensor", "QuantizeStatic": "calibrated"}
# With fewer weights, quantizing the operand of a product costs more than the product saves.
_LEAST = 1 << 14


def target_passes(
    target: str,
    precision: str,
    model: ir.Model,
    measure: Measure | None = None,
    opset: int | None = None,
    int8_ranges: str | None = None,
    slots: int | None = None,
) -> tuple[ir.passes.InPlacePass, ...]:
    """Return the passes that adapt a model to a target; empty if there is nothing to do.

    Args:
        target: a key of `exporter.targets.TARGETS`.
        precision: a precision of `exporter.targets.PRECISIONS`.
        model: the graph in fp32 with standard operators.
        measure: measures the ranges of activations; required if `needs_ranges` holds for the target and the precision.
        opset: the ONNX operator set; by default that of the model.
        int8_ranges: one of the target's ranges in `exporter.targets.INT8_RANGES`, by default the first.
        slots: slots of each structure, for a graph that takes the weights of its tasks from slots.

    Raises:
        ValueError: `measure` is missing although the target requires it.
    """
    passes: list[ir.passes.InPlacePass] = []
    if precision == "fp16":
        passes.append(ConvertToHalfPass())
    if target in ("cpu", "cuda"):
        # Before quantization: the pattern contains products in floats.
        passes.append(FuseAttentionPass())
    if target == "cuda":
        # On the CPU the fused norm is slower than its parts: 0.92 to 0.98 of the speed, measured on BERT-base.
        passes += [FuseSkipLayerNormPass(), ShapesOnDevicePass()]
    if needs_ranges(target, precision, int8_ranges):
        if measure is None:
            raise ValueError(f"expected a way to measure activations for the target {target} in {precision}, found none")
        # The passes above make values with other names.
        before = _lowered(passes, model.clone()) if passes else model
        names = [str(value.name) for value in quantized_activations(before, _LEAST)]
        passes.append(QuantizeStaticPass(measure(before, names), _LEAST))
    elif precision == "int8" and chosen_ranges(target, int8_ranges) == "tensor":
        passes.append(QuantizeDynamicPass(_LEAST, slots))
    elif precision == "int8":
        passes.append(QuantizeRowsPass(_LEAST, target == "cpu", slots))
    if precision == "int8":
        passes.append(ProvePairSumsPass())
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
    """Return how the activations of a graph got their ranges in int8, by the names of its passes; None otherwise."""
    return next((_RANGES[name] for name in passes if name in _RANGES), None)
