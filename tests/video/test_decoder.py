"""Decoding: every frame once, exact pixels, upright; damage is reported, and bad files end with a reason and a kind.

A corpus of damaged files is made by tests/damage.py.
"""

import collections
import re
import struct
import subprocess
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from tests import damage, toy
from tests.video.samples import decode, numbered_pictures, numbers_of, pictures, run_ffmpeg
from twostream.video.decoder import Decoder, probe
from twostream.video.ffmpeg import FAULT_KINDS, VideoError, find_ffmpeg
from twostream.video.ffmpeg_log import VideoHeader

# ------------------------------------------------------------------------------------------------ frames, pixels


@pytest.mark.parametrize("num_frames", [1, 2, 20])
def test_lossless_video_comes_back_pixel_by_pixel(tmp_path, num_frames):
    truth = pictures(num_frames)
    toy.write_video(tmp_path / "v.mkv", truth, fps=15)
    frames, result = decode(tmp_path / "v.mkv")
    np.testing.assert_array_equal(frames, truth)
    assert (result.num_frames, result.fps, result.damage) == (num_frames, 15, "")
    assert result.declared_seconds == pytest.approx(num_frames / 15, abs=0.01)  # ffmpeg prints hundredths


# Bursts of five frames at 50 per second with pauses of half a second; in ticks of 1/15 s, some share a time stamp.
@pytest.mark.parametrize("tick", ["1:1000", "1:15"], ids=["different stamps", "shared stamps"])
def test_variable_rate_video_gives_every_frame_once(tmp_path, tick):
    truth = pictures(20)
    toy.write_video(tmp_path / "constant.mkv", truth)
    stamps = ["-vf", "setpts=(N*0.02+0.5*floor(N/5))/TB", "-fps_mode", "passthrough", "-enc_time_base", tick]
    run_ffmpeg("-i", tmp_path / "constant.mkv", *stamps, "-c:v", "ffv1", tmp_path / "variable.mkv")
    frames, result = decode(tmp_path / "variable.mkv")
    np.testing.assert_array_equal(frames, truth)
    assert result.damage == ""


TELEVISION = ["12000/1001", "15000/1001", "24000/1001", "30000/1001", "48000/1001", "60000/1001", "120000/1001"]


@pytest.mark.parametrize("rate", [*TELEVISION, "12", "23.9", "25", "30", "50", "60"])
def test_rates_of_television_are_exact(tmp_path, rate):
    """ffmpeg prints hundredths: 23.98 is 0.6 s off after an hour."""
    toy.write_video(tmp_path / "v.mp4", pictures(3), fps=rate, codec=("mpeg4",))
    expected = float(Fraction(rate))
    assert probe(tmp_path / "v.mp4").fps == pytest.approx(expected, rel=1e-9)
    assert decode(tmp_path / "v.mp4")[1].fps == pytest.approx(expected, abs=0.0005)


SOUND = ("-f", "lavfi", "-i", "sine=duration=4", "-c:a", "aac")


@pytest.mark.parametrize(
    ("suffix", "inputs", "options", "is_noted", "is_noted_at_a_rate"),
    [
        ("mp4", (), (), False, False),
        ("avi", (), ("-bf", "2"), False, False),
        ("mp4", SOUND, (), False, False),
        ("mp4", (), ("-vf", "select='not(between(n,20,39))'"), True, False),
        ("mkv", (), ("-vf", "select='not(between(n,20,39))'"), True, False),
        ("mp4", (), ("-vf", "select='lt(n,20)+not(mod(n,3))'"), True, False),
        ("mp4", (*SOUND, "-itsoffset", "1"), (), True, True),
    ],
)
def test_times_that_the_rate_does_not_tell_are_noted(tmp_path, suffix, inputs, options, is_noted, is_noted_at_a_rate):
    """A hole, a rate that falls, a picture that begins later than the sound. Frames at another rate have no holes."""
    toy.write_video(tmp_path / "plain.mkv", pictures(60), fps=10)
    path = tmp_path / f"v.{suffix}"
    run_ffmpeg(*inputs, "-i", tmp_path / "plain.mkv", *options, "-fps_mode", "passthrough", "-c:v", "mpeg4", path)
    for fps, expected in ((0, is_noted), (5, is_noted_at_a_rate)):
        notes = decode(path, fps=fps)[1].notes
        assert any("times are approximate" in note for note in notes) == expected, notes


