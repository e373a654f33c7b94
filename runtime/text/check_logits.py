"""Check of the logits of one text before they are interpreted: NaN would become the first label, with the score NaN."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from runtime.bundle import TaskEntry
from runtime.errors import AdapterDropError
from runtime.text.encode import TextEncoder
from runtime.text.tokens import Tokens

Array = npt.NDArray[Any]


def check_token_axis(task: TaskEntry, logits: Sequence[Array], width: int) -> None:
    """Check that a task with logits for every token has as many as the input has tokens.

    Raises:
        AdapterDropError: an array has another length.
    """
    if any(len(array) != width for array in logits):
        found = ", ".join(str(list(array.shape)) for array in logits)
        raise AdapterDropError(
            f"task {task.name}: expected logits for {width} tokens, found {found} per text; export the bundle again"
        )


def check_finite(
    task: TaskEntry, logits: Sequence[Array], index: int, tokens: Tokens | None, encoder: TextEncoder | None, where: str
) -> None:
    """Check that the logits of a text give a prediction.

    Args:
        task: manifest entry of the task.
        logits: as for `interpret`.
        index: index of the text, for the message.
        tokens: tokens of the text; None for heads without masks.
        encoder: encoder of the bundle; None as well.
        where: drop, provider and precision, for the message.

    Raises:
        AdapterDropError: they are NaN or infinite.
    """
    if not is_finite(task, logits, tokens, encoder):
        raise AdapterDropError(
            f"task {task.name}, texts[{index}]: expected finite logits, found NaN or an infinity ({where}); the weights are "
            "damaged or the precision is too low: export with --precision fp32, or use another provider"
        )


def is_finite(task: TaskEntry, logits: Sequence[Array], tokens: Tokens | None, encoder: TextEncoder | None) -> bool:
    """Whether the logits of one text give a prediction: no NaN, and a finite maximum.

    A single logit may be -inf, as that of a label that is excluded. The arguments are those of `interpret`.
    """
    values = logits[0]
    if task.head in ("regression", "multiple_choice", "text_embedding", "sentence_embedding"):
        return bool(np.isfinite(values).all())
    if task.head == "masked_lm" and encoder and tokens is not None:  # only the logits of the masks are read
        values = values[[position for position, token_id in enumerate(tokens.ids) if token_id == encoder.mask_id]]
    # the maximum of an array with a NaN is NaN
    return all(not array.size or bool(np.isfinite(array.max(axis=-1)).all()) for array in (values, *logits[1:]))
