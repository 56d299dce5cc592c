"""Decoding: every frame once, exact pixels, upright, damage told; bad files end with ffmpeg's reason and a kind.

No file may hang, flood or execute anything; a corpus of damaged ones is in tests/damage.py.
"""

import collections
import os
import pickle
import re
import signal
import socket
import struct
import subprocess
import sys
import time
import unicodedata
from pathlib import Path

import numpy as np
import pytest

from tests import damage, toy
from tests.conftest import noise_image
from twostream.errors import EnvironmentFaultError
from twostream.video import ffmpeg
from twostream.video.decoder import Decoded, Decoder, probe
from twostream.video.ffmpeg import FAULT_KINDS, VideoError, find_ffmpeg
from twostream.video.ids import find_videos, video_id_of


def pictures(num_frames: int = 20, *, height: int = 48, width: int = 64) -> np.ndarray:
    return np.stack([noise_image(seed, height=height, width=width) for seed in range(num_frames)])


def decode(path: Path, **keywords) -> tuple[np.ndarray, Decoded]:
    decoder = Decoder(path, **keywords)
    frames = np.stack(list(decoder))
    return frames, decoder.result


def run_ffmpeg(*words) -> None:
    subprocess.run([find_ffmpeg(), "-nostdin", "-loglevel", "error", "-y", *map(str, words)], check=True)


