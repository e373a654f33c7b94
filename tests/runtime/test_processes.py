"""A predictor in other processes: forks and pickles."""

import copy
import pickle
import subprocess
import sys
import textwrap
from dataclasses import replace
from pathlib import Path

import pytest

import runtime
from tests.helpers.runtime_bundles import write_bundle

_FORK = """
    import os, sys, warnings
    import numpy as np
    import runtime
    from tests.helpers.runtime_bundles import feeds

    warnings.simplefilter("ignore")  # Python warns of forks of processes with threads
    threads = int(sys.argv[2])
    predictor = runtime.load(sys.argv[1], provider="cpu", threads=threads)
    before = predictor.run(feeds())
    texts = ["one", "two three", "four"]
    words = predictor.predict(texts)
    if (child := os.fork()) == 0:
        code = 0
        calls = ((predictor.run, feeds()), (predictor.run_on_device, feeds()), (predictor.predict, texts))
        for call, given in calls if threads > 1 else ():
            try:
                call(given)
                code = 2
            except runtime.AdapterDropError as error:
                expected = (f"loaded in process {os.getppid()}", str(os.getpid()), "runtime.load() after the fork", "spawn")
                code = code if all(part in str(error) for part in expected) else 3
        used = predictor if threads == 1 else runtime.load(sys.argv[1], provider="cpu", threads=threads)
        after = used.run(feeds())
        same = all(np.array_equal(before[task], after[task]) for task in before)
        same = same and used.predict(texts) == words
        os._exit(code if same else 4)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    predictor.run(feeds())  # the parent goes on
    sys.exit(status)
"""


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bundle(tmp_path_factory.mktemp("processes") / "bundle")


@pytest.mark.skipif(sys.platform == "win32", reason="there is no fork on Windows")
@pytest.mark.parametrize("threads", [1, 2])
def test_a_fork_is_refused_unless_it_needs_no_threads(bundle: Path, threads: int) -> None:
    root = Path(runtime.__file__).parents[1]
    command = [sys.executable, "-c", textwrap.dedent(_FORK), str(bundle), str(threads)]
    found = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=60, check=False)
    assert found.returncode == 0, found.stderr


def test_pickling_says_what_to_pass_instead(bundle: Path) -> None:
    predictor = runtime.load(bundle, provider="cpu", threads=1)
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        with pytest.raises(
            TypeError, match=r"Predictor cannot be pickled: .* pass the folder and the arguments of runtime.load"
        ):
            pickle.dumps(predictor, protocol)
    with pytest.raises(TypeError, match="Predictor cannot be pickled"):
        copy.deepcopy(predictor)
    assert copy.copy(predictor) is predictor
    assert replace(predictor, hooks=()).drops == predictor.drops
