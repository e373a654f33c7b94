"""The supported targets, precisions and tolerances."""

from __future__ import annotations

from collections.abc import Mapping

from runtime.bundle import Floats

# Target -> the precisions that are useful there.
TARGETS: Mapping[str, tuple[str, ...]] = {
    "portable": ("fp32", "fp16", "int8"),
    # ONNX Runtime has no fp16 kernels for x86 CPUs: it would cast to fp32 and back around each node.
    "cpu": ("fp32", "int8"),
    "cuda": ("fp32", "fp16"),
    # These providers compute in bf16 when an option is set; the graph stays in fp32.
    "tensorrt": ("fp32", "fp16", "bf16"),
    "openvino": ("fp32", "bf16", "int8"),
}
PRECISIONS = ("fp32", "fp16", "bf16", "int8")
# Target -> how activations get their ranges in int8, the default first. "row": at run time, one for each token, so that a
# result does not depend on the other texts of the batch. "tensor": at run time, one for the whole batch with its padding, which
# is faster. "calibrated": before the export, from texts.
INT8_RANGES: Mapping[str, tuple[str, ...]] = {
    "portable": ("row", "tensor", "calibrated"),
    "cpu": ("row", "tensor", "calibrated"),
    # OpenVINO computes nodes that are quantized at run time in floating point.
    "openvino": ("calibrated",),
}

# The lowest opset that torch.onnx writes; LowerOpsetPass converts the finished graph to a lower one.
MIN_TRACED_OPSET = 18
# Allowed |onnx - torch| relative to max(1, max |torch|). Verification uses random inputs, the worst case for int8. A graph of
# lower precision is first verified in fp32. bf16 has the fp32 tolerance: the provider rounds, not the graph.
TOLERANCES = {"fp32": 1e-4, "fp16": 2e-2, "bf16": 1e-4, "int8": 1.0}


# Allowed difference of a provider that computes floats in this type, relative to max(1, max |logit|): tf32 has as many bits as
# fp16, bf16 has three fewer.
FLOAT_TOLERANCES: Mapping[Floats, float] = {"fp32": 1e-4, "tf32": 2e-2, "fp16": 2e-2, "bf16": 0.16}


# Largest relative change of a number that is rounded to this type; fp32 with the sums of a few hundred numbers.
ROUNDING: Mapping[Floats, float] = {"fp32": 2**-20, "tf32": 2**-11, "fp16": 2**-11, "bf16": 2**-8}
# A tolerance in int8 is this multiple of what rounding moved the logits in a few runs. On the bundled example, the largest of
# four runs differ by up to a factor of 3 between runs, and logits of zeros exceed the tolerance of each task.
_MARGIN = 3.0


def probe_tolerances(precision: str, atol: float, rounding: Mapping[Floats, float] | None = None) -> dict[str, float]:
    """Return the tolerances with which providers are compared with the probe of a bundle.

    Args:
        precision: the precision of the bundle.
        atol: the tolerance of its verification, relative to max(1, max |logit|).
        rounding: in int8, type of floats -> how far rounding in this type moves logits, relative to the same.

    Returns:
        Type of floats of a provider -> tolerance, relative to the same.
    """
    if precision != "int8":
        return {name: max(atol, tolerance) for name, tolerance in FLOAT_TOLERANCES.items()}
    least, moved = TOLERANCES["fp16"], rounding or {}
    return {
        name: min(max(atol, tolerance), max(least, tolerance, _MARGIN * moved.get(name, 0.0)))
        for name, tolerance in FLOAT_TOLERANCES.items()
    }


def needs_ranges(target: str, precision: str, int8_ranges: str | None = None) -> bool:
    """Return whether activations are quantized with ranges measured before the export."""
    return precision == "int8" and chosen_ranges(target, int8_ranges) == "calibrated"


def chosen_ranges(target: str, int8_ranges: str | None) -> str:
    """Return how activations get their ranges in int8: as requested, or the default of the target."""
    return INT8_RANGES[target][0] if int8_ranges is None else int8_ranges
