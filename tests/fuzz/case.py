"""Cases and outcomes: plain data, so that a find is a small JSON file that is repeated exactly."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

# Outcomes that are right: the input was accepted, or refused with a clear error.
RIGHT = ("result", "refused")
# Outcomes that are wrong, and what they mean.
WRONG: Mapping[str, str] = {
    "exception": "an exception that the package does not define",
    "output": "a command line with a traceback, another exit status, or not exactly one error message",
    "crash": "the process died",
    "hang": "it took more than 10 seconds",
    "memory": "it took more memory than the bound",
    "files": "a file outside the output folder was made or changed",
}


@dataclass(frozen=True)
class Case:
    """One input of the programs.

    Attributes:
        surface: the part of the programs that it attacks, see `tests.fuzz.surfaces`.
        seed: the folder in the seeds that it starts from.
        edits: changes of that folder, in order; see `tests.fuzz.edits`.
        call: arguments of the call, as the surface reads them; values are specifications of `tests.fuzz.values`.
    """

    surface: str
    seed: str
    edits: tuple[dict[str, Any], ...] = ()
    call: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return the case as JSON types."""
        return json.loads(json.dumps(asdict(self)))  # type: ignore[no-any-return]

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Case:
        """Return the case that `to_json` wrote."""
        return cls(content["surface"], content["seed"], tuple(content["edits"]), content["call"])


@dataclass(frozen=True)
class Outcome:
    """The result of a case.

    Attributes:
        kind: one of `RIGHT`, or a key of `WRONG`.
        where: for a find, the type of the exception and the line that raised it: finds with the same are one fault.
        detail: the message.
        seconds: the time that the case took.
    """

    kind: str
    where: str = ""
    detail: str = ""
    seconds: float = 0.0

    @property
    def is_find(self) -> bool:
        """Whether the outcome is wrong."""
        return self.kind not in RIGHT