@pytest.mark.parametrize("fps", [5, 15, 30])
def test_resampling_to_a_rate(tmp_path, fps):
    toy.write_video(tmp_path / "v.mkv", pictures(30), fps=15)  # two seconds
    frames, result = decode(tmp_path / "v.mkv", fps=fps)
    assert len(frames) == 2 * fps == result.num_frames
    assert result.fps == fps


@pytest.mark.parametrize(
    "width, height, short_side, expected",
    [
        (128, 96, 48, (64, 48)),
        (96, 128, 48, (48, 64)),
        (64, 64, 32, (32, 32)),
        (90, 70, 32, (42, 32)),  # 41.1, to an even number
        (64, 48, 96, (128, 96)),
        (65, 49, 0, (65, 49)),
    ],
)
def test_short_side_and_aspect(tmp_path, width, height, short_side, expected):
    toy.write_video(tmp_path / "v.mkv", pictures(2, height=height, width=width))
    frames, _ = decode(tmp_path / "v.mkv", short_side=short_side)
    assert frames.shape == (2, expected[1], expected[0], 3)


# QuickTime file format, track header: (x, y) is shown at (a x + c y, b x + d y), y down; so this turns clockwise.
@pytest.mark.parametrize(
    "turns, matrix", [(0, (1, 0, 0, 1)), (1, (0, 1, -1, 0)), (2, (-1, 0, 0, -1)), (3, (0, -1, 1, 0))]
)
def test_phone_videos_come_upright(tmp_path, turns, matrix):
    truth = pictures(2)
    path = tmp_path / "v.mov"
    toy.write_video(path, truth, codec=("png",))
    data = bytearray(path.read_bytes())
    start = data.index(b"tkhd") + 4 + 40
    a, b, c, d = (int(v * 65536).to_bytes(4, "big", signed=True) for v in matrix)
    data[start : start + 24] = a + b + bytes(4) + c + d + bytes(4)
    path.write_bytes(data)
    frames, _ = decode(path)
    np.testing.assert_array_equal(frames, np.rot90(truth, -turns, axes=(1, 2)))


def test_real_rotated_videos_are_one_picture(shared_data):
    upright, turned = (
        decode(shared_data / "robustness" / f"rotation_video_{angle}.mov", short_side=64)[0] for angle in (0, 180)
    )
    assert upright.shape == turned.shape
    for angle in (90, 270):
        frames, _ = decode(shared_data / "robustness" / f"rotation_video_{angle}.mov", short_side=64)
        assert frames.shape[1] > frames.shape[2], "a portrait video"


YUV = ("-preset", "ultrafast", "-pix_fmt")


@pytest.mark.parametrize(
    "suffix, codec, height, width",
    [
        ("mkv", ("ffv1",), 1, 1),
        ("mkv", ("ffv1",), 49, 65),
        ("mkv", ("ffv1", "-pix_fmt", "yuv420p"), 49, 65),
        ("mkv", ("ffv1", "-pix_fmt", "gray"), 48, 64),
        ("mkv", ("ffv1", "-pix_fmt", "gbrp16le"), 48, 64),
        ("mkv", ("ffv1", "-pix_fmt", "yuv444p12le"), 48, 64),
        ("mov", ("png", "-pix_fmt", "rgba64be"), 48, 64),
        ("mov", ("qtrle", "-pix_fmt", "argb"), 48, 64),
        ("mp4", ("libx264", *YUV, "yuv420p", "-flags", "+ildct+ilme", "-x264-params", "tff=1"), 48, 64),
        ("mp4", ("libx264", *YUV, "yuv444p"), 49, 65),
        ("mp4", ("libx264", *YUV, "yuv420p10le"), 48, 64),
        ("mp4", ("libx265", *YUV, "yuv420p10le", "-x265-params", "log-level=none"), 48, 64),
        ("webm", ("libvpx", "-pix_fmt", "yuva420p", "-auto-alt-ref", "0", "-deadline", "realtime"), 48, 64),
        ("gif", ("gif",), 48, 64),
    ],
)
@pytest.mark.parametrize("num_frames", [1, 12])
def test_odd_pictures(tmp_path, suffix, codec, height, width, num_frames):
    path = tmp_path / f"v.{suffix}"
    toy.write_video(path, pictures(num_frames, height=height, width=width), fps=10, codec=codec)
    frames, result = decode(path)
    assert frames.shape == (num_frames, height, width, 3) and result.damage == ""
    frames, _ = decode(path, short_side=32)
    assert len(frames) == num_frames and min(frames.shape[1:3]) == 32
    probed = probe(path)
    assert (probed.width, probed.height, probed.fps) == (width, height, 10)


