"""One decoding gives the pictures, the motion and the result of two; and whatever is not in order is left to these."""

import json

import numpy as np
import pytest

from tests import toy
from tests.motion_vectors.moving import CODECS, H264, pan, steady
from tests.video.samples import run_ffmpeg
from twostream.flow.methods import FlowSettings
from twostream.motion_vectors.kept_frames import read_kept
from twostream.motion_vectors.moving_pictures import MovingPictures
from twostream.preparation.extraction import ExtractionJob, extract_video
from twostream.preparation.settings import ExtractionSettings
from twostream.video import decoder
from twostream.video.decoder import Decoder
from twostream.video.ffmpeg import VideoError

av = pytest.importorskip("av")

PICTURES = pan(steady(40, 2, -1))  # more than are decoded at a time


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("videos")
    for name, codec in CODECS.items():
        toy.write_video(folder / name, PICTURES, fps=25, codec=codec)
    toy.write_video(folder / "wide pixels.mp4", PICTURES, fps=25, codec=(*H264, "-vf", "setsar=2"))
    run_ffmpeg("-display_rotation", "90", "-i", folder / "coarse.mp4", "-c", "copy", folder / "turned.mp4")
    return folder


@pytest.mark.parametrize("name", [*CODECS, "turned.mp4", "wide pixels.mp4"])
def test_one_decoding_gives_what_two_give(folder, name, monkeypatch):
    usual = Decoder(folder / name, short_side=80)
    pictures, steps = list(usual), list(read_kept(folder / name))
    monkeypatch.setattr(decoder, "Ffmpeg", None)  # the program is not needed
    with MovingPictures(Decoder(folder / name, short_side=80)) as moving:
        motion = moving.motion()
        found = [next(motion)]  # ahead of the pictures, as extraction reads it
        np.testing.assert_array_equal(list(moving), pictures)
        assert (moving.result, moving.rate) == (usual.result, usual.rate)
        found += motion
    assert len(found) == len(steps)
    for ours, expected in zip(found, steps, strict=True):
        assert (ours.seconds, ours.stored_size, ours.turns) == (expected.seconds, expected.stored_size, expected.turns)
        np.testing.assert_array_equal(ours.motion, expected.motion)


def cut(source, target):
    target.write_bytes(source.read_bytes()[:-2000])


def damage(source, target):
    data = bytearray(source.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 300] = bytes(300)
    target.write_bytes(data)


def join(source, target):
    """With a video of another size, whose time stamps begin again."""
    toy.write_video(target, PICTURES[:8, :64, :64], fps=25, codec=H264)
    target.write_bytes(source.read_bytes() + target.read_bytes())


def add_a_stream(source, target):
    run_ffmpeg("-i", source, "-map", "0", "-map", "0", "-c", "copy", target)


def leave_out_vectors(source, target):
    toy.write_video(target, PICTURES[:8], fps=25, codec=("libvpx-vp9", "-deadline", "realtime"))


OUT_OF_ORDER = {
    "cut.mkv": (cut, "short groups.mkv"),
    "damaged.mp4": (damage, "pyramid of B-frames.mp4"),
    "damaged.avi": (damage, "Xvid.avi"),
    "joined.ts": (join, "start codes.ts"),
    "two streams.mkv": (add_a_stream, "short groups.mkv"),
    "without vectors.webm": (leave_out_vectors, "coarse.mp4"),
}


def extracted(root, path, monkeypatch, *, at_once: bool):
    """What extraction says of a video, and the files that it writes."""

    def refuse(self):
        raise VideoError("decoded twice")

    with monkeypatch.context() as patches:
        if not at_once:
            patches.setattr(MovingPictures, "__enter__", refuse)
        settings = ExtractionSettings(short_side=64, flow=(FlowSettings("mv"),))
        try:
            said = extract_video(ExtractionJob(str(root), "v", str(path), settings))
        except VideoError as error:
            said = error.kind, str(error)
    return said, {path.relative_to(root): path.read_bytes() for path in root.rglob("*") if path.is_file()}


@pytest.mark.parametrize("name", OUT_OF_ORDER)
def test_what_is_not_in_order_is_decoded_twice(folder, name, tmp_path, monkeypatch):
    make, source = OUT_OF_ORDER[name]
    path = tmp_path / name
    make(folder / source, path)
    with pytest.raises(VideoError), MovingPictures(Decoder(path)) as moving:
        list(moving)
    usual = extracted(tmp_path / "usual", path, monkeypatch, at_once=False)
    assert extracted(tmp_path / "ours", path, monkeypatch, at_once=True) == usual


@pytest.mark.parametrize("part", [{"fps": 10}, {"start_seconds": 0.2}, {"end_seconds": 0.4}], ids=str)
def test_parts_and_other_rates_are_refused(folder, part):
    with pytest.raises(VideoError), MovingPictures(Decoder(folder / "Xvid.avi", **part)):
        pass


def test_records_say_what_decoded(folder, tmp_path, monkeypatch):
    """Nothing else in them, and no image, depends on it."""
    trees = []
    for at_once in (False, True):
        said, files = extracted(tmp_path / str(at_once), folder / "Xvid.avi", monkeypatch, at_once=at_once)
        records = {path: json.loads(data) for path, data in files.items() if path.name == "video.json"}
        programs = [record.pop("programs") for record in records.values()]
        assert [program.get("pyav") for program in programs] == [av.__version__ if at_once else None] * 2
        trees.append((said, files | records))
    assert trees[0] == trees[1]


def test_what_libraries_say_is_heard_each_time_and_not_printed(folder, capfd):
    for _ in range(2):  # PyAV leaves out a line that repeats the last one, also of another file
        with (
            pytest.raises(VideoError, match="concealing 5 errors"),
            MovingPictures(Decoder(folder / "v.flv")) as moving,
        ):
            for _ in moving:
                av.logging.log(av.logging.ERROR, "flv", "concealing 5 errors\n")
    av.logging.log(av.logging.ERROR, "flv", "concealing 6 errors\n")
    assert capfd.readouterr().err == ""
