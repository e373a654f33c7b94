"""The examples in JavaScript give the labels and logits of the runtime."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

import runtime

FOLDER = Path(__file__).parents[2] / "examples" / "javascript"
TEXTS = ["The new phone is fast, and the screen is gorgeous.", "naïve café 😀 東京", "Don't\t\u200bstop. " * 80]


def _modules() -> Path | None:
    """The folder in which npm has installed the packages of the examples."""
    folders = [str(FOLDER / "node_modules"), *os.environ.get("NODE_PATH", "").split(os.pathsep)]
    found = (Path(folder) for folder in folders if folder and (Path(folder) / "@huggingface" / "transformers").is_dir())
    return next(found, None)


@pytest.mark.skipif(
    shutil.which("node") is None or _modules() is None,
    reason="needs node, and `npm --prefix examples/javascript install --ignore-scripts` (make test-javascript)",
)
@pytest.mark.parametrize("script", ["labels.mjs", "labels_web.mjs"])
def test_labels_and_logits_are_those_of_the_runtime(example_bundle: Path, tmp_path: Path, script: str) -> None:
    shutil.copyfile(FOLDER / script, tmp_path / script)
    (tmp_path / "node_modules").symlink_to(str(_modules()))  # node looks for packages next to the script
    call = ["node", script, str(example_bundle), *TEXTS]
    done = subprocess.run(call, cwd=tmp_path, capture_output=True, encoding="utf-8", timeout=120)
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
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
