"""Class names that are nearly identical, suggestions for unknown ones, and how two class lists differ."""

import difflib
import unicodedata
from collections.abc import Sequence

NEAR_DUPLICATE = "differ only in case, blanks, underscores or Unicode form"
"""end of a message about two class names"""


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
    return f"{len(first)} and {len(second)} classes that differ{where}"
