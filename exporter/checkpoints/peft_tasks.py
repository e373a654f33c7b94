"""Loading of a model folder with its tasks: PEFT adapters, and models without adapters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Any

from exporter.checkpoints.assign import check_base_name
from exporter.checkpoints.base_model import load_folder
from exporter.checkpoints.embedders import embed, named_embedders, saved_embedders
from exporter.checkpoints.files import read_json
from exporter.checkpoints.fine_tunes import load_own, task_class
from exporter.checkpoints.head_tasks import load_heads
from exporter.checkpoints.linear_heads import LinearHead
from exporter.checkpoints.peft_adapters import load_parts
from exporter.checkpoints.peft_class import HEADLESS, peft_class
from exporter.checkpoints.peft_reference import References
from exporter.checkpoints.peft_tokenizers import check_vocabulary
from exporter.checkpoints.scan import Part
from exporter.checkpoints.sources import Source
from exporter.errors import ExportError
from exporter.models.mixed import MixedModel
from exporter.models.shared_copy import share_trunk, shared_copy

# The file in which a model, and sometimes an adapter, has the names of its labels.
_CONFIG = "config.json"


@dataclass(frozen=True)
class PeftTasks:
    """Loaded tasks.

    Attributes:
        model: the model.
        configs: adapter -> the content of the config.json saved with it.
        references: the reference models.
        max_length: the longest text in tokens that folders of sentence-transformers state; None without one.
    """

    model: Any
    configs: dict[str, Mapping[str, Any]]
    references: References
    max_length: int | None


def load_tasks(
    source: Source,
    config: Mapping[str, Any],
    parts: Sequence[Part],
    pooling: Mapping[str, Any] = MappingProxyType({}),
    heads: Mapping[str, LinearHead] = MappingProxyType({}),
) -> PeftTasks:
    """Load PEFT adapters, those of each class into models of that class; all models share the weights of the trunk.

    Tasks without adapters are loaded over the same trunk.

    Args:
        source: the model folder.
        config: the content of its config.json.
        parts: the adapters and models, in the order of the tasks.
        pooling: adapter or head -> the name of a pooling, for adapters of a model without a head.
        heads: task name -> a linear head over embeddings.

    Raises:
        ExportError: an adapter is damaged, of an unsupported type, or trained for another model; or there are adapters of the
            adapters library, too.
    """
    adapters, tasks = ([part for part in parts if part.kind == kind] for kind in ("peft", "model"))
    _check_library(parts, [*(part.label for part in tasks), *(f"the task {name!r}" for name in heads)])
    _check_names(parts, heads)
    by_class: dict[str, list[Part]] = {}
    for part in adapters:
        by_class.setdefault(peft_class(part, config), []).append(part)
    models: list[Any] = []
    trunk: Any = None
    references = References()
    classes = {part.name: (part, task_class(part, part.name in pooling)) for part in tasks}
    _check_distinct(classes, pooling)
    # The folders of text encoders, which can state a pooling.
    encoders = [*by_class.get(HEADLESS, ()), *(part for part, name in classes.values() if name == HEADLESS)]
    for class_name, own in by_class.items():
        loaded = load_folder(source, class_name)
        for part in own:
            check_base_name(part, part.config.get("base_model_name_or_path"), loaded.model.config.name_or_path)
            check_vocabulary(part.name, part.folder, source.folder)
        if trunk is None:
            trunk = shared_copy(loaded.model)
        else:
            share_trunk(loaded.model, trunk)
        sources = {part.name: part.folder for part in own}
        references.add(loaded.model, sources)
        places = _addresses(loaded.model)
        models += load_parts(loaded.model, sources, loaded.missing)
        if (now := _addresses(loaded.model)) != places and len(parts) + len(heads) > 1:
            _refuse_changes(own, next(key for key in places if now[key] != places[key]))
    models += load_own(classes, source, trunk)
    references.add_models(classes)
    embedders, max_length = saved_embedders(encoders, models[0].config) if encoders else ({}, None)
    if heads:
        with_heads, limit = load_heads(source, heads, pooling, trunk)
        models.append(with_heads)
        max_length = _limit(max_length, limit)
        references.add_heads(partial(load_heads, source, pooling=pooling), heads)
    model = models[0] if len(models) == 1 else MixedModel(models, [*(part.name for part in parts), *heads])
    embedders |= named_embedders(model, {name: text for name, text in pooling.items() if name not in heads}, embedders)
    embed(model, embedders)
    references.embed(embedders)
    configs: dict[str, Mapping[str, Any]] = {
        part.name: read_json(path) for part in adapters if (path := part.folder / _CONFIG).is_file()
    }
    return PeftTasks(model, configs, references, max_length)


def _addresses(model: Any) -> dict[str, int]:
    """Return the address of each weight's data: another one where PEFT assigned data to it when it created an adapter."""
    return {name: tensor.data_ptr() for name, tensor in model.named_parameters()}


def _refuse_changes(parts: Sequence[Part], weight: str) -> None:
    names = [part.name for part in parts if part.config.get("kasa_config")] or [part.name for part in parts]
    raise ExportError(
        f"loading {' or '.join(map(repr, names))} changes weights of the base model, first {weight!r}, as adapters with "
        "kasa_config do: the tasks of a graph share these weights; export such an adapter without others"
    )


def _limit(one: int | None, other: int | None) -> int | None:
    if None not in (one, other) and one != other:
        raise ExportError(
            f"the adapters have a max_seq_length of {one} tokens, and the model of {other}: the tasks of a graph share one "
            "limit; give them the same one, or export them separately"
        )
    return other if one is None else one


def _check_names(parts: Sequence[Part], heads: Mapping[str, LinearHead]) -> None:
    for part in parts:
        if part.name in heads:
            raise ExportError(f"the head {part.name!r} has the name of {part.label}: rename one of them")


def _check_distinct(tasks: Mapping[str, tuple[Part, str]], pooling: Mapping[str, Any]) -> None:
    known: dict[tuple[Any, Any], str] = {}
    for name, (part, class_name) in tasks.items():
        other = known.setdefault((part.folder, pooling.get(name)), name) if class_name == HEADLESS else name
        if other != name:
            raise ExportError(
                f"the tasks {other!r} and {name!r} are the same embeddings of {str(part.folder)!r}: omit one of them"
            )


def _check_library(parts: Sequence[Part], tasks: Sequence[str]) -> None:
    others = [part for part in parts if part.kind not in ("peft", "model")]
    if not others:
        return
    if tasks:
        raise ExportError(
            f"{others[0].label} is from the adapters library, and {tasks[0]} is a task without an adapter: such tasks "
            "are exported with PEFT adapters or by themselves; export them separately"
        )
    raise ExportError(
        f"{others[0].label} is from the adapters library, but there are PEFT adapters too: a model cannot contain both; "
        "export them separately"
    )
