"""Which frame indices make a clip, which clips make a video, and in which order training sees them. Integers only."""

from collections.abc import Iterator, Sequence
from fractions import Fraction
from itertools import pairwise
from random import Random

import numpy as np

from twostream.counts import counted
from twostream.stream import HIGHEST_RATE, LOWEST_RATE

THOUSANDTHS = 1000
"""rates are whole numbers of these, so that no frame depends on how a computer rounds"""


def is_rate(fps: np.ndarray) -> np.ndarray:
    """bool (V,): which rates of videos are known, in frames per second."""
    known: np.ndarray = (fps >= LOWEST_RATE) & (fps <= HIGHEST_RATE)
    return known


def clip_starts(num_frames: int, *, span: int, clip_step: int) -> range:
    """First frames of the clips of a video, which have `span` frames from their first to their last.

    They are 0, `clip_step`, 2 `clip_step`, ... as long as the clip ends before the last frame, which therefore is not
    used (2D-kinectics' rule: a flow folder may have one image less than there are frames, see also `Items.frames_of`):

        num_frames 10, span 1, clip_step 3     0 . . 3 . . 6 . . -        -> 0, 3, 6
        num_frames 10, span 5, clip_step 3     [0 . . . .][3 ...7] . -    -> 0, 3

    A video too short for one such clip has one clip at 0, see `clip_frames`; a video without frames has none.
    """
    starts = range(0, num_frames - span, clip_step)
    return starts if len(starts) or num_frames == 0 else range(1)


