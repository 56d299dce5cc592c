"""Lists joined with what is extracted: which entry a video is, and all wrong labels and ids, reported at once."""

import unicodedata
from pathlib import Path

import pytest

from tests.annotations.samples import add_frames, read, read_text
from twostream.annotations.class_names import ClassOrder
from twostream.annotations.join import SHOWN, build_annotations
from twostream.annotations.lists import Listed
from twostream.annotations.videos import NO_GROUP
from twostream.errors import BadInputError

# ------------------------------------------------------------------------------------------------- entries and videos


def test_kinetics_files_may_lack_times_and_test_entries_labels(tmp_path):
    text = "youtube_id,time_start,time_end,split\n--6b,17,27,test\nplain,1.0,11.0,test\n"
    listed = read_text(tmp_path, "kinetics_csv", text)
    assert listed[0].ids == ("--6b_000017_000027", "--6b") and listed[0].label is None
    add_frames(tmp_path, "plain", 3)
    listed.append(Listed(("x",), "jump", "train", "here"))
    annotations = build_annotations(listed, tmp_path).annotations
    assert {v.id: v.num_frames for v in annotations.videos} == {"--6b_000017_000027": 0, "plain": 3, "x": 0}


def test_a_whole_video_matches_no_entry_where_several_are_parts_of_it(tmp_path):
    text = "label,youtube_id,time_start,time_end,split\njump,a,1,11,train\njump,a,30,40,train\njump,b,1,11,train\n"
    for video_id, num_frames in (("a", 2), ("b", 3), ("a_000030_000040", 4)):
        add_frames(tmp_path, video_id, num_frames)
    annotations, _, warnings, lacks_parts = build_annotations(read_text(tmp_path, "kinetics_csv", text), tmp_path)
    assert lacks_parts
    assert {v.id: v.num_frames for v in annotations.videos} == {"a_000001_000011": 0, "a_000030_000040": 4, "b": 3}
    assert len(warnings) == 2 and "line 2: 'a_000001_000011'" in warnings[1] and "--trim" in warnings[1]


@pytest.mark.parametrize("extracted, lacks", [(["a"], False), (["a_000001_000011"], True), ([], True)])
def test_parts_are_to_be_cut_out_unless_their_files_are_cut(tmp_path, extracted, lacks):
    """Files with the ids of the videos are cut already, as those of Kinetics often are: a missing one is just a file."""
    for video_id in ["other", *extracted]:
        add_frames(tmp_path, video_id, 2)
    text = "label,youtube_id,time_start,time_end,split\njump,a,1,11,train\njump,b,1,11,train\n"
    assert build_annotations(read_text(tmp_path, "kinetics_csv", text), tmp_path).lacks_parts == lacks


def test_class_numbers_without_names_keep_their_order(tmp_path):
    add_frames(tmp_path, "v", 1)
    listed = read_text(tmp_path, "mmaction2_videos", "".join(f"v{k}.mp4 {k}\n" for k in (10, 9, 2)))
    listed = [entry._replace(split="train") for entry in listed]
    assert build_annotations(listed, tmp_path).annotations.classes == ("2", "9", "10")
    annotations, _, warnings, _ = build_annotations(listed, tmp_path, are_numbers=True)
    assert annotations.classes == tuple(map(str, range(11))) and annotations.class_order == "class numbers of the lists"
    assert {v.id: int(i) for v, i in zip(annotations.videos, annotations.videos.label_index, strict=True)} == {
        "v2": 2, "v9": 9, "v10": 10,
    }  # fmt: skip
    assert "8 of 11 classes without videos in the lists: '0', '1', '3', '4', '5', ... and 3 more" in warnings


def test_a_class_number_that_must_be_a_mistake_is_refused(tmp_path):
    add_frames(tmp_path, "v", 1)
    with pytest.raises(BadInputError, match="class number 999999999, expected less than 100000"):
        build_annotations([Listed(("v",), "999999999", "train", "list", 1)], tmp_path, are_numbers=True)


@pytest.mark.parametrize("name", ["ucf101", "hmdb51", "kinetics"])
def test_real_lists_are_sound(shared_data, tmp_path, name):
    folder = shared_data / "annotations" / name
    add_frames(tmp_path, "v_ApplyEyeMakeup_g08_c01", 2)
    words = [str(path) for path in sorted(folder.glob("kinetics-400_*.csv"))] or [str(folder)]
    annotations = build_annotations(read("kinetics_csv" if name == "kinetics" else name, words), tmp_path).annotations
    assert len(annotations.classes) == {"ucf101": 101, "hmdb51": 51, "kinetics": 400}[name]
    assert sum(video.num_frames for video in annotations.videos) == 2 * (name == "ucf101")


# ------------------------------------------------------------------------------------------- faults of labels and ids


