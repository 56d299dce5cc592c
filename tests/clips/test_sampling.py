"""Which frames make a clip, which clips a video, and the order in which training sees them."""

import itertools
from fractions import Fraction
from random import Random

import numpy as np
import pytest

from twostream.annotations.videos import Video, VideoTable
from twostream.clips.sampling import (
    ClipGeometry,
    ClipIndex,
    JitterIndex,
    SegmentIndex,
    TrainingOrder,
    UniformIndex,
    clip_frames,
    clip_starts,
    item_random,
)
from twostream.clips.testing import Sampling, items_as_tested
from twostream.stream import StreamConfig

SINGLE = {"span": 1}


def span_of(clip_len: int = 1, frame_stride: int = 1) -> int:
    """Frames from the first frame of a clip to its last."""
    return (clip_len - 1) * frame_stride + 1


@pytest.mark.parametrize(
    ("num_frames", "clip_step", "count"),
    # What 2D-kinectics reads from a 10 s video at 16 fps: training, its first validation, its later one, testing.
    [(160, 6, 27), (160, 36, 5), (160, 24, 7), (160, 2, 80), (300, 2, 150)],
)
def test_counts_of_2d_kinectics(num_frames, clip_step, count):
    assert len(clip_starts(num_frames, clip_step=clip_step, **SINGLE)) == count


@pytest.mark.parametrize("seq_len, gap, step", list(itertools.product((1, 3, 5), (1, 2, 4), (1, 2, 6))))
def test_clips_are_those_of_2d_kinectics(seq_len, gap, step):
    """Its rule as it states it: centres from h * gap, strictly below numf - h * gap - 1, and frames around each."""
    half = seq_len // 2
    for num_frames in range(2 * seq_len * gap + 2, 40):
        centres = range(half * gap, num_frames - half * gap - 1, step)
        expected = [[centre + gap * k for k in range(-half, half + 1)] for centre in centres]
        starts = clip_starts(num_frames, span=span_of(seq_len, gap), clip_step=step)
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
    starts = clip_starts(num_frames, clip_step=6, span=span_of(**geometry))
    assert [clip_frames(start, num_frames, **geometry) for start in starts] == frames


def test_index_has_the_clips_that_clip_starts_has():
    """The index computes for all videos at once what `clip_starts` returns for one."""
    rng = np.random.default_rng(0)
    for clip_len, frame_stride, clip_step in itertools.product((1, 2, 5), (1, 3), (1, 4, 100)):
        span = span_of(clip_len, frame_stride)
        geometry = {"span": span, "clip_step": clip_step}
        near = [span + d for d in range(-2, 3) if span + d >= 0] + [span + clip_step + d for d in range(-2, 3)]
        lengths = [0, 1, 2, *near, *rng.integers(0, 100, 5).tolist(), 0]
        index = ClipIndex(lengths, **geometry)
        brute = [(v, start) for v, n in enumerate(lengths) for start in clip_starts(n, **geometry)]
        assert len(index) == len(brute)
        assert [index.locate(clip) for clip in range(len(index))] == brute
        assert [index.draw(clip, Random()) for clip in range(len(index))] == [(v, [start]) for v, start in brute]
        videos, starts = index.locate(np.arange(len(index)))
        assert list(zip(videos.tolist(), starts.tolist(), strict=True)) == brute


def test_index_of_more_clips_than_32_bits_count():
    longest = 2**31 - 1
    index = ClipIndex(np.array([longest, 3, longest], np.int32), clip_step=1, **SINGLE)
    assert len(index) == 2 * (longest - 1) + 2
    assert index.locate(longest - 1) == (1, 0) and index.locate(len(index) - 1) == (2, longest - 2)


def test_index_of_nothing():
    assert len(ClipIndex([], clip_step=1, **SINGLE)) == 0


# ------------------------------------------------------------------------------------------------------ frame rates

RATES = (10.0, 15.0, 25.0, 29.97, 30.0, 60.0)


