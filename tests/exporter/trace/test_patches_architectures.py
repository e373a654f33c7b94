"""Every architecture and head is traceable with dynamic batch and sequence axes, and patches do not change results."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import adapters
import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
import torch
import transformers
from torch import nn

from exporter.errors import ExportError
from exporter.models.quiet_libraries import quiet
from exporter.trace.patches import patch_for_tracing
from exporter.trace.trace import light_trace
from tests.helpers.sweep import swept
from tests.helpers.tiny_models import mpnet_interface

VOCABULARY, LONGEST = 60, 48
_SMALL = {"hidden_size": 32, "num_attention_heads": 4, "intermediate_size": 48, "num_hidden_layers": 1}
_TEXT = {**_SMALL, "vocab_size": VOCABULARY, "max_position_embeddings": LONGEST}
_GROUPED = {**_TEXT, "num_key_value_heads": 2, "pad_token_id": 0}
_BART = {
    **{f"{part}_{what}": size for part in ("encoder", "decoder") for what, size in (("layers", 1), ("attention_heads", 4))},
    "d_model": 32,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48,
    "vocab_size": VOCABULARY,
    "max_position_embeddings": LONGEST,
}
_T5 = {"d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 1, "num_heads": 4, "vocab_size": VOCABULARY}
_DEBERTA = {"relative_attention": True, "pos_att_type": ["c2p", "p2c"], "position_biased_input": False}
_IMAGE = {**_SMALL, "image_size": 12, "patch_size": 4}
CONFIGS: dict[str, dict[str, Any]] = {
    "Bert": _TEXT,
    "Roberta": _TEXT,
    "XLMRoberta": _TEXT,
    "Xmod": {**_TEXT, "languages": ["en_XX"]},
    "Electra": {**_TEXT, "embedding_size": 16},
    "Albert": {**_TEXT, "embedding_size": 16},
    "DistilBert": {"dim": 32, "n_heads": 4, "hidden_dim": 48, "n_layers": 1, "vocab_size": VOCABULARY},
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
    "ViT": _IMAGE,
    "CLIPVision": {**_IMAGE, "projection_dim": 16},
    "CLIPText": {**_TEXT, "projection_dim": 16, "eos_token_id": 4},
    "Beit": {**_IMAGE, "use_relative_position_bias": True, "use_mean_pooling": True},
    "Bart": _BART,
    "MBart": _BART,
    "T5": {**_T5, "decoder_start_token_id": 0},
    "MT5": {**_T5, "decoder_start_token_id": 0, "tie_word_embeddings": False},
    "GPT2": {"n_embd": 32, "n_layer": 1, "n_head": 4, "n_positions": LONGEST, "vocab_size": VOCABULARY, "pad_token_id": 0},
    "Llama": _GROUPED,
    "Mistral": {**_GROUPED, "sliding_window": 6},
    "Qwen2": _GROUPED,
    "Qwen3": {**_GROUPED, "head_dim": 8},
}
_FIELDS = {
    "qa": ("start_logits", "end_logits"),
    "QuestionAnswering": ("start_logits", "end_logits"),
    "dependency_parsing": ("rel_preds", "arc_preds"),
}
# CLIP takes no heads: its projected states are what it gives.
_EMBEDDINGS = {"CLIPVision": ("image_embeds",), "CLIPText": ("text_embeds",)}


@dataclass(frozen=True)
class Case:
    """An architecture with a head: a flex head's type, or the rest of the class's name of a model with one head."""

    architecture: str
    head: str
    method: Any = "seq_bn"
    options: Mapping[str, Any] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return "-".join((self.architecture, self.head, str(self.method), *map(str, self.options.values())))

    @property
    def fields(self) -> tuple[str, ...]:
        return _EMBEDDINGS.get(self.architecture, _FIELDS.get(self.head.removeprefix("For"), ("logits",)))

    @property
    def has_decoder(self) -> bool:
        return self.architecture in ("Bart", "MBart", "T5", "MT5")


def build(case: Case) -> Any:
    torch.manual_seed(11)
    config = getattr(transformers, f"{case.architecture}Config")(**{**CONFIGS[case.architecture], **case.config})
    if case.head[0].isupper():
        config.num_labels = 2 if case.head == "ForQuestionAnswering" else 3
        model = getattr(transformers, f"{case.architecture}{case.head}")(config)
        adapters.init(model, interface=mpnet_interface() if case.architecture == "MPNet" else None)
        model.add_adapter("task", config=case.method)
    else:
        model = adapters.AutoAdapterModel.from_config(config)
        model.add_adapter("task", config=case.method)
        getattr(model, f"add_{case.head}_head")("task", **case.options)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.normal_(1.0 if "norm" in name.lower() and name.endswith("weight") else 0.0, 0.15)
    model.set_active_adapters("task")
    return model.eval()


def inputs(case: Case, config: Any, batch: int, length: int, padded: bool) -> dict[str, torch.Tensor]:
    """Ids, pixels and what else the head reads; with padding on both sides, marked by padding ids and by the mask."""
    generator = np.random.default_rng((batch, length))
    if case.architecture in ("ViT", "Beit", "CLIPVision"):
        return {"pixel_values": torch.from_numpy(generator.standard_normal((batch, 3, 12, 12)).astype(np.float32))}
    ids, mask = generator.integers(5, VOCABULARY, (batch, length)), np.ones((batch, length), dtype=np.int64)
    for row in range(batch if padded else 0):
        cut = int(generator.integers(0, length))
        mask[row] = np.arange(length) < length - cut if row % 2 else np.arange(length) >= cut
    ids = np.where(mask == 1, ids, config.pad_token_id or 0)
    if case.has_decoder or case.architecture == "CLIPText":
        ids[np.arange(batch), length - 1 - mask[:, ::-1].argmax(1)] = config.eos_token_id
    found = {"input_ids": ids, "attention_mask": mask}
    if case.architecture in ("Bert", "Electra", "Albert", "Deberta"):
        found["token_type_ids"] = generator.integers(0, 2, ids.shape)
    if case.head in ("seq2seq_lm", "ForConditionalGeneration"):
        found["decoder_input_ids"] = generator.integers(5, VOCABULARY, (batch, length // 2 + 1))
    if case.head == "dependency_parsing":
        # Growing positions with gaps, then padding; one of them may be the padding id itself.
        starts = np.cumsum(generator.integers(1, 3, (batch, length // 2 + 1)), 1) - 1
        found["word_starts"] = np.where(starts < length, starts, config.pad_token_id)
    return {name: torch.from_numpy(value.astype(np.int64)) for name, value in found.items()}


class Fields(nn.Module):
    """The model as a function from inputs, by position, to the head's fields."""

    def __init__(self, model: nn.Module, names: tuple[str, ...], fields: tuple[str, ...]) -> None:
        super().__init__()
        self.model, self.names, self.fields = model, names, fields

    def forward(self, *values: torch.Tensor) -> tuple[torch.Tensor, ...]:
        output = self.model(**dict(zip(self.names, values, strict=True)))
        return tuple(output[name] for name in self.fields)


