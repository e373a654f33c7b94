"""Trunk states as values: selection, files, the cache, and padding."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import runtime
from runtime.bundle import StateEntry
from runtime.states.padding import Padding
from runtime.states.state_cache import StateCache, key_of
from runtime.states.trunk_states import Row

IDENTITY = "ab" * 32
ENTRY = StateEntry(f"state_{IDENTITY[:12]}", IDENTITY, "float32", ("batch", "sequence", "4"))
LENGTHS = (3, 1, 5, 2)


def make_states(lengths: tuple[int, ...] = LENGTHS, entry: StateEntry = ENTRY, scale: float = 1.0) -> runtime.TrunkStates:
    generator = np.random.default_rng(lengths)
    rows: tuple[Row, ...] = tuple(
        {
            entry.name: (generator.standard_normal((length, 4)) * scale).astype(np.float32),
            "input_ids": generator.integers(0, 99, length),
            "attention_mask": np.ones(length, np.int64),
        }
        for length in lengths
    )
    return runtime.TrunkStates((entry,), rows, 5)


def assert_equal(found: runtime.TrunkStates, expected: runtime.TrunkStates, atol: float = 0.0) -> None:
    assert len(found) == len(expected)
    assert (found.drop, found.identities) == (expected.drop, expected.identities)
    for one, other in zip(found.rows, expected.rows, strict=True):
        assert one.keys() == other.keys()
        for name, array in other.items():
            np.testing.assert_allclose(one[name], array, atol=atol)


def test_texts_are_selected_like_rows_of_an_array() -> None:
    states = make_states()
    numbers = np.arange(len(states))
    for index in (slice(1, 3), slice(None, None, -1), [3, 0, 0], np.array([True, False, True, False]), np.array([2])):
        assert [row["input_ids"].tolist() for row in states[index].rows] == [
            states.rows[number]["input_ids"].tolist() for number in numbers[index]
        ]
    assert len(states[2]) == len(states[-1]) == 1
    assert_equal(states[-1], states[3])
    assert_equal(runtime.TrunkStates.concatenate([states[:2], states[2:]]), states)
    assert_equal(runtime.TrunkStates.concatenate(list(states)), states)
    assert states.nbytes == sum(LENGTHS) * (16 + 8 + 8)
    with pytest.raises(IndexError):
        states[4]


@pytest.mark.parametrize("index", ["a", [1.5], np.array([True, False]), [[0]]])
def test_other_indices_are_refused(index: Any) -> None:
    with pytest.raises(runtime.InputError, match="a mask of 4 texts"):
        make_states()[index]


def test_states_of_two_trunks_are_not_joined() -> None:
    other = StateEntry(f"state_{'c' * 12}", "c" * 64, "float32", ENTRY.shape)
    with pytest.raises(runtime.InputError, match="one trunk"):
        runtime.TrunkStates.concatenate([make_states(), make_states(entry=other)])
    with pytest.raises(runtime.InputError, match="at least one"):
        runtime.TrunkStates.concatenate([])


@pytest.mark.parametrize(("precision", "atol"), [(None, 0.0), ("fp32", 0.0), ("fp16", 2e-3)])
def test_a_file_gives_the_states_again(tmp_path: Path, precision: Any, atol: float) -> None:
    states = make_states()
    states.save(tmp_path / "states", precision)
    found = runtime.load_states(tmp_path / "states")
    assert_equal(found, states, atol)
    assert [path.name for path in tmp_path.iterdir()] == ["states"]
    found.save(tmp_path / "states")  # over the file that is mapped
    assert_equal(runtime.load_states(tmp_path / "states"), states, atol)


def test_what_fp16_cannot_hold_is_refused(tmp_path: Path) -> None:
    with pytest.raises(runtime.InputError, match="exceeds the range of fp16"):
        make_states(scale=1e6).save(tmp_path / "states", "fp16")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("path", "precision", "message"),
    [
        ("states", "int8", "expected fp32, fp16"),
        ("missing/states", None, "cannot be written"),
        (".", None, "cannot be written"),
    ],
)
def test_a_file_that_cannot_be_written(tmp_path: Path, path: str, precision: Any, message: str) -> None:
    with pytest.raises(runtime.InputError, match=message):
        make_states().save(tmp_path / path, precision)


@pytest.mark.parametrize(
    ("position", "message"),
    [
        (4, "expected a header of"),
        (60, "expected a file of trunk states, found"),
        *((position, "damaged or not a file of safetensors: expected a header in JSON") for position in (0, 9, 400)),
        *((position, "damaged: expected the content with sha256") for position in (200, -1, -90)),
    ],
)
def test_damaged_files_are_refused(tmp_path: Path, position: int, message: str) -> None:
    states = make_states()
    path = tmp_path / "states"
    states.save(path)
    content = bytearray(path.read_bytes())
    path.write_bytes(content[:-position] if position else b"")
    with pytest.raises(runtime.InputError, match="damaged or not a file of safetensors"):
        runtime.load_states(path)
    content[position] ^= 0x55
    path.write_bytes(content)
    with pytest.raises(runtime.InputError, match=message):
        runtime.load_states(path)


def test_another_safetensors_file_is_refused(tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    save_file({"a": np.zeros(3, np.float32)}, tmp_path / "other")
    with pytest.raises(runtime.InputError, match="of another program"):
        runtime.load_states(tmp_path / "other")
    with pytest.raises(runtime.InputError, match="cannot be read"):
        runtime.load_states(tmp_path / "missing")


def test_the_least_recently_used_states_leave_first() -> None:
    cache = StateCache(3 * (100 + 512))
    row = {"a": np.zeros(100, np.int8)}
    for key in (b"1", b"2", b"3"):
        cache.put({key: row})
    assert cache.get([b"1"])[0] is row
    cache.put({b"4": row})
    assert [found is not None for found in cache.get([b"1", b"2", b"3", b"4"])] == [True, False, True, True]
    cache.put({b"5": {"a": np.zeros(10_000, np.int8)}})
    statistics = cache.statistics
    assert (statistics.entries, statistics.nbytes, statistics.hits, statistics.misses) == (3, 3 * 612, 4, 1)
    assert statistics.hit_rate == 0.8


def test_keys_differ_where_inputs_differ() -> None:
    ids, mask = np.array([1, 2, 3]), np.ones(3, np.int64)
    keys = {
        key_of({"input_ids": ids, "attention_mask": mask}, b"5"),
        key_of({"input_ids": ids, "attention_mask": mask}, b"0"),
        key_of({"input_ids": ids[:2], "attention_mask": mask[:2]}, b"5"),
        key_of({"input_ids": mask, "attention_mask": ids}, b"5"),
        key_of({"input_ids": ids}, b"5"),
    }
    assert len(keys) == 5


@pytest.mark.parametrize("left", [False, True])
def test_padding_is_removed_and_added(left: bool) -> None:
    tokens = {"input_ids": 0, "attention_mask": 0, "state": 0}
    padding = Padding(left, 7, tokens, {"input_ids": "int64", "attention_mask": "int64", "state": "float32"}, trims=True)
    mask = np.array([[0, 0, 1, 1, 0, 0], [0] * 6, [1] * 6])
    feeds = {"input_ids": np.where(mask == 1, 5, 7), "attention_mask": mask, "state": np.arange(36.0).reshape(3, 6, 2)}
    columns = padding.extents(feeds)
    assert columns[0] == (slice(2, 6) if left else slice(0, 4))
    assert columns[1] == columns[2] == slice(0, 6)
    rows = [padding.row(feeds, number, each) for number, each in enumerate(columns)]
    again = padding.batch(rows[:1], ["input_ids", "attention_mask"], 6)
    np.testing.assert_array_equal(again["input_ids"], feeds["input_ids"][:1])
    np.testing.assert_array_equal(again["attention_mask"], mask[:1])
    # Where an id of the padding is another one, the branches may read it.
    feeds["input_ids"][0, 0 if left else 5] = 3
    assert padding.extents(feeds)[0] == slice(0, 6)
