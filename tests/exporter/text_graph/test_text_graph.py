"""The tokenizer in a graph gives the ids, masks and types of the tokenizer itself; others are refused."""

from __future__ import annotations

import builtins
import copy
import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from tokenizers import AddedToken, Tokenizer, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

import runtime
from exporter import ExportError, VerificationError, add, export
from exporter.text_graph import build, verify
from exporter.text_graph.build import TextGraph, make_text_graph, save_text_graphs, stored_text_graph
from exporter.text_graph.verify import extensions_library, open_text_graph, verify_tokenizer
from runtime.bundle import MANIFEST, read_manifest, text_file
from tests.helpers.pages import blocks
from tests.helpers.sweep import swept
from tests.helpers.text_graphs import LIMIT, NAMES, few_texts, needs_extensions, text_plan, with_text_graph
from tests.helpers.tiny_models import bert_config, tiny_model
from tests.helpers.tiny_tokenizers import tiny_tokenizer


@pytest.fixture(scope="module")
def wordpiece(example_bundle: Path) -> Any:
    """The tokenizer of the bundled example: uncased, with accents removed."""
    return PreTrainedTokenizerFast.from_pretrained(example_bundle)


@pytest.fixture(scope="module")
def graph(wordpiece: Any) -> TextGraph:
    pytest.importorskip("onnxruntime_extensions")
    with pytest.MonkeyPatch.context() as patch:
        few_texts(patch, 10)
        made = make_text_graph(wordpiece, text_plan())
    assert made.verified > 500
    return made


class _Shuffled:
    """A tokenizer whose vocabulary has another order."""

    def __init__(self, inner: Tokenizer, vocabulary: Any) -> None:
        self.__dict__.update(inner=inner, vocabulary=vocabulary)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def get_vocab(self, with_added_tokens: bool = True) -> Any:
        return self.vocabulary(self.inner, with_added_tokens)


def _run(graph: TextGraph, texts: list[str], pairs: list[str] | None = None) -> list[np.ndarray]:
    feeds = {"text": np.array(texts, dtype=object)} | ({} if pairs is None else {"text_pair": np.array(pairs, dtype=object)})
    found: list[np.ndarray] = open_text_graph(graph.proto.SerializeToString()).run(None, feeds)
    return found


@pytest.mark.parametrize(
    "text", ["İ ΑΣ ǅ", "unaffableX \x00[MASK]a", "e\u0323\u0302 ﬁ 北京 \ud7a3\U0001f469\u200d\U0001f680", ""]
)
def test_texts_on_which_bert_tokenizer_differs(graph: TextGraph, wordpiece: Any, text: str) -> None:
    (ids, mask, kinds), expected = _run(graph, [text]), wordpiece([text], return_tensors="np")
    for found, name in zip((ids, mask, kinds), NAMES, strict=True):
        assert found.tolist() == expected[name].tolist()


@pytest.mark.parametrize("pairs", [None, ["b", "", "c d " * 20]])
def test_batches_are_padded_and_truncated(graph: TextGraph, wordpiece: Any, pairs: list[str] | None) -> None:
    texts = ["a " * 40, "", "one two three"]
    expected = wordpiece(texts, pairs, padding=True, truncation=True, max_length=LIMIT, return_tensors="np")
    for found, name in zip(_run(graph, texts, pairs), NAMES, strict=True):
        assert found.shape == (3, LIMIT)
        assert found.tolist() == expected[name].tolist()


def test_numbers_of_texts_that_do_not_fit_are_refused(graph: TextGraph) -> None:
    with pytest.raises(Exception, match="at_least_one_text_is_expected"):
        _run(graph, [])
    with pytest.raises(Exception, match="one_text_pair_for_each_text"):
        _run(graph, ["a", "b", "c"], ["d", "e"])


