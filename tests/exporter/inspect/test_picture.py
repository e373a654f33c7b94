"""The picture: nothing overlaps, nothing leaves the sheet, widths are to scale."""

from __future__ import annotations

import errno
import io
import os
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest
from rich.console import Console

from exporter import ExportError
from exporter.inspect.layout import colour_of
from exporter.inspect.picture import draw, save_picture
from exporter.inspect.svg import Box, Picture, Text, text_width, to_svg
from exporter.inspect.text import print_inspection
from exporter.inspect.views import Cell, GraphView, Inspection, TaskView


def _inspection(tasks: int, groups: int, layers: int, routed: bool = False) -> Inspection:
    """Tasks that are dealt to groups in turn; the trunk does all layers but the last two."""
    levels = ("embeddings", *(f"layer {number}" for number in range(layers)), "heads")
    shared = tuple(1000 if 0 < number <= layers - 2 else 0 for number in range(layers + 2))
    own = tuple(0 if number <= layers - 2 else 900 + number for number in range(layers + 2))
    views = [
        TaskView(
            f"a_task_{number}",
            f"tasks{number % groups}",
            layers - 2,
            own,
            7,
            tuple(map(sum, zip(own, shared, strict=True))),
            500,
            0,
            0.0,
        )
        for number in range(tasks)
    ]
    cells = [Cell(level, "trunk", 3, count, 400, 0) for level, count in zip(levels, shared, strict=True)]
    for group in range(groups):
        members = sum(view.group == f"tasks{group}" for view in views)
        cells += [
            Cell(level, f"tasks{group}", 2, members * count, 0, 7) for level, count in zip(levels, own, strict=True) if count
        ]
    graph = GraphView(
        "model.onnx", layers - 2, routed, levels, tuple(cells), () if routed else tuple(views), (), {}, (), 10**6, ()
    )
    return Inspection(Path("onnx"), (1, 128), layers, "fp32", "portable", 20, (graph,), 10**6, 10**6, {})


CASES = [(1, 1, 6), (2, 1, 12), (9, 3, 6), (24, 1, 24), (24, 7, 12), (60, 2, 12)]


def _draw(tasks: int, groups: int, layers: int) -> Picture:
    inspection = _inspection(tasks, groups, layers)
    return draw(inspection, inspection.graphs[0])


def _extent(text: Text) -> tuple[float, float, float, float]:
    """left, top, right, bottom of a horizontal text."""
    width = text_width(text.text, text.size, text.bold)
    left = text.x - {"start": 0.0, "middle": width / 2, "end": width}[text.anchor]
    return left, text.y - 0.75 * text.size, left + width, text.y + 0.2 * text.size


@pytest.mark.parametrize(("tasks", "groups", "layers"), CASES)
def test_texts_overlap_nothing_and_stay_on_the_sheet(tasks: int, groups: int, layers: int) -> None:
    picture = _draw(tasks, groups, layers)
    texts = [(shape, _extent(shape)) for shape in picture.shapes if isinstance(shape, Text) and not shape.turn]
    for number, (text, (left, top, right, bottom)) in enumerate(texts):
        assert left >= 0, text
        assert right <= picture.width, text
        assert bottom <= picture.height, text
        for other, (left2, top2, right2, bottom2) in texts[:number]:
            assert right <= left2 or right2 <= left or bottom <= top2 or bottom2 <= top, (text, other)


@pytest.mark.parametrize(("tasks", "groups", "layers"), CASES)
def test_boxes_have_widths_to_scale(tasks: int, groups: int, layers: int) -> None:
    inspection = _inspection(tasks, groups, layers)
    graph = inspection.graphs[0]
    boxes = [shape for shape in draw(inspection, graph).shapes if isinstance(shape, Box)]
    row = boxes[groups].height
    trunk = [box.width for box in boxes if box.height == row and box.fill == colour_of(graph, "trunk")]
    assert len(trunk) == layers - 2
    branch = [box.width for box in boxes if box.height == row and box.fill == colour_of(graph, "tasks0")]
    members = sum(task.group == "tasks0" for task in graph.tasks)
    assert len(branch) == members * 3
    assert branch[0] / trunk[0] == pytest.approx((900 + layers - 1) / 1000)
    ghosts = [box for box in boxes if box.dashed and box.height == row]
    assert len(ghosts) == tasks * (layers - 2)


def test_a_routed_graph_has_a_column_per_group() -> None:
    inspection = _inspection(4, 2, 6, routed=True)
    texts = [shape.text for shape in draw(inspection, inspection.graphs[0]).shapes if isinstance(shape, Text)]
    assert texts.count("the row's task") == 2


def test_layers_without_names_are_reported() -> None:
    inspection = _inspection(2, 1, 6)
    for layers, said in ((6, False), (12, True)):
        console = Console(file=io.StringIO(), width=200)
        print_inspection(replace(inspection, layers=layers), inspection.graphs[0], console)
        assert isinstance(console.file, io.StringIO)
        assert ("distinguish 6 of 12 layers" in console.file.getvalue()) == said


def test_names_with_control_characters_are_drawn() -> None:
    root = ElementTree.fromstring(to_svg(Picture(9, 9, "a\x00b", (Text(1, 1, "\x1b[31m<b>&\n"),))))  # noqa: S314 - our own
    assert ["".join(each.itertext()) for each in root] == ["a\ufffdb", "", "\ufffd[31m<b>& "]


@pytest.mark.parametrize("suffix", ["svg", "png"])
def test_on_a_full_disk_the_earlier_picture_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    inspection, path = _inspection(1, 1, 2), tmp_path / f"p.{suffix}"
    save_picture(inspection, inspection.graphs[0], path)
    before = path.read_bytes()
    assert before.startswith(b"\x89PNG" if suffix == "png" else b"<svg")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ExportError, match=r"cannot be written: No space left"):
        save_picture(_inspection(9, 3, 6), inspection.graphs[0], path)
    assert [each.read_bytes() for each in tmp_path.iterdir()] == [before]
