"""Predictions as `python -m runtime` prints them: lines to read, or JSON."""

import json
from collections.abc import Mapping, Sequence
from typing import Final

from runtime.errors import AdapterDropError
from runtime.predictor import Prediction, Predictor
from runtime.printable import printable
from runtime.text.texts import Text

_SHOWN: Final = 6  # numbers of an embedding


def as_json(
    predictor: Predictor,
    texts: Sequence[Text],
    predictions: Mapping[str, Sequence[Prediction]],
    nodes: dict[str, int] | None,
) -> str:
    """Return the JSON object that --json prints.

    Args:
        predictor: the predictor.
        texts: the texts.
        predictions: task -> the prediction of each text.
        nodes: provider -> number of its nodes, if it was asked for.

    Raises:
        AdapterDropError: a number is not finite.
    """
    rows = [
        {"text": text, "predictions": {task: rows[index].to_dict() for task, rows in predictions.items()}}
        for index, text in enumerate(texts)
    ]
    try:
        head = {"provider": predictor.provider, "drop": predictor.drops[0]} | ({} if nodes is None else {"nodes": nodes})
        return json.dumps(head | {"texts": rows}, allow_nan=False)
    except ValueError as error:
        raise AdapterDropError("--json: a prediction is NaN or infinite, which JSON cannot represent: omit it") from error


def as_text(
    predictor: Predictor,
    texts: Sequence[Text],
    predictions: Mapping[str, Sequence[Prediction]],
    nodes: dict[str, int] | None,
    top_k: int | None,
) -> str:
    """Return the lines that are printed: a block of tasks for each text.

    Args:
        predictor: the predictor.
        texts: the texts.
        predictions: task -> the prediction of each text.
        nodes: provider -> number of its nodes, if it was asked for.
        top_k: the number of labels that was asked for; None for the predicted ones.
    """
    lines = [f"provider {predictor.provider}, drop {predictor.drops[0]}"]
    if nodes is not None:
        lines.append("nodes " + ", ".join(f"{provider} {count}" for provider, count in nodes.items()))
    width = max(map(len, predictions))
    for index, text in enumerate(texts):
        lines += ["", text if isinstance(text, str) else " | ".join(text)]
        lines += [f"  {task:<{width}}  {_summary(rows[index], top_k is not None)}" for task, rows in predictions.items()]
    return "\n".join(map(printable, lines))


def _summary(prediction: Prediction, several: bool) -> str:
    """Describe a prediction in one line; with `several`, all labels of its scores."""
    if several and prediction.scores:
        return ", ".join(f"{label} {score:.2f}" for label, score in prediction.scores.items())
    if prediction.entities is not None:
        return ", ".join(f"{each.word}/{each.entity_group} {each.score:.2f}" for each in prediction.entities) or "-"
    if prediction.head == "classification":
        return f"{prediction.label}  {prediction.score:.2f}"
    if prediction.head == "multilabel":
        return ", ".join(f"{label} {prediction.scores[label]:.2f}" for label in prediction.labels) or "-"
    if len(prediction.values) > 1:
        return " ".join(f"{value:+.2f}" for value in prediction.values)
    if prediction.head in ("regression", "multiple_choice"):
        return f"{prediction.value:+.2f}"
    if prediction.head == "question_answering":
        return f"{prediction.answer or '-'}  {prediction.score:.2f}"
    if prediction.head == "masked_lm":
        return ", ".join(f"{word.label} {word.score:.2f}" for word in prediction.words) or "-"
    if prediction.head in ("text_embedding", "sentence_embedding"):
        first = " ".join(f"{value:+.2f}" for value in prediction.vector[:_SHOWN])
        return f"{first} … ({len(prediction.vector)} numbers)"
    return " ".join(f"{word.text}/{word.label}" for word in prediction.words)
