"""The evaluation of a fusion with fewer members: what is measured is kept, and the table has what was measured."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import runtime
from training.corpora import READERS, Example, Splits
from training.quality import fusion_members
from training.tasks import FUSION
from training.texts import read_task


@pytest.fixture
def exports(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The arguments of each export, and what its files had."""
    calls: list[dict[str, Any]] = []

    def export(**arguments: Any) -> Any:
        calls.append({**arguments, "train": [each["text"] for each in read_task(arguments["calibration"])]})
        fusion = SimpleNamespace(kept={0: FUSION.members[: arguments["keep_fused"]]})
        parity = (SimpleNamespace(max_rel_diff=2.345e-6), SimpleNamespace(max_rel_diff=1e-6))
        graph = SimpleNamespace(nodes=9, initializer_bytes=1_500_000)
        return SimpleNamespace(variants=(SimpleNamespace(fusions=(fusion,)),), graph=graph, parity=parity)

    def load(_: Path, provider: str) -> Any:
        assert provider == "cpu"

        def predict(texts: list[str]) -> Any:
            calls[-1]["test"] = texts
            labels = ["positive", "negative", "positive"]  # the second one is wrong
            return {FUSION.name: [SimpleNamespace(label=label) for label in labels]}

        return SimpleNamespace(predict=predict)

    examples = [Example(f"a {split}\x85text {number}", "positive", "") for split in ("train", "test") for number in range(3)]
    monkeypatch.setattr(fusion_members, "export", export)
    monkeypatch.setattr(runtime, "load", load)
    monkeypatch.setattr(fusion_members, "corpora", lambda cache: cache)
    monkeypatch.setitem(READERS, FUSION.name, lambda _: Splits(examples[:3], examples[3:]))
    return calls


def test_members_are_chosen_on_training_texts(tmp_path: Path, exports: list[dict[str, Any]]) -> None:
    path = tmp_path / "fusion.jsonl"
    assert fusion_members.main([str(path), "--members", "8,2", "--drops", "0"]) == 0
    assert [(call["keep_fused"], call["drop"]) for call in exports] == [(8, 0), (2, 0)]
    assert exports[0]["train"] == [f"a train\x85text {number}" for number in range(3)]
    assert exports[0]["test"] == [f"a test\x85text {number}" for number in range(3)]
    rows = fusion_members.read_rows(path)
    assert [(row["members"], row["accuracy"], row["difference"]) for row in rows] == [(8, 2 / 3, 2.3e-6), (2, 2 / 3, 2.3e-6)]
    assert rows[1]["kept"] == {FUSION.members[0]: 1, FUSION.members[1]: 1}


def test_measured_members_are_not_measured_again(
    tmp_path: Path, exports: list[dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "fusion.jsonl"
    assert fusion_members.main([str(path), "--limit-seconds", "-1"]) == 0
    assert "10 of 10 graphs are left; run the same command again" in capsys.readouterr().out
    assert fusion_members.main([str(path), "--members", "8", "--drops", "0"]) == 0
    assert fusion_members.main([str(path), "--members", "8,1", "--drops", "0,3"]) == 0
    assert len(exports) == 4
    assert capsys.readouterr().out.splitlines()[-2:] == [
        "| all 8 members | 66.7 % | 66.7 % | 1.5 MB |",
        "| 1 kept | 66.7 % | 66.7 % | 1.5 MB |",
    ]


@pytest.mark.parametrize("arguments", [["--members", "9"], ["--members", "0"], ["--drops", "6"]])
def test_wrong_numbers_of_members_are_named(arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        fusion_members.main([str(tmp_path / "fusion.jsonl"), *arguments])
    limits = "1 to 8" if arguments[0] == "--members" else "0 to 5"
    assert f"{arguments[0]} must be numbers from {limits}, found {arguments[1]}" in capsys.readouterr().err
