"""Vectors in files of several codecs are the motion that the pictures were made with."""

import cv2
import numpy as np
import pytest

from tests import toy
from tests.motion_vectors.moving import CODECS, H264, MPEG4, moving_square, pan, steady
from tests.video.samples import run_ffmpeg
from twostream.motion_vectors.fields import to_flow
from twostream.motion_vectors.reader import NO_VECTORS, read_steps
from twostream.video.ffmpeg import VideoError

pytest.importorskip("av")

NUM_FRAMES = 14


def share_within_half_a_pixel(motion, shift) -> float:
    return float((np.abs(motion - np.array(shift, np.float32)).max(axis=2) <= 0.5).mean())


@pytest.mark.parametrize("shift", [(3, -1), (-2, 2)])
@pytest.mark.parametrize("name", CODECS)
def test_pan_is_right_in_sign_axis_and_size(tmp_path, name, shift):
    path = tmp_path / name
    toy.write_video(path, pan(steady(NUM_FRAMES, *shift)), fps=25, codec=CODECS[name])
    steps = list(read_steps(path))
    assert len(steps) == NUM_FRAMES and steps[0].motion is None
    assert [float(step.seconds) for step in steps] == pytest.approx([k / 25 for k in range(NUM_FRAMES)], abs=0.05)
    for number, step in enumerate(steps):
        assert step.stored_size == (128, 96)
        if step.motion is not None:
            assert np.median(step.motion, axis=(0, 1)) == pytest.approx(shift, abs=0.5), f"frame {number}"
            # The rest is at the border, where new parts of the texture come in.
            assert share_within_half_a_pixel(step.motion, shift) > 0.7, f"frame {number}"


@pytest.mark.parametrize("name", CODECS)
def test_still_pictures_do_not_move(tmp_path, name):
    toy.write_video(tmp_path / name, pan([(0, 0)] * 8), fps=25, codec=CODECS[name])
    steps = list(read_steps(tmp_path / name))
    assert len(steps) == 8
    moved = [np.abs(step.motion).max(axis=2) for step in steps if step.motion is not None]
    # At a low quality, H.264 improves a few blocks by looking for them elsewhere.
    assert moved and np.mean(moved) < 0.05 and (np.median(moved, axis=(1, 2)) == 0).all()


@pytest.mark.parametrize("codec", [(*H264, "-g", "250"), (*MPEG4, "-bf", "0", "-g", "250")], ids=["H.264", "MPEG-4"])
@pytest.mark.parametrize("shift", [(4, 0), (0, -4)])
def test_flow_of_a_moving_square_is_where_the_square_was(tmp_path, codec, shift):
    pictures, corners = moving_square(9, *shift)
    toy.write_video(tmp_path / "v.mp4", pictures, fps=25, codec=codec)
    for (left, top), step in zip(corners, list(read_steps(tmp_path / "v.mp4"))[1:], strict=False):
        if step.motion is None:
            continue  # the encoder begins again at the end
        flow = cv2.resize(to_flow(step.motion, step.stored_size, (176, 128)), (176, 128))
        inside = flow[top + 12 : top + 36, left + 12 : left + 36]
        assert np.median(inside, axis=(0, 1)) == pytest.approx(shift, abs=0.5)
        outside = np.ones(flow.shape[:2], bool)
        outside[top - 20 : top + 68, left - 20 : left + 68] = False
        assert np.median(np.abs(flow[outside]), axis=0) == pytest.approx((0, 0), abs=0.1)


@pytest.mark.parametrize(
    ("name", "codec", "reason"),
    [
        ("v.webm", ("libvpx-vp9", "-deadline", "realtime"), "codec vp9"),
        ("v.mp4", ("libx265", "-preset", "ultrafast", "-x265-params", "log-level=none"), "codec hevc"),
        ("v.mkv", (*H264, "-g", "1"), "codec h264, and each frame is a picture of its own"),
        ("v.avi", ("mjpeg", "-pix_fmt", "yuvj420p"), "codec mjpeg, and each frame is a picture of its own"),
    ],
)
def test_what_has_no_vectors_is_named(tmp_path, name, codec, reason):
    toy.write_video(tmp_path / name, pan(steady(NUM_FRAMES, 2, 0)), fps=25, codec=codec)
    with pytest.raises(VideoError, match=f"^no motion vectors: {reason}$") as error:
        next(read_steps(tmp_path / name))
    assert error.value.kind == NO_VECTORS


def test_one_frame_is_no_video_without_vectors(tmp_path):
    toy.write_video(tmp_path / "v.mp4", pan([(0, 0)]), codec=H264)
    (step,) = read_steps(tmp_path / "v.mp4")
    assert step.motion is None


def test_a_cover_is_no_video(tmp_path):
    toy.write_video(tmp_path / "cover.mkv", pan([(0, 0)]))
    sound = ("-f", "lavfi", "-t", "1", "-i", "sine")
    cover = ("-map", "0", "-map", "1", "-c:v", "mjpeg", "-disposition:v", "attached_pic")
    run_ffmpeg(*sound, "-i", tmp_path / "cover.mkv", *cover, tmp_path / "v.m4a")
    with pytest.raises(VideoError, match="^no video stream$"):
        next(read_steps(tmp_path / "v.m4a"))


def test_a_codec_without_decoder_is_refused(tmp_path):
    toy.write_video(tmp_path / "v.mp4", pan([(0, 0)] * 3), codec=H264)
    (tmp_path / "v.mp4").write_bytes((tmp_path / "v.mp4").read_bytes().replace(b"avc1", b"zzzz"))
    with pytest.raises(VideoError, match="^FFmpeg has no decoder for its codec$"):
        next(read_steps(tmp_path / "v.mp4"))


def test_what_is_no_video_is_refused(tmp_path):
    (tmp_path / "text.mp4").write_text("no video" * 100)
    for name in ("text.mp4", "absent.mp4"):
        with pytest.raises(VideoError) as error:
            next(read_steps(tmp_path / name))
        assert error.value.kind != NO_VECTORS
