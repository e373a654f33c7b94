"""Exports every row of the support table and compares it with the library.

`python -m tests.helpers.support_table` writes docs/support.md. With words as arguments, only rows with one of them are
exported again.
"""

from __future__ import annotations

import re
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from tqdm import tqdm

from exporter import ExportError, VerificationError, export
from exporter.models.embeddings import embedder_of
from runtime.bundle import OUTPUTS, InputEntry, Manifest, TaskEntry, read_manifest
from runtime.ort.empty_tensors import safe_arguments
from tests.helpers.batch_independence import left_tokenizer
from tests.helpers.peft_folders import Folders
from tests.helpers.sentence_reference import dense, normalized, pooled
from tests.helpers.support_models import Row
from tests.helpers.tiny_models import lowest_layers

TABLE = Path(__file__).parents[2] / "docs" / "support.md"
SHAPES = ((1, 3), (4, 10), (2, 21))
_LEVELS = (1e-5, 1e-4)
_CPU = ("CPUExecutionProvider",)
_HEADER = """\
# What can be exported

Every row is a test: two tasks of tiny random models in one graph, the lowest layer dropped where adapters allow it, against
single-task PyTorch by the library's own means, at three shapes that were never traced, padded and unpadded. The number is the
largest difference relative to max(1, max |logit|), to the next power of ten; a refusal is what the user reads. The continuous
integration fails when a row gets worse. Written by `make support`.

The last column says whether `--routed` works as well: rows of both tasks in random order, with the same numbers. "-" stands for
heads with more than one vector per text; in brackets is the operator that cannot be computed row by row.

| method | composition | head | architecture | result | routed |
|---|---|---|---|---|---|
"""


def result(
    row: Row,
    look: Callable[[Path], object] = lambda _folder: None,
    target: str = "portable",
    providers: Sequence[Any] = _CPU,
) -> tuple[str, str]:
    """Return "within 1e-05" or "refused: …", and "yes", "no (operator)" or "-". `look` is given the exported folder."""
    model = row.build()
    with tempfile.TemporaryDirectory() as scratch:
        folder, routed = Path(scratch) / "onnx", "yes"
        given = model.save(Path(scratch)) if isinstance(model, Folders) else {"model": model}
        tokenizer = left_tokenizer(model.base if isinstance(model, Folders) else model)
        try:
            try:
                export(**given, tokenizer=tokenizer, tasks=row.tasks, drop=row.drop, output=folder, target=target, routed=True)
            except ExportError as error:
                if isinstance(error, VerificationError) or "routed graph" not in str(error):
                    raise
                operator = re.search(r"choose their task in (\w+)", str(error))
                routed = "-" if operator is None else f"no ({operator[1]})"
                export(**given, tokenizer=tokenizer, tasks=row.tasks, drop=row.drop, output=folder, target=target)
        except VerificationError:
            raise
        except ExportError as error:
            return f"refused: {error}".splitlines()[0].replace("|", "\\|"), "-"
        look(folder)
        exported = _Exported.load(folder, providers)
        if isinstance(model, Folders):
            references = model.references(row.drop)
        else:
            references = dict.fromkeys((task.name for task in exported.manifest.tasks), model.eval())
        worst = max(_difference(references, row, exported, shape) for shape in SHAPES)
    level = next((level for level in _LEVELS if worst <= level), None)
    return f"differs by {worst:.0e}" if level is None else f"within {level:.0e}", routed


def worse(found: str, documented: str) -> bool:
    """Whether a result is worse than what the table says."""
    other_reason = found != documented and found.startswith("refused") and documented.startswith("refused")
    return _rank(found) > _rank(documented) or other_reason


def _rank(text: str) -> int:
    ranked = [f"within {level:.0e}" for level in _LEVELS]
    return ranked.index(text) if text in ranked else len(ranked) + (not text.startswith("refused"))


def documented() -> dict[str, tuple[str, str]]:
    """Row -> what `result` gives for it, as the table says."""
    lines = [line.strip("| ") for line in TABLE.read_text(encoding="utf-8").splitlines() if line.startswith("| ")]
    parts = [line.rsplit(" | ", 2) for line in lines[1:]]
    return {key: (result, routed) for key, result, routed in parts}


@dataclass(frozen=True)
class _Exported:
    """A folder with its graphs loaded; `routed` is None where there is no such graph."""

    manifest: Manifest
    graph: Any
    routed: Any | None

    @classmethod
    def load(cls, folder: Path, providers: Sequence[Any]) -> _Exported:
        manifest = read_manifest(folder)
        variant = manifest.variant()
        routed = _session(folder / variant.routed, providers, **safe_arguments()) if variant.routed else None
        return cls(manifest, _session(folder / variant.model, providers), routed)


def _session(graph: Path, providers: Sequence[Any], **arguments: Any) -> Any:
    session = onnxruntime.InferenceSession(graph, providers=list(providers), enable_fallback=0, **arguments)
    keys = [provider if isinstance(provider, str) else provider[0] for provider in providers]
    assert session.get_providers()[: len(keys)] == keys  # ONNX Runtime drops a provider that does not work
    return session


def _difference(references: Mapping[str, Any], row: Row, exported: _Exported, shape: tuple[int, int]) -> float:
    manifest = exported.manifest
    feeds = _feeds(manifest, next(iter(references.values())).config, shape)
    names = [value.name for value in exported.graph.get_outputs()]
    answers, worst = dict(zip(names, exported.graph.run(names, feeds), strict=True)), 0.0
    rows = None if exported.routed is None else _routed_rows(manifest, exported.routed, feeds)
    for number, task in enumerate(manifest.tasks):
        expected = _reference(references[task.name], task, row, feeds)
        for name, values in zip(task.outputs, expected, strict=True):
            assert answers[name].shape == values.shape
            worst = max(worst, _relative(answers[name], values))
        if rows is not None:
            worst = max(worst, _relative(rows[number][:, : expected[0].shape[1]], expected[0]))
    return worst


