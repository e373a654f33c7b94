"""Faults of ONNX Runtime on tensors without elements.

They occur in a routed graph when no row selects one of its structures.
"""

from typing import Any, Final

from runtime.import_ort import ort

# Up to ONNX Runtime 1.31, FusedMatMul with a transposed batch divides by zero there, and the process ends.
_FUSED_MATMUL: Final = ((1, 32), "MatmulTransposeFusion")
# Up to ONNX Runtime 1.29 at the latest, so does MultiHeadAttention on the CPU; no option of a session avoids it.
_ATTENTION: Final = (1, 30)


def safe_arguments() -> dict[str, Any]:
    """Return arguments of InferenceSession with which a routed graph runs safely in the installed version."""
    fixed, name = _FUSED_MATMUL
    return {} if _version() >= fixed else {"disabled_optimizers": [name]}


def runs_empty_attention() -> bool:
    """Return whether MultiHeadAttention on the CPU takes tensors without elements in the installed version."""
    return _version() >= _ATTENTION


def _version() -> tuple[int, ...]:
    return tuple(int(part) for part in ort.__version__.split(".")[:2])
