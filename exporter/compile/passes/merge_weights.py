"""Store equal weights once."""

from __future__ import annotations

import hashlib
from collections.abc import Collection

import numpy as np
import onnx_ir as ir

__all__ = ["MergeWeightsPass"]


class MergeWeightsPass(ir.passes.InPlacePass):
    """Initializers of one type, shape and content become one, whatever their size; bit-exact.

    Adapters that are tied across layers, in PyTorch or by equal content in a checkpoint, are in the file once, and so are their
    stacks over the tasks. onnx-ir's own pass needs contiguous arrays, which transposed weights are not.
    """

    def __init__(self, protected: Collection[str] = (), size_limit: int | None = None) -> None:
        """Set which weights are merged.

        Args:
            protected: names of initializers that stay apart.
            size_limit: the largest number of elements; None for any number.
        """
        super().__init__()
        self.protected = frozenset(protected)
        self.size_limit = size_limit

    # Not a NodeRewritePass: it walks over initializers.

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Compare the initializers by digests."""
        graph = model.graph
        first: dict[tuple[ir.DataType, tuple[int, ...], bytes], ir.Value] = {}
        modified = False
        for name, value in list(graph.initializers.items()):
            if value.const_value is None or value.is_graph_output() or value.is_graph_input():
                continue
            if name in self.protected or (self.size_limit is not None and value.const_value.size > self.size_limit):
                continue
            array = value.const_value.numpy()
            # From bytes, so that 0.0 and -0.0 stay apart and NaN equals itself.
            digest = hashlib.blake2b(np.ascontiguousarray(array).view(np.uint8).data).digest()
            kept = first.setdefault((value.const_value.dtype, array.shape, digest), value)
            if kept is not value:
                ir.convenience.replace_all_uses_with(value, kept)
                del graph.initializers[name]
                modified = True
        return ir.passes.PassResult(model, modified=modified)
