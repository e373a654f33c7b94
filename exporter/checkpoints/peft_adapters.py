"""Loading of PEFT adapters into PEFT models: one for each task type and kind of adapter, over the weights of one base."""

from __future__ import annotations

import importlib
import json
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch

from exporter.checkpoints.allocation_limit import limited_allocations, stored_with
from exporter.checkpoints.files import first_line
from exporter.checkpoints.peft_class import check_fit
from exporter.checkpoints.peft_config import HEADS, changes_biases, is_headless, read_adapter_weights, read_config, start_of
from exporter.checkpoints.peft_initializations import over_plain_weights
from exporter.checkpoints.peft_names import neutral_names, rename_adapters
from exporter.checkpoints.peft_state import PREFIX, lies_in, load_weights, renamed_modules, take_biases
from exporter.checkpoints.set_aside import SetAside
from exporter.errors import ExportError
from exporter.families import PEFT_INSTALL
from exporter.models.mixed import MixedModel
from exporter.models.peft import structure_of
from exporter.models.peft_biases import add_biases
from exporter.models.peft_modules import adapted, base_of
from exporter.models.quiet_libraries import quiet
from exporter.models.shared_copy import shared_copy

# Types whose adapters read weights of the model that the first adapter brings: each adapter gets a separate model.
_SHARING = frozenset(("VBLORA", "RANDLORA", "PVERA", "TINYLORA", "UNILORA"))
# Settings that each adapter of a model has separately, whatever its type.
_SEPARATE = frozenset(
    (
        *("target_modules", "exclude_modules", "modules_to_save", "layers_to_transform", "layers_pattern", "r", "alpha"),
        *("rank_pattern", "alpha_pattern", "token_indices", "num_virtual_tokens"),
    )
)
# Its configuration and its folder.
_Adapter = tuple[Any, Path]


def load_peft(base: Any, sources: Mapping[str, Path], missing: Collection[str] = ()) -> Any:
    """Load adapters into a base model, which becomes part of the result. Only local files are read.

    Args:
        base: a transformers model with a head, for example of AutoModelForSequenceClassification.
        sources: adapter name -> folder of `PeftModel.save_pretrained`. Their heads may have different numbers of labels.
        missing: names of the weights that the checkpoint of `base` lacks; every adapter must have them in modules_to_save.

    Returns:
        A PEFT model in evaluation mode with the first adapter active, or a `MixedModel` for adapters of several types.

    Raises:
        ExportError: PEFT is not installed, or an adapter is damaged, of an unsupported type, or trained for another model.
    """
    parts = load_parts(base, sources, missing)
    return parts[0] if len(parts) == 1 else MixedModel(parts, list(sources))


