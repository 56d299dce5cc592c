"""Arrays in pickles are read back; nothing else in a pickle is ever called."""

import collections
import functools
import os
import pickle
import struct

import numpy as np
import pytest
import torch

from twostream.errors import BadInputError
from twostream.safe_pickle import read_pickle

PROTOCOLS = range(pickle.HIGHEST_PROTOCOL + 1)


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize(
    "array",
    [
        np.arange(6.0).reshape(2, 3),
        np.asfortranarray(np.arange(6, dtype=np.float32).reshape(2, 3)),
        np.arange(3, dtype=np.int16),
        np.array([1.5, 2], ">f4"),
        np.array([True, False]),
        np.array(["ab", "ü"]),
        np.array([b"ab", b"c"]),
        np.empty((0, 3)),
        np.array(7.0),
        np.arange(12.0)[::3],
        np.float32(1.5),
        np.int64(-3),
    ],
)
def test_arrays_of_numpy(array, protocol):
    result = read_pickle("x", pickle.dumps({"a": [array, array]}, protocol))["a"]
    for part in result:
        assert np.asarray(part).dtype == np.asarray(array).dtype
        np.testing.assert_array_equal(part, array)


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize(
    "tensor",
    [
        torch.arange(6.0).reshape(2, 3),
        torch.arange(6.0).reshape(2, 3).T,
        torch.arange(10.0)[3:8:2],
        torch.tensor([3]),
        torch.tensor(2.5, dtype=torch.float64),
        torch.tensor([1, 0], dtype=torch.bool),
        torch.arange(3, dtype=torch.float16),
        torch.zeros(0, 4),
    ],
)
def test_tensors_of_torch(tensor, protocol):
    result = read_pickle("x", pickle.dumps([tensor, tensor], protocol))
    for part in result:
        np.testing.assert_array_equal(part, tensor.numpy())
        assert part.dtype == tensor.numpy().dtype


def test_containers_become_plain():
    shared = [1, 2]
    content = {"a": (1, "x", None), "b": collections.OrderedDict(c=2.5), "d": shared, "e": shared}
    assert read_pickle("x", pickle.dumps(content)) == {"a": [1, "x", None], "b": {"c": 2.5}, "d": [1, 2], "e": [1, 2]}


def test_arrays_inside_arrays_of_objects():
    array = np.empty(2, object)
    array[:] = [(np.ones((2, 1, 3)), 4), (np.zeros((1, 1, 3)), 5)]
    result = read_pickle("x", pickle.dumps(array))
    np.testing.assert_array_equal(result[0][0], np.ones((2, 1, 3)))
    assert result[1][1] == 5


def test_pickle_of_python_2():
    """Protocol 2 with byte strings: {"a": float64 array of 1 and 2}, as NumPy wrote it then."""
    data = (
        b"\x80\x02}q\x00U\x01aq\x01cnumpy.core.multiarray\n_reconstruct\nq\x02cnumpy\nndarray\nq\x03K\x00\x85"
        b"U\x01b\x87Rq\x04(K\x01K\x02\x85cnumpy\ndtype\nq\x05U\x02f8K\x00K\x01\x87Rq\x06(K\x03U\x01<NNNJ\xff\xff\xff\xff"
        b"J\xff\xff\xff\xffK\x00tb\x89U\x10" + struct.pack("<2d", 1, 2) + b"tbs."
    )
    np.testing.assert_array_equal(read_pickle("x", data)["a"], [1.0, 2.0])


class Calls:
    """Pickles as a call that Python's own reader makes."""

    def __init__(self, function, *arguments):
        self.reduced = (function, arguments)

    def __reduce__(self):
        return self.reduced


def as_text(module, name, argument):
    """A pickle of protocol 0 that calls a function by name."""
    return f"c{module}\n{name}\n(V{argument}\ntR.".encode()