@needs_extensions
def test_another_wordpiece_has_a_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cased, with padding and truncation on the left."""
    few_texts(monkeypatch, 25)
    cased = tiny_tokenizer("wordpiece", LIMIT, padding_side="left", truncation_side="left")
    cased.backend_tokenizer.normalizer = normalizers.BertNormalizer(lowercase=False, strip_accents=False)
    cased.backend_tokenizer.add_tokens([AddedToken("Łódź-b", normalized=True)])
    assert make_text_graph(cased, text_plan()).verified > 200


@needs_extensions
@pytest.mark.parametrize("prefix", [True, *swept(False)])
def test_roberta_has_a_graph(monkeypatch: pytest.MonkeyPatch, prefix: bool) -> None:
    """A mask that takes the space before it, and two separators in a pair."""
    few_texts(monkeypatch, 25)
    roberta = tiny_tokenizer("bpe", LIMIT)
    backend = roberta.backend_tokenizer
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix)
    ends = ("</s>", roberta.sep_token_id), ("<s>", roberta.cls_token_id)
    backend.post_processor = processors.RobertaProcessing(*ends, trim_offsets=prefix, add_prefix_space=prefix)
    backend.add_special_tokens([AddedToken("<mask>", lstrip=True, normalized=False)])
    made = make_text_graph(roberta, text_plan(NAMES[:2]))
    assert made.verified > 200
    assert _run(made, ["", ""])[0].tolist() == roberta(["", ""])["input_ids"]
    (ids,) = _run(made, ["slow <mask>"], ["isn't"])[0].tolist()
    assert ids == roberta("slow <mask>", "isn't")["input_ids"]
    assert [roberta.sep_token_id] * 2 == ids[ids.index(roberta.sep_token_id) :][:2]
    with pytest.raises(Exception, match="texts_must_not_contain_nul"):
        _run(made, ["a\0b"])
    with pytest.raises(Exception, match="texts_must_not_contain_next_line"):
        _run(made, ["a \xa0\x85b"])


@needs_extensions
def test_a_tokenizer_without_padding_has_a_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    """As GPT-2's: rows are padded with the padding of the model."""
    few_texts(monkeypatch, 200)
    given = tiny_tokenizer("bpe", LIMIT)
    given.pad_token = None
    made = make_text_graph(given, text_plan(NAMES[:2], padding_id=3))
    ids, mask = _run(made, ["a fast phone", "a"])
    assert set(ids[1][mask[1] == 0].tolist()) == {3}
    assert given.pad_token is None


def test_the_vocabulary_has_one_order(wordpiece: Any, graph: TextGraph, monkeypatch: pytest.MonkeyPatch) -> None:
    """The library's dictionary has another order in each process."""
    few_texts(monkeypatch, 400)
    original = Tokenizer.get_vocab

    def reversed_order(own: Tokenizer, with_added_tokens: bool = True) -> dict[str, int]:
        return dict(reversed(list(original(own, with_added_tokens).items())))

    shuffled = SimpleNamespace(from_str=lambda text: _Shuffled(Tokenizer.from_str(text), reversed_order))
    monkeypatch.setattr(build, "Tokenizer", shuffled)
    assert make_text_graph(wordpiece, text_plan()).proto.SerializeToString() == graph.proto.SerializeToString()


def test_a_text_that_differs_is_named(graph: TextGraph, wordpiece: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verify, "hard_texts", lambda *_: ["the same", "phone \U0001f600"])
    changed = json.loads(wordpiece.backend_tokenizer.to_str())
    vocabulary = changed["model"]["vocab"]
    vocabulary["phone"], vocabulary["same"] = vocabulary["same"], vocabulary["phone"]
    other = copy.deepcopy(wordpiece)
    other._tokenizer = Tokenizer.from_str(json.dumps(changed))
    with pytest.raises(ExportError, match=r"differ on the text 'the same', at token 2: \['same', .* \['phone', "):
        verify_tokenizer(ir.from_proto(graph.proto), other, LIMIT)


def _with(kind: str, **parts: Any) -> Any:
    found = tiny_tokenizer(kind, LIMIT)
    for name, part in parts.items():
        setattr(found.backend_tokenizer, name, part)
    return found


@pytest.mark.parametrize(
    ("make", "fields", "message"),
    [
        (lambda: None, {}, "the model has no tokenizer"),
        (
            lambda: tiny_tokenizer("unigram", LIMIT),
            {},
            "Unigram tokenizers .* only WordPiece and BPE; omit --with-tokenizer$",
        ),
        (lambda: _with("bpe", normalizer=normalizers.NFC()), {}, "found the normalizer NFC and the pre-tokenizer ByteLevel"),
        (lambda: _with("wordpiece", normalizer=normalizers.NFC()), {}, "the normalizer NFC depends on neighbouring"),
        (lambda: _with("wordpiece", pre_tokenizer=pre_tokenizers.Whitespace()), {}, "the pre-tokenizer Whitespace depends"),
        (lambda: tiny_tokenizer("bpe", LIMIT), {"opset": 17}, "need opset 20 or higher, found 17: omit --opset"),
        (lambda: tiny_tokenizer("bpe", LIMIT), {"outputs": {"text": ("text",)}}, "rename the task 'text'"),
        (lambda: tiny_tokenizer("bpe", LIMIT), {"names": ("pixel_values",)}, r"not made of texts \(pixel_values\)"),
    ],
)
def test_what_has_no_graph_is_refused(make: Any, fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ExportError, match=message):
        make_text_graph(make(), text_plan(**fields))


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    original = builtins.__import__

    def missing(name: str, *given: Any, **named: Any) -> Any:
        if name == "onnxruntime_extensions":
            raise ImportError(name)
        return original(name, *given, **named)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(ExportError, match=r"pip install 'adapterdrop-onnx\[extensions\]'"):
        extensions_library()


