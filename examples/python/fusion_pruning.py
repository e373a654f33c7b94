"""How much an AdapterFusion changes when only its most important members are kept.

    python examples/python/fusion_pruning.py my-fusion --calibration texts.jsonl --keep 1 --keep 2 --output onnx-fusion

Members are ranked by their mean attention on the calibration texts. Each number of members is exported to a separate folder;
compare what it costs in answers with what it saves in size.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from exporter import Report, export


def prune(model: str, calibration: Path, keep: int, output: Path) -> Report:
    """Export a model with fusions, of which `keep` members per layer are kept.

    Args:
        model: folder or hub id.
        calibration: texts, one a line or as JSON lines.
        keep: number of members.
        output: folder to write.
    """
    return export(model, keep_fused=keep, calibration=calibration, output=output)


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the size of the branch for each number of members, and how far the answers of each task move."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--calibration", type=Path, required=True)
    parser.add_argument("--keep", type=int, action="append", required=True)
    parser.add_argument("--output", required=True, help="start of the folders' names")
    options = parser.parse_args(arguments)
    for keep in options.keep:
        report = prune(options.model, options.calibration, keep, Path(f"{options.output}-{keep}"))
        print(f"{keep} members: {report.graph.task_bytes / 1e3:,.0f} kB in the branch")
        for row in report.variants[0].drift:
            same = (
                "" if row.argmax_agreement is None else f"{100 * row.argmax_agreement:.0f} % of the predictions are unchanged, "
            )
            print(f"  {row.task}: {same}logits move by {row.mean_abs:.3f} on average")


if __name__ == "__main__":
    main()
