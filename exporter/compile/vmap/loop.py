"""The loop of the vectoriser: each operator of the branch is computed by the first rule that applies."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import onnx_ir as ir

from exporter.compile.rewrite.builder import const_array
from exporter.compile.vmap.env import Env
from exporter.compile.vmap.forms import Folded, Form
from exporter.compile.vmap.weight_rules import WEIGHT_RULES, Stacks, elementwise

__all__ = ["Rule", "compute_branch", "fold", "replace_branch", "template_problems", "weight_rule"]

Rule = Callable[[ir.Node], Sequence[Form] | None]


def compute_branch(graph: ir.Graph, env: Env, rules: Sequence[Rule]) -> list[ir.Node]:
    """Compute everything that depends on a task weight.

    Args:
        graph: the template.
        env: holds the task weights, and receives the forms of each value of the branch.
        rules: each returns the forms of an operator's results, or None if it does not apply. The last rule is the fallback: it
            always applies, or raises.

    Returns:
        The template's operators of the branch, which are no longer needed.
    """
    branch = []
    for node in graph:
        if any(value in env for value in node.inputs):
            branch.append(node)
            forms = next(forms for rule in rules if (forms := rule(node)) is not None)
            for output, form in zip(node.outputs, forms, strict=True):
                env.bind(output, form)
    return branch


def weight_rule(node: ir.Node, env: Env, stacks: Stacks) -> list[Form] | None:
    """Compute an operator with task weights for all tasks at once, by the table of rules."""
    rule = WEIGHT_RULES.get(node.op_type) if node.domain == "" and len(node.outputs) == 1 else None
    if rule is None or all(env.arrays(value) is None for value in node.inputs) or not env.can_unstack(node.outputs[0]):
        return None
    found = rule(node, env, stacks)
    return None if found is None else [found]


def fold(node: ir.Node, env: Env, given: Mapping[ir.Value, ir.Value] | None = None) -> list[Form] | None:
    """Run an operator at the branch's batch: the same one, or the same arithmetic on stacked values.

    Args:
        node: an operator of the template.
        env: the environment.
        given: replacements of inputs that are task weights, which hold for all rows or vary row by row.
    """
    given = given or {}
    if any(env.arrays(value) is not None and value not in given for value in node.inputs):
        return None
    if not given and (stacked := elementwise(node, env)) is not None:
        return [stacked]
    if env.are_lengths(node):
        return [Folded(env.lengths(output)) for output in node.outputs]
    return None if env.uses(node, given) is None else [Folded(value) for value in env.rerun(node, given)]


def replace_branch(graph: ir.Graph, env: Env, branch: Sequence[ir.Node]) -> None:
    """Replace the operators of the template's branch with the new nodes.

    The results of these operators are no longer outputs of the graph.
    """
    graph.remove(reversed(branch), safe=True)
    graph.extend(env.build.take())
    for value in env.constants():
        if value.is_initializer() and not value.uses():
            del graph.initializers[str(value.name)]


def template_problems(graph: ir.Graph, tasks: Sequence[str], weights: Mapping[str, Sequence[np.ndarray]]) -> list[str]:
    """Return the reasons why tasks and weights cannot be bound to the template; empty if they can."""
    problems = []
    if not graph.outputs:
        problems.append("the template has no output")
    for name, arrays in weights.items():
        if len(arrays) != len(tasks):
            problems.append(f"expected {len(tasks)} arrays for {name}, found {len(arrays)}")
        template = const_array(graph.initializers.get(name))
        if template is not None and any(a.dtype != template.dtype or a.ndim != template.ndim for a in arrays):
            problems.append(f"{name} differs from the template in type or rank")
    return problems
