"""What is done with a user's clips, and a reason for each choice."""

import math
import re
import statistics
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from twostream.counts import counted
from twostream.errors import BadInputError
from twostream.frames.motion import FlowAdvice, suggest_flow
from twostream.own_clips.collection import Clip, shown
from twostream.own_clips.looks import Look, MotionSample, quarter, short_side_of
from twostream.own_clips.streams import Budget, Speed, StreamPlan, Videos, plan_streams
from twostream.own_clips.trunks import SMALL, Trunk

FPS = 10.0
"""frames per second that are extracted of faster videos: actions take a second or more, and flow is a third of the work of 30"""
MIN_FRAMES = 10
"""of a quarter of the clips; where `FPS` leaves fewer, the videos keep their rate"""
EXTRACTION_SHARE = 0.4
"""of the time, for the extraction; where it would take longer, fewer frames per second are extracted"""
SLOWEST_FPS = 3.0
ENGINES = {
    "numba": "flow by numba, which takes about half of OpenCV's time",
    "opencv": "flow by OpenCV; pip install 'twostream-video[numba]' would halve the time that flow takes",
}
"""--flow_engine of extract -> what is said of it"""
SMALL_SIDE, SMALL_QUALITY = 160, ("--quality=98", "--flow_quality=90")
"""pictures up to this short side are stored nearly without loss: they are enlarged for the networks, and JPEG's blocks with them"""
SIDES = re.compile(r"\b(left|right|clockwise|counterclockwise|anticlockwise|forehand|backhand)\b", re.IGNORECASE)
WORTH = "features of ImageNet, the best start for few clips where appearance decides: 23 of 23 yoga poses right, 12 without them"
"""the numbers: RGB on the folders of videos of docs/real_footage.md's yoga, without its list"""
FIXED_SECONDS = 70.0
"""start of the commands, histograms of flow, evaluation, page and export"""


@dataclass(frozen=True)
class Plan:
    """Everything that is decided before the first command."""

    extract: tuple[str, ...]
    """flags of twostream extract"""
    streams: tuple[StreamPlan, ...]
    test: tuple[str, ...]
    """flags of twostream test"""
    reasons: tuple[str, ...]


def make_plan(
    clips: Sequence[Clip], splits: Sequence[str], looks: Sequence[Look], motion: MotionSample | None, *, fps: float,
    engine: str, trunk: Trunk | None, second: Trunk | None, fetch: str, speed: Speed, minutes: float,
) -> Plan:  # fmt: skip
    """Choose the extraction, the streams and their recipes for clips with these splits, of which some were looked at.

    `fps` is the rate at which the motion was sampled, 0 for that of the files; `engine`, one of ENGINES, computed the flow;
    `second` is CELLS_TRUNK, where its weights are at hand too; `fetch` is the command that brings weights.
    """
    advice = _advise(looks, motion, fps)
    fps = advice.fps or fps
    reasons = list(advice.reasons)
    num_frames = len(clips) * statistics.fmean(look.seconds * (fps or look.fps) for look in looks)
    extraction = extraction_seconds(looks, motion, fps=fps, num_clips=len(clips), num_cpus=speed.num_cpus)
    short_side = short_side_of(looks)
    reasons.append(
        f"frames: about {num_frames:.0f} with a short side of {short_side} pixels, about {extraction:.0f} s to extract with their flow: {ENGINES[engine]}"
    )
    quality = SMALL_QUALITY if short_side <= SMALL_SIDE else ()
    rate = [f"--fps={fps:g}"] if fps else []
    extract = (f"--short_side={short_side}", f"--bound={advice.bound}", *rate, *quality, f"--flow_engine={engine}")

    sides = _sides(clip.label for clip in clips)
    reasons.append(
        f"no mirroring: class names speak of {shown(sides)}"
        if sides
        else "mirror images are used too, unless cross-validation is clearly better without them: no class name speaks of a side"
    )
    reasons.append(
        f"features: {trunk.backbone}, weights {trunk.path}" if trunk
        else f"features: {SMALL} with random weights, as none are at hand: {fetch} brings some; {WORTH}"
    )  # fmt: skip
    num_train = list(splits).count("train")
    videos = Videos(looks, fps, num_train, len(clips) - num_train, bool(sides), tuple(advice.train_flags()))
    budget = Budget(minutes, 60 * minutes - FIXED_SECONDS - extraction)
    streams, num_clips = plan_streams(videos, budget, trunk=trunk, second=second, speed=speed)
    return Plan(extract, streams, (f"--num_clips={num_clips}", "--views=centre"), (*reasons, *budget.reasons))


def _sides(labels: Iterable[str]) -> list[str]:
    """Words for a side in labels such as turn_left or TurnLeft."""
    found = (SIDES.search(re.sub(r"[_-]|(?<=[a-z])(?=[A-Z])", " ", label)) for label in labels)
    return sorted({match[0].lower() for match in found if match})


