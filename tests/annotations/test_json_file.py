"""annotations.json and the files of 2D-kinectics: what is written is read back, and a broken file is refused."""

import json
import random
from dataclasses import replace
from pathlib import Path

import pytest

from tests.annotations.samples import EXAMPLE, some_videos, write
from twostream.annotations.json_file import find_root, read_annotations, write_annotations
from twostream.annotations.videos import Annotations, Video, make_annotations
from twostream.errors import BadInputError

# -------------------------------------------------------------------------------------------- annotations.json


def in_other_layout(content: bytes) -> bytes:
    """The same JSON in another layout than the written one, so that the whole-file parser reads it."""
    mark = b"\xef\xbb\xbf" if content.startswith(b"\xef\xbb\xbf") else b""
    return mark + b"\n" + content.removeprefix(mark)


def read_or_refuse(root: Path, content: bytes) -> Annotations | str:
    """What a file means in both layouts, or the one line that refuses it."""
    path = root / "annotations.json"
    results = []
    for layout in (content, in_other_layout(content)):
        path.write_bytes(layout)
        try:
            results.append(read_annotations(root))
        except BadInputError as error:
            assert str(path) in str(error) and "\n" not in str(error)
            results.append(str(error))
    assert isinstance(results[0], str) == isinstance(results[1], str)
    assert isinstance(results[0], str) or results[0] == results[1]
    return results[0]


@pytest.fixture
def written(tmp_path) -> bytes:
    write_annotations(tmp_path / "annotations.json", EXAMPLE)
    return (tmp_path / "annotations.json").read_bytes()


def test_write_and_read_back(tmp_path, written):
    path = tmp_path / "annotations.json"
    assert read_annotations(tmp_path) == Annotations(EXAMPLE.classes, EXAMPLE.videos, path)
    assert len(path.read_text().splitlines()) == 3 + len(EXAMPLE.videos) + 2  # one video a line
    assert json.loads(written) == {
        "version": 1,
        "classes": ["run", "jump"],
        "videos": {
            "-a": {"split": "train", "label": "jump", "num_frames": 240, "fps": 29.97},
            "b 50%": {"split": "val", "label": "run", "num_frames": 7, "fps": 15.0, "frame_step": 3},
            "gone": {"split": "train", "label": "run", "num_frames": 0, "fps": 0.0},
            'ö"x': {"split": "test", "label": None, "num_frames": 100, "fps": 25.0},
        },
    }
    write_annotations(path, read_annotations(tmp_path))
    assert path.read_bytes() == written


def test_groups_are_kept(tmp_path):
    """Only videos in a group say so, so that a file without groups is as older versions wrote it."""
    path = tmp_path / "annotations.json"
    videos = [
        Video("a", "train", "run", 3, group=0),
        Video("b", "val", "run", 3),
        Video("c", "train", "run", 3, group=0),
    ]
    write_annotations(path, make_annotations(videos))
    assert read_annotations(tmp_path).videos == videos
    content = path.read_bytes()
    assert content.count(b', "group": 0}') == content.count(b'"group"') == 2
    assert "group -7" in str(read_or_refuse(tmp_path, content.replace(b'"group": 0', b'"group": -7', 1)))


@pytest.mark.parametrize("class_order", ["", "classInd.txt"])
@pytest.mark.parametrize("flags", [(), ("--format=csv", "--list", "/a b/\udcff.csv")])
def test_what_the_file_says_of_its_making_is_read_back(tmp_path, class_order, flags):
    annotations = replace(EXAMPLE, class_order=class_order, annotate_flags=flags)
    write_annotations(tmp_path / "annotations.json", annotations)
    content = (tmp_path / "annotations.json").read_bytes()
    found = read_or_refuse(tmp_path, content)
    assert found == replace(annotations, path=tmp_path / "annotations.json")
    assert len(content.splitlines()) == 3 + bool(class_order) + bool(flags) + len(EXAMPLE.videos) + 2
    assert ("class_order" in json.loads(content), "annotate_flags" in json.loads(content)) == (
        bool(class_order), bool(flags),
    )  # fmt: skip


