"""Reasons for which a pass leaves a pattern as it is."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

__all__ = ["Refusal", "Refused", "RefusingPass"]


@dataclass(frozen=True)
class Refusal:
    """A pattern that matched in its characteristic part and cannot be applied.

    None stands for an operator that is not this pattern at all; a Refusal for one whose user would ask why it was left.

    Attributes:
        reason: a main clause without a full stop, such as "the scores have 2 readers".
        value: the tensor that the reason is about; by default the first result of the operator at hand.
    """

    reason: str
    value: ir.Value | None = None


@dataclass(frozen=True)
class Refused:
    """A refusal as a record that outlives the graph.

    Attributes:
        op_type: the operator where the pattern was looked for.
        tensor: the tensor that the reason is about.
        reason: as in `Refusal`.
        tensors: that one and all that the operator reads and computes.
    """

    op_type: str
    tensor: str
    reason: str
    tensors: tuple[str, ...]


class RefusingPass(ir.passes.InPlacePass):
    """A pass that keeps the reasons of its last run.

    Attributes:
        refusals: one record for each pattern that was not applied, in the order of the graph.
    """

    def __init__(self) -> None:
        """Start without a reason."""
        super().__init__()
        self.refusals: list[Refused] = []

    def refuse(self, node: ir.Node, refusal: Refusal) -> None:
        """Keep the reason for which the pattern at `node` was not applied."""
        value = node.outputs[0] if refusal.value is None else refusal.value
        around = [each.name for each in (value, *node.outputs, *node.inputs) if each is not None and each.name]
        self.refusals.append(Refused(node.op_type, str(value.name), refusal.reason, tuple(dict.fromkeys(around))))
