"""What can be asked about: every kind of source is found, in order, and gives its frames at the size and rate asked for."""

import shutil

import cv2
import numpy as np
import pytest

from tests import toy
from twostream.annotations.json_file import read_annotations
from twostream.errors import BadInputError
from twostream.frames.stores import open_store
from twostream.inference.sources import Geometry, Pictures, find_sources
from twostream.video.ffmpeg import VideoError


def read(source, short_side=0, fps=0.0):
    return np.stack(list(source.frames(Geometry(short_side, fps))))


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    path = tmp_path_factory.mktemp("clip") / "clip.mkv"
    toy.write_video(path, toy.frames(1, "red", "left"))
    return path


def test_files_folders_and_patterns(clip, tmp_path):
    for name in ("b.mkv", "deep/er/a.mkv", "a.mp4", "a.avi", ".hidden/c.mkv", "notes.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(clip, tmp_path / name)
    names = [source.name for source in find_sources(str(tmp_path))]
    assert names == [str(tmp_path / name) for name in ("a.avi", "a.mp4", "b.mkv", "deep/er/a.mkv")]
    assert [s.name for s in find_sources(f"{tmp_path}/*.mp4")] == [str(tmp_path / "a.mp4")]
    assert len(find_sources(f"{tmp_path}/**/*.mkv")) == 2
    assert len(read(find_sources(str(tmp_path / "b.mkv"))[0])) == toy.NUM_FRAMES


def test_links_in_folders_are_followed_as_by_an_extraction(clip, tmp_path):
    """Each folder once, so loops end, and two files of one name are two videos; a broken link is listed as missing."""
    folder, elsewhere = tmp_path / "folder", tmp_path / "elsewhere"
    for path in (folder / "a/v.mkv", elsewhere / "v.mkv", elsewhere / "deep/w.mkv"):
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(clip, path)
    (folder / "linked").symlink_to(elsewhere)
    (folder / "again").symlink_to("a")
    (elsewhere / "loop").symlink_to(folder)
    (folder / "x.mkv").symlink_to(elsewhere / "v.mkv")
    (folder / "broken.mkv").symlink_to("nowhere")
    (folder / "itself").symlink_to("itself")
    sources = find_sources(str(folder))
    names = ("a/v.mkv", "broken.mkv", "linked/deep/w.mkv", "linked/v.mkv", "x.mkv")
    assert [source.name for source in sources] == [str(folder / name) for name in names]
    with pytest.raises(VideoError, match="broken link"):
        read(sources[1])
    (tmp_path / "links").mkdir()
    (tmp_path / "links/b").symlink_to(elsewhere / "deep")
    assert [source.name for source in find_sources(str(tmp_path / "links"))] == [str(tmp_path / "links/b/w.mkv")]


def test_names_with_the_letters_of_patterns_are_files_first(clip, tmp_path):
    shutil.copy(clip, tmp_path / "a[1].mkv")
    assert [s.name for s in find_sources(str(tmp_path / "a[1].mkv"))] == [str(tmp_path / "a[1].mkv")]


def test_a_folder_of_images_is_one_video_in_natural_order(tmp_path):
    frames = toy.frames(2, "blue", "right")[:12]
    for number, frame in enumerate(frames):
        cv2.imwrite(str(tmp_path / f"frame{number}.png"), frame[..., ::-1])
    (source,) = find_sources(str(tmp_path), fps=24)
    np.testing.assert_array_equal(read(source), frames)
    assert source.fps == 24
    assert len(read(source, fps=12)) == 6 and source.fps == 12


@pytest.mark.parametrize("split", ["", "val"])
def test_a_data_root_is_its_stored_frames(split, toy_root):
    sources = find_sources(str(toy_root), split=split)
    expected = read_annotations(toy_root).split("val").ids if split else open_store(toy_root, "rgb").video_ids()
    assert [source.name for source in sources] == list(expected)
    store = open_store(toy_root, "rgb")
    np.testing.assert_array_equal(read(sources[0]), store.read(expected[0], list(range(toy.NUM_FRAMES))))
    assert sources[0].fps == 15


@pytest.mark.parametrize(
    ("shape", "short_side", "expected"),
    [((96, 128), 48, (48, 64)), ((128, 96), 48, (64, 48)), ((50, 50), 0, (50, 50)), ((30, 101), 15, (15, 50))],
)
def test_pictures_are_scaled_as_videos_are(shape, short_side, expected, tmp_path):
    pictures = np.stack(
        [
            cv2.GaussianBlur(np.random.default_rng(k).integers(0, 256, (*shape, 3), np.uint8), (0, 0), 3)
            for k in range(2)
        ]
    )
    scaled = read(Pictures("v", pictures), short_side=short_side)
    assert scaled.shape[1:3] == expected
    if not (shape[0] % 2 or shape[1] % 2):
        toy.write_video(tmp_path / "v.mkv", pictures)
        (video,) = find_sources(str(tmp_path / "v.mkv"))
        assert np.abs(read(video, short_side=short_side).astype(int) - scaled).mean() < 1


@pytest.mark.parametrize(
    ("pictures", "says"),
    [
        ([], "no frames"),
        ([np.zeros((4, 4, 3), np.float32)], "float32 of shape"),
        ([np.zeros((4, 4), np.uint8)], "expected uint8"),
        ([np.zeros((4, 4, 3), np.uint8), np.zeros((4, 5, 3), np.uint8)], "frame 2 is 5x4"),
    ],
)
def test_what_is_no_video_is_named(pictures, says):
    with pytest.raises(BadInputError, match=says):
        read(Pictures("mine", pictures))


def test_what_does_not_exist_is_named(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "1.png").write_bytes(b"x")
    for text, says in [
        (str(tmp_path / "none.mp4"), "no such file"), (str(tmp_path / "empty"), "no videos and no image files"),
        ("https://host/v.mp4", "only with --network"), (f"{tmp_path}/*.mkv", "no such file, folder or pattern"),
    ]:  # fmt: skip
        with pytest.raises(BadInputError, match=says):
            find_sources(text)
    with pytest.raises(BadInputError, match="1.png: 1 bytes that are no image"):
        read(find_sources(str(tmp_path / "broken"))[0])
