"""The exports that the candidates of the load test load. This runs in a separate process."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

from benchmarks.models import random_bert
from exporter import export
from exporter.example import trunk_folder

_SETTINGS = "settings.json"


def read_settings(folder: Path) -> dict[str, Any]:
    """Return the settings with which a folder was prepared; empty if it was not."""
    path = folder / _SETTINGS
    return dict(json.loads(path.read_text("utf-8"))) if path.is_file() else {}


def main() -> None:
    """Write the exports: folder and settings are the arguments."""
    folder, given = Path(sys.argv[1]), json.loads(sys.argv[2])
    folder.mkdir(parents=True, exist_ok=True)
    model = random_bert(given["layers"], given["hidden"], given["tasks"], given["drop"], given["seed"]).model
    tokenizer = AutoTokenizer.from_pretrained(trunk_folder())
    drops = sorted({given["drop"], 0}, reverse=True)
    all_graphs: dict[str, Any] = {"routed": True, "split": True, "overwrite": True}
    if not (folder / "fp32").exists():
        export(model, tokenizer, drop=drops, output=folder / "fp32", slots=given["slots"], **all_graphs)
    if not (folder / "int8").exists():
        export(model, tokenizer, drop=given["drop"], output=folder / "int8", precision="int8", target="cpu", **all_graphs)
    for number in range(min(given["files"], given["tasks"])):
        if not (own := folder / "files" / str(number)).exists():
            export(model, tokenizer, tasks=[f"task{number}"], drop=given["drop"], output=own)
    (folder / _SETTINGS).write_text(json.dumps(given), encoding="utf-8")


if __name__ == "__main__":
    main()
