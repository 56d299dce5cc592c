"""Readers of data sets' lists: the same meaning whatever the format, and one clear line for a broken list."""

import contextlib
import json
import random
import re
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from tests.annotations.samples import (
    CLASSES,
    LISTS,
    TRUTH,
    as_activitynet,
    as_hmdb51,
    as_kinetics_csv,
    as_ucf101,
    read,
    read_text,
    write,
)
from twostream.annotations.class_names import read_classes
from twostream.annotations.lists import READERS, Listed, read_class_order, read_csv, read_folder, segment_id
from twostream.errors import BadInputError
from twostream.programs.options import list_file
from twostream.video.ids import check_video_id

# ------------------------------------------------------------------------------- contract of every list's reader


@pytest.mark.parametrize("name", READERS)
def test_reader_finds_ids_labels_and_splits(tmp_path, name):
    listed = read(name, LISTS[name](tmp_path / "list"))
    assert sorted((entry.ids[0], entry.label, entry.split) for entry in listed) == TRUTH
    assert all(str(tmp_path) in entry.where for entry in listed)


@pytest.mark.parametrize("name", READERS)
def test_missing_list_is_named(tmp_path, name):
    with pytest.raises(BadInputError, match="nowhere"):
        read(name, [str(tmp_path / "nowhere")])


def test_contract_covers_every_reader():
    assert set(LISTS) == set(READERS)


TEXTS = [name for name in READERS if name != "folder"]


@pytest.mark.parametrize("name", TEXTS)
def test_windows_files_read_the_same(tmp_path, name):
    words = LISTS[name](tmp_path)
    plain = read(name, words)
    for path in tmp_path.iterdir():
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\r", b"").replace(b"\n", b"\r\n"))
    assert read(name, words) == plain


@pytest.mark.parametrize("name", TEXTS)
def test_any_damage_of_a_file_is_read_or_refused(tmp_path, name):
    words = LISTS[name](tmp_path)
    path = max(tmp_path.iterdir(), key=lambda path: path.stat().st_size)
    whole, generator = path.read_bytes(), random.Random(name)
    refused = 0
    for _ in range(150):
        data = bytearray(whole)
        for _ in range(generator.randint(1, 3)):
            start = generator.randrange(len(data))
            data[start : start + generator.choice([0, 1, 1, 9, 999])] = generator.choice(
                [b"", b"\0", b"\xff", b'"', b",", b" ", b"\n", b"7", b"../", b"{", b"nan", b"\xcc\x88"]
            )
            data = data or bytearray(b" ")
        path.write_bytes(data)
        try:
            listed = read(name, words)
        except BadInputError as error:
            refused += 1
            assert path.name in str(error) and "\n" not in str(error)
        else:
            assert all(check_video_id(video_id) for entry in listed for video_id in entry.ids)
    assert refused > 10


HOSTILE = [
    "../../x", "..", ".", "", "/etc/passwd", "a/../../b", "a/b", "a\\b", "..\\..\\x", "a\0b", ".hidden", "/", "//", "./a",
    "../", "a/", "\0", "~/../..", "C:\\x", "a/.", "file:///etc/passwd", "$(touch x)/y",
]  # fmt: skip


@pytest.mark.parametrize("video_id", HOSTILE)
def test_ids_are_not_paths(tmp_path, video_id):
    entry = {"subset": "train", "label": "jump", "annotations": {"label": "jump", "segment": [1, 2]}}
    for name, text in [
        ("kinetics_csv", f'label,youtube_id,time_start,time_end,split\njump,"{video_id}",1,2,train\n'),
        ("activitynet", json.dumps({"database": {video_id: entry}})),
        ("2d-kinectics", json.dumps({"database": {video_id: entry}, "classes": {"jump": 1}})),
    ]:
        with pytest.raises(BadInputError):
            read_text(tmp_path, name, text)
    for id_from in ("stem", "path"):  # here a path is expected, and the id is made from it
        for name, text in [("csv", f'video,label\n"{video_id}",jump\n'), ("mmaction2_frames", f"{video_id} 9 1")]:
            try:
                listed = read_text(tmp_path, name, text, id_from=id_from)
            except BadInputError:
                continue
            assert not set("/\\\0") & set(listed[0].ids[0]) and not listed[0].ids[0].startswith(".")


