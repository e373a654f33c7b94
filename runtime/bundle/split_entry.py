"""Manifest entry of a split variant: the trunk's graph, the branches' graphs, and the states between them."""

import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from runtime.bundle.entries import repeated
from runtime.bundle.interface import BATCH

StateType = Literal["float32", "float16"]
# The name of a state begins its identity.
_NAME: Final = re.compile("state_[0-9a-f]{12}")


@dataclass(frozen=True)
class StateEntry:
    """A trunk state: an output of the trunk's graph and an input of the branches' graphs.

    Attributes:
        name: name in the graphs, "state_" and the first digits of the identity.
        identity: sha256 in hex of the operators and weights that compute the state. States with the same identity are equal
            in all graphs and bundles.
        dtype: element type.
        shape: one string per axis, a name or a fixed size in digits, as of an input.
    """

    name: str
    identity: str
    dtype: StateType
    shape: tuple[str, ...]

    def problems(self, where: str) -> Iterator[str]:
        """Yield a message for each invalid field; `where` is the path of this entry in the manifest."""
        if not re.fullmatch("[0-9a-f]{64}", self.identity):
            yield f"{where}.identity: expected a sha256 in lower-case hex, found {self.identity!r}"
        if not _NAME.fullmatch(self.name) or not self.identity.startswith(self.name.removeprefix("state_")):
            yield f"{where}.name: expected state_ and the first 12 digits of the identity, found {self.name!r}"
        if self.shape[:1] != (BATCH,) or BATCH in self.shape[1:]:
            yield f"{where}.shape: expected {BATCH} as the first axis and nowhere else, found {list(self.shape)}"
        for axis in self.shape:
            if not re.fullmatch("[a-z][a-z_]*|[1-9][0-9]{0,8}", axis):
                yield f"{where}.shape: expected names such as sequence and sizes such as 768, found {axis!r}"


@dataclass(frozen=True)
class SplitEntry:
    """A variant that is also written as a graph of the trunk and graphs of the branches.

    Attributes:
        trunk: file name of the graph from the inputs to the states.
        branches: file name of the graph from the states to the outputs of all tasks.
        routed: file name of the graph from the states to the logits of rows that select a task; empty without one.
        slots: file name of the same for tasks in slots; empty without one.
        states: the states that the branches read.
        passing: names of states of other variants that the trunk computes on its way and returns too, after `states`.
        inputs: names of the bundle's inputs that the branches read in addition to the states.
        padding_counts: whether logits depend on the padding of a text, which is then kept with its states.
        saved: share of the operations of a single task that the states save, 0 to 1.
        half_diff: largest difference of a logit, relative to max(1, max |logit|), if the states are rounded to fp16, measured
            at the shapes of the verification; -1 if a state exceeds the range of fp16.
        half_agreement: fraction of logit vectors with the same argmax if the states are rounded to fp16, 0 to 1.
    """

    trunk: str
    branches: str
    routed: str
    slots: str
    states: tuple[StateEntry, ...]
    passing: tuple[str, ...]
    inputs: tuple[str, ...]
    padding_counts: bool
    saved: float
    half_diff: float
    half_agreement: float

    @property
    def graphs(self) -> tuple[str, ...]:
        """File names of all graphs of the entry."""
        return tuple(name for name in (self.trunk, self.branches, self.routed, self.slots) if name)

    def problems(self, where: str, files: Collection[str], inputs: Collection[str], axes: Sequence[str]) -> Iterator[str]:
        """Yield a message for each invalid field.

        Args:
            where: path of this entry in the manifest.
            files: files that the manifest lists.
            inputs: names of the bundle's inputs.
            axes: their named axes.
        """
        for field in ("trunk", "branches", "routed", "slots"):
            graph = getattr(self, field)
            if graph not in files and (graph or field in ("trunk", "branches")):
                yield f"{where}.{field}: expected one of the listed files, found {graph!r}"
        if not self.states:
            yield f"{where}.states: expected at least one, found none"
        yield from repeated(f"{where}.states", [*(state.name for state in self.states), *self.passing])
        for index, state in enumerate(self.states):
            yield from state.problems(f"{where}.states[{index}]")
            if unknown := [axis for axis in state.shape if not axis.isdecimal() and axis not in axes]:
                yield f"{where}.states[{index}].shape: expected axes of the inputs, found {', '.join(unknown)}"
        for name in self.passing:
            if not _NAME.fullmatch(name):
                yield f"{where}.passing: expected names of states, found {name!r}"
        for name in self.inputs:
            if name not in inputs:
                yield f"{where}.inputs: expected inputs of the bundle ({', '.join(sorted(inputs))}), found {name!r}"
        for field in ("saved", "half_agreement"):
            if not 0 <= getattr(self, field) <= 1:
                yield f"{where}.{field}: expected 0..1, found {getattr(self, field)}"


def split_files(model: str) -> tuple[str, str]:
    """Return the file names of the trunk's and the branches' graph that belong to the graph `model`."""
    rest = model.removeprefix("model")
    return f"trunk{rest}", f"branches{rest}"
