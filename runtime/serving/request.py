"""Requests of an HTTP service: parsing, and inference for several of them. Independent of the serving engine."""

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Final, Protocol

from runtime.bundle import Manifest, TaskEntry
from runtime.errors import AdapterDropError, InputError
from runtime.serving.limits import Limits, RequestError
from runtime.text.predict_options import PredictOptions
from runtime.text.prediction import Prediction
from runtime.text.texts import Checked, characters, check_texts, check_words

# Not batch_size: a batch holds texts of several requests
_OPTIONS: Final = tuple(field.name for field in fields(PredictOptions) if field.name != "batch_size")
_FIELDS: Final = ("texts", "tasks", "drop", *_OPTIONS)
# The type that `curl -d` and urllib send if none is given: the body must be JSON all the same
_DEFAULT_OF_CLIENTS: Final = "application/x-www-form-urlencoded"
_LOGGER: Final = logging.getLogger(__name__)


def check_headers(method: str, headers: Mapping[str, str]) -> None:
    """Check the method and the headers of an HTTP request.

    Raises:
        RequestError: the method is not POST (405), or the headers announce something else than plain JSON (415).
    """
    if method != "POST":
        raise RequestError(405, f"method: expected POST, found {method}", {"Allow": "POST"})
    kind = headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind and kind not in ("application/json", _DEFAULT_OF_CLIENTS) and not kind.endswith("+json"):
        raise RequestError(415, f"Content-Type: expected application/json, found {kind}")
    coding = headers.get("content-encoding", "identity").strip().lower()
    if coding != "identity":
        raise RequestError(415, f"Content-Encoding: expected none, found {coding}; send the body uncompressed")


class Served(Protocol):
    """The part of `runtime.Predictor` that a service uses."""

    @property
    def provider(self) -> str:
        """Provider in use."""

    @property
    def drops(self) -> tuple[int, ...]:
        """Loaded drops."""

    @property
    def manifest(self) -> Manifest:
        """Manifest of the bundle."""

    def entries(self, tasks: Sequence[str | TaskEntry] | None = None) -> tuple[TaskEntry, ...]:
        """Return the entries of tasks; as in `Predictor`."""

    def routes(self, tasks: Sequence[str | TaskEntry]) -> bool:
        """Return whether `predict_routed` takes these tasks."""

    @property
    def predict(self) -> Callable[..., dict[str, list[Prediction]]]:
        """As in `Predictor`."""

    @property
    def predict_routed(self) -> Callable[..., list[dict[str, Prediction]]]:
        """As in `Predictor`."""


@dataclass(frozen=True)
class PredictRequest:
    """Body of one request. Types and limits are checked here; the predictor checks `tasks`, `drop` and lengths in tokens.

    Attributes:
        texts: texts and pairs of texts.
        tasks: names of the tasks, or entries of added ones, with which all batches use the same weights; None for all tasks.
        drop: drop of the variant; None for the default.
        options: the other arguments of `Predictor.predict`.
    """

    texts: tuple[Checked, ...]
    tasks: tuple[str | TaskEntry, ...] | None
    drop: int | None
    options: PredictOptions

    @classmethod
    def parse(cls, body: bytes | bytearray, limits: Limits | None = None) -> "PredictRequest":
        """Parse the body of an HTTP request.

        Args:
            body: JSON.
            limits: limits of the service; None for the defaults.

        Raises:
            InputError: the body is not valid JSON, or a field is unknown, missing or invalid.
            RequestError: there are too many texts (413), or one is too long (422).
        """
        limits = Limits() if limits is None else limits
        try:
            document = json.loads(body)
        except (ValueError, RecursionError) as error:
            raise InputError(f"body: expected JSON, found: {error}") from error
        if not isinstance(document, dict):
            raise InputError(f"body: expected an object, found {type(document).__name__}")
        if unknown := sorted(document.keys() - set(_FIELDS)):
            more = f" and {len(unknown) - 10} more" if len(unknown) > 10 else ""
            found = ", ".join(ascii(name[:100]) for name in unknown[:10])
            raise InputError(f"body: expected {', '.join(_FIELDS[:-1])} and {_FIELDS[-1]}, found {found}{more}")
        tasks, drop, truncate = document.get("tasks"), _whole(document.get("drop")), document.get("truncate", False)
        if tasks is not None and not (isinstance(tasks, list) and all(isinstance(name, str) for name in tasks)):
            raise InputError("body: tasks: expected a list of names")
        if drop is not None and (isinstance(drop, bool) or not isinstance(drop, int)):
            raise InputError(f"body: drop: expected an integer, found {type(drop).__name__}")
        if not isinstance(truncate, bool):
            raise InputError("body: truncate: expected true or false")
        try:
            options = PredictOptions(**{name: _whole(document[name]) for name in _OPTIONS if name in document})
        except InputError as error:
            raise InputError(f"body: {error}") from error
        texts = _texts(document.get("texts"), limits, options.is_split_into_words)
        return cls(texts, None if tasks is None else tuple(tasks), drop, options)

    def check_stride(self, limit: int | None) -> None:
        """Check that the windows of a text overlap by at most a half, so that their number is limited.

        Args:
            limit: maximum number of tokens of the model.

        Raises:
            InputError: they overlap by more.
        """
        stride = self.options.stride
        if stride is not None and limit is not None and stride > limit // 2:
            raise InputError(
                f"body: stride: expected at most {limit // 2}, half of the model's maximum of {limit} tokens, found {stride}"
            )


