"""Entities from the logits of tokens, with the results of transformers' `TokenClassificationPipeline`.

Rules, in the order of the code; labels start with "B-" (begin) and "I-" (inside), or have no prefix:

1. Special tokens are left out. A token continues a word if the model of the tokenizer marks continuations (WordPiece) and the
   token differs in length from its text, else if there is no space at its start. An unknown token starts a word.
2. Every token has the label of its largest probability (simple), or every word has one label: that of its first token (first),
   of its token with the largest probability (max), or of the mean of its tokens' probabilities (average).
3. Neighbours with the same label make an entity; a label with "B-" starts a new one. Entities of the label O are left out.
4. Of the entities of several windows that overlap, the longest is kept, of equally long ones that with the larger score.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from runtime.text.encode import TextEncoder
from runtime.text.prediction import Entity
from runtime.text.tokens import Tokens

_OUTSIDE: Final = "O"

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class _Unit:
    """A token, or a word of several tokens.

    Attributes:
        tokens: its tokens as in the vocabulary.
        scores: probability of each label.
        start: start in characters of the text.
        end: end in characters of the text.
        continues: it belongs to the word of the token before it.
    """

    tokens: tuple[str, ...]
    scores: Array
    start: int
    end: int
    continues: bool = False


def find_entities(
    labels: Sequence[str], logits: Array, text: str, tokens: Tokens, encoder: TextEncoder, aggregate: str
) -> tuple[Entity, ...]:
    """Return the entities of one text, or of one window of it.

    Args:
        labels: labels of the task.
        logits: logits [tokens, labels], without padding.
        text: the text.
        tokens: its tokens, or those of the window.
        encoder: encoder of the bundle.
        aggregate: strategy, one of `STRATEGIES`.
    """
    units = list(_token_units(logits, text, tokens, encoder))
    if aggregate != "simple":
        units = [_word_unit(word, aggregate) for word in _words(units)]
    found: list[Entity] = []
    for members in _groups(units, labels):
        label = labels[int(members[0].scores.argmax())].split("-", 1)[-1]
        if label == _OUTSIDE:
            continue
        score = float(np.mean([unit.scores.max() for unit in members]))
        if aggregate == "simple":
            pieces = [token for unit in members for token in unit.tokens]
        else:  # the text of each word is decoded once more as a part of the entity
            pieces = [encoder.joined_text(unit.tokens) for unit in members]
        found.append(Entity(label, score, encoder.joined_text(pieces), members[0].start, members[-1].end))
    return tuple(found)


def merge_windows(entities: Sequence[Entity]) -> tuple[Entity, ...]:
    """Merge the entities of several windows of one text: of those that overlap, one is kept.

    Args:
        entities: entities of all windows, in the order of the windows.
    """
    if not entities:
        return ()
    ordered = sorted(entities, key=lambda entity: entity.start)
    found: list[Entity] = []
    last = ordered[0]
    for entity in ordered:  # the first one too, as in transformers: if it is empty, it is there twice
        if last.start <= entity.start < last.end:
            if (entity.end - entity.start, entity.score) > (last.end - last.start, last.score):
                last = entity
        else:
            found.append(last)
            last = entity
    return (*found, last)


def _token_units(logits: Array, text: str, tokens: Tokens, encoder: TextEncoder) -> Iterator[_Unit]:
    probabilities = _softmax(logits)
    marks_continuations = bool(getattr(encoder.tokenizer.model, "continuing_subword_prefix", None))
    columns = zip(tokens.ids, tokens.parts, tokens.offsets, probabilities, strict=True)
    for token_id, part, (start, end), scores in columns:
        if part is None:
            continue
        token = encoder.tokenizer.id_to_token(token_id) or ""
        if token_id == encoder.unk_id:
            yield _Unit((text[start:end],), scores, start, end)
        elif marks_continuations:
            yield _Unit((token,), scores, start, end, len(token) != end - start)
        else:
            yield _Unit((token,), scores, start, end, start > 0 and " " not in text[start - 1 : start + 1])


def _softmax(logits: Array) -> npt.NDArray[np.float32]:
    """In float32, as transformers: in float64, probabilities that it rounds to 1 would differ."""
    narrow = logits.astype(np.float32)
    powers = np.exp(narrow - narrow.max(axis=-1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=-1, keepdims=True))


def _words(units: Sequence[_Unit]) -> list[list[_Unit]]:
    words: list[list[_Unit]] = []
    for unit in units:
        if words and unit.continues:
            words[-1].append(unit)
        else:
            words.append([unit])
    return words


def _word_unit(word: Sequence[_Unit], aggregate: str) -> _Unit:
    if aggregate == "first" or len(word) == 1:
        scores = word[0].scores
    elif aggregate == "max":
        scores = max(word, key=lambda unit: float(unit.scores.max())).scores
    else:
        scores = np.mean([unit.scores for unit in word], axis=0)
    return _Unit(tuple(token for unit in word for token in unit.tokens), scores, word[0].start, word[-1].end)


def _groups(units: Sequence[_Unit], labels: Sequence[str]) -> list[list[_Unit]]:
    groups: list[list[_Unit]] = []
    last = None
    for unit in units:
        begins, tag = _split(labels[int(unit.scores.argmax())])
        if groups and tag == last and not begins:
            groups[-1].append(unit)
        else:
            groups.append([unit])
        last = tag
    return groups


def _split(label: str) -> tuple[bool, str]:
    """Return whether a label begins an entity, and its name without the prefix "B-" or "I-"."""
    return label.startswith("B-"), label[2:] if label.startswith(("B-", "I-")) else label
