"""Lists of data sets: one meaning whatever the format, one clear line for a broken one, and the program over them."""

import json
import random
import subprocess
import sys
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY
from twostream.annotations.join import SHOWN, build_annotations
from twostream.annotations.json_file import read_annotations
from twostream.annotations.list_writers import WRITERS
from twostream.annotations.lists import READERS, Listed, read_classes, read_csv, read_folder, read_lists, segment_id
from twostream.annotations.splits import assign_splits
from twostream.annotations.videos import Video
from twostream.errors import BadInputError
from twostream.programs.options import list_file
from twostream.video.ids import check_video_id

# id, label, split: what every reader is to find in the files that the functions below write.
TRUTH = [("clip_000001_000011", "jump", "train"), ("öl_000002_000012", "air drumming", "val")]
CLASSES = ("air drumming", "jump")


def write(path: Path, text: str, **keywords) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8", **keywords)
    return path


# Each returns the files as `--list` names them.


def as_folder(folder: Path) -> list[str]:
    for video_id, label, split in TRUTH:
        write(folder / {"val": "validation"}.get(split, split) / label / f"{video_id}.mp4", "")
    return [str(folder)]


def as_csv(folder: Path) -> list[str]:
    lines = [f"{label}/{video_id}.mp4,{label},{split}" for video_id, label, split in TRUTH]
    return [str(write(folder / "list.csv", "\n".join(["video,label,split", *lines])))]


def as_kinetics_csv(folder: Path) -> list[str]:
    lines = [f'"{label}",{v[:-14]},{int(v[-13:-7])},{int(v[-6:])},{split},0' for v, label, split in TRUTH]
    return [str(write(folder / "list.csv", "\n".join(["label,youtube_id,time_start,time_end,split,is_cc", *lines])))]


def as_ucf101(folder: Path) -> list[str]:
    write(folder / "classInd.txt", "1 air drumming\r\n2 jump\r\n")
    write(folder / "trainlist01.txt", "jump/clip_000001_000011.avi 2\r\n")
    write(folder / "testlist01.txt", "air drumming/öl_000002_000012.avi\r\n")
    return [str(folder)]


def as_hmdb51(folder: Path) -> list[str]:
    write(folder / "jump_test_split1.txt", "clip_000001_000011.avi 1 \nunused.avi 0 \n")
    write(folder / "jump_test_split2.txt", "clip_000001_000011.avi 2 \n")
    write(folder / "air drumming_test_split1.txt", "öl_000002_000012.avi 2 \n")
    return [str(folder)]


def as_mmaction2_frames(folder: Path) -> list[str]:
    lines = [f"{split}={write(folder / f'{split}.txt', f'some/{v} 30 {CLASSES.index(n)}')}" for v, n, split in TRUTH]
    return [*lines, "--classes", str(write(folder / "classes.txt", "\n".join(CLASSES)))]


def as_mmaction2_videos(folder: Path) -> list[str]:
    lines = [f"{split}={write(folder / f'{split}.txt', f'some/{v}.mp4 {CLASSES.index(n)}')}" for v, n, split in TRUTH]
    return [*lines, "--classes", str(write(folder / "classes.txt", "\n".join(CLASSES)))]


def as_activitynet(folder: Path) -> list[str]:
    videos = {
        v[:-14]: {
            "subset": {"train": "training", "val": "validation"}[split],
            "annotations": [{"label": label, "segment": [int(v[-13:-7]), float(v[-6:])]}],
        }
        for v, label, split in TRUTH
    }
    return [str(write(folder / "list.json", json.dumps({"version": "1.3", "taxonomy": [], "database": videos})))]


def as_2d_kinectics(folder: Path) -> list[str]:
    videos = {v: {"label": label, "cls": 1 + CLASSES.index(label), "subset": split, "isthere": True, "numf": 9}
              for v, label, split in TRUTH}  # fmt: skip
    classes = {name: k + 1 for k, name in enumerate(CLASSES)}
    return [str(write(folder / "list.json", json.dumps({"database": videos, "classes": classes})))]


