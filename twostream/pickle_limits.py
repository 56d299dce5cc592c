"""How much a pickle from a stranger holds, found before anything is built from it.

A pickle can refer to parts that it made before. So a hundred bytes may stand for 2**50 parts, and Python hashes them
all if they are a key of a dictionary: nothing can interrupt that, no signal either. What is deeply nested overflows the
stack, and one number in a pickle decides how large the table of its parts is. Each pickle that is read safely is
checked here first; that takes a microsecond for each of its instructions.
"""

import pickle
import pickletools
from typing import Protocol

MAX_DEPTH = 100
"""of containers in containers"""
MAX_PARTS = 10_000_000
"""that a pickle may stand for; as many as PARTS_PER_BYTE allows if that is more"""
PARTS_PER_BYTE = 4
BYTES_PER_PART = 16
"""so many bytes of a long text count as one part"""
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