def patched(model: Any) -> Any:
    tensors = [*model.parameters(), *model.buffers()]
    clone = copy.deepcopy(model, {id(tensor): tensor for tensor in tensors})
    patch_for_tracing(clone)
    return clone


def trace(case: Case, model: Any) -> onnxruntime.InferenceSession:
    example = inputs(case, model.config, 2, 7, False)
    axes = {
        name: {0: "batch", 1: {"decoder_input_ids": "decoder", "word_starts": "words"}.get(name, "sequence")}
        for name in example
    }
    dims = {name: torch.export.Dim(name, min=1, max=None if name == "batch" else LONGEST - 2) for name in ("batch", "sequence")}
    dims |= {name: torch.export.Dim(name, min=1, max=LONGEST - 2) for name in ("decoder", "words")}
    dynamic = [{n: dims[a] for n, a in axes[name].items() if n == 0 or name != "pixel_values"} for name in example]
    with quiet(), torch.no_grad(), light_trace():
        program = torch.onnx.export(
            Fields(model, tuple(example), case.fields),
            tuple(example.values()),
            dynamo=True,
            input_names=list(example),
            output_names=[f"{name}_out" for name in case.fields],
            dynamic_shapes=(tuple(dynamic),),
            optimize=False,
            verbose=False,
        )
    assert program is not None
    assert all(value.shape is not None and not isinstance(value.shape[0], int) for value in program.model.graph.inputs)
    return onnxruntime.InferenceSession(ir.to_proto(program.model).SerializeToString(), providers=["CPUExecutionProvider"])


