"""The traced graph of one structure, which is what the compiler takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir


@dataclass(frozen=True)
class TracedGroup:
    """The traced graph of one task structure and the weights of all its tasks.

    Attributes:
        tasks: their names; outputs are named by `output_names`.
        model: the template, traced for one of the tasks.
        weights: initializer name in the template -> one array per task.
        generic_names: name of a weight in the template -> its generic name, as `exporter.models.binding.generic_names` returns
            it. Weights with the same generic name in two groups correspond to each other.
        forms: form in which the changes of PEFT's tuners are stored, such as "whole weight" -> number of layers.
    """

    tasks: tuple[str, ...]
    model: ir.Model
    weights: Mapping[str, Sequence[np.ndarray]]
    generic_names: Mapping[str, str] = field(default_factory=dict)
    forms: Mapping[str, int] = field(default_factory=dict)

    def bytes_of(self, task: str) -> int:
        """Return the bytes of the weights that one task does not share with the others."""
        number = self.tasks.index(task)
        return sum(arrays[number].nbytes for arrays in self.weights.values())

    @property
    def unread(self) -> tuple[str, ...]:
        """The names of the graph's inputs on which no output depends."""
        return tuple(str(value.name) for value in self.model.graph.inputs if not value.uses())
