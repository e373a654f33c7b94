"""The two families of adapter models: the adapters library (AdapterHub) and PEFT.

An installation needs the library of one family only, because they require different versions of transformers. Code for the
adapters library is in subpackages called `adapterhub`, which no other module imports at its top: `adapterhub_module` imports
their modules by name. PEFT's code imports its library inside functions.
"""

from __future__ import annotations

import importlib
from typing import Any

from exporter.errors import ExportError

ADAPTERS_INSTALL = "pip install 'adapterdrop-onnx[export,adapters,cpu]'"
PEFT_INSTALL = "pip install 'adapterdrop-onnx[export,peft,cpu]'"


def has_adapterhub() -> bool:
    """Return whether the adapters library can be imported."""
    try:
        importlib.import_module("adapters")
    except ImportError:  # not installed, or for another version of transformers
        return False
    return True


def has_peft() -> bool:
    """Return whether PEFT can be imported."""
    try:
        importlib.import_module("peft")
    except ImportError:
        return False
    return True


def is_adapterhub(model: Any) -> bool:
    """Return whether a live model is one of the adapters library."""
    return hasattr(model, "adapters_config") and not hasattr(model, "peft_config")


def adapterhub_module(room: str, name: str, what: str) -> Any:
    """Import a module for the adapters library.

    Args:
        room: the package in `exporter`, such as "models".
        name: the module in its subpackage `adapterhub`.
        what: a description of what needs the library, for messages.

    Raises:
        ExportError: the library is not installed, or not for the installed version of transformers.
    """
    try:
        return importlib.import_module(f"exporter.{room}.adapterhub.{name}")
    except ImportError as error:
        if (error.name or "").split(".")[0] == "exporter":
            raise
        missing = isinstance(error, ModuleNotFoundError) and error.name == "adapters"
        state = "not installed" if missing else f"installed but cannot be imported ({error})"
        raise ExportError(
            f"{what} needs the adapters library, which is {state}: {ADAPTERS_INSTALL}, in a separate environment if this one "
            "is for PEFT, because the two require different versions of transformers"
        ) from error