def test_rows_of_a_csv_may_be_parts_of_videos(tmp_path):
    text = "video,label,start_seconds,end_seconds,group\na.mp4,jump,1,2.5,anna\na.mp4,run,12,22,anna\nb.mp4,run,,,\n"
    found = [(entry.ids, entry.label, entry.segment, entry.group) for entry in read_text(tmp_path, "csv", text)]
    assert found == [
        (("a_000001.000_000002.500", "a"), "jump", (1, 2.5), "anna"),
        (("a_000012_000022", "a"), "run", (12, 22), "anna"),
        (("b",), "run", None, ""),
    ]


def test_semicolons_between_columns_are_named(tmp_path):
    with pytest.raises(
        BadInputError, match="line 1: header .* lacks video, label; found semicolons .* expected commas"
    ):
        read_text(tmp_path, "csv", "video;label\na.mp4;jump\n")


def test_times_in_columns_of_other_names_are_no_parts(tmp_path):
    """One row a video may have any columns; a second row can only be another part of it, in an unknown unit."""
    text = "video,label,start,end\na.mp4,jump,1,2.5\nb.mp4,run,1,2\n"
    assert [entry.ids for entry in read_text(tmp_path, "csv", text)] == [("a",), ("b",)]
    with pytest.raises(
        BadInputError, match="line 4: 'a' is listed twice; .* call start and end start_seconds and end_se"
    ):
        read_text(tmp_path, "csv", text + "a.mp4,run,12,22\n")
    assert len(read_text(tmp_path, "csv", text + "a.mp4,run,12,22\n", multi_label=True)) == 3


# -------------------------------------------------------------------------------------------------- broken CSV files

CSV = "video,label,split\n" + "".join(f'"v{k}.mp4","push, pull",train\n' for k in range(2, 7))
KINETICS = "label,youtube_id,time_start,time_end,split\n" + "".join(f"jump,id{k},{k},1{k},val\n" for k in range(2, 7))


def in_line(number: int, old: str, new: str) -> Callable[[str], str]:
    """Change one line of a text; lines count from 1."""

    def change(text: str) -> str:
        lines = text.split("\n")
        assert old in lines[number - 1]
        lines[number - 1] = lines[number - 1].replace(old, new, 1)
        return "\n".join(lines)

    return change


BROKEN = [
    *(("csv", 1, in_line(1, column, "x")) for column in ("video", "label")),
    *(("kinetics_csv", 1, in_line(1, column, "x")) for column in ("youtube_id", "time_start", "time_end", "split")),
    *((name, 1, lambda text: "") for name in ("csv", "kinetics_csv")),
    *((name, 4, in_line(4, ",", change)) for name in ("csv", "kinetics_csv") for change in ("", ",,", ",extra,", ";")),
    *(("csv", line, in_line(line, ",train", change)) for line in (2, 6) for change in (",trian", "", ",#N/A", ",train,7")),
    *(("kinetics_csv", 5, in_line(5, "val", split)) for split in ("holdout", "", "0", "val;", "#REF!")),
    *(("kinetics_csv", 3, in_line(3, ",3,13,", f",{times},")) for times in (
        "13,3", "13,13", "3,", ",13", "soon,13", "nan,13", "3,nan", "3,inf", "-3,13", "3,1e999", "0x3,13", "0:03,0:13",
    )),
    *(("csv", 2, lambda text, times=times: text.replace("split", "start_seconds,end_seconds", 1).replace("train", times)) for times in ("9,3", "3,3")),
    *(("kinetics_csv", 6, in_line(6, "id6", video_id)) for video_id in (
        "#NAME?", "=-ABC", "#REF!", "#VALUE!", "#DIV/0!", "#N/A", "#NUM!", "1.23E+10", "7E+05", '"=""x"""', "",
    )),
    *(("csv", 6, in_line(6, "v6.mp4", video_id)) for video_id in ("#NAME?", "=-ABC", "", "..", "7E+05")),
    *(("csv", 3, in_line(3, "v3", change)) for change in ('"', "v\0", "\udcff", "v3\"x")),
    *(("kinetics_csv", 3, in_line(3, "id3", change)) for change in ("\0", "\udcff", "\udcc3", '"id3"x')),
    ("csv", 7, lambda text: text + '"open quote,x,train'),
    ("kinetics_csv", 7, lambda text: text + '"open quote,x,1,2,train'),
]  # fmt: skip


