"""The candidates of the load test, by name."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Candidate:
    """A way to serve the tasks.

    Attributes:
        key: name in the results.
        label: name in tables and plots.
        ours: whether it is this package.
        bundle: folder of the export, in the folder of the models; the alternatives read only its tokenizer.
        drop: drop of the export that it loads: "highest", "lowest", or "all" with a policy that chooses.
        adds: whether tasks can be added, so that there may be more than in the export.
        precise: whether it computes in fp32.
        same: whether it has the weights of the export; PEFT has no `seq_bn` adapters.
    """

    key: str
    label: str
    ours: bool
    bundle: str = "fp32"
    drop: str = "highest"
    adds: bool = False
    precise: bool = True
    same: bool = True


CANDIDATES = {
    each.key: each
    for each in (
        Candidate("ours", "ours, routed", True),
        Candidate("ours-slots", "ours, slots", True, adds=True),
        Candidate("ours-cache", "ours, state cache", True),
        Candidate("ours-drop0", "ours, drop 0", True, drop="lowest"),
        Candidate("ours-adaptive", "ours, adaptive drop", True, drop="all"),
        Candidate("ours-int8", "ours, int8", True, "int8", precise=False),
        Candidate("ours-int8-cache", "ours, int8, state cache", True, "int8", precise=False),
        Candidate("files", "one ONNX file per task, ORTModel", False),
        Candidate("adapters", "adapters, task by task", False),
        Candidate("adapters-bf16", "adapters, task by task, bf16", False, precise=False),
        Candidate("adapters-split", "adapters, BatchSplit", False),
        Candidate("adapters-split-bf16", "adapters, BatchSplit, bf16", False, precise=False),
        Candidate("peft", "PEFT, mixed batch", False, same=False),
        Candidate("peft-bf16", "PEFT, mixed batch, bf16", False, precise=False, same=False),
    )
}
