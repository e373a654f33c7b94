"""The graphs of trunk, branches and slots are compared when a provider opens them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import runtime
from exporter import export
from runtime.ort import open_sessions as opening
from runtime.ort import provider_options
from runtime.ort import session as sessions
from runtime.ort.known_providers import CPU, OPENVINO, Provider
from runtime.ort.session import create_session
from tests.helpers.small_vocabulary import VOCABULARY
from tests.helpers.sweep import swept
from tests.helpers.tiny_models import bert_config, tiny_model, tokenizer

LATE = ("trunk.onnx", "branches.onnx", "branches_routed.onnx", *(SLOTS := ("model_slots.onnx", "branches_slots.onnx")))
Array = np.ndarray[Any, Any]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = tiny_model({"a": ("seq_bn", "2"), "b": ("seq_bn", "3")}, bert_config(VOCABULARY, 3))
    folder = tmp_path_factory.mktemp("graphs") / "onnx"
    export(model, tokenizer(), drop=1, split=True, routed=True, slots=2, output=folder)
    return folder


class Changed:
    """A session whose outputs are other ones."""

    def __init__(self, inner: Any, change: Callable[[Array], Array]) -> None:
        self._inner, self._change = inner, change

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def run(self, *given: Any) -> list[Array]:
        return [self._change(array) for array in self._inner.run(*given)]


@pytest.fixture
def provider(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A provider openvino that is the CPU; the value of a graph's name, if it has one, changes its outputs."""
    opened: dict[str, Any] = {"opened": []}

    def made(graph: Any, provider: Provider, *more: Any) -> Any:
        found = create_session(graph, CPU, *more)
        opened["opened"].append(graph.name)
        return Changed(found, opened[graph.name]) if graph.name in opened else found

    monkeypatch.setattr(opening, "create_session", made)
    monkeypatch.setattr(opening, "resolve", lambda *_: (OPENVINO,))
    return opened


def test_every_graph_has_logits_to_compare(bundle: Path, provider: dict[str, Any]) -> None:
    rows = runtime.load(bundle, provider="openvino").verify()
    tasks = {graph: [row.task for row in rows if row.graph == graph] for graph in provider["opened"]}
    assert [tasks.pop(graph) for graph in SLOTS] == [["slots"], ["slots"]]
    assert tasks == {graph: ["a", "b"] for graph in ("model.onnx", "model_routed.onnx", *LATE[:-2])}
    assert all(row.difference < 1e-6 for row in rows)


def test_the_cpu_compares_all_but_slots(bundle: Path) -> None:
    rows = runtime.load(bundle, provider="cpu", verify=True).verify()
    assert {row.graph for row in rows} == {"model.onnx", "model_routed.onnx", *LATE[:-2]}


@pytest.mark.parametrize(
    "change",
    [
        lambda array: array[::-1],  # rows of each other
        lambda array: array * np.float32(1.01),
        *swept(
            np.zeros_like,
            lambda array: np.where(np.arange(len(array)).reshape(-1, *[1] * (array.ndim - 1)) == 1, np.nan, array),
        ),
    ],
    ids=["rows", "scale", "zeros", "nan"],
)
@pytest.mark.parametrize("graph", LATE)
def test_a_wrong_graph_is_refused_when_it_is_opened(
    bundle: Path, provider: dict[str, Any], graph: str, change: Callable[[Array], Array]
) -> None:
    provider[graph] = change
    predictor = runtime.load(bundle, provider="openvino")
    assert not set(LATE) & set(provider["opened"])
    with pytest.raises(runtime.ProviderError, match=rf"^provider openvino: .*{graph}"):
        predictor.prepare()
    predictor.run({"input_ids": np.array([[101, 2759, 102]]), "attention_mask": np.ones((1, 3), np.int64)})
    runtime.load(bundle, provider="openvino", verify=False).prepare()


def test_states_need_no_branches_on_the_device(bundle: Path, provider: dict[str, Any]) -> None:
    runtime.load(bundle, provider="openvino").encode(["a text"])
    assert provider["opened"] == ["model.onnx", "model_routed.onnx", "trunk.onnx"]


def test_only_graphs_of_all_tasks_capture(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A session that captures CUDA graphs returns nothing from run() once it replays, unless its outputs are bound."""
    asked: dict[str, bool] = {}
    names: list[str] = []
    original = provider_options.request

    def request(settings: Any, provider: Provider, options: Any, manifest: Any, graphs: bool = True) -> Any:
        asked[names[-1]] = graphs
        return original(settings, provider, options, manifest, graphs)

    def made(graph: Any, *more: Any) -> Any:
        names.append(graph.name)
        return create_session(graph, *more)

    monkeypatch.setattr(sessions, "request", request)
    monkeypatch.setattr(opening, "create_session", made)
    runtime.load(bundle, provider="cpu", threads=1).verify()
    assert {graph for graph, captures in asked.items() if captures} == {"model.onnx"}
    assert {"model_routed.onnx", *LATE} < set(asked)
