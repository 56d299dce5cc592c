"""Motion between the frames that Decoder gives, whichever these are."""

from itertools import islice, pairwise

import cv2
import numpy as np
import pytest

from tests import toy
from tests.motion_vectors.moving import H264, MPEG4, pan
from tests.video.samples import numbered_pictures, numbers_of
from twostream.motion_vectors.kept_frames import read_kept
from twostream.video.decoder import Decoder

pytest.importorskip("av")

STEPS = (0, 1, 3, 0, 2, 4, 1)
PLACES = [(x - 36, 0) for x in np.cumsum([STEPS[k % len(STEPS)] for k in range(45)]).tolist()]
"""a texture that moves by a different number of pixels each time, and so tells which frames are kept"""

PICTURES = pan(PLACES, height=64, width=96)
GREEN = np.ascontiguousarray(PICTURES[:, ::2, ::2, 1])

STEADY = ("-bf", "0", "-sc_threshold", "0")
FILES = {
    "v.mp4": (*H264, *STEADY, "-crf", "10", "-g", "250"),
    "groups.mkv": (*H264, *STEADY, "-crf", "10", "-g", "9"),
    "v.avi": (*MPEG4, *STEADY, "-g", "250"),
    "v.ts": (*H264, *STEADY, "-crf", "10", "-g", "9"),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("kept")
    for name, codec in FILES.items():
        toy.write_video(folder / name, PICTURES, fps=25, codec=codec)
    return folder


@pytest.mark.parametrize(
    "part",
    [
        {},
        {"fps": 12.5},
        {"fps": 10},
        {"fps": 40},
        {"start_seconds": 0.4, "end_seconds": 1.2},
        {"start_seconds": 1.48},
        {"fps": 8, "start_seconds": 0.32, "end_seconds": 1.4},
    ],
    ids=str,
)
@pytest.mark.parametrize("name", FILES)
def test_motion_is_between_the_frames_that_the_decoder_gives(folder, name, part):
    frames = list(Decoder(folder / name, **part))
    numbers = [
        int(cv2.absdiff(GREEN, frame[None, ::2, ::2, 1].repeat(len(GREEN), axis=0)).mean(axis=(1, 2)).argmin())
        for frame in frames
    ]
    kept = list(islice(read_kept(folder / name, **part), len(frames) + (1 if "fps" not in part else 0)))
    assert len(kept) == len(frames)
    group = int(FILES[name][-1])
    for (before, number), step in zip(pairwise(numbers), kept[1:], strict=True):
        found = 0 if step.motion is None else np.median(step.motion[..., 0])
        if all(k % group for k in range(before + 1, number + 1)):  # key frames have no vectors
            assert found == pytest.approx(PLACES[number][0] - PLACES[before][0], abs=0.5), f"{before} to {number}"


@pytest.mark.parametrize("part", [{"fps": 10}, {"start_seconds": 0.2, "end_seconds": 0.6}], ids=str)
def test_frames_without_times_of_showing_are_kept_as_the_decoder_keeps_them(tmp_path, part):
    """AVI files have none, and those that are made up for B-frames go back."""
    path = tmp_path / "v.avi"
    toy.write_video(path, numbered_pictures(24), fps=25, codec=(*H264, "-preset", "medium", "-bf", "3"))
    expected = numbers_of(Decoder(path, **part))
    number_of = {step.stamp: number for number, step in enumerate(read_kept(path))}
    assert [number_of[step.stamp] for step in islice(read_kept(path, **part), len(expected))] == expected


def test_key_frames_move_as_the_frame_before(folder):
    steps = list(read_kept(folder / "groups.mkv"))
    assert steps[0].motion is None
    for k in range(9, len(steps), 9):
        np.testing.assert_array_equal(steps[k].motion, steps[k - 1].motion)
