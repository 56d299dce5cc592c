"""Caffe2's minidb: a file of records that hold named tensors, read and written without Caffe2.

A record is the length of its key and of its value, each an int32 (little endian), then the key and the value
(pytorch/caffe2/core/db.cc). The value is a BlobProto of caffe2.proto. A large tensor is several records, whose keys end
in #%0, #%1, ... in any order; each says which of the tensor's numbers it holds (caffe2/core/blob_serialization.cc).

Nothing is allocated because of a length in a file: each length is first compared with the bytes that are there.
"""

import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from twostream.counts import counted
from twostream.errors import BadInputError, one_line

RECORD = struct.Struct("<ii")
"""lengths of key and value, bytes"""
MAX_KEY_BYTES = 4096
CHUNK_SEPARATOR = "#%"
CHUNK_NUMBERS = 1_000_000
"""of a tensor in a record, as Caffe2 writes them"""
MAX_VARINT_BYTES = 16 << 20
"""of the integers of a record, of which Caffe2 writes 10 MB at most; they take 30 times as much while they are decoded"""
MAX_DIMENSIONS = 32

SCOPE = "gpu_0/"
"""before the names of blobs in files that VMZ writes"""
META_NET = "!!META_NET_DEF"
"""first record of a file that VMZ writes: which networks the blobs are of"""
DB_READER = "!!PREDICTOR_DBREADER"
"""what Caffe2 calls the file while it reads the blobs"""

TENSOR = "Tensor"
STRING = "std::string"

# data_type of TensorProto -> NumPy's type, and the field that holds the numbers. Types of 8 and 16 bits are stored as
# integers of 32 bits, and float16 as the integers that have the same bits.
FLOATS, INTS, BYTES, DOUBLES, LONGS = 3, 4, 5, 9, 10
DATA_TYPES: dict[int, tuple[str, int]] = {
    1: ("<f4", FLOATS), 2: ("<i4", INTS), 3: ("u1", BYTES), 5: ("?", INTS), 6: ("u1", INTS), 7: ("i1", INTS), 8: ("<u2", INTS),
    9: ("<i2", INTS), 10: ("<i8", LONGS), 12: ("<f2", INTS), 13: ("<f8", DOUBLES),
}  # fmt: skip
CODES = {np.dtype(name): code for code, (name, _) in DATA_TYPES.items() if code != 3}


# ----------------------------------------------------------------------------------------------------------- protobuf

VARINT, FIXED64, TEXT, FIXED32 = 0, 1, 2, 5
"""how a field is stored, in the low three bits of its tag"""


def _varint(data: memoryview, start: int) -> tuple[int, int]:
    """An integer of seven bits a byte, the lowest first, and the place behind it."""
    value = 0
    for place in range(start, min(start + 10, len(data))):
        value |= (data[place] & 127) << 7 * (place - start)
        if data[place] < 128:
            return value, place + 1
    raise ValueError(f"a number that does not end at byte {start} of {len(data)}")


def _fields(data: memoryview) -> Iterator[tuple[int, Any]]:
    """The fields of a message: number, and an int or the bytes (a view into `data`)."""
    place = 0
    while place < len(data):
        tag, place = _varint(data, place)
        number, kind = tag >> 3, tag & 7
        if kind == VARINT:
            value, place = _varint(data, place)
            yield number, value
            continue
        if kind == TEXT:
            length, place = _varint(data, place)
        elif kind in (FIXED64, FIXED32):
            length = 8 if kind == FIXED64 else 4
        else:
            raise ValueError(f"a field of kind {kind}")
        if length > len(data) - place:
            raise ValueError(f"a field of {length} bytes, of which {len(data) - place} are there")
        yield number, data[place : place + length]
        place += length


def _message(fields: dict[int, Any], number: int) -> memoryview:
    """The bytes of a field, none if it is not there."""
    value = fields.get(number, memoryview(b""))
    if not isinstance(value, memoryview):
        raise ValueError(f"field {number} is a number, expected bytes")
    return value


def _integer(fields: dict[int, Any], number: int) -> int:
    """The integer of a field, 0 if it is not there."""
    value = fields.get(number, 0)
    if not isinstance(value, int):
        raise ValueError(f"field {number} has bytes, expected a number")
    return value


def _varints(data: memoryview) -> np.ndarray:
    """Packed integers as int64."""
    if len(data) > MAX_VARINT_BYTES:
        raise ValueError(f"{len(data)} bytes of integers in one record, at most {MAX_VARINT_BYTES} are read")
    octets = np.frombuffer(data, np.uint8)
    if not len(octets):
        return np.empty(0, np.int64)
    ends = np.flatnonzero(octets < 128)
    starts = np.concatenate([[0], ends[:-1] + 1])
    lengths = ends - starts + 1
    if not len(ends) or ends[-1] + 1 != len(octets) or lengths.max() > 10:
        raise ValueError("integers that do not end")
    shifts = 7 * (np.arange(len(octets)) - np.repeat(starts, lengths))
    return np.add.reduceat((octets & 127).astype(np.uint64) << shifts.astype(np.uint64), starts).view(np.int64)


