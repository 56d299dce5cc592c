"""Trees of class folders: what each means, whatever its files are; and which mean too much."""

from pathlib import Path

import pytest

from twostream.annotations.folders import ClassFolders
from twostream.errors import BadInputError

Meaning = dict[str, tuple[str | None, str | None]]


def meaning(*paths: str, classes: tuple[str, ...] = ()) -> Meaning:
    """Split and label of each path below "root"."""
    folders = {path: tuple(path.split("/")[:-1]) for path in paths}
    tree = ClassFolders(Path("root"), folders.values(), classes=classes)
    return {path: tree.split_and_label(folders[path], Path(path).name) for path in paths}


@pytest.mark.parametrize(
    "truth",
    [
        {"jump/a": (None, "jump"), "run/b": (None, "run")},
        {"jump/a": (None, "jump"), "jump/deeper/still/b": (None, "jump"), "run/c": (None, "run")},
        {"train/jump/a": ("train", "jump"), "Validation/run/b": ("val", "run"), "testing/run/c": ("test", "run")},
        # one folder around all classes
        {"UCF-101/jump/a": (None, "jump"), "UCF-101/run/b": (None, "run")},
        {"data/videos/jump/a": (None, "jump"), "data/videos/run/b": (None, "run")},
        {"train/UCF-101/jump/a": ("train", "jump"), "test/UCF-101/run/b": ("test", "run")},
        # splits that have longer names
        {"kinetics_train/jump/a": ("train", "jump"), "kinetics_val/run/b": ("val", "run")},
        {"train_256/jump/a": ("train", "jump"), "Val-256/run/b": ("val", "run"), "test/jump/c": ("test", "jump")},
        # "test" beside classes is no class
        {"jump/a": (None, "jump"), "run/b": (None, "run"), "test/c": ("test", None)},
        {"jump/a": (None, "jump"), "run/b": (None, "run"), "test/run/c": ("test", "run")},
        {"train/jump/a": ("train", "jump"), "val/run/b": ("val", "run"), "test/c": ("test", None)},
        # classes whose names have such a word
        {"crash_test/a": (None, "crash_test"), "train_ride/b": (None, "train_ride")},
        {"crash_test/a": (None, "crash_test"), "run/b": (None, "run")},
    ],
)
def test_a_tree_that_is_understood(truth):
    assert meaning(*truth) == truth


@pytest.mark.parametrize(
    "paths, word",
    [
        (["a"], "a in no class folder; it has videos in the folder itself (1), expected root/<class>/<video>"),
        (["jump/a", "run/b", "c"], "c in no class folder; it has videos in the folder itself (1), jump/ (1), run/ (1)"),
        (["train/a", "train/jump/b", "train/run/c"], "train/a in no class folder"),
        (["train/jump/a", "val/run/b", "replacement/c"], "train, val beside other folders; it has videos in replacement/ (1)"),
        (["jump/a", "run/b", "val/run/c"], "val beside other folders"),
        (["jump/one/a", "jump/two/b", "run/c"], "folders without videos of their own (jump)"),
        (["part1/jump/a", "part1/run/b", "part2/jump/c"], "folders without videos of their own (part1, part2)"),
        (["ucf_train/jump/a", "hmdb_train/run/b"], "folders without videos of their own (hmdb_train, ucf_train)"),
        (["UCF-101/jump/a", "UCF-101/run/b", "more/c"], "folders without videos of their own (UCF-101)"),
        ([f"c{k}/deeper/v" for k in range(9)], "(c0, c1, c2, c3, c4 and 4 more)"),
    ],
)  # fmt: skip
def test_a_tree_that_could_mean_several_things_is_refused(paths, word):
    with pytest.raises(BadInputError) as caught:
        meaning(*paths)
    assert str(caught.value).startswith("root has ") and word in str(caught.value) and "\n" not in str(caught.value)
    assert "--classes FILE" in str(caught.value)


@pytest.mark.parametrize(
    "truth",
    [
        {"sports/jump/a": (None, "jump"), "music/piano/b": (None, "piano")},  # the inner folder is the class
        {"jump/piano_1/a": (None, "jump"), "piano/x/b": (None, "piano")},  # the outer one
        {"test/a": (None, "test"), "jump/b": (None, "jump")},
        {"kinetics_val/sports/jump/a": ("val", "jump"), "kinetics_train/piano/b": ("train", "piano")},
        {"jump/a": (None, "jump")},
    ],
)
def test_a_class_list_says_which_folders_are_classes(truth):
    assert meaning(*truth, classes=("jump", "piano", *(["test"] if "test/a" in truth else []))) == truth


def test_folders_of_two_classes_are_refused():
    with pytest.raises(BadInputError, match="root/jump/run: the class list has 'jump' and 'run'"):
        meaning("jump/run/a", classes=("jump", "run"))


def test_a_folder_that_is_no_class_of_the_list_is_its_label_for_the_message():
    assert meaning("jmup/a", "jump/b", classes=("jump",)) == {"jmup/a": (None, "jmup"), "jump/b": (None, "jump")}
