"""Structures that fit into larger ones: a smaller rank or bottleneck, filled up with zeros."""

from __future__ import annotations

import json
from typing import Any


def padded_scale(structure: str, larger: str) -> float | None:
    """Return by what the second matrix of a task's adapters must be multiplied in a graph of a larger structure.

    A LoRA of smaller rank equals one of larger rank whose further rows and columns are zero. The graph multiplies by alpha / r
    of the larger structure, and this factor corrects that. In a smaller bottleneck the further columns of the second matrix are
    zero, so that the activation of the further neurons has no effect.

    Args:
        structure: the structure of the task, as in `exporter.plan.Task`.
        larger: the structure of the graph.

    Returns:
        The factor; None if the structures differ in anything else, or the task is the larger one.
    """
    one, other = json.loads(structure), json.loads(larger)
    if one["head"] != other["head"]:
        return None
    own, own_rest = _adapter(one["setup"])
    its, its_rest = _adapter(other["setup"])
    if own is None or its is None or own_rest != its_rest:
        return None
    if own.get("architecture") == "lora":
        return _lora(own, its)
    return _bottleneck(own, its)


def _adapter(setup: Any) -> tuple[dict[str, Any] | None, Any]:
    """The configuration of a single adapter, and the rest of the setup."""
    if isinstance(setup, dict):
        return setup, None
    shape, configs, *rest = setup
    if len(configs) == 1 and isinstance(configs[0], dict):
        return configs[0], [shape, *rest]
    return None, None


def _lora(own: dict[str, Any], its: dict[str, Any]) -> float | None:
    plain = its.get("composition_mode") == "add" and not its.get("use_dora") and its.get("vera_d") is None
    if not plain or _without(own, "r", "alpha") != _without(its, "r", "alpha") or not 0 < own["r"] <= its["r"]:
        return None
    return float((own["alpha"] / own["r"]) / (its["alpha"] / its["r"]))


def _bottleneck(own: dict[str, Any], its: dict[str, Any]) -> float | None:
    factor, least = own.get("reduction_factor"), its.get("reduction_factor")
    if not isinstance(factor, int | float) or not isinstance(least, int | float) or factor < least:
        return None
    if its.get("phm_layer") or _without(own, "reduction_factor") != _without(its, "reduction_factor"):
        return None
    return 1.0


def _without(config: dict[str, Any], *keys: str) -> dict[str, Any]:
    return {key: value for key, value in config.items() if key not in keys}