LISTS: dict[str, Callable[[Path], list[str]]] = {
    "folder": as_folder,
    "csv": as_csv,
    "kinetics_csv": as_kinetics_csv,
    "ucf101": as_ucf101,
    "hmdb51": as_hmdb51,
    "mmaction2_frames": as_mmaction2_frames,
    "mmaction2_videos": as_mmaction2_videos,
    "activitynet": as_activitynet,
    "2d-kinectics": as_2d_kinectics,
}


def read(name: str, words: list[str], **keywords) -> list[Listed]:
    """What the program would read, given these words after --list."""
    if "--classes" in words:
        keywords["classes"] = read_classes(Path(words[-1]))
        words = words[:-2]
    return list(read_lists(name, map(list_file, words), **keywords))


def read_text(tmp_path: Path, name: str, text: str, **keywords) -> list[Listed]:
    return list(READERS[name](write(tmp_path / "list", text), **keywords))


def add_frames(root: Path, video_id: str, num_frames: int) -> None:
    for k in range(num_frames):
        write(root / "rgb-images" / video_id / f"{k + 1:05d}.jpg", "")


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
            place = generator.randrange(len(data))
            data[place : place + generator.choice([0, 1, 1, 9, 999])] = generator.choice(
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
    for id_from in ("stem", "path"):  # here a path is expected, of which the id is made
        for name, text in [("csv", f'video,label\n"{video_id}",jump\n'), ("mmaction2_frames", f"{video_id} 9 1")]:
            try:
                listed = read_text(tmp_path, name, text, id_from=id_from)
            except BadInputError:
                continue
            assert not set("/\\\0") & set(listed[0].ids[0]) and not listed[0].ids[0].startswith(".")


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


# --------------------------------------------------------------------------------------------- each format's own ways


def test_folder_without_splits_has_none(tmp_path):
    for name in ("jump/a.mp4", "jump/deeper/b.mp4", "run/c.avi", "run/notes.txt"):
        write(tmp_path / name, "")
    assert [(e.ids[0], e.label, e.split) for e in read_folder(tmp_path)] == [
        ("a", "jump", None),
        ("b", "jump", None),
        ("c", "run", None),
    ]


@pytest.mark.parametrize("name", ["stray.mp4", "train/stray.mp4"])
def test_video_in_no_class_folder_is_named(tmp_path, name):
    write(tmp_path / name, "")
    with pytest.raises(BadInputError, match="stray.mp4 is in no class folder"):
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


def test_kinetics_videos_may_lack_times_in_their_names_and_labels_in_test(tmp_path):
    text = "youtube_id,time_start,time_end,split\n--6b,17,27,test\nplain,1.0,11.0,test\n"
    listed = read_text(tmp_path, "kinetics_csv", text)
    assert listed[0].ids == ("--6b_000017_000027", "--6b") and listed[0].label is None
    add_frames(tmp_path, "plain", 3)
    annotations, _ = build_annotations([*listed, Listed(("x",), "jump", "train", "here")], tmp_path)
    assert {v.id: v.num_frames for v in annotations.videos} == {"--6b_000017_000027": 0, "plain": 3, "x": 0}


def test_whole_video_is_no_row_where_several_rows_are_parts_of_it(tmp_path):
    text = "label,youtube_id,time_start,time_end,split\njump,a,1,11,train\njump,a,30,40,train\njump,b,1,11,train\n"
    for video_id, num_frames in (("a", 2), ("b", 3), ("a_000030_000040", 4)):
        add_frames(tmp_path, video_id, num_frames)
    annotations, warnings = build_annotations(read_text(tmp_path, "kinetics_csv", text), tmp_path)
    assert {v.id: v.num_frames for v in annotations.videos} == {"a_000001_000011": 0, "a_000030_000040": 4, "b": 3}
    assert len(warnings) == 1 and "line 2: 'a_000001_000011'" in warnings[0] and "--trim" in warnings[0]


def test_splits_of_ucf101_and_hmdb51_are_chosen(tmp_path):
    as_ucf101(tmp_path)
    with pytest.raises(BadInputError, match=r"trainlist02\.txt: there is no such list"):
        read("ucf101", [str(tmp_path)], split_number=2)
    as_hmdb51(tmp_path)
    assert [(e.ids[0], e.split) for e in read("hmdb51", [str(tmp_path)], split_number=2)] == [(TRUTH[0][0], "val")]


@pytest.mark.parametrize(
    "name, text, word",
    [
        ("trainlist01.txt", "jump/a.avi 1", "line 1: class number 1, expected 2, which is 'jump'"),
        ("testlist01.txt", "jump/a.avi\njmup/b.avi", "line 2: class 'jmup' .*nearest there is 'jump'"),
        ("testlist01.txt", "a.avi", "line 1: class ''"),
        ("classInd.txt", "1 jump\n\n3 run", "line 2: empty"),
    ],
)
def test_broken_ucf101_is_refused(tmp_path, name, text, word):
    as_ucf101(tmp_path)
    write(tmp_path / name, text)
    with pytest.raises(BadInputError, match=rf"{name}, {word}"):
        read("ucf101", [str(tmp_path)])


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
    with pytest.raises(BadInputError, match=f"list, line 2: .*{word}"):
        read_text(tmp_path, name, f"u 9 1\n{line}\n", classes=CLASSES)


def test_class_numbers_without_names_keep_their_order(tmp_path):
    add_frames(tmp_path, "v", 1)
    listed = read_text(tmp_path, "mmaction2_videos", "".join(f"v{k}.mp4 {k}\n" for k in (10, 9, 2)))
    annotations, _ = build_annotations([entry._replace(split="train") for entry in listed], tmp_path)
    assert annotations.classes == ("2", "9", "10")


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
        (("many_000000_000000", "many"), "run", "train"),  # there are such in ActivityNet 1.3
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


def test_split_of_a_file_is_given_with_it(tmp_path):
    path = write(tmp_path / "a=b.csv", "video,label\na.mp4,jump\n")
    assert [e.split for e in read("csv", [f"val={path}", str(path)])] == ["val", None]
    assert list_file("holdout=x") == (None, Path("holdout=x"))
    write(path, "video,label,split\na.mp4,jump,train\n")
    with pytest.raises(BadInputError, match="line 2: split train, but the list was given as val="):
        read("csv", [f"val={path}"])


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
    counts, labels = labels_and_splits(READERS["ucf101"](shared_data / "annotations/ucf101", split_number=split_number))
    assert counts == {"train": train, "val": test} and len(labels) == 101  # as published


@pytest.mark.parametrize("split_number", [1, 2, 3])
def test_real_hmdb51(shared_data, split_number):
    listed = list(READERS["hmdb51"](shared_data / "annotations/hmdb51", split_number=split_number))
    counts = Counter((entry.label, entry.split) for entry in listed)
    assert len(counts) == 2 * 51 and set(counts.values()) == {70, 30}  # 70 and 30 of each class, as published
    labels_and_splits(listed)


@pytest.mark.parametrize("name", ["ucf101", "hmdb51", "kinetics"])
def test_real_lists_have_no_faults(shared_data, tmp_path, name):
    folder = shared_data / "annotations" / name
    add_frames(tmp_path, "v_ApplyEyeMakeup_g08_c01", 2)
    words = [str(path) for path in sorted(folder.glob("kinetics-400_*.csv"))] or [str(folder)]
    annotations, _ = build_annotations(read("kinetics_csv" if name == "kinetics" else name, words), tmp_path)
    assert len(annotations.classes) == {"ucf101": 101, "hmdb51": 51, "kinetics": 400}[name]
    assert sum(video.num_frames for video in annotations.videos) == 2 * (name == "ucf101")


# ------------------------------------------------------------------------------------------------------- splits


def without_split(num: int = 40, *, groups: int = 0) -> list[Listed]:
    return [
        Listed((f"v{k:03d}",), f"class{k % 4}", None, "list", k + 1, f"g{k % groups}" if groups else "")
        for k in range(num)
    ]


def val_ids(listed: list[Listed], **keywords) -> set[str]:
    options = {"val_fraction": 0.25, "seed": 1} | keywords
    return {entry.ids[0] for entry in assign_splits(listed, **options) if entry.split == "val"}


def test_fraction_is_taken_of_each_class():
    listed = without_split()
    chosen = val_ids(listed)
    labels = Counter(entry.label for entry in listed if entry.ids[0] in chosen)
    assert labels == {f"class{k}": 2 for k in range(4)}  # a quarter of ten, rounded to even


@pytest.mark.parametrize("groups", [0, 7])
def test_split_depends_on_ids_and_seed_only(groups):
    listed = without_split(groups=groups)
    mixed = random.Random(0).sample(listed, len(listed))
    assert val_ids(listed) == val_ids(mixed)
    assert any(val_ids(listed) != val_ids(listed, seed=seed) for seed in (2, 3, 4))


@pytest.mark.parametrize("fraction", [0.01, 0.25, 0.6, 0.99])
@pytest.mark.parametrize("seed", range(5))
def test_groups_are_never_torn_and_some_are_left_to_train(fraction, seed):
    listed = without_split(41, groups=5)
    chosen = val_ids(listed, val_fraction=fraction, seed=seed)
    groups = {side: {e.group for e in listed if (e.ids[0] in chosen) == side} for side in (True, False)}
    assert groups[True] and groups[False] and not groups[True] & groups[False]


@pytest.mark.parametrize("groups", [0, 5])
def test_no_fraction_no_val(groups):
    assert val_ids(without_split(groups=groups), val_fraction=0) == set()


def test_only_video_of_a_class_is_for_training():
    assert val_ids(without_split(4), val_fraction=0.9) == set()


def test_given_splits_are_kept_and_half_given_ones_refused():
    listed = without_split(4)
    given = [entry._replace(split="test") for entry in listed]
    assert list(assign_splits(given, val_fraction=0.5, seed=0)) == given
    assert list(assign_splits([], val_fraction=0.5, seed=0)) == []
    for mixed in ([given[0], *listed[1:]], [listed[0], *given[1:]]):
        with pytest.raises(BadInputError, match="line [12]: no split"):
            list(assign_splits(mixed, val_fraction=0.5, seed=0))


def test_groups_come_from_the_column_asked_for(tmp_path):
    path = write(tmp_path / "list.csv", "video,label,actor\na.mp4,jump,x\nb.mp4,run,y\n")
    assert [entry.group for entry in read_csv(path, group_by="actor")] == ["x", "y"]
    with pytest.raises(BadInputError, match="lacks scene"):
        list(read_csv(path, group_by="scene"))


# ---------------------------------------------------------------------------------------------------- class lists


@pytest.mark.parametrize(
    "text, names",
    [
        ("jump\nrun\n", ("jump", "run")),
        ("1 jump\r\n2 long jump\r\n\r\n", ("jump", "long jump")),
        ("0 jump\n1 run", ("jump", "run")),
        ("3 jump\n1 run", ("3 jump", "1 run")),
        ("1 jump\nrun", ("1 jump", "run")),
        ("\ufeff\tröck \n", ("röck",)),
    ],
)
def test_class_list(tmp_path, text, names):
    assert read_classes(write(tmp_path / "classes.txt", text)) == names


@pytest.mark.parametrize(
    "text, word",
    [
        ("", "line 1: empty"),
        ("jump\n\nrun", "line 2: empty"),
        ("jump\nrun\njump\n", "line 3: class 'jump' is 'jump' of line 1"),
        ("jump_up\nrun\nJump up\n", "line 3: class 'Jump up' is 'jump_up' of line 1"),
        ("\u00f6l\no\u0308l\n", "line 2: class 'o.u0308l' is '.xf6l' of line 1"),
    ],
)
def test_broken_class_list(tmp_path, text, word):
    with pytest.raises(BadInputError, match=f"classes.txt, {word}"):
        read_classes(write(tmp_path / "classes.txt", text))


# ------------------------------------------------------------------------------------------- faults of labels and ids


def joined(root: Path, *entries: tuple[str, str | None, str], classes: tuple[str, ...] = ()):
    """Annotations and warnings of (id, label, split) in lines 1, 2, ... of "list"."""
    add_frames(root, "seen", 1)
    listed = [Listed((v,), label, split, "list", k) for k, (v, label, split) in enumerate(entries, start=1)]
    return build_annotations(listed, root, classes=classes)


SOUND = [("seen", "jump", "train"), ("b", "jump", "val")]


def test_sound_list_has_no_warnings_and_classes_in_order(tmp_path):
    annotations, warnings = joined(tmp_path, ("c", "run", "train"), ("d", "run", "test"), *SOUND)
    assert annotations.classes == ("jump", "run") and warnings == []
    annotations, _ = joined(tmp_path, *SOUND, classes=("walk", "jump"))
    assert annotations.classes == ("walk", "jump") and set(annotations.videos.label_index.tolist()) == {1}


@pytest.mark.parametrize(
    "entry, word",
    [
        (("seen", "jump", "train"), "list, line 3: video 'seen' is listed already, in list, line 1; remove one"),
        (("seen", "jump", "val"), "line 3: video 'seen' .* in list, line 1, 'val' here and 'train' there"),
        (("b", "run", "val"), "line 3: video 'b' .* in list, line 2, 'run' here and 'jump' there"),
        (("b", "run", "test"), "line 3: video 'b' .* line 2, 'test' here and 'val' there, 'run' here and 'jump' there"),
        (("c", None, "train"), "line 3: video 'c' has no label, expected one in split train"),
        (("c", "Jump", "train"), r"line 3: label 'Jump' \(1 videos\) and 'jump' \(list, line 1\) differ in case"),
        (
            ("c", "jump ", "train"),
            r"line 3: label 'jump ' \(1 videos\) and 'jump' \(list, line 1\) differ in case, blanks",
        ),
    ],
)
def test_fault_is_one_line_with_both_places(tmp_path, entry, word):
    with pytest.raises(BadInputError, match=word) as caught:
        joined(tmp_path, *SOUND, entry)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "one, other",
    [("röck", "rock"), ("long_jump", "long jump"), ("Straße", "straße"), ("a  b", "a b"), ("\u212bb", "\xc5b")],
)
def test_twins_of_class_names(tmp_path, one, other):
    if other == "rock":  # names that differ in a letter are two classes; in the coding of the letter, one
        joined(tmp_path, ("a", one, "train"), ("b", other, "val"))
        other = unicodedata.normalize("NFD", one)
    with pytest.raises(BadInputError, match=r"list, line 2: .*\(list, line 1\)"):
        joined(tmp_path, ("a", one, "train"), ("b", other, "val"))


