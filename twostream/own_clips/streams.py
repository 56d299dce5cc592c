"""How the streams of a plan are made: their linear heads, and their trainings, as far as the time allows them."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from twostream.counts import counted
from twostream.own_clips.looks import Look, quarter
from twostream.own_clips.trunks import SMALL, Trunk

CLIPS = 6
"""of each video that a linear head is fitted to, and that is tested, if there is time"""
FRAMES_APART = 2
"""clips of a video that begin closer together show nearly the same; 4 frames apart, basketball has 2 clips of a video instead of
4, and RGB a loss of 1.18 instead of 1.12 in cross-validation"""
NUM_VIEWS = 3
HALVES = "mobilenet_v2_halves"
"""Beside single frames in three views, by loss in cross-validation over training videos: .79 for .97 on UT-Interaction, .27 for
.31 on yoga; 1.19 for 1.12 on basketball, where a half has one frame"""
MIN_FRAMES_OF_HALVES = 5
"""two in each half, and one between them"""
TRUNK_CELLS = "mobilenet_v2_cells"
"""where clips are shorter: on basketball its loss in cross-validation is 1.15, that of CELLS 1.13, and of both together 1.06 (means of
six draws of the folds)"""
CELLS, CELLS_TRUNK, CELLS_SIZE = "squeezenet1_1_cells", "squeezenet1_1", 224
"""A head on another network, and where things are: on basketball its loss in cross-validation is 1.13, that of the first head 1.16"""
CELLS_FLAGS = (f"--input_size={CELLS_SIZE}", f"--resize_side={CELLS_SIZE}x{CELLS_SIZE}")
"""whole pictures, squeezed to a square"""
FISHER = "flow_fisher"
"""A head on local motion: on UT-Interaction its loss in cross-validation is .32, that of histograms .43; on yoga .68 and .43"""
MIN_FISHER_FRAMES, MAX_FISHER_FRAMES = 12, 64
"""of its clips: three times its cells in time; and what memory and time allow"""
CODEBOOK_CLIPS = 200
"""that its codebook is fitted to, at most, with their mirror images"""
FISHER_FRAME, FISHER_SECONDS = 0.5, 15.0
"""time for a frame of it, in pictures of TRAINED_SIZE through the small network; and for start, codebook and fit"""
CHOICE = "the head of each stream with the smallest loss in cross-validation is used, and others that make the loss of all together clearly smaller"
FEATURES_SHARE = 0.25
"""of the time, for the features of one stream"""
BATCH_SIZE = 16
"""clips per iteration of trainings"""
TUNING = (
    f"--batch_size={BATCH_SIZE}", "--num_segments=1", "--schedule=cosine", "--warm_up=10", "--lr=0.003", "--trunk_factor=0.3",
    "--batch_norm=frozen", "--weight_decay=0.0005", "--clip_norm=5", "--dropout=0.2",
)  # fmt: skip
"""flags of a training from a linear head: small steps, smaller ones below the head; results in docs/real_footage.md"""
MIN_TUNED, MAX_TUNED = 10, 30
"""epochs of it"""
TRAINED_SIZE = 64
"""crops of trainings from random weights: the recipe of docs/real_footage.md"""
MIN_TRAINED = 40
"""training videos; a quarter of fewer cannot tell whether such a training is better than a linear head"""
MIN_EPOCHS, MAX_EPOCHS = 100, 250
"""of such trainings: on UT-Interaction, 72 only reach the linear head (12 of 17 unseen videos each), 220 are right for 86 %"""
TRAINING_COST = 6.0
"""a step of training, in passes forward of single pictures: two passes backward, stacks of frames, and loading"""
HEAD_SECONDS = 14.0
"""start of the command for a further head, and its fit"""
READING = 1.5
"""time for features, divided by that of the network alone: pictures are read and cut too; 1.1 to 1.5 were measured"""


@dataclass(frozen=True)
class HeadPlan:
    """A linear head on a network as it is, and perhaps a training of all layers that begins there."""

    clips: tuple[str, ...]
    """flags of twostream train: the network, and what a clip is"""
    fit: tuple[str, ...]
    """further flags for the head: the weights of the network, and which clips of a video it is fitted to"""
    seen: tuple[str, ...] = ()
    """further flags for the head and for twostream test: what is looked at, where that is not the same for all heads"""
    tuned: tuple[str, ...] = ()
    """further flags for the training; empty: not tried"""


@dataclass(frozen=True)
class StreamPlan:
    """How a stream is made."""

    name: str
    """of its runs: rgb or flow"""
    input_type: str
    heads: dict[str, HeadPlan]
    """by the name of the run after that of the stream"""
    trained: tuple[str, ...] = ()
    """flags of twostream train: the same stream trained from random weights, to be compared with its best head; empty: not tried"""


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


@dataclass
class Budget:
    """The time that is left, and a sentence about everything that was tried to fit into it."""

    minutes: float
    """for all"""
    left: float
    """seconds"""
    reasons: list[str] = field(default_factory=list)

    def spend(self, seconds: float, what: str) -> bool:
        """Spend seconds on something if they are left."""
        if seconds >= self.left:
            self._leave_out(seconds, what)
            return False
        self.reasons.append(f"{what}: about {seconds:.0f} s")
        self.left -= seconds
        return True

    def epochs(self, seconds: float, what: str, *, fewest: int, most: int) -> int:
        """How many epochs there is time for, when one takes `seconds`; at most `most`, and 0 instead of fewer than `fewest`.

        Each training is done twice: without a part of the videos, to compare it with a linear head, and if it wins with all.
        """
        if (possible := int(self.left / 2 / seconds)) < fewest:
            self._leave_out(2 * fewest * seconds, what)
            return 0
        epochs = min(possible, most)
        self.reasons.append(
            f"{what}: {epochs} epochs, about {epochs * seconds:.0f} s; on a held-out part of the training videos first, and it is used only if it "
            "wins there"
        )
        return epochs

    def _leave_out(self, needed: float, what: str) -> None:
        minutes = self.minutes + math.ceil((needed - self.left) / 60)
        self.reasons.append(
            f"{what}: not tried, {max(self.left, 0):.0f} s are left and {needed:.0f} s are needed: --minutes={minutes:g} would do"
        )


@dataclass(frozen=True)
class Videos:
    """What the plan of the streams needs to know of the videos."""

    looks: Sequence[Look]
    """at some of them"""
    fps: float
    """of their frames; 0: as in the files"""
    num_train: int
    num_val: int
    has_sides: bool
    """do class names speak of left and right?"""
    stack: tuple[str, ...]
    """flags of twostream train for stacks of flow"""

    @property
    def short(self) -> float:
        """Frames that three quarters of the videos have."""
        return quarter(look.seconds * (self.fps or look.fps) for look in self.looks)

    @property
    def long(self) -> float:
        """Frames of which three quarters of the videos have no more."""
        return -quarter(-look.seconds * (self.fps or look.fps) for look in self.looks)

    @property
    def pictures(self) -> int:
        """That a linear head sees, for each clip of a video: mirror images too, where it may use them."""
        return self.num_train * (1 if self.has_sides else 2) + self.num_val


def plan_streams(
    videos: Videos, budget: Budget, *, trunk: Trunk | None, second: Trunk | None, speed: Speed
) -> tuple[tuple[StreamPlan, ...], int]:
    """The streams, with the heads and trainings for which there is time, and the number of clips of each video in tests.

    `second` is CELLS_TRUNK, where its weights are at hand too.
    """
    used, small_input = (trunk.backbone, False) if trunk else (SMALL, True)
    fits = int(FEATURES_SHARE * 60 * budget.minutes * speed.trunk / READING / videos.pictures)
    num_clips = max(min(fits, CLIPS, math.ceil(videos.short / FRAMES_APART)), 1)
    cost = READING * num_clips * videos.pictures / speed.trunk
    budget.left -= cost
    budget.reasons += [
        f"linear head for RGB: {counted(num_clips, 'clip')} of each video, the centre of the pictures, about {cost:.0f} s at {speed.trunk:.0f} pictures/s",
        "linear head for flow: on histograms of flow, which need no weights",
    ]
    start = f"--init_from={trunk.path}" if trunk else "--pretrained=False"
    size = [f"--input_size={2 * TRAINED_SIZE}"] if small_input else []
    mirror = f"--mirror={'False' if videos.has_sides else 'auto'}"
    fit = (f"--clips_per_video={num_clips}", mirror)
    rgb = {"linear": HeadPlan((f"--arch={used}", *size), (start, *fit))}
    flow = {"linear": HeadPlan(("--arch=flow_histograms", *videos.stack), fit, ("--views=five",))}
    clip_seconds = {"linear": 1 / speed.trunk}
    """of a pass forward, by the head of RGB"""
    if (num_frames := min(int(videos.long), MAX_FISHER_FRAMES)) >= MIN_FISHER_FRAMES:
        seconds = FISHER_FRAME * num_frames * (videos.pictures + CODEBOOK_CLIPS) / speed.small + FISHER_SECONDS
        if budget.spend(seconds, f"another for flow on the local motion of clips of {num_frames} frames"):
            clips = (f"--arch={FISHER}", f"--seq_len={num_frames}")
            flow["fisher"] = HeadPlan(clips, ("--clips_per_video=1", mirror), ("--views=full", "--num_clips=1"))
    if second:
        seconds = READING * num_clips * videos.pictures / speed.cells + HEAD_SECONDS
        if budget.spend(seconds, f"another for RGB on {CELLS_TRUNK}, in four cells of the whole pictures"):
            rgb["cells"] = HeadPlan((f"--arch={CELLS}", *CELLS_FLAGS), (f"--init_from={second.path}", *fit))
            clip_seconds["cells"] = 1 / speed.cells
    for wide in _wide_heads(used, videos, num_clips):
        if budget.spend(wide.num_views * cost + HEAD_SECONDS, f"another for RGB on {wide.words}"):
            rgb["wide"] = HeadPlan((*wide.clips, *size), (start, wide.fit, mirror), wide.seen)
            clip_seconds["wide"] = wide.num_frames / speed.trunk
            break
    if trunk and budget.spend(cost + HEAD_SECONDS, f"another for flow on features of {used}"):
        flow["features"] = HeadPlan((f"--arch={used}", *videos.stack), (start, *fit))
    if max(len(rgb), len(flow)) > 1:
        budget.reasons.append(CHOICE)
    if trunk:
        rgb = _tune_heads(rgb, clip_seconds, budget, num_train=videos.num_train, refit=cost)
    trained = _training_flags(["flow"] if trunk else ["flow", "rgb"], budget, num_train=videos.num_train, speed=speed)
    streams = tuple(
        StreamPlan(name, input_type, heads, (*trained[name], *videos.stack) if name in trained else ())
        for name, input_type, heads in (("rgb", "rgb", rgb), ("flow", "farneback", flow))
    )
    return streams, num_clips


@dataclass(frozen=True)
class _WideHead:
    """A head on RGB that sees more than single frames of the centre. It sees as many frames, so each view costs what that one costs."""

    clips: tuple[str, ...]
    fit: str
    seen: tuple[str, ...]
    """see HeadPlan"""
    words: str
    """what it looks at"""
    num_frames: int
    """of a clip"""
    num_views: int


def _wide_heads(backbone: str, videos: Videos, num_clips: int) -> list[_WideHead]:
    """Such heads, the one that sees the most first; none where there is no more to see."""
    head = _WideHead((f"--arch={backbone}",), f"--clips_per_video={num_clips}", (), "", 1, 1)
    if f"{backbone}_cells" == TRUNK_CELLS and num_clips < MIN_FRAMES_OF_HALVES:
        words = f"{backbone}, in four cells of the whole pictures"
        return [replace(head, clips=(f"--arch={TRUNK_CELLS}", *CELLS_FLAGS), words=words)]
    if f"{backbone}_halves" == HALVES and num_clips >= MIN_FRAMES_OF_HALVES:
        gap = max(int(videos.short - 1) // (num_clips - 1), 1)
        head = _WideHead(
            (f"--arch={HALVES}", f"--seq_len={num_clips}", f"--gap={gap}"), "--clips_per_video=1", ("--num_clips=1",),
            f"the two halves of a clip of {num_clips} frames, {gap} apart, side by side", num_clips, 1,
        )  # fmt: skip
    if _is_long(videos.looks):
        views = f"{NUM_VIEWS} views that cover the pictures"
        words = f"{head.words}, in {views}" if head.words else views
        heads = [replace(head, seen=(*head.seen, "--views=three"), words=words, num_views=NUM_VIEWS), head]
        return [head for head in heads if head.words]
    return [head] if head.words else []


def _is_long(looks: Sequence[Look]) -> bool:
    """Are the pictures longer than high, or higher than wide, by a fifth or more, so that the centre leaves much out?"""
    return statistics.median(max(look.width, look.height) / min(look.width, look.height) for look in looks) >= 1.2


def _tune_heads(
    heads: dict[str, HeadPlan], clip_seconds: dict[str, float], budget: Budget, *, num_train: int, refit: float
) -> dict[str, HeadPlan]:
    """The heads of RGB, with trainings from them as far as there is time. Only one is done: from the best head.

    `refit` are the seconds for the features of a head, which is fitted without the held-out videos first.
    """
    if num_train < MIN_TRAINED:
        return heads
    tuned, longest, left = dict(heads), 0.0, budget.left
    budget.left -= refit
    for name in sorted(heads, key=lambda name: clip_seconds[name]):
        seconds = max(num_train, BATCH_SIZE) * clip_seconds[name] * TRAINING_COST
        what = f"training from the best linear head of RGB, if that is rgb-{name}"
        if not (epochs := budget.epochs(seconds, what, fewest=MIN_TUNED, most=MAX_TUNED)):
            break
        longest = max(longest, 2 * epochs * seconds)
        tuned[name] = replace(heads[name], tuned=(*TUNING, *_iterations(epochs, num_train)))
    budget.left = budget.left - longest if longest else left
    return tuned


def _training_flags(
    streams: Sequence[str], budget: Budget, *, num_train: int, speed: Speed
) -> dict[str, tuple[str, ...]]:
    """Flags of trainings from random weights, by stream, if videos and time allow them for all."""
    if num_train < MIN_TRAINED:
        budget.reasons.append(
            f"training: not tried, {counted(num_train, 'training video')} are fewer than {MIN_TRAINED}"
        )
        return {}
    seconds = len(streams) * max(num_train, BATCH_SIZE) * TRAINING_COST / speed.small
    what = f"training from random weights ({', '.join(streams)})"
    epochs = budget.epochs(seconds, what, fewest=MIN_EPOCHS, most=MAX_EPOCHS)
    if not epochs:
        return {}
    flags = (
        f"--arch={SMALL}", "--pretrained=False", f"--batch_size={BATCH_SIZE}", "--num_segments=1", "--schedule=cosine",
        "--warm_up=30", "--weight_decay=0.0005", "--clip_norm=5", "--dropout=0.3", "--crop=corners",
        "--crop_scales=1,.875,.75", f"--input_size={TRAINED_SIZE}", "--lr=0.03", *_iterations(epochs, num_train),
    )  # fmt: skip
    return dict.fromkeys(streams, flags)


def _iterations(epochs: int, num_train: int) -> tuple[str, str]:
    """Flags for the length of a training, which is validated at its end."""
    iterations = max(epochs * num_train // BATCH_SIZE, epochs)
    return f"--max_iterations={iterations}", f"--val_interval={iterations}"
