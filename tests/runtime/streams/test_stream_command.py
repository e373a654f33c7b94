"""python -m runtime DIR --file FILE --output OUT: formats, broken lines, and runs that are interrupted."""

import datetime
import errno
import gzip
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

import runtime
from runtime.__main__ import main
from runtime.streams import sinks
from tests.helpers.runtime_bundles import rewrite

ROOT = Path(runtime.__file__).parents[1]
TEXTS = ["one", "two words", "Zoë 東京", "a\u2028b"]


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]


def run(bundle: Path, source: Path | str, output: Path | str, *more: str) -> int:
    return main([str(bundle), "--threads", "1", "--tasks", "topic", "--file", str(source), "--output", str(output), *more])


def lines(count: int, broken: int | None = None) -> str:
    texts = [json.dumps({"id": index, "text": f"text number {index}"}) for index in range(1, count + 1)]
    if broken is not None:
        texts[broken - 1] = "{"
    return "\n".join(texts) + "\n"


def _table(delimiter: str) -> bytes:
    quoted = [f'{index}{delimiter}"{text}"' for index, text in enumerate(TEXTS)]
    return "\r\n".join([delimiter.join(["\ufeffid", " text"]), *quoted]).encode()


FILES = {
    "texts.txt": "\ufeffone\r\n\n  \ntwo words\nZoë 東京\na\u2028b".encode(),
    "texts": "\n".join(TEXTS).encode(),
    "texts.jsonl": "\n".join(json.dumps({"id": index, "text": text}) for index, text in enumerate(TEXTS)).encode(),
    "texts.csv": _table(","),
    "texts.TSV": _table("\t"),
    "index.csv": "\n".join([",text", *(f"{index},{text}" for index, text in enumerate(TEXTS))]).encode(),  # as pandas writes
    "texts.txt.gz": gzip.compress("\n".join(TEXTS).encode()),
    "texts.jsonl.gz": gzip.compress("\n".join(json.dumps({"text": text}) for text in TEXTS).encode()),
}


