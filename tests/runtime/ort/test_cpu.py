"""Threads by CPU affinity, physical cores and the quota of the control group, with the files of other machines."""

import os
from pathlib import Path
from typing import Any

import onnxruntime
import pytest

import runtime
from runtime.options import Options
from runtime.ort import cpu as cpu_module
from runtime.ort.cpu import CpuLimits, cpu_limits, with_threads
from runtime.ort.devices import survey
from runtime.ort.known_providers import CPU
from runtime.ort.session import session_options
from tests.helpers.runtime_bundles import write_bundle

_V2 = "30 24 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup rw\n"
_V1 = "31 30 0:29 {} /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n"
_DOCKER = "/docker/4f2a"


def machine(root: Path, cores: int = 8, siblings: int = 2, name: str = "core_cpus_list") -> Path:
    """The topology of a machine in which the CPUs n, n + cores, … are the same core."""
    for cpu in range(cores * siblings):
        topology = root / f"sys/devices/system/cpu/cpu{cpu}/topology"
        topology.mkdir(parents=True)
        (topology / name).write_text(",".join(str(cpu % cores + cores * number) for number in range(siblings)) + "\n")
    (root / "sys/devices/system/cpu/cpu99").mkdir()  # offline: it has no topology
    return root


def group(root: Path, line: str, mount: str, files: dict[str, str]) -> Path:
    """The control groups of a process."""
    files = {
        "proc/self/cgroup": f"4:memory:/elsewhere\n{line}\n",
        "proc/self/mountinfo": f"22 1 0:2 / / rw - ext4 a rw\n{mount}",
    } | files
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def v1(folder: str, quota: int, period: int = 100000) -> dict[str, str]:
    return {f"{folder}/cpu.cfs_quota_us": f"{quota}\n", f"{folder}/cpu.cfs_period_us": f"{period}\n"}


@pytest.mark.parametrize("name", ["core_cpus_list", "thread_siblings_list"])
def test_two_threads_of_a_core_count_once(tmp_path: Path, name: str) -> None:
    root = machine(tmp_path, name=name)
    assert cpu_limits(root, range(16)) == CpuLimits(8, 8, None)
    assert cpu_limits(root, range(16)).threads is None  # nothing is limited: ONNX Runtime's default
    bound = cpu_limits(root, [1, 2, 9])
    assert (bound, bound.threads) == (CpuLimits(8, 2, None), 2)
    assert str(bound) == "8 physical cores, of which 2 by CPU affinity"


@pytest.mark.parametrize(
    ("line", "mount", "files", "quota"),
    [
        ("0::/", _V2, {"sys/fs/cgroup/cpu.max": "350000 100000\n"}, 3.5),
        ("0::/", _V2, {"sys/fs/cgroup/cpu.max": "max 100000\n"}, None),
        ("0::/", _V2, {}, None),  # the topmost group of a machine has no such file
        # The smallest of a group and those above it, up to the topmost one that is visible
        (
            "0::/kubepods/pod/app",
            _V2,
            {"sys/fs/cgroup/kubepods/pod/app/cpu.max": "max 100000", "sys/fs/cgroup/kubepods/cpu.max": "20000 10000"},
            2.0,
        ),
        ("0::/../../other", _V2, {"sys/fs/cgroup/cpu.max": "150000 100000"}, 1.5),  # outside of its namespace
        (f"3:cpu,cpuacct:{_DOCKER}", _V1.format(_DOCKER), v1("sys/fs/cgroup/cpu,cpuacct", 250000), 2.5),
        (f"3:cpu,cpuacct:{_DOCKER}", _V1.format("/"), v1(f"sys/fs/cgroup/cpu,cpuacct{_DOCKER}", 50000), 0.5),
        ("3:cpu,cpuacct:/", _V1.format("/"), v1("sys/fs/cgroup/cpu,cpuacct", -1), None),
        # Both versions are mounted, and the first one limits
        ("3:cpu,cpuacct:/\n0::/", _V2 + _V1.format("/"), v1("sys/fs/cgroup/cpu,cpuacct", 300000), 3.0),
        ("0::/", _V2, {"sys/fs/cgroup/cpu.max": "oops\n"}, None),
        ("oops\n0::/", _V2, {"sys/fs/cgroup/cpu.max": "350000 100000\n"}, 3.5),
        ("0::/", _V2, {"sys/fs/cgroup/cpu.max": "100000 0\n"}, None),
    ],
)
def test_quotas_of_both_versions(tmp_path: Path, line: str, mount: str, files: dict[str, str], quota: float | None) -> None:
    assert cpu_limits(group(machine(tmp_path), line, mount, files), range(16)).quota == quota


