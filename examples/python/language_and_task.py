"""A language adapter under each task adapter (MAD-X), exported as one graph per language.

    python examples/python/language_and_task.py my-base --language adapters/en --task adapters/sst2 --output onnx-en

Task adapters are trained on top of a language adapter of the training language. For texts of another language, its adapter
takes that place, and the tasks stay as they are: one command with another `--language` and `--output`. `Stack` computes the
language adapter first. `--task` may be repeated.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from adapters import AutoAdapterModel
from adapters.composition import Stack
from transformers import AutoTokenizer

from exporter import Report, export


def export_language(model: str, language: str, tasks: Sequence[str], output: Path, drop: int = 0) -> Report:
    """Export tasks on top of a language adapter.

    Args:
        model: folder or hub id of the model.
        language: folder or hub id of the language adapter.
        tasks: those of the task adapters, each saved with its prediction head.
        output: folder to write.
        drop: number of the lowest layers without adapters, of the language adapter as well.
    """
    live = AutoAdapterModel.from_pretrained(model)
    below = live.load_adapter(language)
    names = [live.load_adapter(task) for task in tasks]
    tokenizer = AutoTokenizer.from_pretrained(model)
    return export(live, tokenizer, tasks={name: Stack(below, name) for name in names}, drop=drop, output=output)


def main(arguments: Sequence[str] | None = None) -> None:
    """Export, and print the largest difference from PyTorch of each task."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--language", required=True)
    parser.add_argument("--task", action="append", required=True)
    parser.add_argument("--drop", type=int, default=0)
    parser.add_argument("--output", type=Path, required=True)
    options = parser.parse_args(arguments)
    report = export_language(options.model, options.language, options.task, options.output, options.drop)
    for name in sorted({row.task for row in report.parity}):
        print(f"{name}: {max(row.max_abs_diff for row in report.parity if row.task == name):.1e}")


if __name__ == "__main__":
    main()
