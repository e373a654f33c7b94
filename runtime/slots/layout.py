"""The layout of a graph with slots: which weights it takes, and what a task must be to fit."""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from runtime.bundle.manifest import EXPORT_AGAIN
from runtime.bundle.schema import decode, encode
from runtime.bundle.tensors import DTYPES
from runtime.errors import BundleError

__all__ = [
    "LAYOUT_VERSION",
    "MOST_SLOTS",
    "SlotGroup",
    "SlotLayout",
    "SlotWeight",
    "identity_of",
    "layout_file",
    "own_task_file",
]

LAYOUT_VERSION: Final = 1
MOST_SLOTS: Final = 65_536
_MOST_BYTES: Final = 2**40  # of the weights of all slots


@dataclass(frozen=True)
class SlotGroup:
    """Tasks of one structure, which share slots.

    Attributes:
        structure: structure of the tasks, by which the exporter recognizes it.
        columns: largest number of labels, or the numbers of an embedding.
    """

    structure: str
    columns: int


@dataclass(frozen=True)
class SlotWeight:
    """One input of the graph, [slots, *shape].

    Attributes:
        name: name of the input.
        group: number of its group.
        dtype: element type, as numpy calls it.
        shape: shape of the weights of one task.
    """

    name: str
    group: int
    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class SlotLayout:
    """Description of a graph with slots, a JSON file next to it.

    Attributes:
        version: `LAYOUT_VERSION`.
        identity: hash of the graph without the weights of its tasks: operators, trunk and layout.
        slots: slots of each group; group g has the slots from g x slots on.
        columns: columns of the graph's output.
        groups: groups, in the order of their numbers.
        weights: inputs for the weights of tasks.
        own: task of the bundle -> file of its weights.
        fingerprint: part of the graph -> its hash, by which the exporter names what differs.
    """

    version: int
    identity: str
    slots: int
    columns: int
    groups: tuple[SlotGroup, ...]
    weights: tuple[SlotWeight, ...]
    own: Mapping[str, str]
    fingerprint: Mapping[str, str]

    @property
    def total(self) -> int:
        """Number of slots of all groups."""
        return self.slots * len(self.groups)

    def to_bytes(self) -> bytes:
        """Return deterministic JSON."""
        return (json.dumps(encode(self), indent=1, ensure_ascii=False) + "\n").encode()

    @classmethod
    def from_bytes(cls, content: bytes, path: str | os.PathLike[str]) -> "SlotLayout":
        """Read a layout.

        Args:
            content: content of the file.
            path: the file, for messages.

        Raises:
            BundleError: the content is not a layout of this version.
        """
        problems: list[str] = []
        try:
            document = json.loads(content)
        except (ValueError, RecursionError) as error:
            raise BundleError(f"{path}: expected JSON, found: {error}; {EXPORT_AGAIN}") from error
        if isinstance(document, dict) and document.get("version") != LAYOUT_VERSION:
            found = f"version: expected {LAYOUT_VERSION}, found {document.get('version')!r}"
            raise BundleError(f"{path}: {found}; {EXPORT_AGAIN}")
        layout: SlotLayout = decode(cls, document, "", problems)
        problems = problems or list(layout._problems())
        if problems:
            raise BundleError(f"{path}: {'; '.join(problems[:10])}; {EXPORT_AGAIN}")
        return layout

    def _problems(self) -> Iterator[str]:
        if not 1 <= self.slots <= MOST_SLOTS:
            yield f"slots: expected 1..{MOST_SLOTS:,}, found {self.slots}"
        if not self.groups or any(not 1 <= group.columns <= self.columns for group in self.groups):
            yield f"groups: expected at least one, with 1..{self.columns} columns each"
        if len({weight.name for weight in self.weights}) != len(self.weights):
            yield "weights: expected different names"
        total = 0
        for weight in self.weights:
            if (
                not 0 <= weight.group < len(self.groups)
                or weight.dtype not in DTYPES.values()
                or min(weight.shape, default=0) < 0
            ):
                yield f"weights: {weight.name}: expected a group, a dtype and a shape, found {weight}"
            else:
                size = self.slots * (8 if weight.dtype.endswith("64") else 4)
                for dim in weight.shape:
                    size *= min(dim, _MOST_BYTES)
                total += size
        if total > _MOST_BYTES:
            yield f"weights: expected at most {_MOST_BYTES:,} bytes, found {total:,}"


def layout_file(graph: str) -> str:
    """Return the file name of the layout of a graph with slots."""
    return f"{graph.removesuffix('.onnx')}.json"


def own_task_file(graph: str, number: int) -> str:
    """Return the file name of the weights of the bundle's task `number` for a graph with slots."""
    return f"{graph.removesuffix('.onnx')}_task{number}.safetensors"


def identity_of(fingerprint: Mapping[str, str], groups: Mapping[str, Any]) -> str:
    """Return the identity of a graph with slots, from its fingerprint and what else a task must fit."""
    text = json.dumps([dict(sorted(fingerprint.items())), groups], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()
