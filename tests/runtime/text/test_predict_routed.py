"""Other tasks for each text: predict_routed, its policy, hooks and cache, and the batches of a service."""

import asyncio
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import runtime
from exporter import export
from runtime.serving.batcher import Batcher, Batching
from runtime.serving.limits import Limits
from runtime.serving.request import PredictRequest
from tests.helpers.runtime_bundles import write_bundle
from tests.helpers.small_vocabulary import VOCABULARY
from tests.helpers.tiny_models import bert_config, tiny_model, tokenizer

TASKS = ("a", "b", "r")
TEXTS: list[Any] = ["good", "The film was long, and the phone is fast.", "no", ("two", "texts of a pair"), "good"]
WANTED: list[Any] = ["a", ["b", "r"], "r", "b", ["r", "a"]]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = tiny_model({"a": ("seq_bn", "2"), "b": ("seq_bn", "3"), "r": ("seq_bn", "reg")}, bert_config(VOCABULARY, 3))
    folder = tmp_path_factory.mktemp("routed") / "onnx"
    export(model, tokenizer(), drop=(2, 1), split=True, routed=True, output=folder)
    return folder


def names(index: int) -> list[str]:
    return [WANTED[index]] if isinstance(WANTED[index], str) else WANTED[index]


def assert_same(found: list[dict[str, runtime.Prediction]], predictor: runtime.Predictor, drop: int) -> None:
    every = predictor.predict(TEXTS, drop=drop)
    assert [list(each) for each in found] == [names(index) for index in range(len(TEXTS))]
    for index, predictions in enumerate(found):
        for name, prediction in predictions.items():
            assert prediction.drop == drop
            assert prediction.label == every[name][index].label
            wanted = (every[name][index].score, every[name][index].value)
            assert (prediction.score, prediction.value) == pytest.approx(wanted, abs=1e-5)


@pytest.mark.parametrize("batch_size", [None, 2])
def test_each_text_has_its_tasks(bundle: Path, batch_size: int | None) -> None:
    predictor = runtime.load(bundle, provider="cpu", threads=1)
    for drop in predictor.drops:
        assert_same(predictor.predict_routed(TEXTS, WANTED, drop, batch_size=batch_size), predictor, drop)


def test_a_known_text_skips_the_trunk_for_another_task(bundle: Path) -> None:
    seen: list[runtime.Run] = []

    @contextmanager
    def hook(run: runtime.Run) -> Iterator[None]:
        seen.append(run)
        yield

    predictor = runtime.load(bundle, provider="cpu", threads=1, hooks=[hook], state_cache=2**20)
    assert_same(predictor.predict_routed(TEXTS, WANTED), predictor, 2)
    del seen[:]
    predictor.predict_routed(TEXTS[:2], ["r", "a"])
    assert [(run.cached, set(run.tasks)) for run in seen] == [(2, {"r", "a"})]


class _Second:
    """A policy that takes the second drop and counts."""

    def __init__(self) -> None:
        self.drops: list[int] = []

    def choose(self, drops: Any) -> int:
        return int(drops[1])

    def done(self, drop: int, seconds: float) -> None:
        assert seconds > 0
        self.drops.append(drop)


def test_the_policy_chooses_the_drop(bundle: Path) -> None:
    policy = _Second()
    predictor = runtime.load(bundle, provider="cpu", threads=1, policy=policy)
    assert {each.drop for row in predictor.predict_routed(TEXTS, WANTED) for each in row.values()} == {1}
    assert set(policy.drops) == {1}  # a run per batch


def test_requests_for_different_tasks_share_a_run(bundle: Path) -> None:
    seen: list[runtime.Run] = []

    @contextmanager
    def hook(run: runtime.Run) -> Iterator[None]:
        seen.append(run)
        yield

    predictor = runtime.load(bundle, provider="cpu", threads=1, hooks=[hook])

    async def answers() -> list[bytes | BaseException]:
        batcher = Batcher(predictor, Batching(wait_seconds=0.05), Limits())
        bodies = [{"texts": [text], "tasks": names(index)} for index, text in enumerate(TEXTS)]
        bodies += [{"texts": ["word " * 999], "tasks": ["a"]}]
        requests = [batcher.submit(PredictRequest.parse(json.dumps(body).encode())) for body in bodies]
        return list(await asyncio.gather(*requests, return_exceptions=True))

    *found, failed = asyncio.run(answers())
    assert "at most" in str(failed)
    assert max(run.rows for run in seen) > 1
    every = runtime.load(bundle, provider="cpu", threads=1).predict(TEXTS)
    for index, each in enumerate(found):
        assert isinstance(each, bytes)
        predictions = json.loads(each)["predictions"]
        assert list(predictions) == names(index)
        for name, rows in predictions.items():
            assert rows[0].get("label") == every[name][index].label


@pytest.mark.parametrize(
    ("texts", "tasks", "message"),
    [
        (["x"], "a", "tasks: expected a list with an entry per text, found str"),
        (["x", "y"], ["a"], r"at least one name for each of 2 text\(s\), found entries: 1, 0 of them empty"),
        (["x"], [[]], "found entries: 1, 1 of them empty"),
        (["x"], ["z"], "expected some of a, b, r, found 'z'"),
    ],
)
def test_wrong_tasks_are_refused(bundle: Path, texts: Any, tasks: Any, message: str) -> None:
    with pytest.raises(runtime.InputError, match=message):
        runtime.load(bundle, provider="cpu", threads=1).predict_routed(texts, tasks)


def test_a_bundle_without_a_routed_graph_says_so(tmp_path: Path) -> None:
    predictor = runtime.load(write_bundle(tmp_path / "bundle"), provider="cpu", threads=1)
    assert not predictor.routes(["topic"])
    with pytest.raises(runtime.InputError, match=r"no routed graph for these tasks; export it with --routed"):
        predictor.predict_routed(["x"], ["topic"])