def numbered_pictures(num_frames: int, *, height: int = 48, width: int = 64) -> np.ndarray:
    """Pictures that say their number in twelve black or white squares, which every codec keeps."""
    bits = (np.arange(num_frames)[:, None] >> np.arange(12)) & 1
    squares = (bits.reshape(-1, 3, 4, 1) * np.full(3, 255)).astype(np.uint8)
    return squares.repeat(height // 3, axis=1).repeat(width // 4, axis=2)


def numbers_of(frames) -> list[int]:
    """Reads what `numbered_pictures` wrote."""
    numbers = []
    for frame in frames:
        height, width = frame.shape[:2]
        bits = frame.reshape(3, height // 3, 4, width // 4, 3).mean(axis=(1, 3, 4)) > 127
        numbers.append(int((bits.reshape(-1) << np.arange(12)).sum()))
    return numbers


# ------------------------------------------------------------------------------------------------ frames, pixels


@pytest.mark.parametrize("num_frames", [1, 2, 20])
def test_lossless_video_comes_back_pixel_by_pixel(tmp_path, num_frames):
    truth = pictures(num_frames)
    toy.write_video(tmp_path / "v.mkv", truth, fps=15)
    frames, result = decode(tmp_path / "v.mkv")
    np.testing.assert_array_equal(frames, truth)
    assert (result.num_frames, result.fps, result.damage) == (num_frames, 15, "")
    assert result.declared_seconds == pytest.approx(num_frames / 15, abs=0.01)  # ffmpeg prints hundredths


# Bursts of five frames at 50 per second with pauses of half a second; in ticks of 1/15 s some stamps are the same.
@pytest.mark.parametrize("tick", ["1:1000", "1:15"], ids=["own stamps", "shared stamps"])
def test_variable_rate_video_gives_every_frame_once(tmp_path, tick):
    truth = pictures(20)
    toy.write_video(tmp_path / "constant.mkv", truth)
    stamps = ["-vf", "setpts=(N*0.02+0.5*floor(N/5))/TB", "-fps_mode", "passthrough", "-enc_time_base", tick]
    run_ffmpeg("-i", tmp_path / "constant.mkv", *stamps, "-c:v", "ffv1", tmp_path / "variable.mkv")
    frames, result = decode(tmp_path / "variable.mkv")
    np.testing.assert_array_equal(frames, truth)
    assert result.damage == ""


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


NAMES = [
    *(
        "with space",
        " leading",
        "trailing ",
        "trailing dot.",
        "two.dots",
        "-dash",
        "--",
        "-i",
        "~",
        "#1",
        "50%d",
        "%05d",
    ),
    *(
        "it's",
        '"quoted"',
        "[x]*?",
        "{a,b}",
        "<in>",
        "a:b",
        "file:x",
        "http://x".replace("/", ""),
        "pipe:0",
        "concat:a|b",
    ),
    *(
        "new\nline",
        "log\n[error] forged",
        "log\r\n[info]   Duration: 99:00:00.00",
        "tab\t",
        "\x01\x1b[31mred",
        "back\\slash",
    ),
    *("a;touch MARKER;", "$(touch MARKER)", "`touch MARKER`", "&touch MARKER&", "|touch MARKER", "$HOME", "@x", "x=y"),
    *("測試", unicodedata.normalize("NFC", "ünïcødé"), unicodedata.normalize("NFD", "ünïcødé"), "\u202egnp", "🎬"),
    *("Twin", "tWIN", os.fsdecode(b"latin-1 \xe9"), os.fsdecode(b"\xff\xfe"), "n" * 251, "é" * 125),
]


def test_all_file_names_decode_and_none_is_executed(tmp_path, monkeypatch):
    folder = tmp_path / "videos of $(touch MARKER)"
    toy.write_video(tmp_path / "v.mkv", pictures(2), fps=2)
    folder.mkdir()
    monkeypatch.chdir(folder)
    for name in NAMES:
        os.link(tmp_path / "v.mkv", f"{name}.mkv")
    videos, others = find_videos(folder)
    assert set(videos) == set(NAMES) and others == 0
    for name in NAMES:
        for path in (videos[name], Path(f"{name}.mkv")):  # the second is relative, so that the name comes first
            frames, result = decode(path)
            assert len(frames) == 2 and (result.damage, result.declared_seconds) == ("", 1.0), repr(name)
    assert not list(tmp_path.rglob("MARKER*")) and len(os.listdir(folder)) == len(NAMES)


def test_long_paths(tmp_path):
    folder = tmp_path.joinpath(*["f" * 200] * 8)  # ffmpeg's log lines end after 1,023 characters
    toy.write_video(tmp_path / "v.mkv", pictures(2), fps=2)
    folder.mkdir(parents=True)
    os.link(tmp_path / "v.mkv", folder / "v.mkv")
    assert decode(folder / "v.mkv")[1].declared_seconds == 1


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
    assert len(frames) == 30 and result.damage_kind != "cut short"  # ffmpeg may have read on to the end, and complain
    assert decode(path, start_seconds=4, end_seconds=8)[1].damage_kind == "cut short"
    with pytest.raises(VideoError) as caught:
        list(Decoder(path, start_seconds=7, end_seconds=9))
    assert caught.value.kind in ("cut short", "damaged")


@pytest.mark.parametrize("angle, width, height", [(0, 568, 320), (90, 320, 568), (180, 568, 320), (270, 320, 568)])
def test_probe_says_the_upright_size(shared_data, angle, width, height):
    probed = probe(shared_data / "robustness" / f"rotation_video_{angle}.mov")
    assert (probed.width, probed.height, probed.fps, probed.declared_seconds) == (width, height, 30, 0.1)


def test_probe_reads_the_header_only(tmp_path):
    path = tmp_path / "v.mp4"
    toy.write_video(path, pictures(100), fps=10, codec=("mpeg4", "-movflags", "+faststart"))
    path.write_bytes(path.read_bytes()[:5_000])
    assert probe(path) == ffmpeg.Probed(10.0, 10.0, 64, 48, "mov,mp4,m4a,3gp,3g2,mj2")


# ------------------------------------------------------------------------------------------------------ damage


@pytest.mark.parametrize("share", [0.4, 0.9])
@pytest.mark.parametrize("suffix, options", [("mp4", ("-movflags", "+faststart")), ("mkv", ()), ("avi", ())])
def test_cut_file_is_told_from_a_whole_one(tmp_path, suffix, options, share):
    path = tmp_path / f"v.{suffix}"
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (60, 48, 64, 3), np.uint8)  # so that the frames, not the headers, are what is cut
    toy.write_video(path, noise, codec=("mpeg4", "-q:v", "3", *options))
    frames, result = decode(path)
    assert len(frames) == 60 and result.damage == ""
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    frames, result = decode(path)
    assert 0 < len(frames) < 60 and result.damage
    if share == 0.4 and suffix != "avi":  # without its index an AVI file declares less
        read, declared = map(float, re.match(r"ends after (.*) s, declared are (.*) s", result.damage).groups())
        assert declared == 4.0 and read == pytest.approx(len(frames) / 15, abs=0.1)
        assert result.damage_kind == "cut short"


def check_corpus(folder: Path, *, count: int, seed: int) -> None:
    """No damaged file hangs or ends in another exception; next to none with frames missing is taken for a whole one."""
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
        elif num_frames == damage.NUM_FRAMES:  # bits that no decoder misses
            fates["whole"] += 1
        elif "cut" in mutant.description:  # where nothing in the file says how much there was
            assert re.search("mpegts|fragmented", mutant.description), mutant
            assert "fragmented" in mutant.description or "no duration of its own" in result.notes[0], mutant
            fates["cut unseen"] += 1
        else:  # chunks of a container that fell out or came twice, without a trace
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


def test_sound_sources_of_the_damaged_videos(tmp_path):
    for name, path in damage.sources(tmp_path).items():
        frames, result = decode(path)
        assert (len(frames), result.damage) == (damage.NUM_FRAMES, ""), name


def _text(path: Path) -> None:
    path.write_text("this is no video\n" * 50)


def _audio(path: Path) -> None:
    run_ffmpeg("-f", "lavfi", "-i", "sine=duration=1", "-c:a", "aac", path)


def _cover_art(path: Path) -> None:
    toy.write_video(path.with_name("cover.mkv"), pictures(1))
    sources = ["-f", "lavfi", "-i", "sine=duration=1", "-i", path.with_name("cover.mkv")]
    run_ffmpeg(*sources, "-map", "0", "-map", "1", "-c:v", "mjpeg", "-disposition:v:0", "attached_pic", path)


def _cut_before_its_index(path: Path) -> None:
    toy.write_video(path, pictures(20), codec=("mpeg4",))
    path.write_bytes(path.read_bytes()[:2000])


def _gif_bomb(path: Path) -> None:
    toy.write_video(path.with_name("v.gif"), pictures(2), codec=("gif",))
    data = bytearray(path.with_name("v.gif").read_bytes())
    data[6:10] = struct.pack("<HH", 65535, 65535)
    path.write_bytes(data)


def _png_bomb(path: Path) -> None:
    toy.write_video(path.with_name("v.mov"), pictures(2), codec=("png",))
    data = path.with_name("v.mov").read_bytes()
    path.write_bytes(data.replace(b"IHDR" + struct.pack(">II", 64, 48), b"IHDR" + struct.pack(">II", 9000, 9000)))


def _wide_picture(path: Path) -> None:
    toy.write_video(path.with_name("v.mkv"), np.zeros((1, 1, 20_000, 3), np.uint8))
    path.with_name("v.mkv").rename(path)


def _socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(os.path.relpath(path))  # its address may have 107 bytes


@pytest.mark.parametrize(
    "make, reason, kind",
    [
        (lambda path: None, "no such file", "missing"),
        (lambda path: path.symlink_to("nowhere.mp4"), "no such file", "missing"),
        (lambda path: path.symlink_to("v.mp4"), "symbolic links", "unreadable"),
        (lambda path: path.write_bytes(b""), "0 bytes", "empty"),
        (lambda path: path.mkdir(), "not a regular file", "unreadable"),
        (os.mkfifo, "not a regular file", "unreadable"),
        (_socket, "not a regular file", "unreadable"),
        (lambda path: path.symlink_to("/dev/zero"), "not a regular file", "unreadable"),
        (_text, ".", "unreadable"),  # ffmpeg's words differ between versions
        (_audio, "no video stream", "no video"),
        (_cover_art, "no video stream", "no video"),
        (_cut_before_its_index, "moov atom not found", "unreadable"),
        (_gif_bomb, "65535x65535.* allowed are 37748736 pixels", "too large"),
        (_png_bomb, "9000x9000.* allowed are 37748736 pixels", "too large"),
        (_wide_picture, "allowed are 37748736 pixels", "too large"),  # when scaled to a height of 256
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_file_without_video_is_refused_with_the_reason(tmp_path, monkeypatch, make, reason, kind):
    monkeypatch.chdir(tmp_path)
    make(tmp_path / "v.mp4")
    with pytest.raises(VideoError, match=reason) as caught:
        list(Decoder(tmp_path / "v.mp4", short_side=256))
    assert caught.value.kind == kind
    if "pixels" not in reason:  # not all sizes stand in the header
        with pytest.raises(VideoError, match=reason) as caught:
            probe(tmp_path / "v.mp4")
        assert caught.value.kind == kind


def test_errors_travel_between_processes():
    for error in (VideoError("a reason", "cut short"), VideoError("a reason")):
        copy = pickle.loads(pickle.dumps(error))
        assert (str(copy), copy.kind) == ("a reason", error.kind) and copy.kind in FAULT_KINDS
    assert VideoError("a reason").kind == "damaged"


# ------------------------------------------------------------------------------------------------------- limits


@pytest.mark.parametrize(
    "codec, num_frames",
    [
        (("-c:v", "mjpeg"), 1),
        pytest.param(("-c:v", "libx265", "-pix_fmt", "yuv420p10le", "-preset", "fast"), 20, marks=pytest.mark.slow),
    ],
    ids=["JPEG", "HEVC of 10 bits"],
)
def test_largest_pictures_decode_within_the_limits(tmp_path, codec, num_frames):
    run_ffmpeg("-f", "lavfi", "-i", "color=size=8192x4608:rate=5", "-frames:v", num_frames, *codec, tmp_path / "v.mkv")
    assert [frame.shape for frame in Decoder(tmp_path / "v.mkv")] == num_frames * [(4608, 8192, 3)]


@pytest.mark.skipif(sys.platform != "linux", reason="limits of a running process are Linux's")
def test_memory_is_limited(tmp_path, monkeypatch):
    run_ffmpeg("-f", "lavfi", "-i", "color=size=8192x4608:rate=5:duration=0.4", "-c:v", "mjpeg", tmp_path / "v.mkv")
    monkeypatch.setattr(ffmpeg, "MAX_MEMORY_BYTES", 150 * 2**20)
    with pytest.raises(VideoError) as caught:
        list(Decoder(tmp_path / "v.mkv"))
    assert caught.value.kind != "time limit"


def use_program(monkeypatch, folder: Path, script: str) -> None:
    """Let a shell script be ffmpeg; it writes its process id first."""
    path = folder / "fake"
    path.write_text(f"#!/bin/sh\necho $$ > {folder}/pid\n{script}\n")
    path.chmod(0o755)
    monkeypatch.setattr(ffmpeg, "find_ffmpeg", lambda: str(path))
    (folder / "v.mp4").write_text("anything")


def is_running(pid: int) -> bool:
    status = Path(f"/proc/{pid}/stat")
    return status.exists() and status.read_text().rpartition(")")[2].split()[0] != "Z"


FRAME = r"printf 'P6\n2 1\n255\nabcdef'"


@pytest.mark.parametrize(
    "script, num_frames",
    [("exec sleep 600", 0), (f"{FRAME}; {FRAME}; exec sleep 600", 2), (f"{FRAME}; exec >&-; exec sleep 600", 1)],
    ids=["says nothing", "stops in mid-stream", "does not end"],
)
def test_hanging_ffmpeg_is_killed(tmp_path, monkeypatch, script, num_frames):
    use_program(monkeypatch, tmp_path, script)
    frames = []
    with pytest.raises(VideoError, match="waiting for ffmpeg") as caught:
        frames.extend(Decoder(tmp_path / "v.mp4", time_limit_seconds=0.5))
    assert caught.value.kind == "time limit"
    assert not is_running(int((tmp_path / "pid").read_text()))


def test_hanging_probe_is_killed(tmp_path, monkeypatch):
    use_program(monkeypatch, tmp_path, "exec sleep 600")
    with pytest.raises(VideoError) as caught:
        list(Decoder(tmp_path / "v.mp4", start_seconds=1, time_limit_seconds=0.5))
    assert caught.value.kind == "time limit"
    assert not is_running(int((tmp_path / "pid").read_text()))


def test_time_limit_grows_with_the_declared_duration(tmp_path, monkeypatch):
    header = "[info] Input #0, x, from 'file':\\n[info]   Duration: 00:00:00.05, start\\n[info]   Stream #0:0: Video: x, 2x1\\n"
    use_program(monkeypatch, tmp_path, f'printf "{header}" >&2; {FRAME}; exec sleep 600')
    with pytest.raises(VideoError, match="killed after 2 s"):  # 0.5 s and 30 times 0.05 s
        list(Decoder(tmp_path / "v.mp4", time_limit_seconds=0.5))


def test_time_of_the_caller_does_not_count(tmp_path, monkeypatch):
    toy.write_video(tmp_path / "v.mkv", pictures(20, height=480, width=640))  # more than the pipe holds
    real, late = time.monotonic, 0
    monkeypatch.setattr(time, "monotonic", lambda: real() + late)
    for _ in Decoder(tmp_path / "v.mkv"):
        late += 10_000


@pytest.mark.skipif(sys.platform != "linux", reason="limits of a running process are Linux's")
def test_what_ffmpeg_says_does_not_fill_the_disk(tmp_path, monkeypatch):
    monkeypatch.setattr(ffmpeg, "MAX_LOG_BYTES", 2**20)
    use_program(monkeypatch, tmp_path, "exec yes '[error] first words' >&2")
    with pytest.raises(VideoError, match="first words"):
        list(Decoder(tmp_path / "v.mp4"))


def test_torn_and_changed_pictures_end_the_video(tmp_path, monkeypatch):
    use_program(monkeypatch, tmp_path, f"{FRAME}; printf 'P6\\n1 1\\n255\\nabc'")
    with pytest.raises(VideoError, match="changed the size"):
        list(Decoder(tmp_path / "v.mp4"))
    use_program(monkeypatch, tmp_path, f"{FRAME}; printf 'P6\\n2 1\\n255\\nabc'; exit 3")
    frames, result = decode(tmp_path / "v.mp4")
    assert len(frames) == 1 and result.damage == "ffmpeg's exit code 3"


def test_ffmpeg_ends_with_its_parent(tmp_path):
    toy.write_video(tmp_path / "v.mkv", pictures(60, height=240, width=320))  # more than the pipe holds
    script = (
        "import subprocess, sys, time; from twostream.video.decoder import Decoder; real = subprocess.Popen\n"
        "def start(*words, **keywords):\n    process = real(*words, **keywords); print(process.pid); return process\n"
        "subprocess.Popen = start\n"
        "next(iter(frames := iter(Decoder(sys.argv[1])))); print('ready', flush=True); time.sleep(600)"
    )
    words = [sys.executable, "-c", script, str(tmp_path / "v.mkv")]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as parent:
        lines = []
        while "ready" not in lines:
            lines.append(parent.stdout.readline().strip())
        child = int(lines[-2])
        assert is_running(child)
        parent.send_signal(signal.SIGKILL)
        parent.stdout.close()
    deadline = time.monotonic() + 30
    while is_running(child):
        assert time.monotonic() < deadline, "ffmpeg lives on"
        time.sleep(0.02)


def test_long_videos_are_refused_when_asked(tmp_path):
    toy.write_video(tmp_path / "short.mp4", numbered_pictures(100, height=12, width=16), fps=10, codec=("mpeg4",))
    path = tmp_path / "long.mp4"
    run_ffmpeg("-stream_loop", 3599, "-i", tmp_path / "short.mp4", "-c", "copy", path)
    assert probe(path).declared_seconds == pytest.approx(36_000, abs=1)
    with pytest.raises(VideoError, match="36000.0 s long, allowed are 600 s") as caught:
        next(iter(Decoder(path, max_seconds=600)))
    assert caught.value.kind == "too long"
    with pytest.raises(VideoError, match="20.0 s long, allowed are 15 s"):
        next(iter(Decoder(path, start_seconds=7200, end_seconds=7220, max_seconds=15)))
    frames, result = decode(path, start_seconds=7195, end_seconds=7205, max_seconds=15)
    assert numbers_of(frames) == [*range(50, 100), *range(50)] and result.damage == ""


def test_many_frames_in_order(tmp_path):
    toy.write_video(tmp_path / "short.mkv", numbered_pictures(4000, height=6, width=8), fps=100)
    run_ffmpeg("-stream_loop", 9, "-i", tmp_path / "short.mkv", "-c", "copy", tmp_path / "long.mkv")
    decoder = Decoder(tmp_path / "long.mkv")
    assert numbers_of(decoder) == 10 * list(range(4000)) and decoder.result.num_frames == 40_000


@pytest.mark.parametrize("declared", [None, 1.0])
def test_video_that_goes_on_longer_than_it_says(tmp_path, declared):
    path = tmp_path / "v.mkv"
    toy.write_video(path, pictures(100), fps=10)
    if declared:
        data = path.read_bytes()
        place = data.index(b"\x44\x89\x88") + 3  # Matroska's Duration, in milliseconds
        assert struct.unpack(">d", data[place : place + 8]) == (10_000,)
        path.write_bytes(data[:place] + struct.pack(">d", declared * 1000) + data[place + 8 :])
    else:
        data = subprocess.run(
            [find_ffmpeg(), "-loglevel", "error", "-i", path, "-c", "copy", "-f", "matroska", "-live", "1", "pipe:1"],
            check=True, capture_output=True,
        ).stdout  # fmt: skip
        path.write_bytes(data)
    assert probe(path).declared_seconds == declared
    frames = []
    with pytest.raises(VideoError, match="goes on after 3 s") as caught:
        for frame in Decoder(path, max_seconds=3):
            frames.append(frame)
    assert caught.value.kind == "too long" and len(frames) == 50
    frames, result = decode(path)
    assert len(frames) == 100
    assert declared or "no duration" in result.notes[0]


@pytest.mark.parametrize(
    "playlist", ["#EXTM3U\n#EXTINF:1,\n{0}\n#EXT-X-ENDLIST\n", "ffconcat version 1.0\nfile '{0}'\n"]
)
def test_playlist_cannot_name_other_files_of_the_machine(tmp_path, playlist):
    toy.write_video(tmp_path / "secret.mkv", pictures(2))
    (tmp_path / "v.mp4").write_text(playlist.format("secret.mkv"))
    with pytest.raises(VideoError):
        list(Decoder(tmp_path / "v.mp4"))


def test_caller_may_stop_half_way(tmp_path):
    toy.write_video(tmp_path / "v.mkv", pictures(20))
    frames = iter(Decoder(tmp_path / "v.mkv"))
    next(frames)
    frames.close()  # a process left behind is a ResourceWarning, which is an error here


# Frames where the whole file is sound, as OpenCV counts them (the data's MANIFEST); else "damaged", or the reason.
REAL_FILES = {
    "audio_only_tones.mp4": VideoError,
    "audio_with_cover_art_Owner-iTunes_9.0.3.15.mp4": VideoError,
    "av1_in_ivf_named_mp4_av1-1-b8-05-mv.mp4": 4,  # by its header; OpenCV reads none
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


def test_table_has_every_real_odd_file(shared_data):
    assert {path.name for path in (shared_data / "robustness").iterdir()} == set(REAL_FILES)


# ---------------------------------------------------------------------------------------------- finding things


@pytest.fixture
def fresh_search():
    """Forget the ffmpeg that was found, before and after."""
    find_ffmpeg.cache_clear()
    yield
    find_ffmpeg.cache_clear()


def fake_ffmpeg(folder: Path, prints: str) -> Path:
    path = folder / "ffmpeg"
    path.write_text(f"#!/bin/sh\necho '{prints}'\n")
    path.chmod(0o755)
    return path


@pytest.mark.parametrize(
    "prints, taken",
    [
        ("ffmpeg version 3.4.11-0ubuntu0.1 Copyright", False),
        ("ffmpeg version 5.0.3 Copyright", False),
        ("something else", False),
        ("ffmpeg version 5.1.6-0+deb12u1 Copyright", True),
        ("ffmpeg version n7.1 Copyright", True),
        ("ffmpeg version 10.0-static Copyright", True),
        ("ffmpeg version N-109542-g2b4ef4e Copyright", True),
    ],
)
def test_ffmpeg_on_path_is_preferred_when_new_enough(tmp_path, monkeypatch, fresh_search, prints, taken):
    fake = fake_ffmpeg(tmp_path, prints)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", "/brought/by/pip")
    assert find_ffmpeg() == (str(fake) if taken else "/brought/by/pip")


def test_no_ffmpeg_at_all_says_what_to_install(tmp_path, monkeypatch, fresh_search):
    fake_ffmpeg(tmp_path, "ffmpeg version 3.4 Copyright")
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    with pytest.raises(EnvironmentFaultError, match="ffmpeg 3.4 on PATH, expected 5.1.*pip install"):
        find_ffmpeg()


def test_videos_are_found_at_any_depth_by_id(tmp_path):
    for name in ("b/x.MP4", "a/deep/y.avi", "z.mkv", "notes.txt", ".hidden.mp4", ".cache/w.mp4", "a/w.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
    videos, others = find_videos(tmp_path)
    assert list(videos) == ["x", "y", "z"] and others == 2
    assert list(find_videos(tmp_path, id_from="path")[0]) == ["a__deep__y", "b__x", "z"]


def test_links_are_followed_and_loops_end(tmp_path):
    root, elsewhere = tmp_path / "root", tmp_path / "elsewhere"
    for name in ("root/a/x.mp4", "elsewhere/y.mp4", "elsewhere/deep/z.mp4", "file.mp4"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
    (root / "0").symlink_to(elsewhere)
    (root / "again").symlink_to(elsewhere / "deep")
    (root / "0a").symlink_to(root / "a")  # comes before the real one by name
    (root / "a" / "loop").symlink_to(root)
    (elsewhere / "deep" / "loop").symlink_to("..")
    (root / "itself").symlink_to("itself")
    (root / "linked.mp4").symlink_to(tmp_path / "file.mp4")
    (root / "broken.mp4").symlink_to("nowhere")
    os.mkfifo(root / "pipe.mp4")
    videos, others = find_videos(root)
    assert {video_id: str(path.relative_to(root)) for video_id, path in videos.items()} == {
        "broken": "broken.mp4",
        "linked": "linked.mp4",
        "x": "a/x.mp4",
        "y": "0/y.mp4",
        "z": videos["z"].relative_to(root).as_posix(),  # by either link
    }
    assert others == 2  # the pipe, and the link to itself
    with pytest.raises(EnvironmentFaultError, match="cannot list the folder .*nothing"):
        find_videos(tmp_path / "nothing")
    (tmp_path / "link").symlink_to(root)
    assert list(find_videos(tmp_path / "link")[0]) == list(videos)


@pytest.mark.parametrize(
    "path, stem, long_id",
    [("x.mp4", "x", "x"), ("a/b.c/x.y.MP4", "x.y", "a__b.c__x.y"), ("a/no suffix", "no suffix", "a__no suffix")],
)
def test_ids(path, stem, long_id):
    assert video_id_of(Path(path), id_from="stem") == stem
    assert video_id_of(Path(path), id_from="path") == long_id


@pytest.mark.parametrize("pair", [("a/x.mp4", "b/x.mp4"), ("x.mp4", "x.avi")])
def test_two_videos_of_one_id_are_both_named(tmp_path, pair):
    for name in pair:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("")
    with pytest.raises(ValueError, match="same id 'x'") as caught:
        find_videos(tmp_path)
    assert all(str(tmp_path / name) in str(caught.value) for name in pair)