def test_the_graph_gives_the_answers_of_the_runtime(
    graph: TextGraph, example_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = with_text_graph(graph, example_bundle, tmp_path / "written")
    # Again from what was written, for `add`
    folder = with_text_graph(stored_text_graph(written / "text.onnx"), example_bundle, tmp_path / "onnx")
    assert read_manifest(folder).text_graphs == {"model.onnx": "text.onnx"}
    assert (folder / "text.onnx").stat().st_size < 3_000_000  # the weights are in the file of all graphs
    predictor = runtime.load(folder, provider="cpu")
    texts = ["The new phone is fast, and the screen is gorgeous.", "Çá va?"]
    (program,) = [block.text for block in blocks("python") if "onnxruntime_extensions" in block.text]
    monkeypatch.chdir(tmp_path)
    scope: dict[str, Any] = {}
    exec(program.replace("onnx-texts/", "onnx/"), scope)  # noqa: S102  # the page of other languages
    topics = next(task for task in predictor.manifest.tasks if task.name == "news_topic")
    assert topics.labels[int(scope["logits"][0].argmax())] == predictor.predict([scope["texts"][0]])["news_topic"][0].label
    session = open_text_graph(folder / "text.onnx")
    tasks = predictor.manifest.tasks
    names = [task.outputs[0] for task in tasks]
    found = dict(zip(names, session.run(names, {"text": np.array(texts, dtype=object)}), strict=True))
    for task in tasks:
        if task.head == "classification":
            for row, prediction in enumerate(predictor.predict(texts, tasks=[task.name])[task.name]):
                assert task.labels[int(found[task.outputs[0]][row].argmax())] == prediction.label


def test_a_graph_that_differs_is_refused(
    graph: TextGraph, example_bundle: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folder = shutil.copytree(example_bundle, tmp_path / "onnx")
    monkeypatch.setattr(build, "open_graph", lambda path: _Shifted(path))
    with pytest.raises(VerificationError, match=r"text\.onnx: .* differs from that of the graph without a tokenizer"):
        save_text_graphs(graph, folder, ["model.onnx"], text_plan())


class _Shifted:
    """A session whose results are one more."""

    def __init__(self, path: Path) -> None:
        from exporter.verify.candidate import open_graph

        self._session = open_graph(path)
        self.get_inputs, self.get_outputs = self._session.get_inputs, self._session.get_outputs

    def run(self, *given: Any) -> list[np.ndarray]:
        return [result + 1 for result in self._session.run(*given)]


def test_export_and_add_write_the_graph(
    graph: TextGraph, wordpiece: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("exporter.export_tasks.make_text_graph", lambda *_: graph)
    model = tiny_model({"topic": ("seq_bn", "3"), "spam": ("seq_bn", "2")}, bert_config(len(wordpiece)))
    folder = tmp_path / "onnx"
    report = export(model, wordpiece, ["topic"], 1, folder, extendable=True, with_tokenizer=True)
    assert [variant.text_graph for variant in report.variants] == ["text.onnx"]
    manifest = runtime.load(folder, provider="cpu").manifest
    assert manifest.text_graphs == {"model.onnx": "text.onnx"}
    assert "onnxruntime-extensions" in manifest.versions
    assert text_file("model_drop0.onnx") == "text_drop0.onnx"
    model.delete_adapter("topic")
    model.delete_head("topic")
    assert add(folder, model=model).variants[0].text_graph == "text.onnx"
    outputs = [output.name for output in open_text_graph(folder / "text.onnx").get_outputs()]
    assert outputs == ["topic", "spam", *NAMES]


def test_the_manifest_names_graphs_that_are_there(example_bundle: Path, tmp_path: Path) -> None:
    manifest = read_manifest(example_bundle)
    with pytest.raises(
        runtime.BundleError, match=r"text_graphs\['model.onnx'\]: expected one of the listed files, found 'no.onnx'"
    ):
        replace(manifest, text_graphs={"model.onnx": "no.onnx"}).write(tmp_path)
    with pytest.raises(
        runtime.BundleError, match=r"text_graphs: expected graphs of the variants \(model.onnx\), found 'a.onnx'"
    ):
        replace(manifest, text_graphs={"a.onnx": "model.onnx"}).write(tmp_path)
    assert not (tmp_path / MANIFEST).exists()
