"""Convert 32-bit floats to 16-bit floats."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from exporter.compile.rewrite.axes import MOVES
from exporter.compile.rewrite.builder import Builder, const_array, refuse_subgraphs
from exporter.compile.rewrite.refusals import Refusal, RefusingPass

__all__ = ["ConvertToHalfPass"]

# These keep their sums in 32 bits inside: MatMul and Gemm on every GPU, the norms by their stash type.
_PRODUCTS = frozenset({"Gemm", "LayerNormalization", "MatMul", "Softmax"})
# Squares and exponentials leave the range of a half (65504) for numbers that networks do hold.
_OVERFLOW = frozenset({"Exp", "Pow", "Reciprocal"})
# Angles and positions in the thousands have no fraction left in a half.
_COARSE = frozenset({"Ceil", "Cos", "Floor", "Mod", "Round", "Sin"})
# The CPU provider, which proves the graph, has no kernels for halves there.
_NO_KERNEL = frozenset({"GreaterOrEqual", "LessOrEqual", "Sign", "Xor", "IsInf", "IsNaN"})
# By name, not by the operator table: what is new there computes in 32 bits until its range was examined.
_UNARY = "Abs Cast Elu Erf Gelu HardSigmoid HardSwish LeakyRelu Log Mish Neg Not Relu Selu Sigmoid Softplus Softsign Sqrt Tanh"
_BINARY = "Add And Div Equal Greater Less Max Min Mul Or Sub"
_HALF = MOVES | {"Concat", "Where"} | _PRODUCTS | {*_UNARY.split(), *_BINARY.split()}
_LARGEST = float(np.finfo(np.float16).max)


class ConvertToHalfPass(RefusingPass):
    """float32 becomes float16 everywhere but at the graph's inputs and outputs.

    1. Operators that are not known to be safe, and those of `keep`, compute in float32 between two Casts. Powers, exponentials,
       sums and means are among them: RMS norms square numbers that a half cannot hold.
    2. Constants beyond the range of a half become half of its largest number: an attention mask of -3.4e38 still outweighs any
       score, and the sum of both is still finite, or a row without a token would be 0 / 0. Infinities stay, such as the logits
       of labels that a task lacks.
    3. A Cast to float32 inside the graph casts to float16 instead.

    Not exact: the caller states the tolerance.
    """

    # Not a NodeRewritePass: a value's type changes for all its readers at once.

    def __init__(self, keep: frozenset[str] = frozenset()) -> None:
        """Set what stays in float32.

        Args:
            keep: types of operators.
        """
        super().__init__()
        self.keep = keep

    def requires(self, model: ir.Model) -> None:
        """Refuse control flow.

        Raises:
            onnx_ir.passes.PreconditionError: an operator has a graph inside.
        """
        refuse_subgraphs(self, model)

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Convert every operator that is known to be safe."""
        self.refusals.clear()
        graph = model.graph
        # What is float32 now, inputs, weights and results, before anything changes.
        floats = {value for node in graph for value in (*node.inputs, *node.outputs) if value is not None and _is_float(value)}
        if not floats:
            return ir.passes.PassResult(model, modified=False)
        build = Builder(graph, "")
        half: dict[ir.Value, ir.Value] = {}
        single: dict[ir.Value, ir.Value] = {}
        for node in list(graph):
            low = node.domain == "" and node.op_type in _HALF - self.keep
            if not low and node.domain == "" and not floats.isdisjoint({*node.inputs, *node.outputs}):
                self.refuse(node, Refusal(_reason(node, self.keep)))
            for index, value in enumerate(node.inputs):
                if value in floats and value is not None:
                    node.replace_input_with(index, _half(value, half, build) if low else _single(value, half, single, build))
            graph.insert_before(node, build.take())
            if low:
                _lower(node, floats, half)
            else:
                graph.insert_after(node, [_cast_back(value, half, build) for value in node.outputs if value in floats])
        for index, value in enumerate(graph.outputs):
            if value in floats and half.get(value) is value:
                graph.outputs[index] = _output(value, build)
        graph.extend(build.take())
        for name, value in list(graph.initializers.items()):
            if not value.uses() and not value.is_graph_output():
                del graph.initializers[name]
        return ir.passes.PassResult(model, modified=True)


def _reason(node: ir.Node, keep: frozenset[str]) -> str:
    """Why the operator computes in float32."""
    if node.op_type in keep:
        return f"{node.op_type} is configured to stay in float32"
    if node.op_type in _OVERFLOW:
        return f"{node.op_type} leaves the range of a half for numbers that networks hold"
    if node.op_type in _COARSE:
        return f"{node.op_type} works on positions and angles, which a half rounds to whole numbers"
    if node.op_type in _NO_KERNEL:
        return f"ONNX Runtime has no kernel of {node.op_type} for halves on the CPU"
    return f"{node.op_type} is not known to be exact enough in halves"


def _is_float(value: ir.Value) -> bool:
    return value.dtype == ir.DataType.FLOAT


def _half(value: ir.Value, half: dict[ir.Value, ir.Value], build: Builder) -> ir.Value:
    """The value in float16: a converted weight, a Cast of an input, or what its operator gives by now."""
    if value not in half:
        array = const_array(value)
        if array is not None:
            beyond = np.isfinite(array) & (np.abs(array) > _LARGEST)
            numbers = np.where(beyond, np.sign(array) * (_LARGEST / 2), array)  # rule 2
            half[value] = build.initializer(numbers.astype(np.float16), f"{value.name}_half")
        else:
            half[value] = _cast(value, ir.DataType.FLOAT16, build, "half")
    return half[value]


def _single(
    value: ir.Value, half: dict[ir.Value, ir.Value], single: dict[ir.Value, ir.Value], build: Builder
) -> ir.Value:  # rule 1
    """The value in float32, for an operator outside the list."""
    if half.get(value) is not value:
        return value  # an input, a weight, or the result of another such operator
    if value not in single:
        single[value] = _cast(value, ir.DataType.FLOAT, build, "single")
    return single[value]


def _lower(node: ir.Node, floats: set[ir.Value], half: dict[ir.Value, ir.Value]) -> None:
    for value in node.outputs:
        if value in floats:
            # A new type object: values of a cloned graph share theirs with the original.
            value.type = ir.TensorType(ir.DataType.FLOAT16)
            half[value] = value
    if node.op_type == "Cast" and node.attributes.get_int("to", 0) == ir.DataType.FLOAT:  # rule 3
        node.attributes["to"] = ir.AttrInt64("to", int(ir.DataType.FLOAT16))


def _cast_back(value: ir.Value, half: dict[ir.Value, ir.Value], build: Builder) -> ir.Node:
    half[value] = _cast(value, ir.DataType.FLOAT16, build, "half")
    return build.take()[0]


def _cast(value: ir.Value, dtype: ir.DataType, build: Builder, suffix: str) -> ir.Value:
    shape = None if value.shape is None else value.shape
    return build.node("Cast", [value], attributes={"to": int(dtype)}, shape=shape, dtype=dtype, hint=f"{value.name}_{suffix}")


def _output(value: ir.Value, build: Builder) -> ir.Value:
    """The graph's output keeps its name and type; the inner value takes another name."""
    name, shape = str(value.name), value.shape
    value.name = f"{name}_half"
    output = build.node("Cast", [value], attributes={"to": int(ir.DataType.FLOAT)}, shape=shape, dtype=ir.DataType.FLOAT)
    output.name = name
    return output
