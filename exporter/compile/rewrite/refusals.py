"""Reasons why a pass leaves a pattern as it is."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

__all__ = ["Refusal", "Refused", "RefusingPass"]


@dataclass(frozen=True)
class Refusal:
    """The reason why a pattern whose characteristic part matched is not applied.

    A pass returns None for an operator that is not this pattern at all, and a Refusal where a user would ask for the reason.

    Attributes:
        reason: a main clause without a full stop, such as "the scores have 2 readers".
        value: the tensor that the reason is about; by default the first result of the operator.
    """

    reason: str
    value: ir.Value | None = None


@dataclass(frozen=True)
class Refused:
    """A refusal as a record that outlives the graph.

    Attributes:
        op_type: the type of the operator at which the pattern was looked for.
        tensor: the tensor that the reason is about.
        reason: as in `Refusal`.
        tensors: `tensor`, and all tensors that the operator reads and computes.
    """

    op_type: str
    tensor: str
    reason: str
    tensors: tuple[str, ...]


class RefusingPass(ir.passes.InPlacePass):
    """A pass that records the refusals of its last run.

    Attributes:
        refusals: one record for each pattern that was not applied, in the order of the graph.
    """

    def __init__(self) -> None:
        """Start without refusals."""
        super().__init__()
        self.refusals: list[Refused] = []

    def refuse(self, node: ir.Node, refusal: Refusal) -> None:
        """Record why the pattern at `node` was not applied."""
        value = node.outputs[0] if refusal.value is None else refusal.value
        around = [each.name for each in (value, *node.outputs, *node.inputs) if each is not None and each.name]
        self.refusals.append(Refused(node.op_type, str(value.name), refusal.reason, tuple(dict.fromkeys(around))))
