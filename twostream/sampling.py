"""Which frame indices make a clip, which clips make a video, and in which order training sees them. Integers only."""

from collections.abc import Iterator, Sequence

import numpy as np


def clip_starts(num_frames: int, *, clip_len: int, frame_stride: int, clip_step: int) -> range:
    """First frames of the clips of a video.

    From 0 on in steps of `clip_step`, as long as the clip ends before the last frame, which therefore is never used
    (2D-kinectics' rule: a flow folder may hold one image less than there are frames):

        num_frames 10, clip_len 1, clip_step 3     0 . . 3 . . 6 . . -        -> 0, 3, 6
        num_frames 10, clip_len 5, clip_step 3     [0 . . . .][3 ...7] . -    -> 0, 3

    A video too short for one such clip has one clip at 0, see `clip_frames`; a video without frames has none.
    """
    span = (clip_len - 1) * frame_stride + 1
    starts = range(0, num_frames - span, clip_step)
    return starts if len(starts) or num_frames == 0 else range(1)


def clip_frames(start: int, num_frames: int, *, clip_len: int, frame_stride: int) -> list[int]:
    """Frame indices of a clip; in a video too short for it, the last one before the end is repeated."""
    last = (num_frames - 1 - start) // frame_stride
    return [start + frame_stride * min(k, last) for k in range(clip_len)]


class ClipIndex:
    """All clips of V videos, numbered through in the order of the videos; `num_frames` is (V,)."""

    def __init__(self, num_frames: Sequence[int] | np.ndarray, *, clip_len: int, frame_stride: int, clip_step: int):
        num_frames = np.asarray(num_frames, np.int64)
        self.clip_step = clip_step
        # As many as `clip_starts` has: a range of n numbers in steps of s has n / s, rounded up.
        span = (clip_len - 1) * frame_stride + 1
        counts = np.maximum(-((span - num_frames) // clip_step), 1) * (num_frames != 0)
        self.ends = np.cumsum(counts)  # ends[v]: number of clips in videos 0 ... v

    def __len__(self) -> int:
        return int(self.ends[-1]) if len(self.ends) else 0

    def locate(self, clips: int | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Numbers of clips -> (numbers of their videos, their starts), each shaped like `clips`."""
        videos = np.searchsorted(self.ends, clips, side="right")
        firsts = np.where(videos > 0, self.ends[videos - 1], 0)
        return videos, (clips - firsts) * self.clip_step


class TrainingOrder:
    """Batches of (epoch, clip) for iterations first + 1 ... last: a batch sampler for a DataLoader.

    The order is one endless line, a new permutation of all clips for each epoch, cut into batches. The batch of an
    iteration depends on the seed and the iteration alone, so a resumed run starts in the middle without replaying.
    """

    def __init__(self, num_clips: int, *, batch_size: int, seed: int, first: int, last: int):
        self.num_clips, self.batch_size, self.seed = num_clips, batch_size, seed
        self.first, self.last = first, last

    def __len__(self) -> int:
        return max(self.last - self.first, 0)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        epoch, permutation = -1, np.empty(0, np.int64)
        for iteration in range(self.first, self.last):
            batch = []
            for position in range(iteration * self.batch_size, (iteration + 1) * self.batch_size):
                if position // self.num_clips != epoch:
                    epoch = position // self.num_clips
                    permutation = np.random.default_rng((self.seed, epoch)).permutation(self.num_clips)
                batch.append((epoch, int(permutation[position % self.num_clips])))
            yield batch