def joined(root: Path, *entries: tuple[str, str | None, str], classes: tuple[str, ...] = ()):
    """Annotations and warnings of (id, label, split) in lines 1, 2, ... of "list"."""
    add_frames(root, "seen", 1)
    listed = [Listed((v,), label, split, "list", k) for k, (v, label, split) in enumerate(entries, start=1)]
    order = ClassOrder(classes, "classes.txt") if classes else None
    annotations, _, warnings, _ = build_annotations(listed, root, classes=order)
    return annotations, warnings


SOUND = [("seen", "jump", "train"), ("b", "jump", "val")]


def test_a_sound_list_has_no_warnings_and_ordered_classes(tmp_path):
    annotations, warnings = joined(tmp_path, ("c", "run", "train"), ("d", "run", "test"), *SOUND)
    assert annotations.classes == ("jump", "run") and warnings == []
    annotations, _ = joined(tmp_path, *SOUND, classes=("walk", "jump"))
    assert annotations.classes == ("walk", "jump") and set(annotations.videos.label_index.tolist()) == {1}


def test_groups_are_numbered_where_videos_share_one(tmp_path):
    """In the order of the ids, whatever the order and the names of the list are."""
    add_frames(tmp_path, "a", 1)
    groups = {"d": "kim", "a": "ann", "c": "kim", "b": "", "e": "ann", "f": "only here"}
    listed = [
        Listed((v,), "run", "train", "list", line, group) for line, (v, group) in enumerate(groups.items(), start=1)
    ]
    annotations = build_annotations(listed, tmp_path, val_fraction=0).annotations
    found = {video.id: video.group for video in annotations.videos}
    assert found == {"a": 0, "b": NO_GROUP, "c": 1, "d": 1, "e": 0, "f": NO_GROUP}


@pytest.mark.parametrize(
    "entry, word",
    [
        (("seen", "jump", "train"), "list, line 3: video 'seen' is already listed in list, line 1; remove one"),
        (("seen", "jump", "val"), "line 3: video 'seen' .* in list, line 1, 'val' here and 'train' there"),
        (("b", "run", "val"), "line 3: video 'b' .* in list, line 2, 'run' here and 'jump' there"),
        (("b", "run", "test"), "line 3: video 'b' .* line 2, 'test' here and 'val' there, 'run' here and 'jump' there"),
        (("c", None, "train"), "line 3: video 'c' has no label, expected one in split train"),
        (("c", "Jump", "train"), r"line 3: label 'Jump' \(1 video\) and 'jump' \(list, line 1\) differ only in case"),
        (
            ("c", "jump ", "train"),
            r"line 3: label 'jump ' \(1 video\) and 'jump' \(list, line 1\) differ only in case, blanks",
        ),
    ],
)
def test_a_fault_is_one_line_with_both_lines_of_the_list(tmp_path, entry, word):
    with pytest.raises(BadInputError, match=word) as caught:
        joined(tmp_path, *SOUND, entry)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "one, other",
    [("röck", "rock"), ("long_jump", "long jump"), ("Straße", "straße"), ("a  b", "a b"), ("\u212bb", "\xc5b")],
)
def test_nearly_identical_class_names_are_refused(tmp_path, one, other):
    if other == "rock":  # names with another letter are two classes; with the same letter in another Unicode form, one
        joined(tmp_path, ("a", one, "train"), ("b", other, "val"))
        other = unicodedata.normalize("NFD", one)
    with pytest.raises(BadInputError, match=r"list, line 2: .*\(list, line 1\)"):
        joined(tmp_path, ("a", one, "train"), ("b", other, "val"))


@pytest.mark.parametrize(
    "label, word",
    [
        ("jmup", "nearest class is 'jump'"),
        ("JUMP", "it and the class 'jump' differ only in case"),
        ("swimming in a lake", "$"),
        ("long-jump", "nearest class is 'long jump'"),
    ],
)
def test_unknown_label_is_refused_with_the_nearest_class(tmp_path, label, word):
    with pytest.raises(
        BadInputError, match=rf"list, line 3: label '{label}' \(2 videos\) is not in the class list.*{word}"
    ):
        joined(tmp_path, *SOUND, ("x", label, "train"), ("y", label, "val"), classes=("run", "jump", "long jump"))


def test_all_faults_are_reported_at_once_at_most_twenty_of_each_kind(tmp_path):
    entries = [(f"v{k}", f"class{k:02d}", "train") for k in range(30)]
    with pytest.raises(BadInputError) as caught:
        joined(tmp_path, *SOUND, *entries, *entries, ("x", None, "val"), classes=("jump",))
    lines = str(caught.value).splitlines()
    assert "nothing was written" in lines[0]
    assert len(lines) == 1 + 1 + 2 * (SHOWN + 1) and lines.count("  ... and 10 more") == 2
    for k in range(SHOWN):
        assert f"  list, line {k + 3}: label 'class{k:02d}' (2 videos) is not in the class list" in lines
        assert f"  list, line {k + 33}: video 'v{k}' is already listed in list, line {k + 3}; remove one" in lines
    assert "  list, line 63: video 'x' has no label, expected one in split val" in lines