@pytest.mark.parametrize(
    "label, word",
    [
        ("jmup", "nearest there is 'jump'"),
        ("JUMP", "it and 'jump' there differ in case"),
        ("swimming in a lake", "$"),
        ("long-jump", "nearest there is 'long jump'"),
    ],
)
def test_unknown_label_is_no_new_class(tmp_path, label, word):
    with pytest.raises(
        BadInputError, match=rf"list, line 3: label '{label}' \(2 videos\) is not in the class list.*{word}"
    ):
        joined(tmp_path, *SOUND, ("x", label, "train"), ("y", label, "val"), classes=("run", "jump", "long jump"))


def test_all_faults_are_told_at_once_at_most_twenty_of_a_kind(tmp_path):
    entries = [(f"v{k}", f"class{k:02d}", "train") for k in range(30)]
    with pytest.raises(BadInputError) as caught:
        joined(tmp_path, *SOUND, *entries, *entries, ("x", None, "val"), classes=("jump",))
    lines = str(caught.value).splitlines()
    assert "nothing was written" in lines[0]
    assert len(lines) == 1 + 1 + 2 * (SHOWN + 1) and lines.count("  ... and 10 more of these") == 2
    for k in range(SHOWN):
        assert f"  list, line {k + 3}: label 'class{k:02d}' (2 videos) is not in the class list" in lines
        assert f"  list, line {k + 33}: video 'v{k}' is listed already, in list, line {k + 3}; remove one" in lines
    assert "  list, line 63: video 'x' has no label, expected one in split val" in lines


