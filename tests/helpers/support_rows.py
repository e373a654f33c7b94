"""The rows of docs/support.md: methods, compositions, heads and architectures, each as a tiny model to export.

The rows of PEFT are in peft_rows.py, which does not import the adapters library.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import adapters
import torch
import transformers
from adapters.composition import Average, BatchSplit, Fuse, Split, Stack

from tests.helpers.peft_rows import PEFT_ROWS
from tests.helpers.support_models import CONFIGS, Row, randomize
from tests.helpers.tiny_models import mpnet_interface

_BOTTLENECKS: dict[str, Any] = {
    "seq_bn": adapters.SeqBnConfig(),
    "seq_bn, gated": adapters.SeqBnConfig(use_gating=True),
    "seq_bn, own norms": adapters.SeqBnConfig(ln_before=True, ln_after=True),
    "seq_bn, residual orders": adapters.SeqBnConfig(residual_before_ln=False, adapter_residual_before_ln=True, ln_after=True),
    "seq_bn, no norms": adapters.SeqBnConfig(original_ln_before=False, original_ln_after=False),
    "seq_bn, swish": adapters.SeqBnConfig(non_linearity="swish", reduction_factor=4),
    "seq_bn, leave_out": adapters.SeqBnConfig(leave_out=[1]),
    "seq_bn, factors by layer": adapters.SeqBnConfig(reduction_factor={"1": 8, "default": 4}),
    "seq_bn_inv (NICE)": adapters.SeqBnInvConfig(),
    "seq_bn_inv (GLOW)": adapters.SeqBnInvConfig(inv_adapter="glow"),
    "double_seq_bn": adapters.DoubleSeqBnConfig(),
    "double_seq_bn, scale per channel, gelu": adapters.DoubleSeqBnConfig(scaling="channel", non_linearity="gelu"),
    "double_seq_bn_inv": adapters.DoubleSeqBnInvConfig(),
    "par_bn": adapters.ParBnConfig(),
    "scaled_par_bn": adapters.ParBnConfig(scaling="learned"),
    "par_bn, twice, gated": adapters.ParBnConfig(mh_adapter=True, ln_before=True, use_gating=True),
    "adapter_plus": adapters.AdapterPlusConfig(stochastic_depth=0.0),
    "compacter": adapters.CompacterConfig(reduction_factor=8, phm_dim=4),
    "compacter++": adapters.CompacterPlusPlusConfig(reduction_factor=8, phm_dim=4),
    "compacter, shared and factorized": adapters.CompacterConfig(reduction_factor=8, phm_dim=4, shared_W_phm=True),
}
_OTHERS: dict[str, Any] = {
    "lora": adapters.LoRAConfig(r=4, alpha=8),
    "lora, gated": adapters.LoRAConfig(r=4, use_gating=True),
    "lora, all matrices": adapters.LoRAConfig(r=4, attn_matrices=["q", "k", "v"], intermediate_lora=True, output_lora=True),
    "dora": adapters.DoRAConfig(r=4),
    "vera": adapters.VeraConfig(r=4),
    "dvora": adapters.DvoRAConfig(r=4),
    "mtl_lora": adapters.MTLLoRAConfig(r=4),
    "ia3": adapters.IA3Config(),
    "prefix_tuning": adapters.PrefixTuningConfig(prefix_length=5, bottleneck_size=16),
    "prefix_tuning_flat": adapters.PrefixTuningConfig(flat=True, prefix_length=5),
    "prompt_tuning": adapters.PromptTuningConfig(prompt_length=4),
    "loreft": adapters.LoReftConfig(),
    "noreft": adapters.NoReftConfig(),
    "direft": adapters.DiReftConfig(),
    "loreft, suffix positions": adapters.LoReftConfig(prefix_positions=2, suffix_positions=2, tied_weights=False),
    "mam": adapters.MAMConfig(
        adapters.PrefixTuningConfig(prefix_length=5, bottleneck_size=16), adapters.ParBnConfig(reduction_factor=4)
    ),
    "unipelt": adapters.UniPELTConfig(
        adapters.PrefixTuningConfig(prefix_length=5, use_gating=True),
        adapters.SeqBnConfig(reduction_factor=8, use_gating=True),
        adapters.LoRAConfig(r=4, use_gating=True),
    ),
    "union of lora and seq_bn": adapters.ConfigUnion(adapters.LoRAConfig(r=4), adapters.SeqBnConfig()),
}


@dataclass(frozen=True)
class Flex:
    """Builds a model with named heads: task -> (adapter configuration, head, options of the head)."""

    architecture: str
    tasks: Mapping[str, tuple[Any, str, Mapping[str, Any]]]
    members: Mapping[str, Any] = field(default_factory=dict)
    fusions: tuple[tuple[list[str], Any], ...] = ()
    merged: str | None = None

    def __call__(self) -> Any:
        torch.manual_seed(11)
        config = getattr(transformers, f"{self.architecture}Config")(**CONFIGS[self.architecture])
        model = adapters.AutoAdapterModel.from_config(config)
        for name, method in self.members.items():
            model.add_adapter(name, config=method)
        for name, (method, head, options) in self.tasks.items():
            if method is not None:
                model.add_adapter(name, config=method)
            getattr(model, f"add_{head}_head")(name, **options)
        for names, options in self.fusions:
            model.add_adapter_fusion(names, config=options)
        randomize(model)
        if self.merged is not None:
            model.merge_adapter(self.merged)
        return model


@dataclass(frozen=True)
class Static:
    """Builds a model with its own head and two adapters, a and b."""

    architecture: str
    head: str
    method: Any = "seq_bn"

    def __call__(self) -> Any:
        torch.manual_seed(11)
        config = getattr(transformers, f"{self.architecture}Config")(**CONFIGS[self.architecture])
        config.num_labels = 2 if self.head == "ForQuestionAnswering" else 3
        model = getattr(transformers, self.architecture + self.head)(config)
        adapters.init(model, interface=mpnet_interface() if self.architecture == "MPNet" else None)
        for name in "ab":
            model.add_adapter(name, config=self.method)
        randomize(model)
        return model


def _two(method: Any, architecture: str = "Bert", head: str = "classification", **options: Any) -> Flex:
    labels = [{"num_labels": 2}, {"num_labels": 3}] if head == "classification" else [{}, {}]
    tasks = {name: (method, head, {**own, **options}) for name, own in zip("ab", labels, strict=True)}
    return Flex(architecture, tasks)


def _methods() -> Iterator[Row]:
    for name, config in {**_BOTTLENECKS, **_OTHERS}.items():
        yield Row(name, "single", "classification", "bert", _two(config))
    lora = _two(_OTHERS["lora"])
    yield Row("lora, merged", "single", "classification", "bert", Flex("Bert", lora.tasks, merged="a"))
    shared = {"a": _BOTTLENECKS["double_seq_bn"], "b": _OTHERS["lora"], "c": _OTHERS["prefix_tuning"]}
    tasks: dict[str, Any] = {name: (config, "classification", {}) for name, config in shared.items()}
    yield Row("double_seq_bn, lora, prefix_tuning", "single", "classification", "bert", Flex("Bert", tasks))


def _compositions() -> Iterator[Row]:
    head = {"x": (None, "classification", {}), "y": (None, "classification", {"num_labels": 3})}
    for name in ("seq_bn", "lora", "prefix_tuning", "double_seq_bn_inv"):
        config = {**_BOTTLENECKS, **_OTHERS}[name]
        members = dict.fromkeys("abcd", config)
        plain = Flex("Bert", head, members)
        tasks: dict[str, Any] = {"x": Stack("a", "b"), "y": Stack("a", "c")}
        yield Row(name, "Stack, first adapter in common", "classification", "bert", plain, tasks)
        if name in ("seq_bn", "lora"):
            tasks = {"x": Average("a", "b", weights=[0.3, 0.7]), "y": Average("c", "d", weights=[0.3, 0.7])}
            yield Row(name, "Average", "classification", "bert", plain, tasks)
    members = dict.fromkeys("abcd", _BOTTLENECKS["seq_bn"])
    for label, options in (("dynamic", "dynamic"), ("static", "static")):
        fused = Flex("Bert", head, members, ((["a", "b", "c"], options), (["b", "c", "d"], options)))
        tasks = {"x": Fuse("a", "b", "c"), "y": Fuse("b", "c", "d")}
        yield Row("seq_bn", f"Fuse ({label})", "classification", "bert", fused, tasks, drop=0)
    fused = Flex("Bert", head, members, ((["b", "c"], "dynamic"), (["b", "d"], "dynamic")))
    yield Row("seq_bn", "Stack with Fuse", "classification", "bert", fused, {"x": Stack("a", Fuse("b", "c"))}, drop=0)
    yield Row("seq_bn", "Fuse of Stack", "classification", "bert", fused, {"x": Fuse("b", Stack("a", "d"))}, drop=0)
    tasks = {"x": Average("a", Stack("b", "c"))}
    yield Row("seq_bn", "Average of Stack", "classification", "bert", Flex("Bert", head, members), tasks)
    yield Row("seq_bn", "Split", "classification", "bert", Flex("Bert", head, members), {"x": Split("a", "b", splits=4)})
    tasks = {"x": BatchSplit("a", "b", batch_sizes=1)}
    yield Row("seq_bn", "BatchSplit", "classification", "bert", Flex("Bert", head, members), tasks)


def _heads() -> Iterator[Row]:
    classifiers: dict[str, dict[str, Any]] = {
        "classification, pooler": {"use_pooler": True, "layers": 1},
        "multilabel": {"multilabel": True, "num_labels": 4},
        "regression": {"num_labels": 1},
    }
    for name, options in classifiers.items():
        yield Row("seq_bn", "single", name, "bert", _two("seq_bn", head="classification", **options))
    others: dict[str, dict[str, Any]] = {
        "tagging": {"num_labels": 4},
        "qa": {},
        "multiple_choice": {"num_choices": 3},
        "masked_lm": {},
        "causal_lm": {},
        "dependency_parsing": {"num_labels": 4, "id2label": dict(enumerate("abcd"))},
    }
    for name, options in others.items():
        yield Row("seq_bn", "single", name, "bert", _two("seq_bn", head=name, **options))
    mixed = {
        "a": ("seq_bn", "classification", {}),
        "b": ("seq_bn", "qa", {}),
        "c": ("seq_bn", "tagging", {"num_labels": 4}),
        "d": ("seq_bn", "multiple_choice", {"num_choices": 2}),
    }
    yield Row("seq_bn", "single", "four different heads", "bert", Flex("Bert", mixed))


def _architectures() -> Iterator[Row]:
    texts = ("Roberta", "XLMRoberta", "DistilBert", "Albert", "Electra", "Deberta", "DebertaV2", "Xmod")
    for name in (*texts, "GPT2", "Llama", "Mistral", "Bart", "MBart", "T5", "MT5"):
        yield Row("seq_bn", "single", "classification", name.lower(), _two("seq_bn", name), drop=0 if "T5" in name else 1)
    for name in ("ViT", "Beit"):
        yield Row("seq_bn", "single", "image_classification", name.lower(), _two("seq_bn", name, "image_classification"))
    for name in ("Bart", "T5"):
        yield Row("seq_bn", "single", "seq2seq_lm", name.lower(), _two("seq_bn", name, "seq2seq_lm"))
    for name in ("GPT2", "Deberta"):
        yield Row("lora", "single", "classification", name.lower(), _two(_OTHERS["lora"], name))
    yield Row("prefix_tuning", "single", "classification", "distilbert", _two(_OTHERS["prefix_tuning"], "DistilBert"))
    yield from _heads_elsewhere()
    for name, head in (
        ("Bert", "SequenceClassification"),
        ("Bert", "TokenClassification"),
        ("Bert", "QuestionAnswering"),
        ("Bert", "MultipleChoice"),
        ("Roberta", "SequenceClassification"),
        ("MPNet", "SequenceClassification"),
        ("ModernBert", "SequenceClassification"),
        ("Bart", "SequenceClassification"),
        ("T5", "SequenceClassification"),
        ("Qwen2", "SequenceClassification"),
        ("Qwen3", "SequenceClassification"),
    ):
        method = "lora" if name == "ModernBert" else "seq_bn"
        label = f"its own ({head})"
        yield Row(method, "single", label, name.lower(), Static(name, f"For{head}", method))
    for name, head, label in (
        ("CLIPText", "ModelWithProjection", "its own (text embedding)"),
        ("CLIPVision", "ModelWithProjection", "its own (image embedding)"),
        ("Bert", "Model", "none (hidden states)"),
        ("ViT", "Model", "none (hidden and pooled states)"),
        ("Whisper", "ForAudioClassification", "its own (AudioClassification)"),
    ):
        yield Row("seq_bn", "single", label, name.lower(), Static(name, head))


def _heads_elsewhere() -> Iterator[Row]:
    """Each head on other architectures than BERT, which keep their own code for it, and each such architecture once."""
    for name, head, options in (
        ("Roberta", "masked_lm", {}),
        ("DistilBert", "qa", {}),
        ("DebertaV2", "tagging", {"num_labels": 4}),
        ("Electra", "masked_lm", {}),
        ("XLMRoberta", "tagging", {"num_labels": 4}),
        ("GPT2", "causal_lm", {}),
        ("MBart", "seq2seq_lm", {}),
    ):
        yield Row("seq_bn", "single", head, name.lower(), _two("seq_bn", name, head, **options))


ROWS = (*_methods(), *_compositions(), *_heads(), *_architectures(), *PEFT_ROWS)
