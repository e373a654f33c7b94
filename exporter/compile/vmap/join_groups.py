"""Joins the graphs of several groups of tasks over one set of inputs."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from exporter.compile.rewrite.builder import claim_names

__all__ = ["JoinGroupsPass"]

# Up to this size, contents are compared; larger weights are equal only if they share their storage.
_COMPARED_BYTES = 1 << 16


class JoinGroupsPass(ir.passes.InPlacePass):
    """Moves the nodes of `others` into the model's graph. Equal trunks are then merged by common-subexpression elimination.

    1. All graphs read the inputs of the model.
    2. Initializers with the same name and the same numbers are shared.
    3. An input with the name of an output of another graph, which comes before, reads this output. It is an output no longer.
    4. Everything else keeps its name; an inner value gets a number as a suffix if its name is taken. Outputs take precedence.
    """

    def __init__(self, others: Sequence[ir.Model]) -> None:
        """Set the graphs that are moved into the model's graph; afterwards they are empty."""
        super().__init__()
        self.others = tuple(others)

    def requires(self, model: ir.Model) -> None:
        """Check that the graphs have the same inputs and operator sets, and distinct outputs."""
        names = [value.name for value in model.graph.inputs]
        made = {value.name for value in model.graph.outputs}
        outputs = [value.name for graph in (model.graph, *(other.graph for other in self.others)) for value in graph.outputs]
        if len(set(outputs)) != len(outputs):
            raise ir.passes.PreconditionError(f"{type(self).__name__}: expected distinct outputs, found {outputs}")
        for other in self.others:
            found = [value.name for value in other.graph.inputs if value.name not in made]  # rule 3
            made |= {value.name for value in other.graph.outputs}
            if found != names:
                raise ir.passes.PreconditionError(f"{type(self).__name__}: expected the inputs {names}, found {found}")
            shared = model.graph.opset_imports.items() & other.graph.opset_imports.items()
            if len(shared) != len(model.graph.opset_imports.keys() & other.graph.opset_imports.keys()):
                raise ir.passes.PreconditionError(
                    f"{type(self).__name__}: expected the operator sets {dict(model.graph.opset_imports)}, "
                    f"found {dict(other.graph.opset_imports)}"
                )

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Move all nodes and outputs."""
        graph = model.graph
        names = [str(value.name) for each in (graph, *(other.graph for other in self.others)) for value in each.outputs]
        claim_names(graph, names)
        taken = {value.name for node in graph for value in node.outputs} | {*graph.initializers, *names}
        taken |= {value.name for value in graph.inputs}
        made = {value.name: value for value in graph.outputs}
        read = set[ir.Value]()
        for other in self.others:
            graph.opset_imports.update(other.graph.opset_imports)
            model.functions.update(other.functions)
            inner = [value for value in other.graph.inputs if value.name in made]
            for old in inner:
                old.replace_all_uses_with(new := made[old.name])  # rule 3
                read.add(new)
            own = [value for value in other.graph.inputs if value not in inner]
            for old, new in zip(own, graph.inputs, strict=True):
                old.replace_all_uses_with(new)  # rule 1
            for value in list(other.graph.initializers.values()):
                known = graph.initializers.get(str(value.name))
                del other.graph.initializers[str(value.name)]
                if known is not None and _equal(known, value):  # rule 2
                    ir.convenience.replace_all_uses_with(value, known, replace_graph_outputs=True)
                else:
                    value.name = _free(str(value.name), taken)  # rule 4
                    graph.register_initializer(value)
            outputs = list(other.graph.outputs)
            other.graph.outputs.clear()
            for node in list(other.graph):
                other.graph.remove(node)
                for value in node.outputs:
                    if value not in outputs:
                        value.name = _free(str(value.name), taken)
                graph.append(node)
            graph.outputs.extend(outputs)
            made |= {value.name: value for value in outputs}
        graph.outputs[:] = [value for value in graph.outputs if value not in read]
        return ir.passes.PassResult(model, modified=bool(self.others))


def _free(name: str, taken: set[str | None]) -> str:
    candidate, number = name, 1
    while candidate in taken:
        number += 1
        candidate = f"{name}_{number}"
    taken.add(candidate)
    return candidate


def _equal(one: ir.Value, other: ir.Value) -> bool:
    left, right = one.const_value, other.const_value
    if left is None or right is None or left.shape != right.shape or left.dtype != right.dtype:
        return False
    a, b = left.numpy(), right.numpy()
    if a.ctypes.data == b.ctypes.data and a.strides == b.strides:
        return True
    return left.nbytes <= _COMPARED_BYTES and a.tobytes() == b.tobytes()
