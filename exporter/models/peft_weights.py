"""The constant weights to which PEFT's tuner layers amount, found by running the library's own layers.

Most tuners change nothing but the weight and the bias of a layer: the adapted layer is a plain layer with other numbers. Which
numbers is computed here without knowledge of the tuner, in double precision: a linear layer by its results for zero and for the
unit vectors, an embedding by its rows, a convolution by its results for the unit kernels.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from exporter.models.quiet_libraries import quiet

__all__ = ["effective_weights", "factorize", "is_conv", "is_linear", "merged_attention"]

# A layer is linear if its results for random inputs deviate by less than this from the weight's, relative to the largest.
_LINEAR = 1e-5
# The same for the change of a weight as a tuner gives it: only an exact one is used.
_EXACT = 1e-9
# Singular values below this, relative to the largest, are rounding errors: some tuners compute in fp32 whatever they are given.
_RANK = 1e-6
Weights = tuple[torch.Tensor, torch.Tensor | None]


def is_linear(base: nn.Module) -> bool:
    """Return whether a layer is `nn.Linear` or the transposed one of GPT-2."""
    return isinstance(base, nn.Linear) or type(base).__name__ == "Conv1D"


def is_conv(base: nn.Module) -> bool:
    """Return whether a layer is a convolution."""
    return isinstance(base, nn.Conv1d | nn.Conv2d | nn.Conv3d)


def effective_weights(layer: Any, names: Sequence[str]) -> dict[str, Weights] | None:
    """Return the weight and bias of a plain layer with the results of a tuner layer, for each adapter.

    Args:
        layer: a tuner layer of PEFT around a linear layer, an embedding or a convolution; it is not changed.
        names: the adapters.

    Returns:
        Adapter -> weight in the shape of `nn.Linear`, `nn.Embedding` or the convolution, and bias, in double precision; None if
        some adapter is not of this form, but for example a function of the input.
    """
    probe = copy.deepcopy(layer).eval()
    found: dict[str, Weights] = {}
    with torch.no_grad(), quiet():
        try:
            _activate(probe.double(), names[0])
            _weights(probe)
        except RuntimeError:  # the layer computes in fp32 only
            probe = copy.deepcopy(layer).eval()
        for name in names:
            _activate(probe, name)
            weights = _from_change(probe, name) or _weights(probe)
            if weights is None:
                return None
            found[name] = weights
    return found


def merged_attention(layer: Any, name: str) -> nn.Module:
    """Return the attention of torch that amounts to LoRA on it; it shares the biases of the base model.

    PEFT itself merges the adapter into the weights in every forward pass.

    Args:
        layer: a `peft.tuners.lora.layer.MultiheadAttention`; it is not changed.
        name: the adapter.
    """
    probe = copy.deepcopy(layer).double().eval()
    with torch.no_grad(), quiet():
        _activate(probe, name)
        probe.merge()
    own, found = layer.base_layer, probe.base_layer
    kept = {id(tensor): tensor for tensor in own.parameters()}
    plain: nn.MultiheadAttention = copy.deepcopy(own, kept)
    plain.out_proj = own.out_proj.get_base_layer()
    for module, weight, value in (
        (plain, "in_proj_weight", found.in_proj_weight),
        (plain.out_proj, "weight", found.out_proj.get_base_layer().weight),
    ):
        module.register_parameter(weight, nn.Parameter(value.detach().float(), requires_grad=False))
    return plain


def _activate(layer: nn.Module, name: str) -> None:
    modules: list[Any] = list(layer.modules())
    for module in modules:
        if hasattr(module, "base_layer"):
            module.enable_adapters(True)
            module.set_adapter(name)


def _weights(layer: Any) -> Weights | None:
    base: Any = layer.get_base_layer()
    if isinstance(base, nn.Embedding):
        return layer(torch.arange(base.num_embeddings).unsqueeze(0)).squeeze(0).double(), None
    kind = base.weight.dtype
    if is_conv(base):
        weight, bias = _kernel(layer, base, kind)
        example = _example(2, base.in_channels, *(4 * size for size in _extent(base))).to(kind)
        plain = _convolved(base, example.double(), weight, bias)
    else:
        size = base.weight.shape[1] if isinstance(base, nn.Linear) else base.weight.shape[0]
        bias = layer(torch.zeros(1, 1, size, dtype=kind)).view(-1).double()
        weight = (layer(torch.eye(size, dtype=kind).unsqueeze(0)).squeeze(0).double() - bias).t()
        example = _example(2, 3, size).to(kind)
        plain = nn.functional.linear(example.double(), weight, bias)
    error = (layer(example).double() - plain).abs().max()
    if not error <= _LINEAR * max(1.0, float(plain.abs().max())):
        return None
    return weight, bias if bool(bias.any()) or base.bias is not None else None


def _from_change(layer: Any, name: str) -> Weights | None:
    """The weights from the change that most tuners can tell, which takes less time than results for all unit vectors."""
    base = layer.base_layer
    if not is_linear(base) or not hasattr(layer, "get_delta_weight"):
        return None
    try:
        change = layer.get_delta_weight(name)
    except (RuntimeError, TypeError, NotImplementedError):
        return None
    if not isinstance(change, torch.Tensor):  # BOFT gives a rotation and a scale
        return None
    change = change.double()
    own = base.weight.double() if isinstance(base, nn.Linear) else base.weight.double().t()
    change = change if change.shape == own.shape else change.t()
    if change.shape != own.shape:
        return None
    bias = None if base.bias is None else base.bias.double()
    example = _example(2, 3, own.shape[1]).to(base.weight.dtype)
    plain = nn.functional.linear(example.double(), own + change, bias)
    error = (layer(example).double() - plain).abs().max()
    return (own + change, bias) if error <= _EXACT * max(1.0, float(plain.abs().max())) else None


def _example(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def _extent(base: Any) -> tuple[int, ...]:
    """How many positions a kernel covers, by axis."""
    return tuple(step * (size - 1) + 1 for size, step in zip(base.kernel_size, base.dilation, strict=True))


def _convolved(base: Any, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    plain = copy.copy(base)
    plain._parameters = {"weight": weight, "bias": bias}
    result: torch.Tensor = plain(x)
    return result


def _kernel(layer: Any, base: Any, kind: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """The kernel of a convolution without padding, from its results for inputs of the size of the kernel."""
    sizes, channels = tuple(base.kernel_size), base.in_channels
    places = tuple(slice(None, None, step) for step in base.dilation)
    count = channels * math.prod(sizes)
    units = torch.zeros(count, channels, *_extent(base), dtype=kind)
    units[(slice(None), slice(None), *places)] = torch.eye(count, dtype=kind).view(count, channels, *sizes)
    with _unpadded(layer):
        bias = layer(torch.zeros(1, *units.shape[1:], dtype=kind)).view(-1).double()
        result = layer(units).view(count, -1).double() - bias
    if base.groups == 1:
        return result.t().reshape(-1, channels, *sizes), bias
    # A filter sees the channels of its group only.
    whole, per_group = result.t().reshape(base.groups, -1, base.groups, channels // base.groups, *sizes), range(base.groups)
    return torch.cat([whole[group, :, group] for group in per_group]), bias


@contextmanager
def _unpadded(layer: nn.Module) -> Iterator[None]:
    padded: list[Any] = [module for module in layer.modules() if is_conv(module)]
    before = [(vars(module)["padding"], vars(module)["padding_mode"]) for module in padded]
    for module in padded:
        module.padding, module.padding_mode = (0,) * len(module.kernel_size), "zeros"
    try:
        yield
    finally:
        for module, (padding, mode) in zip(padded, before, strict=True):
            module.padding, module.padding_mode = padding, mode


def factorize(deltas: Sequence[torch.Tensor], limit: int) -> list[tuple[torch.Tensor, torch.Tensor]] | None:
    """Write matrices as products of two factors of one rank, where all of them have a low rank.

    Args:
        deltas: matrices of one shape, [out, in], in double precision.
        limit: the largest rank.

    Returns:
        Per matrix the factors [rank, in] and [out, rank], whose product is the matrix up to 1e-6 of its norm; matrices of lower
        rank have zeros. None if the rank of some matrix exceeds `limit`.
    """
    found = []
    for delta in deltas:
        factors = _factors(delta, limit)
        if factors is None:
            return None
        found.append(factors)
    rank = max(len(down) for down, _ in found)
    return [
        (nn.functional.pad(down, (0, 0, 0, rank - len(down))), nn.functional.pad(up, (0, rank - len(down))))
        for down, up in found
    ]


def _factors(delta: torch.Tensor, limit: int) -> tuple[torch.Tensor, torch.Tensor] | None:
    norm = float(delta.norm())
    if norm == 0:
        return delta.new_zeros(0, delta.shape[1]), delta.new_zeros(delta.shape[0], 0)
    # A random sketch: its columns span those of the matrix if there are more of them than the rank (Halko et al., 2011).
    generator = torch.Generator().manual_seed(0)
    columns = 16
    while True:
        columns = min(columns, limit + 8, *delta.shape)
        sketch = delta @ torch.randn(delta.shape[1], columns, generator=generator, dtype=delta.dtype)
        basis = torch.linalg.qr(sketch)[0]
        inner = basis.t() @ delta
        if float((delta - basis @ inner).norm()) <= _RANK * norm:
            break
        if columns in (limit + 8, *delta.shape):
            return None
        columns *= 4
    left, values, right = torch.linalg.svd(inner, full_matrices=False)
    rank = int((values > _RANK * values[0]).sum())
    if rank > limit:
        return None
    root = values[:rank].sqrt()
    return root[:, None] * right[:rank], (basis @ left[:, :rank]) * root
