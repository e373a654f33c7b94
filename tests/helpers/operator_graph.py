"""A random small graph in ONNX text, whose values depend on the batch and on task weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
from hypothesis import strategies as st

Draw = Callable[[st.SearchStrategy[Any]], Any]
Dim = int | str
B = "batch"
_T = TypeVar("_T")


@dataclass
class Graph:
    """A graph in ONNX text that grows while it is drawn. Each line defines one value.

    Attributes:
        draw: hypothesis' own.
        lines: of the text.
        weights: name -> one array per task.
        constants: name -> array.
    """

    draw: Draw
    lines: list[str] = field(default_factory=list)
    weights: dict[str, list[np.ndarray]] = field(default_factory=dict)
    constants: dict[str, np.ndarray] = field(default_factory=dict)
    inputs: dict[str, Sequence[Dim]] = field(default_factory=dict)

    def pick(self, *options: _T) -> _T:
        return options[self.number(0, len(options) - 1)]

    def yes(self) -> bool:
        return bool(self.draw(st.booleans()))

    def number(self, low: int, high: int) -> int:
        return int(self.draw(st.integers(low, high)))

    def add(self, expression: str) -> str:
        name = f"v{len(self.lines)}"
        self.lines.append(f"{name} = {expression}")
        return name

    def constant(self, array: np.ndarray | np.generic | Sequence[int]) -> str:
        name = f"c{len(self.constants)}"
        self.constants[name] = np.asarray(array, np.int64) if isinstance(array, list) else np.asarray(array)
        return name

    def dims(self, rank: int) -> list[Dim]:
        """Small lengths, one of them the batch."""
        dims: list[Dim] = [self.number(1, 3) for _ in range(rank)]
        dims[self.number(0, rank - 1)] = B
        return dims

    def length(self) -> str:
        """The batch as int64 [1], from the trunk or the branch."""
        source = self.branch([B, 2]) if self.yes() else self._input([B, 2])
        return self.add(f"Shape<start = 0, end = 1>({source})")

    def lengths(self, dims: Sequence[Dim]) -> str:
        if B not in dims:
            return self.constant([int(dim) for dim in dims])
        parts = [self.length() if dim == B else self.constant([int(dim)]) for dim in dims]
        return self.add(f"Concat<axis = 0>({', '.join(parts)})")

    def _input(self, dims: Sequence[Dim]) -> str:
        name = f"x{len(self.inputs)}"
        self.inputs[name] = list(dims)
        return name

    def branch(self, dims: Sequence[Dim]) -> str:
        return self.value(dims, True)

    def operand(self, dims: Sequence[Dim]) -> str:
        """A value of the branch, of the trunk, or a constant where it has no batch."""
        return self.value(dims, self.yes())

    def value(self, dims: Sequence[Dim], of_branch: bool) -> str:
        """Float numbers of that shape, in which the batch may occur any number of times."""
        if dims.count(B) > 1:
            last = len(dims) - 1 - list(reversed(dims)).index(B)
            parts = [
                [1 if i == last else dim for i, dim in enumerate(dims)],
                [dim if i == last else 1 for i, dim in enumerate(dims)],
            ]
            return self.add(f"Add({', '.join(self.value(part, of_branch) for part in parts)})")
        if B not in dims:
            array = _random(*map(int, dims), seed=len(self.constants))
            if not of_branch:
                return self.constant(array)
            if self.yes():  # a task weight itself
                name = f"w{len(self.weights)}"
                self.weights[name] = [_random(*map(int, dims), seed=10 * len(self.weights) + task) for task in range(2)]
                return name
            reduced = self.add(f"ReduceMax({self.branch([B, 1])})")
            shape = self.constant([1] * len(dims))
            return self.add(f"Mul({self.constant(array)}, {self.add(f'Reshape({reduced}, {shape})')})")
        order = [axis for axis, dim in enumerate(dims) if dim == B] + [axis for axis, dim in enumerate(dims) if dim != B]
        first = [dims[axis] for axis in order]
        x = self._input(first if len(dims) > 1 else [B, 2])
        if of_branch:
            name = f"w{len(self.weights)}"
            last = int(first[-1]) if len(dims) > 1 else 2
            self.weights[name] = [_random(last, seed=10 * len(self.weights) + task) for task in range(2)]
            x = self.add(f"Mul({x}, {name})")
        if len(dims) == 1:
            return self.add(f"ReduceSum<keepdims = 0>({x}, {self.constant([1])})")
        back = [order.index(axis) for axis in range(len(order))]
        return x if back == sorted(back) else self.add(f"Transpose<perm = {back}>({x})")

    def bits(self, value: str) -> str:
        return self.add(f"Greater({value}, {self.constant(np.float32(0))})")

    def indices(self, dims: Sequence[Dim], limit: Dim) -> str:
        """Numbers below the limit."""
        some = self.add(f"Cast<to = 7>({self.add(f'Mul({self.operand(dims)}, {self.constant(np.float32(3))})')})")
        below = self.add(f"Squeeze({self.length()})") if limit == B else self.constant(np.array(limit))
        return self.add(f"Mod({self.add(f'Abs({some})')}, {below})")


def _random(*shape: int, seed: int) -> np.ndarray:
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(np.float32)
