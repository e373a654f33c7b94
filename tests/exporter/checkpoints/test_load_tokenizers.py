"""Tokenizers of model folders: written as fast ones or refused by name, and nothing outside the output."""

from __future__ import annotations

import base64
import io
import json
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
from tokenizers import normalizers
from transformers import AutoTokenizer, BertTokenizer, BertTokenizerFast

from exporter import export
from exporter.checkpoints import tokenizer as tokenizer_module
from exporter.checkpoints.load import load
from exporter.checkpoints.vocabulary_files import longest_token
from exporter.cli.main import main
from exporter.cli.next_step import next_step
from exporter.errors import ExportError
from tests.helpers.load_testing import assert_refused, edit
from tests.helpers.printed_lines import run_lines
from tests.helpers.sweep import swept
from tests.helpers.tiny_models import tiny_model

_WORDS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "phone", "is", "fast", "##er")
_LINES = [
    "the phone is fast, and the screen is gorgeous.",
    "Anna flew to Paris on Monday.",
    "Who wrote the letter?",
    "a quick brown fox jumps over the lazy dog",
]


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder with one task, without a tokenizer."""
    folder = tmp_path_factory.mktemp("saved") / "model"
    tiny_model({"a": ("seq_bn", "2")}).save_pretrained(folder)
    return folder


def _with(saved: Path, folder: Path, config: Any = None, **files: str | bytes) -> Path:
    """A copy of the model folder with files of a tokenizer; the names of files are written with _ for the dot."""
    shutil.copytree(saved, folder)
    if config is not None:
        (folder / "tokenizer_config.json").write_text(json.dumps(config))
    for name, content in files.items():
        (folder / name.replace("_", ".")).write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder


def _sentencepiece() -> bytes:
    trainer = pytest.importorskip("sentencepiece").SentencePieceTrainer
    model = io.BytesIO()
    trainer.train(sentence_iterator=iter(_LINES * 5), model_writer=model, vocab_size=60, hard_vocab_limit=False, minloglevel=2)
    return model.getvalue()


def _exported(folder: Path, output: Path, *options: str) -> Path:
    assert main(["--model", str(folder), "--output", str(output), "--quiet", *options]) == 0
    return output


def test_only_a_vocabulary_becomes_a_fast_tokenizer(tmp_path: Path, saved: Path) -> None:
    folder = _with(saved, tmp_path / "model", vocab_txt="\n".join(_WORDS))
    output = _exported(folder, tmp_path / "onnx")
    assert (output / "tokenizer.json").is_file()
    (command,) = next_step(output)
    assert "a" in run_lines([command], tmp_path)


@pytest.mark.parametrize(
    ("kind", "file"),
    [
        ("XLMRobertaTokenizer", "sentencepiece.bpe.model"),
        ("LlamaTokenizer", "tokenizer.model"),
        *swept(("DebertaV2Tokenizer", "spm.model"), ("AlbertTokenizer", "spiece.model")),
    ],
)
def test_sentencepiece_models_are_converted(tmp_path: Path, saved: Path, kind: str, file: str) -> None:
    folder = _with(saved, tmp_path / "model", {"tokenizer_class": kind, "pad_token": "<unk>", "legacy": False})
    (folder / file).write_bytes(_sentencepiece())
    slow = AutoTokenizer.from_pretrained(folder, use_fast=False)
    output = _exported(folder, tmp_path / "onnx")
    found = AutoTokenizer.from_pretrained(output)
    assert found.is_fast
    for line in _LINES:
        assert found(line)["input_ids"] == slow(line)["input_ids"]
    (command,) = next_step(output)
    run_lines([command], tmp_path)


def _with_piece(model: bytes, size: int) -> bytes:
    """A model of SentencePiece with one more piece, of `size` characters."""
    piece = b"\x0a" + _varint(size) + b"a" * size + b"\x15" + b"\0" * 4
    return model + b"\x0a" + _varint(len(piece)) + piece


def _varint(number: int) -> bytes:
    return bytes([number & 127 | 128]) + _varint(number >> 7) if number > 127 else bytes([number])


@pytest.mark.parametrize("size", [1001, 2_000_000])  # of which the second ended the process
@pytest.mark.parametrize(
    ("kind", "file"), [("XLMRobertaTokenizer", "sentencepiece.bpe.model"), ("LlamaTokenizer", "tokenizer.model")]
)
def test_long_pieces_are_refused(tmp_path: Path, saved: Path, kind: str, file: str, size: int) -> None:
    folder = _with(saved, tmp_path / "model", {"tokenizer_class": kind, "pad_token": "<unk>", "legacy": False})
    model = _sentencepiece()
    assert longest_token(model) < 30
    (folder / file).write_bytes(_with_piece(model, size))
    start = time.process_time()
    assert_refused(f"{file}' has a token of {size:,} bytes, expected at most 1,000: .*--no-tokenizer", folder)
    assert time.process_time() - start < 5


@pytest.mark.parametrize("number", [3, 1_000_000])
def test_long_tokens_of_tiktoken_are_refused(tmp_path: Path, saved: Path, number: int) -> None:
    content = b"\n".join(base64.b64encode(token) + b" %d" % rank for rank, token in enumerate([b"a", b"b", b"ab" * number]))
    assert longest_token(content) == pytest.approx(2 * number, abs=5)
    assert [longest_token(content) for content in (b"", b"\x0a", b"\xff" * 20, b"\x0a\x05abc")] == [0, 0, 15, 3]


def test_tokenizers_that_take_hours_are_refused(tmp_path: Path, saved: Path) -> None:
    folder = _with(saved, tmp_path / "model", vocab_txt="\n".join(_WORDS))
    AutoTokenizer.from_pretrained(folder).save_pretrained(folder)
    path = folder / "tokenizer.json"
    bomb = {"type": "Replace", "pattern": {"Regex": "(a|a)*$"}, "content": "b" * 9000}
    path.write_text(json.dumps(json.loads(path.read_text()) | {"normalizer": bomb}))
    message = r"can take hours or gigabytes for a text: .*9,000 characters.*; the normalizer has a pattern .*--no-tokenizer"
    assert_refused(message, folder)
    assert load(folder, False).tokenizer is None
    live = BertTokenizerFast(str(folder / "vocab.txt"))
    live.backend_tokenizer.normalizer = normalizers.Replace("a", "b" * 9000)
    with pytest.raises(ExportError, match=r"the tokenizer can take hours or gigabytes for a text: .*9,000 characters"):
        load(tiny_model({"a": ("seq_bn", "2")}), live)


def test_a_missing_package_is_named(tmp_path: Path, saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = _with(saved, tmp_path / "model", {"tokenizer_class": "XLMRobertaTokenizer"})
    (folder / "sentencepiece.bpe.model").write_bytes(b"\0")
    monkeypatch.setattr(tokenizer_module, "_installed", lambda name: name not in ("sentencepiece", "tiktoken"))
    message = r"needs sentencepiece, tiktoken, not installed: pip install 'adapterdrop-onnx\[tokenizers\]'; or .*--no-tokenizer"
    assert_refused(message, folder)


@pytest.mark.parametrize("kind", ["PhobertTokenizer", *swept("BertweetTokenizer")])
def test_a_tokenizer_that_is_only_slow(tmp_path: Path, saved: Path, kind: str) -> None:
    folder = _with(saved, tmp_path / "model", {"tokenizer_class": kind}, vocab_txt="the 3\n", bpe_codes="t h 3\nth e</w> 2\n")
    assert_refused(f"is a {kind}, for which transformers has no fast form: .*--no-tokenizer.*tokenizer=False", folder)
    output = _exported(folder, tmp_path / "onnx", "--no-tokenizer")
    assert not list(output.glob("*token*"))
    assert "array" in run_lines(next_step(output), tmp_path)


@pytest.mark.parametrize(
    ("config", "name", "message"),
    [
        ({"tokenizer_class": "BertTokenizer"}, None, "has no vocabulary"),
        ({"tokenizer_class": "RobertaTokenizer"}, None, "has no vocabulary"),
        ({}, None, "has no vocabulary"),
        (None, "special_tokens_map.json", "has no vocabulary"),
        ({"tokenizer_class": "CanineTokenizer"}, None, "is a CanineTokenizer, for which transformers has no fast form"),
        (
            {"tokenizer_class": "CodeTokenizer", "auto_map": {"AutoTokenizer": ["code.CodeTokenizer", None]}},
            None,
            "needs code from the folder, which is never run",
        ),
        (None, "tokenizer.json", "the tokenizer in .* cannot be loaded: .*--no-tokenizer"),
    ],
)
def test_incomplete_tokenizers(tmp_path: Path, saved: Path, config: Any, name: str | None, message: str) -> None:
    folder = _with(saved, tmp_path / "model", config, **({name.replace(".", "_"): "{}"} if name else {}))
    if name == "special_tokens_map.json":
        (folder / "special.tokens.map.json").rename(folder / name)
    assert_refused(message, folder)
    assert load(folder, False).tokenizer is None


def test_names_of_inputs_must_be_a_list(tmp_path: Path, saved: Path) -> None:
    config = {"tokenizer_class": "BertTokenizer", "model_input_names": None}
    folder = _with(saved, tmp_path / "model", config, vocab_txt="\n".join(_WORDS))
    assert_refused("has the model_input_names None: expected a list of names", folder)


def test_a_live_slow_tokenizer_is_converted(tmp_path: Path) -> None:
    (tmp_path / "vocab.txt").write_text("\n".join(_WORDS))
    slow = BertTokenizer(str(tmp_path / "vocab.txt"), model_max_length=20)
    slow.add_tokens(["gorgeous"])
    model = tiny_model({"a": ("seq_bn", "2")})
    found = load(model, slow).tokenizer
    text = "the phone is faster and gorgeous"
    assert found.is_fast
    assert found(text) == slow(text)
    assert found.model_max_length == 20
    export(model, slow, output=tmp_path / "onnx")
    assert AutoTokenizer.from_pretrained(tmp_path / "onnx")(text)["input_ids"] == slow(text)["input_ids"]


_PATH = "../../../escaped"
_TEMPLATES = {
    "names in the configuration": (
        "tokenizer_config.json",
        [{"name": _PATH, "template": "x"}, {"name": "default", "template": ""}],
    ),
    "one name": ("tokenizer_config.json", [{"name": _PATH, "template": "x"}]),
    "an absolute path": ("tokenizer_config.json", [{"name": "/tmp/escaped", "template": "x"}]),  # noqa: S108  never written
}


@pytest.mark.parametrize("kind", ["names in the configuration", *swept("one name", "an absolute path")])
def test_names_of_chat_templates_are_no_paths(tmp_path: Path, saved: Path, kind: str) -> None:
    file, templates = _TEMPLATES[kind]
    folder = _with(saved, tmp_path / "in" / "model", {"tokenizer_class": "BertTokenizer"}, vocab_txt="\n".join(_WORDS))
    edit(folder / file, chat_template=templates)
    inside = set(tmp_path.rglob("*"))
    output = _exported(folder, tmp_path / "in" / "below" / "onnx")
    assert {path for path in tmp_path.rglob("*") if path not in inside and output not in path.parents} == {
        output.parent,
        output,
    }
    assert not Path("/tmp/escaped.jinja").exists()  # noqa: S108
    assert _PATH not in (output / "tokenizer_config.json").read_text()


def test_chat_templates_in_files_are_kept_or_left_out(tmp_path: Path, saved: Path) -> None:
    folder = _with(saved, tmp_path / "model", vocab_txt="\n".join(_WORDS), chat_template="x")
    (folder / "chat.template").rename(folder / "chat_template.jinja")
    assert (_exported(folder, tmp_path / "one") / "chat_template.jinja").read_text() == "x"
    (folder / "additional_chat_templates").mkdir()
    (folder / "additional_chat_templates" / "tools.jinja").write_text("y")
    assert not list(_exported(folder, tmp_path / "two").rglob("*.jinja"))


def test_vocabulary_files_from_elsewhere_stay_there(tmp_path: Path, saved: Path) -> None:
    secret = tmp_path / "secret.txt"
    secret.write_text("\n".join((*_WORDS, "confidential")))
    folder = _with(saved, tmp_path / "model", {"vocab_file": str(secret)}, vocab_txt="\n".join(_WORDS))
    output = _exported(folder, tmp_path / "onnx")
    assert all(b"confidential" not in path.read_bytes() for path in output.iterdir())


def test_names_that_no_file_can_have_are_passed_over(tmp_path: Path, saved: Path) -> None:
    folder = _with(saved, tmp_path / "model", {"vocab_file": "x" * 300}, vocab_txt="\n".join(_WORDS))
    assert (_exported(folder, tmp_path / "onnx") / "tokenizer.json").is_file()
