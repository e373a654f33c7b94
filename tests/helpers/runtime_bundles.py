"""Tiny bundles for the runtime's tests, whose logits numpy can compute too.

One of texts with four kinds of labels, one with the heads of other shapes, one with a decoder and a parser, one of images.
"""

import functools
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import numpy_helper, parser

from exporter.targets import probe_tolerances
from runtime.bundle import (
    MANIFEST,
    MODEL,
    WEIGHTS,
    HeadType,
    InputEntry,
    InputType,
    Manifest,
    ParityRow,
    Probe,
    ProbeEntry,
    TaskEntry,
    TaskLayers,
    VariantEntry,
    digest,
    probe_file,
    read_manifest,
)
from runtime.bundle.probe import thinned
from tests.helpers.small_vocabulary import VOCABULARY, tokenizer_files

LAYERS = 6
ROUTED = "model_routed.onnx"


def task(name: str, head: HeadType, labels: tuple[str, ...] = (), outputs: tuple[str, ...] = ()) -> TaskEntry:
    return TaskEntry(name, head, labels, outputs or (name,), name)


def variant(tasks: tuple[TaskEntry, ...], drop: int = 5, model: str = MODEL) -> VariantEntry:
    """All tasks at one drop, but for the stars, which have no adapter at all."""
    drops = {task.name: LAYERS if task.name == "stars" else drop for task in tasks}
    layers = {name: TaskLayers(each, tuple(range(each))) for name, each in drops.items()}
    rows = (ParityRow(tasks[0].name, 1, 7, 1e-7, 1e-6, 1.0, 1e-4),)
    return VariantEntry(drop, model, "", layers, rows, (), ProbeEntry(probe_file(MODEL), probe_tolerances("fp32", 1e-4)))


def entry(name: str, *shape: str, limit: int, dtype: InputType = "int64") -> InputEntry:
    return InputEntry(name, dtype, ("batch", *(shape or ("sequence",))), limit)


TASKS = (
    task("topic", "classification", ("sport", "news", "arts")),
    task("flags", "multilabel", ("rude", "spam")),
    task("stars", "regression"),
    task("names", "tagging", ("O", "PER", "LOC")),
)
TEXT_INPUTS = (
    entry("input_ids", limit=VOCABULARY),
    entry("attention_mask", limit=2),
    entry("token_type_ids", limit=2),
)
MAX_LENGTH = 16

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


def weights() -> dict[str, np.ndarray[Any, Any]]:
    rng = np.random.default_rng(0)
    shapes = {"words_w": (VOCABULARY, 8), "segments_w": (2, 8), "topic_w": (8, 3), "flags_w": (8, 2), "stars_w": (8, 1)}
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
    """A complete bundle of labelled texts in `folder`, which is made."""
    return _write(folder, _GRAPH, weights(), TEXT_INPUTS, TASKS, {"sequence": MAX_LENGTH}, tokenizer)


_ATTENTION = """  sum = Add(words, segments)
  turned = Transpose<perm=[0,2,1]>(sum)
  scores = MatMul(sum, turned)
  shares = Softmax<axis=-1>(scores)
  hidden = MatMul(shares, sum)
"""


def write_attention(folder: Path) -> Path:
    """The bundle of `write_bundle` with products of activations, whose kernels depend on the shape."""
    graph = _GRAPH.replace("  hidden = Add(words, segments)\n", _ATTENTION)
    return _write(folder, graph, weights(), TEXT_INPUTS, TASKS, {"sequence": MAX_LENGTH})


# The first three of TASKS: the graph above without the names, and the same with a task for each row.
_VECTORS_GRAPH = _GRAPH.replace(", float[batch,sequence,3] names", "").replace("  names = MatMul(hidden, names_w)\n", "")
_ROUTED_GRAPH = (
    _VECTORS_GRAPH.split("  topic =")[0]
    .replace("] token_type_ids)", "] token_type_ids, int64[rows] row_ids, int64[rows] task_ids)")
    .replace("float[batch,3] topic, float[batch,2] flags, float[batch,1] stars", "float[rows,3] logits")
    + """  chosen = Gather(mean, row_ids)
  row = Unsqueeze(chosen, second)
  heads = Gather(heads_w, task_ids)
  product = MatMul(row, heads)
  padded = Squeeze(product, second)
  beyond = Gather(beyond_w, task_ids)
  logits = Add(padded, beyond)
}"""
)


