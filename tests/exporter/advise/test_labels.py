"""The labels of evaluation texts, and the tokens that they belong to."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from exporter import ExportError
from exporter.advise.labels import Labels
from exporter.plan import Head, Task
from exporter.texts.batches import read_calibration
from exporter.texts.drift import label_id, label_values
from tests.helpers.tiny_models import tokenizer

_INPUTS = ("input_ids", "attention_mask")
_LENGTH = 12


def _tagging(names: tuple[str, ...]) -> Task:
    return Task("tags", "tags", Head("tags", "tagging", names, 1, None), 0, {}, "", ())


@pytest.mark.parametrize("side", ["right", "left"])
def test_tags_are_those_of_tokens_that_truncation_leaves(tmp_path: Path, side: str) -> None:
    """Each token's only logit is its number among all tokens of the text as the tokenizer truncates it."""
    own: Any = tokenizer()
    own.truncation_side = side
    texts = [
        "one unbelievably long word",
        "word " * 5 + "internationalisation of unbelievably long words",
        "a b c d e f g h i j",
    ]
    rows = [json.dumps({"text": text, "label": [number % 2 for number in range(len(text.split()))]}) for text in texts]
    (tmp_path / "a.jsonl").write_text("\n".join(rows))
    calibration = read_calibration(tmp_path / "a.jsonl", own, _INPUTS, _LENGTH)
    labels = Labels(_tagging(("x", "y")), calibration, own, _LENGTH)
    for number, text in enumerate(texts):
        encoding = own(text, truncation=True, max_length=_LENGTH)
        words = encoding.word_ids()
        whole = own(text).word_ids()
        # The first token of a word is left if as many of its tokens are left as it has.
        left = {word for word in set(words) - {None} if side == "right" or words.count(word) == whole.count(word)}
        places = np.arange(len(words), dtype=np.float32)[:, None]
        found = labels.rows(number, places, np.ones(len(words), np.int64))[:, 0]
        for word in range(len(text.split())):
            assert (labels.expected[number, word] >= 0) == (word in left), (side, text, word)
            if word in left:
                assert found[word] == words.index(word)


def test_pairs_have_no_tags(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text_a": "a", "text_b": "b", "label": ["x", "y"]}')
    calibration = read_calibration(tmp_path / "a.jsonl", tokenizer(), _INPUTS, _LENGTH)
    with pytest.raises(ExportError, match="found a pair of texts"):
        Labels(_tagging(("x", "y")), calibration, tokenizer(), _LENGTH)


def test_names_that_are_numbers_of_other_labels() -> None:
    """In JSON, 1 could be the label that is called 1 or the second one."""
    stars = ("1", "2", "3")
    assert label_id("1", stars, "") == 0
    for label in (1, 0, "0"):
        with pytest.raises(ExportError, match="a number could be the name of one label and the number of another"):
            label_id(label, stars, "")
    assert [label_id(1, labels, "") for labels in (("0", "1"), ("10", "20"), ("a", "b"))] == [1, 1, 1]


def test_several_labels_of_a_text(tmp_path: Path) -> None:
    def values(*labels: Any) -> Any:
        rows = [json.dumps({"text": "a", "label": label}) for label in labels]
        (tmp_path / "a.jsonl").write_text("\n".join(rows))
        return label_values(read_calibration(tmp_path / "a.jsonl", tokenizer(), _INPUTS, 8), "multilabel", ("x", "y", "z"))

    np.testing.assert_array_equal(values(["x", "z"], [], [1]), [[1, 0, 1], [0, 0, 0], [0, 1, 0]])
    with pytest.raises(ExportError, match=r"line 2: the label \[0, 1, 1\] names a label twice"):
        values(["x"], [0, 1, 1])