@pytest.mark.parametrize("number", range(len(BROKEN)))
def test_broken_csv_is_refused_with_file_and_line(tmp_path, number):
    name, line, change = BROKEN[number]
    path = tmp_path / "list.csv"
    text = {"csv": CSV, "kinetics_csv": KINETICS}[name]
    path.write_text(text, encoding="utf-8")
    assert len(list(READERS[name](path))) == 5
    path.write_bytes(change(text).encode("utf-8", "surrogateescape"))
    with pytest.raises(BadInputError) as caught:
        list(READERS[name](path))
    assert str(caught.value).startswith(f"{path}, line {line}: ") and "\n" not in str(caught.value)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32"])
@pytest.mark.parametrize("name", ["csv", "kinetics_csv"])
def test_other_encodings_are_refused_by_name(tmp_path, name, encoding):
    path = tmp_path / "list.csv"
    path.write_bytes({"csv": CSV, "kinetics_csv": KINETICS}[name].encode(encoding))
    with pytest.raises(BadInputError, match="line 1: .*UTF-8"):
        list(READERS[name](path))


# --------------------------------------------------------------------------------------------- what is special in each format


@pytest.mark.parametrize(
    "name, id_from, culprit",
    [
        ("=b,c/1.mp4", "path", "folder '=b,c'"),
        ("run/=1.mp4", "stem", "file '=1.mp4'"),
        ("run/1E+5.mp4", "stem", "file '1E+5.mp4'"),
    ],
)
def test_names_that_a_spreadsheet_would_change_are_to_be_renamed(tmp_path, name, id_from, culprit):
    """There is no list here that could be the damaged one."""
    write(tmp_path / name, "")
    write(tmp_path / "jump" / "2.mp4", "")
    with pytest.raises(BadInputError, match=rf"would be a formula or a number.*; rename the {re.escape(culprit)}$"):
        read("folder", [str(tmp_path)], id_from=id_from)
    (tmp_path / name).rename(tmp_path / "jump" / "1.mp4")
    assert len(read("folder", [str(tmp_path)], id_from=id_from)) == 2


def test_folder_without_splits_has_none(tmp_path):
    for name in ("jump/a.mp4", "jump/deeper/b.mp4", "run/c.avi", "run/notes.txt"):
        write(tmp_path / name, "")
    assert [(e.ids[0], e.label, e.split) for e in read_folder(tmp_path)] == [
        ("a", "jump", None),
        ("b", "jump", None),
        ("c", "run", None),
    ]


@pytest.mark.parametrize("name", ["stray.mp4", "train/stray.mp4"])
def test_video_outside_the_class_folders_is_named(tmp_path, name):
    write(tmp_path / name, "")
    with pytest.raises(BadInputError, match=f"has {name} in no class folder"):
        list(read_folder(tmp_path))


@pytest.mark.parametrize(
    "seconds, name",
    [
        ((12.0, 22.0), "v_000012_000022"),
        ((0.0, 1e6), "v_000000_1000000"),
        ((12.345, 22.0), "v_000012.345_000022.000"),
        ((0.5, 1.25), "v_000000.500_000001.250"),
    ],
)
def test_id_of_a_part(seconds, name):
    assert segment_id("v", *seconds) == name


def test_parts_have_their_seconds_and_the_id_of_the_whole(tmp_path):
    entry = read("kinetics_csv", as_kinetics_csv(tmp_path))[0]
    assert entry.ids == ("clip_000001_000011", "clip") and entry.segment == (1.0, 11.0) and entry.line == 2
    entry = read("activitynet", as_activitynet(tmp_path))[1]
    assert entry.ids == ("öl_000002_000012", "öl") and entry.segment == (2.0, 12.0)


