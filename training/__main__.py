"""python -m training: trains the bundled example's adapters and writes them, with their model card, into the package.

Every task is resumable: a finished one is skipped, an interrupted one goes on from its last checkpoint in the cache.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import adapters
import torch
import transformers
from transformers import AutoTokenizer

from exporter.example import ADAPTERS, TRUNK_NAME, trunk_folder

from .batches import Encoded, encode, labels_of
from .card import write_card
from .corpora import READERS, sample
from .download import DownloadError, corpora
from .evaluate import baseline, metric_name, scores_by_drop
from .fit import BATCH_SIZE, LEARNING_RATE, fit
from .tasks import TASKS, TaskSpec

RESULTS = "results.json"


def _new_model(task: TaskSpec, labels: list[str], seed: int) -> Any:
    model = adapters.AutoAdapterModel.from_pretrained(trunk_folder())
    # The name is written into adapter_config.json; a path of this machine would mean nothing elsewhere.
    model.config._name_or_path = TRUNK_NAME
    torch.manual_seed(seed)
    model.add_adapter(task.name, config="seq_bn")
    if task.kind == "tagging":
        model.add_tagging_head(task.name, num_labels=len(labels), id2label=dict(enumerate(labels)))
    elif task.kind == "regression":
        model.add_classification_head(task.name, num_labels=1, layers=1)
    else:
        model.add_classification_head(task.name, num_labels=len(labels), layers=1, id2label=dict(enumerate(labels)))
    return model


def _train(task: TaskSpec, root: Path, output: Path, cache: Path, seed: int) -> dict[str, Any]:
    tokenizer = AutoTokenizer.from_pretrained(trunk_folder())
    splits = READERS[task.name](root)
    labels = labels_of(task, splits.train)
    train: list[Encoded] = encode(task, tokenizer, splits.train, labels)
    test: list[Encoded] = encode(task, tokenizer, sample(splits.test, task.test_limit), labels)
    model = _new_model(task, labels, seed)
    checkpoint = cache / "checkpoints" / f"{task.name}-{seed}-{task.steps}.pt"
    checkpoint.parent.mkdir(parents=True, exist_ok=True)
    fit(model, tokenizer, task, train, seed, checkpoint)
    scores = scores_by_drop(model, tokenizer, task, test)
    model.save_adapter(str(output / task.name), task.name, use_safetensors=True)
    checkpoint.unlink(missing_ok=True)
    return {
        "kind": task.kind,
        "labels": labels,
        "source": task.source,
        "max_length": task.max_length,
        "steps": task.steps,
        "batch_size": BATCH_SIZE,
        "learning_rate": LEARNING_RATE,
        "seed": seed,
        "train_examples": len(train),
        "test_examples": len(test),
        "metric": metric_name(task),
        "baseline": baseline(task, train, test),
        "by_drop": scores,
    }


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m training", description=__doc__)
    parser.add_argument("--output", type=Path, default=ADAPTERS, help="where the adapters and the card go")
    parser.add_argument("--cache", type=Path, default=Path.home() / ".cache" / "adapterdrop-training")
    parser.add_argument("--tasks", default=",".join(task.name for task in TASKS), help="comma-separated; all by default")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=None, help="PyTorch threads; all cores by default")
    parser.add_argument("--again", action="store_true", help="train tasks that are already there once more")
    arguments = parser.parse_args()
    wanted = arguments.tasks.split(",")
    unknown = sorted(set(wanted) - {task.name for task in TASKS})
    if unknown:
        parser.error(f"unknown task {', '.join(unknown)}; there are {', '.join(task.name for task in TASKS)}")
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    transformers.logging.set_verbosity_error()

    try:
        root = corpora(arguments.cache)
    except DownloadError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    results_file = arguments.output / RESULTS
    results: dict[str, Any] = json.loads(results_file.read_text()) if results_file.exists() else {}
    for task in TASKS:
        if task.name not in wanted or (task.name in results and not arguments.again):
            continue
        results[task.name] = _train(task, root, arguments.output, arguments.cache, arguments.seed)
        # Written after every task, in the tasks' order, so that an interruption loses nothing that is finished.
        results = {t.name: results[t.name] for t in TASKS if t.name in results}
        results_file.write_text(json.dumps(results, indent=1) + "\n")
        write_card(arguments.output / "README.md", results)
    return 0


if __name__ == "__main__":
    sys.exit(main())