def _encode_varint(value: int) -> bytes:
    octets = bytearray()
    while value > 127:
        octets.append(value & 127 | 128)
        value >>= 7
    return bytes([*octets, value])


def _encode_varints(values: np.ndarray) -> bytes:
    """The reverse of `_varints`; negative numbers take ten bytes."""
    rest = values.astype(np.int64).view(np.uint64)
    octets, used = np.empty((len(rest), 10), np.uint8), np.empty((len(rest), 10), bool)
    for place in range(10):
        octets[:, place], used[:, place] = rest & np.uint64(127), rest > 0
        rest = rest >> np.uint64(7)
    used[:, 0] = True
    octets[:, :9][used[:, 1:]] |= 128
    return octets[used].tobytes()


def _encode(number: int, value: int | bytes | str) -> bytes:
    """A field: an int as a varint, else bytes."""
    if isinstance(value, int):
        return _encode_varint(number << 3 | VARINT) + _encode_varint(value)
    data = value.encode() if isinstance(value, str) else value
    return _encode_varint(number << 3 | TEXT) + _encode_varint(len(data)) + data


# ------------------------------------------------------------------------------------------------------------ reading


@dataclass
class _Blob:
    """What the records of a name hold."""

    data_type: int
    shape: tuple[int, ...]
    pieces: dict[int, np.ndarray] = field(default_factory=dict)
    """first of the tensor's numbers in a record -> these numbers"""


def is_minidb(head: bytes, num_bytes: int) -> bool:
    """Does a file of `num_bytes` begin like a minidb? `head` is its beginning."""
    if len(head) < RECORD.size:
        return False
    key_bytes, value_bytes = RECORD.unpack_from(head)
    key = head[RECORD.size : RECORD.size + max(key_bytes, 0)]
    return (
        0 < key_bytes <= MAX_KEY_BYTES and 0 < value_bytes <= num_bytes and key.isascii() and key.decode().isprintable()
    )