def test_sizes_that_change_in_mid_video_are_noted(tmp_path):
    for name, height in (("a.ts", 48), ("b.ts", 96)):
        toy.write_video(tmp_path / name, pictures(10, height=height), fps=10, codec=("mpeg4", "-q:v", "2"))
    (tmp_path / "v.ts").write_bytes((tmp_path / "a.ts").read_bytes() + (tmp_path / "b.ts").read_bytes())
    frames, result = decode(tmp_path / "v.ts")
    assert frames.shape[1:3] == (48, 64) and "changes in mid-video, to 64x96" in result.notes[0]
    assert not any("changes" in note for note in decode(tmp_path / "a.ts")[1].notes)


# ----------------------------------------------------------------------------------------------------- segments

H264 = ("libx264", "-preset", "veryfast", "-pix_fmt", "yuv420p", "-bf", "3")
OPEN_GROUPS = "open-gop=1:scenecut=0"


@pytest.mark.parametrize(
    "suffix, codec",
    [
        ("mp4", (*H264, "-g", "250")),
        ("mp4", (*H264, "-g", "50", "-x264-params", OPEN_GROUPS)),
        ("mkv", (*H264, "-g", "30")),
        ("mkv", ("libx265", "-preset", "ultrafast", "-g", "50", "-x265-params", f"{OPEN_GROUPS}:log-level=none")),
        ("mkv", ("ffv1",)),
        ("webm", ("libvpx", "-g", "90", "-deadline", "realtime", "-pix_fmt", "yuv420p")),
        ("ts", (*H264, "-g", "30")),
        ("flv", ("flv1", "-q:v", "3")),
        ("avi", ("mpeg4", "-q:v", "3")),
        ("mpg", ("mpeg2video", "-bf", "2", "-q:v", "3")),
    ],
)
def test_segments_have_exactly_their_frames(tmp_path, suffix, codec):
    num_frames, rate = 250, 25  # 10 s; frame k is at 0.04 k s, on a whole millisecond
    path = tmp_path / f"v.{suffix}"
    toy.write_video(path, numbered_pictures(num_frames), fps=rate, codec=codec)
    for start, end in [(0, 1), (2, 3), (2.01, 4.69), (3.95, 4.05), (0.04, 0.08), (7.12, 7.16), (9.5, None), (5, 10)]:
        truth = [k for k in range(num_frames) if start <= k / rate < (end or 100)]
        frames, result = decode(path, start_seconds=start, end_seconds=end)
        assert (numbers_of(frames), result.damage) == (truth, ""), (start, end)
        seconds = min(end or 10, 10) - start
        assert result.declared_seconds == pytest.approx(seconds, abs=0.3)  # MPEG declares less, FLV more


