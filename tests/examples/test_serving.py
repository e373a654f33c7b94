"""The serving examples, each started on 127.0.0.1, and the files of its image."""

import asyncio
import contextlib
import importlib.metadata
import json
import os
import re
import runpy
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import runtime
from runtime.serving.batcher import to_json
from runtime.serving.limits import Limits
from tests.helpers.local_http import PATIENCE, free_port, send
from tests.helpers.lock_files import extras
from tests.helpers.runtime_bundles import write_bundle, write_heads, write_vision

yaml = pytest.importorskip("yaml")

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "examples" / "serving"
TEXTS = [f"text number {index}" for index in range(24)]
IMAGE, BASE = 350_000_000, 130_000_000  # bytes of the image, and of python:3.12-slim in it


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bundle(tmp_path_factory.mktemp("serving") / "bundle")


@pytest.fixture(scope="module")
def predictor(bundle: Path) -> runtime.Predictor:
    return runtime.load(bundle, provider="cpu", threads=1)


@contextmanager
def started(script: str, health: str, *arguments: str) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """Start an example, and yield its address when it is ready."""
    port = free_port()
    command = [sys.executable, str(FOLDER / script), *arguments, "--port", str(port)]
    process = subprocess.Popen(command, cwd=ROOT, env=_environment(), start_new_session=True, stdout=subprocess.DEVNULL)
    url, ends = f"http://127.0.0.1:{port}", time.monotonic() + PATIENCE
    try:
        while True:
            assert process.poll() is None, "the example has ended"
            assert time.monotonic() < ends, f"not ready within {PATIENCE} s"
            try:
                if send(url + health)[0] == 200:
                    break
            except OSError:
                time.sleep(0.1)
        yield url, process
    finally:
        _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    """End an example and its workers, which LitServe leaves behind on SIGTERM."""
    process.terminate()
    try:
        process.wait(PATIENCE)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def _environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(ROOT)}


@pytest.fixture(scope="module")
def url(bundle: Path) -> Iterator[str]:
    """The FastAPI service with low limits."""
    for package in ("fastapi", "uvicorn", "prometheus_client"):
        pytest.importorskip(package, reason=f"needs {package}, which the extra `test` installs")
    limits = [f"--limit={each}" for each in ("max_body_bytes=2000", "max_texts=30", "max_characters=500", "body_seconds=0.5")]
    with started("server.py", "/health/ready", str(bundle), "--provider", "cpu", "--threads", "1", *limits) as (address, _):
        yield address


def test_requests_share_batches(url: str, predictor: runtime.Predictor) -> None:
    before = _metric(url, "adapterdrop_run_seconds_count")
    with ThreadPoolExecutor(len(TEXTS)) as pool:
        answers = list(pool.map(lambda text: send(f"{url}/predict", {"texts": [text], "tasks": ["topic"]}), TEXTS * 8))
    for (status, body), expected in zip(answers, predictor.predict(TEXTS * 8, ["topic"])["topic"], strict=True):
        assert status == 200
        assert body["predictions"]["topic"][0]["scores"] == pytest.approx(dict(expected.scores), abs=1e-5)
    assert _metric(url, "adapterdrop_run_seconds_count") - before < len(answers)
    assert _metric(url, "adapterdrop_rows_total") >= len(answers)


def _metric(url: str, name: str) -> float:
    status, text = send(f"{url}/metrics")
    assert status == 200
    found = re.search(rf'^{name}{{drop="5",provider="cpu"}} (\S+)$', text, flags=re.MULTILINE)
    return float(found[1]) if found else 0.0


