"""A predictor in other processes: forks and pickles."""

import contextlib
import copy
import multiprocessing
import os
import pickle
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import runtime
from runtime import LatencyTarget, OpenVINOOptions, Options
from runtime.bundle import read_manifest
from runtime.ort import open_sessions as session
from runtime.ort.forks import PerProcess
from runtime.ort.known_providers import CPU, CUDA, OPENVINO
from runtime.ort.lazy_sessions import OnDemandSessions
from runtime.ort.open_bundle import OpenBundle
from runtime.ort.session import create_session
from tests.helpers.runtime_bundles import feeds, rewrite, write_bundle, write_routed

ROOT = Path(runtime.__file__).parents[1]
_HEAD = """
    import multiprocessing, os, sys, time, warnings
    from concurrent.futures import ThreadPoolExecutor
    import numpy as np
    import runtime
    from runtime import Options
    from tests.helpers.runtime_bundles import feeds

    warnings.simplefilter("ignore")  # Python warns of forks of processes with threads
    folder, provider, threads = sys.argv[1], sys.argv[2], int(sys.argv[3])
    options = Options(threads=threads, share_weights=False)
    predictor = runtime.load(folder, provider=provider, options=options)
    texts = ["one", "two three", "four"] * 20
    names = ["flags", "topic"]

    def answers():
        device = {task: value.numpy() for task, value in predictor.run_on_device(feeds()).items()}
        routed = predictor.run_routed(feeds(), names)
        words = predictor.predict(texts)
        return {**predictor.run(feeds()), **{"d" + task: value for task, value in device.items()}}, routed, words

    def same(found, other):
        close = [np.allclose(found[0][key], other[0][key], atol=1e-5) for key in other[0]]
        close += [np.allclose(one, two, atol=1e-5) for one, two in zip(found[1], other[1], strict=True)]
        labels = [[each.label for each in found[2][task]] == [each.label for each in other[2][task]] for task in other[2]]
        return all(close) and all(labels) and len(close) == 8

"""
# Children end by os._exit, as those of multiprocessing do: the exit handler of ONNX Runtime itself waits for its threads
_FORK = """
    before = answers()

    def status_of(work):
        if (process := os.fork()) == 0:
            code = 9
            try:
                code = work()
            finally:
                os._exit(code)
        return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])

    def grandchild():
        return 0 if same(answers(), before) else 5

    def child():
        global predictor
        with ThreadPoolExecutor(8) as pool:  # all threads need the sessions first
            found = list(pool.map(lambda _: answers(), range(8)))
        if not all(same(each, before) for each in found):
            return 4
        predictor.prepare()
        if not predictor.verify():
            return 6
        if (status := status_of(grandchild)) != 0:
            return status
        predictor = None  # does not wait for the threads of the parent
        return 0

    time.sleep(0.5)  # until the threads of the sessions sleep, for which the end of a session in the child would wait
    status = status_of(child)
    assert same(answers(), before)  # the parent goes on
    sys.exit(status)
"""
_MOVED = """
    def work(_):
        found = predictor.run(feeds())
        return all(np.allclose(found[task], before[task], atol=1e-5) for task in before)

    before = predictor.run(feeds())
    os.rename(folder, folder + "-moved")
    with multiprocessing.get_context("fork").Pool(1) as pool:
        sys.exit(0 if all(pool.map(work, range(2))) else 4)
"""
_POOLS = """
    before = answers()

    def work(number):
        return same(answers(), before)

    with multiprocessing.get_context("fork").Pool(2) as pool:
        sys.exit(0 if all(pool.map(work, range(6))) else 4)
"""


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_routed(tmp_path_factory.mktemp("processes") / "bundle")


def _status(program: str, folder: Path, provider: str, threads: int) -> tuple[int, str]:
    command = [sys.executable, "-c", textwrap.dedent(_HEAD) + textwrap.dedent(program), str(folder), provider, str(threads)]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, encoding="utf-8", timeout=60, check=False)
    return found.returncode, found.stderr


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("program", [_FORK, _POOLS], ids=["fork", "pool"])
def test_forked_processes_open_their_own_sessions(bundle: Path, program: str, threads: int) -> None:
    status, error = _status(program, bundle, "cpu", threads)
    assert status == 0, error


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_forks_with_openvino(bundle: Path) -> None:
    pytest.importorskip("onnxruntime_ep_openvino", reason="needs onnxruntime-ep-openvino")
    status, error = _status(_FORK, bundle, "openvino", 2)
    assert status == 0, error


