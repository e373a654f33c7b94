"""Several drops in one folder: one file of weights, every graph right."""

from typing import Any

import pytest

import runtime
from exporter import Report, export
from runtime.bundle import MODEL, WEIGHTS
from tests.helpers.tiny_models import assert_parity, bert_config, inputs, reference, tiny_model

LAYERS = 3
DROPS = (2, 0, LAYERS)


@pytest.fixture(scope="module")
def model() -> Any:
    return tiny_model({"a": ("seq_bn", "2"), "b": ("seq_bn", "3")}, bert_config(layers=LAYERS))


@pytest.fixture(scope="module")
def exported(model: Any, tmp_path_factory: pytest.TempPathFactory) -> Report:
    return export(model, drop=DROPS, output=tmp_path_factory.mktemp("variants") / "onnx")


def test_every_variant_is_its_own_drop(model: Any, exported: Report) -> None:
    predictor = runtime.load(exported.output, provider="cpu")
    assert predictor.drops == DROPS
    feeds = inputs((3, 9), model.config.vocab_size)
    for drop in DROPS:
        answers = predictor.run(feeds, drop=drop)
        assert list(answers) == ["a", "b"]
        for task, answer in answers.items():
            assert_parity(answer, reference(model, task, feeds, drop))
    assert runtime.load(exported.output, drop=0).drops == (0,)


def test_weights_are_stored_once(exported: Report) -> None:
    names = {path.name for path in exported.output.glob(f"{MODEL.split('.')[0]}*") if path.suffix != ".probe"}
    assert names == {MODEL, WEIGHTS, "model_drop0.onnx", f"model_drop{LAYERS}.onnx"}
    # Without a drop there is every adapter; the other variants need nothing that it has not.
    whole = next(variant.graph.initializer_bytes for variant in exported.variants if variant.drop == 0)
    assert whole <= (exported.output / WEIGHTS).stat().st_size + 100_000
    assert (exported.output / WEIGHTS).stat().st_size < 1.02 * whole