def test_segment_of_a_variable_rate_video(tmp_path):
    toy.write_video(tmp_path / "constant.mkv", numbered_pictures(40))
    stamps = "setpts=(N*0.02+0.5*floor(N/5))/TB"  # bursts of five frames at 50 per second, half a second apart
    run_ffmpeg("-i", tmp_path / "constant.mkv", "-vf", stamps, "-fps_mode", "passthrough", "-enc_time_base", "1:1000",
           "-c:v", "libx264", "-g", "100", "-pix_fmt", "yuv420p", tmp_path / "v.mkv")  # fmt: skip
    times = [0.02 * k + 0.5 * (k // 5) for k in range(40)]
    for start, end in [(0.02, 0.62), (0.6, 1.26), (1.3, 2.0), (2.5, None)]:
        frames, _ = decode(tmp_path / "v.mkv", start_seconds=start, end_seconds=end)
        assert numbers_of(frames) == [k for k in range(40) if start - 1e-9 <= times[k] < (end or 100) - 1e-9]


def test_segment_at_another_rate_and_size(tmp_path):
    toy.write_video(tmp_path / "v.mkv", numbered_pictures(100), fps=10)
    decoder = Decoder(tmp_path / "v.mkv", start_seconds=3, end_seconds=5, fps=5, short_side=24)
    assert numbers_of(decoder) == list(range(30, 50, 2)) and decoder.result.fps == 5


def test_segment_outside_the_video(tmp_path):
    toy.write_video(tmp_path / "v.mkv", pictures(20), fps=2)
    with pytest.raises(VideoError, match="^segment 12 to 22 s, but the video ends at 10.0 s$") as caught:
        list(Decoder(tmp_path / "v.mkv", start_seconds=12, end_seconds=22))
    assert caught.value.kind == "beyond the end"
    frames, result = decode(tmp_path / "v.mkv", start_seconds=8, end_seconds=18)
    assert (len(frames), result.damage) == (4, "")
    assert result.notes == ("segment 8 to 18 s, but the video ends at 10.0 s",)
    for start, end in [(3, 3), (4, 3), (-1, 2)]:
        with pytest.raises(ValueError, match="0 <= start < end"):
            Decoder(tmp_path / "v.mkv", start_seconds=start, end_seconds=end)


def test_segments_of_a_cut_video(tmp_path):
    path = tmp_path / "v.mkv"
    toy.write_video(path, pictures(100), fps=10)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])  # ends near 5 s, declares 10
    frames, result = decode(path, start_seconds=1, end_seconds=4)
    assert (
        len(frames) == 30 and result.damage_kind != "cut short"
    )  # but ffmpeg may have read to the end, and complained
    assert decode(path, start_seconds=4, end_seconds=8)[1].damage_kind == "cut short"
    with pytest.raises(VideoError) as caught:
        list(Decoder(path, start_seconds=7, end_seconds=9))
    assert caught.value.kind in ("cut short", "damaged")


@pytest.mark.parametrize("angle, width, height", [(0, 568, 320), (90, 320, 568), (180, 568, 320), (270, 320, 568)])
def test_probe_reports_the_upright_size(shared_data, angle, width, height):
    probed = probe(shared_data / "robustness" / f"rotation_video_{angle}.mov")
    assert (probed.width, probed.height, probed.fps, probed.declared_seconds) == (width, height, 30, 0.1)


def test_probe_reads_the_header_only(tmp_path):
    path = tmp_path / "v.mp4"
    toy.write_video(path, pictures(100), fps=10, codec=("mpeg4", "-movflags", "+faststart"))
    path.write_bytes(path.read_bytes()[:5_000])
    header = VideoHeader(10.0, 10.0, 64, 48, "mov,mp4,m4a,3gp,3g2,mj2", stamps_per_second=10.0)
    assert probe(path) == header


# ------------------------------------------------------------------------------------------------------ damage


