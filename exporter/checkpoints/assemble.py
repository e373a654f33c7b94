"""Assembly of one model from a model folder and the folders of its adapters, fusions and heads."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from adapters.composition import MultiTask, Parallel

from exporter.checkpoints.add_adapters import add_adapter, add_fusion, as_objects
from exporter.checkpoints.add_heads import add_head
from exporter.checkpoints.assign import same
from exporter.checkpoints.base_model import check_complete, load_folder, read_config
from exporter.checkpoints.composition_file import Setup, complete, read_setup
from exporter.checkpoints.peft_tasks import load_tasks
from exporter.checkpoints.scan import Part, scan, scan_below
from exporter.checkpoints.sources import Source, find, first_line, split_name
from exporter.errors import ExportError
from exporter.models.quiet_libraries import quiet


@dataclass(frozen=True)
class Assembled:
    """A model with all adapters, fusions and heads loaded.

    Attributes:
        model: in evaluation mode; no weight is randomly initialised.
        setup: the composition saved in the folders, or None.
        head: the head setup saved with it, or None; a list for several setups.
        configs: PEFT adapter -> the content of the config.json saved with it.
        reference: PEFT adapter -> a model that PEFT itself loaded; None without PEFT adapters.
    """

    model: Any
    setup: Any
    head: Any
    configs: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    reference: Callable[[str], Any] | None = None


def assemble(source: Source, adapters: Sequence[str], fusions: Sequence[str]) -> Assembled:
    """Load a model with its adapters and fusions.

    Args:
        source: the model folder.
        adapters: [NAME=]SOURCE each.
        fusions: SOURCE each.

    Raises:
        ExportError: a file is damaged or missing, weights are missing or unexpected, a name is used twice, or a part was
            trained for another model.
    """
    try:
        return _assemble(source, adapters, fusions)
    except OSError as error:
        raise ExportError(f"{error.filename or source.text!r} cannot be read: {error.strerror or error}") from error
    # Values of wrong types in the configurations, which are read in many places.
    except (AttributeError, IndexError, KeyError, RecursionError, TypeError, ValueError) as error:
        raise ExportError(
            f"the configuration of {source.text!r}, or of an adapter that is added to it, has a value that is not expected "
            f"({type(error).__name__}: {first_line(error)}): save the model and its adapters again"
        ) from error


def _assemble(source: Source, adapters: Sequence[str], fusions: Sequence[str]) -> Assembled:
    config = read_config(source.folder)
    named = [(find(text, "adapter"), name) for name, text in map(split_name, adapters)]
    named += [(find(text, "fusion"), None) for text in fusions]
    parts = [part for folder, name in named for part in scan(folder, name)]
    _check_fusions(parts, named[len(adapters) :])
    folders = [folder for folder, _ in named]
    own: list[Part] = []
    if read_setup(source.folder):
        # The setup was saved in the model folder: its adapters are in subfolders and may already be in the model.
        folders.append(source)
        own = scan_below(source)
    parts = _distinct(parts)
    if any(part.kind == "peft" for part in parts):
        model, configs, reference = load_tasks(source, config, parts)
        return Assembled(model, None, None, configs, reference)
    loaded = load_folder(source, [*parts, *own])
    model = loaded.model
    with quiet():
        filled = _install(model, parts, own)
    check_complete(source.folder, model, loaded.missing - filled)
    setups = [setup for setup in (read_setup(folder.folder) for folder in folders) if setup]
    for setup in setups:
        _complete(setup, model)
    return Assembled(model.eval(), *_joined(setups))


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
        key = ("adapter" if part.kind == "peft" else part.kind, part.name)
        first = chosen.setdefault(key, part)
        if first is not part and first.folder.resolve() != part.folder.resolve() and not same(first, part):
            raise ExportError(
                f"two different {key[0]}s have the name {part.name!r}, one from {str(first.folder)!r} and one from "
                f"{str(part.folder)!r}: rename one of them (--adapter NAME=SOURCE)"
            )
    return list(chosen.values())


def _install(model: Any, parts: Sequence[Part], own: Sequence[Part]) -> set[str]:
    """Add all parts and return the names of the model's weights that they have set."""
    config = model.adapters_config
    as_objects(config)
    heads = getattr(model, "heads", None)
    there = {"adapter": list(config.adapters), "fusion": list(config.fusions), "head": list(heads or ())}
    for part in parts:
        if part.name in there[part.kind]:
            raise ExportError(
                f"{part.label} has the name of one that is already in the model: rename it (--adapter NAME=SOURCE)"
            )
    every = [*parts, *(part for part in own if part.name not in there[part.kind])]
    for part in _of("adapter", every):
        add_adapter(model, part)
    renamed = {str(part.saved): part.name for part in _of("adapter", every)}
    for part in _of("fusion", every):
        add_fusion(model, part, renamed)
    if heads is None:
        return _fill_only_head(model, _of("head", every), in_use=bool(there["adapter"]))
    for part in _of("head", every):
        add_head(model, part)
    return set()


def _of(kind: str, parts: Iterable[Part]) -> list[Part]:
    return [part for part in parts if part.kind == kind]


def _fill_only_head(model: Any, heads: Sequence[Part], in_use: bool) -> set[str]:
    """Load the model's single head; with `in_use`, adapters that came with the model use the head and it must not change."""
    filled: set[str] = set()
    state = {key: value.clone() for key, value in model.state_dict().items()} if in_use and heads else {}
    for part in heads:
        if filled and not same(heads[0], part):
            raise ExportError(
                f"{heads[0].label} and {part.label} differ, but a {type(model).__name__} has one head for all its adapters: "
                "export them one at a time"
            )
        filled = add_head(model, part)
    changed = [key for key in filled if key in state and not state[key].equal(model.state_dict()[key])]
    if changed:
        raise ExportError(
            f"{heads[0].label} differs from the head of the {type(model).__name__}, which the adapters in the model folder "
            "use: such a model has one head for all its adapters; export them one at a time"
        )
    return filled


def _complete(setup: Setup, model: Any) -> None:
    config = model.adapters_config
    fusions = {name: config.get_fusion(name)[1] for name in config.fusions}
    subfolders = [path.name for path in setup.folder.iterdir() if path.is_dir()]
    complete(setup, config.adapters, fusions, [name for name in fusions if name in subfolders])


def _joined(setups: Sequence[Setup]) -> tuple[Any, Any]:
    """Join setups to one composition with its heads: a MultiTask with a list of heads for several setups."""
    if len(setups) < 2:
        return (setups[0].composition, setups[0].head) if setups else (None, None)
    tasks: list[Any] = []
    heads: list[Any] = []
    for setup in setups:
        many = isinstance(setup.composition, Parallel | MultiTask)
        children = setup.composition.children if many else [setup.composition]
        tasks += children
        heads += (
            setup.head if many and isinstance(setup.head, list) and len(setup.head) == len(children) else [None] * len(children)
        )
        if not many:
            heads[-1] = setup.head
    return MultiTask(*tasks), heads
