"""Comparison of the tokenizer in a graph with the tokenizer itself."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime

from exporter.errors import ExportError, VerificationError
from exporter.text_graph.hard_texts import hard_pairs, hard_texts
from exporter.text_graph.refusals import refused

_BATCH = 16
_SHOWN = 200  # characters of a text in a message
# Texts without a limit are compared up to this many tokens
_LONGEST = 512


def extensions_library() -> str:
    """Return the library of operators of onnxruntime-extensions.

    Raises:
        ExportError: the package is not installed.
    """
    try:
        from onnxruntime_extensions import get_library_path
    except ImportError as error:
        raise ExportError(
            "--with-tokenizer needs onnxruntime-extensions: pip install 'adapterdrop-onnx[extensions]', or export without it"
        ) from error
    return str(get_library_path())


def open_text_graph(graph: str | bytes | Path) -> Any:
    """Create a session for a graph that reads texts.

    Raises:
        ExportError: onnxruntime-extensions is not installed.
        VerificationError: ONNX Runtime cannot load the graph.
    """
    options = onnxruntime.SessionOptions()
    options.register_custom_ops_library(extensions_library())
    options.log_severity_level = 3  # a warning that text_pair can be given
    try:
        return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's exceptions have no common base class
        message = f"ONNX Runtime cannot load the graph with the tokenizer; nothing was written: {error}"
        raise VerificationError(message) from error


def verify_tokenizer(model: ir.Model, tokenizer: Any, limit: int | None, nul: bool = True) -> int:
    """Compare the graph of a tokenizer with the tokenizer on a few thousand texts and pairs, in batches.

    Args:
        model: the graph from `text` and `text_pair` to the inputs of a graph of tasks.
        tokenizer: fast tokenizer of transformers.
        limit: most tokens of a text; None without a limit.
        nul: whether the graph takes texts with NUL and U+0085; those of byte-level BPE fail on them.

    Returns:
        Number of texts and pairs that are equal.

    Raises:
        ExportError: a text gives other inputs; the message has the first one.
    """
    session = open_text_graph(ir.to_proto(model).SerializeToString())
    texts = hard_texts(tokenizer.backend_tokenizer, limit or _LONGEST)
    if not nul:
        texts = [text.replace("\0", "\1").replace("\x85", "\x84") for text in texts]
    firsts, seconds = hard_pairs(texts)
    for start in range(0, len(texts), _BATCH):
        _compare(session, tokenizer, limit, texts[start : start + _BATCH], None)
    for start in range(0, len(firsts), _BATCH):
        _compare(session, tokenizer, limit, firsts[start : start + _BATCH], seconds[start : start + _BATCH])
    return len(texts) + len(firsts)


def _compare(session: Any, tokenizer: Any, limit: int | None, texts: Sequence[str], pairs: Sequence[str] | None) -> None:
    names = [output.name for output in session.get_outputs()]
    found = _encode(session, texts, pairs)
    expected = _reference(tokenizer, limit, texts, pairs, names)
    if found is not None and all(_equal(found[name], expected[name]) for name in names):
        return
    # One text of the batch, or the batch itself: the padding of one text depends on the others
    for index, text in enumerate(texts):
        pair = None if pairs is None else [pairs[index]]
        wanted, got = _reference(tokenizer, limit, [text], pair, names), _encode(session, [text], pair)
        if got is None or not all(_equal(got[name], wanted[name]) for name in names):
            raise refused(_difference(tokenizer, text if pair is None else (text, pair[0]), got, wanted))
    raise refused(f"the graph pads {list(texts)!a:.{_SHOWN}} differently from the tokenizer")


def _encode(session: Any, texts: Sequence[str], pairs: Sequence[str] | None) -> dict[str, np.ndarray] | None:
    feeds = {"text": np.array(texts, dtype=object)}
    if pairs is not None:
        feeds["text_pair"] = np.array(pairs, dtype=object)
    names = [output.name for output in session.get_outputs()]
    try:
        return dict(zip(names, session.run(None, feeds), strict=True))
    except Exception:  # ONNX Runtime's exceptions have no common base class; the caller reports the text
        return None


def _reference(
    tokenizer: Any, limit: int | None, texts: Sequence[str], pairs: Sequence[str] | None, names: Sequence[str]
) -> dict[str, np.ndarray]:
    truncation = {} if limit is None else {"truncation": True, "max_length": limit}
    encoded = tokenizer(
        list(texts),
        None if pairs is None else list(pairs),
        padding=True,
        return_tensors="np",
        return_token_type_ids="token_type_ids" in names,
        **truncation,
    )
    return {name: encoded[name] for name in names}


def _equal(found: np.ndarray, expected: np.ndarray) -> bool:
    return found.shape == expected.shape and bool((found == expected).all())


def _difference(tokenizer: Any, text: str | tuple[str, str], found: Any, expected: dict[str, np.ndarray]) -> str:
    message = "the tokenizer cannot be put into the graph, which would differ on the text "
    shown = f"{text!a:.{_SHOWN}}"
    if found is None:
        return f"{message}{shown}, on which the operators fail"
    got, wanted = (tokenizer.convert_ids_to_tokens(each["input_ids"][0]) for each in (found, expected))
    same = [first == second for first, second in zip(got, wanted, strict=False)]
    at = same.index(False) if False in same else len(same)
    tokens = f"at token {at}: {wanted[at : at + 3]!a} by the tokenizer, {got[at : at + 3]!a} in the graph"
    return f"{message}{shown}, {tokens}"
