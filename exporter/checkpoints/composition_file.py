"""adapter_setup.json: the composition that save_adapter_setup wrote, with what it lost on the way."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adapters.composition import AdapterCompositionBlock, Average, BatchSplit, Fuse, MultiTask, Parallel, Split, Stack

from exporter.checkpoints.sources import read_json
from exporter.errors import ExportError
from exporter.models.compositions import adapters_of

_FILE = "adapter_setup.json"
_BLOCKS = {block.__name__: block for block in (Average, BatchSplit, Fuse, MultiTask, Parallel, Split, Stack)}


@dataclass(frozen=True)
class Setup:
    """Attributes:
    composition: the adapters' composition as saved.
    head: the heads' setup: a name, a list of names, a composition, True for a model's one head, or None.
    folder: where it lies.
    """

    composition: Any
    head: Any
    folder: Path


def read_setup(folder: Path) -> Setup | None:
    """What save_adapter_setup wrote into the folder, if it did.

    Raises:
        ExportError: the file is damaged.
    """
    path = folder / _FILE
    if not path.is_file():
        return None
    content = read_json(path)
    try:
        composition = _compose(content["adapter_setup"])
        head = content.get("head_setup")
        head = _compose(head) if isinstance(head, dict) else head
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise ExportError(
            f"{str(path)!r} holds no adapter setup ({type(error).__name__}: {error}): save it again with "
            "model.save_adapter_setup"
        ) from error
    return Setup(composition, head, folder)


def _compose(data: dict[str, Any]) -> Any:
    """AdapterCompositionBlock.from_dict, except that it takes blocks alone and leaves the weights of an Average as they are."""
    children = [child["children"][0] if child["type"] == "single" else _compose(child) for child in data["children"]]
    if not children or not all(isinstance(child, str | AdapterCompositionBlock) for child in children):
        raise ValueError("a block without adapters")
    options = dict(data.get("kwargs") or {})
    if data["type"] == "Average":
        options["normalize_weights"] = False
    return _BLOCKS[data["type"]](*children, **options)


def complete(setup: Setup, adapters: Iterable[str], fusions: Mapping[str, Sequence[str]], own: Iterable[str]) -> None:
    """Checks that the setup's adapters are there and gives its Fuse blocks the names that to_dict lost.

    Args:
        setup: changed in place.
        adapters: the model's adapters.
        fusions: the model's fusion layers with the adapters of each.
        own: the fusion layers that came with the setup.

    Raises:
        ExportError: an adapter or a fusion layer is missing, or several fusion layers could be meant.
    """
    known = list(adapters)
    for name in adapters_of(setup.composition):
        if name not in known:
            raise ExportError(
                f"the setup in {str(setup.folder)!r} needs the adapter {name!r}, which is neither beside it nor in the model; "
                f"adapters: {', '.join(map(repr, known)) or 'none'}"
            )
    own = list(own)
    for block in _fuse_blocks(setup.composition):
        fused = [child if isinstance(child, str) else child.last() for child in block.children]
        fitting = [name for name, members in fusions.items() if list(members) == fused]
        # Several fusion layers can have the same members; one that came with the setup was meant.
        fitting = [name for name in fitting if name in own] or fitting
        if len(fitting) != 1:
            names = ", ".join(map(repr, fitting))
            found = f"there are several fusions of them, {names}" if fitting else "there is no fusion of them"
            raise ExportError(
                f"the setup in {str(setup.folder)!r} fuses {', '.join(map(repr, fused))}, and {found}: name the "
                "folder of the right one alone (--fusion)"
            )
        block._name = fitting[0]


def _fuse_blocks(setup: Any) -> Iterator[Fuse]:
    if isinstance(setup, Fuse):
        yield setup
    if not isinstance(setup, str):
        for child in setup.children:
            yield from _fuse_blocks(child)
