"""Bundles with slots: task files, and tasks that join a running predictor, against single-task PyTorch."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import errno
import json
import pickle
import random
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn

import numpy as np
import pytest
from adapters import LoRAConfig, SeqBnConfig
from transformers import LlamaConfig

import runtime
from exporter import ExportError, add, export, task
from exporter.cli.main import main
from exporter.compile.build import copies
from exporter.compile.slots import compile_slots
from exporter.write.stored_groups import load_stored_groups
from runtime.bundle.tensors import pack, sealed, unpack
from runtime.errors import AdapterDropError, CancelledError, InputError
from runtime.ort.open_bundle import OpenBundle
from runtime.serving.batcher import Batcher, Batching
from runtime.serving.limits import Limits
from runtime.serving.request import PredictRequest
from runtime.slots.hot_entry import HotEntry
from tests.helpers.added_tasks import NEW, OWN, TASKS, only
from tests.helpers.small_vocabulary import VOCABULARY
from tests.helpers.sweep import swept
from tests.helpers.tiny_models import add_task, assert_parity, inputs, reference, tiny_model, tokenizer

DROPS = (1, 0)


@pytest.fixture(scope="module")
def model() -> Any:
    return tiny_model(TASKS)


@pytest.fixture(scope="module")
def folder(model: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("slots") / "onnx"
    export(model, tasks=OWN, drop=DROPS, slots=2, output=folder)
    return folder


@pytest.fixture(scope="module")
def files(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    place = tmp_path_factory.mktemp("files")
    return {name: task(folder, output=place / f"{name}.safetensors", model=only(name)).output for name in NEW}


def test_a_task_for_a_bundle_of_the_hub(
    folder: Path, files: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit, repository = "0" * 40, tmp_path / "models--org--tasks"
    shutil.copytree(folder, repository / "blobs")
    for path in folder.iterdir():
        link = repository / "snapshots" / commit / path.name
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(repository / "blobs" / path.name)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    name = NEW[0]
    made = task(f"org/tasks@{commit}", output=tmp_path / "task.safetensors", model=only(name)).output
    assert made.read_bytes() == files[name].read_bytes()


@pytest.fixture
def predictor(folder: Path) -> runtime.Predictor:
    """Without shared weights, it opens only the graphs that run; test_added_tasks_answer_as_pytorch shares them."""
    return runtime.load(folder, provider="cpu", options=runtime.Options(threads=1, share_weights=False))


@pytest.mark.parametrize("drop", DROPS)
def test_added_tasks_answer_as_pytorch(model: Any, folder: Path, files: dict[str, Path], drop: int) -> None:
    """More tasks of a structure than slots, tasks of the bundle among them, and fewer labels than the most."""
    predictor = runtime.load(folder, provider="cpu", threads=1)
    for name, file in files.items():
        predictor.add_task(name, file)
    assert predictor.tasks == (*OWN, *NEW)
    feeds = inputs((4, 9))
    answers = predictor.run(feeds, [*NEW, *OWN], drop=drop)
    assert list(answers) == [*NEW, *OWN]
    expected = {name: reference(model, name, feeds, drop) for name in answers}
    for name, answer in answers.items():
        assert_parity(answer, expected[name])
    names, rows = ["news", "tone", "stars", "spam", "topic", "news"], [3, 0, 0, 1, 2, 0]
    for name, row, answer in zip(names, rows, predictor.run_routed(feeds, names, rows, drop), strict=True):
        assert_parity(answer, expected[name][row])
    assert set(predictor.run(feeds, drop=drop)) == set(OWN)


def test_a_task_leaves_and_another_takes_its_name(model: Any, predictor: runtime.Predictor, files: dict[str, Path]) -> None:
    feeds = inputs((2, 5))
    predictor.add_task("new", files["spam"])
    assert_parity(predictor.run(feeds, ["new"])["new"], reference(model, "spam", feeds, 1))
    predictor.replace_task("new", files["tone"])  # of another structure
    assert_parity(predictor.run(feeds, ["new"])["new"], reference(model, "tone", feeds, 1))
    predictor.remove_task("new")
    assert predictor.tasks == OWN
    with pytest.raises(InputError, match="expected some of topic, mood, found 'new'"):
        predictor.run(feeds, ["new"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p, file: p.add_task("topic", file), "'topic' is a task of the bundle: choose another name"),
        (lambda p, file: p.add_task("there", file), "there is a task 'there': call replace_task"),
        (lambda p, file: p.add_task("", file), "expected a name"),
        (lambda p, file: p.add_task("a,b", file), "without commas, control characters and spaces around it, found 'a,b'"),
        (lambda p, file: p.add_task(" a", file), "found ' a'"),
        (lambda p, file: p.add_task("a\n", file), "without commas, control characters"),
        (lambda p, _: p.remove_task("other"), "expected the name of an added task, found 'other'; added: there"),
        (lambda p, _: p.remove_task("topic"), "'topic' is a task of the bundle and stays"),
        (lambda p, file: p.replace_task("other", file), "found 'other'; added: there"),
        (lambda p, file: p.add_task("new", file.parent), "expected a task file, found a folder"),
        (lambda p, file: p.add_task("new", file.parent / "missing"), "cannot be read: No such file"),
        (lambda p, _: p.add_task("new", "nul\0"), r"'nul\\x00': the task file cannot be read: embedded null byte"),
    ],
)
def test_wrong_changes_are_refused(
    predictor: runtime.Predictor, files: dict[str, Path], change: Callable[[Any, Path], None], message: str
) -> None:
    predictor.add_task("there", files["spam"])
    with pytest.raises(InputError, match=message):
        change(predictor, files["news"])
    assert predictor.tasks == (*OWN, "there")


@pytest.mark.sweep
def test_decoders_take_other_label_counts(tmp_path: Path) -> None:
    """Their heads give logits for each token, of which that of the last one is selected.

    No row of a call selects the other structure, whose keys and values are then repeated for no rows.
    """
    sizes = {"num_hidden_layers": 2, "hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 4}
    config = LlamaConfig(**sizes, num_key_value_heads=2, vocab_size=101, max_position_embeddings=48, pad_token_id=0)
    tasks: dict[str, Any] = {"topic": (LoRAConfig(r=2), "4"), "mood": (LoRAConfig(r=2), "2"), "tone": (LoRAConfig(r=2), "3")}
    tasks["style"] = ("seq_bn", "3")
    model, other = tiny_model(tasks, config), tiny_model(tasks, config)
    for name in ("topic", "mood", "style"):
        other.delete_adapter(name)
        other.delete_head(name)
    export(model, tasks=["topic", "mood", "style"], slots=2, output=tmp_path / "onnx")
    predictor = runtime.load(tmp_path / "onnx", provider="cpu", threads=1)
    predictor.add_task("tone", task(tmp_path / "onnx", output=tmp_path / "tone", model=other).output)
    feeds = inputs((3, 7), segments=False)
    for answers in (predictor.run(feeds, ["mood"]), predictor.run(feeds, ["tone", "topic"]), predictor.run(feeds, ["style"])):
        for name, answer in answers.items():
            assert_parity(answer, reference(model, name, feeds))


def test_a_task_file_may_have_another_drop(model: Any, folder: Path, tmp_path: Path) -> None:
    bundle, file = tmp_path / "onnx", tmp_path / "spam.safetensors"
    export(model, tasks=["topic", "news"], drop={"topic": 0, "news": 1}, slots=1, output=bundle)
    feeds = inputs((3, 6))
    for drop in (None, 1):
        task(bundle, output=file, model=only("spam"), drop=drop)
        predictor = runtime.load(bundle, provider="cpu", threads=1)
        predictor.add_task("spam", file)
        assert_parity(predictor.run(feeds, ["spam"])["spam"], reference(model, "spam", feeds, drop or 0))
    with pytest.raises(ExportError, match="drop must be that of a task of the bundle, 0 or 1; found 2"):
        task(bundle, output=file, model=only("spam"), drop=2)
    with pytest.raises(ExportError, match="has variants for drop 0, 1, and a task file has weights for all of them: omit drop"):
        task(folder, output=file, model=only("spam"), drop=1)


def _edited(file: Path, target: Path, edit: Callable[[dict[str, Any], dict[str, str]], None]) -> Path:
    arrays, metadata = unpack(file.read_bytes())
    arrays = {name: array.copy() for name, array in arrays.items()}
    edit(arrays, metadata)
    target.write_bytes(pack(arrays, sealed(arrays, metadata)))
    return target


def _set_nan(arrays: dict[str, Any], metadata: dict[str, str]) -> None:
    next(array for array in arrays.values() if array.dtype.kind == "f")[...] = np.nan


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (_set_nan, "expected finite weights, found NaN"),
        (lambda arrays, _: arrays.clear(), r"expected .*, found none"),
        (lambda _, metadata: metadata.update(version="1"), "expected version 2 of task files, found '1'"),
        (lambda _, metadata: metadata.update(format="x"), "found other weights"),
        (
            lambda _, metadata: metadata.update(precision="int8"),
            "expected a task for a bundle in fp32, found one for 'int8'",
        ),
        (lambda _, metadata: metadata.update(graphs='{"1": {}}'), "found one for another trunk, drop or set of"),
        (lambda _, metadata: metadata.update(graphs='{"7": {}}'), "expected weights for drop 1, found drop 7"),
        (lambda _, metadata: metadata.update(task="[]"), "task: expected an object"),
    ],
)
def test_files_that_do_not_fit_are_refused(
    model: Any,
    predictor: runtime.Predictor,
    files: dict[str, Path],
    tmp_path: Path,
    edit: Callable[[dict[str, Any], dict[str, str]], None],
    message: str,
) -> None:
    predictor.add_task("spam", files["spam"])
    with pytest.raises(InputError, match=message):
        predictor.add_task("new", _edited(files["news"], tmp_path / "file", edit))
    feeds = inputs((1, 4))
    assert_parity(predictor.run(feeds, ["spam"])["spam"], reference(model, "spam", feeds, 1))


def test_cut_and_changed_bytes_never_load(predictor: runtime.Predictor, files: dict[str, Path], tmp_path: Path) -> None:
    """A file that is cut off anywhere, or of which a bit has changed, is refused by a message."""
    content, generator = files["spam"].read_bytes(), random.Random(0)  # noqa: S311
    for size in [0, 3, 8, 100, len(content) - 1, *(generator.randrange(len(content)) for _ in range(30))]:
        (tmp_path / "cut").write_bytes(content[:size])
        with pytest.raises(InputError, match="damaged"):
            predictor.add_task("new", tmp_path / "cut")
    for _ in range(100):
        changed = bytearray(content)
        changed[generator.randrange(len(content))] ^= 1 << generator.randrange(8)
        (tmp_path / "changed").write_bytes(changed)
        with pytest.raises(InputError):
            predictor.add_task("new", tmp_path / "changed")


def test_a_file_that_changes_is_noticed(
    model: Any, predictor: runtime.Predictor, files: dict[str, Path], tmp_path: Path
) -> None:
    """The weights of an evicted task come from its file again, which must be the one that was added."""
    for name in ("spam", "news", "stars"):
        predictor.add_task(name, shutil.copy(files[name], tmp_path / name))
    shutil.copy(files["tone"], tmp_path / "stars")  # two slots: this task has none yet
    feeds = inputs((2, 5))
    with pytest.raises(AdapterDropError, match="the file has changed since the task was added") as changed:
        predictor.run(feeds, ["spam", "news", "stars"])
    assert not isinstance(changed.value, InputError)  # a service answers with status 500, not 400
    for name in ("spam", "news"):
        assert_parity(predictor.run(feeds, [name])[name], reference(model, name, feeds, 1))
    predictor.replace_task("stars", files["stars"])
    assert_parity(predictor.run(feeds, ["stars"])["stars"], reference(model, "stars", feeds, 1))


def test_a_version_outlives_its_file(model: Any, predictor: runtime.Predictor, files: dict[str, Path], tmp_path: Path) -> None:
    """A call that has looked up a task ends on its weights, in a slot or not, although the file is gone by then."""
    feeds = inputs((2, 5))
    for name in ("spam", "stars", "news"):  # two slots: the last one has none
        predictor.add_task(name, shutil.copy(files[name], tmp_path / name))
    entries = predictor.entries(["spam", "news"])
    predictor.remove_task("spam")
    predictor.replace_task("news", files["tone"])
    for entry in entries:
        (tmp_path / entry.name).unlink()
    for name in ("stars", *OWN):  # evicts what is in a slot
        predictor.run(feeds, ["stars", name])
    assert predictor._hot is not None
    for entry, expected in zip(entries, (reference(model, each.name, feeds, 1) for each in entries), strict=True):
        rows = predictor._hot.graphs[1].rows(feeds, predictor._hot.in_slots([entry, entry]), np.arange(2))
        assert_parity(np.stack(rows), expected)


def test_a_call_reads_its_file_before_removal_ends(
    model: Any, predictor: runtime.Predictor, files: dict[str, Path], tmp_path: Path
) -> None:
    """Removal finds the task in no slot, and a call begins to read its file, which may be deleted when the removal ends."""
    for name in ("spam", "stars", "news"):  # two slots: the last one has none
        predictor.add_task(name, shutil.copy(files[name], tmp_path / name))
    (entry,) = predictor.entries(["news"])
    assert isinstance(entry, HotEntry)
    weights, read = entry.weights[1], entry.weights[1].from_file
    removing, reading, removed = threading.Event(), threading.Event(), threading.Event()

    def slowly() -> Any:
        if threading.current_thread().name == "removal":
            removing.set()
            reading.wait(60)
        else:
            reading.set()
            removed.wait(0.5)
        return read()

    def remove() -> None:
        predictor.remove_task("news")
        (tmp_path / "news").unlink()
        removed.set()

    weights.from_file = slowly
    feeds = inputs((2, 5))
    removal = threading.Thread(target=remove, name="removal")
    removal.start()
    removing.wait(60)
    assert predictor._hot is not None
    rows = predictor._hot.graphs[1].rows(feeds, [entry, entry], np.arange(2))  # of a call that has looked the task up before
    removal.join(60)
    assert_parity(np.stack(rows), reference(model, "news", feeds, 1))
    assert not (tmp_path / "news").exists()


def test_a_fork_has_slots(
    model: Any, predictor: runtime.Predictor, folder: Path, files: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sessions that a forked process has opened take the weights of added tasks as well."""
    predictor.add_task("spam", files["spam"])
    opened = runtime.load(folder, provider="cpu", threads=1)._bundle
    monkeypatch.setattr(OpenBundle, "here", lambda _: opened)
    feeds = inputs((2, 5))
    assert_parity(predictor.run(feeds, ["spam"])["spam"], reference(model, "spam", feeds, 1))


