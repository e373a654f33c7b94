"""Structures that fit into larger ones: a smaller rank or bottleneck, and adapters on fewer modules, padded with zeros."""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from typing import Any

from exporter.models.plain_lora import is_plain_config

__all__ = ["fits", "larger_structure", "resized"]

_Setup = dict[str, Any]


def fits(structure: str, larger: str) -> bool:
    """Return whether a task of one structure can be computed by the graph of another one.

    Args:
        structure: the structure of the task, as in `exporter.plan.Task`.
        larger: the structure of the graph.
    """
    return structure == larger or larger_structure([structure, larger]) == larger


def larger_structure(structures: Sequence[str]) -> str | None:
    """Return the smallest structure into which all of the given ones fit.

    A LoRA equals one of larger rank whose further rows and columns are zero, and a layer without LoRA equals one with a LoRA of
    zeros. In a smaller bottleneck the further columns of the second matrix are zero, so that the activation of the further
    neurons has no effect. The scale of a LoRA is no part of a structure: it is multiplied into the second matrix.

    Args:
        structures: structures of tasks, as in `exporter.plan.Task`.

    Returns:
        The structure; None if they differ in anything but ranks, bottlenecks and the modules that have a LoRA.
    """
    parsed = [json.loads(each) for each in structures]
    if any({**each, "setup": None} != {**parsed[0], "setup": None} for each in parsed):
        return None
    setup = functools.reduce(
        lambda one, other: None if one is None else _larger(one, other), (each["setup"] for each in parsed)
    )
    return None if setup is None else json.dumps({**parsed[0], "setup": setup}, sort_keys=True, default=str)


def resized(structure: str, other: str) -> str:
    """Return a structure with the sizes of another one, wherever zeros make up for the difference.

    What then differs from the other structure is what no padding changes.
    """
    own, its = json.loads(structure), json.loads(other)
    return json.dumps({**own, "setup": _resized(own["setup"], its["setup"])}, sort_keys=True, default=str)


def _resized(one: Any, other: Any) -> Any:
    if isinstance(one, list) and isinstance(other, list) and _is_single(one) and _is_single(other):
        return [one[0], [_resized_config(one[1][0], other[1][0])], *one[2:]]
    if not isinstance(one, dict) or not isinstance(other, dict) or ("peft" in one) != ("peft" in other):
        return one
    if "peft" not in one:
        return _resized_config(one, other)
    here, there = one["modules"], other["modules"]
    padded = {path for path in {*here, *there} if all(_is_folded(each[path]) for each in (here, there) if path in each)}
    modules = {path: module for path, module in here.items() if path not in padded}
    return {**one, "modules": modules | {path: module for path, module in there.items() if path in padded}}


def _resized_config(one: _Setup, other: _Setup) -> _Setup:
    if all(each.get("architecture") == "lora" and is_plain_config(each) for each in (one, other)):
        return {**one, **{key: other[key] for key in _LORA_SIZES}}
    factors = (one.get("reduction_factor"), other.get("reduction_factor"))
    if all(isinstance(each, int | float) for each in factors) and not one.get("phm_layer"):
        return {**one, "reduction_factor": factors[1]}
    return one


def _larger(one: Any, other: Any) -> Any:
    if one == other:
        return one
    if isinstance(one, dict) and isinstance(other, dict):
        return _peft(one, other) if "peft" in one else _bottleneck(one, other)
    if isinstance(one, list) and isinstance(other, list) and len(one) == len(other) and _is_single(one) and _is_single(other):
        if [one[0], *one[2:]] != [other[0], *other[2:]]:
            return None
        own, its = one[1][0], other[1][0]
        config = _lora(own, its) if own.get("architecture") == "lora" else _bottleneck(own, its)
        return None if config is None else [one[0], [config], *one[2:]]
    return None


def _is_single(setup: Sequence[Any]) -> bool:
    return len(setup) > 1 and isinstance(setup[1], list) and len(setup[1]) == 1 and isinstance(setup[1][0], dict)


def _lora(one: _Setup, other: _Setup) -> _Setup | None:
    if not all(is_plain_config(each) for each in (one, other)) or not _equal(one, other, *_LORA_SIZES):
        return None
    return {
        **one,
        "r": max(one["r"], other["r"]),
        "attn_matrices": sorted({*one["attn_matrices"], *other["attn_matrices"]}),
        "leave_out": sorted({*one["leave_out"]} & {*other["leave_out"]}),
        **{key: bool(one[key] or other[key]) for key in _LORA_SIZES if key.endswith("_lora")},
    }


_LORA_SIZES = ("r", "attn_matrices", "leave_out", "selfattn_lora", "intermediate_lora", "output_lora")


def _bottleneck(one: _Setup, other: _Setup) -> _Setup | None:
    factors = (one.get("reduction_factor"), other.get("reduction_factor"))
    numbers = [each for each in factors if isinstance(each, int | float)]
    if len(numbers) < 2 or one.get("phm_layer") or not _equal(one, other, "reduction_factor"):
        return None
    return {**one, "reduction_factor": min(numbers)}


def _peft(one: _Setup, other: _Setup) -> _Setup | None:
    # Models of one trunk are two parts where they were loaded twice; the weights of tasks are found by name in each.
    if not _equal(one, other, "modules", "part"):
        return None
    modules = {}
    for path in sorted({*one["modules"], *other["modules"]}):
        found = [each["modules"][path] for each in (one, other) if path in each["modules"]]
        if (len(found) == 2 and found[0] == found[1]) or all(map(_is_folded, found)):
            ranks, biases = (
                zip(*((each["rank"], each["bias"]) for each in found), strict=True) if _is_folded(found[0]) else ((), ())
            )
            modules[path] = {**found[0], "rank": max(ranks), "bias": any(biases)} if ranks else found[0]
        else:
            return None
    return {**{key: value for key, value in one.items() if key != "part"}, "modules": modules}


def _is_folded(module: _Setup) -> bool:
    """Whether a module of PEFT is a LoRA whose scale is multiplied into its second matrix."""
    return module.get("lora") == "Linear" and "scaling" not in module


def _equal(one: _Setup, other: _Setup, *without: str) -> bool:
    return {k: v for k, v in one.items() if k not in without} == {k: v for k, v in other.items() if k not in without}
