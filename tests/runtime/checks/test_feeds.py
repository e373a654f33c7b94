"""run(): the logits, the checks of feeds, providers, drops and threads."""

import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import runtime
from runtime.bundle import read_manifest
from runtime.checks.feeds import FeedCheck, check_feeds
from runtime.ort import known_providers, plugins
from tests.helpers.runtime_bundles import MAX_LENGTH, expected, feeds, write_bundle
from tests.helpers.small_vocabulary import VOCABULARY

LAST = VOCABULARY - 1


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bundle(tmp_path_factory.mktemp("inputs") / "bundle", tokenizer=False)


@pytest.fixture(scope="module")
def predictor(bundle: Path) -> runtime.Predictor:
    return runtime.load(bundle, provider="cpu", threads=1)


def test_the_predictor_says_what_it_is(predictor: runtime.Predictor) -> None:
    assert predictor.tasks == ("topic", "flags", "stars", "names")
    assert predictor.drops == (5,)
    assert predictor.provider == "cpu"
    assert predictor.manifest.opset == 18


@pytest.mark.parametrize("shape", [(1, 1), (1, MAX_LENGTH), (3, 7)])
def test_logits_are_those_of_numpy(predictor: runtime.Predictor, shape: tuple[int, int]) -> None:
    given = feeds(*shape)
    found = predictor.run(given)
    assert list(found) == list(predictor.tasks)
    for task, logits in expected(given).items():
        np.testing.assert_allclose(found[task], logits, atol=1e-5)


def test_tasks_choose_and_order_the_answers(predictor: runtime.Predictor) -> None:
    found = predictor.run(feeds(), tasks=["names", "topic", "names"], drop=5)
    assert list(found) == ["names", "topic"]
    np.testing.assert_array_equal(found["topic"], predictor.run(feeds())["topic"])


def test_token_types_default_to_zeros_and_the_mask_is_required(predictor: runtime.Predictor) -> None:
    given = feeds()
    zeros = given | {"token_type_ids": np.zeros_like(given["input_ids"])}
    del given["token_type_ids"]
    np.testing.assert_array_equal(predictor.run(given)["names"], predictor.run(zeros)["names"])
    del given["attention_mask"]
    with pytest.raises(runtime.InputError, match="attention_mask: missing"):
        predictor.run(given)


def test_token_types_that_count_are_required(bundle: Path) -> None:
    """In GPT-2, zeros are another input than none."""
    manifest = read_manifest(bundle)
    inputs = tuple(replace(each, limit=9) if each.limit else each for each in manifest.inputs)
    given = {name: np.ones((2, 3), np.int64) for name in ("input_ids", "attention_mask")}
    for check in (FeedCheck(replace(manifest, inputs=inputs)), lambda own: check_feeds(own, replace(manifest, inputs=inputs))):
        with pytest.raises(runtime.InputError, match="token_type_ids: missing"):
            check(given)
        assert set(check(given | {"token_type_ids": np.zeros((2, 3), np.int64)})) == {*given, "token_type_ids"}


