"""An export inside of contexts of the calling code: they have no effect on it, and are as before afterwards."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest
import torch
from adapters.context import AdapterSetup, ForwardContext
from transformers import BertForSequenceClassification

from exporter import export
from exporter.models.neutral_state import neutral_state
from tests.helpers.tiny_models import assert_parity, inputs, run_graph, tiny_model
from tests.helpers.tiny_peft import config, tuned_model


@pytest.mark.usefixtures("fresh_traces")
def test_an_export_inside_of_contexts(tmp_path: Path) -> None:
    model = tiny_model({"first": ("lora", "2"), "second": ("seq_bn", "3")}).eval()
    feeds = inputs((3, 5))
    expected: dict[str, np.ndarray] = {}
    for name in ("first", "second"):
        model.set_active_adapters(name)
        model.active_head = name
        with torch.no_grad():
            expected[name] = model(**{key: torch.from_numpy(value) for key, value in feeds.items()}).logits.numpy()
    model.config.return_dict = False
    torch.use_deterministic_algorithms(True)
    torch.set_default_dtype(torch.float64)
    torch.set_float32_matmul_precision("medium")
    try:
        with AdapterSetup("first"), torch.autocast("cpu", torch.bfloat16), torch.inference_mode(), torch.device("meta"):
            export(model, output=tmp_path / "onnx")
            assert AdapterSetup.get_context_adapter_setup().last() == "first"
            assert torch.is_autocast_enabled("cpu")
            assert torch.is_inference_mode_enabled()
            assert torch.get_default_device().type == "meta"
        assert torch.are_deterministic_algorithms_enabled()
        assert torch.get_default_dtype() == torch.float64
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.use_deterministic_algorithms(False)
        torch.set_default_dtype(torch.float32)
        torch.set_float32_matmul_precision("highest")
    assert model.config.return_dict is False
    found = run_graph(tmp_path / "onnx", feeds)
    for name in expected:
        assert_parity(found[name], expected[name])


def test_contexts_are_restored_after_an_error() -> None:
    with AdapterSetup("a"):
        with contextlib.suppress(KeyError), neutral_state():
            assert AdapterSetup.get_context() is None
            assert ForwardContext.get_context() is None
            raise KeyError
        assert AdapterSetup.get_context_adapter_setup().last() == "a"


@pytest.mark.parametrize("settings", [{"return_dict": False}, {"torchscript": True}, {"chunk_size_feed_forward": 4}])
def test_settings_of_a_folder_have_no_effect(tmp_path: Path, settings: dict[str, Any]) -> None:
    """The adapters are compared with PEFT's own models, which have the same settings."""
    base = BertForSequenceClassification(config(num_hidden_layers=1))
    model = tuned_model("LORA", base, names=("default",))
    model.save_pretrained(tmp_path / "a")
    base = model.unload()
    base.config.update(settings)
    base.save_pretrained(tmp_path / "base")
    export(tmp_path / "base", False, adapters=[f"a={tmp_path / 'a'}"], output=tmp_path / "onnx")
    feeds = inputs((2, 5))
    expected = BertForSequenceClassification.from_pretrained(tmp_path / "base", return_dict=True, chunk_size_feed_forward=0)
    with_adapter = peft.PeftModel.from_pretrained(expected, tmp_path / "a").eval()
    with torch.no_grad():
        logits = with_adapter(**{key: torch.from_numpy(value) for key, value in feeds.items()})[0].numpy()
    assert_parity(run_graph(tmp_path / "onnx", feeds)["logits"], logits)
