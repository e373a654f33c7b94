"""Compares an exported graph with single-task eager PyTorch of the pruned model, at shapes that the trace never saw."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch

from runtime.bundle import ParityRow

from .errors import VerificationError
from .plan import Plan, Task
from .prune import activate

# (batch, sequence). The trace saw 2 x 7.
SHAPES = ((1, 1), (1, 16), (3, 11), (5, 4))
# The graph computes all tasks at once: beyond so many tokens times tasks, checking would take longer than exporting.
_LONGEST = 2048
_SEED = 20101


def make_inputs(model: Any, plan: Plan, batch: int, sequence: int, seed: int = _SEED) -> dict[str, np.ndarray]:
    """Random int64 inputs of shape (batch, sequence). Row 0 is unpadded, odd rows are padded right and even rows left."""
    generator = np.random.default_rng((seed, batch, sequence))
    shape = (batch, sequence)
    mask = np.ones(shape, dtype=np.int64)
    for row in range(1, batch):
        padding = int(generator.integers(0, sequence))
        mask[row] = np.arange(sequence) < sequence - padding if row % 2 else np.arange(sequence) >= padding
    values = {"input_ids": generator.integers(0, model.config.vocab_size, shape), "attention_mask": mask}
    if "token_type_ids" in plan.inputs:
        values["token_type_ids"] = generator.integers(0, model.config.type_vocab_size, shape)
    return {name: values[name].astype(np.int64) for name in plan.inputs}


def eager(model: Any, task: str, inputs: dict[str, np.ndarray]) -> np.ndarray:
    """The logits of single-task PyTorch."""
    activate(model, task)
    with torch.inference_mode():
        logits: torch.Tensor = model(**{name: torch.from_numpy(value) for name, value in inputs.items()}).logits
    return logits.numpy()


def verify(model: Any, plan: Plan, graph: Path, outputs: dict[str, str]) -> tuple[ParityRow, ...]:
    """One row per task and shape.

    `model` is the pruned model; `outputs` maps task to graph output. Every task is compared at SHAPES; the first task of each
    structure also at the model's greatest length (with many tasks, at a shorter one).

    Raises:
        VerificationError: names each task and shape out of tolerance.
    """
    try:
        session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's exceptions have no base of their own
        raise VerificationError(f"ONNX Runtime cannot load the exported graph; nothing was written: {error}") from error
    shapes = [shape for shape in SHAPES if shape[1] <= plan.max_length]
    rows = [row for shape in shapes for row in _compare(session, model, plan, plan.tasks, outputs, shape)]
    first = [group[0] for group in plan.groups]
    longest = max(1, min(plan.max_length, _LONGEST // len(plan.tasks)))
    rows += _compare(session, model, plan, first, outputs, (1, longest))
    failed = [row for row in rows if not row.max_abs_diff <= row.tolerance]
    if failed:
        lines = [
            f"  {row.task} at {row.batch}x{row.sequence}: max |onnx - torch| {row.max_abs_diff:.2e}, over {row.tolerance:.2e}"
            for row in failed
        ]
        raise VerificationError("the exported graph differs from PyTorch; nothing was written:\n" + "\n".join(lines))
    return tuple(rows)


def _compare(
    session: Any, model: Any, plan: Plan, tasks: Any, outputs: dict[str, str], shape: tuple[int, int]
) -> list[ParityRow]:
    inputs = make_inputs(model, plan, *shape)
    try:
        answers = session.run([outputs[task.name] for task in tasks], inputs)
    except Exception as error:
        raise VerificationError(f"the exported graph fails at {shape[0]}x{shape[1]}; nothing was written: {error}") from error
    return [
        _row(task, eager(model, task.name, inputs), answer, shape, plan.atol)
        for task, answer in zip(tasks, answers, strict=True)
    ]


def _row(task: Task, expected: np.ndarray, found: np.ndarray, shape: tuple[int, int], atol: float) -> ParityRow:
    scale = max(1.0, float(np.abs(expected).max()))
    if found.shape != expected.shape or found.dtype != expected.dtype:
        raise VerificationError(
            f"the exported graph differs from PyTorch; nothing was written:\n  {task.name} at {shape[0]}x{shape[1]}: expected "
            f"{expected.dtype}{list(expected.shape)}, found {found.dtype}{list(found.shape)}"
        )
    difference = float(np.abs(found - expected).max())
    return ParityRow(
        task=task.name,
        batch=shape[0],
        sequence=shape[1],
        max_abs_diff=difference,
        max_rel_diff=difference / scale,
        argmax_agreement=float(np.mean(found.argmax(-1) == expected.argmax(-1))),
        tolerance=atol * scale,
    )