def test_classes_in_one_split_only_are_warnings(tmp_path):
    _, warnings = joined(tmp_path, *SOUND, ("c", "run", "train"), ("d", "sit", "val"), ("e", "fly", "test"))
    assert warnings == [
        "2 classes have no train videos:\n  list, line 5: label 'fly' (1 video)\n  list, line 4: label 'sit' (1 video)",
        "1 class has train videos only:\n  list, line 3: label 'run' (1 video)",
    ]
    assert (
        joined(tmp_path, SOUND[0], ("c", "run", "train"))[1] == []
    )  # a train list alone, with one video of each class


def test_parts_of_one_video_in_two_splits_are_a_warning(tmp_path):
    add_frames(tmp_path, "v0_000001_000002", 1)
    rows = [(k, start, split) for k in range(109) for start, split in ((1, "train"), (5, "train"), (9, "val"))]
    rows += [("x", 1, "train"), ("x", 2, "train"), ("y", 1, "val")]
    text = "".join(f"jump,v{k},{start},{start + 1},{split}\n" for k, start, split in rows)
    listed = read_text(tmp_path, "kinetics_csv", f"label,youtube_id,time_start,time_end,split\n{text}")
    annotations, _, (_, warning), _ = build_annotations(listed, tmp_path)
    lines = warning.splitlines()
    assert lines[0].startswith("109 videos have parts in more than one split") and len(lines) == 1 + 5 + 1
    for k, line in enumerate(lines[1:6]):
        assert f"'v{k}_000005_000006' (train; {tmp_path}/list, line {3 * k + 3})" in line
        assert f"'v{k}_000009_000010' (val; {tmp_path}/list, line {3 * k + 4})" in line
    assert len(annotations.videos) == len(rows)


def test_ids_that_never_match_are_a_warning_with_examples(tmp_path):
    _, (_, warning) = joined(tmp_path, ("folder__seen", "jump", "train"))
    assert "'folder__seen'" in warning and "'seen'" in warning and "--ids" in warning


def test_list_without_any_label_is_refused(tmp_path):
    with pytest.raises(BadInputError, match="list, line 1: no entry has a label"):
        joined(tmp_path, ("a", None, "test"))


# -------------------------------------------------------------------------------------------------------- multi-label


def joined_multi_label(root: Path, *entries: tuple[str, str | None, str | None], **keywords):
    add_frames(root, "seen", 1)
    listed = [Listed((v,), label, split, "list", k) for k, (v, label, split) in enumerate(entries, start=1)]
    return build_annotations(listed, root, multi_label=True, **keywords)


def test_a_video_has_the_labels_of_all_its_entries(tmp_path):
    add_frames(tmp_path, "a", 2)
    entries = [
        ("a", "run", "train"),
        ("b", "", "val"),
        ("a", "jump", "train"),
        ("a", "run", "train"),
        ("c", None, "test"),
    ]
    annotations, _, warnings, _ = joined_multi_label(tmp_path, *entries)
    assert annotations.classes == ("jump", "run")
    found = [(video.id, video.label, video.num_frames) for video in annotations.videos]
    assert found == [("a", ("jump", "run"), 2), ("b", (), 0), ("c", None, 0)]
    assert warnings == []


def test_a_video_is_in_one_split(tmp_path):
    with pytest.raises(
        BadInputError, match="line 2: video 'a' is already listed in list, line 1, 'val' here and 'train'"
    ):
        joined_multi_label(tmp_path, ("a", "run", "train"), ("a", "jump", "val"))
    with pytest.raises(
        BadInputError, match="'jump' here and 'run' there; remove one, or add --multi_label if videos have"
    ):
        joined(tmp_path, ("a", "run", "train"), ("a", "jump", "train"))


def test_val_is_chosen_by_video(tmp_path):
    """All labels of a video are on one side, and the sentence counts videos."""
    entries = [(f"{k:02d}", label, None) for k in range(20) for label in ("run", ("jump", "hop")[k % 2])]
    annotations, notes, *_ = joined_multi_label(tmp_path, *entries, val_fraction=0.3)
    num_val = int((annotations.videos.split_index == 1).sum())
    assert len(annotations.videos) == 20 and f"{num_val} of 20 train videos are held out" in notes[0]
    val = annotations.split("val").labels()
    assert 0 < num_val < 20 and val.sum(axis=0).min() > 0 and (val.sum(axis=1) == 2).all()


def test_several_labels_of_one_part_of_a_video_are_no_several_parts(tmp_path):
    """So the part is matched with the whole video, if that is what was extracted."""
    add_frames(tmp_path, "v", 3)
    listed = [Listed(("v_000001_000002", "v"), label, "train", "list", k) for k, label in enumerate(("run", "hop"), 1)]
    (video,) = build_annotations(listed, tmp_path, multi_label=True).annotations.videos
    assert (video.id, video.label, video.num_frames) == ("v", ("hop", "run"), 3)
