"""One bundle for all tests of streams."""

from pathlib import Path

import pytest

import runtime
from tests.helpers.runtime_bundles import write_bundle


@pytest.fixture(scope="package")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bundle(tmp_path_factory.mktemp("streams") / "bundle")


@pytest.fixture(scope="package")
def predictor(bundle: Path) -> runtime.Predictor:
    return runtime.load(bundle, provider="cpu", threads=1)
