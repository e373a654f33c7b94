"""A local Ray, and applications that it serves."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from tests.helpers.local_http import free_port

_ROOT = Path(__file__).parents[2]


@contextmanager
def local_ray() -> Iterator[None]:
    """Start Ray on this machine. Its three CPUs are slots, not cores: Ray starts a process for each."""
    ray = pytest.importorskip("ray", reason="needs ray, which the extra `test` installs")
    settings = {"num_cpus": 3, "object_store_memory": 10**8, "include_dashboard": False, "log_to_driver": False}
    # Not in a runtime_env: no worker that Ray has started before has one, so that it would start others.
    with patch.dict(os.environ, PYTHONPATH=str(_ROOT)):
        ray.init("local", **settings)
    try:
        yield
    finally:
        ray.shutdown()


def start_serve() -> str:
    """Start Ray Serve without an application in the local Ray, and return its address."""
    serve = pytest.importorskip("ray.serve", reason="needs ray[serve], which the extra `test` installs")
    port = free_port()
    serve.start(http_options={"port": port})
    return f"http://127.0.0.1:{port}/"


@contextmanager
def served(folder: Path, arguments: Mapping[str, Any]) -> Iterator[None]:
    """Serve a bundle with two replicas, on the CPU with one thread each, at the address of Ray Serve.

    Args:
        folder: the bundle.
        arguments: further arguments of the application.
    """
    from ray import serve

    from runtime.serving.ray_app import app

    name = "default"
    serve.run(app({"folder": str(folder), "provider": "cpu", "threads": 1, "replicas": 2} | dict(arguments)), name=name)
    try:
        yield
    finally:
        serve.delete(name)
