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
from twostream.own_clips.looks import Look, MotionSample, short_side_of
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
CLIPS = 6
"""of each video that a linear head is fitted to, and that is tested, if there is time"""
SMALL_SIDE, SMALL_QUALITY = 160, ("--quality=98", "--flow_quality=90")
"""pictures up to this short side are stored nearly without loss: they are enlarged for the networks, and JPEG's blocks with them"""
FRAMES_APART = 2
"""clips of a video that begin closer together show nearly the same; 4 frames apart, basketball has 2 clips of a video instead of
4, and RGB a loss of 1.18 instead of 1.12 in cross-validation"""
NUM_VIEWS = 3
HALVES = "mobilenet_v2_halves"
"""Beside single frames in three views, by loss in cross-validation over training videos: .79 for .97 on UT-Interaction, .27 for
.31 on yoga; 1.19 for 1.12 on basketball, where a half has one frame"""
MIN_FRAMES_OF_HALVES = 4
"""two in each half"""
CELLS, CELLS_TRUNK, CELLS_SIZE = "squeezenet1_1_cells", "squeezenet1_1", 224
"""A head on another network, and where things are: on basketball its loss in cross-validation is 1.13, that of the first head 1.16"""
CELLS_FLAGS = (f"--input_size={CELLS_SIZE}", f"--resize_side={CELLS_SIZE}x{CELLS_SIZE}")
"""whole pictures, squeezed to a square"""
CHOICE = "the head of each stream with the smallest loss in cross-validation is used, and others that make the loss of all together clearly smaller"
FEATURES_SHARE = 0.25
"""of the time, for the features of one stream"""
TRAINED_SIZE, BATCH_SIZE = 64, 16
"""crops and clips per iteration of trainings from random weights: the recipe of docs/real_footage.md"""
MIN_TRAINED = 40
"""training videos; a quarter of fewer cannot tell whether such a training is better than a linear head"""
MIN_EPOCHS, MAX_EPOCHS = 100, 250
"""of such trainings: on UT-Interaction, 72 only reach the linear head (12 of 17 unseen videos each), 220 are right for 86 %"""
TRAINING_COST = 6.0
"""a step of training, in passes forward of single pictures: two passes backward, stacks of frames, and loading"""
FIXED_SECONDS = 70.0
"""start of the commands, histograms of flow, evaluation, page and export"""
HEAD_SECONDS = 8.0
"""start of the command for a further head, and its fit"""
READING = 2.0
"""time for features, divided by that of the network alone: pictures are read and cut too"""
SIDES = re.compile(r"\b(left|right|clockwise|counterclockwise|anticlockwise|forehand|backhand)\b", re.IGNORECASE)
WORTH = "features of ImageNet, the best start for few clips where appearance decides: 23 of 23 yoga poses right, 12 without them"
"""the numbers: RGB on the folders of videos of docs/real_footage.md's yoga, without its list"""


@dataclass(frozen=True)
class StreamPlan:
    """How a stream is made."""

    name: str
    """of its runs: rgb or flow"""
    input_type: str
    heads: dict[str, tuple[str, ...]]
    """flags of twostream train for linear heads on networks as they are, by the name of the run after that of the stream"""
    trained: tuple[str, ...] = ()
    """flags of twostream train: the same stream trained from random weights, to be compared with its best head; empty: not tried"""


@dataclass(frozen=True)
class Plan:
    """Everything that is decided before the first command."""

    extract: tuple[str, ...]
    """flags of twostream extract"""
    streams: tuple[StreamPlan, ...]
    test: tuple[str, ...]
    """flags of twostream test"""
    reasons: tuple[str, ...]


