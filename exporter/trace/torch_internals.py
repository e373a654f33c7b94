"""Internals of torch that a trace needs, and the differences between its versions.

Only fast_trace.py, whose shortcuts a trace could do without, also imports private modules of torch. Tested with torch 2.11 to
2.15 (make test-torch).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

import torch
from torch._export.non_strict_utils import _NonStrictTorchFunctionHandler
from torch._ops import OpOverload
from torch.export import ExportedProgram
from torch.fx import Interpreter, Node
from torch.onnx._internal.fx.passes.type_promotion import _TypePromotionInterpreter, get_type_promotion_rule

__all__ = [
    "FULL_DECOMPOSITION",
    "Decomposition",
    "can_decompose",
    "identify_axes",
    "is_operator",
    "replaced_internals",
    "returns_alias",
    "writes",
]

Decomposition = Callable[[ExportedProgram, dict[Any, Callable[..., Any]]], ExportedProgram]

FULL_DECOMPOSITION: Decomposition = ExportedProgram.run_decompositions
_override: Callable[..., Any] = _NonStrictTorchFunctionHandler._override
# From this version on, torch.export reads a tensor among the bounds of a slice as a size, and knows the length of a slice up to
# a size that may be larger. Before, it asks for the value of the tensor, and gives the slice an unknown length.
_HELPED_BEFORE = (2, 13)


def is_operator(target: object) -> bool:
    """Return whether a node's target is an operator: not a function of Python or a subgraph."""
    return isinstance(target, OpOverload)


def writes(target: object) -> bool:
    """Return whether an operator writes to an argument."""
    return isinstance(target, OpOverload) and bool(target._schema.is_mutable)


def returns_alias(target: object) -> bool:
    """Return whether the result of an operator may share the memory of an argument, by its schema."""
    return isinstance(target, OpOverload) and any(value.alias_info is not None for value in target._schema.returns)


def can_decompose(target: object) -> bool:
    """Return whether an operator is a composite of others."""
    return isinstance(target, OpOverload) and bool(target._can_decompose())


@contextmanager
def replaced_internals(decomposition: Decomposition) -> Iterator[None]:
    """Trace with another `ExportedProgram.run_decompositions`, and with the same rules in every version of torch.

    torch.onnx calls this method and does not accept a program that was decomposed before, so that the method is replaced.
    To make type promotions explicit, torch.onnx runs the program on fake tensors once more, although each node has its value
    from the trace: 20 % of the time of an export. Here only the nodes that are promoted run.

    Args:
        decomposition: takes the place of `ExportedProgram.run_decompositions`.
    """
    with ExitStack() as replaced:
        replaced.enter_context(patch.object(ExportedProgram, "run_decompositions", decomposition))
        replaced.enter_context(patch.object(_TypePromotionInterpreter, "run_node", _promoted))
        if _is_helped():
            replaced.enter_context(patch.object(_NonStrictTorchFunctionHandler, "_override", _with_bounds))
        yield


def identify_axes(shapes: Sequence[Sequence[str]], values: Sequence[torch.Tensor]) -> None:
    """Tell torch.export, within a trace, that axes of one name have one size before the model slices one up to another.

    Later versions than torch 2.12 need no such help, and learn it from the model.

    Args:
        shapes: the names of the axes of each value.
        values: the inputs of the traced function.

    Raises:
        ValueError: two axes of one name have different sizes.
    """
    known: dict[str, Any] = {}
    for shape, value in zip(shapes, values, strict=True) if _is_helped() else ():
        for axis, size in zip(shape, value.shape, strict=True):
            if known.setdefault(axis, size) != size:
                raise ValueError(f"the axis {axis} has the sizes {known[axis]} and {size}")


def _is_helped() -> bool:
    return tuple(int(part) for part in torch.__version__.split(".")[:2]) < _HELPED_BEFORE


def _promoted(interpreter: Any, node: Node) -> Any:
    """Insert the type promotions of a node, and return its value.

    A promotion changes neither the type nor the shape of the result, so that the value of the trace stays right.
    """
    with interpreter._set_current_node(node):
        if rule := get_type_promotion_rule(node, interpreter.type_promotion_table):
            interpreter._maybe_promote_node(node, rule)
    if node.op == "call_function" and "val" in node.meta:
        return node.meta["val"]
    return Interpreter.run_node(interpreter, node)


def _with_bounds(handler: Any, func: Any, args: Any, kwargs: Any) -> Any:
    """Read the tensors among the bounds of slices as sizes, and choose the function as torch does."""
    if func is torch.Tensor.__getitem__:
        items = args[1] if isinstance(args[1], tuple) else (args[1],)
        if any(isinstance(item, slice) for item in items):
            args = (args[0], tuple(_bounded(item) for item in items))
    return _override(handler, func, args, kwargs)


def _bounded(item: Any) -> Any:
    if not isinstance(item, slice):
        return item
    return slice(*(bound.item() if isinstance(bound, torch.Tensor) else bound for bound in (item.start, item.stop, item.step)))
