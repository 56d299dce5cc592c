"""Videos with labels: as long as the original, the picture unchanged below the labels."""

import numpy as np
import pytest

from tests import toy
from tests.inference.samples import make_run
from twostream.display.annotated_video import draw, write_annotated
from twostream.errors import BadInputError
from twostream.inference.export import recognizer_of_runs
from twostream.inference.sources import Pictures, VideoFile
from twostream.video.decoder import Decoder


@pytest.mark.parametrize("kind", ["prediction", "timeline"])
def test_labels_are_drawn_over_the_whole_video(kind, tmp_path):
    recognizer = recognizer_of_runs([make_run(tmp_path, "rgb")])
    toy.write_video(tmp_path / "a.mkv", toy.frames(1, "red", "left"))
    source = VideoFile(tmp_path / "a.mkv")
    answer = recognizer.predict(source) if kind == "prediction" else recognizer.timeline(source)
    write_annotated(tmp_path / "out.mp4", source, answer, threshold=0)
    decoder = Decoder(tmp_path / "out.mp4")
    drawn, original = np.stack(list(decoder)), toy.frames(1, "red", "left")
    assert drawn.shape == original.shape and decoder.result.fps == 15
    difference = np.abs(drawn.astype(int) - original).mean(axis=(0, 3))
    assert difference[2:10, 2:30].mean() > 20 > difference[64:].mean()


@pytest.mark.parametrize("kind", ["prediction", "timeline"])
def test_a_recognizer_at_another_rate_leaves_the_rate_as_it_is(kind, tmp_path):
    """At 2 frames a second it sees 2 s of 2.2 s; what it says of the end is drawn to the last frame."""
    frames = {"short_side": 96, "fps": 2, "quality": 90}
    recognizer = recognizer_of_runs([make_run(tmp_path, "rgb", frames=frames)])
    pictures = toy.frames(1, "red", "left")
    toy.write_video(tmp_path / "a.mkv", pictures)
    source = VideoFile(tmp_path / "a.mkv")
    answer = recognizer.predict(source) if kind == "prediction" else recognizer.timeline(source)
    assert answer.seconds == 2 and len(pictures) / 15 == 2.2
    write_annotated(tmp_path / "out.mp4", source, answer, threshold=0)
    decoder = Decoder(tmp_path / "out.mp4")
    drawn = np.stack(list(decoder))
    assert len(drawn) == len(pictures) and decoder.result.fps == 15
    difference = np.abs(drawn.astype(int) - pictures)
    assert difference[:, 64:].mean() < 5, "each frame is the one that the video has there"
    assert difference[:, 2:10, 2:30].mean(axis=(1, 2, 3)).min() > 20, "each has its label"


def test_letters_of_any_script_are_drawn():
    assert draw(np.full((120, 160, 3), 90, np.uint8), ["größer", "跳"]).shape == (120, 160, 3)


def test_a_rate_is_needed(tmp_path):
    recognizer = recognizer_of_runs([make_run(tmp_path, "rgb")])
    source = Pictures("frames", toy.frames(1, "red", "left"))
    with pytest.raises(BadInputError, match="--fps"):
        write_annotated(tmp_path / "out.mp4", source, recognizer.predict(source))
