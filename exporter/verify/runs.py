"""The outputs of graphs for the shapes and masks at which they are compared."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from exporter.errors import VerificationError
from exporter.plan import Plan
from exporter.verify.candidate import Candidate
from exporter.verify.random_inputs import MASKS, Masks, make_inputs
from exporter.verify.routes import compare_routes
from exporter.verify.shapes import PROBE_SHAPE
from runtime.bundle import ParityRow


class Runs:
    """The outputs of graphs, which compute all tasks at once, for each shape and kind of masks.

    Attributes:
        plan: the plan of the graphs.
        candidates: the graphs.
        known: shape and masks -> task -> PyTorch's first output.
    """

    def __init__(self, plan: Plan, candidates: Sequence[Candidate]) -> None:
        """Create it without outputs.

        Args:
            plan: the plan of the graphs.
            candidates: the graphs.
        """
        self.plan = plan
        self.candidates = candidates
        self.known: dict[tuple[tuple[int, int], Masks], dict[str, np.ndarray]] = {}
        self._found: dict[tuple[tuple[int, int], Masks], tuple[dict[str, np.ndarray], list[dict[str, np.ndarray]]]] = {}

    def at(self, shape: tuple[int, int], masks: Masks) -> tuple[dict[str, np.ndarray], list[dict[str, np.ndarray]]]:
        """Return the inputs, and the outputs of each candidate."""
        if (shape, masks) not in self._found:
            inputs = make_inputs(self.plan, *shape, masks=masks)
            names = [name for outputs in self.plan.outputs.values() for name in outputs]
            try:
                found = [dict(zip(names, each.graph.run(names, inputs), strict=True)) for each in self.candidates]
            except Exception as error:
                raise VerificationError(
                    f"the exported graph fails at {shape[0]}x{shape[1]}; nothing was written: {error}"
                ) from error
            self._found[shape, masks] = inputs, found
        return self._found[shape, masks]

    def compare_routes(self, shape: tuple[int, int], masks: Masks, only: str | None = None) -> Iterator[tuple[int, ParityRow]]:
        """Yield the rows of the routed graphs, with the number of the candidate; of all tasks that are known, or of one."""
        for number, candidate in enumerate(self.candidates):
            if candidate.routed is not None:
                inputs, known = self.at(shape, masks)[0], self.known[shape, masks]
                known = known if only is None else {only: known[only]}
                for row in compare_routes(candidate, self.plan, inputs, known, shape):
                    yield number, row

    def probed(self) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]] | None:
        """The inputs and outputs at `PROBE_SHAPE`."""
        if len(self.known.get((PROBE_SHAPE, MASKS[0]), ())) < len(self.plan.tasks):
            return None
        inputs, found = self.at(PROBE_SHAPE, MASKS[0])
        return inputs, found[0]
