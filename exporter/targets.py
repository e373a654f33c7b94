"""Targets, precisions and tolerances: what a graph can be compiled for."""

from __future__ import annotations

from collections.abc import Mapping

# Target -> the precisions that are worth having there.
TARGETS: Mapping[str, tuple[str, ...]] = {
    "portable": ("fp32", "fp16", "int8"),
    # ONNX Runtime's CPU kernels have no 16-bit floats on x86: it would cast to 32 bits and back around each.
    "cpu": ("fp32", "int8"),
    "cuda": ("fp32", "fp16"),
    # These compute in 16 bits by an option of their own, from a graph in fp32.
    "tensorrt": ("fp32", "fp16", "bf16"),
    "openvino": ("fp32", "bf16", "int8"),
}
PRECISIONS = ("fp32", "fp16", "bf16", "int8")

# What torch.onnx writes at least; a lower one is made of it in the end.
LEAST_TRACED_OPSET = 18
# Allowed |onnx - torch| relative to max(1, max |torch|) on random inputs, the worst there are for integers; the compiler's work
# is proved in fp32 first. What a provider rounds by an option of its own, the graph does not.
TOLERANCES = {"fp32": 1e-4, "fp16": 2e-2, "bf16": 1e-4, "int8": 1.0}


def needs_ranges(target: str, precision: str) -> bool:
    """Whether the target quantizes activations by ranges that are measured beforehand: OpenVINO computes in floats what is
    quantized at run time."""
    return target == "openvino" and precision == "int8"
