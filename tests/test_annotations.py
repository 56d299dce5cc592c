"""annotations.json and the files of 2D-kinectics: what is written is read, and a broken file is refused by name."""

import json
from pathlib import Path

import pytest

from twostream.annotations import Annotations, Video, find_root, fingerprint, read_annotations, write_annotations
from twostream.errors import BadInputError


def write(path: Path, text: str, **keywords) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, **keywords)
    return path


# -------------------------------------------------------------------------------------------- annotations.json

EXAMPLE = Annotations(
    ("run", "jump"),
    (
        Video("-a", "train", "jump", 240, 29.97),
        Video("b 50%", "val", "run", 7, 15.0, frame_step=3),
        Video("gone", "train", "run", 0),
        Video('ö"x', "test", None, 100, 25.0),
    ),
)


def test_write_and_read_back(tmp_path):
    path = tmp_path / "annotations.json"
    write_annotations(path, EXAMPLE)
    assert read_annotations(tmp_path) == Annotations(EXAMPLE.classes, EXAMPLE.videos, path)
    assert len(path.read_text().splitlines()) == 3 + len(EXAMPLE.videos) + 2  # one video a line


def test_splits_and_label_indices():
    assert [video.id for video in EXAMPLE.split("train")] == ["-a", "gone"]
    assert [EXAMPLE.label_index(video) for video in EXAMPLE.videos] == [1, 0, 0, -1]
    with pytest.raises(BadInputError, match="no videos in split 'val'; it has train 1"):
        Annotations(("run",), (Video("a", "train", "run", 1),)).split("val")


def test_fingerprint_agrees_exactly_when_classes_ids_and_labels_do():
    base = fingerprint(("x", "y"), ["a", "b"], [0, 1])
    assert fingerprint(("x", "y"), ["b", "a"], [1, 0]) == base
    others = [(("y", "x"), ["a", "b"], [0, 1]), (("x", "y"), ["a", "c"], [0, 1]), (("x", "y"), ["a", "b"], [1, 0])]
    assert base not in {fingerprint(*other) for other in others}


@pytest.mark.parametrize(
    "old, new",
    [
        ('"version": 1', '"version": 2'),
        ('"classes": ["run", "jump"]', '"classes": []'),
        ('"classes": ["run", "jump"]', '"classes": ["run", "run", "jump"]'),
        ('"classes": ["run", "jump"]', '"classes": ["run", ["jump"]]'),
        ('"classes": ["run", "jump"]', '"classes": null'),
        ('"classes": ["run", "jump"]', '"classes": ["run", "jump", 3]'),
        ('"num_frames": 240', '"num_frames": NaN'),
        ('"num_frames": 240', '"num_frames": Infinity'),
        ('"num_frames": 240', '"num_frames": "many"'),
        ('"num_frames": 240', '"num_frames": -1'),
        ('"num_frames": 240', '"frames": 240'),
        ('"fps": 29.97', '"fps": NaN'),
        ('"frame_step": 3', '"frame_step": 0'),
        ('"label": "jump"', '"label": "fly"'),
        ('"label": "jump"', '"label": null'),
        ('"label": "jump"', '"label": ["jump"]'),
        ('"split": "val"', '"split": "holdout"'),
        ('"split": "val"', '"split": ["val"]'),
        ('"b 50%": {', '"-a": {'),
        ('"b 50%": {', '"../b": {'),
        ('"b 50%": {', '"/etc/b": {'),
        ('"b 50%": {', '"": {'),
        ('"gone": {', '"gone": [], "x": {'),
        ('"gone": {', '"gone" {'),
    ],
)
def test_mutated_file_is_refused_by_name(tmp_path, old, new):
    path = tmp_path / "annotations.json"
    write_annotations(path, EXAMPLE)
    assert path.read_text().count(old) == 1, "the mutation does not apply"
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(BadInputError) as caught:
        read_annotations(tmp_path)
    assert "\n" not in str(caught.value)
    assert "annotations.json" in str(caught.value) or "video id" in str(caught.value)


