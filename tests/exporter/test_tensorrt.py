"""TensorRT's parser takes the graphs and builds engines of them; needs no GPU. `make test-tensorrt` installs what it takes."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest

from exporter import export
from runtime.bundle import ROUTE_INPUTS, read_manifest
from tests.helpers.support_models import CONFIGS
from tests.helpers.support_rows import Flex
from tests.helpers.tiny_models import bert_config, tiny_model

pytestmark = pytest.mark.tensorrt
_MODULE = next((name for name in ("tensorrt_rtx", "tensorrt_rtx_bindings") if importlib.util.find_spec(name)), None)
if _MODULE is None:
    pytest.skip("TensorRT-RTX is not installed: run make test-tensorrt", allow_module_level=True)

# Two structures, of several tasks each: a routed graph then has to choose among groups of rows.
MIXED = {"a": ("seq_bn", "2"), "b": ("seq_bn", "3"), "c": ("lora", "2"), "d": ("prefix_tuning", "2")}


def build(graph: Path, shapes: dict[str, tuple[tuple[int, ...], ...]]) -> int:
    """Bytes of the engine. `shapes`: input -> the least, the usual and the largest one.

    Raises:
        AssertionError: with the messages of the parser or the builder.
    """
    trt: Any = importlib.import_module(str(_MODULE))
    messages: list[str] = []

    class Log(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR):
                messages.append(message)

    log = Log()
    builder = trt.Builder(log)
    network = builder.create_network(0)
    parser = trt.OnnxParser(network, log)
    parsed = parser.parse_from_file(str(graph))
    messages += [str(parser.get_error(number)) for number in range(parser.num_errors)]
    assert parsed, "\n".join(messages)
    config, profile = builder.create_builder_config(), builder.create_optimization_profile()
    for number in range(network.num_inputs):
        name = network.get_input(number).name
        profile.set_shape(name, *shapes[name])
    config.add_optimization_profile(profile)
    engine = builder.build_serialized_network(network, config)
    assert engine is not None, "\n".join(messages)
    return int(engine.nbytes)


def build_all(folder: Path) -> dict[str, int]:
    """Engine bytes of every graph of an export, with shapes up to a batch of 8 and the longest texts."""
    manifest = read_manifest(folder)
    sizes = {"batch": (1, 2, 8), "rows": (1, 4, 16)}
    longest = {axis: min(size, 128) for axis, size in manifest.max_lengths.items()}
    shapes = {}
    for entry in manifest.inputs:
        ranges = [
            (int(axis),) * 3 if axis.isdigit() else sizes.get(axis, (1, longest.get(axis, 64) // 2, longest.get(axis, 64)))
            for axis in entry.shape
        ]
        shapes[entry.name] = tuple(zip(*ranges, strict=True))
    shapes |= {name: tuple((size,) for size in sizes["rows"]) for name in ROUTE_INPUTS}
    return {path.name: build(path, shapes) for path in sorted(folder.glob("*.onnx"))}


@pytest.mark.parametrize("target", ["tensorrt", "portable"])
def test_builds_engines_of_several_tasks(tmp_path: Path, target: str) -> None:
    export(tiny_model(MIXED, bert_config(layers=3)), drop=1, target=target, output=tmp_path / "onnx")
    assert build_all(tmp_path / "onnx")["model.onnx"] > 0


def test_builds_an_engine_whose_rows_select_among_structures(tmp_path: Path) -> None:
    export(tiny_model(MIXED, bert_config(layers=3)), drop=1, target="tensorrt", routed=True, output=tmp_path / "onnx")
    assert set(build_all(tmp_path / "onnx")) == {"model.onnx", "model_routed.onnx"}


@pytest.mark.parametrize("architecture", ["ViT", "GPT2", "Llama", "Bart", "T5"])
def test_builds_engines_of_other_architectures(tmp_path: Path, architecture: str) -> None:
    head = "image_classification" if "image_size" in CONFIGS[architecture] else "classification"
    tasks: dict[str, Any] = {name: ("seq_bn", head, {"num_labels": labels}) for name, labels in (("a", 2), ("b", 3))}
    export(Flex(architecture, tasks)(), target="tensorrt", routed=True, output=tmp_path / "onnx")
    assert len(build_all(tmp_path / "onnx")) == 2


def test_builds_an_engine_of_the_example(example_bundle: Path) -> None:
    assert build_all(example_bundle)["model.onnx"] > 0


def test_a_refusal_says_what_the_parser_says(tmp_path: Path) -> None:
    """A portable routed graph of several structures has data-dependent numbers of rows."""
    export(tiny_model(MIXED, bert_config(layers=3)), drop=1, routed=True, output=tmp_path / "onnx")
    with pytest.raises(AssertionError, match="NonZero"):
        build_all(tmp_path / "onnx")
