"""What a folder of videos allows: measured on real files, so the tests look at what was read, never at how fast."""

import pytest

from tests import toy
from tests.video.samples import numbered_pictures
from twostream.preparation import reading_rate
from twostream.preparation.reading_rate import Rate, ReadingRates, measure_rates

pytest.importorskip("av")


def write(folder, name, *, num_frames=40, gop=10):
    codec = ("libx264", "-preset", "ultrafast", "-pix_fmt", "yuv420p", "-g", str(gop), "-x264-params", "scenecut=0")
    toy.write_video(folder / name, numbered_pictures(num_frames), codec=codec)
    return folder / name


def test_sample_is_read_and_compared(tmp_path):
    paths = [write(tmp_path, f"{k}.mp4") for k in range(2)] + [write(tmp_path, "short.mp4", num_frames=5)]
    (tmp_path / "bad.mp4").write_text("no video")
    rates = measure_rates([*paths, tmp_path / "bad.mp4"], short_side=0, compare=True)
    assert (rates.num_measured, rates.mean_frames) == (3, 85 / 3)
    assert rates.gop == 85 / 9  # four groups, four, and one
    assert rates.videos.frame_bytes == sum(path.stat().st_size for path in paths) / 85
    for rate in (rates.videos, rates.encoded, rates.images):
        assert 0 < rate.clips <= rate.frames and rate.frame_bytes > 0
    assert measure_rates(paths, short_side=0).images is None


def test_sample_is_bounded(tmp_path, monkeypatch):
    paths = [write(tmp_path, f"{k}.mp4", num_frames=20) for k in range(3)]
    monkeypatch.setattr(reading_rate, "NUM_VIDEOS", 2)
    assert measure_rates(paths, short_side=0).num_measured == 2
    monkeypatch.setattr(reading_rate, "PATIENCE_SECONDS", -1)
    assert measure_rates(paths, short_side=0).num_measured == 1


def test_nothing_to_read(tmp_path):
    (tmp_path / "bad.mp4").write_text("no video")
    assert measure_rates([], short_side=0) is None
    assert measure_rates([tmp_path / "bad.mp4"], short_side=0) is None


def test_ffmpeg_without_an_encoder_costs_only_the_comparison(tmp_path, monkeypatch):
    def fail(*arguments, **keywords):
        raise OSError("no encoder")

    monkeypatch.setattr(reading_rate, "Encoder", fail)
    rates = measure_rates([write(tmp_path, "v.mp4")], short_side=0, compare=True)
    assert rates.encoded is None and rates.images


def test_text():
    rates = ReadingRates(4, 300.0, 250.0, Rate(12.04, 160.0, 1.0), None, None)
    assert rates.to_text(num_workers=8) == (
        "rate: a core reads 12 clips/s of 16 frames (193 pictures/s), or 160 single frames/s; a key frame every 250 frames\n"
        "rate: 8 workers feed batches of 32 clips at 3 iterations/s, of single frames at 40"
    )
