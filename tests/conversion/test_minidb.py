"""Caffe2's record file, against the protobuf library with the messages of caffe2.proto and metanet.proto."""

import io
import struct
import tracemalloc

import numpy as np
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from twostream.conversion import minidb
from twostream.conversion.minidb import read_minidb, write_minidb
from twostream.errors import BadInputError

FIELDS = {
    "Segment": {"begin": (1, "int64"), "end": (2, "int64")},
    "DeviceOption": {"device_type": (1, "int32"), "device_id": (2, "int32")},
    "TensorProto": {
        "dims": (1, "int64*"), "data_type": (2, "int32"), "float_data": (3, "float#"), "int32_data": (4, "int32#"),
        "byte_data": (5, "bytes"), "string_data": (6, "bytes*"), "name": (7, "string"), "device_detail": (8, "DeviceOption"),
        "double_data": (9, "double#"), "int64_data": (10, "int64#"), "segment": (11, "Segment"), "data_format": (15, "uint32"),
    },
    "BlobProto": {"name": (1, "string"), "type": (2, "string"), "tensor": (3, "TensorProto"), "content": (4, "bytes")},
    "OperatorDef": {"input": (1, "string*"), "output": (2, "string*"), "name": (3, "string"), "type": (4, "string")},
    "NetDef": {"name": (1, "string"), "op": (2, "OperatorDef*"), "external_input": (7, "string*"), "external_output": (8, "string*")},
    "BlobsMap": {"key": (1, "string"), "value": (2, "string*")},
    "NetsMap": {"key": (1, "string"), "value": (2, "NetDef")},
    "MetaNetDef": {"blobs": (1, "BlobsMap*"), "nets": (2, "NetsMap*")},
}  # fmt: skip
"""message -> field -> number and type; * is repeated, # repeated and packed"""


def messages() -> dict:
    """The messages as classes of protobuf."""
    file = descriptor_pb2.FileDescriptorProto(name="caffe2.proto", package="caffe2", syntax="proto2")
    for message, fields in FIELDS.items():
        described = file.message_type.add(name=message)
        for name, (number, kind) in fields.items():
            field = described.field.add(name=name, number=number, label=3 if kind[-1] in "*#" else 1)
            field.options.packed = kind.endswith("#")
            kind = kind.rstrip("*#")
            if kind in FIELDS:
                field.type, field.type_name = field.TYPE_MESSAGE, f".caffe2.{kind}"
            else:
                field.type = getattr(field, f"TYPE_{kind.upper()}")
    return message_factory.GetMessageClassesForFiles(["caffe2.proto"], _pool(file))


def _pool(file) -> descriptor_pool.DescriptorPool:
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return pool


PROTO = {name.removeprefix("caffe2."): message for name, message in messages().items()}
RNG = np.random.default_rng(0)
ARRAYS = {
    "conv1_w": RNG.normal(size=(64, 3, 3, 7, 7)).astype(np.float32),
    "large_w": RNG.normal(size=(2_100_000,)).astype(np.float32),
    "double_b": RNG.normal(size=(3, 1)),
    "half_w": RNG.normal(size=(5, 7)).astype(np.float16),
    "ITER": np.array([2**40, -7], np.int64),
    "int_b": np.array([[-(2**31), 2**31 - 1, 0]], np.int32),
    "bytes": np.arange(250, 256, dtype=np.uint8),
    "signed": np.array([-128, 127], np.int8),
    "short": np.array([-300, 300], np.int16),
    "unsigned": np.array([60_000], np.uint16),
    "flag": np.array([True, False]),
    "lr": np.array(0.1, np.float32),
    "nothing": np.zeros((0, 4), np.float32),
}


def written(arrays=ARRAYS) -> bytes:
    file = io.BytesIO()
    write_minidb(file, arrays)
    return file.getvalue()


def records(data: bytes) -> list[tuple[str, bytes]]:
    """Keys and values, as the cursor of MiniDB reads them: two C ints, then key and value."""
    found, file = [], io.BytesIO(data)
    while head := file.read(8):
        key_bytes, value_bytes = struct.unpack("=ii", head)
        found.append((file.read(key_bytes).decode(), file.read(value_bytes)))
    return found


def in_file(tmp_path, data: bytes):
    path = tmp_path / "model_30.mdl"
    path.write_bytes(data)
    return path


def test_what_is_written_is_read(tmp_path):
    arrays, left_out = read_minidb(in_file(tmp_path, written()))
    assert [name.removeprefix("gpu_0/") for name in arrays] == sorted(ARRAYS)
    for name, array in ARRAYS.items():
        found = arrays[f"gpu_0/{name}"]
        assert found.dtype == array.dtype and found.shape == array.shape
        np.testing.assert_array_equal(found, array)
    assert list(left_out) == ["!!META_NET_DEF"]


