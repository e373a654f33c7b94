"""The rows of docs/support.md: methods, compositions, heads and architectures, each as a tiny model to export."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import adapters
import peft
import torch
import transformers
from adapters.composition import Average, BatchSplit, Fuse, Split, Stack

from tests.helpers.tiny_models import MPNET
from tests.helpers.tiny_peft import TUNERS, tuned_model

LAYERS, VOCABULARY, LONGEST = 2, 60, 32
_SMALL = {"hidden_size": 32, "num_attention_heads": 4, "intermediate_size": 48, "num_hidden_layers": LAYERS}
_TEXT = {**_SMALL, "vocab_size": VOCABULARY, "max_position_embeddings": LONGEST}
_GROUPED = {**_TEXT, "num_key_value_heads": 2, "pad_token_id": 0}
_BART = {
    **{f"{part}_{what}": size for part in ("encoder", "decoder") for what, size in (("layers", 1), ("attention_heads", 4))},
    "d_model": 32,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48,
    "vocab_size": VOCABULARY,
    "max_position_embeddings": LONGEST,
    "eos_token_id": 2,
    "pad_token_id": 1,
}
_T5 = {
    "d_model": 32,
    "d_kv": 8,
    "d_ff": 48,
    "num_layers": 1,
    "num_heads": 4,
    "vocab_size": VOCABULARY,
    "decoder_start_token_id": 0,
}
_DEBERTA = {"relative_attention": True, "pos_att_type": ["c2p", "p2c"], "position_biased_input": False}
_IMAGE = {**_SMALL, "image_size": 12, "patch_size": 4}
_CLIP_TEXT = {**_TEXT, "projection_dim": 16, "eos_token_id": 2, "bos_token_id": 1}
CONFIGS: dict[str, dict[str, Any]] = {
    "Bert": _TEXT,
    "Roberta": _TEXT,
    "XLMRoberta": _TEXT,
    "Xmod": {**_TEXT, "languages": ["en_XX"], "default_language": "en_XX"},
    "Electra": {**_TEXT, "embedding_size": 16},
    "Albert": {**_TEXT, "embedding_size": 16, "num_hidden_groups": LAYERS},
    "DistilBert": {
        "dim": 32,
        "n_heads": 4,
        "hidden_dim": 48,
        "n_layers": LAYERS,
        "vocab_size": VOCABULARY,
        "max_position_embeddings": LONGEST,
    },
    "Deberta": {**_TEXT, **_DEBERTA, "type_vocab_size": 2},
    "DebertaV2": {**_TEXT, **_DEBERTA, "position_buckets": 8, "share_att_key": True, "norm_rel_ebd": "layer_norm"},
    "MPNet": _TEXT,
    "ModernBert": {
        **_TEXT,
        "pad_token_id": 0,
        "local_attention": 8,
        "global_attn_every_n_layers": 2,
        "reference_compile": False,
    },
    "CLIPText": _CLIP_TEXT,
    "CLIPVision": {**_IMAGE, "projection_dim": 16},
    "ViT": _IMAGE,
    "Beit": {**_IMAGE, "use_relative_position_bias": True, "use_mean_pooling": True},
    "Bart": _BART,
    "MBart": _BART,
    "T5": _T5,
    "MT5": {**_T5, "tie_word_embeddings": False},
    "GPT2": {
        "n_embd": 32,
        "n_layer": LAYERS,
        "n_head": 4,
        "n_positions": LONGEST,
        "vocab_size": VOCABULARY,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
    },
    "Llama": _GROUPED,
    "Mistral": {**_GROUPED, "sliding_window": 6},
    "Qwen2": _GROUPED,
    "Qwen3": {**_GROUPED, "head_dim": 8},
}
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
class Row:
    """One line of the table: what is exported, and how the model for it is made.

    `build` returns the model; `tasks` is what `export` is asked for, None for all.
    """

    method: str
    composition: str
    head: str
    architecture: str
    build: Callable[[], Any]
    tasks: Mapping[str, Any] | None = None
    drop: int = 1

    @property
    def key(self) -> str:
        return " | ".join((self.method, self.composition, self.head, self.architecture))


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
        _randomize(model)
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
        adapters.init(model, interface=MPNET if self.architecture == "MPNet" else None)
        for name in "ab":
            model.add_adapter(name, config=self.method)
        _randomize(model)
        return model


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
        _randomize(model)
        return model


@dataclass(frozen=True)
class Tuned:
    """Builds a model with two adapters, a and b, of a PEFT type, over a class of transformers with one head."""

    kind: str
    architecture: str = "Bert"
    head: str = "SequenceClassification"
    options: Mapping[str, Any] = field(default_factory=dict)

    def __call__(self) -> Any:
        torch.manual_seed(11)
        config = getattr(transformers, f"{self.architecture}Config")(**CONFIGS[self.architecture])
        config.num_labels = 2 if self.head == "QuestionAnswering" else 3
        base = getattr(transformers, f"{self.architecture}For{self.head}")(config)
        return tuned_model(self.kind, base, ("a", "b"), **self.options)


def _randomize(model: Any) -> None:
    """Far from the identity: a fresh adapter computes almost nothing, and a mistake in it would not show."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            # A rotation is given by a matrix with a diagonal of -1 and 1: any other numbers would make it zero.
            if not name.endswith("weight.original"):
                centre = 1.0 if name.endswith(".m.weight") or ("norm" in name.lower() and name.endswith("weight")) else 0.0
                # Kronecker products and products of four matrices need larger factors.
                parameter.normal_(centre, 0.6 if any(part in name for part in ("phm_rule", "W_", "vera_")) else 0.15)


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
    for architecture, head, targets in (
        ("Roberta", "SequenceClassification", ["query", "value"]),
        ("DistilBert", "SequenceClassification", ["q_lin", "v_lin"]),
        ("DebertaV2", "SequenceClassification", ["query_proj", "dense"]),
        ("ModernBert", "SequenceClassification", ["Wqkv", "Wo"]),
        ("GPT2", "SequenceClassification", ["c_attn"]),
        ("Qwen3", "SequenceClassification", ["q_proj", "v_proj"]),
        ("ViT", "ImageClassification", ["projection", "query"]),
    ):
        settings = {"target_modules": targets, "fan_in_fan_out": architecture == "GPT2"}
        settings |= {"task_type": None, "modules_to_save": ["classifier"]} if architecture == "ViT" else {}
        built = Tuned("LORA", architecture, head, settings)
        yield Row("PEFT lora", "single", f"its own ({head})", architecture.lower(), built, drop=1)


ROWS = (*_methods(), *_compositions(), *_heads(), *_architectures(), *_peft())