def test_limits_and_errors_are_those_of_the_runtime(url: str) -> None:
    for body, status, message in (
        ({"texts": ["a"] * 31}, 413, "at most max_texts=30 texts"),
        ({"texts": ["a" * 1900]}, 422, "at most max_characters=500"),
        ({"texts": ["a" * 5000]}, 413, "at most max_body_bytes=2,000 bytes, found 5,0"),
        ({"texts": ["word " * 30]}, 400, "at most 16 tokens"),
        ({"texts": ["a"], "tasks": ["mood"]}, 400, "found 'mood'"),
        (b"[", 400, "expected JSON"),
        ({"texts": ["a"], "\ud800": 1}, 400, "body: expected texts, tasks"),
    ):
        found, answer = send(f"{url}/predict", body)
        assert (found, message in answer["error"]) == (status, True), answer
    assert send(f"{url}/predict", b"{}", {"Content-Type": "text/html"})[0] == 415
    host, port = url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=PATIENCE) as slow:
        slow.sendall(b'POST /predict HTTP/1.1\r\nHost: a\r\nContent-Length: 99\r\n\r\n{"texts"')
        assert slow.recv(99).startswith(b"HTTP/1.1 408")
    for sent in (b"", b"POST /pre", b"GET /health/live HTTP/1.1\r\nHost: a\r\n\r\nGET /"):  # the last one after a response
        with socket.create_connection((host, int(port)), timeout=PATIENCE) as slow:
            slow.sendall(sent)
            while slow.recv(999):  # until the service closes the connection, long before PATIENCE
                pass
    assert send(f"{url}/health/live") == (200, {"live": True})
    assert send(f"{url}/health/ready") == (200, {"ready": True})


def test_the_protocol_of_kserve(url: str, predictor: runtime.Predictor) -> None:
    assert send(f"{url}/v2")[1]["name"] == "adapterdrop-onnx"
    assert send(f"{url}/v2/health/ready") == send(f"{url}/v2/models/adapterdrop/ready") == (200, {"ready": True})
    status, model = send(f"{url}/v2/models/adapterdrop")
    assert status == 200
    assert {"name": "topic.scores", "datatype": "FP32", "shape": [-1, 3]} in model["outputs"]

    def infer(**body: Any) -> tuple[int, Any]:
        return send(f"{url}/v2/models/adapterdrop/infer", body)

    text = {"name": "text", "shape": [2], "datatype": "BYTES", "data": ["one", "two words"]}
    pair = {**text, "name": "text_pair", "data": ["b", "c"]}
    status, answer = infer(
        id="7", inputs=[text, pair], outputs=[{"name": "topic.scores"}, {"name": "topic"}, {"name": "stars"}]
    )
    assert (status, answer["id"]) == (200, "7")
    expected = predictor.predict([("one", "b"), ("two words", "c")], ["topic", "stars"])
    scores, labels, stars = answer["outputs"]
    assert (scores["name"], scores["shape"]) == ("topic.scores", [2, 3])
    flat = [score for row in expected["topic"] for score in row.scores.values()]
    assert scores["data"] == pytest.approx(flat, abs=1e-5)
    assert labels == {"name": "topic", "datatype": "BYTES", "shape": [2], "data": [row.label for row in expected["topic"]]}
    assert stars["data"] == pytest.approx([row.value for row in expected["stars"]], abs=1e-5)
    every = infer(inputs=[text])[1]["outputs"]
    assert [each["name"] for each in every] == ["topic", "topic.scores", "flags.scores", "stars", "names"]
    assert [word["text"] for word in json.loads(every[-1]["data"][1])["words"]] == ["two", "words"]
    assert (
        infer(inputs=[text], parameters={"top_k": 1}, outputs=[{"name": "topic.scores"}])[1]["outputs"][0]["data"].count(0) == 4
    )
    for body, message in (
        ({}, "inputs: expected the tensor text"),
        ({"inputs": [{**text, "datatype": "FP32"}]}, "with the datatype BYTES"),
        ({"inputs": [{**text, "shape": [3]}]}, "expected n texts and the shape [n], found [3]"),
        ({"inputs": [text, {**pair, "shape": [1], "data": ["b"]}]}, "as many texts in text_pair as in text"),
        ({"inputs": [text, text]}, "inputs: expected text once"),
        ({"inputs": [{**text, "data": ["a", ["b", "c"]]}]}, "inputs: text: expected texts"),
        ({"inputs": [text], "outputs": [{"name": "mood"}]}, "found 'mood'"),
        ({"inputs": [text], "outputs": [{"name": "stars.scores"}]}, "outputs: expected some of stars, found stars.scores"),
        ({"inputs": [text], "outputs": []}, 'outputs: expected [{"name": …}, …]'),
        ({"inputs": [text], "outputs": [{"name": "topic"}] * 60}, "outputs: expected each tensor once"),
        ({"inputs": [text], "parameters": {"beam": 3}}, "found 'beam'"),
        ({"inputs": [text], "id": [[]]}, "id: expected a string, found list"),
    ):
        status, answer = infer(**body)
        assert (status, message in answer["error"]) == (400, True), answer
    assert infer(inputs=[text], id="\ud800", outputs=[{"name": "stars"}])[0] == 200  # JSON has lone surrogates, UTF-8 does not
    assert infer(inputs=[text], parameters={"binary_data_output": True})[1]["outputs"] == every
    assert send(f"{url}/v2/models/other/infer", {})[0] == 404
    assert send(f"{url}/v2/models/adapterdrop/versions/1/infer", {"inputs": [text]})[1]["outputs"] == every
    for address in ("versions/1", "versions/1/ready"):
        assert send(f"{url}/v2/models/adapterdrop/{address}")[0] == 200
    assert send(f"{url}/v2/models/adapterdrop/versions/2/infer", {}) == (404, {"error": "version: expected 1, found 2"})
    assert send(f"{url}/nowhere") == (404, {"error": "404: Not Found"})


