"""Decomposition and type promotion of exported programs for torch.onnx without further traces.

`torch.onnx.export` decomposes operators without a translation with `ExportedProgram.run_decompositions`, which traces the whole
program again: 40 % of the time of an export. Most programs only need it for an in-place addition, shape assertions and
operators without effect in evaluation mode. These are rewritten here, and what is left is decomposed node by node. Programs
that still write to a tensor, that have subgraphs, or with an operator that cannot be decomposed by itself, are traced again.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

import torch
from torch.export import ExportedProgram
from torch.fx import Node

from exporter.trace.decompose_node import DecompositionTable, decompose_node
from exporter.trace.scatter_writes import NEW_TENSORS, may_alias, replace_writes
from exporter.trace.torch_internals import FULL_DECOMPOSITION, can_decompose, is_operator, replaced_internals, writes

__all__ = ["light_decompositions"]

_ATEN: Any = torch.ops.aten
_ASSERTIONS = frozenset(
    {_ATEN._assert_scalar.default, _ATEN._assert_tensor_metadata.default, _ATEN.sym_constrain_range_for_size.default}
)
_DETACH = frozenset({_ATEN.detach.default, _ATEN.detach_.default})
_CONVERSIONS = frozenset({_ATEN.to.dtype, _ATEN.to.dtype_layout, _ATEN.to.device, _ATEN.type_as.default})
# In-place operator -> operator that returns the same values as a new tensor.
_IN_PLACE = {
    _ATEN.add_.Tensor: _ATEN.add.Tensor,
    _ATEN.sub_.Tensor: _ATEN.sub.Tensor,
    _ATEN.mul_.Tensor: _ATEN.mul.Tensor,
    _ATEN.div_.Tensor: _ATEN.div.Tensor,
    _ATEN.masked_fill_.Scalar: _ATEN.masked_fill.Scalar,
}
# Operators that always return a new tensor. Schemas do not state this: dropout and type_as can return their argument.
_FRESH = frozenset(
    {
        *_IN_PLACE.values(),
        *(_ATEN.embedding.default, _ATEN.linear.default, _ATEN.matmul.default),
        *NEW_TENSORS,
    }
)
# Operators that return a view of their argument.
_VIEWS = frozenset({_ATEN.squeeze.dim, _ATEN.unsqueeze.default, _ATEN.transpose.int, _ATEN.view.default})
# Composite operators that torch.onnx translates; all other composite operators are decomposed.
_COMPOSITE = frozenset(
    {
        *(_ATEN.linear.default, _ATEN.matmul.default, _ATEN.einsum.default, _ATEN.conv2d.default),
        *(_ATEN.layer_norm.default, _ATEN.scaled_dot_product_attention.default, _ATEN.softmax.int),
        *(_ATEN.reshape.default, _ATEN.flatten.using_ints, _ATEN.contiguous.default, _ATEN.chunk.default),
        *(_ATEN.where.ScalarOther, _ATEN.where.ScalarSelf, _ATEN.sym_size.int),
    }
)
# Functions of symbolic shapes: torch.onnx translates them; those of assertions are removed with the assertions.
_OF_SHAPES: frozenset[Any] = frozenset(
    {
        *(operator.add, operator.sub, operator.mul, operator.neg, operator.floordiv, operator.mod, operator.getitem),
        *(operator.eq, operator.ne, operator.le, operator.lt, operator.ge, operator.gt, operator.and_, operator.or_),
        *(torch.sym_min, torch.sym_max, torch.sym_not),
    }
)
_DECOMPOSE = FULL_DECOMPOSITION


def light_decompositions() -> AbstractContextManager[None]:
    """Let `ExportedProgram.run_decompositions` trace a program again only if rewriting is not sufficient."""
    return replaced_internals(_decompositions)


def _decompositions(program: ExportedProgram, table: dict[Any, Callable[..., Any]]) -> ExportedProgram:
    """Return a program equivalent to `program.run_decompositions(table)`, which is changed in place."""
    if any(map(_is_foreign, program.graph.nodes)):
        return _DECOMPOSE(program, table)
    _remove_identities(program)
    _insert_numbers(program)
    _convert_subtrahends(program)
    replace_writes(program)
    _replace_in_place(program)
    # As long as a node writes in place, a tensor and its copy must be kept apart, and no operator may be decomposed by itself.
    if not any(writes(node.target) for node in _calls(program)):
        _remove_copies(program)
        if isinstance(table, DecompositionTable):
            _decompose_nodes(program, table)
    program.graph_module.recompile()
    if all(_is_translated(node, table) for node in _calls(program)):
        return program
    return _DECOMPOSE(program, table)


def _decompose_nodes(program: ExportedProgram, table: DecompositionTable) -> None:
    """Decompose nodes up to the first one for which the program must be traced again."""
    for node in _calls(program):
        if not _is_translated(node, table) and not decompose_node(program, node, table):
            return


def _is_foreign(node: Node) -> bool:
    """Whether a node is not an operator, but for example a subgraph or the start of a vmap."""
    if node.op == "call_function":
        return node.target not in _OF_SHAPES and not is_operator(node.target)
    return node.op not in ("placeholder", "output")


def _is_translated(node: Node, table: Mapping[Any, Any]) -> bool:
    composite = can_decompose(node.target) and node.target not in _COMPOSITE
    return not composite and node.target not in table and not writes(node.target)


def _remove_identities(program: ExportedProgram) -> None:
    """Remove assertions and operators that return their argument: detach, and dropout in evaluation mode."""
    for node in _calls(program):
        if node.target in _ASSERTIONS:
            program.graph.erase_node(node)
        elif node.target in _DETACH or (node.target is _ATEN.dropout.default and node.args[2] is False):
            _replace(program, node, node.args[0])
    program.graph.eliminate_dead_code()  # the inputs of the assertions


def _insert_numbers(program: ExportedProgram) -> None:
    """Replace arithmetic on lengths with its result where it is the same number for all lengths, as n // n."""
    for node in _calls(program):
        value = node.meta.get("val")
        if node.target in _OF_SHAPES and isinstance(value, torch.SymInt) and value.node.expr.is_Integer:
            node.replace_all_uses_with(int(value.node.expr))  # type: ignore[arg-type]  # an argument may be a number
    program.graph.eliminate_dead_code()


