"""Serving engines: the Triton repository, Ray Serve replicas and a local Ray, metrics and traces, and cancelled calls.

Tests that need an engine that is not installed are skipped with the reason.
"""

import json
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

import runtime
from runtime.__main__ import main
from tests.helpers.runtime_bundles import TASKS, feeds, rewrite, variant, write_bundle, write_vision

ROOT = Path(runtime.__file__).parents[1]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bundle(tmp_path_factory.mktemp("serving") / "bundle")


@pytest.fixture(scope="module")
def predictor(bundle: Path) -> runtime.Predictor:
    return runtime.load(bundle, provider="cpu", threads=1)


def parsed(path: Path) -> Any:
    """config.pbtxt, parsed with Triton's protobuf schema."""
    pytest.importorskip("tritonclient.grpc", reason="needs tritonclient[grpc]")
    from google.protobuf import text_format
    from tritonclient.grpc import model_config_pb2

    return text_format.Parse(path.read_text(), model_config_pb2.ModelConfig())


def test_triton_reads_what_is_written(bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["triton", str(bundle), str(tmp_path), "--gpu", "--tensorrt", "--fp16", "--instances", "2"]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'adapterdrop'}\n"
    config = parsed(tmp_path / "adapterdrop" / "config.pbtxt")
    assert (config.name, config.backend, config.max_batch_size) == ("adapterdrop", "onnxruntime", 32)
    assert [(value.name, list(value.dims)) for value in config.input] == [
        ("input_ids", [-1]),
        ("attention_mask", [-1]),
        ("token_type_ids", [-1]),
    ]
    dims = {value.name: list(value.dims) for value in config.output}
    assert dims == {"topic": [3], "flags": [2], "stars": [1], "names": [-1, 3]}
    assert config.dynamic_batching.max_queue_delay_microseconds == 1000
    assert (config.instance_group[0].count, config.instance_group[0].kind) == (2, 1)  # 1: KIND_GPU
    (accelerator,) = config.optimization.execution_accelerators.gpu_execution_accelerator
    assert (accelerator.name, accelerator.parameters["precision_mode"]) == ("tensorrt", "FP16")


def test_the_model_that_triton_gets_runs_by_itself(bundle: Path, predictor: runtime.Predictor, tmp_path: Path) -> None:
    import onnxruntime

    assert main(["triton", str(bundle), str(tmp_path)]) == 0
    session = onnxruntime.InferenceSession(str(tmp_path / "adapterdrop" / "1" / "model.onnx"))
    (topic,) = session.run(["topic"], feeds())
    np.testing.assert_allclose(topic, predictor.run(feeds())["topic"], atol=1e-5)


