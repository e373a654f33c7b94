r"""Byte-level BPE tokenizers, such as those of GPT-2 and RoBERTa, as a graph.

The operator divides a word into tokens as tokenizers does, and finds the words of a text in other places. So the words are
found by regular expressions, with classes of characters that are measured on the tokenizer:

1. Added tokens are cut out of the texts; the next steps leave them whole.
2. What is between them is cut before the last space of a run of spaces, which belongs to the word that follows. This replaces
   the look-ahead in `\s+(?!\S)`, which RE2 does not have.
3. Each piece is cut into words by the rest of the expression of GPT-2.
4. Each word is divided into tokens; added tokens have their own ids.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from exporter.text_graph.characters import character_class, quoted, ranges_of, uniform_blocks
from exporter.text_graph.nul import refuse_character
from exporter.text_graph.part import EXTENSIONS, Part, strings
from exporter.text_graph.refusals import refused

_NOTHING = "[^\\x{0}-\\x{10FFFF}]"  # matches no character
_SUFFIXES = "'s|'t|'re|'ve|'m|'ll|'d"
_PLAIN = ("dropout", "continuing_subword_prefix", "end_of_word_suffix", "byte_fallback")


def byte_level(tokenizer: Any) -> list[Part]:
    """Return a byte-level BPE tokenizer as parts from `texts` to `ids` and `starts`, see `exporter.text_graph.part`.

    A text with the character NUL or U+0085 (next line) is an error at run time.

    Args:
        tokenizer: tokenizer of the tokenizers library.

    Raises:
        ExportError: a normalizer, another pre-tokenizer, or an option of the model that has no operator.
    """
    content = json.loads(tokenizer.to_str())
    model, words = content["model"], content["pre_tokenizer"] or {}
    if content["normalizer"] is not None or words.get("type") != "ByteLevel" or not words.get("use_regex", True):
        kinds = [(content[name] or {}).get("type", "none") for name in ("normalizer", "pre_tokenizer")]
        raise refused(
            "of BPE tokenizers, only those with the pre-tokenizer ByteLevel and no normalizer can be written as a graph, found "
            f"the normalizer {kinds[0]} and the pre-tokenizer {kinds[1]}"
        )
    if options := [name for name in _PLAIN if model.get(name)]:
        raise refused(f"no operator has the option {options[0]} of the BPE model")
    special = sorted((token["content"] for token in content["added_tokens"]), key=len, reverse=True)
    if any(token["single_word"] for token in content["added_tokens"]):
        raise refused("no operator finds added tokens only where they are whole words (single_word)")
    classes = _classes(tokenizer)
    # The operators end a text at NUL, and cut a run of spaces before U+0085, which they take for no space
    parts = [refuse_character("texts", "\0", "nul"), refuse_character("texts", "\x85", "next_line")]
    source = "texts"
    for token in content["added_tokens"]:
        if token["lstrip"] or token["rstrip"]:
            parts.append(_strip(source, f"stripped_{token['id']}", token, classes["space"]))
            source = f"stripped_{token['id']}"
    parts.append(_words(source, special, classes, bool(words["add_prefix_space"])))
    return [*parts, _tokens(tokenizer, model, special)]


def _classes(tokenizer: Any) -> dict[str, str]:
    """Return the letters, numbers and spaces of the tokenizer as the inside of a class of RE2, measured on all characters."""

    def count(text: str) -> int:
        return len(tokenizer.pre_tokenizer.pre_tokenize_str(text))

    def kind(text: str) -> str | None:
        return next(
            (kind for kind, first in {"letter": "a", "number": "1", "other": "!"}.items() if count(first + text) == 1), None
        )

    found: dict[str, list[int]] = {"letter": [], "number": [], "other": [], "space": []}
    for block in uniform_blocks(lambda text: kind(text) is not None):
        found[kind(block) or "space"] += map(ord, block)
    return {kind: character_class(ranges_of(members))[1:-1] for kind, members in found.items()}


def _strip(source: str, target: str, token: Mapping[str, Any], space: str) -> Part:
    """Remove the spaces next to an added token that takes them."""
    before, after = (f"[{space}]*" if token[side] else "" for side in ("lstrip", "rstrip"))
    constants = {f"{target}_pattern": strings(f"{before}({quoted(token['content'])}){after}"), f"{target}_by": strings("\\1")}
    return Part(f"{target} = {EXTENSIONS}.StringRegexReplace({source}, {target}_pattern, {target}_by)", constants)


def _words(source: str, special: list[str], classes: Mapping[str, str], prefix: bool) -> Part:
    """Cut texts into words, see steps 1 to 3."""
    tokens = "|".join(map(quoted, special))
    space, letter, number = classes["space"], classes["letter"], classes["number"]
    whole = f"{tokens}|" if special else ""
    constants = {
        "cut": strings(f"({whole}[{space}][^{space}]+)"),
        "cut_ascii": strings(f"({whole}[\\t-\\r ][^\\t-\\r ]+)"),
        "word": strings(f"({whole}{_SUFFIXES}| ?[{letter}]+| ?[{number}]+| ?[^{space}{letter}{number}]+|[{space}]+)"),
        "word_ascii": strings(f"({whole}{_SUFFIXES}| ?[A-Za-z]+| ?[0-9]+| ?[^\\t-\\r A-Za-z0-9]+|[\\t-\\r ]+)"),
        "special": strings(f"({tokens or _NOTHING})"),
        "first": strings("^([^ ])"),
        "first_by": strings(" \\1" if prefix else "\\1"),
    }
    # The classes of all characters make an expression that takes milliseconds to compile, which the operators do at each call
    text = f"""
        is_ascii = RegexFullMatch ({source})
        ascii_number = Cast <to = 7> (is_ascii)
        ascii_least = ReduceMin <keepdims = 0> (ascii_number)
        all_ascii = Cast <to = 9> (ascii_least)
        cut_pattern = Where(all_ascii, cut_ascii, cut)
        word_pattern = Where(all_ascii, word_ascii, word)
        segments, segment_begin, segment_end, segment_rows = {EXTENSIONS}.StringRegexSplitWithOffsets({source}, special, any)
        segment_number = ai.onnx.ml.LabelEncoder <default_int64: int = -1> (segments)
        segment_is_text = Less(segment_number, axis_0)
        segment_spaced = {EXTENSIONS}.StringRegexReplace(segments, first, first_by)
        prefixed = Where(segment_is_text, segment_spaced, segments)
        pieces, piece_begin, piece_end, piece_rows = {EXTENSIONS}.StringRegexSplitWithOffsets(prefixed, cut_pattern, any)
        words, word_begin, word_end, word_rows = {EXTENSIONS}.StringRegexSplitWithOffsets(pieces, word_pattern, any)
        text_pieces = Gather(piece_rows, segment_rows)
        text_words = Gather(word_rows, text_pieces)"""
    numbers = {"keys_strings": special or [""], "values_int64s": list(range(len(special or [""])))}
    return Part(text, constants, {"segment_number": numbers, "is_ascii": {"pattern": "[\\x00-\\x7F]*"}})


def _tokens(tokenizer: Any, model: Mapping[str, Any], special: list[str]) -> Part:
    """Divide words into tokens, see step 4."""
    vocabulary = model["vocab"]
    merges = [each if isinstance(each, str) else " ".join(each) for each in model["merges"]]
    text = f"""
        word_ids, word_mask = {EXTENSIONS}.GPT2Tokenizer(words)
        added_id = ai.onnx.ml.LabelEncoder <default_int64: int = -1> (words)
        added_row = Unsqueeze(added_id, axis_1)
        is_added = GreaterOrEqual(added_row, zero)
        mask_shape = Shape(word_mask)
        mask_width = Gather(mask_shape, one)
        mask_column = Range(zero, mask_width, one)
        first_column = Less(mask_column, one)
        in_word = Greater(word_mask, zero)
        is_divided = Not(is_added)
        used_added = And(is_added, first_column)
        used_divided = And(is_divided, in_word)
        used = Or(used_added, used_divided)
        token_table = Where(is_added, added_row, word_ids)
        used_number = Cast <to = 7> (used)
        token_counts = ReduceSum <keepdims = 0> (used_number, axis_1)
        token_ends = CumSum(token_counts, zero)
        token_first = Concat <axis = 0> (axis_0, token_ends)
        starts = Gather(token_first, text_words)
        flat_ids = Reshape(token_table, last)
        flat_used = Reshape(used, last)
        ids = Compress <axis = 0> (flat_ids, flat_used)"""
    bpe = {"vocab": json.dumps(vocabulary), "merges": "\n".join(["#version: 0.2", *merges]), "padding_length": -1}
    added = {"keys_strings": special or [""], "values_int64s": [tokenizer.token_to_id(each) for each in special] or [-1]}
    return Part(text, attributes={"word_ids": bpe, "added_id": added})
