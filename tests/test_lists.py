"""Lists of data sets: one meaning whatever the format, one clear line for a broken one, and the program over them."""

import random
from collections import Counter
from pathlib import Path

import pytest

from twostream.annotations import Video, read_annotations
from twostream.errors import BadInputError
from twostream.lists import READERS, Listed, assign_splits, build_annotations, read_csv, read_folder, read_kinetics_csv

# id, label, split: what every reader is to find in the files that the functions below write.
TRUTH = [("clip_000001_000011", "jump", "train"), ("öl_000002_000012", "air drumming", "val")]


def as_folder(folder: Path) -> Path:
    for video_id, label, split in TRUTH:
        path = folder / {"val": "validation"}.get(split, split) / label / f"{video_id}.mp4"
        path.parent.mkdir(parents=True)
        path.write_text("")
    return folder


def as_csv(folder: Path) -> Path:
    lines = [f"{label}/{video_id}.mp4,{label},{split}" for video_id, label, split in TRUTH]
    return write(folder / "list.csv", "\n".join(["video,label,split", *lines]))


def as_kinetics_csv(folder: Path) -> Path:
    lines = [f'"{label}",{v[:-14]},{int(v[-13:-7])},{int(v[-6:])},{split},0' for v, label, split in TRUTH]
    return write(folder / "list.csv", "\n".join(["label,youtube_id,time_start,time_end,split,is_cc", *lines]))


WRITERS = {"folder": as_folder, "csv": as_csv, "kinetics_csv": as_kinetics_csv}


def write(path: Path, text: str, **keywords) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, **keywords)
    return path


def add_frames(root: Path, video_id: str, num_frames: int) -> None:
    for k in range(num_frames):
        write(root / "rgb-images" / video_id / f"{k + 1:05d}.jpg", "")


# ------------------------------------------------------------------------------- contract of every list's reader


@pytest.mark.parametrize("name", READERS)
def test_reader_finds_ids_labels_and_splits(tmp_path, name):
    listed = READERS[name](WRITERS[name](tmp_path / "list"), id_from="stem", group_by="")
    assert sorted((entry.ids[0], entry.label, entry.split) for entry in listed) == TRUTH
    assert all(str(tmp_path) in entry.where for entry in listed)


@pytest.mark.parametrize("name", READERS)
def test_missing_list_is_named(tmp_path, name):
    with pytest.raises(BadInputError, match="nowhere"):
        READERS[name](tmp_path / "nowhere", id_from="stem", group_by="")


def test_contract_covers_every_reader():
    assert set(WRITERS) == set(READERS)


@pytest.mark.parametrize("name", ["csv", "kinetics_csv"])
def test_windows_files_read_the_same(tmp_path, name):
    path = WRITERS[name](tmp_path)
    plain = READERS[name](path)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    assert [(e.ids, e.label, e.split) for e in READERS[name](path)] == [(e.ids, e.label, e.split) for e in plain]


@pytest.mark.parametrize(
    "name, change, word",
    [
        ("csv", lambda text: text.replace("label", "lable"), "lacks label"),
        ("csv", lambda text: "", "lacks video, label"),
        ("csv", lambda text: text.replace(",train", ",trian"), "line 2: split 'trian'"),
        ("csv", lambda text: text.replace(",train", ""), "line 2: expected 3 columns"),
        ("csv", lambda text: text.replace(",train", ",train,extra"), "line 2: expected 3 columns"),
        ("csv", lambda text: text + '\n"open quote,x,train', "list.csv"),
        ("kinetics_csv", lambda text: text.replace("youtube_id", "id"), "lacks youtube_id"),
        ("kinetics_csv", lambda text: text.replace(",1,", ",soon,"), "line 2: time 'soon'"),
        ("kinetics_csv", lambda text: text.replace(",1,", ",nan,"), "line 2: time 'nan'"),
        ("kinetics_csv", lambda text: text.replace(",1,", ",inf,"), "line 2: time 'inf'"),
        ("kinetics_csv", lambda text: text.replace(",val", ",holdout"), "line 3: split 'holdout'"),
    ],
)
def test_broken_csv_is_refused_with_file_and_line(tmp_path, name, change, word):
    path = WRITERS[name](tmp_path)
    path.write_text(change(path.read_text()))
    with pytest.raises(BadInputError, match="list.csv") as caught:
        READERS[name](path)
    assert word in str(caught.value)


def test_binary_file_is_no_csv(tmp_path):
    (tmp_path / "list.csv").write_bytes(b"video,label\n\xff\xfe\x00,b")
    with pytest.raises(BadInputError, match="UTF-8"):
        read_csv(tmp_path / "list.csv")


