"""Frame k of a video file is frame k of the decoder, pixel by pixel, in whatever order frames are read."""

import numpy as np
import pytest

from tests import toy
from tests.video.samples import decode, numbered_pictures, numbers_of, pictures, run_ffmpeg
from twostream.video.decoder import probe
from twostream.video.ffmpeg import VideoError

pytest.importorskip("av")

from twostream.video.random_access import Converter, VideoReader, index_video, side_data

H264 = ("libx264", "-preset", "veryfast", "-pix_fmt", "yuv420p", "-bf", "3")
OPEN_GROUPS = "open-gop=1:scenecut=0"
NUM_FRAMES = 45

FILES = {
    "B-frames.mp4": (*H264, "-g", "250"),
    "short groups.mp4": (*H264, "-g", "3"),
    "open groups.mp4": (*H264, "-g", "20", "-x264-params", OPEN_GROUPS),
    "open groups.mkv": ("libx265", "-preset", "ultrafast", "-g", "20", "-x265-params", f"{OPEN_GROUPS}:log-level=none"),
    "without key frames.ts": (*H264, "-g", "20", "-x264-params", "intra-refresh=1"),
    "hidden frames.webm": ("libvpx", "-g", "20", "-auto-alt-ref", "1", "-lag-in-frames", "8", "-b:v", "200k", "-pix_fmt", "yuv420p"),
    "lossless.mkv": ("ffv1",),
    "B-frames.ts": (*H264, "-g", "20"),
    "B-frames.avi": ("mpeg4", "-q:v", "3", "-bf", "2"),
    "H.264.avi": (*H264, "-g", "20"),
    "v.flv": ("flv1", "-q:v", "3"),
    "v.mpg": ("mpeg2video", "-bf", "2", "-q:v", "3"),
    "v.wmv": ("wmv2", "-q:v", "3"),
    "other colours.mp4": ("libx264", "-pix_fmt", "yuv420p", "-colorspace", "bt709", "-color_range", "pc", "-g", "10"),
    "ten bits.mp4": ("libx264", "-preset", "ultrafast", "-pix_fmt", "yuv420p10le"),
}  # fmt: skip


def check_all_frames(path, *, short_side: int = 0) -> None:
    """Read all frames forwards, then some in random order, each with a new reader's first seek; compare with Decoder."""
    truth, _ = decode(path, short_side=short_side)
    index = index_video(path)
    assert index.num_frames == len(truth)
    with VideoReader(path, index, Converter(short_side=short_side)) as reader:
        for number, frame in enumerate(truth):
            np.testing.assert_array_equal(reader.read(number), frame, err_msg=f"{path.name}, frame {number}")
    for number in np.random.default_rng(0).permutation(len(truth))[:4].tolist():
        with VideoReader(path, index, Converter(short_side=short_side)) as reader:
            for k in (number, max(number - 1, 0), min(number + 2, len(truth) - 1)):
                np.testing.assert_array_equal(reader.read(k), truth[k], err_msg=f"{path.name}, frame {k}")


@pytest.mark.parametrize("name", FILES)
def test_frames_are_those_of_the_decoder(tmp_path, name):
    path = tmp_path / name
    toy.write_video(path, numbered_pictures(NUM_FRAMES), fps=25, codec=FILES[name])
    check_all_frames(path, short_side=40 if name == "other colours.mp4" else 0)
    with VideoReader(path, index_video(path)) as reader:  # a truth that no decoder has a part in
        order = [41, 3, 44, 20, 19, 0]
        assert numbers_of(reader.read(k) for k in order) == order


def test_files_with_regular_packets_open_quickly_and_others_do_not(tmp_path):
    for name, is_quick in (
        ("B-frames.mp4", True),
        ("open groups.mkv", True),
        ("B-frames.ts", False),
        ("B-frames.avi", False),
    ):
        toy.write_video(tmp_path / name, numbered_pictures(10), codec=FILES[name])
        index = index_video(tmp_path / name)
        assert index.opens_quickly == index.is_packet_a_frame == is_quick, name


@pytest.mark.parametrize("short_side", [0, 32, 96])
def test_pixels_of_scaled_pictures_and_pixels_that_are_not_square(tmp_path, short_side):
    toy.write_video(tmp_path / "v.mkv", pictures(6, height=49, width=65))
    options = ("-vf", "setsar=4/3", "-c:v", "libx264", "-g", "3", "-pix_fmt", "yuv420p")
    run_ffmpeg("-i", tmp_path / "v.mkv", "-vf", "crop=64:48,setsar=4/3", *options[2:], tmp_path / "wide.mp4")
    for name in ("v.mkv", "wide.mp4"):
        check_all_frames(tmp_path / name, short_side=short_side)


def test_edit_list_hides_frames(tmp_path):
    """A part that was cut out without encoding it again: what is shown begins between two key frames."""
    toy.write_video(tmp_path / "whole.mp4", numbered_pictures(NUM_FRAMES), fps=25, codec=(*H264, "-g", "12"))
    run_ffmpeg("-ss", "0.6", "-i", tmp_path / "whole.mp4", "-t", "1", "-c", "copy", tmp_path / "v.mp4")
    check_all_frames(tmp_path / "v.mp4")
    with VideoReader(tmp_path / "v.mp4", index_video(tmp_path / "v.mp4")) as reader:
        assert numbers_of(reader.read(k) for k in (5, 0, 24)) == [20, 15, 39]


