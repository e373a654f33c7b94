"""The inputs of a graph of tasks from the tokens of texts: truncation, special tokens, padding, masks and types."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from exporter.errors import ExportError
from exporter.text_graph.part import Part

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
            raise ExportError("--with-tokenizer: the tokenizer's special tokens are not before, between or after the texts")
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


def graph_inputs(tokenizer: Any, layout: Layout, ids: str, starts: str) -> Part:
    """Return the part that makes input_ids, attention_mask and token_type_ids, int64 [batch, sequence].

    `text` and `text_pair` are the inputs of the whole graph. Texts that are too long are truncated as the strategy
    "longest_first" of transformers does. Rows are padded to the longest one.

    Args:
        tokenizer: tokenizer of the tokenizers library.
        layout: how tokens become rows.
        ids: name of the ids of the tokens of all texts and then all second texts, int64 [tokens].
        starts: name of the index of each text's first token and their number, int64 [texts + 1].

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
    }
    text = f"""
        batch = Size(text)
        pairs = Size(text_pair)
        is_pair = Greater(pairs, zero)
        row = Cast <to = 7> (is_pair)
        special_ids = Gather <axis = 0> (specials, row)
        special_kinds = Gather <axis = 0> (special_types, row)
        sizes = Gather <axis = 0> (special_sizes, row)
        kinds = Gather <axis = 0> (text_types, row)
        before = Gather(sizes, zero)
        between = Gather(sizes, one)
        after = Gather(sizes, two)
        batch_axis = Unsqueeze(batch, axis_0)
        text_first = Slice({starts}, axis_0, last)
        text_next = Slice({starts}, axis_1, far)
        text_length = Sub(text_next, text_first)
        first_start = Slice(text_first, axis_0, batch_axis)
        first_length = Slice(text_length, axis_0, batch_axis)
        pair_start = Slice(text_first, batch_axis, far)
        pair_length = Slice(text_length, batch_axis, far)
        expected = Mul(batch, row)
        expected_axis = Unsqueeze(expected, axis_0)
        one_text_pair_for_each_text = Reshape <allowzero = 1> (pair_start, expected_axis)
        one_text_pair_for_each_text_length = Reshape <allowzero = 1> (pair_length, expected_axis)
        nothing = ConstantOfShape <value: tensor = int64[1] {{0}}> (batch_axis)
        filled_start = Concat <axis = 0> (one_text_pair_for_each_text, nothing)
        filled_length = Concat <axis = 0> (one_text_pair_for_each_text_length, nothing)
        second_start = Slice(filled_start, axis_0, batch_axis)
        second_length = Slice(filled_length, axis_0, batch_axis)

        special_count = ReduceSum <keepdims = 0> (sizes)
        free = Sub(limit, special_count)
        room = Max(free, zero)
        short = Min(first_length, second_length)
        long = Max(first_length, second_length)
        sum = Add(short, long)
        rest = Sub(room, short)
        cut_long = Max(short, rest)
        is_long = Greater(sum, room)
        long_once = Where(is_long, cut_long, long)
        sum_once = Add(short, long_once)
        both_long = Greater(sum_once, room)
        half = Div(room, two)
        other_half = Sub(room, half)
        kept_short = Where(both_long, half, short)
        kept_long = Where(both_long, other_half, long_once)
        in_order = LessOrEqual(first_length, second_length)
        first_kept = Where(in_order, kept_short, kept_long)
        second_kept = Where(in_order, kept_long, kept_short)

        texts_kept = Add(first_kept, second_kept)
        total = Add(texts_kept, special_count)
        totals = Concat <axis = 0> (total, axis_1)
        width = ReduceMax <keepdims = 0> (totals)
        column = Range(zero, width, one)
        total_row = Unsqueeze(total, axis_1)
        missing = Sub(width, total_row)
        place = {"Sub(column, missing)" if layout.pad_left else "Add(column, zero)"}
        first_row = Unsqueeze(first_kept, axis_1)
        second_row = Unsqueeze(second_kept, axis_1)
        first_end = Add(first_row, before)
        second_begin = Add(first_end, between)
        second_end = Add(second_begin, second_row)

        first_cut = Sub(first_length, first_kept)
        second_cut = Sub(second_length, second_kept)
        first_from = {"Add(first_start, first_cut)" if layout.cut_left else "Identity(first_start)"}
        second_from = {"Add(second_start, second_cut)" if layout.cut_left else "Identity(second_start)"}
        first_from_row = Unsqueeze(first_from, axis_1)
        second_from_row = Unsqueeze(second_from, axis_1)
        in_first = Sub(place, before)
        in_second = Sub(place, second_begin)
        first_at = Add(in_first, first_from_row)
        second_at = Add(in_second, second_from_row)

        at_least_0 = GreaterOrEqual(place, zero)
        is_used = Less(place, total_row)
        inside = And(at_least_0, is_used)
        from_before = GreaterOrEqual(place, before)
        until_first = Less(place, first_end)
        from_second = GreaterOrEqual(place, second_begin)
        until_second = Less(place, second_end)
        is_first = And(from_before, until_first)
        is_second = And(from_second, until_second)
        after_first = GreaterOrEqual(place, first_end)
        after_second = GreaterOrEqual(place, second_end)
        skipped_first = Where(after_first, first_row, zero)
        skipped_second = Where(after_second, second_row, zero)
        skipped = Add(skipped_first, skipped_second)
        special_at = Sub(place, skipped)

        token_count = Size({ids})
        special_width = Size(special_ids)
        pad_at = Add(token_count, special_width)
        special_source = Add(special_at, token_count)
        not_pad = Where(inside, special_source, pad_at)
        or_second = Where(is_second, second_at, not_pad)
        source = Where(is_first, first_at, or_second)
        all_ids = Concat <axis = 0> ({ids}, special_ids, pad_ids)
        input_ids = Gather(all_ids, source)
        attention_mask = Cast <to = 7> (inside)

        all_kinds = Concat <axis = 0> (special_kinds, pad_types)
        no_kind = Where(inside, special_at, special_width)
        is_text = Or(is_first, is_second)
        kind_source = Where(is_text, special_width, no_kind)
        special_kind = Gather(all_kinds, kind_source)
        first_kind = Gather(kinds, zero)
        second_kind = Gather(kinds, one)
        text_kind = Where(is_second, second_kind, first_kind)
        token_type_ids = Where(is_text, text_kind, special_kind)"""
    return Part(text, {name: np.array(value, np.int64) for name, value in ints.items()})
