"""A part of a graph as text, with its constants and long attributes.

The parts of the tokenizer and those around it meet in three values:

- `texts`, strings [texts]: all texts, then all second texts of pairs;
- `ids`, int64 [tokens]: ids of the tokens of all `texts` in a row, without special tokens;
- `starts`, int64 [texts + 1]: index of the first token of each of the `texts`, then the number of tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx.numpy_helper
import onnx.parser
import onnx_ir as ir

EXTENSIONS = "ai.onnx.contrib"  # domain of the operators of onnxruntime-extensions
_ML = "ai.onnx.ml"
# LabelEncoder with attributes for keys and values
_ML_OPSET = 2
LEAST_OPSET = 20  # StringSplit and StringConcat
_IR_VERSION = 10

# Constants that every part may read
_COMMON = {
    "zero": np.array(0, np.int64),
    "one": np.array(1, np.int64),
    "two": np.array(2, np.int64),
    "axis_0": np.array([0], np.int64),
    "axis_1": np.array([1], np.int64),
    "last": np.array([-1], np.int64),
    "far": np.array([2**62], np.int64),
    "empty": np.array([""], dtype=object),
    "any": np.array(["(?s:.+)"], dtype=object),  # delimiters to keep: all
}


@dataclass(frozen=True)
class Part:
    """Nodes as ONNX text, which read and write values by name.

    Every part may read the constants zero, one and two, the vectors axis_0, axis_1, last (-1) and far (more than any length),
    and the strings empty and any (a regular expression for every text).

    Attributes:
        text: one node in each line.
        constants: name -> array; arrays of objects are strings.
        attributes: output of a node -> attributes that are too long for the text.
    """

    text: str
    constants: Mapping[str, np.ndarray] = field(default_factory=dict)
    attributes: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


def strings(*values: str) -> np.ndarray:
    """Return a vector of strings."""
    return np.array(values, dtype=object)


def make_graph(parts: list[Part], inputs: str, outputs: str, opset: int) -> ir.Model:
    """Assemble parts to a model.

    Args:
        parts: parts in the order in which they run; names are unique over all of them.
        inputs: inputs of the graph as ONNX text, such as "string[batch] text".
        outputs: outputs of the graph as ONNX text.
        opset: version of the standard operators.
    """
    body = "\n".join(part.text for part in parts)
    header = f'<ir_version: {_IR_VERSION}, opset_import: ["": {opset}, "{EXTENSIONS}": 1, "{_ML}": {_ML_OPSET}]>'
    proto = onnx.parser.parse_model(f"{header} text ({inputs}) => ({outputs}) {{\n{body}\n}}")
    read = {name for node in proto.graph.node for name in node.input}
    constants = {name: array for name, array in _COMMON.items() if name in read}
    for part in parts:
        constants |= part.constants
    for name, array in constants.items():
        proto.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(array), name))
    model = ir.from_proto(proto)
    for part in parts:
        for node in model.graph:
            for name, value in part.attributes.get(str(node.outputs[0].name), {}).items():
                node.attributes.add(ir.convenience.convert_attribute(name, value))
    return model