def hostile(marker) -> dict[str, bytes]:
    """Ways to run a command; each creates the file `marker` if it succeeds."""
    command, code = f"touch {marker}", f"open({str(marker)!r}, 'w').close()"
    array = np.zeros(2)
    inner = pickle.dumps(Calls(os.system, command))
    return {
        "os.system": inner,
        "eval": pickle.dumps(Calls(eval, code), 0),
        "exec, protocol 4": pickle.dumps({"scores": Calls(exec, code)}, 4),
        "open": pickle.dumps([Calls(open, str(marker), "w")]),
        "inside an array of objects": pickle.dumps(np.array([Calls(os.system, command)], object)),
        "inside torch's bytes": pickle.dumps(Calls(torch.storage._load_from_bytes, inner)),
        "a reader of numpy": as_text("numpy", "load", marker),
        "dotted name": b"\x80\x04\x8c\x05numpy\x8c\x0bndarray.dump\x93)R.",
        "getattr": as_text("builtins", "getattr", "x"),
        "partial": pickle.dumps(Calls(functools.partial, os.system, command)),
        "subprocess": as_text("subprocess", "getoutput", command),
        "importlib": as_text("importlib", "import_module", "this"),
        "state that is code": pickle.dumps(array, 2).replace(b"cnumpy\nndarray", b"cposix\nsystem"),
    }


@pytest.mark.parametrize("way", hostile("x"))
def test_hostile_pickles_are_refused(way, tmp_path):
    marker = tmp_path / "ran"
    data = hostile(marker)[way]
    with pytest.raises(BadInputError, match="not a pickle of scores that can be read safely") as caught:
        read_pickle(tmp_path / "scores.pkl", data)
    assert str(tmp_path / "scores.pkl") in str(caught.value) and "\n" not in str(caught.value)
    assert not marker.exists()


def test_the_hostile_pickles_would_have_worked(tmp_path):
    """Refusing them proves something only if Python's own reader runs them."""
    for way in ("os.system", "eval", "exec, protocol 4", "inside an array of objects"):
        marker = tmp_path / way.replace(" ", "_")
        pickle.loads(hostile(marker)[way])
        assert marker.exists(), way


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x80\x04",
        b"junk",
        b"(lp0\n" * 3,
        pickle.dumps(np.zeros(4))[:-20],
        pickle.dumps(np.zeros(4), 2).replace(b"K\x04\x85", b"K\x05\x85"),  # a shape larger than the data
        pickle.dumps(np.zeros(3, [("a", "O"), ("b", "f4")])),  # structures
        pickle.dumps(np.datetime64("2020-01-01")),
        b"\x80\x02cnumpy\ndtype\n(X\x0e\x00\x00\x00f8,(10000000)O8tR.",
        b"Pabc\n.",  # a reference to something outside
        b"\x80\x02\x82\x01.",  # an extension
        b"\x80\x02cnumpy\nndarray\n}b.",  # a state for a function
        b"\x80\x02cnumpy\nndarray\n.",  # a function itself
        b"\x80\x02]q\x00h\x00a.",  # a list that holds itself
        b"]" * 5000 + b"a" * 4999 + b".",  # very deep
        pickle.dumps(torch.zeros(4)).replace(b"FloatStorage", b"FlootStorage"),
        pickle.dumps(torch.zeros(4, dtype=torch.bfloat16)),
    ],
)
def test_damaged_and_odd_pickles_are_refused(data):
    with pytest.raises(BadInputError, match="x: not a pickle of scores that can be read safely"):
        read_pickle("x", data)


def test_tensor_beyond_its_memory_is_refused():
    for tensor in (torch.arange(4.0), torch.arange(4.0).reshape(2, 2)):
        function, (storage, _, size, stride, *rest) = tensor.__reduce_ex__(2)
        for offset, shape, steps in (
            (2, size, stride),
            (0, (10**9,) * len(size), stride),
            (0, size, (-1,) * len(size)),
        ):
            data = pickle.dumps(Calls(function, storage, offset, tuple(shape), tuple(steps), *rest))
            with pytest.raises(BadInputError, match="tensor"):
                read_pickle("x", data)


def test_flipped_bits_raise_bad_input_or_nothing(tmp_path):
    content = {"a": {"scores": np.arange(6.0).reshape(2, 3), "t": torch.arange(3.0)}, "b": [np.int64(3), "text"]}
    data = pickle.dumps(content, 2)
    rng = np.random.default_rng(0)
    num_refused = 0
    for position in rng.choice(len(data), 400).tolist():
        damaged = bytearray(data)
        damaged[position] ^= 1 << int(rng.integers(8))
        try:
            read_pickle("x", bytes(damaged))
        except BadInputError:
            num_refused += 1
    assert num_refused > 100


def test_doubling_lists_are_refused():
    """Forty lists, each with two references to the one before: 2**40 paths, which an array of them would have."""
    data = b"]q\x00" + b"".join(b"]q%c(h%ch%ce" % (n, n - 1, n - 1) for n in range(1, 40)) + b"."
    with pytest.raises(BadInputError, match="too many parts"):
        read_pickle("x", data)
