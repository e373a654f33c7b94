"""ONNX Runtime reports nothing, unless the environment allows it."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

_NAME = "ORT_DISABLE_TELEMETRY"


@pytest.mark.parametrize("package", ["runtime", "exporter", "benchmarks"])
@pytest.mark.parametrize(("given", "expected"), [(None, "1"), ("0", "0")])
def test_onnx_runtime_does_not_report(package: str, given: str | None, expected: str) -> None:
    environment = {name: value for name, value in os.environ.items() if name != _NAME}
    if given is not None:
        environment[_NAME] = given
    # The variable counts when ONNX Runtime is imported.
    code = f"import os, sys, {package}; print(os.environ['{_NAME}'], 'onnxruntime' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == [expected, "False"]
