"""Settings and shortcuts with which torch.export traces faster; the graph stays the same.

`torch.export` runs each operator on fake tensors to learn the shape of its result. Where a length is symbolic, it takes
normalizations and products with a bias apart into ten operators each, and calculates the shape of every one: 15 % of the time
of a trace. Another 10 % are the traceback of every node, which only debuggers read, and the table of decompositions, which is
the same for every trace, as are the 500 translations, whose source torch.onnx reads every time. Three more costs are another
15 %: each of the ten steps after the trace compiles the program to a Python function, which is hardly ever called; each node of
the program records its memory format, which torch.onnx does not read; and each node of the graph reads its operator's schema.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any
from unittest.mock import patch

import onnx
import torch
from onnx_ir.schemas import OpSignature
from torch._prims_common import is_contiguous_or_false
from torch._subclasses.fake_impls import get_fast_op_impls
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.amp import autocast_mode
from torch.fx import GraphModule, config
from torch.fx.experimental import proxy_tensor
from torch.fx.graph import _PyTreeCodeGen
from torch.fx.passes import shape_prop
from torch.onnx._internal.exporter import _decomp
from torch.onnx._internal.exporter._registration import ONNXRegistry
from transformers import masking_utils

from exporter.trace.decompose_node import DecompositionTable

__all__ = ["fast_trace"]

_ATEN: Any = torch.ops.aten
_MAKE_TABLE = _decomp.create_onnx_friendly_decomposition_table
_READ_TRANSLATIONS = ONNXRegistry.from_torchlib
_COMPILE = GraphModule.recompile
_METADATA = shape_prop._extract_tensor_metadata
_READ_SCHEMA = OpSignature.from_op_schema
_SIGNATURES: dict[tuple[str, str, int], OpSignature] = {}
_ENTER: Any = autocast_mode.autocast.__enter__
_EXIT: Any = autocast_mode.autocast.__exit__


@contextmanager
def fast_trace() -> Iterator[None]:
    """Let torch.onnx trace without tracebacks, with shortcuts for shapes, and without contexts that disable autocast."""
    with (
        _without_tracebacks(),
        patch.object(ONNXRegistry, "from_torchlib", classmethod(_translations)),
        patch.object(_decomp, "create_onnx_friendly_decomposition_table", _decomposition_table),
        patch.dict(get_fast_op_impls(), {_ATEN.native_layer_norm.default: _layer_norm, _ATEN.addmm.default: _addmm}),
        patch.object(autocast_mode.autocast, "__enter__", _enter),
        patch.object(autocast_mode.autocast, "__exit__", _exit),
        patch.object(GraphModule, "recompile", _compile_when_called),
        patch.object(proxy_tensor, "_extract_tensor_metadata", _metadata),
        patch.object(OpSignature, "from_op_schema", classmethod(_signature)),
        _masks_by_broadcasting(),
    ):
        yield


def _without_tracebacks() -> AbstractContextManager[Any]:
    # torch 2.11 has no such setting
    name = "do_not_emit_stack_traces"
    return patch.object(config, name, True) if hasattr(config, name) else nullcontext()


def _translations(_kind: type[ONNXRegistry], opset_version: int) -> ONNXRegistry:
    """Return a copy of the translations, to which torch.onnx adds ours."""
    known = _translations_of(opset_version)
    registry = copy.copy(known)
    registry.functions = {target: list(found) for target, found in known.functions.items()}
    return registry


@functools.lru_cache(2)
def _translations_of(opset_version: int) -> ONNXRegistry:
    return _READ_TRANSLATIONS(opset_version)


def _decomposition_table(operators: set[Any]) -> DecompositionTable:
    return _table_of(frozenset(operators))


@functools.lru_cache(2)
def _table_of(operators: frozenset[Any]) -> DecompositionTable:
    return DecompositionTable(_MAKE_TABLE(set(operators)), operators)


def _layer_norm(mode: FakeTensorMode, x: Any, shape: Any, weight: Any, bias: Any, eps: float) -> Any:
    """The result, the mean and the factor of a layer normalization without their values."""
    axes = len(shape)
    equal = tuple(x.shape[-axes:]) == tuple(shape) if all(isinstance(size, int) for size in x.shape[-axes:]) else False
    fits = all(each is None or (each.shape == tuple(shape) and each.dtype == x.dtype) for each in (weight, bias))
    if not (equal and fits and x.dtype == torch.float32 and is_contiguous_or_false(x)):
        with mode:
            return torch._decomp.decomposition_table[_ATEN.native_layer_norm.default](x, shape, weight, bias, eps)
    rows = (*x.shape[:-axes], *(1 for _ in shape))
    return tuple(_empty(mode, x, sizes) for sizes in (x.shape, rows, rows))


def _addmm(mode: FakeTensorMode, bias: Any, left: Any, right: Any, beta: float = 1, alpha: float = 1) -> Any:
    """The result of a product with a bias without its values."""
    (rows, inner), (other, columns) = left.shape, right.shape
    static = all(isinstance(size, int) for size in (inner, other, columns))
    if not (static and inner == other and tuple(bias.shape) == (columns,) and bias.dtype == left.dtype == torch.float32):
        with mode:
            return torch._decomp.decomposition_table[_ATEN.addmm.default](bias, left, right, beta, alpha)
    return _empty(mode, left, (rows, columns))


def _empty(mode: FakeTensorMode, like: Any, shape: Any) -> Any:
    make: Any = FakeTensor
    return make(mode, torch.empty(shape, dtype=like.dtype, device="meta"), device=like.device)


def _compile_when_called(program: GraphModule) -> None:
    codegen = program.graph._codegen
    if isinstance(codegen, _PyTreeCodeGen):
        program._in_spec, program._out_spec = codegen.pytree_info.in_spec, codegen.pytree_info.out_spec
    program._code = ""  # for str() and .code
    setattr(type(program), "forward", _FORWARD)  # noqa: B010  # not a function for mypy; each program has a separate class


class _Deferred:
    """The `forward` of a program that is not compiled yet: whatever reads it, also for its signature, gets the real one."""

    def __get__(self, program: GraphModule | None, kind: type[GraphModule]) -> Any:
        if program is None:
            return self
        _COMPILE(program)
        return program.forward


_FORWARD = _Deferred()


def _metadata(value: torch.Tensor) -> Any:
    return _METADATA(value, include_contiguity=False)


def _signature(_kind: type[OpSignature], schema: onnx.defs.OpSchema) -> OpSignature:
    key = (schema.domain, schema.name, schema.since_version)
    if key not in _SIGNATURES:
        _SIGNATURES[key] = _READ_SCHEMA(schema)
    return _SIGNATURES[key]


def _enter(context: autocast_mode.autocast) -> Any:
    """Ignore a context that disables autocast where it is disabled; in the program it would be a subgraph."""
    return _ENTER(context) if context._enabled else context


def _exit(context: autocast_mode.autocast, *error: Any) -> Any:
    return _EXIT(context, *error) if context._enabled else False


@contextmanager
def _masks_by_broadcasting() -> Iterator[None]:
    """Let transformers 4.57 create masks of decoders as transformers 5 does: with broadcasting instead of torch.vmap.

    A program with a vmap must be traced again.
    """
    with ExitStack() as stack:
        if hasattr(masking_utils, "_vmap_for_bhqkv") and hasattr(masking_utils, "TransformGetItemToIndex"):
            stack.enter_context(patch.object(masking_utils, "_vmap_for_bhqkv", _broadcast))
            stack.enter_context(patch.object(masking_utils, "TransformGetItemToIndex", nullcontext))
        yield


def _broadcast(function: Callable[..., Any], bh_indices: bool = True) -> Callable[..., Any]:
    """The function of single positions as a function of ranges of positions."""

    def mask(batch: Any, head: Any, queries: Any, keys: Any) -> Any:
        rows, columns = queries[:, None], keys[None, :]
        if not bh_indices:
            return function(batch, head, rows, columns).expand(queries.shape[0], keys.shape[0])
        found = function(batch[:, None, None, None], head[None, :, None, None], rows, columns)
        return found.expand(batch.shape[0], head.shape[0], queries.shape[0], keys.shape[0])

    return mask
