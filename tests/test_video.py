"""Decoding: every frame once, exact pixels, upright, damage told; bad files end with ffmpeg's reason."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests import toy
from tests.conftest import noise_image
from twostream import video
from twostream.errors import EnvironmentFaultError
from twostream.video import Decoder, VideoError, find_ffmpeg, find_videos


def pictures(num_frames: int = 20, *, height: int = 48, width: int = 64) -> np.ndarray:
    return np.stack([noise_image(seed, height=height, width=width) for seed in range(num_frames)])


def decode(path: Path, **keywords) -> tuple[np.ndarray, video.Decoded]:
    decoder = Decoder(path, **keywords)
    frames = np.stack(list(decoder))
    return frames, decoder.result


def ffmpeg(*words) -> None:
    subprocess.run([find_ffmpeg(), "-nostdin", "-loglevel", "error", "-y", *map(str, words)], check=True)


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
    ffmpeg("-i", tmp_path / "constant.mkv", *stamps, "-c:v", "ffv1", tmp_path / "variable.mkv")
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


@pytest.mark.parametrize(
    "name", ["with space", 'it\'s "quoted"', "-dash", "50%d", "a:b", "ünïcødé 測試", "[x]*?", "file,with;all&|$HOME"]
)
def test_odd_file_names(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    toy.write_video(tmp_path / f"{name}.mkv", pictures(2))
    assert len(decode(Path(f"{name}.mkv"))[0]) == 2  # a relative path, so that the name comes first


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


def _text(path: Path) -> None:
    path.write_text("this is no video\n" * 50)


def _audio(path: Path) -> None:
    ffmpeg("-f", "lavfi", "-i", "sine=duration=1", "-c:a", "aac", path)


def _cover_art(path: Path) -> None:
    toy.write_video(path.with_name("cover.mkv"), pictures(1))
    sources = ["-f", "lavfi", "-i", "sine=duration=1", "-i", path.with_name("cover.mkv")]
    ffmpeg(*sources, "-map", "0", "-map", "1", "-c:v", "mjpeg", "-disposition:v:0", "attached_pic", path)


def _cut_before_its_index(path: Path) -> None:
    toy.write_video(path, pictures(20), codec=("mpeg4",))
    path.write_bytes(path.read_bytes()[:2000])


@pytest.mark.parametrize(
    "make, reason",
    [
        (lambda path: path.write_bytes(b""), "0 bytes"),
        (lambda path: path.symlink_to("nowhere.mp4"), "no such file"),
        (_text, "."),  # ffmpeg's words differ between versions
        (_audio, "no video stream"),
        (_cover_art, "no video stream"),
        (_cut_before_its_index, "moov atom not found"),
    ],
    ids=["empty", "broken link", "text", "audio only", "cover art", "no index"],
)
def test_file_without_video_is_refused_with_the_reason(tmp_path, make, reason):
    make(tmp_path / "v.mp4")
    with pytest.raises(VideoError, match=reason):
        list(Decoder(tmp_path / "v.mp4"))


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


@pytest.mark.parametrize("pair", [("a/x.mp4", "b/x.mp4"), ("x.mp4", "x.avi")])
def test_two_videos_of_one_id_are_both_named(tmp_path, pair):
    for name in pair:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("")
    with pytest.raises(ValueError, match="same id 'x'") as caught:
        find_videos(tmp_path)
    assert all(str(tmp_path / name) in str(caught.value) for name in pair)
