"""Fixtures of the tests on a GPU: `make gpu`, or `pytest tests/gpu --device cpu` to rehearse them on a CPU."""

from __future__ import annotations

import pytest
import torch


@pytest.fixture(scope="session")
def device(request: pytest.FixtureRequest) -> str:
    """The name of the provider, and of the device in PyTorch."""
    return str(request.config.getoption("--device") or "cuda")


@pytest.fixture
def gpu(device: str) -> None:
    """For tests of what only a GPU has."""
    if device != "cuda":
        pytest.skip("needs a GPU, not its rehearsal")


@pytest.fixture(autouse=True, scope="session")
def _exact_reference() -> None:
    """PyTorch on the GPU multiplies in fp32, as its default is for matrix products but not for convolutions."""
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
