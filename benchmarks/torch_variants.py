"""Variants in PyTorch: task by task, and the Parallel block of the adapters library."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import numpy.typing as npt
import torch
from adapters.composition import Parallel

from benchmarks.models import Candidate, twin
from benchmarks.variant import Bind, Call, Feeds, Outputs, Prepared, Variant


def _tensors(feeds: Feeds) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(array) for name, array in feeds.items()}


def _array(logits: torch.Tensor) -> npt.NDArray[Any]:
    found: npt.NDArray[Any] = logits.float().numpy()
    return found


def task_by_task(model: Any, tasks: Sequence[str], drop: int) -> Bind:
    """Return the reference of all checks: one task after another, as a loop over `set_active_adapters`.

    Args:
        model: adapters model.
        tasks: names of the tasks.
        drop: number of lowest layers without adapters.
    """
    own = twin(model)
    skipped = list(range(drop))

    def bind(feeds: Feeds) -> Call:
        inputs = _tensors(feeds)

        def call() -> Outputs:
            outputs = []
            with torch.inference_mode():
                for task in tasks:
                    own.set_active_adapters(task, skip_layers=skipped)
                    own.active_head = task
                    outputs.append(_array(own(**inputs).logits))
            return outputs

        return call

    return bind


def _parallel_model(model: Any, tasks: Sequence[str], drop: int, dtype: torch.dtype) -> Any:
    own = twin(model) if dtype == torch.float32 else copy.deepcopy(model).to(dtype).eval()
    own.set_active_adapters(Parallel(*tasks), skip_layers=list(range(drop)))
    return own


def _bind_parallel(forward: Callable[..., Any]) -> Bind:
    def bind(feeds: Feeds) -> Call:
        inputs = _tensors(feeds)

        def call() -> Outputs:
            with torch.inference_mode():
                # .logits would stack the tasks and fail for different label counts.
                return [_array(output.logits) for output in forward(**inputs).head_outputs]

        return call

    return bind


def _compiled(model: Any) -> Any:
    # Every shape gets a separate graph, the best case for the compiler. The limit counts graphs per function, and layers share
    # functions: at the default of 8, torch.compile would silently fall back to eager.
    torch._dynamo.config.recompile_limit = 512
    torch._dynamo.config.accumulated_recompile_limit = 4096
    return torch.compile(model, dynamic=False)


def torch_variants(candidate: Candidate, with_compile: bool) -> list[Variant]:
    """Return all variants in PyTorch, the references first.

    Args:
        candidate: model to measure.
        with_compile: include torch.compile.
    """
    model, tasks, drop = candidate.model, candidate.tasks, candidate.plan.drop

    def parallel(drop: int, dtype: torch.dtype, compiled: bool = False) -> Callable[[], Prepared]:
        def prepare() -> Prepared:
            own = _parallel_model(model, tasks, drop, dtype)
            return Prepared(_bind_parallel(_compiled(own) if compiled else own))

        return prepare

    variants = [
        Variant("eager", "PyTorch, task by task", "eager", "fp32", drop, lambda: Prepared(task_by_task(model, tasks, drop))),
        Variant("parallel", "PyTorch Parallel", "eager", "fp32", drop, parallel(drop, torch.float32)),
        Variant("parallel-bf16", "PyTorch Parallel, bf16", "eager", "bf16", drop, parallel(drop, torch.bfloat16)),
    ]
    if drop > 0:
        variants.append(Variant("parallel-drop0", "PyTorch Parallel, no drop", "eager", "fp32", 0, parallel(0, torch.float32)))
    if with_compile:
        variants += [
            Variant("compile", "torch.compile Parallel", "compile", "fp32", drop, parallel(drop, torch.float32, True)),
            Variant(
                "compile-bf16", "torch.compile Parallel, bf16", "compile", "bf16", drop, parallel(drop, torch.bfloat16, True)
            ),
        ]
    return variants