def test_classes_of_one_side_are_warnings(tmp_path):
    _, warnings = joined(tmp_path, *SOUND, ("c", "run", "train"), ("d", "sit", "val"), ("e", "fly", "test"))
    assert warnings == [
        "2 classes have no train videos:\n  list, line 5: label 'fly' (1 videos)\n  list, line 4: label 'sit' (1 videos)",
        "1 classes have train videos only:\n  list, line 3: label 'run' (1 videos)",
    ]
    assert joined(tmp_path, SOUND[0], ("c", "run", "train"))[1] == []  # a train list alone


def test_parts_of_one_video_in_two_splits_are_a_warning(tmp_path):
    add_frames(tmp_path, "v0_000001_000002", 1)
    rows = [(k, start, split) for k in range(109) for start, split in ((1, "train"), (5, "train"), (9, "val"))]
    rows += [("x", 1, "train"), ("x", 2, "train"), ("y", 1, "val")]
    text = "".join(f"jump,v{k},{start},{start + 1},{split}\n" for k, start, split in rows)
    listed = read_text(tmp_path, "kinetics_csv", f"label,youtube_id,time_start,time_end,split\n{text}")
    annotations, (warning,) = build_annotations(listed, tmp_path)
    lines = warning.splitlines()
    assert lines[0].startswith("109 videos have parts in more than one split") and len(lines) == 1 + 5 + 1
    for k, line in enumerate(lines[1:6]):
        assert f"'v{k}_000005_000006' (train; {tmp_path}/list, line {3 * k + 3})" in line
        assert f"'v{k}_000009_000010' (val; {tmp_path}/list, line {3 * k + 4})" in line
    assert len(annotations.videos) == len(rows)


