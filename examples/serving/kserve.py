"""KServe's V2 protocol (Open Inference Protocol) over the service in server.py.

The inputs are `text` and, for pairs, `text_pair`, both BYTES of shape [n]. A task is an output: labels as BYTES and numbers as
FP32, of shape [n]; `TASK.scores` are the probabilities, FP32 [n, labels]; other tasks are a JSON object per text, as BYTES.
"""

import json
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse

import runtime
from runtime.bundle import TaskEntry
from runtime.checks.requests import PREDICTED
from runtime.serving.batcher import to_json
from runtime.serving.limits import Limits, RequestError
from runtime.serving.request import PredictRequest

Read = Callable[[Request], Awaitable[bytearray]]
Submit = Callable[[PredictRequest], Awaitable[bytes]]

_VERSION = "1"
# The last one is sent by clients of Triton that name no outputs: without the binary extension, a response is JSON
_NOT_OPTIONS = ("texts", "tasks", "binary_data_output")


def add_kserve(app: FastAPI, predictor: runtime.Predictor, name: str, limits: Limits, read: Read, submit: Submit) -> None:
    """Add the endpoints of the protocol.

    Args:
        app: the service.
        predictor: the bundle.
        name: name of its only model.
        limits: limits of requests.
        read: function that receives a body.
        submit: function that computes a request.

    Raises:
        ValueError: two tasks would have a tensor of the same name, such as the task `a` and the task `a.scores`.
    """
    predicted = [task for task in predictor.manifest.tasks if task.head in PREDICTED]
    names = [tensor for task in predicted for tensor, _, _ in _tensors(task)]
    if same := sorted({each for each in names if names.count(each) > 1}):
        raise ValueError(f"expected tasks whose names and NAME.scores differ, found {', '.join(map(repr, same))} twice")

    def check(model: str, version: str) -> None:
        if model != name:
            raise RequestError(404, f"model: expected {name}, found {model[:100]}")
        if version != _VERSION:
            raise RequestError(404, f"version: expected {_VERSION}, found {version[:100]}")

    @app.get("/v2")
    async def server() -> dict[str, Any]:
        return {"name": "adapterdrop-onnx", "version": "2", "extensions": []}

    @app.get("/v2/health/live")
    async def live() -> dict[str, bool]:
        return {"live": True}

    @app.get("/v2/health/ready")
    async def ready() -> JSONResponse:
        return JSONResponse({"ready": app.state.ready}, 200 if app.state.ready else 503)

    @app.get("/v2/models/{model}")
    @app.get("/v2/models/{model}/versions/{version}")
    async def metadata(model: str, version: str = _VERSION) -> dict[str, Any]:
        check(model, version)
        inputs = [{"name": each, "datatype": "BYTES", "shape": [-1]} for each in ("text", "text_pair")]
        outputs: dict[str, dict[str, Any]] = {}
        for task in (*predicted, *_added(predictor)):
            for tensor, kind, shape in _tensors(task):
                outputs.setdefault(tensor, {"name": tensor, "datatype": kind, "shape": [-1, *shape]})
        versions, platform = [_VERSION], "onnxruntime"
        return {"name": name, "versions": versions, "platform": platform, "inputs": inputs, "outputs": list(outputs.values())}

    @app.get("/v2/models/{model}/ready")
    @app.get("/v2/models/{model}/versions/{version}/ready")
    async def model_ready(model: str, version: str = _VERSION) -> JSONResponse:
        check(model, version)
        return await ready()

    @app.post("/v2/models/{model}/infer")
    @app.post("/v2/models/{model}/versions/{version}/infer")
    async def infer(model: str, request: Request, version: str = _VERSION) -> Response:
        check(model, version)
        document = _document(await read(request))
        texts = _texts(document.get("inputs"))
        wanted = _wanted(document.get("outputs"), predictor.tasks)
        number = document.get("id", "")
        if not isinstance(number, str):
            raise runtime.InputError(f"id: expected a string, found {type(number).__name__}")
        parameters = document.get("parameters") or {}
        if not isinstance(parameters, dict):
            raise runtime.InputError("parameters: expected an object with drop, truncate and other options of predict")
        options = {key: value for key, value in parameters.items() if key not in _NOT_OPTIONS}
        parsed = PredictRequest.parse(json.dumps(options | {"texts": texts}).encode(), limits)
        # Looked up once: an added task may be replaced by one with other labels, or removed, before the answer is there
        entries = predicted if wanted is None else predictor.entries(sorted({_task(each, predictor.tasks) for each in wanted}))
        found = json.loads(await submit(replace(parsed, tasks=tuple(entries))))["predictions"]
        tensors = {
            tensor: _output(tensor, kind, [_value(kind, tensor, task, row) for row in found[task.name]])
            for task in entries
            for tensor, kind, _ in _tensors(task)
        }
        if missing := [each for each in wanted or () if each not in tensors]:
            raise runtime.InputError(f"outputs: expected some of {', '.join(tensors)}, found {', '.join(missing)}")
        outputs = [tensors[each] for each in (tensors if wanted is None else wanted)]
        body = {"model_name": name, "model_version": _VERSION, "id": number, "outputs": outputs}
        return Response(to_json(body), media_type="application/json")


