"""What to export: the tasks with their heads, the layers dropped, the graph's inputs. Decided once, then frozen."""

from __future__ import annotations

import json
import math
import operator
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from runtime.bundle import OUTPUTS, InputEntry

from .errors import ExportError
from .family import Family, family_of
from .heads import Head, find_head
from .inputs import check_vocabulary, max_lengths, model_inputs
from .load import Checkpoint
from .passes import PRECISIONS, TARGETS, output_names
from .setups import adapters_of, fusions_of, parse_setup, split_tasks, task_name

DEFAULT_OPSET = 20
OPSETS = range(17, 25)
# What torch.onnx writes at least; a lower one is made of it in the end.
LEAST_TRACED_OPSET = 18
# Allowed |onnx - torch| relative to max(1, max |torch|) on random inputs, the worst there are for integers; the compiler's work
# is proved in fp32 first. What a provider rounds by an option of its own, the graph does not.
TOLERANCES = {"fp32": 1e-4, "fp16": 2e-2, "bf16": 1e-4, "int8": 1.0}


@dataclass(frozen=True)
class Task:
    """One adapter or composition of adapters, with a head.

    Attributes:
        name: the task's own name; graph outputs begin with it.
        setup: an adapter's name, or a composition of the adapters library.
        head: its prediction head.
        drop: adapters leave the layers 0 to drop - 1.
        kept: fusion -> layer -> the members that stay there; a fusion or layer that is absent keeps all.
        structure: equal for tasks that one trace serves: everything but weights and label count.
    """

    name: str
    setup: Any
    head: Head
    drop: int
    kept: Mapping[str, Mapping[int, tuple[str, ...]]]
    structure: str

    @property
    def names(self) -> tuple[str, ...]:
        """The adapters and fusion layers by name, in an order that is the same for tasks of one structure."""
        return (*adapters_of(self.setup), *fusions_of(self.setup))

    @property
    def outputs(self) -> tuple[str, ...]:
        """The graph's outputs for this task, beside other tasks'."""
        return output_names(self.name, OUTPUTS[self.head.kind])


@dataclass(frozen=True)
class Plan:
    """Attributes:
    tasks: in the order of the graph's outputs.
    layers: how many layers the model has.
    inputs: the graph's inputs, in order.
    max_lengths: the longest sequence per axis, in tokens; an axis without a limit is absent.
    padding_id: the token that fills up short rows, if the model knows one.
    end_id: the token with which texts end, where the model looks for it.
    opset: the ONNX operator set.
    precision, target: what the graph is compiled for.
    atol: parity tolerance relative to max(1, max |eager|).
    """

    tasks: tuple[Task, ...]
    layers: int
    inputs: tuple[InputEntry, ...]
    max_lengths: Mapping[str, int]
    padding_id: int | None
    end_id: int | None
    opset: int
    precision: str
    target: str
    atol: float

    @property
    def rounds(self) -> bool:
        """Whether the graph itself holds numbers of a lower precision than fp32."""
        return self.precision in ("fp16", "int8")

    @property
    def drop(self) -> int:
        """In the layers 0 to drop - 1 no task has an adapter."""
        return min(task.drop for task in self.tasks)

    @property
    def groups(self) -> tuple[tuple[Task, ...], ...]:
        """The tasks by structure, groups and tasks in the order given."""
        by_structure: dict[str, list[Task]] = {}
        for task in self.tasks:
            by_structure.setdefault(task.structure, []).append(task)
        return tuple(part for group in by_structure.values() for part in _by_common_adapters(tuple(group), 0))


def _by_common_adapters(group: tuple[Task, ...], role: int) -> list[tuple[Task, ...]]:
    """Divides tasks whose first adapters are common to some of them: Stack(en, a) and Stack(en, b) share en, which is then part
    of their trunk, and Stack(de, c) has another one."""
    if role >= len(group[0].names):
        return [group]
    by_name: dict[str, list[Task]] = {}
    for task in group:
        by_name.setdefault(task.names[role], []).append(task)
    if len(by_name) == len(group):
        return [group]
    return [part for tasks in by_name.values() for part in _by_common_adapters(tuple(tasks), role + 1)]