def test_splits_of_ucf101_and_hmdb51_are_chosen(tmp_path):
    as_ucf101(tmp_path)
    with pytest.raises(BadInputError, match=r"trainlist02\.txt: no such list"):
        read("ucf101", [str(tmp_path)], split_number=2)
    as_hmdb51(tmp_path)
    assert [(e.ids[0], e.split) for e in read("hmdb51", [str(tmp_path)], split_number=2)] == [(TRUTH[0][0], "val")]


@pytest.mark.parametrize(
    "name, text, word",
    [
        ("trainlist01.txt", "jump/a.avi 1", "line 1: class number 1, expected 2, which is 'jump'"),
        ("testlist01.txt", "jump/a.avi\njmup/b.avi", "line 2: class 'jmup' .*the nearest class is 'jump'"),
        ("testlist01.txt", "a.avi", "line 1: class ''"),
        ("classInd.txt", "1 jump\n\n3 run", "line 2: empty"),
    ],
)
def test_broken_ucf101_is_refused(tmp_path, name, text, word):
    as_ucf101(tmp_path)
    write(tmp_path / name, text)
    with pytest.raises(BadInputError, match=rf"{name}, {word}"):
        read("ucf101", [str(tmp_path)])


def test_a_file_of_ucf101_in_place_of_its_folder(tmp_path):
    as_ucf101(tmp_path)
    with pytest.raises(BadInputError, match=r"trainlist01\.txt is a file, expected the folder of classInd\.txt and"):
        read("ucf101", [str(tmp_path / "trainlist01.txt")])


@pytest.mark.parametrize("text", ["a.avi", "a.avi 3", "a.avi one", "1"])
def test_broken_hmdb51_is_refused(tmp_path, text):
    write(tmp_path / "jump_test_split1.txt", f"b.avi 1\n{text}\n")
    with pytest.raises(BadInputError, match=r"jump_test_split1\.txt, line 2: .*expected a file name and 0, 1 or 2"):
        read("hmdb51", [str(tmp_path)])


@pytest.mark.parametrize(
    "name, line, ids, label",
    [
        ("mmaction2_frames", "some/v_x.1 120 1", ("v_x.1",), "jump"),
        ("mmaction2_frames", "v 7 120 0", ("v_000007_000127", "v"), "air drumming"),
        ("mmaction2_frames", "a b/c d 120 walk", ("c d",), "walk"),
        ("mmaction2_videos", "some/v_x.1.mp4 1", ("v_x.1",), "jump"),
        ("mmaction2_videos", "a b/c d.mp4\t0", ("c d",), "air drumming"),
    ],
)
def test_mmaction2_lines(tmp_path, name, line, ids, label):
    (entry,) = read_text(tmp_path, name, line, classes=CLASSES)
    assert (entry.ids, entry.label, entry.split) == (ids, label, None)


@pytest.mark.parametrize(
    "name, line, word",
    [
        ("mmaction2_frames", "v 1", "expected a folder"),
        ("mmaction2_frames", "v many 1", "expected a folder"),
        ("mmaction2_frames", f"v {'9' * 5000} 1", "expected a folder"),
        ("mmaction2_frames", "v 9 2", "class number 2, expected 0 to 1"),
        ("mmaction2_videos", "v.mp4", "expected a video and a label"),
        ("mmaction2_videos", "v.mp4 -1", "class number -1, expected 0 to 1"),
    ],
)
def test_broken_mmaction2_is_refused(tmp_path, name, line, word):
    sound = {"mmaction2_frames": "u 9 1", "mmaction2_videos": "u.mp4 1"}[name]
    with pytest.raises(BadInputError, match=f"list, line 2: .*{word}"):
        read_text(tmp_path, name, f"{sound}\n{line}\n", classes=CLASSES)


