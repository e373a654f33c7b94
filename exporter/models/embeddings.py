"""Text embeddings: the modules after a text encoder that make one vector per text, as sentence-transformers computes them.

A PEFT model has them per adapter, in `VectorHeads`, whose entries are task weights like those of the adapters. A forward
hook adds their result to the output of the model, so that the trace and the reference run the same model.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import torch
from torch import nn

from exporter.models.peft_prompts import prompt_positions
from runtime.bundle import HeadType

__all__ = [
    "ACTIVATIONS",
    "POOLINGS",
    "Dense",
    "Embedder",
    "Normalize",
    "Pooling",
    "Truncate",
    "activate_embedder",
    "add_embedders",
    "embedder_of",
    "keep_embedders",
]

POOLINGS = ("cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken")
# By the names that sentence-transformers writes: they are compared, never imported.
ACTIVATIONS: Mapping[str, type[nn.Module]] = {
    **{
        f"torch.nn.modules.activation.{kind.__name__}": kind
        for kind in (nn.Tanh, nn.ReLU, nn.GELU, nn.SiLU, nn.Sigmoid, nn.ELU, nn.LeakyReLU, nn.Softplus, nn.Mish, nn.Hardswish)
    },
    "torch.nn.modules.linear.Identity": nn.Identity,
}
# The attribute of a model that contains the modules of its adapters.
_ATTRIBUTE = "vector_heads"
_FIELD = "sentence_embedding"


class Pooling(nn.Module):
    """Pooling of the hidden states of the tokens; the results of several modes are concatenated.

    As in sentence-transformers 6. All modes read only the tokens that the mask names, and count positions from the first of
    them, so that a vector depends neither on padding nor on its side. A row without tokens, which no tokenizer with special
    tokens makes and for which that library gives what the padding holds, minus infinity or zero by the mode, gives zeros.
    """

    def __init__(self, modes: Sequence[str]) -> None:
        """Set the modes, some of `POOLINGS`, in the order of the concatenation."""
        super().__init__()
        self.modes = tuple(modes)

    def forward(self, hidden: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Return [batch, modes x features] for the states [batch, sequence, features] and the mask [batch, sequence]."""
        return torch.cat([_POOL[mode](hidden, mask) for mode in self.modes], -1)


def _first(mask: torch.Tensor) -> torch.Tensor:
    """The position of the first token of each row; 0 for a row without tokens."""
    count = mask.shape[1]
    last = (mask * (count - torch.arange(count, device=mask.device))).amax(1)
    return torch.where(last == 0, 0, count - last)


def _has_tokens(mask: torch.Tensor, hidden: torch.Tensor) -> torch.Tensor:
    return mask.amax(1)[:, None].to(hidden.dtype)


def _at(hidden: torch.Tensor, position: torch.Tensor) -> torch.Tensor:
    """The state at one position of each row; a gather, which `PushSlicesPass` moves up to the last layer."""
    return hidden.gather(1, position[:, None, None].expand(-1, 1, hidden.shape[-1])).squeeze(1)


