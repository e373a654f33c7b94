"""Requests of the HTTP service without an HTTP server: a replica is called as Ray Serve calls it."""

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Iterable
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import runtime
from runtime.bundle import MODEL, TaskEntry
from runtime.serving.batcher import Batcher, Batching, to_json
from runtime.serving.body import BodyReader
from runtime.serving.limits import Limits, RequestError
from runtime.serving.request import PredictRequest, check_headers, respond
from tests.helpers.runtime_bundles import rewrite, write_bundle

LONG = "word " * 99  # more than the model's maximum
LIMITS = Limits(max_body_bytes=100_000, max_texts=300, max_characters=2_000, max_waiting_characters=50_000)


@pytest.fixture(scope="module")
def faulty(tmp_path_factory: pytest.TempPathFactory) -> runtime.Predictor:
    """A predictor whose logits are NaN for the word "bad"."""
    folder = write_bundle(tmp_path_factory.mktemp("faulty") / "bundle")
    encoder = runtime.load(folder, provider="cpu", threads=1)._encoder
    assert encoder is not None
    model = onnx.load(folder / MODEL)
    for initializer in model.graph.initializer:
        if initializer.name == "words_w":
            words = numpy_helper.to_array(initializer).copy()
            words[encoder.encode(["bad"])[0].ids[1]] = np.nan
            initializer.CopyFrom(numpy_helper.from_array(words, initializer.name))
    onnx.save(model, folder / MODEL)
    rewrite(folder)
    return runtime.load(folder, provider="cpu", threads=1)


async def parts(*given: bytes, pause: float = 0) -> AsyncIterator[bytes]:
    for part in given:
        yield part
        await asyncio.sleep(pause)


def body(**fields: Any) -> bytes:
    return json.dumps(fields).encode()


async def answer(predictor: runtime.Predictor, bodies: Iterable[bytes], batching: Batching | None = None) -> list[Any]:
    """The status and the JSON of requests that arrive at the same time."""
    batcher, reader = Batcher(predictor, batching or Batching(), LIMITS), BodyReader(LIMITS)

    async def one(given: bytes) -> tuple[int, Any]:
        try:
            request = PredictRequest.parse(await reader.read({}, parts(given)), LIMITS)
            return 200, json.loads(await batcher.submit(request))
        except RequestError as error:
            return error.status, json.loads(to_json(str(error)))
        except runtime.InputError as error:
            return 400, json.loads(to_json(str(error)))

    return list(await asyncio.gather(*map(one, bodies)))


@pytest.mark.parametrize(("precision", "calls"), [("int8", 2), ("fp32", 1)])
def test_added_tasks_change_no_prediction_of_others(precision: str, calls: int) -> None:
    """In int8, a task of the bundle has other logits in a call with added tasks."""
    made = []

    def predict(texts: Any, tasks: Any, *_: Any, **__: Any) -> dict[str, list[runtime.Prediction]]:
        made.append(tasks)
        return {getattr(task, "name", task): [runtime.Prediction("regression", value=1.0)] * len(texts) for task in tasks}

    def predict_routed(texts: Any, tasks: Any, *_: Any, **__: Any) -> list[dict[str, runtime.Prediction]]:
        made.append(tasks)
        return [{getattr(each, "name", each): runtime.Prediction("regression", value=1.0) for each in own} for own in tasks]

    predictor: Any = SimpleNamespace(
        manifest=SimpleNamespace(precision=precision), provider="cpu", routes=lambda _: True, predict=predict
    )
    predictor.predict_routed = predict_routed
    added = TaskEntry("new", "regression", (), ("new",), "new")
    requests = [PredictRequest.parse(body(texts=["a"], tasks=[name])) for name in ("topic", "mood", "new")]
    requests[2] = replace(requests[2], tasks=(added,))
    assert [status for status, _ in respond(predictor, requests)] == [200] * 3
    assert len(made) == calls


def test_only_the_faulty_request_fails(predictor: runtime.Predictor) -> None:
    bodies: list[dict[str, Any]] = [
        {"texts": ["one", "two"]},
        {"texts": [LONG]},
        {"texts": [["a", "b"]], "tasks": ["topic"], "drop": 5},
        {"texts": [LONG], "truncate": True},
        {"texts": ["a"], "drop": 4},
    ]
    answers = respond(predictor, [PredictRequest.parse(json.dumps(body).encode()) for body in bodies])
    assert [status for status, _ in answers] == [200, 400, 200, 200, 400]
    wanted = predictor.predict(["one", "two"])
    rows = answers[0][1]["predictions"]["topic"]
    assert [row["score"] for row in rows] == pytest.approx([row.score for row in wanted["topic"]], abs=1e-5)
    assert list(answers[2][1]["predictions"]) == ["topic"]