def make_plan(
    model: Any,
    tokenizer: Any,
    tasks: Sequence[str] | Mapping[str, Any] | None,
    drop: int | Mapping[str, int],
    opset: int | None = None,
    atol: float | None = None,
    setup: Any = None,
    head: Any = None,
    precision: str = "fp32",
    target: str = "portable",
) -> Plan:
    """Checks the request against the model. `setup` and `head` are the checkpoint's own: its tasks where `tasks` names none.

    Raises:
        ExportError: a task, head, method, drop or opset that cannot be exported.
    """
    family = family_of(model)
    layers = family.layers_of(model)
    opset = DEFAULT_OPSET if opset is None else opset
    if not isinstance(opset, int) or opset not in OPSETS:
        raise ExportError(f"opset must be from {OPSETS[0]} to {OPSETS[-1]}, found {opset}")
    _check_target(target, precision)
    atol = TOLERANCES[precision] if atol is None else atol
    if not isinstance(atol, int | float) or not 0 < atol < math.inf:
        raise ExportError(f"atol must be a finite number above 0, found {atol}")
    check_vocabulary(model, tokenizer)
    setups = _choose(model, family, tasks, setup)
    drops = _drops(drop, layers, list(setups))
    heads = _own_heads(setups, head) if tasks is None and setup is not None else {}
    chosen = tuple(_task(model, family, name, setup, drops[name], heads.get(name)) for name, setup in setups.items())
    inputs = model_inputs(model, tokenizer, {task.head.kind for task in chosen})
    check_names(chosen, inputs)
    return Plan(
        tasks=chosen,
        layers=layers,
        inputs=inputs,
        max_lengths=max_lengths(model, inputs),
        padding_id=getattr(model.config, "pad_token_id", None),
        end_id=model.config.eos_token_id if getattr(model.config, "is_encoder_decoder", False) else None,
        opset=opset,
        precision=precision,
        target=target,
        atol=atol,
    )


def make_plans(
    checkpoint: Checkpoint,
    tasks: Sequence[str] | Mapping[str, Any] | None,
    drop: int | Sequence[int] | Mapping[str, int],
    opset: int | None,
    atol: float | None,
    precision: str,
    target: str,
) -> list[Plan]:
    """One plan per variant.

    Raises:
        ExportError: a task, head, method, drop, opset, precision or target that cannot be exported.
    """
    model, tokenizer, setup, head = checkpoint.model, checkpoint.tokenizer, checkpoint.setup, checkpoint.head
    drops = list(drop) if isinstance(drop, Sequence) and not isinstance(drop, str) else [drop]
    if not drops:
        raise ExportError("drop must name at least one number of layers, found none")
    plans = [make_plan(model, tokenizer, tasks, each, opset, atol, setup, head, precision, target) for each in drops]
    for number, count in Counter(plan.drop for plan in plans).items():
        if count > 1:
            raise ExportError(f"drop names {number} twice: each variant has a drop of its own")
    return plans


def _check_target(target: str, precision: str) -> None:
    if target not in TARGETS:
        raise ExportError(f"target must be one of {', '.join(TARGETS)}, found {target!r}")
    if precision not in PRECISIONS:
        raise ExportError(f"precision must be one of {', '.join(PRECISIONS)}, found {precision!r}")
    if precision not in TARGETS[target]:
        able = [name for name, precisions in TARGETS.items() if precision in precisions]
        raise ExportError(
            f"the target {target} computes in {', '.join(TARGETS[target])}, found {precision}: choose one of these, or for "
            f"{precision} one of the targets {', '.join(able)}"
        )


def _own_heads(tasks: Mapping[str, Any], heads: Any) -> dict[str, str]:
    """Task -> head, as the checkpoint's own setup of heads says it."""
    names = [heads] if isinstance(heads, str) else list(heads or ())
    fits = len(names) == len(tasks) and all(isinstance(name, str) for name in names)
    return dict(zip(tasks, names, strict=True)) if fits else {}


def _task(model: Any, family: Family, name: str, setup: Any, drop: int, own_head: str | None) -> Task:
    head = find_head(model, name, own_head or _head_name(model, name, setup))
    structure = {"setup": family.structure_of(model, name, setup, drop), "head": [head.structure, OUTPUTS[head.kind]]}
    return Task(name, setup, head, drop, {}, json.dumps(structure, sort_keys=True, default=str))


def _head_name(model: Any, task: str, setup: Any) -> str:
    """The head of the task's name, or the one that the library would activate with the setup."""
    return task if task in getattr(model, "heads", {}) else task_name(setup)


