"""The notes of a report: what a user of the graph should know, in one sentence each."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import onnx_ir as ir

from exporter.models.embeddings import embedder_of
from exporter.models.inputs import used_inputs
from exporter.models.own_tasks import OwnModel, Sharing
from exporter.models.peft_modules import base_of
from exporter.plan import Plan, Task
from exporter.prune.task_groups import TaskGroup
from exporter.verify.effect import tasks_without_effect
from exporter.verify.random_inputs import Arrays

# Longer lists of tasks are cut to this number.
_TASKS = 3
# PEFT 0.21 takes two arguments of its forward method by name and does not pass them on.
_DROPPING = "PeftModelForQuestionAnswering"
# Data that models of texts take next to the tokens.
_OTHER_INPUTS = (
    "bbox",
    "pixel_values",
    "visual_embeds",
    "xpath_tags_seq",
    "xpath_subs_seq",
    "entity_ids",
    "input_shape_ids",
    "input_pronunciation_ids",
)


def unread_inputs(plan: Plan, groups: Sequence[tuple[Any, Sequence[Task]]], unread: Sequence[Sequence[str]]) -> tuple[str, ...]:
    """Return a note for each input that a task does not read although its model has it.

    Args:
        plan: the plan of the tasks.
        groups: the model that was traced, and the tasks of each group.
        unread: for each group, the inputs on which no output of its graph depends.
    """
    found: dict[tuple[str, bool], list[str]] = {}
    for (model, tasks), names in zip(groups, unread, strict=True):
        dropped = type(model).__name__ == _DROPPING
        for task in tasks:
            for name in set(names).intersection(used_inputs(plan.inputs, task.head.kind)):
                found.setdefault((name, dropped), []).append(task.name)
    return tuple(
        f"{_listed(tasks)} {'do' if len(tasks) > 1 else 'does'} not read {name}"
        + (f": {_DROPPING} does not pass it to the model, nor did it in training" if dropped else "")
        for (name, dropped), tasks in found.items()
    )


def other_inputs(models: Sequence[Any]) -> tuple[str, ...]:
    """Return a note for each class of transformers that takes data of which the graph has no input.

    Args:
        models: the models that were traced.
    """
    found = {}
    for base in [base_of(part) for model in models for part in getattr(model, "parts", [model])]:
        taken = inspect.signature(base.forward).parameters
        names = [name for name in _OTHER_INPUTS if name in taken and name != getattr(base, "main_input_name", "")]
        if hasattr(getattr(base, "config", None), "type_vocab_sizes"):  # TAPAS
            names.append("token_type_ids of several columns")
        if names:
            found[type(base).__name__] = names
    return tuple(
        f"{name} also takes {', '.join(names)}, for which the graph has no input: its results are those of transformers without"
        for name, names in found.items()
    )


def missing_effects(
    plan: Plan, task_groups: Sequence[TaskGroup], probed: tuple[Arrays, Arrays] | None = None
) -> tuple[str, ...]:
    """Return a note with the tasks whose adapter changes nothing; empty if there are no such tasks.

    Args:
        plan: the plan of the tasks.
        task_groups: the pruned models.
        probed: inputs and outputs of their graph; they are used if it computes in fp32.
    """
    tasks = tasks_without_effect(task_groups, plan, None if plan.precision != "fp32" else probed)
    if not tasks:
        return ()
    own = "their adapters are" if len(tasks) > 1 else "its adapter is"
    return (
        f"suspicious: {_listed(tasks)} {'give' if len(tasks) > 1 else 'gives'} the same logits without an adapter; check that "
        f"{own} trained",
    )


def decided_in_fp64(exact: Mapping[str, float]) -> tuple[str, ...]:
    """Return a note with the tasks that were compared with PyTorch in fp64.

    Args:
        exact: tasks -> the largest difference from PyTorch in fp32 there.
    """
    if not exact:
        return ()
    return (
        f"{_listed(list(exact))}: compared with PyTorch in fp64 for some of the verified inputs, where the graph differs from "
        f"PyTorch in fp32 by up to {max(exact.values()):.1e}",
    )


def nothing_quantized(plan: Plan, graph: ir.Model) -> tuple[str, ...]:
    """Return a note if a graph of int8 has no weight in 8 bits.

    Args:
        plan: the plan of the graph.
        graph: the compiled graph.
    """
    eight_bits = (ir.DataType.INT8, ir.DataType.UINT8)
    if plan.precision != "int8" or any(value.dtype in eight_bits for value in graph.graph.initializers.values()):
        return ()
    return ("no matrix is large enough for int8, where quantizing its input would cost more than it saves: weights stay fp32",)


def without_pooling(plan: Plan) -> tuple[str, ...]:
    """Return a note with the tasks that give hidden states, as a PEFT adapter does without a pooling.

    Args:
        plan: the plan of the tasks.
    """
    tasks = [task.name for task in plan.tasks if task.head.kind == "hidden_states" and isinstance(task.setup, str)]
    if not tasks:
        return ()
    several = len(tasks) > 1
    return (
        f"{_listed(tasks)} {'give' if several else 'gives'} the hidden states of the tokens; for one embedding of a text, name "
        f"{'their poolings' if several else 'its pooling'}, such as --pooling {tasks[0]}=mean",
    )


def default_prompts(task_groups: Sequence[TaskGroup]) -> tuple[str, ...]:
    """Return a note for the linear heads over a model that has a default prompt, which is part of no text of `predict`.

    Args:
        task_groups: the pruned models.
    """
    found: dict[str, list[str]] = {}
    for task_group in task_groups:
        for task in task_group.tasks:
            embedder = embedder_of(task_group.model, task.setup) if isinstance(task.setup, str) else None
            if embedder is not None and embedder.labels and (prompt := embedder.prompts.get(embedder.default_prompt)):
                found.setdefault(prompt, []).append(task.name)
    return tuple(
        f"{_listed(tasks)}: sentence-transformers and SetFit write the model's default prompt {prompt!r} before each text, "
        "predict does not; add it to the texts, unless the head was trained without it"
        for prompt, tasks in found.items()
    )


def shared_weights(plan: Plan, task_groups: Sequence[TaskGroup]) -> tuple[str, ...]:
    """Return a note for the tasks without adapters: what they share with the base model, before layers are dropped.

    Args:
        plan: the plan of the tasks.
        task_groups: the pruned models.
    """
    found: dict[str, list[str]] = {}
    for task_group in task_groups:
        if isinstance(task_group.model, OwnModel):
            for task in task_group.tasks:
                found.setdefault(_sharing(task_group.model.tasks[task.setup].sharing), []).append(task.name)
    order = [task.name for task in plan.tasks]
    return tuple(f"{_listed(sorted(names, key=order.index))}: {text}" for text, names in found.items())


def _sharing(sharing: Sharing | None) -> str:
    if sharing is None:
        return "the base model's trunk with a head only"
    total = sharing.equal + sharing.low + sharing.whole
    text = f"a fine-tune with {sharing.equal} of {total} trunk weights equal to the base model's"
    if sharing.low:
        ranks = ", ".join(map(str, sharing.ranks))
        text += f"; {sharing.low} differ by matrices of rank {ranks}, as after merging a LoRA"
    if sharing.whole:
        text += f"; {sharing.whole} are stored as a whole"
    return text if sharing.equal or sharing.low else f"{text}: check that it was trained from this base model"


def _listed(tasks: Sequence[str]) -> str:
    shown = ", ".join(tasks[:_TASKS])
    return f"{shown} and {len(tasks) - _TASKS} more" if len(tasks) > _TASKS else shown
