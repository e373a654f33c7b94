"""The character NUL, at which the operators of onnxruntime-extensions end a text. Standard operators read the whole text."""

from __future__ import annotations

from collections.abc import Callable

from exporter.text_graph.part import EXTENSIONS, Part, strings
from exporter.text_graph.refusals import refused

# Control characters; unassigned characters, for tokenizers that keep NUL as an unknown one
_OTHERS = (*map(chr, range(1, 32)), "\u0378", "\U0003fffd")


def replace_nul(source: str, target: str, form: Callable[[str], str], alphabet: set[str]) -> Part:
    """Replace NUL by a character that the tokenizer treats alike.

    Each text is divided at NUL, and each part but the first gets the other character.

    Args:
        source: name of the texts [texts].
        target: name of the result [texts].
        form: what the tokenizer makes of a text before it divides words.
        alphabet: characters of its vocabulary.

    Raises:
        ExportError: no other character is treated alike.
    """
    nul = form("a\0a")
    others = [each for each in _OTHERS if form(f"a{each}a") == nul.replace("\0", each) and not {"\0", each} & alphabet]
    if not others:
        raise refused("the tokenizer treats no other character as it treats NUL, at which the operators end a text")
    constants = {
        f"{target}_other": strings(others[0]),
    }
    text = f"""
        {target}_parts, {target}_counts = StringSplit({source})
        {target}_shape = Shape({target}_parts)
        {target}_width = Gather({target}_shape, one)
        {target}_column = Range(zero, {target}_width, one)
        {target}_rows = Unsqueeze({target}_counts, axis_1)
        {target}_used = Less({target}_column, {target}_rows)
        {target}_later = Greater({target}_column, zero)
        {target}_between = And({target}_used, {target}_later)
        {target}_prefix = Where({target}_between, {target}_other, empty)
        {target}_prefixed = StringConcat({target}_prefix, {target}_parts)
        {target} = {EXTENSIONS}.StringJoin({target}_prefixed, empty, axis_1)"""
    return Part(text, constants, {f"{target}_parts": {"delimiter": "\0"}})


def refuse_character(source: str, character: str, name: str) -> Part:
    """Fail on a text with a character; the name of the node that fails is the message.

    Args:
        source: name of the texts [texts].
        character: the character.
        name: its name in the message.
    """
    text = f"""
        {name}_parts, {name}_counts = StringSplit({source})
        {name}_counts_and_one = Concat <axis = 0> ({name}_counts, axis_1)
        {name}_most = ReduceMax <keepdims = 1> ({name}_counts_and_one)
        {name}_shape = Shape(axis_1)
        {name}_ones = ConstantOfShape <value: tensor = int64[1] {{1}}> ({name}_most)
        texts_must_not_contain_{name} = Reshape({name}_ones, {name}_shape)"""
    return Part(text, attributes={f"{name}_parts": {"delimiter": character}})