def test_every_variant_is_a_model_and_images_have_fixed_axes(bundle: Path, tmp_path: Path) -> None:
    folder = write_bundle(tmp_path / "bundle", tokenizer=False)
    (folder / "model_drop2.onnx").write_bytes((folder / "model.onnx").read_bytes())
    rewrite(folder, variants=(variant(TASKS), variant(TASKS, 2, "model_drop2.onnx")))
    assert main(["triton", str(folder), str(tmp_path / "models")]) == 0
    assert sorted(path.name for path in (tmp_path / "models").iterdir()) == ["adapterdrop_drop2", "adapterdrop_drop5"]
    assert main(["triton", str(write_vision(tmp_path / "vision")), str(tmp_path), "--name", "vision-1"]) == 0
    config = parsed(tmp_path / "vision-1" / "config.pbtxt")
    assert (list(config.input[0].dims), config.input[0].data_type) == ([3, 4, 4], 11)  # 11: TYPE_FP32


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--name", "a/b"], "name: expected letters"),
        (["--max-batch", "0"], "max_batch: expected a positive integer"),
        (["--tensorrt"], "tensorrt only with gpu"),
        (["--name", "taken"], "taken: cannot be written: it already exists"),
    ],
)
def test_a_repository_that_cannot_be_written_is_refused(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    (tmp_path / "taken" / "1").mkdir(parents=True)
    assert main(["triton", str(bundle), str(tmp_path), *arguments]) == 2
    assert message in capsys.readouterr().err


def test_hooks_see_every_run_and_its_failure(bundle: Path) -> None:
    seen: list[Any] = []

    @contextmanager
    def hook(run: runtime.Run) -> Iterator[None]:
        seen.append(run)
        try:
            yield
        except Exception as error:
            seen.append(type(error).__name__)
            raise

    loaded = runtime.load(bundle, provider="cpu", threads=1, hooks=[hook])
    loaded.run(feeds(2, 5), tasks=["topic"])
    assert seen == [runtime.Run("cpu", 5, ("topic",), 2, 5, 9)]
    cancellation = runtime.Cancellation()
    cancellation.cancel()
    with pytest.raises(runtime.CancelledError, match="before it ran"):
        loaded.predict(["a"], cancel=cancellation)
    assert seen[-1] == "CancelledError"


def test_metrics_count_rows_tokens_padding_and_failures(bundle: Path) -> None:
    prometheus = pytest.importorskip("prometheus_client", reason="needs prometheus-client")
    from runtime.serving.metrics import Metrics

    registry = prometheus.CollectorRegistry()
    loaded = runtime.load(bundle, provider="cpu", threads=1, hooks=[Metrics(registry)])
    for _ in range(2):
        loaded.run(feeds(2, 5))
    cancellation = runtime.Cancellation()
    cancellation.cancel()
    with pytest.raises(runtime.CancelledError):
        loaded.run(feeds(), cancel=cancellation)
    labels = {"provider": "cpu", "drop": "5"}
    names = ("rows_total", "tokens_total", "padding_total", "failures_total", "run_seconds_count")
    assert [registry.get_sample_value(f"adapterdrop_{name}", labels) for name in names] == [4, 18, 2, 1, 2]
    assert registry.get_sample_value("adapterdrop_running") == 0


def test_a_cancellation_ends_many_calls_and_leaves_others_alone(predictor: runtime.Predictor) -> None:
    cancellation, started = runtime.Cancellation(), threading.Barrier(5)

    def call(index: int) -> str:
        started.wait()
        try:
            while True:
                predictor.run(feeds(8, 16), cancel=cancellation if index else None)
                if not index and cancellation.cancelled:
                    return "answered"
        except runtime.CancelledError:
            return "cancelled"

    with ThreadPoolExecutor(4) as pool:
        calls = [pool.submit(call, index) for index in range(4)]
        started.wait()
        cancellation.cancel()
        assert [future.result(timeout=20) for future in calls] == ["answered", *["cancelled"] * 3]
    assert not cancellation._runs


def test_a_faulty_request_fails_alone(predictor: runtime.Predictor) -> None:
    pytest.importorskip("ray.serve", reason="needs ray[serve]")
    from runtime.serving.ray_app import PredictRequest, respond

    bodies: list[dict[str, Any]] = [
        {"texts": ["one", "two"]},
        {"texts": ["word " * 99]},
        {"texts": [["a", "b"]], "tasks": ["topic"], "drop": 5},
        {"texts": ["word " * 99], "truncate": True},
        {"texts": ["a"], "drop": [1]},
    ]
    answers = respond(predictor, [PredictRequest.parse(json.dumps(body).encode()) for body in bodies])
    assert [status for status, _ in answers] == [200, 400, 200, 200, 400]
    wanted = predictor.predict(["one", "two"])
    rows = answers[0][1]["predictions"]["topic"]
    assert [row["score"] for row in rows] == pytest.approx([row.score for row in wanted["topic"]], abs=1e-5)
    assert list(answers[2][1]["predictions"]) == ["topic"]
    for body in (b"{", b"[]", b'{"texts": []}', b'{"texts": ["a"], "x": 1}', b'{"texts": ["a"], "tasks": "a"}'):
        with pytest.raises(runtime.InputError, match="body: "):
            PredictRequest.parse(body)


def post(url: str, body: dict[str, Any]) -> tuple[int, Any]:
    try:
        with urllib.request.urlopen(urllib.request.Request(url, json.dumps(body).encode()), timeout=60) as reply:  # noqa: S310
            return reply.status, json.loads(reply.read())
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def test_a_local_ray_serves_it(bundle: Path, predictor: runtime.Predictor) -> None:
    ray = pytest.importorskip("ray", reason="needs ray[serve]")
    from ray import serve

    from runtime.serving.ray_app import app

    with pytest.raises(runtime.InputError, match="expected folder=DIR"):
        app({})
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, runtime_env={"env_vars": {"PYTHONPATH": str(ROOT)}})
    try:
        serve.start(http_options={"port": 8123})
        serve.run(app({"folder": str(bundle), "provider": "cpu", "threads": 1, "wait_seconds": 0.05}))
        url = "http://127.0.0.1:8123/"
        texts = [f"text number {index}" for index in range(24)]
        with ThreadPoolExecutor(24) as pool:
            answers = list(pool.map(lambda text: post(url, {"texts": [text]}), texts))
        wanted = predictor.predict(texts)
        for (status, body), topic in zip(answers, wanted["topic"], strict=True):
            assert status == 200
            assert body["provider"] == "cpu"
            assert body["predictions"]["topic"][0]["scores"] == pytest.approx(dict(topic.scores), abs=1e-5)
        status, body = post(url, {"texts": ["word " * 99]})
        assert status == 400
        assert b"at most 16 tokens" in body
        assert serve.status().applications["default"].status == "RUNNING"
        serve.run(app({"folder": str(bundle), "provider": "cpu", "wait_seconds": 1, "max_ongoing": 1, "max_queued": 1}))
        with ThreadPoolExecutor(12) as pool:  # one is computed, one waits, the others are rejected
            statuses = [status for status, _ in pool.map(lambda text: post(url, {"texts": [text]}), texts[:12])]
        assert {200, 503} == set(statuses)
    finally:
        serve.shutdown()
        ray.shutdown()