def test_no_listed_video_extracted_is_a_warning_with_both_ids(tmp_path):
    _, (warning,) = joined(tmp_path, ("folder__seen", "jump", "train"))
    assert "'folder__seen'" in warning and "'seen'" in warning and "--ids" in warning


def test_list_without_any_label_is_refused(tmp_path):
    with pytest.raises(BadInputError, match="list, line 1: no entry has a label"):
        joined(tmp_path, ("a", None, "test"))


# ------------------------------------------------------------------------------------------------------ written lists


@pytest.fixture
def many(tmp_path):
    """Data root with annotations: three splits, labels not in alphabetical order, one video not extracted."""
    root = tmp_path / "data"
    entries = [(f"v{k}", ("walk", "a b", "jump")[k % 3], ("train", "train", "val", "test")[k % 4]) for k in range(12)]
    for k, (video_id, _, _) in enumerate(entries[:-1]):
        add_frames(root, video_id, k + 1)
        source = {"name": f"{video_id}.avi", "bytes": 7}
        write(
            root / "rgb-images" / video_id / "video.json",
            json.dumps({"num_frames": k + 1, "fps": 25.0, "source": source}),
        )
    lines = [f"{v}.avi,{label},{split}" for v, label, split in entries]
    write(tmp_path / "list.csv", "\n".join(["video,label,split", *lines]))
    write(tmp_path / "classes.txt", "walk\njump\na b\n")
    return root


