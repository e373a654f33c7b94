"""Rows without padding, and batches with it: how the arrays of single texts become those of a batch, and back."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from runtime.bundle import InputEntry, StateEntry
from runtime.bundle.interface import SEQUENCE

Array = npt.NDArray[Any]

_MASK: Final = "attention_mask"
_IDS: Final = "input_ids"


@dataclass(frozen=True)
class Padding:
    """Where a bundle pads texts, and with which id.

    Attributes:
        left: pad on the left.
        id: id of the padding token; None if it is unknown, because the bundle has no tokenizer.
        tokens: name of an input or state -> position of its sequence axis in the array of one text; absent without one.
        dtypes: name of an input or state -> its type in the graphs. Files may hold narrower ones.
        trims: whether the padding of a text can be removed. Without it, texts are kept as they were padded.
    """

    left: bool
    id: int | None
    tokens: Mapping[str, int]
    dtypes: Mapping[str, str]
    trims: bool

    @classmethod
    def of(
        cls, inputs: Sequence[InputEntry], states: Sequence[StateEntry], left: bool, pad_id: int | None, keeps: bool
    ) -> "Padding":
        """Return the padding of a bundle.

        Args:
            inputs: inputs of the bundle.
            states: its states.
            left: pad on the left.
            pad_id: id of the padding token, if it is known.
            keeps: whether the padding counts, so that it is kept.
        """
        entries: list[InputEntry | StateEntry] = [*inputs, *states]
        tokens = {entry.name: entry.shape.index(SEQUENCE) - 1 for entry in entries if SEQUENCE in entry.shape}
        dtypes: dict[str, str] = {entry.name: entry.dtype for entry in entries}
        return cls(left, pad_id, tokens, dtypes, _MASK in tokens and not keeps)

    def extents(self, feeds: Mapping[str, Array]) -> list[slice]:
        """Return the columns of each row's text, from its first to its last token; all columns of a row without tokens."""
        if not self.trims:
            count = len(next(iter(feeds.values())))
            return [slice(None)] * count
        mask = feeds[_MASK] != 0
        width = mask.shape[1]
        if self.left:
            starts = np.where(mask.any(1), mask.argmax(1), 0)
            slices = [slice(start, width) for start in starts.tolist()]
        else:
            ends = np.where(mask.any(1), width - mask[:, ::-1].argmax(1), width)
            slices = [slice(0, end) for end in ends.tolist()]
        if self.id is not None and _IDS in feeds:
            ids = feeds[_IDS]
            for row, columns in enumerate(slices):
                outside = ids[row, : columns.start] if self.left else ids[row, columns.stop :]
                if outside.size and (outside != self.id).any():  # the branches may read them
                    slices[row] = slice(0, width)
        return slices

    def row(self, arrays: Mapping[str, Array], number: int, columns: slice) -> dict[str, Array]:
        """Return copies of the arrays of one text."""
        own = self.cut({name: array[number : number + 1] for name, array in arrays.items()}, columns)
        return {name: array[0].copy() for name, array in own.items()}

    def cut(self, arrays: Mapping[str, Array], columns: slice) -> dict[str, Array]:
        """Return columns of the arrays of a batch; those without a sequence axis as they are."""
        return {
            name: array if (axis := self.tokens.get(name)) is None else array[(slice(None),) * (axis + 1) + (columns,)]
            for name, array in arrays.items()
        }

    def width(self, row: Mapping[str, Array]) -> int:
        """Return the number of columns of a text; 0 if it has no sequence axis."""
        return max((row[name].shape[axis] for name, axis in self.tokens.items() if name in row), default=0)

    def batch(self, rows: Sequence[Mapping[str, Array]], names: Sequence[str], width: int | None = None) -> dict[str, Array]:
        """Join rows to a batch.

        Args:
            rows: arrays of each text, equal in all axes but that of the sequence.
            names: the arrays to join.
            width: columns of the batch; None for those of the longest text.
        """
        width = max(map(self.width, rows)) if width is None else width
        return {name: self._joined(name, [row[name] for row in rows], width) for name in names}

    def _joined(self, name: str, arrays: Sequence[Array], width: int) -> Array:
        axis = self.tokens.get(name)
        if axis is None or all(array.shape[axis] == width for array in arrays):
            return np.stack(arrays, dtype=self.dtypes[name], casting="unsafe")
        shape = list(arrays[0].shape)
        shape[axis] = width
        joined = np.full([len(arrays), *shape], self.id or 0 if name == _IDS else 0, self.dtypes[name])
        for number, array in enumerate(arrays):
            length = array.shape[axis]
            columns = slice(width - length, width) if self.left else slice(0, length)
            places: tuple[int | slice, ...] = (number, *(slice(None),) * axis, columns)
            joined[places] = array
        return joined
