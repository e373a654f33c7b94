"""The command `python -m runtime DIR --file FILE --output OUT`."""

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from runtime.bundle.whole_file import belongs_to_bundle
from runtime.errors import AdapterDropError, InputError
from runtime.predictor import Predictor
from runtime.slots.hot_entry import file_hashes
from runtime.standard_output import print_error
from runtime.streams import ray_engine
from runtime.streams.lines import Input, opened
from runtime.streams.options import columns_of, work_of
from runtime.streams.partitions import Folder
from runtime.streams.progress import Progress
from runtime.streams.read import Format, format_of
from runtime.streams.sinks import FileSink, Sink, StreamSink
from runtime.streams.work import Work, score, texts_of
from runtime.text.text_file import STANDARD_INPUT
from runtime.text.texts import Text
from runtime.text_streams import stream


def run(predictor: Predictor, tasks: Sequence[str] | None, options: argparse.Namespace) -> str:
    """Compute a file as a stream.

    Args:
        predictor: the loaded bundle.
        tasks: names of the tasks; None for all.
        options: the parsed command line.

    Returns:
        What to print at the end; empty if standard output has the predictions.

    Raises:
        AdapterDropError: as for `score`.
        InputError: as for `score`, `opened` and `FileSink`.
    """
    work = work_of(options, tasks)
    if options.engine is None and Path(options.file).is_dir():
        raise InputError(f"--file {options.file}: expected a file, found a folder; --engine ray computes the files in it")
    stream(predictor, (), work.tasks, work.drop, work.options, work.prompt_name, work.window)  # checks the arguments
    if options.engine is not None:
        return _on_ray(predictor, work, options)
    form = format_of(options.file, options.format, work.columns)
    settings = work.settings(predictor.manifest, form, file_hashes(predictor.entries(work.tasks)))
    output = Path(options.output)
    if options.output != STANDARD_INPUT and _is_same(options.file, output):
        raise InputError(f"--output {output}: is the input; name another file")
    if options.output != STANDARD_INPUT and belongs_to_bundle(output, options.folder):  # --overwrite would write into it
        raise InputError(f"--output {output}: is a file of the bundle; name another file")
    # Before the output: where there is nothing to read, none is made
    with opened(options.file) as source, _sink(options, settings) as sink:
        shown = _write(predictor, work, options, source, form, sink)
    return "" if options.output == STANDARD_INPUT else f"{shown} in {output}"


@contextmanager
def _sink(options: argparse.Namespace, settings: Mapping[str, Any]) -> Iterator[Sink]:
    """Open the output of a stream.

    Raises:
        InputError: as for `FileSink`; or standard output is closed.
    """
    output = Path(options.output)
    if options.output == STANDARD_INPUT:
        if sys.stdout is None:
            raise InputError("--output -: standard output is closed")
        yield StreamSink(sys.stdout.buffer, settings)
    elif output.is_dir():
        raise InputError(f"--output {output}: expected a file, found a folder")
    elif output.exists() and not output.is_file():  # such as /dev/null, or a named pipe
        try:
            device = output.open("wb")
        except OSError as error:
            raise InputError(f"{output}: cannot be written: {error.strerror or error}") from error
        try:
            yield StreamSink(device, settings)
        finally:
            with suppress(OSError):  # which `commit` has reported
                device.close()
    else:
        with FileSink(output, settings, options.overwrite) as sink:
            yield sink


def _write(predictor: Predictor, work: Work, options: argparse.Namespace, source: Input, form: Format, sink: Sink) -> str:
    before = sink.done.rows
    where = f"--file {options.file}"
    progress = Progress(where, source, before, options.quiet)
    try:
        done = score(predictor, work, source, form, where, sink, progress)
    except (AdapterDropError, KeyboardInterrupt):
        progress.end()
        if sink.done.rows and isinstance(sink, FileSink):
            without = " without --overwrite" if options.overwrite else ""
            print_error(f"stopped after line {sink.done.line:,}; the same command{without} goes on from there")
        raise
    progress.end()
    rows = done.rows - before
    parts = [f"{rows:,} rows in {progress.speed.seconds:.1f} s ({progress.speed.of(done.rows):,.0f} per second)"]
    parts += [f"after {before:,} of an earlier run"] if before else []
    parts += [f"{done.errors:,} broken"] if done.errors else []
    return ", ".join(parts)


def _on_ray(predictor: Predictor, work: Work, options: argparse.Namespace) -> str:
    source, target = Folder.of(options.file), Folder.of(options.output)
    if source.contains(target):  # the next run would compute its files as well
        raise InputError(f"--output {options.output}: is in the folder of --file; name one outside of it")
    is_hub_id = not Path(options.folder).exists()
    job = ray_engine.Job(
        folder=options.folder if is_hub_id else str(Path(options.folder).absolute()),
        provider=options.provider,
        options=replace(predictor.options, threads=options.threads or 1),  # an actor takes a CPU of Ray for each
        work=work,
        manifest=predictor.manifest,
        source=source,
        target=target,
        format=options.format,
        overwrite=options.overwrite,
    )
    return ray_engine.run(job, options.actors or 1, options.quiet)


def _is_same(name: str, output: Path) -> bool:
    try:
        return name != STANDARD_INPUT and output.samefile(name)
    except OSError:
        return False


def read_file(options: argparse.Namespace) -> Sequence[Text]:
    """Return the texts of --file, without an output: all of them are in memory.

    Raises:
        InputError: as for `texts_of`.
    """
    return texts_of(options.file, options.format, columns_of(options), "--file")
