"""Readers of the formats of streams: text, JSON lines, CSV, TSV and Parquet."""

import csv
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any, Final

from runtime.errors import InputError
from runtime.streams.lines import Input, TextLines, lines, too_long
from runtime.streams.records import AN_ARRAY, Columns, Raw, begins_array
from runtime.text.text_file import STANDARD_INPUT

FORMATS: Final = ("txt", "jsonl", "csv", "tsv", "parquet")
_NAMES: Final = {"ndjson": "jsonl", "json": "jsonl", "pq": "parquet"}
_ROWS: Final = 1_024  # of Parquet, decoded at a time
_FIELD: Final = 16_000_000  # characters of a field of CSV, as of the longest text


@dataclass(frozen=True)
class Format:
    """The format of a file.

    Attributes:
        name: one of FORMATS.
        read: function that yields the rows.
    """

    name: str
    read: Callable[[Input, Columns, str], Iterator[Raw]]


def format_of(name: str, given: str | None, columns: Columns) -> Format:
    """Return the format of a file: the given one, or that of its suffix; text if the suffix is unknown.

    Args:
        name: path of the file; "-" for standard input.
        given: one of FORMATS, or None.
        columns: the columns that are read.

    Raises:
        InputError: the format does not fit the file or the columns.
    """
    compressed = name.lower().endswith(".gz")
    found = given or suffix_of(name) or "txt"
    if found == "parquet" and (name == STANDARD_INPUT or compressed):
        raise InputError(f"--file {name}: expected a file for Parquet, not compressed again: its index is at its end")
    if found == "txt" and (columns.texts is not None or columns.kept):
        raise InputError(
            f"--file {name}: --columns and --keep need a format with columns; pass --format jsonl, csv, tsv or parquet"
        )
    return Format(found, _READERS[found])


def suffix_of(name: str) -> str | None:
    """Return the format that the suffix of a name stands for, .gz left out; None for other suffixes."""
    suffix = PurePath(name.lower().removesuffix(".gz")).suffix.lstrip(".")
    found = _NAMES.get(suffix, suffix)
    return found if found in FORMATS else None


def _text(source: Input, _columns: Columns, where: str) -> Iterator[Raw]:
    for number, line in lines(source.file, where):
        if line is None:
            yield Raw(number, **too_long())
            continue
        try:
            parts = line.decode("utf-8").split("\t")
        except UnicodeDecodeError as error:
            yield Raw(number, line, {}, f"expected UTF-8, found: {error.reason}; convert the file")
            continue
        if not any(part.strip() for part in parts):
            continue
        problem = f"expected at most one TAB, found {len(parts) - 1}" if len(parts) > 2 else ""
        yield Raw(number, line, {"text": parts[0] if len(parts) == 1 else parts}, problem)


def _json_lines(source: Input, _columns: Columns, where: str) -> Iterator[Raw]:
    is_first = True
    for number, line in lines(source.file):
        if line is None:
            yield Raw(number, **too_long())
        elif line.strip():
            if is_first and begins_array(line):
                raise InputError(f"{where}: line {number}: {AN_ARRAY}")
            yield Raw(number, line, None)
        is_first = is_first and line is not None and not line.strip()


def _table(delimiter: str) -> Callable[[Input, Columns, str], Iterator[Raw]]:
    def read(source: Input, columns: Columns, where: str) -> Iterator[Raw]:
        csv.field_size_limit(max(_FIELD, csv.field_size_limit()))  # 131,072 by default
        given = TextLines(source.file, where)
        reader = csv.reader(given, delimiter=delimiter, strict=True)
        header: list[str] | None = None
        while True:
            problem, fields, first = "", [], given.begin_row()
            try:
                fields = next(reader)
            except StopIteration:
                return
            except csv.Error as error:  # such as a quote that is not closed: the reader goes on with the next line
                problem = f"expected {'comma' if delimiter == ',' else 'tab'}-separated values, found: {error}"
                fields = [given.end_broken_row()]
            if header is None:
                header = [field.strip() for field in fields]
                if problem := problem or _encoding_problem(fields) or (columns.problem(header) if fields else ""):
                    raise InputError(f"{where}: line {first}: {problem}")
                header = header or None  # empty lines before it
            elif fields or problem:
                yield _table_row(first, fields, header, problem)

    return read


def _table_row(line: int, fields: list[str], header: list[str], problem: str) -> Raw:
    content = "\x1f".join(fields).encode("utf-8", "surrogateescape")
    if not problem and len(fields) != len(header):
        problem = f"expected {len(header)} columns as in the header, found {len(fields)}"
    problem = problem or _encoding_problem(fields)
    return Raw(line, content, {} if problem else dict(zip(header, fields, strict=True)), problem)


def _encoding_problem(fields: list[str]) -> str:
    is_utf8 = not any("\udc80" <= character <= "\udcff" for field in fields for character in field if ord(character) > 127)
    return "" if is_utf8 else "expected UTF-8, found another encoding; convert the file"


def _parquet(source: Input, columns: Columns, where: str) -> Iterator[Raw]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ModuleNotFoundError as error:
        raise InputError(f"{where}: Parquet needs pyarrow: pip install 'adapterdrop-onnx[parquet]'") from error
    try:
        file = pyarrow.parquet.ParquetFile(source.file)
        header = file.schema_arrow.names
        if problem := columns.problem(header):
            raise InputError(f"{where}: {problem}")
        texts = columns.texts or (("text",) if "text" in header else ("text_a", "text_b"))
        line = 0
        for batch in file.iter_batches(_ROWS, columns=list(dict.fromkeys([*texts, *columns.kept]))):
            for row in batch.to_pylist():
                line += 1
                yield Raw(line, repr(row).encode("utf-8", "backslashreplace"), row)
    except (pyarrow.ArrowException, OSError) as error:
        raise InputError(f"{where}: expected Parquet, found: {str(error).splitlines()[0]}") from error


_READERS: Final[dict[str, Callable[[Any, Columns, str], Iterator[Raw]]]] = {
    "txt": _text,
    "jsonl": _json_lines,
    "csv": _table(","),
    "tsv": _table("\t"),
    "parquet": _parquet,
}
