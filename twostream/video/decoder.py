"""Decode a video, or a segment of it, to upright RGB frames, and tell complete videos from damaged ones."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from twostream.video.ffmpeg import TIME_LIMIT_SECONDS, Ffmpeg, VideoError
from twostream.video.ffmpeg_log import Log, VideoHeader

UNDECLARED_CONTAINERS = ("mpeg", "ogg")  # ffmpeg takes their duration from their last time stamps
INDEXED_CONTAINERS = ("mov", "matroska")  # seeking in them finds the key frame before a time
SEEK_MARGIN_SECONDS = 1.0  # decoded before a segment; its first frame is then chosen by time stamp, not by the seek
STAMP_SECONDS = 0.0005  # Matroska rounds time stamps to milliseconds

# A container's duration may exceed the end of its last frame by rounding, or a trailing frame.
MISSING_SECONDS, MISSING_FRACTION = 1.0, 0.05

EVEN_RATIOS = (1, 2, 2.5)
"""rates of time stamps / frames of a constant rate: two fields a frame, and films in television, have more stamps"""
UNEVEN_SECONDS = 0.5
"""difference of time by rate and by time stamps, at the end of a video, that is worth a note"""

MAX_RATE = 1000
"""frames per second of video; a file that has more is made to fill disks"""

NEARLY_SQUARE = 0.02
"""deviation of a pixel's width from its height that comes from rounding sizes to even numbers"""

PICTURE_ONLY = ("-an", "-sn", "-dn", "-map_metadata", "-1", "-map_chapters", "-1")
"""ffmpeg chooses the video stream, and prints no texts of the file after its header"""


def picture_output(
    filters: Sequence[str] = (), *, fps: float, short_side: int, square_pixels: bool, is_live: bool = False
) -> list[str]:
    """ffmpeg's options of an output of PPM pictures at the rate and size that `Decoder` describes, after other filters.

    `is_live`: each picture is written before the next one is there, and its time stamp is lost.
    """
    rate = [f"fps={fps:g}"] if fps else []
    chain = [*filters, *rate, *scaling_filters(short_side, square_pixels), *(["setpts=N"] if is_live else [])]
    # The muxer drops frames whose time stamps go back; but this waits for the next picture.
    in_order = () if is_live else ("-bsf:v", r"setts=ts=if(N\,max(TS\,PREV_OUTPTS+1)\,TS)")
    return [
        *PICTURE_ONLY,
        *(["-vf", ",".join(chain)] if chain else []),
        *("-fps_mode", "passthrough"),  # the default repeats and drops frames of variable-rate videos
        *("-enc_time_base", "1:1000000"),  # the default rounds time stamps to the declared rate
        *in_order,
        *("-f", "image2pipe", "-c:v", "ppm", "-pix_fmt", "rgb24"),
    ]


def scaling_filters(short_side: int, square_pixels: bool) -> list[str]:
    """ffmpeg's filters to the short side and to square pixels; they leave a picture that has both as it is."""
    aspect = f"if(lt(abs(sar-1),{NEARLY_SQUARE}),1,sar)"
    width = f"iw*{aspect}" if square_pixels else "iw"
    if side := short_side:
        long_width, long_height = f"max(2,2*round({side}*{width}/ih/2))", f"max(2,2*round({side}*ih/({width})/2))"
        is_wide = f"gt({width},ih)"
        scale = f"scale='if({is_wide},{long_width},{side})':'if({is_wide},{side},{long_height})':flags=area"
    elif square_pixels:
        scale = f"scale='if(eq({aspect},1),iw,max(2,2*round({width}/2)))':ih:flags=area"
    else:
        return []
    return [scale, "scale"]  # a separate conversion to RGB is faster than one together with the scaling


@dataclass(frozen=True)
class Decoded:
    """What is known about a video, or the requested segment, once its last frame has been read."""

    num_frames: int
    fps: float
    """frames per second: the requested rate, else what the container declares, else as measured; 0 if unknown"""
    declared_seconds: float | None
    """duration of the video, or of the part that the segment covers, by the container; None if it declares none"""
    damage: str
    """why the frames are not the whole video; empty if they are"""
    damage_kind: str = ""
    """one of FAULT_KINDS, or empty"""
    notes: tuple[str, ...] = ()
    """what is unusual, but no damage"""


