"""The extras of the distribution: in a checkout, `export` takes the exporter and the example from their folders.

Wheels for an index are built from the sdist, which does not contain these folders; there, `export` names them by version. So
the metadata follow from the files that are there, `pip install '.[export,adapters,cpu]'` in a checkout asks no index for
distributions of this project, and no distribution of the same name can take their place.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface

# Distribution -> its folder in a checkout.
PARTS = {"adapterdrop-onnx-exporter": "exporter", "adapterdrop-onnx-example": "adapterdrop_example"}


class ExtrasHook(MetadataHookInterface):  # type: ignore[misc,unused-ignore]  # without hatchling, Any
    """Adds the other distributions of this project to the extras of pyproject.toml."""

    def update(self, metadata: dict[str, Any]) -> None:
        """Set the optional dependencies; the version of all distributions is that of this one."""
        extras = {name: list(each) for name, each in self.config["extras"].items()}
        extras["export"] += [requirement(Path(self.root), name, metadata["version"]) for name in PARTS]
        metadata["optional-dependencies"] = extras


def requirement(root: Path, name: str, version: str) -> str:
    """Return the requirement of one distribution of this project.

    Args:
        root: the folder of pyproject.toml.
        name: a name in PARTS.
        version: the version of this project.
    """
    folder = root.resolve() / PARTS[name]
    if (folder / "pyproject.toml").is_file():
        return f"{name} @ {folder.as_uri()}"
    return f"{name}=={version}"
