"""Class names: which are nearly identical, which is suggested, and how two lists differ."""

import random

import pytest

from tests.annotations.samples import write
from twostream.annotations.class_names import class_difference, normalised_name, read_classes, suggest_class
from twostream.errors import BadInputError


@pytest.mark.parametrize(
    ("name", "same"), [("Long_Jump", "long  jump"), ("Straße", "STRASSE"), ("r\u00f6ck", "ro\u0308ck"), (" a ", "a")]
)
def test_case_blanks_and_unicode_form_do_not_count(name, same):
    assert normalised_name(name) == normalised_name(same)


def test_another_letter_counts():
    assert normalised_name("röck") != normalised_name("rock")


@pytest.mark.parametrize(
    ("name", "end"),
    [
        ("Jump", "; it and the class 'jump' differ only in case, blanks, underscores or Unicode form"),
        ("jmup", "; the nearest class is 'jump'"),
        ("swimming", ""),
    ],
)
def test_the_class_that_was_meant_is_suggested(name, end):
    assert suggest_class(name, ("run", "jump")) == end


@pytest.mark.parametrize(
    ("first", "second", "text"),
    [
        (("a", "b", "c"), ("a", "x", "y"), "3 and 3 classes that differ, first 'b' and 'x'"),
        (("a",), ("a", "b"), "1 and 2 classes that differ"),
    ],
)
def test_difference_of_two_class_lists(first, second, text):
    assert class_difference(first, second) == text


# --------------------------------------------------------------------------------------------------------- class lists


@pytest.mark.parametrize(
    "text, names",
    [
        ("jump\nrun\n", ("jump", "run")),
        ("1 jump\r\n2 long jump\r\n\r\n", ("jump", "long jump")),
        ("0 jump\n1 run", ("jump", "run")),
        ("\ufeff\tröck \n", ("röck",)),
        # numbers in other places, in any order
        ("2 jump\n1 run\n3 sit", ("run", "jump", "sit")),
        ("jump 1\nrun 0", ("run", "jump")),
        ("0,run\n1,jump", ("run", "jump")),
        ('1,"push, pull"\n0,run', ("run", "push, pull")),
        ("jump;1\nlong jump;2", ("jump", "long jump")),
        ("0: run\n1: jump", ("run", "jump")),
        ("1\tjump\n2\trun", ("jump", "run")),
        ("id,name\n1,jump\n0,run", ("run", "jump")),
        ("label, class_id\nrun,0\njump,1", ("run", "jump")),
        ("class_id class_name\n1 jump\n2 run", ("jump", "run")),
        # JSON on one line or on several
        ('["run", "a b"]', ("run", "a b")),
        ('{\n "run": 1,\n "jump": 0\n}\n', ("jump", "run")),
        ('{"2": "run", "1": "jump"}', ("jump", "run")),
        # names that have numbers
        ("level 2\nlevel 1", ("level 2", "level 1")),
        ("2\n0\n1", ("2", "0", "1")),
        ("jump\nrun\nsit\n50 m dash\n100 m", ("jump", "run", "sit", "50 m dash", "100 m")),
        ("throw, far\nrun", ("throw, far", "run")),
    ],
)
def test_class_list(tmp_path, text, names):
    assert read_classes(write(tmp_path / "classes.txt", text)) == names


@pytest.mark.parametrize(
    "text, word",
    [
        ("", ", line 1: empty"),
        ("jump\n\nrun", ", line 2: empty"),
        ("jump\nrun\njump\n", ", line 3: class 'jump' repeats 'jump' of line 1"),
        ("jump_up\nrun\nJump up\n", ", line 3: class 'Jump up' repeats 'jump_up' of line 1"),
        ("\u00f6l\no\u0308l\n", ", line 2: class 'o.u0308l' repeats '.xf6l' of line 1"),
        ("0 jump\n2 run", ", line 2: class 'run' has number 2, where 1 "),
        ("2 jump\n3 run", ", line 1: class 'jump' has number 2, where 1 "),
        ("1,jump\n1,run", ", line 2: class 'run' has number 1, where 2 "),
        ("jump 4\nrun 9", ", line 1: class 'jump' has number 4, where 1 "),
        ("1 jump\nrun\n3 sit", ", line 2: 'run' has no number"),
        ("name\njump\nrun", ", line 1: 'name' looks like a header"),
        ("id,name,label\n0,run,sport\n1,jump,sport", ", line 1: 3 columns, expected a number and a name"),
        ("item {\n name: 'run'\n}", ", line 3: '}', expected the name of a class"),
        ("[\n'run']", ": Expecting value: line 2 column 1"),
        ('["run", "run"]', ": class 'run' repeats 'run'$"),
        ('["run", 2]', ": JSON without class names"),
        ('{"run": 0, "jump": 2}', ": class 'jump' has number 2, where 1 "),
        ('{"run": 0, "run": 1}', ": 'run' is listed twice"),
        ('{"run": [0]}', ": JSON without class names"),
        ("{}", ": no classes"),
        ("[" * 100_000, ": .*expected a JSON list"),
    ],
)
def test_broken_class_list(tmp_path, text, word):
    with pytest.raises(BadInputError, match=f"classes.txt{word}") as caught:
        read_classes(write(tmp_path / "classes.txt", text))
    assert "\n" not in str(caught.value)


def test_random_orders_and_forms_mean_the_same(tmp_path):
    """The truth is the order; the lines are shuffled, from 0 or from 1, and in one of the forms."""
    generator = random.Random(0)
    for trial in range(50):
        names = [f"{generator.choice(['push', 'long jump', 'røll'])} {chr(97 + k)}" for k in range(9)]
        numbered = list(enumerate(names, start=trial % 2))
        generator.shuffle(numbered)
        form = generator.choice(["{0} {1}", "{0},{1}", "{1} {0}", "{1};{0}", '{0},"{1}"', "{0}\t{1}"])
        header = generator.choice(["", "index,name\n"])
        text = header + "\n".join(form.format(*pair) for pair in numbered)
        assert read_classes(write(tmp_path / "classes.txt", text)) == tuple(names), text


@pytest.mark.parametrize("number", [400, 600, 700])
def test_real_class_lists(shared_data, number):
    path = shared_data / f"annotations/kinetics/label_map_k{number}.txt"
    assert list(read_classes(path)) == path.read_text().split("\n")[:number]
