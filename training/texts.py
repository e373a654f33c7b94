"""python -m training.texts DIR: writes the example's test sets, to see what a lower precision costs.

One file a task, DIR/TASK.jsonl, as `python -m exporter --evaluation TASK=DIR/TASK.jsonl` reads them. Texts are cut to the
length of the model card's evaluation. Tagged words carry no label: of these the share of equal answers is reported.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from exporter.example import trunk_folder
from training.corpora import READERS, Example, sample
from training.download import DownloadError, corpora
from training.tasks import FUSION, TASKS, TaskSpec


def _record(task: TaskSpec, example: Example, tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    if task.kind == "tagging":
        return {"text": " ".join(example.text)}
    if isinstance(example.text, tuple):
        return {"text_a": example.text[0], "text_b": example.text[1], "label": example.label}
    return {"text": _cut(example.text, task.max_length, tokenizer), "label": example.label}


def _cut(text: str, length: int, tokenizer: PreTrainedTokenizerBase) -> str:
    offsets = tokenizer(text, truncation=True, max_length=length, return_offsets_mapping=True)["offset_mapping"]
    return text[: max(end for _, end in offsets)]


def write(folder: Path, corpus: Path, limit: int) -> None:
    """At most `limit` examples of each task's test set, a sample by hash."""
    tokenizer = AutoTokenizer.from_pretrained(trunk_folder())
    folder.mkdir(parents=True, exist_ok=True)
    for task in (*TASKS, FUSION):
        examples = sample(READERS[task.name](corpus).test, min(limit, task.test_limit or limit))
        lines = [json.dumps(_record(task, example, tokenizer), ensure_ascii=False) + "\n" for example in examples]
        (folder / f"{task.name}.jsonl").write_text("".join(lines), encoding="utf-8")
        print(f"{folder / task.name}.jsonl: {len(lines)} examples", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m training.texts", description=__doc__)
    parser.add_argument("folder", type=Path, metavar="DIR")
    parser.add_argument("--limit", type=int, default=1000, metavar="N", help="examples per task at most; default 1000")
    parser.add_argument("--cache", type=Path, default=Path.home() / ".cache" / "adapterdrop-training")
    arguments = parser.parse_args()
    try:
        write(arguments.folder, corpora(arguments.cache), arguments.limit)
    except DownloadError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