@pytest.mark.parametrize(
    "line", ['"class_order": 7,', '"annotate_flags": "--format=csv",', '"annotate_flags": [1],', '"version": 1,',
             '"classes": ["run", "jump"],', '"videos": {},', '"class_order": "a"'],
)  # fmt: skip
def test_a_header_of_other_types_is_refused(tmp_path, written, line):
    """Also a name that is there already, and a line without its comma."""
    lines = written.decode().splitlines()
    assert isinstance(read_or_refuse(tmp_path, "\n".join([*lines[:2], line, *lines[2:]]).encode()), str)


def test_other_names_in_the_header_are_ignored(tmp_path, written):
    lines = written.decode().splitlines()
    found = read_or_refuse(tmp_path, "\n".join([*lines[:2], ' "made by": {"a": 1},', *lines[2:]]).encode())
    assert found == replace(EXAMPLE, path=tmp_path / "annotations.json")


@pytest.mark.parametrize("count", [0, 1, 1500])
def test_any_id_is_read_back_from_both_layouts(tmp_path, count):
    videos = [video for video in some_videos(count, seed=1) if "/" not in video.id and "\\" not in video.id]
    annotations = make_annotations(videos, classes=("x", "y", "z"))
    write_annotations(tmp_path / "annotations.json", annotations)
    result = read_or_refuse(tmp_path, (tmp_path / "annotations.json").read_bytes())
    assert result.videos == annotations.videos and result.classes == annotations.classes


def test_only_the_written_layout_is_read_line_by_line(tmp_path, written, monkeypatch):
    """If one of the two readers were never used, the other tests would compare the other one with itself."""
    path = tmp_path / "annotations.json"
    monkeypatch.setattr(
        "twostream.annotations.json_file.read_json", lambda path: pytest.fail("the whole file was parsed")
    )
    assert read_annotations(tmp_path).videos == EXAMPLE.videos
    path.write_bytes(in_other_layout(written))
    with pytest.raises(pytest.fail.Exception, match="the whole file was parsed"):
        read_annotations(tmp_path)


