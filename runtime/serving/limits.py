"""Limits of an HTTP service, and the error of a request that exceeds one."""

from dataclasses import dataclass, fields

from runtime.errors import InputError


class RequestError(Exception):
    """A request that is refused or fails, with its HTTP status.

    Attributes:
        status: HTTP status.
        headers: further headers of the response.
    """

    def __init__(self, status: int, message: str, headers: dict[str, str] | None = None) -> None:
        """Create the error; `message` states what was expected, what was found and what to do next."""
        super().__init__(message)
        self.status = status
        self.headers = headers or {}


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Limits of a replica. Each field is an argument of the application with the same name.

    Attributes:
        max_body_bytes: bytes of the body of a request.
        max_texts: texts of a request.
        max_characters: characters of a text or pair. The predictor has limits in characters and tokens too.
        max_response_bytes: bytes of the predictions of a request.
        max_waiting_characters: characters of all accepted requests without a response. Requests with few characters are
            accepted beyond it, because they cost little and their number is limited by `max_ongoing`.
        max_reading: requests whose body is being received; if there are more, the one that takes longest is refused.
        body_seconds: seconds to receive the body of a request.
        request_seconds: seconds from the complete body to the response.

    Raises:
        InputError: a field is not positive; the message names all such fields.
    """

    max_body_bytes: int = 4_000_000
    max_texts: int = 4_096
    max_characters: int = 100_000
    max_response_bytes: int = 64_000_000
    max_waiting_characters: int = 8_000_000
    max_reading: int = 32
    body_seconds: float = 10.0
    request_seconds: float = 60.0

    def __post_init__(self) -> None:
        """Check the fields."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        # not `value <= 0`, which NaN passes
        if problems := [
            f"{name}: expected a positive number, found {value}" for name, value in values.items() if not value > 0
        ]:
            raise InputError("; ".join(problems))
