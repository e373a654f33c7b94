"""The message for a task that fits no group names the first real difference."""

from __future__ import annotations

import json
import re
from typing import Any

import adapters
import pytest
from adapters.composition import Stack

from exporter.checkpoints.load import Checkpoint
from exporter.planning.make_plan import make_plan
from exporter.planning.structure_difference import first_difference
from tests.helpers.tiny_models import tiny_model

_LORA = {"r": 8, "alpha": 8}


def _structures(first: Any, second: Any, heads: tuple[str, str] = ("2", "2")) -> tuple[str, dict[str, str]]:
    model = tiny_model({"one": (first, heads[0]), "two": (second, heads[1])})
    one, two = make_plan(Checkpoint(model, None, ""), None, 0).tasks
    return one.structure, {two.name: two.structure}


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        (
            adapters.LoRAConfig(r=4, alpha=8),
            adapters.LoRAConfig(**_LORA),
            "its adapter has r 4, that of the task 'two' has r 8",
        ),
        # The scale of a plain LoRA is folded into its weights; that of DoRA is not.
        (
            adapters.LoRAConfig(r=8, alpha=16, use_dora=True),
            adapters.LoRAConfig(**_LORA, use_dora=True),
            "its adapter has alpha 16, that .* has alpha 8",
        ),
        (adapters.SeqBnConfig(reduction_factor=2), "seq_bn", "its adapter has reduction_factor 2, that .* 16"),
        # Other sizes are padded, and not the reason.
        (adapters.LoRAConfig(r=4, use_dora=True), adapters.LoRAConfig(**_LORA), "its adapter has use_dora true, that .* false"),
        (adapters.SeqBnConfig(reduction_factor=2, ln_before=True), "seq_bn", "its adapter has ln_before true, that .* false"),
        (adapters.LoRAConfig(**_LORA), "seq_bn", 'has architecture "lora", that .* has architecture null'),
        ("prefix_tuning", adapters.LoRAConfig(**_LORA), 'has architecture "prefix_tuning", that .* "lora"'),
    ],
)
def test_settings_of_adapters(first: Any, second: Any, message: str) -> None:
    _match(message, first_difference(*_structures(first, second)))


def _match(pattern: str, text: str) -> None:
    assert re.search(pattern, text), text


def test_heads_and_compositions() -> None:
    for first in ("seq_bn", adapters.SeqBnConfig(reduction_factor=2)):
        _match("its head has .*", first_difference(*_structures(first, "seq_bn", ("pooler", "2"))))
    model = tiny_model({"one": ("seq_bn", "2"), "two": ("seq_bn", "2")})
    one, two = make_plan(Checkpoint(model, None, ""), {"one": "one", "two": Stack("one", "two")}, 0).tasks
    _match("its task has composition", first_difference(one.structure, {"two": two.structure}))


def test_the_closest_task_is_named() -> None:
    def peft(rank: int, scaling: float, dora: bool) -> str:
        modules = {"layer.0.query": {"lora": "Linear", "rank": rank, "scaling": scaling, "dora": dora, "bias": False}}
        return json.dumps({"setup": {"peft": "LORA", "modules": modules, "projections": []}, "head": [{}, ["logits"]]})

    others = {"far": peft(8, 1.0, dora=True), "near": peft(4, 2.0, dora=False)}
    assert first_difference(peft(4, 1.0, dora=False), others) == (
        "its adapter has scaling (alpha / r; with rslora alpha / sqrt(r)) in layer.0.query 1.0, that of the task 'near' has "
        "scaling (alpha / r; with rslora alpha / sqrt(r)) in layer.0.query 2.0"
    )
    assert "rank in layer.0.query 2, that of the task 'near'" in first_difference(peft(2, 4.0, dora=False), others)


def test_ranks_of_peft_are_no_reason() -> None:
    def peft(rank: int, *paths: str, **settings: Any) -> str:
        modules = {path: {"lora": "Linear", "rank": rank, "bias": False} for path in paths}
        setup = {"peft": "LORA", "modules": modules, "projections": [], **settings}
        return json.dumps({"setup": setup, "head": [{}, ["logits"]]})

    scale = {"ia3": "Linear", "feedforward": False}
    others = {
        "big": peft(8, "query", "key"),
        "scale": json.dumps({"setup": {"peft": "IA3", "modules": {"key": scale}, "projections": []}, "head": [{}, ["logits"]]}),
    }
    found = first_difference(peft(4, "query", biases={"query": "FoldedLinear"}), others)
    assert found == 'its adapter has biases {"query": "FoldedLinear"}, that of the task \'big\' has biases null'
    dora = json.loads(peft(4, "query", "key"))
    for module in dora["setup"]["modules"].values():
        module.update(dora=True, scaling=2.0)
    assert "its adapter has dora in key true, that of the task 'big'" in first_difference(json.dumps(dora), others)
