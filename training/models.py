"""The model of one task: creation, saving, loading and cross-layer sharing."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import adapters
from adapters.methods.bottleneck import BottleneckLayer
from safetensors.torch import load_file, save_file

from exporter.example import BASE_MODEL, base_model_folder
from training.tasks import TaskSpec

# Names of the adapters library: AdapterFusion with a value matrix, and the file of its weights.
FUSION_CONFIG = "dynamic"
FUSION_WEIGHTS = "model_adapter_fusion.safetensors"


class MissingMemberError(RuntimeError):
    """A member of the fusion to train does not exist."""


def base_model() -> Any:
    """Return the base model of the bundled example without adapters."""
    model = adapters.AutoAdapterModel.from_pretrained(base_model_folder())
    # The name is written into adapter_config.json, where a local path would be meaningless.
    model.config._name_or_path = BASE_MODEL
    return model


def _load_members(model: Any, task: TaskSpec, root: Path) -> None:
    for member in task.members:
        if not (root / member / "adapter_config.json").exists():
            raise MissingMemberError(
                f"{task.name} fuses {member}, which is not in {root}: train it first, with --tasks {member}"
            )
        model.load_adapter(str(root / member), load_as=member, with_head=False, use_safetensors=True)


def add_task(model: Any, task: TaskSpec, labels: list[str], root: Path) -> None:
    """Add a new adapter, or a new fusion, and a new head.

    Args:
        model: adapters model.
        task: task to add.
        labels: label names in id order.
        root: folder that contains the adapters of the fusion members.

    Raises:
        MissingMemberError: a member of the fusion is missing in `root`.
    """
    if task.members:
        _load_members(model, task, root)
        model.add_adapter_fusion(list(task.members), FUSION_CONFIG, name=task.name)
    else:
        model.add_adapter(task.name, config="seq_bn")
    if task.kind == "tagging":
        model.add_tagging_head(task.name, num_labels=len(labels), id2label=dict(enumerate(labels)))
    elif task.kind == "regression":
        model.add_classification_head(task.name, num_labels=1, layers=1)
    else:
        model.add_classification_head(task.name, num_labels=len(labels), layers=1, id2label=dict(enumerate(labels)))


def save(model: Any, task: TaskSpec, folder: Path) -> None:
    """Save the task in the library's format. A fusion is stored in float16; the library loads it into float32 parameters."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    if not task.members:
        model.save_adapter(str(folder), task.name, use_safetensors=True)
        return
    model.save_adapter_fusion(str(folder), task.name, with_head=True, use_safetensors=True)
    # In float32 the fusion would be as large as the size limit of the whole example.
    path = folder / FUSION_WEIGHTS
    save_file({name: tensor.half() for name, tensor in load_file(path).items()}, path)


def load(task: TaskSpec, folder: Path, root: Path) -> Any:
    """Load a task.

    Args:
        task: task to load.
        folder: folder of the task's files.
        root: folder that contains the adapters of the fusion members.

    Returns:
        The base model with the task, in evaluation mode.
    """
    model = base_model()
    if task.members:
        _load_members(model, task, root)
        model.load_adapter_fusion(str(folder), use_safetensors=True)
    else:
        model.load_adapter(str(folder), load_as=task.name, use_safetensors=True)
    model.active_head = task.name
    return model.eval()


def _layers(model: Any, name: str) -> Iterator[BottleneckLayer]:
    return (module for module in model.modules() if isinstance(module, BottleneckLayer) and name in module.adapters)


def tie_layers(model: Any, name: str) -> None:
    """Share the adapter of the lowest layer among all layers (cross-layer sharing, arXiv 2010.11918)."""
    first: dict[str, Any] = {}
    for layer in list(_layers(model, name)):
        layer.adapters[name] = first.setdefault(layer.location_key, layer.adapters[name])


def untie_layers(model: Any, name: str) -> None:
    """Give every layer a copy: safetensors cannot store tensors that share memory. The exporter merges equal weights."""
    for layer in list(_layers(model, name)):
        layer.adapters[name] = copy.deepcopy(layer.adapters[name])


def adapter_parameters(model: Any, name: str) -> int:
    """Return the number of parameters of an adapter without its head; shared parameters count once."""
    return sum(
        parameter.numel() for parameter in {p for layer in _layers(model, name) for p in layer.adapters[name].parameters()}
    )


def fusion_parameters(model: Any, name: str) -> int:
    """Return the number of parameters of a fusion, without its members and its head."""
    fusions = [module.adapter_fusion_layer for module in model.modules() if isinstance(module, BottleneckLayer)]
    return sum(p.numel() for fusion in fusions if name in fusion for p in fusion[name].parameters())
