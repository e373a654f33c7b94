"""Contenders in PyTorch: task by task, and the Parallel block of the adapters library; their loops run on any device."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from adapters.composition import Parallel

from benchmarks.contender import Bind, Call, Contender, Feeds, MissingError, Outputs, Prepared, missing
from benchmarks.device import Device, to_host
from benchmarks.models import Candidate, twin

# Reasons for which baselines are missing.
NO_PEFT = "PEFT has no seq_bn adapters, of which this model consists"
ALL_DROPPED = "Parallel repeats the texts at its first adapter, and all layers are dropped: the heads would share out the texts"
NOT_COMPILED = "torch.compile was omitted (--no-compile or --quick)"


def task_by_task(model: Any, tasks: Sequence[str], drop: int, device: Device) -> Bind:
    """Return a loop over `set_active_adapters`; in fp32 it is the reference of all checks.

    Args:
        model: adapters model on the device; its active setup changes with every task.
        tasks: names of the tasks.
        drop: number of lowest layers without adapters.
        device: the device.
    """
    skipped = list(range(drop))

    def bind(feeds: Feeds) -> Call:
        inputs = device.tensors(feeds)

        def call() -> Outputs:
            outputs = []
            with torch.inference_mode():
                for task in tasks:
                    model.set_active_adapters(task, skip_layers=skipped)
                    model.active_head = task
                    outputs.append(model(**inputs).logits)
                return to_host(outputs)

        return call

    return bind


def with_parallel(model: Any, tasks: Sequence[str], drop: int) -> Any:
    """Activate the Parallel block of all tasks above the lowest `drop` layers, and return the model.

    Raises:
        MissingError: there is no layer above them.
    """
    if drop >= model.config.num_hidden_layers:
        raise MissingError(ALL_DROPPED)
    model.set_active_adapters(Parallel(*tasks), skip_layers=list(range(drop)))
    return model


def bind_parallel(
    forward: Callable[..., Any], device: Device, mode: Callable[[], AbstractContextManager[Any]] = torch.inference_mode
) -> Bind:
    """Return the calls of a model with an active Parallel block.

    Args:
        forward: the model, or what torch.compile made of it.
        device: its device.
        mode: context of each call.
    """

    def bind(feeds: Feeds) -> Call:
        inputs = device.tensors(feeds)

        def call() -> Outputs:
            with mode():
                # .logits would stack the tasks and fail for different label counts.
                return to_host([output.logits for output in forward(**inputs).head_outputs])

        return call

    return bind


def compile_each_shape() -> None:
    """Let torch.compile make as many graphs as there are shapes and layers.

    The limits count graphs per function, and layers share functions: at the default of 8, torch.compile would silently fall
    back to eager.
    """
    torch._dynamo.config.recompile_limit = 512
    torch._dynamo.config.accumulated_recompile_limit = 4096


def _copied(model: Any, dtype: torch.dtype) -> Any:
    return twin(model) if dtype == torch.float32 else copy.deepcopy(model).to(dtype).eval()


def _compiled(model: Any) -> Any:
    compile_each_shape()
    return torch.compile(model, dynamic=False)


def torch_contenders(candidate: Candidate, device: Device, with_compile: bool) -> list[Contender]:
    """Return all contenders in PyTorch on the CPU, the references first.

    Args:
        candidate: model to measure.
        device: the CPU.
        with_compile: include torch.compile.
    """
    model, tasks, drop = candidate.model, candidate.tasks, candidate.plan.drop

    def parallel(drop: int, dtype: torch.dtype, compiled: bool = False) -> Callable[[], Prepared]:
        def prepare() -> Prepared:
            own = with_parallel(_copied(model, dtype), tasks, drop)
            return Prepared(bind_parallel(_compiled(own) if compiled else own, device))

        return prepare

    contenders = [
        Contender(
            "eager",
            "PyTorch, task by task",
            "eager",
            "fp32",
            drop,
            lambda: Prepared(task_by_task(twin(model), tasks, drop, device)),
        ),
        Contender("parallel", "PyTorch Parallel", "eager", "fp32", drop, parallel(drop, torch.float32)),
        Contender("parallel-bf16", "PyTorch Parallel, bf16", "eager", "bf16", drop, parallel(drop, torch.bfloat16)),
    ]
    if drop > 0:
        contenders.append(
            Contender("parallel-drop0", "PyTorch Parallel, no drop", "eager", "fp32", 0, parallel(0, torch.float32))
        )

    def compiled(dtype: torch.dtype) -> Callable[[], Prepared]:
        return parallel(drop, dtype, True) if with_compile else missing(NOT_COMPILED)

    return [
        *contenders,
        Contender("peft-mixed", "PEFT, mixed batch", "eager", "fp32", drop, missing(NO_PEFT)),
        Contender("compile", "torch.compile Parallel", "compile", "fp32", drop, compiled(torch.float32)),
        Contender("compile-bf16", "torch.compile Parallel, bf16", "compile", "bf16", drop, compiled(torch.bfloat16)),
    ]