def _relative(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.abs(found - expected).max() / max(1.0, np.abs(expected).max()))


def _routed_rows(manifest: Manifest, routed: Any, feeds: Mapping[str, np.ndarray]) -> np.ndarray:
    """Every task for every row, asked for in random order: [tasks, batch, labels]."""
    batch = len(next(iter(feeds.values())))
    order = np.random.default_rng(batch).permutation(len(manifest.tasks) * batch)
    (logits,) = routed.run(None, {**feeds, "row_ids": order % batch, "task_ids": order // batch})
    return np.asarray(logits[np.argsort(order)]).reshape(len(manifest.tasks), batch, -1)


def _reference(model: Any, task: TaskEntry, row: Row, feeds: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    """The library's own answers; multiple choice as one score per row."""
    given = {name: value for name, value in feeds.items() if _reads(task.head, name)}
    rows = len(next(iter(given.values())))
    if task.head == "multiple_choice":
        # Twelve rows are whole questions whatever the number of choices.
        given = {name: np.resize(value, (12, *value.shape[1:])) for name, value in given.items()}
        if not hasattr(model, "heads"):
            given = {name: value[:, None] for name, value in given.items()}
    if hasattr(model, "peft_config"):
        model.set_adapter(task.name)
        _silence(model, row.drop)
    elif hasattr(model, "set_active_adapters"):
        model.set_active_adapters((row.tasks or {}).get(task.name, task.name), skip_layers=list(range(row.drop)))
    if hasattr(model, "heads"):
        model.active_head = task.name
    with torch.no_grad():
        output = model(**{name: torch.from_numpy(value) for name, value in given.items()})
    if task.head == "sentence_embedding":
        return [_embedded(model, task.name, output["last_hidden_state"].numpy(), given["attention_mask"])]
    found = [output[name].numpy() for name in OUTPUTS[task.head]]
    if hasattr(model, "peft_config") and task.head in ("tagging", "question_answering"):  # without the positions of a prompt
        found = [values[:, -given["input_ids"].shape[1] :] for values in found]
    if task.head == "dependency_parsing":  # the library squeezes a batch of one out of the arcs' scores
        found[1] = found[1].reshape(found[0].shape[:3])
    return [values.reshape(-1, 1)[:rows] for values in found] if task.head == "multiple_choice" else found


def _embedded(model: Any, task: str, hidden: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The vectors of a pooling, a projection and a normalization, by their formulas."""
    embedder = embedder_of(model, task)
    assert embedder is not None
    projection: Any = embedder.steps[0]
    weight, bias = (tensor.detach().numpy() for tensor in projection.linear.parameters())
    vectors = normalized(dense(pooled(hidden, mask, embedder.pooling.modes), weight, bias))
    return np.asarray(vectors.astype(np.float32))


def _silence(model: Any, drop: int) -> None:
    """Disable the adapters of the lowest layers, which PEFT itself only does for whole models."""
    for name, module in model.named_modules():
        if any(layer in name for layer in lowest_layers(model.config, drop)) and hasattr(module, "enable_adapters"):
            module.enable_adapters(False)


def _reads(head: str, name: str) -> bool:
    return {"decoder_input_ids": head == "seq2seq_lm", "word_starts": head == "dependency_parsing"}.get(name, True)


def _feeds(manifest: Manifest, config: Any, shape: tuple[int, int]) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(shape)
    batch, length = shape
    sizes = {"batch": batch, "sequence": length, "decoder_sequence": length // 2 + 1, "words": length // 2 + 1}
    mask = np.ones(shape, np.int64)
    for row in range(1, batch):  # a text of at least three tokens
        mask[row, max(3, int(generator.integers(3, length + 1))) :] = 0
    ids = np.where(mask == 1, generator.integers(5, 60, shape), getattr(config, "pad_token_id", None) or 0)
    if getattr(config, "is_encoder_decoder", False):
        ids[np.arange(batch), mask.sum(1) - 1] = config.eos_token_id
    known = {"input_ids": ids, "attention_mask": mask}
    return {entry.name: known.get(entry.name, _random(entry, sizes, generator)) for entry in manifest.inputs}


def _random(entry: InputEntry, sizes: Mapping[str, int], generator: np.random.Generator) -> np.ndarray:
    shape = tuple(int(axis) if axis.isdigit() else sizes[axis] for axis in entry.shape)
    if entry.dtype == "float32":
        return generator.standard_normal(shape).astype(np.float32)
    if entry.name == "word_starts":
        return np.cumsum(generator.integers(1, 3, shape), 1)
    return generator.integers(0, entry.limit, shape)


if __name__ == "__main__":
    from tests.helpers.support_rows import ROWS  # with the adapters library, without which the rows of PEFT are tested too

    known = documented() if sys.argv[1:] else {}
    kept = {key: found for key, found in known.items() if not any(word in key for word in sys.argv[1:])}
    rows = tqdm(ROWS, file=sys.stderr)
    lines = [f"| {row.key} | {' | '.join(kept[row.key] if row.key in kept else result(row))} |\n" for row in rows]
    TABLE.write_text(_HEADER + "".join(lines), encoding="utf-8")