def reference(case: Case, model: Any, feeds: Mapping[str, torch.Tensor]) -> list[np.ndarray]:
    """The outputs of the unpatched model; scores of multiple choice as one per row."""
    if case.head == "ForMultipleChoice":
        feeds = {name: value.unsqueeze(0) for name, value in feeds.items()}
    with torch.no_grad():
        output = model(**feeds)
    answers = [output[name].numpy() for name in case.fields]
    return [answer.reshape(-1, 1) for answer in answers] if "choice" in case.head.lower() else answers


def assert_close(found: list[np.ndarray], expected: list[np.ndarray]) -> None:
    for one, other in zip(found, expected, strict=True):
        assert one.shape == other.shape
        assert np.isfinite(other).all()
        assert float(np.abs(one - other).max()) <= 1e-5 * max(1.0, float(np.abs(other).max()))


def check_eager(case: Case) -> None:
    model = build(case)
    clone = patched(model)
    for batch, length, padded in ((2, 5, False), (4, 9, True)):
        feeds = inputs(case, model.config, batch, length, padded)
        with torch.no_grad():
            output = clone(**feeds)
        assert_close([output[name].numpy() for name in case.fields], reference(case, model, feeds))


# The others are traced by test_support.py, through the whole export.
TRACED = (
    Case("Bert", "multiple_choice", options={"num_choices": 2, "use_pooler": True}),
    Case("Albert", "qa"),
    Case("CLIPText", "ModelWithProjection"),
    Case("Bart", "seq2seq_lm", "prefix_tuning", config={"attn_implementation": "eager"}),
    Case("Mistral", "tagging"),
    Case("Qwen2", "ForSequenceClassification", "seq_bn[use_gating=True]"),
)


@pytest.mark.parametrize("case", TRACED, ids=str)
def test_traced_with_free_axes(case: Case) -> None:
    model = build(case)
    session = trace(case, patched(model))
    for batch, length, padded in ((2, 5, False), (4, 9, True), (1, 12, False)):
        if case.head == "multiple_choice":
            batch = max(batch, 2)  # the library's own head takes whole questions
        feeds = inputs(case, model.config, batch, length, padded)
        answers = session.run(None, {name: value.numpy() for name, value in feeds.items()})
        assert_close(answers, reference(case, model, feeds))


_CLASSES = [name for name in CONFIGS if hasattr(adapters, f"{name}AdapterModel")]
# Their modules are those of another architecture of the list.
_ALIKE = ("XLMRoberta", "Beit", "MBart", "MT5", "Mistral")


@pytest.mark.parametrize("architecture", [*(name for name in _CLASSES if name not in _ALIKE), *swept(*_ALIKE)])
def test_patches_change_no_number(architecture: str) -> None:
    """Every head that the library adds to the architecture, without a trace."""
    heads = getattr(adapters, f"{architecture}AdapterModel").head_types
    assert heads
    for head_type in heads:
        multilabel = {"multilabel": True} if head_type == "multilabel_classification" else {}
        head = {"multilabel_classification": "classification", "question_answering": "qa"}.get(head_type, head_type)
        check_eager(Case(architecture, head, options=multilabel))


@pytest.mark.parametrize(
    "architecture", ["Bart", "T5", "Roberta", "DistilBert", "ModernBert", "Llama", *swept("MBart", "MT5", "Qwen3")]
)
def test_patches_change_no_number_of_models_with_one_head(architecture: str) -> None:
    for head in ("ForSequenceClassification", "ForMultipleChoice", "ForQuestionAnswering"):
        if hasattr(transformers, f"{architecture}{head}"):
            check_eager(Case(architecture, head))