def test_folder_without_splits_has_none(tmp_path):
    for name in ("jump/a.mp4", "jump/deeper/b.mp4", "run/c.avi", "run/notes.txt"):
        write(tmp_path / name, "")
    listed = read_folder(tmp_path)
    assert [(e.ids[0], e.label, e.split) for e in listed] == [
        ("a", "jump", None),
        ("b", "jump", None),
        ("c", "run", None),
    ]


@pytest.mark.parametrize("name", ["stray.mp4", "train/stray.mp4"])
def test_video_in_no_class_folder_is_named(tmp_path, name):
    write(tmp_path / name, "")
    with pytest.raises(BadInputError, match="stray.mp4 is in no class folder"):
        read_folder(tmp_path)


def test_kinetics_videos_may_lack_times_in_their_names_and_labels_in_test(tmp_path):
    path = write(tmp_path / "test.csv", "youtube_id,time_start,time_end,split\n--6b,17,27,test\nplain,1.0,11.0,test\n")
    listed = read_kinetics_csv(path)
    assert listed[0].ids == ("--6b_000017_000027", "--6b") and listed[0].label is None
    add_frames(tmp_path, "plain", 3)
    annotations = build_annotations([*listed, Listed(("x",), "jump", "train", "", "here")], tmp_path)
    assert {v.id: v.num_frames for v in annotations.videos} == {"--6b_000017_000027": 0, "plain": 3, "x": 0}


@pytest.mark.parametrize(
    "name, entries, classes",
    [("kinetics-400_val", 19906, 400), ("kinetics-400_test", 38685, 0), ("kinetics-600_val", 30000, 600),
     ("tiny_kinetics_400_train", 400, 400)],
)  # fmt: skip
def test_real_kinetics_lists(shared_data, name, entries, classes):
    path = shared_data / "annotations" / "kinetics" / f"{name}.csv"
    listed = read_kinetics_csv(path)
    assert len(listed) == entries  # `wc -l`, less the header
    assert len({entry.label for entry in listed} - {None}) == classes
    assert {entry.split for entry in listed} == {name.split("_")[-1]}


# ------------------------------------------------------------------------------------------------------- splits


def without_split(num: int = 40, *, groups: int = 0) -> list[Listed]:
    return [
        Listed((f"v{k:03d}",), f"class{k % 4}", None, f"g{k % groups}" if groups else "", f"line {k}")
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
    given = [Listed(e.ids, e.label, "test", e.group, e.where) for e in listed]
    assert assign_splits(given, val_fraction=0.5, seed=0) == given
    with pytest.raises(BadInputError, match="line 1: no split"):
        assign_splits([given[0], *listed[1:]], val_fraction=0.5, seed=0)


def test_groups_come_from_the_column_asked_for(tmp_path):
    path = write(tmp_path / "list.csv", "video,label,actor\na.mp4,jump,x\nb.mp4,run,y\n")
    assert [entry.group for entry in read_csv(path, group_by="actor")] == ["x", "y"]
    with pytest.raises(BadInputError, match="lacks scene"):
        read_csv(path, group_by="scene")


# ------------------------------------------------------------------------------------------- the program itself


@pytest.fixture
def root(tmp_path) -> Path:
    add_frames(tmp_path / "data", "clip_000001_000011", 5)
    return tmp_path / "data"


@pytest.mark.parametrize("name", READERS)
def test_program_joins_a_list_with_what_is_extracted(run_program, tmp_path, root, name):
    path = WRITERS[name](tmp_path / "list")
    flag = "--videos" if name == "folder" else "--list"
    result = run_program("prep/build_annotations.py", "--root", root, "--format", name, flag, path)
    assert result.returncode == 0, result.stderr
    assert "1 of them are not extracted: öl_000002_000012" in result.stdout
    annotations = read_annotations(root)
    assert annotations.classes == ("air drumming", "jump")
    assert annotations.videos == tuple(Video(i, s, lab, 5 * (s == "train")) for i, lab, s in TRUTH)


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
        ("video,label,split\na.mp4,jump\n", "line 2: expected 3 columns"),
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
    result = run_program("prep/build_annotations.py", "--root", tmp_path, "--videos", as_folder(tmp_path / "videos"))
    assert result.returncode == 3 and "prep/extract.py first" in result.stderr


@pytest.mark.parametrize("flags", [["--format=csv"], [], ["--videos=x", "--val_fraction=1"], ["--format=xml"]])
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
