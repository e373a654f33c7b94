"""Assembly of a model of the adapters library from its folder and the folders of adapters, fusions and heads."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from adapters.composition import MultiTask, Parallel

from exporter.checkpoints.adapterhub.add_adapters import add_adapter, add_fusion, as_objects
from exporter.checkpoints.adapterhub.add_heads import add_head
from exporter.checkpoints.adapterhub.base_model import load_folder
from exporter.checkpoints.adapterhub.composition_file import Setup, complete, read_setup
from exporter.checkpoints.assign import same
from exporter.checkpoints.base_model import check_complete
from exporter.checkpoints.scan import Part, scan_below
from exporter.checkpoints.sources import Source
from exporter.errors import ExportError
from exporter.models.quiet_libraries import quiet


def assemble(source: Source, parts: Sequence[Part], folders: Sequence[Source]) -> tuple[Any, Any, Any]:
    """Load a model folder and add the parts.

    Args:
        source: the model folder.
        parts: adapters, fusions and heads to add.
        folders: the folders of these parts, with the setups saved in them.

    Returns:
        The model, the composition saved in the folders and the head setup saved with it, as in `Assembled`.

    Raises:
        ExportError: a part is damaged, has the name of another, or was trained for another model.
    """
    folders, own = list(folders), []
    if read_setup(source.folder):
        # The setup was saved in the model folder: its adapters are in subfolders and may already be in the model.
        folders.append(source)
        own = scan_below(source)
    loaded = load_folder(source, [*parts, *own])
    model = loaded.model
    with quiet():
        filled = _install(model, parts, own)
    check_complete(source.folder, model, loaded.missing - filled)
    setups = [setup for setup in (read_setup(folder.folder) for folder in folders) if setup]
    for setup in setups:
        _complete(setup, model)
    return (model.eval(), *_joined(setups))


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