@pytest.mark.parametrize(
    "name, text, line",
    [
        # several labels, in all forms
        ("mmaction2_videos", "a/abc.mp4 1\na/def.mp4 0 1", 2),
        ("mmaction2_videos", "a b/c d.mkv 0 1 0", 1),
        ("mmaction2_videos", "a/abc.mp4 jump run", 1),
        ("mmaction2_videos", "dir/abc.mp4,0,1", 1),
        ("mmaction2_videos", "some/abc 0 1", 1),
        ("mmaction2_frames", "some/abc 50 1 0 1", 1),
        ("mmaction2_frames", "some/abc 50 1\nsome/def 50 1 0", 2),
        ("mmaction2_frames", "some/abc 50 1 0\nsome/def 50 1", 2),
        ("mmaction2_frames", "some/abc 0 1", 1),  # no frames
        ("mmaction2_frames", "some/abc 50 0 1", 1),
        ("hmdb51", "v.avi 1\nw.avi 1 2", 2),
        ("ucf101", "jump/a.avi 2\njump/b.avi 7 2", 2),
        ("ucf101", "jump/a.avi two", 1),
    ],
)
def test_what_is_left_of_a_line_is_no_path(tmp_path, name, text, line):
    path = tmp_path / "list"
    if name in ("hmdb51", "ucf101"):
        LISTS[name](tmp_path)
        path = tmp_path / {"hmdb51": "jump_test_split1.txt", "ucf101": "trainlist01.txt"}[name]
    write(path, text)
    with pytest.raises(BadInputError, match=f"{path.name}, line {line}: ") as caught:
        keywords = {"classes": CLASSES} if name.startswith("mmaction2") else {}
        list(READERS[name](tmp_path if path.parent == tmp_path and path.name != "list" else path, **keywords))
    assert "expected" in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "line, video_id, label",
    [
        ("dir one/abc.mp4,0", "abc", "air drumming"),
        ("dir one/abc.mp4, 1", "abc", "jump"),
        ("a 1 2/take 7.webm 1", "take 7", "jump"),
        ("a/v1.0.mp4 clips/b.avi 0", "b", "air drumming"),
        ("a, b/c,d.MP4\t1", "c,d", "jump"),
        ("plain,1", "plain", "jump"),
        ("a/clip.2 1", "clip.2", "jump"),
    ],
)
def test_paths_with_blanks_commas_numbers_and_dots(tmp_path, line, video_id, label):
    (entry,) = read_text(tmp_path, "mmaction2_videos", line, classes=CLASSES)
    assert (entry.ids, entry.label) == ((video_id,), label)


def test_long_lines_are_read_in_time_that_grows_with_their_length(tmp_path):
    """Tens of seconds where time grows with the square of the length."""
    for name in ("mmaction2_frames", "mmaction2_videos"):
        for text in ("1 " * 100_000 + "x y", "1 " * 200_000, "a.mp4 " * 50_000 + "x y"):
            with contextlib.suppress(BadInputError):
                read_text(tmp_path, name, text)


def test_a_dot_in_an_id_is_not_a_suffix(tmp_path):
    """`clip.2` and `clip` are two videos."""
    text = "video,label\nclip.2,run\nclip.mp4,jump\nx/clip.2.5.MKV,run\n"
    assert [e.ids for e in read_text(tmp_path, "csv", text)] == [("clip.2",), ("clip",), ("clip.2.5",)]


def test_activitynet_predictions_are_named(tmp_path):
    with pytest.raises(
        BadInputError, match="predictions .*expected a list with labels; give predictions to twostream eval"
    ):
        read_text(
            tmp_path, "activitynet", json.dumps({"version": "1.3", "results": {"abc": [{"label": "jump", "score": 1}]}})
        )


def test_activitynet_has_an_entry_for_each_label_and_part(tmp_path):
    videos = {
        "many": {"subset": "training", "annotations": [
            {"label": "jump", "segment": [1, 2]}, {"label": "jump", "segment": [1, 2]}, {"label": "run", "segment": [2.5, 3]},
            {"label": "run", "segment": [0, 0]}]},
        "none": {"subset": "testing", "annotations": []},
    }  # fmt: skip
    assert [
        (e.ids, e.label, e.split) for e in read_text(tmp_path, "activitynet", json.dumps({"database": videos}))
    ] == [
        (("many_000001_000002", "many"), "jump", "train"),
        (("many_000002.500_000003.000", "many"), "run", "train"),
        (("many_000000_000000", "many"), "run", "train"),  # ActivityNet 1.3 has a few of these
        (("none",), None, "test"),
    ]