@pytest.mark.parametrize("share", [0.4, 0.9])
@pytest.mark.parametrize("suffix, options", [("mp4", ("-movflags", "+faststart")), ("mkv", ()), ("avi", ())])
def test_cut_file_differs_from_a_complete_one(tmp_path, suffix, options, share):
    path = tmp_path / f"v.{suffix}"
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (60, 48, 64, 3), np.uint8)  # large frames, so that they are cut and not the headers
    toy.write_video(path, noise, codec=("mpeg4", "-q:v", "3", *options))
    frames, result = decode(path)
    assert len(frames) == 60 and result.damage == ""
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    frames, result = decode(path)
    assert 0 < len(frames) < 60 and result.damage
    if share == 0.4 and suffix != "avi":  # without its index, an AVI file declares less
        read, declared = map(float, re.match(r"ends after (.*) s of the declared (.*) s", result.damage).groups())
        assert declared == 4.0 and read == pytest.approx(len(frames) / 15, abs=0.1)
        assert result.damage_kind == "cut short"


def check_corpus(folder: Path, *, count: int, seed: int) -> None:
    """No damaged file hangs or raises another exception; missing frames are almost never overlooked."""
    fates = collections.Counter()
    for mutant in damage.mutants(folder, count=count, seed=seed):
        decoder = Decoder(mutant.path, time_limit_seconds=60)
        try:
            num_frames = sum(1 for _ in decoder)
        except VideoError as error:
            assert str(error) and error.kind in FAULT_KINDS, mutant
            fates["refused"] += 1
            continue
        result = decoder.result
        assert num_frames == result.num_frames and bool(result.damage) == bool(result.damage_kind), mutant
        if result.damage:
            fates["damaged"] += 1
        elif num_frames == damage.NUM_FRAMES:  # the damaged bits do not matter to any decoder
            fates["whole"] += 1
        elif "cut" in mutant.description:  # nothing in the file says how long it was
            assert re.search("mpegts|fragmented", mutant.description), mutant
            assert "fragmented" in mutant.description or "no duration of its own" in result.notes[0], mutant
            fates["cut unseen"] += 1
        else:  # chunks of a container were lost or doubled without a trace
            assert abs(num_frames - damage.NUM_FRAMES) <= 0.15 * damage.NUM_FRAMES, mutant
            fates["hole unseen"] += 1
    print(dict(fates))
    assert (
        fates["whole"] <= 0.1 * count and fates["cut unseen"] <= 0.06 * count and fates["hole unseen"] <= 0.01 * count
    )


def test_damaged_videos(tmp_path):
    check_corpus(tmp_path, count=112, seed=0)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
def test_many_damaged_videos(tmp_path, seed):
    check_corpus(tmp_path, count=400, seed=seed)


def test_sources_of_the_damaged_videos_are_undamaged(tmp_path):
    for name, path in damage.sources(tmp_path).items():
        frames, result = decode(path)
        assert (len(frames), result.damage) == (damage.NUM_FRAMES, ""), name


# ------------------------------------------------------------------------------------------------- long videos


def test_long_videos_are_refused(tmp_path):
    toy.write_video(tmp_path / "short.mp4", numbered_pictures(100, height=12, width=16), fps=10, codec=("mpeg4",))
    path = tmp_path / "long.mp4"
    run_ffmpeg("-stream_loop", 3599, "-i", tmp_path / "short.mp4", "-c", "copy", path)
    assert probe(path).declared_seconds == pytest.approx(36_000, abs=1)
    with pytest.raises(VideoError, match="36000.0 s long, at most 600 s are allowed") as caught:
        next(iter(Decoder(path, max_seconds=600)))
    assert caught.value.kind == "too long"
    with pytest.raises(VideoError, match="20.0 s long, at most 15 s are allowed"):
        next(iter(Decoder(path, start_seconds=7200, end_seconds=7220, max_seconds=15)))
    frames, result = decode(path, start_seconds=7195, end_seconds=7205, max_seconds=15)
    assert numbers_of(frames) == [*range(50, 100), *range(50)] and result.damage == ""


def test_many_frames_in_order(tmp_path):
    toy.write_video(tmp_path / "short.mkv", numbered_pictures(4000, height=6, width=8), fps=100)
    run_ffmpeg("-stream_loop", 9, "-i", tmp_path / "short.mkv", "-c", "copy", tmp_path / "long.mkv")
    decoder = Decoder(tmp_path / "long.mkv")
    assert numbers_of(decoder) == 10 * list(range(4000)) and decoder.result.num_frames == 40_000