def test_each_request_has_its_options(predictor: runtime.Predictor) -> None:
    bodies: list[dict[str, Any]] = [
        {"texts": ["Anna sings"], "tasks": ["names"], "aggregate": "first"},
        {"texts": ["Anna sings"], "tasks": ["names"]},
        {"texts": ["a", LONG], "tasks": ["names"], "aggregate": "max", "stride": 4.0},
        {"texts": [["Anna", "sings"]], "tasks": ["names"], "is_split_into_words": True},
        {"texts": ["Anna sings"], "top_k": 1, "threshold": 1},
    ]
    answers = asyncio.run(answer(predictor, [body(**each) for each in bodies]))
    assert [status for status, _ in answers] == [200] * 5
    for (_, found), given in zip(answers, bodies, strict=True):
        options = {**given, "stride": 4} if "stride" in given else given
        wanted = predictor.predict(options.pop("texts"), **options)
        for task, rows in found["predictions"].items():
            assert rows == json.loads(json.dumps([row.to_dict() for row in wanted[task]])), given


@pytest.mark.parametrize("batch", [40, 10_000])
def test_every_kind_of_error_stays_in_its_request(faulty: runtime.Predictor, batch: int) -> None:
    texts = [f"text number {index}" for index in range(20)]
    bad = {3: "a bad text", 8: LONG, 13: "bad"}
    bodies = [body(texts=["first", bad.get(index, text), "last"]) for index, text in enumerate(texts)]
    bodies += [body(texts=["a"], tasks=["nothing"]), body(texts=["a"], drop=9), b"{", body(texts=["a"], drop=5.0)]
    answers = asyncio.run(answer(faulty, bodies, Batching(batch_characters=batch)))
    assert [status for status, _ in answers] == [{3: 500, 8: 400, 13: 500}.get(index, 200) for index in range(20)] + [
        400,
        400,
        400,
        200,
    ]
    wanted = faulty.predict(texts)["topic"]
    for index in set(range(20)) - bad.keys():
        assert answers[index][1]["predictions"]["topic"][1]["scores"] == pytest.approx(dict(wanted[index].scores), abs=1e-5)
    for index in bad:
        assert "texts[1]" in answers[index][1]


def test_an_unknown_error_does_not_reach_others(predictor: runtime.Predictor, caplog: pytest.LogCaptureFixture) -> None:
    def fail(run: runtime.Run) -> Any:
        if run.length > 10:
            raise MemoryError("/a/path/of/the/server")
        return threading.Lock()  # a context manager

    bodies = [body(texts=["one two"]), body(texts=["a " * 12]), body(texts=["three four"])]
    answers = asyncio.run(answer(replace(predictor, hooks=(fail,)), bodies))
    assert [status for status, _ in answers] == [200, 500, 200]
    assert answers[1][1] == "unexpected MemoryError in the service; its log has the details"
    assert "/a/path/of/the/server" in caplog.text