def clip_frames(start: int, num_frames: int, *, clip_len: int, frame_stride: int | Fraction) -> list[int]:
    """Frame indices of a clip: start + k * `frame_stride`, rounded down; in a video too short for it, the last of its frames
    in the video is repeated."""
    parts, whole = frame_stride.as_integer_ratio()
    last = -(-(num_frames - start) * whole // parts) - 1  # the last k whose frame is in the video
    return [start + min(k, last) * parts // whole for k in range(clip_len)]


class ClipGeometry:
    """Which frames the clips of V videos have.

    Frame k of a clip is k * `frame_stride` frames after its first. With `frame_rate`, these are frames of that rate: frame k
    is what the video shows k * `frame_stride` / `frame_rate` seconds after the first, so the last of its frames that has
    begun by then. A video of a lower rate than that repeats frames. Torchvision's reference training takes the same ones
    (VideoClips in datasets/video_utils.py):

        frame_rate 15    fps 30: 0 2 4 6 8    fps 25: 0 1 3 5 6    fps 10: 0 0 1 2 2
    """

    def __init__(self, fps: np.ndarray, *, clip_len: int, frame_stride: int = 1, frame_rate: float = 0.0):
        """`fps` are the rates of the videos, (V,). Raises ValueError if they are unknown, but needed for a `frame_rate`."""
        self.clip_len = clip_len
        self._whole = 1
        self._parts = np.broadcast_to(np.int64(frame_stride), len(fps))
        """distance of neighbouring frames of a clip in each video: `_parts` / `_whole` frames"""
        if frame_rate:
            if not is_rate(fps).all():
                raise ValueError("a video whose rate is unknown cannot be resampled")
            self._whole = round(frame_rate * THOUSANDTHS)
            self._parts = frame_stride * np.rint(fps * THOUSANDTHS).astype(np.int64)

    @property
    def spans(self) -> np.ndarray:
        """(V,) frames from the first frame of a clip to its last, both included."""
        spans: np.ndarray = (self.clip_len - 1) * self._parts // self._whole + 1
        return spans

    def needs_only(self, stored_step: np.ndarray) -> np.ndarray:
        """bool (V,): are the frames of a clip always a multiple of `stored_step` (V,) after its first?"""
        fits: np.ndarray = (self._parts % (stored_step * self._whole) == 0) | (stored_step == 1)
        return fits if self.clip_len > 1 else np.ones(len(fits), bool)

    def frames(self, video: int, start: int, num_frames: int) -> list[int]:
        """Frame indices of the clip of a video that begins at `start`, see `clip_frames`."""
        stride = Fraction(int(self._parts[video]), self._whole)
        return clip_frames(start, num_frames, clip_len=self.clip_len, frame_stride=stride)


def _number_of_starts(num_frames: np.ndarray, span: int | np.ndarray, clip_step: int | np.ndarray) -> np.ndarray:
    """How many starts `clip_starts` gives: a range of n numbers in steps of s has n / s, rounded up."""
    numbers: np.ndarray = np.maximum(-((span - num_frames) // clip_step), 1) * (num_frames != 0)
    return numbers


class ClipIndex:
    """All clips of V videos, numbered through in the order of the videos.

    `num_frames` is (V,), and so is `span`, the frames that a clip spans, unless it is the same for all videos.
    """

    def __init__(self, num_frames: Sequence[int] | np.ndarray, *, span: int | np.ndarray, clip_step: int):
        num_frames = np.asarray(num_frames, np.int64)
        self.clip_step = clip_step
        self.ends = np.cumsum(_number_of_starts(num_frames, span, clip_step))  # number of clips in videos 0 ... v

    def __len__(self) -> int:
        return int(self.ends[-1]) if len(self.ends) else 0

    def locate(self, clips: int | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Numbers of clips -> (indices of their videos, their starts), each shaped like `clips`."""
        videos = np.searchsorted(self.ends, clips, side="right")
        firsts = np.where(videos > 0, self.ends[videos - 1], 0)
        return videos, (clips - firsts) * self.clip_step

    def draw(self, clip: int, rng: Random) -> tuple[int, list[int]]:
        """Index of the clip's video, and a list of its one start; nothing is random."""
        video = int(self.ends.searchsorted(clip, side="right"))  # `locate` takes three times as long for a single clip
        first = int(self.ends[video - 1]) if video else 0
        return video, [(clip - first) * self.clip_step]


SPREADS = ("parts", "ends")
"""where evenly spaced clips are, see UniformIndex"""


class UniformIndex:
    """`num_clips` clips of each video, evenly spaced.

    All clips of a video at its own `stored_step`, see `clip_starts`, are cut into `num_clips` equal parts, and the middle
    clip of each part is taken (`spread` "parts", as TSN; ECCV 2016); or the first, the last and those between them ("ends",
    as torchvision's UniformClipSampler and Tushar-N/pytorch-resnet3d), rounded down; a single clip is the middle one.
    Where there are fewer clips than `num_clips`, each is taken once:

        9 starts, 3 clips    [0 (1) 2][3 (4) 5][6 (7) 8]     2 starts, 3 clips    [(0)][(1)]
                             (0) 1 2 3 (4) 5 6 7 (8)
    """

    def __init__(
        self, num_frames: np.ndarray, stored_step: np.ndarray, *, span: int | np.ndarray, num_clips: int,
        spread: str = "parts",
    ):  # fmt: skip
        self.stored_step, self.num_clips, self.spread = stored_step, num_clips, spread
        self.num_starts = _number_of_starts(np.asarray(num_frames, np.int64), span, stored_step)
        self.ends = np.cumsum(np.minimum(self.num_starts, num_clips))

    def __len__(self) -> int:
        return int(self.ends[-1]) if len(self.ends) else 0

    def locate(self, clips: int | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """As `ClipIndex.locate`."""
        videos = np.searchsorted(self.ends, clips, side="right")
        numbers = clips - np.where(videos > 0, self.ends[videos - 1], 0)
        starts = self.num_starts[videos]
        parts = np.minimum(starts, self.num_clips)
        chosen = (2 * numbers + 1) * starts // (2 * parts)
        if self.spread == "ends":
            chosen = np.where(parts > 1, numbers * (starts - 1) // np.maximum(parts - 1, 1), chosen)
        return videos, chosen * self.stored_step[videos]

    def draw(self, clip: int, rng: Random) -> tuple[int, list[int]]:
        """Index of the clip's video, and a list of its one start; nothing is random."""
        video, start = self.locate(clip)
        return int(video), [int(start)]


class SegmentIndex:
    """All videos, for a clip drawn from each of their S segments (TSN; Wang et al., ECCV 2016).

    The starts that a video has at its own `stored_step`, see `clip_starts`, are cut into S equal parts, and one start is
    drawn from each part. In a video with fewer starts than segments, an empty part takes the start before it:

        9 starts, 3 segments    [0 1 2][3 4 5][6 7 8]     2 starts, 3 segments    [0][0][1]

    A clip longer than its video has one start at 0, and repeats frames, see `clip_frames`.
    """

    def __init__(self, num_frames: np.ndarray, stored_step: np.ndarray, *, span: int | np.ndarray, num_segments: int):
        self.num_frames, self.stored_step, self.num_segments = num_frames, stored_step, num_segments
        self.spans = np.broadcast_to(span, len(num_frames))
        self.ends = np.arange(1, len(num_frames) + 1)  # one item for each video

    def __len__(self) -> int:
        return len(self.ends)

    def locate(self, videos: int | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """As `ClipIndex.locate`, for videos; all starts are 0, as none is drawn yet."""
        return np.asarray(videos), np.zeros_like(videos)

    def draw(self, video: int, rng: Random) -> tuple[int, list[int]]:
        """Index of the video, and the starts of its S clips."""
        num_frames, span, step = (int(column[video]) for column in (self.num_frames, self.spans, self.stored_step))
        starts = clip_starts(num_frames, span=span, clip_step=step)
        borders = [k * len(starts) // self.num_segments for k in range(self.num_segments + 1)]
        return video, [starts[rng.randrange(first, max(end, first + 1))] for first, end in pairwise(borders)]


class JitterIndex(SegmentIndex):
    """`clips_per_video` clips of each video, one from each of as many segments; each clip is an item of its own."""

    def __init__(
        self, num_frames: np.ndarray, stored_step: np.ndarray, *, span: int | np.ndarray, clips_per_video: int
    ):
        super().__init__(num_frames, stored_step, span=span, num_segments=clips_per_video)
        self.ends = self.ends * clips_per_video

    def __len__(self) -> int:
        return len(self.ends) * self.num_segments

    def locate(self, clips: int | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """As `SegmentIndex.locate`."""
        return super().locate(np.asarray(clips) // self.num_segments)

    def draw(self, clip: int, rng: Random) -> tuple[int, list[int]]:
        """Index of the clip's video, and a list of its one start."""
        video, segment = divmod(clip, self.num_segments)
        return video, [super().draw(video, rng)[1][segment]]


def item_random(seed: int, epoch: int, item: int) -> Random:
    """A generator for one item, so that its draws are the same in whichever process and order items are made.

    Python's generator: NumPy's takes 50 us to be made and to draw three numbers, a tenth of an item's time.
    """
    return Random((seed << 96) + (epoch << 48) + item)


def iterations_of(epochs: int, epoch_size: int, batch_size: int) -> int:
    """Iterations after which `epochs` times `epoch_size` clips are used; a batch may belong to two epochs."""
    return -(-epochs * epoch_size // batch_size)


class TrainingOrder:
    """Batches of (epoch, item) for iterations first + 1 ... last: a batch sampler for a DataLoader.

    The order is one endless line, cut into batches: for each epoch a new permutation of all items or, where their
    `classes` are given, as many items, drawn so that all classes come equally often. The batch of an iteration depends
    only on the seed and the iteration, so a resumed run starts in the middle without replaying. With R ranks, rank r
    gets part r of each batch, of R equal parts: `part` is (r, R).

    Raises ValueError where a batch cannot be divided equally among the ranks.
    """

    def __init__(
        self, num_items: int, *, batch_size: int, seed: int, first: int, last: int, part: tuple[int, int] = (0, 1),
        classes: np.ndarray | None = None,
    ):  # fmt: skip
        self.num_items, self.batch_size, self.seed = num_items, batch_size, seed
        self.first, self.last = first, last
        rank, world_size = part
        if batch_size % world_size:
            raise ValueError(
                f"batches of {batch_size} cannot be divided equally among {counted(world_size, 'process', 'processes')}"
            )
        self.begin, self.end = (r * batch_size // world_size for r in (rank, rank + 1))  # in a batch
        self.items_by_class = None if classes is None else _items_by_class(classes)
        self._epoch, self._items = -1, np.empty(0, np.int64)  # of the epoch that was used last

    def __len__(self) -> int:
        return max(self.last - self.first, 0)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        for iteration in range(self.first + 1, self.last + 1):
            yield self.batch(iteration)[self.begin : self.end]

    def batch(self, iteration: int) -> list[tuple[int, int]]:
        """The batch of an iteration, counted from 1, of all ranks together."""
        positions = range((iteration - 1) * self.batch_size, iteration * self.batch_size)
        return [self._key(*divmod(position, self.num_items)) for position in positions]

    def _key(self, epoch: int, position: int) -> tuple[int, int]:
        if epoch != self._epoch:
            self._epoch, self._items = epoch, self._draw(np.random.default_rng((self.seed, epoch)))
        return epoch, int(self._items[position])

    def _draw(self, rng: np.random.Generator) -> np.ndarray:
        """The items of an epoch, in order."""
        if self.items_by_class is None:
            return rng.permutation(self.num_items)
        # Each row has one item of each class. A column goes through the items of its class in random order, repeatedly.
        num_rows = -(-self.num_items // len(self.items_by_class))
        columns = [np.resize(rng.permutation(items), num_rows) for items in self.items_by_class]
        return rng.permuted(np.stack(columns, axis=1), axis=1).ravel()[: self.num_items]


def _items_by_class(classes: np.ndarray) -> list[np.ndarray]:
    """For each class that has items: their numbers."""
    narrow = np.int32 if len(classes) < 2**31 else np.int64
    in_order = np.argsort(classes, kind="stable").astype(narrow)
    return np.split(in_order, np.flatnonzero(np.diff(classes[in_order])) + 1)