@dataclass(frozen=True)
class Speed:
    """What this machine does in a second."""

    num_cpus: int
    trunk: float
    """pictures through the network whose features are used"""
    cells: float
    """pictures through CELLS_TRUNK; 0 if it is not used"""
    small: float
    """pictures of TRAINED_SIZE through the network that is trained from random weights"""


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
    seconds = 60 * minutes
    num_frames = len(clips) * statistics.fmean(look.seconds * (fps or look.fps) for look in looks)
    extraction = extraction_seconds(looks, motion, fps=fps, num_clips=len(clips), num_cpus=speed.num_cpus)
    short_side = short_side_of(looks)
    reasons.append(
        f"frames: about {num_frames:.0f} with a short side of {short_side} pixels, about {extraction:.0f} s to extract with their flow: {ENGINES[engine]}"
    )
    quality = SMALL_QUALITY if short_side <= SMALL_SIDE else ()
    rate = [f"--fps={fps:g}"] if fps else []
    extract = (f"--short_side={short_side}", f"--bound={advice.bound}", *rate, *quality, f"--flow_engine={engine}")

    mirror = _sides(clip.label for clip in clips)
    reasons.append(
        f"no mirroring: class names speak of {shown(mirror)}"
        if mirror
        else "clips are mirrored too: no class name speaks of a side"
    )
    used, small_input = (trunk.backbone, False) if trunk else (SMALL, True)
    reasons.append(
        f"features: {used}, weights {trunk.path}" if trunk
        else f"features: {used} with random weights, as none are at hand: {fetch} brings some; {WORTH}"
    )  # fmt: skip
    num_train = list(splits).count("train")
    pictures = num_train * (1 if mirror else 2) + len(clips) - num_train
    fits = int(FEATURES_SHARE * seconds * speed.trunk / READING / pictures)
    num_clips = max(
        min(fits, CLIPS, math.ceil(_quarter(look.seconds * (fps or look.fps) for look in looks) / FRAMES_APART)), 1
    )
    common = [f"--mirror={not mirror}"]
    head = ["--head=linear", f"--clips_per_video={num_clips}", *common]
    size = [f"--input_size={2 * TRAINED_SIZE}"] if small_input else []
    start = [f"--init_from={trunk.path}"] if trunk else ["--pretrained=False"]
    features = (*head, f"--arch={used}", *start, *size)
    stack = advice.train_flags()
    cost = READING * num_clips * pictures / speed.trunk
    left = seconds - FIXED_SECONDS - extraction - cost
    reasons.append(
        f"linear head for RGB: {counted(num_clips, 'clip')} of each video, the centre of the pictures, about {cost:.0f} s at {speed.trunk:.0f} pictures/s"
    )
    rgb = {"linear": features}
    flow = {"linear": (*head, "--arch=flow_histograms", *stack, "--views=five")}
    wide, words, views = _wide_head(used, looks, fps, num_clips)
    further = []
    if second:
        cells = (*head, f"--arch={CELLS}", f"--init_from={second.path}", *CELLS_FLAGS)
        words_of_cells = f"RGB on {CELLS_TRUNK}, in four cells of the whole pictures"
        further.append(_Further(rgb, "cells", cells, words_of_cells, READING * num_clips * pictures / speed.cells))
    if wide:
        flags = ("--head=linear", *common, *wide, *start, *size)
        further.append(_Further(rgb, "wide", flags, f"RGB on {words}", views * cost))
    if trunk:
        further.append(_Further(flow, "features", (*features, *stack), f"flow on features of {used}", cost))
    left, sentences = _add_heads(further, left, minutes=minutes)
    reasons += ["linear head for flow: on histograms of flow, which need no weights", *sentences]
    candidates = ["flow"] if trunk else ["flow", "rgb"]
    trained, sentences = _trained_flags(
        left, candidates, minutes=minutes, num_train=num_train, speed=speed, common=common
    )
    streams = tuple(
        StreamPlan(name, input_type, heads, (*trained[name], *stack) if name in trained else ())
        for name, input_type, heads in (("rgb", "rgb", rgb), ("flow", "farneback", flow))
    )
    return Plan(extract, streams, (f"--num_clips={num_clips}", "--views=centre"), (*reasons, *sentences))


@dataclass(frozen=True)
class _Further:
    """A linear head that is fitted if there is time."""

    heads: dict[str, tuple[str, ...]]
    """of the stream, to which it is added"""
    name: str
    flags: tuple[str, ...]
    words: str
    """what it looks at"""
    seconds: float
    """for its features"""


def _add_heads(further: Sequence[_Further], left: float, *, minutes: float) -> tuple[float, list[str]]:
    """Add the heads for which there is time, in this order; the seconds that are left then, and a sentence about each."""
    sentences = []
    for head in further:
        needed = head.seconds + HEAD_SECONDS
        is_tried = needed < left
        sentences.append(f"another for {head.words}: " + (
            f"about {needed:.0f} s" if is_tried
            else f"not tried, {max(left, 0):.0f} s are left and {needed:.0f} s are needed: --minutes={minutes + math.ceil((needed - left) / 60):g} would do"
        ))  # fmt: skip
        if is_tried:
            left -= needed
            head.heads[head.name] = head.flags
    is_choice = any(head.name in head.heads for head in further)
    return left, [*sentences, *([CHOICE] if is_choice else [])]


