"""The versions of torch trace alike, and two files know what lies below torch's public functions."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
import torch
from torch import nn

from exporter.models.quiet_libraries import quiet
from exporter.trace import fast_trace, torch_internals
from exporter.trace.decompose import light_decompositions

_TRACE = Path(torch_internals.__file__).parent
_PRIVATE = re.compile(r"torch(\.\w+)*\._(?!_)\w+")


class _Sliced(nn.Module):
    """A slice up to a tensor, as DeBERTa has for its span of relative positions."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        span = torch.tensor(x.shape[1])
        return x.new_ones(20, 3)[:span, None].sum(0) + x.sum()


def test_two_files_know_internals() -> None:
    found = []
    for path in sorted(_TRACE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.Attribute):
                names = [ast.unparse(node)]
            if any(_PRIVATE.match(name) for name in names):
                found.append(path.name)
    assert set(found) == {Path(torch_internals.__file__).name, Path(fast_trace.__file__).name}


# The second is later than any version, as if torch were older than the one that needs no help.
@pytest.mark.parametrize("helped_before", [torch_internals._HELPED_BEFORE, (99,)])
def test_bounds_of_slices_may_be_tensors(monkeypatch: pytest.MonkeyPatch, helped_before: tuple[int, ...]) -> None:
    monkeypatch.setattr(torch_internals, "_HELPED_BEFORE", helped_before)
    axes = ({0: torch.export.Dim("rows", min=1), 1: torch.export.Dim("length", min=1, max=20)},)
    with quiet(), torch.no_grad(), light_decompositions():
        program = torch.export.export(_Sliced(), (torch.ones(2, 7),), dynamic_shapes=axes)
    x = torch.rand(3, 4)
    assert torch.allclose(program.module()(x), _Sliced()(x))


def test_axes_of_one_name_have_one_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch_internals, "_HELPED_BEFORE", (99,))
    shapes = (("batch", "sequence"), ("batch", "words"))
    torch_internals.identify_axes(shapes, (torch.ones(2, 7), torch.ones(2, 3)))
    with pytest.raises(ValueError, match="the axis batch has the sizes 2 and 4"):
        torch_internals.identify_axes(shapes, (torch.ones(2, 7), torch.ones(4, 3)))
