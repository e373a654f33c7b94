"""Plain layers in place of PEFT's tuner layers, in the copy of a model that is traced.

As in PEFT, the weights are in dictionaries with the adapters' names as keys, by which they are bound to tasks;
`activate_folded` selects the adapter.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from typing import Any

import torch
from torch import nn
from torch.nn.functional import embedding, linear

__all__ = [
    "Folded",
    "FoldedAttention",
    "FoldedConv",
    "FoldedEmbedding",
    "FoldedHead",
    "FoldedLinear",
    "FoldedLora",
    "FoldedModule",
    "FoldedTokens",
    "activate_folded",
    "forms_of",
]


class Folded(nn.Module):
    """A layer with other weights per adapter.

    Attributes:
        base_layer: the layer without adapters.
        active: the adapter whose weights are used.
        is_read: whether `weight`, `bias` and other attributes are those of the active adapter. Some models read the weights of
            a layer that they do not call, such as DeBERTa's relative positions: a fine-tune has changed them, and so has an
            adapter that trains biases of the base model, but no other PEFT adapter.
    """

    def __init__(self, base_layer: nn.Module, **weights: Mapping[str, torch.Tensor]) -> None:
        """Store the weights.

        Args:
            base_layer: the layer without adapters.
            weights: name of a dictionary -> adapter -> weight; a dictionary that is absent is empty.
        """
        super().__init__()
        self.base_layer = base_layer
        self.active = ""
        self.is_read = False
        for key, tensors in weights.items():
            frozen = {name: nn.Parameter(tensor.contiguous(), requires_grad=False) for name, tensor in tensors.items()}
            setattr(self, key, nn.ParameterDict(frozen))

    # torch's MultiheadAttention reads both of its last layer, which it does not call: adapters of that layer have no effect, as
    # in PEFT. Some models read the type or the size of a weight.
    @property
    def weight(self) -> Any:
        """The weight of the layer, without PEFT adapters."""
        return self._active_weight() if self.is_read else self.base_layer.weight

    @property
    def bias(self) -> Any:
        """The bias of the layer, without PEFT adapters."""
        return self._active_bias() if self.is_read else self.base_layer.bias

    def has(self, name: str) -> bool:
        """Return whether the layer is another one for an adapter."""
        return any(name in entries for _, entries in self._dictionaries())

    def keep(self, names: Collection[str]) -> None:
        """Remove the weights of all adapters but the given ones."""
        for key, entries in self._dictionaries():
            for name in [name for name in entries if name not in names]:
                del entries[name]
            if not entries:
                delattr(self, key)

    def _active_weight(self) -> Any:
        dense = self._of("dense")
        return self.base_layer.weight if dense is None else dense

    def _active_bias(self) -> Any:
        bias = self._of("biases")
        return self.base_layer.bias if bias is None else bias

    def _dictionaries(self) -> list[tuple[str, Any]]:
        return [(key, child) for key, child in self.named_children() if key != "base_layer"]

    def _of(self, key: str) -> Any:
        tensors: Any = getattr(self, key, {})
        return tensors[self.active] if self.active in tensors else None  # noqa: SIM401  # a ParameterDict warns in get


class FoldedLinear(Folded):
    """A linear layer with `down` [rank, in] and `up` [out, rank], or a `dense` weight [out, in], and possibly other biases.

    Next to factors, `biases` are added to the layer's own bias; next to a dense weight, they take its place.
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the layer's results for [batch, sequence, in]."""
        base: Any = self.base_layer
        dense, bias, down = self._of("dense"), self._of("biases"), self._of("down")
        if dense is not None:
            return linear(x, dense, base.bias if bias is None else bias)
        result: torch.Tensor = base(x)
        if down is not None:
            result = result + linear(linear(x, down), self._of("up"))
        return result if bias is None else result + bias

    def _active_weight(self) -> Any:
        dense, down = self._of("dense"), self._of("down")
        own: Any = self.base_layer.weight
        if dense is None and down is None:
            return own
        turned = type(self.base_layer).__name__ == "Conv1D"
        if dense is not None:
            return dense.t() if turned else dense
        change = self._of("up") @ down
        return own + (change.t() if turned else change)

    def _active_bias(self) -> Any:
        bias, own = self._of("biases"), self.base_layer.bias
        return own if bias is None else bias if self._of("dense") is not None else own + bias