def _whole(value: object) -> Any:
    """Return a number without a fraction as an int: JSON has one type of number, and some clients write 5.0."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def respond(predictor: Served, requests: Sequence[PredictRequest]) -> list[tuple[int, dict[str, Any]]]:
    """Run inference for several requests.

    Requests with the same options share one call: of `predict`, or of `predict_routed` if they name different tasks and the
    bundle can route them. If that call fails, each half of the requests is run separately, until each request that fails is by
    itself.

    Returns:
        HTTP status and body per request: 200 with predictions, 400 for invalid input, 500 if the bundle or the runtime fails.
    """
    found: dict[int, tuple[int, dict[str, Any]]] = {}
    groups: dict[Any, list[int]] = {}
    apart = predictor.manifest.precision == "int8"  # the graph with slots may round other products than the routed one
    for index, request in enumerate(requests):
        added = apart and any(isinstance(task, TaskEntry) for task in request.tasks or ())
        tasks = ("routed", added) if _can_route(predictor, request) else request.tasks
        groups.setdefault((tasks, request.drop, request.options), []).append(index)
    for members in groups.values():
        found |= _predict_isolated(predictor, requests, members)
    return [found[index] for index in range(len(requests))]


def _texts(texts: object, limits: Limits, are_words: bool) -> tuple[Checked, ...]:
    if not isinstance(texts, list) or not texts:
        raise InputError("body: texts: expected a list with at least one text")
    if len(texts) > limits.max_texts:
        expected = f"texts: expected at most max_texts={limits.max_texts:,} texts in a request, found {len(texts):,}"
        raise RequestError(413, f"{expected}; send several requests, or start the application with a larger max_texts")
    given = [tuple(text) if isinstance(text, list) else text for text in texts]
    checked = check_words(given) if are_words else check_texts(given)
    if long := [(index, count) for index, text in enumerate(checked) if (count := characters(text)) > limits.max_characters]:
        found = ", ".join(f"texts[{index}] has {count:,}" for index, count in long[:10])
        more = f" and {len(long) - 10} more" if len(long) > 10 else ""
        expected = f"texts: expected at most max_characters={limits.max_characters:,} characters in a text"
        remedy = "split the text, or start the application with a larger max_characters"
        raise RequestError(422, f"{expected}, found: {found}{more}; {remedy}")
    return tuple(checked)


def _predict_isolated(
    predictor: Served, requests: Sequence[PredictRequest], members: Sequence[int]
) -> dict[int, tuple[int, dict[str, Any]]]:
    """Run the requests together, and in halves if that fails."""
    try:
        return _predict_together(predictor, requests, members)
    except Exception as error:  # every kind: an error in one request must not reach another one
        if len(members) == 1:
            return {members[0]: _failure(error)}
        half = len(members) // 2
        parts = (members[:half], members[half:])
        return {index: answer for part in parts for index, answer in _predict_isolated(predictor, requests, part).items()}


def _predict_together(
    predictor: Served, requests: Sequence[PredictRequest], members: Sequence[int]
) -> dict[int, tuple[int, dict[str, Any]]]:
    first = requests[members[0]]
    if any(requests[index].tasks != first.tasks for index in members):
        return _predict_routed(predictor, requests, members)
    texts = [text for index in members for text in requests[index].texts]
    predictions = predictor.predict(texts, first.tasks, first.drop, **vars(first.options))
    found, start = {}, 0
    for index in members:
        end = start + len(requests[index].texts)
        rows = {task: [row.to_dict() for row in results[start:end]] for task, results in predictions.items()}
        found[index] = 200, {"provider": predictor.provider, "predictions": rows}
        start = end
    return found


def _can_route(predictor: Served, request: PredictRequest) -> bool:
    """Return whether requests for other tasks may share a call with this one; all tasks are cheaper in the other graph."""
    if request.tasks is None or request.options.is_split_into_words or request.options.aggregate is not None:
        return False
    try:
        return predictor.routes(request.tasks)
    except InputError:  # a task has been removed since: the call itself says so
        return False


def _predict_routed(
    predictor: Served, requests: Sequence[PredictRequest], members: Sequence[int]
) -> dict[int, tuple[int, dict[str, Any]]]:
    pairs = [(text, requests[index].tasks or ()) for index in members for text in requests[index].texts]
    options = requests[members[0]].options
    drop = requests[members[0]].drop
    same = {"truncate": options.truncate, "threshold": options.threshold, "top_k": options.top_k}
    predictions = iter(predictor.predict_routed([text for text, _ in pairs], [tasks for _, tasks in pairs], drop, **same))
    found = {}
    for index in members:
        own = [next(predictions) for _ in requests[index].texts]
        rows = {task: [each[task].to_dict() for each in own] for task in own[0]}
        found[index] = 200, {"provider": predictor.provider, "predictions": rows}
    return found


def _failure(error: Exception) -> tuple[int, dict[str, Any]]:
    if isinstance(error, InputError):
        return 400, {"error": str(error)}
    _LOGGER.error("a request failed", exc_info=error)
    if isinstance(error, AdapterDropError):
        return 500, {"error": str(error)}
    # The message may contain paths of the server
    return 500, {"error": f"unexpected {type(error).__name__} in the service; its log has the details"}
