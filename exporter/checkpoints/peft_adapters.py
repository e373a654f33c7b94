"""Loading of PEFT adapters into one PeftModel; missing and unexpected weights, of which PEFT only warns, are errors."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from exporter.checkpoints.allocation_limit import limited_allocations, stored_with
from exporter.checkpoints.peft_config import read_adapter_weights, read_config
from exporter.checkpoints.sources import first_line
from exporter.errors import ExportError
from exporter.models.peft import layers_of, structure_of
from exporter.models.peft_modules import adapted, layer_of
from exporter.models.peft_structure import output_layer
from exporter.models.quiet_libraries import quiet

# task_type -> suffixes of the base model classes that fit. None: the adapter has no task_type.
_CLASSES: Mapping[str | None, tuple[str, ...]] = {
    "SEQ_CLS": ("ForSequenceClassification", "ForImageClassification"),
    "TOKEN_CLS": ("ForTokenClassification",),
    "QUESTION_ANS": ("ForQuestionAnswering",),
    None: ("ForSequenceClassification", "ForImageClassification", "ForTokenClassification", "ForQuestionAnswering"),
}
# The heads that PEFT adds to modules_to_save.
_HEADS = ("classifier", "score", "qa_outputs")
_PREFIX = "base_model.model."


def load_peft(base: Any, sources: Mapping[str, Path], missing: Collection[str] = ()) -> Any:
    """Load adapters into a base model, which becomes part of the result. Only local files are read.

    Args:
        base: a transformers model with a head, for example of AutoModelForSequenceClassification.
        sources: adapter name -> folder of `PeftModel.save_pretrained`. Their heads may have different numbers of labels.
        missing: names of the weights that the checkpoint of `base` lacks; every adapter must have them in modules_to_save.

    Returns:
        A `peft.PeftModel` in evaluation mode with the first adapter active.

    Raises:
        ExportError: PEFT is not installed, or an adapter is damaged, of an unsupported type, or trained for another model.
    """
    try:
        import peft
    except ModuleNotFoundError as error:
        raise ExportError(
            f"PEFT, which wrote {', '.join(str(folder) for folder in sources.values())}, is not installed: "
            "pip install 'adapterdrop-onnx[peft]'"
        ) from error
    if any(True for _ in adapted(base)):
        raise ExportError(f"the base model {type(base).__name__} already contains PEFT adapters: load it without them")
    model: Any = None
    for name, folder in sources.items():
        config = read_config(name, folder)
        _check_fit(name, config, base, model)
        weights = read_adapter_weights(name, folder)
        # Older configurations do not list the head in modules_to_save, although it is in the file.
        heads = [head for head in _HEADS if any(_lies_in(key, f"{_PREFIX}{head}") for key in weights)]
        config.modules_to_save = config.modules_to_save or heads or None
        try:
            with quiet(), limited_allocations(f"the adapter {name!r} in {str(folder)!r}", stored_with(weights, base)):
                if model is None:
                    # Not a task class such as PeftModelForSequenceClassification: these add heads to modules_to_save.
                    model = peft.PeftModel(base, config, name)
                else:
                    model.add_adapter(name, config)
        except ExportError:
            raise
        # PEFT raises many types for a configuration that does not fit: ValueError, TypeError, KeyError, …
        except Exception as error:
            raise ExportError(
                f"the adapter {name!r} in {str(folder)!r} does not fit {type(base).__name__}: {first_line(error)}"
            ) from error
        _load_weights(model, name, weights, f"the adapter {name!r} in {str(folder)!r}")
        structure_of(model, name, name, drop=0)
    if model is None:
        raise ExportError("no PEFT adapter was given: expected at least one folder")
    _check_complete(model, missing)
    with quiet():
        model.set_adapter(next(iter(sources)))
    return model.eval()


def _check_fit(name: str, config: Any, base: Any, model: Any) -> None:
    found = type(base).__name__
    fitting = _CLASSES.get(config.task_type, ())
    if not found.endswith(fitting) or hasattr(base, "adapters_config"):
        raise ExportError(
            f"the adapter {name!r} has the task_type {config.task_type}, the base model is a {found}: expected "
            + (
                f"a transformers class whose name ends in {' or '.join(fitting)}"
                if fitting
                else "SEQ_CLS, TOKEN_CLS or QUESTION_ANS"
            )
        )
    if model is not None and config.peft_type != model.peft_type:
        raise ExportError(
            f"the adapter {name!r} has the PEFT type {config.peft_type.value}, the first one {model.peft_type.value}: "
            "export them separately, because a PeftModel has one type"
        )


def _load_weights(model: Any, name: str, weights: dict[str, torch.Tensor], what: str) -> None:
    from peft import set_peft_model_state_dict

    _fit_heads(model, name, weights)
    _fit_projections(model, name, weights)
    differing = _remove_base_weights(model, weights)
    try:
        with quiet():
            result: Any = set_peft_model_state_dict(model, weights, adapter_name=name)
    except KeyError as error:
        raise ExportError(f"{what} lacks the weight {error}: save it again") from error
    except (RuntimeError, ValueError) as error:  # torch lists each weight of another shape on a separate line
        lines = str(error).strip().splitlines()
        raise ExportError(f"{what} was trained for another model: {lines[min(1, len(lines) - 1)].strip()}") from error
    slots = [f"{path}.{name}" for path, module in model.named_modules() if _is_keyed(module) and name in module]
    lacking = sorted(key for key in result.missing_keys if any(_lies_in(key, slot) for slot in slots))
    unexpected = sorted([*result.unexpected_keys, *differing])
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


def _is_keyed(module: nn.Module) -> bool:
    return isinstance(module, nn.ModuleDict | nn.ParameterDict)


def _lies_in(key: str, prefix: str) -> bool:
    return key == prefix or key.startswith(f"{prefix}.")


def _remove_base_weights(model: Any, weights: dict[str, torch.Tensor]) -> list[str]:
    """Remove the base model's weights, which PEFT would overwrite, from `weights`; return the names of those that differ."""
    own = model.state_dict()
    return [
        key for key in sorted(weights.keys() & own.keys()) if not torch.equal(weights.pop(key).to(own[key].dtype), own[key])
    ]


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
        path.removeprefix(_PREFIX)
        for path, module in adapted(model)
        if all(name in getattr(module, "modules_to_save", ()) for name in model.peft_config)
    ]
    lacking = sorted(key for key in missing if not any(_lies_in(key, path) for path in in_adapters))
    if lacking:
        raise ExportError(
            f"the base model's checkpoint lacks {len(lacking)} weights that some adapter does not have in modules_to_save, "
            f"first {lacking[0]!r}: load the model that the adapters were trained on"
        )
