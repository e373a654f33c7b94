"""The entry of a probe in the manifest."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
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
    """

    file: str
    tolerances: Mapping[str, float]

    def problems(self, where: str) -> Iterator[str]:
        """Yield a message for each invalid field; `where` is the path of this entry in the manifest."""
        if sorted(self.tolerances) != sorted(FLOATS):
            found = ", ".join(sorted(self.tolerances)) or "none"
            yield f"{where}.tolerances: expected {', '.join(sorted(FLOATS))}, found {found}"
        for name, tolerance in self.tolerances.items():
            if not (math.isfinite(tolerance) and tolerance > 0):
                yield f"{where}.tolerances[{name!r}]: expected a positive number, found {tolerance}"
