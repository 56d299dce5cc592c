"""Tables of videos, annotations made of them, and fingerprints."""

import hashlib
import json
import pickle
import random
from pathlib import Path

import numpy as np
import pytest

from tests.annotations.samples import EXAMPLE, some_videos
from twostream.annotations.videos import Annotations, Video, VideoTable, fingerprint, make_annotations
from twostream.errors import BadInputError


@pytest.mark.parametrize("count", [0, 1, 2, 999, 1000, 1001, 2500])
def test_a_table_is_the_sequence_of_its_videos(count):
    videos = some_videos(count)
    table = VideoTable.of(iter(videos), classes=("z", "y", "x"))
    assert list(table) == videos and table == videos and table == tuple(videos) and len(table) == count
    assert list(table.ids) == [video.id for video in videos]
    assert [table[index] for index in range(-count, count)] == videos + videos
    for index in (count, -count - 1):
        with pytest.raises(IndexError):
            table[index]
    assert table.label_index.tolist() == [{"z": 0, "y": 1, "x": 2, None: -1}[video.label] for video in videos]
    assert pickle.loads(pickle.dumps(table)) == videos


def test_parts_of_a_table():
    videos = some_videos(2500)
    table = VideoTable.of(videos)
    even = np.arange(len(videos)) % 2 == 0
    assert table[7:2000:3] == videos[7:2000:3]
    assert table[even] == videos[::2] and list(table.ids[even]) == [video.id for video in videos[::2]]
    assert table[even][np.array([5, 1, 1])] == [videos[10], videos[2], videos[2]]
    assert table[:0] == [] and len(table[np.array([], int)]) == 0


def test_tables_differ_where_their_videos_do():
    table = VideoTable.of(EXAMPLE.videos)
    for change in (
        {"id": "z"}, {"split": "val"}, {"label": "run"}, {"num_frames": 241}, {"fps": 29.970001}, {"stored_step": 2}, {"group": 3}
    ):  # fmt: skip
        first = EXAMPLE.videos[0]
        fields = {
            name: getattr(first, name) for name in ("id", "split", "label", "num_frames", "fps", "stored_step", "group")
        }
        assert table != [Video(**(fields | change)), *list(EXAMPLE.videos)[1:]]
    assert table != list(table)[:-1] and table != 3


def test_annotations_are_made_of_videos_in_any_order():
    videos = some_videos(300)
    for seed in range(3):
        random.Random(seed).shuffle(videos)
        annotations = make_annotations(video for video in videos)
        assert annotations.classes == ("x", "y", "z")
        assert annotations.videos == sorted(videos, key=lambda video: video.id)
    assert make_annotations(videos, classes=("z", "x", "y", "w")).classes == ("z", "x", "y", "w")


@pytest.mark.parametrize(
    ("videos", "classes", "message"),
    [
        ([], None, "0 classes"),
        ([], ["run", "run"], "2 classes, 1 of them distinct"),
        ([Video("a", "test", None, 1)], None, "0 classes"),
        ([Video("b", "val", "run", 1), Video("a", "val", "run", 1), Video("b", "val", "run", 1)], None, "'b' .*twice"),
        ([Video("a", "val", "run", 1)], ["walk"], "'a' has label 'run', which is not in the class list"),
        ([Video("a", "val", None, 1)], ["walk"], "'a' has no label"),
        ([Video("a", "later", "run", 1)], None, "'a' is in split 'later', expected train, val, test"),
        ([Video("a", "val", "run", -1)], None, "'a' has -1 frames"),
        ([Video("a", "val", "run", 10**9)], None, "'a' has 1000000000 frames.*at most 10000000 frames"),
        ([Video("a", "val", "run", 1, float("nan"))], None, "'a' has .* nan fps"),
        ([Video("a", "val", "run", 1, 25.0, 0)], None, "'a' has .* step 0"),
    ],
)
def test_impossible_videos_are_refused(videos, classes, message):
    with pytest.raises(BadInputError, match=f"the list: .*{message}"):
        make_annotations(videos, classes=classes, path=Path("the list"))


def test_splits_and_label_indices():
    assert [video.id for video in EXAMPLE.split("train")] == ["-a", "gone"]
    assert EXAMPLE.videos.label_index.tolist() == [1, 0, 0, -1]
    for name in ("val", "later"):
        with pytest.raises(BadInputError, match=f"no videos in split '{name}'; it has train 1$"):
            Annotations(("run",), (Video("a", "train", "run", 1),)).split(name)


@pytest.mark.parametrize(
    "path, flags, splits, name, remedy",
    [
        ("r/annotations.json", ("--format=csv", "--list", "/x/a b.csv"), ["train"], "val",
         "to hold val out of train: twostream annotate --root=r --format=csv --list '/x/a b.csv' --val_fraction=0.2"),
        ("r/annotations.json", (), ["train"], "val",
         "to hold val out of train: twostream annotate --root=r --format=FORMAT --list=LIST --val_fraction=0.2"),
        ("r/annotations.json", ("--videos=/v",), ["test"], "val",
         "add a list of val videos to: twostream annotate --root=r --videos=/v"),
        ("r/annotations.json", ("--videos=/v",), ["train", "val"], "test",
         "add a list of test videos to: twostream annotate --root=r --videos=/v"),
        ("r/hfiles/finalannots.json", (), ["train"], "val",
         "out of train: twostream annotate --root=r --format=2d-kinectics --list=r/hfiles/finalannots.json --val_fraction=0.2"),
    ],
)  # fmt: skip
def test_a_split_without_videos_names_the_command_that_helps(path, flags, splits, name, remedy):
    videos = tuple(Video(split, split, "run", 1) for split in splits)
    with pytest.raises(BadInputError) as caught:
        Annotations(("run",), videos, Path(path), annotate_flags=flags).split(name)
    assert str(caught.value).endswith(remedy)


