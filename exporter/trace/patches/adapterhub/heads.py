"""Patches for named prediction heads that torch.export cannot trace, or that require a certain number of rows.

The rules of methods.py apply: a copy of the user's model is changed in place, its results are not changed.
"""

from __future__ import annotations

from collections.abc import Callable
from types import MethodType
from typing import Any

import torch
from adapters.context import ForwardContext
from adapters.heads import BiaffineParsingHead, MultipleChoiceHead, PredictionHead
from adapters.heads.dependency_parsing import DependencyParsingOutput
from torch import nn
from transformers.modeling_outputs import MultipleChoiceModelOutput

from exporter.models.module_surgery import bind, modules_of
from exporter.trace.patches.heads import decoded, last_eos

__all__ = ["HEAD_PATCHES"]

# By name, because importing a class imports its whole architecture.
_EOS_IN_HEAD = frozenset({"BartAdapterModel", "PLBartAdapterModel"})
_EOS_IN_MODEL = frozenset({"MBartAdapterModel", "T5AdapterModel", "MT5AdapterModel"})
_POOLED = frozenset({"ClassificationHead", "MultiLabelClassificationHead"})


def patch_eos_pooling(model: nn.Module) -> None:
    """Select the state at the last end-of-sequence token, as exporter/trace/patches/heads.py does for models with one head."""
    name = type(model).__name__
    if name in _EOS_IN_HEAD:
        for head in modules_of(model, PredictionHead):
            head._get_cls_output = MethodType(_cls_output, head)
    elif name in _EOS_IN_MODEL:
        bind(model, ForwardContext.wrap(_eos_forward))


def _cls_output(head: Any, outputs: Any, **kwargs: Any) -> Any:
    if kwargs.get("get_cls_from_eos_tokens", False) and not head.config["use_pooler"]:
        return last_eos(outputs[0], kwargs["eos_mask"])
    return type(head)._get_cls_output(head, outputs, **kwargs)


def _eos_forward(model: Any, input_ids: torch.Tensor, head: str | None = None, **kwargs: Any) -> Any:
    used = model._get_used_heads(head)
    if type(model).__name__ == "MBartAdapterModel" and head is None:
        used = list(model.heads.values())[:1]  # the library reads the pooling from the first head, not from the active one
    if "decoder_input_ids" in kwargs or not any(type(one).__name__ in _POOLED for one in used):
        return type(model).forward(model, input_ids, head=head, **kwargs)
    outputs = decoded(model, input_ids, kwargs)
    # T5 scales the states for language heads with tied embeddings; classification uses the unscaled state.
    pooled = last_eos(outputs[0], input_ids.eq(model.config.eos_token_id))
    return model.forward_head(outputs, head_name=head, cls_output=pooled, return_dict=True)


def patch_multiple_choice(model: nn.Module) -> None:
    """Compute the scores of multiple choice heads as [rows, 1], where each row is one choice.

    The library reshapes them to [questions, choices], which requires a batch that is a multiple of the number of choices. The
    scores and their order are the same.
    """
    for head in modules_of(model, MultipleChoiceHead):
        bind(head, _one_score_per_row)


def _one_score_per_row(head: Any, outputs: Any, cls_output: Any = None, *_: Any, **kwargs: Any) -> Any:
    if cls_output is None:
        cls_output = head._get_cls_output(outputs, **kwargs)
    scores = nn.Sequential.forward(head, cls_output)  # type: ignore[no-untyped-call]
    return MultipleChoiceModelOutput(logits=scores)


def patch_dependency_parsing(model: nn.Module) -> None:
    """Average the tokens of each word without Python loops over rows and words, for dependency parsing heads.

    Loops make the batch static and depend on input values. The patch compares the positions of the words' first tokens with all
    positions, which gives the tokens of all words at once; the results are equal up to rounding. As in the library, entries
    equal to the padding id are skipped, and words end at the first start that is not positive. The library's `squeeze()` of all
    axes becomes one of axis 1.
    """
    for head in modules_of(model, BiaffineParsingHead):
        bind(head, _parsing_forward)


def _parsing_forward(head: Any, outputs: Any, *_: Any, word_starts: torch.Tensor, **_kwargs: Any) -> Any:
    tokens = head.dropout(outputs[0])
    words = _word_means(tokens, word_starts, head.model_config.pad_token_id)
    heads = torch.cat([tokens[:, :1], words], 1)  # the first token stands for the root
    return DependencyParsingOutput(
        rel_preds=head.biaffine_rels(words, heads).permute(0, 2, 3, 1), arc_preds=head.biaffine_arcs(words, heads).squeeze(1)
    )


def _word_means(tokens: torch.Tensor, starts: torch.Tensor, padding: int) -> torch.Tensor:
    """The means of each word's tokens, followed by zeros.

    Tokens [batch, sequence, features] and starts [batch, words] -> [batch, sequence, features].
    """
    positions = torch.arange(tokens.shape[1] + 1, device=tokens.device)
    kept = starts.ne(padding)
    # The entry with number `positions` of those kept, [batch, sequence + 1]; beyond the last one zero, which ends the words.
    chosen = (kept.cumsum(1) - 1).unsqueeze(1).eq(positions[:, None]) & kept.unsqueeze(1)
    first = (chosen * starts.unsqueeze(1)).sum(2)
    ended = first[:, 1:].le(0).to(torch.int64).cumsum(1).gt(0)
    begin, end = first[:, :-1, None], first[:, 1:, None]
    member = (begin.le(positions[:-1]) & end.gt(positions[:-1]) & ~ended.unsqueeze(2)).to(tokens.dtype)
    # As in the library, an empty word is 0 / 0.
    counts = torch.where(ended, 1.0, member.sum(2))
    return member @ tokens / counts.unsqueeze(2)


HEAD_PATCHES: tuple[Callable[[nn.Module], None], ...] = (patch_eos_pooling, patch_multiple_choice, patch_dependency_parsing)
