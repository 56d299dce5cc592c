"""Which frames make a clip, which clips a video, and the order in which training sees them."""

import itertools

import numpy as np
import pytest

from twostream.sampling import ClipIndex, TrainingOrder, clip_frames, clip_starts

SINGLE = {"clip_len": 1, "frame_stride": 1}


@pytest.mark.parametrize(
    ("num_frames", "clip_step", "count"),
    # What 2D-kinectics takes of a 10 s video at 16 fps: training, its validation, the later one, testing.
    [(160, 6, 27), (160, 36, 5), (160, 24, 7), (160, 2, 80), (300, 2, 150)],
)
def test_counts_of_2d_kinectics(num_frames, clip_step, count):
    assert len(clip_starts(num_frames, clip_step=clip_step, **SINGLE)) == count


@pytest.mark.parametrize("seq_len, gap, step", list(itertools.product((1, 3, 5), (1, 2, 4), (1, 2, 6))))
def test_clips_are_those_of_2d_kinectics(seq_len, gap, step):
    """Its rule in its own words: centres from h * gap, strictly below numf - h * gap - 1, and frames around each."""
    half = seq_len // 2
    for num_frames in range(2 * seq_len * gap + 2, 40):
        centres = range(half * gap, num_frames - half * gap - 1, step)
        expected = [[centre + gap * k for k in range(-half, half + 1)] for centre in centres]
        starts = clip_starts(num_frames, clip_len=seq_len, frame_stride=gap, clip_step=step)
        found = [clip_frames(start, num_frames, clip_len=seq_len, frame_stride=gap) for start in starts]
        assert found == expected
        assert max(map(max, found)) < num_frames - 1, "the last frame is never used"


@pytest.mark.parametrize(
    ("num_frames", "clip_len", "frame_stride", "frames"),
    [
        (0, 1, 1, []),
        (0, 3, 2, []),
        (1, 1, 1, [[0]]),
        (1, 3, 1, [[0, 0, 0]]),
        (2, 1, 1, [[0]]),
        (2, 3, 1, [[0, 1, 1]]),
        (4, 3, 2, [[0, 2, 2]]),  # not frame 3, which a tree extracted at --frame_step=2 does not have
        (5, 3, 2, [[0, 2, 4]]),
    ],
)
def test_short_videos(num_frames, clip_len, frame_stride, frames):
    geometry = {"clip_len": clip_len, "frame_stride": frame_stride}
    starts = clip_starts(num_frames, clip_step=6, **geometry)
    assert [clip_frames(start, num_frames, **geometry) for start in starts] == frames


def test_index_has_the_clips_that_clip_starts_has():
    """The index computes for all videos at once what `clip_starts` says of one."""
    rng = np.random.default_rng(0)
    for clip_len, frame_stride, clip_step in itertools.product((1, 2, 5), (1, 3), (1, 4, 100)):
        geometry = {"clip_len": clip_len, "frame_stride": frame_stride, "clip_step": clip_step}
        span = (clip_len - 1) * frame_stride + 1
        near = [span + d for d in range(-2, 3) if span + d >= 0] + [span + clip_step + d for d in range(-2, 3)]
        lengths = [0, 1, 2, *near, *rng.integers(0, 100, 5).tolist(), 0]
        index = ClipIndex(lengths, **geometry)
        brute = [(v, start) for v, n in enumerate(lengths) for start in clip_starts(n, **geometry)]
        assert len(index) == len(brute)
        assert [index.locate(clip) for clip in range(len(index))] == brute
        videos, starts = index.locate(np.arange(len(index)))
        assert list(zip(videos.tolist(), starts.tolist(), strict=True)) == brute


def test_index_of_more_clips_than_32_bits_count():
    longest = 2**31 - 1
    index = ClipIndex(np.array([longest, 3, longest], np.int32), clip_step=1, **SINGLE)
    assert len(index) == 2 * (longest - 1) + 2
    assert index.locate(longest - 1) == (1, 0) and index.locate(len(index) - 1) == (2, longest - 2)


def test_index_of_nothing():
    assert len(ClipIndex([], clip_step=1, **SINGLE)) == 0


def order(*, num_clips=23, batch_size=5, seed=1, first=0, last=20):
    return list(TrainingOrder(num_clips, batch_size=batch_size, seed=seed, first=first, last=last))


@pytest.mark.parametrize("num_clips, batch_size", [(23, 5), (4, 4), (3, 8), (1, 2)])
def test_each_epoch_has_every_clip_once(num_clips, batch_size):
    batches = order(num_clips=num_clips, batch_size=batch_size, last=num_clips * 3)
    assert all(len(batch) == batch_size for batch in batches)
    line = [key for batch in batches for key in batch]
    for epoch in range(3 * batch_size):
        clips = [clip for e, clip in line if e == epoch]
        assert sorted(clips) == list(range(num_clips))
    assert [e for e, _ in line] == sorted(e for e, _ in line)


@pytest.mark.parametrize("first", [0, 1, 4, 5, 19, 20, 25])
def test_starting_in_the_middle_is_the_tail_of_the_whole(first):
    assert order(first=first) == order()[first:]
    assert len(TrainingOrder(23, batch_size=5, seed=1, first=first, last=20)) == len(order(first=first))


def test_order_depends_on_seed_and_epoch():
    assert order() == order()
    assert order(seed=2) != order()
    line = [clip for batch in order(num_clips=20, last=8) for _, clip in batch]
    assert line[:20] != line[20:]