def test_fingerprint_agrees_exactly_when_classes_ids_and_labels_do():
    base = fingerprint(("x", "y"), ["a", "b"], [0, 1])
    assert fingerprint(("x", "y"), ["b", "a"], [1, 0]) == base
    others = [(("y", "x"), ["a", "b"], [0, 1]), (("x", "y"), ["a", "c"], [0, 1]), (("x", "y"), ["a", "b"], [1, 0])]
    assert base not in {fingerprint(*other) for other in others}


@pytest.mark.parametrize("count", [0, 1, 2, 1000, 2001])
def test_fingerprint_equals_that_of_older_score_files(count):
    """The formula written out: SHA-256 of the JSON of classes and sorted pairs."""
    videos = some_videos(count)
    table = VideoTable.of(videos, ("x", "ü", "z", "y"))
    pairs = sorted([video_id, label] for video_id, label in zip(table.ids, table.label_index.tolist(), strict=True))
    truth = hashlib.sha256(json.dumps([["x", "ü", "z", "y"], pairs]).encode()).hexdigest()[:16]
    assert fingerprint(table.classes, table.ids, table.label_index) == truth
    assert fingerprint(table.classes, [p[0] for p in pairs], np.array([p[1] for p in pairs], np.int32)) == truth
    assert fingerprint(("run", "walk"), ["a", "b"], [1, 0]) == "4843322418b94bc7"


# -------------------------------------------------------------------------------------------------------- multi-label


def many_labels(count: int, *, seed: int = 0) -> list[Video]:
    """Videos with 0 to 3 of the classes, in the order of their names, or without a label."""
    rng = random.Random(seed)
    sets = [tuple(sorted(rng.sample("vwxyz", rng.randint(0, 3)))) if rng.random() < 0.9 else None for _ in range(count)]
    return [Video(f"{k:04d}", "test" if names is None else "train", names, 1) for k, names in enumerate(sets)]


def test_a_multi_label_table_is_the_sequence_of_its_videos():
    videos = many_labels(2500)
    table = VideoTable.of(iter(videos))
    assert table.is_multi_label and table.classes == ("v", "w", "x", "y", "z") and table == videos
    expected = [[-1] * 5 if v.label is None else [int(name in v.label) for name in "vwxyz"] for v in videos]
    assert table.labels().tolist() == expected
    chosen = np.array([7, 3, 2000])
    assert table[chosen] == [videos[k] for k in chosen] and table[chosen].labels().tolist() == [
        expected[k] for k in chosen
    ]
    assert table.labels(chosen).tolist() == [expected[k] for k in chosen]
    assert VideoTable.of(videos, "zyxwv").labels().tolist() == [row[::-1] for row in expected]
    assert len(table.label_sets) <= 1 + 1 + 5 + 10 + 10  # the different sets, and the missing one


def test_labels_are_all_of_one_kind():
    videos = [Video("a", "train", ("x",), 1), Video("b", "train", "x", 1)]
    with pytest.raises(BadInputError, match="video 'b' has one label, expected a list of labels, as the videos before"):
        make_annotations(videos)
    with pytest.raises(BadInputError, match="video 'a' has a list of labels, expected one label"):
        make_annotations(videos[::-1])
    with pytest.raises(ValueError, match="some are a set"):
        VideoTable.of(videos)
    with pytest.raises(BadInputError, match="video 'a' has label 'x', which is not in the class list"):
        make_annotations(videos[:1], classes=("y",))


def test_fingerprint_of_multi_label_videos():
    """It is that of the JSON text, and another one for each change of a label."""
    videos = many_labels(30)
    table = VideoTable.of(videos)
    pairs = [[v.id, -1 if v.label is None else ["vwxyz".index(name) for name in v.label]] for v in videos]
    text = json.dumps([list(table.classes), pairs])
    found = fingerprint(table.classes, list(table.ids), table.labels())
    assert found == hashlib.sha256(text.encode()).hexdigest()[:16]
    for change in ((), None, ("v",)):
        others = [Video("0000", "test", change, 1), *videos[1:]]
        assert change == videos[0].label or found != fingerprint(
            table.classes, list(table.ids), VideoTable.of(others, table.classes).labels()
        )


def test_classes_that_occur():
    table = VideoTable.of(
        [Video("a", "train", ("x", "y"), 1), Video("b", "val", (), 1), Video("c", "test", None, 1)], "xyz"
    )
    assert table.occurring() == {"x", "y", None} and table[:1].occurring() == {"x", "y"}
    assert table.occurring(np.array([False, False, True])) == {None} and table[:0].occurring() == set()
    single = VideoTable.of([Video("a", "train", "x", 1), Video("c", "test", None, 1)], "xyz")
    assert single.occurring() == {"x", None} and single.occurring(slice(1)) == {"x"}
