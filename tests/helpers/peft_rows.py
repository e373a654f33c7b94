"""The rows of docs/support.md for PEFT; the adapters library is not needed for them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import peft
import torch
import transformers

from tests.helpers.support_models import CONFIGS, Row, randomize


@dataclass(frozen=True)
class Peft:
    """Builds a PEFT model over a model with one head, with two adapters, a and b; each has its own classifier."""

    method: str
    options: Mapping[str, Any]

    def __call__(self) -> Any:
        torch.manual_seed(11)
        config = transformers.BertConfig(**CONFIGS["Bert"], num_labels=3)
        kind = getattr(peft, f"{self.method}Config")
        settings = kind(task_type="SEQ_CLS", target_modules=["query", "value"], **self.options)
        model = peft.get_peft_model(transformers.BertForSequenceClassification(config), settings, adapter_name="a")
        model.add_adapter("b", settings)
        randomize(model)
        return model


def _peft() -> Iterator[Row]:
    for label, method, options in (
        ("PEFT lora", "Lora", {"r": 4}),
        ("PEFT dora", "Lora", {"r": 4, "use_dora": True}),
        ("PEFT ia3", "IA3", {"feedforward_modules": []}),
        ("PEFT vera", "Vera", {"r": 4}),
    ):
        yield Row(label, "single", "its own (SequenceClassification)", "bert", Peft(method, options), drop=0)
    label = "PEFT lora, lowest layer dropped"
    yield Row(label, "single", "its own (SequenceClassification)", "bert", Peft("Lora", {"r": 4}), drop=1)


PEFT_ROWS = tuple(_peft())
