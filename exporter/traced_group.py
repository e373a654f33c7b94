"""The traced graph of one structure, which is what the compiler takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir


@dataclass(frozen=True)
class TracedGroup:
    """The traced graph of one task structure and the weights of all its tasks.

    Attributes:
        tasks: their names; outputs are called as `output_names` says.
        model: the template, traced for one of the tasks.
        weights: initializer name in the template -> one array per task.
    """

    tasks: tuple[str, ...]
    model: ir.Model
    weights: Mapping[str, Sequence[np.ndarray]]

    @property
    def unread(self) -> tuple[str, ...]:
        """The names of the graph's inputs on which no output depends."""
        return tuple(str(value.name) for value in self.model.graph.inputs if not value.uses())