class FoldedLora(FoldedLinear):
    """A linear layer with LoRA, whose scale is multiplied into `up`; the ranks of its adapters may differ."""


class FoldedConv(Folded):
    """A convolution with another kernel and possibly another bias."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the layer's results for [batch, in, …]."""
        base: Any = self.base_layer
        kernel, bias = self._of("dense"), self._of("biases")
        kernel, bias = base.weight if kernel is None else kernel, base.bias if bias is None else bias
        result: torch.Tensor = base._conv_forward(x, kernel, bias)
        return result


class FoldedEmbedding(Folded):
    """An embedding with `down` [vocabulary, rank] and `up` [rank, features], or another table."""

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """Return the embeddings of [batch, sequence] ids."""
        dense = self._of("dense")
        if dense is not None:
            return embedding(ids, dense)
        down = self._of("down")
        result: torch.Tensor = self.base_layer(ids)
        return result if down is None else result + embedding(ids, down) @ self._of("up")

    def _active_weight(self) -> Any:
        down = self._of("down")
        own = super()._active_weight()
        return own if down is None else own + down @ self._of("up")


class FoldedTokens(Folded):
    """An embedding with changed rows: ids in `tokens` [n], and in `rows` [n, features] what is added to their rows."""

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """Return the embeddings of [batch, sequence] ids."""
        result: torch.Tensor = self.base_layer(ids)
        rows: torch.Tensor | None = self._of("rows")
        if rows is None:
            return result
        chosen: torch.Tensor = (ids.unsqueeze(-1) == self._of("tokens")).to(rows.dtype)
        return result + chosen @ rows

    def _active_weight(self) -> Any:
        own: Any = self.base_layer.weight
        return own if self._of("rows") is None else self(torch.arange(len(own), device=own.device))


class FoldedModule(Folded):
    """Any module with other weights: `copies` of the whole module, which share what is not changed."""

    def __init__(self, base_layer: nn.Module, copies: Mapping[str, nn.Module]) -> None:
        """Store the copies by adapter."""
        super().__init__(base_layer)
        self.copies = nn.ModuleDict(copies)

    def __getattr__(self, name: str) -> Any:
        """Return an attribute of the module, such as a part whose type of numbers the model reads."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name in ("base_layer", "copies"):
                raise
            return getattr(self._module(), name)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Return what the copy returns."""
        copy = self._of("copies")
        return self.base_layer(*args, **kwargs) if copy is None else copy(*args, **kwargs)

    def _module(self) -> Any:
        """The module whose attributes are those of this one."""
        copy = self._of("copies") if self.is_read else None
        return self.base_layer if copy is None else copy

    def _active_weight(self) -> Any:
        return self._module().weight

    def _active_bias(self) -> Any:
        return self._module().bias


class FoldedAttention(FoldedModule):
    """An attention of torch with other weights."""


class FoldedHead(FoldedModule):
    """A prediction head."""


def forms_of(model: nn.Module) -> dict[str, int]:
    """Return how many folded layers have a whole weight per adapter, factors of some rank, changed rows, or another bias."""
    layers = [module for module in model.modules() if isinstance(module, Folded)]
    return dict(Counter(form for form in map(_form, layers) if form))


def _form(layer: Any) -> str:
    if isinstance(layer, FoldedHead | FoldedLora):
        return ""
    if hasattr(layer, "down"):
        sizes = [min(tensor.shape) for tensor in layer.down.values()]
        return f"rank {max(sizes)}" if sizes else ""
    forms = {"rows": "changed rows", "dense": "whole weight", "copies": "whole weight", "biases": "other bias"}
    return next((form for key, form in forms.items() if hasattr(layer, key)), "")


def activate_folded(modules: Iterable[nn.Module], name: str) -> None:
    """Select the adapter `name` in all folded layers among the modules of a model."""
    for module in modules:
        if isinstance(module, Folded):
            module.active = name
