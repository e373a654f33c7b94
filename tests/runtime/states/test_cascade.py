"""Cascades, the cache of trunk states, and the commands `encode` and `run`, with and without split graphs."""

import gzip
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import runtime
from exporter import export
from runtime.__main__ import main
from runtime.states_commands import _predictions
from tests.helpers.small_vocabulary import VOCABULARY
from tests.helpers.sweep import swept
from tests.helpers.tiny_models import bert_config, tiny_model, tokenizer

TASKS = ("a", "b")
DROPS = (2, 1, 0)
TEXTS: list[Any] = ["good", "The film was long, and the phone is fast.", "no", ("two", "texts of a pair"), "stocks fall", "ok"]


@pytest.fixture(scope="module", params=["split", *swept("whole")])
def predictor(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> runtime.Predictor:
    model = tiny_model({"a": ("seq_bn", "2"), "b": ("seq_bn", "3"), "r": ("seq_bn", "reg")}, bert_config(VOCABULARY, 3))
    folder = tmp_path_factory.mktemp("cascade") / "onnx"
    export(model, tokenizer(), drop=DROPS, split=request.param == "split", output=folder)
    return runtime.load(folder, provider="cpu", threads=1)


def test_each_text_stops_at_the_first_sure_variant(predictor: runtime.Predictor) -> None:
    every = {drop: predictor.predict(TEXTS, TASKS, drop=drop) for drop in DROPS}
    medians = {drop: float(np.median([row.score or 0 for task in TASKS for row in every[drop][task]])) for drop in DROPS}
    steps = [(drop, medians[drop] if drop else 1.0) for drop in DROPS]
    found = predictor.predict(TEXTS, TASKS, cascade=steps)
    used = set()
    for task in TASKS:
        for index, prediction in enumerate(found[task]):
            scores = {drop: every[drop][task][index].score or 0.0 for drop in DROPS}
            drop = next((drop for drop, threshold in steps if scores[drop] >= threshold), DROPS[-1])
            assert prediction.drop == drop
            assert prediction.label == every[drop][task][index].label
            assert prediction.score == pytest.approx(scores[drop], abs=1e-5)
            used.add(drop)
    assert len(used) > 1, "expected texts that stop at different variants"


def test_hooks_see_every_step(predictor: runtime.Predictor) -> None:
    seen: list[runtime.Run] = []

    @contextmanager
    def hook(run: runtime.Run) -> Iterator[None]:
        seen.append(run)
        yield

    observed = runtime.load(predictor._bundle.files.path, provider="cpu", threads=1, hooks=[hook])
    observed.predict(TEXTS, TASKS, cascade=[(2, 1.0), (0, 0.0)], batch_size=100)
    assert {run.drop for run in seen} == {2, 0}
    assert sum(run.rows for run in seen if run.drop == 2) == len(TEXTS)


@pytest.mark.parametrize(
    ("given", "options", "message"),
    [
        ("2", {}, r"a list of \(drop, threshold\)"),
        ([], {}, r"a list of \(drop, threshold\)"),
        ([(2, 0.5, 1)], {}, r"a list of \(drop, threshold\)"),
        ([(3, 0.5)], {}, "the drops 2, 1, 0, found 3"),
        ([(2, 1.5)], {}, "thresholds from 0 to 1, found 1.5"),
        ([(2, float("nan"))], {}, "thresholds from 0 to 1, found nan"),
        ([(2, 0.5), (2, 0.5)], {}, "each drop once"),
        ([(2, 0.5)], {"tasks": ["r"]}, r"r \(regression\)"),
        ([(2, 0.5)], {"drop": 1}, "either drop or cascade"),
    ],
)
def test_a_wrong_cascade_is_refused(predictor: runtime.Predictor, given: Any, options: Any, message: str) -> None:
    with pytest.raises(runtime.InputError, match=message):
        predictor.predict(TEXTS, **{"tasks": TASKS, "cascade": given, **options})


def test_commands_keep_states(predictor: runtime.Predictor, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, texts, states = str(predictor._bundle.files.path), tmp_path / "texts.jsonl.gz", str(tmp_path / "states")
    texts.write_bytes(gzip.compress("\n".join(json.dumps({"text": text}) for text in TEXTS).encode()))
    status = main([folder, "encode", str(texts), "--output", states, "--provider", "cpu"])
    if not predictor.manifest.splits:
        assert status == 2
        assert "--split" in capsys.readouterr().err
        return
    assert status == 0
    assert "6 texts at drop 2" in capsys.readouterr().out
    assert main([folder, "run", states, "--tasks", "b,r", "--provider", "cpu"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    expected = predictor.predict(TEXTS, ["b", "r"], drop=2)
    for number, line in enumerate(lines):
        assert line["text"] == number
        assert line["predictions"]["b"]["label"] == expected["b"][number].label
        assert line["predictions"]["r"]["value"] == pytest.approx(expected["r"][number].value, abs=1e-5)
    assert len(lines) == len(TEXTS)
    assert main([folder, "run", str(texts)]) == 2
    assert "not a file of safetensors" in capsys.readouterr().err


class _Logits(dict[str, Any]):
    drop = 2


def test_logits_of_states_that_are_not_finite_name_the_text(
    predictor: runtime.Predictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = _Logits(a=np.array([[0, 1], [-np.inf, 1]]), r=np.array([[1], [np.inf]]))
    monkeypatch.setattr(runtime.Predictor, "run_branches", lambda *_: found)
    states: Any = range(2)  # only their number is read
    lines = _predictions(predictor, states, ["a", "r"], 2)
    assert json.loads(next(lines))["predictions"]["r"]["value"] == 1
    with pytest.raises(
        runtime.AdapterDropError, match=r"^task r, texts\[1\]: expected finite logits, .* \(drop 2, provider cpu\); the weights"
    ):
        next(lines)


@pytest.mark.parametrize(
    ("given", "message"), [(10, "longest text's states"), (True, "number of bytes"), ("1", "number of bytes")]
)
def test_a_wrong_cache_is_refused(predictor: runtime.Predictor, given: Any, message: str) -> None:
    if not predictor.manifest.splits:
        message = "--split"
    with pytest.raises(runtime.InputError, match=message):
        runtime.load(predictor._bundle.files.path, state_cache=given)


def test_texts_hit_the_cache_in_any_batch(predictor: runtime.Predictor) -> None:
    if not predictor.manifest.splits:
        return
    cached = runtime.load(predictor._bundle.files.path, provider="cpu", threads=1, state_cache=10**7)
    first = cached.predict(TEXTS, TASKS)
    for text in reversed(TEXTS):
        cached.predict([text], TASKS)
    again = cached.predict([*TEXTS[3:], *TEXTS], TASKS)
    statistics = cached.state_cache
    assert statistics is not None
    assert (statistics.misses, statistics.entries) == (len(TEXTS), len(TEXTS))
    for task in TASKS:
        for one, other in zip(again[task][3:], first[task], strict=True):
            assert np.allclose(list(one.scores.values()), list(other.scores.values()), atol=1e-5)
