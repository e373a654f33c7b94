"""The licences of the packages that the runtime and the exporter require."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterator, Mapping
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

# What users install. gpu replaces cpu and has the same requirements; the plug-ins of openvino (MIT), webgpu (MIT) and
# tensorrt-rtx (Apache-2.0, and NVIDIA's agreement for the libraries in it) require nothing.
PRODUCT = "adapterdrop-onnx[adapters,cpu,export,peft,tokenizers,metrics,ray]"


def required(product: str = PRODUCT) -> set[str]:
    """Return the normalized names of all packages that `product` requires in this environment, without our own."""
    found: set[tuple[str, frozenset[str]]] = set()
    todo = [Requirement(product)]
    while todo:
        current = todo.pop()
        key = (canonicalize_name(current.name), frozenset(current.extras))
        if key not in found:
            found.add(key)
            for each in map(Requirement, importlib.metadata.requires(current.name) or ()):
                if each.name.startswith("adapterdrop-onnx-"):  # the other distributions of this project require nothing else
                    continue
                if each.marker is None or any(each.marker.evaluate({"extra": extra}) for extra in ("", *current.extras)):
                    todo.append(each)
    return {name for name, _ in found} - {canonicalize_name(Requirement(product).name)}


def stated(metadata: Any, names: Mapping[str, str]) -> str:
    """Return the licence that the metadata of a package state: the expression, else the classifiers, else the field License.

    Args:
        metadata: the metadata as importlib.metadata reads them, an email.message.Message.
        names: texts -> identifier.
    """
    if expression := metadata.get("License-Expression"):
        return str(expression)
    classifiers = metadata.get_all("Classifier") or ()
    found = [each.rpartition(" :: ")[2] for each in classifiers if each.startswith("License ::") and each.count(" :: ") > 1]
    return " OR ".join(names.get(each, each) for each in found) or _field(str(metadata.get("License") or ""), names)


def _field(text: str, names: Mapping[str, str]) -> str:
    first = (text.strip().splitlines() or [""])[0]
    return names.get(first, first)


def is_allowed(expression: str, allowed: set[str]) -> bool:
    """Whether an SPDX expression allows the use under allowed licences. Where parentheses are, all of its licences must be."""
    if "(" in expression:
        parts = expression.replace("(", " ").replace(")", " ").replace(" OR ", " AND ").split(" AND ")
        return all(part.strip() in allowed for part in parts)
    return any(all(part.strip() in allowed for part in choice.split(" AND ")) for choice in expression.split(" OR "))


def problems(settings: Mapping[str, Any]) -> Iterator[str]:
    """Yield a line for each required package whose licence is not allowed; `settings`: the table licences of audit.toml."""
    allowed, accepted = set(settings["allowed"]), settings["accepted"]
    for name in sorted(required() - set(accepted)):
        found = stated(importlib.metadata.metadata(name), settings["names"])
        if not is_allowed(found, allowed):
            yield f"{name}: the licence {found or '(not stated)'!r} is not allowed"
