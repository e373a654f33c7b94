"""The probe of a graph: inputs and verified logits, with which the runtime compares other execution providers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from exporter.errors import VerificationError
from exporter.models.inputs import SEQUENCE
from exporter.plan import Plan
from exporter.prune.task_groups import TaskGroup
from exporter.verify.eager import eager
from exporter.verify.parity import NOTHING_WRITTEN, parity_row
from exporter.verify.random_inputs import MASKS, Arrays, Masks, make_inputs
from exporter.verify.shapes import PROBE_SHAPE
from runtime.bundle import Probe
from runtime.bundle.probe import repeated_block, thinned

# (rows, tokens) of texts, as in the verification: a row without padding, one padded on the right and one on the left.
SHAPE = PROBE_SHAPE
# Of images and audio, which have no padding.
_ROWS = 2


def make_probe(
    plan: Plan, graph: Any, task_groups: Sequence[TaskGroup] = (), probed: tuple[Arrays, Arrays] | None = None
) -> Probe:
    """Run a graph on the inputs of the probe, and compare its logits with PyTorch's.

    The inputs have padding, unless the logits are then not finite.

    Args:
        plan: the plan of the graph.
        graph: the ONNX Runtime session of the verified graph.
        task_groups: the pruned models of the tasks to compare; empty for none.
        probed: inputs and outputs of the graph that were compared with PyTorch's; they are used if these are the inputs of the
            probe.

    Raises:
        VerificationError: the graph fails, differs from PyTorch, or has no finite logits.
    """
    for masks in MASKS[1:]:
        feeds = _feeds(plan, masks)
        if probed is not None and _equal(feeds, probed[0]) and all(np.isfinite(output).all() for output in probed[1].values()):
            return Probe(feeds, {name: thinned(probed[1][name]) for name in _names(plan)})
        try:
            found = dict(zip(_names(plan), graph.run(_names(plan), feeds), strict=True))
        except Exception as error:  # ONNX Runtime's exceptions have no common base class
            raise VerificationError(f"the exported graph fails on its probe; nothing was written: {error}") from error
        expected = _eager(plan, task_groups, feeds)
        if expected is not None and all(np.isfinite(output).all() for output in found.values()):
            _compare(plan, expected, found)
            return Probe(feeds, {name: thinned(output) for name, output in found.items()})
    wrong = [name for name, output in found.items() if not np.isfinite(output).all()]
    happened = (
        f"the exported graph gives NaN or infinity for {', '.join(wrong)}"
        if wrong
        else "PyTorch fails, or gives NaN or infinity"
    )
    raise VerificationError(
        f"the export needs a probe with finite logits, but {happened} on rows of {SHAPE[1]} tokens; nothing was written: check "
        "the weights of these tasks with such rows in PyTorch, or export with --precision fp32"
    )


def _equal(one: Arrays, other: Arrays) -> bool:
    return one.keys() == other.keys() and all(np.array_equal(value, other[name]) for name, value in one.items())


def _names(plan: Plan) -> list[str]:
    return [name for outputs in plan.outputs.values() for name in outputs]


def _feeds(plan: Plan, masks: Masks) -> dict[str, np.ndarray]:
    rows = SHAPE[0] if any(SEQUENCE in entry.shape for entry in plan.inputs) else _ROWS
    feeds = make_inputs(plan, rows, SHAPE[1], masks=masks)
    return {name: repeated_block(value) if value.dtype.kind == "f" else value for name, value in feeds.items()}


def _eager(plan: Plan, task_groups: Sequence[TaskGroup], feeds: Mapping[str, np.ndarray]) -> dict[str, list[np.ndarray]] | None:
    """The outputs of PyTorch by task; None if it fails or has no finite ones."""
    try:
        expected = {task.name: eager(task_group, plan, task, feeds) for task_group in task_groups for task in task_group.tasks}
    except Exception:  # raised by the model, for example by ReFT for a text that is shorter than its positions
        return None
    return expected if all(np.isfinite(each).all() for outputs in expected.values() for each in outputs) else None


def _compare(plan: Plan, expected: Mapping[str, list[np.ndarray]], found: Mapping[str, np.ndarray]) -> None:
    tasks, names = {task.name: task for task in plan.tasks}, plan.outputs
    rows = [
        parity_row(tasks[name], one, found[other], SHAPE, plan.atol)
        for name, outputs in expected.items()
        for one, other in zip(outputs, names[name], strict=True)
    ]
    if failed := [row for row in rows if not row.max_abs_diff <= row.tolerance]:
        lines = [f"  {row.task}: max |onnx - torch| {row.max_abs_diff:.2e}, over {row.tolerance:.2e}" for row in failed]
        raise VerificationError("\n".join([NOTHING_WRITTEN + "  on the probe:", *lines]))
