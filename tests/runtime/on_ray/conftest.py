"""One local Ray for all tests that need one: to start it takes longer than any of them."""

from collections.abc import Iterator
from pathlib import Path

import pytest

import runtime
from tests.helpers.local_ray import local_ray, start_serve
from tests.helpers.runtime_bundles import write_bundle


@pytest.fixture(scope="package")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bundle(tmp_path_factory.mktemp("ray") / "bundle")


@pytest.fixture(scope="package")
def predictor(bundle: Path) -> runtime.Predictor:
    return runtime.load(bundle, provider="cpu", threads=1)


@pytest.fixture(scope="package")
def ray() -> Iterator[None]:
    with local_ray():
        yield


@pytest.fixture(scope="package")
def serve_url(ray: None) -> str:
    """The address of Ray Serve, which the modules give an application."""
    return start_serve()
