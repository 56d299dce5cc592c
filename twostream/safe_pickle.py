"""Read pickles from strangers that hold arrays, without running what is in them.

A pickle names functions that its reader is to call. Here each name stands for a function of this module, and any name
that is not in the table NAMES is refused before anything is called. So this module itself builds NumPy's arrays and
PyTorch's tensors, and neither package's own reader sees the file (PyTorch is not even imported).

Before that, `check_pickle` finds out how much a pickle holds, without building it. A pickle can refer to parts that it
made before. So a hundred bytes may stand for 2**50 parts, and Python hashes them all if they are a key of a dictionary:
nothing can interrupt that, no signal either. What is deeply nested overflows the stack, and one number in a pickle
decides how large the table of its parts is. The check takes a microsecond for each instruction of the pickle.
"""

import io
import math
import pickle
import pickletools
import re
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np

from twostream.errors import BadInputError, one_line

FAULTS = (
    pickle.UnpicklingError, EOFError, LookupError, ValueError, TypeError, AttributeError, ArithmeticError,
    MemoryError, RecursionError, struct.error,
)  # fmt: skip
"""what damaged or foreign content raises"""


# ------------------------------------------------------------------------------------------------------------- limits

MAX_DEPTH = 100
"""of containers in containers"""
MAX_PARTS = 10_000_000
"""that a pickle may stand for; as many as PARTS_PER_BYTE allows if that is more"""
PARTS_PER_BYTE = 4
BYTES_PER_PART = 16
"""this many bytes of a long text count as one part"""
HASH_MODULUS = 2**61 - 1
"""from here on, different integers have the same hash: many of them in one dictionary take quadratic time"""
MAX_LARGE_INTEGERS = 1000


class _File(Protocol):
    def read(self, size: int, /) -> bytes: ...
    def readline(self) -> bytes: ...
    def tell(self) -> int: ...


class _Part:
    """What an instruction builds: how many parts it stands for, how deep they are, and whether it may still grow."""

    __slots__ = ("depth", "is_open", "size")

    def __init__(self, size: int, depth: int, *, is_open: bool):
        self.size, self.depth, self.is_open = size, depth, is_open


_ATOM = _Part(1, 0, is_open=False)

