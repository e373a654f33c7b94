"""The share of predictions that change with padding and with other texts, of graphs that are known to depend on them."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from exporter.texts.batches import Batch, Calibration
from exporter.verify.independence import changed_predictions

# Of 1 to 6 tokens, each with the number of its text.
TEXTS = tuple(np.full(length, length, np.int64) for length in range(1, 7))


def _calibration() -> Calibration:
    """Two batches in ascending order of length, as files are read: the first text is in the second one."""
    batches = []
    for rows in ((3, 4), (1, 2, 0, 5)):
        width = max(len(TEXTS[row]) for row in rows)
        ids, mask = (np.zeros((len(rows), width), np.int64) for _ in range(2))
        for index, row in enumerate(rows):
            ids[index, -len(TEXTS[row]) :] = TEXTS[row]  # padded on the left
            mask[index, -len(TEXTS[row]) :] = 1
        batches.append(Batch(rows, {"input_ids": ids, "attention_mask": mask}))
    return Calibration("texts", batches=tuple(batches))


def _changed(logits: Any, kind: str = "classification", longest: int = 16) -> dict[str, tuple[float, float]]:
    task = SimpleNamespace(name="a", head=SimpleNamespace(kind=kind))
    entries = tuple(SimpleNamespace(name=name) for name in ("input_ids", "attention_mask"))
    plan: Any = SimpleNamespace(outputs={"a": ("logits",)}, inputs=entries, padding_id=None, max_lengths={"sequence": longest})
    graph = SimpleNamespace(run=lambda _, feeds: [logits(feeds["input_ids"], feeds["attention_mask"])])
    return changed_predictions([task], plan, graph, _calibration())  # type: ignore[list-item]  # as much of a task as is read


def _of_its_text(ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
    return np.asarray(np.eye(7)[(ids * mask).max(1)])


def _of_the_width(ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Another label where the text has more than ten tokens of padding."""
    return np.asarray(np.eye(2)[(ids.shape[1] - mask.sum(1) > 10).astype(int)])


def _of_the_batch(ids: np.ndarray, _: np.ndarray) -> np.ndarray:
    return np.repeat(np.eye(2)[[int(len(ids) > 1)]], len(ids), axis=0)


@pytest.mark.parametrize(("logits", "expected"), [(_of_its_text, (0, 0)), (_of_the_width, (5 / 6, 0)), (_of_the_batch, (0, 1))])
def test_changed_labels_are_counted(logits: Any, expected: tuple[float, float]) -> None:
    assert _changed(logits) == {"a": pytest.approx(expected)}


def test_labels_of_tokens_are_compared_on_the_text() -> None:
    assert _changed(lambda ids, _: np.eye(7)[ids], "tagging") == {"a": (0, 0)}
    # Each token has the label of the last one: padding, or the text with most tokens.
    changed = _changed(lambda ids, _: np.eye(7)[np.repeat(ids[:, -1:], ids.shape[1], 1)], "tagging")
    assert changed["a"] == pytest.approx((1, 15 / 21))


def test_regression_has_no_labels() -> None:
    assert _changed(lambda ids, _: ids[:, :1], "regression") == {}
