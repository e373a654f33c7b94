"""Models that no graph of dynamic length represents are refused by name, without a trace."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import adapters
import pytest
import torch
import transformers

from exporter import ExportError, export
from exporter.checkpoints.image_settings import ImageSettings
from exporter.models.architectures import check_architecture
from exporter.models.heads import find_head
from exporter.models.inputs import model_inputs
from exporter.notes import other_inputs
from tests.helpers.support_models import CONFIGS
from tests.helpers.tiny_peft import tuned_model

_SMALL: dict[str, Any] = {
    "num_hidden_layers": 1,
    "hidden_size": 16,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "vocab_size": 60,
}
_HEADS = {"encoder_attention_heads": 2, "decoder_attention_heads": 2}
_DECODER = {"d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "vocab_size": 60, **_HEADS}
_LONG = {"attention_window": 4}
_TO_FULL = r"full attention, such as ModernBERT"


def _meta(name: str, head: str = "Model", **settings: Any) -> Any:
    """A model without weights."""
    config = getattr(transformers, f"{name}Config")(**settings)
    with torch.device("meta"):
        return getattr(transformers, name + head)(config)


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("Canine", _SMALL, rf"CanineModel \(canine\) reads characters .* {_TO_FULL}"),
        ("Longformer", {**_SMALL, **_LONG}, rf"Longformer.* windows of fixed size.* {_TO_FULL}"),
        ("LED", {**_DECODER, **_LONG}, rf"LED.* windows of fixed size.* {_TO_FULL}"),
        ("BigBirdPegasus", _DECODER, rf"BigBirdPegasus.* windows of fixed size.* {_TO_FULL}"),
        ("BigBird", _SMALL, r'BigBird.* block sparse attention.*set config\.attention_type to "original_full"'),
        ("Funnel", {"block_sizes": [1, 1], "d_model": 16, "n_head": 2}, rf"Funnel.* halves .* {_TO_FULL}"),
        ("Nystromformer", _SMALL, rf"Nystromformer.* into blocks.* {_TO_FULL}"),
        ("Mra", _SMALL, rf"Mra.* into blocks.* {_TO_FULL}"),
        ("Reformer", {"attn_layers": ["lsh"], "is_decoder": False}, rf"Reformer.* random hashes.* {_TO_FULL}"),
        ("Mamba", {"num_hidden_layers": 1, "hidden_size": 16, "vocab_size": 60}, rf"Mamba.* a state .* {_TO_FULL}"),
        ("Jamba", _SMALL, rf"Jamba.* a state from position to position.* {_TO_FULL}"),
        ("MiniMax", {**_SMALL, "layer_types": ["linear_attention"]}, rf"MiniMax.* a state .* {_TO_FULL}"),
        ("FalconH1", _SMALL, rf"FalconH1.* a state .* {_TO_FULL}"),
        ("Lxmert", {"vocab_size": 60}, r"Lxmert.* reads texts and images.* only texts or only images"),
        ("Siglip2Vision", {}, r"Siglip2Vision.* whose number differs .* SigLIP"),
        ("Bros", _SMALL, r"Bros.* boxes of the words \(bbox\).* reads the text only"),
    ],
)
def test_lengths_that_are_divided(name: str, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ExportError, match=message):
        check_architecture(_meta(name, **settings))


@pytest.mark.parametrize("settings", [{"type_vocab_size": "two"}, {"max_position_embeddings": [512]}, {"eos_token_id": [1]}])
def test_numbers_of_a_configuration(settings: dict[str, Any]) -> None:
    model = _meta("T5", d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2, vocab_size=60)
    check_architecture(model)
    model.config.update(settings)
    with pytest.raises(ExportError, match=rf"T5Model sets {next(iter(settings))} to .*: expected a whole number"):
        check_architecture(model)


def test_full_attention_is_exported() -> None:
    check_architecture(_meta("BigBird", attention_type="original_full", **_SMALL))
    check_architecture(_meta("MiniMax", **_SMALL, layer_types=["full_attention"]))
    check_architecture(_meta("Bert", **_SMALL))


def test_the_export_names_the_class(tmp_path: Path) -> None:
    base = transformers.CanineForTokenClassification(transformers.CanineConfig(**_SMALL, num_hash_buckets=16))
    model = tuned_model("LORA", base, task_type="TOKEN_CLS", target_modules=["query"])
    with pytest.raises(ExportError, match=r"CanineForTokenClassification \(canine\)"):
        export(model, output=tmp_path / "onnx")
    part = transformers.BertConfig(**_SMALL)
    settings = transformers.EncoderDecoderConfig.from_encoder_decoder_configs(part, part)
    both: Any = transformers.EncoderDecoderModel(settings)
    adapters.init(both)
    both.add_adapter("a")
    with pytest.raises(ExportError, match=r"EncoderDecoderModel\w* \(encoder-decoder\) combines .* model of its encoder only"):
        export(both, output=tmp_path / "onnx")
    assert list(tmp_path.iterdir()) == []


def test_audio() -> None:
    config = transformers.WhisperConfig(**CONFIGS["Whisper"], decoder_layers=1, decoder_attention_heads=4)
    (entry,) = model_inputs(transformers.WhisperForAudioClassification(config), None, {"classification"})
    assert (entry.name, entry.dtype, entry.shape) == ("input_features", "float32", ("batch", "8", "20"))
    model = adapters.WhisperAdapterModel(config)
    with pytest.raises(ExportError, match=r"WhisperAdapterModel generates a text .* only WhisperForAudioClassification"):
        model_inputs(model, None, {"seq2seq_lm"})
    sizes: dict[str, Any] = {"conv_dim": [8], "conv_kernel": [4], "conv_stride": [2], "num_feat_extract_layers": 1}
    with pytest.raises(ExportError, match=r"Wav2Vec2ForSequenceClassification reads input_values, .* WhisperForAudio"):
        model_inputs(_meta("Wav2Vec2", "ForSequenceClassification", **_SMALL, **sizes), None, {"classification"})
    with pytest.raises(ExportError, match=r"WhisperModel has no prediction head.*use WhisperForAudioClassification"):
        find_head(transformers.WhisperModel(config), "a", "")
    with pytest.raises(ExportError, match=r"Wav2Vec2Model has no prediction head.* only WhisperForAudioClassification"):
        find_head(_meta("Wav2Vec2", **_SMALL, **sizes), "a", "")


def test_data_that_no_graph_takes() -> None:
    """A note names it: the graph gives what transformers gives without."""
    (layout, tables) = other_inputs([_meta("LayoutLMv3", **_SMALL), _meta("Tapas", **_SMALL), _meta("Bert", **_SMALL)])
    assert layout == (
        "LayoutLMv3Model also takes bbox, pixel_values, for which the graph has no input: its results are those of "
        "transformers without"
    )
    assert tables.startswith("TapasModel also takes token_type_ids of several columns")
    assert other_inputs([_meta("ViT", hidden_size=16, num_hidden_layers=1, num_attention_heads=2)]) == ()


def test_images_have_the_size_that_their_processor_makes() -> None:
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "patch_size": 14}
    model = transformers.Dinov2ForImageClassification(transformers.Dinov2Config(**sizes, image_size=56))
    for images, side in ((None, "56"), ((28, 28), "28")):
        (entry,) = model_inputs(model, None, {"classification"}, images)
        assert entry.shape == ("batch", "3", side, side)
    # Its configuration has no size
    resnet = transformers.ResNetModel(transformers.ResNetConfig(embedding_size=8, hidden_sizes=[8], depths=[1]))
    (entry,) = model_inputs(resnet, None, {"pooled_states"}, (32, 64))
    assert entry.shape == ("batch", "3", "32", "64")
    with pytest.raises(ExportError, match=r"has no image_size, .* save the image processor, which makes images of one size"):
        model_inputs(resnet, None, {"pooled_states"})
    vit = transformers.ViTModel(transformers.ViTConfig(**CONFIGS["ViT"]))
    own = "x".join([str(vit.config.image_size)] * 2)
    with pytest.raises(ExportError, match=rf"processor makes images of 28x28 pixels, and ViTModel takes {own}: correct size"):
        model_inputs(vit, None, {"pooled_states"}, (28, 28))


@pytest.mark.parametrize(
    ("content", "size"),
    [
        ({"size": 224}, (224, 224)),
        ({"size": {"height": 16, "width": 32}, "do_center_crop": False, "crop_size": 8}, (16, 32)),
        ({"size": {"shortest_edge": 256}, "do_center_crop": True, "crop_size": {"height": 224, "width": 224}}, (224, 224)),
        ({"size": 256, "do_center_crop": True, "crop_size": 224}, (224, 224)),
        ({"size": {"shortest_edge": 256}}, None),
        ({"size": 224, "do_resize": False}, None),
        ({"size": {"height": True, "width": -1}}, None),
        ({}, None),
    ],
)
def test_the_size_of_an_image_processor(content: dict[str, Any], size: tuple[int, int] | None) -> None:
    assert ImageSettings(content).size == size


@pytest.mark.parametrize(
    ("name", "settings", "kind"),
    [
        ("ViT", {}, "pooled_states"),
        ("CLIPVision", {}, "pooled_states"),
        ("Dinov2", {}, "pooled_states"),
        ("SiglipVision", {}, "pooled_states"),
        ("SiglipVision", {"vision_use_head": False}, "hidden_states"),
        ("SiglipText", _SMALL, "pooled_states"),
        ("CLIPText", _SMALL, "hidden_states"),
        ("Bert", _SMALL, "hidden_states"),
    ],
)
def test_states_without_a_head(name: str, settings: dict[str, Any], kind: str) -> None:
    known = {} if "Text" in name or name == "Bert" else CONFIGS["ViT"]
    assert find_head(_meta(name, "Model", **{**known, **settings}), "a", "").kind == kind


def test_a_pooler_that_was_left_out() -> None:
    model: Any = transformers.ViTModel(transformers.ViTConfig(**CONFIGS["ViT"]), add_pooling_layer=False)
    assert find_head(model, "a", "").kind == "hidden_states"


def test_a_class_of_peft_that_cannot_run_the_model(tmp_path: Path) -> None:
    base: Any = transformers.CLIPVisionModel(transformers.CLIPVisionConfig(**CONFIGS["CLIPVision"]))
    model = tuned_model("LORA", base, task_type="FEATURE_EXTRACTION", target_modules=["q_proj"])
    message = r"PeftModelForFeatureExtraction cannot run CLIPVisionModel, .* without a task_type"
    with pytest.raises(ExportError, match=message):
        export(model, output=tmp_path / "onnx")


def test_outputs_that_a_head_does_not_return(tmp_path: Path) -> None:
    """XLNet has a class that searches for the spans with the highest scores."""
    sizes = {"d_model": 16, "n_layer": 1, "n_head": 2, "d_inner": 16, "vocab_size": 60}
    tuned = tuned_model(
        "LORA", transformers.XLNetForQuestionAnswering(transformers.XLNetConfig(**sizes)), target_modules=["layer_1"]
    )
    with pytest.raises(ExportError, match=r"XLNetForQuestionAnswering returns start_top_.* and no start_logits and end_logits"):
        export(tuned, output=tmp_path / "onnx")
