"""The only module that runs ffmpeg: find it, decode a video frame by frame, tell a whole video from a damaged one.

Videos come from strangers and are decoded for days on end, so no file may read another one, fill memory or disk, or
hold up the rest: what ffmpeg opens, allocates and writes is limited, and so is the time that is spent waiting for it.
"""

import contextlib
import fcntl
import functools
import math
import os
import re
import resource
import select
import shutil
import stat
import subprocess
import tempfile
import time
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
UNDECLARED_CONTAINERS = ("mpeg", "ogg")  # whose duration ffmpeg reads off their last time stamps
INDEXED_CONTAINERS = ("mov", "matroska")  # where seeking finds the key frame before a time
SEEK_MARGIN_SECONDS = 1.0  # the last frames before a segment are left out by exact time stamps, not by the seek
STAMP_SECONDS = 0.0005  # Matroska rounds time stamps to milliseconds

# A container's duration may exceed its last frame by rounding, a trailing frame or a longer sound track.
MISSING_SECONDS, MISSING_FRACTION = 1.0, 0.05

TIME_LIMIT_SECONDS = 120.0  # of waiting for ffmpeg, and in addition for each second of video:
WAIT_PER_SECOND = 30.0

MAX_PIXELS = 8192 * 4608  # 8K, 7680 x 4320 or 8192 x 4320, and what codecs add to whole blocks
MAX_BLOCK_BYTES = 16 * MAX_PIXELS  # 604 MB: such a picture in the widest pixel format, four channels of float32
MAX_MEMORY_BYTES = 6 * 2**30  # address space; 8K HEVC of 10 bits takes less than 2
MAX_LOG_BYTES = 16 * 2**20
PIPE_BYTES = 2**18  # of 64 MiB that Linux allows all pipes of a user

FAULT_KINDS = {
    "missing": "no such file, or a link to none",
    "empty": "a file of 0 bytes",
    "unreadable": "ffmpeg cannot open it: no video, no index, no permission; or not a regular file",
    "no video": "only sound or cover art",
    "damaged": "ffmpeg complained on the way",
    "cut short": "the frames end well before the declared duration",
    "beyond the end": "the segment asked for starts after the end of the video",
    "bad segment": "the segment asked for has no length",
    "too long": "longer than the caller allows",
    "too large": "frames above MAX_PIXELS, or more memory than MAX_MEMORY_BYTES",
    "time limit": "ffmpeg was waited for too long, and killed",
    "no flow": "a flow method cannot do with the frames",
}


class VideoError(Exception):
    """This video cannot be used; the message is the reason, in ffmpeg's words where it has some.

    `kind` is one of FAULT_KINDS, so that failures can be counted.
    """

    def __init__(self, reason: str, kind: str = "damaged"):
        super().__init__(reason)
        self.kind = kind


@dataclass(frozen=True)
class Probed:
    """What a video's header says."""

    declared_seconds: float | None
    fps: float
    """frames per second, 0 when not said"""
    width: int
    """of the upright picture, pixels"""
    height: int
    container: str
    """ffmpeg's names for it, e.g. "mov,mp4,m4a,3gp,3g2,mj2" """


@dataclass(frozen=True)
class Decoded:
    """What is known of a video, or of the segment asked for, once its last frame has been read."""

    num_frames: int
    fps: float
    """frames per second, by the container if it says so, else as read; 0 when unknown"""
    declared_seconds: float | None
    """duration by the container, of the segment's part of it; None when it has none"""
    damage: str
    """why the frames read are not the whole video; empty when they are"""
    damage_kind: str = ""
    """one of FAULT_KINDS, or empty"""
    notes: tuple[str, ...] = ()
    """what is odd, but no damage"""


@functools.cache
def find_ffmpeg() -> str:
    """Path of an ffmpeg >= 5.1: the one on PATH, else the one that the imageio-ffmpeg package brings.

    Raises EnvironmentFaultError when there is neither.
    """
    on_path = shutil.which("ffmpeg")
    found = f"ffmpeg {ffmpeg_version(on_path)} on PATH" if on_path else "no ffmpeg on PATH"
    if on_path and _version_tuple(ffmpeg_version(on_path)) >= MIN_FFMPEG:
        return os.path.abspath(on_path)  # it is started in the folders of the videos
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


