"""The pictures of the page: each frame at its time, in any order of requests, and flow for each of them."""

from dataclasses import replace

import numpy as np
import pytest

from tests import toy
from tests.labelling.conftest import write_videos
from tests.video.samples import numbered_pictures, numbers_of, run_ffmpeg
from twostream.flow.methods import FlowSettings
from twostream.frames.jpeg import decode_jpeg
from twostream.labelling.pictures import SHORT_SIDE, Facts, Pictures, colour_wheel, read_facts
from twostream.video.decoder import Decoder
from twostream.video.ffmpeg import VideoError


@pytest.fixture
def pictures():
    made = Pictures(FlowSettings("dis"))
    yield made
    made.close()


def shown_numbers(jpegs: list[bytes]) -> list[int]:
    frames = [decode_jpeg(jpeg, "rgb") for jpeg in jpegs]
    # The sides of the pictures are not multiples of the squares.
    return numbers_of([frame[: len(frame) // 3 * 3, : frame.shape[1] // 4 * 4] for frame in frames])


def test_chunks_hold_each_frame_once(tmp_path, pictures):
    """One after the other, and after jumps."""
    path = write_videos(tmp_path, "a.mkv", num_frames=50) / "a.mkv"
    facts = read_facts(path)
    assert facts == Facts(seconds=5.0, rate=10.0, chunk_len=20, flow_step=1)
    for chunk in (0, 1, 2, 2, 0, 2, 1):
        assert shown_numbers(pictures.rgb(path, facts, chunk)) == list(range(20 * chunk, min(20 * chunk + 20, 50)))
    assert len(pictures.flow_colours(path, facts, 2)) == 10


def test_fast_videos_are_thinned(tmp_path, pictures):
    path = tmp_path / "a.mp4"
    toy.write_video(path, numbered_pictures(180), fps=60, codec=("libx264", "-crf", "1", "-pix_fmt", "yuv420p"))
    facts = read_facts(path)
    assert (facts.rate, facts.chunk_len, facts.flow_step) == (30.0, 60, 3)
    after_a_jump = shown_numbers(pictures.rgb(path, facts, 1))
    numbers = shown_numbers(pictures.rgb(path, facts, 0))
    assert np.diff(numbers + after_a_jump).tolist() == [2] * 89
    assert len(pictures.flow_colours(path, facts, 0)) == 20


SOUND = ("-f", "lavfi", "-i", "sine=duration=9.9", "-c:a", "pcm_s16le")
X264 = ("-c:v", "libx264", "-crf", "1", "-pix_fmt", "yuv420p", "-g", "25")
HOLE = ("-vf", "select='not(between(n,30,54))'", "-fps_mode", "passthrough")  # a screen that stays as it is for 2.5 s


@pytest.mark.parametrize(
    ("name", "late_seconds", "options"),
    [
        ("late.mp4", 1.0, (*SOUND, "-c:a", "aac", *X264)),
        ("later.mkv", 2.5, (*SOUND, *X264)),
        ("late_hole.mp4", 1.0, (*SOUND, "-c:a", "aac", *HOLE, *X264)),
        ("hole.mp4", 0.0, (*HOLE, *X264)),
        ("hole.mkv", 0.0, (*HOLE, *X264)),
        ("b_frames.avi", 0.1, ("-c:v", "mpeg4", "-q:v", "1", "-bf", "2")),  # it says when frames are decoded, not shown
    ],
)
def test_pictures_are_shown_at_the_times_at_which_segments_are_cut(tmp_path, pictures, name, late_seconds, options):
    """Played, or after a jump: also if the picture begins later than the sound, or has a variable rate."""
    plain, path = write_videos(tmp_path, "plain.mkv", num_frames=80) / "plain.mkv", tmp_path / name
    late = ("-itsoffset", late_seconds) if SOUND[0] in options else ()
    run_ffmpeg(*late, "-i", plain, *options, path)
    facts = replace(read_facts(path), rate=10.0, chunk_len=20)
    assert facts.first_seconds == pytest.approx(late_seconds, abs=0.001)

    there = [k for k in range(80) if HOLE[1] not in options or not 30 <= k <= 54]
    first = round(10 * late_seconds)
    expected = [max([k for k in there if k <= slot - first], default=0) for slot in range(80 + first)]
    played = [shown_numbers(pictures.rgb(path, facts, chunk)) for chunk in range(4)]
    assert sum(played, []) == expected[:80]
    for chunk in (2, 1, 3, 0):
        assert shown_numbers(pictures.rgb(path, facts, chunk)) == played[chunk]
        pictures._chunks.clear()

    for start, end in ((20, 27), (30, 58), (46, 70)):
        cut = numbers_of(Decoder(path, start_seconds=start / 10, end_seconds=end / 10))
        assert cut == sorted(set(expected[start:end]) - ({expected[start - 1]} if start > first else set()))


def test_duration_without_a_header_that_says_it(tmp_path):
    """As browsers and telephones record while they stream."""
    write_videos(tmp_path, "a.mkv")
    run_ffmpeg("-i", tmp_path / "a.mkv", "-c", "copy", "-live", "1", "-f", "matroska", tmp_path / "live.mkv")
    assert read_facts(tmp_path / "live.mkv").seconds == pytest.approx(2.5, abs=0.15)


def test_flow_is_shown_by_the_colour_of_its_direction(tmp_path, pictures):
    """A texture that moves to the right is red, one that moves to the left cyan."""
    for direction, is_red in (("right", True), ("left", False)):
        path = tmp_path / f"{direction}.mkv"
        toy.write_video(path, toy.frames(0, "red", direction))
        colours = decode_jpeg(pictures.flow_colours(path, read_facts(path), 0)[3], "rgb").reshape(-1, 3).astype(int)
        moving = colours[np.ptp(colours, axis=1) > 60]
        assert len(moving) > 5000 and (np.median(moving[:, 0] - moving[:, 1:].mean(axis=1)) > 0) == is_red


def test_the_wheel_shows_the_same_colours():
    wheel = decode_jpeg(colour_wheel(64), "rgb").astype(int)
    assert wheel[32, 58, 0] > wheel[32, 58, 1:].max() + 60  # right is red
    assert wheel[32, 5, 0] < wheel[32, 5, 1:].min() - 60  # left is cyan
    assert wheel[31:33, 31:33].min() > 200 and wheel[0, 0].min() > 220


def test_what_cannot_be_shown_is_said(tmp_path, pictures):
    (tmp_path / "bad.mp4").write_bytes(b"nothing" * 99)
    with pytest.raises(VideoError):
        read_facts(tmp_path / "bad.mp4")
    path = write_videos(tmp_path, "a.mkv") / "a.mkv"
    facts = read_facts(path)
    with pytest.raises(VideoError):
        pictures.rgb(path, facts, 9)
    assert len(pictures.rgb(path, facts, 1)) == 5  # and the next request is answered
    assert decode_jpeg(pictures.rgb(path, facts, 1)[0], "rgb").shape[0] == SHORT_SIDE
