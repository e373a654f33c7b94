"""Decomposes single nodes of an exported program, in place of a trace of the whole program."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch.export import ExportedProgram
from torch.fx import Graph, Node
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.node import map_arg

__all__ = ["decompose_node"]


def decompose_node(program: ExportedProgram, node: Node, table: Mapping[Any, Callable[..., Any]]) -> bool:
    """Replace a node with the operators that its operator consists of.

    Args:
        program: a program that writes to no tensor. It is changed in place.
        node: a call of an operator in it.
        table: operator -> the function that computes it with other operators.

    Returns:
        Whether the node was replaced: not if its operator returns several tensors or a number, or consists of more than
        operators. Then the program is as it was.
    """
    operator: Any = node.target
    inputs = node.all_input_nodes
    result, values = node.meta.get("val"), [each.meta.get("val") for each in inputs]
    if not isinstance(result, torch.Tensor) or any(value is None for value in values):
        return False

    def call(*given: Any) -> Any:
        args, kwargs = map_arg((node.args, node.kwargs), dict(zip(inputs, given, strict=True)).__getitem__)
        return operator(*args, **kwargs)

    mode: Any = getattr(result, "fake_mode")  # noqa: B009  # of a fake tensor, which has no public type
    try:
        with mode, torch.no_grad():
            found = make_fx(call, decomposition_table=dict(table))(*values).graph
    except Exception:  # whatever the operator raises: the trace of the whole program may do without it, or says why
        return False
    if any(each.op not in ("placeholder", "call_function", "output") for each in found.nodes):
        return False
    _replace(program, node, found)
    return True


def _replace(program: ExportedProgram, node: Node, found: Graph) -> None:
    known = dict(zip(found.find_nodes(op="placeholder"), node.all_input_nodes, strict=True))
    with program.graph.inserting_before(node):
        for each in found.nodes:
            if each.op == "call_function":
                known[each] = program.graph.node_copy(each, known.__getitem__)
                known[each].meta = {**node.meta, "val": each.meta["val"]}
    result: Any = map_arg(found.output_node().args[0], known.__getitem__)
    node.replace_all_uses_with(result)
    program.graph_signature.replace_all_uses(node.name, result.name)
    program.graph.erase_node(node)