def test_gpus_are_refused_in_forks(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    create = create_session
    monkeypatch.setattr(session, "create_session", lambda graph, _, *more: create(graph, CPU, *more))
    monkeypatch.setattr(session, "resolve", lambda *_: (CUDA,))
    predictor = runtime.load(bundle, provider="cuda")
    predictor.run(feeds())
    parent = os.getpid()
    monkeypatch.setattr(os, "getpid", lambda: parent + 1)
    for call in (predictor.run, predictor.run_on_device):
        with pytest.raises(runtime.AdapterDropError, match=rf"loaded in process {parent} .* provider cuda .*spawn"):
            call(feeds())
    with pytest.raises(runtime.AdapterDropError, match=r"call runtime\.load\(\) only after the fork"):
        predictor.predict(["one"])
    with pytest.raises(runtime.AdapterDropError, match="provider cuda cannot be used"):
        predictor.prepare()


def test_openvino_on_a_gpu_is_refused_in_forks(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    create = create_session
    monkeypatch.setattr(session, "create_session", lambda graph, _, *more: create(graph, CPU, *more))
    monkeypatch.setattr(session, "resolve", lambda *_: (OPENVINO,))
    loaded = {
        device: runtime.load(bundle, "openvino", options=Options(openvino=OpenVINOOptions(device=device)))
        for device in ("CPU", "GPU.0", "AUTO")
    }
    parent = os.getpid()
    monkeypatch.setattr(os, "getpid", lambda: parent + 1)
    assert loaded.pop("CPU")._bundle.forked is not None
    for predictor in loaded.values():
        with pytest.raises(runtime.AdapterDropError, match=r"provider openvino cannot be used: start workers .*spawn"):
            predictor.run(feeds())


def test_a_fork_opens_no_graph_by_itself() -> None:
    made: list[str] = []

    def make(name: str, *_: object) -> str:
        made.append(name)
        return name

    graph: Any = None
    sessions = OnDemandSessions({"model.onnx": graph, "trunk.onnx": graph}, {"trunk.onnx"}, make)
    opened = OpenBundle(OPENVINO, sessions, graph).opened()  # the handler of forks keeps these
    assert (opened, made) == (["model.onnx"], ["model.onnx"])
    assert [sessions["trunk.onnx"], *sessions.opened()] == ["trunk.onnx", "model.onnx", "trunk.onnx"]


def test_a_value_is_made_once_per_process(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []

    def make() -> int:
        made.append(os.getpid())
        if len(made) == 1:
            raise runtime.BundleError("not yet")
        return made[-1]

    value = PerProcess(make)
    with pytest.raises(runtime.BundleError):
        value.get()
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda _: value.get(), range(8))) == [os.getpid()] * 8
    monkeypatch.setattr(os, "getpid", lambda: 1)
    assert value.get() == 1
    assert len(made) == 3


def unpickled(content: bytes) -> Any:
    return pickle.loads(content)  # noqa: S301 - made by this test


@contextlib.contextmanager
def quiet(_: runtime.Run) -> Iterator[None]:
    """A hook."""
    yield


def test_a_pickle_is_the_folder_and_the_options(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = Options(threads=1, spin=False, cache=tmp_path / "cache")
    monkeypatch.chdir(bundle.parent)
    predictor = runtime.load("bundle", provider="cpu", drop=5, options=options, policy=LatencyTarget(0.5), hooks=[quiet])
    monkeypatch.chdir("/")
    for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
        content = pickle.dumps(predictor, protocol)
        assert len(content) < 3000
        other = unpickled(content)
        assert (other.options, other.drops, other.hooks, other.provider) == (options, (5,), (quiet,), "cpu")
        assert isinstance(other.policy, LatencyTarget)
        np.testing.assert_array_equal(other.run(feeds())["topic"], predictor.run(feeds())["topic"])
    run = unpickled(pickle.dumps(predictor.predict))  # what pools do with a method
    assert run(["one"]) == predictor.predict(["one"])


def test_copies_are_the_predictor_itself(bundle: Path) -> None:
    predictor = runtime.load(bundle, provider="cpu", threads=1)
    assert copy.copy(predictor) is predictor
    assert copy.deepcopy({"key": [predictor]})["key"][0] is predictor
    assert unpickled(pickle.dumps(replace(predictor, hooks=(quiet,)))).hooks == (quiet,)


def _labels(predictor: runtime.Predictor, texts: list[str]) -> list[Any]:
    return [each.label for each in predictor.predict(texts, ["topic"])["topic"]]


def test_spawned_workers_load_the_bundle(bundle: Path) -> None:
    predictor = runtime.load(bundle, provider="cpu", threads=2)
    texts = ["one", "two three", "four"]
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        assert pool.submit(_labels, predictor, texts).result(timeout=120) == _labels(predictor, texts)
        assert list(pool.map(predictor.predict, [texts])) == [predictor.predict(texts)]


def test_another_bundle_in_the_folder_is_refused(bundle: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(bundle, tmp_path / "bundle")
    content = pickle.dumps(runtime.load(folder, provider="cpu", threads=1))
    rewrite(folder, versions={**read_manifest(folder).versions, "onnx": "2"})
    with pytest.raises(runtime.BundleError, match=r"pickled with another bundle .*expected adapterdrop.json with sha256"):
        unpickled(content)
    shutil.rmtree(folder)
    with pytest.raises(runtime.BundleError, match="there is no such folder"):
        unpickled(content)


def test_what_cannot_be_pickled_is_named(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "cloudpickle", raising=False)
    hooked = runtime.load(bundle, provider="cpu", threads=1, hooks=[lambda run: contextlib.nullcontext(run)])
    with pytest.raises(runtime.InputError, match=r"^hooks: .*lambda.* cannot be pickled: .*; use classes and functions of"):
        pickle.dumps(hooked)
    told = runtime.load(bundle, provider="cpu", options=Options(threads=1, progress=lambda _: None))
    with pytest.raises(runtime.InputError, match=r"^options\.progress: .*<lambda>.* cannot be pickled"):
        pickle.dumps(told)


def test_cloudpickle_takes_lambdas(bundle: Path) -> None:
    cloudpickle = pytest.importorskip("cloudpickle")
    predictor = runtime.load(bundle, provider="cpu", threads=1, hooks=[lambda run: contextlib.nullcontext(run)])
    other = unpickled(cloudpickle.dumps(predictor))
    assert len(other.hooks) == 1
    assert other.run(feeds()).drop == 5


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_fork_opens_the_files_of_its_parent(tmp_path: Path) -> None:
    folder = write_bundle(tmp_path / "bundle")
    status, error = _status(_MOVED, folder, "cpu", 2)
    assert status == 0, error