def test_kinetics_release_json(tmp_path):
    videos = {"abc": {"annotations": {"label": "jump", "segment": [7.0, 17.0]}, "subset": "validate", "url": "x"}}
    (entry,) = read_text(tmp_path, "activitynet", json.dumps(videos))
    assert entry[:3] == (("abc_000007_000017", "abc"), "jump", "val") and entry.segment == (7.0, 17.0)


@pytest.mark.parametrize(
    "name, change",
    [
        ("activitynet", {"subset": "training", "annotations": [{"label": "jump", "segment": segment}]})
        for segment in ([1], [1, 2, 3], [0, 10**400], ["a", "b"], [3, 1], [-1, 2], None, [None, 1])
    ]
    + [
        ("activitynet", {"subset": "training", "annotations": [{"label": 7, "segment": [1, 2]}]}),
        ("activitynet", {"subset": "holdout"}),
        ("activitynet", {"annotations": []}),
        ("activitynet", []),
        ("2d-kinectics", {"subset": "train", "label": "fly"}),
        ("2d-kinectics", {"subset": "train", "label": ["jump"]}),
        ("2d-kinectics", {"label": "jump"}),
        ("2d-kinectics", "jump"),
    ],
)
def test_broken_json_entry_is_refused_with_file_and_video(tmp_path, name, change):
    with pytest.raises(BadInputError, match="list, video 'abc': ") as caught:
        read_text(tmp_path, name, json.dumps({"database": {"abc": change}, "classes": {"jump": 1}}))
    assert "\n" not in str(caught.value)
    assert not re.search("Error|indices must be|object is not|has no attribute|unpack", str(caught.value))


def test_split_of_a_file_is_given_with_it(tmp_path):
    path = write(tmp_path / "a=b.csv", "video,label\na.mp4,jump\n")
    assert [e.split for e in read("csv", [f"val={path}", str(path)])] == ["val", None]
    assert list_file("holdout=x") == (None, Path("holdout=x"))
    write(path, "video,label,split\na.mp4,jump,train\n")
    with pytest.raises(BadInputError, match="line 2: split train, but the list was given as val="):
        read("csv", [f"val={path}"])


def test_groups_come_from_the_named_column(tmp_path):
    path = write(tmp_path / "list.csv", "video,label,actor\na.mp4,jump,x\nb.mp4,run,y\n")
    assert [entry.group for entry in read_csv(path, group_by="actor")] == ["x", "y"]
    with pytest.raises(BadInputError, match="lacks scene"):
        list(read_csv(path, group_by="scene"))


# ------------------------------------------------------------------------------------------ orders of classes, groups


@pytest.mark.parametrize("name", ["ucf101", "hmdb51", "2d-kinectics"])
def test_a_list_brings_its_order_of_classes(tmp_path, name):
    """Not alphabetical, as in UCF101, where HandstandPushups comes before HandStandWalking."""
    words = LISTS[name](tmp_path)
    if name == "ucf101":
        write(tmp_path / "classInd.txt", "1 jump\n2 Archery\n3 air drumming\n")
        write(tmp_path / "trainlist01.txt", "jump/clip_000001_000011.avi 1\n")
    elif name == "hmdb51":
        write(tmp_path / "class_list.txt", "jump\nArchery  \nair drumming\n")
    else:
        content = json.loads(Path(words[0]).read_text())
        content["classes"] = {"air drumming": 3, "jump": 1, "Archery": 2}
        write(Path(words[0]), json.dumps(content))
    order = read_class_order(name, map(Path, words))
    source = {"ucf101": "classInd.txt", "hmdb51": "class_list.txt", "2d-kinectics": "list.json"}[name]
    assert order == (("jump", "Archery", "air drumming"), source)
    assert {entry.label for entry in read(name, words)} == {"jump", "air drumming"}


