"""Encoded videos: complete under their name or not there at all."""

import numpy as np
import pytest

from tests.conftest import noise_image
from twostream.errors import EnvironmentFaultError
from twostream.video import encoder as module
from twostream.video.decoder import Decoder
from twostream.video.encoder import Encoder, VideoEncoding, check_h264_encoder, write_video
from twostream.video.ffmpeg import VideoError


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "avi"])
@pytest.mark.parametrize("shape", [(48, 64), (47, 63)], ids=["even", "odd"])
def test_frames_come_back(suffix, shape, tmp_path):
    frames = [np.roll(noise_image(height=shape[0], width=shape[1]), 2 * k, axis=1) for k in range(12)]
    write_video(tmp_path / f"a.{suffix}", frames, fps=12.5)
    decoder = Decoder(tmp_path / f"a.{suffix}")
    decoded = [frame[: shape[0], : shape[1]] for frame in decoder]
    assert len(decoded) == 12 and decoder.result.fps == 12.5
    assert np.abs(np.stack(decoded).astype(int) - np.stack(frames)).mean() < 12
    assert [path.name for path in tmp_path.iterdir()] == [f"a.{suffix}"]


def test_what_cannot_be_written_is_one_line_and_leaves_nothing(tmp_path):
    def broken():
        yield noise_image()
        raise RuntimeError("while encoding")

    for name, frames, error in [
        ("a.unknown", [noise_image()] * 3, EnvironmentFaultError),
        ("no/folder/a.mp4", [noise_image()] * 3, EnvironmentFaultError),
        ("b.mp4", broken(), RuntimeError),
        ("c.mp4", [], ValueError),
    ]:
        with pytest.raises(error) as raised:
            write_video(tmp_path / name, frames, fps=25)
        assert "\n" not in str(raised.value)
        assert not list(tmp_path.iterdir())


def test_the_same_frames_give_the_same_file(tmp_path):
    for name in ("a.mp4", "b.mp4"):
        with Encoder(tmp_path / name, fps=25, options=VideoEncoding().options()) as encoder:
            for k in range(30):
                encoder.add(np.roll(noise_image(), k, axis=1))
            encoder.finish()
    assert (tmp_path / "a.mp4").read_bytes() == (tmp_path / "b.mp4").read_bytes()


def test_encoder_that_is_killed_is_not_the_fault_of_the_video(tmp_path):
    with Encoder(tmp_path / "a.mp4", fps=25) as encoder:
        encoder.add(noise_image())
        encoder._process.kill()
        with pytest.raises(VideoError, match="from outside") as raised:
            encoder.finish()
    assert raised.value.kind == "killed"


def test_ffmpeg_without_x264_is_named(tmp_path, monkeypatch):
    check_h264_encoder()
    ffmpeg = tmp_path / "ffmpeg"
    ffmpeg.write_text("#!/bin/sh\necho 'ffmpeg version 7.1-lgpl'\necho ' V....D libopenh264'\n")
    ffmpeg.chmod(0o755)
    monkeypatch.setattr(module, "find_ffmpeg", lambda: str(ffmpeg))
    with pytest.raises(EnvironmentFaultError, match="version 7.1-lgpl.*has no libx264.*pip install imageio-ffmpeg"):
        check_h264_encoder()


@pytest.mark.parametrize(
    "values, flag", [({"gop": 0}, "--gop is 0"), ({"crf": 52}, "--crf is 52"), ({"crf": -1}, "--crf")]
)
def test_wrong_settings_are_named(values, flag):
    with pytest.raises(ValueError, match=flag):
        VideoEncoding(**values)
