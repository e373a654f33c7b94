"""`TrunkStates`: the trunk's states of texts as a value that can be sliced, joined, saved and loaded."""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self

import numpy as np
import numpy.typing as npt

from runtime.bundle import StateEntry
from runtime.errors import InputError
from runtime.states.states_file import read_states, write_states

Array = npt.NDArray[Any]
# Name of a state or input -> its array for one text, without the batch axis and without padding
Row = Mapping[str, Array]

__all__ = ["Row", "TrunkStates", "load_states"]


@dataclass(frozen=True, eq=False)
class TrunkStates:
    """The trunk's states of texts, in the order of the texts. Immutable.

    `len(states)` is the number of texts. `states[3]`, `states[10:20]`, `states[[4, 1]]` and a boolean mask select texts, and
    `TrunkStates.concatenate` joins them, without copies.

    Attributes:
        entries: description of each state. The identity names the operators and weights that computed it.
        rows: for each text the arrays of its states, and its token ids, mask and token types, without padding.
        drop: drop of the variant that computed them.
    """

    entries: tuple[StateEntry, ...]
    rows: tuple[Row, ...]
    drop: int

    def __len__(self) -> int:
        """Return the number of texts."""
        return len(self.rows)

    def __getitem__(self, index: int | slice | Sequence[int] | npt.NDArray[Any]) -> "TrunkStates":
        """Return the states of the selected texts.

        Raises:
            InputError: the index is no number, slice, list of numbers or mask of the texts.
            IndexError: there is no such text.
        """
        if isinstance(index, slice):
            return self._with(self.rows[index])
        try:
            numbers = np.atleast_1d(np.asarray(index))
        except ValueError:  # lists of different lengths
            numbers = np.empty(0, object)
        if numbers.dtype == bool and numbers.shape == (len(self),):
            numbers = np.flatnonzero(numbers)
        elif (
            numbers.dtype == bool
            or numbers.ndim != 1
            or (numbers.size and numbers.dtype.kind not in "iu")
            or numbers.dtype == object
        ):
            raise InputError(
                f"states[…]: expected a number, a slice, a list of numbers, or a mask of {len(self)} texts, found {index!r}"
            )
        return self._with(tuple(self.rows[int(number)] for number in numbers))

    def __iter__(self) -> Iterator["TrunkStates"]:
        """Iterate over the texts."""
        return (self._with((row,)) for row in self.rows)

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays."""
        return sum(array.nbytes for row in self.rows for array in row.values())

    @property
    def identities(self) -> tuple[str, ...]:
        """Identities of the states, which say with which bundles they can be used."""
        return tuple(entry.identity for entry in self.entries)

    @classmethod
    def concatenate(cls, parts: "Sequence[TrunkStates]") -> Self:
        """Join the states of several lists of texts.

        Raises:
            InputError: there are no parts, or they are states of different trunks, drops or precisions.
        """
        if not parts or not all(isinstance(part, TrunkStates) for part in parts):
            raise InputError(f"concatenate(): expected a list of TrunkStates with at least one, found {list(parts)!r:.100}")
        first = next((part for part in parts if part.rows), parts[0])
        for number, part in enumerate(parts):
            if part.identities != first.identities or (part.rows and part.rows[0].keys() != first.rows[0].keys()):
                raise InputError(
                    f"concatenate(): expected states of one trunk, found some of drop {first.drop} and parts[{number}] of "
                    f"drop {part.drop}, which other layers or weights computed"
                )
        return cls(first.entries, tuple(row for part in parts for row in part.rows), first.drop)

    def save(self, path: str | os.PathLike[str], precision: Literal["fp32", "fp16"] | None = None) -> None:
        """Write the states to a file of safetensors, which appears as a whole or not at all.

        Args:
            path: file to write; an existing file is replaced.
            precision: "fp16" rounds the states, which halves the file. The manifest's `half_diff` and `half_agreement` tell how
                logits change. None keeps the states as they are.

        Raises:
            InputError: the file cannot be written, the precision is unknown, or a state exceeds the range of fp16.
        """
        write_states(path, self.entries, self.rows, self.drop, precision)

    def _with(self, rows: tuple[Row, ...]) -> "TrunkStates":
        return TrunkStates(self.entries, rows, self.drop)


def load_states(path: str | os.PathLike[str]) -> TrunkStates:
    """Load states that `TrunkStates.save` wrote.

    The file is mapped into memory, and its numbers are checked. Its identities are compared with the bundle when the states are
    used.

    Raises:
        InputError: the file is missing, damaged or not a file of states.
    """
    return TrunkStates(*read_states(path))
