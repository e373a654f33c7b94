"""encode_texts(): embeddings with prompts, in batches, from a routed graph and on the command line."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import runtime
from runtime.__main__ import main
from runtime.bundle import read_manifest
from tests.helpers.runtime_bundles import MAX_LENGTH, TASKS, expected, rewrite, write_bundle, write_routed

PROMPTS = {"query": "search: ", "plain": ""}
TEXTS: list[Any] = ["a fast phone", "rain", ("over the hills", "by morning"), "the river rose"]
# The first two tasks of the tiny bundles, as embeddings of three and two numbers.
EMBEDDED = (
    replace(TASKS[0], head="sentence_embedding", labels=(), width=3, prompts=PROMPTS, default_prompt="query"),
    replace(TASKS[1], head="sentence_embedding", labels=(), width=2, prompts={"query": "find "}),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = write_routed(tmp_path_factory.mktemp("embeddings") / "bundle")
    rewrite(found, tasks=(*EMBEDDED, *TASKS[2:3]))
    return found


@pytest.fixture(scope="module")
def predictor(folder: Path) -> runtime.Predictor:
    return runtime.load(folder, provider="cpu", threads=1)


def reference(folder: Path, text: Any, prompt: str) -> dict[str, np.ndarray[Any, Any]]:
    """One text by itself, with the tokenizer of transformers."""
    from transformers import AutoTokenizer

    parts = [text] if isinstance(text, str) else list(text)
    given = AutoTokenizer.from_pretrained(folder)(prompt + parts[0], *parts[1:], return_tensors="np")
    return {name: values[0] for name, values in expected(dict(given)).items()}


def test_default_prompts_and_batches(folder: Path, predictor: runtime.Predictor) -> None:
    found = predictor.encode_texts(TEXTS, batch_size=3)
    assert {name: vectors.shape for name, vectors in found.items()} == {"topic": (4, 3), "flags": (4, 2)}
    assert {vectors.dtype.name for vectors in found.values()} == {"float32"}
    for name, prompt in (("topic", "search: "), ("flags", "")):
        for text, vector in zip(TEXTS, found[name], strict=True):
            np.testing.assert_allclose(vector, reference(folder, text, prompt)[name], atol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "prompts"),
    [
        ({"prompt": "x "}, ("x ", "x ")),
        ({"prompt": ""}, ("", "")),
        ({"prompt_name": "query"}, ("search: ", "find ")),
    ],
)
def test_prompts(folder: Path, predictor: runtime.Predictor, arguments: dict[str, str], prompts: tuple[str, str]) -> None:
    found = predictor.encode_texts(TEXTS[:2], ["flags", "topic"], **arguments)  # type: ignore[arg-type]  # strings
    assert list(found) == ["flags", "topic"]
    for name, prompt in zip(("topic", "flags"), prompts, strict=True):
        np.testing.assert_allclose(found[name][1], reference(folder, TEXTS[1], prompt)[name], atol=1e-5)


def test_one_task_for_each_text(predictor: runtime.Predictor) -> None:
    every = predictor.encode_texts(TEXTS)
    tasks = ["flags", "topic", "topic", "flags"]
    found = predictor.encode_texts_routed(TEXTS, tasks, batch_size=2)
    for number, (name, vector) in enumerate(zip(tasks, found, strict=True)):
        np.testing.assert_allclose(vector, every[name][number], atol=1e-5)
    entries = predictor.entries(["flags", "topic"])
    for name, vector in zip(tasks, predictor.encode_texts_routed(TEXTS[:2], entries), strict=False):
        assert vector.shape == every[name][0].shape
    for wrong, count in ((["flags"], 1), (None, 0)):
        with pytest.raises(runtime.InputError, match=rf"one name for each of 4 text\(s\), found {count}"):
            predictor.encode_texts_routed(TEXTS, wrong)  # type: ignore[arg-type]


def test_long_texts(predictor: runtime.Predictor) -> None:
    long = "word " * MAX_LENGTH
    with pytest.raises(runtime.InputError, match=rf"at most {MAX_LENGTH} tokens"):
        predictor.encode_texts([long])
    assert predictor.encode_texts([long], truncate=True)["flags"].shape == (1, 2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"tasks": ["stars"]},
            r"encode_texts\(\) expects tasks that give embeddings, found stars \(regression\); select topic, ",
        ),
        ({"tasks": ["x"]}, "expected some of topic, flags, stars, found 'x'"),
        ({"prompt_name": "plain"}, "task flags has 'query', found 'plain'; pass the text as prompt="),
        ({"prompt_name": 3}, "prompt_name: expected a str or None, found int"),
        ({"prompt": "a", "prompt_name": "query"}, "expected None together with prompt"),
        ({"batch_size": 0}, "batch_size: expected a positive integer"),
        ({"drop": 3}, "drop: this bundle was loaded with 5"),
    ],
)
def test_wrong_arguments(predictor: runtime.Predictor, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(runtime.InputError, match=message):
        predictor.encode_texts(TEXTS, **arguments)


def test_predictions_are_not_embeddings(predictor: runtime.Predictor, tmp_path: Path) -> None:
    message = (
        r"found topic \(sentence_embedding\), flags \(sentence_embedding\); call encode_texts\(\), or select other tasks: stars"
    )
    with pytest.raises(runtime.InputError, match=message):
        predictor.predict(TEXTS)
    assert predictor.predict(TEXTS, ["stars"])["stars"][0].value is not None
    labelled = runtime.load(write_bundle(tmp_path / "bundle"), provider="cpu", threads=1)
    with pytest.raises(runtime.InputError, match=r"found topic \(classification\), .*the bundle has none; call predict\(\)"):
        labelled.encode_texts(TEXTS)


def test_the_command_line(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [str(folder), "--provider", "cpu", "--text", "rain"]
    assert main(arguments) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[3:]] == ["topic", "flags", "stars"]
    assert lines[3].endswith("(3 numbers)")
    assert main([*arguments, "--tasks", "flags", "--prompt-name", "query", "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)["texts"]
    np.testing.assert_allclose(row["predictions"]["flags"]["vector"], reference(folder, "rain", "find ")["flags"], atol=1e-5)
    assert main([*arguments, "--tasks", "stars", "--prompt-name", "query"]) == 2
    assert "--prompt-name: none of the tasks is a sentence embedding" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"width": 0}, "tasks.0..width: expected 1..1,000,000 for sentence_embedding, found 0"),
        ({"width": 10**7}, "width: expected 1..1,000,000"),
        ({"default_prompt": "x"}, r"default_prompt: expected one of the prompts \('plain', 'query'\), found 'x'"),
        ({"head": "regression"}, "width: expected 0 for regression, found 3; .*prompts: expected none for regression"),
    ],
)
def test_wrong_entries(folder: Path, changes: dict[str, Any], message: str) -> None:
    manifest = read_manifest(folder)
    with pytest.raises(runtime.BundleError, match=message):
        replace(manifest, tasks=(replace(manifest.tasks[0], **changes), *manifest.tasks[1:])).write(folder / "none")
