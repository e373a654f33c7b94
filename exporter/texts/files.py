"""Parsing of calibration files to rows of texts and labels, or to scores."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from exporter.errors import ExportError
from runtime.errors import InputError
from runtime.text.text_file import limited

Text = str | tuple[str, str]
# fusion -> layer -> member -> score; the fusion is "" in a file without fusion names.
Scores = Mapping[str, Mapping[int, Mapping[str, float]]]
FORMATS = (".txt", ".jsonl", ".csv", ".tsv", ".json")
_PAIR = ("text_a", "text_b")


@dataclass(frozen=True)
class Row:
    """One text or pair of texts.

    Attributes:
        line: the number of its first line.
        text: the text or pair.
        label: its label as in the file, or None.
    """

    line: int
    text: Text
    label: Any


def read_scores(path: Path) -> Scores:
    """Read {layer: {member: score}} or {fusion: {layer: {member: score}}} from a JSON file.

    Raises:
        ExportError: the file cannot be read, or an entry is invalid; the message contains the layer and the member.
    """
    try:
        document = json.loads(_decode(path))
    except (ValueError, RecursionError) as error:
        raise ExportError(f"{path}: expected JSON scores, {{layer: {{member: score}}}}: {error}") from error
    if not isinstance(document, dict) or not document or not all(isinstance(value, dict) for value in document.values()):
        raise ExportError(f"{path}: expected scores as {{layer: {{member: score}}}}, or {{fusion: {{layer: …}}}}")
    flat = not any(isinstance(value, dict) for layer in document.values() for value in layer.values())
    return {
        fusion: {_layer(path, key): _members(path, key, value) for key, value in layers.items()}
        for fusion, layers in ({"": document} if flat else document).items()
    }


def read_rows(path: Path) -> list[Row]:
    """Read the rows of a .txt, .jsonl, .csv or .tsv file.

    Returns:
        At least one row; either all texts or all pairs, either all with a label or all without.

    Raises:
        ExportError: the file cannot be read, or a line is invalid; the message contains the line number.
    """
    read = {".txt": _plain, ".jsonl": _json_lines, ".csv": _table, ".tsv": _table}[path.suffix.lower()]
    rows = list(read(path, _decode(path)))
    _check(path, rows)
    return rows


def _decode(path: Path) -> str:
    try:
        with path.open("rb") as file:
            data = limited(file, str(path))
    except InputError as error:
        raise ExportError(str(error)) from error
    except (OSError, ValueError) as error:  # ValueError: the path contains a null byte
        raise ExportError(f"the file {str(path)!r} cannot be read: {getattr(error, 'strerror', error)}") from error
    try:
        return data.decode("utf-8-sig")  # spreadsheets write a byte order mark
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ExportError(
            f"{path}, line {line}: expected UTF-8, found the byte 0x{data[error.start]:02x}: convert it"
        ) from error


def _plain(_path: Path, content: str) -> Iterator[Row]:
    # Not splitlines, which also splits at characters that can occur within a text.
    for number, line in enumerate(content.split("\n"), 1):
        if line.strip():
            yield Row(number, line.strip(), None)


def _json_lines(path: Path, content: str) -> Iterator[Row]:
    for number, line in enumerate(content.split("\n"), 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise ExportError(f'{path}, line {number}: expected one JSON object per line, {{"text": …}}: {error}') from error
        if not isinstance(record, dict):
            raise ExportError(f'{path}, line {number}: expected a JSON object, {{"text": …}}, found {line.strip()[:40]!r}')
        yield _row(path, number, record)


def _table(path: Path, content: str) -> Iterator[Row]:
    reader = csv.reader(io.StringIO(content, newline=""), delimiter="\t" if path.suffix.lower() == ".tsv" else ",", strict=True)
    header: list[str] = []
    number = 0
    try:
        for fields in reader:
            first, number = number + 1, reader.line_num
            if not fields:
                continue
            if not header:
                header = [field.strip() for field in fields]
                if "text" not in header and not set(_PAIR) <= set(header):
                    found = ", ".join(map(repr, header[:6]))
                    raise ExportError(f"{path}, line {first}: expected the columns text, or text_a and text_b; found {found}")
                continue
            if len(fields) != len(header):
                raise ExportError(f"{path}, line {first}: expected {len(header)} columns as in the header, found {len(fields)}")
            yield _row(path, first, dict(zip(header, fields, strict=True)))
    except csv.Error as error:
        raise ExportError(f"{path}, line {number + 1}: {error}; quote texts as in spreadsheets") from error


def _row(path: Path, line: int, record: Mapping[str, Any]) -> Row:
    names = ("text",) if "text" in record else _PAIR
    missing = [name for name in names if name not in record]
    if missing:
        raise ExportError(f"{path}, line {line}: expected text, or text_a and text_b; {missing[0]} is missing")
    parts = [record[name] for name in names]
    for name, part in zip(names, parts, strict=True):
        if not isinstance(part, str) or not part.strip():
            raise ExportError(f"{path}, line {line}: {name} must be a text, found {part!r}")
        if any("\ud800" <= character <= "\udfff" for character in part):
            raise ExportError(f"{path}, line {line}: {name} contains half of a surrogate pair: save the file again as UTF-8")
    label = record.get("label")
    if "label" in record and (label is None or label == ""):
        raise ExportError(f"{path}, line {line}: the label is empty: give every text a label, or omit the labels")
    return Row(line, parts[0] if len(parts) == 1 else (parts[0], parts[1]), label)


def _check(path: Path, rows: Sequence[Row]) -> None:
    if not rows:
        raise ExportError(f"the file {str(path)!r} contains no text: expected at least one")
    first = rows[0]
    for row in rows:
        if isinstance(row.text, str) != isinstance(first.text, str):
            raise ExportError(
                f"{path}, line {row.line}: texts and pairs of texts are mixed: use the kind of line {first.line} in all lines"
            )
        if (row.label is None) != (first.label is None):
            raise ExportError(
                f"{path}, line {row.line}: some texts have a label, some have no label: give all of them a label, or omit the "
                "labels"
            )


def _layer(path: Path, key: str) -> int:
    if not (key.isascii() and key.isdigit()):
        raise ExportError(f"{path}: expected the number of a layer, found {key!r}")
    return int(key)


def _members(path: Path, layer: str, members: Any) -> dict[str, float]:
    if not isinstance(members, dict) or not members:
        raise ExportError(f"{path}: layer {layer}: expected {{member: score}}, found {members!r}")
    for member, score in members.items():
        if isinstance(score, bool) or not isinstance(score, int | float) or not math.isfinite(score):
            raise ExportError(f"{path}: layer {layer}: the score of {member!r} must be a finite number, found {score!r}")
    return {member: float(score) for member, score in members.items()}
