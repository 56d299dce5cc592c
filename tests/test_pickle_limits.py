"""What a pickle holds is known before anything is built from it."""

import collections
import io
import pickle

import numpy as np
import pytest

from tests.hostile import BOMBS
from twostream import safe_pickle
from twostream.errors import BadInputError
from twostream.safe_pickle import check_pickle, read_pickle

PROTOCOLS = range(pickle.HIGHEST_PROTOCOL + 1)


def check(data: bytes) -> None:
    check_pickle(io.BytesIO(data), len(data))


@pytest.mark.parametrize("name", BOMBS)
def test_bombs_are_refused_in_one_line(name):
    """Some of them would hang Python's own reader, or end the process; see hostile.py for what each of them does."""
    with pytest.raises(BadInputError, match="x.pkl: not a pickle of scores that can be read safely") as caught:
        read_pickle("x.pkl", BOMBS[name]())
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 300


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_what_python_writes_is_read(protocol):
    """Parts that are used often, containers in containers, more items than one instruction takes."""
    row, pair = list(range(2500)), ("a", 1)
    content = {
        "rows": [row] * 50, "pairs": [pair] * 50, pair: {"deep": [[[[(1, (2, (3,)))]]]]}, "set": {1, 2}, "none": None,
        "ordered": collections.OrderedDict(a=row, b=row), "arrays": [np.arange(9.0)] * 3, "text": "x" * 10_000, "bytes": b"x" * 999,
        "integers": [2**k for k in range(0, 300, 7)], "floats": [0.5] * 1001, "complex": 1j, "bool": [True, False],
    }  # fmt: skip
    check(pickle.dumps(content, protocol))


def shared(rows: int, columns: int) -> bytes:
    """A list that holds one list of numbers `rows` times."""
    return pickle.dumps([[1] * columns] * rows)


@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (3, 7), (40, 30)])
def test_parts_are_counted_as_often_as_they_are_used(rows, columns, monkeypatch):
    """Each number is put into its row once, and each row, itself and its numbers, into the list `rows` times."""
    parts = columns + rows * (1 + columns)
    monkeypatch.setattr(safe_pickle, "PARTS_PER_BYTE", 0)
    monkeypatch.setattr(safe_pickle, "MAX_PARTS", parts)
    check(shared(rows, columns))
    monkeypatch.setattr(safe_pickle, "MAX_PARTS", parts - 1)
    with pytest.raises(pickle.UnpicklingError, match="stand for too many parts"):
        check(shared(rows, columns))


def nested(depth: int) -> list:
    return [nested(depth - 1)] if depth > 1 else []


def test_depth_is_limited():
    check(pickle.dumps(nested(safe_pickle.MAX_DEPTH)))
    with pytest.raises(pickle.UnpicklingError, match="nested more than 100 deep"):
        check(pickle.dumps(nested(safe_pickle.MAX_DEPTH + 2)))


def test_a_file_grows_with_its_allowance():
    """Ten million numbers, each written once, are more than any limit, but no more than the file itself."""
    check(b"(" + b"K\1" * 200_000 + b"t.")
    small = safe_pickle.MAX_PARTS
    assert small < 4 * (9 * small), "floats take nine bytes, and count once"


def test_the_file_is_left_at_the_end_of_the_pickle():
    """Old torch files are several pickles, one behind the other."""
    file = io.BytesIO(pickle.dumps([1]) + pickle.dumps("x") + b"numbers")
    for _ in range(2):
        check_pickle(file, 100)
    assert file.read() == b"numbers"


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_damage_is_an_error_that_readers_expect(protocol):
    """Whatever is cut or flipped: nothing but the errors that mean a damaged file."""
    data = pickle.dumps({"a": [(1, 2.5, "x"), np.arange(3.0)], "b": {"c": None}}, protocol)
    rng = np.random.default_rng(protocol)
    for _ in range(300):
        damaged = bytearray(data[: int(rng.integers(1, len(data) + 1))])
        damaged[int(rng.integers(len(damaged)))] ^= 1 << int(rng.integers(8))
        try:
            read_pickle("x", bytes(damaged))
        except BadInputError:
            continue
