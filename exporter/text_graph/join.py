"""One graph from texts to the outputs of all tasks."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from exporter.text_graph.part import Part, make_graph, strings

TEXT_INPUTS = ("text", "text_pair")
ENCODED = ("input_ids", "attention_mask", "token_type_ids")
_PREFIX = "tokenizer/"
# The operators end the process where there is no text: the first node fails before, and its name is the message
_BOTH = """
    at_least_one_text_is_expected = Gather(text, axis_0)
    first_and_all = Concat <axis = 0> (at_least_one_text_is_expected, text, text_pair)
    texts = Slice(first_and_all, axis_1, far)"""


def tokenizer_graph(parts: Sequence[Part], names: Sequence[str], opset: int) -> ir.Model:
    """Return the graph from texts to the inputs of a graph of tasks.

    `text_pair` has no texts unless the caller gives some: it has a default value.

    Args:
        parts: parts of the tokenizer, which read `texts`, and of the inputs.
        names: names of the inputs that the graph of tasks has.
        opset: version of the standard operators.
    """
    both = Part(_BOTH, {"text_pair": strings()})
    outputs = ", ".join(f"int64[batch, sequence] {name}" for name in names)
    model = make_graph([both, *parts], "string[batch] text, string[pairs] text_pair", outputs, opset)
    graph = model.graph
    fixed = {*TEXT_INPUTS, *names}
    for value in [*graph.initializers.values(), *(output for node in graph for output in node.outputs)]:
        if value.name not in fixed:
            value.name = f"{_PREFIX}{value.name}"
    for node in graph:
        node.name = f"{_PREFIX}{str(node.outputs[0].name).removeprefix(_PREFIX)}"
    return model


def join(tokenizer: ir.Model, tasks: ir.Model) -> ir.Model:
    """Put the graph of a tokenizer in front of a graph of tasks.

    Args:
        tokenizer: graph of the tokenizer, whose nodes are moved.
        tasks: graph of the tasks, which is changed.

    Returns:
        `tasks`, from texts to the outputs of all tasks and the encoded texts.
    """
    source, graph = tokenizer.graph, tasks.graph
    inputs, encoded = list(source.inputs), {value.name: value for value in source.outputs}
    nodes, constants = list(source), list(source.initializers.values())
    source.outputs.clear()
    source.inputs.clear()
    source.initializers.clear()
    source.remove(nodes)
    for value in graph.inputs:
        value.replace_all_uses_with(encoded[value.name], replace_graph_outputs=True)
    graph.inputs.clear()
    graph.inputs.extend(inputs)
    for value in constants:
        graph.register_initializer(value)
    first = next(iter(graph), None)
    if first is None:
        graph.extend(nodes)
    else:
        graph.insert_before(first, nodes)
    graph.outputs.extend(encoded.values())
    graph.opset_imports.update({domain: version for domain, version in source.opset_imports.items() if domain})
    tasks.ir_version = max(tasks.ir_version, tokenizer.ir_version)
    return tasks
