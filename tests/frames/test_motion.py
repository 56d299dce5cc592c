"""Motion measured from flow images, and the settings that it suggests."""

import numpy as np
import pytest

from twostream.flow.coding import ZERO
from twostream.frames.motion import MAX_CLIPPED, FlowAdvice, Motion, suggest_flow


def levels_of(scale: float, bound: float) -> np.ndarray:
    """Pixels (2, 256) at each grey level, where lengths |v| have P(|v| > t) = exp(-t / scale) and signs are equally likely."""
    edges = (np.arange(129) - 0.5) * bound / ZERO
    share = np.exp(-np.maximum(edges, 0) / scale)
    counts = np.zeros(257)
    inside = share[:-1] - share[1:]
    counts[ZERO : ZERO + 128] += inside / 2
    counts[ZERO - np.arange(128)] += inside / 2
    counts[255] += share[-1] / 2
    counts[0] += share[-1] / 2
    return np.stack([counts[:256]] * 2) * 1e6


@pytest.mark.parametrize("scale", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("bound", [1.0, 2.0, 3.0, 20.0])
def test_the_needed_bound_is_the_true_one(scale, bound):
    """One that clips 0.1 % is scale * ln 1000, whatever the present one clips."""
    needed = Motion.of_levels(levels_of(scale, bound)).needed
    assert bound * needed == pytest.approx(scale * np.log(1000), rel=0.05)


@pytest.mark.parametrize(("bound", "clips"), [(2.0, True), (20.0, False)])
def test_what_is_clipped(bound, clips):
    motion = Motion.of_levels(levels_of(1.0, bound))
    assert (motion.clipped > MAX_CLIPPED) == clips
    assert motion.clipped == pytest.approx(np.exp(-bound * (ZERO - 2.5) / ZERO), rel=0.01, abs=1e-8)


def test_flow_that_is_all_at_the_bound_needs_the_widest():
    levels = np.zeros((2, 256))
    levels[:, [0, 255]] = 1
    assert Motion.of_levels(levels).needed == ZERO
    assert suggest_flow(Motion.of_levels(levels), bound=20, num_frames=[30], fps=[]).bound == ZERO


def test_still_videos_have_advice_too():
    levels = np.zeros((2, 256))
    levels[:, ZERO] = 1
    assert suggest_flow(Motion.of_levels(levels), bound=20, num_frames=[300], fps=[30.0]).bound == 1


def advice(scale: float = 2.0, *, num_frames: int = 100, fps: float = 10.0) -> FlowAdvice:
    motion = Motion.of_levels(levels_of(scale, 20.0))
    return suggest_flow(motion, bound=20.0, num_frames=[num_frames] * 4, fps=[fps] if fps else [])


@pytest.mark.parametrize(
    ("num_frames", "fps", "clip_len", "stride"),
    [
        (100, 10.0, 8, 3),  # 2.4 s: 22 of 24 frames
        (20, 10.0, 8, 1),  # 12 frames at most
        (7, 24.0, 4, 1),  # very short clips
        (2, 24.0, 2, 1),
        (1, 24.0, 1, 1),  # a picture
        (10_000, 30.0, 8, 10),
        (100, 0.0, 8, 8),  # unknown rate: by the length alone
    ],
)
def test_stacks_fit_the_videos(num_frames, fps, clip_len, stride):
    found = advice(num_frames=num_frames, fps=fps)
    assert (found.clip_len, found.frame_stride) == (clip_len, stride)
    assert (found.clip_len - 1) * found.frame_stride < max(num_frames, 1) or num_frames < 2
    assert found.train_flags() == [f"--seq_len={clip_len}", f"--gap={stride}"]


@pytest.mark.parametrize(
    ("scale", "fps", "rate"),
    [
        (2.0, 30.0, 0),  # the fastest 1 % moves 9 pixels
        (0.1, 30.0, 16),  # 0.46 pixels, in levels of 0.16: about half as many frames
        (0.01, 30.0, 5),  # but not below 5
        (0.01, 5.0, 0),
        (0.01, 0.0, 0),  # unknown
    ],
)
def test_the_rate_is_lowered_where_hardly_anything_moves(scale, fps, rate):
    found = advice(scale, fps=fps, num_frames=900)
    assert found.fps == pytest.approx(rate, abs=3) and bool(found.fps) == bool(rate)
    factor = fps / found.fps if found.fps else 1
    assert found.bound == pytest.approx(scale * np.log(1000) * factor, abs=2)
    assert len(found.extract_flags()) == (2 if rate else 1)
    assert all(text[0].islower() or text[0].isdigit() for text in found.reasons)
