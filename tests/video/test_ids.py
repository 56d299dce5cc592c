"""The video files below a folder, and their ids."""

import os
from pathlib import Path

import pytest

from twostream.errors import BadInputError, EnvironmentFaultError
from twostream.video.ids import find_videos, video_id_of


def test_videos_are_found_at_any_depth(tmp_path):
    for name in ("b/x.MP4", "a/deep/y.avi", "z.mkv", "notes.txt", ".hidden.mp4", ".cache/w.mp4", "a/w.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
    videos, others = find_videos(tmp_path)
    assert list(videos) == ["x", "y", "z"] and others == 2
    assert list(find_videos(tmp_path, id_from="path")[0]) == ["a__deep__y", "b__x", "z"]


def test_links_are_followed_and_loops_end(tmp_path):
    root, elsewhere = tmp_path / "root", tmp_path / "elsewhere"
    for name in ("root/a/x.mp4", "elsewhere/y.mp4", "elsewhere/deep/z.mp4", "file.mp4"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
    (root / "0").symlink_to(elsewhere)
    (root / "again").symlink_to(elsewhere / "deep")
    (root / "0a").symlink_to(root / "a")  # comes before the real folder by name
    (root / "a" / "loop").symlink_to(root)
    (elsewhere / "deep" / "loop").symlink_to("..")
    (root / "itself").symlink_to("itself")
    (root / "linked.mp4").symlink_to(tmp_path / "file.mp4")
    (root / "broken.mp4").symlink_to("nowhere")
    os.mkfifo(root / "pipe.mp4")
    videos, others = find_videos(root)
    assert {video_id: str(path.relative_to(root)) for video_id, path in videos.items()} == {
        "broken": "broken.mp4",
        "linked": "linked.mp4",
        "x": "a/x.mp4",
        "y": "0/y.mp4",
        "z": videos["z"].relative_to(root).as_posix(),  # through either link
    }
    assert others == 2  # the pipe, and the link to itself
    with pytest.raises(EnvironmentFaultError, match="cannot list the folder .*nothing"):
        find_videos(tmp_path / "nothing")
    (tmp_path / "link").symlink_to(root)
    assert list(find_videos(tmp_path / "link")[0]) == list(videos)


@pytest.mark.parametrize(
    "path, stem, long_id",
    [
        ("x.mp4", "x", "x"),
        ("a/b.c/x.y.MP4", "x.y", "a__b.c__x.y"),
        ("a/no suffix", "no suffix", "a__no suffix"),
        ("clip.2", "clip.2", "clip.2"),
        ("a/clip.2.mkv", "clip.2", "a__clip.2"),
        ("b/v1.0.3", "v1.0.3", "b__v1.0.3"),
    ],  # fmt: skip
)
def test_ids_from_paths(path, stem, long_id):
    assert video_id_of(Path(path), id_from="stem") == stem
    assert video_id_of(Path(path), id_from="path") == long_id


@pytest.mark.parametrize(
    "pair, id_from, advice",
    [
        (("a/x.mp4", "b/x.mp4"), "stem", "rename one, or add --ids=path to all commands"),
        (("x.mp4", "x.avi"), "stem", "rename or remove one"),  # --ids=path would give both the same id again
        (("a/x.mp4", "a/x.avi"), "path", "rename or remove one"),
        (("a/x.mp4", "a__x.mp4"), "path", "rename or remove one"),
    ],
)
def test_two_videos_with_the_same_id_are_both_named(tmp_path, pair, id_from, advice):
    for name in pair:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("")
    with pytest.raises(BadInputError, match=f"same id '(a__)?x'; {advice}$") as caught:
        find_videos(tmp_path, id_from=id_from)
    assert all(str(tmp_path / name) in str(caught.value) for name in pair)