def _cls(hidden: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    return _at(hidden, _first(mask)) * _has_tokens(mask, hidden)


def _last(hidden: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    position = (mask * torch.arange(mask.shape[1], device=mask.device)).amax(1)
    return _at(hidden, position) * _has_tokens(mask, hidden)


def _max(hidden: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    found = hidden.masked_fill(mask[:, :, None] == 0, -torch.inf).amax(1)
    return torch.where(mask.amax(1)[:, None] == 0, 0.0, found)


def _weighted(hidden: torch.Tensor, weights: torch.Tensor, divisor: torch.Tensor) -> torch.Tensor:
    """Weights [batch, sequence], integers, and the divisor of their sum [batch], at least 1.

    The weights are divided, not the sum, which could exceed the range of fp16.
    """
    shares = weights.to(hidden.dtype) / divisor.to(hidden.dtype)[:, None]
    return (shares[:, None] @ hidden).squeeze(1)


def _mean(hidden: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    return _weighted(hidden, mask, mask.sum(1).clamp(min=1))


def _mean_sqrt(hidden: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    return _weighted(hidden, mask, mask.sum(1).clamp(min=1).to(hidden.dtype).sqrt())


def _weighted_mean(hidden: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    positions = torch.arange(1, mask.shape[1] + 1, device=mask.device)
    weights = mask * (positions - _first(mask)[:, None])
    return _weighted(hidden, weights, weights.sum(1).clamp(min=1))


_POOL = {
    "cls": _cls,
    "max": _max,
    "mean": _mean,
    "mean_sqrt_len_tokens": _mean_sqrt,
    "weightedmean": _weighted_mean,
    "lasttoken": _last,
}


class Dense(nn.Module):
    """A linear layer with an activation, and optionally the input added to its result."""

    def __init__(self, sizes: tuple[int, int], bias: bool, activation: str, residual: bool) -> None:
        """Set the sizes (features in, features out), and the activation, one of `ACTIVATIONS`."""
        super().__init__()
        self.linear = nn.Linear(*sizes, bias=bias)
        self.activation = ACTIVATIONS[activation]()
        self.adds_input = residual
        if residual and sizes[0] != sizes[1]:
            self.residual = nn.Linear(*sizes, bias=False)

    def forward(self, vector: torch.Tensor) -> torch.Tensor:
        """Return [batch, features out] for [batch, features in]."""
        found: torch.Tensor = self.activation(self.linear(vector))
        if not self.adds_input:
            return found
        return found + (self.residual(vector) if hasattr(self, "residual") else vector)


class Normalize(nn.Module):
    """Division by the Euclidean length."""

    def forward(self, vector: torch.Tensor) -> torch.Tensor:
        """Return vectors of length 1."""
        return nn.functional.normalize(vector, dim=-1)


class Truncate(nn.Module):
    """The first numbers of a vector, as many as `truncate_dim` of sentence-transformers says."""

    def __init__(self, width: int) -> None:
        """Set the number of them."""
        super().__init__()
        self.width = width

    def forward(self, vector: torch.Tensor) -> torch.Tensor:
        """Return [batch, width]."""
        return vector[:, : self.width]


class Embedder(nn.Module):
    """From the hidden states of one text encoder to embeddings.

    Attributes:
        pooling: the pooling.
        steps: the modules after it, in order.
        width: numbers of an embedding.
        prompts: name -> text that comes before a text.
        default_prompt: the name of the default prompt; empty for none.
        kind: the type of the result: an embedding, or the logits of a linear classifier, which is the last step.
        labels: the label names of a classifier.
    """

    def __init__(
        self,
        modes: Sequence[str],
        steps: Sequence[nn.Module],
        width: int,
        prompts: Mapping[str, str] = MappingProxyType({}),
        default_prompt: str = "",
        kind: HeadType = "sentence_embedding",
        labels: tuple[str, ...] = (),
    ) -> None:
        """Set the modes of the pooling, and the attributes."""
        super().__init__()
        self.pooling = Pooling(modes)
        self.steps = nn.Sequential(*steps)
        self.width = width
        self.prompts = dict(prompts)
        self.default_prompt = default_prompt
        self.kind: HeadType = kind
        self.labels = labels

    def forward(self, hidden: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Return [batch, width or labels] for the states [batch, sequence, features] and the mask [batch, sequence]."""
        vector: torch.Tensor = self.steps(self.pooling(hidden, mask))
        return vector

    def structure(self) -> list[Any]:
        """Return everything but weights that the graph depends on, as JSON types."""
        steps = [[type(step).__name__, _settings(step)] for step in self.steps]
        return [list(self.pooling.modes), self.width, steps, *([self.kind] if self.labels else [])]


def _settings(step: nn.Module) -> list[Any]:
    """The settings of a step, other than weights; `Normalize` has none."""
    if isinstance(step, nn.LayerNorm):
        return [*step.normalized_shape, step.eps]
    if isinstance(step, Dense):
        has_bias, activation = step.linear.bias is not None, type(step.activation).__name__
        return [step.linear.in_features, step.linear.out_features, has_bias, activation, step.adds_input]
    return [step.width] if isinstance(step, Truncate) else []


class VectorHeads(nn.ModuleDict):
    """Adapter name -> `Embedder`.

    Attributes:
        active: the adapter whose embeddings are computed.
    """

    active: str = ""


def add_embedders(model: Any, embedders: Mapping[str, Embedder], active: str = "") -> None:
    """Let a model compute the embeddings of some of its adapters, in place.

    Args:
        model: a PEFT model without a head.
        embedders: adapter name -> its modules.
        active: the adapter that is active.
    """
    if not embedders:
        return
    heads = VectorHeads(embedders)
    heads.active = active
    setattr(model, _ATTRIBUTE, heads.eval())
    model.register_forward_hook(_add_vector, with_kwargs=True)


def _add_vector(model: Any, _: Any, given: Mapping[str, Any], output: Any) -> Any:
    heads = getattr(model, _ATTRIBUTE)
    if heads.active in heads:
        hidden, mask = output["last_hidden_state"], given["attention_mask"]
        if start := prompt_positions(model, "hidden_states"):
            # The positions of a prompt of PEFT are pooled, too, as in its training with sentence-transformers.
            mask = torch.cat((torch.ones_like(mask[:, :1]).expand(-1, start), mask), 1)
        field = _FIELD if heads[heads.active].kind == _FIELD else "logits"
        output[field] = heads[heads.active](hidden, mask)
    return output


def embedder_of(model: Any, adapter: str) -> Embedder | None:
    """Return the modules of an adapter of a model; None for an adapter whose outputs are hidden states or those of a head."""
    heads = getattr(model, _ATTRIBUTE, None)
    return heads[adapter] if heads is not None and adapter in heads else None


def keep_embedders(model: Any, adapters: Collection[str]) -> None:
    """Remove the modules of all adapters but the given ones from a model, in place."""
    heads = getattr(model, _ATTRIBUTE, {})
    for name in [name for name in heads if name not in adapters]:
        del heads[name]


def activate_embedder(model: Any, adapter: str) -> None:
    """Compute the embeddings of one adapter."""
    if hasattr(model, _ATTRIBUTE):
        getattr(model, _ATTRIBUTE).active = adapter
