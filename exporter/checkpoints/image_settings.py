"""Settings of image processors, which are copied into the bundle.

transformers needs Pillow and torchvision to load an image processor; the exporter does not process images.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import transformers

from exporter.checkpoints.files import CUSTOM_CODE
from exporter.errors import ExportError
from exporter.models.quiet_libraries import quiet

__all__ = ["ImageSettings", "read_image_settings"]

_FILE = "preprocessor_config.json"


@dataclass(frozen=True)
class ImageSettings:
    """The content of an image processor's file.

    Attributes:
        content: settings by name.
    """

    content: Mapping[str, Any]

    @property
    def size(self) -> tuple[int, int] | None:
        """Height and width of the images that the processor makes; None if they depend on the image, or are not known."""
        crops, resizes = self.content.get("do_center_crop", False), self.content.get("do_resize", True)
        size = self.content.get("crop_size") if crops else self.content.get("size") if resizes else None
        height, width = (size.get("height"), size.get("width")) if isinstance(size, Mapping) else (size, size)
        return (height, width) if type(height) is type(width) is int and min(height, width) > 0 else None

    def save_pretrained(self, folder: Path) -> None:
        """Write the file, as the method of transformers' image processors does."""
        (folder / _FILE).write_text(json.dumps(self.content, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def read_image_settings(path: Path, content: Mapping[str, Any]) -> ImageSettings:
    """Return the settings of an image processor, without the names of code.

    Args:
        path: the file, for messages.
        content: its content.

    Raises:
        ExportError: transformers has no image processor of this type.
    """
    kind = content.get("image_processor_type", content.get("feature_extractor_type"))
    if kind is not None and not _is_known(kind):
        why = CUSTOM_CODE if "auto_map" in content else f"transformers has no image processor {kind!r}"
        raise ExportError(f"the image processor in {str(path.parent)!r} cannot be loaded: {why}")
    return ImageSettings({key: value for key, value in content.items() if key != "auto_map"})


def _is_known(kind: Any) -> bool:
    if not isinstance(kind, str):
        return False
    kind = kind.replace("FeatureExtractor", "ImageProcessor")  # their names in older versions
    try:
        with quiet():
            return "ImageProcessor" in kind and hasattr(transformers, kind)
    except ImportError:  # the class needs a package that is not installed
        return True
