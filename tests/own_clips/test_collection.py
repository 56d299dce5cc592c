"""What counts as a user's clips: folders, lists, and what is missing from them."""

import os
from dataclasses import replace

import pytest

from twostream.annotations.lists import read_csv
from twostream.errors import BadInputError
from twostream.own_clips.collection import find_clips, write_list

ROWS = "video,label,split,person\nwave/1.mp4,wave,train,ann\nwave/2.mp4,wave,val,bob\njump/3.mp4,jump,train,bob\n"


def test_class_folders(empty_videos):
    collection = find_clips(empty_videos)
    assert [(clip.id, clip.label) for clip in collection.clips] == [
        ("jump__3", "jump"), ("jump__4", "jump"), ("wave__1", "wave"), ("wave__2", "wave")
    ]  # fmt: skip
    assert collection.classes == ["jump", "wave"] and not collection.notes and not collection.group_column


@pytest.mark.parametrize("source", [".", "clips.csv"])
@pytest.mark.parametrize("prefix", ["", "videos/", "elsewhere/"])
def test_a_list_beside_its_videos(empty_videos, source, prefix):
    """The folder that has both, or the list itself; with paths from there, from videos/, or of another machine."""
    path = empty_videos.parent / "clips.csv"
    path.write_text(ROWS.replace("wave/", f"{prefix}wave/").replace("jump/", f"{prefix}jump/"))
    collection = find_clips(empty_videos.parent / source)
    found = {clip.path.name: (clip.label, clip.split, clip.group) for clip in collection.clips}
    assert found == {
        "1.mp4": ("wave", "train", "ann"),
        "2.mp4": ("wave", "val", "bob"),
        "3.mp4": ("jump", "train", "bob"),
    }
    assert collection.group_column == "person"
    assert [note for note in collection.notes if "1 video below" in note and "not in" in note]


def test_the_list_that_is_written_says_the_same(empty_videos, tmp_path):
    path = empty_videos.parent / "clips.csv"
    path.write_text(ROWS)
    collection = find_clips(path)
    write_list(tmp_path / "out.csv", collection.clips, folder=collection.folder)
    again = {listed.ids[0]: listed for listed in read_csv(tmp_path / "out.csv", id_from=collection.id_from)}
    assert {(c.id, c.label, c.split, c.group) for c in collection.clips} == {
        (video_id, listed.label, listed.split, listed.group) for video_id, listed in again.items()
    }


@pytest.mark.parametrize("times", [(0, 0.5), (1234.567, 1235), (10_000.02, 10_000.03), (10_000.03, 10_000.04)])
def test_times_are_written_to_the_millisecond(empty_videos, tmp_path, times):
    clips = [replace(clip, segment=times) for clip in find_clips(empty_videos).clips]
    write_list(tmp_path / "out.csv", clips, folder=empty_videos)
    assert {listed.segment for listed in read_csv(tmp_path / "out.csv")} == {times}


@pytest.mark.parametrize("name", [b"wave/caf\xe9.mp4", b"caf\xe9/1.mp4"])
def test_names_that_no_list_can_hold_are_left_out(empty_videos, tmp_path, name):
    path = os.path.join(os.fsencode(empty_videos), name)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    open(path, "wb").close()
    collection = find_clips(empty_videos)
    assert len(collection.clips) == 4 and collection.classes == ["jump", "wave"]
    (note,) = collection.notes
    assert note == f"left out: 1 video whose names no CSV can hold: {os.fsdecode(name)}; rename them"
    write_list(tmp_path / "out.csv", collection.clips, folder=empty_videos)
    assert len(list(read_csv(tmp_path / "out.csv"))) == 4
    for other in (empty_videos / "jump").iterdir():
        other.unlink()
    with pytest.raises(BadInputError, match="has one class, 'wave', expected two .*; left out: 1 video"):
        find_clips(empty_videos)


@pytest.mark.parametrize("first, second", [("Walk", "walk"), ("long jump", "long_jump"), ("caf\u00e9", "cafe\u0301")])
@pytest.mark.parametrize("kind", ["folder", "csv"])
def test_classes_that_a_reader_takes_for_one_are_refused(tmp_path, first, second, kind):
    for name in (first, second):
        (tmp_path / "clips" / name).mkdir(parents=True)
        (tmp_path / "clips" / name / f"{len(name)}{name[0]}.mp4").touch()
    source = tmp_path / "clips"
    if kind == "csv":
        source = tmp_path / "list.csv"
        source.write_text(
            "\n".join(["video,label", *(f"{n}/{len(n)}{n[0]}.mp4,{n}" for n in (first, second))]), encoding="utf-8"
        )
    with pytest.raises(BadInputError, match="differ only in case, blanks, underscores .*; spell both the same way"):
        find_clips(source, videos=tmp_path / "clips")


@pytest.mark.parametrize(
    "rows, message",
    [
        ("", "has one class, 'wave'|holds no video files"),
        (
            "video,label\nwave/1.mp4,wave\nwave/1.mp4,run\n",
            "1 has the labels 'wave' and 'run', expected one label a video",
        ),
        (
            "video,label\nwave/1.mp4,wave\njump/3.mp4,jump\nwave/1.mp4,wave\n",
            "clips.csv, line 4: video 'wave__1' is already listed in .*clips.csv, line 2; remove one of the two",
        ),
        (
            "video,label,start_seconds,end_seconds\nwave/1.mp4,wave,1,2\njump/3.mp4,jump,,\nwave/1.mp4,wave,1.0,2.0\n",
            "line 4: video 'wave__1_000001_000002' is already listed in .*line 2",
        ),
        ("video,label\nwave/1.mp4,wave\nwave/2.mp4,wave\n", "has one class, 'wave', expected two"),
        (
            "video,label\nx.mp4,a\ny.mp4,b\n",
            "none of the 2 videos listed in .* is below .*; say where they are: twostream start",
        ),
    ],
)
def test_nothing_to_learn_from(empty_videos, rows, message):
    if rows:
        path = empty_videos.parent / "clips.csv"
        path.write_text(rows)
    else:
        for name in ("jump/3.mp4", "jump/4.mp4"):
            (empty_videos / name).unlink()
        path = empty_videos
    with pytest.raises(BadInputError, match=message):
        find_clips(path)


def test_a_folder_without_videos(tmp_path):
    with pytest.raises(BadInputError, match="holds no video files .0 other files., expected .*<class>/<video>"):
        find_clips(tmp_path)
    (tmp_path / "my clips").mkdir()
    (tmp_path / "my clips" / "one.mp4").touch()
    with pytest.raises(
        BadInputError, match="1 video in no class folder, such as one.mp4; .*twostream label '.*/my clips' writes"
    ):
        find_clips(tmp_path / "my clips")
    with pytest.raises(BadInputError, match="does not exist"):
        find_clips(tmp_path / "none")


def test_missing_videos_are_a_note(empty_videos):
    (empty_videos / "wave" / "1.mp4").unlink()
    path = empty_videos.parent / "clips.csv"
    path.write_text(ROWS)
    assert any(
        note.startswith("1 listed video not found below") and "wave__1" in note for note in find_clips(path).notes
    )
