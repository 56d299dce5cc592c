"""The only module that runs ffmpeg: find it, decode a video frame by frame, tell a whole video from a damaged one."""

import functools
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from twostream.errors import EnvironmentFaultError

MIN_FFMPEG = (5, 1)  # the first with -fps_mode; later ones no longer have -vsync
UNKNOWN_VERSION = "of unknown version"

VIDEO_SUFFIXES = frozenset(
    ".mp4 .m4v .mov .avi .mkv .webm .mpg .mpeg .wmv .flv .ts .m2ts .mts .3gp .ogv .asf .vob".split()
)

# Text playlists can name other files of this machine, so only real containers are opened.
CONTAINERS = "mov,mp4,matroska,webm,avi,mpegts,mpeg,mpegvideo,flv,asf,ogg,ivf,gif,h264,hevc,m4v,mjpeg,dv,rm"

# A container's duration may exceed its last frame by rounding, a trailing frame or a longer sound track.
MISSING_SECONDS, MISSING_FRACTION = 1.0, 0.05


class VideoError(Exception):
    """This video cannot be used; the message is the reason, in ffmpeg's words where it has some."""


@dataclass(frozen=True)
class Decoded:
    """What is known of a video once its last frame has been read."""

    num_frames: int
    fps: float
    """frames per second, by the container if it says so, else as read; 0 when unknown"""
    declared_seconds: float | None
    """duration by the container; None when it has none"""
    damage: str
    """why the frames read are not the whole video; empty when they are"""


@functools.cache
def find_ffmpeg() -> str:
    """Path of an ffmpeg >= 5.1: the one on PATH, else the one that the imageio-ffmpeg package brings.

    Raises EnvironmentFaultError when there is neither.
    """
    on_path = shutil.which("ffmpeg")
    found = f"ffmpeg {ffmpeg_version(on_path)} on PATH" if on_path else "no ffmpeg on PATH"
    if on_path and _version_tuple(ffmpeg_version(on_path)) >= MIN_FFMPEG:
        return on_path
    try:
        import imageio_ffmpeg

        return imageio_ffmpeg.get_ffmpeg_exe()
    except (ImportError, RuntimeError):
        raise EnvironmentFaultError(
            f"{found}, expected {MIN_FFMPEG[0]}.{MIN_FFMPEG[1]} or newer: pip install imageio-ffmpeg"
        ) from None


@functools.cache
def ffmpeg_version(ffmpeg: str) -> str:
    """The version as ffmpeg prints it, e.g. "7.1-static" or "N-109..." for a development build."""
    out = subprocess.run([ffmpeg, "-version"], capture_output=True, text=True, errors="replace", check=False)
    match = re.match(r"ffmpeg version (\S+)", out.stdout)
    return match.group(1) if match else UNKNOWN_VERSION


def _version_tuple(version: str) -> tuple[int, ...]:
    numbers = re.match(r"n?(\d+)\.(\d+)", version)
    if numbers:
        return tuple(map(int, numbers.groups()))
    # Development builds ("N-109...", "git-2023-...") carry no number; they are newer than any release we refuse.
    return (0, 0) if version == UNKNOWN_VERSION else (99, 0)


class Decoder:
    """Decode one video to upright RGB frames: iterate over it once, then read `.result`.

    `short_side` in pixels (0: as it is); the other side follows the aspect, to an even number. `fps` 0 passes every
    frame of the file through exactly once, as variable-rate videos need; else the video is resampled to that rate.

    Iterating yields uint8 (H, W, 3) arrays, all of one size, and raises VideoError when not one frame can be had.
    Damage found on the way does not raise: it stands in `.result.damage`, for the caller to judge.
    """

    def __init__(self, path: str | Path, *, short_side: int = 0, fps: float = 0):
        self.path = Path(path)
        self.short_side = short_side
        self.fps = fps
        self.result: Decoded | None = None

    def command(self, ffmpeg: str, progress_file: str) -> list[str]:
        filters = [f"fps={self.fps:g}"] if self.fps else []
        if self.short_side:
            side = self.short_side
            filters.append(f"scale='if(gt(iw,ih),-2,{side})':'if(gt(iw,ih),{side},-2)':flags=area")
        return [
            *(ffmpeg, "-nostdin", "-hide_banner", "-nostats", "-loglevel", "level+info"),
            *("-progress", progress_file, "-threads", "1"),
            *("-protocol_whitelist", "file", "-format_whitelist", CONTAINERS),
            *("-i", f"file:{self.path.absolute()}"),
            *("-map", "0:V:0", "-an", "-sn", "-dn"),  # V: a real video stream, not cover art
            *(["-vf", ",".join(filters)] if filters else []),
            *("-fps_mode", "passthrough"),  # the default repeats and drops frames of variable-rate videos
            *("-enc_time_base", "1:1000000"),  # the default rounds time stamps to the declared rate
            *("-f", "image2pipe", "-c:v", "ppm", "-pix_fmt", "rgb24", "pipe:1"),
        ]

    def __iter__(self) -> Iterator[np.ndarray]:
        ffmpeg = find_ffmpeg()
        if not self.path.is_file():
            raise VideoError("no such file (a broken link?)")
        if self.path.stat().st_size == 0:
            raise VideoError("empty file, 0 bytes")
        with tempfile.TemporaryDirectory() as scratch, open(os.path.join(scratch, "log"), "w+b") as log:
            progress_file = os.path.join(scratch, "progress")
            process = subprocess.Popen(
                self.command(ffmpeg, progress_file),
                stdout=subprocess.PIPE,
                stderr=log,
                process_group=0,  # a terminal's Ctrl-C is for this program: it would look like a damaged video
            )
            num_frames = 0
            try:
                while (frame := _read_ppm(process.stdout)) is not None:
                    num_frames += 1
                    yield frame
                exit_code = process.wait()
            finally:  # also when the caller stops half way
                process.kill()
                process.stdout.close()
                process.wait()
            log.seek(0)
            words = log.read().decode(errors="replace")
            read_seconds = _read_seconds(progress_file)
        complaint = _first_complaint(words)
        if num_frames == 0:
            raise VideoError(complaint or f"no frame decoded (ffmpeg's exit code {exit_code})")
        declared = _declared_seconds(words)
        damage = complaint or (f"ffmpeg's exit code {exit_code}" if exit_code else "")
        missing = (declared or 0) - (read_seconds or declared or 0)
        if not damage and missing > max(MISSING_SECONDS, MISSING_FRACTION * (declared or 0)):
            damage = f"ends after {read_seconds:.1f} s, declared are {declared:.1f} s"
        rate = self.fps or _declared_rate(words) or (num_frames / read_seconds if read_seconds else 0)
        self.result = Decoded(num_frames, round(rate, 3), declared, damage)


