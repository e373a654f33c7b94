"""The adapters, fusions and heads in a folder, found by their configuration files."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from exporter.checkpoints.config_requests import check_sizes
from exporter.checkpoints.files import read_json
from exporter.checkpoints.sentence_layout import encoder_of, is_module_of
from exporter.checkpoints.sources import Source, check_regular
from exporter.errors import ExportError

# Kind -> configuration file, safetensors file, pickle file.
FILES = {
    "adapter": ("adapter_config.json", "adapter.safetensors", "pytorch_adapter.bin"),
    "fusion": ("adapter_fusion_config.json", "model_adapter_fusion.safetensors", "pytorch_model_adapter_fusion.bin"),
    "head": ("head_config.json", "model_head.safetensors", "pytorch_model_head.bin"),
}
# The compositions of a model, and the description of an architecture, both of the adapters library.
SETUP = "adapter_setup.json"
INTERFACE = "adapter_interface.json"
PEFT_FILES = ("adapter_model.safetensors", "adapter_model.bin")
# Training checkpoints in the folder of a finished adapter.
_UNFINISHED = re.compile(r"checkpoint-\d+")


# Kind -> its name in messages, if that is another one.
_KINDS = {"peft": "adapter", "model": "task"}


@dataclass(frozen=True)
class Part:
    """One adapter, fusion layer or prediction head on disk.

    Attributes:
        kind: "peft" is a PEFT adapter, including its head; "model" a task without an adapter, which has a model folder.
        name: the name in the model.
        saved: the name in the configuration file; None for the head of a model without named heads.
        folder: the folder of the configuration and weights.
        config: the content of the configuration file.
    """

    kind: Literal["adapter", "fusion", "head", "peft", "model"]
    name: str
    saved: str | None
    folder: Path
    config: dict[str, Any]

    @property
    def label(self) -> str:
        """A description for messages."""
        return f"the {_KINDS.get(self.kind, self.kind)} {self.name!r} in {str(self.folder)!r}"


def scan(source: Source, name: str | None = None) -> list[Part]:
    """Return the parts in a folder and its subfolders; the library saves several parts in subfolders.

    Args:
        source: the folder.
        name: a new name for the adapter in the folder itself, without those in its subfolders, or for the only one there.

    Raises:
        ExportError: the folder contains no part, a file is missing or damaged, or `name` was given for several adapters.
    """
    own = list(_parts(source.folder, source))
    is_adapter = name is not None and sum(part.kind in ("adapter", "peft") for part in own) == 1
    parts = own if is_adapter else [*own, *scan_below(source)]
    if not parts and (model := encoder_of(source.folder) / "config.json").is_file():
        if name is None:
            raise ExportError(
                f"{source.text!r} contains neither an adapter nor a fusion but a model: for a fine-tune of the base model, "
                f"give its task a name (--adapter NAME={source.text})"
            )
        return [Part("model", name, None, model.parent, read_json(model))]
    if not parts:
        unfinished = [path for path in source.folder.iterdir() if path.is_dir() and _UNFINISHED.fullmatch(path.name)]
        if unfinished:
            last = max(unfinished, key=lambda path: int(path.name.rpartition("-")[2]))
            raise ExportError(
                f"{source.text!r} contains no adapter but checkpoints of a training: give the folder of one, such as "
                f"{str(last)!r}"
            )
        raise ExportError(
            f"{source.text!r} contains neither an adapter nor a fusion: expected a folder of model.save_adapter, "
            "save_all_adapters, save_adapter_setup or save_adapter_fusion, a PEFT folder, or NAME= and the folder of a "
            "fine-tuned model"
        )
    if name is None:
        return parts
    adapters = [part.name for part in parts if part.kind in ("adapter", "peft")]
    if len(adapters) != 1:
        raise ExportError(
            f"{source.text!r} contains {', '.join(map(repr, adapters)) or 'no adapter'}: the name {name!r} requires a single "
            "adapter; give the adapter's own folder"
        )
    # A head is matched to its adapter by name, so that both are renamed.
    return [replace(part, name=name) if part.kind != "fusion" and part.name == adapters[0] else part for part in parts]


def scan_below(source: Source) -> list[Part]:
    """Return the parts in the subfolders, possibly none.

    Raises:
        ExportError: a file is missing or damaged.
    """
    folders = sorted(path for path in source.folder.iterdir() if path.is_dir())
    return [part for path in folders if not _UNFINISHED.fullmatch(path.name) for part in _parts(path, source)]


def _parts(folder: Path, source: Source) -> Iterator[Part]:
    check_regular(folder)
    names: list[str] = []
    for kind, (config_name, *weights) in FILES.items():
        path = folder / config_name
        if not path.is_file():
            _refuse_stray(folder, config_name, [*weights, *(PEFT_FILES if kind == "adapter" else ())])
            continue
        config = read_json(path)
        check_sizes(path, config)
        if kind == "adapter" and "peft_type" in config:
            yield Part("peft", _folder_name(folder, source), None, folder, config)
            continue
        saved = config.get("name")
        if saved is None and kind == "head":
            # An unnamed head belongs to the adapter that it was saved with.
            name = names[0] if names else _folder_name(folder, source)
        elif isinstance(saved, str) and saved:
            name = saved
        else:
            raise ExportError(f"{str(path)!r} has no name: expected a file of the adapters library; save it again")
        names.append(name)
        yield Part(kind, name, saved, folder, config)  # type: ignore[arg-type]  # FILES only has these kinds


def _folder_name(folder: Path, source: Source) -> str:
    # PyTorch does not allow dots in module names.
    if folder != source.folder and is_module_of(source.folder, folder.name):
        folder = source.folder  # the encoder of sentence-transformers can be in a subfolder such as 0_Transformer
    name = source.hub if source.hub is not None and folder == source.folder else folder.resolve().name
    return name.rsplit("/", 1)[-1].replace(".", "_")


def _refuse_stray(folder: Path, config_name: str, weights: Iterable[str]) -> None:
    for name in weights:
        if (folder / name).is_file():
            raise ExportError(f"{str(folder)!r} has {name} but no {config_name}: copy the complete folder, or save it again")
