"""Configurations that ask for code, quantized weights or other files are refused before transformers reads them."""

from __future__ import annotations

import json
import sys
import types
from pathlib import Path
from typing import Any

import pytest

from exporter import ExportError
from exporter.checkpoints.base_model import read_config
from exporter.checkpoints.load import load
from tests.helpers.load_testing import assert_refused, edit
from tests.helpers.tiny_models import bert_config, tiny_model
from tests.helpers.tiny_peft import TRANSFORMERS_5

_KERNEL = "attacker/kernel"


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    tiny_model({"a": ("seq_bn", "2")}, bert_config(layers=3)).save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@pytest.mark.parametrize(
    "changes",
    [
        {"_attn_implementation": _KERNEL},
        {"_attn_implementation_internal": _KERNEL},
        {"attn_implementation": _KERNEL},
        {"_attn_implementation": {"": "sdpa", "text_config": _KERNEL}},
        {"text_config": {"_attn_implementation_internal": _KERNEL}},
        {"layers": [{"_attn_implementation": _KERNEL}]},
        {"_experts_implementation": _KERNEL},
        {"_attn_implementation": "flash_attention_2"},
        {"_attn_implementation": f"paged|{_KERNEL}"},
        {"_attn_implementation": 5},
        {"use_kernels": True},
        {"transformers_weights": "../other.safetensors"},
    ],
)
def test_requests_for_code_are_refused(saved: Path, changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    def called(*_: Any, **__: Any) -> None:
        pytest.fail("the package kernels was used")

    package = types.ModuleType("kernels")
    package.get_kernel = called  # type: ignore[attr-defined]  # a stand-in for the package
    monkeypatch.setitem(sys.modules, "kernels", package)
    edit(saved / "config.json", **changes)
    assert_refused(r"config.json' sets \S+ to .*remove", saved)


@pytest.mark.parametrize("value", [None, "eager", "sdpa", {"": "eager"}])
def test_implementations_of_transformers_itself(saved: Path, value: Any) -> None:
    edit(saved / "config.json", _attn_implementation=value)
    assert read_config(saved)["model_type"] == "bert"


def test_eager_attention_is_loaded(saved: Path) -> None:
    edit(saved / "config.json", _attn_implementation="eager")
    assert load(saved).model.config._attn_implementation == "eager"


@pytest.mark.parametrize(
    ("config", "method"),
    [
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "bitsandbytes"),
        ({"load_in_8bit": True}, "bitsandbytes"),
        ({"quant_method": "gptq", "bits": 4}, "gptq"),
        ({"quant_method": "torchao"}, "torchao"),
        ({"quant_method": "frobnicated"}, "frobnicated"),
    ],
)
@pytest.mark.parametrize("key", ["quantization_config", "compression_config"])
def test_quantized_models_are_refused_by_name(saved: Path, key: str, config: dict[str, Any], method: str) -> None:
    edit(saved / "config.json", **{key: config})
    (saved / "model.safetensors").write_bytes(b"")  # refused before the weights are read
    assert_refused(rf"has a {key}: the weights are quantized \({method}\).*full-precision model.*--precision int8", saved)


def test_quantized_live_models_are_refused_by_name() -> None:
    model = tiny_model({"a": ("seq_bn", "2")})
    model.config.quantization_config = {"quant_method": "bitsandbytes"}
    assert_refused(r"the weights of the BertAdapterModel are quantized \(bitsandbytes\)", model)


def test_custom_code_is_named(saved: Path) -> None:
    edit(saved / "config.json", model_type="burglar", auto_map={"AutoConfig": "code.Config", "AutoModel": "code.Model"})
    assert_refused("cannot be loaded: it needs code from the folder, which is never run", saved)


def test_weights_of_another_folder_are_not_read(saved: Path) -> None:
    index = {"metadata": {}, "weight_map": {"x": "../model.safetensors"}}
    (saved / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ExportError, match=r"names the file '\.\./model.safetensors': expected files in the same folder"):
        read_config(saved)


def test_a_configuration_does_not_allow_code_itself(saved: Path, tmp_path: Path) -> None:
    # CVE-2026-5241: LightGlue passes trust_remote_code from its config.json to the configuration that it contains.
    other, proof = tmp_path / "other", tmp_path / "ran"
    other.mkdir()
    (other / "code.py").write_text(
        "import pathlib\nfrom transformers import PretrainedConfig\n"
        f"pathlib.Path({str(proof)!r}).touch()\nclass C(PretrainedConfig):\n    model_type = 'stranger'\n"
    )
    (other / "config.json").write_text(json.dumps({"model_type": "stranger", "auto_map": {"AutoConfig": "code.C"}}))
    nested = {"model_type": "stranger", "_name_or_path": str(other)}
    edit(saved / "config.json", model_type="lightglue", trust_remote_code=True, keypoint_detector_config=nested)
    assert_refused(r"config.json' sets trust_remote_code to True.*never run", saved)
    edit(saved / "config.json", model_type="bert", trust_remote_code=False, keypoint_detector_config={"trust_remote_code": 1})
    assert_refused(r"config.json' sets keypoint_detector_config.trust_remote_code to 1", saved)
    edit(saved / "config.json", keypoint_detector_config={"trust_remote_code": False})
    assert read_config(saved)["model_type"] == "bert"
    assert not proof.exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_hidden_layers": 200}, "sets num_hidden_layers to 200: expected at most 6[5-9]"),  # as many as there are weights
        ({"num_layers": 2**63}, "sets num_layers to 9,223,372,036,854,775,808"),
        ({"depths": [2, 10**9]}, "sets depths to 1,000,000,000"),
        ({"encoder": {"n_layer": 10**400}}, "sets encoder.n_layer to a number of more than 30 digits"),
        ({"num_labels": 10**9}, "sets num_labels to 1,000,000,000: expected at most 32,768"),
    ],
)
def test_numbers_of_layers_that_no_weights_have(saved: Path, changes: dict[str, Any], message: str) -> None:
    edit(saved / "config.json", **changes)
    with pytest.raises(ExportError, match=message):
        read_config(saved)


@pytest.mark.parametrize("changes", [{"hidden_size": 10**6}, {"vocab_size": 10**8}])
def test_models_of_far_more_weights_than_their_file(saved: Path, changes: dict[str, Any]) -> None:
    edit(saved / "config.json", **changes)
    assert_refused("describes far more weights than its file contains", saved)


def test_pipes_and_devices_are_no_files(saved: Path) -> None:
    (saved / "tokenizer.json").symlink_to("/dev/zero")
    assert_refused("is a device, a pipe or a socket: expected a file", saved)


@pytest.mark.parametrize("value", [None, {}])
def test_a_quantization_without_a_method(saved: Path, value: Any) -> None:
    edit(saved / "config.json", quantization_config=value)
    if value is None and TRANSFORMERS_5:
        assert read_config(saved)["model_type"] == "bert"
        return
    assert_refused(r"config.json' sets quantization_config to (null|\{\}), .*: remove the entry", saved)