# ---------------------------------------------------------------------------------------------------- decoding


def probe(path: str | Path, *, time_limit_seconds: float = TIME_LIMIT_SECONDS) -> Probed:
    """What the header of a video says, without decoding it; raises VideoError where there is no video stream."""
    with _Ffmpeg(Path(path), time_limit_seconds=time_limit_seconds) as ffmpeg:
        ffmpeg.wait()  # its exit code is 1: it misses an output
        words = ffmpeg.words()
    header = _read_header(words)
    if header is None:
        raise _refusal(words, "its header has no picture size")
    return header


class Decoder:
    """Decode one video to upright RGB frames: iterate over it once, then read `.result`.

    `short_side` in pixels (0: as it is); the other side follows the aspect, to an even number. `fps` 0 passes every
    frame of the file through exactly once, as variable-rate videos need; else the video is resampled to that rate.

    Only frames whose time t, from the start of the file, is `start_seconds <= t < end_seconds` (None: the end) are
    given; half a millisecond is allowed for the rounding of time stamps.

    Iterating yields uint8 (H, W, 3) arrays, all of one size, and raises VideoError when not one frame can be had.
    Damage found on the way does not raise: it stands in `.result.damage`, for the caller to judge. But VideoError is
    also raised, after some frames or none, when the video or segment is longer than `max_seconds` (0: any length),
    and when ffmpeg was waited for longer than `time_limit_seconds` and 30 s for each second of video together. The
    time that the caller takes between frames does not count.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        short_side: int = 0,
        fps: float = 0,
        start_seconds: float = 0.0,
        end_seconds: float | None = None,
        max_seconds: float = 0,
        time_limit_seconds: float = TIME_LIMIT_SECONDS,
    ):
        self.path = Path(path)
        self.short_side = short_side
        self.fps = fps
        self.start_seconds = start_seconds
        self.end_seconds = math.inf if end_seconds is None else end_seconds
        if not 0 <= self.start_seconds < self.end_seconds:
            raise ValueError(f"segment {start_seconds} to {end_seconds} s, expected 0 <= start < end")
        self.segment = ""
        """for messages; empty for the whole video"""
        if start_seconds or end_seconds is not None:
            end = "the end" if end_seconds is None else f"{end_seconds:g} s"
            self.segment = f"segment {start_seconds:g} to {end}"
        self.max_seconds = max_seconds or math.inf
        self.time_limit_seconds = time_limit_seconds
        self.result: Decoded | None = None

    def __iter__(self) -> Iterator[np.ndarray]:
        if not self.segment:
            yield from self._decode(None, seek=False)
            return
        header = probe(self.path, time_limit_seconds=self.time_limit_seconds)
        self._check_length(header)
        try:
            # Elsewhere than in these containers, seeking may land behind the key frame.
            yield from self._decode(header, seek=header.container.startswith(INDEXED_CONTAINERS))
        except _SeekFailed:
            yield from self._decode(header, seek=False)

    def _decode(self, header: Probed | None, *, seek: bool) -> Iterator[np.ndarray]:
        """`seek`: go to the key frame before the segment instead of decoding all that comes before it."""
        seek_seconds = max(0.0, self.start_seconds - SEEK_MARGIN_SECONDS) if seek else 0.0
        with _Ffmpeg(
            self.path,
            input_options=["-ss", f"{seek_seconds:.6f}"] if seek_seconds else [],
            output_options=self._output_options(seek_seconds),
            time_limit_seconds=self.time_limit_seconds,
        ) as ffmpeg:
            ffmpeg.seconds = self._seconds_to_decode(header, seek_seconds)
            num_frames = 0
            for frame in ffmpeg.pictures():
                if num_frames == 0:
                    if seek_seconds and _first_complaint(ffmpeg.words()):
                        raise _SeekFailed
                    if header is None:
                        header = _read_header(ffmpeg.words())
                        self._check_length(header)
                        ffmpeg.seconds = self._seconds_to_decode(header, seek_seconds)
                num_frames += 1
                ffmpeg.seconds = max(ffmpeg.seconds, num_frames / 60)  # the header may say nothing
                yield frame
            exit_code = ffmpeg.wait()
            words = ffmpeg.words()
        read_seconds = _read_seconds(words)
        if num_frames == 0 and seek_seconds:
            raise _SeekFailed
        if num_frames == 0:
            raise _refusal(words, f"no frame decoded in {self.segment or 'it'} (ffmpeg's exit code {exit_code})")
        if (read_seconds or 0) > self.max_seconds + MISSING_SECONDS:
            raise VideoError(f"goes on after {self.max_seconds:g} s, the longest allowed", "too long")
        self.result = self._judge(num_frames, exit_code, words, read_seconds, header)

    def _output_options(self, seek_seconds: float) -> list[str]:
        filters = []
        start = max(0.0, self.start_seconds - seek_seconds)  # ffmpeg counts from where it went to
        # A file whose declared duration is too small or absent still stops soon after max_seconds.
        end = min(self.end_seconds - seek_seconds, start + self.max_seconds + 2 * MISSING_SECONDS)
        if start or end < math.inf:
            bounds = [f"start={start - STAMP_SECONDS:.6f}"] * (start > 0)
            bounds += [f"end={end - STAMP_SECONDS:.6f}"] * (end < math.inf)
            filters.append(f"settb=AVTB,trim={':'.join(bounds)},setpts=PTS-{start:.6f}/TB")
        if self.fps:
            filters.append(f"fps={self.fps:g}")
        if self.short_side:
            side = self.short_side
            filters.append(f"scale='if(gt(iw,ih),-2,{side})':'if(gt(iw,ih),{side},-2)':flags=area")
            filters.append("scale")  # conversion to RGB by itself is faster than together with the scaling
        return [
            *("-map", "0:V:0", "-an", "-sn", "-dn"),  # V: a real video stream, not cover art
            *(["-vf", ",".join(filters)] if filters else []),
            *("-fps_mode", "passthrough"),  # the default repeats and drops frames of variable-rate videos
            *("-enc_time_base", "1:1000000"),  # the default rounds time stamps to the declared rate
            *("-f", "image2pipe", "-c:v", "ppm", "-pix_fmt", "rgb24", "pipe:1"),
        ]

    def _check_length(self, header: Probed | None) -> None:
        """Raises VideoError when the header says that there is nothing or too much to decode."""
        if header is None or header.declared_seconds is None:
            return
        if self.start_seconds >= header.declared_seconds:
            raise VideoError(f"{self.segment}, but the video ends at {header.declared_seconds:.1f} s", "beyond the end")
        seconds = self._declared_seconds(header)
        if seconds > self.max_seconds:
            raise VideoError(f"{seconds:.1f} s long, allowed are {self.max_seconds:g} s", "too long")

    def _declared_seconds(self, header: Probed | None) -> float | None:
        """Of the video, or of the part of it that the segment covers."""
        if header is None or header.declared_seconds is None:
            return None
        return min(self.end_seconds, header.declared_seconds) - self.start_seconds

    def _seconds_to_decode(self, header: Probed | None, seek_seconds: float) -> float:
        return (self._declared_seconds(header) or 0.0) + self.start_seconds - seek_seconds

    def _judge(
        self, num_frames: int, exit_code: int, words: str, read_seconds: float | None, header: Probed | None
    ) -> Decoded:
        notes = _size_changes(words, header)
        damage = _first_complaint(words) or (f"ffmpeg's exit code {exit_code}" if exit_code else "")
        kind = "damaged" if damage else ""
        declared = self._declared_seconds(header)
        rate = self.fps or (header.fps if header else 0) or (num_frames / read_seconds if read_seconds else 0)
        if declared is None or header.container.startswith(UNDECLARED_CONTAINERS):
            notes.append("declares no duration of its own, so a missing end cannot be seen")
        if declared is not None:
            end = header.declared_seconds
            tolerance = max(MISSING_SECONDS, MISSING_FRACTION * end)
            if self.segment:
                # The time that is read is the end of the last frame, or its start in ffmpeg 7.
                tolerance = min(tolerance, declared / 2 + (1 / rate if rate else 0))
            if end + MISSING_SECONDS < self.end_seconds < math.inf:
                notes.append(f"{self.segment}, but the video ends at {end:.1f} s")
            if read_seconds is not None and declared - read_seconds > tolerance:
                damage = f"ends after {read_seconds:.1f} s, declared are {declared:.1f} s" + (damage and f": {damage}")
                kind = "cut short"
        return Decoded(num_frames, round(rate, 3), declared, damage, kind, tuple(notes))


class _SeekFailed(Exception):
    """ffmpeg complained before the segment's first frame, or found none.

    Where a group of pictures refers to the one before (open GOP), a complaint is no damage, and nobody can tell.
    """


class _Ffmpeg:
    """One run of ffmpeg on one file, without output if there are no options for it; leaves nothing behind.

    Raises VideoError when the file is none, and when waiting for ffmpeg took longer than the limit.
    """

    def __init__(
        self,
        path: Path,
        *,
        input_options: list[str] | tuple[str, ...] = (),
        output_options: list[str] | tuple[str, ...] = (),
        time_limit_seconds: float,
    ):
        self.path = path
        self.input_options = input_options
        self.output_options = output_options
        self.time_limit_seconds = time_limit_seconds
        self.seconds = 0.0
        """length of what is decoded, once it is known; the limit grows with it"""
        self.waited_seconds = 0.0
        self._poll = select.poll()

    def __enter__(self) -> "_Ffmpeg":
        _check_file(self.path)
        ffmpeg = find_ffmpeg()
        # It has no name, so nothing stays behind when this process is killed; ffmpeg ends when the pipe has no reader.
        self._log = tempfile.TemporaryFile(buffering=0)
        self.process = subprocess.Popen(
            self._command(ffmpeg),
            bufsize=0,
            stdout=subprocess.PIPE,
            stderr=self._log,
            cwd=self.path.parent,
            process_group=0,  # a terminal's Ctrl-C is for this program: it would look like a damaged video
        )
        _limit_process(self.process)
        return self

    def __exit__(self, *exception) -> None:
        self.process.kill()
        self.process.stdout.close()
        self.process.wait()
        self._log.close()

    def _command(self, ffmpeg: str) -> list[str]:
        return [
            *(ffmpeg, "-nostdin", "-hide_banner", "-nostats", "-loglevel", "level+info"),
            *("-progress", "pipe:2", "-stats_period", "60"),
            *("-max_alloc", str(MAX_BLOCK_BYTES), "-filter_threads", "1"),
            *("-threads", "1", "-max_pixels", str(MAX_PIXELS)),
            *("-protocol_whitelist", "file", "-format_whitelist", CONTAINERS),
            # Started in the file's folder: a name without a path has no more than 255 bytes, and ffmpeg cuts its log
            # lines at 1,023.
            *(*self.input_options, "-i", f"file:{self.path.name}"),
            *self.output_options,
        ]

    def pictures(self) -> Iterator[np.ndarray]:
        """The binary PPM pictures that ffmpeg writes, all of one size, as uint8 (H, W, 3); a torn one ends them."""
        pipe = self.process.stdout
        os.set_blocking(pipe.fileno(), False)
        self._poll.register(pipe, select.POLLIN)
        with contextlib.suppress(OSError):  # a user's pipes may hold as much as they may already
            fcntl.fcntl(pipe, getattr(fcntl, "F_SETPIPE_SZ", -1), PIPE_BYTES)
        header = bytearray()
        while header.count(b"\n") < 3:
            byte = bytearray(1)
            if not self._fill(memoryview(byte)):
                return
            header += byte
        width, height = map(int, re.fullmatch(rb"P6\n(\d+) (\d+)\n255\n", header).groups())
        while True:
            picture = np.empty(height * width * 3, np.uint8)
            if self._fill(memoryview(picture)) < picture.size:
                return
            yield picture.reshape(height, width, 3)
            next_header = bytearray(len(header))
            if self._fill(memoryview(next_header)) < len(header):
                return
            if next_header != header:
                raise VideoError(f"ffmpeg changed the size of its pictures from {width}x{height} in mid-video")

    def _fill(self, buffer: memoryview) -> int:
        """Read until the buffer is full or ffmpeg has no more; number of bytes."""
        start = 0
        while start < len(buffer):
            num_bytes = self.process.stdout.readinto(buffer[start:])
            if num_bytes is None:
                self._wait_for_bytes()
            elif num_bytes == 0:
                break
            else:
                start += num_bytes
        return start

    def _wait_for_bytes(self) -> None:
        before = time.monotonic()
        self._poll.poll(1000 * self._seconds_left())
        self.waited_seconds += time.monotonic() - before

    def wait(self) -> int:
        """Exit code, once ffmpeg has ended."""
        while True:
            with contextlib.suppress(subprocess.TimeoutExpired):
                return self.process.wait(self._seconds_left())
            self.waited_seconds = math.inf

    def _seconds_left(self) -> float:
        """That ffmpeg may still be waited for, a day at most; raises VideoError when there are none."""
        limit = self.time_limit_seconds + WAIT_PER_SECOND * self.seconds
        if self.waited_seconds >= limit:
            raise VideoError(f"killed after {limit:g} s of waiting for ffmpeg", "time limit")
        return min(limit - self.waited_seconds, 86_400)

    def words(self) -> str:
        """What ffmpeg has said until now, without the file's name, which could hold anything."""
        name = re.sub(rb"[\x01-\x07\x0e-\x1f]", b"?", os.fsencode(self.path.name))  # as ffmpeg prints it
        # Not by read(): its position in the file is where ffmpeg writes.
        log = os.pread(self._log.fileno(), MAX_LOG_BYTES, 0)
        return log.replace(b"file:" + name, b"file").decode(errors="replace")