def write_routed(folder: Path) -> Path:
    """A bundle of three tasks with a routed graph."""
    given = {name: array for name, array in weights().items() if name != "names_w"}
    _write(folder, _VECTORS_GRAPH, given, TEXT_INPUTS, TASKS[:3], {"sequence": MAX_LENGTH}, tokenizer=True)
    heads = [given.pop(name) for name in ("topic_w", "flags_w", "stars_w")]
    given["heads_w"] = np.stack([np.pad(head, ((0, 0), (0, 3 - head.shape[1]))) for head in heads])
    given["beyond_w"] = np.where(np.arange(3) < [[3], [2], [1]], 0, -np.inf).astype(np.float32)
    model = parser.parse_model(_ROUTED_GRAPH)
    model.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in given.items())
    onnx.save(model, folder / ROUTED)
    rewrite(folder, variants=(replace(variant(TASKS[:3]), routed=ROUTED),))
    return folder


HEAD_TASKS = (
    task("topic", "classification", ("sport", "news")),
    task("reader", "question_answering", outputs=("begin", "finish")),
    task("chooser", "multiple_choice"),
    task("filler", "masked_lm"),
    task("writer", "causal_lm"),
)
_HEADS_GRAPH = """<ir_version: 9, opset_import: ["" : 18]>
heads (int64[batch,sequence] input_ids, int64[batch,sequence] attention_mask)
  => (float[batch,2] topic, float[batch,sequence] begin, float[batch,sequence] finish, float[batch,1] chooser,
      float[batch,sequence,VOCABULARY] filler, float[batch,sequence,VOCABULARY] writer) {
  words = Gather(words_w, input_ids)
  mask = Cast<to=1>(attention_mask)
  last = Constant<value_ints=[-1]>()
  column = Unsqueeze(mask, last)
  masked = Mul(words, column)
  second = Constant<value_ints=[1]>()
  total = ReduceSum<keepdims=0>(masked, second)
  topic = MatMul(total, topic_w)
  begins = MatMul(words, begin_w)
  begin = Squeeze(begins, last)
  finishes = MatMul(words, finish_w)
  finish = Squeeze(finishes, last)
  chooser = MatMul(total, begin_w)
  filler = MatMul(words, out_w)
  writer = Neg(filler)
}""".replace("VOCABULARY", str(VOCABULARY))


@functools.cache
def head_weights() -> dict[str, np.ndarray[Any, Any]]:
    """Drawn for a vocabulary of 30,522 entries: the words of some tests were chosen for these weights."""
    rng = np.random.default_rng(3)
    shapes = {"words_w": (30_522, 8), "topic_w": (8, 2), "begin_w": (8, 1), "finish_w": (8, 1), "out_w": (8, 30_522)}
    drawn = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    return drawn | {"words_w": drawn["words_w"][:VOCABULARY].copy(), "out_w": drawn["out_w"][:, :VOCABULARY].copy()}


def write_heads(folder: Path) -> Path:
    """A bundle whose tasks have logits of every other shape."""
    return _write(folder, _HEADS_GRAPH, head_weights(), TEXT_INPUTS[:2], HEAD_TASKS, {"sequence": 64}, tokenizer=True)


DECODER_TASKS = (
    task("topic", "classification", ("sport", "news")),
    task("translate", "seq2seq_lm"),
    task("parse", "dependency_parsing", ("subject", "object"), ("relations", "arcs")),
)
_DECODER_GRAPH = """<ir_version: 9, opset_import: ["" : 18]>
decoder (int64[batch,sequence] input_ids, int64[batch,decoder_sequence] decoder_input_ids,
         int64[batch,decoder_sequence] decoder_attention_mask, int64[batch,sequence] word_starts)
  => (float[batch,2] topic, float[batch,decoder_sequence,VOCABULARY] translate, float[batch,sequence,2] relations,
      float[batch,sequence,sequence] arcs) {
  words = Gather(words_w, input_ids)
  second = Constant<value_ints=[1]>()
  total = ReduceSum<keepdims=0>(words, second)
  topic = MatMul(total, topic_w)
  told = Gather(words_w, decoder_input_ids)
  mask = Cast<to=1>(decoder_attention_mask)
  last = Constant<value_ints=[-1]>()
  column = Unsqueeze(mask, last)
  seen = Mul(told, column)
  translate = MatMul(seen, out_w)
  starts = Gather(words_w, word_starts)
  relations = MatMul(starts, topic_w)
  turned = Transpose<perm=[0,2,1]>(starts)
  arcs = MatMul(starts, turned)
}""".replace("VOCABULARY", str(VOCABULARY))


