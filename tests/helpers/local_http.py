"""Requests to a service on this machine."""

from __future__ import annotations

import json
import socket
import urllib.error
import urllib.request
from collections.abc import Mapping
from typing import Any

PATIENCE = 120  # seconds after which a test fails instead of waiting without end; a quiet machine needs a few


def free_port() -> int:
    """A port of 127.0.0.1 on which nothing listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    return port


def send(url: str, body: object = None, headers: Mapping[str, str] | None = None) -> tuple[int, Any]:
    """Send a request; return the status and the answer, decoded where it is JSON.

    Args:
        url: of the service.
        body: bytes, or what is sent as JSON; None for GET.
        headers: instead of the content type of JSON.
    """
    data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
    sent = {"Content-Type": "application/json"} if headers is None else dict(headers)
    request = urllib.request.Request(url, data, sent)  # noqa: S310 - http, to this machine
    try:
        with urllib.request.urlopen(request, timeout=PATIENCE) as reply:  # noqa: S310
            status, content = reply.status, reply.read()
    except urllib.error.HTTPError as error:
        status, content = error.code, error.read()
    return status, json.loads(content) if content[:1] in (b"{", b"[") else content.decode()