def _advise(looks: Sequence[Look], motion: MotionSample | None, fps: float) -> FlowAdvice:
    """What suits the motion; the defaults of the programs where none could be sampled."""
    if motion is None:
        return FlowAdvice(20, 0.0, 5, 1, ())
    rates = [fps or look.fps for look in looks if fps or look.fps]
    num_frames = [max(round(look.seconds * (fps or look.fps)), 1) for look in looks]
    return suggest_flow(motion.motion, bound=motion.bound, num_frames=num_frames, fps=rates)


def choose_fps(looks: Sequence[Look]) -> tuple[float, str]:
    """The rate at which frames are extracted, 0 for that of the files; and the reason."""
    rates = [look.fps for look in looks if look.fps]
    rate = statistics.median(rates) if rates else 0.0
    short = quarter(look.seconds for look in looks)
    if rate <= 1.5 * FPS:
        return 0.0, f"rate: the {rate:.3g} frames/s of the videos"
    if short * FPS < MIN_FRAMES:
        return (
            0.0,
            f"rate: the {rate:.3g} frames/s of the videos, as a quarter of them are no longer than {short:.2g} s",
        )
    return (
        FPS,
        f"rate: {FPS:g} of {rate:.3g} frames/s: actions take a second or more, and flow takes a part of the time",
    )


def afford_fps(
    looks: Sequence[Look], motion: MotionSample | None, *, fps: float, num_clips: int, num_cpus: int, minutes: float
) -> tuple[float, str]:
    """A lower rate than `fps` (0: that of the files), if the extraction takes too much of the time otherwise, and why.

    The rate is 0 where nothing changes.
    """
    seconds = extraction_seconds(looks, motion, fps=fps, num_clips=num_clips, num_cpus=num_cpus)
    allowed = EXTRACTION_SHARE * 60 * minutes
    if seconds <= allowed:
        return 0.0, ""
    rate = fps or statistics.median(look.fps for look in looks)
    short = quarter(look.seconds for look in looks)
    slowest = max(SLOWEST_FPS, MIN_FRAMES / short if short else rate)
    lower = max(math.floor(rate * allowed / seconds), math.ceil(slowest))
    if lower > 0.8 * rate:
        return 0.0, ""
    return float(lower), (
        f"rate: {lower} frames/s, as {rate:.3g} would take {seconds:.0f} s to extract; --minutes={2.5 * seconds / 60:.0f} allows that"
    )


def extraction_seconds(
    looks: Sequence[Look], motion: MotionSample | None, *, fps: float, num_clips: int, num_cpus: int
) -> float:
    """About how long it takes to extract frames and flow at a rate, 0 for that of the files."""
    frames = num_clips * statistics.fmean(look.seconds * (fps or look.fps) for look in looks)
    return frames * (motion.seconds_per_frame if motion else 0.02) / num_cpus


def describe(clips: Sequence[Clip], looks: Sequence[Look]) -> list[str]:
    """Sentences about what there is."""
    counts = Counter(clip.label for clip in clips)
    (large, most), (small, least) = counts.most_common()[0], counts.most_common()[-1]
    lines = [
        f"{counted(len(clips), 'clip')}, {counted(len(counts), 'class', 'classes')}: {least} ({small}) to {most} ({large}) of a class"
    ]
    seconds = sorted(look.seconds for look in looks)
    rates = sorted(look.fps for look in looks)
    sizes = Counter(f"{look.width}x{look.height}" for look in looks)
    portrait = sum(look.height > look.width for look in looks)
    lines.append(
        f"{_range(seconds)} s, median {statistics.median(seconds):.3g}; {_range(rates)} frames/s; {shown([s for s, _ in sizes.most_common()])} pixels"
        + (f", {portrait} portrait" if portrait else "")
    )
    return lines


def _range(values: Sequence[float]) -> str:
    first, last = f"{values[0]:.3g}", f"{values[-1]:.3g}"
    return first if first == last else f"{first} to {last}"


def check_enough(clips: Sequence[Clip], splits: Sequence[str]) -> None:
    """BadInputError unless there is something to learn from, to choose by and to judge on."""
    train = Counter(clip.label for clip, split in zip(clips, splits, strict=True) if split == "train")
    judged = list(splits).count("val")
    if len(train) < 2 or max(train.values(), default=0) < 2 or not judged:
        counts = Counter(clip.label for clip in clips)
        name, fewest = counts.most_common()[-1]
        raise BadInputError(
            f"{counted(len(clips), 'clip')}, of class {name!r} only {fewest}; expected at least 3 of a class: one to judge on, and two to learn "
            "from in cross-validation; add clips, or cut longer videos into parts with twostream label"
        )
