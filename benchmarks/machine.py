"""Description of the machine of a measurement, without host name, user name or paths."""

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

from benchmarks.gpu import Gpu, sentence
from benchmarks.options import cores
from runtime.ort.known_providers import PLUGINS

# Distributions of ONNX Runtime, of which one is installed, and its plug-ins.
FLAVOURS = (
    *("onnxruntime", "onnxruntime-gpu", "onnxruntime-openvino"),
    *(package for plugin in PLUGINS.values() for package in plugin.packages),
)
_PACKAGES = ("torch", "transformers", "adapters", "onnx", *FLAVOURS)
_FLAGS = ("avx2", "avx512f", "avx512_bf16", "avx512_vnni", "avx_vnni", "amx_tile", "amx_bf16", "amx_int8")

_BUSY = 0.5  # load average of the last minute above which times are unreliable
_BUSY_GPU = 5  # the same for the utilization of a GPU in percent


@dataclass(frozen=True)
class Machine:
    """Hardware and software of a measurement.

    Attributes:
        cpu: name of the CPU.
        cores: number of cores that this process may use.
        threads: number of threads of every contender.
        memory_gb: main memory in GB.
        system: operating system and architecture.
        flags: instruction set -> whether the CPU has it; empty if unknown.
        load: load average of the last minute; None if unknown.
        versions: versions of Python and the packages.
        commit: git commit of this code, with the suffix "+changes" if files differ from it; None outside a checkout.
        gpu: the GPU as found before the measurement; None if it was not used, or nvidia-smi does not know it.
        cuda: version of CUDA that torch is built for; None if no GPU was used.
        tf32: whether PyTorch may use TF32 in fp32; None if no GPU was used.
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
    gpu: Gpu | None = None
    cuda: str | None = None
    tf32: bool | None = None

    @property
    def bf16(self) -> bool:
        """Whether the CPU has bf16 instructions."""
        return self.flags.get("avx512_bf16", False) or self.flags.get("amx_bf16", False)

    @property
    def vnni(self) -> bool:
        """Whether the CPU has VNNI instructions for int8."""
        return self.flags.get("avx512_vnni", False) or self.flags.get("avx_vnni", False)

    @property
    def amx(self) -> bool:
        """Whether the CPU has AMX tiles."""
        return self.flags.get("amx_tile", False)

    @property
    def busy(self) -> bool:
        """Whether other processes were running before the measurement; on a GPU if they used it."""
        if self.gpu is not None:
            return float(self.gpu.get("utilization_percent") or 0) > _BUSY_GPU
        return self.load is not None and self.load > _BUSY

    def sentence(self) -> str:
        """Return a description in one line."""

        def has(name: str, there: bool) -> str:
            return f"{name} {'yes' if there else 'no' if self.flags else 'unknown'}"

        instructions = ", ".join((has("bf16", self.bf16), has("vnni", self.vnni), has("amx", self.amx)))
        if self.cuda is not None:
            gpu = "unknown GPU" if self.gpu is None else sentence(self.gpu)
            return f"{gpu}; CUDA {self.cuda}; {self.cpu}, {self.cores} cores"
        return f"{self.cpu}, {self.threads} of {self.cores} cores, {self.memory_gb:.0f} GB; {instructions}"


def versions(packages: Iterable[str]) -> dict[str, str]:
    """Return the versions of the installed packages among `packages`."""
    found = {}
    for name in packages:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def current_machine(threads: int, gpu: Gpu | None = None, cuda: str | None = None, tf32: bool | None = None) -> Machine:
    """Return a description of this machine.

    Args:
        threads: number of threads of every contender.
        gpu: the GPU that is measured.
        cuda: version of CUDA that torch is built for, if a GPU is measured.
        tf32: whether PyTorch may use TF32 in fp32, if a GPU is measured.
    """
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
        gpu=gpu,
        cuda=cuda,
        tf32=tf32,
    )


def _cpuinfo() -> dict[str, str]:
    """Return the first processor of /proc/cpuinfo; empty without that file."""
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
    # Untracked files, such as results, do not change the measured code.
    return head + ("+changes" if _git("status", "--porcelain", "--untracked-files=no") else "")


def _git(*arguments: str) -> str | None:
    try:
        found = subprocess.run(
            ["git", *arguments],
            cwd=Path(__file__).parent,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            check=True,
            timeout=20,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return found.stdout.strip()
