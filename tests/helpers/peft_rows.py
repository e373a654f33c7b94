"""The rows of docs/support.md for PEFT; the adapters library is not needed for them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import peft
import torch
import transformers

from exporter.checkpoints.embedders import embed
from exporter.models.embeddings import POOLINGS, Dense, Embedder, Normalize
from tests.helpers.peft_folders import folder_cases
from tests.helpers.sentence_folders import TANH
from tests.helpers.support_models import CONFIGS, Row, class_of, randomize
from tests.helpers.tiny_peft import TUNERS, tuned_model


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


@dataclass(frozen=True)
class Tuned:
    """Builds a model with two adapters, a and b, of a PEFT type, over a transformers class with one head."""

    kind: str
    architecture: str = "Bert"
    head: str = "SequenceClassification"
    options: Mapping[str, Any] = field(default_factory=dict)

    def __call__(self) -> Any:
        torch.manual_seed(11)
        name = class_of(self.architecture)
        config = getattr(transformers, f"{name}Config")(**CONFIGS[self.architecture])
        config.num_labels = 2 if self.head == "QuestionAnswering" else 3
        base = getattr(transformers, f"{name}{self.head}" if self.head == "Model" else f"{name}For{self.head}")(config)
        return tuned_model(self.kind, base, ("a", "b"), **self.options)


@dataclass(frozen=True)
class Embedding:
    """Builds a model without a head, with two LoRA adapters, a and b, a pooling, a projection and a normalization for each."""

    modes: tuple[str, ...]
    architecture: str = "Bert"
    targets: tuple[str, ...] = ("query", "value")

    def __call__(self) -> Any:
        torch.manual_seed(11)
        config = getattr(transformers, f"{self.architecture}Config")(**CONFIGS[self.architecture])
        base = getattr(transformers, f"{self.architecture}Model")(config)
        settings = {"task_type": "FEATURE_EXTRACTION", "target_modules": list(self.targets)}
        model = tuned_model("LORA", base, ("a", "b"), **settings)
        embed(model, {name: self._embedder(config.hidden_size) for name in ("a", "b")})
        return model

    def _embedder(self, size: int) -> Embedder:
        projection = Dense((size * len(self.modes), 8), True, TANH, False)
        return Embedder(self.modes, (projection, Normalize()), 8)


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
    own = "its own (SequenceClassification)"
    for kind in TUNERS:
        if kind not in ("LORA", "IA3", "VERA"):
            drop = 0 if "num_virtual_tokens" in TUNERS[kind] else 1
            yield Row(f"PEFT {kind.lower()}", "single", own, "bert", Tuned(kind), drop=drop)
    for kind, head, task_type in (
        ("PROMPT_TUNING", "TokenClassification", "TOKEN_CLS"),
        ("PREFIX_TUNING", "QuestionAnswering", "QUESTION_ANS"),
        ("LOHA", "TokenClassification", "TOKEN_CLS"),
        ("LORA", "QuestionAnswering", "QUESTION_ANS"),
    ):
        drop = 0 if "num_virtual_tokens" in TUNERS[kind] else 1
        built = Tuned(kind, head=head, options={"task_type": task_type})
        yield Row(f"PEFT {kind.lower()}", "single", f"its own ({head})", "bert", built, drop=drop)
    for embedding in (
        Embedding(POOLINGS),
        Embedding(("mean",), "ModernBert", ("Wqkv",)),
        Embedding(("lasttoken",), "Qwen3", ("q_proj", "v_proj")),
    ):
        head = f"sentence embedding ({'all poolings' if len(embedding.modes) > 1 else embedding.modes[0]})"
        yield Row("PEFT lora", "single", head, embedding.architecture.lower(), embedding, drop=1)
    for architecture, head, targets in (
        ("Roberta", "SequenceClassification", ["query", "value"]),
        ("DistilBert", "SequenceClassification", ["q_lin", "v_lin"]),
        ("DebertaV2", "SequenceClassification", ["query_proj", "dense"]),
        ("ModernBert", "SequenceClassification", ["Wqkv", "Wo"]),
        ("GPT2", "SequenceClassification", ["c_attn"]),
        ("Qwen3", "SequenceClassification", ["q_proj", "v_proj"]),
        ("ViT", "ImageClassification", ["projection", "query"]),
        ("XLMRoberta", "TokenClassification", ["query", "dense"]),
        ("Qwen2, sliding windows", "SequenceClassification", ["q_proj", "v_proj"]),
        ("Gemma3Text", "SequenceClassification", ["q_proj", "down_proj"]),
        ("Qwen3, longrope", "SequenceClassification", ["q_proj", "v_proj"]),
        ("Qwen3, dynamic RoPE", "TokenClassification", ["q_proj", "v_proj"]),
        ("Dinov2", "ImageClassification", ["projection", "query"]),
        ("Siglip", "ImageClassification", ["q_proj", "fc1"]),
        ("SiglipVision", "Model", ["q_proj", "v_proj"]),
        ("Whisper", "AudioClassification", ["q_proj", "fc2"]),
        ("Bart", "SequenceClassification", ["q_proj", "fc1"]),
        ("T5", "SequenceClassification", ["q", "wo"]),
    ):
        settings = {"target_modules": targets, "fan_in_fan_out": architecture == "GPT2"}
        # The classes of PEFT for task types take texts.
        if head in ("ImageClassification", "AudioClassification", "Model"):
            settings |= {"task_type": None, "modules_to_save": [] if head == "Model" else ["classifier"]}
        elif head == "TokenClassification":
            settings |= {"task_type": "TOKEN_CLS"}
        built = Tuned("LORA", architecture, head, settings)
        label = "none (hidden and pooled states)" if head == "Model" else f"its own ({head})"
        yield Row("PEFT lora", "single", label, architecture.lower(), built, drop=1)
    for method, head, made in folder_cases():
        yield Row(method, "single", head, "bert", made, drop=1)


PEFT_ROWS = tuple(_peft())