REFUSED = [
    ('"version": 1', '"version": 2'),
    ('"version": 1', '"version": "1"'),
    ('"version": 1', '"version": NaN'),
    ('"version": 1,', '"version": 1, "version": 1,'),
    ('{"version": 1', '["version", 1'),
    ('"classes": ["run", "jump"]', '"classes": []'),
    ('"classes": ["run", "jump"]', '"classes": ["run", "run", "jump"]'),
    ('"classes": ["run", "jump"]', '"classes": ["run", ["jump"]]'),
    ('"classes": ["run", "jump"]', '"classes": ["run", null, "jump"]'),
    ('"classes": ["run", "jump"]', '"classes": null'),
    ('"classes": ["run", "jump"]', '"classes": "jump"'),
    ('"classes": ["run", "jump"]', '"classes": {"run": 0, "jump": 1}'),
    ('"classes": ["run", "jump"]', '"classes": ["run", "jump", 3]'),
    ('"classes": ["run", "jump"]', '"klasses": ["run", "jump"]'),
    ('"classes": ["run", "jump"]', '"classes": ["run", "jump"], "classes": ["run", "jump"]'),
    ('"num_frames": 240', '"num_frames": NaN'),
    ('"num_frames": 240', '"num_frames": Infinity'),
    ('"num_frames": 240', '"num_frames": 1e999'),
    ('"num_frames": 240', '"num_frames": "many"'),
    ('"num_frames": 240', '"num_frames": "240"'),
    ('"num_frames": 240', '"num_frames": 240.5'),
    ('"num_frames": 240', '"num_frames": true'),
    ('"num_frames": 240', '"num_frames": null'),
    ('"num_frames": 240', '"num_frames": [240]'),
    ('"num_frames": 240', '"num_frames": -1'),
    ('"num_frames": 240', '"num_frames": 2147483648'),
    ('"num_frames": 240', f'"num_frames": 1{"0" * 400}'),
    ('"num_frames": 240', f'"num_frames": 1{"0" * 5000}'),
    ('"num_frames": 240', '"num_frames": 0240'),
    ('"num_frames": 240', '"num_frames": 240, "num_frames": 240'),
    ('"num_frames": 240', '"frames": 240'),
    ('"num_frames": 240,', '"num_frames": 240'),
    ('"num_frames": 240,', '"num_frames": 240,,'),
    ('"fps": 29.97', '"fps": NaN'),
    ('"fps": 29.97', '"fps": -Infinity'),
    ('"fps": 29.97', '"fps": -1'),
    ('"fps": 29.97', '"fps": "29.97"'),
    ('"fps": 29.97', '"fps": null'),
    ('"fps": 29.97', '"fps": 29,97'),
    ('"fps": 29.97', f'"fps": 1{"0" * 400}'),
    ('"fps": 29.97', '"fps": 29.97,'),
    ('"frame_step": 3', '"frame_step": 0'),
    ('"frame_step": 3', '"frame_step": 1.5'),
    ('"frame_step": 3', '"frame_step": "3"'),
    ('"frame_step": 3', '"frame_step": 1e12'),
    ('"label": "jump"', '"label": "fly"'),
    ('"label": "jump"', '"label": "Jump"'),
    ('"label": "jump"', '"label": "jump "'),
    ('"label": "jump"', '"label": ""'),
    ('"label": "jump"', '"label": null'),
    ('"label": "jump"', '"label": 1'),
    ('"label": "jump"', '"label": ["jump"]'),
    ('"label": "jump"', '"label": {}'),
    ('"label": "jump"', '"label": "ju\nmp"'),
    ('"label": "jump"', '"label": "jump'),
    ('"label": "jump"', '"label": \'jump\''),
    ('"label": "jump"', '"name": "jump"'),
    ('"split": "val"', '"split": "holdout"'),
    ('"split": "val"', '"split": ["val"]'),
    ('"split": "val"', '"split": null'),
    ('"split": "val"', '"split": 2'),
    ('"b 50%": {', '"-a": {'),
    ('"b 50%": {', '"../b": {'),
    ('"b 50%": {', '"a/../../b": {'),
    ('"b 50%": {', '"b\\\\c": {'),
    ('"b 50%": {', '"b\\u0000": {'),
    ('"b 50%": {', '"/etc/b": {'),
    ('"b 50%": {', '"": {'),
    ('"b 50%": {', '"..": {'),
    ('"b 50%": {', '1e5: {'),
    ('"b 50%": {', 'b: {'),
    ('"b 50%": {', '// "b": {'),
    ('"gone": {', '"gone": [], "x": {'),
    ('"gone": {', '"gone": null, "x": {'),
    ('"gone": {', '"gone": "split label num_frames", "x": {'),
    ('"gone": {', '"gone": 7, "x": {'),
    ('"gone": {', '"gone": {}, "x": {'),
    ('"gone": {', '"gone": {"again": {'),
    ('"gone": {', '"gone" {'),
    ('"fps": 29.97},', '"fps": 29.97},,'),
    ('"fps": 25.0}', '"fps": 25.0},'),
    ('"gone": {', '\f"gone": {'),
    ('"gone": {', '\u00a0"gone": {'),
    ('"gone": {', '\ufeff"gone": {'),
    ('"gone": {', f'"gone": {"[" * 10_000}, "x": {{'),
    ('"gone": {', f'"gone": {"[" * 100_000}{"]" * 100_000}, "x": {{'),
    ('"videos": {', '"videos": ['),
    ('"videos": {', '"videos": null, "x": {'),
    ('"videos": {', '"videos": [], "x": {'),
    ('"videos": {', '"videos": 7, "x": {'),
    ('"videos": {', '"videos": {}, "videos": {'),
    ('"videos": {', '"films": {'),
    ('\n }\n}', ',\n }\n}'),
    ('\n }\n}', '\n}'),
    ('\n }\n}', '\n }}\n}'),
    ('\n }\n}', '\n }\n}\n{}'),
    ('\n }\n}', '\n ]\n}'),
]  # fmt: skip