@pytest.mark.parametrize("kind", WRITERS)
def test_written_lists_read_back_to_the_same(run_program, tmp_path, many, kind):
    words = ["prep/build_annotations.py", "--root", many]
    lists = ["--format=csv", "--list", tmp_path / "list.csv", "--classes", tmp_path / "classes.txt"]
    assert run_program(*words, *lists).returncode == 0
    before = read_annotations(many)
    assert len(before.videos) == 12 and before.classes == ("walk", "jump", "a b")
    prefix = tmp_path / "out" / "mm"
    result = run_program(*words, f"--write={kind}", "--out", prefix)
    assert result.returncode == 0, result.stderr
    assert "1 videos without frames or without label are left out" in result.stdout and "next" in result.stdout
    assert {path.name for path in prefix.parent.iterdir()} == {
        f"mm_{part}.txt" for part in ("train", "val", "test", "classes")
    }
    frames = {"mmaction2_frames": "v0 1 0\nv1 2 2\n", "mmaction2_videos": "v0.avi 0\nv1.avi 2\n"}
    assert Path(f"{prefix}_train.txt").read_text().startswith(frames[kind])  # `dir frames label`, `file label`
    lists = [f"--format={kind}", "--list", *(f"{split}={prefix}_{split}.txt" for split in ("train", "val", "test"))]
    result = run_program(*words, *lists, "--classes", f"{prefix}_classes.txt")
    assert result.returncode == 0, result.stderr
    after = read_annotations(many)
    assert after.classes == before.classes
    assert list(after.videos) == [video for video in before.videos if video.num_frames]


