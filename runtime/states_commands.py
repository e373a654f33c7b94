"""The commands `python -m runtime DIR encode` and `python -m runtime DIR run`: texts to states, and states to predictions."""

import argparse
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from runtime.bundle import HeadType
from runtime.bundle.whole_file import unreplaceable
from runtime.command_options import TEXT_FILE, CommandParser, add_session_options, add_task_options, read_settings
from runtime.errors import InputError
from runtime.load_bundle import load
from runtime.options import Options
from runtime.predictor import Predictor
from runtime.states.states_file import is_states_file
from runtime.states.trunk_states import TrunkStates, load_states
from runtime.streams.options import names
from runtime.streams.records import Columns
from runtime.streams.work import texts_of
from runtime.text.check_logits import check_finite
from runtime.text.interpret import interpret_row

# Heads whose prediction needs logits only, not the text
_HEADS: Final[tuple[HeadType, ...]] = ("classification", "multilabel", "regression", "multiple_choice")


def encode(folder: str, arguments: Sequence[str]) -> Iterator[str]:
    """Write the states of a file of texts; yields what to print."""
    parser = CommandParser(
        prog="python -m runtime DIR encode", description="Compute the states of the trunk for texts, once for all tasks."
    )
    parser.add_argument("file", metavar="FILE", help=TEXT_FILE)
    parser.add_argument("--output", required=True, metavar="STATES", help="file of safetensors to write")
    parser.add_argument(
        "--precision", metavar="P", help="fp16 halves the file and rounds the states; default: as the graph computes them"
    )
    parser.add_argument("--truncate", action="store_true", help="truncate texts that exceed the model's maximum")
    _add_options(parser)
    options = parser.parse_args(arguments)
    _check_output(options.output, folder)
    texts = texts_of(options.file, None, Columns(), "FILE")
    if not texts:
        raise InputError(f"{options.file}: expected at least one text, found none")
    predictor = _load(folder, options)
    states = predictor.encode(texts, options.drop, truncate=options.truncate)
    states.save(options.output, options.precision)
    yield f"{len(states):,} texts at drop {states.drop} written to {options.output}"


def _check_output(output: str, folder: str) -> None:
    """Raise InputError if the states would replace anything but states, such as the texts."""
    try:
        reason = unreplaceable(Path(output), folder, is_states_file)
    except OSError as error:
        reason = f"cannot be written: {error.strerror or error}"
    if reason:
        raise InputError(f"--output {output}: {reason}")


def run(folder: str, arguments: Sequence[str]) -> Iterator[str]:
    """Compute tasks from a file of states; yields one JSON object per text."""
    parser = CommandParser(
        prog="python -m runtime DIR run",
        description="Compute tasks from states that `python -m runtime DIR encode` wrote, and print a JSON object per text.",
    )
    parser.add_argument("states", metavar="STATES", help="the file of states")
    add_task_options(parser)
    _add_options(parser)
    options = parser.parse_args(arguments)
    predictor = _load(folder, options)
    chosen = with_added(predictor, options.added, names(options.tasks))
    yield from _predictions(predictor, load_states(options.states), chosen, options.drop)


def with_added(predictor: Predictor, files: Sequence[str], tasks: Sequence[str] | None) -> tuple[str, ...] | None:
    """Add the tasks of the option --task, and return the names of the tasks to compute.

    Args:
        predictor: the predictor that receives them.
        files: NAME=FILE of each.
        tasks: names that were selected; None for the tasks of the bundle, which are then followed by the added ones.

    Raises:
        InputError: as for `Predictor.add_task`, or there is no NAME or FILE.
    """
    added = []
    for given in files:
        name, equals, file = given.partition("=")
        if not (name and equals and file):
            raise InputError(f"--task: expected NAME=FILE, found {given!r}")
        predictor.add_task(name, file)
        added.append(name)
    if tasks is None:
        return (*(task.name for task in predictor.manifest.tasks), *added) if added else None
    return tuple(tasks)


def _predictions(predictor: Predictor, states: TrunkStates, tasks: Sequence[str] | None, drop: int | None) -> Iterator[str]:
    entries = predictor.entries(tasks)
    if wrong := [f"{entry.name} ({entry.head})" for entry in entries if entry.head not in _HEADS]:
        raise InputError(
            f"--tasks: expected tasks whose prediction needs no text ({', '.join(_HEADS)}), found {', '.join(wrong)}: select "
            "others, or call Predictor.run_branches() for the logits"
        )
    logits = predictor.run_branches(states, [entry.name for entry in entries], drop)
    for number in range(len(states)):
        found = {}
        for entry in entries:
            values = logits[entry.name][number]
            check_finite(entry, [values], number, None, None, f"drop {logits.drop}, provider {predictor.provider}")
            found[entry.name] = replace(interpret_row(entry, values), drop=logits.drop).to_dict()
        yield json.dumps({"text": number, "predictions": found}, allow_nan=False)


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--drop", type=int, metavar="N", help="the variant without adapters in the lowest N layers")
    parser.add_argument("--provider", metavar="NAME", default="auto", help="execution provider; default auto")
    add_session_options(parser)


def _load(folder: str, options: argparse.Namespace) -> Predictor:
    # Two graphs at most are used once: packing the weights of all would take longer.
    settings = read_settings(options.settings, Options(threads=options.threads, share_weights=False))
    return load(folder, provider=options.provider, options=settings)


COMMANDS: Final[Mapping[str, Callable[[str, Sequence[str]], Iterator[str]]]] = {"encode": encode, "run": run}
