"""Calibration files: what is read, how it is encoded, what is refused; drift on them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from exporter.errors import ExportError
from exporter.texts.batches import Calibration, read_calibration
from exporter.texts.drift import drift
from tests.helpers.small_vocabulary import VOCABULARY
from tests.helpers.tiny_models import bert_config, tiny_model, tokenizer

INPUTS = ("input_ids", "attention_mask", "token_type_ids")


def read(folder: Path, name: str, content: str | bytes, max_length: int = 48) -> Calibration:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return read_calibration(path, tokenizer(), INPUTS, max_length)


@pytest.mark.parametrize(
    ("name", "content", "texts", "labels", "lines"),
    [
        ("a.txt", "one\n\n  two words \r\n", ("one", "two words"), None, (1, 3)),
        ("a.txt", "\ufeffone\u2028still one", ("one\u2028still one",), None, (1,)),
        ("a.jsonl", '{"text": "one", "label": "good"}\n\n{"text": "two", "label": 1}', ("one", "two"), ("good", 1), (1, 3)),
        ("a.jsonl", '{"text_a": "one", "text_b": "two", "id": 7}', (("one", "two"),), None, (1,)),
        ("a.csv", 'id,text,label\n1,"one, two\nthree",0.5\n2,four,1\n', ("one, two\nthree", "four"), ("0.5", "1"), (2, 4)),
        ("a.CSV", "text_a,text_b\none,two\n", (("one", "two"),), None, (2,)),
        ("a.tsv", 'label\ttext\nyes\tone, two\nno\tsays "so"\n', ("one, two", 'says "so"'), ("yes", "no"), (2, 3)),
    ],
)
def test_reads_each_format(
    tmp_path: Path, name: str, content: str, texts: Any, labels: tuple[Any, ...] | None, lines: tuple[int, ...]
) -> None:
    found = read(tmp_path, name, content)
    assert (found.texts, found.labels, found.lines, found.scores) == (texts, labels, lines, None)
    json.dumps(found.to_dict())
    assert "one" not in str(found.to_dict())


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", "", "contains no text"),
        ("a.txt", " \n\n", "contains no text"),
        ("a.csv", "", "contains no text"),
        ("a.csv", "text,label\n", "contains no text"),
        ("a.txt", b"one\ntw\xff\n", "line 2: expected UTF-8, found the byte 0xff"),
        ("a.doc", "one", "must end in one of"),
        ("a.jsonl", '{"text": "one"}\n{"text": ', "line 2: expected one JSON object per line"),
        ("a.jsonl", '"one"', "line 1: expected a JSON object"),
        ("a.jsonl", '{"txt": "one"}', "line 1: expected text, or text_a and text_b; text_a is missing"),
        ("a.jsonl", '{"text": ""}', "line 1: text must be a text, found ''"),
        ("a.jsonl", '{"text": 3}', "line 1: text must be a text, found 3"),
        ("a.jsonl", '{"text": "\\ud800"}', "line 1: text contains half of a surrogate pair"),
        ("a.jsonl", '{"text": "one", "label": 1}\n{"text": "two"}', "line 2: some texts have a label, some have no label"),
        ("a.jsonl", '{"text": "one", "label": null}', "line 1: the label is empty"),
        ("a.jsonl", '{"text": "one"}\n{"text_a": "one", "text_b": "two"}', "line 2: texts and pairs of texts are mixed"),
        ("a.csv", "one\ntwo\n", "line 1: expected the columns text, or text_a and text_b; found 'one'"),
        ("a.csv", "text,label\none,1\ntwo\n", "line 3: expected 2 columns as in the header, found 1"),
        ("a.csv", "text,label\none,1\ntwo,\n", "line 3: the label is empty"),
        ("a.csv", 'text\n"one" x\n', "line 2: "),
        ("a.json", "[1]", "expected scores as"),
        ("a.json", "{", "expected JSON scores"),
        ("a.json", '{"0": {"a": NaN}}', "layer 0: the score of 'a' must be a finite number, found nan"),
        ("a.json", '{"0": {"a": "1"}}', "layer 0: the score of 'a' must be a finite number, found '1'"),
        ("a.json", '{"first": {"a": 1}}', "expected the number of a layer, found 'first'"),
        ("a.json", '{"0": {}}', "layer 0: expected {member: score}"),
    ],
)
def test_refuses_with_file_and_line(tmp_path: Path, name: str, content: str | bytes, message: str) -> None:
    with pytest.raises(ExportError) as error:
        read(tmp_path, name, content)
    assert message in str(error.value)
    assert name in str(error.value)


def test_refuses_what_it_cannot_encode(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"cannot be read: No such file"):
        read_calibration(tmp_path / "none.txt", tokenizer(), INPUTS, 48)
    (tmp_path / "a.txt").write_text("one")
    with pytest.raises(ExportError, match="need a tokenizer"):
        read_calibration(tmp_path / "a.txt", None, INPUTS, 48)
    with pytest.raises(ExportError, match="'pixel_values'"):
        read_calibration(tmp_path / "a.txt", tokenizer(), ("pixel_values",), 48)


def test_given_scores_with_and_without_the_fusions_name(tmp_path: Path) -> None:
    assert read(tmp_path, "a.json", '{"0": {"a": 1, "b": 0.5}}').scores == {"": {0: {"a": 1.0, "b": 0.5}}}
    assert read(tmp_path, "a.json", '{"a,b": {"0": {"a": 1}}}').scores == {"a,b": {0: {"a": 1.0}}}


def test_batches_are_what_the_tokenizer_makes(tmp_path: Path) -> None:
    texts = ["word " * (1 + 7 * number % 60) for number in range(80)]
    found = read(tmp_path, "a.txt", "\n".join(texts), max_length=32)
    fast = tokenizer()
    before = fast.backend_tokenizer.to_str()
    assert sorted(row for batch in found.batches for row in batch.rows) == list(range(80))
    assert found.truncated == sum(len(ids) > 32 for ids in fast([text.strip() for text in texts])["input_ids"]) > 0
    for batch in found.batches:
        assert batch.mask.size <= 2048
        expected = fast([texts[row].strip() for row in batch.rows], padding=True, truncation=True, max_length=32)
        for name in INPUTS:
            assert batch.feeds[name].dtype == np.int64
            np.testing.assert_array_equal(batch.feeds[name], expected[name])
    fast = tokenizer()
    (tmp_path / "b.txt").write_text("one")
    read_calibration(tmp_path / "b.txt", fast, INPUTS, 1)
    assert fast.backend_tokenizer.to_str() == before


def _activate(task: str) -> Any:
    def activate(model: Any) -> None:
        model.set_active_adapters(task)
        model.active_head = task

    return activate


def _moved(head: str) -> tuple[Any, Any]:
    """A model, and one whose adapter is another."""
    pair = [tiny_model({"t": ("seq_bn", head)}, bert_config(VOCABULARY), seed=0).eval() for _ in range(2)]
    with torch.no_grad():
        for name, parameter in pair[1].named_parameters():
            if ".adapters." in name:
                parameter.mul_(-2)
    return pair[0], pair[1]


def _logits(model: Any, texts: list[str]) -> list[np.ndarray]:
    """One text at a time, so that there is no padding."""
    _activate("t")(model)
    with torch.no_grad():
        return [model(**tokenizer()(text, return_tensors="pt")).logits[0].numpy() for text in texts]


TEXTS = ["a film", "one two three four five six", "what a long and winding road this is", "no", "why not", "so it goes on"]


KINDS = {"3": "classification", "reg": "regression", "multi": "multilabel", "tag": "tagging"}


@pytest.mark.parametrize(("head", "kind"), KINDS.items())
def test_drift_and_metric(tmp_path: Path, head: str, kind: str) -> None:
    label: Any = [0, 1, 2, 1, 0, 2.5]
    if head != "reg":
        label = [0, "no", 2, 1, "0", "yes"] if head == "3" else [[0], ["no", 4], [2], [1], [0], [3]]
    rows = [json.dumps({"text": text, "label": one}) for text, one in zip(TEXTS, label, strict=True)]
    calibration = read(tmp_path, "a.jsonl", "\n".join(rows))
    original, changed = _moved(head)
    names = {"3": ("yes", "no", "maybe"), "multi": ("a", "no", "c", "d", "e")}.get(head, ())
    found = drift(original, changed, _activate("t"), calibration, task="t", head=kind, labels=names)
    before, after = _logits(original, TEXTS), _logits(changed, TEXTS)
    differences = np.concatenate([np.abs(a - b).ravel() for a, b in zip(after, before, strict=True)])
    assert found.mean_abs == pytest.approx(float(differences.mean()), rel=1e-4)
    assert found.max_abs == pytest.approx(float(differences.max()), rel=1e-4)
    assert found.max_abs > 1e-3
    if kind == "tagging":
        equal = np.concatenate([a.argmax(-1) == b.argmax(-1) for a, b in zip(after, before, strict=True)])
        assert found.argmax_agreement == pytest.approx(float(equal.mean()))
        assert (found.metric, found.metric_before, found.metric_after) == (None, None, None)
    elif kind == "regression":
        assert found.argmax_agreement is None
        assert found.metric == "pearson"
        assert found.metric_after == pytest.approx(float(np.corrcoef(np.array(after)[:, 0], label)[0, 1]), abs=1e-4)
    elif kind == "classification":
        assert found.metric == "accuracy"
        assert found.metric_before == pytest.approx(float(np.mean(np.argmax(before, 1) == [0, 1, 2, 1, 0, 0])))
        assert found.argmax_agreement == pytest.approx(float(np.mean(np.argmax(before, 1) == np.argmax(after, 1))))
    else:
        truth = np.zeros((6, 5), bool)
        truth[[0, 1, 1, 2, 3, 4, 5], [0, 1, 4, 2, 1, 0, 3]] = True
        assert found.metric_after == pytest.approx(float(np.mean((np.array(after) > 0) == truth)))
    json.dumps(found.to_dict())


@pytest.mark.parametrize(
    ("head", "kind", "label", "message"),
    [
        ("3", "classification", '"perhaps"', "line 1: unknown label 'perhaps'; labels: yes, no, maybe, or 0 to 2"),
        ("3", "classification", "3", "line 1: unknown label 3; labels"),
        ("3", "classification", "0.5", "line 1: unknown label 0.5; labels"),
        ("reg", "regression", '"good"', "line 1: the label 'good' is not a number"),
        ("reg", "regression", "true", "line 1: the label True is not a number"),
        ("reg", "regression", "1" + "0" * 400, f"line 1: the label 1{'0' * 59} is not a number"),
    ],
)
def test_drift_refuses_foreign_labels(tmp_path: Path, head: str, kind: str, label: str, message: str) -> None:
    calibration = read(tmp_path, "a.jsonl", f'{{"text": "one", "label": {label}}}')
    model = _moved(head)[0]
    with pytest.raises(ExportError) as error:
        drift(model, model, _activate("t"), calibration, task="t", head=kind, labels=("yes", "no", "maybe"))
    assert message in str(error.value)
