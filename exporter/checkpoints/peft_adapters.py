"""Loading of PEFT adapters into models of PEFT; missing and unexpected weights, of which PEFT only warns, are errors."""

from __future__ import annotations

import importlib
import re
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from exporter.checkpoints.allocation_limit import limited_allocations, stored_with
from exporter.checkpoints.peft_class import check_fit
from exporter.checkpoints.peft_config import changes_biases, read_adapter_weights, read_config, start_of
from exporter.checkpoints.peft_starts import over_plain_weights
from exporter.checkpoints.set_aside import SetAside
from exporter.checkpoints.sources import first_line
from exporter.errors import ExportError
from exporter.families import PEFT_INSTALL
from exporter.models.mixed import MixedModel
from exporter.models.peft import layers_of, structure_of
from exporter.models.peft_biases import add_biases
from exporter.models.peft_modules import adapted, base_of, layer_of
from exporter.models.peft_structure import output_layer
from exporter.models.quiet_libraries import quiet
from exporter.models.shared_copy import shared_copy

# The heads that PEFT adds to modules_to_save.
_HEADS = ("classifier", "score", "qa_outputs")
_PREFIX = "base_model.model."
# Weights that VB-LoRA, TinyLoRA and UniLoRA share between layers; and types whose adapters read weights of the
# model that the first adapter brings: each adapter gets a separate model.
_REFERRED = ("vblora_vector_bank", "tinylora_v", "unilora_theta_d")
_SHARING = frozenset(("VBLORA", "RANDLORA", "PVERA", "TINYLORA", "UNILORA"))


def load_peft(base: Any, sources: Mapping[str, Path], missing: Collection[str] = ()) -> Any:
    """Load adapters into a base model, which becomes part of the result. Only local files are read.

    Args:
        base: a transformers model with a head, for example of AutoModelForSequenceClassification.
        sources: adapter name -> folder of `PeftModel.save_pretrained`. Their heads may have different numbers of labels.
        missing: names of the weights that the checkpoint of `base` lacks; every adapter must have them in modules_to_save.

    Returns:
        A model of PEFT in evaluation mode with the first adapter active, or a `MixedModel` for adapters of several types.

    Raises:
        ExportError: PEFT is not installed, or an adapter is damaged, of an unsupported type, or trained for another model.
    """
    parts = load_parts(base, sources, missing)
    return parts[0] if len(parts) == 1 else MixedModel(parts, list(sources))


def load_parts(base: Any, sources: Mapping[str, Path], missing: Collection[str] = ()) -> list[Any]:
    """Load adapters into one model for each task type and type of adapters; the models share the weights of the base.

    Args:
        base: as of `load_peft`.
        sources: as of `load_peft`.
        missing: as of `load_peft`.

    Raises:
        ExportError: as of `load_peft`.
    """
    check_installed(sources.values())
    if not sources:
        raise ExportError("no PEFT adapter was given: expected at least one folder")
    if any(True for _ in adapted(base)):
        raise ExportError(f"the base model {type(base).__name__} already contains PEFT adapters: load it without them")
    configs = {name: read_config(name, folder) for name, folder in sources.items()}
    groups: dict[tuple[str, ...], list[str]] = {}
    for name, config in configs.items():
        check_fit(name, config.task_type, base)
        kind = str(config.peft_type.value)
        # VeRA's projections are made from a key, of which a model of PEFT has one.
        own = name if kind in _SHARING else str(getattr(config, "projection_prng_key", ""))
        groups.setdefault((str(config.task_type), kind, own, *_wrapped(config)), []).append(name)
    bases = [base, *(shared_copy(base) for _ in list(groups)[1:])]
    return [
        _load_group(own, {name: (configs[name], sources[name]) for name in names}, missing)
        for own, names in zip(bases, groups.values(), strict=True)
    ]


def _wrapped(config: Any) -> tuple[str, ...]:
    """Return the names of the modules besides its targets that an adapter wraps; in a model of PEFT, all wrap the same."""
    saved = getattr(config, "modules_to_save", None) or ()
    return (*sorted(saved), *(("tokens",) if getattr(config, "trainable_token_indices", None) else ()))


def check_installed(folders: Iterable[Path]) -> None:
    """Raise ExportError if PEFT is not installed, or not for the installed transformers."""
    try:
        importlib.import_module("peft")
    except ImportError as error:
        missing = isinstance(error, ModuleNotFoundError) and error.name == "peft"
        state = "not installed" if missing else f"installed but cannot be imported ({first_line(error)})"
        raise ExportError(f"PEFT, which wrote {', '.join(map(str, folders))}, is {state}: {PEFT_INSTALL}") from error