@pytest.mark.parametrize(("old", "new"), REFUSED)
def test_mutated_file_is_refused_by_name(tmp_path, written, old, new):
    assert written.decode().count(old) == 1, "the mutation does not apply"
    assert isinstance(read_or_refuse(tmp_path, written.decode().replace(old, new).encode()), str)


SAME = [
    ("\n", "\r\n"),
    ("\n", "\n\n"),
    ("\n", "\t \n"),
    ("\n", " "),
    ("  ", "\t"),
    ("{", "{\n"),
    (": ", ":"),
    (", ", " ,\n"),
    ("jump", "\\u006aump"),
    ("\\u00f6", "ö"),
    ('"num_frames": 240', '"num_frames": 240.0'),
    ('"num_frames": 240', '"num_frames": 2.4e2'),
    ('"fps": 29.97', '"fps": 2997e-2'),
    ('"fps": 15.0', '"fps": 15'),
    (', "fps": 0.0', ""),
    ('"fps": 29.97', '"fps": 29.97, "frame_step": 1'),
    ('"fps": 29.97', '"fps": 29.97, "note": [{"by": NaN}]'),
    ('"fps": 29.97', f'"fps": 29.97, "note": "{"x" * 5_000_000}"'),
    ('"split": "train", "label": "jump"', '"label": "jump", "split": "train"'),
    ('"version": 1', '"version": 1, "database": {}'),
    ('\n }\n}\n', '\n }\n}'),
    ('\n }\n}', '\n }, "note": 1\n}'),
    ('\n }\n}', '\n }\n}\n\n \r\n'),
]  # fmt: skip


@pytest.mark.parametrize(("old", "new"), SAME)
def test_mutated_file_that_means_the_same(tmp_path, written, old, new):
    assert old in written.decode(), "the mutation does not apply"
    text = written.decode().replace(old, new)
    assert read_or_refuse(tmp_path, text.encode()).videos == EXAMPLE.videos
    assert read_or_refuse(tmp_path, b"\xef\xbb\xbf" + text.encode()).videos == EXAMPLE.videos


def test_lines_in_another_order_mean_the_same(tmp_path, written):
    lines = written.decode().splitlines()
    bodies = [line.removesuffix(",") for line in lines[3:-2]]
    for seed in range(5):
        random.Random(seed).shuffle(bodies)
        text = "\n".join([*lines[:3], ",\n".join(bodies), *lines[-2:]])
        assert read_or_refuse(tmp_path, text.encode()).videos == EXAMPLE.videos


def meaning(text: str) -> list[Video] | None:
    """What a JSON file means, read without our code; None where it is not such a file."""

    def distinct(pairs):
        assert len({name for name, _ in pairs}) == len(pairs)
        return dict(pairs)

    try:
        content = json.loads(text, object_pairs_hook=distinct)
        assert content["version"] == 1
        videos = [
            Video(video_id, e["split"], e["label"], e["num_frames"], e.get("fps", 0.0), e.get("frame_step", 1))
            for video_id, e in content["videos"].items()
        ]
        return sorted(videos, key=lambda video: video.id)
    except (AssertionError, ValueError, LookupError, TypeError, AttributeError):
        return None