def read_minidb(path: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """The tensors of a file by name, in the file's order and with the scope `gpu_0/`; and what was left out: name -> why.

    Raises BadInputError if the file is damaged or another one.
    """
    blobs: dict[str, _Blob] = {}
    left_out: dict[str, str] = {}
    try:
        for key, value in _records(memoryview(path.read_bytes())):
            name = key.partition(CHUNK_SEPARATOR)[0]
            if reason := _add_record(blobs, name, value):
                left_out[name] = reason
        return {name: _assemble(name, blob) for name, blob in blobs.items()}, left_out
    except (ValueError, OverflowError, MemoryError) as error:
        raise BadInputError(
            f"{path}: not a minidb of Caffe2 that can be read ({one_line(error)}); take another copy of the file"
        ) from None


def _records(data: memoryview) -> Iterator[tuple[str, memoryview]]:
    """Keys and values."""
    place = 0
    while place < len(data):
        if len(data) - place < RECORD.size:
            raise ValueError(f"{len(data) - place} bytes behind its last record")
        key_bytes, value_bytes = RECORD.unpack_from(data, place)
        start = place + RECORD.size
        if not 0 < key_bytes <= MAX_KEY_BYTES or not 0 < value_bytes <= len(data) - start - key_bytes:
            raise ValueError(
                f"the record at byte {place} declares {key_bytes} and {value_bytes} bytes, of {len(data) - start} that follow"
            )
        place = start + key_bytes + value_bytes
        yield bytes(data[start : start + key_bytes]).decode(), data[start + key_bytes : place]


def _add_record(blobs: dict[str, _Blob], name: str, value: memoryview) -> str:
    """Add a record to its blob; returns "", or why it is left out."""
    blob = dict(_fields(value))
    kind = bytes(_message(blob, 2)).decode()
    if kind != TENSOR:
        return f"of type {kind}, not a tensor"
    shape: list[int] = []
    tensor: dict[int, Any] = {}
    for number, part in _fields(_message(blob, 3)):
        if number == 1:
            shape += [part] if isinstance(part, int) else _varints(part[: 10 * MAX_DIMENSIONS]).tolist()
            if len(shape) > MAX_DIMENSIONS or not 0 <= min(shape, default=0) <= max(shape, default=0) < 2**31:
                raise ValueError(f"{name} has shape {tuple(shape[:MAX_DIMENSIONS])}")
        else:
            tensor[number] = part
    data_type = _integer(tensor, 2)
    if data_type not in DATA_TYPES or _integer(tensor, 15):  # 15: another coding, such as bfloat16
        return f"numbers of Caffe2's type {data_type}, which are not read"
    known = blobs.setdefault(name, _Blob(data_type, tuple(shape)))
    first = _integer(dict(_fields(_message(tensor, 11))), 1)
    if (known.data_type, known.shape) != (data_type, tuple(shape)) or first in known.pieces:
        raise ValueError(f"{name} is there twice")
    known.pieces[first] = _numbers(data_type, tensor)
    return ""


def _numbers(data_type: int, tensor: dict[int, Any]) -> np.ndarray:
    """The numbers of a record, flat."""
    name, number = DATA_TYPES[data_type]
    dtype, number = np.dtype(name), BYTES if BYTES in tensor else number
    data = _message(tensor, number)
    if number in (FLOATS, DOUBLES, BYTES):
        return np.frombuffer(data, dtype)
    if dtype == np.float16:
        return _varints(data).astype(np.uint16).view(dtype)
    return _varints(data).astype(dtype)


def _assemble(name: str, blob: _Blob) -> np.ndarray:
    """The tensor of a blob; ValueError unless its records hold each number once."""
    place, pieces = 0, [blob.pieces[first] for first in sorted(blob.pieces)]
    for first, piece in zip(sorted(blob.pieces), pieces, strict=True):
        if first != place:
            raise ValueError(f"{name}: its number {place} is in no record")
        place += len(piece)
    if place != math.prod(blob.shape):
        raise ValueError(f"{name} has {counted(place, 'number')}, expected shape {blob.shape}")
    return (pieces[0] if len(pieces) == 1 else np.concatenate(pieces)).reshape(blob.shape)


# ------------------------------------------------------------------------------------------------------------ writing


def write_minidb(file: BinaryIO, arrays: dict[str, np.ndarray]) -> None:
    """Write tensors as VMZ does: what Caffe2 needs to find them, then the tensors by name, in the scope `gpu_0/`.

    Raises BadInputError for arrays of a type that Caffe2 does not have.
    """
    names = [SCOPE + name for name in sorted(arrays)]
    content = _encode(1, META_NET) + _encode(2, STRING) + _encode(4, _meta_net(names))
    _write_record(file, META_NET, content)
    for name in names:
        array = arrays[name.removeprefix(SCOPE)]
        code = CODES.get(array.dtype.newbyteorder("<"))
        if code is None:
            raise BadInputError(f"{name} has numbers of type {array.dtype}, which Caffe2 does not have")
        flat = np.ascontiguousarray(array, array.dtype.newbyteorder("<")).reshape(-1)
        for first in range(0, max(len(flat), 1), CHUNK_NUMBERS):
            tensor = _tensor(name, code, array.shape, first, flat[first : first + CHUNK_NUMBERS])
            content = _encode(1, name) + _encode(2, TENSOR) + _encode(3, tensor)
            _write_record(file, f"{name}{CHUNK_SEPARATOR}{first // CHUNK_NUMBERS}", content)


def _write_record(file: BinaryIO, key: str, value: bytes) -> None:
    file.write(RECORD.pack(len(key.encode()), len(value)) + key.encode() + value)


def _tensor(name: str, code: int, shape: tuple[int, ...], first: int, numbers: np.ndarray) -> bytes:
    """A TensorProto with some of a tensor's numbers, its fields in ascending order as protobuf writes them."""
    field_number = DATA_TYPES[code][1]
    if field_number in (FLOATS, DOUBLES):
        data = numbers.tobytes()
    else:
        data = _encode_varints(numbers.view(np.uint16) if numbers.dtype == np.float16 else numbers)
    parts: list[tuple[int, int | bytes | str]] = [(1, size) for size in shape]
    parts += [(2, code), (7, name), (8, _encode(1, 0)), (11, _encode(1, first) + _encode(2, first + len(numbers)))]
    if data:
        parts.append((field_number, data))
    return b"".join(_encode(number, value) for number, value in sorted(parts, key=lambda part: part[0]))


def _meta_net(names: list[str]) -> bytes:
    """The MetaNetDef that Caffe2's `load_from_db` and VMZ's tools look up: nets that load the blobs and that use them."""
    load = b"".join([_encode(1, DB_READER), *(_encode(2, name) for name in names), _encode(4, "Load")])
    init = _encode(1, "global-init") + _encode(2, load) + _encode(7, DB_READER)
    init += b"".join(_encode(8, name) for name in names)
    inputs = [f"{SCOPE}data", *names]
    predict = _encode(1, "predict") + b"".join(_encode(7, name) for name in inputs) + _encode(8, f"{SCOPE}softmax")
    nets = {
        "PREDICT_INIT_NET_TYPE": _encode(1, "predict-init"),
        "GLOBAL_INIT_NET_TYPE": init,
        "PREDICT_NET_TYPE": predict,
    }
    blobs = {
        "PARAMETERS_BLOB_TYPE": names, "INPUTS_BLOB_TYPE": [f"{SCOPE}data"], "OUTPUTS_BLOB_TYPE": [f"{SCOPE}softmax"]
    }  # fmt: skip
    parts = [(1, _encode(1, key) + b"".join(_encode(2, name) for name in listed)) for key, listed in blobs.items()]
    parts += [(2, _encode(1, key) + _encode(2, net)) for key, net in nets.items()]
    return b"".join(_encode(number, part) for number, part in parts)
