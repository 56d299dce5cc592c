"""Looks at real files: headers, fingerprints of pictures, and the motion of known shifts."""

import cv2
import numpy as np
import pytest

from tests import toy
from twostream.own_clips.collection import Clip
from twostream.own_clips.looks import SAMPLE_BOUND, Look, fingerprint, look_at, sample_motion


def picture_of(seed: int) -> np.ndarray:
    """A picture with large shapes, uint8 (96, 128, 3)."""
    coarse = np.random.default_rng(seed).integers(0, 256, (7, 9, 3), np.uint8)
    return cv2.resize(coarse, (128, 96), interpolation=cv2.INTER_CUBIC)


def bits_apart(first: int, second: int) -> int:
    return (first ^ second).bit_count()


def test_copies_have_nearly_the_same_fingerprint():
    picture = picture_of(0)
    _, jpeg = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, 40])
    copies = [
        cv2.imdecode(jpeg, cv2.IMREAD_COLOR),
        cv2.resize(picture, (64, 48)),
        np.clip(picture * 0.9 + 10, 0, 255).astype(np.uint8),
    ]
    assert all(bits_apart(fingerprint(picture), fingerprint(copy)) <= 4 for copy in copies)
    others = [fingerprint(picture_of(seed)) for seed in range(1, 9)]
    assert all(bits_apart(fingerprint(picture), other) > 8 for other in others)


@pytest.mark.parametrize(
    "codec, name, seconds",
    [
        (("ffv1",), "declared.mkv", 2.0),
        (("ffv1", "-live", "1"), "streamed.mkv", 2.0),  # as browsers record, and as ffmpeg writes to a pipe
        (("libx264", "-f", "h264"), "bare.mp4", 0.0),  # pictures without times
    ],
)
def test_a_length_that_the_header_does_not_declare(tmp_path, codec, name, seconds):
    toy.write_video(tmp_path / name, np.stack([picture_of(seed) for seed in range(10)]), fps=5, codec=codec)
    (found,) = look_at([Clip("a", tmp_path / name, "x", None, "")]).values()
    assert found.seconds == pytest.approx(seconds, abs=0.05)
    (part,) = look_at([Clip("a", tmp_path / name, "x", None, "", (0.0, 0.5))]).values()
    assert part.seconds == 0.5


@pytest.mark.parametrize("speed", [1, 3])
def test_files(tmp_path, speed):
    """A portrait picture that moves by `speed` pixels a frame, and a file that is none."""
    texture = np.repeat(toy.texture(np.random.default_rng(0), 96)[..., None], 3, axis=2)
    path = tmp_path / "moving.mkv"
    toy.write_video(path, np.stack([texture[:, k * speed :][:, :64] for k in range(6)]), fps=10)
    (tmp_path / "broken.mkv").write_bytes(b"no video")
    clips = [Clip(name, tmp_path / name, "x", None, "") for name in ("moving.mkv", "broken.mkv")]
    looks = look_at(clips)
    assert not isinstance(looks["broken.mkv"], Look)
    found = looks["moving.mkv"]
    assert (found.fps, found.width, found.height) == (10, 64, 96) and found.seconds == pytest.approx(0.6, abs=0.05)
    sample = sample_motion(clips, fps=0, short_side=64)
    # x moves, y does not: each is half of the values.
    assert sample.motion.quantile(0.25) * SAMPLE_BOUND == pytest.approx(speed, abs=0.4)
    assert sample.seconds_per_frame > 0
    assert sample_motion(clips[1:], fps=0, short_side=64) is None