def test_arrays_need_not_be_contiguous(predictor: runtime.Predictor) -> None:
    given = feeds(2, 8)
    views = {name: np.asfortranarray(array) for name, array in given.items()}
    np.testing.assert_array_equal(predictor.run(views)["names"], predictor.run(given)["names"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pixels": np.zeros((2, 5), np.int64)}, "pixels: unknown, expected input_ids, attention_mask, token_type_ids"),
        ({"input_ids": np.zeros((2, 5), np.int32)}, r"input_ids: expected int64, found int32; cast it with .astype"),
        ({"input_ids": np.zeros((2, 5), ">i8")}, "input_ids: expected int64, found >i8"),
        ({"input_ids": [[1, 2]]}, "input_ids: expected a numpy array, found list"),
        ({"input_ids": np.zeros(5, np.int64)}, r"input_ids: expected rank 2 \[batch, sequence\], found shape \[5\]"),
        ({"input_ids": np.zeros((2, 4), np.int64)}, "axis sequence: expected one length, found input_ids 4, attention_mask 5"),
        (
            {"input_ids": np.broadcast_to(np.int64(1), (10**9, 5))},
            "input_ids: expected at most 268,435,456 numbers, found",
        ),
        (
            {"input_ids": np.full((2, 5), VOCABULARY)},
            rf"input_ids: expected values in 0\.\.{LAST}, found {VOCABULARY}",
        ),
        ({"input_ids": np.full((2, 5), -1)}, "input_ids: expected values in"),
        ({"attention_mask": np.full((2, 5), 2)}, r"attention_mask: expected values in 0\.\.1"),
        ({"token_type_ids": np.full((2, 5), 2)}, r"token_type_ids: expected values in 0\.\.1"),
        ({"token_type_ids": np.full((2, 5), -1)}, r"token_type_ids: expected values in 0\.\.1"),
        (feeds(2, MAX_LENGTH + 1), r"axis sequence: expected a length of 1\.\.16, found 17"),
        ({name: array[:, :0] for name, array in feeds().items()}, r"axis sequence: expected a length of 1\.\.16, found 0"),
        ({name: array[:0] for name, array in feeds().items()}, "expected at least one row, found an empty batch"),
    ],
)
def test_feeds_that_do_not_fit_are_refused(predictor: runtime.Predictor, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(runtime.InputError, match=message):
        predictor.run(feeds() | changes)


def test_all_mismatches_are_named_at_once(predictor: runtime.Predictor) -> None:
    given: dict[str, Any] = {"input_ids": np.full((2, 5), 40000, np.int32), "attention_mask": None, "more": None}
    with pytest.raises(runtime.InputError) as caught:
        predictor.run(given)
    for part in (
        "more: unknown",
        "found int32",
        f"0..{LAST}",
        "attention_mask: expected a numpy array, found NoneType",
    ):
        assert part in str(caught.value)
    with pytest.raises(runtime.InputError, match="expected a mapping"):
        predictor.run([1])  # type: ignore[arg-type]


_ARRAYS = st.builds(
    lambda shape, value, dtype: np.full(shape, value).astype(dtype),
    st.lists(st.integers(0, 3), max_size=3),
    st.integers(-1, 3),
    st.sampled_from(["int64", "int32", "uint64", "float32", "bool", "object", "str", "complex64", "datetime64[s]"]),
)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(given=st.dictionaries(st.sampled_from([*feeds(), "more"]), _ARRAYS | st.just(feeds()["input_ids"]) | st.none()))
def test_any_other_feeds_are_answered_or_refused_never_a_crash(predictor: runtime.Predictor, given: dict[str, Any]) -> None:
    right = FeedCheck(predictor.manifest)._is_valid(feeds() | given)  # the fast check and the one with messages must agree
    try:
        assert right == (check_feeds(feeds() | given, predictor.manifest).keys() == feeds().keys())
        found = predictor.run(feeds() | given)
    except runtime.InputError as error:
        assert str(error).startswith("feeds: ")  # noqa: PT017
        assert not right
    else:
        assert found["topic"].shape == (2, 3)


@pytest.mark.parametrize(
    ("tasks", "message"),
    [
        (["topic", "mood"], "expected some of topic, flags, stars, names, found 'mood'"),
        ([], "an empty list"),
        ("topic", r"found str; pass \[name\]"),
    ],
)
def test_tasks_that_are_not_there_are_refused(predictor: runtime.Predictor, tasks: Any, message: str) -> None:
    with pytest.raises(runtime.InputError, match=message):
        predictor.run(feeds(), tasks=tasks)


def test_drops_and_threads_are_checked(bundle: Path, predictor: runtime.Predictor) -> None:
    with pytest.raises(runtime.InputError, match="loaded with 5, found 3"):
        predictor.run(feeds(), drop=3)
    with pytest.raises(runtime.InputError, match="exported with 5, found 0"):
        runtime.load(bundle, drop=0)
    for threads in (0, -1, True, "2"):
        with pytest.raises(runtime.InputError, match="threads: expected a positive integer"):
            runtime.load(bundle, threads=threads)  # type: ignore[arg-type]


def test_many_threads_share_one_predictor(predictor: runtime.Predictor) -> None:
    rows = [feeds(1 + index % 3, 1 + index % MAX_LENGTH) for index in range(64)]
    with ThreadPoolExecutor(8) as pool:
        for given, found in zip(rows, pool.map(predictor.run, rows), strict=True):
            np.testing.assert_allclose(found["names"], expected(given)["names"], atol=1e-5)


def test_logits_may_stay_on_the_device(predictor: runtime.Predictor) -> None:
    found = predictor.run_on_device(feeds(3, 4), tasks=["names", "stars"])
    assert list(found) == ["names", "stars"]
    for task, value in found.items():
        assert value.device_name() == "cpu"
        np.testing.assert_array_equal(value.numpy(), predictor.run(feeds(3, 4))[task])
    with pytest.raises(runtime.InputError, match="loaded with 5"):
        predictor.run_on_device(feeds(), drop=1)


def test_unknown_and_missing_providers_say_what_to_do(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = r"expected one of auto, cpu, cuda, tensorrt, openvino, .*found 'gpu'; the nearest is cuda"
    with pytest.raises(runtime.ProviderError, match=names):
        runtime.load(bundle, provider="gpu")
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    monkeypatch.setattr(plugins, "is_importable", lambda _: False)
    needs = {
        "cuda": "onnxruntime-gpu.*exclude each",
        "tensorrt": "onnxruntime-gpu.*exclude each",
        "openvino": "onnxruntime-ep-openvino`, a plug-in for ONNX Runtime 1.24",
        "tensorrt-rtx": "onnxruntime-ep-nv-tensorrt-rtx`, a plug-in",
        "webgpu": "onnxruntime-ep-webgpu`, a plug-in",
        "dml": "onnxruntime-directml.*exclude each",
    }
    for name, package in needs.items():
        with pytest.raises(runtime.ProviderError, match=f"{name}: .* has only cpu; .*pip install {package}"):
            runtime.load(bundle, provider=name)


@pytest.fixture
def silent_fallback(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """An ONNX Runtime that lists every provider and silently runs on the CPU, as it does without CUDA's libraries."""
    requested: list[str] = []
    real = onnxruntime.InferenceSession

    def create(path: str, options: Any, chosen: list[tuple[str, dict[str, str]]], **rest: Any) -> Any:
        requested.append(chosen[0][0])
        if chosen[0][0].startswith("OpenVINO"):
            raise RuntimeError("no device")
        return real(path, options, ["CPUExecutionProvider"], **rest)

    every = [provider.key for provider in known_providers.KNOWN]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: every)
    monkeypatch.setattr(onnxruntime, "InferenceSession", create)
    return requested


def test_a_broken_provider_is_an_error_and_auto_goes_on(bundle: Path, silent_fallback: list[str]) -> None:
    with pytest.raises(runtime.ProviderError, match=r"cuda: .*does not work here: ONNX Runtime fell back to cpu"):
        runtime.load(bundle, provider="cuda")
    with pytest.raises(runtime.ProviderError, match=r"openvino: .*no device"):
        runtime.load(bundle, provider="openvino")
    silent_fallback.clear()
    assert runtime.load(bundle, provider="auto").provider == "cpu"
    assert silent_fallback == ["CUDAExecutionProvider", "OpenVINOExecutionProvider", "CPUExecutionProvider"]


def test_values_are_not_read_through_a_copy(predictor: runtime.Predictor) -> None:
    large = np.broadcast_to(np.int64(1), (10**7, 5))
    tracemalloc.start()
    try:
        with pytest.raises(runtime.InputError):
            predictor.run({"input_ids": large, "attention_mask": large[..., None], "token_type_ids": large})
        assert tracemalloc.get_traced_memory()[1] < large.nbytes // 100
    finally:
        tracemalloc.stop()
