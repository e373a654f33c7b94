"""What the processor is, and what it can do."""

import platform
from pathlib import Path

# x86 alone: on other machines OpenVINO computes in other floats.
_BF16 = frozenset({"avx512_bf16", "amx_bf16"})


def processor() -> str:
    """The processor's model and instruction sets: kernels, and with them the layout of packed weights, depend on both."""
    try:
        first = Path("/proc/cpuinfo").read_text(encoding="utf-8").split("\n\n")[0]
    except OSError:
        return platform.processor()
    return "\n".join(line for line in first.splitlines() if line.startswith(("model", "vendor", "flags", "Features", "CPU ")))


def multiplies_bf16() -> bool:
    """Whether the processor has instructions for bf16 on x86; False where the system does not say, as outside Linux."""
    return not _BF16.isdisjoint(processor().split())
