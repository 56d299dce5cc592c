"""How far things move from one frame to the next, and what flow that suggests: bound, rate, and the stacks of a stream."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from twostream.flow.coding import ZERO

MAX_CLIPPED = 0.01
"""share of flow values at the bound; above it, the flow is worth making again. docs/prepare.md has the measurement"""
TARGET_CLIPPED = 0.001
"""share that the suggested bound would clip"""
CLIPPED_LEVELS = 2
"""JPEG moves clipped values off the ends of the range: on real footage with 2.4 % clipped before coding, 2.4 % of the
values had levels up to 2 or from 253 on, as colours and as planes; levels 0 and 255 alone had 1.8 % and 2.2 %"""
SLOW_PIXELS = 1.0
"""the fastest 1 % of a video moves less than this from frame to frame: flow is mostly its own error then, a few tenths of a
pixel (docs/benchmarks.md), and frames farther apart say more"""
MIN_FPS = 5.0
"""slowest rate that is suggested"""
STACK_SECONDS = 2.4
"""longest time that a suggested stack covers: eight images 0.3 s apart were best on UT-Interaction (docs/real_footage.md)"""
STACK_SHARE = 0.6
"""of a short video, so that a stack can begin at several frames"""
STACK_IMAGES = 8


@dataclass(frozen=True)
class Motion:
    """The lengths of flow values along x and y in a tree of flow images."""

    reach: np.ndarray
    """(ZERO + 1,): share of the values that are k or more grey levels from zero"""
    clipped: float
    """share of the values at the bound"""

    @classmethod
    def of_levels(cls, levels: np.ndarray) -> "Motion":
        """From (2, 256): pixels of x and y at each grey level."""
        distance = np.zeros(ZERO + 1)
        np.add.at(distance, np.abs(np.arange(256) - ZERO), levels.sum(axis=0))
        clipped = levels[:, : CLIPPED_LEVELS + 1].sum() + levels[:, -1 - CLIPPED_LEVELS :].sum()
        return cls(distance[::-1].cumsum()[::-1] / distance.sum(), float(clipped / levels.sum()))

    def quantile(self, share_above: float) -> float:
        """The length, as a share of the bound, that `share_above` of the values reach; 1 or more if that is unknown."""
        return int(np.argmax(self.reach <= share_above)) / ZERO if self.reach[-1] <= share_above else 1.0

    @property
    def needed(self) -> float:
        """The bound that clips only `TARGET_CLIPPED`, as a share of the present one.

        Where too much is clipped to be seen, the share of values is taken to fall exponentially beyond the bound, as it does
        between half the bound and the bound: too low an estimate where much is clipped.
        """
        if self.clipped <= TARGET_CLIPPED:
            return max(self.quantile(TARGET_CLIPPED), 1 / ZERO)
        half, end = ZERO // 2, ZERO - CLIPPED_LEVELS
        fall = math.log(self.reach[half] / self.clipped) / (end - half) if self.reach[half] > self.clipped else 0
        return 1 + math.log(self.clipped / TARGET_CLIPPED) / (fall * ZERO) if fall else float(ZERO)


@dataclass(frozen=True)
class FlowAdvice:
    """Settings of a flow stream that suit a data set, as flags of twostream extract and twostream train."""

    bound: int
    """--bound of extract, pixels per frame"""
    fps: float
    """--fps of extract; 0: keep the rate of the videos"""
    clip_len: int
    """--seq_len of train: flow images in a stack"""
    frame_stride: int
    """--gap of train: frames between them"""
    reasons: tuple[str, ...]
    """a sentence for each, with the numbers that it is from"""

    def extract_flags(self) -> list[str]:
        """The flags of twostream extract."""
        return [f"--bound={self.bound}", *([f"--fps={self.fps:g}"] if self.fps else [])]

    def train_flags(self) -> list[str]:
        """The flags of twostream train."""
        return [f"--seq_len={self.clip_len}", f"--gap={self.frame_stride}"]


def suggest_flow(motion: Motion, *, bound: float, num_frames: Sequence[int], fps: Sequence[float]) -> FlowAdvice:
    """What suits a data set, from its flow at a `bound` and from its videos: their frames, and rates where they are known.

    The bound clips 0.1 % of the values. The rate is lowered where hardly anything moves by a pixel from frame to frame,
    until the fastest 1 % does. A stack covers up to 2.4 s, but at most 0.6 of the videos that are short (a quarter are
    shorter), in up to eight images.
    """
    rate = statistics.median(fps) if fps else 0.0
    fastest = motion.quantile(0.01) * bound
    slow_down = min(max(fastest / SLOW_PIXELS, MIN_FPS / rate), 1.0) if rate else 1.0
    new_rate = float(round(rate * slow_down)) if slow_down < 0.8 else 0.0
    scale = rate / new_rate if new_rate else 1.0  # motion from frame to frame grows by this
    needed = motion.needed * bound * scale
    new_bound = min(max(math.ceil(needed), 1), ZERO)
    reasons = [
        f"bound {new_bound}: {TARGET_CLIPPED:.1%} of the motion is {'estimated to be' if motion.clipped > TARGET_CLIPPED else ''} faster than "
        f"{needed:.2g} pixels a frame{f' at {new_rate:g} frames/s' if new_rate else ''}".replace("  ", " ")
    ]
    if new_rate:
        reasons.append(
            f"{new_rate:g} frames/s: at {rate:.3g}, the fastest 1 % moves only {fastest:.2g} pixels a frame, little more than the "
            "errors of flow"
        )
    short = float(np.percentile(num_frames, 25)) / scale
    seconds = STACK_SECONDS * (new_rate or rate)
    span = max(min(STACK_SHARE * short, seconds or math.inf), 1)
    clip_len = int(min(STACK_IMAGES, max(span, 2))) if short >= 2 else 1
    stride = max(int((span - 1) // (clip_len - 1)), 1) if clip_len > 1 else 1
    covered = (clip_len - 1) * stride + 1
    reasons.append(
        f"stacks of {clip_len}, {stride} apart: {covered} frames"
        + (f" or {covered / (new_rate or rate):.2g} s" if rate else "")
        + f", as a quarter of the videos have {short:.3g} frames or fewer"
    )
    return FlowAdvice(new_bound, new_rate, clip_len, stride, tuple(reasons))
