"""Six LoRA classifiers decide where a prompt goes, in one batch: the case of a semantic router in front of language models.

    python -m exporter --model my-base --adapter peft/domain --adapter peft/jailbreak … --routed --output router
    python examples/python/lora_router.py router --first domain --text "How do I integrate by parts?"

Every text runs the first classifier, and its label decides which others it needs. Both steps are one call for all texts, and
the rows of all texts and classifiers share a batch. The trunk is computed once per text and step.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence

import runtime


def route(
    predictor: runtime.Predictor, texts: Sequence[str], first: str, further: Mapping[str, Sequence[str]]
) -> list[dict[str, runtime.Prediction]]:
    """Return the predictions of each text: of the first task, and of the tasks that its label asks for.

    Args:
        predictor: a bundle with a routed graph.
        texts: prompts.
        first: a task with labels, for every text.
        further: label of the first task -> further tasks; a label that is missing needs none.
    """
    found = predictor.predict_routed(texts, [first] * len(texts))
    wanted = [list(further.get(each[first].label or "", ())) for each in found]
    rows = [row for row, tasks in enumerate(wanted) if tasks]
    more = predictor.predict_routed([texts[row] for row in rows], [wanted[row] for row in rows]) if rows else []
    for row, predictions in zip(rows, more, strict=True):
        found[row] |= predictions
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a line for each text: the label of the first task, and of those that it asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", help="a bundle that was exported with --routed")
    parser.add_argument("--first", required=True, help="the task that every text runs")
    parser.add_argument("--text", action="append", required=True)
    parser.add_argument("--skip", action="append", default=[], help="a label of the first task that needs no other task")
    options = parser.parse_args(arguments)
    predictor = runtime.load(options.folder, provider="cpu")
    (entry,) = predictor.entries([options.first])
    others = [name for name in predictor.tasks if name != options.first]
    further = {label: others for label in entry.labels if label not in options.skip}
    for text, predictions in zip(options.text, route(predictor, options.text, options.first, further), strict=True):
        print(text, *(f"{name}={each.label or each.labels or each.value}" for name, each in predictions.items()), sep="\t")


if __name__ == "__main__":
    main()
