"""Programs are decomposed node by node where that is sufficient, and traced again where it is not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from exporter.models.quiet_libraries import quiet
from exporter.trace import decompose
from exporter.trace.trace import light_trace


class _Function(nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def _export(function: Callable[[Tensor], Tensor], monkeypatch: pytest.MonkeyPatch) -> tuple[torch.onnx.ONNXProgram, int]:
    """The exported function, and how often it was traced again."""
    again: list[object] = []
    full = decompose._DECOMPOSE

    def counted(program: torch.export.ExportedProgram, table: dict[Any, Any]) -> torch.export.ExportedProgram:
        again.append(program)
        return full(program, table)

    monkeypatch.setattr(decompose, "_DECOMPOSE", counted)
    axes = ({0: torch.export.Dim("rows", min=1)},)
    with quiet(), torch.no_grad(), light_trace():
        program = torch.onnx.export(_Function(function), (torch.ones(3, 4),), dynamo=True, dynamic_shapes=axes, verbose=False)
    assert program is not None
    return program, len(again)


def _in_place(x: Tensor) -> Tensor:
    total = x * 2
    total += x[:1]
    total -= 1
    return total.abs()


def _idle(x: Tensor) -> Tensor:
    assert x.shape[0] >= 1
    kept = nn.functional.dropout(x.to(torch.float32), 0.5, training=False).detach()
    return (1.0 - kept) * kept.gt(0).to(torch.float32)


def _read_before(x: Tensor) -> Tensor:
    total = x * 2
    before = total.view(-1, 2, 2)
    total += 1
    return before.flatten(1) + total


def _slice(x: Tensor) -> Tensor:
    total = x * 2
    total[:, 1:] += 1
    return total


def _part_read_before(x: Tensor) -> Tensor:
    zeros = x.new_zeros(x.shape)
    part = zeros[:, 2:]
    zeros[:, 1:] = x[:, :-1].clone()
    return part + zeros[:, :2]


def _of_a_copy(x: Tensor) -> Tensor:
    total = x * 2
    copied = total.t().contiguous()
    copied += 1
    return copied.t() - total


def _in_place_on_a_view(x: Tensor) -> Tensor:
    view = (x * 2).unsqueeze(1).squeeze(1)
    view += 1
    return view.abs()


def _promotions(x: Tensor) -> Tensor:
    whole = torch.arange(x.shape[1])
    return (x + whole) * (whole > 1) / 2 + whole / 3 + torch.where(x > 0, whole, 0.5)


def _shifted(x: Tensor) -> Tensor:
    moved = x.new_zeros(x.shape)
    moved[:, 1:] = x[:, :-1].clone()
    moved[:, 0] = 2
    moved.masked_fill_(moved == -1, 5)
    return moved - x


def _rebound(x: Tensor) -> Tensor:
    numbers = torch.arange(x.shape[1]).unsqueeze(0)
    before = numbers + 1
    numbers.set_(numbers.repeat(x.shape[0], 1) * 3)  # type: ignore[call-overload]
    return numbers + x * before


def _normalized(x: Tensor) -> Tensor:
    largest = x.abs().amax(1, keepdim=True)
    return x / largest.expand_as(x)


def _length(x: Tensor) -> Tensor:
    zeros = x.new_zeros(x.shape)
    zeros[:, 0].fill_(x.shape[0])
    return zeros + x


def _promoted(x: Tensor) -> Tensor:
    return x / x[0, 0].double().expand_as(x)


def _expanded(x: Tensor) -> Tensor:
    largest = x.amax(1, keepdim=True).expand_as(x)
    return (x / largest).amax(1) + largest.sum(1)


def _composites(x: Tensor) -> Tensor:
    """Of DoRA, RoAd, SigLIP and T5."""
    weight = torch.eye(x.shape[1]) + x[:1].T
    scaled = x @ (weight / torch.linalg.norm(weight, dim=1, keepdim=True))
    parts = torch.minimum(x, scaled).unflatten(1, (2, 2)).repeat_interleave(2, dim=1)
    total: Tensor = parts.flatten(1)[:, : x.shape[1]].expand_as(scaled) + torch.min(x, scaled) * ((x > 0) & (scaled > 0))
    return total


def _enlarged(x: Tensor) -> Tensor:
    images = x.reshape(-1, 1, 2, 2)
    return nn.functional.interpolate(images, scale_factor=2.0, mode="bilinear").flatten(1)


def _writes_inside(x: Tensor) -> Tensor:
    return torch.where(torch.isclose(x, x + 1), x, 2 * x)


def _made_functional(x: Tensor) -> Tensor:
    return torch.bilinear(x, x, torch.ones(2, 4, 4), None)


def _several_results(x: Tensor) -> Tensor:
    first, second = torch.tensor_split(x, 2, dim=1)
    return first * second


@pytest.mark.parametrize("function", [_in_place_on_a_view, _promotions, _shifted, _rebound, _normalized])
def test_rewriting_is_sufficient(function: Callable[[Tensor], Tensor], monkeypatch: pytest.MonkeyPatch) -> None:
    test_the_same_numbers(function, 0, monkeypatch)


@pytest.mark.parametrize(
    ("function", "again"),
    [
        (_in_place, 0),
        (_idle, 0),
        (_read_before, 1),
        (_slice, 1),
        (_of_a_copy, 1),
        (_part_read_before, 1),
        (_expanded, 0),
        (_promoted, 0),
        (_composites, 0),
        (_writes_inside, 1),
        (_several_results, 1),
        (_length, 1),
    ],
)
def test_the_same_numbers(function: Callable[[Tensor], Tensor], again: int, monkeypatch: pytest.MonkeyPatch) -> None:
    program, traced = _export(function, monkeypatch)
    assert traced == again
    x = torch.randn(5, 4)
    (found,) = program(x)
    assert torch.equal(torch.as_tensor(found), function(x.clone()))


@pytest.mark.parametrize(("function", "again"), [(_enlarged, 0), (_made_functional, 1)])
def test_sums_in_another_order(function: Callable[[Tensor], Tensor], again: int, monkeypatch: pytest.MonkeyPatch) -> None:
    program, traced = _export(function, monkeypatch)
    assert traced == again
    x = torch.rand(5, 4)  # from 0 to 1, so that sums of 16 products differ by their rounding only
    (found,) = program(x)
    torch.testing.assert_close(torch.as_tensor(found), function(x), atol=1e-5, rtol=0)


def test_outside_of_an_export_torch_is_as_it_was() -> None:
    with decompose.light_decompositions():
        assert torch.export.ExportedProgram.run_decompositions is not decompose._DECOMPOSE
    assert torch.export.ExportedProgram.run_decompositions is decompose._DECOMPOSE
