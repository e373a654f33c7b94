"""The CPU: its model and instruction sets, and the time that this process may use, by its affinity, its quota and the cores.

By default ONNX Runtime starts a thread for each physical core of the machine, also in a container that may use two of them. The
system then stops all threads of the container as soon as they have used the quota of a period, of usually 0.1 seconds.
"""

import math
import os
import platform
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Final

from runtime.options import Options

_CPUS: Final = "sys/devices/system/cpu"
# Files that list the logical CPUs of the same core, the newer name first
_SIBLINGS: Final = ("core_cpus_list", "thread_siblings_list")
# Only for x86: on other CPUs OpenVINO uses other floating-point types.
_BF16 = frozenset({"avx512_bf16", "amx_bf16"})
_VNNI = frozenset({"avx512_vnni", "avx_vnni"})


@dataclass(frozen=True)
class CpuLimits:
    """The limits of the threads of this process.

    Attributes:
        machine: physical cores of the machine; 0 if unknown.
        affinity: physical cores among the CPUs to which the process is bound; where the system does not tell which CPUs share a
            core, these CPUs. 0 if unknown.
        quota: cores that the quota of the control group amounts to, such as 1.5; None without one.
    """

    machine: int
    affinity: int
    quota: float | None

    @property
    def threads(self) -> int | None:
        """Threads that can run at the same time; None if nothing limits the process to less than the machine.

        The fraction of a core in a quota is left unused: with one thread more, the system would stop all of them at times.
        """
        if self.quota is None:
            return self.affinity if 0 < self.affinity < self.machine else None
        threads = max(1, math.floor(self.quota))
        threads = min(threads, self.affinity) if self.affinity else threads
        return threads if threads < self.machine or not self.machine else None

    def __str__(self) -> str:
        """Describe the limits for `python -m runtime devices`."""
        machine = f"{self.machine} physical core{'s' * (self.machine != 1)}" if self.machine else "an unknown number of cores"
        unit = "" if self.machine else f" CPU{'s' * (self.affinity != 1)}"
        parts = [f"{self.affinity}{unit} by CPU affinity"] if self.affinity != self.machine else []
        parts += [] if self.quota is None else [f"{self.quota:.2f} by the quota of the control group"]
        return f"{machine}, of which {' and '.join(parts)}" if parts else machine


def cpu_limits(root: Path = Path("/"), cpus: Collection[int] | None = None) -> CpuLimits:
    """Read the limits of this process. What cannot be read, as on systems other than Linux, is no limit.

    Args:
        root: root of the file system.
        cpus: numbers of the logical CPUs to which the process is bound; None for those that the system says.
    """
    if cpus is None:
        cpus = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else ()
    online = {int(path.parent.name[3:]) for path in (root / _CPUS).glob("cpu[0-9]*/topology")}
    affinity = _cores(root, [cpu for cpu in cpus if cpu in online]) if online else len(cpus)
    return CpuLimits(_cores(root, online), affinity, min(_quotas(root), default=None))


def with_threads(options: Options, tell: Callable[[str], None], limits: CpuLimits | None = None) -> Options:
    """Return options with a number of threads, if they have none and the process may use less than the machine.

    `tell` receives a message if the quota is less than one core.
    """
    if options.threads is not None:
        return options
    limits = cpu_limits() if limits is None else limits
    if limits.quota is not None and limits.quota < 1:
        tell(
            f"the quota of this process's control group is {limits.quota:.2f} of a core: sessions have one thread, which the "
            "system stops whenever the quota is used up; allow at least one core for even response times"
        )
    return replace(options, threads=limits.threads)


def _cores(root: Path, cpus: Collection[int]) -> int:
    """Count the physical cores of logical CPUs."""
    return len({_core(root / _CPUS / f"cpu{cpu}" / "topology", cpu) for cpu in cpus})


def _core(topology: Path, cpu: int) -> str:
    for name in _SIBLINGS:
        if text := _text(topology / name):
            return text
    return str(cpu)


def _quotas(root: Path) -> Iterator[float]:
    """Yield the quotas, in cores, of the control groups of this process, up to the topmost one that is visible."""
    for group, top, version in _groups(root):
        while True:
            quota = _quota_v2(group) if version == 2 else _quota_v1(group)
            if quota is not None:
                yield quota
            if group == top:
                break
            group = group.parent


def _quota_v2(group: Path) -> float | None:
    match (_text(group / "cpu.max") or "").split():
        case [quota, period] if quota.isdecimal() and period.isdecimal() and int(period):
            return int(quota) / int(period)
    return None  # "max 100000" sets no limit


def _quota_v1(group: Path) -> float | None:
    quota, period = (_text(group / f"cpu.cfs_{name}_us") or "" for name in ("quota", "period"))
    return int(quota) / int(period) if quota.isdecimal() and period.isdecimal() and int(period) else None  # -1 sets no limit


def _groups(root: Path) -> Iterator[tuple[Path, Path, int]]:
    """Yield the folders of this process's control groups that limit CPU time, each with that of the mount and its version."""
    paths = {}
    for line in (_text(root / "proc/self/cgroup") or "").splitlines():
        _, controllers, path = (*line.split(":", 2), "", "")[:3]
        if not path.startswith("/"):
            continue
        if controllers == "":
            paths[2] = path
        elif "cpu" in controllers.split(","):
            paths[1] = path
    for line in (_text(root / "proc/self/mountinfo") or "").splitlines():
        before, _, after = line.partition(" - ")
        mount, kind = before.split(), after.split()
        if len(mount) < 5 or len(kind) < 3 or kind[0] not in ("cgroup", "cgroup2"):
            continue
        version = 2 if kind[0] == "cgroup2" else 1
        if version in paths and (version == 2 or "cpu" in kind[2].split(",")):
            top = root / mount[4].lstrip("/")
            yield _below(top, paths[version], mount[3]), top, version


def _below(top: Path, path: str, mounted: str) -> Path:
    """Return the folder of a control group; in a container, its own may be the mount, or lie outside of it."""
    group = PurePosixPath(path)
    if ".." in group.parts or not group.is_relative_to(mounted):
        return top
    return top / group.relative_to(mounted)


def _text(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        return None


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
