"""Lists of class names: read, compared, and what was meant by a name that is in none."""

import difflib
import re
import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from twostream.annotations.lines import location, read_lines
from twostream.counts import counted
from twostream.errors import BadInputError
from twostream.files import DECODER

NEAR_DUPLICATE = "differ only in case, blanks, underscores or Unicode form"
"""end of a message about two class names"""
ALPHABETICAL = "alphabetical"
"""`ClassOrder.source` where no list brings an order"""


class ClassOrder(NamedTuple):
    """Class names in the order of their label indices."""

    names: tuple[str, ...]
    source: str
    """where the order is from, for people: the name of a file, or ALPHABETICAL"""


def normalised_name(name: str) -> str:
    """Equal for names that a reader would take to be the same class: case, blanks and Unicode form do not count."""
    return " ".join(unicodedata.normalize("NFC", name).casefold().replace("_", " ").split())


def suggest_class(name: str, classes: Sequence[str]) -> str:
    """End of a message about an unknown class: the class that was probably meant; "" where none is similar."""
    duplicate = next((known for known in classes if normalised_name(known) == normalised_name(name)), None)
    if duplicate is not None:
        return f"; it and the class {duplicate!r} {NEAR_DUPLICATE}"
    nearest = difflib.get_close_matches(name, classes, n=1)
    return f"; the nearest class is {nearest[0]!r}" if nearest else ""


def class_difference(first: Sequence[str], second: Sequence[str]) -> str:
    """How two lists of classes differ, for messages: their lengths and the first pair of names that differs."""
    pairs = zip(first, second, strict=False)
    where = next((f", first {a!r} and {b!r}" for a, b in pairs if a != b), "")
    return f"{len(first)} and {counted(len(second), 'class', 'classes')} that differ{where}"


# --------------------------------------------------------------------------------------------------------- class lists


def read_classes(path: Path) -> tuple[str, ...]:
    """Class names in the order of their numbers.

    The file has one name per line; or a number and a name, in either order and with a comma or blanks between them, as
    in UCF101, perhaps below a header; or it is JSON, a list of names or an object of names and numbers. Numbers are
    from 0 or from 1, in any order, without gaps. Raises BadInputError with file and line for everything else, and where
    a name is nearly identical to another.
    """
    return parse_classes(read_lines(path), path)


def numbered_classes(numbers: Any, path: Path) -> tuple[str, ...]:
    """The names of a JSON object {name: number}, in order of the numbers, which are 0 to K - 1 or 1 to K.

    Raises BadInputError naming `path` for everything else.
    """
    if not isinstance(numbers, dict) or not all(type(number) is int for number in numbers.values()):
        raise BadInputError(f"{path}: no class numbers, expected an object of names and numbers")
    return tuple(name for _, name in _in_order([(number, (0, name)) for name, number in numbers.items()], path))


def parse_classes(lines: Iterable[str], path: Path) -> tuple[str, ...]:
    """`read_classes` from the lines of a file; `path` is for messages."""
    text = "\n".join(line.strip() for line in lines).rstrip("\n")
    if text.startswith(("{", "[")):
        return _distinct(_json_names(text, path), path)
    entries = list(enumerate(text.split("\n"), start=1))
    for line, entry in entries:
        if not entry:
            raise BadInputError(f"{location(path, line)}: empty, expected the name of a class")
    return _distinct(_numbered(entries, path) or entries, path)


Entry = tuple[int, str]
"""a line (0: the whole file) and what it holds"""

_HEADER = re.compile(r"(class|label|action)?_?(id|idx|index|number|name|names)|class|classes|label|labels")
_SEPARATOR = r"(?:\s*[,;:]\s*|\s+)"
_NUMBER_FIRST = re.compile(rf"(?P<number>\d{{1,9}}){_SEPARATOR}(?P<name>.+)")
_NUMBER_LAST = re.compile(rf"(?P<name>.+?){_SEPARATOR}(?P<number>\d{{1,9}})")