def _read_ppm(pipe) -> np.ndarray | None:
    """The next binary PPM picture of a pipe as uint8 (H, W, 3); None at the end or where the stream is torn."""
    if not pipe.readline().startswith(b"P6"):
        return None
    size = pipe.readline().split()
    if len(size) != 2 or not pipe.readline().startswith(b"255"):
        return None
    width, height = map(int, size)
    pixels = pipe.read(width * height * 3)
    if len(pixels) < width * height * 3:
        return None
    return np.frombuffer(pixels, np.uint8).reshape(height, width, 3)


def _first_complaint(words: str) -> str:
    """ffmpeg's first line that says the input is not sound, without addresses; "" when it had none.

    The exit code alone does not tell: most damaged files end with 0.
    """
    for line in words.splitlines():
        if line.startswith(("[vost#", "[out#", "[image2pipe")):
            continue  # about its output: two frames of one time stamp, which a picture sequence can have
        if "Stream map" in line and "matches no streams" in line:
            return "no video stream"
        match = re.search(r"\[(error|fatal|warning)\] (.*)", line)
        if match and (match.group(1) != "warning" or "corrupt" in match.group(2)):
            return match.group(2).strip()
    return ""


def _declared_seconds(words: str) -> float | None:
    match = re.search(r"Duration: (\d+):(\d+):(\d+\.\d+)", words)
    if not match:
        return None
    hours, minutes, seconds = match.groups()
    return int(hours) * 3600 + int(minutes) * 60 + float(seconds)


def _declared_rate(words: str) -> float | None:
    match = re.search(r"Stream #.*: Video: .* ([\d.]+) fps,", words)  # the first is the input's
    return float(match.group(1)) if match else None


def _read_seconds(progress_file: str) -> float | None:
    """End of the last frame that came out, by its time stamp."""
    try:
        text = Path(progress_file).read_text()
    except FileNotFoundError:
        return None
    stamps = re.findall(r"out_time_us=(-?\d+)", text)
    return int(stamps[-1]) / 1e6 if stamps else None


def find_videos(folder: str | Path, *, id_from: str = "stem") -> tuple[dict[str, Path], int]:
    """All video files below a folder, by video id, in order of id; and how many files were not videos.

    The id is the file's stem ("stem"), or its path below the folder without suffix, "/" written "__" ("path").
    Hidden files are left out. Raises ValueError naming both files when two would have the same id.
    """
    root = Path(folder)
    videos: dict[str, Path] = {}
    others = 0
    for parent, folders, names in os.walk(root, followlinks=True):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(name for name in names if not name.startswith(".")):
            path = Path(parent, name)
            if path.suffix.lower() not in VIDEO_SUFFIXES:
                others += 1
                continue
            video_id = video_id_of(path.relative_to(root), id_from=id_from)
            if video_id in videos:
                raise ValueError(f"{path} and {videos[video_id]} have the same id {video_id!r}")
            videos[video_id] = path
    return dict(sorted(videos.items())), others


def video_id_of(path: Path, *, id_from: str) -> str:
    """Id of a video by its path below the folder of videos; see `find_videos`."""
    return path.stem if id_from == "stem" else "__".join(path.with_suffix("").parts)
