"""Graphs from texts to the outputs of all tasks."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnx_ir.passes.common as common
from tokenizers import Tokenizer

from exporter.errors import ExportError, VerificationError
from exporter.plan import Plan
from exporter.text_graph.byte_level import byte_level
from exporter.text_graph.inputs import Layout, graph_inputs
from exporter.text_graph.join import ENCODED, TEXT_INPUTS, join, tokenizer_graph
from exporter.text_graph.part import LEAST_OPSET, Part
from exporter.text_graph.refusals import refused
from exporter.text_graph.verify import open_text_graph, verify_tokenizer
from exporter.text_graph.wordpiece import wordpiece
from exporter.verify.candidate import open_graph
from runtime.bundle import text_file
from runtime.bundle.interface import SEQUENCE

# Type of the model in tokenizer.json -> its operators
_MODELS: dict[str, Callable[[Any], list[Part]]] = {"WordPiece": wordpiece, "BPE": byte_level}
_SAMPLE = ("The new phone is fast, and the screen is gorgeous.", "a", "")


@dataclass(frozen=True, eq=False)
class TextGraph:
    """The verified graph of a tokenizer.

    Attributes:
        proto: graph from texts to the inputs of a graph of tasks.
        verified: number of texts and pairs on which it gives what the tokenizer gives; 0 for one that was verified before.
    """

    proto: onnx.ModelProto
    verified: int


def make_text_graph(tokenizer: Any, plan: Plan) -> TextGraph:
    """Write a tokenizer as a graph, and compare both.

    Args:
        tokenizer: fast tokenizer of transformers, with the padding side of the bundle; None for a bundle without one.
        plan: inputs, limit and opset of the graphs of the tasks.

    Raises:
        ExportError: the tasks have inputs that are not made of texts, the opset is too low, the tokenizer is of a kind that has
            no operators, or its graph differs on a text.
    """
    names = [entry.name for entry in plan.inputs]
    if tokenizer is None:
        raise refused("the model has no tokenizer, or it was left out")
    if others := [name for name in names if name not in ENCODED]:
        raise refused(f"the graph has inputs that are not made of texts ({', '.join(others)})")
    if plan.opset < LEAST_OPSET:
        raise ExportError(
            f"--with-tokenizer: the operators for strings need opset {LEAST_OPSET} or higher, found {plan.opset}: omit --opset"
        )
    check_text_names(plan)
    backend = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    backend.no_padding()
    backend.no_truncation()
    kind = type(backend.model).__name__
    if kind not in _MODELS:
        raise refused(f"{kind} tokenizers cannot be written as a graph, only {' and '.join(_MODELS)}")
    limit = plan.max_lengths.get(SEQUENCE)
    padding = tokenizer.pad_token_id
    if padding is None:
        padding = plan.padding_id or 0
        tokenizer = copy.deepcopy(tokenizer)  # transformers pads with a token, and refuses to without one
        tokenizer.pad_token = tokenizer.convert_ids_to_tokens(padding)
    layout = Layout(limit, padding, tokenizer.padding_side == "left", tokenizer.truncation_side == "left")
    parts = [*_MODELS[kind](backend), graph_inputs(backend, layout)]
    model = tokenizer_graph(parts, names, plan.opset)
    return TextGraph(ir.to_proto(model), verify_tokenizer(model, tokenizer, limit, nul=kind != "BPE"))


def check_text_names(plan: Plan) -> None:
    """Check that no output of a task has the name of a text or of its encoding.

    Raises:
        ExportError: an output has such a name.
    """
    if taken := sorted({output for outputs in plan.outputs.values() for output in outputs} & {*ENCODED, *TEXT_INPUTS}):
        raise ExportError(f"--with-tokenizer: rename the task {taken[0]!r}: another value of the graph has this name")


def stored_text_graph(path: Path) -> TextGraph:
    """Return the graph of the tokenizer in a graph that `save_text_graphs` wrote.

    Args:
        path: file of that graph.
    """
    model = ir.load(path)
    encoded = [value for value in model.graph.outputs if value.name in ENCODED]
    model.graph.outputs.clear()
    model.graph.outputs.extend(encoded)
    common.RemoveUnusedNodesPass()(model)
    return TextGraph(ir.to_proto(model), 0)


def save_text_graphs(graph: TextGraph, folder: Path, models: Sequence[str], plan: Plan) -> dict[str, str]:
    """Write each graph of tasks with the tokenizer in front of it, over the same weights.

    Args:
        graph: the graph of the tokenizer.
        folder: the bundle.
        models: file names of the graphs of all tasks.
        plan: tolerance of the comparison of both graphs.

    Returns:
        File name of a graph -> file name of the graph that reads texts.

    Raises:
        VerificationError: a graph gives other outputs with the tokenizer in front of it.
    """
    files = {}
    for name in models:
        path = folder / text_file(name)
        ir.save(join(ir.from_proto(graph.proto), ir.load(folder / name)), path)
        _compare(open_text_graph(path), open_graph(folder / name), plan.atol, path.name)
        files[name] = path.name
    return files


def _compare(texts: Any, tasks: Any, atol: float, name: str) -> None:
    """Compare the outputs with those of the graph of tasks for the same inputs."""
    names = [output.name for output in tasks.get_outputs()]
    inputs = [each.name for each in tasks.get_inputs()]
    results = texts.run([*names, *inputs], {"text": np.array(_SAMPLE, dtype=object)})
    expected = tasks.run(names, dict(zip(inputs, results[len(names) :], strict=True)))
    for output, found, wanted in zip(names, results, expected, strict=False):
        if not np.allclose(found, wanted, rtol=0, atol=atol * max(1.0, float(np.abs(wanted).max()))):
            raise VerificationError(
                f"{name}: {output} differs from that of the graph without a tokenizer; nothing was written: export without "
                "--with-tokenizer, and report it with the model's configuration"
            )
