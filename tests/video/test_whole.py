"""Whole or not: good videos whose file has an odd sound, start or stream are whole; lost frames are never overlooked.

The pictures show their numbers, so the frames that arrive are known.
"""

import struct
import subprocess
from pathlib import Path

import numpy as np
import pytest

from tests import toy
from tests.video.samples import decode, numbered_pictures, numbers_of, run_ffmpeg
from twostream.video.decoder import Decoder, probe
from twostream.video.ffmpeg import VideoError, find_ffmpeg

H264 = ("-c:v", "libx264", "-preset", "veryfast", "-pix_fmt", "yuv420p")
VP8 = ("-c:v", "libvpx", "-deadline", "realtime", "-pix_fmt", "yuv420p")
# suffix -> codecs of picture and sound
CODECS = {
    "mp4": (*H264, "-c:a", "aac"),
    "mov": (*H264, "-c:a", "pcm_s16le"),
    "mkv": (*H264, "-c:a", "libmp3lame"),
    "webm": (*VP8, "-c:a", "libvorbis"),
    "avi": ("-c:v", "mpeg4", "-q:v", "2", "-c:a", "libmp3lame"),
    "flv": ("-c:v", "flv1", "-q:v", "2", "-c:a", "libmp3lame"),
    "wmv": ("-c:v", "wmv2", "-q:v", "2", "-c:a", "wmav2"),
    "ts": (*H264, "-c:a", "aac"),
    "mpg": ("-c:v", "mpeg2video", "-q:v", "2", "-c:a", "mp2"),
}


@pytest.fixture(scope="module")
def silent(tmp_path_factory) -> Path:
    """30 numbered frames at 25 per second: 1.2 s; every 10th is a key frame."""
    path = tmp_path_factory.mktemp("silent") / "v.mp4"
    toy.write_video(
        path, numbered_pictures(30), fps=25, codec=("libx264", "-pix_fmt", "yuv420p", "-g", "10", "-bf", "0")
    )
    return path


def with_sound(path: Path, silent: Path, *, seconds: float) -> Path:
    sound = ["-f", "lavfi", "-t", seconds, "-i", "sine=330"]
    run_ffmpeg("-i", silent, *sound, *CODECS[path.suffix[1:]], path)
    return path


# ------------------------------------------------------------------------------------------ the end of the picture


@pytest.mark.parametrize("suffix", CODECS)
def test_sound_may_be_longer_than_the_picture(tmp_path, silent, suffix):
    path = with_sound(tmp_path / f"v.{suffix}", silent, seconds=4.5)
    frames, result = decode(path)
    assert (numbers_of(frames), result.damage) == (list(range(30)), "")
    frames, result = decode(path, start_seconds=0.4, end_seconds=3)
    # Where the sound begins before the picture, in AVI and WMV, time counts from the sound.
    assert numbers_of(frames) in (list(range(10, 30)), list(range(9, 30))) and result.damage == ""


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "avi"])
def test_a_cut_file_is_found_though_its_sound_was_longer(tmp_path, silent, suffix):
    path = tmp_path / f"v.{suffix}"
    noise = np.random.default_rng(0).integers(0, 256, (60, 48, 64, 3), np.uint8)
    toy.write_video(tmp_path / "noise.mkv", noise, fps=20)
    moved = ["-movflags", "+faststart"] if suffix == "mp4" else []
    sound = ["-f", "lavfi", "-t", 6, "-i", "sine=330"]
    run_ffmpeg("-i", tmp_path / "noise.mkv", *sound, *CODECS[suffix], *moved, path)
    assert decode(path)[1].damage == ""
    path.write_bytes(path.read_bytes()[: int(0.3 * path.stat().st_size)])
    frames, result = decode(path)
    assert len(frames) < 60 and result.damage


# ---------------------------------------------------------------------------------------- the start of the picture


