"""Prompts of sentence embeddings: the text that comes before a text, by task."""

from collections.abc import Sequence
from typing import TypeAlias

from runtime.bundle import TaskEntry
from runtime.errors import InputError
from runtime.text.texts import Text

# A prompt, the tasks that have it
Prompted: TypeAlias = tuple[str, tuple[TaskEntry, ...]]


def prompts_of(entries: Sequence[TaskEntry], prompt: str | None, prompt_name: str | None) -> dict[str, str]:
    """Return task -> prompt.

    Args:
        entries: manifest entries of the tasks.
        prompt: the prompt of all tasks; None for that of each task.
        prompt_name: the name of a prompt that each task has; None for the default prompt of each task.

    Raises:
        InputError: an argument has the wrong type, both are given, or a task has no prompt of this name.
    """
    for argument, value in (("prompt", prompt), ("prompt_name", prompt_name)):
        if value is not None and not isinstance(value, str):
            raise InputError(f"{argument}: expected a str or None, found {type(value).__name__}")
    if prompt is not None:
        if prompt_name is not None:
            raise InputError(f"prompt_name: expected None together with prompt, found {prompt_name!r}")
        return {entry.name: prompt for entry in entries}
    if prompt_name is None:
        return {entry.name: entry.prompts.get(entry.default_prompt, "") for entry in entries}
    if lacking := [entry for entry in entries if prompt_name not in entry.prompts]:
        known = ", ".join(map(repr, lacking[0].prompts)) or "no prompts"
        raise InputError(f"prompt_name: task {lacking[0].name} has {known}, found {prompt_name!r}; pass the text as prompt=")
    return {entry.name: entry.prompts[prompt_name] for entry in entries}


def by_prompt(entries: Sequence[TaskEntry], prompts: dict[str, str]) -> list[Prompted]:
    """Return the tasks by prompt: those with the same prompt read the same tokens and are computed together."""
    found: dict[str, list[TaskEntry]] = {}
    for entry in entries:
        found.setdefault(prompts[entry.name], []).append(entry)
    return [(prompt, tuple(own)) for prompt, own in found.items()]


def with_prompt(text: Text, prompt: str) -> Text:
    """Return a text with a prompt before it; of a pair, before the first text."""
    return prompt + text if isinstance(text, str) else (prompt + text[0], text[1])
