"""Adapter folders of AdapterHub and PEFT with changed configurations and weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from random import Random

from exporter import export
from tests.fuzz.box import Box
from tests.fuzz.case import Case
from tests.fuzz.mutate import Known, below, random_edits
from tests.fuzz.seeds import ADAPTERS
from tests.fuzz.surfaces.exporting import export_as_far
from tests.fuzz.surfaces.printed import Printed

_SIZES = [0, 1, 2, 16, -1, 10**6, 10**9, 1.5, "2", None, [1], True]
_NAMES = ["a", "a.b", "", "../x", "a,b", "[/x]", "a" * 300, "__class__", "forward", "weight", "a/b", None, 3, "default", "0"]
_KNOWN = Known(
    files={"config.json": 20, ".safetensors": 6},
    keys={
        **dict.fromkeys(
            ("r", "lora_alpha", "alpha", "reduction_factor", "num_labels", "layers", "prefix_length", "hidden_size"), _SIZES
        ),
        **dict.fromkeys(
            ("bottleneck_size", "prompt_length", "n_tokens", "phm_dim", "vera_d", "d", "num_layers", "scaling"), _SIZES
        ),
        **{
            key: [True, False, 3]
            for key in ("use_dora", "use_rslora", "lora_bias", "fan_in_fan_out", "subtract_projection", "orthogonality")
        },
        **{key: [*_NAMES, "org/name", "bert-base-uncased"] for key in ("name", "model_name", "base_model_name_or_path")},
        "architecture": ["lora", "union", "reft", "prefix_tuning", "prompt_tuning", "x", None, "../x"],
        "configs": [[], [{}], [{"architecture": "union", "configs": []}]],
        "config": [{}, None, "seq_bn", "../x", "https://x/y.json", "lora", [], "union"],
        "peft_type": ["LORA", "IA3", "VERA", "PREFIX_TUNING", "BOFT", "x", None, 3],
        "task_type": ["SEQ_CLS", "TOKEN_CLS", "CAUSAL_LM", "x", None, 3],
        "target_modules": ["query", ["query"], "all-linear", ".*", "(", "(a*)*b", [], None, [""], ["missing"], {"query": 1}],
        "modules_to_save": [["classifier"], ["missing"], [""], "classifier", [], None],
        "layers_to_transform": [[0], [9], -1, "x", []],
        "layers_pattern": ["layer", "(", None],
        "rank_pattern": [{"query": 2}, {"(": 2}, {"query": -1}, {"query": 10**9}, {"(a*)*b": 2}, []],
        "alpha_pattern": [{"query": 2}, {"query": 1e400}, {"query": "x"}],
        "bias": ["none", "all", "lora_only", "x"],
        "init_lora_weights": [True, False, "gaussian", "pissa", "loftq", "x", "eva", "corda"],
        "loftq_config": [{}, {"loftq_bits": 4}, "x"],
        "auto_mapping": [None, {"base_model_class": "BertForSequenceClassification"}, {"parent_library": "os"}],
        "head_type": ["classification", "tagging", "masked_lm", "multiple_choice", "x", None, "question_answering"],
        "model_class": ["BertAdapterModel", "BertForSequenceClassification", "BertModel", "os", None, "GPT2LMHeadModel"],
        "activation_function": ["tanh", "x", None],
        "non_linearity": ["relu", "x", None, "leakyrelu"],
        "label2id": [{"a": 0, "b": 1}, {"a": -1}, [], {"a": "x"}, None, {"a": 0, "b": 10**12}],
        "adapter_names": [["seq_bn", "second"], "seq_bn,second", [], None, ["missing"], [3]],
        "leave_out": [[0], [9], "x", [-1], [None], None],
        "dtype": ["F32", "F16", "BF16", "I64", "F64", "BOOL", "F8_E4M3", "x"],
        "shape": [[], [0], [16], [16, 16], [-1], [2**40, 2**40], [2**63]],
        "data_offsets": [[0, 0], [0, 4], [4, 0], [0, 2**63], [-1, 3]],
    },
    names=("adapter.safetensors", "pytorch_adapter.bin", "adapter_model.bin", "head_config.json", "adapter_setup.json"),
)
_PEFT = ("lora", "dora", "ia3", "vera")


def generate(random: Random, seeds: Path) -> Case:
    """Change one or two adapters, or a fusion."""
    seed = random.choice(["adapterhub", "adapterhub", "peft"])
    names = random.sample(ADAPTERS if seed == "adapterhub" else _PEFT, random.choice([1, 1, 2]))
    fused = seed == "adapterhub" and random.random() < 0.25
    changed = "fusion" if fused else f"adapters/{names[0]}"
    edits = below(changed, random_edits(random, seeds / seed / changed, _KNOWN))
    call: dict[str, object] = {"adapters": ["seq_bn", "second"] if fused else names, "fusion": fused}
    if random.random() < 0.01:
        call["complete"] = True
    if random.random() < 0.2:
        call["name"] = random.choice([name for name in _NAMES if isinstance(name, str)])
    return Case("adapters", seed, edits, call)


def run(case: Case, box: Box, printed: Callable[[], Printed]) -> str:
    """Export the model with its adapters, mostly until it would be traced."""
    name = f"{case.call['name']}=" if "name" in case.call else ""
    sources = [f"{name}{box.given / 'adapters' / each}" for each in case.call.get("adapters", ())]
    fusions = [str(box.given / "fusion")] if case.call.get("fusion") else []
    return export_as_far(
        lambda: export(box.given / "model", False, output=box.output, adapters=sources, fusions=fusions),
        box,
        bool(case.call.get("complete")),
    )
