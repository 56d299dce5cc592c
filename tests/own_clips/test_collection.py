"""What counts as a user's clips: folders, lists, and what is missing from them."""

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


@pytest.mark.parametrize(
    "rows, message",
    [
        ("", "has one class, 'wave'|holds no video files"),
        (
            "video,label\nwave/1.mp4,wave\nwave/1.mp4,run\n",
            "1 has the labels 'wave' and 'run', expected one label a video",
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
