"""The alternatives: Optimum's ORTModel on a file per task, `adapters`, and PEFT."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import peft
import torch
import transformers
from adapters.composition import BatchSplit

from benchmarks.models import random_bert
from benchmarks.ort_options import session_options
from benchmarks.serving.engines import Array, Rows
from benchmarks.serving.memory import peak_mb
from benchmarks.serving.prepare import read_settings
from exporter.models.quiet_libraries import quiet

_RANK = 8
_COLUMNS = 4  # of PEFT, which has one number of labels for all tasks; further columns than a task's are cut off


def create(key: str, folder: Path, names: Sequence[str], threads: int, device: str) -> tuple[Rows, dict[str, Any]]:
    """Load an alternative; as in `engines.create`."""
    torch.set_num_threads(threads)
    place = Place(device, {"bf16": torch.bfloat16, "fp16": torch.float16}.get(key.rpartition("-")[2], torch.float32))
    if key == "files":
        return _files(folder, names, threads, device)
    if key.startswith("peft"):
        return _peft(folder, names, place), {"adapters": f"LoRA of rank {_RANK} instead of seq_bn"}
    return _adapters(folder, len(names), place, key.startswith("adapters-split")), {}


@dataclass(frozen=True)
class Place:
    """Where a model of PyTorch computes, and in which type."""

    device: str
    kind: torch.dtype

    def tensors(self, feeds: Mapping[str, Array], rows: Sequence[int]) -> dict[str, torch.Tensor]:
        """Return the inputs of some rows on the device."""
        return {name: torch.from_numpy(array[list(rows)]).to(self.device) for name, array in feeds.items()}


def _grouped(names: Sequence[str]) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for number, name in enumerate(names):
        found.setdefault(name, []).append(number)
    return found


def _by_task(run: Callable[[str, dict[str, torch.Tensor]], torch.Tensor], place: Place) -> Rows:
    """Return a function that runs the rows of one task after another."""

    def rows(feeds: Mapping[str, Array], names: Sequence[str], row_ids: Sequence[int]) -> list[Array]:
        found: list[Array] = [np.empty(0)] * len(names)
        with torch.inference_mode():
            for name, numbers in _grouped(names).items():
                logits = run(name, place.tensors(feeds, [row_ids[number] for number in numbers])).float().cpu()
                for number, row in zip(numbers, logits, strict=True):
                    found[number] = row.numpy()
        return found

    return rows


def _files(folder: Path, names: Sequence[str], threads: int, device: str) -> tuple[Rows, dict[str, Any]]:
    """Open as many files as `prepare` wrote. Further tasks use one of them, as if the memory had room for all."""
    from optimum.onnxruntime import ORTModelForSequenceClassification

    provider = "CUDAExecutionProvider" if device == "cuda" else "CPUExecutionProvider"
    before = peak_mb()
    folders = sorted((folder / "files").iterdir(), key=lambda each: int(each.name))[: len(names)]
    models = [
        ORTModelForSequenceClassification.from_pretrained(each, session_options=session_options(threads), provider=provider)
        for each in folders
    ]
    own = {name: models[number % len(models)] for number, name in enumerate(names)}
    rows = _by_task(lambda name, inputs: own[name](**inputs).logits, Place(device, torch.float32))
    for name in names[: len(models)]:
        rows({key: np.ones((1, 64), np.int64) for key in ("input_ids", "attention_mask", "token_type_ids")}, [name], [0])
    each = (peak_mb() - before) / len(models)
    if len(models) == len(names):
        return rows, {"mb_per_file": each}
    return rows, {"files_open": len(models), "mb_per_file": each, "mb_of_all_files": before + each * len(names)}


def _adapters(folder: Path, tasks: int, place: Place, split: bool) -> Rows:
    given = read_settings(folder)
    count = max(tasks, 2)
    model: Any = random_bert(given["layers"], given["hidden"], count, given["drop"], given["seed"]).model
    model = model.to(place.device, place.kind)
    skipped = list(range(given["drop"]))
    one = _by_task(_single(model, skipped), place)
    if not split:
        return one

    def rows(feeds: Mapping[str, Array], wanted: Sequence[str], row_ids: Sequence[int]) -> list[Array]:
        groups = _grouped(wanted)
        if len(groups) == 1:
            return one(feeds, wanted, row_ids)
        order = [number for numbers in groups.values() for number in numbers]
        sizes = [len(numbers) for numbers in groups.values()]
        model.set_active_adapters(BatchSplit(*groups, batch_sizes=sizes), skip_layers=skipped)
        model.active_head = BatchSplit(*groups, batch_sizes=sizes)
        with torch.inference_mode():
            outputs = model(**place.tensors(feeds, [row_ids[number] for number in order]))
        logits = [row for each in outputs for row in each.logits.float().cpu().numpy()]
        return [row for _, row in sorted(zip(order, logits, strict=True), key=lambda pair: pair[0])]

    return rows


def _single(model: Any, skipped: list[int]) -> Callable[[str, dict[str, torch.Tensor]], torch.Tensor]:
    def run(name: str, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        model.set_active_adapters(name, skip_layers=skipped)
        model.active_head = name
        logits: torch.Tensor = model(**inputs).logits
        return logits

    return run


def _peft(folder: Path, names: Sequence[str], place: Place) -> Rows:
    given = read_settings(folder)
    hidden, layers = given["hidden"], given["layers"]
    torch.manual_seed(given["seed"])
    config = transformers.BertConfig(
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=max(1, hidden // 64),
        intermediate_size=4 * hidden,
        num_labels=_COLUMNS,
    )
    lora = peft.LoraConfig(
        task_type="SEQ_CLS",
        r=_RANK,
        target_modules=["query", "value"],
        layers_to_transform=list(range(given["drop"], layers)),
        init_lora_weights=False,
    )
    with quiet():
        model: Any = peft.get_peft_model(transformers.BertForSequenceClassification(config), lora, names[0])
        for name in names[1:]:
            model.add_adapter(name, lora)
    model = model.to(place.device, place.kind).eval()

    def rows(feeds: Mapping[str, Array], wanted: Sequence[str], row_ids: Sequence[int]) -> list[Array]:
        with torch.inference_mode():
            logits = model(**place.tensors(feeds, row_ids), adapter_names=list(wanted)).logits
        return list(logits.float().cpu().numpy())

    return rows
