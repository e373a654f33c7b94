"""The next step after an export: a command, or lines of Python for a bundle that takes more than texts."""

from __future__ import annotations

import os
import shlex
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

from runtime.bundle import InputEntry, Manifest, TaskEntry, read_manifest
from runtime.checks.requests import require_encoder, require_texts
from runtime.errors import AdapterDropError, InputError
from runtime.program import as_called
from runtime.text.encode import TextEncoder

_SENTENCE = "The phone is fast, and the screen is gorgeous."
_NAMES = "Anna flew to Paris on Monday."
_QUESTION, _CONTEXT = "Who wrote the letter?", "Anna wrote the letter in Paris."
# Longer lists of tasks are cut to this number.
_TASKS = 3
# Shorter limits of a model, in tokens, may cut the examples.
_LONG_ENOUGH = 32
# Tokens of an example without a tokenizer.
_LENGTH = 8


def next_step(folder: Path) -> list[str]:
    """Return the lines to run next: one command of the runtime, or several lines of Python.

    Args:
        folder: a folder that an export wrote.
    """
    manifest = read_manifest(folder)
    encoder = _encoder(folder, manifest)
    tasks = [task for task in manifest.tasks if _takes_texts(manifest, encoder, task)]
    if encoder is None or not tasks:
        return _python(folder, manifest)
    named = [task for task in tasks if _is_nameable(task)]
    if len(tasks) < len(manifest.tasks) and not named:
        return _python(folder, manifest)
    arguments = [*as_called("python -m runtime").split(), str(folder), *_text_arguments(tasks, encoder)]
    if manifest.max_lengths.get("sequence", _LONG_ENOUGH) < _LONG_ENOUGH:
        arguments.append("--truncate")
    if len(tasks) < len(manifest.tasks):
        arguments += ["--tasks", ",".join(task.name for task in named[:_TASKS])]
    return [" ".join(map(_quoted, arguments))]


def _encoder(folder: Path, manifest: Manifest) -> TextEncoder | None:
    try:
        return TextEncoder.load(folder, manifest) if manifest.tokenizer else None
    except AdapterDropError:  # the export is done: a tokenizer that only transformers can load does not undo it
        return None


def _takes_texts(manifest: Manifest, encoder: TextEncoder | None, task: TaskEntry) -> bool:
    try:
        if task.head == "sentence_embedding":
            require_texts(manifest, encoder, [task], "encode_texts()")
        else:
            require_encoder(manifest, encoder, [task])
    except InputError:
        return False
    return True


def _is_nameable(task: TaskEntry) -> bool:
    """Whether --tasks, a list with commas, can name a task: not an AdapterFusion `a,b`; and a line shows the name."""
    return "," not in task.name and task.name == task.name.strip() and task.name.isprintable()


def _text_arguments(tasks: Sequence[TaskEntry], encoder: TextEncoder) -> list[str]:
    heads = {task.head for task in tasks}
    mask = ""
    if "masked_lm" in heads and encoder.mask_id is not None:
        mask = encoder.token_text(encoder.mask_id)
    if heads & {"question_answering", "multiple_choice"}:
        return ["--pair", _QUESTION, _CONTEXT.replace("Paris", mask) if mask else _CONTEXT]
    if mask:
        return ["--text", _NAMES.replace("Paris", mask)]
    return ["--text", _NAMES if heads == {"tagging"} else _SENTENCE]


def _quoted(argument: str) -> str:
    if os.name == "nt":
        return subprocess.list2cmdline([argument])
    quoted = shlex.quote(argument)
    # Double quotes are easier to read; they suffice without characters that are special inside them.
    return f'"{argument}"' if quoted != argument and not set(argument) & set('"$`\\!') else quoted


def _python(folder: Path, manifest: Manifest) -> list[str]:
    return [
        "import numpy, runtime",
        f"predictor = runtime.load({str(folder)!r})",
        "print(predictor.run({",
        *(f"    {name!r}: {value}," for name, value in _feeds(manifest)),
        "}))",
    ]


def _feeds(manifest: Manifest) -> Iterator[tuple[str, str]]:
    """Names and values of inputs that the graph accepts."""
    for entry in manifest.inputs:
        if entry.name != "token_type_ids":  # zeros by default
            lengths = [_axis(axis, manifest) for axis in entry.shape]
            yield entry.name, f"numpy.full({tuple(lengths)}, {_value(entry)}, {entry.dtype!r})"


def _axis(axis: str, manifest: Manifest) -> int:
    if axis.isdecimal():
        return int(axis)
    return 1 if axis == "batch" else min(_LENGTH, manifest.max_lengths.get(axis, _LENGTH))


def _value(entry: InputEntry) -> int:
    if entry.name.endswith("attention_mask"):
        return 1
    if not entry.name.endswith("input_ids"):
        return 0
    # 0 and 1 are often padding.
    return min(2, entry.limit - 1) if entry.limit else 2
