"""The model card of a bundle, made from its manifest."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence

from runtime.bundle import MANIFEST, Manifest, ParityRow, TaskEntry
from runtime.bundle.file_names import GRAPHS
from runtime.printable import printable

# A card with this line is replaced by the next push; other cards belong to their authors.
MARKER = "<!-- written by `python -m exporter push`: a card without this line is not replaced -->"
_LABELS = 12  # shown of each task
_PIPELINES = {
    "classification": "text-classification",
    "multilabel": "text-classification",
    "regression": "text-classification",
    "tagging": "token-classification",
    "question_answering": "question-answering",
    "sentence_embedding": "sentence-similarity",
    "masked_lm": "fill-mask",
}


def card(manifest: Manifest, sizes: Mapping[str, int], repository: str, base_model: str = "") -> str:
    """Return the model card.

    Args:
        manifest: manifest of the bundle.
        sizes: file name -> bytes, of each file that is published.
        repository: hub id of the bundle.
        base_model: hub id of the model that the adapters were trained on; empty if it is not known.
    """
    parts = [
        _header(manifest, base_model),
        MARKER,
        f"# {_text(repository.rpartition('/')[2])}",
        _summary(manifest, base_model),
        "## Tasks",
        _table(("task", "head", "labels", "adapters", "output"), map(_task, manifest.tasks)),
        "## Use",
        _snippet(manifest, repository),
        "## Graphs",
        _table(("graph", "drop", "adapters stay in layers", "largest difference", "same argmax"), _graphs(manifest)),
        f"## Parity with PyTorch, drop {manifest.drops[0]}",
        "Each task was compared with the single-task model in PyTorch before the graph was written. The table has the largest "
        "difference of a logit, and the lowest share of rows with the same argmax, over all shapes.",
        _table(("task", "largest difference", "relative", "same argmax", "tolerance"), _parity(manifest)),
        "## Files",
        _table(("file", "size"), ((_code(name), _size(size)) for name, size in sorted(sizes.items()))),
        f"`{MANIFEST}` lists the sha256 of every file, which the runtime compares at load. Exported with "
        + ", ".join(f"{_text(name)} {_text(version)}" for name, version in manifest.versions.items())
        + ".",
    ]
    return "\n\n".join(parts) + "\n"


def _header(manifest: Manifest, base_model: str) -> str:
    kinds = {_PIPELINES.get(task.head, "") for task in manifest.tasks} if manifest.tokenizer else {""}
    families = [name for name in ("adapters", "peft") if name in manifest.versions]
    tags = ["adapterdrop", "onnx", "onnxruntime", *families, manifest.precision]
    tags += ["multi-task"] if len(manifest.tasks) > 1 else []
    tags += ["transformers.js"] if manifest.variants[0].model.startswith(GRAPHS) else []
    fields: dict[str, object] = {"library_name": "adapterdrop-onnx", "tags": list(dict.fromkeys(tags))}
    if len(kinds) == 1 and (kind := kinds.pop()):
        fields["pipeline_tag"] = kind
    if base_model:
        fields |= {"base_model": base_model, "base_model_relation": "adapter"}
    # JSON is YAML, and no name can end its string.
    return "\n".join(["---", *(f"{name}: {json.dumps(value)}" for name, value in fields.items()), "---"])


def _summary(manifest: Manifest, base_model: str) -> str:
    count, layers = len(manifest.tasks), manifest.layers
    base = f" on [{_text(base_model)}](https://huggingface.co/{base_model})" if base_model else ""
    drops = ", ".join(map(str, manifest.drops))
    return (
        f"{count} task{'s' if count > 1 else ''} of one transformer with {layers} layers{base}, as one ONNX graph. "
        f"What no task changes is computed once. Precision {manifest.precision}, target {manifest.target}, opset "
        f"{manifest.opset}, adapters dropped from the lowest layers: {drops}. Exported by adapterdrop-onnx."
    )


def _task(task: TaskEntry) -> tuple[str, ...]:
    labels = ", ".join(map(_text, task.labels[:_LABELS])) + (f" … ({len(task.labels)})" if len(task.labels) > _LABELS else "")
    outputs = ", ".join(map(_code, task.outputs))
    return _code(task.name), task.head, labels or "-", _text(task.setup) or "none", outputs


def _snippet(manifest: Manifest, repository: str) -> str:
    if not manifest.tokenizer:
        names = ", ".join(f'"{entry.name}": {entry.name}' for entry in manifest.inputs)
        call = f"logits = predictor.run({{{names}}})  # {{task: array}}"
    elif all(task.head == "sentence_embedding" for task in manifest.tasks):
        call = 'print(predictor.encode_texts(["A first text.", "A second one."]))'
    else:
        call = 'for task, rows in predictor.predict(["A first text.", "A second one."]).items():\n    print(task, rows[0])'
    model = manifest.variants[0].model
    plain = f"onnxruntime.InferenceSession also runs `{model}`, next to its weights file"
    plain += ", and transformers.js' pipelines load this repository." if model.startswith(GRAPHS) else "."
    return f"```python\nimport runtime\n\npredictor = runtime.load({json.dumps(repository)})\n{call}\n```\n\n{plain}"


def _graphs(manifest: Manifest) -> Iterable[tuple[str, ...]]:
    for variant in manifest.variants:
        kept = {index for task in variant.tasks.values() for index in range(manifest.layers) if index not in task.dropped}
        layers = f"{min(kept)} to {max(kept)}" if kept else "none"
        for graph in (variant.model, variant.routed):
            if graph:
                yield _code(graph), str(variant.drop), layers, _worst(variant.parity), _agreement(variant.parity)


def _parity(manifest: Manifest) -> Iterable[tuple[str, ...]]:
    for task in manifest.tasks:
        rows = [row for row in manifest.variants[0].parity if row.task == task.name]
        if rows:
            relative = f"{max(row.max_rel_diff for row in rows):.1e}"
            tolerance = f"{min(row.tolerance for row in rows):.1e}"
            yield _code(task.name), _worst(rows), relative, _agreement(rows), tolerance


def _worst(rows: Sequence[ParityRow]) -> str:
    return f"{max((row.max_abs_diff for row in rows), default=0.0):.1e}"


def _agreement(rows: Sequence[ParityRow]) -> str:
    return f"{int(1000 * min((row.argmax_agreement for row in rows), default=1.0)) / 10:g} %"  # rounded down


def _size(count: int) -> str:
    return f"{count / 1e6:.1f} MB" if count >= 1e5 else f"{count / 1e3:.1f} kB"


def _table(names: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [names, ["---"] * len(names), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _code(name: str) -> str:
    """Return a name as code, if Markdown can show it as such in a table."""
    return f"`{name}`" if name and printable(name) == name and not set("`|<\n") & set(name) else _text(name)


def _text(name: str) -> str:
    """Return a name that Markdown, HTML and tables show as it is."""
    escaped = "".join(f"\\{each}" if each in r"\`*_[]|#~" else each for each in printable(name))
    return escaped.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
