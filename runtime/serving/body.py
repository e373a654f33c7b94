"""Reception of request bodies, limited in size and time."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import Final

from runtime.serving.limits import Limits, RequestError

# A body up to this multiple of the limit is received and discarded: most clients read no response before they have sent it all
_DISCARDED: Final = 10
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
        most = self._limits.max_body_bytes
        announced = headers.get("content-length", "")
        length = int(announced[:20]) if announced.isdecimal() else 0
        if length > _DISCARDED * most:
            raise self._too_large(f"{length:,}", close=True)
        body, received = bytearray(), 0
        now = asyncio.get_running_loop().time()
        try:
            async with asyncio.timeout_at(now + self._limits.body_seconds) as deadline:
                self._make_room(now)
                self._reading[deadline] = now
                try:
                    async for part in stream:
                        received += len(part)
                        if max(received, length) <= most:
                            body += part
                        elif received > _DISCARDED * most:
                            raise self._too_large("more", close=True)
                        else:
                            body.clear()
                finally:
                    self._reading.pop(deadline, None)
        except TimeoutError as error:
            raise RequestError(
                408,
                f"body: incomplete after {asyncio.get_running_loop().time() - now:.0f} s ({received:,} bytes received); the "
                f"limits are body_seconds={self._limits.body_seconds:g} and max_reading={self._limits.max_reading}, the number "
                "of bodies that are received at a time; send the body at once, or start the application with other limits",
                {"Connection": "close"},
            ) from error
        if max(received, length) > most:
            raise self._too_large(f"{max(received, length):,}")
        return body

    def _make_room(self, now: float) -> None:
        while len(self._reading) >= self._limits.max_reading:
            oldest = next(iter(self._reading))
            started = self._reading.pop(oldest)
            if not oldest.expired():  # its own time can be over, although its task has not run since
                oldest.reschedule(max(now, started + _GRACE_SECONDS))

    def _too_large(self, found: str, close: bool = False) -> RequestError:
        expected = f"body: expected at most max_body_bytes={self._limits.max_body_bytes:,} bytes, found {found}"
        remedy = "send several requests, or start the application with a larger max_body_bytes"
        return RequestError(413, f"{expected}; {remedy}", {"Connection": "close"} if close else None)