def test_protobuf_reads_the_tensors():
    """Each record is exactly what protobuf writes, and its numbers are in the field and the segment that Caffe2 expects."""
    seen = {name: 0 for name in ARRAYS}
    for key, value in records(written())[1:]:
        name, _, chunk = key.removeprefix("gpu_0/").partition("#%")
        blob = PROTO["BlobProto"].FromString(value)
        tensor = blob.tensor
        assert (blob.name, blob.type, tensor.name) == (f"gpu_0/{name}", "Tensor", f"gpu_0/{name}")
        assert blob.SerializeToString() == value and not tensor.device_detail.device_type
        array = ARRAYS[name]
        assert tuple(tensor.dims) == array.shape
        numbers = array.ravel()[tensor.segment.begin : tensor.segment.end]
        assert tensor.segment.begin == int(chunk) * 1_000_000 and len(numbers) <= 1_000_000
        fields = {1: "float", 2: "int32", 10: "int64", 13: "double"}
        stored = getattr(tensor, f"{fields.get(tensor.data_type, 'int32')}_data")
        if array.dtype == np.float16:
            numbers = numbers.view(np.uint16)
        assert len(stored) == len(numbers) and list(stored[:999]) == numbers[:999].tolist()
        seen[name] += len(numbers)
    assert seen == {name: array.size for name, array in ARRAYS.items()}


def test_caffe2_finds_the_tensors():
    """`load_from_db` reads the first record; the net that it runs then loads the blobs, and VMZ's tools ask for their names."""
    key, value = records(written())[0]
    blob = PROTO["BlobProto"].FromString(value)
    assert key == blob.name == "!!META_NET_DEF" and blob.type == "std::string"
    meta = PROTO["MetaNetDef"].FromString(blob.content)
    assert meta.SerializeToString() == blob.content
    names = [f"gpu_0/{name}" for name in sorted(ARRAYS)]
    nets = {net.key: net.value for net in meta.nets}
    (load,) = nets["GLOBAL_INIT_NET_TYPE"].op
    assert (load.type, list(load.input), list(load.output)) == ("Load", ["!!PREDICTOR_DBREADER"], names)
    assert set(nets["PREDICT_NET_TYPE"].external_input) - {"gpu_0/data"} == set(names)
    assert not nets["PREDICT_INIT_NET_TYPE"].op
    assert {blobs.key: list(blobs.value) for blobs in meta.blobs}["PARAMETERS_BLOB_TYPE"] == names


def record(key: str, value: bytes) -> bytes:
    return struct.pack("<ii", len(key), len(value)) + key.encode() + value


def proto(name: str, shape, *, begin=None, end=None, **fields) -> bytes:
    tensor = PROTO["TensorProto"](dims=shape, name=name, **{"data_type": 1} | fields)
    if begin is not None:
        tensor.segment.begin, tensor.segment.end = begin, end
    return PROTO["BlobProto"](name=name, type="Tensor", tensor=tensor).SerializeToString()


def test_forms_that_caffe2_also_writes(tmp_path):
    """Chunks in any order, no segment, float16 and bytes as raw bytes, a tensor of a GPU, blobs that are no tensors."""
    half = np.array([1.5, -2], np.float16)
    data = b"".join([
        record("gpu_0/a#%1", proto("gpu_0/a", [5], begin=3, end=5, float_data=[3, 4])),
        record("gpu_0/a#%0", proto("gpu_0/a", [5], begin=0, end=3, float_data=[0, 1, 2])),
        record("b", proto("b", [2], float_data=[7, 8], data_format=0)),
        record("c", proto("c", [2], data_type=12, byte_data=half.tobytes())),
        record("d", proto("d", [3], data_type=3, byte_data=b"\x01\x02\xff")),
        record("e", proto("e", [1], float_data=[1], device_detail=PROTO["DeviceOption"](device_type=1, device_id=3))),
        record("f", proto("f", [1], data_type=4, string_data=[b"text"])),
        record("g", proto("g", [2], data_format=1)),
        record("net", PROTO["BlobProto"](name="net", type="std::string", content=b"x").SerializeToString()),
    ])  # fmt: skip
    arrays, left_out = read_minidb(in_file(tmp_path, data))
    expected = {"gpu_0/a": np.arange(5.0), "b": [7, 8], "c": half, "d": [1, 2, 255], "e": [1]}
    assert arrays.keys() == expected.keys() and left_out.keys() == {"f", "g", "net"}
    for name, array in expected.items():
        np.testing.assert_array_equal(arrays[name], array)