def _added(predictor: runtime.Predictor) -> Iterator[TaskEntry]:
    """Yield the tasks that were added, which may be removed at any time."""
    for name in predictor.tasks[len(predictor.manifest.tasks) :]:
        with suppress(runtime.InputError):
            yield from (entry for entry in predictor.entries([name]) if entry.head in PREDICTED)


def _document(body: bytearray) -> dict[str, Any]:
    try:
        found = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise runtime.InputError(f"body: expected JSON, found: {error}") from error
    if not isinstance(found, dict):
        raise runtime.InputError(f"body: expected an object, found {type(found).__name__}")
    return found


def _texts(inputs: object) -> list[Any]:
    """Return the texts or pairs that the input tensors contain."""
    tensors = {}
    for each in inputs if isinstance(inputs, list) else ():
        if not isinstance(each, dict) or each.get("name") not in ("text", "text_pair") or each.get("datatype") != "BYTES":
            raise runtime.InputError("inputs: expected the tensors text and text_pair with the datatype BYTES")
        data, shape = each.get("data"), each.get("shape")
        if not isinstance(data, list) or shape not in ([len(data)], [len(data), 1]):
            raise runtime.InputError(f"inputs: {each['name']}: expected n texts and the shape [n], found {str(shape)[:40]}")
        if each["name"] in tensors:
            raise runtime.InputError(f"inputs: expected {each['name']} once")
        tensors[each["name"]] = [row[0] if isinstance(row, list) and len(row) == 1 else row for row in data]
        if not all(isinstance(row, str) for row in tensors[each["name"]]):
            raise runtime.InputError(f"inputs: {each['name']}: expected texts")
    if "text" not in tensors:
        raise runtime.InputError("inputs: expected the tensor text")
    if "text_pair" not in tensors:
        return tensors["text"]
    if len(tensors["text"]) != len(tensors["text_pair"]):
        raise runtime.InputError("inputs: expected as many texts in text_pair as in text")
    return [list(pair) for pair in zip(tensors["text"], tensors["text_pair"], strict=True)]


def _wanted(outputs: object, tasks: Sequence[str]) -> list[str] | None:
    """Return the names of the requested tensors; None for all."""
    if outputs is None:
        return None
    names = [each.get("name") if isinstance(each, dict) else None for each in outputs] if isinstance(outputs, list) else []
    if not names or not all(isinstance(name, str) for name in names):
        raise runtime.InputError(f'outputs: expected [{{"name": …}}, …] with some of {", ".join(tasks)}')
    if len(set(names)) < len(names):  # a short body could ask for gigabytes
        raise runtime.InputError("outputs: expected each tensor once")
    return [str(name) for name in names]


def _task(tensor: str, tasks: Sequence[str]) -> str:
    """Return the task of a tensor; an unknown name is returned for the predictor's own message.

    Raises:
        InputError: a task that was added has the name of the scores of another one.
    """
    owner = tensor.removesuffix(".scores")
    if owner != tensor and owner in tasks and tensor in tasks:
        raise runtime.InputError(f"outputs: {tensor} is a task, and the scores of the task {owner}: add it by another name")
    return tensor if tensor in tasks else owner


def _tensors(task: TaskEntry) -> list[tuple[str, str, list[int]]]:
    """Return the name, the type and the further axes of each tensor of a task."""
    if task.head == "classification":
        return [(task.name, "BYTES", []), (f"{task.name}.scores", "FP32", [len(task.labels)])]
    if task.head == "multilabel":
        return [(f"{task.name}.scores", "FP32", [len(task.labels)])]
    if task.head in ("regression", "multiple_choice"):
        return [(task.name, "FP32", [task.columns] if task.columns > 1 else [])]
    return [(task.name, "BYTES", [])]


def _value(kind: str, tensor: str, task: TaskEntry, row: Mapping[str, Any]) -> Any:
    if tensor != task.name:
        return [row["scores"].get(label, 0.0) for label in task.labels]  # top_k leaves some out
    if task.head == "classification":
        return row["label"]
    return row.get("value", row.get("values")) if kind == "FP32" else json.dumps(row, ensure_ascii=False)


def _output(name: str, kind: str, rows: list[Any]) -> dict[str, Any]:
    width = [len(rows[0])] if isinstance(rows[0], list) else []
    flat = [number for row in rows for number in row] if width else rows
    return {"name": name, "datatype": kind, "shape": [len(rows), *width], "data": flat}
