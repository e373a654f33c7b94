"""CUDA graphs, IO binding, memory, precision and threads on the device."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import runtime
from exporter.targets import TOLERANCES
from runtime import CudaOptions, Options
from tests.gpu.models import SHAPES, Exported, exported
from tests.helpers.batch_independence import left_tokenizer

pytestmark = pytest.mark.gpu

GRAPHS = ((1, 8), (4, 33), (8, 32))


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory, device: str) -> Exported:
    return exported("routed", tmp_path_factory.mktemp("device") / "onnx", device, device)


@pytest.fixture(scope="module")
def wanted(bundle: Exported) -> dict[tuple[int, int], dict[str, np.ndarray]]:
    tasks = runtime.load(bundle.folder, provider="cpu").tasks
    return {shape: {task: bundle.expected(task, bundle.feeds(shape), 1) for task in tasks} for shape in SHAPES}


def _load(bundle: Exported, **options: Any) -> runtime.Predictor:
    return runtime.load(bundle.folder, provider=bundle.device, options=Options(cuda=CudaOptions(**options)))


def _agrees(found: Any, expected: dict[str, np.ndarray], tolerance: float = TOLERANCES["fp32"]) -> None:
    for task, logits in expected.items():
        np.testing.assert_allclose(found[task], logits, atol=tolerance * max(1.0, float(np.abs(logits).max())), rtol=0)


def test_graphs_are_right_at_their_shapes_and_others(bundle: Exported, wanted: Any) -> None:
    predictor = _load(bundle, graphs=GRAPHS)
    for shape in (*SHAPES, *GRAPHS, *SHAPES):
        _agrees(predictor.run(bundle.feeds(shape)), wanted[shape])
    (row,) = predictor.run_routed(bundle.feeds((1, 8)), ["b"])
    _agrees({"b": row}, {"b": wanted[1, 8]["b"][0]})
    _agrees(predictor.run(bundle.feeds((8, 32)), tasks=["c"]), {"c": wanted[8, 32]["c"]})


def test_graphs_serve_many_threads(bundle: Exported, wanted: Any) -> None:
    predictor, other = _load(bundle, graphs=GRAPHS), _load(bundle)
    held = [(shape, predictor.run_on_device(bundle.feeds(shape))) for shape in SHAPES]
    given = [SHAPES[number % len(SHAPES)] for number in range(200)]
    with ThreadPoolExecutor(8) as pool:
        answers = pool.map(lambda shape: [one.run(bundle.feeds(shape)) for one in (predictor, other)], given)
        # While they run, a third one captures its graphs.
        third = _load(bundle, graphs=((2, 5), (3, 16)))
        for shape, found in zip(given, answers, strict=True):
            for one in found:
                _agrees(one, wanted[shape])
    _agrees(third.run(bundle.feeds((2, 5))), wanted[2, 5])
    for shape, values in held:  # the memory of a replay is not that of outputs which a caller holds
        _agrees({task: value.numpy() for task, value in values.items()}, wanted[shape])


def test_new_threads_capture_nothing_again(bundle: Exported, wanted: Any) -> None:
    predictor, failures = _load(bundle, graphs=GRAPHS), []

    def work() -> None:
        try:
            _agrees(predictor.run(bundle.feeds((8, 32))), wanted[8, 32])
        except BaseException as error:
            failures.append(error)

    for _ in range(50):  # a server that starts a thread for every request
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    assert failures == []


def test_values_stay_on_the_device(bundle: Exported, device: str, wanted: Any) -> None:
    values = _load(bundle).run_on_device(bundle.feeds((4, 33)))
    assert {value.device_name() for value in values.values()} == {device}
    _agrees({task: value.numpy() for task, value in values.items()}, wanted[4, 33])


def test_predict_pads_to_the_graphs(bundle: Exported, device: str, tmp_path: Path) -> None:
    from exporter import export

    folder = tmp_path / "onnx"
    bundle.model.to("cpu")
    try:
        export(bundle.model, left_tokenizer(bundle.model), ["a", "b"], 1, folder, target=device)
    finally:
        bundle.model.to(device)
    texts = [" ".join(f"w{number % 90 + 5:02d}" for number in range(length)) for length in (1, 3, 7, 20, 30)]
    plain, graphs = (
        runtime.load(folder, provider=device, options=Options(cuda=CudaOptions(graphs=shapes))) for shapes in ((), GRAPHS)
    )
    expected = plain.predict(texts)
    for task, predictions in graphs.predict(texts).items():
        for one, other in zip(predictions, expected[task], strict=True):
            np.testing.assert_allclose(list(one.scores.values()), list(other.scores.values()), atol=1e-4)


def test_tf32_is_off_unless_asked_for(bundle: Exported, gpu: None, wanted: Any) -> None:
    exact, fast = _load(bundle), _load(bundle, tf32=True)
    found = fast.run(bundle.feeds((16, 64)))
    difference = max(float(np.abs(found[task] - logits).max()) for task, logits in exact.run(bundle.feeds((16, 64))).items())
    assert 1e-5 < difference < 0.1
    _agrees(exact.run(bundle.feeds((16, 64))), wanted[16, 64])


def test_memory_has_a_limit_and_its_end_is_an_error(bundle: Exported, gpu: None, wanted: Any) -> None:
    predictor = _load(bundle, memory_limit=64 * 2**20)
    ids = np.ones((2048, 64), np.int64)
    for _ in range(2):
        with pytest.raises(runtime.AdapterDropError, match=r"ONNX Runtime \(cuda\) failed on input_ids \[2048, 64\]"):
            predictor.run({"input_ids": ids, "attention_mask": ids})
        _agrees(predictor.run(bundle.feeds((3, 16))), wanted[3, 16])


def test_a_device_that_is_not_there_is_named(bundle: Exported, gpu: None) -> None:
    with pytest.raises(runtime.ProviderError, match="provider cuda: it is installed but does not work here"):
        _load(bundle, device=63)


def test_a_graph_of_a_shape_that_the_model_lacks_is_refused(bundle: Exported, gpu: None) -> None:
    with pytest.raises(runtime.InputError, match=r"cuda\.graphs: .*found \(1, 65\)"):
        _load(bundle, graphs=((1, 65),))


def test_a_run_on_the_device_can_be_cancelled(bundle: Exported, wanted: Any) -> None:
    predictor, handle = _load(bundle, graphs=GRAPHS), runtime.Cancellation()
    handle.cancel()
    for shape in ((8, 32), (7, 13)):
        with pytest.raises(runtime.CancelledError):
            predictor.run(bundle.feeds(shape), cancel=handle)
        _agrees(predictor.run(bundle.feeds(shape)), wanted[shape])
