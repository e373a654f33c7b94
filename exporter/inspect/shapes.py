"""Concrete sizes of every value of a graph, for inputs of a given shape.

Exported graphs contain no inner shapes, and Reshape, Tile and Expand compute theirs from the shapes of the inputs. The graph is
therefore visited node by node: small known values are computed, all other shapes come from ONNX's own shape inference, and ONNX
Runtime's fused operators, which ONNX does not know, have rules in `fused`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
import onnx.defs
import onnx.reference
import onnx.shape_inference
import onnx_ir as ir

from exporter.inspect.fused import fused_outputs

# Shape arithmetic and masks of ranks, not weights.
_COMPUTED_ELEMENTS = 1024


@dataclass(frozen=True)
class Known:
    """Knowledge of one value: its dimensions, its type, and its numbers where they are few."""

    dims: tuple[int, ...]
    dtype: ir.DataType
    array: np.ndarray | None = None


def concrete_values(graph: ir.Graph, sizes: Mapping[str, int]) -> dict[ir.Value, Known]:
    """Value -> what is known of it when the named axes of the inputs have these `sizes`.

    A value whose dimensions depend on the inputs' numbers, or that an operator unknown to ONNX makes, is missing.

    Raises:
        KeyError: an input has a named axis that `sizes` lacks.
    """
    known: dict[ir.Value, Known] = {}
    for value in graph.inputs:
        dims = tuple(dim if isinstance(dim, int) else sizes[str(dim.value)] for dim in value.shape or ())
        known[value] = Known(dims, value.dtype or ir.DataType.FLOAT)
    for value in graph.initializers.values():
        if (tensor := value.const_value) is not None:
            # Weights are not read from their file: the constants that determine shapes are in the graph itself.
            few = tensor.size <= _COMPUTED_ELEMENTS and not isinstance(tensor, ir.ExternalTensor)
            known[value] = Known(tuple(tensor.shape.numpy()), tensor.dtype, tensor.numpy() if few else None)
    for node in graph:
        inputs = [None if value is None else known.get(value) for value in node.inputs]
        if any(value is not None and entry is None for value, entry in zip(node.inputs, inputs, strict=True)):
            continue
        outputs = _outputs(node, inputs, dict(graph.opset_imports))
        known.update({value: entry for value, entry in zip(node.outputs, outputs, strict=False) if entry is not None})
    return known


def _outputs(node: ir.Node, inputs: Sequence[Known | None], opsets: Mapping[str, int]) -> Sequence[Known | None]:
    given = [entry for entry in inputs if entry is not None]
    if node.domain not in ("", "ai.onnx"):
        shapes = fused_outputs(node, [None if entry is None else entry.dims for entry in inputs])
        dtype = next((entry.dtype for entry in given if entry.dtype.is_floating_point()), ir.DataType.FLOAT)
        return [Known(dims, dtype) for dims in shapes]
    if node.op_type == "Shape" and given:
        start, end = (node.attributes.get_int(name, default) for name, default in (("start", 0), ("end", None)))
        return [_computed(np.array(given[0].dims[start:end], np.int64))]
    if node.op_type == "NonZero" and given and len(given[0].dims) == 1:
        # An upper bound. A routed graph selects the rows of a group this way: it is counted as if all rows selected the group.
        return [Known((1, *given[0].dims), ir.DataType.INT64)]
    proto = ir.to_proto(node)
    if all(entry.array is not None for entry in given):
        feeds = {str(v.name): e.array for v, e in zip(node.inputs, inputs, strict=True) if v is not None and e is not None}
        try:
            evaluator = onnx.reference.ReferenceEvaluator(proto, opsets={"": opsets[""]})
            return [_computed(np.asarray(result)) for result in evaluator.run(None, feeds)]
        except Exception:  # an operator that the reference implementation of ONNX lacks, such as Gelu: only its shape is known
            return _inferred(proto, node, inputs, opsets)
    return _inferred(proto, node, inputs, opsets)


def _computed(array: np.ndarray) -> Known:
    return Known(array.shape, ir.DataType.from_numpy(array.dtype), array if array.size <= _COMPUTED_ELEMENTS else None)


def _inferred(
    proto: onnx.NodeProto, node: ir.Node, inputs: Sequence[Known | None], opsets: Mapping[str, int]
) -> Sequence[Known | None]:
    types, data = {}, {}
    for value, entry in zip(node.inputs, inputs, strict=True):
        if value is not None and entry is not None:
            types[str(value.name)] = onnx.helper.make_tensor_type_proto(int(entry.dtype), entry.dims)
            if entry.array is not None:
                data[str(value.name)] = onnx.numpy_helper.from_array(np.ascontiguousarray(entry.array), str(value.name))
    try:
        schema = onnx.defs.get_schema(node.op_type, opsets[""], "")
        imports = [onnx.helper.make_opsetid("", opsets[""])]
        found = onnx.shape_inference.infer_node_outputs(schema, proto, types, data, opset_imports=imports)
    except (onnx.defs.SchemaError, onnx.shape_inference.InferenceError):
        return [None] * len(node.outputs)
    return [_from_type(found.get(str(value.name))) for value in node.outputs]


def _from_type(proto: onnx.TypeProto | None) -> Known | None:
    if proto is None or not proto.tensor_type.HasField("shape"):
        return None
    dims = proto.tensor_type.shape.dim
    if not all(dim.HasField("dim_value") for dim in dims):
        return None
    return Known(tuple(dim.dim_value for dim in dims), ir.DataType(proto.tensor_type.elem_type))
