"""Fixtures that several files share."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import io
import logging
import os
import sys
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from filelock import FileLock

# Nothing in the tests may reach for a hub; set before transformers is imported.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
# torch's cache of what operators do to shapes costs a trace of a tiny model more than it saves; the graphs are the same bytes.
os.environ["TORCH_FAKE_TENSOR_DISPATCH_CACHE"] = "0"
# One thread a worker: tiny models gain nothing from more, and workers that share the cores lose by waiting for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="session")
def example_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that `python -m exporter --drop 5` writes; export.txt and progress.txt next to it are what the command prints.

    The first worker that asks for it exports it for all; tests must not change it.
    """
    from exporter.cli.main import main

    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "example" / "onnx"
    folder.parent.mkdir(exist_ok=True)
    with FileLock(folder.parent / "lock"):
        if not folder.exists():
            output, errors = io.StringIO(), io.StringIO()
            with (
                patch.dict(os.environ, COLUMNS="80"),
                contextlib.redirect_stdout(output),
                contextlib.redirect_stderr(errors),
            ):
                assert main(["--drop", "5", "--output", str(folder)]) == 0
            for name, printed in (("export.txt", output), ("progress.txt", errors)):
                (folder.parent / name).write_text(printed.getvalue(), encoding="utf-8")
    return folder


@pytest.fixture(autouse=True, scope="session")
def _traces_once() -> Iterator[None]:
    """Equal structures are traced once; `fresh_traces` is for tests of the trace itself."""
    from exporter.trace import trace
    from tests.helpers.shared_traces import SharedTraces

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trace, "trace", SharedTraces(trace.trace))
        yield


@pytest.fixture
def fresh_traces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Traces as the command line does, whatever other tests have traced before."""
    from exporter.trace import trace
    from tests.helpers.shared_traces import SharedTraces

    shared = trace.trace
    monkeypatch.setattr(trace, "trace", shared.original if isinstance(shared, SharedTraces) else shared)


@pytest.fixture(autouse=True)
def _threads_of_torch() -> Iterator[None]:
    """Commands set the threads of their process; what comes after a test of one would wait for threads that take its core."""
    torch = sys.modules.get("torch")
    threads = None if torch is None else torch.get_num_threads()
    yield
    if torch is not None and torch.get_num_threads() != threads:
        torch.set_num_threads(threads)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--device", choices=("cuda", "cpu"), help="run the tests marked gpu there")
    parser.addoption("--no-skips", action="store_true", help="fail each test that would be skipped, with its reason")
    parser.addoption(
        "--fresh-environments", action="store_true", help="install the wheels into new environments, from a registry"
    )


def missing_gpu() -> str | None:
    """Why no GPU can be used here; None if one can."""
    import onnxruntime

    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():  # the CPU package says that without a driver
        return f"onnxruntime {onnxruntime.__version__} has no CUDA provider: install onnxruntime-gpu in place of it"
    try:
        driver, count = ctypes.CDLL("libcuda.so.1"), ctypes.c_int()
    except OSError as error:
        return f"no driver of NVIDIA ({error})"
    if driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count)) or not count.value:
        return "the driver of NVIDIA sees no GPU: check nvidia-smi and CUDA_VISIBLE_DEVICES"
    return None


def pytest_configure(config: pytest.Config) -> None:
    """Refuse --device cuda without a GPU before anything is exported for it."""
    if config.getoption("--device") == "cuda" and (reason := missing_gpu()) is not None:
        raise pytest.UsageError(f"--device cuda: {reason}; --device cpu rehearses the tests without a GPU")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skip the tests for a GPU on a machine without one."""
    if config.getoption("--device") is None and (reason := missing_gpu()) is not None:
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason=f"needs a GPU: {reason}"))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Fail a test that was skipped, with `--no-skips`: a target that prepares what its tests need must not pass without it."""
    report = yield
    if report.skipped and isinstance(report.longrepr, tuple) and item.config.getoption("--no-skips"):
        report.outcome, report.longrepr = "failed", report.longrepr[2]
    return report


@pytest.hookimpl(optionalhook=True)  # pytest-xdist may not be installed
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Distribute the tests in groups, with whatever is not `--dist each`."""
    from tests.helpers.groups import Groups

    return None if config.getoption("dist") == "each" else Groups(config, log)


@contextlib.contextmanager
def _compiled_once() -> Iterator[None]:
    """Where nothing is compiled yet, let one worker compile what all import while the others wait; each would take 20 s."""
    done = Path(sys.pycache_prefix or ".") / "collected"
    lock = FileLock(f"{done}.lock")
    with contextlib.ExitStack() as stack:
        if "PYTEST_XDIST_WORKER" in os.environ and sys.pycache_prefix is not None and not done.exists():
            with contextlib.suppress(OSError):  # Python does without the folder, too, where it cannot write
                done.parent.mkdir(parents=True, exist_ok=True)
                stack.enter_context(lock)
        if done.exists():  # another worker has just written it
            stack.close()
        yield
        if lock.is_locked:
            done.touch()


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Collect without garbage collection, and leave what is imported out of every later one."""
    gc.disable()
    try:
        with _compiled_once():
            return (yield)
    finally:
        gc.freeze()
        gc.enable()
        gc.set_threshold(20_000, 10, 100)  # the default thresholds take 9 % of the time, and save 3 % of the memory
        # pytest listens to all loggers that do not propagate; to who listens there, torch describes each step of a trace.
        logging.getLogger("torch.__trace").propagate = True
