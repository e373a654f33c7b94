"""The check of a row of docs/support.md."""

from __future__ import annotations

from pathlib import Path

import onnx_ir as ir

import runtime
from runtime.bundle import MODEL, probe_file, read_manifest
from tests.helpers.batch_independence import batch_difference
from tests.helpers.leftovers import leftovers
from tests.helpers.support_models import Row
from tests.helpers.support_table import documented, result, worse

# Where something is left that no rule removes, with the reason.
_LEFT = {
    "deberta": "its relative positions are cut to a longest length in shape arithmetic that has no name for the result",
    "debertav2": "the heads lie in the batch there, and no input has such an axis",
    "siglipvision": "its pooling packs its projections and unpacks them with a Split of a bias, a Reshape and an Unsqueeze",
    "loreft, suffix positions": "its arithmetic on lengths checks whether a text has any tokens",
}


# Of the largest one, that of images
_PROBE_BYTES = 64_000


def _in_vain(folder: Path) -> list[str]:
    """The nodes that the exported graph computes without need."""
    return leftovers(ir.load(folder / "model.onnx"))


def check_row(row: Row) -> None:
    """Export a row, and compare the result with the table."""
    left: list[str] = []
    differences: list[float] = []

    def look(folder: Path) -> None:
        left.extend(_in_vain(folder))
        assert runtime.load(folder, provider="cpu", threads=1).verify()
        assert (folder / probe_file(MODEL)).stat().st_size < _PROBE_BYTES
        if "input_ids" in [entry.name for entry in read_manifest(folder).inputs] and (folder / "tokenizer.json").is_file():
            differences.append(batch_difference(folder))

    (found, routed), (expected, expected_routed) = result(row, look), documented()[row.key]
    assert not worse(found, expected), f"{found}, but docs/support.md says {expected}"
    assert routed == expected_routed
    reason = _LEFT.get(row.architecture, _LEFT.get(row.method))
    assert not left if reason is None else left, "\n".join(left) or f"nothing is left, although {reason}"
    # The tokenizer pads on the left, which the exporter changes where positions would shift. Where the library's own logits
    # depend on padding, as those of gates and prompts do, batches have none.
    assert all(difference <= 1e-5 for difference in differences), differences
