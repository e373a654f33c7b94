"""What a caller asks for, checked against what the bundle has."""

from collections.abc import Sequence
from dataclasses import dataclass

from runtime.bundle import Manifest, TaskEntry
from runtime.errors import InputError
from runtime.text.encode import TEXT_INPUTS, Text, TextEncoder
from runtime.text.prediction import FIELDS


@dataclass(frozen=True)
class TaskSelection:
    """Tasks of one call: `outputs` of the graph and `answers`, the caller's names of them, in the order of `entries`."""

    entries: tuple[TaskEntry, ...]
    outputs: tuple[str, ...]
    answers: tuple[str, ...]

    @classmethod
    def of(cls, entries: tuple[TaskEntry, ...]) -> "TaskSelection":
        return cls(
            entries,
            tuple(output for entry in entries for output in entry.outputs),
            tuple(name for entry in entries for name in entry.answers),
        )


def chosen_tasks(manifest: Manifest, tasks: Sequence[str] | None) -> tuple[TaskEntry, ...]:
    """The entries of `tasks`, None = all. Raises InputError naming those that are not there."""
    if tasks is None:
        return manifest.tasks
    if isinstance(tasks, str) or not isinstance(tasks, Sequence):
        raise InputError(f"tasks: expected a list of names or None, found {type(tasks).__name__}; pass [name]")
    known = {task.name: task for task in manifest.tasks}
    if unknown := [name for name in tasks if not (isinstance(name, str) and name in known)]:
        raise InputError(f"tasks: expected some of {', '.join(known)}, found {', '.join(map(repr, unknown))}")
    if not tasks:
        raise InputError(f"tasks: expected some of {', '.join(known)}, found an empty list; None takes all")
    return tuple(known[name] for name in dict.fromkeys(tasks))  # a task that is named twice is answered once


def checked_encoder(manifest: Manifest, encoder: TextEncoder | None, entries: Sequence[TaskEntry]) -> TextEncoder:
    """`encoder`, where texts alone are enough for every one of `entries`; otherwise raises InputError."""
    refusal = "call run()"
    if silent := [task for task in entries if task.head not in FIELDS]:
        found = ", ".join(f"{task.name} ({task.head})" for task in silent)
        others = ", ".join(task.name for task in manifest.tasks if task.head in FIELDS)
        choice = f"{refusal}, or name others in tasks: {others}" if others else refusal
        raise InputError(f"tasks: predict() expects tasks that a text alone answers, found {found}; {choice}")
    # A decoder's inputs belong to the seq2seq tasks alone where there are such (InputEntry), so that any value does here
    dummies = {"word_starts"}
    if any(task.head == "seq2seq_lm" for task in manifest.tasks):
        dummies |= {"decoder_input_ids", "decoder_attention_mask"}
    names = [entry.name for entry in manifest.inputs]
    if missing := [name for name in names if name not in {*TEXT_INPUTS, *dummies}]:
        raise InputError(f"predict() expects a graph that takes texts alone, this one takes {', '.join(missing)}; {refusal}")
    if encoder is None:
        raise InputError("this bundle was exported without a tokenizer: tokenize the texts yourself and call run()")
    if (masked := [task.name for task in entries if task.head == "masked_lm"]) and encoder.mask_id is None:
        found = "neither tokenizer_config.json nor special_tokens_map.json names one that it knows"
        raise InputError(f"task {masked[0]}: expected a tokenizer with a mask token, {found}; {refusal}")
    return encoder


def check_pairs(entries: Sequence[TaskEntry], texts: Sequence[Text]) -> None:
    """Raise InputError where a task needs pairs and a text is none."""
    tasks = [entry.name for entry in entries if entry.head == "question_answering"]
    if tasks and (single := [index for index, text in enumerate(texts) if isinstance(text, str)]):
        found = ", ".join(f"texts[{index}]" for index in single[:10]) + (", …" if len(single) > 10 else "")
        raise InputError(f"task {tasks[0]}: expected pairs (question, context), found a single text: {found}")


def check_drop(drop: int | None, drops: tuple[int, ...], what: str) -> None:
    """Raise InputError for a drop that is not among `drops`, which were `what`: "exported" or "loaded"."""
    if drop is not None and (isinstance(drop, bool) or drop not in drops):
        raise InputError(
            f"drop: this bundle was {what} with {', '.join(map(str, drops))}, found {drop!r}; take that, or export again "
            f"with `python -m exporter --drop {drop}`"
        )