def _check_file(path: Path) -> None:
    """Raises VideoError unless this is a file with something in it; a pipe or device is not even opened."""
    try:
        status = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        raise VideoError("no such file (a broken link?)", "missing") from None
    except OSError as error:
        raise VideoError(error.strerror, "unreadable") from None
    if not stat.S_ISREG(status.st_mode):
        raise VideoError("not a regular file", "unreadable")
    if status.st_size == 0:
        raise VideoError("empty file, 0 bytes", "empty")


def _limit_process(process: subprocess.Popen) -> None:
    if not hasattr(resource, "prlimit"):
        return  # not Linux
    for what, limit in ((resource.RLIMIT_AS, MAX_MEMORY_BYTES), (resource.RLIMIT_FSIZE, MAX_LOG_BYTES)):
        _, hard = resource.prlimit(process.pid, what)
        limit = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
        resource.prlimit(process.pid, what, (limit, limit))


# ------------------------------------------------------------------------------------------------- ffmpeg's words


def _first_complaint(words: str) -> str:
    """ffmpeg's first line that says the input is not sound, without addresses; "" when it had none.

    The exit code alone does not tell: most damaged files end with 0.
    """
    for line in words.splitlines():
        if line.startswith(("[vost#", "[out#", "[image2pipe")):
            continue  # about its output: two frames of one time stamp, which a picture sequence can have
        match = re.search(r"\[(error|fatal|warning)\] (.*)", line)
        if match and (match.group(1) != "warning" or "corrupt" in match.group(2)):
            if not match.group(2).startswith("At least one output file"):  # a probe has none
                return match.group(2).strip()
    return ""


