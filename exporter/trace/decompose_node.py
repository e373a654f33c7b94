"""Decomposes single nodes of an exported program, in place of a trace of the whole program."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch.export import ExportedProgram
from torch.fx import Graph, Node
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.node import map_arg

__all__ = ["DecompositionTable", "decompose_node"]


class DecompositionTable(dict[Any, Callable[..., Any]]):
    """Operator -> the function that computes it with other operators, for those that torch.onnx does not translate.

    Attributes:
        translated: the operators that torch.onnx translates.
    """

    def __init__(self, table: Mapping[Any, Callable[..., Any]], translated: frozenset[Any]) -> None:
        """Copy a table."""
        super().__init__(table)
        self.translated = translated


# What torch.onnx writes as the origin of an ONNX node.
_ORIGIN = ("nn_module_stack", "stack_trace", "source_fn_stack")


def decompose_node(program: ExportedProgram, node: Node, table: DecompositionTable) -> bool:
    """Replace a node with the operators that its operator consists of.

    Args:
        program: a program that writes to no tensor. It is changed in place.
        node: a call of an operator in it.
        table: the decompositions.

    Returns:
        Whether the node was replaced. It is left as it was if its operator returns several tensors or a number, or if it
        decomposes to more than operators with a translation: a trace of the whole program replaces writes before.
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
    found.eliminate_dead_code()
    if not all(_is_final(each, table) for each in found.nodes if each.op not in ("placeholder", "output")):
        return False
    _replace(program, node, found)
    return True


def _is_final(node: Node, table: DecompositionTable) -> bool:
    translated = node.target in table.translated or node.target is torch.ops.aten.sym_size.int
    return node.op == "call_function" and "val" in node.meta and (translated or not isinstance(node.meta["val"], torch.Tensor))


def _replace(program: ExportedProgram, node: Node, found: Graph) -> None:
    known = dict(zip(found.find_nodes(op="placeholder"), node.all_input_nodes, strict=True))
    with program.graph.inserting_before(node):
        for each in found.nodes:
            if each.op == "call_function":
                known[each] = program.graph.node_copy(each, known.__getitem__)
                known[each].meta = {key: node.meta[key] for key in _ORIGIN if key in node.meta} | {"val": each.meta["val"]}
    result: Any = map_arg(found.output_node().args[0], known.__getitem__)
    node.replace_all_uses_with(result)
    program.graph_signature.replace_all_uses(node.name, result.name)
    program.graph.erase_node(node)