@pytest.mark.parametrize("suffix", [*CODECS])
def test_time_stamps_need_not_start_at_zero(tmp_path, silent, suffix):
    path = tmp_path / f"v.{suffix}"
    run_ffmpeg("-i", silent, *CODECS[suffix], "-output_ts_offset", 5.3, path)
    frames, result = decode(path)
    assert (numbers_of(frames), result.damage) == (list(range(30)), "")
    if suffix in ("avi", "mpg"):  # AVI has no start but empty frames; MPEG-PS is not asked for its last time stamp
        return
    assert probe(path).declared_seconds == pytest.approx(1.2, abs=0.1)
    frames, _ = decode(path, start_seconds=0.4, end_seconds=0.8)
    assert numbers_of(frames) == list(range(10, 20))


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "mov"])
def test_a_cut_that_keeps_its_time_stamps(tmp_path, silent, suffix):
    path = tmp_path / f"v.{suffix}"
    run_ffmpeg("-ss", 0.8, "-i", silent, "-copyts", "-c", "copy", path)
    frames, result = decode(path)
    assert numbers_of(frames)[-10:] == list(range(20, 30)) and result.damage == ""


def test_a_missing_end_is_found_though_the_video_starts_late(tmp_path):
    toy.write_video(tmp_path / "v.mkv", numbered_pictures(100), fps=10)
    run_ffmpeg("-i", tmp_path / "v.mkv", "-c", "copy", "-output_ts_offset", 20, tmp_path / "late.mkv")
    data = (tmp_path / "late.mkv").read_bytes()
    (tmp_path / "late.mkv").write_bytes(data[: len(data) // 2])
    _, result = decode(tmp_path / "late.mkv")
    assert result.damage_kind == "cut short" and "of the declared 10.0 s" in result.damage


# ----------------------------------------------------------------------------- complaints that are not of the picture


@pytest.mark.parametrize("codec, suffix", [
    ("aac", "mp4"), ("aac", "mkv"), ("aac", "mov"), ("aac", "ts"), ("libmp3lame", "mp4"), ("libmp3lame", "mkv"),
    ("ac3", "mkv"), ("libvorbis", "webm"),
])  # fmt: skip
def test_damaged_sound_is_not_the_picture(tmp_path, silent, codec, suffix):
    sound = ["-f", "lavfi", "-t", 1.2, "-i", "sine=330"]
    run_ffmpeg(
        "-i", silent, *sound, *(VP8 if suffix == "webm" else ("-c:v", "copy")), "-c:a", codec, tmp_path / "good.mkv"
    )
    run_ffmpeg("-i", tmp_path / "good.mkv", "-c", "copy", "-bsf:a", "noise=amount=3", tmp_path / f"v.{suffix}")
    frames, result = decode(tmp_path / f"v.{suffix}")
    assert (numbers_of(frames), result.damage) == (list(range(30)), "")


@pytest.mark.parametrize("what", ["chapters", "cover", "subtitles"])
def test_other_damaged_streams_are_not_the_picture(tmp_path, silent, what):
    path = tmp_path / "v.mp4"
    if what == "chapters":
        chapters = ";FFMETADATA1\n[CHAPTER]\nTIMEBASE=1/1000\nSTART=200\nEND=900\ntitle=the first one\n"
        (tmp_path / "chapters.txt").write_text(chapters)
        run_ffmpeg("-i", silent, "-i", tmp_path / "chapters.txt", "-map_metadata", 1, "-map", "0:v", "-c", "copy", path)
        data = path.read_bytes()
        place = data.index(b"chap") + 4
        path.write_bytes(data[:place] + struct.pack(">I", 99) + data[place + 4 :])
    elif what == "cover":
        run_ffmpeg("-i", silent, "-frames:v", 1, tmp_path / "cover.jpg")
        cover = ["-map", "0:v", "-map", "1:v", "-c", "copy", "-disposition:v:1", "attached_pic"]
        run_ffmpeg("-i", silent, "-i", tmp_path / "cover.jpg", *cover, path)
        data, jpeg = path.read_bytes(), (tmp_path / "cover.jpg").read_bytes()
        assert jpeg in data
        path.write_bytes(data.replace(jpeg, jpeg[:200] + bytes(len(jpeg) - 200)))
    else:
        (tmp_path / "s.srt").write_text("1\n00:00:00,100 --> 00:00:00,900\ntext\n")
        run_ffmpeg("-i", silent, "-i", tmp_path / "s.srt", "-c:v", "copy", "-c:s", "mov_text", path)
        path.write_bytes(path.read_bytes().replace(b"\x00\x04text", b"\x7f\xfftext"))
    frames, result = decode(path)
    assert (numbers_of(frames), result.damage) == (list(range(30)), "")


def test_texts_of_the_file_are_not_ffmpegs_words(tmp_path, silent):
    """Titles and comments may hold lines that look like ffmpeg's; so may the names of tags."""
    path = tmp_path / "v.mkv"
    forged = "[error] forged\n[error] forged\r[h264 @ 0x1] [error] forged\n[info]   Duration: 00:09:00.00, start: 0"
    tags = ["-metadata", f"title=[error] {forged}", "-metadata", f"comment={forged}", "-metadata", f"{'X' * 40}=1"]
    run_ffmpeg("-i", silent, "-c", "copy", *tags, "-metadata:s:v", f"title={forged}", path)
    path.write_bytes(path.read_bytes().replace(b"X" * 40, b"x\n[h264 @ 0x1] [error] forged".ljust(40, b".")))
    frames, result = decode(path)
    assert (len(frames), result.damage, result.declared_seconds) == (30, "", pytest.approx(1.2, abs=0.05))
    assert not any("forged" in note for note in result.notes)


# -------------------------------------------------------------------------------------------------- frames that count


@pytest.mark.parametrize("stamps", ["PTS-3*mod(N\\,4)/TB/25", "PTS-gt(N\\,14)*0.6/TB", "0"])
@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_time_stamps_that_go_back_lose_no_frame(tmp_path, silent, suffix, stamps):
    run_ffmpeg("-i", silent, "-c", "copy", "-bsf:v", f"setts=dts=DTS:pts={stamps}", tmp_path / f"v.{suffix}")
    frames, result = decode(tmp_path / f"v.{suffix}")
    assert numbers_of(frames) == list(range(30)) and result.damage == ""


def test_a_wrong_time_scale_that_hides_frames_is_damage(tmp_path, silent):
    data = bytearray(silent.read_bytes())
    place = data.index(b"mdhd") + 4 + 12  # after version, flags and two dates
    assert struct.unpack_from(">I", data, place)[0] > 1000
    struct.pack_into(">I", data, place, 2)  # ticks per second
    (tmp_path / "v.mp4").write_bytes(data)
    frames, result = decode(tmp_path / "v.mp4")
    assert len(frames) < 30 and "time stamps are wrong" in result.damage


@pytest.mark.parametrize("suffix", ["avi", "mkv", "mpg"])
def test_joined_files_give_all_frames_and_a_note(tmp_path, suffix):
    toy.write_video(tmp_path / "raw.mkv", numbered_pictures(60), fps=25)
    codec = CODECS[suffix][: CODECS[suffix].index("-c:a")]
    run_ffmpeg("-i", tmp_path / "raw.mkv", *codec, tmp_path / f"one.{suffix}")
    (tmp_path / f"v.{suffix}").write_bytes(2 * (tmp_path / f"one.{suffix}").read_bytes())
    frames, result = decode(tmp_path / f"v.{suffix}")
    assert numbers_of(frames) == 2 * list(range(60)) and result.damage == ""
    assert "more frames than its rate and duration declare" in " ".join(result.notes)
    assert "more frames" not in " ".join(decode(tmp_path / f"one.{suffix}")[1].notes)


def test_holes_in_wmv_files_are_damage(tmp_path):
    """ffmpeg goes on after a hole, and calls it no error."""
    noise = np.random.default_rng(0).integers(0, 256, (60, 48, 64, 3), np.uint8)
    toy.write_video(tmp_path / "v.wmv", noise, fps=25, codec=("wmv2", "-q:v", "20"))
    whole, result = decode(tmp_path / "v.wmv")
    assert len(whole) == 60 and not result.damage and not result.notes
    data = (tmp_path / "v.wmv").read_bytes()
    rng = np.random.default_rng(0)
    for _ in range(12):
        start = rng.integers(3000, len(data) - 7000)
        (tmp_path / "v.wmv").write_bytes(data[:start] + bytes(3000) + data[start + 3000 :])
        frames, result = decode(tmp_path / "v.wmv")
        assert len(frames) == 60 or result.damage or any("lost frames" in note for note in result.notes)


def test_frames_per_second_are_bounded(tmp_path):
    toy.write_video(tmp_path / "v.mkv", np.zeros((6000, 6, 8, 3), np.uint8), fps=5000)
    with pytest.raises(VideoError, match="more than 2200 frames, 1000 for each second") as caught:
        for _ in Decoder(tmp_path / "v.mkv"):
            pass
    assert caught.value.kind == "too long"


# --------------------------------------------------------------------------------------------- which picture it is


def test_of_several_video_streams_the_default_one_is_taken(tmp_path, silent):
    toy.write_video(tmp_path / "preview.mp4", numbered_pictures(3, height=24, width=32), fps=2, codec=("libx264",))
    both = ["-i", tmp_path / "preview.mp4", "-i", silent, "-map", "0:v", "-map", "1:v", "-c", "copy"]
    run_ffmpeg(*both, "-disposition:v:0", 0, "-disposition:v:1", "default", tmp_path / "v.mp4")
    frames, result = decode(tmp_path / "v.mp4")
    assert (frames.shape[1:3], numbers_of(frames)) == ((48, 64), list(range(30)))
    assert result.notes == ("2 video streams, of which the default one was taken",) and result.damage == ""
    assert probe(tmp_path / "v.mp4").width == 64
    frames, result = decode(tmp_path / "v.mp4", start_seconds=0.4, end_seconds=0.8)
    assert numbers_of(frames) == list(range(10, 20)) and result.damage == ""


@pytest.mark.parametrize(
    "sar, short_side, size",  # (width, height) of pictures of 64 x 48
    [("2/1", 0, (128, 48)), ("2/1", 24, (64, 24)), ("1/2", 0, (32, 48)), ("1/2", 24, (24, 36)), ("16/15", 0, (68, 48)),
     ("1/1", 0, (64, 48)), ("131/130", 0, (64, 48)), ("854/855", 24, (32, 24)), ("3/4", 24, (24, 24))],
)  # fmt: skip
def test_pixels_become_square(tmp_path, sar, short_side, size):
    toy.write_video(tmp_path / "raw.mkv", numbered_pictures(4), fps=5)
    run_ffmpeg("-i", tmp_path / "raw.mkv", "-vf", f"setsar={sar}", "-c:v", "ffv1", tmp_path / "v.mkv")
    frames, result = decode(tmp_path / "v.mkv", short_side=short_side)
    assert (frames.shape[2], frames.shape[1]) == size
    assert any("not square" in note for note in result.notes) == (len(sar) < 7 and sar != "1/1")
    frames, _ = decode(tmp_path / "v.mkv", short_side=short_side, square_pixels=False)
    assert (frames.shape[2], frames.shape[1]) == ((32, 24) if short_side else (64, 48))


@pytest.mark.parametrize("short_side", [0, 20, 48, 100])
@pytest.mark.parametrize("size", [(64, 48), (50, 71), (33, 99), (48, 48)])
def test_square_pixels_are_untouched(tmp_path, size, short_side):
    """Bit for bit what ffmpeg's own rule for the aspect ratio gives, as in all trees that exist."""
    width, height = size
    path = tmp_path / "v.mkv"
    run_ffmpeg("-f", "lavfi", "-i", f"testsrc2=size={width}x{height}:rate=5:duration=0.6", "-c:v", "ffv1", path)
    scale = f"scale='if(gt(iw,ih),-2,{short_side})':'if(gt(iw,ih),{short_side},-2)':flags=area,scale"
    command = [find_ffmpeg(), "-v", "error", "-i", path, *(["-vf", scale] if short_side else [])]
    command += ["-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
    truth = subprocess.run(list(map(str, command)), capture_output=True, check=True).stdout
    assert decode(path, short_side=short_side)[0].tobytes() == truth
