"""Shares traces between tests: equal structures are traced once per process, which is most of the time of a tiny export.

The key holds whatever a trace depends on: the whole module tree with every Python value in it, patched methods, the shapes of
the parameters, the bytes of all other tensors, the task and the inputs. A graph names its parameters, so that those of another
model with the same key take their places. Each export is still verified against PyTorch.
"""

from __future__ import annotations

import hashlib
import io
import pickle
import types
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import onnx_ir as ir
import torch
from onnx_ir.tensor_adapters import TorchTensor

from exporter.plan import Plan
from exporter.prune.task_groups import TaskGroup

Trace = Callable[[TaskGroup, Plan], ir.Model]


class SharedTraces:
    """`exporter.trace.trace.trace` with a memory.

    Attributes:
        original: the function without one.
    """

    def __init__(self, trace: Trace) -> None:
        self.original = trace
        self._graphs: dict[str, ir.Model] = {}

    def __call__(self, task_group: TaskGroup, plan: Plan) -> ir.Model:
        """Trace the group's first task, or copy the graph of an equal structure."""
        task = task_group.tasks[0]
        model = task_group.activate(task)
        key = _digest((model, task, plan.inputs, plan.max_lengths, plan.opset))
        if key is None:
            return self.original(task_group, plan)
        if key not in self._graphs:
            self._graphs[key] = self.original(task_group, plan)
        return _bound(self._graphs[key].clone(), model)


def _bound(graph: ir.Model, model: Any) -> ir.Model:
    """The graph with the weights of the model."""
    state = model.state_dict(keep_vars=True)
    for name, value in graph.graph.initializers.items():
        if isinstance(state.get(name), torch.nn.Parameter):
            value.const_value = TorchTensor(state[name].detach(), name)
    return graph


def _digest(content: object) -> str | None:
    """A digest of all that is reachable from `content`; None where something cannot be described."""
    stream = io.BytesIO()
    try:
        _Description(stream).dump(content)
    except (pickle.PicklingError, TypeError, AttributeError):
        return None
    return hashlib.sha256(stream.getvalue()).hexdigest()


class _Description(pickle.Pickler):
    """Writes parameters as shapes, other tensors as bytes, and functions (patches, for instance) with their closures."""

    def persistent_id(self, value: object) -> object:
        if not isinstance(value, torch.Tensor):
            return None
        known = (type(value).__name__, tuple(value.shape), str(value.dtype))
        return known if isinstance(value, torch.nn.Parameter) else (*known, value.detach().contiguous().numpy().tobytes())

    def reducer_override(self, value: object) -> Any:
        if isinstance(value, types.FunctionType):
            cells = [cell.cell_contents for cell in value.__closure__ or ()]
            return object, (), (value.__module__, value.__qualname__, value.__defaults__, cells)
        if isinstance(value, types.MethodType):
            return object, (), (value.__func__, value.__self__)
        if isinstance(value, type) and value is not object:  # adapters makes classes at run time, which have no importable name
            return object, (), [f"{base.__module__}.{base.__qualname__}" for base in value.__mro__]
        if isinstance(value, OrderedDict) and all(isinstance(key, int) for key in value):
            return object, (), list(value.values())  # hooks, numbered by when they were added to whatever module
        return NotImplemented