def test_files_with_random_damage_are_refused_or_mean_what_they_say(tmp_path, written):
    text = written.decode()
    outcomes = {"read": 0, "refused": 0}
    for seed in range(600):
        rng = random.Random(seed)
        start, length = rng.randrange(len(text)), rng.choice([0, 1, 1, 2, 20])
        piece = rng.choice(
            ["", "", ",", "}", "{", '"', ":", "\n", " ", "0", "e", "\\", "\ufeff", "\r", "]", "\n  ", text[start:]]
        )
        damaged = text[:start] + piece + text[start + length :]
        result = read_or_refuse(tmp_path, damaged.encode())
        if isinstance(result, str):
            outcomes["refused"] += 1
        else:
            outcomes["read"] += 1
            assert result.videos == meaning(damaged), damaged
    assert min(outcomes.values()) > 50, "the damage proves nothing"


def test_a_missing_or_repeated_line(tmp_path, written):
    """Without the line of a video, the others are read; without any other line, or with a repeated one, the file is refused."""
    lines = written.decode().splitlines(keepends=True)
    for number, line in enumerate(lines):
        without = "".join(lines[:number] + lines[number + 1 :])
        result = read_or_refuse(tmp_path, without.encode())
        if number in (3, 4, 5):
            assert [video.id for video in result.videos] == [
                v.id for k, v in enumerate(EXAMPLE.videos) if k != number - 3
            ]
        else:
            assert isinstance(result, str)
        assert isinstance(read_or_refuse(tmp_path, "".join([*lines[:number], line, *lines[number:]]).encode()), str)


@pytest.mark.parametrize(
    ("old", "new", "line"),
    [
        ('"num_frames": 240', '"num_frames": "240"', 4),
        ('"label": "run", "num_frames": 7', '"label": "fly", "num_frames": 7', 5),
        ('"gone": {', '"../gone": {', 6),
        ('"gone": {', '"-a": {', 6),
        ('"fps": 25.0', '"fps": -25.0', 7),
        ('"fps": 25.0', '"fps": 25.0,', 7),
        ('"fps": 15.0', '"fps": 15.0 25.0', 5),
    ],
)
def test_the_line_is_named(tmp_path, written, old, new, line):
    assert written.decode().count(old) == 1
    message = read_or_refuse(tmp_path, written.decode().replace(old, new).encode())
    assert f"line {line}" in message


def test_cut_file_is_refused_wherever_it_is_cut(tmp_path, written):
    whole = written.rstrip()
    for length in range(len(whole)):
        assert isinstance(read_or_refuse(tmp_path, whole[:length]), str)


@pytest.mark.parametrize(
    "content", [b"", b"\n", b"[]", b"3", b"null", b'"x"', b"{}", b"\xff\xfe{", b"\0" * 4096, b"[" * 100_000]
)
def test_file_that_is_not_a_json_object_is_refused(tmp_path, content):
    assert isinstance(read_or_refuse(tmp_path, content), str)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "latin-1"])
def test_file_in_another_encoding_is_refused(tmp_path, written, encoding):
    assert isinstance(read_or_refuse(tmp_path, written.decode().replace("\\u00f6", "ö").encode(encoding)), str)


@pytest.mark.parametrize("marker", ["annotations.json", "hfiles/finalannots.json"])
def test_root_is_found_with_or_without_the_name_of_the_data_set(tmp_path, marker):
    write(tmp_path / "kinetics" / marker, "{}")
    assert find_root(tmp_path, "kinetics") == tmp_path / "kinetics"
    assert find_root(tmp_path / "kinetics", "kinetics") == tmp_path / "kinetics"
    with pytest.raises(BadInputError, match="run twostream annotate first"):
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
def test_class_numbers_of_2d_kinectics_start_at_0_or_1(tmp_path, base):
    write(tmp_path / "hfiles" / "finalannots.json", json.dumps(old_content(base)))
    annotations = read_annotations(tmp_path)
    assert annotations.classes == ("run", "air drumming")
    assert annotations.videos == (
        Video("a", "val", "air drumming", 12),
        Video("b", "train", "run", 160),
        Video("c", "train", "run", 0),
        Video("d", "test", None, 9),
    )


