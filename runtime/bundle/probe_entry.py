"""The entry of a probe in the manifest."""

import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final, Literal, get_args

# Types in which a provider may compute the floats of a graph; tf32 rounds the inputs of fp32 products to 10 bits
Floats = Literal["fp32", "tf32", "fp16", "bf16"]
FLOATS: Final[tuple[Floats, ...]] = get_args(Floats)


@dataclass(frozen=True)
class ProbeEntry:
    """A few inputs and the logits that the export verified for them, with which other providers are compared.

    Attributes:
        file: file name of the probe.
        tolerances: type in which a provider computes floats -> limit of the difference of a logit, relative to max(1, largest
            absolute logit of the task).
        tasks: task -> the same for this task, in int8; empty if all tasks have the same.
    """

    file: str
    tolerances: Mapping[str, float]
    tasks: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    def tolerance(self, task: str, floats: Floats) -> float:
        """Return the limit for a task on a provider that computes floats in a type."""
        return self.tasks.get(task, self.tolerances)[floats]

    def problems(self, where: str, names: Collection[str]) -> Iterator[str]:
        """Yield a message for each invalid field.

        Args:
            where: path of this entry in the manifest.
            names: names of the bundle's tasks.
        """
        if self.tasks and sorted(self.tasks) != sorted(names):
            yield f"{where}.tasks: expected {', '.join(sorted(names))}, found {', '.join(sorted(self.tasks))}"
        yield from _problems(f"{where}.tolerances", self.tolerances)
        for task, tolerances in self.tasks.items():
            yield from _problems(f"{where}.tasks[{task!r}]", tolerances)


def _problems(where: str, tolerances: Mapping[str, float]) -> Iterator[str]:
    if sorted(tolerances) != sorted(FLOATS):
        found = ", ".join(sorted(tolerances)) or "none"
        yield f"{where}: expected {', '.join(sorted(FLOATS))}, found {found}"
    for name, tolerance in tolerances.items():
        if not (math.isfinite(tolerance) and tolerance > 0):
            yield f"{where}[{name!r}]: expected a positive number, found {tolerance}"
