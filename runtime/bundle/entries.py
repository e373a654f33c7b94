"""Entries of a manifest: inputs, tasks, variants, parity rows and pass rows, each with the check of its fields."""

import math
import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from runtime.bundle.interface import BATCH, INPUTS, OUTPUTS, HeadType, InputType
from runtime.bundle.probe_entry import ProbeEntry

# Bounds of numbers in a manifest, far above those of any model: they limit the time and memory that a bundle can cost
MOST_LAYERS: Final = 10_000
MOST_ELEMENTS: Final = 2**26  # of the fixed axes of an input, in one row: an image of 4,728 x 4,728 pixels
MOST_COLUMNS: Final = 10**6  # of an embedding
LARGEST: Final = 2**31 - 1  # of lengths and limits

# The pass that proves that an int8 graph gives the same integers on processors without VNNI
PAIR_SUMS: Final = "ProvePairSums"

_LABELLED: Final = ("classification", "multilabel", "tagging")
_UNLABELLED_TOO: Final = ("dependency_parsing", "regression")  # labels are optional; those of a regression name its outputs


@dataclass(frozen=True)
class InputEntry:
    """One input of the graph.

    In a bundle with a seq2seq_lm task, only such tasks read `decoder_input_ids` and `decoder_attention_mask`; only
    dependency_parsing tasks read `word_starts`. Other tasks accept any value there.

    Attributes:
        name: name of the input, one of `INPUTS`.
        dtype: element type.
        shape: one string per axis, a name or a fixed size in digits: ("batch", "3", "224", "224"). Axes with the same name
            have the same length in all inputs.
        limit: integers must be in 0..limit-1; 0 allows any value.
    """

    name: str
    dtype: InputType
    shape: tuple[str, ...]
    limit: int

    @property
    def axes(self) -> tuple[str, ...]:
        """Named axes, including "batch"."""
        return tuple(axis for axis in self.shape if not axis.isdecimal())

    def problems(self, where: str) -> Iterator[str]:
        """Yield a message for each invalid field; `where` is the path of this entry in the manifest."""
        if self.name not in INPUTS:
            yield f"{where}.name: this version knows {', '.join(INPUTS)}, found {self.name!r}"
        elif self.dtype != INPUTS[self.name]:
            yield f"{where}.dtype: expected {INPUTS[self.name]} for {self.name}, found {self.dtype}"
        if self.shape[:1] != (BATCH,) or BATCH in self.shape[1:]:
            yield f"{where}.shape: expected {BATCH} as the first axis and nowhere else, found {list(self.shape)}"
        for axis in self.shape:
            if not re.fullmatch("[a-z][a-z_]*|[1-9][0-9]{0,8}", axis):
                yield f"{where}.shape: expected names such as sequence and sizes such as 224, found {axis!r}"
        if self.shape and math.prod(int(axis) for axis in self.shape if re.fullmatch("[0-9]{1,9}", axis)) > MOST_ELEMENTS:
            yield f"{where}.shape: expected at most {MOST_ELEMENTS:,} numbers in one row, found {list(self.shape)}"
        if self.limit > LARGEST:
            yield f"{where}.limit: expected at most {LARGEST:,}, found {shown(self.limit)}"
        if self.limit < 0 or (self.limit and self.dtype == "float32"):
            expected = "0 for floats" if self.dtype == "float32" else "at least 0"
            yield f"{where}.limit: expected {expected}, found {self.limit}"


