"""Saved adapter setups (adapter_setup.json), and the recovery of the fusion names that they lack."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adapters.composition import AdapterCompositionBlock, Average, BatchSplit, Fuse, MultiTask, Parallel, Split, Stack

from exporter.checkpoints.files import read_json
from exporter.checkpoints.scan import SETUP
from exporter.errors import ExportError
from exporter.models.compositions import adapters_of

_BLOCKS = {block.__name__: block for block in (Average, BatchSplit, Fuse, MultiTask, Parallel, Split, Stack)}


@dataclass(frozen=True)
class Setup:
    """A saved adapter setup.

    Attributes:
        composition: the saved composition of adapters.
        head: the head setup: a name, a list of names, a composition, True for the single head of a model, or None.
        folder: the folder that contains the file.
    """

    composition: Any
    head: Any
    folder: Path


def read_setup(folder: Path) -> Setup | None:
    """Read the setup that `save_adapter_setup` wrote to a folder; None if there is no such file.

    Raises:
        ExportError: the file is damaged.
    """
    path = folder / SETUP
    if not path.is_file():
        return None
    content = read_json(path)
    try:
        composition = _compose(content["adapter_setup"])
        head = content.get("head_setup")
        head = _compose(head) if isinstance(head, dict) else head
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise ExportError(
            f"{str(path)!r} contains no adapter setup ({type(error).__name__}: {error}): save it again with "
            "model.save_adapter_setup"
        ) from error
    return Setup(composition, head, folder)


def _compose(data: dict[str, Any]) -> Any:
    """Like AdapterCompositionBlock.from_dict, but only accepts blocks, and keeps the weights of an Average as saved."""
    children = [child["children"][0] if child["type"] == "single" else _compose(child) for child in data["children"]]
    if not children or not all(isinstance(child, str | AdapterCompositionBlock) for child in children):
        raise ValueError("a block without adapters")
    options = dict(data.get("kwargs") or {})
    if data["type"] == "Average":
        options["normalize_weights"] = False
    return _BLOCKS[data["type"]](*children, **options)


def complete(setup: Setup, adapters: Iterable[str], fusions: Mapping[str, Sequence[str]], own: Iterable[str]) -> None:
    """Check that the model has the setup's adapters, and restore the names of its Fuse blocks, which are not saved.

    Args:
        setup: changed in place.
        adapters: the model's adapters.
        fusions: the model's fusion layers with the adapters of each.
        own: the fusion layers that were saved with the setup.

    Raises:
        ExportError: an adapter or a fusion layer is missing, or several fusion layers match.
    """
    known = list(adapters)
    for name in adapters_of(setup.composition):
        if name not in known:
            raise ExportError(
                f"the setup in {str(setup.folder)!r} needs the adapter {name!r}, which is neither in that folder nor in the "
                f"model; adapters: {', '.join(map(repr, known)) or 'none'}"
            )
    own = list(own)
    for block in _fuse_blocks(setup.composition):
        fused = [child if isinstance(child, str) else child.last() for child in block.children]
        fitting = [name for name, members in fusions.items() if list(members) == fused]
        # Several fusion layers can have the same members: prefer one that was saved with the setup.
        fitting = [name for name in fitting if name in own] or fitting
        if len(fitting) != 1:
            names = ", ".join(map(repr, fitting))
            found = f"the model has several fusions of them, {names}" if fitting else "the model has no fusion of them"
            raise ExportError(
                f"the setup in {str(setup.folder)!r} fuses {', '.join(map(repr, fused))}, and {found}: add only "
                "the folder of the right one (--fusion)"
            )
        block._name = fitting[0]


def _fuse_blocks(setup: Any) -> Iterator[Fuse]:
    if isinstance(setup, Fuse):
        yield setup
    if not isinstance(setup, str):
        for child in setup.children:
            yield from _fuse_blocks(child)
