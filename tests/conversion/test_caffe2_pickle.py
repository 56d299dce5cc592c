"""Pickles as Python 2 writes them, read and written."""

import io
import pickle
import pickletools
import struct
import warnings

import numpy as np
import pytest

from tests.conversion.test_minidb import ARRAYS
from twostream.conversion.caffe2_pickle import read_caffe2_pickle, write_caffe2_pickle
from twostream.errors import BadInputError

PYTHON_2 = (
    b"\x80\x02}q\x00U\x05blobsq\x01}q\x02(U\x02lrq\x03cnumpy.core.multiarray\nscalar\nq\x04cnumpy\ndtype\nq\x05U\x02f4K\x00K\x01"
    b"\x87Rq\x06(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tbU\x04" + struct.pack("<f", 0.5) + b"\x86Rq\x07"
    b"U\nmodel_iterq\x08J\x40\x0d\x03\x00U\x06conv_wq\tcnumpy.core.multiarray\n_reconstruct\nq\ncnumpy\nndarray\nq\x0bK\x00\x85"
    b"U\x01b\x87Rq\x0c(K\x01K\x02K\x01\x86h\x06\x89U\x08" + struct.pack("<2f", 1, 200) + b"tbU\x03cfgq\rU\x03a: q\x0eus."
)  # fmt: skip
"""{"blobs": {"lr": numpy.float32(.5), "model_iter": 200000, "conv_w": array of shape (2, 1), "cfg": "a: "}} by cPickle of
Python 2.7 with NumPy, protocol 2"""


def in_file(tmp_path, data: bytes):
    path = tmp_path / "r2plus1d.pkl"
    path.write_bytes(data)
    return path


def test_pickle_of_python_2(tmp_path):
    arrays, left_out = read_caffe2_pickle(in_file(tmp_path, PYTHON_2))
    assert {name: array.tolist() for name, array in arrays.items()} == {
        "lr": 0.5, "model_iter": 200_000, "conv_w": [[1.0], [200.0]]
    }  # fmt: skip
    assert arrays["conv_w"].dtype == np.float32 and left_out == {"cfg": "a str, not numbers"}


def written() -> bytes:
    file = io.BytesIO()
    write_caffe2_pickle(file, ARRAYS)
    return file.getvalue()


def assert_same(arrays) -> None:
    assert arrays.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        assert arrays[name].dtype == array.dtype and arrays[name].shape == array.shape, name
        np.testing.assert_array_equal(arrays[name], array)


def test_what_is_written_is_read(tmp_path):
    arrays, left_out = read_caffe2_pickle(in_file(tmp_path, written()))
    assert_same(arrays)
    assert not left_out


def test_python_reads_it():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # NumPy's, for the names of its modules before 2.0
        assert_same(pickle.loads(written(), encoding="latin1")["blobs"])


def test_python_2_could_read_it():
    """No instruction and no name that Python 2.7 and its NumPy do not have, and no more bytes than the numbers need."""
    names = set()
    for instruction, argument, _ in pickletools.genops(written()):
        assert instruction.proto <= 2
        if instruction.name == "GLOBAL":
            names.add(argument)
    assert names == {"numpy.core.multiarray _reconstruct", "numpy ndarray", "numpy dtype"}
    assert len(written()) < sum(array.nbytes for array in ARRAYS.values()) + 250 * len(ARRAYS)


def test_blobs_without_a_wrapper(tmp_path):
    """As video-nonlocal-net's converted models are."""
    assert list(read_caffe2_pickle(in_file(tmp_path, pickle.dumps({"a_w": np.zeros(2), "lr": 0.1}, 2)))[0]) == [
        "a_w",
        "lr",
    ]


@pytest.mark.parametrize("content", [[], {"blobs": 3}, {1: np.zeros(2)}, "text"])
def test_other_pickles_are_refused(tmp_path, content):
    with pytest.raises(BadInputError, match=r"r2plus1d\.pkl: found no blobs, expected a pickle of Caffe2"):
        read_caffe2_pickle(in_file(tmp_path, pickle.dumps(content)))
