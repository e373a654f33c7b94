"""What the numbers were measured on. Says nothing of whose machine it is: no host name, no user, no paths."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import platform
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import psutil

from benchmarks.options import cores

# The packages that bring ONNX Runtime, of which one is installed.
FLAVOURS = ("onnxruntime", "onnxruntime-gpu", "onnxruntime-openvino")
_PACKAGES = ("torch", "transformers", "adapters", "onnx", *FLAVOURS)
_FLAGS = ("avx2", "avx512f", "avx512_bf16", "avx512_vnni", "avx_vnni", "amx_tile", "amx_bf16", "amx_int8")

_BUSY = 0.5  # running processes in the minute before, above which times are suspect


@dataclass(frozen=True)
class Machine:
    """Attributes:
    cpu: the processor's name.
    cores: cores that this process may use.
    threads: threads that every variant was given.
    memory_gb: main memory in GB.
    system: operating system and architecture.
    flags: instruction sets, yes or no; empty where the system does not say.
    load: average number of running processes in the minute before; None where the system does not say.
    versions: of Python and the packages.
    commit: the git commit of this code, "+changes" where files differ from it; None outside a checkout.
    """

    cpu: str
    cores: int
    threads: int
    memory_gb: float
    system: str
    flags: dict[str, bool]
    load: float | None
    versions: dict[str, str]
    commit: str | None

    @property
    def bf16(self) -> bool:
        return self.flags.get("avx512_bf16", False) or self.flags.get("amx_bf16", False)

    @property
    def vnni(self) -> bool:
        return self.flags.get("avx512_vnni", False) or self.flags.get("avx_vnni", False)

    @property
    def amx(self) -> bool:
        return self.flags.get("amx_tile", False)

    @property
    def busy(self) -> bool:
        """Whether something else was running."""
        return self.load is not None and self.load > _BUSY

    def sentence(self) -> str:
        """The machine in one line."""

        def has(name: str, there: bool) -> str:
            return f"{name} {'yes' if there else 'no' if self.flags else 'unknown'}"

        instructions = ", ".join((has("bf16", self.bf16), has("vnni", self.vnni), has("amx", self.amx)))
        return f"{self.cpu}, {self.threads} of {self.cores} cores, {self.memory_gb:.0f} GB; {instructions}"


def versions(packages: Iterable[str]) -> dict[str, str]:
    """The versions of those of the packages that are installed."""
    found = {}
    for name in packages:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def inspect(threads: int) -> Machine:
    """This machine."""
    fields = _cpuinfo()
    flags = set(fields.get("flags", fields.get("Features", "")).split())
    return Machine(
        cpu=fields.get("model name") or platform.processor() or platform.machine(),
        cores=cores(),
        threads=threads,
        memory_gb=round(psutil.virtual_memory().total / 1e9, 1),
        system=f"{platform.system()} {'.'.join(platform.release().split('.')[:2])} {platform.machine()}",
        flags={name: name in flags for name in _FLAGS} if flags else {},
        load=round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        versions={"python": platform.python_version(), **versions(_PACKAGES)},
        commit=_commit(),
    )


def _cpuinfo() -> dict[str, str]:
    """The first processor of /proc/cpuinfo; empty where there is none."""
    try:
        first = Path("/proc/cpuinfo").read_text(encoding="utf-8").split("\n\n")[0]
    except OSError:
        return {}
    pairs = (line.partition(":") for line in first.splitlines())
    return {name.strip(): value.strip() for name, _, value in pairs}


def _commit() -> str | None:
    head = _git("rev-parse", "HEAD")
    if head is None:
        return None
    # Results and untracked files do not change what was measured.
    return head + ("+changes" if _git("status", "--porcelain", "--untracked-files=no") else "")


def _git(*arguments: str) -> str | None:
    try:
        found = subprocess.run(
            ["git", *arguments], cwd=Path(__file__).parent, capture_output=True, text=True, check=True, timeout=20
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return found.stdout.strip()