FLOATS = {"float_data": [1, 2, 3]}
BAD = {
    "no bytes of its key": struct.pack("<ii", 4, 4),
    "a length below zero": struct.pack("<ii", -4, 4) + b"x" * 8,
    "a value of 2 GiB": struct.pack("<ii", 1, 2**31 - 1) + b"a" + proto("a", [3], **FLOATS),
    "a key of 2 GiB": record("a", proto("a", [3], **FLOATS)) + struct.pack("<ii", 2**31 - 1, 1) + b"b",
    "bytes at the end": record("a", proto("a", [3], **FLOATS)) + b"xyz",
    "a shape of 2**62 numbers": record("a", proto("a", [2**31 - 1, 2**31 - 1], **FLOATS)),
    "a size beyond 31 bits": record("a", proto("a", [2**62], **FLOATS)),
    "a size below zero": record("a", proto("a", [-3, -1], **FLOATS)),
    "many dimensions": record("a", proto("a", [1] * 33, **FLOATS)),
    "more numbers than its shape": record("a", proto("a", [2], **FLOATS)),
    "fewer numbers than its shape": record("a", proto("a", [4], **FLOATS)),
    "a missing chunk": record("a#%1", proto("a", [6], begin=3, end=6, **FLOATS)),
    "a chunk twice": record("a#%0", proto("a", [3], begin=0, end=3, **FLOATS)) * 2,
    "two shapes": record("a#%0", proto("a", [6], begin=0, end=3, **FLOATS)) + record("a#%1", proto("a", [3, 2], begin=3, end=6, **FLOATS)),
    "an integer that does not end": record("a", PROTO["BlobProto"](type="Tensor").SerializeToString() + b"\x1a\x04\x10\x0a\x52\x80"),
    "a field longer than the message": record("a", b"\x12\x06Tensor\x1a\x7f\x08"),
    "a kind of field that does not exist": record("a", b"\x0f"),
    "a type that is a number": record("a", b"\x10\xff\xff\xff\xff\x07"),
    "a tensor that is a number": record("a", b"\x12\x06Tensor\x18\xff\xff\xff\xff\x07"),
    "a segment that is a number": record("a", b"\x12\x06Tensor\x1a\x04\x10\x01\x58\x05"),
    "a segment that begins with bytes": record("a", b"\x12\x06Tensor\x1a\x07\x10\x01\x5a\x03\x0a\x01x"),
    "numbers that are not packed": record("a", b"\x12\x06Tensor\x1a\x04\x10\x0a\x50\x05"),
    "a type of numbers that is bytes": record("a", b"\x12\x06Tensor\x1a\x03\x12\x01x"),
    "ten million dimensions": record("a", b"\x12\x06Tensor" + b"\x1a\x88\xad\xe2\x04\x0a\x80\xad\xe2\x04" + b"\x01" * 10_000_000),
    "a name that is no text": record("a", b"\x12\x06\xff\xff\xff\xff\xff\xff"),
}  # fmt: skip


@pytest.mark.parametrize("fault", BAD)
def test_damaged_files_are_refused_in_one_line(tmp_path, fault):
    """And before anything is allocated: with little more than the bytes of the file."""
    path = in_file(tmp_path, BAD[fault])
    tracemalloc.start(1)
    try:
        with pytest.raises(BadInputError, match=r"model_30\.mdl: not a minidb of Caffe2 that can be read \(") as caught:
            read_minidb(path)
        assert tracemalloc.get_traced_memory()[1] < 2 * len(BAD[fault]) + 100_000
    finally:
        tracemalloc.stop()
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 500


def test_integers_of_a_record_are_limited(tmp_path, monkeypatch):
    data = record("a", proto("a", [3], data_type=10, int64_data=[1, 2, 3]))
    monkeypatch.setattr(minidb, "MAX_VARINT_BYTES", 3)
    np.testing.assert_array_equal(read_minidb(in_file(tmp_path, data))[0]["a"], [1, 2, 3])
    monkeypatch.setattr(minidb, "MAX_VARINT_BYTES", 2)
    with pytest.raises(BadInputError, match="3 bytes of integers in one record, at most 2 are read"):
        read_minidb(in_file(tmp_path, data))


def test_types_that_caffe2_does_not_have():
    with pytest.raises(BadInputError, match="gpu_0/x has numbers of type complex64, which Caffe2 does not have"):
        written({"x": np.zeros(2, np.complex64)})
