"""Two exports of one shape whose every part tells them apart, and a process that swaps them."""

import contextlib
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx

import runtime
from runtime.bundle import MODEL, WEIGHTS, digest
from tests.helpers.runtime_bundles import TASKS, expected, feeds, rewrite, variant, write_bundle

ROOT = Path(__file__).parents[2]
SECOND = "model_drop2.onnx"
DROPS = (5, 2)


def write_export(folder: Path, scale: int = 1, tokenizer: bool = False) -> Path:
    """A bundle of two drops. The second one answers the topics with the other sign.

    `scale` is a factor of the weights, and stands in the labels.
    """
    write_bundle(folder, tokenizer)
    words = np.fromfile(folder / WEIGHTS, np.float32)
    (words * np.float32(scale)).tofile(folder / WEIGHTS)
    model = onnx.load(folder / MODEL, load_external_data=False)
    (node,) = (node for node in model.graph.node if "topic" in node.output)
    node.output[0] = "turned"
    model.graph.node.append(onnx.helper.make_node("Neg", ["turned"], ["topic"]))
    model.doc_string = str(scale)
    onnx.save(model, folder / SECOND)
    tasks = (replace(TASKS[0], labels=tuple(f"{label}{scale}" for label in TASKS[0].labels)), *TASKS[1:])
    rewrite(folder, tasks=tasks, variants=(variant(tasks), variant(tasks, 2, SECOND)))
    return folder


def scale_of(predictor: runtime.Predictor, drop: int) -> float:
    """Which export answers that drop: its scale; a fraction is a mixture."""
    topic = predictor.run(feeds(), drop=drop)["topic"]
    square = float(np.median(topic / expected(feeds())["topic"])) * (1 if drop == DROPS[0] else -1)
    return round(float(np.sqrt(abs(square))), 3) * (1 if square > 0 else -1)  # hidden state and head are both scaled


def said_scale(predictor: runtime.Predictor) -> float:
    """Which export the manifest is of."""
    return float(predictor.manifest.tasks[0].labels[0].removeprefix("sport"))


def hub_cache(bundle: Path, folder: Path) -> Path:
    """The bundle as the Hugging Face hub caches it: a snapshot of links to blobs. Returns the snapshot."""
    snapshot = folder / "snapshots" / "0123456789abcdef"
    snapshot.mkdir(parents=True)
    (folder / "blobs").mkdir()
    for path in bundle.iterdir():
        name = digest(path)
        shutil.copyfile(path, folder / "blobs" / name)
        (snapshot / path.name).symlink_to(Path("..", "..", "blobs", name))
    return snapshot


@contextlib.contextmanager
def swapping(one: Path, other: Path) -> Iterator[None]:
    """Another process swaps the names of two folders as fast as it can."""
    script = (
        "import sys\nfrom pathlib import Path\nfrom exporter.write.exchange import exchange\n"
        "one, other = map(Path, sys.argv[1:])\nprint('swapping', flush=True)\n"
        "while exchange(one, other):\n    pass\n"
    )
    command = [sys.executable, "-c", script, str(one), str(other)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, encoding="utf-8") as process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == "swapping\n"
            yield
        finally:
            process.kill()