def probe(path: str | Path, *, time_limit_seconds: float = TIME_LIMIT_SECONDS) -> VideoHeader:
    """Read the header of a video without decoding it; raises VideoError if there is no video stream."""
    options = (*PICTURE_ONLY, "-c", "copy", "-t", "0", "-f", "null", "-")
    with Ffmpeg(Path(path), output_options=options, time_limit_seconds=time_limit_seconds) as ffmpeg:
        ffmpeg.wait()
        log = Log(ffmpeg.log())
    header = log.read_header()
    if header is None:
        raise log.no_frames_error("its header has no picture size")
    return header


def measure_seconds(path: str | Path, *, time_limit_seconds: float = TIME_LIMIT_SECONDS) -> float:
    """Duration of a video whose header declares none, by its last time stamp; it is read, but not decoded.

    Raises VideoError as `probe`, and if there is no time stamp.
    """
    options = (*PICTURE_ONLY, "-c", "copy", "-f", "null", "-")
    with Ffmpeg(Path(path), output_options=options, time_limit_seconds=time_limit_seconds) as ffmpeg:
        ffmpeg.wait()
        seconds = Log(ffmpeg.log()).end_seconds()
    if not seconds:
        raise VideoError("neither its header nor its time stamps say how long it is")
    return seconds


def first_seconds(path: str | Path, *, time_limit_seconds: float = TIME_LIMIT_SECONDS) -> float:
    """Time of the first frame, from the start of the file: sound may begin earlier. 0 if no frame can be decoded."""
    output = ("-frames:v", "1", "-fps_mode", "passthrough", "-enc_time_base", "1:1000000", "-f", "framecrc", "-")
    with Ffmpeg(Path(path), output_options=(*PICTURE_ONLY, *output), time_limit_seconds=time_limit_seconds) as ffmpeg:
        lines = b"".join(ffmpeg.pieces()).decode().splitlines()
        ffmpeg.wait()
    stamps = [int(line.split(",")[2]) for line in lines if not line.startswith("#")]
    return stamps[0] / 1e6 if stamps else 0.0


