"""Bounds on the work that a tokenizer may make of a text, from the content of tokenizer.json.

The file comes with a bundle or a checkpoint. A few lines of it are enough for hours or gigabytes: a pattern that backtracks, a
normalizer that makes a thousand characters of one and is applied three times, a template with a million special tokens. Every
part of the file is checked before the tokenizers library sees it.
"""

import base64
import binascii
import json
import math
from collections.abc import Iterator, Mapping
from typing import Any, Final

from tokenizers import Tokenizer

from runtime.text.pattern_cost import LENGTH, UnknownPatternError, cost

LONGEST_TOKEN: Final = 1_000  # characters of a special token, or of another setting
_MOST_COMPONENTS: Final = 32  # in a sequence
_MOST_GROWTH: Final = 2_000  # characters of one; that of ALBERT has a bound of 1,944
_MOST_STEPS: Final = 32 * LENGTH  # at a character, of all patterns; that of GPT-4o has 11 * LENGTH
_MOST_ADDED: Final = (300_000, 5_000_000)  # added tokens, and their characters: 5 seconds
_MOST_SPECIAL: Final = 64  # special tokens around a text
_LONGEST_PREFIX: Final = 32  # characters of a marker such as ##
_LONGEST_WORD: Final = 500  # characters that WordPiece divides, in cubic time: 16 ms
_LONGEST_PIECE: Final = 256  # characters of a token of Unigram, which looks for each at each position
_PARTS: Final = ("normalizer", "pre_tokenizer", "post_processor", "decoder")
_SEQUENCES: Final = ("normalizers", "pretokenizers", "processors", "decoders")
# The most characters that a component makes of one. In NFKD, U+FDFA has 18.
_GROWTH: Final = {
    **dict.fromkeys(("NFKC", "NFKD"), 18),
    **dict.fromkeys(("NFC", "NFD", "BertNormalizer", "ByteLevel"), 5),
    "Lowercase": 3,
    "Metaspace": 2,
}

Document = Mapping[str, Any]


def excesses(content: bytes) -> list[str]:
    """Return what exceeds a bound in the content of a tokenizer.json; empty for what is no JSON object and cannot be loaded."""
    try:
        document = json.loads(content)
    except (ValueError, RecursionError):
        return []
    if not isinstance(document, dict):
        return []
    return [*_components(document), *_model(document.get("model")), *_added(document.get("added_tokens"))]


def loaded_excesses(tokenizer: Tokenizer) -> list[str]:
    """Return what exceeds a bound in a loaded tokenizer: the library reads some files that are not in its own form."""
    parts = {name: getattr(tokenizer, name) for name in _PARTS}
    return list(_components({name: json.loads(part.__getstate__()) for name, part in parts.items() if part is not None}))


def normalizer_growth(tokenizer: Tokenizer) -> float:
    """Return the most characters that the normalizer of a loaded tokenizer makes of one."""
    if tokenizer.normalizer is None:
        return 1.0
    return math.prod(_work(part)[1] for part in _flat(json.loads(tokenizer.normalizer.__getstate__()), 0))


def _components(document: Document) -> Iterator[str]:
    steps, growth = 0, 1.0
    for name in _PARTS:
        try:
            components = list(_flat(document.get(name), 0))
        except UnknownPatternError as error:
            yield f"the {name} {error}"
            continue
        if len(components) > _MOST_COMPONENTS:
            yield f"the {name} has {len(components):,} components, expected at most {_MOST_COMPONENTS}"
            continue
        if name == "decoder":  # works on tokens, not on the text that the others made
            growth = 1.0
        for component in components:
            yield from _texts(component, name)
            try:
                first, factor = _work(component)
            except UnknownPatternError as error:
                yield f"the {name} has a pattern that {error}: {_shown(component['pattern'])}"
                continue
            growth *= factor
            if first > _MOST_STEPS:
                yield f"the {name} has a pattern that may take hours for a text: {_shown(component['pattern'])}"
            else:
                steps += first
        if growth > _MOST_GROWTH:
            yield f"the {name} may make {growth:,.0f} characters of one, expected at most {_MOST_GROWTH:,}"
            growth = 1.0
        if name == "post_processor" and (count := sum(map(_special, components))) > _MOST_SPECIAL:
            yield f"the {name} adds {count:,} tokens to a text, expected at most {_MOST_SPECIAL}"
    if steps > _MOST_STEPS:
        yield "all patterns together may take hours for a text"


def _flat(part: Any, depth: int) -> Iterator[Document]:
    """Yield the components of a part of a tokenizer, those of sequences one by one."""
    if not isinstance(part, dict):
        return
    inner = [each for key in _SEQUENCES if isinstance(part.get(key), list) for each in part[key]]
    if depth > _MOST_COMPONENTS:
        raise UnknownPatternError(f"has more than {_MOST_COMPONENTS} nested sequences")
    for each in inner:
        yield from _flat(each, depth + 1)
    if not inner:
        yield part


