"""The graph of all tasks of a randomly initialized BERT, written by hand, with which our compiler is compared.

It computes what an expert would write for ONNX Runtime: the layers below the drop once, all tasks above it as one batch, each
layer's adapters as one batched product, and in the last layer only the first token.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

_OPSET = 20
_FIRST = np.array([0], np.int64)


class _Graph:
    """Nodes and weights of a graph that grows."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []

    def add(self, operator: str, *inputs: str | npt.NDArray[Any], **attributes: Any) -> str:
        """Add a node; arrays among the inputs become weights. Returns the name of its output."""
        output = f"v{len(self.nodes)}"
        names = [each if isinstance(each, str) else self._weight(each) for each in inputs]
        self.nodes.append(helper.make_node(operator, names, [output], **attributes))
        return output

    def _weight(self, array: npt.NDArray[Any]) -> str:
        name = f"w{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.array(array, order="C"), name))
        return name

    def linear(self, x: str, weights: Mapping[str, npt.NDArray[Any]], name: str) -> str:
        """Add x W + b."""
        product = self.add("MatMul", x, weights[f"{name}.weight"].T)
        return self.add("Add", product, weights[f"{name}.bias"])

    def norm(self, x: str, weights: Mapping[str, npt.NDArray[Any]], name: str) -> str:
        """Add a layer norm over the last axis."""
        return self.add("LayerNormalization", x, weights[f"{name}.weight"], weights[f"{name}.bias"], axis=-1, epsilon=1e-12)


def hand_written(model: Any, tasks: Sequence[str], drop: int) -> bytes:
    """Return the graph of a model of `random_bert`, with one output per task.

    Args:
        model: the adapters model.
        tasks: names of its tasks.
        drop: number of lowest layers without adapters.
    """
    weights = {name: parameter.detach().numpy() for name, parameter in model.state_dict().items()}
    config, graph = model.config, _Graph()
    x, mask = _embeddings(graph, weights)
    for layer in range(config.num_hidden_layers):
        own = {
            name.split(f"encoder.layer.{layer}.", 1)[1]: array for name, array in weights.items() if f".layer.{layer}." in name
        }
        last = layer == config.num_hidden_layers - 1
        x = _attention(graph, x, mask, own, config.num_attention_heads, last)
        x = _feed_forward(graph, x, own, tasks if layer >= drop else (), layer == drop)
        if layer == drop and len(tasks) > 1:
            mask = graph.add("Tile", mask, np.array([len(tasks), 1, 1, 1]))
    outputs = [_head(graph, x, weights, task, number, len(tasks)) for number, task in enumerate(tasks)]
    names = ("input_ids", "attention_mask", "token_type_ids")
    inputs = [helper.make_tensor_value_info(name, TensorProto.INT64, ["B", "S"]) for name in names]
    results = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["B", None]) for name in outputs]
    proto = helper.make_graph(graph.nodes, "hand_written", inputs, results, graph.weights)
    opsets = [helper.make_opsetid("", _OPSET)]
    found: bytes = helper.make_model(proto, opset_imports=opsets, ir_version=onnx.IR_VERSION_2023_5_5).SerializeToString()
    return found


def _embeddings(graph: _Graph, weights: Mapping[str, npt.NDArray[Any]]) -> tuple[str, str]:
    """Return the embeddings [B, S, H] and the mask to be added to the scores [B, 1, 1, S]."""
    own = {name.split("embeddings.", 1)[1]: array for name, array in weights.items() if ".embeddings." in name}
    words = graph.add("Gather", own["word_embeddings.weight"], "input_ids")
    types = graph.add("Gather", own["token_type_embeddings.weight"], "token_type_ids")
    length = graph.add("Shape", "input_ids", start=1, end=2)
    places = graph.add("Slice", own["position_embeddings.weight"], _FIRST, length, _FIRST)
    x = graph.norm(graph.add("Add", graph.add("Add", words, types), places), own, "LayerNorm")
    hidden = graph.add("Equal", "attention_mask", np.array(0, np.int64))
    scores = graph.add("Where", hidden, np.array(np.finfo(np.float32).min, np.float32), np.array(0, np.float32))
    return x, graph.add("Unsqueeze", scores, np.array([1, 2]))


def _attention(graph: _Graph, x: str, mask: str, own: Mapping[str, npt.NDArray[Any]], heads: int, last: bool) -> str:
    size = own["attention.self.query.weight"].shape[0] // heads
    query = graph.add("Slice", x, _FIRST, _FIRST + 1, _FIRST + 1) if last else x

    def split(source: str, name: str, order: Sequence[int]) -> str:
        flat = graph.linear(source, own, f"attention.self.{name}")
        return graph.add("Transpose", graph.add("Reshape", flat, np.array([0, 0, heads, size])), perm=order)

    q, k, v = split(query, "query", (0, 2, 1, 3)), split(x, "key", (0, 2, 3, 1)), split(x, "value", (0, 2, 1, 3))
    scores = graph.add("MatMul", graph.add("Mul", q, np.array(size**-0.5, np.float32)), k)
    shares = graph.add("Softmax", graph.add("Add", scores, mask), axis=-1)
    joined = graph.add("Transpose", graph.add("MatMul", shares, v), perm=(0, 2, 1, 3))
    flat = graph.add("Reshape", joined, np.array([0, 0, heads * size]))
    return graph.norm(
        graph.add("Add", graph.linear(flat, own, "attention.output.dense"), query), own, "attention.output.LayerNorm"
    )


def _feed_forward(graph: _Graph, x: str, own: Mapping[str, npt.NDArray[Any]], tasks: Sequence[str], splits: bool) -> str:
    """Return the layer's result: [B, S, H], or with tasks [T B, S, H]; `splits` says that the input has no tasks yet."""
    dense = graph.linear(graph.add("Gelu", graph.linear(x, own, "intermediate.dense")), own, "output.dense")
    if not tasks:
        return graph.norm(graph.add("Add", dense, x), own, "output.LayerNorm")
    if splits:
        dense, x = (graph.add("Tile", each, np.array([len(tasks), 1, 1])) for each in (dense, x))

    def stacked(name: str) -> npt.NDArray[Any]:
        return np.stack([own[f"output.adapters.{task}.{name}"] for task in tasks])

    normed = graph.norm(graph.add("Add", dense, x), own, "output.LayerNorm")
    rows = graph.add("Reshape", normed, np.array([len(tasks), -1, own["output.dense.weight"].shape[0]]))
    down = graph.add("MatMul", rows, stacked("adapter_down.0.weight").transpose(0, 2, 1))
    down = graph.add("Relu", graph.add("Add", down, stacked("adapter_down.0.bias")[:, None]))
    up = graph.add("MatMul", down, stacked("adapter_up.weight").transpose(0, 2, 1))
    up = graph.add("Reshape", graph.add("Add", up, stacked("adapter_up.bias")[:, None]), graph.add("Shape", dense))
    return graph.norm(graph.add("Add", graph.add("Add", up, dense), x), own, "output.LayerNorm")


def _head(graph: _Graph, x: str, weights: Mapping[str, npt.NDArray[Any]], task: str, number: int, count: int) -> str:
    """Return the logits [B, labels] of a task from [T B, 1, H]."""
    hidden = weights[f"heads.{task}.1.weight"].shape[1]
    every = graph.add("Reshape", x, np.array([count, -1, hidden]))
    own = graph.add("Gather", every, np.array(number, np.int64), axis=0)
    return graph.linear(own, {name: weights[f"heads.{task}.{name}"] for name in ("1.weight", "1.bias")}, "1")
