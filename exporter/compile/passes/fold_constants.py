"""Compute results that are known at export."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Collection, Iterator

import onnx_ir as ir
import onnxscript.optimizer

from exporter.compile.rewrite.builder import const_array

__all__ = ["FoldConstantsPass"]

_LOGGER = logging.getLogger("onnxscript.optimizer")


class FoldConstantsPass(ir.passes.InPlacePass):
    """onnxscript's constant folding, which also follows symbolic shapes, with three limits.

    1. No operator that reads a protected initializer is folded, except its Shape: task weights must keep their names until
       they are bound.
    2. Above `size_limit` elements, only a Transpose of a weight is folded, and only with `transpose_weights`. It is not folded
       before groups are joined: a folded copy hides that two groups read the same weight.
    3. No LayerNormalization is folded: onnxscript computes its optional outputs too, and keeps the node.
    """

    # Not a NodeRewritePass: onnxscript has its own loop.

    def __init__(self, protected: Collection[str] = (), transpose_weights: bool = False, size_limit: int = 4096) -> None:
        """Set what is folded.

        Args:
            protected: names of initializers whose readers stay.
            transpose_weights: whether a Transpose of a weight is folded whatever its size.
            size_limit: the largest number of elements of an input and of a result.
        """
        super().__init__()
        self.transpose_weights = transpose_weights
        self.protected = frozenset(protected)
        self.size_limit = size_limit

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Fold what the rules allow."""

        def should_fold(node: ir.Node) -> bool | None:
            if any(value is not None and value.name in self.protected for value in node.inputs):
                return False  # rule 1
            if node.op_type == "LayerNormalization":
                return False  # rule 3
            source = const_array(node.inputs[0]) if node.op_type == "Transpose" else None
            if source is not None and source.size > self.size_limit:
                return self.transpose_weights  # rule 2
            return None

        with _no_warnings():
            result = onnxscript.optimizer.fold_constants(
                model, input_size_limit=self.size_limit, output_size_limit=self.size_limit, should_fold=should_fold
            )
        return ir.passes.PassResult(model, modified=bool(result.modified))


@contextlib.contextmanager
def _no_warnings() -> Iterator[None]:
    """Let onnxscript log only errors: it warns of constants that it leaves, such as the parts of a Split."""
    level = _LOGGER.level
    _LOGGER.setLevel(logging.ERROR)
    try:
        yield
    finally:
        _LOGGER.setLevel(level)