@pytest.mark.parametrize("name", FILES)
def test_every_format_gives_the_predictions(
    bundle: Path, predictor: runtime.Predictor, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    (tmp_path / name).write_bytes(FILES[name])
    assert run(bundle, tmp_path / name, tmp_path / "out") == 0
    assert "4 rows in " in capsys.readouterr().out
    found = rows(tmp_path / "out")
    expected = predictor.predict(TEXTS, ["topic"])["topic"]
    assert [row["predictions"]["topic"]["label"] for row in found] == [each.label for each in expected]
    starts = {"texts.txt": [1, 4, 5, 6]} | {key: [2, 3, 4, 5] for key in ("texts.csv", "texts.TSV", "index.csv")}
    assert [row["line"] for row in found] == starts.get(name, [1, 2, 3, 4])
    # Without an output, the same formats are read at once
    assert main([str(bundle), "--tasks", "topic", "--file", str(tmp_path / name), "--json"]) == 0
    assert [row["text"] for row in json.loads(capsys.readouterr().out)["texts"]] == TEXTS


def test_parquet_gives_the_predictions(bundle: Path, predictor: runtime.Predictor, tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow", reason="needs pyarrow, which the extra `test` installs")
    parquet = pytest.importorskip("pyarrow.parquet")
    columns = {"id": [1, 2, 3], "a": ["one", None, "three"], "b": ["x", "y", "z"], "score": [0.5, float("nan"), 2.0]}
    parquet.write_table(pyarrow.table(columns), tmp_path / "in.parquet")
    more = ("--columns", "a,b", "--keep", "id,score", "--skip-errors")
    assert run(bundle, tmp_path / "in.parquet", tmp_path / "out", *more) == 0
    first, second, third = rows(tmp_path / "out")
    (expected, _) = predictor.predict([("one", "x"), ("three", "z")], ["topic"])["topic"]
    assert (first["line"], first["id"], first["predictions"]["topic"]["label"]) == (1, 1, expected.label)
    assert (second["error"], second["score"]) == ("expected two texts, found null", None)
    assert third["id"] == 3
    (tmp_path / "damaged.parquet").write_bytes(b"PAR1" + b"x" * 99)
    assert run(bundle, tmp_path / "damaged.parquet", tmp_path / "out2") == 2


def test_columns_are_kept_and_named(bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "in.csv").write_text('id,first,second\n7,a,"b\nc"\n8,d,e\n', encoding="utf-8")
    assert run(bundle, tmp_path / "in.csv", tmp_path / "out", "--columns", "first,second", "--keep", "id") == 0
    assert [(row["line"], row["id"]) for row in rows(tmp_path / "out")] == [(2, "7"), (4, "8")]
    capsys.readouterr()
    assert run(bundle, tmp_path / "in.csv", tmp_path / "out2") == 2
    expected = "in.csv: line 1: expected the columns text, or text_a and text_b, found id, first, second without text_a, text_b"
    assert f"{expected}; name others with --columns" in capsys.readouterr().err
    # Without an output, the same formats are read at once
    assert main([str(bundle), "--tasks", "topic", "--file", str(tmp_path / "in.csv"), "--columns", "first", "--json"]) == 0
    assert [row["text"] for row in json.loads(capsys.readouterr().out)["texts"]] == ["a", "d"]


BROKEN = [
    ("a.jsonl", b'{"text": "a"}\nnot json\n', 'line 2: expected a JSON object, {"text": …}, found: Expecting value'),
    ("a.jsonl", b'{"text": "a"}\n\n["text"]\n', 'line 3: expected a JSON object in each line, {"text": …}, found an array'),
    ("a.jsonl", b'{"text": "a"}\n{"txt": "b"}\n', "line 2: expected text, or text_a and text_b, found 'txt'"),
    ("a.jsonl", b'{"text": "a"}\n{"text": NaN}\n', 'line 2: expected a JSON object, {"text": …}, found: NaN'),
    ("a.jsonl", b'{"text": "a"}\n{"text": 7}\n', "line 2: expected a text, or a list of two texts, found int 7"),
    ("a.jsonl", b'{"text": "a"}\n{"text": "\\ud800"}\n', "line 2: expected text, found half of a surrogate pair"),
    ("a.jsonl", b'{"text": "a"}\n{"text": "\xff"}\n', "line 2: expected UTF-8, found: invalid start byte"),
    ("a.jsonl", b'{"text": "a"}\n' + b"[" * 99_999 + b"\n", "line 2: expected a JSON object"),
    ("a.txt", b"a\nb\tc\td\n", "line 2: expected at most one TAB, found 2"),
    ("a.txt", b"a\nZo\xeb\n", "line 2: expected UTF-8, found: "),
    ("a.txt", b"a\n" + b"word " * 30 + b"\n", "line 2: expected at most 16 tokens in a text, found: the text has 32"),
    ("a.csv", b"text,id\na,1\nb\n", "line 3: expected 2 columns as in the header, found 1"),
    ("a.csv", b'text,id\na,1\n"b"c,2\n', "line 3: expected comma-separated values, found: "),
    ("a.csv", b"text\na\nZo\xeb\n", "line 3: expected UTF-8"),
    ("a.csv", b'text\na\n"b\n', "line 3: expected comma-separated values, found: unexpected end of data"),
]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.json", b'[\n  {"text": "a"},\n  {"text": "b"}\n]\n', "line 1: expected a JSON object in each line"),
        ("a.jsonl", b'\n[{"text": "a"},\n{"text": "b"}]\n', "line 2: expected a JSON object in each line"),
        ("a.txt", b"one\rtwo\rthree", "expected lines that end with LF or CRLF, found CR only"),
        ("a.csv", b"text\rone\rtwo\r", "expected lines that end with LF or CRLF, found CR only"),
    ],
)
def test_a_file_without_lines_is_refused(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, content: bytes, message: str
) -> None:
    (tmp_path / name).write_bytes(content)
    assert run(bundle, tmp_path / name, tmp_path / "out", "--skip-errors") == 2
    assert f"error: --file {tmp_path / name}: {message}" in capsys.readouterr().err


@pytest.mark.parametrize(("name", "content", "message"), BROKEN)
def test_a_broken_line_is_named_and_can_be_skipped(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, content: bytes, message: str
) -> None:
    more = b'{"text": "last"}' if name.endswith("jsonl") else b"last,9" if b"text,id" in content else b"last"
    (tmp_path / name).write_bytes(content + more)
    assert run(bundle, tmp_path / name, tmp_path / "out") == 2
    err = capsys.readouterr().err
    assert f"error: --file {tmp_path / name}: {message}" in err
    assert "stopped after line" in err
    assert len(rows(tmp_path / "out")) == 1
    # The same command with --skip-errors goes on after the lines that are done
    assert run(bundle, tmp_path / name, tmp_path / "out", "--skip-errors") == 0
    out, err = capsys.readouterr()
    assert message in err
    assert "1 broken" in out
    first, broken, last = rows(tmp_path / "out")
    assert broken["line"] == int(message.split()[1].rstrip(":"))
    assert message.partition(": ")[2] in broken["error"]
    assert first["predictions"]["topic"]["label"]
    assert last["predictions"]["topic"]["label"]