# instruction -> how many parts it takes from the stack; -1: all above the last mark
_MAKES = {
    "LIST": -1, "TUPLE": -1, "DICT": -1, "FROZENSET": -1, "INST": -1, "OBJ": -1, "EMPTY_LIST": 0, "EMPTY_TUPLE": 0,
    "EMPTY_DICT": 0, "EMPTY_SET": 0, "TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3, "REDUCE": 2, "NEWOBJ": 2, "NEWOBJ_EX": 3,
    "STACK_GLOBAL": 2, "BINPERSID": 1, "READONLY_BUFFER": 1,
}  # fmt: skip
_FILLS = {"APPEND": 1, "APPENDS": -1, "SETITEM": 2, "SETITEMS": -1, "ADDITEMS": -1, "BUILD": 1}
_TAKES = _MAKES | _FILLS | {"POP": 1, "POP_MARK": -1}
_GETS = {"GET", "BINGET", "LONG_BINGET"}
_PUTS = {"PUT", "BINPUT", "LONG_BINPUT"}
_SMALL = {"BINFLOAT", "BININT", "BININT1", "BININT2", "NONE", "NEWTRUE", "NEWFALSE", "GLOBAL"}
_NEVER_GROW = {"TUPLE", "EMPTY_TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "FROZENSET", "STACK_GLOBAL"}


class _Stack:
    """The stack and the table of parts of one pickle, with sizes in place of the parts."""

    def __init__(self, num_bytes: int):
        self.parts: list[_Part] = []
        self.marks: list[int] = []
        self.memo: dict[int, _Part] = {}
        self.num_bytes = num_bytes
        self.room = max(MAX_PARTS, PARTS_PER_BYTE * num_bytes)
        """how many more parts may be put into others; what is put in twice counts twice"""
        self.large_integers = MAX_LARGE_INTEGERS

    def take(self, number: int) -> tuple[int, int]:
        """Remove parts, to put them into another one: how many they stand for, and the depth of the deepest."""
        first = self.marks.pop() if number < 0 else len(self.parts) - number
        if first < (self.marks[-1] if self.marks else 0):
            raise pickle.UnpicklingError("an instruction without its parts")
        size, depth = 0, -1
        for part in self.parts[first:]:
            part.is_open = False
            size += part.size
            depth = max(depth, part.depth)
        del self.parts[first:]
        self.room -= size
        if self.room < 0:
            raise pickle.UnpicklingError(f"its {self.num_bytes} bytes stand for too many parts")
        if depth >= MAX_DEPTH:
            raise pickle.UnpicklingError(f"it is nested more than {MAX_DEPTH} deep")
        return size, depth

    def step(self, name: str, argument: object) -> None:
        """One instruction, by its name in pickletools."""
        if name in _TAKES:
            size, depth = self.take(_TAKES[name])
            if name in _MAKES:
                self.parts.append(_Part(1 + size, 1 + depth, is_open=name not in _NEVER_GROW))
            elif name in _FILLS:
                target = self.parts[-1]
                if not target.is_open:
                    raise pickle.UnpicklingError("a part grows after it was used")
                target.size, target.depth = target.size + size, max(target.depth, 1 + depth)
        elif name == "MARK":
            self.marks.append(len(self.parts))
        elif name == "MEMOIZE":
            self.memo[len(self.memo)] = self.parts[-1]
        elif name in _PUTS:
            if not isinstance(argument, int) or argument > self.num_bytes:
                raise pickle.UnpicklingError(f"part {argument} of {self.num_bytes} bytes")
            self.memo[argument] = self.parts[-1]
        elif name in _GETS:
            part = self.memo[argument]  # type: ignore[index]
            part.is_open = False  # else it could hold itself, or grow in all places that it is in
            self.parts.append(part)
        elif name not in ("PROTO", "FRAME", "STOP"):
            self._push(name, argument)

    def _push(self, name: str, argument: object) -> None:
        """A part without others in it: text, a number, a function."""
        part = _ATOM
        if isinstance(argument, str | bytes | bytearray) and len(argument) > BYTES_PER_PART:
            part = _Part(1 + len(argument) // BYTES_PER_PART, 0, is_open=False)
        elif isinstance(argument, int) and abs(argument) >= HASH_MODULUS:
            self.large_integers -= 1
            if self.large_integers < 0:
                raise pickle.UnpicklingError("more than a thousand integers of over 60 bits")
        elif name == "DUP":
            raise pickle.UnpicklingError("an instruction that Python never writes")
        self.parts.append(part)


def check_pickle(file: _File, num_bytes: int) -> None:
    """Check the pickle at the current position of a file of `num_bytes`; afterwards the file is at its end.

    Raises pickle.UnpicklingError, or what pickletools raises for damage (ValueError, KeyError, IndexError), unless the
    pickle is harmless: what it stands for is at most `PARTS_PER_BYTE` parts for each byte, or `MAX_PARTS`.
    """
    stack = _Stack(num_bytes)
    for instruction, argument, _ in pickletools.genops(file):  # type: ignore[arg-type]  # needs no more than _File
        if instruction.name in _SMALL:  # most of them, in long lists of numbers
            stack.parts.append(_ATOM)
        else:
            stack.step(instruction.name, argument)


# ------------------------------------------------------------------------------------------------------------ reading


class _StandIn:
    """What the reader builds instead of an object of NumPy or PyTorch; `value` is the result."""

    value: Any


class _Dtype(_StandIn):
    """numpy.dtype: numbers, text and objects; no structures."""

    def __init__(self, text: Any = "", *_: Any):
        if not isinstance(text, str) or not re.fullmatch(r"[<>=|]?(?:[fiub]\d{1,2}|[SU]\d{1,6}|O8?)|bool", text):
            raise pickle.UnpicklingError(f"arrays of type {text!r:.40}")
        self.value = np.dtype(text)

    def __setstate__(self, state: Any) -> None:
        if state[1] in ("<", ">"):
            self.value = self.value.newbyteorder(state[1])


class _Array(_StandIn):
    """numpy.ndarray, which is created empty and filled by its state."""

    def __init__(self, *_: Any):
        self.value = np.empty(0)

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, fortran_order, data = state
        self.value = _array(data, dtype, shape, "F" if fortran_order else "C")


def _array(data: Any, dtype: Any, shape: Any, order: Literal["C", "F"] = "C") -> np.ndarray:
    """numpy's `_frombuffer`: an array from its bytes, or from a list of objects."""
    if dtype.value.hasobject:
        flat = np.empty(len(data), object)
        flat[:] = data
    else:
        flat = np.frombuffer(data.encode("latin1") if isinstance(data, str) else data, dtype.value)
    array = flat.reshape(shape, order=order)  # raises ValueError if they do not fit
    if not array.size and max(array.shape) > MAX_PARTS:  # a billion rows of nothing would take as long as others
        raise pickle.UnpicklingError(f"an empty array of shape {array.shape}")
    return array


def _scalar(dtype: Any, data: Any = b"") -> Any:
    """numpy's `scalar`."""
    return _array(data, dtype, ())[()]


def _encode(text: Any, encoding: Any) -> bytes:
    """The codecs' `encode`, by which old protocols write bytes."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"text in {encoding!r:.40}")
    return bytes(text.encode("latin1"))


class _Storage(_StandIn):
    """torch's flat memory of a tensor."""

    def __init__(self, dtype: str, length: int):
        self.dtype, self.length = np.dtype(dtype), length


def _storage(data: Any) -> _Storage:
    """The numbers of one tensor, as torch writes them inside other pickles (in its format before zip)."""
    file = io.BytesIO(data)
    if (_Reader(file).load(), _Reader(file).load()) != (0x1950A86A20F9469CFC6C, 1001):
        raise pickle.UnpicklingError("not a tensor of torch")
    _Reader(file).load()  # describes the machine that wrote it
    storage = _Reader(file, storages=True).load()
    keys = _Reader(file).load()
    (length,) = struct.unpack("<q", file.read(8))
    if not isinstance(storage, _Storage) or len(keys) != 1 or length != storage.length:
        raise pickle.UnpicklingError("not a tensor of torch, or several in one")
    storage.value = np.frombuffer(file.read(), storage.dtype, count=length)
    return storage


def _tensor(storage: Any, offset: Any, size: Any, stride: Any, *_: Any) -> np.ndarray:
    """torch's `_rebuild_tensor_v2`: an array from a storage."""
    numbers = (offset, *size, *stride)
    if not all(type(number) is int and number >= 0 for number in numbers) or len(size) != len(stride):
        raise pickle.UnpicklingError(f"a tensor of shape {size!r:.40} with strides {stride!r:.40}")
    if math.prod(size) > storage.length:  # as with a stride of 0, which repeats numbers
        raise pickle.UnpicklingError("a tensor with more numbers than its memory")
    if not math.prod(size):
        return _array(b"", _Dtype(storage.dtype.str), size)
    if offset + sum(step * (length - 1) for length, step in zip(size, stride, strict=True)) >= storage.length:
        raise pickle.UnpicklingError("a tensor beyond its memory")
    flat, steps = storage.value[offset:], [step * storage.dtype.itemsize for step in stride]
    return np.lib.stride_tricks.as_strided(flat, size, steps, writeable=False)


class _Callable:
    """What a name in a pickle becomes; it can be called, and nothing else."""

    __slots__ = ("_function",)

    def __init__(self, function: Callable[..., Any]):
        self._function = function

    def __call__(self, *arguments: Any) -> Any:
        return self._function(*arguments)

    def __setstate__(self, state: Any) -> None:
        raise pickle.UnpicklingError("a state for a function")


STORAGES = {
    "FloatStorage": "<f4", "DoubleStorage": "<f8", "HalfStorage": "<f2", "LongStorage": "<i8", "IntStorage": "<i4",
    "ShortStorage": "<i2", "CharStorage": "i1", "ByteStorage": "u1", "BoolStorage": "?",
}  # fmt: skip
"""torch's storage classes -> NumPy's data types"""

NAMES: dict[tuple[str, str], Callable[..., Any]] = {
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Dtype,
    ("_codecs", "encode"): _encode,
    ("builtins", "bytes"): lambda: b"",  # the data of empty arrays, in old protocols
    ("__builtin__", "bytes"): lambda: b"",
    ("collections", "OrderedDict"): lambda items=(): dict(items),
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch.storage", "_load_from_bytes"): _storage,
}
"""module and name, as pickles write them -> what is called instead"""
for _core in ("numpy.core", "numpy._core"):
    NAMES[f"{_core}.multiarray", "_reconstruct"] = _Array
    NAMES[f"{_core}.multiarray", "scalar"] = _scalar
    NAMES[f"{_core}.numeric", "_frombuffer"] = _array
for _name in STORAGES:
    NAMES["torch", _name] = lambda *_: None  # only a marker, never called: see persistent_load


class _Reader(pickle.Unpickler):
    """An unpickler that knows the names in NAMES and no others."""

    def __init__(self, file: io.BytesIO, *, storages: bool = False):
        super().__init__(file, encoding="latin1")  # also reads what Python 2 wrote
        self.file = file
        self.storages = storages
        self.storage_dtypes: dict[int, str] = {}
        """id of the object that find_class returned for a storage class -> its data type"""

    def load(self) -> Any:
        """The content of the pickle at the file's position, if it is harmless, see `check_pickle`."""
        start = self.file.tell()
        check_pickle(self.file, self.file.getbuffer().nbytes)
        self.file.seek(start)
        return super().load()

    def find_class(self, module: str, name: str) -> _Callable:
        if (module, name) not in NAMES:
            raise pickle.UnpicklingError(f"it uses {module!r:.60} {name!r:.60}, which arrays do not need")
        function = _Callable(NAMES[module, name])
        if module == "torch":
            self.storage_dtypes[id(function)] = STORAGES.get(name, "")
        return function

    def persistent_load(self, reference: Any) -> _Storage:
        if not self.storages:
            raise pickle.UnpicklingError("a reference to something outside the file")
        tag, storage_class, _, _, length, *_ = reference
        dtype = self.storage_dtypes.get(id(storage_class))
        if tag != "storage" or not dtype or type(length) is not int or length < 0:
            raise pickle.UnpicklingError("not a storage of torch")
        return _Storage(dtype, length)


def _plain(value: Any, done: dict[int, Any]) -> Any:
    """Lists, tuples, dicts, arrays, numbers and text, with arrays in place of their stand-ins; `done` by object id."""
    if isinstance(value, _Array):
        value = value.value
    if id(value) in done:  # converted once, however many references there are
        return done[id(value)]
    result = value
    if isinstance(value, dict):
        result = {key: _plain(part, done) for key, part in value.items()}
    elif isinstance(value, list | tuple):
        result = [_plain(part, done) for part in value]
    elif isinstance(value, np.ndarray) and value.dtype.hasobject:
        result = np.empty(value.shape, object)
        for index, part in np.ndenumerate(value):
            result[index] = _plain(part, done)
    elif isinstance(value, _StandIn | _Callable):
        raise pickle.UnpicklingError("parts of an array without the array")
    done[id(value)] = result
    return result


def read_pickle(path: str | Path, data: bytes, *, content: str = "scores") -> Any:
    """The containers, arrays, numbers and text in a pickle; tuples become lists, tensors become arrays.

    Raises BadInputError if the pickle is damaged or holds anything else; its message names `path`, and what the pickle
    should have held (`content`).
    """
    try:
        return _plain(_Reader(io.BytesIO(data)).load(), {})
    except FAULTS as error:
        raise BadInputError(
            f"{path}: not a pickle of {content} that can be read safely ({one_line(error)}); export it again, or take another copy"
        ) from None
