"""The work of a stream: rows of a file to lines of predictions."""

import hashlib
import io
import itertools
import json
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from types import MappingProxyType
from typing import Any, Final

from runtime.bundle import Manifest
from runtime.bundle.schema import encode
from runtime.errors import AdapterDropError, InputError
from runtime.predictor import Predictor
from runtime.streams.lines import Input, opened
from runtime.streams.read import Format, format_of
from runtime.streams.records import Columns, Raw, Record
from runtime.streams.sinks import Done, Sink
from runtime.text.predict_options import PredictOptions
from runtime.text.text_file import LARGEST, limited
from runtime.text.texts import Text
from runtime.text.windows import Row
from runtime.text_streams import at_text, stream

_OVERWRITE: Final = "pass --overwrite to start again"


@dataclass(frozen=True)
class Work:
    """The work of a stream.

    Attributes:
        tasks: names of the tasks; None for all.
        drop: drop of the variant; None for the first one.
        options: options of the predictions.
        prompt_name: prompt of sentence embeddings; None for the default ones.
        columns: columns that are read.
        skip_errors: write the error of a broken row instead of ending the stream.
        window: texts that are computed together; None adapts it.
    """

    tasks: tuple[str, ...] | None = None
    drop: int | None = None
    options: PredictOptions = field(default_factory=PredictOptions)
    prompt_name: str | None = None
    columns: Columns = field(default_factory=Columns)
    skip_errors: bool = False
    window: int | None = None

    def settings(self, manifest: Manifest, form: Format, files: Mapping[str, str] = MappingProxyType({})) -> dict[str, Any]:
        """Return what the lines of the output depend on, as JSON: a run with other settings does not continue it.

        Args:
            manifest: manifest of the bundle.
            form: format of the input.
            files: added task -> sha256 of its file.
        """
        bundle = hashlib.sha256(json.dumps(encode(manifest), sort_keys=True).encode()).hexdigest()
        options = {name: value for name, value in asdict(self.options).items() if name != "batch_size"}
        columns = {"columns": self.columns.texts, "keep": self.columns.kept}
        own = {"bundle": bundle, "format": form.name, "tasks": self.tasks, "drop": self.drop, "prompt_name": self.prompt_name}
        found: dict[str, Any] = json.loads(
            json.dumps(own | options | columns | {"task files": dict(files)})
        )  # tuples become lists, as in the state
        return found


@dataclass(frozen=True)
class Broken:
    """A row without predictions.

    Attributes:
        line: number of its line in the input.
        reason: what is wrong.
    """

    line: int
    reason: str


def score(
    predictor: Predictor,
    work: Work,
    source: Input,
    form: Format,
    where: str,
    sink: Sink,
    report: Callable[[Done, Broken | None], object] = lambda *_: None,
) -> Done:
    """Write a line for each row of a file, after those that the sink already has.

    Args:
        predictor: the predictor.
        work: what to compute.
        source: the open file.
        form: its format.
        where: its name, for messages.
        sink: where the lines are written.
        report: called after each row, with what is done, and with what is wrong with the row.

    Returns:
        What is done at the end.

    Raises:
        AdapterDropError: the logits of a text are NaN; the message names the line.
        InputError: a row is broken (the message names its line), unless `work.skip_errors`; or the rows that are done differ
            from those of the run before.
    """
    rows = form.read(source, work.columns, where)
    digest = hashlib.sha256()
    done = sink.done
    for raw in itertools.islice(rows, done.rows):
        digest.update(_digest(raw))
    if digest.hexdigest() != done.input:
        raise InputError(
            f"{where}: the first {done.rows:,} rows are not those of the interrupted run that has the output; {_OVERWRITE}"
        )
    waiting = _Waiting()

    def items() -> Iterator[Text | InputError]:
        for raw in rows:
            record = work.columns.parse(raw)
            waiting.add(raw, record)
            yield record.text

    given = (work.tasks, work.drop, work.options, work.prompt_name, work.window)
    try:
        for outcome in stream(predictor, items(), *given, lambda: waiting.bytes):
            row_digest, record = waiting.next()
            broken = None
            if isinstance(outcome, AdapterDropError):
                broken = Broken(record.line, at_text(outcome, "the text"))
                if not work.skip_errors:
                    raise type(outcome)(f"{where}: line {broken.line}: {broken.reason}") from outcome
            sink.write(_line(record, outcome))
            digest.update(row_digest)
            done = Done(
                done.rows + 1, done.errors + (broken is not None), record.line, 0, digest.hexdigest(), sink.done.settings
            )
            sink.commit(done)
            report(done, broken)
    finally:
        sink.commit(done, force=True)
    return done


def _digest(raw: Raw) -> bytes:
    return hashlib.sha256(raw.content).digest()


class _Waiting:
    """The rows of a window, without what is not needed after their predictions: a row may have far more than its text.

    Attributes:
        bytes: size of the rows with kept columns.
    """

    def __init__(self) -> None:
        self.bytes = 0
        self._rows: deque[tuple[bytes, int, Record]] = deque()

    def add(self, raw: Raw, record: Record) -> None:
        """Add a row that was read."""
        size = len(raw.content) if record.kept else 0
        self.bytes += size
        self._rows.append((_digest(raw), size, record))

    def next(self) -> tuple[bytes, Record]:
        """Remove the first row, and return its digest and the rest."""
        digest, size, record = self._rows.popleft()
        self.bytes -= size
        return digest, record


def _line(record: Record, outcome: Row | AdapterDropError) -> bytes:
    found: dict[str, Any] = {"line": record.line, **record.kept}
    if isinstance(outcome, AdapterDropError):
        found["error"] = at_text(outcome, "the text")
    else:
        found["predictions"] = {task: row.to_dict() for task, row in outcome.items()}
    return json.dumps(found, ensure_ascii=False, allow_nan=False).encode("utf-8", "backslashreplace") + b"\n"


def texts_of(name: str, given: str | None, columns: Columns, option: str) -> list[Text]:
    """Return all texts of a file.

    Args:
        name: path of the file; "-" for standard input.
        given: its format; None for that of its suffix.
        columns: the columns that are read.
        option: the option that names the file, for messages.

    Raises:
        InputError: as for `format_of` and `opened`; or a row is broken, or the file is too large to be read as a whole.
    """
    form, where = format_of(name, given, columns), f"{option} {name}"
    texts: list[Text] = []
    size = 0
    with opened(name, option) as source:
        if form.name != "parquet":  # it is read by its index; of others, a line may have no end
            whole = io.BytesIO(limited(source.file, where))
            source = Input(whole, whole, None)
        for raw in form.read(source, columns, where):
            record = columns.parse(raw)
            if isinstance(record.text, InputError):
                raise InputError(f"{where}: line {record.line}: {record.text}") from record.text
            texts.append(record.text)
            size += len(raw.content)
            if size > LARGEST:
                raise InputError(f"{where}: expected at most {LARGEST:,} bytes of texts: split the file")
    return texts


class Speed:
    """Rows per second since the start, without those of an earlier run."""

    def __init__(self, before: int) -> None:
        """Start; `before` is the number of rows that are done already."""
        self._before, self._started = before, time.monotonic()

    def of(self, rows: int) -> float:
        """Return the speed at this number of rows."""
        return (rows - self._before) / max(1e-9, self.seconds)

    @property
    def seconds(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self._started
