"""The README's commands work as they stand there."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

from benchmarks import fusion, growth_model, routed
from benchmarks.markdown_tables import shares, table
from benchmarks.results_file import read_rows
from exporter.cli.main import command

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def _commands(prefix: str) -> list[list[str]]:
    blocks = re.findall(r"```sh\n(.*?)```", README, flags=re.DOTALL)
    lines = [shlex.split(line, comments=True) for block in blocks for line in block.splitlines()]
    return [line for line in lines if line[: len(prefix.split())] == prefix.split()]


def test_the_two_commands_are_targets_of_the_makefile() -> None:
    targets = {line[1] for line in _commands("make")}
    assert targets == {"export", "test"}
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert all(re.search(rf"^{target}:", makefile, flags=re.MULTILINE) for target in targets)


def test_the_export_commands_are_understood() -> None:
    commands = _commands("python -m exporter")
    assert ["python", "-m", "exporter", "--drop", "5"] in commands
    assert ["python", "-m", "exporter", "inspect", "onnx-drop3", "--picture", "docs/inspect.svg"] in commands
    for line in commands:
        # leaves the process where it does not understand
        parser, _, rest = command(line[3:])
        parser.parse_args(rest)


def test_files_that_the_readme_links_to_are_there() -> None:
    links = re.findall(r"\]\(([^):#]+)\)", README)
    assert "docs/graph.svg" in links
    assert all((ROOT / link).exists() for link in links)


def _results(name: str) -> Path:
    (found,) = {str(path) for path in re.findall(rf"benchmarks/results/{name}-\d+\.jsonl", README)}
    return ROOT / found


def test_the_measured_tables_are_those_of_the_results_files() -> None:
    assert table(_results("bert-base")) in README
    assert shares(_results("bert-base")) in README
    assert fusion.markdown(read_rows(_results("fusion"), fusion.Row)) in README
    assert routed.markdown(read_rows(_results("routed"), routed.Row)) in README
    assert growth_model.markdown(read_rows(_results("growth"), growth_model.Row)) in README