@pytest.mark.parametrize("declared", [None, 1.0])
def test_video_that_continues_after_its_declared_end(tmp_path, declared):
    path = tmp_path / "v.mkv"
    toy.write_video(path, pictures(100), fps=10)
    if declared:
        data = path.read_bytes()
        offset = data.index(b"\x44\x89\x88") + 3  # Matroska's Duration, in milliseconds
        assert struct.unpack(">d", data[offset : offset + 8]) == (10_000,)
        path.write_bytes(data[:offset] + struct.pack(">d", declared * 1000) + data[offset + 8 :])
    else:
        data = subprocess.run(
            [find_ffmpeg(), "-loglevel", "error", "-i", path, "-c", "copy", "-f", "matroska", "-live", "1", "pipe:1"],
            check=True, capture_output=True,
        ).stdout  # fmt: skip
        path.write_bytes(data)
    assert probe(path).declared_seconds == declared
    frames = []
    with pytest.raises(VideoError, match="continues after 3 s") as caught:
        for frame in Decoder(path, max_seconds=3):
            frames.append(frame)
    assert caught.value.kind == "too long" and len(frames) == 50
    frames, result = decode(path)
    assert len(frames) == 100
    assert declared or "no duration" in result.notes[0]


# Number of frames if the file is undamaged, as OpenCV counts them (the data's MANIFEST); else "damaged", or the error.
REAL_FILES = {
    "audio_only_tones.mp4": VideoError,
    "audio_with_cover_art_Owner-iTunes_9.0.3.15.mp4": VideoError,
    "av1_in_ivf_named_mp4_av1-1-b8-05-mv.mp4": 4,  # by its header; OpenCV cannot read it
    "corrupted.mp4": "damaged",
    "cut_half_9_2_2.avi": "damaged",
    "encrypted_mov-3elist-encrypted.mp4": VideoError,
    "five_frames_dts_5frames.mkv": 5,
    "flv_named_mp4_brokensps.mp4": "damaged",
    "fps1000_webm_named_mp4_RRSF49-short.mp4": "damaged",
    "gif_named_jpeg_tc217.jpeg": 173,
    "header_frames_gt_decoded_mov_stream_shorter_than_movie.mp4": 24,
    "hevc_10bit_200x200.mp4": 30,
    "matrixbench (1).mpg": 25,
    "name with spaces, ünïcødé 測試 & (1).avi": 172,
    "odd_bt709_full_range.mp4": 30,
    "rotated90_phone_sample-in-issue-505.mp4": 105,
    "rotation_video_0.mov": 3,
    "rotation_video_180.mov": 3,
    "rotation_video_270.mov": 3,
    "rotation_video_90.mov": 3,
    "size_change_midstream_frame_size_change.mp4": 300,
    "text_named_mp4.mp4": VideoError,
    "truncated_1242-small.mkv": "damaged",
    "truncated_white_zombie_scrunch-part.mp4": "damaged",
    "unordered.mov": 4,
    "vfr_truncated_hevc_two_first_slice.mp4": "damaged",
    "vfr_webcam_Subject4_Fall_02.mp4": 89,
    "zero_by_zero_dvbsubtest_filter.mp4": VideoError,
    "zero_length.mp4": VideoError,
}


@pytest.mark.parametrize("name", REAL_FILES)
def test_real_odd_files(shared_data, name):
    decoder = Decoder(shared_data / "robustness" / name, short_side=32)
    if REAL_FILES[name] is VideoError:
        with pytest.raises(VideoError):
            list(decoder)
        return
    shapes = [frame.shape for frame in decoder]
    assert len(set(shapes)) == 1 and decoder.result.num_frames == len(shapes)
    if REAL_FILES[name] == "damaged":
        assert decoder.result.damage
    else:
        assert (len(shapes), decoder.result.damage) == (REAL_FILES[name], "")


def test_table_lists_every_real_odd_file(shared_data):
    assert {path.name for path in (shared_data / "robustness").iterdir()} == set(REAL_FILES)
