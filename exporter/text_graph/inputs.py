"""The inputs of a graph of tasks from the tokens of texts: truncation, special tokens, padding, masks and types."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from exporter.text_graph.part import Part
from exporter.text_graph.refusals import refused

_PROBES = ("a", "b")


@dataclass(frozen=True)
class Template:
    """Special tokens around one text, or around the texts of a pair.

    Attributes:
        parts: ids of the special tokens before the first text, after it, and after the second text; of one text, the last is
            empty.
        types: token types of the special tokens, as `parts`.
        text_types: token types of the first and the second text.
    """

    parts: tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]
    types: tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]
    text_types: tuple[int, int]

    @classmethod
    def of(cls, tokenizer: Any, *texts: str) -> Template:
        """Measure the template of one text or a pair.

        Raises:
            ExportError: the texts do not follow each other.
        """
        encoding = tokenizer.encode(*texts)
        places = [[at for at, part in enumerate(encoding.sequence_ids) if part == which] for which in range(len(texts))]
        if any(not place or place != list(range(place[0], place[-1] + 1)) for place in places) or places != sorted(places):
            raise refused("the tokenizer's special tokens are not before, between or after the texts")
        bounds = [0, *(end for place in places for end in (place[0], place[-1] + 1)), len(encoding)]
        slices = [slice(*pair) for pair in zip(bounds[::2], bounds[1::2], strict=True)]
        slices += [slice(0, 0)] * (3 - len(slices))
        first, middle, last = (tuple(encoding.ids[each]) for each in slices)
        types = tuple(tuple(encoding.type_ids[each]) for each in slices)
        text_types = [encoding.type_ids[place[0]] for place in places]
        return cls((first, middle, last), (types[0], types[1], types[2]), (text_types[0], text_types[-1]))


@dataclass(frozen=True)
class Layout:
    """How tokens become rows.

    Attributes:
        limit: most tokens of a row, with special tokens; None without a limit.
        pad_id: id of the padding token.
        pad_left: pad on the left.
        cut_left: remove tokens from the start of texts that are too long.
    """

    limit: int | None
    pad_id: int
    pad_left: bool
    cut_left: bool


def graph_inputs(tokenizer: Any, layout: Layout) -> Part:
    """Return the part that makes input_ids, attention_mask and token_type_ids, int64 [batch, sequence].

    It reads `ids` and `starts` of `exporter.text_graph.part`; `text` and `text_pair` are the inputs of the whole graph. Texts
    that are too long are truncated as the strategy "longest_first" of transformers does. Rows are padded to the longest one.

    Args:
        tokenizer: tokenizer of the tokenizers library.
        layout: how tokens become rows.

    Raises:
        ExportError: see `Template.of`.
    """
    single, pair = Template.of(tokenizer, _PROBES[0]), Template.of(tokenizer, *_PROBES)
    templates = (single, pair)
    specials = [[token for part in each.parts for token in part] for each in templates]
    types = [[kind for part in each.types for kind in part] for each in templates]
    width = max(map(len, specials))
    ints = {
        # One row for single texts and one for pairs
        "specials": [each + [0] * (width - len(each)) for each in specials],
        "special_types": [each + [0] * (width - len(each)) for each in types],
        "special_sizes": [[len(part) for part in each.parts] for each in templates],
        "text_types": [each.text_types for each in templates],
        "limit": 2**31 - 1 if layout.limit is None else layout.limit,
        "pad_ids": [layout.pad_id],
        "pad_types": [0],
        "axis_2": [2],
        "text_axes": [1, 2],
        "swapped": [1, 0],
        "second_of_equals": [[0], [1]],
    }
    # From both_axes on, the first axis is that of the first and the second texts; those of single texts are empty.
    # A text keeps what the other one leaves of the room, or half of the room; of an odd room, the longer text keeps more.
    text = f"""
        batch = Size(text)
        pairs = Size(text_pair)
        is_pair = Greater(pairs, zero)
        row = Cast <to = 7> (is_pair)
        special_ids = Gather <axis = 0> (specials, row)
        special_kinds = Gather <axis = 0> (special_types, row)
        sizes = Gather <axis = 0> (special_sizes, row)
        kinds = Gather <axis = 0> (text_types, row)
        batch_axis = Unsqueeze(batch, axis_0)
        both_axes = Concat <axis = 0> (axis_2, batch_axis)
        singles = Sub(one, row)
        absent = Mul(batch_axis, singles)
        nothing = ConstantOfShape <value: tensor = int64[1] {{0}}> (absent)
        text_first = Slice(starts, axis_0, last)
        text_next = Slice(starts, axis_1, far)
        text_length = Sub(text_next, text_first)
        all_first = Concat <axis = 0> (text_first, nothing)
        all_length = Concat <axis = 0> (text_length, nothing)
        one_text_pair_for_each_text = Reshape(all_first, both_axes)
        one_text_pair_for_each_text_length = Reshape(all_length, both_axes)
        start = Identity(one_text_pair_for_each_text)
        length = Identity(one_text_pair_for_each_text_length)

        special_count = ReduceSum <keepdims = 0> (sizes)
        free = Sub(limit, special_count)
        room = Max(free, zero)
        half = Div(room, two)
        larger_half = Sub(room, half)
        other_length = Gather <axis = 0> (length, swapped)
        longer_by = Sub(length, other_length)
        longer_or_second = Add(longer_by, second_of_equals)
        is_longer = Greater(longer_or_second, zero)
        share = Where(is_longer, larger_half, half)
        left = Sub(room, other_length)
        most = Max(left, share)
        kept = Min(length, most)

        texts_kept = ReduceSum <keepdims = 0> (kept, axis_0)
        total = Add(texts_kept, special_count)
        totals = Concat <axis = 0> (total, axis_1)
        width = ReduceMax <keepdims = 0> (totals)
        column = Range(zero, width, one)
        total_row = Unsqueeze(total, axis_1)
        missing = Sub(width, total_row)
        place = {"Sub(column, missing)" if layout.pad_left else "Add(column, zero)"}
        at_least_0 = GreaterOrEqual(place, zero)
        is_used = Less(place, total_row)
        inside = And(at_least_0, is_used)

        kept_before = CumSum <exclusive = 1> (kept, zero)
        special_before = CumSum(sizes, zero)
        special_before_texts = Slice(special_before, axis_0, axis_2)
        special_before_row = Unsqueeze(special_before_texts, axis_1)
        begin = Add(kept_before, special_before_row)
        removed = Sub(length, kept)
        kept_from = {"Add(start, removed)" if layout.cut_left else "Identity(start)"}
        token_offset = Sub(kept_from, begin)
        begin_row = Unsqueeze(begin, axis_2)
        kept_row = Unsqueeze(kept, axis_2)
        offset_row = Unsqueeze(token_offset, axis_2)
        end_row = Add(begin_row, kept_row)
        from_begin = GreaterOrEqual(place, begin_row)
        until_end = Less(place, end_row)
        in_text = And(from_begin, until_end)
        in_text_number = Cast <to = 7> (in_text)
        in_any_text = ReduceMax <keepdims = 0> (in_text_number, axis_0)
        is_text = Cast <to = 9> (in_any_text)
        token_at = Add(place, offset_row)
        token_of_text = Mul(token_at, in_text_number)
        text_source = ReduceSum <keepdims = 0> (token_of_text, axis_0)
        is_after = GreaterOrEqual(place, end_row)
        after_number = Cast <to = 7> (is_after)
        skipped_of_text = Mul(kept_row, after_number)
        skipped = ReduceSum <keepdims = 0> (skipped_of_text, axis_0)
        special_at = Sub(place, skipped)
        not_text = Not(is_text)
        is_special = And(inside, not_text)
        pad_at = Size(special_ids)
        special_or_pad = Where(is_special, special_at, pad_at)

        token_count = Size(ids)
        special_source = Add(special_or_pad, token_count)
        source = Where(is_text, text_source, special_source)
        all_ids = Concat <axis = 0> (ids, special_ids, pad_ids)
        input_ids = Gather(all_ids, source)
        attention_mask = Cast <to = 7> (inside)

        all_kinds = Concat <axis = 0> (special_kinds, pad_types)
        special_kind = Gather(all_kinds, special_or_pad)
        text_kinds = Unsqueeze(kinds, text_axes)
        kind_of_text = Mul(text_kinds, in_text_number)
        text_kind = ReduceSum <keepdims = 0> (kind_of_text, axis_0)
        token_type_ids = Where(is_text, text_kind, special_kind)"""
    return Part(text, {name: np.array(value, np.int64) for name, value in ints.items()})