def test_kserve_leaves_out_what_predict_does_not_answer(tmp_path: Path) -> None:
    """A bundle with a causal language model, as those with embeddings."""
    fastapi = pytest.importorskip("fastapi", reason="needs fastapi, which the extra `test` installs")
    kserve, submitted = runpy.run_path(str(FOLDER / "kserve.py")), []
    predictor = runtime.load(write_heads(tmp_path / "heads"), provider="cpu", threads=1)

    async def read(_: Any) -> bytearray:
        text = {"shape": [1], "datatype": "BYTES", "data": ["a"]}
        return bytearray(json.dumps({"inputs": [text | {"name": "text"}, text | {"name": "text_pair"}]}).encode())

    async def submit(request: Any) -> bytes:
        submitted.extend(request.tasks)
        return to_json({"predictions": {}})

    app = fastapi.FastAPI()
    kserve["add_kserve"](app, predictor, "name", Limits(), read, submit)
    endpoints = {route.path: route.endpoint for route in app.routes}
    outputs = asyncio.run(endpoints["/v2/models/{model}"]("name"))["outputs"]
    assert [each["name"] for each in outputs] == ["topic", "topic.scores", "reader", "chooser", "filler"]
    with pytest.raises(KeyError):  # of the empty answer
        asyncio.run(endpoints["/v2/models/{model}/infer"]("name", None))
    assert [task.name for task in submitted] == ["topic", "reader", "chooser", "filler"]


def test_requests_in_progress_are_finished(bundle: Path) -> None:
    pytest.importorskip("fastapi", reason="needs fastapi, which the extra `test` installs")
    with started("server.py", "/health/ready", str(bundle), "--provider", "cpu", "--threads", "1") as (url, process):
        with ThreadPoolExecutor(4) as pool:
            texts = [f"text {index} of a large request" for index in range(4_000)]
            answers = [pool.submit(send, f"{url}/predict", {"texts": texts}) for _ in range(4)]
            while not _metric(url, "adapterdrop_run_seconds_count") > 3:  # the first batches
                time.sleep(0.01)
            process.send_signal(signal.SIGTERM)
            for answer in answers:
                status, body = answer.result()
                assert (status, len(body["predictions"]["topic"])) == (200, 4_000)
        assert process.wait(PATIENCE) in (0, -signal.SIGTERM)
    with pytest.raises(OSError):
        send(f"{url}/health/live")


def test_wrong_arguments_are_one_line(bundle: Path, tmp_path: Path) -> None:
    pytest.importorskip("fastapi", reason="needs fastapi, which the extra `test` installs")
    for arguments, message in (
        ([str(tmp_path)], "not a bundle"),
        ([str(write_vision(tmp_path / "images"))], "predict() expects a graph that takes only texts"),
        ([str(bundle), "--limit", "max_text=9"], "--limit: expected NAME=VALUE with one of max_body_bytes,"),
        ([str(bundle), "--limit", "max_texts=0"], "max_texts: expected a positive number, found 0"),
        ([str(bundle), "--limit", "max_texts=x", "--connections", "0"], "--connections: expected a positive number, found 0"),
        ([str(bundle), "--limit", "max_texts=x"], "--limit: max_texts: expected a number, found 'x'"),
    ):
        command = [sys.executable, str(FOLDER / "server.py"), *arguments]
        done = subprocess.run(command, cwd=ROOT, env=_environment(), capture_output=True, text=True, timeout=PATIENCE)
        assert done.returncode == 2
        assert message in done.stderr.splitlines()[-1]
        assert "Traceback" not in done.stderr


