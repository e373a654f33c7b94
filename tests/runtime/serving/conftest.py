"""One bundle and its predictor for all tests of serving engines."""

from pathlib import Path

import pytest

import runtime
from tests.helpers.runtime_bundles import write_bundle


@pytest.fixture(scope="package")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bundle(tmp_path_factory.mktemp("serving") / "bundle")


@pytest.fixture(scope="package")
def predictor(bundle: Path) -> runtime.Predictor:
    return runtime.load(bundle, provider="cpu", threads=1)
