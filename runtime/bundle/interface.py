"""The interface of exported graphs: names of inputs and axes, and head types with the names of their outputs."""

from collections.abc import Mapping, Sequence
from typing import Final, Literal, get_args

HeadType = Literal[
    "classification",
    "multilabel",
    "regression",
    "tagging",
    "question_answering",
    "multiple_choice",
    "masked_lm",
    "causal_lm",
    "seq2seq_lm",
    "dependency_parsing",
    "text_embedding",
    "image_embedding",
    "sentence_embedding",
    "hidden_states",
    "pooled_states",
]
HEADS: Final[tuple[HeadType, ...]] = get_args(HeadType)
OUTPUTS: Final[Mapping[HeadType, tuple[str, ...]]] = dict.fromkeys(HEADS, ("logits",)) | {
    "question_answering": ("start_logits", "end_logits"),
    "dependency_parsing": ("rel_preds", "arc_preds"),
    "text_embedding": ("text_embeds",),
    "image_embedding": ("image_embeds",),
    "sentence_embedding": ("sentence_embedding",),
    "hidden_states": ("last_hidden_state",),
    "pooled_states": ("last_hidden_state", "pooler_output"),
}
# Additional inputs of a routed graph, int64 [rows]: result row i is task task_ids[i] of the manifest on input row row_ids[i]
ROUTE_INPUTS: Final = ("row_ids", "task_ids")
# In the metadata of a routed graph whose groups of tasks each compute their rows: the number of one task of each group
FIRST_TASKS: Final = "first_tasks"
# Heads that a routed graph supports: those with one vector per row, whose width the manifest states
ROUTED_HEADS: Final[tuple[HeadType, ...]] = (
    *("classification", "multilabel", "regression", "multiple_choice"),
    "sentence_embedding",
)

InputType = Literal["int64", "float32"]
INPUTS: Final[Mapping[str, InputType]] = {
    "input_ids": "int64",
    "attention_mask": "int64",
    "token_type_ids": "int64",
    "pixel_values": "float32",
    "input_features": "float32",
    "decoder_input_ids": "int64",
    "decoder_attention_mask": "int64",
    "word_starts": "int64",
}
BATCH: Final = "batch"
SEQUENCE: Final = "sequence"


def output_names(task: str, fields: Sequence[str]) -> tuple[str, ...]:
    """Return the output names of a task: the task name for a single output, `task.field` for several outputs."""
    return (task,) if len(fields) == 1 else tuple(f"{task}.{field}" for field in fields)