def test_cut_file_is_refused_wherever_it_is_cut(tmp_path):
    path = tmp_path / "annotations.json"
    write_annotations(path, EXAMPLE)
    whole = path.read_text().rstrip()
    for length in range(0, len(whole), 17):
        path.write_text(whole[:length])
        with pytest.raises(BadInputError, match="annotations.json"):
            read_annotations(tmp_path)


@pytest.mark.parametrize("content", [b"[]", b"3", b"null", b"\xff\xfe{", b"[" * 100_000])
def test_file_that_is_no_json_object_is_refused(tmp_path, content):
    (tmp_path / "annotations.json").write_bytes(content)
    with pytest.raises(BadInputError, match="annotations.json"):
        read_annotations(tmp_path)


def test_byte_order_mark_is_no_matter(tmp_path):
    path = tmp_path / "annotations.json"
    write_annotations(path, EXAMPLE)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert read_annotations(tmp_path).videos == EXAMPLE.videos


@pytest.mark.parametrize("marker", ["annotations.json", "hfiles/finalannots.json"])
def test_root_may_be_given_with_or_without_the_data_set(tmp_path, marker):
    write(tmp_path / "kinetics" / marker, "{}")
    assert find_root(tmp_path, "kinetics") == tmp_path / "kinetics"
    assert find_root(tmp_path / "kinetics", "kinetics") == tmp_path / "kinetics"
    with pytest.raises(BadInputError, match="build_annotations.py"):
        find_root(tmp_path, "ucf")


# ------------------------------------------------------------------------------------------ files of 2D-kinectics


def old_content(base: int) -> dict:
    """As 2D-kinectics writes it: classes in order of first appearance, counted from 1, or from 0 in later versions."""
    database = {
        "b": {"label": "run", "cls": base, "subset": "train", "isthere": True, "numf": 160},
        "a": {"label": "air drumming", "cls": base + 1, "subset": "val", "isthere": True, "numf": 12},
        "c": {"label": "run", "cls": base, "subset": "train", "isthere": False},
        "d": {"label": "none", "cls": 0, "subset": "test", "isthere": True, "numf": 9},
    }
    return {"database": database, "classes": {"run": base, "air drumming": base + 1}}


@pytest.mark.parametrize("base", [0, 1])
def test_old_files_mean_the_same_whether_they_count_from_0_or_1(tmp_path, base):
    write(tmp_path / "hfiles" / "finalannots.json", json.dumps(old_content(base)))
    annotations = read_annotations(tmp_path)
    assert annotations.classes == ("run", "air drumming")
    assert annotations.videos == (
        Video("a", "val", "air drumming", 12),
        Video("b", "train", "run", 160),
        Video("c", "train", "run", 0),
        Video("d", "test", None, 9),
    )


def test_old_subsets_by_name(tmp_path):
    write(tmp_path / "hfiles" / "Annots_100.json", json.dumps(old_content(0)))
    assert len(read_annotations(tmp_path, datasubset="100").videos) == 4
    with pytest.raises(BadInputError, match="Annots_200.json"):
        read_annotations(tmp_path, datasubset="200")


@pytest.mark.parametrize(
    "old, new",
    [('"air drumming": 1}', '"air drumming": 5}'), ('"subset": "val"', '"subset": "later"'), ('"numf": 12', '"numf": NaN'),
     ('"numf": 12', '"numf": 1e999'), ('"label": "air drumming"', '"label": "fly"'), ('"a": {', '"../a": {'),
     ('"label": "run", "cls": 0, "subset": "train", "isthere": true', '"label": ["run"], "subset": "train"'),
     ('"classes": {', '"classes": [], "x": {'), ('"database": {', '"database": 7, "x": {')],
)  # fmt: skip
def test_mutated_old_file_is_refused(tmp_path, old, new):
    text = json.dumps(old_content(0))
    assert text.count(old) == 1, "the mutation does not apply"
    write(tmp_path / "hfiles" / "finalannots.json", text.replace(old, new))
    with pytest.raises(BadInputError) as caught:
        read_annotations(tmp_path)
    assert "finalannots.json" in str(caught.value) or "video id" in str(caught.value)
