"""Records of a stream: the rows of a file, and what is read from each."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from runtime.errors import InputError
from runtime.text.texts import Text, check_texts

PAIR: Final = ("text_a", "text_b")
RESERVED: Final = ("line", "predictions", "error")  # names in the output
AN_ARRAY: Final = (
    'expected a JSON object in each line, {"text": …}, found an array: write each of its objects in a line, such as with '
    "`jq -c '.[]'`"
)
_SHOWN: Final = 60  # characters of a value in a message


@dataclass(frozen=True)
class Raw:
    """A row before it is parsed.

    Attributes:
        line: number of its first line, or of its row in Parquet, from 1.
        content: its bytes, by which a resumed run recognises the row.
        columns: column -> value; None for a line of JSON, which is parsed later from `content`.
        problem: why it cannot be read; empty if it can.
    """

    line: int
    content: bytes
    columns: Mapping[str, Any] | None
    problem: str = ""


@dataclass(frozen=True)
class Record:
    """A row of the input.

    Attributes:
        line: as in `Raw`.
        text: the text or pair, or the error of a row without one.
        kept: values of the columns that are copied to the output.
    """

    line: int
    text: Text | InputError
    kept: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Columns:
    """The columns that are read.

    Attributes:
        texts: name of the column with the text, or of both for pairs; None for text, or text_a and text_b, whichever a row has.
        kept: names of the columns that are copied to the output.

    Raises:
        InputError: there are more than two names of texts, or a kept column has a name that the output uses.
    """

    texts: tuple[str, ...] | None = None
    kept: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Check the names."""
        if self.texts is not None and len(self.texts) not in (1, 2):
            raise InputError(f"--columns: expected the name of one column, or two for pairs, found {len(self.texts)}")
        if taken := [name for name in self.kept if name in RESERVED]:
            raise InputError(f"--keep: {', '.join(taken)}: the output uses this name; rename the column")

    def problem(self, header: Sequence[str]) -> str:
        """Return what is missing in the columns of a table; empty if there is nothing."""
        texts = self.texts or (("text",) if "text" in header else PAIR)
        if twice := [name for name in (*texts, *self.kept) if header.count(name) > 1]:
            return f"expected different names of columns, found {twice[0]} more than once; rename one"
        if not (missing := [name for name in (*texts, *self.kept) if name not in header]):
            return ""
        wanted = "text, or text_a and text_b" if self.texts is None else " and ".join(self.texts)
        wanted += f", and {', '.join(self.kept)}" if self.kept else ""
        remedy = "" if self.texts is not None else "; name others with --columns"
        return f"expected the columns {wanted}, found {', '.join(header[:10])} without {', '.join(missing)}{remedy}"

    def parse(self, raw: Raw) -> Record:
        """Parse a row. Its text is an error if it has none, and the stream decides what follows."""
        if raw.problem:
            return Record(raw.line, InputError(raw.problem))
        try:
            columns = _json_object(raw.content) if raw.columns is None else raw.columns
            texts = self._texts_in(columns)
            kept = {name: _kept(name, columns) for name in self.kept}
        except InputError as error:
            return Record(raw.line, error)
        try:
            return Record(raw.line, _text([columns[name] for name in texts]), kept)
        except InputError as error:
            return Record(raw.line, error, kept)

    def _texts_in(self, columns: Mapping[str, Any]) -> tuple[str, ...]:
        """Return the names of the columns of the text. Raises InputError if one is missing."""
        texts = self.texts or (("text",) if "text" in columns else PAIR)
        if any(name not in columns for name in texts):
            wanted = "text, or text_a and text_b" if self.texts is None else " and ".join(texts)
            raise InputError(f"expected {wanted}, found {', '.join(map(repr, list(columns)[:6])) or 'no columns'}")
        return texts


def _json_object(line: bytes) -> dict[str, Any]:
    try:
        found = json.loads(line, parse_constant=_no_constant)
    except UnicodeDecodeError as error:
        raise InputError(f"expected UTF-8, found: {error.reason}; convert the file") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f'expected a JSON object, {{"text": …}}, found: {error}') from error
    if isinstance(found, list):
        raise InputError(AN_ARRAY)
    if not isinstance(found, dict):
        raise InputError(f'expected a JSON object, {{"text": …}}, found {type(found).__name__}')
    return found


def begins_array(line: bytes) -> bool:
    """Return whether a line begins an array of several lines: the file is one JSON document, and has no JSON lines."""
    start = line.lstrip()
    if not start.startswith(b"[") or start[1:].lstrip()[:1] not in (b"", b"{", b'"'):
        return False
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return True
    return False


def _no_constant(name: str) -> None:
    raise ValueError(f"{name}, which is not JSON")


def _text(parts: Sequence[Any]) -> Text:
    value = parts[0] if len(parts) == 1 else tuple(parts)
    if wrong := [part for part in (parts if len(parts) == 2 else ()) if not isinstance(part, str)]:
        raise InputError(f"expected two texts, found {_described(wrong[0])}")
    try:
        return check_texts([value])[0]
    except InputError as error:
        if isinstance(value, str):  # its half of a surrogate pair, which JSON can write and no file in UTF-8 contains
            raise InputError("expected text, found half of a surrogate pair; save the file again as UTF-8") from error
        raise InputError(f"expected a text, or a list of two texts, found {_described(value)}") from error


def _described(value: object) -> str:
    shown = repr(value)
    return f"{type(value).__name__} {shown[:_SHOWN]}{'…' if len(shown) > _SHOWN else ''}" if value is not None else "null"


def _kept(name: str, columns: Mapping[str, Any]) -> Any:
    """The value of a kept column as JSON can write it."""
    if name not in columns:
        raise InputError(f"expected {name}, which --keep names, found {', '.join(map(repr, list(columns)[:6]))}")
    try:
        return _json_value(columns[name])
    except RecursionError as error:
        raise InputError(f"{name}, which --keep names, is nested too deeply") from error


def _json_value(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):  # a missing number in Parquet
        return None
    if isinstance(value, list | tuple):
        return [_json_value(each) for each in value]
    if isinstance(value, dict):
        return {str(key): _json_value(each) for key, each in value.items()}
    return value if isinstance(value, str | int | float | bool | None) else str(value)
