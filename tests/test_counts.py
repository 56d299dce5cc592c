"""Numbers with their nouns: one helper, which every message uses."""

import ast
import re

import pytest

from tests.conftest import REPOSITORY
from twostream.counts import counted


@pytest.mark.parametrize(
    "number, words, text",
    [
        (0, ("video",), "0 videos"),
        (1, ("video",), "1 video"),
        (2, ("video",), "2 videos"),
        (1, ("class", "classes"), "1 class"),
        (12, ("class has", "classes have"), "12 classes have"),
    ],
)
def test_a_number_with_its_noun(number, words, text):
    assert counted(number, *words) == text


def test_a_number_in_another_format():
    assert counted(12_345, "video", spec=",") == "12,345 videos"


NOUNS = ("videos", "classes", "images", "clips")
PLURAL = re.compile(rf" ((?:bad|other|listed|damaged|train|val|training|validation) )?({'|'.join(NOUNS)})\b")
TEXT = re.compile(r"split|\bname|input_type|join|counted|_count|rate|pairs")
"""values that are words, rates, or never 1"""


@pytest.mark.parametrize(
    "name", sorted(p.relative_to(REPOSITORY).as_posix() for p in REPOSITORY.glob("twostream/**/*.py"))
)
def test_messages_count_with_the_helper(name):
    """No f-string has a plural behind a number, which would say "1 videos"."""
    found = []
    for node in ast.walk(ast.parse((REPOSITORY / name).read_text())):
        if isinstance(node, ast.JoinedStr):
            for value, text in zip(node.values, node.values[1:], strict=False):
                if isinstance(value, ast.FormattedValue) and isinstance(text, ast.Constant):
                    if PLURAL.match(str(text.value)) and not TEXT.search(ast.unparse(value.value)):
                        found.append(f"line {node.lineno}: {{{ast.unparse(value.value)}}}{str(text.value)[:30]}")
    assert not found