@dataclass(frozen=True)
class TaskEntry:
    """One task of the bundle.

    Attributes:
        name: name of the task.
        head: type of the prediction head.
        labels: labels in the order of the logits; empty for a head without labels. A regression has labels if it has several
            outputs, which they name.
        outputs: names of the graph outputs, in the order of `OUTPUTS[head]`.
        setup: text form of the adapter composition, such as "Stack(en, qnli)"; empty for a head on the trunk without adapters.
        width: numbers of a sentence embedding; 0 for other heads.
        prompts: name -> text that `Predictor.encode_texts` puts before a text; empty for other heads than sentence embeddings.
        default_prompt: name of the prompt that is used if a call names none; empty for no prompt.
    """

    name: str
    head: HeadType
    labels: tuple[str, ...]
    outputs: tuple[str, ...]
    setup: str
    width: int = 0
    prompts: Mapping[str, str] = field(default_factory=dict)
    default_prompt: str = ""

    @property
    def columns(self) -> int:
        """Number of columns of a routed task: its logits, or the numbers of an embedding."""
        return self.width or len(self.labels) or 1

    @property
    def result_names(self) -> tuple[str, ...]:
        """Keys in the result of `Predictor.run`: the task name, or for example "task.start_logits" and "task.end_logits"."""
        names = OUTPUTS[self.head]
        return (self.name,) if len(names) == 1 else tuple(f"{self.name}.{name}" for name in names)

    def problems(self, where: str) -> Iterator[str]:
        """Yield a message for each invalid field; `where` is the path of this entry in the manifest."""
        if not self.name:
            yield f"{where}.name: expected a name, found an empty string"
        names = OUTPUTS[self.head]
        if len(self.outputs) != len(names) or "" in self.outputs:
            yield f"{where}.outputs: expected {len(names)} ({', '.join(names)}) for {self.head}, found {list(self.outputs)}"
        if self.head == "regression" and len(self.labels) == 1:
            yield f"{where}.labels: expected none for regression with one output, found {list(self.labels)}"
        if self.head not in _UNLABELLED_TOO and (self.head in _LABELLED) != bool(self.labels):
            expected = "some" if self.head in _LABELLED else "none"
            yield f"{where}.labels: expected {expected} for {self.head}, found {list(self.labels)}"
        yield from repeated(f"{where}.labels", self.labels)
        yield from self._embedding_problems(where)

    def _embedding_problems(self, where: str) -> Iterator[str]:
        embeds = self.head == "sentence_embedding"
        if not (1 <= self.width <= MOST_COLUMNS if embeds else self.width == 0):
            expected = f"1..{MOST_COLUMNS:,}" if embeds else "0"
            yield f"{where}.width: expected {expected} for {self.head}, found {shown(self.width)}"
        if not embeds and self.prompts:
            yield f"{where}.prompts: expected none for {self.head}, found {', '.join(map(repr, self.prompts))}"
        if self.default_prompt and self.default_prompt not in self.prompts:
            names = ", ".join(map(repr, self.prompts)) or "no prompt"
            yield f"{where}.default_prompt: expected one of the prompts ({names}), found {self.default_prompt!r}"


@dataclass(frozen=True)
class TaskLayers:
    """Layers in which a variant keeps the adapters of one task.

    Attributes:
        drop: number of lowest layers whose adapters were dropped.
        dropped: indices (0 = lowest) of all layers in which the task has no adapter, in ascending order.
        members: fusion members that were kept, per layer; empty for a task without a fusion.
        padding_bytes: bytes of the zeros, in fp32, by which the adapter is padded to the size of others; 0 if it is not.
        padding_operations: additional operations relative to those of the task's branch without these zeros.
    """

    drop: int
    dropped: tuple[int, ...]
    members: tuple[tuple[str, ...], ...] = ()
    padding_bytes: int = 0
    padding_operations: float = 0.0

    def problems(self, where: str, layers: int) -> Iterator[str]:
        """Yield a message for each invalid field.

        Args:
            where: path of this entry in the manifest.
            layers: number of layers of the trunk.
        """
        if not 0 <= self.drop <= layers:
            yield f"{where}.drop: expected 0..{layers} (layers), found {self.drop}"
        elif list(self.dropped) != sorted({index for index in self.dropped if 0 <= index < layers}):
            yield f"{where}.dropped: expected ascending layer indices in 0..{layers - 1}, found {list(self.dropped)}"
        elif self.dropped[: self.drop] != tuple(range(self.drop)):
            yield f"{where}.dropped: expected all of the lowest {self.drop} layers (drop), found {list(self.dropped)}"
        if self.members and len(self.members) != layers:
            yield f"{where}.members: expected none or one list for each of {layers} layers, found {len(self.members)}"
        if any("" in names for names in self.members):
            yield f"{where}.members: expected names, found an empty string"
        if self.padding_bytes < 0 or self.padding_operations < 0 or (self.padding_operations > 0 and not self.padding_bytes):
            found = f"{shown(self.padding_bytes)} and {self.padding_operations:g}"
            yield f"{where}.padding_bytes, padding_operations: expected none or positive numbers of both, found {found}"