def test_other_lists_bring_none(tmp_path):
    for name in READERS:
        words = LISTS[name](tmp_path / name)
        if name not in ("ucf101", "charades", "2d-kinectics"):
            assert read_class_order(name, [Path(word.partition("=")[2] or word) for word in words]) is None


def test_two_lists_of_other_orders_are_refused(tmp_path):
    for folder, text in (("a", "1 jump\n2 run"), ("b", "1 run\n2 jump")):
        write(tmp_path / folder / "classInd.txt", text)
    with pytest.raises(BadInputError, match="b: 2 and 2 classes that differ, first 'run' and 'jump'.*--classes FILE"):
        read_class_order("ucf101", [tmp_path / "a", tmp_path / "b"])


@pytest.mark.parametrize(
    "numbers, word",
    [
        ({"jump": 1, "run": 3}, "class 'run' has number 3"),
        ({"jump": "1"}, "no class numbers"),
        (["jump"], "no class numbers"),
    ],
)
def test_class_numbers_with_gaps_are_refused(tmp_path, numbers, word):
    path = write(tmp_path / "list.json", json.dumps({"database": {}, "classes": numbers}))
    with pytest.raises(BadInputError, match=f"list.json: {word}"):
        read_class_order("2d-kinectics", [path])


@pytest.mark.parametrize("test_split", ["val", "test"])
def test_groups_are_the_videos_that_clips_were_cut_from(tmp_path, test_split):
    as_ucf101(tmp_path)
    write(tmp_path / "trainlist01.txt", "jump/v_jump_g08_c01.avi 2\njump/v_jump_g08_c02.avi 2\njump/x_g1.avi 2\n")
    listed = read("ucf101", [str(tmp_path)], test_split=test_split)
    assert [e.group for e in listed] == ["jump_g08", "jump_g08", "", ""] and listed[-1].split == test_split
    write(
        tmp_path / "jump_test_split1.txt",
        "My_jump_at_home_jump_f_cm_np1_fr_med_0.avi 1\nMy_jump_at_home_jump_f_cm_np1_fr_med_12.avi 2\n",
    )
    listed = read("hmdb51", [str(tmp_path)], test_split=test_split)
    assert [(e.group, e.split) for e in listed] == [("My_jump_at_home", "train"), ("My_jump_at_home", test_split)]


# --------------------------------------------------------------------------------------------------------- real lists


def labels_and_splits(listed: Iterable[Listed]) -> tuple[Counter, set[str]]:
    listed = list(listed)
    assert len({entry.ids for entry in listed}) == len(listed)
    return Counter(entry.split for entry in listed), {entry.label for entry in listed} - {None}


@pytest.mark.parametrize(
    "name, split, entries, classes",
    [("kinetics-400_val", "val", 19906, 400), ("kinetics-400_test", "test", 38685, 0), ("kinetics-600_val", "val", 30000, 600),
     ("tiny_kinetics_400_train", "train", 400, 400), ("tiny_kinetics_400_val", "val", 400, 400)],
)  # fmt: skip
def test_real_kinetics_lists(shared_data, name, split, entries, classes):
    counts, labels = labels_and_splits(READERS["kinetics_csv"](shared_data / "annotations/kinetics" / f"{name}.csv"))
    assert counts == {split: entries} and len(labels) == classes  # `wc -l`, less the header
    if classes:
        assert set(read_classes(shared_data / f"annotations/kinetics/label_map_k{classes}.txt")) == labels


@pytest.mark.parametrize("number", [400, 600, 700])
def test_real_class_lists(shared_data, number):
    assert len(read_classes(shared_data / f"annotations/kinetics/label_map_k{number}.txt")) == number


