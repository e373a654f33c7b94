"""Shortcuts of a trace return what torch itself returns, and end with the trace."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.amp import autocast_mode
from torch.fx import config
from transformers import masking_utils

from exporter.models.quiet_libraries import quiet
from exporter.trace.fast_trace import fast_trace


class _Layers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.rows, self.line = nn.LayerNorm(6), nn.LayerNorm((4, 6), bias=False), nn.Linear(6, 8)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        with torch.autocast("cpu", enabled=False):
            lines = self.line(self.norm(x)[:, 0])
        return lines, self.line(self.rows(x)), self.norm(x.transpose(0, 1)), self.norm(x.mT.mT + 1)


def _program() -> torch.export.ExportedProgram:
    axes = ({0: torch.export.Dim("batch", min=1)},)
    torch.manual_seed(0)
    with quiet(), torch.no_grad():
        return torch.export.export(_Layers().eval(), (torch.ones(3, 4, 6),), dynamic_shapes=axes, strict=False)


def _values(program: torch.export.ExportedProgram) -> list[str]:
    values = [node.meta["val"] for node in program.graph.nodes if isinstance(node.meta.get("val"), Tensor)]
    return [f"{value.dtype} {tuple(value.shape)} {value.stride()}" for value in values]


def test_shapes_are_those_of_torch() -> None:
    with fast_trace():
        fast = _program()
    slow = _program()
    assert any("autocast" in str(node.target) for node in slow.graph.nodes)
    assert not any("autocast" in str(node.target) for node in fast.graph.nodes)
    outputs = [_values(each)[-4:] for each in (fast, slow)]
    assert outputs[0] == outputs[1]


def test_a_program_is_compiled_when_it_is_called() -> None:
    x = torch.randn(5, 4, 6)
    with fast_trace():
        modules = [_program().module() for _ in range(2)]
        results = [modules[0](x)]
    results += [modules[1](x), modules[0](x)]
    for values in zip(*results, _program().module()(x), strict=True):
        assert all(torch.equal(value, values[-1]) for value in values)


class _Named(nn.Module):
    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        return first * second


def test_inputs_keep_their_names_and_guards() -> None:
    rows = {0: torch.export.Dim("rows", min=1)}
    with fast_trace(), quiet(), torch.no_grad():
        example = (torch.ones(3, 2), torch.ones(3, 2))
        program = torch.export.export(_Named(), example, dynamic_shapes=(rows, rows), strict=False)
        module = program.module()
        assert [*inspect.signature(module.forward).parameters] == ["first", "second"]
        assert torch.equal(module(torch.ones(5, 2), torch.ones(5, 2)), torch.ones(5, 2))
        with pytest.raises(AssertionError, match=r"second\.size\(\)\[0\]|first\.size\(\)\[0\]"):
            module(torch.ones(5, 2), torch.ones(4, 2))


@pytest.mark.parametrize("padded", [False, True])
def test_masks_are_those_of_transformers(padded: bool) -> None:
    padding = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]], dtype=torch.bool)
    shape: dict[str, Any] = {"batch_size": 2, "cache_position": torch.arange(5), "kv_length": 5}
    function: Callable[..., Any] = masking_utils.sliding_window_causal_mask_function(3)

    def mask() -> Tensor:
        found = masking_utils.sdpa_mask(
            **shape, mask_function=function, attention_mask=padding if padded else None, allow_is_causal_skip=False
        )
        assert isinstance(found, Tensor)
        return found.expand(2, -1, -1, -1)

    with fast_trace():
        found = mask()
    assert torch.equal(found, mask())


def test_torch_is_as_it_was() -> None:
    enter = autocast_mode.autocast.__enter__
    with fast_trace():
        assert getattr(config, "do_not_emit_stack_traces", True)  # torch 2.11 has no such setting
        assert autocast_mode.autocast.__enter__ is not enter
    assert not getattr(config, "do_not_emit_stack_traces", False)
    assert autocast_mode.autocast.__enter__ is enter
