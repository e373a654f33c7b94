"""Check of the requested tasks, drop and texts against the bundle."""

from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from runtime.bundle import Manifest, TaskEntry
from runtime.errors import InputError
from runtime.text.encode import TEXT_INPUTS, TextEncoder
from runtime.text.prediction import EMBEDDINGS, FIELDS
from runtime.text.texts import Text

# Heads with predictions for texts
PREDICTED: Final = frozenset(FIELDS) - {"sentence_embedding"}
_MOST: Final = 10  # added tasks in a message


@dataclass(frozen=True)
class TaskSelection:
    """Tasks of one call.

    Attributes:
        entries: manifest entries of the tasks, in the requested order.
        outputs: names of their graph outputs.
        result_names: names of the same outputs in the result of `Predictor.run`.
    """

    entries: tuple[TaskEntry, ...]
    outputs: tuple[str, ...]
    result_names: tuple[str, ...]

    @classmethod
    def of(cls, entries: tuple[TaskEntry, ...]) -> "TaskSelection":
        """Return the selection of the given entries."""
        return cls(
            entries,
            tuple(output for entry in entries for output in entry.outputs),
            tuple(name for entry in entries for name in entry.result_names),
        )


def find_tasks(
    manifest: Manifest,
    tasks: Sequence[str | TaskEntry],
    added: Mapping[str, TaskEntry] = MappingProxyType({}),
    versions: Container[TaskEntry] = (),
) -> tuple[TaskEntry, ...]:
    """Return the entry of each of `tasks`; a name is looked up once, so that all its entries are of one version.

    Args:
        manifest: manifest of the bundle.
        tasks: names of tasks, or entries that were looked up before.
        added: tasks that were added to the bundle, by name. Other threads may change them.
        versions: every entry that was added and is still in use, those of tasks that were replaced or removed since included.

    Raises:
        InputError: a task is unknown (the message names all such tasks), or the list is empty.
    """
    if isinstance(tasks, str) or not isinstance(tasks, Sequence):
        raise InputError(f"tasks: expected a list of names or None, found {type(tasks).__name__}; pass [name]")
    known = {task.name: task for task in manifest.tasks}
    names = dict.fromkeys(name for name in tasks if isinstance(name, str))
    by_name = {name: known.get(name) or added.get(name) for name in names}

    def entry(task: object) -> TaskEntry | None:
        if isinstance(task, str):
            return by_name[task]
        if not isinstance(task, TaskEntry):
            return None
        return task if (task in versions if task.name not in known else task == known[task.name]) else None

    found = [entry(task) for task in tasks]
    if unknown := [name for name, each in zip(tasks, found, strict=True) if each is None]:
        raise InputError(f"tasks: expected some of {_names(known, added)}, found {', '.join(map(_shown, unknown))}")
    if not tasks:
        raise InputError(f"tasks: expected some of {_names(known, added)}, found an empty list; omit it for all")
    return tuple(each for each in found if each is not None)


def select_tasks(
    manifest: Manifest,
    tasks: Sequence[str | TaskEntry] | None,
    added: Mapping[str, TaskEntry] = MappingProxyType({}),
    versions: Container[TaskEntry] = (),
) -> tuple[TaskEntry, ...]:
    """Return the entries of `tasks` without duplicates; all entries of the manifest for None.

    Args:
        manifest: as in `find_tasks`.
        tasks: as in `find_tasks`.
        added: as in `find_tasks`.
        versions: as in `find_tasks`.

    Raises:
        InputError: as in `find_tasks`.
    """
    if tasks is None:
        return manifest.tasks
    # A repeated task is computed once.
    return tuple({entry.name: entry for entry in find_tasks(manifest, tasks, added, versions)}.values())


def _shown(task: object) -> str:
    return repr(task.name if isinstance(task, TaskEntry) else task)


def _names(known: Iterable[str], added: Mapping[str, TaskEntry]) -> str:
    """The names of tasks, at most a few of those that were added."""
    shown = list(added)
    return ", ".join((*known, *shown[:_MOST], *(["…"] if len(shown) > _MOST else [])))


