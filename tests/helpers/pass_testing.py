"""Models from ONNX text for the tests of the graph passes, and the proof of a pass."""

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
import onnx.numpy_helper
import onnx.parser
import onnx_ir as ir
import onnx_ir.passes.common as common
import onnxruntime

from exporter.compile.rewrite.refusals import RefusingPass

Arrays = Mapping[str, np.ndarray]
Sizes = Mapping[str, int]
Weights = Mapping[str, Sequence[np.ndarray]]

SIZES: tuple[Sizes, ...] = ({"batch": 1, "sequence": 3}, {"batch": 2, "sequence": 5}, {"batch": 5, "sequence": 1})
_HEADER = '<ir_version: 10, opset_import: ["" : {opset}]>'


def parse(text: str, initializers: Arrays | None = None, opset: int = 20) -> ir.Model:
    """A model with lifted constants and inferred shapes.

    Args:
        text: a graph in ONNX text, without the model's header. Shapes of inputs and outputs may name `batch` and `sequence`;
            small initializers and shapes of inner values may stand in the angle brackets after the outputs.
        initializers: further weights, by name.
        opset: the operator set.
    """
    proto = onnx.parser.parse_model(f"{_HEADER.format(opset=opset)} agraph {text}")
    tensors = [onnx.numpy_helper.from_array(array, name) for name, array in (initializers or {}).items()]
    proto.graph.initializer.extend(tensors)
    model = ir.from_proto(proto)
    common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    common.ShapeInferencePass()(model)
    return model


def op_types(model: ir.Model) -> list[str]:
    """The operators in the order of the graph."""
    return [node.op_type for node in model.graph]


def rand(*shape: int, seed: int = 0) -> np.ndarray:
    """Normally distributed float32 of that shape."""
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(np.float32)


def tasks_of(*shape: int, seed: int = 0, count: int = 3) -> list[np.ndarray]:
    """One random array for each task."""
    return [rand(*shape, seed=100 * seed + task) for task in range(count)]


def template(text: str, weights: Weights, trunk: Mapping[str, np.ndarray], task: int = 0) -> ir.Model:
    """The graph with the weights of one task."""
    return parse(text, {**trunk, **{name: arrays[task] for name, arrays in weights.items()}})


def random_feeds(model: ir.Model, sizes: Sizes) -> dict[str, np.ndarray]:
    """Inputs for the model at those sizes: normal floats, integers from 0 to 2, and booleans."""
    generator = np.random.default_rng(sum(sizes.values()))
    feeds = {}
    for value in model.graph.inputs:
        assert value.shape is not None
        assert value.dtype is not None
        shape = [dim if isinstance(dim, int) else sizes[str(dim.value)] for dim in value.shape]
        numbers = generator.standard_normal(shape) if value.dtype.is_floating_point() else generator.integers(0, 3, shape)
        feeds[str(value.name)] = np.asarray(numbers).astype(value.dtype.numpy())
    return feeds


def compute(model: ir.Model, feeds: Arrays) -> list[np.ndarray]:
    """The model's outputs by ONNX Runtime, with its own optimizations off."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(serialize(model), options, providers=["CPUExecutionProvider"])
    return [np.asarray(array) for array in session.run(None, dict(feeds))]


def serialize(model: ir.Model) -> bytes:
    """The model as one protobuf message, with the weights inside."""
    proto: onnx.ModelProto = ir.to_proto(model)
    return bytes(proto.SerializeToString(deterministic=True))


def check_valid(model: ir.Model) -> None:
    """Run ONNX's checker, which also infers every shape and compares it with the declared one."""
    onnx.checker.check_model(ir.to_proto(model), full_check=True)


def prove(
    step: ir.passes.InPlacePass,
    text: str,
    operators: str | None,
    *,
    initializers: Arrays | None = None,
    tolerance: float = 0.0,
    sizes: Sequence[Sizes] = SIZES,
    idempotent: bool = True,
    opset: int = 20,
    refused: str | None = None,
) -> ir.Model:
    """Prove a pass on one graph: its operators, its numbers, its idempotence, and the checker's verdict.

    Args:
        step: the pass.
        text: as in `parse`.
        operators: the operators after the pass and the removal of dead nodes, in the graph's order and separated by spaces;
            None if the pass must leave the model as it is.
        initializers: as in `parse`.
        tolerance: the largest difference allowed relative to max(1, |number|); 0 demands equal bits, up to the sign of zero.
        sizes: the batch and sequence sizes at which numbers are compared.
        idempotent: whether a second run must change nothing.
        opset: the operator set that the pass meets.
        refused: the one reason that the pass keeps; by default it is not looked at.

    Returns:
        The model after the pass.
    """
    before, model = parse(text, initializers, opset), parse(text, initializers, opset)
    check_valid(before)
    untouched = serialize(model)
    modified = step(model).modified
    if refused is not None:
        assert isinstance(step, RefusingPass)
        assert [each.reason for each in step.refusals] == [refused]
    if operators is None:
        assert not modified
        assert serialize(model) == untouched
        return model
    assert modified
    common.RemoveUnusedNodesPass()(model)
    assert op_types(model) == operators.split()
    assert [value.name for value in model.graph.inputs] == [value.name for value in before.graph.inputs]
    assert [value.name for value in model.graph.outputs] == [value.name for value in before.graph.outputs]
    check_valid(model)
    for size in sizes:
        feeds = random_feeds(before, size)
        for expected, found in zip(compute(before, feeds), compute(model, feeds), strict=True):
            assert_close(found, expected, tolerance)
    once = serialize(model)
    if idempotent:
        step(model)
        common.RemoveUnusedNodesPass()(model)
        assert serialize(model) == once
    return model


def assert_close(found: np.ndarray, expected: np.ndarray, tolerance: float) -> None:
    """Same type, same shape, and numbers within tolerance x max(1, |expected|)."""
    assert found.dtype == expected.dtype
    np.testing.assert_allclose(found, expected, rtol=tolerance, atol=tolerance, strict=True)