@pytest.mark.parametrize(
    "kind, video_id, record, word",
    [
        ("mmaction2_frames", "a b", {}, "'a b' has a blank"),
        ("mmaction2_frames", "a", {"settings": {"frame_step": 5}}, "every 5th frame only"),
        ("mmaction2_videos", "a", {}, "not made from a whole video file"),
        (
            "mmaction2_videos",
            "a",
            {"source": {"name": "a.avi", "bytes": 1, "segment": [1, 2]}},
            "not made from a whole",
        ),
        ("mmaction2_videos", "a", {"source": {"name": "a b.avi", "bytes": 1}}, "'a b.avi' has a blank"),
    ],
)
def test_what_these_lists_cannot_hold_is_refused(run_program, tmp_path, kind, video_id, record, word):
    root = tmp_path / "data"
    write(root / "rgb-images" / video_id / "video.json", json.dumps({"num_frames": 3} | record))
    write(tmp_path / "list.csv", f"video,label,split\n{video_id}.mp4,jump,train\n")
    words = ["prep/build_annotations.py", "--root", root]
    assert run_program(*words, "--format=csv", "--list", tmp_path / "list.csv").returncode == 0
    result = run_program(*words, f"--write={kind}", "--out", tmp_path / "out" / "x")
    assert result.returncode == 3 and word in result.stderr and len(result.stderr.splitlines()) == 1
    assert not (tmp_path / "out").exists()


# ------------------------------------------------------------------------------------------- the program itself


@pytest.fixture
def root(tmp_path) -> Path:
    add_frames(tmp_path / "data", "clip_000001_000011", 5)
    return tmp_path / "data"


@pytest.mark.parametrize("name", READERS)
def test_program_joins_a_list_with_what_is_extracted(run_program, tmp_path, root, name):
    flag = "--videos" if name == "folder" else "--list"
    words = LISTS[name](tmp_path / "list")
    result = run_program("prep/build_annotations.py", "--root", root, "--format", name, flag, *words)
    assert result.returncode == 0, result.stderr
    assert "1 of them are not extracted: öl_000002_000012" in result.stdout
    annotations = read_annotations(root)
    assert annotations.classes == ("air drumming", "jump")
    assert list(annotations.videos) == [Video(i, s, lab, 5 * (s == "train")) for i, lab, s in TRUTH]


def test_program_reads_the_toy_world(toy_root):
    annotations = read_annotations(toy_root)
    assert annotations.classes == ("blue_left", "blue_right", "red_left", "red_right")
    assert Counter(video.split for video in annotations.videos) == {"train": 4, "val": 4}
    assert {(video.num_frames, video.fps) for video in annotations.videos} == {(33, 15.0)}
    assert all(video.id.startswith(video.label) for video in annotations.videos)


@pytest.mark.parametrize(
    "text, word",
    [
        ("video,label,split\na.mp4,jump,train\nb/a.mp4,run,train\n", "line 3: video 'a' is listed already"),
        ("video,label,split\na.mp4,,train\n", "line 2: video 'a' has no label"),
        ("video,label,split\na.mp4,jump\n", "line 2: 2 columns, expected 3"),
        ("video,label,split\n..,jump,train\n", "video id"),
        ("video,label,split\n", "lists no videos"),
    ],
)
def test_program_refuses_a_bad_list_in_one_line(run_program, tmp_path, root, text, word):
    path = write(tmp_path / "list.csv", text)
    result = run_program("prep/build_annotations.py", "--root", root, "--format=csv", "--list", path)
    assert result.returncode == 3 and word in result.stderr and len(result.stderr.splitlines()) == 1
    assert not (root / "annotations.json").exists()


def test_program_without_images_says_what_to_run_first(run_program, tmp_path):
    result = run_program("prep/build_annotations.py", "--root", tmp_path, "--videos", *as_folder(tmp_path / "videos"))
    assert result.returncode == 3 and "prep/extract.py first" in result.stderr


@pytest.mark.parametrize(
    "flags",
    [["--format=csv"], [], ["--videos=x", "--val_fraction=1"], ["--format=xml"], ["--format=ucf101", "--list=x", "--split=4"],
     ["--write=mmaction2_frames"], ["--write=mmaction2_frames", "--out=x", "--videos=x"], ["--write=csv", "--out=x"]],
)  # fmt: skip
def test_wrong_flags_end_with_2(run_program, tmp_path, flags):
    assert run_program("prep/build_annotations.py", "--root", tmp_path, *flags).returncode == 2


