"""predict_iter and apredict: the results of predict, in windows, in order, and one text at a time where one fails."""

import asyncio
import itertools
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import runtime
from runtime.bundle import TaskEntry, read_manifest
from runtime.text import windows
from tests.helpers.runtime_bundles import keep_tasks, write_bundle

TEXTS = ["one", "two words", "a b c d e f g", ("a", "pair"), "", "Zoë 東京"] * 3
LONG = "word " * 30


def test_results_are_those_of_predict_in_order(predictor: runtime.Predictor) -> None:
    expected = predictor.predict(TEXTS, top_k=1)
    for window in (1, 4, 4096):
        rows = list(predictor.predict_iter(iter(TEXTS), window=window, top_k=1))
        assert [list(row) for row in rows] == [list(expected)] * len(TEXTS)
        for index, row in enumerate(rows):
            for task, found in row.items():
                assert found.label == expected[task][index].label
                assert dict(found.scores) == pytest.approx(dict(expected[task][index].scores), abs=1e-5)
                assert [word.text for word in found.words] == [word.text for word in expected[task][index].words]


def test_texts_are_read_a_window_at_a_time(predictor: runtime.Predictor, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []

    def endless(text: str) -> Iterator[str]:
        for index in itertools.count():
            read.append(index)
            yield f"{text} {index}"

    found = predictor.predict_iter(endless("text"), ["topic"], window=5)
    assert read == []
    assert len(list(itertools.islice(found, 7))) == 7
    assert len(read) == 10
    # Long texts make a window shorter
    monkeypatch.setattr(windows, "_CHARACTERS", 4_000)
    read.clear()
    assert next(predictor.predict_iter(endless("word " * 190), ["topic"], truncate=True))
    assert len(read) == 5


def test_windows_of_a_slow_model_are_short(predictor: runtime.Predictor) -> None:
    """A window grows while it takes less than two seconds, and shrinks if it takes more than eight."""
    size = windows._Size(64, adapts=True)
    for texts, seconds, expected in ((64, 0.1, 128), (128, 3.0, 128), (60, 0.1, 128), (128, 9.0, 64), (64, 9.0, 32)):
        size.after(texts, seconds)
        assert size.now == expected
    for _ in range(20):
        size.after(size.now, 0.0)
    assert size.now == windows.LARGEST
    source = iter(["a text"] * 1_000)
    next(predictor.predict_iter(source, ["topic"]))
    assert len(list(source)) == 1_000 - 256


def test_a_text_that_fails_ends_the_stream_with_its_number(predictor: runtime.Predictor) -> None:
    texts = ["a"] * 6 + [LONG, "b"]
    rows = predictor.predict_iter(texts, ["topic"], window=3)
    assert len(list(itertools.islice(rows, 6))) == 6
    with pytest.raises(runtime.InputError, match=r"at most 16 tokens in a text, found: texts\[6\] has 32"):
        next(rows)
    with pytest.raises(runtime.InputError, match=r"texts\[1\]: expected a str or a pair .*, found NoneType"):
        list(predictor.predict_iter(["a", None], ["topic"]))  # type: ignore[list-item]


def test_errors_go_to_the_callback_and_the_rest_goes_on(predictor: runtime.Predictor) -> None:
    texts: list[Any] = ["a", LONG, "b", 7, LONG, "c", "\ud800"]
    errors: dict[int, str] = {}
    rows = list(predictor.predict_iter(texts, ["topic"], on_error=lambda index, error: errors.update({index: str(error)})))
    assert [bool(row) for row in rows] == [True, False, True, False, False, True, False]
    assert sorted(errors) == [1, 3, 4, 6]
    assert "texts[4] has 32" in errors[4]
    alone = predictor.predict(["a", "b", "c"], ["topic"])["topic"]
    assert [row["topic"].label for row in rows if row] == [each.label for each in alone]


def test_a_failure_of_the_model_is_that_of_its_text(predictor: runtime.Predictor, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    predict = runtime.Predictor.predict

    def failing(self: runtime.Predictor, texts: Any, *rest: Any, **options: Any) -> Any:
        calls.append(len(texts))
        if "poison" in texts:
            raise runtime.AdapterDropError(f"topic: the logits of texts[{texts.index('poison')}] are NaN")
        return predict(self, texts, *rest, **options)

    monkeypatch.setattr(runtime.Predictor, "predict", failing)
    texts = [f"text {index}" for index in range(40)]
    texts[23] = "poison"
    errors: list[str] = []
    rows = list(predictor.predict_iter(texts, ["topic"], on_error=lambda _, error: errors.append(str(error))))
    assert errors == ["topic: the logits of texts[23] are NaN"]
    assert [index for index, row in enumerate(rows) if not row] == [23]
    assert sum(calls) <= 3 * len(texts)  # in halves


def test_an_error_of_all_texts_ends_the_stream(predictor: runtime.Predictor, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(*_: Any, **__: Any) -> Any:
        raise runtime.BundleError("the bundle has changed")

    monkeypatch.setattr(runtime.Predictor, "predict", failing)
    with pytest.raises(runtime.BundleError, match="has changed"):
        list(predictor.predict_iter(["a", "b"], on_error=lambda *_: None))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"texts": "a text"}, r"expected an iterable of texts, found str; pass \[text\]"),
        ({"texts": [], "tasks": ["mood"]}, "found 'mood'"),
        ({"texts": [], "drop": 3}, "found 3"),
        ({"texts": [], "window": 0}, "window: expected a positive number of texts or None, found 0"),
        ({"texts": [], "top_k": 0}, "top_k: expected a positive integer"),
        ({"texts": [], "prompt_name": "query"}, "none of the tasks is a sentence embedding"),
    ],
)
def test_arguments_are_checked_before_a_text_is_read(
    predictor: runtime.Predictor, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(runtime.InputError, match=message):
        predictor.predict_iter(**arguments)


def test_embeddings_and_labels_in_one_stream(tmp_path: Path) -> None:
    folder = write_bundle(tmp_path / "bundle")
    topic, *_ = read_manifest(folder).tasks
    vector = TaskEntry("search", "sentence_embedding", (), ("flags",), "flags", 2, {"query": "find "})
    keep_tasks(folder, replace(topic), vector)
    predictor = runtime.load(folder, provider="cpu", threads=1)
    (row,) = predictor.predict_iter(["a text"], prompt_name="query")
    (expected,) = predictor.encode_texts(["a text"], prompt_name="query")["search"]
    assert row["search"].vector == pytest.approx(expected.tolist())
    assert row["topic"].label == predictor.predict(["a text"], ["topic"])["topic"][0].label


def test_calls_from_asyncio_do_not_block_it(predictor: runtime.Predictor) -> None:
    async def both() -> list[dict[str, list[runtime.Prediction]]]:
        return await asyncio.gather(*(predictor.apredict([text], ["topic"], top_k=1) for text in ("one", "two")))

    for text, found in zip(("one", "two"), asyncio.run(both()), strict=True):
        assert found["topic"][0].label == predictor.predict([text], ["topic"])["topic"][0].label
    with pytest.raises(runtime.InputError, match="found 'mood'"):
        asyncio.run(predictor.apredict(["a"], ["mood"]))


def test_a_cancelled_call_ends_its_run(bundle: Path) -> None:
    began, failed = threading.Event(), threading.Event()

    @contextmanager
    def slow(_: runtime.Run) -> Iterator[None]:
        began.set()
        time.sleep(0.05)
        try:
            yield
        except runtime.CancelledError:
            failed.set()
            raise

    def hook(run: runtime.Run) -> AbstractContextManager[None]:
        return slow(run)

    predictor = runtime.load(bundle, provider="cpu", threads=1, hooks=[hook])

    async def cancelled() -> None:
        call = asyncio.create_task(predictor.apredict(["a text"] * 200, ["topic"], batch_size=1))
        while not began.is_set():
            await asyncio.sleep(0.001)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call

    asyncio.run(cancelled())
    assert failed.wait(10)  # instead of 200 runs
