"""PEFT folders -> one PeftModel. PEFT only warns of weights that are missing or left over; here they are errors."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from exporter.checkpoints.peft_config import read_adapter_weights, read_config
from exporter.checkpoints.sources import first_line
from exporter.errors import ExportError
from exporter.models.peft import layers_of, structure_of
from exporter.models.peft_modules import adapted, layer_of
from exporter.models.peft_structure import output_layer
from exporter.models.quiet_libraries import quiet

# The classes of base models that an adapter's task fits, by the ends of their names. None: the adapter leaves it open.
_CLASSES: Mapping[str | None, tuple[str, ...]] = {
    "SEQ_CLS": ("ForSequenceClassification", "ForImageClassification"),
    "TOKEN_CLS": ("ForTokenClassification",),
    "QUESTION_ANS": ("ForQuestionAnswering",),
    None: ("ForSequenceClassification", "ForImageClassification", "ForTokenClassification", "ForQuestionAnswering"),
}
# What PEFT adds to modules_to_save by itself.
_HEADS = ("classifier", "score", "qa_outputs")
_PREFIX = "base_model.model."


def load_peft(base: Any, sources: Mapping[str, Path], missing: Collection[str] = ()) -> Any:
    """Loads adapters into one base model, which becomes part of the result. Reads local files only.

    Args:
        base: a transformers model with a head, as from AutoModelForSequenceClassification.
        sources: adapter name -> folder of `PeftModel.save_pretrained`. Their heads may have different numbers of labels.
        missing: the weights that `base` lacked when it was loaded; every adapter must then bring them in modules_to_save.

    Returns:
        A `peft.PeftModel` in evaluation mode with the first adapter active.

    Raises:
        ExportError: PEFT is not installed, or an adapter is damaged, of an unsupported kind, or made for another model.
    """
    try:
        import peft
    except ModuleNotFoundError as error:
        raise ExportError(
            f"PEFT, which wrote {', '.join(str(folder) for folder in sources.values())}, is not installed: "
            "pip install 'adapterdrop-onnx[peft]'"
        ) from error
    if any(True for _ in adapted(base)):
        raise ExportError(f"the base model {type(base).__name__} holds adapters of PEFT already: load it without them")
    model: Any = None
    for name, folder in sources.items():
        config = read_config(name, folder)
        _check_fit(name, config, base, model)
        weights = read_adapter_weights(name, folder)
        # Older configurations do not name the head, which is in the file all the same.
        heads = [head for head in _HEADS if any(_lies_in(key, f"{_PREFIX}{head}") for key in weights)]
        config.modules_to_save = config.modules_to_save or heads or None
        try:
            with quiet():
                if model is None:
                    # The classes for tasks would add heads to modules_to_save, also to that of adapters without any.
                    model = peft.PeftModel(base, config, name)
                else:
                    model.add_adapter(name, config)
        # PEFT raises what it likes on a configuration that does not fit (ValueError, TypeError, KeyError, …).
        except Exception as error:
            raise ExportError(
                f"the adapter {name!r} in {str(folder)!r} does not fit {type(base).__name__}: {first_line(error)}"
            ) from error
        _load_weights(model, name, weights, f"the adapter {name!r} in {str(folder)!r}")
        structure_of(model, name, name, drop=0)
    if model is None:
        raise ExportError("no adapter of PEFT was named: expected at least one folder")
    _check_complete(model, missing)
    with quiet():
        model.set_adapter(next(iter(sources)))
    return model.eval()


def _check_fit(name: str, config: Any, base: Any, model: Any) -> None:
    found = type(base).__name__
    fitting = _CLASSES.get(config.task_type, ())
    if not found.endswith(fitting) or hasattr(base, "adapters_config"):
        raise ExportError(
            f"the adapter {name!r} is for the task {config.task_type}, the base model is a {found}: expected "
            + (
                f"a transformers model whose class ends in {' or '.join(fitting)}"
                if fitting
                else "SEQ_CLS, TOKEN_CLS or QUESTION_ANS"
            )
        )
    if model is not None and config.peft_type != model.peft_type:
        raise ExportError(
            f"the adapter {name!r} is of PEFT's type {config.peft_type.value}, the first one of {model.peft_type.value}: "
            "export them separately, as PEFT has one type in a model"
        )


def _load_weights(model: Any, name: str, weights: dict[str, torch.Tensor], what: str) -> None:
    from peft import set_peft_model_state_dict

    _fit_heads(model, name, weights)
    _fit_projections(model, name, weights)
    foreign = _take_out_base(model, weights)
    try:
        with quiet():
            result: Any = set_peft_model_state_dict(model, weights, adapter_name=name)
    except KeyError as error:
        raise ExportError(f"{what} lacks the weight {error}: save it again") from error
    except (RuntimeError, ValueError) as error:  # torch gives each weight of another shape a line of its own
        lines = str(error).strip().splitlines()
        raise ExportError(f"{what} was made for another model: {lines[min(1, len(lines) - 1)].strip()}") from error
    places = [f"{path}.{name}" for path, module in model.named_modules() if _is_keyed(module) and name in module]
    lacking = sorted(key for key in result.missing_keys if any(_lies_in(key, place) for place in places))
    strange = sorted([*result.unexpected_keys, *foreign])
    problems = [f"lacks {len(lacking)} weights, first {lacking[0]!r}"] if lacking else []
    problems += [f"has {len(strange)} weights without a place in the model, first {strange[0]!r}"] if strange else []
    if problems:
        layers, has = max((layer_of(key) or 0 for key in strange), default=0) + 1, layers_of(model)
        reason = f"it has {layers} layers, the base model {has}" if layers > has else "it is damaged or made for another model"
        raise ExportError(f"{what} {' and '.join(problems)}: {reason}")


def _is_keyed(module: nn.Module) -> bool:
    return isinstance(module, nn.ModuleDict | nn.ParameterDict)


def _lies_in(key: str, place: str) -> bool:
    return key == place or key.startswith(f"{place}.")


def _take_out_base(model: Any, weights: dict[str, torch.Tensor]) -> list[str]:
    """Takes the base model's own weights, which PEFT would load over it, out of `weights`; names those that differ from it."""
    own = model.state_dict()
    return [
        key for key in sorted(weights.keys() & own.keys()) if not torch.equal(weights.pop(key).to(own[key].dtype), own[key])
    ]


