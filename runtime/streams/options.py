"""Options of the command line for streams."""

import argparse
from collections.abc import Mapping, Sequence
from typing import Final

from runtime.errors import InputError
from runtime.streams.read import FORMATS
from runtime.streams.records import Columns
from runtime.streams.work import Work
from runtime.text.predict_options import PredictOptions
from runtime.text.text_file import STANDARD_INPUT
from runtime.text.windows import LARGEST

# Options that mean something only with --output, and their defaults
_ONLY_STREAMS: Final[Mapping[str, object]] = {
    "skip_errors": False,
    "keep": None,
    "overwrite": False,
    "quiet": False,
    "window": None,
    "engine": None,
    "actors": None,
}
# Options that print, of which an output file has nothing
_ONLY_PRINTED: Final[Mapping[str, object]] = {"texts": [], "json": False, "nodes": False}
_TEXT: Final = {"texts": "--text and --pair"}


def add_stream_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of streams."""
    add = parser.add_argument_group("files that are larger than memory, docs/streams.md").add_argument
    add(
        "--output",
        metavar="OUT",
        help="read --file as a stream and write a JSON object per text to this file; the same command continues an "
        "interrupted run; - for standard output",
    )
    add("--format", choices=FORMATS, help="format of --file; default: by its suffix, also before .gz; txt for others and for -")
    add("--columns", metavar="a[,b]", help="column of the texts, or both of pairs; default: text, or text_a and text_b")
    add("--keep", type=str, metavar="a,b", help="columns that are copied to the output, such as an id")
    add("--skip-errors", action="store_true", help="write the errors of broken lines to the output and go on")
    add("--overwrite", action="store_true", help="start again if the output exists")
    add(
        "--window",
        type=int,
        metavar="N",
        help=f"texts that are batched together by length; default: as many as take a few seconds, up to {LARGEST:,}",
    )
    add("--quiet", action="store_true", help="show no progress")
    add(
        "--engine",
        choices=("ray",),
        help="with ray, --file and --output are folders, or addresses such as s3://bucket/name; each file is a partition, "
        "which one of the actors of Ray Data computes",
    )
    add("--actors", type=int, metavar="N", help="with --engine: number of actors, each with a predictor; default 1")


def names(text: str | None) -> tuple[str, ...] | None:
    """Return the names in a list with commas; None for None."""
    return None if text is None else tuple(name.strip() for name in text.split(",") if name.strip())


def columns_of(options: argparse.Namespace) -> Columns:
    """Return the columns that the options name."""
    return Columns(names(options.columns), names(options.keep) or ())


def check_combination(options: argparse.Namespace) -> None:
    """Check that the options of a stream and those of texts on the command line are not mixed.

    Raises:
        InputError: they are.
    """
    if options.output is None:
        if given := _given(options, _ONLY_STREAMS):
            raise InputError(f"{given[0]}: expected --output as well, because it is an option of streams")
        if options.file is None and (options.format or options.columns):
            raise InputError("--format and --columns: expected --file as well")
        return
    if options.file is None:
        raise InputError("--output: expected --file, the texts that are read as a stream")
    if given := _given(options, _ONLY_PRINTED):
        raise InputError(f"{given[0]}: not with --output, which writes the predictions of --file as JSON lines")
    if options.actors is not None and options.engine is None:
        raise InputError("--actors: expected --engine ray as well")
    if options.actors is not None and options.actors < 1:
        raise InputError(f"--actors: expected a positive number, found {options.actors}")
    if options.engine is not None and (options.output == STANDARD_INPUT or options.added):
        raise InputError("--engine ray: expected a folder for --output, and no --task")
    if options.output.lower().endswith((".csv", ".tsv", ".parquet", ".gz")):
        raise InputError(f"--output {options.output}: expected a name for JSON lines, such as predictions.jsonl")


def work_of(options: argparse.Namespace, tasks: Sequence[str] | None) -> Work:
    """Return what a stream computes.

    Raises:
        InputError: an option is invalid.
    """
    return Work(
        None if tasks is None else tuple(tasks),
        options.drop,
        PredictOptions(
            truncate=options.truncate,
            aggregate=options.aggregate,
            stride=options.stride,
            threshold=options.threshold,
            top_k=options.top_k,
        ),
        options.prompt_name,
        columns_of(options),
        options.skip_errors,
        options.window,
    )


def _given(options: argparse.Namespace, defaults: Mapping[str, object]) -> list[str]:
    given = (name for name, default in defaults.items() if getattr(options, name) != default)
    return [_TEXT.get(name, f"--{name.replace('_', '-')}") for name in given]
