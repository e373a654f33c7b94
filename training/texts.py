"""Write the test sets of the example's tasks, to evaluate the accuracy of a lower precision.

`python -m training.texts DIR` writes one file per task, DIR/TASK.jsonl, for `python -m exporter --evaluation
TASK=DIR/TASK.jsonl`, and for `python -m exporter advise`. Texts are truncated as in the evaluation of the model card. The label
of a tagging text is a list with a tag for each of its words, which white space separates; an export does not read them, and
reports the fraction of equal predictions.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any, Literal

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from exporter.example import base_model_folder
from training.corpora import READERS, Example, sample
from training.download import DownloadError, corpora
from training.tasks import FUSION, TASKS, TaskSpec


def _record(task: TaskSpec, example: Example, tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    if task.kind == "tagging":
        return {"text": " ".join(example.text), "label": list(example.label)}
    if isinstance(example.text, tuple):
        return {"text_a": example.text[0], "text_b": example.text[1], "label": example.label}
    return {"text": _cut(example.text, task.max_length, tokenizer), "label": example.label}


def _cut(text: str, length: int, tokenizer: PreTrainedTokenizerBase) -> str:
    offsets = tokenizer(text, truncation=True, max_length=length, return_offsets_mapping=True)["offset_mapping"]
    return text[: max(end for _, end in offsets)]


def write(folder: Path, corpus: Path, limit: int) -> None:
    """Write at most `limit` examples of each task's test set, sampled by hash.

    Args:
        folder: folder of the files; created if necessary.
        corpus: folder of the corpora.
        limit: maximum number of examples per task.
    """
    tokenizer = AutoTokenizer.from_pretrained(base_model_folder())
    folder.mkdir(parents=True, exist_ok=True)
    for task in (*TASKS, FUSION):
        count = write_task(folder, task, corpus, tokenizer, min(limit, task.test_limit or limit))
        print(f"{folder / task.name}.jsonl: {count} examples", flush=True)


def write_task(
    folder: Path,
    task: TaskSpec,
    corpus: Path,
    tokenizer: PreTrainedTokenizerBase,
    limit: int | None,
    split: Literal["train", "test"] = "test",
) -> int:
    """Write a split of one task, TASK.jsonl, with texts truncated to the task's length.

    Args:
        folder: an existing folder.
        task: the task.
        corpus: folder of the corpora.
        tokenizer: a fast tokenizer, which counts the tokens.
        limit: maximum number of examples, sampled by hash; None for all.
        split: the test set, or the training set.

    Returns:
        The number of examples.
    """
    examples = sample(getattr(READERS[task.name](corpus), split), limit)
    lines = [json.dumps(_record(task, example, tokenizer), ensure_ascii=False) + "\n" for example in examples]
    (folder / f"{task.name}.jsonl").write_text("".join(lines), encoding="utf-8")
    return len(lines)


def read_task(path: Path) -> list[dict[str, Any]]:
    """Read the examples of a file that `write_task` wrote."""
    # Not splitlines, which also splits at characters that can occur within a text.
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]


def main() -> int:
    """Run the command line and return its exit status."""
    parser = argparse.ArgumentParser(prog="python -m training.texts", description=__doc__)
    parser.add_argument("folder", type=Path, metavar="DIR", help="folder for the files")
    parser.add_argument("--limit", type=int, default=1000, metavar="N", help="maximum examples per task; default 1000")
    parser.add_argument(
        "--cache",
        type=Path,
        default=Path.home() / ".cache" / "adapterdrop-training",
        help="folder of the corpora; default ~/.cache/adapterdrop-training",
    )
    arguments = parser.parse_args()
    try:
        write(arguments.folder, corpora(arguments.cache), arguments.limit)
    except DownloadError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
