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
        bundle: the export that it needs, in the folder of the models: "fp32", "fp16", "int8", "drops" or "files".
        drop: drop of the export that it loads: "highest", "lowest", or "all" with a policy that chooses.
        adds: whether its tasks are added to slots. Of our other candidates, there are only those of the export.
        precise: whether it computes in fp32.
        devices: devices on which it runs.
        same: whether it has the weights of the export; it is compared with single-task PyTorch then, otherwise with itself.
    """

    key: str
    label: str
    ours: bool
    bundle: str = "fp32"
    drop: str = "highest"
    adds: bool = False
    precise: bool = True
    devices: tuple[str, ...] = ("cpu", "cuda")
    same: bool = True


CANDIDATES = {
    each.key: each
    for each in (
        Candidate("ours", "ours, slots", True, adds=True),
        Candidate("ours-int8", "ours, slots, int8", True, "int8", adds=True, precise=False, devices=("cpu",)),
        Candidate("ours-fp16", "ours, slots, fp16", True, "fp16", adds=True, precise=False, devices=("cuda",)),
        Candidate("ours-routed", "ours, routed", True),
        Candidate("ours-cache", "ours, slots, state cache", True, adds=True),
        Candidate(
            "ours-int8-cache", "ours, slots, int8, state cache", True, "int8", adds=True, precise=False, devices=("cpu",)
        ),
        Candidate("ours-drop0", "ours, routed, drop 0", True, "drops", drop="lowest"),
        Candidate("ours-adaptive", "ours, routed, adaptive drop", True, "drops", drop="all"),
        Candidate("files", "one ONNX file per task, ORTModel", False, "files"),
        Candidate("adapters", "adapters, task by task", False, same=False),
        Candidate("adapters-bf16", "adapters, task by task, bf16", False, precise=False, same=False),
        Candidate("adapters-split", "adapters, BatchSplit", False, same=False),
        Candidate("adapters-split-bf16", "adapters, BatchSplit, bf16", False, precise=False, same=False),
        Candidate("peft", "PEFT, mixed batch", False, same=False),
        Candidate("adapters-split-fp16", "adapters, BatchSplit, fp16", False, precise=False, devices=("cuda",), same=False),
        Candidate("peft-fp16", "PEFT, mixed batch, fp16", False, precise=False, devices=("cuda",), same=False),
        Candidate("peft-bf16", "PEFT, mixed batch, bf16", False, precise=False, same=False),
    )
}
