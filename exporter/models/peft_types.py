"""The PEFT tuners that no static graph has, with the reasons, and those that learn prompts.

Every other tuner is described by its layers (`exporter.models.peft_structure`), so that a new one needs no entry here: the
verification of an export decides. The names are those of `peft.PeftType`, because PEFT is an optional dependency.
"""

from __future__ import annotations

from typing import Any

from exporter.errors import ExportError

# Type -> why its adapters are refused.
REFUSED: dict[str, str] = {
    "ADAPTION_PROMPT": "it gates the attention of LLaMA decoders and has no form for encoders",
    "CPT": "it selects prompt tokens by the types of the tokens of a generated text",
    "LILY": "its experts are weighted by the mean over all tokens of a batch, so that a result depends on the other texts",
    "MULTITASK_PROMPT_TUNING": "its prompt depends on the argument task_ids of each call",
    "POLY": "its mixture of skills depends on the argument task_ids of each call",
    "SHADOW": "it runs a second network along the layers of a decoder",
    "XLORA": "it weights its adapters by the hidden states of a first pass over each text",
}
# Variant of LoRA -> why its adapters are refused.
REFUSED_VARIANTS: dict[str, str] = {
    "ALoraLinearVariant": "aLoRA starts at the invocation tokens of each text",
    "ArrowLinearVariant": "Arrow selects adapters by each token's hidden state",
}
PROMPTS = ("PROMPT_TUNING", "P_TUNING", "PREFIX_TUNING", "CARTRIDGE")
# Prompts that are keys and values of the attention, in each layer.
PREFIXES = ("PREFIX_TUNING", "CARTRIDGE")


def type_of(config: Any) -> str:
    """Return the name of the PEFT type of an adapter's configuration."""
    return str(getattr(config.peft_type, "value", config.peft_type))


def check_type(name: str, kind: str) -> None:
    """Check that adapters of a PEFT type can be exported.

    Args:
        name: the adapter name, for messages.
        kind: the name of the PEFT type.

    Raises:
        ExportError: the type is one of `REFUSED`.
    """
    if kind in REFUSED:
        raise ExportError(f"the adapter {name!r} has the PEFT type {kind}, which has no static graph: {REFUSED[kind]}")
