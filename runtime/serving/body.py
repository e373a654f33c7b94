"""Reception of request bodies, limited in size and time."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import Final

from runtime.serving.limits import Limits, RequestError

_GRACE_SECONDS: Final = 1.0  # no request is refused earlier because many bodies are being received


class BodyReader:
    """Receives bodies. Slow connections cannot take all places of a replica: see `Limits.max_reading`."""

    def __init__(self, limits: Limits) -> None:
        """Create a reader for one event loop."""
        self._limits = limits
        self._reading: dict[asyncio.Timeout, float] = {}  # the deadlines of bodies -> start, oldest first

    async def read(self, headers: Mapping[str, str], stream: AsyncIterator[bytes]) -> bytearray:
        """Receive a body.

        Args:
            headers: headers of the request.
            stream: parts of the body.

        Raises:
            RequestError: the body is too large (413) or too slow (408).
        """
        length = headers.get("content-length", "")
        if length.isdecimal() and int(length[:20]) > self._limits.max_body_bytes:
            # The connection stays open, so that the client can send the rest and read the response
            raise self._too_large(f"{int(length[:20]):,}")
        body = bytearray()
        now = asyncio.get_running_loop().time()
        try:
            async with asyncio.timeout_at(now + self._limits.body_seconds) as deadline:
                self._make_room(now)
                self._reading[deadline] = now
                try:
                    async for part in stream:
                        body += part
                        if len(body) > self._limits.max_body_bytes:
                            raise self._too_large("more", {"Connection": "close"})
                finally:
                    self._reading.pop(deadline, None)
        except TimeoutError as error:
            raise RequestError(
                408,
                f"body: incomplete after {asyncio.get_running_loop().time() - now:.0f} s ({len(body):,} bytes received); the "
                f"limits are body_seconds={self._limits.body_seconds:g} and max_reading={self._limits.max_reading}, the number "
                "of bodies that are received at a time; send the body at once, or start the application with other limits",
                {"Connection": "close"},
            ) from error
        return body

    def _make_room(self, now: float) -> None:
        while len(self._reading) >= self._limits.max_reading:
            oldest = next(iter(self._reading))
            started = self._reading.pop(oldest)
            oldest.reschedule(max(now, started + _GRACE_SECONDS))

    def _too_large(self, found: str, headers: dict[str, str] | None = None) -> RequestError:
        expected = f"body: expected at most max_body_bytes={self._limits.max_body_bytes:,} bytes, found {found}"
        remedy = "send several requests, or start the application with a larger max_body_bytes"
        return RequestError(413, f"{expected}; {remedy}", headers)