def test_a_pickle_adds_the_tasks_again(predictor: runtime.Predictor, files: dict[str, Path], tmp_path: Path) -> None:
    for name in ("spam", "stars", "news"):
        predictor.add_task(name, shutil.copy(files[name], tmp_path / name))
    predictor.remove_task("spam")
    content = pickle.dumps(predictor)
    (tmp_path / "spam").unlink()
    other = pickle.loads(content)  # noqa: S301 - made here
    assert other.tasks == predictor.tasks
    feeds = inputs((2, 5))
    names = ("news", *OWN, "stars")
    assert all(np.array_equal(other.run(feeds, [name])[name], predictor.run(feeds, [name])[name]) for name in names)
    shutil.copy(files["tone"], tmp_path / "stars")
    with pytest.raises(InputError, match=r"stars: the file has changed since the predictor with the task 'stars' was pickled"):
        pickle.loads(content)  # noqa: S301


def test_a_prepared_bundle_may_be_replaced(model: Any, folder: Path, files: dict[str, Path], tmp_path: Path) -> None:
    """Its tasks return to slots from files that are open, as its graphs are."""
    shutil.copytree(folder, tmp_path / "onnx")
    predictor = runtime.load(tmp_path / "onnx", provider="cpu", threads=1)
    predictor.prepare()
    for name in ("spam", "stars"):
        predictor.add_task(name, files[name])
    shutil.rmtree(tmp_path / "onnx")
    feeds = inputs((2, 5))
    for name in OWN:
        assert_parity(predictor.run(feeds, ["spam", name])[name], reference(model, name, feeds, 1))


