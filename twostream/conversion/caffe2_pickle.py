"""Caffe2's weights as a pickle: {"blobs": {name: array}}, as VMZ, video-nonlocal-net and Detectron publish them.

Those files were written by Python 2, and their programs run on nothing newer. So this module writes the same
instructions itself: Python 3 would name modules that NumPy for Python 2 does not have, and store the numbers as text.
"""

import struct
from pathlib import Path
from typing import BinaryIO

import numpy as np

from twostream.errors import BadInputError
from twostream.files import check_regular
from twostream.safe_pickle import read_pickle


def read_caffe2_pickle(path: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """The arrays and numbers of a pickle by name, with or without "blobs" around them; and what was left out: name -> why.

    No code of the file is run. Raises BadInputError if the file is damaged or holds something else.
    """
    check_regular(path)
    content = read_pickle(path, path.read_bytes(), content="weights")
    blobs = content.get("blobs", content) if isinstance(content, dict) else None
    if not isinstance(blobs, dict) or not all(isinstance(name, str) for name in blobs):
        raise BadInputError(f'{path}: found no blobs, expected a pickle of Caffe2: {{"blobs": {{name: array}}}}')
    arrays, left_out = {}, {}
    for name, value in blobs.items():
        if isinstance(value, np.ndarray | np.number | float | int) and np.asarray(value).dtype.kind in "fiub":
            arrays[name] = np.asarray(value)
        else:
            left_out[name] = f"a {type(value).__name__}, not numbers"
    return arrays, left_out


def write_caffe2_pickle(file: BinaryIO, arrays: dict[str, np.ndarray]) -> None:
    """Write arrays in the way of Python 2 with protocol 2, in which also Python 3 reads them (encoding="latin1")."""
    file.write(b"\x80\x02}" + _text("blobs") + b"}(")
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name], arrays[name].dtype.newbyteorder("<"))
        file.write(_text(name) + _array_head(array.reshape(arrays[name].shape)))
        file.write(array.data if array.size else b"")
        file.write(b"tb")
    file.write(b"us.")


def _text(text: str) -> bytes:
    """A byte string, which in Python 2 is text."""
    data = text.encode("latin1")
    return b"T" + struct.pack("<i", len(data)) + data


def _integer(value: int) -> bytes:
    return b"J" + struct.pack("<i", value)


def _array_head(array: np.ndarray) -> bytes:
    """What NumPy's arrays are made of, up to their numbers, and the head of the byte string that these are."""
    if array.nbytes >= 2**31:
        raise BadInputError(f"an array of {array.nbytes} bytes, of which Python 2's pickles hold 2 GiB at most")
    kind = array.dtype.str[1:].encode()
    order = b"U\x01<" if array.dtype.str[0] == "<" else b"U\x01|"
    dtype = (
        b"cnumpy\ndtype\nU" + bytes([len(kind)]) + kind + _integer(0) + _integer(1) + b"\x87R"
        b"(" + _integer(3) + order + b"NNN" + _integer(-1) + _integer(-1) + _integer(0) + b"tb"
    )  # fmt: skip
    empty = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\n" + _integer(0) + b"\x85U\x01b\x87R"
    shape = b"(" + b"".join(map(_integer, array.shape)) + b"t"
    return empty + b"(" + _integer(1) + shape + dtype + b"\x89T" + struct.pack("<i", array.nbytes)