@dataclass(frozen=True)
class ParityRow:
    """Comparison of a task's logits with single-task eager PyTorch at one shape.

    Attributes:
        task: name of the task.
        batch: rows of the inputs.
        sequence: length of the inputs in tokens.
        max_abs_diff: largest absolute difference of a logit.
        max_rel_diff: `max_abs_diff` relative to the largest absolute reference logit.
        argmax_agreement: fraction of logit vectors with the same argmax, from 0 to 1.
        tolerance: largest allowed `max_abs_diff`.
    """

    task: str
    batch: int
    sequence: int
    max_abs_diff: float
    max_rel_diff: float
    argmax_agreement: float
    tolerance: float


@dataclass(frozen=True)
class PassRow:
    """Size of the graph before and after one pass of the graph compiler.

    Attributes:
        name: name of the pass.
        graph: graph that the pass ran on: the template of a group of tasks ("tasks0", …), what the templates of several groups
            have in common ("stem0", …) or the joined graph ("all"); for the routed graph "routed tasks0", … and "routed".
        nodes_before: number of nodes before the pass.
        nodes_after: number of nodes after the pass.
        bytes_before: size of the initializers before the pass.
        bytes_after: size of the initializers after the pass.
    """

    name: str
    graph: str
    nodes_before: int
    nodes_after: int
    bytes_before: int
    bytes_after: int


@dataclass(frozen=True)
class VariantEntry:
    """All tasks at one drop. The variants of a bundle share one weights file.

    Attributes:
        drop: lowest drop of all tasks: no task has an adapter in the layers 0..drop-1.
        model: file name of the graph of all tasks.
        routed: file name of the routed graph, in which each row selects a task; empty without one.
        tasks: task name -> its remaining adapter layers.
        parity: comparisons with eager PyTorch.
        passes: effect of each compiler pass, in order.
        probe: inputs and verified logits.
    """

    drop: int
    model: str
    routed: str
    tasks: Mapping[str, TaskLayers]
    parity: tuple[ParityRow, ...]
    passes: tuple[PassRow, ...]
    probe: ProbeEntry

    @property
    def fits_int16(self) -> bool:
        """Whether no sum of two 8-bit products in the graphs exceeds 16 bits, by the proof of the compiler."""
        return any(row.name == PAIR_SUMS for row in self.passes)

    def problems(self, where: str, layers: int, names: Collection[str]) -> Iterator[str]:
        """Yield a message for each invalid field.

        Args:
            where: path of this entry in the manifest.
            layers: number of layers of the trunk.
            names: names of the bundle's tasks.
        """
        if sorted(self.tasks) != sorted(names):
            yield f"{where}.tasks: expected {', '.join(sorted(names))}, found {', '.join(sorted(self.tasks)) or 'none'}"
        elif self.tasks and self.drop != (lowest := min(task.drop for task in self.tasks.values())):
            yield f"{where}.drop: expected {lowest}, the lowest of all tasks, found {self.drop}"
        for name, task in self.tasks.items():
            yield from task.problems(f"{where}.tasks[{name!r}]", layers)
        for index, row in enumerate(self.parity):
            if row.task not in names:
                yield f"{where}.parity[{index}].task: expected a task of this bundle, found {row.task!r}"
            if not 0 <= row.argmax_agreement <= 1:
                yield f"{where}.parity[{index}].argmax_agreement: expected 0..1, found {row.argmax_agreement}"
        yield from self.probe.problems(f"{where}.probe", names)


def shown(number: int) -> str:
    """Return the decimal digits of a number, abbreviated if there are too many for a message."""
    return f"{number:,}" if abs(number) < 10**30 else "a number of more than 30 digits"


def repeated(what: str, names: Iterable[str]) -> Iterator[str]:
    """Yield a message for each name that occurs more than once."""
    for name, count in Counter(names).items():
        if count > 1:
            yield f"{what}: expected different names, found {name!r} {count} times"