def exact(rate: float) -> Fraction:
    """The decimal number that a rate is written as."""
    return Fraction(str(rate))


@pytest.mark.parametrize("frame_rate, frame_stride", [(15, 1), (15, 2), (30, 1), (7.5, 3), (29.97, 1), (23.976, 4)])
def test_frames_are_those_that_are_shown_at_their_times(frame_rate, frame_stride):
    """Frame f of a video is shown from f / fps to (f + 1) / fps: its middle is within half a frame of the ideal time."""
    geometry = ClipGeometry(np.array(RATES), clip_len=32, frame_stride=frame_stride, frame_rate=frame_rate)
    for video, fps in enumerate(map(exact, RATES)):
        for start in (0, 7):
            frames = geometry.frames(video, start, 10_000)
            ideal = [start / fps + k * frame_stride / exact(frame_rate) for k in range(32)]
            assert all(f / fps <= t < (f + 1) / fps for f, t in zip(frames, ideal, strict=True))
            assert all(abs((f + Fraction(1, 2)) / fps - t) <= 1 / fps / 2 for f, t in zip(frames, ideal, strict=True))
            assert geometry.spans[video] == frames[-1] - start + 1


@pytest.mark.parametrize("frame_rate", [10, 12, 15, 30])
def test_frames_are_those_of_torchvision(frame_rate):
    video_utils = pytest.importorskip("torchvision.datasets.video_utils")
    geometry = ClipGeometry(np.array(RATES), clip_len=40, frame_rate=frame_rate)
    for video, fps in enumerate(RATES):
        chosen = video_utils.VideoClips._resample_video_idx(40, fps, frame_rate)  # a step, if that is a whole number
        theirs = range(10_000)[chosen][:40] if isinstance(chosen, slice) else chosen.tolist()
        assert geometry.frames(video, 0, 10_000) == list(theirs)


def test_a_video_that_ends_early_repeats_its_last_frame():
    """At 15 frames a second of a video with 25: 0 1 3 5 6 8; the last of them before its end is repeated."""
    geometry = ClipGeometry(np.array([25.0, 10.0]), clip_len=6, frame_rate=15)
    ends = [(0, 9), (0, 8), (0, 6), (0, 5), (0, 1), (1, 4), (1, 3)]
    found = ["".join(map(str, geometry.frames(video, 0, num_frames))) for video, num_frames in ends]
    assert found == ["013568", "013566", "013555", "013333", "000000", "001223", "001222"]
    assert geometry.frames(0, 3, 12) == [3, 4, 6, 8, 9, 11]


def test_without_a_rate_clips_are_as_they_were():
    """Also of videos whose rate is unknown."""
    geometry = ClipGeometry(np.array([0.0, 25.0]), clip_len=4, frame_stride=3)
    assert geometry.spans.tolist() == [10, 10] and geometry.frames(0, 2, 20) == [2, 5, 8, 11]
    assert geometry.frames(1, 2, 11) == clip_frames(2, 11, clip_len=4, frame_stride=3) == [2, 5, 8, 8]


