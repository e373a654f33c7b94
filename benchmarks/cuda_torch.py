"""Contenders in PyTorch on a GPU: task by task, the Parallel block of the adapters library, and torch.compile of it."""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection
from contextlib import AbstractContextManager
from typing import Any

import torch

from benchmarks.contender import Bind, Call, Contender, Feeds, MissingError, Precision, Prepared, missing
from benchmarks.device import Device
from benchmarks.models import Candidate
from benchmarks.options import Shape
from benchmarks.torch_contenders import NO_PEFT, NOT_COMPILED, bind_parallel, compile_each_shape, task_by_task, with_parallel

_TYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


def on_device(model: Any, device: Device, precision: str) -> Any:
    """Return a copy of a model on the device, in a precision; nothing is shared, so that its memory can be measured."""
    return copy.deepcopy(model).to(device.name, _TYPES[precision]).eval()


def _parallel(candidate: Candidate, drop: int, device: Device, precision: Precision) -> Any:
    return with_parallel(on_device(candidate.model, device, precision), candidate.tasks, drop)


def _bind_compiled(model: Any, device: Device, shapes: Collection[Shape]) -> Bind:
    """Return the calls of a model compiled with CUDA graphs; every shape is compiled separately."""
    compile_each_shape()
    forward: Callable[..., Any] = torch.compile(model, mode="reduce-overhead", dynamic=False)

    def without_gradients() -> AbstractContextManager[Any]:
        # Allows the graphs to overwrite the outputs of the previous call; to_host() has copied them.
        torch.compiler.cudagraph_mark_step_begin()
        return torch.no_grad()

    bind = bind_parallel(forward, device, without_gradients)

    def bind_shape(feeds: Feeds) -> Call:
        shape = Shape(*feeds["input_ids"].shape)
        if shape not in shapes:
            raise MissingError(f"compiled only at {', '.join(map(str, shapes))} (--compile-shapes)")
        return bind(feeds)

    return bind_shape


def cuda_torch_contenders(
    candidate: Candidate, device: Device, with_compile: bool, compile_shapes: Collection[Shape]
) -> list[Contender]:
    """Return all contenders in PyTorch, the references first.

    Args:
        candidate: model to measure.
        device: the device.
        with_compile: include torch.compile.
        compile_shapes: the shapes at which torch.compile is measured.
    """
    tasks, drop = candidate.tasks, candidate.plan.drop

    def one_by_one(precision: Precision) -> Callable[[], Prepared]:
        return lambda: Prepared(task_by_task(on_device(candidate.model, device, precision), tasks, drop, device))

    def parallel(precision: Precision, drop: int) -> Callable[[], Prepared]:
        return lambda: Prepared(bind_parallel(_parallel(candidate, drop, device, precision), device))

    def compiled() -> Prepared:
        return Prepared(_bind_compiled(_parallel(candidate, drop, device, "fp16"), device, compile_shapes))

    contenders = [
        Contender("eager", "PyTorch, task by task", "eager", "fp32", drop, one_by_one("fp32")),
        Contender("eager-fp16", "PyTorch, task by task, fp16", "eager", "fp16", drop, one_by_one("fp16")),
        Contender("parallel", "PyTorch Parallel", "eager", "fp32", drop, parallel("fp32", drop)),
        Contender("parallel-fp16", "PyTorch Parallel, fp16", "eager", "fp16", drop, parallel("fp16", drop)),
        Contender("parallel-bf16", "PyTorch Parallel, bf16", "eager", "bf16", drop, parallel("bf16", drop)),
    ]
    if drop > 0:
        contenders.append(
            Contender("parallel-fp16-drop0", "PyTorch Parallel, fp16, no drop", "eager", "fp16", 0, parallel("fp16", 0))
        )
    return [
        *contenders,
        Contender("peft-mixed", "PEFT, mixed batch", "eager", "fp16", drop, missing(NO_PEFT)),
        Contender(
            "compile-fp16",
            "torch.compile Parallel, fp16",
            "compile",
            "fp16",
            drop,
            compiled if with_compile else missing(NOT_COMPILED),
            compiles=True,
        ),
    ]