def _fit_heads(model: Any, name: str, weights: Mapping[str, torch.Tensor]) -> None:
    """Gives the adapter's head as many labels as its file has: PEFT copies the base model's head, whatever its size."""
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
    """Gives a VeRA adapter its own projections: PEFT shares the first adapter's, and would load every file into those.

    Projections that are equal stay one tensor, which is then part of the trunk.
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
                f"the VeRA adapter {name!r} came without projections and needs other ones than the first adapter, of shape "
                f"{shape}: save it with save_projection=True"
            )
        if stored is not None and stored.shape == shape:
            equal = (other for key, other in shared.items() if key != name and torch.equal(other, stored))
            own = next(equal, stored.clone())
            for buffer in buffers:
                buffer[name] = own


def _check_complete(model: Any, missing: Collection[str]) -> None:
    """Refuses a base model that transformers completed with random weights, unless each adapter brings these."""
    brought = [
        path.removeprefix(_PREFIX)
        for path, module in adapted(model)
        if all(name in getattr(module, "modules_to_save", ()) for name in model.peft_config)
    ]
    lacking = sorted(key for key in missing if not any(_lies_in(key, path) for path in brought))
    if lacking:
        raise ExportError(
            f"the base model's checkpoint lacks {len(lacking)} weights that some adapter does not bring in modules_to_save, "
            f"first {lacking[0]!r}: load the model that the adapters were trained on"
        )