@pytest.mark.parametrize(
    ("limits", "threads"),
    [
        (CpuLimits(8, 8, 3.9), 3),
        (CpuLimits(8, 2, 3.9), 2),
        (CpuLimits(8, 8, 0.5), 1),
        (CpuLimits(8, 8, 64.0), None),
        (CpuLimits(1, 1, 0.5), None),  # one thread anyway
        (CpuLimits(0, 0, None), None),  # another system
        (CpuLimits(0, 0, 2.5), 2),
        (CpuLimits(0, 4, 64.0), 4),  # not more threads than CPUs where the system does not tell the cores
        (CpuLimits(0, 4, 2.5), 2),
        (CpuLimits(0, 4, None), None),
        (CpuLimits(8, 0, None), None),
    ],
)
def test_the_smallest_limit_decides(limits: CpuLimits, threads: int | None) -> None:
    assert limits.threads == threads
    assert with_threads(Options(), print, limits).threads == threads
    assert with_threads(Options(threads=7), print, limits).threads == 7


def test_less_than_one_core_is_said() -> None:
    said: list[str] = []
    with_threads(Options(), said.append, CpuLimits(8, 8, 0.25))
    assert [text.split(":")[0] for text in said] == ["the quota of this process's control group is 0.25 of a core"]
    assert "sessions have one thread" in said[0]
    with_threads(Options(threads=2), said.append, CpuLimits(8, 8, 0.25))
    assert len(said) == 1  # with a number of threads, the user has decided


def test_missing_files_are_no_limit(tmp_path: Path) -> None:
    assert cpu_limits(tmp_path, ()) == CpuLimits(0, 0, None)
    assert str(cpu_limits(tmp_path, ())) == "an unknown number of cores"
    assert cpu_limits(tmp_path, range(4)) == CpuLimits(0, 4, None)
    assert str(cpu_limits(tmp_path, range(4))) == "an unknown number of cores, of which 4 CPUs by CPU affinity"


def test_sessions_get_the_threads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = write_bundle(tmp_path / "bundle", tokenizer=False)
    monkeypatch.setattr(cpu_module, "cpu_limits", lambda: CpuLimits(64, 64, 3.0))
    made: list[Any] = []
    create = onnxruntime.InferenceSession

    def recorded(*given: Any, **more: Any) -> Any:
        made.append(create(*given, **more))
        return made[-1]

    monkeypatch.setattr(onnxruntime, "InferenceSession", recorded)
    predictor = runtime.load(bundle, provider="cpu")
    predictor.node_counts()
    assert [session.get_session_options().intra_op_num_threads for session in made] == [3, 3]
    assert predictor.options.threads is None  # as it was passed


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (Options(), {"session.force_spinning_stop": "1"}),
        (Options(spin=False), {"session.intra_op.allow_spinning": "0", "session.inter_op.allow_spinning": "0"}),
        (Options(session_config={"session.force_spinning_stop": "0"}), {"session.force_spinning_stop": "0"}),
    ],
)
def test_no_thread_spins_after_a_run(options: Options, expected: dict[str, str]) -> None:
    settings = session_options(CPU, options, packed=False)
    assert {name: settings.get_session_config_entry(name) for name in expected} == expected


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system has no CPU affinity")
def test_the_affinity_of_this_process_counts() -> None:
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(before)})
        assert cpu_limits().affinity == 1
        assert survey()["cpu"]["threads"] == 1
    finally:
        os.sched_setaffinity(0, before)
