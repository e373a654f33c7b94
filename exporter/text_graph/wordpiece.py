"""WordPiece tokenizers, such as those of BERT, as a graph.

1. Each text is cut at characters and added tokens that are replaced. What is between them is changed by regular expressions.
   The pieces are joined again: now spaces separate the words.
2. Added tokens that the tokenizer looks for after normalization are cut out in the same way.
3. Each word is divided into tokens. The operator keeps the known tokens of a word that is partly unknown, where tokenizers
   has one unknown token for the whole word: these tokens are removed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from exporter.text_graph.characters import CONTEXT_FREE, CharacterMap, character_class, measure_characters, quoted, ranges_of
from exporter.text_graph.nul import replace_nul
from exporter.text_graph.part import EXTENSIONS, Part, strings
from exporter.text_graph.refusals import refused

_UNKNOWN = "\1"  # no word of a text: control characters are removed, or replaced by step 1


def wordpiece(tokenizer: Any) -> list[Part]:
    """Return a WordPiece tokenizer as parts from `texts` to `ids` and `starts`, see `exporter.text_graph.part`.

    Args:
        tokenizer: tokenizer of the tokenizers library.

    Raises:
        ExportError: the tokenizer has a part that does not treat each character independently of the others.
    """
    content = json.loads(tokenizer.to_str())
    for name, known in CONTEXT_FREE.items():
        if unknown := sorted(_types(content[name]) - known):
            raise refused(
                f"the {name.replace('_', '-')} {unknown[0]} depends on neighbouring characters; of WordPiece tokenizers, only "
                f"those with {', '.join(sorted(known - {'Sequence'}))} can be written as a graph"
            )
    model = content["model"]
    # The order of the library changes from process to process.
    vocabulary = dict(sorted(tokenizer.get_vocab(with_added_tokens=True).items(), key=lambda each: each[1]))
    alphabet = set("".join(vocabulary))
    characters = measure_characters(tokenizer, alphabet)
    special, normalized = _added_tokens(content, characters)
    changed = {**characters.forms, **{token: f" {token} " for token in special}}
    parts = [replace_nul("texts", "text_clean", characters.apply, alphabet)]
    parts.append(_substitute("text_clean", "text_changed", changed, characters))
    if normalized:
        parts.append(_substitute("text_changed", "text_words", normalized))
    else:
        parts.append(Part("text_words = Identity(text_changed)"))
    return [*parts, _divide("text_words", vocabulary, model)]


def _types(content: Any) -> set[str]:
    """Return the types of a normalizer or pre-tokenizer in tokenizer.json, and of those that it consists of."""
    if content is None:
        return set()
    inner = [*content.get("normalizers", ()), *content.get("pretokenizers", ())]
    return {content["type"]}.union(*map(_types, inner))


def _added_tokens(content: Mapping[str, Any], characters: CharacterMap) -> tuple[list[str], dict[str, str]]:
    """Return the added tokens, and those that are looked for in normalized text as form -> words."""
    special: list[str] = []
    normalized: dict[str, str] = {}
    for token in content["added_tokens"]:
        text = token["content"]
        form = characters.apply(text)
        if token["single_word"] or not form.strip() or " " in text:
            raise refused(f"the added token {text!r} has a form that cannot be written as a graph")
        if token["normalized"]:
            normalized[form] = f" {text} "
        else:
            special.append(text)
    return special, normalized


def _substitute(source: str, target: str, table: Mapping[str, str], characters: CharacterMap | None = None) -> Part:
    """Replace parts of texts.

    Args:
        source: name of the texts [texts].
        target: name of the result [texts].
        table: part of a text -> replacement; of several that begin at the same place, the longest one is replaced.
        characters: the long ranges of characters that are removed from, or get spaces in, the text between such parts.
    """
    choices = [quoted(key) for key in sorted(table, key=len, reverse=True) if len(key) > 1]
    if single := [ord(key) for key in table if len(key) == 1]:
        # Other characters may be cut out as well: they are not in the table. Most texts have long runs of ASCII.
        ascii_ranges = ranges_of(code for code in single if code < 128)
        choices.append(character_class([*ascii_ranges, *ranges_of((code for code in single if code >= 128), gap=128)]))
    constants = {
        f"{target}_pattern": strings(f"({'|'.join(choices)})"),
        f"{target}_values": strings(*table.values()),
    }
    name, between = target, f"{target}_pieces"
    lines = [
        f"{name}_pieces, {name}_begin, {name}_end, {name}_rows = "
        f"{EXTENSIONS}.StringRegexSplitWithOffsets({source}, {name}_pattern, any)"
    ]
    ranges = () if characters is None else (("removed", characters.removed, ""), ("isolated", characters.isolated, " \\0 "))
    for kind, members, rewrite in ranges:
        if members:
            constants[f"{name}_{kind}"] = strings(character_class(members))
            constants[f"{name}_{kind}_by"] = strings(rewrite)
            lines.append(f"{name}_no_{kind} = {EXTENSIONS}.StringRegexReplace({between}, {name}_{kind}, {name}_{kind}_by)")
            between = f"{name}_no_{kind}"
    # Texts have different numbers of pieces: they are padded with empty strings to be joined along an axis.
    lines.append(f"""
        {name}_number = ai.onnx.ml.LabelEncoder <default_int64: int = -1> ({name}_pieces)
        {name}_index = Max({name}_number, zero)
        {name}_replacement = Gather({name}_values, {name}_index)
        {name}_unchanged = Less({name}_number, zero)
        {name}_parts = Where({name}_unchanged, {between}, {name}_replacement)
        {name}_padded = Concat <axis = 0> ({name}_parts, empty)
        {name}_count = Shape({name}_parts)
        {name}_first = Slice({name}_rows, axis_0, last)
        {name}_next = Slice({name}_rows, axis_1, far)
        {name}_length = Sub({name}_next, {name}_first)
        {name}_lengths = Concat <axis = 0> ({name}_length, axis_0)
        {name}_widest = ReduceMax <keepdims = 0> ({name}_lengths)
        {name}_columns = Range(zero, {name}_widest, one)
        {name}_start = Unsqueeze({name}_first, axis_1)
        {name}_stop = Unsqueeze({name}_next, axis_1)
        {name}_place = Add({name}_start, {name}_columns)
        {name}_inside = Less({name}_place, {name}_stop)
        {name}_places = Where({name}_inside, {name}_place, {name}_count)
        {name}_table = Gather({name}_padded, {name}_places)
        {name} = {EXTENSIONS}.StringJoin({name}_table, empty, axis_1)""")
    numbers = {"keys_strings": list(table), "values_int64s": list(range(len(table)))}
    return Part("\n".join(lines), constants, {f"{name}_number": numbers})


def _divide(texts: str, vocabulary: Mapping[str, int], model: Mapping[str, Any]) -> Part:
    """Divide words into tokens, see step 3."""
    constants = {
        "word_pattern": strings("( +)"),
        "word_rows": np.zeros(0, np.int64),
        "word_unknown": np.array(vocabulary[model["unk_token"]], np.int64),
    }
    text = f"""
        words, word_begin, word_end, word_starts = {EXTENSIONS}.StringRegexSplitWithOffsets({texts}, word_pattern, empty)
        tokens, token_rows, token_first, token_next = {EXTENSIONS}.WordpieceTokenizer(words, word_rows)
        token_ids = ai.onnx.ml.LabelEncoder <default_int64: int = -1> (tokens)
        token_bad = Less(token_ids, zero)
        token_last = Sub(token_next, one)
        word_bad = Gather(token_bad, token_last)
        word_length = Sub(token_next, token_first)
        word_kept = Where(word_bad, one, word_length)
        word_ends = CumSum(word_kept, zero)
        word_first = Concat <axis = 0> (axis_0, word_ends)
        starts = Gather(word_first, word_starts)
        token_shape = Shape(tokens)
        token_zeros = ConstantOfShape <value: tensor = int64[1] {{0}}> (token_shape)
        word_shape = Shape(token_first)
        word_ones = ConstantOfShape <value: tensor = int64[1] {{1}}> (word_shape)
        token_begins = ScatterElements <axis = 0> (token_zeros, token_first, word_ones)
        token_number = CumSum(token_begins, zero)
        token_word = Sub(token_number, one)
        token_in_bad = Gather(word_bad, token_word)
        token_good = Not(token_in_bad)
        token_kept = Or(token_good, token_bad)
        token_known = Where(token_bad, word_unknown, token_ids)
        ids = Compress <axis = 0> (token_known, token_kept)"""
    words = {
        "vocab": json.dumps(dict(vocabulary)),
        "suffix_indicator": model["continuing_subword_prefix"],
        "unknown_token": _UNKNOWN,
        "max_input_chars_per_word": model["max_input_chars_per_word"],
    }
    numbers = {"keys_strings": list(vocabulary), "values_int64s": list(vocabulary.values())}
    return Part(text, constants, {"tokens": words, "token_ids": numbers})