def test_a_killed_replica_is_replaced_and_no_answer_is_wrong(bundle: Path, predictor: runtime.Predictor) -> None:
    ray = pytest.importorskip("ray", reason="needs ray[serve]")
    from ray import serve

    from runtime.serving.ray_app import app

    def replicas() -> list[psutil.Process]:
        return [each for each in psutil.Process().children(recursive=True) if "ServeReplica" in " ".join(each.cmdline())]

    ray.init(num_cpus=4, include_dashboard=False, log_to_driver=False, runtime_env={"env_vars": {"PYTHONPATH": str(ROOT)}})
    try:
        serve.start(http_options={"port": 8124})
        serve.run(app({"folder": str(bundle), "provider": "cpu", "threads": 1, "replicas": 2}))
        texts = [f"text number {index}" for index in range(8)]
        wanted = [topic.scores for topic in predictor.predict(texts)["topic"]]
        found: list[tuple[float, int]] = []

        def send(index: int) -> None:
            while time.monotonic() < ends:
                status, body = post("http://127.0.0.1:8124/", {"texts": [texts[index]]})
                found.append((time.monotonic(), status))
                if status == 200:
                    assert body["predictions"]["topic"][0]["scores"] == pytest.approx(dict(wanted[index]), abs=1e-5)

        before = {each.pid for each in replicas()}
        assert len(before) == 2
        ends = time.monotonic() + 40
        with ThreadPoolExecutor(len(texts)) as pool:
            futures = [pool.submit(send, index) for index in range(len(texts))]
            time.sleep(5)
            killed = time.monotonic()
            psutil.Process(min(before)).kill()
            for future in futures:
                future.result()  # raises if a result was wrong
        assert all(status == 200 for when, status in found if when < killed)
        assert {status for _, status in found} <= {200, 500, 503}, "requests in progress must be lost with an error status"
        assert all(status == 200 for when, status in found if when > ends - 10), "it has not recovered"
        assert len({each.pid for each in replicas()} - before) == 1
    finally:
        serve.shutdown()
        ray.shutdown()
