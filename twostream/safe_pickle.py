"""Read pickles of strangers that hold arrays, without running what is in them.

A pickle names functions to call. Here each name stands for a function of this module; a name that is not in the list is
refused, before anything is called. So the arrays of NumPy and the tensors of PyTorch are made by us, and neither
package's own readers see the file (PyTorch is not even imported).
"""

import io
import math
import pickle
import re
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np

from twostream.errors import BadInputError

FAULTS = (
    pickle.UnpicklingError, EOFError, LookupError, ValueError, TypeError, AttributeError, ArithmeticError,
    MemoryError, RecursionError, struct.error,
)  # fmt: skip
"""what damaged or foreign content raises"""


class _Made:
    """Something that a pickle builds; `value` is what it stands for."""

    value: object


class _Type(_Made):
    """numpy.dtype: numbers, text and objects; no structures."""

    def __init__(self, text: str = "", *_):
        if not isinstance(text, str) or not re.fullmatch(r"[<>=|]?(?:[fiub]\d{1,2}|[SU]\d{1,6}|O8?)|bool", text):
            raise pickle.UnpicklingError(f"arrays of type {text!r:.40}")
        self.value = np.dtype(text)

    def __setstate__(self, state: tuple) -> None:
        if state[1] in ("<", ">"):
            self.value = self.value.newbyteorder(state[1])


class _Array(_Made):
    """numpy.ndarray, which is made empty and filled by its state."""

    def __init__(self, *_):
        self.value = np.empty(0)

    def __setstate__(self, state: tuple) -> None:
        _, shape, kind, fortran_order, data = state
        self.value = _array(data, kind, shape, "F" if fortran_order else "C")


def _array(data, kind: _Type, shape: tuple, order: str = "C") -> np.ndarray:
    if kind.value.hasobject:
        flat = np.empty(len(data), object)
        flat[:] = data
    else:
        flat = np.frombuffer(data.encode("latin1") if isinstance(data, str) else data, kind.value)
    return flat.reshape(shape, order=order)  # and says so where they do not fit


def _number(kind: _Type, data=b"") -> object:
    return _array(data, kind, ())[()]


def _encoded(text: str, encoding: str) -> bytes:
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"text in {encoding!r:.40}")
    return text.encode("latin1")


class _Storage(_Made):
    """torch's flat memory of a tensor."""

    def __init__(self, kind: str, length: int):
        self.kind, self.length = np.dtype(kind), length


def _storage(data: bytes) -> _Storage:
    """The numbers of one tensor, as torch writes them inside other pickles (its format before zip)."""
    file = io.BytesIO(data)
    if (_Reader(file).load(), _Reader(file).load()) != (0x1950A86A20F9469CFC6C, 1001):
        raise pickle.UnpicklingError("no tensor of torch")
    _Reader(file).load()  # what machine wrote it
    storage = _Reader(file, storages=True).load()
    keys = _Reader(file).load()
    (length,) = struct.unpack("<q", file.read(8))
    if not isinstance(storage, _Storage) or len(keys) != 1 or length != storage.length:
        raise pickle.UnpicklingError("no tensor of torch, or several in one")
    storage.value = np.frombuffer(file.read(), storage.kind, count=length)
    return storage


def _tensor(storage: _Storage, offset: int, size: tuple, stride: tuple, *_) -> np.ndarray:
    if math.prod(size) > storage.length:
        raise pickle.UnpicklingError("a tensor of more numbers than it has")
    places = np.array(offset)
    for length, step in zip(size, stride, strict=True):
        places = places[..., None] + step * np.arange(length)
    if places.size and not 0 <= places.min() <= places.max() < storage.length:
        raise pickle.UnpicklingError("a tensor beyond its memory")
    return storage.value[places]


class _Callable:
    """What a name in a pickle becomes; nothing but calling it works."""

    __slots__ = ("_function",)

    def __init__(self, function: Callable):
        self._function = function

    def __call__(self, *arguments):
        return self._function(*arguments)

    def __setstate__(self, state: object) -> None:
        raise pickle.UnpicklingError("a state for a function")


STORAGES = {
    "FloatStorage": "<f4", "DoubleStorage": "<f8", "HalfStorage": "<f2", "LongStorage": "<i8", "IntStorage": "<i4",
    "ShortStorage": "<i2", "CharStorage": "i1", "ByteStorage": "u1", "BoolStorage": "?",
}  # fmt: skip

NAMES: dict[tuple[str, str], Callable] = {
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Type,
    ("_codecs", "encode"): _encoded,
    ("builtins", "bytes"): lambda: b"",  # of arrays without elements, in old protocols
    ("__builtin__", "bytes"): lambda: b"",
    ("collections", "OrderedDict"): lambda items=(): dict(items),
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch.storage", "_load_from_bytes"): _storage,
}
for _core in ("numpy.core", "numpy._core"):
    NAMES[f"{_core}.multiarray", "_reconstruct"] = _Array
    NAMES[f"{_core}.multiarray", "scalar"] = _number
    NAMES[f"{_core}.numeric", "_frombuffer"] = _array
for _name in STORAGES:
    NAMES["torch", _name] = lambda *_: None  # a mark, never called: see persistent_load


class _Reader(pickle.Unpickler):
    """Unpickler to which no name means anything that is not in NAMES."""

    def __init__(self, file, *, storages: bool = False):
        super().__init__(file, encoding="latin1")  # also what Python 2 wrote
        self.storages = storages
        self.kinds: dict[int, str] = {}

    def find_class(self, module: str, name: str) -> _Callable:
        if (module, name) not in NAMES:
            raise pickle.UnpicklingError(
                f"it asks for {module!r:.60} {name!r:.60}, which a file of scores does not need"
            )
        found = _Callable(NAMES[module, name])
        if module == "torch":
            self.kinds[id(found)] = STORAGES[name] if name in STORAGES else ""
        return found

    def persistent_load(self, reference: object) -> _Storage:
        if not self.storages:
            raise pickle.UnpicklingError("a reference to something outside the file")
        word, kind, _, _, length, *_ = reference
        if word != "storage" or not self.kinds.get(id(kind)) or type(length) is not int or length < 0:
            raise pickle.UnpicklingError("no storage of torch")
        return _Storage(self.kinds[id(kind)], length)


def _plain(value: object, done: dict[int, object]) -> object:
    """Lists, tuples, dicts, arrays, numbers and text, with the arrays in the place of what stands for them."""
    if isinstance(value, _Array):
        value = value.value
    if id(value) in done:  # once, however often it is pointed at
        return done[id(value)]
    result = value
    if isinstance(value, dict):
        result = {key: _plain(part, done) for key, part in value.items()}
    elif isinstance(value, list | tuple):
        result = [_plain(part, done) for part in value]
    elif isinstance(value, np.ndarray) and value.dtype.hasobject:
        result = np.empty(value.shape, object)
        for place, part in np.ndenumerate(value):
            result[place] = _plain(part, done)
    elif isinstance(value, _Made | _Callable):
        raise pickle.UnpicklingError("parts of an array without the array")
    done[id(value)] = result
    return result


def read_pickle(path: str | Path, data: bytes) -> object:
    """Containers, arrays, numbers and text of a pickle; tuples become lists. BadInputError names what it wants else."""
    try:
        return _plain(_Reader(io.BytesIO(data)).load(), {})
    except FAULTS as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise BadInputError(
            f"{path}: no pickle of scores that can be read safely ({reason}); export it again"
        ) from None
