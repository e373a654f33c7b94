"""Models to measure: the bundled example and a randomly initialized BERT."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from adapters import BertAdapterModel, SeqBnConfig
from transformers import BertConfig

from exporter import ExportError
from exporter.checkpoints.load import Checkpoint, load
from exporter.models.quiet_libraries import quiet
from exporter.models.shared_copy import shared_copy
from exporter.plan import Plan
from exporter.planning.make_plan import make_plan

# A new adapter is close to the identity; with this standard deviation, swapped tasks are visible in the logits.
_ADAPTER_STD = 0.05


@dataclass(frozen=True)
class Candidate:
    """The model to measure.

    Attributes:
        model: adapters model in fp32 and evaluation mode.
        tokenizer: its tokenizer, or None.
        plan: export plan of all tasks at the drop.
        description: name and sizes, in JSON types.
    """

    model: Any
    tokenizer: Any
    plan: Plan
    description: dict[str, str | int]

    @property
    def tasks(self) -> tuple[str, ...]:
        """Names of all tasks."""
        return tuple(task.name for task in self.plan.tasks)

    @property
    def title(self) -> str:
        """Title of tables and plots."""
        what = self.description
        return f"{what['name']}: {what['layers']} layers, hidden {what['hidden']}, {what['tasks']} tasks, drop {what['drop']}"


def example(drop: int) -> Candidate:
    """Return the bundled example.

    Raises:
        ExportError: the example is not installed, or `drop` exceeds its number of layers.
    """
    checkpoint = load(None)
    adapters = list(checkpoint.model.adapters_config.adapters)
    # Parallel, the fastest eager contender, does not support fusions: benchmarks.fusion measures them.
    return _candidate(checkpoint.model, checkpoint.tokenizer, adapters, drop, "the bundled example on all-MiniLM-L6-v2")


def bert_config(layers: int, hidden: int) -> BertConfig:
    """Return the configuration of a BERT: attention heads of 64 as in BERT-base, or of 32 for other sizes."""
    heads = hidden // (64 if hidden % 64 == 0 else 32)
    return BertConfig(hidden_size=hidden, num_hidden_layers=layers, num_attention_heads=heads, intermediate_size=4 * hidden)


def random_bert(layers: int, hidden: int, tasks: int, drop: int, seed: int) -> Candidate:
    """Return a randomly initialized BERT with `tasks` seq_bn adapters, each with a one-layer head of 2, 3 or 4 labels."""
    with torch.random.fork_rng(devices=[]), quiet():
        torch.manual_seed(seed)
        model = BertAdapterModel(bert_config(layers, hidden))
        for number in range(tasks):
            model.add_adapter(f"task{number}", config=SeqBnConfig())
            model.add_classification_head(f"task{number}", num_labels=2 + number % 3, layers=1)
        for name, parameter in model.named_parameters():
            if ".adapters." in name:
                torch.nn.init.normal_(parameter, std=_ADAPTER_STD)
    name = "BERT-base, random weights" if (layers, hidden) == (12, 768) else "BERT, random weights"
    return _candidate(model.eval(), None, None, drop, name)


def at_drop(candidate: Candidate, drop: int) -> Candidate:
    """Return the same model and tasks at another drop."""
    name = str(candidate.description["name"])
    return _candidate(candidate.model, candidate.tokenizer, list(candidate.tasks), drop, name)


def _candidate(model: Any, tokenizer: Any, tasks: list[str] | None, drop: int, name: str) -> Candidate:
    plan = make_plan(Checkpoint(model, tokenizer, name), tasks, drop)
    if len(plan.tasks) < 2:
        raise ExportError(f"expected a model with at least two tasks, found {len(plan.tasks)}")
    description: dict[str, str | int] = {
        "name": name,
        "layers": plan.layers,
        "hidden": int(model.config.hidden_size),
        "tasks": len(plan.tasks),
        "drop": drop,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
    }
    return Candidate(model, tokenizer, plan, description)


def twin(model: Any) -> Any:
    """Return a copy that shares the weights with the original and has a separate active setup."""
    return shared_copy(model).eval()
