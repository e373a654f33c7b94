"""Patterns that the compiler leaves as they are in a written graph, and the reasons.

The compiler's passes that keep reasons run once more, for the bundle's target and precision, over copies of the graph. They
change next to nothing in a finished graph, so that their refusals are the patterns that were left.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

import onnx_ir as ir

from exporter.compile import passes, vmap
from exporter.compile.pipeline import ROUTED, final_passes, pass_name, template_passes
from exporter.compile.rewrite.refusals import RefusingPass
from exporter.compile.target_passes import ranges_of, target_passes
from exporter.errors import ExportError
from exporter.inspect.shapes import concrete_values
from runtime.bundle import ROUTE_INPUTS, Manifest
from runtime.bundle.interface import BATCH

__all__ = ["Explanation", "Unapplied", "explain_graph"]

# Sizes at which the graph is measured twice: what is equal both times is constant. No pair is a multiple of another one.
_BATCHES, _ROWS, _LENGTHS = (7, 11), (17, 19), (13, 16)
_PASSES = tuple(name.removesuffix("Pass") for name in (*passes.__all__, *vmap.__all__))


@dataclass(frozen=True)
class Unapplied:
    """A pattern that a pass left as it is.

    Attributes:
        step: the name of the pass, such as "FuseAttention".
        op_type: the type of the operator at which it looked for the pattern.
        tensor: the tensor that the reason is about.
        reason: a main clause.
        tensors: `tensor`, and all tensors that the operators with this reason read and compute.
    """

    step: str
    op_type: str
    tensor: str
    reason: str
    tensors: tuple[str, ...]


@dataclass(frozen=True)
class Explanation:
    """All patterns that were left in one graph.

    Attributes:
        file: the file name of the graph.
        compiled_for: target and precision in words.
        steps: the passes that keep reasons and run on this graph, for this target and precision.
        ran: all passes that ran on this graph when it was exported.
        tensors: the names of all values.
        unapplied: in the order of the passes and of the graph.
    """

    file: str
    compiled_for: str
    steps: tuple[str, ...]
    ran: frozenset[str]
    tensors: frozenset[str]
    unapplied: tuple[Unapplied, ...]

    def select(self, name: str) -> tuple[Unapplied, ...]:
        """Return the patterns of a pass or a tensor.

        Args:
            name: the name of the pass or tensor; empty for all patterns.

        Raises:
            ExportError: the name is unknown, or that of a pass that keeps no reasons or did not run.
        """
        if not name:
            return self.unapplied
        step = name.removesuffix("Pass")
        if step in self.steps:
            return tuple(each for each in self.unapplied if each.step == step)
        if step in _PASSES:
            there = ", ".join(self.steps)
            why = "keeps no reasons" if step in self.ran else f"did not run on {self.file} for {self.compiled_for}"
            raise ExportError(f"{step} {why}; passes to name: {there}")
        if name not in self.tensors:
            known = {_letters(each): each for each in (*sorted(self.tensors), *_PASSES)}
            near = difflib.get_close_matches(_letters(name), known, 1)
            hint = f"passes to name: {', '.join(self.steps)}; --why without a name shows tensors too"
            hint = f"the nearest name is {known[near[0]]!r}" if near else hint
            raise ExportError(f"{name!r} is neither a tensor of {self.file} nor a pass; {hint}")
        return tuple(each for each in self.unapplied if name in each.tensors)


def _letters(name: str) -> str:
    """Return a name without what differs between the names of passes and those of functions or modules."""
    return name.replace("_", "").lower()


def explain_graph(path: Path, manifest: Manifest) -> Explanation:
    """Find the patterns that each pass leaves as they are in the graph at `path`.

    Raises:
        ExportError: the file is not a graph, or a pass cannot work on it.
    """
    try:
        model = ir.load(path)
        _note_shapes(model.graph, manifest)
    except Exception as error:  # protobuf and onnx-ir raise many types for a file that is not a graph
        raise ExportError(f"{path} cannot be read as an ONNX graph: {error}; export it again") from error
    ran = _ran(model, manifest)
    steps = _refusing_passes(model, manifest, ran)
    # What is printed -> tensors: several readers of a tensor can have one reason.
    found: dict[tuple[str, str, str, str], list[str]] = {}
    for step in steps:
        try:
            step(model.clone())
        except Exception as error:  # ours and onnx-ir's
            raise ExportError(
                f"the pass {pass_name(step)} cannot work on {path}: {error.__cause__ or error}; export it again"
            ) from error
        for each in step.refusals:
            found.setdefault((pass_name(step), each.op_type, each.tensor, each.reason), []).extend(each.tensors)
    computed = (value for node in model.graph for value in node.outputs)
    values = (*model.graph.inputs, *model.graph.initializers.values(), *computed)
    return Explanation(
        path.name,
        f"the target {manifest.target} in {manifest.precision}",
        tuple(map(pass_name, steps)),
        ran,
        frozenset(str(value.name) for value in values),
        tuple(Unapplied(*shown, tuple(dict.fromkeys(tensors))) for shown, tensors in found.items()),
    )


def _ran(model: ir.Model, manifest: Manifest) -> frozenset[str]:
    """Return the names of the passes that ran on a graph; those on templates count for all graphs."""
    routed = ROUTE_INPUTS[0] in {value.name for value in model.graph.inputs}
    return frozenset(row.name for row in manifest.variant().passes if routed or not row.graph.startswith(ROUTED))


def _refusing_passes(model: ir.Model, manifest: Manifest, ran: Collection[str]) -> list[RefusingPass]:
    """Return the passes that keep reasons, each once."""
    # Ranges do not matter: no product that needs one is left.
    ranges = ranges_of(row.name for row in manifest.variant().passes)
    last = target_passes(
        manifest.target, manifest.precision, model, lambda _, names: dict.fromkeys(names, (0.0, 1.0)), int8_ranges=ranges
    )
    routed = [step for step in (passes.MeasureLengthsPass(),) if pass_name(step) in ran]
    steps = {type(step): step for step in (*template_passes(()), *final_passes(), *routed, *last)}
    return [step for step in steps.values() if isinstance(step, RefusingPass)]


def _note_shapes(graph: ir.Graph, manifest: Manifest) -> None:
    """Give each value the shape that the compiler knew: a written graph has none inside."""
    longest = min((_LENGTHS[1], *manifest.max_lengths.values()))
    lengths = _LENGTHS if longest == _LENGTHS[1] else (longest - 1, longest)
    axes = [axis for entry in manifest.inputs for axis in entry.axes]
    named = {**dict.fromkeys(axes, lengths), BATCH: _BATCHES, "rows": _ROWS}
    first, second = (concrete_values(graph, {name: pair[run] for name, pair in named.items()}) for run in (0, 1))
    names = {pair: name for name, pair in reversed(named.items())}
    for node in graph:
        for value in node.outputs:
            if value not in first or value not in second:
                continue
            dims = zip(first[value].dims, second[value].dims, strict=True)
            value.shape = ir.Shape([one if one == other else _symbol(one, other, names) for one, other in dims])
            if value.dtype is None:
                value.type = ir.TensorType(first[value].dtype)


def _symbol(one: int, other: int, names: Mapping[tuple[int, int], str]) -> str:
    """Return the name of a length that is `one` at the first sizes and `other` at the second; equal lengths have one name."""
    for (small, large), name in names.items():
        if one % small == 0 and one // small * large == other:
            return name if one == small else f"{one // small}*{name}"
    return f"length_{one}_{other}"
