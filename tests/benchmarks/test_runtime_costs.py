"""The soak test and the figures of docs/runtime.md: that they run, and that the soak test detects wrong results."""

import json
import sys
from pathlib import Path

import pytest

import runtime
from benchmarks import runtime_costs, soak
from tests.helpers.runtime_bundles import write_bundle


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_bundle(tmp_path_factory.mktemp("costs") / "bundle"))


def test_a_soak_finds_nothing_wrong(bundle: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert soak.main([bundle, "--minutes", "0.02", "--threads", "4", "--longest", "6", "--growth", "200"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["calls"]["right"] > 20
    assert {"refused", "right"} <= result["calls"].keys() <= {"cancelled", "ended before its cancellation", "refused", "right"}


def test_a_soak_detects_wrong_answers(bundle: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    real, calls = runtime.Predictor._run_selected, iter(range(10**9))

    def sometimes_wrong(*given: object, **named: object) -> object:
        answers = real(*given, **named)  # type: ignore[arg-type]
        if next(calls) > 150:  # the first 96 answer the pool
            for logits in answers.values():
                logits[...] = logits[::-1, ...] + 1
        return answers

    monkeypatch.setattr(runtime.Predictor, "_run_selected", sometimes_wrong)
    assert soak.main([bundle, "--minutes", "0.02", "--threads", "2", "--longest", "6"]) == 1
    result = json.loads(capsys.readouterr().out)
    assert result["calls"]["wrong answer"] > 0
    assert "wrong answer: drop 5, task" in result["wrong"][0]


@pytest.mark.sweep
def test_figures_are_json(bundle: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime_costs, "_PROCESSES", (("all", 1),))
    assert runtime_costs.main([bundle, "batching", "overhead", "speed", "providers", "memory", "--seconds", "0.1"]) == 0
    batching, overhead, speed, providers, memory = map(json.loads, capsys.readouterr().out.splitlines())
    assert batching["rounds"] >= 5
    assert overhead["1x1"]["bare_ms"] > 0
    assert 0 < overhead["1x1 of nothing"]["predictor_ms"] < 1
    assert set(speed) == {"figure", "drop 5, 1x16", "drop 5, 1x128"}
    assert providers["4x128"]["cpu"]["max_abs_diff"] == 0
    assert memory["1 x all shared"]["pss_mb"] > 0


def test_all_processes_load_before_one_measures(tmp_path: Path) -> None:
    """Each measures how many have loaded."""
    code = (
        "import json, os, sys; folder = sys.argv[1]\n"
        "open(os.path.join(folder, str(os.getpid())), 'x'); print('ready', flush=True); sys.stdin.readline()\n"
        "print(json.dumps({'loaded': len(os.listdir(folder))}), flush=True); sys.stdin.readline()"
    )
    assert runtime_costs._together([sys.executable, "-c", code, str(tmp_path)], 2) == {"loaded": 2 + 2}
