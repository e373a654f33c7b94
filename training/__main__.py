"""Train the adapters and the fusion of the bundled example, and write them with their model card into the package.

Every task is resumable: a finished task is skipped, an interrupted task continues from its last checkpoint in the cache.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import peft
import torch
import transformers
from transformers import AutoTokenizer

from exporter.example import PEFT, base_model_folder, example_folder
from training.batches import Encoded, encode, labels_of
from training.card import write_card
from training.corpora import READERS, sample
from training.download import DownloadError, corpora
from training.evaluate import baseline, metric_name, scores_by_drop
from training.fit import fit
from training.lora import (
    LORA_TASKS,
    TEST_LIMIT,
    TRAIN_LIMIT,
    add_lora,
    base,
    fit_lora,
    lora_entry,
    lora_scores,
    prepare,
    save_lora,
)
from training.models import (
    FUSION_CONFIG,
    MissingMemberError,
    adapter_parameters,
    add_task,
    base_model,
    fusion_parameters,
    load,
    save,
    tie_layers,
    untie_layers,
)
from training.tasks import FUSION, TASKS, TaskSpec

RESULTS = "results.json"
ALL_TASKS = (*TASKS, FUSION)


def _train(task: TaskSpec, arguments: argparse.Namespace, corpus: Path, shared: bool = False) -> dict[str, Any]:
    """Train a task, save it, and evaluate the saved files."""
    tokenizer = AutoTokenizer.from_pretrained(base_model_folder())
    splits = READERS[task.name](corpus)
    labels = labels_of(task, splits.train)
    train: list[Encoded] = encode(task, tokenizer, splits.train, labels)
    test: list[Encoded] = encode(task, tokenizer, sample(splits.test, task.test_limit), labels)
    model = base_model()
    torch.manual_seed(arguments.seed)
    add_task(model, task, labels, arguments.output)
    if shared:
        tie_layers(model, task.name)
    parameters = (fusion_parameters if task.members else adapter_parameters)(model, task.name)
    variant = "-shared" if shared else ""
    checkpoint = arguments.cache / "checkpoints" / f"{task.name}{variant}-{arguments.seed}-{task.steps}.pt"
    checkpoint.parent.mkdir(parents=True, exist_ok=True)
    fit(model, tokenizer, task, train, arguments.seed, checkpoint)
    if shared:
        untie_layers(model, task.name)
    # A shared variant is not a task of the example, so its files do not belong to the package.
    folder = arguments.cache / "shared" / task.name if shared else task.folder(arguments.output)
    save(model, task, folder)
    scores = scores_by_drop(load(task, folder, arguments.output), tokenizer, task, test)
    checkpoint.unlink(missing_ok=True)
    result = {
        "kind": task.kind,
        "labels": labels,
        "source": task.source,
        "max_length": task.max_length,
        "steps": task.steps,
        "batch_size": task.batch_size,
        "learning_rate": task.learning_rate,
        "seed": arguments.seed,
        "train_examples": len(train),
        "test_examples": len(test),
        "metric": metric_name(task),
        "baseline": baseline(task, train, test),
        "by_drop": scores,
        "parameters": parameters,
    }
    return result | ({"members": list(task.members), "fusion": FUSION_CONFIG} if task.members else {})


def _train_lora(task: TaskSpec, arguments: argparse.Namespace, corpus: Path) -> dict[str, Any]:
    """Train a LoRA PEFT adapter, save it, and evaluate the saved files."""
    tokenizer = AutoTokenizer.from_pretrained(base_model_folder())
    splits = READERS[task.name](corpus)
    labels = labels_of(task, splits.train)
    torch.manual_seed(arguments.seed)
    model = add_lora(base(labels), "default")
    chosen = {"train": sample(splits.train, TRAIN_LIMIT), "test": sample(splits.test, TEST_LIMIT)}
    train, test = (prepare(model, tokenizer, task, encode(task, tokenizer, examples, labels)) for examples in chosen.values())
    checkpoint = arguments.cache / "checkpoints" / f"{task.name}-lora-{arguments.seed}-{task.steps}.pt"
    checkpoint.parent.mkdir(parents=True, exist_ok=True)
    fit_lora(model, task, train, arguments.seed, checkpoint)
    folder = arguments.output / PEFT / task.name
    save_lora(model, folder)
    again = peft.PeftModel.from_pretrained(base(labels), str(folder)).eval()
    entry = lora_entry(again, task, len(train), len(test), lora_scores(again, test))
    checkpoint.unlink(missing_ok=True)
    return entry | {"seed": arguments.seed}


def _write(output: Path, results: dict[str, Any]) -> dict[str, Any]:
    """Write the results, sorted by task, and the card. Called after every task, so that an interruption loses no results."""
    results = {task.name: results[task.name] for task in ALL_TASKS if task.name in results}
    (output / RESULTS).write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    write_card(output / "README.md", results)
    return results


def _train_wanted(arguments: argparse.Namespace, wanted: list[str], corpus: Path) -> None:
    results_file = arguments.output / RESULTS
    results: dict[str, Any] = json.loads(results_file.read_text(encoding="utf-8")) if results_file.exists() else {}
    for task in ALL_TASKS:
        # With --shared, --again applies to the shared variant.
        if task.name not in wanted or (task.name in results and (arguments.shared or not arguments.again)):
            continue
        variants = {name: row for name, row in results.get(task.name, {}).items() if name in ("shared", "lora")}
        results[task.name] = _train(task, arguments, corpus) | variants
        results = _write(arguments.output, results)
    for task in TASKS:
        if task.name == arguments.shared and (arguments.again or "shared" not in results[task.name]):
            row = _train(task, arguments, corpus, shared=True)
            results[task.name]["shared"] = {name: row[name] for name in ("steps", "seed", "by_drop", "parameters")}
            results = _write(arguments.output, results)


def _train_loras(arguments: argparse.Namespace, wanted: list[str], corpus: Path) -> None:
    results: dict[str, Any] = json.loads((arguments.output / RESULTS).read_text(encoding="utf-8"))
    for task in LORA_TASKS:
        if task.name in wanted and (arguments.again or "lora" not in results[task.name]):
            entry = _train_lora(task, arguments, corpus)
            # Read again: another process may have trained another task.
            results = json.loads((arguments.output / RESULTS).read_text(encoding="utf-8"))
            results[task.name]["lora"] = entry
            results = _write(arguments.output, results)


def main() -> int:
    """Run the command line and return its exit status."""
    names = [task.name for task in ALL_TASKS]
    parser = argparse.ArgumentParser(prog="python -m training", description=__doc__)
    parser.add_argument("--output", type=Path, default=example_folder(), help="folder for the adapters and the card")
    parser.add_argument(
        "--cache",
        type=Path,
        default=Path.home() / ".cache" / "adapterdrop-training",
        help="folder for corpora and checkpoints; default ~/.cache/adapterdrop-training",
    )
    parser.add_argument("--tasks", default=None, help="names of the tasks, comma-separated; all by default")
    parser.add_argument(
        "--shared",
        choices=[task.name for task in TASKS],
        help="train only this task, with one adapter for all layers; its row is added to the card, its files stay in the cache",
    )
    parser.add_argument(
        "--lora",
        action="store_true",
        help="train the PEFT LoRA adapters instead; the results of the other adapters must be there",
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the training; default 0")
    parser.add_argument("--threads", type=int, default=None, help="PyTorch threads; all cores by default")
    parser.add_argument("--again", action="store_true", help="train finished tasks again")
    arguments = parser.parse_args()
    if arguments.shared and (arguments.tasks or arguments.lora):
        parser.error("--shared names its task: omit --tasks and --lora")
    if arguments.lora and not (arguments.output / RESULTS).is_file():
        parser.error(f"--lora adds rows to {RESULTS}, which is not in {arguments.output}: train the tasks first")
    if arguments.lora:
        names = [task.name for task in LORA_TASKS]
    # The card compares the shared variant with the unshared one, which is trained first if it is missing.
    wanted = [arguments.shared] if arguments.shared else arguments.tasks.split(",") if arguments.tasks else names
    unknown = sorted(set(wanted) - set(names))
    if unknown:
        parser.error(f"unknown task {', '.join(unknown)}; expected some of {', '.join(names)}")
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    transformers.logging.set_verbosity_error()

    try:
        (_train_loras if arguments.lora else _train_wanted)(arguments, wanted, corpora(arguments.cache))
    except (DownloadError, MissingMemberError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
