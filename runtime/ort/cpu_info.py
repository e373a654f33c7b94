"""Model and instruction sets of the CPU."""

import platform
from pathlib import Path

# Only for x86: on other CPUs OpenVINO uses other floating-point types.
_BF16 = frozenset({"avx512_bf16", "amx_bf16"})
_VNNI = frozenset({"avx512_vnni", "avx_vnni"})


def processor() -> str:
    """Return the CPU model and its instruction sets, which determine the kernels and the layout of packed weights."""
    try:
        first = Path("/proc/cpuinfo").read_text(encoding="utf-8").split("\n\n")[0]
    except OSError:
        return platform.processor()
    return "\n".join(line for line in first.splitlines() if line.startswith(("model", "vendor", "flags", "Features", "CPU ")))


def multiplies_bf16() -> bool:
    """Whether the CPU is an x86 CPU with bf16 instructions; False if this is unknown, as on systems other than Linux."""
    return not _BF16.isdisjoint(processor().split())


def saturates() -> bool:
    """Whether 8-bit kernels for this CPU add two products in 16 bits: an x86 CPU with AVX2 or AVX-512 and without VNNI.

    Kernels for older x86 CPUs and for other architectures add in 32 bits. False if the CPU is unknown, as on systems other than
    Linux.
    """
    flags = frozenset(processor().split())
    return "avx2" in flags and _VNNI.isdisjoint(flags)