def _refusal(words: str, otherwise: str) -> VideoError:
    """Why there is not one frame; `otherwise` if ffmpeg gives no reason."""
    too_large = re.search(r"\[error\] (.*(?:exceeds specified max pixel count|Picture size \S+ is invalid).*)", words)
    if too_large:
        return VideoError(f"{too_large.group(1)}; allowed are {MAX_PIXELS} pixels", "too large")
    if "Cannot allocate memory" in words:
        return VideoError(f"needs more than {MAX_MEMORY_BYTES / 2**30:g} GiB of memory", "too large")
    is_open = re.search(r"^\[info\] Input #0, ", words, re.MULTILINE)
    if is_open and not _video_streams(words):
        return VideoError("no video stream", "no video")
    complaint = _first_complaint(words)
    if is_open and not complaint:
        return VideoError(otherwise, "cut short")
    return VideoError(complaint or otherwise, "damaged" if is_open else "unreadable")


def _video_streams(words: str) -> list[str]:
    """The input's video streams, cover art apart, each as the lines that ffmpeg prints about it."""
    of_input = re.split(r"^\[info\] (?:Stream mapping|Output #0)", words, maxsplit=1, flags=re.MULTILINE)[0]
    streams = re.split(r"^\[info\]   (?=Stream #)", of_input, flags=re.MULTILINE)[1:]
    return [stream for stream in streams if ": Video: " in stream and "(attached pic)" not in stream.partition("\n")[0]]