@pytest.mark.parametrize("most", [5, 100_000])  # lines of a row; the quote ends with the file
def test_an_unclosed_quote_hides_no_row(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, most: int) -> None:
    monkeypatch.setattr("runtime.streams.lines.ROW_LINES", most)
    text = 'text\na\n"unclosed\n' + "b\n" * 9 + '"c\nd"\n'
    (tmp_path / "in.csv").write_text(text, encoding="utf-8")
    assert run(bundle, tmp_path / "in.csv", tmp_path / "out", "--skip-errors", "--quiet") == 0
    found = rows(tmp_path / "out")
    assert [row["line"] for row in found if "predictions" in row] == [2, *range(4, 14)]
    assert [row["line"] for row in found if "error" in row] == [3]


def test_a_broken_row_of_a_table_belongs_to_the_input(bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "in.csv").write_text('text\n"a"b\n', encoding="utf-8")
    assert run(bundle, tmp_path / "in.csv", tmp_path / "out", "--skip-errors") == 0
    (tmp_path / "in.csv").write_text('text\n"c"d\n', encoding="utf-8")
    assert run(bundle, tmp_path / "in.csv", tmp_path / "out", "--skip-errors") == 2
    assert "the first 1 rows are not those of the interrupted run" in capsys.readouterr().err


def test_a_long_text_in_a_table_is_a_text(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "in.csv").write_text(f"text\n{'word ' * 30_000}\n", encoding="utf-8")
    assert run(bundle, tmp_path / "in.csv", tmp_path / "out", "--truncate") == 0
    (row,) = rows(tmp_path / "out")
    assert row["predictions"]["topic"]["label"]