def _convert_subtrahends(program: ExportedProgram) -> None:
    """Convert x in 1.0 - x to the type of the result: torch.onnx cannot do so for a number on the left (XLNet)."""
    for node in _calls(program):
        if node.target is _ATEN.rsub.Scalar and isinstance(node.args[0], Node) and _type(node) != _type(node.args[0]):
            with program.graph.inserting_before(node):
                converted = program.graph.call_function(_ATEN._to_copy.default, (node.args[0],), {"dtype": _type(node)})
            converted.meta["val"] = node.args[0].meta["val"].to(_type(node))
            node.args = (converted, *node.args[1:])


def _replace_in_place(program: ExportedProgram) -> None:
    """Replace x.add_(y) with x + y and redirect later uses of x, if x is a new tensor of which no view was taken before.

    x may be the only view of such a tensor.
    """
    for node in _calls(program):
        operator_, written = _IN_PLACE.get(node.target), node.args[0] if node.args else None
        if operator_ is None or not isinstance(written, Node) or not _is_fresh(written):
            continue
        before = [user for user in written.users if user < node]
        if not any(map(may_alias, before)) and _type(written) == _type(node):
            node.target = operator_
            written.replace_all_uses_with(node, delete_user_cb=partial(operator.lt, node))
            program.graph_signature.replace_all_uses(written.name, node.name)


def _is_fresh(node: Node) -> bool:
    """Whether nothing else reads the memory of a node's result."""
    if node.target in _VIEWS:
        viewed = node.args[0]
        return isinstance(viewed, Node) and len(viewed.users) == 1 and _is_fresh(viewed)
    return node.target in _FRESH


def _remove_copies(program: ExportedProgram) -> None:
    """Remove conversions to the same type, and replace other conversions with an operator of torch.onnx."""
    for node in _calls(program):
        kind = _type(node)
        if node.target is _ATEN.lift_fresh_copy.default or (node.target in _CONVERSIONS and kind == _type(node.args[0])):
            _replace(program, node, node.args[0])
        elif node.target in _CONVERSIONS:
            node.target, node.args, node.kwargs = _ATEN._to_copy.default, (node.args[0],), {"dtype": kind}
        elif node.target is _ATEN.rsub.Scalar and len(node.args) == 2 and kind == _type(node.args[0]):
            node.target, node.args = _ATEN.sub.Tensor, (node.args[1], node.args[0])


def _calls(program: ExportedProgram) -> list[Node]:
    return [node for node in program.graph.nodes if node.op == "call_function"]


def _replace(program: ExportedProgram, node: Node, value: Any) -> None:
    node.replace_all_uses_with(value)
    program.graph_signature.replace_all_uses(node.name, value.name)
    program.graph.erase_node(node)


def _type(node: Any) -> torch.dtype | None:
    value = node.meta.get("val")
    return value.dtype if isinstance(value, torch.Tensor) else None
