"""Replaces writes to a part of a tensor, such as x[:, 1:] = y, with operators that return a new tensor."""

from __future__ import annotations

import operator
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch.export import ExportedProgram
from torch.fx import Node

from exporter.trace.torch_internals import can_decompose, is_operator, returns_alias

__all__ = ["NEW_TENSORS", "may_alias", "replace_writes"]

_ATEN: Any = torch.ops.aten
# Operator that returns a part of a tensor -> operator that returns the tensor with another part.
_SCATTER = {_ATEN.slice.Tensor: _ATEN.slice_scatter.default, _ATEN.select.int: _ATEN.select_scatter.default}
# Operators that create a tensor.
NEW_TENSORS = frozenset(
    {
        *(_ATEN.clone.default, _ATEN.new_zeros.default, _ATEN.zeros_like.default, _ATEN.zeros.default),
        *(_ATEN.full.default, _ATEN.triu.default),
        *(_ATEN.arange.default, _ATEN.arange.start, _ATEN.arange.start_step, *_SCATTER.values()),
    }
)


def replace_writes(program: ExportedProgram) -> None:
    """Replace copies and numbers that are written to parts of a new tensor, and `set_`, which gives a tensor another value."""
    for node in [node for node in program.graph.nodes if node.op == "call_function"]:
        if node.target is _ATEN.set_.source_Tensor:
            _replace_later(program, node.args[0], node.args[1], node)
        elif node.target in (_ATEN.copy_.default, _ATEN.fill_.Tensor, _ATEN.fill_.Scalar):  # a Scalar since torch 2.15
            _scatter(program, node)


def _scatter(program: ExportedProgram, write: Node) -> None:
    views: list[Any] = [write.args[0]]
    while views[-1].target in _SCATTER:
        views.append(views[-1].args[0])
    tensor, part = views[-1], write.args[1]
    if len(views) == 1 or tensor.target not in NEW_TENSORS or not _is_only_alias(tensor, views, write):
        return
    expected = views[0].meta["val"]
    if isinstance(part, Node) and not _fits(part.meta["val"], expected):
        return
    with program.graph.inserting_before(write):
        if not isinstance(part, Node):
            part = program.graph.call_function(_ATEN.full.default, (_sizes(program, views[0]), part), {"dtype": expected.dtype})
        elif part.meta["val"].dim() == 0:
            part = program.graph.call_function(_ATEN.expand.default, (part, _sizes(program, views[0])))
        part.meta.setdefault("val", expected)
        for view in views[:-1]:
            part = program.graph.call_function(_SCATTER[view.target], (view.args[0], part, *view.args[1:]))
            part.meta["val"] = view.args[0].meta["val"]
    _replace_later(program, tensor, part, write)
    for view in views[:-1]:
        if not view.users:
            program.graph.erase_node(view)


def _ones(tensor: torch.Tensor) -> list[int]:
    return [axis for axis, size in enumerate(tensor.shape) if isinstance(size, int) and size == 1]


def _fits(given: Any, expected: torch.Tensor) -> bool:
    """Only numbers are expanded. Lengths of 1 in an axis of another length would be expanded too."""
    if not isinstance(given, torch.Tensor):  # a length, as in x[:, 0].fill_(x.shape[0])
        return False
    equal = given.dim() == expected.dim() and _ones(given) == _ones(expected)
    return given.dtype == expected.dtype and (given.dim() == 0 or equal)


def _sizes(program: ExportedProgram, tensor: Node) -> list[int | Node]:
    sizes = enumerate(tensor.meta["val"].shape)
    return [size if isinstance(size, int) else _size(program, tensor, axis) for axis, size in sizes]


def _size(program: ExportedProgram, tensor: Node, axis: int) -> Node:
    size: Node = program.graph.call_function(_ATEN.sym_size.int, (tensor, axis))
    size.meta["val"] = tensor.meta["val"].shape[axis]
    return size


def _is_only_alias(tensor: Node, views: list[Any], write: Node) -> bool:
    """Whether nothing that was taken from a tensor before a write reads its memory after the write."""
    before = [alias for alias in _aliases(tensor) if alias < write]
    return all(not write < user for alias in before for user in alias.users if user not in views)


def _aliases(tensor: Node) -> Iterator[Node]:
    """The results of operators that may return a view of a tensor, and of views of them."""
    for user in tensor.users:
        if may_alias(user):
            yield user
            yield from _aliases(user)


def may_alias(node: Node) -> bool:
    """Return whether a result may share the memory of an argument: a view, or what a composite operator returns."""
    if not is_operator(node.target) or node.target in NEW_TENSORS:
        return node.op != "output" and node.target not in NEW_TENSORS
    return returns_alias(node.target) or can_decompose(node.target)


def _replace_later(program: ExportedProgram, old: Any, new: Any, write: Node) -> None:
    """Replace the uses of a tensor after a write to it, and the result of the write, and remove the write."""
    old.replace_all_uses_with(new, delete_user_cb=partial(operator.lt, write))
    program.graph_signature.replace_all_uses(old.name, new.name)
    write.replace_all_uses_with(new)
    program.graph.erase_node(write)
