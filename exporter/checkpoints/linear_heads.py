"""Linear heads over embeddings: scikit-learn's LogisticRegression, arrays, and files of arrays. Pickles are never read."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from safetensors import SafetensorError, safe_open

from exporter.checkpoints.files import first_line
from exporter.errors import ExportError

__all__ = ["LinearHead", "read_heads"]

# The names under which a file has an array.
_WEIGHTS, _BIAS, _LABELS = ("coef_", "coef", "weights", "weight"), ("intercept_", "intercept", "bias"), ("classes_", "classes")
_PICKLES = (".pkl", ".pickle", ".joblib", ".pt", ".bin")
_LOGISTIC = ("LogisticRegression", "LogisticRegressionCV")
_ADVICE = (
    "load it yourself and give the object to exporter.export(heads={name: object}), or save its coefficients with "
    "numpy.savez(file, coef=head.coef_, intercept=head.intercept_, classes=head.classes_.astype(str))"
)


@dataclass(frozen=True, eq=False)
class LinearHead:
    """A linear classifier of embeddings.

    Attributes:
        kind: whether a text has one label or any number.
        weights: [labels, width], in fp32.
        bias: [labels].
        labels: the label names; empty if they are not known.
    """

    kind: Literal["classification", "multilabel"]
    weights: torch.Tensor
    bias: torch.Tensor
    labels: tuple[str, ...]


def read_heads(heads: Any) -> dict[str, LinearHead]:
    """Read linear heads.

    Args:
        heads: task name -> a fitted LogisticRegression of scikit-learn, or several of them in a MultiOutputClassifier or a
            OneVsRestClassifier for multilabel tasks; (weights, bias, labels); or a file (.npz, .safetensors). None for no
            heads.

    Raises:
        ExportError: a head is of another type, is a pickle, contains NaN, or its shapes do not match.
    """
    if heads is None:
        return {}
    if not isinstance(heads, Mapping):
        raise ExportError(f"heads must be a mapping from task names to heads, such as {{'topics': head}}, found {heads!r}")
    found = {}
    for name, head in heads.items():
        if not isinstance(name, str) or not name or "." in name:
            raise ExportError(f"the name of a head must be a text without dots, found {name!r}")
        found[name] = _read(name, head)
    return found


def _read(name: str, head: Any) -> LinearHead:
    if isinstance(head, str | Path):
        return _from_arrays(name, *_file(name, Path(head).expanduser()))
    if isinstance(head, Sequence) and len(head) in (2, 3):
        return _from_arrays(name, *head)
    kind = type(head).__name__
    if kind in _LOGISTIC:
        return _logistic(name, head)
    if kind in ("MultiOutputClassifier", "OneVsRestClassifier") and (kind[0] == "M" or getattr(head, "multilabel_", False)):
        parts = [_logistic(name, each) for each in getattr(head, "estimators_", ())]
        if parts and all(len(part.weights) == 2 for part in parts):
            rows = [(part.weights[1] - part.weights[0], part.bias[1] - part.bias[0]) for part in parts]
            classes = getattr(head, "classes_", ()) if kind[0] == "O" else ()
            weights, bias = (torch.stack(tensors) for tensors in zip(*rows, strict=True))
            return LinearHead("multilabel", weights, bias, tuple(map(str, classes)))
    raise ExportError(
        f"the head {name!r} is a {kind}: expected a fitted LogisticRegression, several of them in a MultiOutputClassifier or a "
        "OneVsRestClassifier for several labels per text, (weights, bias, labels), or a file (.npz, .safetensors)"
    )


def _logistic(name: str, head: Any) -> LinearHead:
    if type(head).__name__ not in _LOGISTIC or not hasattr(head, "coef_"):
        raise ExportError(
            f"the head {name!r} has a {type(head).__name__} that is not a fitted LogisticRegression: fit it first"
        )
    solver, scheme = getattr(head, "solver", None), getattr(head, "multi_class", None)
    if len(head.classes_) > 2 and (solver == "liblinear" or scheme == "ovr"):
        raise ExportError(
            f"the head {name!r} has one binary model per class ({solver}, {scheme}), whose probabilities are not a softmax: "
            "fit it with another solver, without multi_class='ovr'"
        )
    found = _from_arrays(name, head.coef_, head.intercept_, head.classes_)
    if len(head.classes_) == 2 and scheme == "multinomial":
        # The softmax of the value and its opposite, where other schemes have that of the value and 0.
        return replace(found, weights=found.weights - found.weights.flip(0), bias=found.bias - found.bias.flip(0))
    return found


def _from_arrays(name: str, weights: Any, bias: Any = None, labels: Any = None) -> LinearHead:
    try:
        matrix = torch.as_tensor(np.asarray(weights, np.float64))
        offset = torch.zeros(len(matrix)) if bias is None else torch.as_tensor(np.asarray(bias, np.float64)).reshape(-1)
        names = () if labels is None else tuple(map(str, labels))
    except (TypeError, ValueError) as error:
        raise ExportError(f"the head {name!r} does not consist of numbers: {first_line(error)}") from error
    if matrix.dim() == 2 and len(matrix) == 1 and len(names) in (0, 2):
        # scikit-learn has one row for two labels, that of the second: the probabilities are the softmax of 0 and its value.
        matrix = torch.cat((torch.zeros_like(matrix), matrix))
        offset = torch.cat((torch.zeros_like(offset), offset))
    if matrix.dim() != 2 or len(matrix) < 2 or len(offset) != len(matrix) or len(names) not in (0, len(matrix)):
        raise ExportError(
            f"the head {name!r} has weights of shape {list(matrix.shape)}, {len(offset)} biases and {len(names)} labels: "
            "expected weights [labels, width], and a bias and a name for each label"
        )
    if len(set(names)) != len(names):
        raise ExportError(f"the head {name!r} has a label twice: {', '.join(names)}")
    if not (torch.isfinite(matrix).all() and torch.isfinite(offset).all()):
        raise ExportError(f"the head {name!r} contains NaN or infinity: its training diverged")
    return LinearHead("classification", matrix.float(), offset.float(), names)


def _file(name: str, path: Path) -> tuple[Any, Any, Any]:
    """Weights, bias and labels in a file."""
    pickled = path / "model_head.pkl" if path.is_dir() else path
    if pickled.suffix in _PICKLES and pickled.exists():
        raise ExportError(f"the head {name!r} in {str(pickled)!r} is a pickle, which could run code: {_ADVICE}")
    if not path.is_file() or path.suffix not in (".npz", ".safetensors"):
        raise ExportError(f"the head {name!r} is not in {str(path)!r}: expected a file .npz or .safetensors; {_ADVICE}")
    try:
        arrays: dict[str, Any] = {}
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as stored:
                arrays = {key: stored[key] for key in (*_WEIGHTS, *_BIAS, *_LABELS) if key in stored}
        else:
            with safe_open(path, "pt") as tensors:
                arrays = {key: tensors.get_tensor(key).float().numpy() for key in tensors.keys()}  # noqa: SIM118  # no mapping
                labels = json.loads((tensors.metadata() or {}).get("labels", "null"))
            arrays |= {} if labels is None else {"classes": labels}
    except (OSError, ValueError, KeyError, RecursionError, SafetensorError, zipfile.BadZipFile) as error:
        if "Object arrays" in str(error):  # names of pandas, for example
            raise ExportError(
                f"the head {name!r} in {str(path)!r} has an array of Python objects, which is a pickle and could run code: "
                "save numbers, and names as text, classes=head.classes_.astype(str)"
            ) from error
        raise ExportError(f"the head {name!r} in {str(path)!r} cannot be loaded: {first_line(error)}") from error
    weights, bias, classes = (next((arrays[key] for key in keys if key in arrays), None) for keys in (_WEIGHTS, _BIAS, _LABELS))
    if weights is None:
        raise ExportError(f"the head {name!r} in {str(path)!r} has no weights: expected an array {' or '.join(_WEIGHTS)}")
    return weights, bias, classes