def test_threads_add_replace_and_call(model: Any, predictor: runtime.Predictor, files: dict[str, Path]) -> None:
    """Every answer is that of one version of the task, whatever other threads do meanwhile."""
    feeds = inputs((3, 6))
    expected = {name: reference(model, name, feeds, 1) for name in (*NEW, *OWN)}
    versions = {"a": ("spam", "stars"), "b": ("tone",), "c": ("news",), "d": ("spam", "news", "tone")}
    for name, sources in versions.items():
        predictor.add_task(name, files[sources[0]])
    failures: list[object] = []
    answered = [0]
    end = time.monotonic() + 4

    def change(seed: int) -> None:
        generator = random.Random(seed)  # noqa: S311
        while time.monotonic() < end:
            name = generator.choice(list(versions))
            try:
                if generator.random() < 0.3:
                    predictor.remove_task(name)
                    predictor.add_task(name, files[generator.choice(versions[name])])
                else:
                    predictor.replace_task(name, files[generator.choice(versions[name])])
            except InputError as error:  # the other thread was faster
                if "there is a task" not in str(error) and "expected the name of" not in str(error):
                    failures.append(error)

    def call(seed: int) -> None:
        generator = random.Random(seed)  # noqa: S311
        while time.monotonic() < end:
            names = generator.sample([*versions, *OWN], generator.randint(1, 5))
            try:
                if generator.random() < 0.5:
                    answers = dict(predictor.run(feeds, names))
                else:
                    rows = [generator.randrange(3) for _ in names]
                    routed = predictor.run_routed(feeds, names, rows)
                    answers = dict(zip(names, routed, strict=True))
                    for name, row in zip(names, rows, strict=True):
                        answers[name] = np.concatenate(
                            [expected[_closest(answers[name], name, row)][:row], answers[name][None]]
                        )
            except InputError as error:
                if "expected some of" not in str(error):  # the task was removed
                    failures.append(error)
                continue
            answered[0] += 1
            for name, answer in answers.items():
                sources = versions.get(name, (name,))
                same = [expected[each][: len(answer)] for each in sources if expected[each].shape[1] == answer.shape[1]]
                if not any(np.abs(each - answer).max() < 1e-4 for each in same):
                    failures.append((name, answer))

    def _closest(answer: np.ndarray, name: str, row: int) -> str:
        fitting = [each for each in versions.get(name, (name,)) if expected[each].shape[1] == len(answer)]
        return min(fitting, key=lambda each: float(np.abs(expected[each][row] - answer).max()))

    workers = [threading.Thread(target=change, args=(n,)) for n in range(2)]
    workers += [threading.Thread(target=call, args=(10 + n,)) for n in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert not any(worker.is_alive() for worker in workers)
    assert not failures
    assert answered[0] > 20


def test_the_entry_of_an_added_task_belongs_to_its_predictor(predictor: runtime.Predictor, files: dict[str, Path]) -> None:
    predictor.add_task("spam", files["spam"])
    entries = predictor.entries(["topic", "spam"])
    assert copy.deepcopy(entries)[1] is copy.copy(entries[1]) is entries[1]
    with pytest.raises(InputError, match=r"spam: the entry of an added task .* cannot be pickled: pickle the predictor"):
        pickle.dumps(entries)


def test_a_call_that_waits_for_a_slot_is_cancelled(predictor: runtime.Predictor, files: dict[str, Path]) -> None:
    for name in ("a", "b", "c"):
        predictor.add_task(name, files["spam"])
    assert predictor._hot is not None
    table = predictor._hot.graphs[1].table
    feeds, cancel, ended = inputs((2, 5)), runtime.Cancellation(), threading.Event()

    def wait() -> None:
        with contextlib.suppress(CancelledError):
            predictor.run(feeds, ["c"], cancel=cancel)
            return
        ended.set()

    in_slots = [entry.weights[1] for entry in predictor._hot.in_slots(predictor.entries(["a", "b"]))]
    with table.hold(in_slots):
        waiting = threading.Thread(target=wait)
        waiting.start()
        while not table._queue:
            time.sleep(0.001)
        behind = threading.Thread(target=predictor.run, args=(feeds, ["a"]))  # its slot is free for it
        behind.start()
        cancel.cancel()
        assert ended.wait(10)
        behind.join(10)
        assert not behind.is_alive()
    waiting.join()
    predictor.run(feeds, ["c"])
    with pytest.raises(CancelledError, match="the call was cancelled before it ran"):
        predictor.run(feeds, ["c"], cancel=cancel)


@pytest.fixture(scope="module")
def with_texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a bundle that has a tokenizer, and the file `junk` of a task."""
    folder = tmp_path_factory.mktemp("texts")
    model = tiny_model({name: TASKS[name] for name in ("topic", "spam")}, _vocabulary())
    small = tiny_model({name: TASKS[name] for name in ("topic", "spam")}, _vocabulary())
    export(model, tokenizer(), tasks=["topic"], slots=1, output=folder / "onnx")
    small.delete_adapter("topic")
    small.delete_head("topic")
    small.save_pretrained(folder / "model")
    made = ["--model", str(folder / "model")]
    assert main(["task", str(folder / "onnx"), *made, "--output", str(folder / "junk"), "--quiet"]) == 0
    return folder


def _in_batches(predictor: runtime.Predictor, texts: list[str], way: str) -> list[Any]:
    if way == "predict":
        return [each.scores for each in predictor.predict(texts, ["junk"], batch_size=1)["junk"]]
    if way == "predict_routed":
        return [each["junk"].scores for each in predictor.predict_routed(texts, ["junk"] * len(texts), batch_size=1)]
    if way == "predict_iter":
        return [each["junk"].scores for each in predictor.predict_iter(texts, ["junk"], window=1)]

    async def submit() -> list[Any]:
        batcher = Batcher(predictor, Batching(batch_characters=1), Limits())
        body = json.dumps({"texts": texts, "tasks": ["junk"]}).encode()
        return [each["scores"] for each in json.loads(await batcher.submit(PredictRequest.parse(body)))["predictions"]["junk"]]

    return asyncio.run(submit())


@pytest.mark.parametrize(
    ("way", "change"),
    [
        ("predict", "replace"),
        ("predict_routed", "remove"),
        *swept(("predict", "remove"), ("predict_routed", "replace"), ("predict_iter", "replace")),
        ("predict_iter", "remove"),
        ("service", "replace"),
        *swept(("service", "remove")),
    ],
)
def test_all_batches_of_a_call_use_one_version(with_texts: Path, tmp_path: Path, way: str, change: str) -> None:
    other = _edited(with_texts / "junk", tmp_path / "other", lambda arrays, _: _halve(arrays))
    old = Path(shutil.copy(with_texts / "junk", tmp_path / "junk"))
    served: runtime.Predictor
    runs: list[runtime.Run] = []

    @contextlib.contextmanager
    def hook(run: runtime.Run) -> Iterator[None]:
        runs.append(run)
        if len(runs) == 4:  # three texts, then the second batch
            if change == "replace":
                served.replace_task("junk", other)
            else:
                served.remove_task("junk")
            old.unlink()
        yield

    served = runtime.load(with_texts / "onnx", provider="cpu", threads=1, hooks=[hook])
    served.add_task("junk", old)
    texts = ["a text", "two texts of more words", "one"]
    expected = [served.predict([text], ["junk"])["junk"][0].scores for text in texts]
    for found, scores in zip(_in_batches(served, texts, way), expected, strict=True):
        assert found == pytest.approx(scores, abs=1e-5)
    assert len(runs) == 6
    if change == "replace":
        assert served.predict(texts[:1], ["junk"])["junk"][0].scores != pytest.approx(expected[0], abs=1e-3)


def _halve(arrays: dict[str, Any]) -> None:
    for array in arrays.values():
        if array.dtype.kind == "f":
            array /= 2


def test_texts_and_the_command_line(with_texts: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from runtime.__main__ import main as run

    predictor = runtime.load(with_texts / "onnx", provider="cpu")
    predictor.add_task("junk", with_texts / "junk")
    found = predictor.predict(["a text", "two texts of more words"], predictor.entries(["junk", "topic"]))
    assert [len(each) for each in found.values()] == [2, 2]
    assert all(len(each.scores) == 2 for each in found["junk"])
    arguments = [str(with_texts / "onnx"), "--text", "a text", "--provider", "cpu"]
    assert run([*arguments, "--task", f"junk={with_texts / 'junk'}"]) == 0
    assert "junk" in capsys.readouterr().out
    assert run([*arguments, "--task", "junk"]) == 2
    assert "--task: expected NAME=FILE, found 'junk'" in capsys.readouterr().err


def test_a_stream_ends_with_the_file_of_its_task(with_texts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A run that was interrupted is not continued with other weights."""
    from runtime.__main__ import main as run

    junk, source = Path(shutil.copy(with_texts / "junk", tmp_path / "junk")), tmp_path / "in.jsonl"
    source.write_text('{"text": "one"}\nbroken\n', encoding="utf-8")
    arguments = [str(with_texts / "onnx"), "--task", f"junk={junk}", "--tasks", "junk", "--provider", "cpu", "--quiet"]
    arguments += ["--file", str(source), "--output", str(tmp_path / "out.jsonl")]
    assert run(arguments) == 2
    source.write_text('{"text": "one"}\n{"text": "two"}\n', encoding="utf-8")
    _edited(junk, junk, lambda arrays, _: _halve(arrays))
    assert run(arguments) == 2
    assert 'belongs to a run with other settings: task files: then {"junk": "' in capsys.readouterr().err
    shutil.copy(with_texts / "junk", junk)
    assert run(arguments) == 0
    assert len((tmp_path / "out.jsonl").read_text(encoding="utf-8").splitlines()) == 2


def test_kserve_answers_with_one_version(with_texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The labels of an answer are those of the version that computed it, which has left by then."""
    pytest.importorskip("fastapi", reason="needs fastapi, which the extra `test` installs")
    from fastapi import FastAPI

    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "examples" / "serving"))
    from kserve import add_kserve  # type: ignore[import-not-found,unused-ignore]

    served = runtime.load(with_texts / "onnx", provider="cpu", threads=1)
    served.add_task("junk", with_texts / "junk")
    (scores,) = (each.scores for each in served.predict(["one"], ["junk"])["junk"])
    other = _edited(
        with_texts / "junk", tmp_path / "other", lambda _, metadata: metadata.update(task=_renamed(metadata["task"]))
    )
    wanted = ["junk.scores"]

    async def read(_: object) -> bytearray:
        text = {"name": "text", "shape": [1], "datatype": "BYTES", "data": ["one"]}
        return bytearray(json.dumps({"inputs": [text], "outputs": [{"name": name} for name in wanted]}).encode())

    async def submit(request: PredictRequest) -> bytes:
        answer = await Batcher(served, Batching(), Limits()).submit(request)
        served.replace_task("junk", other)
        return answer

    app = FastAPI()
    add_kserve(app, served, "model", Limits(), read, submit)
    infer = next(each.endpoint for each in app.routes if each.path == "/v2/models/{model}/infer")  # type: ignore[attr-defined]
    metadata = next(each.endpoint for each in app.routes if each.path == "/v2/models/{model}")  # type: ignore[attr-defined]
    shown = asyncio.run(metadata("model"))["outputs"]
    assert [each["name"] for each in shown] == ["topic", "topic.scores", "junk", "junk.scores"]
    (output,) = json.loads(asyncio.run(infer("model", None)).body)["outputs"]
    assert output["data"] == pytest.approx(list(scores.values()), abs=1e-5)
    served.add_task("topic.scores", other)
    names = [each["name"] for each in asyncio.run(metadata("model"))["outputs"]]
    assert len(set(names)) == len(names)
    wanted[:] = ["topic.scores"]
    with pytest.raises(InputError, match=r"topic\.scores is a task, and the scores of the task topic: add it by another name"):
        asyncio.run(infer("model", None))


def _renamed(task: str) -> str:
    """The description of a task with other labels."""
    found = json.loads(task)
    return json.dumps({**found, "labels": [f"other {label}" for label in found["labels"]]})


def test_a_task_replaces_no_other_file(folder: Path, files: dict[str, Path], tmp_path: Path) -> None:
    """Refused before any work, such as loading the model, which does not exist here."""
    (tmp_path / "adapter_model.safetensors").write_bytes(pack({"weight": np.ones(2, np.float32)}, {}))
    own = json.loads((folder / "model_slots.json").read_bytes())["own"]["topic"]
    for output, message in (
        (tmp_path / "adapter_model.safetensors", "exists, and is not an earlier output of this command"),
        (folder / "model.onnx.data", "is a file of the bundle"),
        (folder / own, "is a file of the bundle"),
        (files["spam"], "nowhere"),
    ):
        before = output.read_bytes()
        with pytest.raises(ExportError, match=message):
            task(folder, output=output, model=str(tmp_path / "nowhere"))
        assert output.read_bytes() == before


def full(*_: object) -> NoReturn:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_one_task_of_a_model_with_others(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A head for tags and a head without adapter, neither of which a slot can take, do not keep the others out."""
    model = only("spam", "news")
    add_task(model, "tags", "seq_bn", "tag")
    model.add_classification_head("other", num_labels=2)
    model.save_pretrained(tmp_path / "model")
    arguments = ["task", str(folder), "--model", str(tmp_path / "model"), "--output", str(tmp_path / "file"), "--quiet"]
    assert main(arguments) == 2
    assert "the head 'other' has no adapter of the same name" in capsys.readouterr().err
    assert main([*arguments, "--tasks", "spam,news,tags"]) == 2
    assert "found tags (tagging): select the others with --tasks spam,news, or" in capsys.readouterr().err
    assert main([*arguments, "--tasks", "spam,news"]) == 2
    assert "a task file holds one task, found spam, news: name one with tasks" in capsys.readouterr().err
    assert main([*arguments, "--tasks", "topic"]) == 2
    capsys.readouterr()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("exporter.task_files.write_whole", full)
        assert main([*arguments, "--tasks", "spam"]) == 2
    assert capsys.readouterr().err.endswith("file' cannot be written, nothing was kept: No space left on device\n")
    assert main([*arguments, "--tasks", "spam"]) == 0
    predictor = runtime.load(folder, provider="cpu", threads=1)
    predictor.add_task("spam", tmp_path / "file")
    feeds = inputs((3, 6))
    assert_parity(predictor.run(feeds, ["spam"], drop=0)["spam"], reference(model, "spam", feeds, 0))


def _vocabulary() -> Any:
    from tests.helpers.tiny_models import bert_config

    return bert_config(VOCABULARY)


@pytest.mark.parametrize(
    ("name", "config", "head", "message"),
    [
        ("wide", "seq_bn", "5", "has 5 labels, a slot of its structure has 4"),
        ("large", LoRAConfig(r=4), "2", "its adapter has r 4, that of the task 'mood' has r 2"),
        ("two", "double_seq_bn", "2", "no task of the bundle has the structure of the task 'two'"),
        ("tags", "seq_bn", "tag", "a routed graph gives one vector per row"),
        ("bottle", SeqBnConfig(reduction_factor=4), "2", "that of the task 'topic' has reduction_factor 16"),
    ],
)
def test_tasks_that_do_not_fit_a_slot(folder: Path, tmp_path: Path, name: str, config: Any, head: str, message: str) -> None:
    with pytest.raises(ExportError, match=message):
        task(folder, model=only(**{name: (config, head)}), output=tmp_path / "file")
    assert not (tmp_path / "file").exists()


@pytest.mark.sweep
def test_smaller_adapters_are_padded(tmp_path: Path) -> None:
    """A smaller rank with another alpha, and a smaller bottleneck, in slots of larger ones."""
    tasks = {
        "large": (LoRAConfig(r=4), "3"),
        "wide": (SeqBnConfig(reduction_factor=4), "3"),
        "small": (LoRAConfig(r=2, alpha=5), "3"),
        "narrow": (SeqBnConfig(reduction_factor=16), "2"),
    }
    model = tiny_model(tasks)
    export(model, tasks=["large", "wide"], slots=1, output=tmp_path / "onnx")
    predictor = runtime.load(tmp_path / "onnx", provider="cpu")
    feeds = inputs((3, 7))
    for name in ("small", "narrow"):
        other = tiny_model(tasks)
        for each in set(tasks) - {name}:
            other.delete_adapter(each)
            other.delete_head(each)
        predictor.add_task(name, task(tmp_path / "onnx", model=other, output=tmp_path / name).output)
        assert_parity(predictor.run(feeds, [name])[name], reference(model, name, feeds))


@pytest.mark.parametrize(
    ("slots", "message"), [(0, "from 1 to 65,536, found 0"), (-3, "found -3"), (True, "found True"), ("4", "found '4'")]
)
def test_numbers_of_slots(model: Any, tmp_path: Path, slots: Any, message: str) -> None:
    with pytest.raises(ExportError, match=message):
        export(model, tasks=OWN, slots=slots, output=tmp_path / "onnx")
    assert not (tmp_path / "onnx").exists()


def test_a_bundle_without_slots(model: Any, files: dict[str, Path], tmp_path: Path) -> None:
    export(model, tasks=OWN, extendable=True, output=tmp_path / "onnx")
    with pytest.raises(InputError, match="this bundle has no slots for further tasks"):
        runtime.load(tmp_path / "onnx", provider="cpu").add_task("spam", files["spam"])
    with pytest.raises(ExportError, match="has no slots for further tasks: export it again with --slots N"):
        task(tmp_path / "onnx", model=only("spam"), output=tmp_path / "file")


def test_a_task_of_another_trunk_is_refused(model: Any, files: dict[str, Path], tmp_path: Path) -> None:
    export(tiny_model(TASKS, seed=1), tasks=OWN, slots=2, drop=DROPS, output=tmp_path / "onnx")
    with pytest.raises(InputError, match="found one for another trunk, drop or set of"):
        runtime.load(tmp_path / "onnx", provider="cpu").add_task("spam", files["spam"])


@pytest.mark.sweep
def test_tasks_join_the_bundle_and_its_slots(model: Any, folder: Path, files: dict[str, Path], tmp_path: Path) -> None:
    grown = shutil.copytree(folder, tmp_path / "onnx")
    add(grown, model=only("spam"))
    predictor = runtime.load(grown, provider="cpu")
    assert predictor.tasks == (*OWN, "spam")
    predictor.add_task("tone", files["tone"])  # the graph is the same
    feeds = inputs((2, 6))
    for name, answer in predictor.run(feeds, ["spam", "tone", "topic"]).items():
        assert_parity(answer, reference(model, name, feeds, 1))


@pytest.mark.parametrize(("precision", "target"), [("int8", "cpu"), *swept(("fp16", "portable"))])
def test_slots_in_lower_precision(tmp_path: Path, precision: str, target: str) -> None:
    tasks = {name: TASKS[name] for name in ("topic", "spam")}
    export(tiny_model(tasks), tasks=["topic"], slots=1, precision=precision, target=target, output=tmp_path / "onnx")
    other = tiny_model(tasks)
    other.delete_adapter("topic")
    other.delete_head("topic")
    report = task(tmp_path / "onnx", model=other, output=tmp_path / "file")
    assert max(row.max_abs_diff for row in report.parity) < 0.1
    predictor = runtime.load(tmp_path / "onnx", provider="cpu")
    predictor.add_task("spam", tmp_path / "file")
    feeds = inputs((2, 6))
    expected = reference(tiny_model(tasks), "spam", feeds)
    assert np.abs(predictor.run(feeds, ["spam"])["spam"] - expected).max() < 0.1


def test_int8_does_not_depend_on_the_number_of_tasks(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise no file of a single task fits a bundle with many, whose stacks are large enough to be quantized."""
    monkeypatch.setattr("exporter.compile.target_passes._LEAST", 200)  # more than three times the numbers of a task
    options: Any = SimpleNamespace(target="portable", precision="int8", opset=None, int8_ranges="row")
    stored = load_stored_groups(folder / "model.onnx", [path.name for path in folder.iterdir()])

    def fingerprint(count: int) -> Mapping[str, str]:
        groups = [
            replace(
                group,
                tasks=tuple(f"task{number}" for number in range(count)),
                weights={name: [*arrays] * count for name, arrays in group.weights.items()},
            )
            for group in copies([each.group for each in stored])
        ]
        return compile_slots(groups, [4, 3], options, slots=2).fingerprint

    assert fingerprint(1) == fingerprint(6)


def test_measured_ranges_have_no_slots(model: Any, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="needs calibration texts of all tasks, and tasks in slots come later"):
        export(model, tasks=OWN, slots=1, precision="int8", target="openvino", output=tmp_path / "onnx")