def _wide_head(backbone: str, looks: Sequence[Look], fps: float, num_clips: int) -> tuple[tuple[str, ...], str, int]:
    """Flags of a head on RGB that sees more than single frames of the centre, what that is in words, and its views.

    It sees as many frames, so each view costs what the head on single frames costs. No flags where there is no more to see.
    """
    views, flags, words = 1, [f"--arch={backbone}", f"--clips_per_video={num_clips}"], []
    if f"{backbone}_halves" == HALVES and num_clips >= MIN_FRAMES_OF_HALVES:
        gap = max(int(_quarter(look.seconds * (fps or look.fps) for look in looks) - 1) // (num_clips - 1), 1)
        flags = [f"--arch={HALVES}", "--clips_per_video=1", "--num_clips=1", f"--seq_len={num_clips}", f"--gap={gap}"]
        words.append(f"the two halves of a clip of {num_clips} frames, {gap} apart, side by side")
    if _is_long(looks):
        views, flags = NUM_VIEWS, [*flags, "--views=three"]
        words.append(f"{NUM_VIEWS} views that cover the pictures")
    return tuple(flags) if words else (), ", in ".join(words), views


def _sides(labels: Iterable[str]) -> list[str]:
    """Words for a side in labels such as turn_left or TurnLeft."""
    found = (SIDES.search(re.sub(r"[_-]|(?<=[a-z])(?=[A-Z])", " ", label)) for label in labels)
    return sorted({match[0].lower() for match in found if match})


def _quarter(values: Iterable[float]) -> float:
    """What a quarter of the values do not exceed."""
    ordered = sorted(values)
    return ordered[len(ordered) // 4]


def _is_long(looks: Sequence[Look]) -> bool:
    """Are the pictures longer than high, or higher than wide, by a fifth or more, so that the centre leaves much out?"""
    return statistics.median(max(look.width, look.height) / min(look.width, look.height) for look in looks) >= 1.2


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
    short = _quarter(look.seconds for look in looks)
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
    rate = fps or statistics.median(look.fps for look in looks)
    short = _quarter(look.seconds for look in looks)
    slowest = max(SLOWEST_FPS, MIN_FRAMES / short if short else rate)
    lower = max(math.floor(rate * allowed / seconds), math.ceil(slowest))
    if seconds <= allowed or lower > 0.8 * rate:
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


def _trained_flags(
    seconds: float, candidates: Sequence[str], *, minutes: float, num_train: int, speed: Speed, common: Sequence[str]
) -> tuple[dict[str, list[str]], list[str]]:
    """By stream, the flags of a training from random weights, where time and videos allow it; and sentences about it."""
    if num_train < MIN_TRAINED:
        return {}, [
            f"training from random weights: not tried, {counted(num_train, 'training video')} are fewer than {MIN_TRAINED}"
        ]
    steps_per_epoch = max(num_train / BATCH_SIZE, 1)
    per_step = BATCH_SIZE * TRAINING_COST / speed.small
    # Each is trained twice: without a part of the videos, to compare it with the linear head, and if it wins with all.
    possible = seconds / 2 / len(candidates) / per_step / steps_per_epoch
    if possible < MIN_EPOCHS:
        needed = 2 * len(candidates) * MIN_EPOCHS * steps_per_epoch * per_step
        return {}, [
            f"training from random weights ({', '.join(candidates)}): not tried, {max(seconds, 0):.0f} s are left and {needed:.0f} s are needed: "
            f"--minutes={minutes + math.ceil((needed - seconds) / 60):g} would do"
        ]  # fmt: skip
    epochs = min(int(possible), MAX_EPOCHS)
    iterations = int(epochs * steps_per_epoch)
    flags = [
        f"--arch={SMALL}", "--pretrained=False", f"--batch_size={BATCH_SIZE}", "--num_segments=1", "--schedule=cosine",
        "--warm_up=30", "--weight_decay=0.0005", "--clip_norm=5", "--dropout=0.3", "--crop=corners",
        "--crop_scales=1,.875,.75", f"--input_size={TRAINED_SIZE}", "--lr=0.03", f"--max_iterations={iterations}",
        f"--val_interval={iterations}", *common,
    ]  # fmt: skip
    sentence = (
        f"training from random weights ({', '.join(candidates)}): {iterations} iterations of {counted(BATCH_SIZE, 'clip')}, {epochs} epochs, about "
        f"{iterations * per_step:.0f} s; on a held-out part of the training videos first, and it is used only if it wins there"
    )
    return {name: flags for name in candidates}, [sentence]


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