@pytest.mark.parametrize("num_frames", [2, 4, 40])
def test_rate_of_a_file_that_does_not_say_it(tmp_path, num_frames):
    path = tmp_path / "v.ivf"
    codec = ("libvpx", "-deadline", "realtime", "-pix_fmt", "yuv420p")
    toy.write_video(path, numbered_pictures(num_frames), fps=30, codec=codec)
    assert probe(path).fps == 0 and index_video(path).fps == decode(path)[1].fps == 30


@pytest.mark.parametrize("tick", ["1:1000", "1:15"], ids=["different stamps", "shared stamps"])
def test_variable_rate(tmp_path, tick):
    toy.write_video(tmp_path / "constant.mkv", numbered_pictures(40))
    stamps = ["-vf", "setpts=(N*0.02+0.5*floor(N/5))/TB", "-fps_mode", "passthrough", "-enc_time_base", tick]
    run_ffmpeg("-i", tmp_path / "constant.mkv", *stamps, "-c:v", "ffv1", tmp_path / "v.mkv")
    check_all_frames(tmp_path / "v.mkv")
    with VideoReader(tmp_path / "v.mkv", index_video(tmp_path / "v.mkv")) as reader:
        assert numbers_of(reader.read(k) for k in (33, 7, 39)) == [33, 7, 39]


# As in test_decoder.py: (x, y) is shown at (a x + c y, b x + d y).
@pytest.mark.parametrize(
    "matrix",
    [(0, 1, -1, 0), (-1, 0, 0, -1), (0, -1, 1, 0), (-1, 0, 0, 1), (1, 0, 0, -1), (0, 1, 1, 0), (0, -1, -1, 0)],
)
def test_turned_and_mirrored_pictures(tmp_path, matrix):
    path = tmp_path / "v.mov"
    toy.write_video(path, pictures(2), codec=("png",))
    data = bytearray(path.read_bytes())
    start = data.index(b"tkhd") + 4 + 40
    a, b, c, d = (int(v * 65536).to_bytes(4, "big", signed=True) for v in matrix)
    data[start : start + 24] = a + b + bytes(4) + c + d + bytes(4)
    path.write_bytes(data)
    check_all_frames(path, short_side=24)


def test_all_pictures_have_the_size_of_the_first(tmp_path):
    for name, height in (("a.mjpeg", 48), ("b.mjpeg", 96)):
        toy.write_video(
            tmp_path / name, pictures(10, height=height), fps=10, codec=("mjpeg", "-q:v", "2", "-pix_fmt", "yuvj420p")
        )
    (tmp_path / "v.mjpeg").write_bytes((tmp_path / "a.mjpeg").read_bytes() + (tmp_path / "b.mjpeg").read_bytes())
    check_all_frames(tmp_path / "v.mjpeg")


def test_overlapping_clips_are_decoded_once(tmp_path, monkeypatch):
    path = tmp_path / "v.mp4"
    toy.write_video(path, numbered_pictures(NUM_FRAMES), codec=(*H264, "-g", "250"))
    with VideoReader(path, index_video(path)) as reader:
        for method in ("_start", "_seek"):
            monkeypatch.setattr(reader, method, None)
        for first in range(0, 28, 6):
            assert numbers_of(reader.read(k) for k in range(first, first + 16)) == list(range(first, first + 16))


def test_damaged_part_costs_its_frames_only(tmp_path):
    path = tmp_path / "v.mp4"
    toy.write_video(path, numbered_pictures(NUM_FRAMES), codec=("mjpeg", "-q:v", "3", "-pix_fmt", "yuvj420p"))
    whole = index_video(path)
    data = bytearray(path.read_bytes())
    pictures_at = [k for k in range(len(data)) if data[k : k + 3] == b"\xff\xd8\xff"]
    start, end = pictures_at[30], pictures_at[31]
    data[start:end] = bytes(end - start)
    path.write_bytes(data)
    with VideoReader(path, index_video(path)) as reader:
        assert reader.index.num_frames == whole.num_frames == NUM_FRAMES
        with pytest.raises(VideoError, match="^frame 30 (cannot be decoded|is damaged)"):
            reader.read(30)
        others = [k for k in range(NUM_FRAMES) if k != 30]
        assert numbers_of(reader.read(k) for k in others) == others


def test_what_is_no_video_is_refused(tmp_path):
    (tmp_path / "text.mp4").write_text("no video" * 100)
    (tmp_path / "empty.mp4").write_bytes(b"")
    for name in ("text.mp4", "empty.mp4", "absent.mp4"):
        with pytest.raises(VideoError):
            index_video(tmp_path / name)


def test_cut_file_is_indexed_with_what_it_has(tmp_path):
    path = tmp_path / "v.mkv"
    toy.write_video(path, pictures(60), fps=10)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    index = index_video(path)
    assert 20 < index.num_frames < 40 and "of the declared 6.0 s" in index.damage


def test_texts_of_a_file_need_not_be_unicode(tmp_path):
    path = tmp_path / "v.mkv"
    toy.write_video(path, pictures(3), codec=("ffv1", "-pix_fmt", "gbrp", "-metadata", "title=SOME TITLE"))
    path.write_bytes(path.read_bytes().replace(b"SOME TITLE", b"\xd0\xff" * 5))
    with VideoReader(path, index_video(path)) as reader:
        np.testing.assert_array_equal(reader.read(1), pictures(3)[1])


def test_data_of_a_frame_that_pyav_does_not_know_is_named():
    class Frame:
        @property
        def side_data(self):
            raise ValueError("31 is not a valid Type")

    with pytest.raises(VideoError, match="31 is not a valid Type.*pip install --upgrade av"):
        side_data(Frame(), "DISPLAYMATRIX")
