"""Class names that are nearly identical, suggestions for unknown ones, and how two class lists differ."""

import difflib
import unicodedata
from collections.abc import Sequence

NEAR_DUPLICATE = "differ in case, blanks, underscores or unicode form only"


def normalised_name(name: str) -> str:
    """The same for names that people take for one."""
    return " ".join(unicodedata.normalize("NFC", name).casefold().replace("_", " ").split())


def suggest_class(name: str, classes: tuple[str, ...]) -> str:
    twin = next((known for known in classes if normalised_name(known) == normalised_name(name)), None)
    if twin is not None:
        return f"; it and {twin!r} there {NEAR_DUPLICATE}"
    nearest = difflib.get_close_matches(name, classes, n=1)
    return f"; the nearest there is {nearest[0]!r}" if nearest else ""


def class_difference(one: Sequence[str], other: Sequence[str]) -> str:
    """How two lists of classes differ, for messages: their lengths and the first place where they do."""
    first = next((f", first {a!r} and {b!r}" for a, b in zip(one, other, strict=False) if a != b), "")
    return f"{len(one)} and {len(other)} classes that differ{first}"
