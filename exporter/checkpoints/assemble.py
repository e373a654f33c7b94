"""Assembly of one model from a model folder and the folders of its adapters, fusions and heads."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from exporter.checkpoints.assign import same
from exporter.checkpoints.base_model import read_config
from exporter.checkpoints.embedders import check_poolable
from exporter.checkpoints.files import first_line
from exporter.checkpoints.linear_heads import LinearHead
from exporter.checkpoints.peft_tasks import load_tasks
from exporter.checkpoints.scan import INTERFACE, SETUP, Part, scan
from exporter.checkpoints.sentence_folder import sentence_task
from exporter.checkpoints.sources import BASE, Source, check_base_names, find, is_base, split_name
from exporter.errors import ExportError
from exporter.families import adapterhub_module, has_adapterhub
from exporter.models.binding import check_names
from runtime.hub import Access


@dataclass(frozen=True)
class Assembled:
    """A model with all adapters, fusions and heads loaded.

    Attributes:
        model: in evaluation mode; no weight is randomly initialised.
        setup: the composition saved in the folders, or None.
        head: the head setup saved with it, or None; a list for several setups.
        configs: PEFT adapter -> the content of the config.json saved with it.
        reference: PEFT adapter -> a model that PEFT itself loaded; None without PEFT adapters.
        max_length: the longest text in tokens that folders of sentence-transformers state; None without one.
        folders: the folders of the adapters, by name.
    """

    model: Any
    setup: Any
    head: Any
    configs: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    reference: Callable[[str], Any] | None = None
    max_length: int | None = None
    folders: Mapping[str, Path] = field(default_factory=dict)


def assemble(
    source: Source,
    adapters: Sequence[str],
    fusions: Sequence[str],
    pooling: Mapping[str, Any] | None = None,
    heads: Mapping[str, LinearHead] = MappingProxyType({}),
    access: Access = Access(),  # noqa: B008  # frozen
) -> Assembled:
    """Load a model with its adapters and fusions.

    Args:
        source: the model folder.
        adapters: [NAME=]SOURCE each.
        fusions: SOURCE each.
        pooling: PEFT adapter or head -> the name of a pooling.
        heads: task name -> a linear head over embeddings.
        access: token and cache of the hub.

    Raises:
        ExportError: a file is damaged or missing, weights are missing or unexpected, a name is used twice, or a part was
            trained for another model.
    """
    try:
        return _assemble(source, adapters, fusions, pooling or {}, heads, access)
    except OSError as error:
        raise ExportError(f"{error.filename or source.text!r} cannot be read: {error.strerror or error}") from error
    # Values of wrong types in the configurations, which are read in many places.
    except (AttributeError, IndexError, KeyError, RecursionError, TypeError, ValueError) as error:
        raise ExportError(
            f"the configuration of {source.text!r}, or of an adapter that is added to it, has an unexpected value "
            f"({type(error).__name__}: {first_line(error)}): save the model and its adapters again"
        ) from error


def _assemble(
    source: Source,
    adapters: Sequence[str],
    fusions: Sequence[str],
    pooling: Mapping[str, Any],
    heads: Mapping[str, LinearHead],
    access: Access,
) -> Assembled:
    config = read_config(source.folder, source.text)
    split = [split_name(text) for text in adapters]
    check_base_names(split)
    named = [(source if is_base(text) else find(text, "adapter", access), name) for name, text in split]
    named += [(find(text, "fusion", access), None) for text in fusions]
    own = [Part("model", str(name), None, source.folder, config) if is_base(text) else None for name, text in split]
    found_parts = itertools.zip_longest(named, own)
    parts = [part for (folder, name), task in found_parts for part in ([task] if task else scan(folder, name))]
    _check_fusions(parts, named[len(adapters) :])
    parts = _distinct(parts)
    check_names((*(part.name for part in parts), *heads))
    folders = {part.name: part.folder for part in parts if part.folder != source.folder}
    if heads or any(part.kind in ("peft", "model") for part in parts):
        found = load_tasks(source, config, parts, pooling, heads)
        return Assembled(found.model, None, None, found.configs, found.references, found.max_length, folders)
    check_poolable(pooling)
    what = parts[0].label if parts else f"the model in {source.text!r}"
    plain = not parts and not _has_adapters(source.folder, config)
    if plain and (not has_adapterhub() or sentence_task(source.folder) is not None):
        head = "the model's own embeddings are" if sentence_task(source.folder) else "the model's own head is"
        raise ExportError(
            f"{what} has no adapters: add adapters with --adapter, or choose another --model; {head} a task with --adapter "
            f"NAME={BASE}"
        )
    library = adapterhub_module("checkpoints", "assemble", what)
    model, setup, head = library.assemble(source, parts, [folder for folder, _ in named])
    return Assembled(model, setup, head, folders=folders)


def _has_adapters(folder: Path, config: Mapping[str, Any]) -> bool:
    """Whether a model folder contains adapters of the adapters library."""
    return "adapters" in config or (folder / SETUP).is_file() or (folder / INTERFACE).is_file()


def _check_fusions(parts: Iterable[Part], fusions: Iterable[tuple[Source, Any]]) -> None:
    for source, _ in fusions:
        if not any(part.kind == "fusion" and source.folder in (part.folder, part.folder.parent) for part in parts):
            raise ExportError(
                f"{source.text!r} contains no fusion: expected a folder of model.save_adapter_fusion; add adapters with "
                "--adapter"
            )


def _distinct(parts: Iterable[Part]) -> list[Part]:
    """Remove duplicates: setups that share an adapter contain a copy each."""
    chosen: dict[tuple[str, str], Part] = {}
    for part in parts:
        key = ("adapter" if part.kind in ("peft", "model") else part.kind, part.name)
        first = chosen.setdefault(key, part)
        if first is not part and first.folder.resolve() != part.folder.resolve() and not same(first, part):
            kind = "task" if "model" in (first.kind, part.kind) else key[0]
            raise ExportError(
                f"two different {kind}s have the name {part.name!r}, one from {str(first.folder)!r} and one from "
                f"{str(part.folder)!r}: rename one of them (--adapter NAME=SOURCE)"
            )
    return list(chosen.values())