def _work(component: Document) -> tuple[int, float]:
    """Return the steps of a component's pattern at a character, and the characters that it makes of one."""
    steps, least = 0, 1
    pattern = component.get("pattern")
    for kind, text in pattern.items() if isinstance(pattern, dict) else (("String", pattern),):
        if not isinstance(text, str):
            continue
        if kind == "Regex":
            found = cost(text)
            steps, least = found.first, found.least
        else:
            least = len(text)
    factor = float(_GROWTH.get(str(component.get("type")), 1))
    if "content" in component:
        content = len(str(component["content"]))
        factor *= max(1.0, content / least) if least else 1.0 + content
    if "prepend" in component:  # once per section between added tokens
        factor *= 1 + len(str(component["prepend"]))
    if "precompiled_charsmap" in component:
        factor *= max(1, _longest_replacement(component["precompiled_charsmap"]))
    return steps, factor


def _longest_replacement(charsmap: Any) -> int:
    """Return the most characters for which a map of SentencePiece has one: the texts after its trie end with a zero byte."""
    try:
        content = base64.b64decode(charsmap)
    except (TypeError, ValueError, binascii.Error):  # cannot be loaded
        return 1
    start = 4 + int.from_bytes(content[:4], "little")
    return max(len(text.decode("utf-8", "replace")) for text in content[start:].split(b"\0"))


def _special(component: Document) -> int:
    """Return the number of tokens that a post-processor adds, counting further copies of the text as too many."""
    tokens = component.get("special_tokens")
    sizes = {key: _count(_object(each).get("ids")) for key, each in _object(tokens).items()}
    most = 0
    for side in ("single", "pair"):
        ids = [
            (kind, str(_object(each).get("id")))
            for piece in _list(component.get(side))
            for kind, each in _object(piece).items()
        ]
        copies = max(ids.count(("Sequence", text)) for text in ("A", "B"))
        added = sum(max(1, sizes.get(token, 1)) for kind, token in ids if kind == "SpecialToken")
        most = max(most, added + _MOST_SPECIAL * max(0, copies - 1))
    return most


def _texts(component: Document, name: str) -> Iterator[str]:
    """Yield the settings of a component that are too long. Patterns and maps of SentencePiece have other bounds."""
    waiting = [value for key, value in component.items() if key not in ("pattern", "precompiled_charsmap")]
    while waiting:
        value = waiting.pop()
        if isinstance(value, str) and len(value) > LONGEST_TOKEN:
            yield f"the {name} has a text of {len(value):,} characters, expected at most {LONGEST_TOKEN:,}: {_shown(value)}"
        waiting += value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()


def _model(model: Any) -> Iterator[str]:
    """Yield the settings of a model that make it slow. Only Unigram has a list of pieces as its vocabulary."""
    if not isinstance(model, dict):
        return
    for key in ("continuing_subword_prefix", "end_of_word_suffix"):
        if len(text := str(model.get(key) or "")) > _LONGEST_PREFIX:
            yield f"the model's {key} has {len(text):,} characters, expected at most {_LONGEST_PREFIX}"
    longest = model.get("max_input_chars_per_word")
    if isinstance(longest, (int, float)) and longest > _LONGEST_WORD:
        yield f"the model's max_input_chars_per_word is {longest:,}, expected at most {_LONGEST_WORD}"
    pieces = (piece[0] for piece in _list(model.get("vocab")) if isinstance(piece, list) and piece)
    if (size := max((len(piece) for piece in pieces if isinstance(piece, str)), default=0)) > _LONGEST_PIECE:
        yield f"the model's vocabulary has a piece of {size:,} characters, expected at most {_LONGEST_PIECE}"


def _added(tokens: Any) -> Iterator[str]:
    texts = [str(token.get("content", "")) for token in _list(tokens) if isinstance(token, dict)]
    if (longest := max(map(len, texts), default=0)) > LONGEST_TOKEN:
        yield f"an added token has {longest:,} characters, expected at most {LONGEST_TOKEN:,}"
    count, characters = len(texts), sum(map(len, texts))
    if count > _MOST_ADDED[0] or characters > _MOST_ADDED[1]:
        yield (
            f"{count:,} added tokens have {characters:,} characters, "
            f"expected at most {_MOST_ADDED[0]:,} tokens and {_MOST_ADDED[1]:,} characters"
        )


def _object(value: Any) -> Document:
    return value if isinstance(value, dict) else {}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _count(value: Any) -> int:
    return len(_list(value))


def _shown(value: Any) -> str:
    """Return the start of a text, or of the only value of a pattern."""
    text = str(next(iter(value.values()), "") if isinstance(value, dict) else value)
    return repr(text if len(text) <= 60 else f"{text[:57]}...")