def _read_header(words: str) -> Probed | None:
    """What ffmpeg prints about the input and its first video stream; None where there is none with a picture."""
    container = re.search(r"^\[info\] Input #0, (\S+), from", words, re.MULTILINE)
    streams = _video_streams(words)
    size = re.search(r", (\d+)x(\d+)\b", streams[0].partition("\n")[0]) if streams else None
    if not (container and size):
        return None
    width, height = map(int, size.groups())
    if re.search(r"rotation of -?(90|270)\.", streams[0]):
        width, height = height, width
    duration = re.search(r"^\[info\]   Duration: (\d+):(\d+):(\d+\.\d+)", words, re.MULTILINE)
    hours, minutes, seconds = map(float, duration.groups()) if duration else (0, 0, 0)
    declared = hours * 3600 + minutes * 60 + seconds or None
    rate = re.search(r", ([\d.]+)(k?) fps,", streams[0])
    fps = float(rate.group(1)) * (1000 if rate.group(2) else 1) if rate else 0.0
    return Probed(declared, fps, width, height, container.group(1))


def _read_seconds(words: str) -> float | None:
    """End of the last frame that came out, by its time stamp."""
    stamps = re.findall(r"^out_time_us=(-?\d+)", words, re.MULTILINE)
    return int(stamps[-1]) / 1e6 if stamps else None


