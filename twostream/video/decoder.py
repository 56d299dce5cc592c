"""Decode a video or a segment of it to upright RGB frames, and tell complete videos from damaged ones."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from twostream.video.ffmpeg import (
    TIME_LIMIT_SECONDS,
    Ffmpeg,
    Probed,
    VideoError,
    first_complaint,
    read_header,
    read_seconds,
    refusal,
    size_changes,
)

UNDECLARED_CONTAINERS = ("mpeg", "ogg")  # whose duration ffmpeg reads off their last time stamps
INDEXED_CONTAINERS = ("mov", "matroska")  # where seeking finds the key frame before a time
SEEK_MARGIN_SECONDS = 1.0  # the last frames before a segment are left out by exact time stamps, not by the seek
STAMP_SECONDS = 0.0005  # Matroska rounds time stamps to milliseconds

# A container's duration may exceed its last frame by rounding, a trailing frame or a longer sound track.
MISSING_SECONDS, MISSING_FRACTION = 1.0, 0.05


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


def probe(path: str | Path, *, time_limit_seconds: float = TIME_LIMIT_SECONDS) -> Probed:
    """What the header of a video says, without decoding it; raises VideoError where there is no video stream."""
    with Ffmpeg(Path(path), time_limit_seconds=time_limit_seconds) as ffmpeg:
        ffmpeg.wait()  # its exit code is 1: it misses an output
        words = ffmpeg.words()
    header = read_header(words)
    if header is None:
        raise refusal(words, "its header has no picture size")
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
        with Ffmpeg(
            self.path,
            input_options=["-ss", f"{seek_seconds:.6f}"] if seek_seconds else [],
            output_options=self._output_options(seek_seconds),
            time_limit_seconds=self.time_limit_seconds,
        ) as ffmpeg:
            ffmpeg.seconds = self._seconds_to_decode(header, seek_seconds)
            num_frames = 0
            for frame in ffmpeg.pictures():
                if num_frames == 0:
                    if seek_seconds and first_complaint(ffmpeg.words()):
                        raise _SeekFailed
                    if header is None:
                        header = read_header(ffmpeg.words())
                        self._check_length(header)
                        ffmpeg.seconds = self._seconds_to_decode(header, seek_seconds)
                num_frames += 1
                ffmpeg.seconds = max(ffmpeg.seconds, num_frames / 60)  # the header may say nothing
                yield frame
            exit_code = ffmpeg.wait()
            words = ffmpeg.words()
        decoded_seconds = read_seconds(words)
        if num_frames == 0 and seek_seconds:
            raise _SeekFailed
        if num_frames == 0:
            raise refusal(words, f"no frame decoded in {self.segment or 'it'} (ffmpeg's exit code {exit_code})")
        if (decoded_seconds or 0) > self.max_seconds + MISSING_SECONDS:
            raise VideoError(f"goes on after {self.max_seconds:g} s, the longest allowed", "too long")
        self.result = self._judge(num_frames, exit_code, words, decoded_seconds, header)

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
        self, num_frames: int, exit_code: int, words: str, decoded_seconds: float | None, header: Probed | None
    ) -> Decoded:
        notes = size_changes(words, header)
        damage = first_complaint(words) or (f"ffmpeg's exit code {exit_code}" if exit_code else "")
        kind = "damaged" if damage else ""
        declared = self._declared_seconds(header)
        rate = self.fps or (header.fps if header else 0) or (num_frames / decoded_seconds if decoded_seconds else 0)
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
            if decoded_seconds is not None and declared - decoded_seconds > tolerance:
                damage = f"ends after {decoded_seconds:.1f} s, declared are {declared:.1f} s" + (
                    damage and f": {damage}"
                )
                kind = "cut short"
        return Decoded(num_frames, round(rate, 3), declared, damage, kind, tuple(notes))


class _SeekFailed(Exception):
    """ffmpeg complained before the segment's first frame, or found none.

    Where a group of pictures refers to the one before (open GOP), a complaint is no damage, and nobody can tell.
    """