def require_encoder(manifest: Manifest, encoder: TextEncoder | None, entries: Sequence[TaskEntry]) -> TextEncoder:
    """Return `encoder` if `predict` can compute all of `entries`.

    Raises:
        InputError: a task has no predictions; or as in `require_texts`.
    """
    if unsupported := [task for task in entries if task.head not in PREDICTED]:
        found = ", ".join(f"{task.name} ({task.head})" for task in unsupported)
        others = ", ".join(task.name for task in manifest.tasks if task.head in PREDICTED)
        embedded = all(task.head in EMBEDDINGS for task in unsupported)
        remedy = "call encode_texts()" if embedded else "call run()"
        choice = f"{remedy}, or select other tasks: {others}" if others else remedy
        raise InputError(f"tasks: predict() expects tasks that need only a text, found {found}; {choice}")
    return require_texts(manifest, encoder, entries, "predict()")


def select_embeddings(
    manifest: Manifest,
    tasks: Sequence[str | TaskEntry] | None,
    select: Callable[[Sequence[str | TaskEntry] | None], tuple[TaskEntry, ...]],
) -> tuple[TaskEntry, ...]:
    """Return the entries of `tasks` without duplicates; for None, all of the manifest that give embeddings.

    Args:
        manifest: manifest of the bundle.
        tasks: tasks as `select` takes them.
        select: `select_tasks` with the tasks of a predictor.

    Raises:
        InputError: as in `select`; or a task gives no embeddings, or the bundle has no such task.
    """
    others = [task.name for task in manifest.tasks if task.head in EMBEDDINGS]
    entries = select(others if tasks is None and others else tasks)
    if wrong := [f"{task.name} ({task.head})" for task in entries if task.head not in EMBEDDINGS]:
        choice = f"select {', '.join(others)}" if others else "the bundle has none; call predict() or run()"
        raise InputError(f"tasks: encode_texts() expects tasks that give embeddings, found {', '.join(wrong)}; {choice}")
    return entries


def require_texts(manifest: Manifest, encoder: TextEncoder | None, entries: Sequence[TaskEntry], method: str) -> TextEncoder:
    """Return `encoder` if texts are the only input that all of `entries` need.

    Args:
        manifest: manifest of the bundle.
        encoder: encoder of the bundle, or None.
        entries: manifest entries of the tasks.
        method: the method that was called, for messages.

    Raises:
        InputError: the graph needs more than texts, or the bundle has no tokenizer or no mask token.
    """
    remedy = "call run()"
    # In a bundle with seq2seq tasks only these read the decoder inputs (see InputEntry), so any value is valid here
    dummies = {"word_starts"}
    if any(task.head == "seq2seq_lm" for task in manifest.tasks):
        dummies |= {"decoder_input_ids", "decoder_attention_mask"}
    names = [entry.name for entry in manifest.inputs]
    if missing := [name for name in names if name not in {*TEXT_INPUTS, *dummies}]:
        raise InputError(f"{method} expects a graph that takes only texts, this one takes {', '.join(missing)}; {remedy}")
    if encoder is None:
        raise InputError("this bundle was exported without a tokenizer: tokenize the texts in your code and call run()")
    if (masked := [task.name for task in entries if task.head == "masked_lm"]) and encoder.mask_id is None:
        found = "neither tokenizer_config.json nor special_tokens_map.json names one from its vocabulary"
        raise InputError(f"task {masked[0]}: expected a tokenizer with a mask token, {found}; {remedy}")
    return encoder


def check_pairs(entries: Sequence[TaskEntry], texts: Sequence[Text]) -> None:
    """Check that all texts are pairs if a task requires pairs.

    Raises:
        InputError: a question-answering task is selected and a text is not a pair.
    """
    tasks = [entry.name for entry in entries if entry.head == "question_answering"]
    if tasks and (single := [index for index, text in enumerate(texts) if isinstance(text, str)]):
        found = ", ".join(f"texts[{index}]" for index in single[:10]) + (", …" if len(single) > 10 else "")
        raise InputError(
            f"task {tasks[0]}: expected pairs (question, context), found a single text: {found}; or select other tasks"
        )


def check_drop(drop: int | None, drops: tuple[int, ...], what: str) -> None:
    """Check that a drop is available.

    Args:
        drop: drop to check; None is always accepted.
        drops: available drops.
        what: how they became available, "exported" or "loaded", for the message.

    Raises:
        InputError: `drop` is not one of `drops`.
    """
    if drop is not None and (isinstance(drop, bool) or drop not in drops):
        more = "load all (drop=None)" if what == "loaded" else "export it again with --drop"
        raise InputError(
            f"drop: this bundle was {what} with {', '.join(map(str, drops))}, found {drop!r}; use one of these, or {more}"
        )
