"""A limit on the memory of modules that a configuration describes, before it is taken: "r": 1000000000 is one edited number."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from exporter.errors import ExportError

# Elements of all new tensors, 256 MB in fp32, however small the file of the weights is.
_FREE = 2**26
# Names of torch's operators that take a length or a shape.
_FACTORIES = (
    "empty",
    "zeros",
    "ones",
    "full",
    "rand",
    "randn",
    "arange",
    "eye",
    "linspace",
    "empty_strided",
    "new_empty",
    "new_zeros",
    "new_ones",
    "new_full",
)


@contextmanager
def limited_allocations(label: str, stored: int) -> Iterator[None]:
    """Refuse to create tensors of far more elements than the weights that are loaded into them.

    Args:
        label: a description of the model, adapter or head, for messages.
        stored: elements of the weights that are there, or more.

    Raises:
        ExportError: the new tensors have too many elements.
    """
    with _Limit(label, _FREE + 4 * stored):
        yield


def stored_with(weights: Mapping[str, torch.Tensor], model: Any) -> int:
    """Count the elements of weights and of the model's largest parameter, the embeddings, which a head can share."""
    return sum(tensor.numel() for tensor in weights.values()) + max((each.numel() for each in model.parameters()), default=0)


class _Limit(TorchDispatchMode):
    def __init__(self, label: str, most: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._label, self._left = label, most

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Count the elements of a new tensor."""
        name = func.overloadpacket.__name__
        if name in _FACTORIES and args:
            # A length, or a shape that comes first or, for tensors like another, second.
            shapes = [each for each in args if isinstance(each, list | tuple)]
            size = math.prod(shapes[0]) if shapes else next((each for each in args if isinstance(each, int)), 0)
            self._left -= size
            if self._left < 0:
                raise ExportError(
                    f"the configuration of {self._label} describes far more weights than its file contains: it is damaged; "
                    "save it again"
                )
        return func(*args, **(kwargs or {}))