@pytest.mark.parametrize(
    ("given", "status", "message"),
    [
        (b"{", 400, "body: expected JSON"),
        (b"", 400, "body: expected JSON"),
        (b"\xff\xfe{", 400, "body: expected JSON"),
        (b"[" * 50_000 + b"]" * 50_000, 400, "body: expected JSON"),
        (b"9" * 5_000, 400, "body: expected JSON"),
        (b"[]", 400, "body: expected an object"),
        (b'{"texts": []}', 400, "body: texts: expected a list"),
        (
            b'{"texts": ["a"], "x": 1}',
            400,
            "body: expected texts, tasks, drop, truncate, aggregate, stride, threshold, top_k and ",
        ),
        (b'{"texts": ["a"], "x": 1}', 400, "top_k and is_split_into_words, found 'x'"),
        (b'{"texts": ["a"], "\\ud800": 1}', 400, r"found '\ud800'"),
        (b'{"texts": ["a"], "tasks": "a"}', 400, "body: tasks: expected a list of names"),
        (b'{"texts": ["a"], "tasks": ["\\udfff"]}', 400, "tasks: expected some of"),
        (b'{"texts": ["a"], "drop": [1]}', 400, "body: drop: expected an integer, found list"),
        (b'{"texts": ["a"], "drop": 1e999}', 400, "body: drop: expected an integer, found float"),
        (b'{"texts": ["a"], "drop": true}', 400, "body: drop: expected an integer, found bool"),
        (b'{"texts": ["a"], "truncate": 1}', 400, "body: truncate"),
        (body(texts=["a"], aggregate="best"), 400, "body: aggregate: expected one of simple, first, max, average or None"),
        (body(texts=["a"], aggregate="max", stride=9, tasks=["names"]), 400, "body: stride: expected at most 8, half of the"),
        (body(texts=["a"], threshold=2, top_k=0), 400, "body: threshold: expected a number from 0 to 1"),
        (body(texts=["a"], top_k=1, tasks=["names"]), 400, "top_k: expected a task with classification or multilabel"),
        (body(texts=["a"], is_split_into_words=True), 400, "texts[0]: expected a list of words"),
        (body(texts=[[""] * 2_002], is_split_into_words=True), 422, "found: texts[0] has 2,001"),
        (b'{"texts": ["a", "\\ud800"]}', 400, "texts[1]: expected text, found a lone surrogate"),
        (b'{"texts": ["a", {}]}', 400, "texts[1]: expected a str or a pair"),
        (b'{"texts": [["a", "b", "c"]]}', 400, "texts[0]: expected a str or a pair"),
        (b'{"texts": [' + b"[" * 800 + b"]" * 800 + b"]}", 400, "texts[0]: expected a str or a pair"),
        (b" " * 100_001, 413, "at most max_body_bytes=100,000 bytes, found 100,001"),
        (b" " * 1_000_001, 413, "at most max_body_bytes=100,000 bytes, found more"),
        (body(texts=["a"] * 301), 413, "at most max_texts=300 texts in a request, found 301"),
        (body(texts=["a", ["b" * 2_000, "c"]]), 422, "max_characters=2,000 characters in a text, found: texts[1] has 2,001"),
    ],
)
def test_a_body_is_refused(predictor: runtime.Predictor, given: bytes, status: int, message: str) -> None:
    (found,) = asyncio.run(answer(predictor, [given]))
    assert found[0] == status
    assert message in found[1]
    if status != 400:
        assert "larger max_" in found[1]


@pytest.mark.parametrize(
    ("method", "headers", "status"),
    [
        ("GET", {}, 405),
        ("POST", {"content-type": "text/html; charset=utf-8"}, 415),
        ("POST", {"content-type": "multipart/form-data; boundary=x"}, 415),
        ("POST", {"content-type": "application/json", "content-encoding": "gzip"}, 415),
    ],
)
def test_a_method_or_a_type_is_refused(method: str, headers: dict[str, str], status: int) -> None:
    with pytest.raises(RequestError, match="expected") as error:
        check_headers(method, headers)
    assert error.value.status == status


@pytest.mark.parametrize(
    "kind", ["", "application/json", "Application/JSON; charset=utf-8", "application/x-www-form-urlencoded"]
)
def test_what_clients_send_by_default_is_accepted(kind: str) -> None:
    check_headers("POST", {"content-type": kind} if kind else {})


def test_a_body_that_is_announced_too_large_is_not_read() -> None:
    stream = parts(b"a")
    with pytest.raises(RequestError, match="max_body_bytes=100,000 bytes, found 1,000,001") as error:
        asyncio.run(BodyReader(LIMITS).read({"content-length": "1000001"}, stream))
    assert (error.value.status, error.value.headers) == (413, {"Connection": "close"})
    with pytest.raises(RequestError, match="max_body_bytes=100,000 bytes, found 100,001"):
        asyncio.run(BodyReader(LIMITS).read({"content-length": "100001"}, stream))  # a part of it is there to be discarded


def test_slow_bodies_make_room_for_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runtime.serving.body._GRACE_SECONDS", 0.05)

    async def main() -> tuple[list[Any], bytearray]:
        reader = BodyReader(replace(LIMITS, max_reading=3, body_seconds=0.5))
        slow = [asyncio.create_task(reader.read({}, parts(*[b"a"] * 20, pause=0.1))) for _ in range(5)]
        await asyncio.sleep(0.2)
        statuses = [task.done() for task in slow]
        quick = await reader.read({}, parts(b"b", b"c"))
        errors = await asyncio.gather(*slow, return_exceptions=True)
        assert not reader._reading
        return [*statuses, *(getattr(error, "status", None) for error in errors)], quick

    found, quick = asyncio.run(main())
    assert found == [True, True, False, False, False, *[408] * 5]  # the oldest first
    assert quick == b"bc"