def test_split_of_the_program_is_stated_and_repeatable(run_program, tmp_path, root):
    for k in range(10):
        write(tmp_path / "videos" / "jump" / f"v{k}.mp4", "")
    words = ["--root", root, "--videos", tmp_path / "videos", "--val_fraction=0.3", "--seed=5"]
    result = run_program("prep/build_annotations.py", *words)
    assert "--val_fraction=0.3 --seed=5" in result.stdout
    first = (root / "annotations.json").read_bytes()
    assert len(read_annotations(root).split("val")) == 3
    run_program("prep/build_annotations.py", *words)
    assert (root / "annotations.json").read_bytes() == first


def test_list_may_be_folders_of_each_split(run_program, tmp_path, root):
    for split, video_id in (("train", "clip_000001_000011"), ("val", "b")):
        write(tmp_path / f"my {split}" / "jump" / f"{video_id}.mp4", "")
    words = [f"{split}={tmp_path}/my {split}" for split in ("train", "val")]
    result = run_program("prep/build_annotations.py", "--root", root, "--list", *words)
    assert result.returncode == 0, result.stderr
    assert [(video.id, video.split) for video in read_annotations(root).videos] == [
        ("b", "val"),
        (TRUTH[0][0], "train"),
    ]


def test_faults_leave_the_annotations_as_they_were(run_program, tmp_path, root):
    (root / "annotations.json").write_text("old")
    path = write(tmp_path / "list.csv", "video,label,split\na.mp4,jump,train\na.mp4,jump,val\nb.mp4,Jump,val\n")
    result = run_program("prep/build_annotations.py", "--root", root, "--format=csv", "--list", path)
    assert result.returncode == 3
    assert [line.partition(": ")[0] for line in result.stderr.splitlines()] == [
        "error", f"  {path}, line 4", f"  {path}, line 3"]  # fmt: skip
    assert (root / "annotations.json").read_text() == "old"


def test_warnings_and_the_next_command_are_printed(run_program, tmp_path, root):
    path = write(tmp_path / "list.csv", f"video,label,split\n{TRUTH[0][0]}.mp4,jump,train\nb.mp4,run,val\n")
    result = run_program("prep/build_annotations.py", "--root", root, "--format=csv", "--list", path)
    assert result.returncode == 0 and "warning: 1 classes have no train videos" in result.stdout
    assert "train: 1 videos, 5 frames, 1 classes\nval: 1 videos, 0 frames, 1 classes\n  1 of them" in result.stdout
    assert result.stdout.splitlines()[-1] == (
        f"next: train.py --root={root}; or prep/extract.py --root={root} for the 1 videos without frames, then this again"
    )


# --------------------------------------------------------------------------------------------------- a million videos

MEASURE = """
import resource, sys
sys.path.insert(0, {repository!r})
from twostream.programs import annotate
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
sys.argv = ["build_annotations.py", *sys.argv[1:]]
annotate.main()
print("KiB:", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.parametrize("num_videos", [100_000, pytest.param(1_000_000, marks=pytest.mark.slow)])
def test_long_list_needs_little_memory(tmp_path, num_videos):
    generator, path = random.Random(0), tmp_path / "list.csv"
    with open(path, "w") as file:
        file.write("label,youtube_id,time_start,time_end,split\n")
        for k in generator.sample(range(num_videos), num_videos):
            start = generator.randrange(300)
            file.write(f"class number {k % 700},{k:011d},{start},{start + 10},{'val' if k % 19 == 0 else 'train'}\n")
    add_frames(tmp_path / "data", "one", 1)
    command = [sys.executable, "-c", MEASURE.format(repository=str(REPOSITORY)), "--root", tmp_path / "data"]
    command += ["--format=kinetics_csv", "--list", path]
    result = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=600)
    assert result.returncode == 0, result.stderr
    assert f"val: {-(-num_videos // 19)} videos" in result.stdout
    with open(tmp_path / "data" / "annotations.json") as file:
        assert sum(1 for _ in file) == num_videos + 5  # one video a line
    # 250 bytes a video, and what does not grow with their number.
    assert int(result.stdout.rpartition("KiB: ")[2]) < 20_000 + 250 * num_videos / 1024