def _load_group(base: Any, adapters: Mapping[str, tuple[Any, Path]], missing: Collection[str]) -> Any:
    """Load adapters of one task type and one type into a model of the class that PEFT has for that task type."""
    from peft import MODEL_TYPE_TO_PEFT_MODEL_MAPPING, PeftModel

    # PEFT puts its layers into the base model.
    plain = shared_copy(base) if any(start_of(folder) for _, folder in adapters.values()) else base
    model: Any = None
    biases: dict[str, dict[str, torch.Tensor]] = {}
    aside: SetAside | None = None
    for name, (config, folder) in adapters.items():
        weights = read_adapter_weights(name, folder)
        if config.task_type is None and getattr(config, "modules_to_save", ()) is None:
            # The classes of PEFT for a task type add the heads; without one, older configurations do not list them.
            heads = [head for head in _HEADS if any(_is_saved_in(key, f"{_PREFIX}{head}") for key in weights)]
            config.modules_to_save = heads or None
        try:
            with quiet(), limited_allocations(f"the adapter {name!r} in {str(folder)!r}", stored_with(weights, base)):
                if start := start_of(folder):
                    config, weights = over_plain_weights(config, weights, plain, start)
                if model is None:
                    model = MODEL_TYPE_TO_PEFT_MODEL_MAPPING.get(config.task_type, PeftModel)(base, config, name)
                else:
                    model.add_adapter(name, config)
        except ExportError:
            raise
        # PEFT raises many types for a configuration that does not fit: ValueError, TypeError, KeyError, …
        except Exception as error:
            raise ExportError(
                f"the adapter {name!r} in {str(folder)!r} does not fit {type(base).__name__}: {first_line(error)}"
            ) from error
        biases[name] = _take_biases(model, weights) if changes_biases(folder) else {}
        _load_weights(model, name, weights, f"the adapter {name!r} in {str(folder)!r}")
        structure_of(model, name, name, drop=0)
        if aside is None:  # PEFT reads settings of the first adapter when it adds others
            aside = SetAside(model)
        else:
            aside.take(name)
    if aside is not None:
        aside.put_back()
    _check_complete(model, missing)
    add_biases(model, biases)
    with quiet():
        model.set_adapter(next(iter(adapters)))
    return model.eval()


def _is_saved_in(key: str, module: str) -> bool:
    """Whether a weight is one of a module, and not one of an adapter of it."""
    return _lies_in(key, module) and "lora_" not in key


def _load_weights(model: Any, name: str, weights: dict[str, torch.Tensor], what: str) -> None:
    from peft import set_peft_model_state_dict

    _fit_heads(model, name, weights)
    _fit_projections(model, name, weights)
    differing = _remove_base_weights(model, weights, what)
    try:
        with quiet():
            result: Any = set_peft_model_state_dict(model, weights, adapter_name=name)
    except KeyError as error:
        raise ExportError(f"{what} lacks the weight {error}: save it again") from error
    except (RuntimeError, ValueError) as error:  # torch lists each weight of another shape on a separate line
        lines = str(error).strip().splitlines()
        raise ExportError(f"{what} was trained for another model: {lines[min(1, len(lines) - 1)].strip()}") from error
    # The weights of prompts have other names in a file; PEFT raises KeyError if they are not there.
    prompt = model.peft_config[name].is_prompt_learning
    keyed = [(path, module) for path, module in model.named_modules() if _is_keyed(module) and name in module]
    slots = [f"{path}.{name}" for path, _ in keyed if not (prompt and path.startswith("prompt_encoder"))]
    lacking = sorted(key for key in result.missing_keys if any(_lies_in(key, slot) for slot in slots))
    # Layers refer to weights that the adapter has once, outside of the layers; a file contains them once.
    lacking = [key for key in lacking if not (key.startswith(_PREFIX) and any(part in key for part in _REFERRED))]
    lacking = [key for key in lacking if _is_written(model, name, key)]
    unexpected = sorted(key for key in (*result.unexpected_keys, *differing) if not (prompt and key.startswith("prompt_")))
    problems = [f"lacks {len(lacking)} weights, first {lacking[0]!r}"] if lacking else []
    if unexpected:
        problems.append(f"has {len(unexpected)} weights that are not in the model, first {unexpected[0]!r}")
    if problems:
        layers, has = max((layer_of(key) or 0 for key in unexpected), default=0) + 1, layers_of(model)
        reason = (
            f"it has {layers} layers, the base model {has}"
            if layers > has
            else "it is damaged or was trained for another model"
        )
        raise ExportError(f"{what} {' and '.join(problems)}: {reason}")


def _is_written(model: Any, name: str, key: str) -> bool:
    """Whether PEFT writes a weight of an adapter; of AdaLoRA, it leaves out the ranks, which follow from the configuration."""
    from peft import get_peft_model_state_dict

    with quiet():
        return re.sub(rf"\.{re.escape(name)}(?=\.|$)", "", key) in get_peft_model_state_dict(model, adapter_name=name)


def _is_keyed(module: nn.Module) -> bool:
    return isinstance(module, nn.ModuleDict | nn.ParameterDict)