@pytest.mark.parametrize("options", [{"attn_matrices": ["k"]}, {"attn_matrices": ["k", "v"], "use_gating": True}], ids=str)
@pytest.mark.parametrize("method", ["LoRAConfig", "IA3Config"])
def test_lora_of_merged_projections(method: str, options: dict[str, Any]) -> None:
    """GPT-2 has one projection for q, k and v; an adapter changes any of them."""
    config = getattr(adapters, method)(**options, init_weights="bert")
    check_eager(Case("GPT2", "classification", config))
    check_eager(Case("GPT2", "classification", config, config={"pad_token_id": None}))


def test_rows_of_padding_and_first_heads() -> None:
    """A row of only padding, and an active head that is not the first head of mBART."""
    model = build(Case("Llama", "classification"))
    ids = torch.tensor([[0, 0, 0], [7, 0, 0]])
    with torch.no_grad():
        torch.testing.assert_close(patched(model)(ids).logits, model(ids).logits, rtol=0, atol=1e-6)
    model = build(Case("MBart", "qa"))
    model.add_classification_head("second")
    model.active_head = "second"
    with torch.no_grad():
        torch.testing.assert_close(patched(model.eval())(ids).logits, model(ids).logits, rtol=0, atol=1e-6)


def test_words_as_the_library_reads_them() -> None:
    """Starts in the middle that are the padding id, words after a start that ends them, a single start, no start."""
    case = Case("Bert", "dependency_parsing")
    model = build(case)
    feeds = inputs(case, model.config, 5, 9, False)
    feeds["word_starts"] = torch.tensor([[1, 2, 0, 5, 9], [1, 4, -3, 6, 8], [3, 0, 0, 0, 0], [0, 0, 0, 0, 0], [2, 3, 4, 5, 20]])
    with torch.no_grad():
        assert_close([patched(model)(**feeds)[name].numpy() for name in case.fields], reference(case, model, feeds))


@pytest.mark.parametrize("architecture", ["GPT2", "Llama", "Bart"])
def test_prefix_in_a_decoder_needs_eager_attention(architecture: str) -> None:
    model = build(Case(architecture, "classification", "prefix_tuning"))
    with pytest.raises(ExportError, match=r"'task' has a prefix .* attn_implementation=\"eager\""):
        patched(model)
    model.set_attn_implementation("eager")
    patched(model)


def test_models_without_need_are_left_alone() -> None:
    for case in (
        Case("Bert", "classification"),
        Case("ViT", "image_classification"),
        Case("Roberta", "ForTokenClassification"),
    ):
        assert not [name for name, module in patched(build(case)).named_modules() if "forward" in vars(module)]


class _Projected(nn.Module):
    """An attention that projects its results itself, by a module whose name says nothing, as JetMoE does."""

    is_causal = True

    def __init__(self) -> None:
        super().__init__()
        self.config = transformers.JetMoeConfig(attn_implementation="sdpa")
        self.kv_proj, self.experts = nn.Linear(4, 4), nn.Sequential(nn.Linear(4, 4))

    def forward(self, x: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """Return the projected results for [batch, 1, length, 4]."""
        found = nn.functional.scaled_dot_product_attention(x, self.kv_proj(x), x, attn_mask=attention_mask)
        result: torch.Tensor = self.experts(found)
        return result


def test_rows_without_tokens_before_any_projection() -> None:
    plain = _Projected().eval()
    feeds = torch.randn(2, 1, 3, 4), torch.ones(2, 1, 3, 3, dtype=torch.bool).tril(-1)
    clone = patched(plain)
    with torch.no_grad():
        torch.testing.assert_close(clone(*feeds), plain(*feeds))
    nodes = [str(node.target) for node in torch.export.export(clone, feeds).graph.nodes]
    attention = next(number for number, name in enumerate(nodes) if "scaled_dot_product" in name)
    projection = max(number for number, name in enumerate(nodes) if "linear" in name)
    assert any("any" in name for name in nodes[attention:projection])
