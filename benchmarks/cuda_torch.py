"""Variants in PyTorch on a GPU: task by task, the Parallel block of the adapters library, and torch.compile of it."""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Sequence
from typing import Any

import torch
from adapters.composition import Parallel

from benchmarks.device import Device, to_host
from benchmarks.models import Candidate
from benchmarks.options import Shape
from benchmarks.variant import Bind, Call, Feeds, MissingError, Outputs, Precision, Prepared, Variant

_TYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


def on_device(model: Any, device: Device, precision: str) -> Any:
    """Return a copy of a model on the device, in a precision; nothing is shared, so that its memory can be measured."""
    return copy.deepcopy(model).to(device.name, _TYPES[precision]).eval()


def eager(model: Any, tasks: Sequence[str], drop: int, device: Device) -> Bind:
    """Return a loop over `set_active_adapters`; in fp32 it is the reference of all checks.

    Args:
        model: adapters model on the device.
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


def _parallel(candidate: Candidate, drop: int, device: Device, precision: Precision) -> Any:
    own = on_device(candidate.model, device, precision)
    own.set_active_adapters(Parallel(*candidate.tasks), skip_layers=list(range(drop)))
    return own


def _bind_parallel(forward: Callable[..., Any], device: Device) -> Bind:
    def bind(feeds: Feeds) -> Call:
        inputs = device.tensors(feeds)

        def call() -> Outputs:
            with torch.inference_mode():
                # .logits would stack the tasks and fail for different label counts.
                return to_host([output.logits for output in forward(**inputs).head_outputs])

        return call

    return bind


def _bind_compiled(model: Any, device: Device, shapes: Collection[Shape]) -> Bind:
    """Return the calls of a model compiled with CUDA graphs; every shape is compiled separately."""
    # The limit counts graphs per function, and layers share functions: at the default of 8, torch.compile would silently fall
    # back to eager.
    torch._dynamo.config.recompile_limit = 512
    torch._dynamo.config.accumulated_recompile_limit = 4096
    forward: Callable[..., Any] = torch.compile(model, mode="reduce-overhead", dynamic=False)

    def bind(feeds: Feeds) -> Call:
        inputs = device.tensors(feeds)
        shape = Shape(*feeds["input_ids"].shape)
        if shape not in shapes:
            raise MissingError(f"compiled only at {', '.join(map(str, shapes))} (--compile-shapes)")

        def call() -> Outputs:
            # Allows the graphs to overwrite the outputs of the previous call; to_host() has copied them.
            torch.compiler.cudagraph_mark_step_begin()
            with torch.no_grad():
                return to_host([output.logits for output in forward(**inputs).head_outputs])

        return call

    return bind


def cuda_torch_variants(
    candidate: Candidate, device: Device, with_compile: bool, compile_shapes: Collection[Shape]
) -> list[Variant]:
    """Return all variants in PyTorch, the references first.

    Args:
        candidate: model to measure.
        device: the device.
        with_compile: include torch.compile.
        compile_shapes: the shapes at which torch.compile is measured.
    """
    tasks, drop = candidate.tasks, candidate.plan.drop

    def task_by_task(precision: Precision) -> Callable[[], Prepared]:
        return lambda: Prepared(eager(on_device(candidate.model, device, precision), tasks, drop, device))

    def parallel(precision: Precision, drop: int) -> Callable[[], Prepared]:
        return lambda: Prepared(_bind_parallel(_parallel(candidate, drop, device, precision), device))

    def compiled() -> Prepared:
        if not with_compile:
            raise MissingError("torch.compile was omitted (--no-compile or --quick)")
        return Prepared(_bind_compiled(_parallel(candidate, drop, device, "fp16"), device, compile_shapes))

    def peft() -> Prepared:
        raise MissingError("PEFT has no seq_bn adapters, of which this model consists")

    variants = [
        Variant("eager", "PyTorch, task by task", "eager", "fp32", drop, task_by_task("fp32")),
        Variant("eager-fp16", "PyTorch, task by task, fp16", "eager", "fp16", drop, task_by_task("fp16")),
        Variant("parallel", "PyTorch Parallel", "eager", "fp32", drop, parallel("fp32", drop)),
        Variant("parallel-fp16", "PyTorch Parallel, fp16", "eager", "fp16", drop, parallel("fp16", drop)),
        Variant("parallel-bf16", "PyTorch Parallel, bf16", "eager", "bf16", drop, parallel("bf16", drop)),
    ]
    if drop > 0:
        variants.append(
            Variant("parallel-fp16-drop0", "PyTorch Parallel, fp16, no drop", "eager", "fp16", 0, parallel("fp16", 0))
        )
    return [
        *variants,
        Variant("peft-mixed", "PEFT, mixed batch", "eager", "fp16", drop, peft),
        Variant("compile-fp16", "torch.compile Parallel, fp16", "compile", "fp16", drop, compiled, True),
    ]