def test_litserve(bundle: Path, predictor: runtime.Predictor) -> None:
    pytest.importorskip("litserve", reason="needs litserve, which the extra `test` installs")
    texts = [*TEXTS, ("one", "b")]
    broken = {"at most 16 tokens": {"text": "word " * 30}, "found NoneType": {"txt": "a"}, "found int": {"text": 7}}
    bodies = [*({"text": text} for text in texts), *broken.values()]
    with started("litserve_app.py", "/health", str(bundle)) as (url, _), ThreadPoolExecutor(len(bodies)) as pool:
        answers = list(pool.map(lambda body: send(f"{url}/predict", body), bodies))  # some share a batch
    assert [status for status, _ in answers] == [200] * len(answers)
    for (_, body), expected in zip(answers, predictor.predict(texts, ["topic"])["topic"], strict=False):
        assert body["topic"]["scores"] == pytest.approx(dict(expected.scores), abs=1e-5)
    for (_, body), message in zip(answers[len(texts) :], broken, strict=True):
        assert message in body["error"]


def test_the_image_copies_what_is_there() -> None:
    """It cannot be built here; its paths, extras, ports and size are checked."""
    lines = [line for line in (FOLDER / "Dockerfile").read_text().splitlines() if not line.startswith("#")]
    copied = [word for line in lines if line.startswith("COPY ") for word in line.split()[1:-1]]
    assert copied
    assert all((ROOT / each).exists() for each in copied)
    kept = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert all(any(each == path or each.startswith(f"{path}/") for path in kept) for each in copied)
    (installed,) = re.findall(r"'/source\[([a-z,]+)\]'", "\n".join(lines))
    assert set(installed.split(",")) <= set(extras())
    modules = {f"{name}.py" for name in re.findall(r"^from (\w+) import", (FOLDER / "server.py").read_text(), re.MULTILINE)}
    local = modules & {path.name for path in FOLDER.iterdir()}
    assert {"server.py", *local} == {Path(each).name for each in copied if each.startswith("examples/")}


def test_compose_and_prometheus_fit_the_service() -> None:
    compose = yaml.safe_load((FOLDER / "compose.yaml").read_text())
    build = compose["services"]["adapterdrop"]["build"]
    assert (FOLDER / build["context"]).resolve() == ROOT
    assert (ROOT / build["dockerfile"]).is_file()
    for service in compose["services"].values():
        for volume in service["volumes"]:
            source = (FOLDER / volume.split(":")[0]).resolve()
            assert source == ROOT / "onnx" or source.is_file()
        assert all(port.startswith("127.0.0.1:") for port in service["ports"])
    (scrape,) = yaml.safe_load((FOLDER / "prometheus.yml").read_text())["scrape_configs"]
    ((target,),) = (each["targets"] for each in scrape["static_configs"])
    name, port = target.split(":")
    assert name in compose["services"]
    assert f'"--port", "{port}"' in (FOLDER / "Dockerfile").read_text()
    assert f'@app.get("{scrape["metrics_path"]}")' in (FOLDER / "server.py").read_text()


def test_the_image_is_small() -> None:
    """The base image and the packages that are installed into it, as they are on this machine."""
    document = extras()
    pending = [Requirement(each) for each in ("numpy", "tokenizers", *document["cpu"], *document["fastapi"])]
    sizes: dict[str, int] = {}
    while pending:
        requirement = pending.pop()
        name = canonicalize_name(requirement.name)
        if name in sizes or (requirement.marker is not None and not requirement.marker.evaluate({"extra": ""})):
            continue
        try:
            found = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            pytest.skip(f"needs {name}, which the image installs")
        files = [Path(str(found.locate_file(file))) for file in found.files or ()]
        sizes[name] = sum(path.stat().st_size for path in files if path.suffix != ".pyc" and path.is_file())
        pending += [Requirement(each) for each in found.requires or ()]
    assert {"onnxruntime", "tokenizers", "uvicorn", "starlette"} <= set(sizes)
    ours = sum(path.stat().st_size for path in (ROOT / "runtime").rglob("*.py"))
    assert ours < 1_000_000
    assert BASE + ours + sum(sizes.values()) < IMAGE, dict(sorted(sizes.items(), key=lambda each: -each[1])[:8])
