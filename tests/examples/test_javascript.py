"""The examples in JavaScript give the labels and logits of the runtime."""

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import runtime
from exporter import export
from tests.helpers.tiny_models import bert_config, tiny_model, tokenizer

FOLDER = Path(__file__).parents[2] / "examples" / "javascript"
TEXTS = ["The new phone is fast, and the screen is gorgeous.", "naïve café 😀 東京", "Don't\t\u200bstop. " * 80]


def _modules() -> Path | None:
    """The folder in which npm has installed the packages of the examples."""
    folders = [str(FOLDER / "node_modules"), *os.environ.get("NODE_PATH", "").split(os.pathsep)]
    found = (Path(folder) for folder in folders if folder and (Path(folder) / "@huggingface" / "transformers").is_dir())
    return next(found, None)


needs_node = pytest.mark.skipif(
    shutil.which("node") is None or _modules() is None,
    reason="needs node, and `npm --prefix examples/javascript install --ignore-scripts` (make test-javascript)",
)


def _run(script: str, bundle: Path, folder: Path, texts: list[str]) -> list[Any]:
    """Run a script in a folder on a bundle, and return the JSON of each line."""
    shutil.copyfile(FOLDER / script, folder / script)
    (folder / "node_modules").symlink_to(str(_modules()))  # node looks for packages next to the script
    call = ["node", script, str(bundle), *texts]
    done = subprocess.run(call, cwd=folder, capture_output=True, encoding="utf-8", timeout=120)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@needs_node
@pytest.mark.parametrize("script", ["labels.mjs", "labels_web.mjs"])
def test_labels_and_logits_are_those_of_the_runtime(example_bundle: Path, tmp_path: Path, script: str) -> None:
    rows = _run(script, example_bundle, tmp_path, TEXTS)
    expected = runtime.load(example_bundle, provider="cpu").predict(TEXTS)
    entries = [task for task in runtime.load(example_bundle, provider="cpu").manifest.tasks if task.head == "classification"]
    assert len(rows) == len(TEXTS) * len(entries) > 0
    for row in rows:
        prediction = expected[row["task"]][TEXTS.index(row["text"])]
        shifted = np.exp(np.array(row["logits"]) - max(row["logits"]))
        labels = next(task.labels for task in entries if task.name == row["task"])
        scores = [prediction.scores[label] for label in labels]
        np.testing.assert_allclose(shifted / shifted.sum(), scores, atol=1e-4)
        assert row["label"] == prediction.label


@needs_node
def test_a_pipeline_loads_a_folder_with_one_task(tmp_path: Path) -> None:
    bundle = tmp_path / "onnx"
    export(tiny_model({"sst2": ("seq_bn", "3")}, bert_config(30_522)), tokenizer(), output=bundle)
    (found,) = _run("pipeline.mjs", bundle, tmp_path, TEXTS[:2])
    (expected,) = runtime.load(bundle, provider="cpu").predict(TEXTS[:2]).values()
    for row, prediction in zip(found, expected, strict=True):
        assert row["label"] == prediction.label
        np.testing.assert_allclose(row["score"], prediction.scores[str(prediction.label)], atol=1e-4)