def _numbered(entries: list[Entry], path: Path) -> list[Entry]:
    """Lines and names in the order of their numbers; empty where the lines are just names."""
    header = re.split(_SEPARATOR, entries[0][1].casefold())
    has_header = all(map(_HEADER.fullmatch, header))
    rows = entries[1:] if has_header else entries
    for form in (_NUMBER_FIRST, _NUMBER_LAST):
        matches = [form.fullmatch(text) for _, text in rows]
        pairs = [
            (int(match["number"]), (line, match["name"].strip('"')))
            for (line, _), match in zip(rows, matches, strict=True)
            if match
        ]
        # "level 1", "level 2" are names that end in a number.
        are_names = form is _NUMBER_LAST and len({normalised_name(name) for _, (_, name) in pairs}) < len(pairs)
        if pairs and len(pairs) == len(rows) and not are_names:
            if has_header and len(header) != 2:
                raise BadInputError(
                    f"{location(path, 1)}: {counted(len(header), 'column')}, expected a number and a name"
                )
            return _in_order(pairs, path)
        # "50 m dash" is a name, unless it is class 50.
        if form is _NUMBER_FIRST and any(m and int(m["number"]) in (k, k + 1) for k, m in enumerate(matches)):
            line, text = rows[matches.index(None)]
            raise BadInputError(
                f"{location(path, line)}: {text!a} has no number, but other classes have one; number all or none"
            )
    if has_header:
        raise BadInputError(
            f"{location(path, 1)}: {entries[0][1]!a} looks like a header, expected the name of a class; remove this line"
        )
    return []


def _in_order(pairs: list[tuple[int, Entry]], path: Path) -> list[Entry]:
    """Entries in the order of their numbers; BadInputError unless these are 0 to K - 1 or 1 to K."""
    pairs = sorted(pairs, key=lambda pair: pair[0])
    first = 0 if pairs and pairs[0][0] == 0 else 1
    for expected, (number, (line, name)) in enumerate(pairs, start=first):
        if number != expected:
            raise BadInputError(
                f"{location(path, line)}: class {name!a} has number {number}, where {expected} is the next that is free; "
                "expected each number from 0 or from 1 once: number the classes without gaps, or leave the numbers out"
            )
    return [entry for _, entry in pairs]


def _json_names(text: str, path: Path) -> list[Entry]:
    """The names of a list, or of an object {name: number} or {number: name}."""
    try:
        content: Any = DECODER.decode(text)
    except (ValueError, RecursionError) as error:
        raise BadInputError(f"{path}: {error}; expected a JSON list of class names, or one name per line") from None
    if isinstance(content, list) and all(isinstance(name, str) for name in content):
        return [(0, name) for name in content]
    if isinstance(content, dict):
        items = list(content.items())
        if all(type(value) is int for value in content.values()):
            return [(0, name) for name in numbered_classes(content, path)]
        if all(re.fullmatch(r"\d{1,9}", key) and isinstance(value, str) for key, value in items):
            return _in_order([(int(number), (0, name)) for number, name in items], path)
    raise BadInputError(f"{path}: JSON without class names, expected a list of names or an object of names and numbers")


def _distinct(entries: list[Entry], path: Path) -> tuple[str, ...]:
    """The names; BadInputError where there are none, or one is no name or nearly identical to another."""
    if not entries:
        raise BadInputError(f"{path}: no classes, expected the name of at least one")
    entry_of: dict[str, Entry] = {}  # by normalised name
    for line, name in entries:
        if not any(map(str.isalnum, name)):
            raise BadInputError(f"{location(path, line)}: {name!a}, expected the name of a class, one per line")
        key = normalised_name(name)
        if key in entry_of:
            earlier_line, earlier = entry_of[key]
            place = f" of line {earlier_line}" if earlier_line else ""
            raise BadInputError(f"{location(path, line)}: class {name!a} repeats {earlier!a}{place}")
        entry_of[key] = line, name
    return tuple(name for _, name in entries)