def _lies_in(key: str, prefix: str) -> bool:
    return key == prefix or key.startswith(f"{prefix}.")


def _remove_base_weights(model: Any, weights: dict[str, torch.Tensor], what: str) -> list[str]:
    """Remove the base model's weights, which PEFT would overwrite, from `weights`; return the names of those that differ."""
    own = _base_weights(model)
    stored = {key: own[name] for key in sorted(weights) if (name := _plain(key)) in own}
    for key, tensor in stored.items():
        if "embed" in key and len(weights[key]) != len(tensor):
            raise ExportError(
                f"{what} has embeddings of {len(weights[key]):,} tokens, the base model {len(tensor):,}: it was trained with "
                "resized embeddings, which would replace those of the other tasks; give the base model with that vocabulary"
            )
    return [key for key, tensor in stored.items() if not torch.equal(weights.pop(key).to(tensor.dtype), tensor)]


def _base_weights(model: Any) -> dict[str, torch.Tensor]:
    """The weights by their names in a model in which no adapter changes that layer."""
    return {_plain(key): tensor for key, tensor in model.state_dict().items()}


def _plain(key: str) -> str:
    # Other adapters of the model have other targets than the one that wrote a file.
    return key.replace(".base_layer.", ".")


def _take_biases(model: Any, weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Remove the base model's biases from `weights`; return those that differ, by their names without adapters."""
    own = _base_weights(model)
    found = {}
    for key in [key for key in weights if "bias" in key]:  # as PEFT selects them
        if ".modules_to_save." in key or ".original_module." in key:  # the head's, which the file contains as a head, too
            del weights[key]
        elif _plain(key) in own and own[_plain(key)].shape == weights[key].shape:
            tensor, bias = own[_plain(key)], weights.pop(key)
            if not torch.equal(bias.to(tensor.dtype), tensor):
                found[_plain(key)] = bias
    return found


def _fit_heads(model: Any, name: str, weights: Mapping[str, torch.Tensor]) -> None:
    """Resize the adapter's head to the number of labels in its file: PEFT copies the base model's head."""
    for path, wrapper in adapted(model, name):
        saved = getattr(wrapper, "modules_to_save", None)
        output = None if saved is None else output_layer(path, saved[name])
        if saved is None or output is None:
            continue
        inner = next(key for key, child in saved[name].named_modules() if child is output)
        stored = weights.get(".".join(part for part in (path, inner, "weight") if part))
        if stored is None or stored.dim() != 2 or stored.shape[1] != output.in_features or len(stored) == output.out_features:
            continue
        fitting = nn.Linear(output.in_features, len(stored), output.bias is not None)
        if inner:
            saved[name].set_submodule(inner, fitting)
        else:
            saved[name] = fitting


def _fit_projections(model: Any, name: str, weights: Mapping[str, torch.Tensor]) -> None:
    """Give a VeRA adapter separate projections: PEFT shares those of the first adapter and loads every file into them.

    Equal projections stay one tensor, which is then part of the trunk.
    """
    layers = [layer for _, layer in adapted(model, name) if hasattr(layer, "vera_A")]
    if not layers:
        return
    rank = layers[0].r[name]
    wide, high = max(layer.in_features for layer in layers), max(layer.out_features for layer in layers)
    for attribute, shape in (("vera_A", (rank, wide)), ("vera_B", (high, rank))):
        buffers = {id(owner): getattr(owner, attribute) for owner in (model.base_model, *layers)}.values()
        shared = next(iter(buffers))
        stored = weights.get(f"base_model.{attribute}")
        if stored is None and shared[name].shape != shape:
            raise ExportError(
                f"the VeRA adapter {name!r} has no saved projections, and those of the first adapter do not have the shape "
                f"{shape}: save it with save_projection=True"
            )
        if stored is not None and stored.shape == shape:
            equal = (other for key, other in shared.items() if key != name and torch.equal(other, stored))
            own = next(equal, stored.clone())
            for buffer in buffers:
                buffer[name] = own


def _check_complete(model: Any, missing: Collection[str]) -> None:
    """Refuse a base model with randomly initialised weights, unless all adapters have them in modules_to_save."""
    in_adapters = [
        # A model with a prompt has no model of the tuner in between.
        path.removeprefix("base_model.").removeprefix("model.")
        for path, module in adapted(model)
        if all(name in getattr(module, "modules_to_save", ()) for name in model.peft_config)
    ]
    lacking = sorted(key for key in missing if not any(_lies_in(key, path) for path in in_adapters))
    if type(base_of(model)).__name__.endswith("Model"):  # hidden states do not pass the pooler
        lacking = [key for key in lacking if not key.startswith("pooler.")]
    if lacking:
        raise ExportError(
            f"the base model's checkpoint lacks {len(lacking)} weights that some adapter does not have in modules_to_save, "
            f"first {lacking[0]!r}: load the model that the adapters were trained on"
        )
