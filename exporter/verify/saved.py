"""Verification of saved graphs."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import onnxruntime

from exporter.errors import VerificationError
from exporter.plan import Plan
from exporter.prune.task_groups import TaskGroup
from exporter.targets import TOLERANCES
from exporter.verify.candidate import Candidate
from exporter.verify.library_reference import differing
from exporter.verify.verify import Library, Verified, verify
from runtime.bundle import MODEL, routed_file
from runtime.ort.empty_tensors import runs_empty_attention


def load_graph(plan: Plan, graph: Path, routed: bool, reference: bool = False) -> Candidate:
    """Load a saved graph for verification.

    Args:
        plan: the plan of the graph.
        graph: the file of the graph.
        routed: whether to load the routed graph in the same folder too.
        reference: whether it is the fp32 graph that the graph of the plan was rounded from, and has the tolerance of fp32.

    Raises:
        VerificationError: ONNX Runtime cannot load a graph, or cannot run it safely.
    """
    if routed and plan.target == "cpu" and not runs_empty_attention():
        raise VerificationError(
            f"ONNX Runtime {onnxruntime.__version__} ends the process when no row selects one of the structures of a routed "
            "graph for the target cpu; nothing was written. Install ONNX Runtime 1.30 or newer, or use the target portable"
        )
    routed_graph = graph.with_name(routed_file(graph.name)) if routed else None
    atol = min(plan.atol, TOLERANCES["fp32"]) if reference else plan.atol
    return Candidate.load(graph, atol, routed_graph, plan.precision == "fp16" and not reference)


def verify_saved(
    plan: Plan,
    task_groups: Sequence[TaskGroup],
    candidate: Candidate,
    reference: Path | None,
    library: Library | None = None,
) -> Verified:
    """Verify saved graphs and the reference graphs, which are removed.

    Args:
        plan: the plan of the graphs.
        task_groups: the pruned models.
        candidate: the graphs, compared with the plan's tolerance.
        reference: the folder of the reference graphs, compared with the tolerance of fp32; None if there are none.
        library: as in `exporter.verify.verify.verify`; models that compute what the graphs compute.

    Returns:
        The parity rows and the probed outputs of `candidate`.

    Raises:
        VerificationError: a graph differs from PyTorch, or adapters from those that their library loads.
    """
    candidates = [candidate]
    if reference is not None:
        candidates.append(load_graph(plan, reference / MODEL, candidate.routed is not None, reference=True))
    try:
        found = verify(task_groups, plan, candidates, library)
    except VerificationError as error:
        if library is not None:
            verify(task_groups, plan, candidates)  # does the graph differ from the loaded models?
            raise differing((each.model for each in task_groups), str(error).splitlines()[1:]) from error
        raise
    if reference is not None:
        shutil.rmtree(reference)
    return found