def test_a_batch_that_fails_as_a_whole_leaves_later_ones(
    predictor: runtime.Predictor, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    compute, calls = Batcher._compute, iter(range(9))

    def first_fails(batcher: Batcher, batch: Any) -> Any:
        if next(calls) == 0:
            raise MemoryError("no memory")
        return compute(batcher, batch)

    monkeypatch.setattr(Batcher, "_compute", first_fails)
    given = [body(texts=["one"]), body(texts=["two"])]
    (status, error), (other, _) = asyncio.run(answer(predictor, given, Batching(max_batch=1, batch_characters=1)))
    assert (status, other) == (500, 200)
    assert "the log of the replica has the reason" in error
    assert "no memory" in caplog.text


def test_a_large_request_does_not_hold_others(predictor: runtime.Predictor) -> None:
    texts = [f"text {index} " + "a " * (index % 9) for index in range(300)]
    finished: list[str] = []

    async def main() -> Any:
        batcher = Batcher(predictor, Batching(batch_characters=100), LIMITS)

        async def submit(name: str, texts: list[str]) -> Any:
            response = json.loads(await batcher.submit(PredictRequest.parse(body(texts=texts))))
            finished.append(name)
            return response["predictions"]

        large = asyncio.create_task(submit("large", texts))
        await asyncio.sleep(0.02)
        await asyncio.gather(*(submit("small", ["b"]) for _ in range(5)))
        return await large

    predictions = asyncio.run(main())
    assert finished == [*["small"] * 5, "large"]
    wanted = predictor.predict(texts)
    assert [row["scores"] for row in predictions["topic"]] == [
        pytest.approx(dict(row.scores), abs=1e-5) for row in wanted["topic"]
    ]
    assert [row["value"] for row in predictions["stars"]] == pytest.approx([row.value for row in wanted["stars"]], abs=1e-5)
    words = [[word["text"] for word in row["words"]] for row in predictions["names"]]
    assert words == [[word.text for word in row.words] for row in wanted["names"]]


@pytest.mark.parametrize(
    ("limits", "status", "message"),
    [
        ({"request_seconds": 0.05}, 503, r"request_seconds=0.05 \(0 of 99 texts were done\); .*larger request_seconds"),
        ({"max_response_bytes": 5_000}, 413, r"max_response_bytes=5,000 bytes, found more after .*larger max_response_bytes"),
    ],
)
def test_a_request_that_takes_too_much_ends(
    predictor: runtime.Predictor, limits: dict[str, Any], status: int, message: str
) -> None:
    async def main() -> None:
        batching = Batching(batch_characters=100, wait_seconds=0.1)
        batcher = Batcher(predictor, batching, replace(LIMITS, **limits))
        with pytest.raises(RequestError, match=message) as error:
            await batcher.submit(PredictRequest.parse(body(texts=["some text"] * 99)))
        assert error.value.status == status
        await asyncio.sleep(0.15)
        assert (batcher._accepted, len(batcher._waiting), batcher._running) == (0, 0, None)

    asyncio.run(main())


def test_large_requests_are_refused_while_others_wait(predictor: runtime.Predictor) -> None:
    async def main() -> list[Any]:
        batcher = Batcher(predictor, Batching(), replace(LIMITS, max_waiting_characters=20_000))
        large, small = PredictRequest.parse(body(texts=["a " * 5] * 1_500)), PredictRequest.parse(body(texts=["a"]))
        calls = [asyncio.create_task(batcher.submit(request)) for request in (large, large, small)]
        await asyncio.sleep(0.01)
        calls[0].cancel()  # the client has gone: its texts are not computed
        return await asyncio.gather(*calls, return_exceptions=True)

    cancelled, refused, answered = asyncio.run(main())
    assert isinstance(cancelled, asyncio.CancelledError)
    assert (refused.status, refused.headers) == (503, {"Retry-After": "1"})
    assert "max_waiting_characters=20,000" in str(refused)
    assert b'"predictions"' in answered


def test_limits_are_positive() -> None:
    with pytest.raises(runtime.InputError, match="max_texts: expected a positive number, found 0; body_seconds"):
        Limits(max_texts=0, body_seconds=float("nan"))


def test_the_page_names_every_limit_and_its_default() -> None:
    page = (Path(runtime.__file__).parents[1] / "docs" / "runtime.md").read_text(encoding="utf-8")
    for name, value in asdict(Limits()).items():
        shown = "half of `max_ongoing`" if name == "max_reading" else f"{value:,}".removesuffix(".0")
        assert f"| `{name}` | {shown} " in page
