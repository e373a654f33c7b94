"""LoRA of the library `adapters` that does nothing but add A and B to a weight."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["is_plain_config"]


def is_plain_config(config: Mapping[str, Any]) -> bool:
    """Return whether the scale of a LoRA can be folded into B, by the configuration as a dictionary."""
    return (
        config.get("architecture") == "lora"
        and config.get("composition_mode") == "add"
        and not config.get("use_dora")
        and config.get("vera_d") is None
        and isinstance(config.get("r"), int)
        and config["r"] > 0
    )