def test_clips_span_other_numbers_of_frames_in_videos_of_other_rates():
    """Each index has for each video the starts that `clip_starts` gives for its own span."""
    geometry = ClipGeometry(np.array(RATES), clip_len=8, frame_rate=15)
    num_frames, step = np.full(6, 40), np.ones(6, int)
    starts = [list(clip_starts(40, span=int(span), clip_step=1)) for span in geometry.spans]
    assert [len(found) for found in starts] == [40 - s for s in (5, 8, 12, 14, 15, 29)]
    every = ClipIndex(num_frames, span=geometry.spans, clip_step=1)
    assert [every.draw(k, Random())[1][0] for k in range(len(every))] == sum(starts, [])
    one = UniformIndex(num_frames, step, span=geometry.spans, num_clips=1)
    assert [one.draw(k, Random())[1][0] for k in range(6)] == [found[len(found) // 2] for found in starts]
    drawn = JitterIndex(num_frames, step, span=geometry.spans, clips_per_video=1)
    assert [max(drawn.draw(k, Random(seed))[1][0] for seed in range(400)) for k in range(6)] == [s[-1] for s in starts]


# ------------------------------------------------------------------------------------------------------ segments


def drawn(num_frames, num_segments, *, stored_step=1, count=200, **geometry) -> set[tuple[int, ...]]:
    """All draws for one video, between two other videos."""
    index = SegmentIndex(
        np.array([7, num_frames, 9]), np.array([1, stored_step, 1]), span=span_of(**geometry), num_segments=num_segments
    )
    draws = [index.draw(1, Random(seed)) for seed in range(count)]
    assert {video for video, _ in draws} == {1}
    assert {type(start) for _, starts in draws for start in starts} == {int}
    return {tuple(starts) for _, starts in draws}


@pytest.mark.parametrize(
    ("num_frames", "num_segments", "geometry", "parts"),
    [
        (10, 3, {}, ["012", "345", "678"]),  # the last frame is never used, see clip_starts
        (10, 1, {}, ["012345678"]),
        (12, 3, {}, ["012", "3456", "789a"]),  # 11 starts
        (10, 3, {"clip_len": 4}, ["01", "23", "45"]),
        (13, 2, {"clip_len": 2, "frame_stride": 4}, ["0123", "4567"]),
        (13, 2, {"stored_step": 2}, ["024", "68a"]),
        (13, 2, {"stored_step": 3, "clip_len": 2, "frame_stride": 3}, ["0", "36"]),
        # Fewer starts than segments: an empty part takes the start before it.
        (3, 3, {}, ["0", "0", "1"]),
        (5, 3, {}, ["0", "1", "23"]),
        (3, 5, {}, ["0", "0", "0", "1", "1"]),
        # One start, where a clip is as long as its video or longer.
        (4, 3, {"clip_len": 4}, ["0", "0", "0"]),
        (2, 3, {"clip_len": 4}, ["0", "0", "0"]),
        (1, 3, {}, ["0", "0", "0"]),
    ],
)
def test_each_segment_gives_any_of_its_starts(num_frames, num_segments, geometry, parts):
    """The starts of each part are hexadecimal digits."""
    expected = [{int(digit, 16) for digit in part} for part in parts]
    draws = drawn(num_frames, num_segments, **geometry)
    assert [set(starts) for starts in zip(*draws, strict=True)] == expected
    # Segments are drawn independently, so all combinations occur.
    if np.prod([len(part) for part in parts]) < 30:
        assert draws == set(itertools.product(*(sorted(part) for part in expected)))


@pytest.mark.parametrize("clip_len, stride, step", [(1, 1, 1), (5, 1, 1), (3, 2, 2), (2, 6, 3), (1, 1, 4)])
def test_segments_of_videos_of_every_length(clip_len, stride, step):
    """Starts ascend, are stored frames, and are starts of `clip_starts`; together they are all of these."""
    geometry = {"clip_len": clip_len, "frame_stride": stride}
    for num_frames, num_segments in itertools.product((*range(1, 14), 20), (1, 2, 3, 7)):
        draws = drawn(num_frames, num_segments, stored_step=step, count=300, **geometry)
        starts = set(clip_starts(num_frames, span=span_of(**geometry), clip_step=step))
        assert {start for starts in draws for start in starts} == starts
        for starts in draws:
            assert len(starts) == num_segments and list(starts) == sorted(starts)
            for start in starts:
                frames = clip_frames(start, num_frames, **geometry)
                assert all(frame < num_frames and frame % step == 0 for frame in frames)


def test_segments_of_a_video_have_equal_parts():
    """Each of four starts is drawn in a quarter of 4,000 draws, within five standard deviations."""
    index = SegmentIndex(np.array([9]), np.array([1]), **SINGLE, num_segments=2)
    rng = Random(0)
    starts = np.array([index.draw(0, rng)[1] for _ in range(4000)])
    for part, column in zip(([0, 1, 2, 3], [4, 5, 6, 7]), starts.T, strict=True):
        assert all(abs((column == start).mean() - 0.25) < 5 * (0.25 * 0.75 / 4000) ** 0.5 for start in part)


def test_items_of_segments_are_the_videos():
    index = SegmentIndex(np.array([7, 100, 9]), np.array([1, 1, 1]), **SINGLE, num_segments=3)
    assert len(index) == 3
    assert index.locate(np.array([2, 0]))[0].tolist() == [2, 0] and index.ends.tolist() == [1, 2, 3]


def test_clips_of_a_video_are_drawn_from_their_segments():
    """Each of three clips is any start of its third, and the clips of all videos are numbered through."""
    num_frames, stored_step = np.array([7, 13, 2]), np.array([1, 2, 1])
    index = JitterIndex(num_frames, stored_step, **SINGLE, clips_per_video=3)
    assert len(index) == 9 and index.ends.tolist() == [3, 6, 9]
    assert index.locate(np.arange(9))[0].tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    draws = [[index.draw(clip, Random(seed)) for seed in range(100)] for clip in range(9)]
    assert [{video for video, _ in of_clip} for of_clip in draws] == [{n // 3} for n in range(9)]
    expected = [{0, 1}, {2, 3}, {4, 5}, {0, 2}, {4, 6}, {8, 10}, {0}, {0}, {0}]
    assert [{start for _, (start,) in of_clip} for of_clip in draws] == expected


# --------------------------------------------------------------------------------------------------------- order


def order(*, num_clips=23, batch_size=5, seed=1, first=0, last=20, **options):
    return list(TrainingOrder(num_clips, batch_size=batch_size, seed=seed, first=first, last=last, **options))


@pytest.mark.parametrize("num_clips, batch_size", [(23, 5), (4, 4), (3, 8), (1, 2)])
def test_each_epoch_has_every_clip_once(num_clips, batch_size):
    batches = order(num_clips=num_clips, batch_size=batch_size, last=num_clips * 3)
    assert all(len(batch) == batch_size for batch in batches)
    line = [key for batch in batches for key in batch]
    for epoch in range(3 * batch_size):
        clips = [clip for e, clip in line if e == epoch]
        assert sorted(clips) == list(range(num_clips))
    assert [e for e, _ in line] == sorted(e for e, _ in line)


CLASSES = np.array([0] * 9 + [4] * 1 + [0] * 3 + [2] * 10)


@pytest.mark.parametrize("first", [0, 1, 4, 5, 19, 20, 25])
@pytest.mark.parametrize("classes", [None, CLASSES], ids=["all", "balanced"])
def test_starting_in_the_middle_gives_the_rest_of_the_whole(first, classes):
    assert order(first=first, classes=classes) == order(classes=classes)[first:]
    assert len(TrainingOrder(23, batch_size=5, seed=1, first=first, last=20)) == len(order(first=first))


def test_order_depends_on_seed_and_epoch():
    assert order() == order()
    assert order(seed=2) != order()
    line = [clip for batch in order(num_clips=20, last=8) for _, clip in batch]
    assert line[:20] != line[20:]


@pytest.mark.parametrize("classes", [None, CLASSES], ids=["all", "balanced"])
@pytest.mark.parametrize("world_size", [1, 2, 3, 6])
def test_parts_of_the_ranks_are_the_batch(world_size, classes):
    """In their order and of equal length, also where resuming changes the number of ranks."""
    whole = order(batch_size=6, classes=classes)
    for first in (0, 7):
        parts = [
            order(batch_size=6, first=first, classes=classes, part=(rank, world_size)) for rank in range(world_size)
        ]
        assert {len(part) for batches in parts for part in batches} == {6 // world_size}
        assert [sum(batch, []) for batch in zip(*parts, strict=True)] == whole[first:]


def test_batches_without_equal_parts_are_refused():
    with pytest.raises(ValueError, match="batches of 5 cannot be divided equally among 2 processes"):
        order(batch_size=5, part=(0, 2))


def test_batch_of_any_iteration_is_that_of_all_ranks():
    some = TrainingOrder(23, batch_size=6, seed=1, first=3, last=20, part=(1, 3))
    iterator = iter(some)
    whole = order(batch_size=6)
    for iteration in (20, 1, 5):  # also while the iterator makes other batches
        assert some.batch(iteration) == whole[iteration - 1]
        assert next(iterator) in [batch[2:4] for batch in whole[3:]]


@pytest.mark.parametrize("counts", [(50, 50), (90, 7, 3), (1, 1, 98), (3, 0, 5, 0, 4)])
def test_balanced_classes_come_equally_often(counts):
    """In each epoch, give or take one, and in each row of one item per class; all items of a class take part equally."""
    classes = np.repeat(np.arange(len(counts)), counts)
    np.random.default_rng(0).shuffle(classes)
    num_items, present = len(classes), sum(count > 0 for count in counts)
    line = [key for batch in order(num_clips=num_items, batch_size=num_items, last=4, classes=classes) for key in batch]
    assert [epoch for epoch, _ in line] == np.repeat(range(4), num_items).tolist()
    for epoch in range(4):
        items = np.array([item for e, item in line if e == epoch])
        shares = np.bincount(classes[items], minlength=len(counts))
        assert {int(share) for share in shares if share} <= {num_items // present, -(-num_items // present)}
        assert (shares > 0).tolist() == [count > 0 for count in counts]
        whole_rows = items[: num_items // present * present].reshape(-1, present)
        assert all(len(set(row)) == present for row in classes[whole_rows].tolist())
        for label, share in enumerate(shares):  # within a class, all items equally often
            times = np.bincount(items[classes[items] == label], minlength=num_items)[classes == label]
            assert len(times) == 0 or {int(t) for t in times} <= {share // len(times), -(-share // len(times))}
    epochs = np.reshape([item for _, item in line], (4, num_items))
    assert len({tuple(items) for items in epochs.tolist()}) == 4


def test_a_balanced_epoch_of_millions():
    """A tenth of Kinetics at --frame_step=1, in half a second: there is no loop over items in Python."""
    num_items = 3_300_000
    classes = np.arange(num_items, dtype=np.int32) % 401 % 400  # one class has twice as many as the others
    (batch,) = order(num_clips=num_items, batch_size=4000, last=1, classes=classes)
    assert np.bincount(classes[[item for _, item in batch]], minlength=400).tolist() == [10] * 400


def test_items_have_independent_draws():
    """No two seeds, epochs and items share a generator; the first draws of neighbouring items are uniform."""
    keys = [*itertools.product((0, 1, 2**40), (0, 1, 2**31), (0, 1, 2**31, 2**47))]
    assert len({item_random(*key).random() for key in keys}) == len(keys)
    assert item_random(1, 2, 3).random() == item_random(1, 2, 3).random()
    for values in (
        [item_random(0, 0, k).random() for k in range(1000)],
        [item_random(0, k, 0).random() for k in range(1000)],
    ):
        counts = np.histogram(values, 10, (0, 1))[0]
        assert all(60 < count < 140 for count in counts)  # 100, and four standard deviations
        assert abs(np.corrcoef(values[:-1], values[1:])[0, 1]) < 0.16  # five standard deviations


# ---------------------------------------------------------------------------------------------------- uniform clips


@pytest.mark.parametrize("num_clips", [1, 3, 10, 25, 1000])
@pytest.mark.parametrize("clip_len, frame_stride, stored_step", [(1, 1, 1), (5, 1, 1), (3, 2, 1), (1, 1, 4), (2, 4, 2)])
def test_uniform_clips_are_the_middles_of_equal_parts(num_clips, clip_len, frame_stride, stored_step):
    """Computed here part by part, from the list of all starts."""
    span = span_of(clip_len, frame_stride)
    num_frames = np.array([0, 1, 2, 7, 30, 31, 250, 0])
    index = UniformIndex(num_frames, np.full(8, stored_step), span=span, num_clips=num_clips)
    expected = []
    for video, count in enumerate(num_frames):
        starts = clip_starts(int(count), span=span, clip_step=stored_step)
        parts = min(num_clips, len(starts))
        expected += [(video, starts[int((k + 0.5) * len(starts) / parts)]) for k in range(parts)]
    assert len(index) == len(expected)
    videos, starts = index.locate(np.arange(len(index)))
    assert list(zip(videos.tolist(), starts.tolist(), strict=True)) == expected == sorted(set(expected))
    assert [index.draw(k, None) for k in range(len(index))] == [(video, [start]) for video, start in expected]


def test_clips_from_end_to_end():
    """As torchvision's UniformClipSampler chooses them from all clips of a video, one frame apart: `linspace`, rounded down."""
    num_frames = np.array([33, 40, 96, 300])
    index = UniformIndex(num_frames + 1, np.ones(4, int), span=32, num_clips=10, spread="ends")
    videos, starts = index.locate(np.arange(len(index)))
    for video, count in enumerate(num_frames):
        num_starts = count - 32 + 1
        every = np.floor(np.linspace(0, num_starts - 1, min(10, num_starts)))
        assert starts[videos == video].tolist() == every.tolist() and every[-1] == num_starts - 1
    one = UniformIndex(num_frames, np.ones(4, int), span=32, num_clips=1, spread="ends")
    assert one.locate(np.arange(4))[1].tolist() == [0, 4, 32, 134], "a single clip is in the middle"


@pytest.mark.parametrize("num_frames", [42, 64, 95, 150, 251, 300])
def test_clips_of_pytorch_resnet3d(num_frames):
    """Its video mode takes the clips around ten centres, from 16 to 16 before the end; its clip mode the one in the middle."""
    videos = VideoTable.of([Video("v", "val", "a", num_frames)])
    stream = StreamConfig(
        input_type="rgb", backbone="i3d_r50", classes=("a",), input_size=224, clip_len=32, resize_side=256
    )
    items = items_as_tested(videos, stream, Sampling(num_clips=10, spread="ends", views="three", test_size=256))
    centres = [int(centre) for centre in np.linspace(32 // 2, num_frames - 32 // 2, 10)]
    assert [items.index.draw(k, None)[1][0] for k in range(10)] == [centre - 16 for centre in centres]
    middle = items_as_tested(videos, stream, Sampling(num_clips=1, test_size=256))
    assert middle.index.draw(0, None)[1] == [num_frames // 2 - 16]
    # Crops of 256 from pictures of 256 on the short side, where it draws three at random along the long side.
    assert middle.crop_size == items.crop_size == 256
    assert [view.crop(256, 340) for view in items.views] == [(0, 0, 256, 256), (0, 42, 256, 256), (0, 84, 256, 256)]
    assert middle.views[0].crop(256, 340) == (0, 42, 256, 256)


def test_flow_ends_one_frame_earlier():
    """The last frame has no flow to a next one."""
    videos = VideoTable.of([Video("v", "val", "a", 50)])
    starts = {}
    for kind in ("rgb", "dis"):
        stream = StreamConfig(input_type=kind, backbone="resnet18", classes=("a",), input_size=64, clip_len=3)
        items = items_as_tested(videos, stream, Sampling(num_clips=4, spread="ends"))
        starts[kind] = [items.index.draw(k, None)[1][0] for k in range(4)]
    assert starts == {"rgb": [0, 15, 31, 47], "dis": [0, 15, 30, 46]}