def test_subsets_of_2d_kinectics_by_name(tmp_path):
    write(tmp_path / "hfiles" / "Annots_100.json", json.dumps(old_content(0)))
    assert len(read_annotations(tmp_path, datasubset="100").videos) == 4
    with pytest.raises(BadInputError, match="Annots_200.json"):
        read_annotations(tmp_path, datasubset="200")


@pytest.mark.parametrize(
    "old, new",
    [('"air drumming": 1}', '"air drumming": 5}'), ('"air drumming": 1}', '"air drumming": "1"}'), ('"numf": 12', '"numf": "12"'),
     ('"numf": 12', '"numf": -12'), ('"label": "air drumming"', '"label": []'), ('"label": "air drumming"', '"label": null'),
     ('"database": {', '"database": {"a": {"subset": "val"}, '), ('"subset": "val"', '"subset": ["val"]'),
     ('"subset": "val"', '"subset": "later"'), ('"numf": 12', '"numf": NaN'),
     ('"numf": 12', '"numf": 1e999'), ('"label": "air drumming"', '"label": "fly"'), ('"a": {', '"../a": {'),
     ('"label": "run", "cls": 0, "subset": "train", "isthere": true', '"label": ["run"], "subset": "train"'),
     ('"classes": {', '"classes": [], "x": {'), ('"database": {', '"database": 7, "x": {')],
)  # fmt: skip
def test_mutated_file_of_2d_kinectics_is_refused(tmp_path, old, new):
    text = json.dumps(old_content(0))
    assert text.count(old) == 1, "the mutation does not apply"
    write(tmp_path / "hfiles" / "finalannots.json", text.replace(old, new))
    with pytest.raises(BadInputError) as caught:
        read_annotations(tmp_path)
    assert "finalannots.json" in str(caught.value) and "\n" not in str(caught.value)


# -------------------------------------------------------------------------------------------------------- multi-label

SEVERAL = """{"version": 1,
 "classes": ["run", "jump", "hop"],
 "videos": {
  "a": {"split": "train", "label": ["hop", "run"], "num_frames": 9, "fps": 25.0},
  "b": {"split": "train", "label": [], "num_frames": 9, "fps": 25.0},
  "c": {"split": "test", "label": null, "num_frames": 9, "fps": 25.0}
 }
}
"""


@pytest.mark.parametrize("label", ['["run", "hop"]', "[0, 2]", '["hop", 0]', "[2, 0, 2]"])
def test_several_labels_are_names_or_indices_in_any_order(tmp_path, label):
    path = tmp_path / "annotations.json"
    text = SEVERAL.replace('["hop", "run"]', label)
    for content in (text.encode(), in_other_layout(text.encode())):
        path.write_bytes(content)
        annotations = read_annotations(tmp_path)
        assert [video.label for video in annotations.videos] == [("run", "hop"), (), None]
        assert annotations.videos.labels().tolist() == [[1, 0, 1], [0, 0, 0], [-1, -1, -1]]
    write_annotations(path, annotations)
    assert read_annotations(tmp_path).videos == annotations.videos
    assert '"label": ["run", "hop"]' in path.read_text()


@pytest.mark.parametrize(
    "old, new, word",
    [
        ('"run"], "num', '"fly"], "num', "line 4: video 'a' has label 'fly', which is not in the class list"),
        ('["hop", "run"]', "[3]", "line 4: video 'a': label index 3, expected 0 to 2"),
        ('["hop", "run"]', "[true]", "line 4: video 'a': True is not text"),
        ("[],", '"run",', "line 5: video 'b' has one label, expected a list of labels"),
    ],
)
def test_broken_lists_of_labels_are_refused_with_their_line(tmp_path, old, new, word):
    (tmp_path / "annotations.json").write_text(SEVERAL.replace(old, new))
    with pytest.raises(BadInputError, match=word):
        read_annotations(tmp_path)
