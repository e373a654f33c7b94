"""Which tests run in one worker of pytest-xdist, because they share fixtures, traces or processes.

Marks with `--dist loadgroup` would do the same, but pytest-xdist 3.8 ignores them with pytest 9.2, without a word
(https://github.com/pytest-dev/pytest-xdist/issues/1386): each worker then makes every fixture of every file.
"""

from __future__ import annotations

from xdist.scheduler import LoadScopeScheduling

# Start of a test's path -> what all tests with it share. Tests that share it run in one worker.
TOGETHER = {
    "tests/runtime/on_ray/": "a local Ray",
    "tests/benchmarks/test_serving.py": "a fork server",
    "tests/benchmarks/test_suite.py": "a fork server",
    "tests/exporter/cli/test_command_line.py": "a fork server",
    "tests/exporter/cli/test_streams_and_names.py": "a fork server",
    "tests/exporter/hub/test_push.py": "a fork server",
    "tests/fuzz/test_fuzz.py": "a fork server",
    "tests/runtime/test_hub.py": "a fork server",
    "tests/test_portability.py": "a fork server",
}
# What a test on a GPU names besides the model, whose exports the tests of several precisions share.
_KINDS = {"own", "portable", "fp32", "fp16", "int8"}


class Groups(LoadScopeScheduling):  # type: ignore[misc]
    """Distributes the largest groups first, so that single tests at the end keep all workers busy."""

    def _split_scope(self, nodeid: str) -> str:
        return group_of(nodeid)


def group_of(nodeid: str) -> str:
    """The group of a test: its file, or itself if it shares nothing.

    Args:
        nodeid: name of the test, as pytest prints it.
    """
    file, _, test = nodeid.partition("::")
    if file.rpartition("/")[2].startswith("test_support"):  # rows of the support table, each with another model
        return nodeid
    if file == "tests/gpu/test_parity.py":
        return " ".join([file, *sorted(set(test.rpartition("[")[2].removesuffix("]").split("-")) - _KINDS)])
    return next((group for start, group in TOGETHER.items() if file.startswith(start)), file)