def _choose(model: Any, family: Family, wanted: Sequence[str] | Mapping[str, Any] | None, own: Any) -> dict[str, Any]:
    """Task name -> setup; by default the checkpoint's own setup, or all adapters and fusions that have a head."""
    adapters, fusions = family.adapters_of(model), family.compositions_of(model)
    if not adapters:
        raise ExportError("the model has no adapters: add or load some (model.load_adapter), or name another --model")
    if wanted is None:
        setups = _default(model, adapters, fusions, own)
    elif isinstance(wanted, Mapping):
        setups = dict(wanted)
    elif isinstance(wanted, str) or not isinstance(wanted, Sequence):
        raise ExportError(f"tasks must be a list of adapter names, found {wanted!r}: write [{wanted!r}] for a single one")
    else:
        setups = _named(wanted, fusions)
    if not setups:
        raise ExportError("no task was named: expected at least one adapter name, or leave tasks out for all of them")
    parsed = {}
    for name, setup in setups.items():
        if not isinstance(name, str) or not name:
            raise ExportError(f"a task must have a name, found {name!r}")
        parsed[name] = parse_setup(name, setup)
        for adapter in adapters_of(parsed[name]):
            if adapter not in adapters:
                raise ExportError(f"there is no adapter {adapter!r}; the model has {', '.join(adapters)}")
    return parsed


def _named(wanted: Sequence[str], fusions: Mapping[str, Any]) -> dict[str, Any]:
    for name in wanted:
        if not isinstance(name, str):
            raise ExportError(
                f"a task must be an adapter's name, found {name!r}: give compositions as a mapping, {{'name': composition}}"
            )
        if list(wanted).count(name) > 1:
            raise ExportError(f"the task {name!r} is named twice")
    return {name: fusions.get(name, name) for name in wanted}


def _default(model: Any, adapters: list[str], fusions: Mapping[str, Any], own: Any) -> dict[str, Any]:
    if own is not None:
        setups = split_tasks(own)
        names = [task_name(setup) for setup in setups]
        if len(set(names)) != len(names):
            raise ExportError(
                f"the checkpoint's setup gives several tasks one name ({', '.join(names)}): name them with tasks="
            )
        return dict(zip(names, setups, strict=True))
    if not hasattr(model, "heads"):
        return {name: name for name in adapters}
    heads = list(model.heads)
    known = {**{name: name for name in adapters}, **fusions}
    # A member of a fusion needs no head.
    members = {name for fusion in fusions.values() for name in adapters_of(fusion)}
    headless = [name for name in known if name not in heads and name not in members]
    problems = [f"the {_kind(name, fusions)} {name!r} has no prediction head of its own name" for name in headless]
    problems += [f"the head {name!r} has no adapter of its own name" for name in heads if name not in known]
    if problems:
        remedy = "add what is missing, delete it, or name the tasks to export (--tasks a,b)"
        raise ExportError("; ".join(problems) + ": " + remedy)
    return {name: setup for name, setup in known.items() if name in heads}


def _kind(name: str, fusions: Mapping[str, Any]) -> str:
    return "fusion" if name in fusions else "adapter"


def _drops(drop: object, layers: int, tasks: list[str]) -> dict[str, int]:
    if not isinstance(drop, Mapping):
        return dict.fromkeys(tasks, check_drop(drop, layers))
    unknown = [name for name in drop if name not in tasks]
    if unknown:
        raise ExportError(f"drop names {', '.join(map(repr, unknown))}, which is no task; tasks: {', '.join(tasks)}")
    return {name: check_drop(drop.get(name, 0), layers) for name in tasks}


def check_drop(drop: object, layers: int) -> int:
    """`drop` as a number of layers.

    Raises:
        ExportError: it is no whole number from 0 to `layers`.
    """
    try:
        number = operator.index(drop)  # type: ignore[arg-type]  # numpy's integers are welcome
    except TypeError:
        number = None
    if number is None or isinstance(drop, bool):
        raise ExportError(f"drop must be a whole number of layers from 0 to {layers}, found {drop!r}")
    if not 0 <= number <= layers:
        raise ExportError(f"drop must be from 0 to {layers}, the model's number of layers; found {number}")
    return number


def check_names(tasks: Sequence[Task], inputs: Sequence[InputEntry]) -> None:
    """Refuses tasks whose outputs would be called like another value of the graph's surface.

    Raises:
        ExportError: names the output.
    """
    for name, count in Counter(name for task in tasks for name in task.outputs).items():
        if count > 1:
            raise ExportError(f"two tasks would give one output {name!r}: rename one of them")
        if name in {entry.name for entry in inputs}:
            raise ExportError(f"the task {name!r} is called like an input of the graph: rename the adapter")