def write_decoder(folder: Path) -> Path:
    """A bundle that takes more than texts, for some of its tasks."""
    inputs = (
        TEXT_INPUTS[0],
        entry("decoder_input_ids", "decoder_sequence", limit=VOCABULARY),
        entry("decoder_attention_mask", "decoder_sequence", limit=2),
        entry("word_starts", limit=0),
    )
    given = {name: head_weights()[name] for name in ("words_w", "topic_w", "out_w")}
    return _write(folder, _DECODER_GRAPH, given, inputs, DECODER_TASKS, {"decoder_sequence": 8}, tokenizer=True)


_VISION_GRAPH = """<ir_version: 9, opset_import: ["" : 18]>
vision (float[batch,3,4,4] pixel_values) => (float[batch,2] animal) {
  axes = Constant<value_ints=[2,3]>()
  mean = ReduceMean<keepdims=0>(pixel_values, axes)
  animal = MatMul(mean, animal_w)
}"""


def vision_weights() -> dict[str, np.ndarray[Any, Any]]:
    return {"animal_w": np.arange(6, dtype=np.float32).reshape(3, 2)}


def write_vision(folder: Path) -> Path:
    """A bundle that takes images."""
    inputs = (entry("pixel_values", "3", "4", "4", limit=0, dtype="float32"),)
    return _write(folder, _VISION_GRAPH, vision_weights(), inputs, (task("animal", "classification", ("cat", "dog")),), {})


def _write(
    folder: Path,
    graph: str,
    initializers: dict[str, np.ndarray[Any, Any]],
    inputs: tuple[InputEntry, ...],
    tasks: tuple[TaskEntry, ...],
    max_lengths: dict[str, int],
    tokenizer: bool = False,
) -> Path:
    folder.mkdir(parents=True)
    model = parser.parse_model(graph)
    model.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in initializers.items())
    onnx.save(model, folder / MODEL, save_as_external_data=True, location=WEIGHTS, size_threshold=0)
    write_probe(folder, inputs, tasks)
    if tokenizer:
        for name, content in tokenizer_files().items():
            (folder / name).write_bytes(content)
    manifest = Manifest(
        inputs=inputs,
        max_lengths=max_lengths,
        layers=LAYERS,
        tasks=tasks,
        variants=(variant(tasks),),
        opset=18,
        tokenizer=tokenizer,
        versions={"onnx": "1", "adapters": "1"},
        files={path.name: digest(path) for path in folder.iterdir()},
    )
    manifest.write(folder)
    return folder


def write_probe(folder: Path, inputs: tuple[InputEntry, ...], tasks: tuple[TaskEntry, ...]) -> None:
    """Write the probe of model.onnx: what the CPU computes for random rows."""
    rng, given = np.random.default_rng(5), {}
    for each in inputs:
        shape = [int(axis) if axis.isdecimal() else 3 if axis == "batch" else 5 for axis in each.shape]
        given[each.name] = (
            rng.integers(0, each.limit or 5, shape) if each.dtype == "int64" else rng.random(shape, dtype=np.float32)
        )
        if each.name.endswith("mask"):
            given[each.name][:, 0] = 1
    names = [output for each in tasks for output in each.outputs]
    found = onnxruntime.InferenceSession(folder / MODEL, providers=["CPUExecutionProvider"]).run(names, given)
    outputs = {name: thinned(array) for name, array in zip(names, found, strict=True)}
    Probe(given, outputs).write(folder / probe_file(MODEL))


def rewrite(folder: Path, **changes: Any) -> None:
    """Write the manifest again with other fields and fresh hashes."""
    files = {path.name: digest(path) for path in folder.iterdir() if path.name != MANIFEST}
    replace(read_manifest(folder), **({"files": files} | changes)).write(folder)


def keep_tasks(folder: Path, *tasks: TaskEntry) -> None:
    """Write the manifest again as if the bundle had only these tasks."""
    rewrite(folder, tasks=tasks, variants=(variant(tasks),))


def feeds(batch: int = 2, sequence: int = 5) -> dict[str, np.ndarray[Any, Any]]:
    """Random rows; the last row has one token of padding."""
    rng = np.random.default_rng(1)
    mask = np.ones((batch, sequence), np.int64)
    mask[-1, -1] = sequence == 1
    ids = rng.integers(0, VOCABULARY, (batch, sequence))
    return {"input_ids": ids, "attention_mask": mask, "token_type_ids": rng.integers(0, 2, (batch, sequence))}