class Decoder:
    """Decode one video to upright RGB frames: iterate over it once, then read `.result`.

    `short_side`: frames are scaled until their shorter side has this many pixels, and the longer side follows the
    aspect ratio, rounded to an even number; 0 keeps the size. `fps`: the video is resampled to this rate; 0 yields
    every frame of the file exactly once, as variable-rate videos need. `square_pixels`: a picture whose pixels are not
    square is scaled in width until they are; False takes the pixels as they are stored. Of several video streams, the
    one that ffmpeg takes is decoded: the default one, else the largest.

    Only frames at a time t with `start_seconds <= t < end_seconds` are decoded, in seconds from the start of the file;
    None is the end. Half a millisecond is allowed for the rounding of time stamps.

    `as_played`: picture k is what a player shows `start_seconds` + k / `fps` after the start of the file, so a frame from
    before the start stays until the next one. If the first frame comes later (`first_seconds`), it is picture 0.

    Iterating yields uint8 (H, W, 3) arrays, all of one size. It raises VideoError if not a single frame can be decoded;
    if the video or segment is longer than `max_seconds` (0: no limit), or has more than 1,000 frames for each of its
    seconds; if waiting for ffmpeg took longer than `time_limit_seconds` plus 30 s for each second of video; and if
    ffmpeg was killed. Most of them may come after some frames. Time that the caller spends between frames does not
    count. Damage raises nothing: `.result.damage` describes it.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        short_side: int = 0,
        fps: float = 0,
        square_pixels: bool = True,
        start_seconds: float = 0.0,
        end_seconds: float | None = None,
        as_played: bool = False,
        max_seconds: float = 0,
        time_limit_seconds: float = TIME_LIMIT_SECONDS,
    ):
        self.path = Path(path)
        self.short_side = short_side
        self.fps = fps
        self.square_pixels = square_pixels
        self.as_played = as_played
        self.start_seconds = start_seconds
        self.end_seconds = math.inf if end_seconds is None else end_seconds
        if not 0 <= self.start_seconds < self.end_seconds:
            raise ValueError(f"segment {start_seconds} to {end_seconds} s, expected 0 <= start < end")
        if as_played and not fps:
            raise ValueError("as_played without fps")
        self.segment = ""
        """as messages name it; empty for the whole video"""
        if start_seconds or end_seconds is not None:
            end = "the end" if end_seconds is None else f"{end_seconds:g} s"
            self.segment = f"segment {start_seconds:g} to {end}"
        self.max_seconds = max_seconds or math.inf
        self.time_limit_seconds = time_limit_seconds
        self.rate = fps
        """frames per second, known with the first frame: `fps`, else what the container declares; 0 if unknown"""
        self._result: Decoded | None = None

    @property
    def result(self) -> Decoded:
        """What was found out about the video; available once all frames have been read."""
        assert self._result is not None, "read all frames first"
        return self._result

    def __iter__(self) -> Iterator[np.ndarray]:
        if not self.segment:
            yield from self._decode(None, seek=False)
            return
        header = probe(self.path, time_limit_seconds=self.time_limit_seconds)
        self.check_length(header)
        try:
            # In other containers, seeking may land behind the key frame.
            yield from self._decode(header, seek=header.container.startswith(INDEXED_CONTAINERS))
        except _SeekFailed:
            yield from self._decode(header, seek=False)

    def _decode(self, header: VideoHeader | None, *, seek: bool) -> Iterator[np.ndarray]:
        """`seek`: start at the key frame before the segment instead of decoding everything before it."""
        seek_seconds = max(0.0, self.start_seconds - SEEK_MARGIN_SECONDS) if seek else 0.0
        with Ffmpeg(
            self.path,
            input_options=self._input_options(seek_seconds),
            output_options=self._output_options(seek_seconds),
            time_limit_seconds=self.time_limit_seconds,
        ) as ffmpeg:
            ffmpeg.seconds = self._seconds_to_decode(header, seek_seconds)
            num_frames = 0
            max_frames = math.inf
            for frame in ffmpeg.pictures():
                if num_frames == 0:
                    log = Log(ffmpeg.log())
                    if seek_seconds and log.complaint():
                        raise _SeekFailed
                    if log.is_open and not log.video_streams():
                        raise log.no_frames_error("no video stream")  # but cover art
                    if header is None:
                        header = log.read_header()
                        self.check_length(header)
                        ffmpeg.seconds = self._seconds_to_decode(header, seek_seconds)
                    self.rate = self.fps or (header.fps if header else 0)
                    max_frames = self.max_frames(header)
                num_frames += 1
                if num_frames > max_frames:
                    raise VideoError(f"more than {max_frames:g} frames, {MAX_RATE} for each second", "too long")
                ffmpeg.seconds = max(ffmpeg.seconds, num_frames / 60)  # the header may declare no duration
                yield frame
            exit_code = ffmpeg.wait()
            log = Log(ffmpeg.log())
        if num_frames == 0 and seek_seconds:
            raise _SeekFailed
        if num_frames == 0:
            what = self.segment or "the video"
            raise log.no_frames_error(f"no frame of {what} could be decoded (ffmpeg's exit code {exit_code})")
        self._result = self.assess(num_frames, exit_code, log, header)

    def _input_options(self, seek_seconds: float) -> list[str]:
        if not seek_seconds:
            return []
        # Otherwise ffmpeg drops what it decodes before that time, and with it the frame that is still shown then.
        return [*(["-noaccurate_seek"] if self.as_played else []), "-ss", f"{seek_seconds:.6f}"]

    def _output_options(self, seek_seconds: float) -> list[str]:
        start = max(0.0, self.start_seconds - seek_seconds)  # ffmpeg counts from the position of the seek
        # If the declared duration is too small or missing, decoding still stops soon after max_seconds.
        end = min(self.end_seconds - seek_seconds, start + self.max_seconds + 2 * MISSING_SECONDS)
        bounds = []
        if start > 0 and not self.as_played:
            bounds.append(f"start={start - STAMP_SECONDS:.6f}")
        if end < math.inf:
            bounds.append(f"end={end - STAMP_SECONDS:.6f}")
        trim = f"trim={':'.join(bounds)}," if bounds else ""
        if self.as_played:
            # Of frames in the middle between two pictures, all go to the later one, however their stamps are rounded.
            shift = f"setpts=PTS-({start - STAMP_SECONDS:.6f})/TB"
            filters, rate = [f"settb=AVTB,{trim}{shift},fps={self.fps:g},trim=start=0"], 0.0
        else:
            filters, rate = [f"settb=AVTB,{trim}setpts=PTS-{start:.6f}/TB"] if trim else [], self.fps
        return picture_output(filters, fps=rate, short_side=self.short_side, square_pixels=self.square_pixels) + [
            "pipe:1"
        ]

    def check_length(self, header: VideoHeader | None) -> None:
        """Raises VideoError if the header says that there is nothing or too much to decode."""
        if header is None or header.declared_seconds is None:
            return
        if self.start_seconds >= header.declared_seconds:
            raise VideoError(f"{self.segment}, but the video ends at {header.declared_seconds:.1f} s", "beyond the end")
        seconds = self._declared_seconds(header)
        if seconds is not None and seconds > self.max_seconds:
            raise VideoError(f"{seconds:.1f} s long, at most {self.max_seconds:g} s are allowed", "too long")

    def max_frames(self, header: VideoHeader | None) -> float:
        """Frames after which a video with this header is known to have too many."""
        return MAX_RATE * (MISSING_SECONDS + (self._declared_seconds(header) or self.max_seconds))

    def _declared_seconds(self, header: VideoHeader | None) -> float | None:
        """Declared duration of the video, or of the part that the segment covers."""
        if header is None or header.declared_seconds is None:
            return None
        return min(self.end_seconds, header.declared_seconds) - self.start_seconds

    def _seconds_to_decode(self, header: VideoHeader | None, seek_seconds: float) -> float:
        return (self._declared_seconds(header) or 0.0) + self.start_seconds - seek_seconds

    def assess(self, num_frames: int, exit_code: int, log: Log, header: VideoHeader | None) -> Decoded:
        """Decide from ffmpeg's log whether the frames are the whole video or segment; VideoError if it was too long."""
        seconds = log.end_seconds()
        if (seconds or 0) > self.max_seconds + MISSING_SECONDS:
            raise VideoError(f"continues after {self.max_seconds:g} s, the longest duration allowed", "too long")
        rate = self.fps or (header.fps if header else 0) or (num_frames / seconds if seconds else 0)
        notes = self._notes(log, header) + self._time_notes(num_frames, log, header)
        damage = log.complaint() or (f"ffmpeg's exit code {exit_code}" if exit_code else "")
        damage = damage or self._lost_frames(num_frames, log, header)
        if not damage and (complaint := log.complaint_of_the_file()):
            if self._has_all_frames(num_frames, log, header):
                notes.append(f"complete, though ffmpeg said of the file: {complaint}")
            else:
                damage = complaint
        kind = "damaged" if damage else ""
        if missing_end := self._missing_end(log, header, rate):
            if self._is_shorter_than_others(header):
                notes.append("another stream, such as sound, goes on after the picture")
            else:
                damage = f"{missing_end}: {damage}" if damage else missing_end
                kind = "cut short"
        declared = self._declared_seconds(header)
        return Decoded(num_frames, round(rate, 3), declared, damage, kind, tuple(notes))

    def _lost_frames(self, num_frames: int, log: Log, header: VideoHeader | None) -> str:
        """A text if frames were not decoded, or were lost between the decoder and here; else empty."""
        num_decoded = log.num_decoded()
        if num_decoded is not None and num_decoded != num_frames and not (self.segment or self.fps):
            return f"{num_decoded} frames decoded, but {num_frames} received"
        if errors := log.num_decode_errors():
            return f"{errors} packets could not be decoded"
        if header and header.fps and header.declared_seconds and header.fps * header.declared_seconds < 0.5:
            apart = f"{1 / header.fps:.0f} s apart in a video of {header.declared_seconds:g} s"
            return f"its time stamps are wrong, frames are {apart}, so most of them are missing"
        return ""

    def _has_all_frames(self, num_frames: int, log: Log, header: VideoHeader | None) -> bool:
        """Whether there are as many frames as rate and duration declare; a tenth of a second may be the sound's."""
        expected = self._num_declared(header)
        count = log.num_decoded() if self.fps and not self.segment else num_frames
        if expected is None or count is None or (self.fps and self.segment) or header is None:
            return False
        return abs(count - expected) <= 1 + 0.1 * header.fps + 0.001 * expected

    def _num_declared(self, header: VideoHeader | None) -> float | None:
        """Frames of the video or segment by the rate and duration that its header declares; None if it does not."""
        seconds = self._declared_seconds(header)
        rate = (header.fps or header.stamps_per_second) if header else 0.0
        return rate * seconds if seconds and rate else None

    def _missing_end(self, log: Log, header: VideoHeader | None, rate: float) -> str:
        """A text if the frames end too early; empty if they do not, or if it is unknown."""
        seconds = log.end_seconds()
        end = header.declared_seconds if header else None
        declared = self._declared_seconds(header)
        if end is None or declared is None or seconds is None:
            return ""
        tolerance = max(MISSING_SECONDS, MISSING_FRACTION * end)
        if self.segment:
            # `seconds` is the end of the last frame, or in ffmpeg 7 its start.
            tolerance = min(tolerance, declared / 2 + (1 / rate if rate else 0))
        if declared - seconds <= tolerance:
            return ""
        return f"ends after {seconds:.1f} s of the declared {declared:.1f} s"

    def _is_shorter_than_others(self, header: VideoHeader | None) -> bool:
        """Whether the declared end is that of another stream: the file is complete, but its picture ends earlier."""
        if header is None or header.is_own_duration or header.declared_seconds is None:
            return False
        others = ("-map", "0", "-map", f"-0:{header.stream_index}", "-ignore_unknown")
        options = (*others, "-map_metadata", "-1", "-map_chapters", "-1", "-c", "copy", "-f", "null", "-")
        with Ffmpeg(self.path, output_options=options, time_limit_seconds=self.time_limit_seconds) as ffmpeg:
            ffmpeg.seconds = header.declared_seconds
            ffmpeg.wait()
            log = Log(ffmpeg.log())
        end = log.end_seconds()
        tolerance = max(MISSING_SECONDS, MISSING_FRACTION * header.declared_seconds)
        return end is not None and header.declared_seconds - end <= tolerance

    def _notes(self, log: Log, header: VideoHeader | None) -> list[str]:
        notes = log.size_changes(header)
        end = header.declared_seconds if header else None
        if header is None or end is None or header.container.startswith(UNDECLARED_CONTAINERS):
            notes.append("declares no duration of its own, so a missing end cannot be detected")
        if header and header.num_streams > 1:
            notes.append(f"{header.num_streams} video streams, of which the default one was taken")
        if header and abs(header.pixel_aspect - 1) >= NEARLY_SQUARE:
            treatment = "scaled until they are" if self.square_pixels else "taken as if they were"
            notes.append(f"its pixels are not square: {treatment}")
        if log.jumps_back():
            notes.append("time stamps begin again, as where files were joined")
        notes += [] if self.segment else self._count_notes(log, header)
        if end is not None and end + MISSING_SECONDS < self.end_seconds < math.inf:
            notes.append(f"{self.segment}, but the video ends at {end:.1f} s")
        return notes

    def _count_notes(self, log: Log, header: VideoHeader | None) -> list[str]:
        """What the numbers of frames say: those of the declared duration, and those of the time that passed."""
        num_decoded, declared, seconds = log.num_decoded(), self._num_declared(header), log.end_seconds()
        if header is None or not (num_decoded and declared and seconds and header.declared_seconds):
            return []
        if num_decoded > 1.05 * declared + MISSING_SECONDS * (declared / header.declared_seconds):
            return ["more frames than its rate and duration declare, as where files were joined"]
        if num_decoded < 0.98 * declared * min(seconds / header.declared_seconds, 1) - 1:
            return ["fewer frames than its rate and duration declare: a variable rate, or lost frames"]
        return []

    def _time_notes(self, num_frames: int, log: Log, header: VideoHeader | None) -> list[str]:
        """A note if the number of a frame and the rate do not say when it is shown."""
        rate = self.fps or (header.fps if header else 0.0)
        if self.segment or header is None or not rate:
            return []
        stamps, seconds = header.stamps_per_second, log.end_seconds()
        is_even = not stamps or any(
            abs(stamps - ratio * rate) <= 0.002 * stamps + 0.01  # ffmpeg prints hundredths
            for ratio in EVEN_RATIOS
        )
        if (is_even or self.fps) and (seconds is None or abs(num_frames / rate - seconds) <= UNEVEN_SECONDS):
            return []
        return ["a variable frame rate, or a picture that begins late: times are approximate"]


class _SeekFailed(Exception):
    """ffmpeg complained before the segment's first frame, or found no frame.

    If groups of pictures refer to the one before (open GOP), such a complaint need not mean damage.
    """