def load_parts(base: Any, sources: Mapping[str, Path], missing: Collection[str] = ()) -> list[Any]:
    """Load adapters into one model for each task type and type of adapters; the models share the weights of the base.

    Args:
        base: as in `load_peft`.
        sources: as in `load_peft`.
        missing: as in `load_peft`.

    Raises:
        ExportError: as in `load_peft`.
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
        if is_headless(name, sources[name]):
            config.task_type = None
        kind = str(config.peft_type.value)
        # Projections of VeRA that are not saved are made again.
        separate = kind in _SHARING or not getattr(config, "save_projection", True)
        own = name if separate else _common_settings(config)
        groups.setdefault((str(config.task_type), kind, own, *_wrapped(config)), []).append(name)
    every = {name: (configs[name], sources[name]) for name in sources}
    return [part for names in groups.values() for part in _load_parts(base, {name: every[name] for name in names}, missing)]


def _wrapped(config: Any) -> tuple[str, ...]:
    """Return the names of the modules besides its targets that an adapter wraps; in a PEFT model, all wrap the same."""
    saved = getattr(config, "modules_to_save", None) or ()
    return (*sorted(saved), *(("tokens",) if getattr(config, "trainable_token_indices", None) else ()))


def _common_settings(config: Any) -> str:
    """Return the settings in which the adapters of a PEFT model cannot differ.

    Layers of LoRA have all settings by adapter. Those of other types have some once, for example `init_weights` of MiSS and
    `feedforward_modules` of (IA)³, which the first adapter decides.
    """
    if config.peft_type.value == "LORA":
        return ""
    settings = {key: value for key, value in config.to_dict().items() if key not in _SEPARATE and "dropout" not in key}
    return json.dumps(settings, sort_keys=True, default=lambda value: sorted(value) if isinstance(value, set) else str(value))


def check_installed(folders: Iterable[Path]) -> None:
    """Raise ExportError if PEFT is not installed, or not for the installed transformers."""
    try:
        importlib.import_module("peft")
    except ImportError as error:
        missing = isinstance(error, ModuleNotFoundError) and error.name == "peft"
        state = "not installed" if missing else f"installed but cannot be imported ({first_line(error)})"
        raise ExportError(f"PEFT, which wrote {', '.join(map(str, folders))}, is {state}: {PEFT_INSTALL}") from error


class _UnfitError(ExportError):
    """PEFT cannot put an adapter into a model."""

    def __init__(self, adapter: str, reason: str) -> None:
        super().__init__(reason)
        self.adapter = adapter


def _load_parts(base: Any, adapters: Mapping[str, _Adapter], missing: Collection[str]) -> list[Any]:
    """Load adapters into one model, without those that PEFT cannot put next to the others: these get a separate one.

    Adapters with `target_parameters`, for example, exclude others on the same layers.
    """
    try:
        return [_load_group(shared_copy(base), adapters, missing)]
    except _UnfitError as error:
        if len(adapters) == 1:
            raise
        others = {name: each for name, each in adapters.items() if name != error.adapter}
        alone = _load_parts(base, {error.adapter: adapters[error.adapter]}, missing)
        return [*_load_parts(base, others, missing), *alone]


def _load_group(base: Any, adapters: Mapping[str, _Adapter], missing: Collection[str]) -> Any:
    """Load adapters of one task type and one type into a model of the class that PEFT has for that task type."""
    from peft import MODEL_TYPE_TO_PEFT_MODEL_MAPPING, PeftModel

    # PEFT puts its layers into the base model.
    plain = shared_copy(base) if any(start_of(folder) for _, folder in adapters.values()) else base
    model: Any = None
    biases: dict[str, dict[str, torch.Tensor]] = {}
    aside: SetAside | None = None
    neutral = neutral_names(adapters)
    for name, (config, folder) in adapters.items():
        weights = read_adapter_weights(name, folder)
        if config.task_type is None and getattr(config, "modules_to_save", ()) is None:
            # The classes of PEFT for a task type add the heads; without one, older configurations do not list them.
            heads = [head for head in sorted(HEADS) if any(_is_saved_in(key, f"{PREFIX}{head}") for key in weights)]
            config.modules_to_save = heads or None
        try:
            with quiet(), limited_allocations(f"the adapter {name!r} in {str(folder)!r}", stored_with(weights, base)):
                if start := start_of(folder):
                    config, weights = over_plain_weights(config, weights, plain, start)
                if model is None:
                    model = MODEL_TYPE_TO_PEFT_MODEL_MAPPING.get(config.task_type, PeftModel)(base, config, neutral[name])
                else:
                    model.add_adapter(neutral[name], config)
        except ExportError:
            raise
        # PEFT raises many types for a configuration that does not fit: ValueError, TypeError, KeyError, …
        except Exception as error:
            reason = first_line(error).replace(neutral[name], name) + renamed_modules(base, weights)
            raise _UnfitError(
                name, f"the adapter {name!r} in {str(folder)!r} does not fit {type(base).__name__}: {reason}"
            ) from error
        biases[name] = take_biases(model, weights) if changes_biases(folder) else {}
        load_weights(model, neutral[name], weights, f"the adapter {name!r} in {str(folder)!r}")
        if aside is None:  # PEFT reads settings of the first adapter when it adds others
            aside = SetAside(model)
        else:
            aside.take(neutral[name])
    if aside is not None:
        aside.put_back()
    rename_adapters(model, {own: name for name, own in neutral.items()})
    for name in adapters:
        structure_of(model, name, name, drop=0)
    _check_complete(model, missing)
    add_biases(model, biases)
    with quiet():
        model.set_adapter(next(iter(adapters)))
    return model.eval()


def _is_saved_in(key: str, module: str) -> bool:
    """Whether a weight is one of a module, and not one of an adapter of it."""
    return lies_in(key, module) and "lora_" not in key


def _check_complete(model: Any, missing: Collection[str]) -> None:
    """Refuse a base model with randomly initialised weights, unless all adapters have them in modules_to_save."""
    if type(base_of(model)).__name__.endswith("Model"):  # hidden states do not pass the pooler
        missing = [key for key in missing if not key.startswith("pooler.")]
    for name in model.peft_config:
        # A model with a prompt has no model of the tuner in between.
        own = [
            path.removeprefix("base_model.").removeprefix("model.")
            for path, module in adapted(model)
            if name in getattr(module, "modules_to_save", ())
        ]
        if lacking := sorted(key for key in missing if not any(lies_in(key, path) for path in own)):
            module = lacking[0].removeprefix(f"{base_of(model).base_model_prefix}.").partition(".")[0]
            raise ExportError(
                f"the base model's checkpoint lacks {len(lacking)} weights that the adapter {name!r} does not have in "
                f"modules_to_save, first {lacking[0]!r}: load the model that the adapter was trained on or, if transformers "
                f"initialised these weights for it, train the adapter with {module!r} in modules_to_save"
            )
