"""The supported targets, precisions and tolerances."""

from __future__ import annotations

from collections.abc import Mapping

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

# The lowest opset that torch.onnx writes; LowerOpsetPass converts the finished graph to a lower one.
MIN_TRACED_OPSET = 18
# Allowed |onnx - torch| relative to max(1, max |torch|). Verification uses random inputs, the worst case for int8. A graph of
# lower precision is first verified in fp32. bf16 has the fp32 tolerance: the provider rounds, not the graph.
TOLERANCES = {"fp32": 1e-4, "fp16": 2e-2, "bf16": 1e-4, "int8": 1.0}


def needs_ranges(target: str, precision: str) -> bool:
    """Return whether activations are quantized with ranges measured before the export.

    OpenVINO computes dynamically quantized nodes in floating point, so that int8 there needs static ranges.
    """
    return target == "openvino" and precision == "int8"