def test_kept_values_that_json_lacks(bundle: Path, tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow", reason="needs pyarrow, which the extra `test` installs")
    parquet = pytest.importorskip("pyarrow.parquet")
    day = datetime.date(2026, 11, 27)
    columns = {"text": ["a"], "days": [[day, None]], "mean": [{"of": float("nan")}], "day": [day]}
    parquet.write_table(pyarrow.table(columns), tmp_path / "in.parquet")
    (tmp_path / "in.jsonl").write_text('{"text": "a", "days": [1e999], "mean": {"of": -1e999}, "day": 1}', encoding="utf-8")
    for name, days, kept in (("in.parquet", [str(day), None], str(day)), ("in.jsonl", [None], 1)):
        assert run(bundle, tmp_path / name, tmp_path / f"{name}.out", "--keep", "days,mean,day") == 0
        (row,) = rows(tmp_path / f"{name}.out")
        assert (row["days"], row["mean"], row["day"]) == (days, {"of": None}, kept)


def test_wide_rows_make_short_windows(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runtime.text.windows._HELD", 5_000)
    calls: list[int] = []
    predict = runtime.Predictor.predict

    def counted(self: runtime.Predictor, texts: Any, *more: Any, **options: Any) -> Any:
        calls.append(len(texts))
        return predict(self, texts, *more, **options)

    monkeypatch.setattr(runtime.Predictor, "predict", counted)
    wide = json.dumps({"text": "a", "page": "x" * 2_000}) + "\n"
    (tmp_path / "in.jsonl").write_text(wide * 7, encoding="utf-8")
    assert run(bundle, tmp_path / "in.jsonl", tmp_path / "kept", "--keep", "page") == 0
    assert run(bundle, tmp_path / "in.jsonl", tmp_path / "left-out") == 0
    assert calls == [3, 3, 1, 7]


def test_long_lines_are_errors_of_bounded_size(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runtime.streams.lines.LONGEST", 40)
    (tmp_path / "in.txt").write_bytes(b"a\n" + b"x" * 999 + b"\nb\n")
    (tmp_path / "in.csv").write_bytes(b"text\n" + b"x" * 999 + b"\nb\n")
    for name, first, reason in (
        ("in.txt", [(1, None)], "expected at most 40 bytes in a line, found more"),
        ("in.csv", [], "expected comma-separated values, found: more than 40 bytes in a line"),
    ):
        assert run(bundle, tmp_path / name, tmp_path / f"{name}.out", "--skip-errors") == 0
        found = [(row["line"], row.get("error")) for row in rows(tmp_path / f"{name}.out")]
        assert found == [*first, (2, reason), (3, None)]


def test_pipes_are_streams(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(lines(3).encode()), encoding="utf-8"))
    output = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(output, encoding="utf-8"))
    assert run(bundle, "-", "-", "--format", "jsonl") == 0
    assert [json.loads(line)["line"] for line in output.getvalue().splitlines()] == [1, 2, 3]
    monkeypatch.setattr(sys, "stdin", None)
    assert run(bundle, "-", tmp_path / "out") == 2
    assert b"error: --file -: standard input is closed" in capfdbinary.readouterr().err


def test_a_killed_run_goes_on_without_loss_or_repetition(bundle: Path, tmp_path: Path) -> None:
    """Killed three times at any point of the work, and finished by the same command."""
    count = 18_000
    (tmp_path / "in.jsonl").write_text(lines(count, broken=77), encoding="utf-8")
    arguments = [str(bundle), "--threads", "1", "--tasks", "topic", "--file", "in.jsonl", "--output", "out.jsonl"]
    # The state is written more often than each second
    script = "import sys, runtime.streams.sinks as s, runtime.__main__ as m; s._SECONDS = 0.02; sys.exit(m.main(sys.argv[1:]))"
    command = [sys.executable, "-c", script, *arguments, "--skip-errors", "--keep", "id", "--window", "64"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    for part in (1, 2, 3):
        process = subprocess.Popen(command, cwd=tmp_path, env=environment, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        ends = time.monotonic() + 60
        while process.poll() is None and time.monotonic() < ends:
            state = tmp_path / "out.jsonl.resume"
            if state.exists() and json.loads(state.read_bytes())["rows"] > part * 2_000:
                process.send_signal(signal.SIGKILL)
                break
            time.sleep(0.005)
        assert process.wait(60) == -signal.SIGKILL
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    assert "of an earlier run, 1 broken in out.jsonl" in done.stdout
    found = rows(tmp_path / "out.jsonl")
    assert [row["line"] for row in found] == list(range(1, count + 1))
    assert [row.get("id", 77) for row in found] == list(range(1, count + 1))


def test_an_interrupt_between_a_line_and_its_count(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The state must not count the bytes of a line whose row it does not count: the line would be there twice."""
    (tmp_path / "texts").write_text("a\nb\nc\n", encoding="utf-8")
    assert run(bundle, tmp_path / "texts", tmp_path / "whole") == 0
    expected, write = (tmp_path / "whole").read_bytes(), sinks.FileSink.write
    for number in range(3):

        def interrupted(sink: sinks.FileSink, line: bytes, number: int = number) -> None:
            write(sink, line)
            if sink.done.rows == 0 and json.loads(line)["line"] == number + 1:
                raise KeyboardInterrupt

        monkeypatch.setattr(sinks.FileSink, "write", interrupted)
        assert run(bundle, tmp_path / "texts", tmp_path / f"{number}") == 130
        monkeypatch.setattr(sinks.FileSink, "write", write)
        assert run(bundle, tmp_path / "texts", tmp_path / f"{number}") == 0
        assert (tmp_path / f"{number}").read_bytes() == expected


def test_a_finished_run_has_nothing_left(bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, output = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text(lines(5), encoding="utf-8")
    assert run(bundle, source, output) == 0
    before = output.read_bytes()
    assert run(bundle, source, output) == 0
    assert "0 rows in" in capsys.readouterr().out.splitlines()[-1]
    assert output.read_bytes() == before
    with source.open("a", encoding="utf-8") as file:  # a log that grows
        file.write('{"text": "more"}\n')
    assert run(bundle, source, output) == 0
    assert output.read_bytes().startswith(before)
    assert [row["line"] for row in rows(output)] == [1, 2, 3, 4, 5, 6]


def test_a_run_that_has_done_nothing_binds_no_options(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "in.csv").write_text("first\na\n", encoding="utf-8")
    assert run(bundle, tmp_path / "in.csv", tmp_path / "out") == 2  # there is no column `text`
    assert run(bundle, tmp_path / "in.csv", tmp_path / "out", "--columns", "first") == 0
    assert len(rows(tmp_path / "out")) == 1


def test_changes_between_two_runs_are_refused(bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, output = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text(lines(5), encoding="utf-8")
    assert run(bundle, source, output) == 0

    def refused(message: str, *more: str, folder: Path = bundle) -> None:
        capsys.readouterr()
        before = output.read_bytes()
        assert run(folder, source, output, *more) == 2
        assert message in capsys.readouterr().err
        assert output.read_bytes() == before

    refused(
        "belongs to a run with other settings: top_k: then the default, now 1; remove it, or pass --overwrite", "--top-k", "1"
    )
    other = shutil.copytree(bundle, tmp_path / "other")
    rewrite(other, versions={"onnx": "2"})
    refused("other settings: bundle: then ", folder=other)
    source.write_text(lines(5).replace("number 3", "number three"), encoding="utf-8")
    refused("in.jsonl: the first 5 rows are not those of the interrupted run")
    source.write_text(lines(4), encoding="utf-8")
    refused("the first 5 rows are not those")
    assert run(bundle, source, output, "--overwrite") == 0
    assert len(rows(output)) == 4
    (tmp_path / "out.jsonl.resume").write_text("{}", encoding="utf-8")
    refused("expected the state of an interrupted run")
    (tmp_path / "out.jsonl.resume").unlink()
    refused("out.jsonl: exists, and no interrupted run belongs to it; remove it, or pass --overwrite")


def test_an_output_that_was_cut_is_refused(bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, output = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text(lines(5), encoding="utf-8")
    assert run(bundle, source, output) == 0
    output.write_bytes(output.read_bytes()[:-9])
    assert run(bundle, source, output) == 2
    assert "out.jsonl: is shorter than its state in out.jsonl.resume" in capsys.readouterr().err
    output.unlink()
    assert run(bundle, source, output) == 2
    assert "out.jsonl: is missing, but out.jsonl.resume is there" in capsys.readouterr().err


def test_a_reader_that_has_enough_is_no_error(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_text(lines(20_000), encoding="utf-8")
    arguments = [
        str(bundle),
        "--threads",
        "1",
        "--tasks",
        "topic",
        "--file",
        str(tmp_path / "in.jsonl"),
        "--output",
        "-",
        "--quiet",
    ]
    command = [sys.executable, "-m", "runtime", *arguments]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert json.loads(process.stdout.readline())["line"] == 1
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 0


@pytest.mark.skipif(not Path("/dev/null").exists(), reason="needs /dev/null")
def test_devices_are_outputs_without_a_state(bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "in.jsonl").write_text(lines(5), encoding="utf-8")
    assert run(bundle, tmp_path / "in.jsonl", "/dev/null") == 0
    assert "5 rows in" in capsys.readouterr().out
    assert not Path("/dev/null.resume").exists()
    if Path("/dev/full").exists():  # Linux
        assert run(bundle, tmp_path / "in.jsonl", "/dev/full") == 2
        assert "error: --output: cannot be written: No space left on device" in capsys.readouterr().err


@pytest.mark.skipif(sys.platform == "win32", reason="needs locks of files")
def test_two_runs_do_not_write_one_file(bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "in.jsonl").write_text(lines(5), encoding="utf-8")
    with sinks.FileSink(tmp_path / "out.jsonl", {}):
        assert run(bundle, tmp_path / "in.jsonl", tmp_path / "out.jsonl", "--overwrite") == 2
    assert "out.jsonl: another run is writing it" in capsys.readouterr().err


def test_a_new_output_that_another_run_has_locked_first_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def locked_elsewhere(sink: sinks.FileSink) -> None:
        sink._file.write(b"of the other run")
        raise runtime.InputError("another run is writing it")

    monkeypatch.setattr(sinks.FileSink, "_lock", locked_elsewhere)
    with pytest.raises(runtime.InputError, match="another run"):
        sinks.FileSink(output := tmp_path / "out.jsonl", {})
    assert output.read_bytes() == b"of the other run"


def test_without_space_for_a_state_nothing_is_changed(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    source, output = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text(lines(5), encoding="utf-8")
    output.write_text("earlier", encoding="utf-8")
    monkeypatch.setattr(sinks, "write_whole", full)
    for path, more in ((output, ["--overwrite"]), (tmp_path / "new.jsonl", [])):
        assert run(bundle, source, path, *more) == 2
        assert capsys.readouterr().err == f"error: {path}: cannot be written: No space left on device\n"
    assert output.read_text(encoding="utf-8") == "earlier"
    assert sorted(tmp_path.iterdir()) == [source, output]


@pytest.mark.parametrize("more", [[], ["--overwrite"]])
def test_what_continues_a_run_is_named(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, more: list[str]
) -> None:
    source, output = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text(lines(5, broken=5), encoding="utf-8")
    monkeypatch.setattr(sinks, "_SECONDS", 0.0)
    assert run(bundle, source, output, "--window", "1", *more) == 2
    command = "the same command without --overwrite" if more else "the same command"
    assert f"stopped after line 4; {command} goes on from there\n" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--output", "o"], "--output: expected --file"),
        (["--output", "o", "--file", "f", "--text", "a"], "--text and --pair: not with --output"),
        (["--output", "o", "--file", "f", "--json"], "--json: not with --output"),
        (["--file", "f", "--skip-errors"], "--skip-errors: expected --output as well"),
        (["--text", "a", "--columns", "a"], "--format and --columns: expected --file as well"),
        (["--output", "o.csv", "--file", "f"], "--output o.csv: expected a name for JSON lines"),
        (["--output", "o", "--file", "."], "--file .: expected a file, found a folder; --engine ray computes the files in it"),
        (["--output", "o", "--file", "nowhere.txt"], "--file nowhere.txt: cannot be read: No such file"),
        (["--output", ".", "--file", "f"], "--output .: expected a file, found a folder"),
        (["--output", "no/where", "--file", "f"], "no/where: cannot be written: No such file"),
        (["--output", "f", "--file", "f"], "--output f: is the input"),
        (["--output", "o", "--file", "f", "--keep", "id"], "--columns and --keep need a format with columns"),
        (["--output", "o", "--file", "f.jsonl", "--keep", "line"], "--keep: line: the output uses this name"),
        (["--output", "o", "--file", "f.jsonl", "--columns", "a,b,c"], "--columns: expected the name of one column, or two"),
        (["--output", "o", "--file", "f", "--window", "0"], "window: expected a positive number"),
        (["--output", "o", "--file", "f", "--tasks", "mood"], "found 'mood'"),
        (["--output", "o", "--file", "-", "--format", "parquet"], "expected a file for Parquet"),
        (["--output", "i/o", "--file", "i", "--engine", "ray"], "--output i/o: is in the folder of --file"),
        (["--output", "o", "--file", "twice.csv"], "twice.csv: line 1: expected different names of columns, found text"),
        (["--output", "o", "--file", "wide.csv"], "wide.csv: line 1: expected UTF-8, found another encoding; convert the file"),
        (["--output", "o", "--file", "bad.gz"], "--file bad.gz: the compressed data are damaged"),
    ],
)
def test_wrong_use_is_one_line_and_status_2(
    bundle: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, content in (
        ("f", b"a\n"),
        ("f.jsonl", b'{"text": "a"}\n'),
        ("bad.gz", b"\x1f\x8bnothing"),
        ("twice.csv", b"text,text\n"),
        ("wide.csv", "text\na".encode("utf-16")),
    ):
        Path(name).write_bytes(content)
    assert main([str(bundle), *arguments]) == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1
    assert not Path("o").exists() or {"bad.gz", "twice.csv", "wide.csv"} & {*arguments}


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")
def test_memory_does_not_grow_with_the_file(bundle: Path, tmp_path: Path) -> None:
    """Peak memory of 4 and of 40 windows: with all predictions in memory it would differ by 20 MB."""
    peaks = {}
    for count in (2_000, 20_000):
        source = tmp_path / f"{count}.jsonl"
        source.write_text(lines(count), encoding="utf-8")
        # Not ru_maxrss, which begins with the memory of the process that starts this one
        script = (
            "import re, sys; from pathlib import Path; from runtime.__main__ import main; assert main(sys.argv[1:]) == 0; "
            "print(re.search(r'VmHWM:\\s+(\\d+)', Path('/proc/self/status').read_text())[1])"
        )
        arguments = [str(bundle), "--threads", "1", "--file", str(source), "--output", f"{source}.out", "--window", "500"]
        shown = subprocess.run([sys.executable, "-c", script, *arguments], cwd=ROOT, capture_output=True, text=True, check=True)
        peaks[count] = int(shown.stdout.splitlines()[-1])
    assert peaks[20_000] < peaks[2_000] + 10_000  # kB