def _size_changes(words: str, header: Probed | None) -> list[str]:
    """A note when the pictures of a video are not of one size, as they come out."""
    sizes = re.findall(r"video parameters changed to .*?, (\d+x\d+)", words)
    if header:
        sizes = [
            size for size in sizes if size not in (f"{header.width}x{header.height}", f"{header.height}x{header.width}")
        ]
    if not sizes:
        return []
    several = ", ".join(list(dict.fromkeys(sizes))[:5])
    return [f"frame size changes in mid-video, to {several}: all frames are scaled to the size of the first"]


# --------------------------------------------------------------------------------------------------- finding files


def find_videos(folder: str | Path, *, id_from: str = "stem") -> tuple[dict[str, Path], int]:
    """All video files below a folder, by video id, in order of id; and how many files were not videos.

    The id is the file's stem ("stem"), or its path below the folder without suffix, "/" written "__" ("path").
    Hidden files are left out. Links are followed, but no folder is entered twice; a broken link counts as a video, so
    that it is reported as missing. Raises ValueError naming both files when two would have the same id, and
    EnvironmentFaultError naming a folder that cannot be listed.
    """
    videos: dict[str, str] = {}
    others = 0
    root = os.fspath(folder)
    folders, linked_folders, entered = [""], [], set()  # paths below the root; links wait for the real folders
    while folders or linked_folders:
        below = folders.pop() if folders else linked_folders.pop()
        try:
            status = os.stat(os.path.join(root, below))
            with os.scandir(os.path.join(root, below)) as scanned:
                entries = list(scanned)
        except OSError as error:
            raise EnvironmentFaultError(f"cannot list the folder {error.filename}: {error.strerror}") from None
        if (status.st_dev, status.st_ino) in entered:
            continue
        entered.add((status.st_dev, status.st_ino))
        for entry in entries:
            if entry.name.startswith("."):
                continue
            path = os.path.join(below, entry.name)
            if entry.is_symlink():  # os.path also answers where links go in circles
                is_folder = os.path.isdir(entry.path)
                is_file = os.path.isfile(entry.path) or not os.path.exists(entry.path)
            else:
                is_folder, is_file = entry.is_dir(), entry.is_file()
            if is_folder:
                (linked_folders if entry.is_symlink() else folders).append(path)
            elif not is_file or os.path.splitext(entry.name)[1].lower() not in VIDEO_SUFFIXES:
                others += 1
            else:
                video_id = video_id_of(path, id_from=id_from)
                other = videos.setdefault(video_id, path)
                if other is not path:
                    raise ValueError(f"{Path(root, path)} and {Path(root, other)} have the same id {video_id!r}")
    return {video_id: Path(root, videos[video_id]) for video_id in sorted(videos)}, others


def video_id_of(path: str | Path, *, id_from: str) -> str:
    """Id of a video by its path below the folder of videos; see `find_videos`."""
    stem = os.path.splitext(path)[0]
    return os.path.basename(stem) if id_from == "stem" else stem.replace(os.sep, "__")
