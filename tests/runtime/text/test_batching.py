"""Batching of texts, padding to given shapes, and the choice of the drop."""

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import runtime
from runtime.bundle import read_manifest
from runtime.text.bucketing import split
from runtime.text.encode import BatchLimits, TextEncoder
from tests.helpers.runtime_bundles import MAX_LENGTH, feeds, write_bundle

LENGTHS = st.lists(st.integers(0, 40), min_size=1, max_size=9)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bundle(tmp_path_factory.mktemp("batching") / "bundle")


@pytest.fixture(scope="module")
def predictor(bundle: Path) -> runtime.Predictor:
    return runtime.load(bundle, provider="cpu", threads=1)


def cost(batches: list[list[int]], lengths: list[int], call: int) -> int:
    return sum(call + len(batch) * max(lengths[index] for index in batch) for batch in batches)


@settings(deadline=None, derandomize=True)
@given(lengths=LENGTHS, rows=st.integers(1, 5), tokens=st.integers(1, 80), call=st.integers(0, 50))
def test_every_text_is_in_one_batch_and_no_split_is_cheaper(lengths: list[int], rows: int, tokens: int, call: int) -> None:
    def allowed(batch: list[int]) -> bool:
        return len(batch) == 1 or (len(batch) <= rows and len(batch) * max(lengths[index] for index in batch) <= tokens)

    batches = split(lengths, rows, tokens, call)
    assert sorted(itertools.chain(*batches)) == list(range(len(lengths)))
    assert all(map(allowed, batches))
    order = sorted(range(len(lengths)), key=lambda index: lengths[index])
    for cuts in itertools.product([False, True], repeat=len(order) - 1):
        other = [[order[0]]]
        for index, cut in zip(order[1:], cuts, strict=True):
            other += [[index]] if cut else []
            other[-1] += [] if cut else [index]
        assert not all(map(allowed, other)) or cost(batches, lengths, call) <= cost(other, lengths, call)


def test_texts_of_one_length_need_no_padding() -> None:
    lengths = [3, 1, 3, 2, 0, 3, 1, 3]
    assert split(lengths, 3, 99, 24, alike=True) == [[4], [1, 6], [3], [0], [2, 5, 7]]
    assert split(lengths, 99, 6, 24, alike=True) == [[4], [1, 6], [3], [0, 2], [5, 7]]


def test_half_filled_batches_have_little_padding() -> None:
    lengths = np.random.default_rng(0).integers(1, 513, 256).tolist()
    assert cost(split(lengths, 64, 1024, 24), lengths, 0) < 1.1 * sum(lengths)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(counts=st.lists(st.integers(0, MAX_LENGTH - 2), min_size=1, max_size=12))
def test_predictions_do_not_depend_on_the_batch(predictor: runtime.Predictor, counts: list[int]) -> None:
    texts = ["word " * count for count in counts]
    found = predictor.predict(texts)
    for index, text in enumerate(texts):
        for task, (alone,) in predictor.predict([text]).items():
            assert found[task][index].drop == alone.drop == 5
            if task == "names":
                assert [word.label for word in found[task][index].words] == [word.label for word in alone.words]
            elif task == "stars":
                assert found[task][index].value == pytest.approx(alone.value, abs=1e-5)
            else:
                assert dict(found[task][index].scores) == pytest.approx(dict(alone.scores), abs=1e-5)


_PARTS = st.text(max_size=40) | st.sampled_from(["", "\x00", "\ufeff\u200b", "🏳️‍🌈" * 9, "[MASK] [PAD]", "x" * 500, "\ud800"])


@settings(max_examples=150, deadline=None, derandomize=True)
@given(texts=st.lists(_PARTS | st.tuples(_PARTS, _PARTS) | st.none() | st.lists(_PARTS, max_size=3), max_size=5))
def test_any_texts_are_answered_or_refused_never_a_crash(predictor: runtime.Predictor, texts: list[Any]) -> None:
    try:
        found = predictor.predict(texts, truncate=True)
    except runtime.InputError as error:
        assert "texts" in str(error)  # noqa: PT017
    else:
        for rows in found.values():
            assert len(rows) == len(texts)
            for text, row in zip(texts, rows, strict=True):
                for word in row.words:
                    assert (text if isinstance(text, str) else text[word.part])[word.start : word.end] == word.text


def test_batches_are_padded_to_the_smallest_given_shape(bundle: Path) -> None:
    encoder = TextEncoder.load(bundle, read_manifest(bundle))
    rows = encoder.encode(["a b", "c"])
    limits = BatchLimits(rows=8, tokens=100, call=100)
    (batch,) = encoder.batches(rows, limits, shapes=[(4, 16), (4, 8), (1, 8), (8, 3)])
    assert batch.rows == (1, 0)
    assert batch.feeds["attention_mask"].sum(1).tolist() == [3, 4, 4, 4]
    assert batch.feeds["input_ids"].shape == (4, 8)
    (batch,) = encoder.batches(rows, limits, shapes=[(1, 8)])
    assert batch.feeds["input_ids"].shape == (2, 4)


def test_a_latency_target_drops_more_under_load_and_less_after() -> None:
    policy = runtime.LatencyTarget(0.1, window=2)
    drops, chosen = (5, 0, 3), []
    for seconds in [0.2] * 6 + [0.07] * 2 + [0.01] * 6:
        chosen.append(policy.choose(drops))
        policy.done(chosen[-1], seconds)
    assert chosen == [0, 0, 3, 3, 5, 5, 5, 5, 5, 5, 3, 3, 0, 0]
    with pytest.raises(runtime.InputError, match="expected seconds > 0"):
        runtime.LatencyTarget(0)


def test_the_policy_decides_unless_the_call_names_a_drop(bundle: Path) -> None:
    class Noting:
        def __init__(self) -> None:
            self.calls: list[str] = []

        def choose(self, drops: tuple[int, ...]) -> int:
            assert drops == (5,)
            self.calls.append("choose")
            return 5 if len(self.calls) < 4 else 4

        def done(self, drop: int, seconds: float) -> None:
            assert drop == 5
            assert seconds > 0
            self.calls.append("done")

    noting = Noting()
    loaded = runtime.load(bundle, provider="cpu", policy=noting)  # type: ignore[arg-type]
    assert loaded.run(feeds()).drop == 5
    assert loaded.run(feeds(), drop=5).drop == 5
    assert noting.calls == ["choose", "done", "done"]
    with pytest.raises(runtime.InputError, match="loaded with 5, found 4"):
        loaded.run(feeds())


@pytest.mark.parametrize("is_text", [False, True])
def test_special_tokens_in_texts_are_those_of_transformers(bundle: Path, is_text: bool) -> None:
    """With split_special_tokens, "[SEP]" in a text is text."""

    def read(name: str) -> bytes:
        content = (bundle / name).read_bytes()
        changed = {"split_special_tokens": is_text}
        return json.dumps(json.loads(content) | changed).encode() if name == "tokenizer_config.json" else content

    tokenizer = pytest.importorskip("transformers").AutoTokenizer.from_pretrained(bundle, split_special_tokens=is_text)
    (found,) = TextEncoder.load(bundle, read_manifest(bundle), read).encode(["a [SEP] [MASK]"])
    assert found.ids == tokenizer("a [SEP] [MASK]").input_ids
    assert found.ids.count(tokenizer.sep_token_id) == (1 if is_text else 2)
