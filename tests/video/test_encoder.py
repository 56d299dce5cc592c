"""Encoded videos: complete under their name or not there at all."""

import numpy as np
import pytest

from tests.conftest import noise_image
from twostream.errors import EnvironmentFaultError
from twostream.video.decoder import Decoder
from twostream.video.encoder import write_video


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