@pytest.mark.parametrize("split_number, train, test", [(1, 9537, 3783), (2, 9586, 3734), (3, 9624, 3696)])
def test_real_ucf101(shared_data, split_number, train, test):
    folder = shared_data / "annotations/ucf101"
    listed = list(READERS["ucf101"](folder, split_number=split_number))
    counts, labels = labels_and_splits(listed)
    assert counts == {"train": train, "val": test} and len(labels) == 101  # as published
    groups = {split: {e.group for e in listed if e.split == split} for split in counts}
    assert not groups["train"] & groups["val"] and len(groups["train"] | groups["val"]) == 101 * 25  # as published
    order = read_class_order("ucf101", [folder])
    assert order and list(order.names) == [
        line.split()[1] for line in (folder / "classInd.txt").read_text().split("\n")[:101]
    ]
    assert list(order.names) != sorted(order.names)  # so that this test means something


@pytest.mark.parametrize("split_number", [1, 2, 3])
def test_real_hmdb51(shared_data, split_number):
    listed = list(READERS["hmdb51"](shared_data / "annotations/hmdb51", split_number=split_number))
    counts = Counter((entry.label, entry.split) for entry in listed)
    assert len(counts) == 2 * 51 and set(counts.values()) == {70, 30}  # 70 and 30 videos of each class, as published
    assert all(entry.group for entry in listed)
    labels_and_splits(listed)


# -------------------------------------------------------------------------------------------------------- multi-label


@pytest.mark.parametrize(
    "name, text, labels",
    [
        (
            "csv",
            "video,label\na.mp4,jump;run\nb.mp4,run\na.mp4,hop ; run\nc.mp4,\nd.mp4,;",
            "a:jump a:run b:run a:hop a:run c:None d:",
        ),
        ("mmaction2_videos", "x/a.mp4 0 2\nb.mp4,1\nmy clip.mp4 run hop", "a:jump a:hop b:run clip:run clip:hop"),
        ("mmaction2_frames", "x/a 120 0 2\nb 7 1", "a:jump a:hop b:run"),
        ("mmaction2_frames", "x/a 120 0 1 2", "a:jump a:run a:hop"),
    ],
)
def test_lists_with_several_labels_have_an_entry_for_each(tmp_path, name, text, labels):
    entries = read_text(tmp_path, name, text, classes=("jump", "run", "hop"), multi_label=True)
    assert " ".join(f"{entry.ids[0].split()[-1]}:{entry.label}" for entry in entries) == labels


@pytest.mark.parametrize(
    "name, line",
    [("mmaction2_frames", "a 1"), ("mmaction2_frames", "a 0 1"), ("mmaction2_videos", "a.mp4")],
)  # fmt: skip
def test_broken_lines_with_several_labels_are_refused(tmp_path, name, line):
    with pytest.raises(BadInputError, match="list, line 1: .*expected"):
        read_text(tmp_path, name, line, multi_label=True)


def test_several_labels_say_which_flag_reads_them(tmp_path):
    for name, text in (("mmaction2_videos", "a.mp4 0 1"), ("mmaction2_frames", "a 50 1\nb 50 1 0")):
        with pytest.raises(
            BadInputError, match="if videos have several labels, use --multi_label of twostream annotate"
        ):
            read_text(tmp_path, name, text)


def test_charades(tmp_path):
    """Actions repeat, may be missing, and have names where the data set's file of classes is."""
    text = "id,quality,actions,length\nAB,3,c001 1.00 2.50;c000 0.00 9.00;c001 5.00 7.00,30\nCD,4,,12\n"
    entries = read_text(tmp_path, "charades", text)
    assert [(entry.ids, entry.label) for entry in entries] == [(("AB",), "c001"), (("AB",), "c000"), (("CD",), "")]
    write(tmp_path / "Charades_v1_classes.txt", "c000 Holding some clothes\nc001 Putting clothes somewhere\n")
    assert [entry.label for entry in read_text(tmp_path, "charades", text)] == [
        "Putting clothes somewhere", "Holding some clothes", "",
    ]  # fmt: skip
    assert read_class_order("charades", [tmp_path / "list"]).names == (
        "Holding some clothes",
        "Putting clothes somewhere",
    )
    for action, word in (("c002 1 2", "class number 2, expected 0 to 1"), ("92 1 2", "expected c and three digits")):
        with pytest.raises(BadInputError, match=f"list, line 2: .*{word}"):
            read_text(tmp_path, "charades", f"id,actions\nAB,{action}\n")
