"""Clips as training and testing read them."""

import json
import multiprocessing
import pickle
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from tests import toy
from tests.conftest import REPOSITORY, assert_commands_work, noise_image
from twostream.annotations.json_file import read_annotations, write_annotations
from twostream.annotations.videos import Annotations, Video, VideoTable, make_annotations
from twostream.clips.crops import CentreCrop, CornerCrop, RandomCrop, make_views
from twostream.clips.dataset import (
    Batch,
    ClipDataset,
    _prepare_worker,
    eval_loader,
    hold_out_fold,
    train_loader,
    usable_videos,
)
from twostream.clips.items import Items
from twostream.clips.sampling import TrainingOrder, clip_frames, item_random
from twostream.errors import BadInputError
from twostream.flow.methods import FlowSettings
from twostream.frames.folders import FrameFolders
from twostream.frames.jpeg import encode_jpeg
from twostream.frames.store import FrameStore
from twostream.frames.stores import STORES
from twostream.preparation.extraction import ExtractionJob, extract_video
from twostream.preparation.settings import ExtractionSettings
from twostream.stream import StreamConfig


def level(video: int, frame: int) -> int:
    """Level of red by which a test recognises a frame: 10 more for each frame."""
    return 40 * video + 10 * frame + 5


@pytest.fixture(params=STORES)
def store(request, tmp_path) -> FrameStore:
    """Two videos, a with 6 and b with 4 frames: red has the frame's level, green is 100 and blue 200."""
    store = STORES[request.param](tmp_path, "rgb")
    for number, (video_id, count) in enumerate((("a", 6), ("b", 4))):
        with store.writer(video_id) as writer:
            for frame in range(count):
                picture = np.full((30, 40, 3), (level(number, frame), 100, 200), np.uint8)
                writer.write(frame, encode_jpeg(picture, quality=95, chroma_subsampling=False))
            writer.publish({"num_frames": count})
    return store


CLASSES = ("run", "walk")
VIDEOS = [Video("a", "train", "walk", 6), Video("b", "train", "run", 4)]


def dataset(store, *, clip_len=1, frame_stride=1, frame_rate=0.0, videos=VIDEOS, crop=None, **options) -> ClipDataset:
    stream = StreamConfig(store.input_type, "inception_v3", CLASSES, 20, clip_len, frame_stride, frame_rate=frame_rate)
    return ClipDataset(Items(VideoTable.of(videos, CLASSES), stream, crop=crop or CentreCrop(20), **options), store)


def levels(batch: Batch) -> np.ndarray:
    """Mean red, green and blue of each frame, (N, S, T, 3)."""
    return batch.clips.float().mean((3, 4)).numpy()


def assert_same(batch: Batch, expected: Batch) -> None:
    for name, values, truth in zip(Batch._fields, batch, expected, strict=True):
        if name == "unreadable":
            assert list(values) == list(truth)
        else:
            assert values.dtype == truth.dtype and torch.equal(values, truth), name


def one_by_one(clips: ClipDataset, keys) -> Batch:
    """Items that were read one at a time, as one batch."""
    *tensors, unreadable = zip(*(clips.__getitems__([key]) for key in keys), strict=True)
    return Batch(*map(torch.cat, tensors), sum(unreadable, ()))


def test_a_batch(store):
    clips = dataset(store, clip_step=2)
    batch = clips.__getitems__(list(range(len(clips))))
    assert batch.clips.shape == (5, 1, 1, 20, 20, 3) and batch.clips.dtype == torch.uint8
    assert batch.labels.tolist() == [1, 1, 1, 0, 0] and batch.numbers.tolist() == [0, 1, 2, 3, 4]
    assert {t.dtype for t in (batch.labels, batch.numbers)} == {torch.int64}
    assert batch.mirrored.tolist() == [False] * 5 and batch.unreadable == ()
    expected = [(level(video, frame), 100, 200) for video, frame in [(0, 0), (0, 2), (0, 4), (1, 0), (1, 2)]]
    # JPEG at quality 95 moves a flat colour by up to 3 levels.
    np.testing.assert_allclose(levels(batch)[:, 0, 0], expected, atol=3)


def test_frames_of_a_clip_are_in_order(store):
    batch = dataset(store, clip_len=3, frame_stride=2).__getitems__([0])
    np.testing.assert_allclose(levels(batch)[0, 0], [(level(0, frame), 100, 200) for frame in (0, 2, 4)], atol=3)


def test_video_without_label(store):
    assert dataset(store, videos=[Video("a", "test", None, 6), VIDEOS[1]]).__getitems__([0]).labels.tolist() == [-1]


def test_labels_of_items(store):
    clips, segments = dataset(store, clip_step=2), dataset(store, num_segments=3)
    assert clips.items.labels().tolist() == [1, 1, 1, 0, 0] and segments.items.labels().tolist() == [1, 0]
    for clips_or_segments in (clips, segments):
        everything = clips_or_segments.__getitems__(list(range(len(clips_or_segments))))
        assert everything.labels.tolist() == clips_or_segments.items.labels().tolist()


def test_items_need_a_crop_or_views():
    """One of them: without any, reading would fail; with both, one would be ignored."""
    stream, videos = StreamConfig("rgb", "inception_v3", CLASSES, 20), VideoTable.of(VIDEOS, CLASSES)
    for options in ({}, {"crop": CentreCrop(20), "views": make_views("flip", 20)}):
        with pytest.raises(ValueError, match="either a crop or views"):
            Items(videos, stream, **options)


@pytest.mark.parametrize("clip_len, stride, num_segments", [(1, 1, 3), (2, 1, 2), (3, 2, 3), (9, 1, 2)])
def test_segments_are_clips_of_their_parts(store, clip_len, stride, num_segments):
    """Their levels show which frames they are; `draw` says which they should be."""
    geometry = {"clip_len": clip_len, "frame_stride": stride}
    clips = dataset(store, **geometry, num_segments=num_segments, seed=5, crop=RandomCrop(20))
    assert len(clips) == 2
    seen = set()
    for epoch in range(20):
        batch = clips.__getitems__([(epoch, 1), (epoch, 0)])
        assert batch.clips.shape == (2, num_segments, clip_len, 20, 20, 3)
        assert batch.numbers.tolist() == [1, 0] and batch.labels.tolist() == [0, 1]
        for number, red in zip((1, 0), levels(batch)[..., 0], strict=True):
            _, starts = clips.items.index.draw(number, item_random(5, epoch, number))
            expected = [clip_frames(start, VIDEOS[number].num_frames, **geometry) for start in starts]
            assert np.rint((red - level(number, 0)) / 10).tolist() == expected
            seen.add((number, *starts))
    assert len(seen) > 2 or clip_len > 2  # else each video has one start


@pytest.mark.parametrize("num_frames", [1, 2, 5, 6])
@pytest.mark.parametrize("kind", ["ours", "2d-kinectics", "every second"])
def test_flow_of_clips_longer_than_their_video(tmp_path, kind, num_frames):
    """The last frame has the flow of the pair before it, which our trees store twice; 2D-kinectics has one image less."""
    step = 2 if kind == "every second" else 1
    pair_of = [max(min(frame, num_frames - 2), 0) for frame in range(num_frames)]
    stored = range(max(num_frames - 1, 1)) if kind == "2d-kinectics" else range(0, num_frames, step)
    store = FrameFolders(tmp_path, "farneback")
    with store.writer("a") as writer:
        for frame in stored:
            picture = np.full((60, 40), level(0, pair_of[frame]), np.uint8)  # x above y
            writer.write(frame, encode_jpeg(picture, quality=95, chroma_subsampling=False))
        writer.publish_text(None if kind == "2d-kinectics" else json.dumps({"num_frames": num_frames}).encode())
    videos = [Video("a", "train", "walk", num_frames, stored_step=step)]
    for clip_len, stride in ((2, 4), (3, 2), (9, 2)):
        geometry = {"clip_len": clip_len, "frame_stride": stride}
        clips = dataset(store, **geometry, videos=videos, clip_step=2)
        *_, last = range(len(clips))
        start = int(clips.items.index.locate(last)[1])
        expected = [level(0, pair_of[frame]) for frame in clip_frames(start, num_frames, **geometry)]
        x = levels(clips.__getitems__([last]))[0, 0, :, 0]
        np.testing.assert_allclose(x, expected, atol=3)


def test_no_fold_without_frames():
    videos = [Video(name, "train", "walk", 0) for name in "abcd"]
    annotations = make_annotations(videos, path=Path("data/annotations.json"))
    with pytest.raises(BadInputError, match=r"^data/annotations.json: no training video has frames: extract") as error:
        hold_out_fold(annotations, (0, 2), seed=1)
    assert "\n" not in str(error.value)


@pytest.fixture
def textured(tmp_path):
    """Stores of both kinds, for RGB and flow, with pictures that differ everywhere; 9 frames, all the same."""
    stores = {}
    for kind in STORES:
        for input_type in ("rgb", "farneback"):
            store = stores[kind, input_type] = STORES[kind](tmp_path / kind, input_type)
            picture = noise_image(3, height=60, width=80)
            if input_type == "farneback":
                picture = np.vstack([picture[..., 0], picture[..., 1]])
            jpeg = encode_jpeg(picture, quality=95, chroma_subsampling=True)
            for video_id in "ab":
                with store.writer(video_id) as writer:
                    for frame in range(9):
                        writer.write(frame, jpeg)
                    writer.publish({"num_frames": 9})
    return stores


SAME_LENGTH = [Video("a", "train", "walk", 9), Video("b", "train", "run", 9)]


@pytest.mark.parametrize("crop", [RandomCrop(20), CornerCrop(20)], ids=["random", "corners"])
@pytest.mark.parametrize("num_segments", [0, 3])
def test_one_draw_serves_all_frames_of_an_item(textured, crop, num_segments):
    options = {"clip_len": 2, "num_segments": num_segments, "videos": SAME_LENGTH, "crop": crop}
    for (_, input_type), store in textured.items():
        clips = dataset(store, **options)
        batch = clips.__getitems__([(epoch, 0) for epoch in range(30)])
        assert (batch.clips == batch.clips[:, :1, :1]).all()
        assert len({clip.tobytes() for clip in batch.clips.numpy()}) > 15
        assert batch.clips.shape[-1] == (3 if input_type == "rgb" else 2)


def test_draws_depend_on_seed_epoch_and_item_alone(textured):
    store = textured["folders", "rgb"]
    options = {"videos": SAME_LENGTH, "crop": RandomCrop(20), "mirror": True}
    clips = dataset(store, seed=3, **options)
    keys = [(epoch, number) for epoch in (0, 7) for number in (5, 0, 11)]
    batch = clips.__getitems__(keys)
    assert_same(one_by_one(clips, keys), batch)
    assert_same(
        dataset(store, seed=3, **options).__getitems__(keys[::-1]),
        Batch(*(v[::-1] if isinstance(v, tuple) else v.flip(0) for v in batch)),
    )
    assert not torch.equal(dataset(store, seed=4, **options).__getitems__(keys).clips, batch.clips)
    assert len({clip.tobytes() for clip in batch.clips.numpy()}) == 6, (
        "each item, and each epoch, has a draw of its own"
    )


def test_half_of_the_items_are_marked_as_mirrored_and_no_pixel_moves(textured):
    """The region does not depend on mirroring, which the network does."""
    store = textured["folders", "farneback"]
    keys = [(epoch, number) for epoch in range(25) for number in range(16)]
    mirrored, plain = (
        dataset(store, videos=SAME_LENGTH, crop=RandomCrop(20), mirror=mirror).__getitems__(keys)
        for mirror in (True, False)
    )
    assert 150 < int(mirrored.mirrored.sum()) < 250  # 5 standard deviations of 400 fair draws are 50
    assert not plain.mirrored.any()
    assert {clip.tobytes() for clip in mirrored.clips.numpy()} & {clip.tobytes() for clip in plain.clips.numpy()}


@pytest.mark.parametrize(
    "geometry", [{}, {"clip_len": 5}, {"num_segments": 3}, {"clip_len": 2, "num_segments": 2}], ids=str
)
def test_both_kinds_of_store_give_the_same(textured, geometry):
    for input_type in ("rgb", "farneback"):
        batches = [
            dataset(textured[kind, input_type], videos=SAME_LENGTH, crop=CornerCrop(20), **geometry).__getitems__(
                [0, 1]
            )
            for kind in STORES
        ]
        assert_same(*batches)
        assert batches[0].clips.float().std() > 5


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("num_segments", [0, 2])
def test_loaders_give_what_reading_one_by_one_gives(store, num_workers, num_segments):
    """Items are a function of (seed, epoch, number), in any process, also when training starts in the middle."""
    clips = dataset(store, crop=RandomCrop(20), seed=7, mirror=True, num_segments=num_segments, clip_len=2)
    order = TrainingOrder(len(clips), batch_size=3, seed=7, first=2, last=8)
    batches = list(train_loader(clips, order, num_workers=num_workers, pin_memory=False))
    assert len(batches) == 6
    for keys, batch in zip(order, batches, strict=True):
        assert isinstance(batch, Batch) and batch.numbers.tolist() == [number for _, number in keys]
        assert_same(batch, one_by_one(clips, keys))
    later = TrainingOrder(len(clips), batch_size=3, seed=7, first=5, last=8)
    for batch, expected in zip(
        train_loader(clips, later, num_workers=num_workers, pin_memory=False), batches[3:], strict=True
    ):
        assert_same(batch, expected)
    in_order = list(eval_loader(clips, batch_size=5, num_workers=num_workers, pin_memory=False))
    assert torch.cat([batch.numbers for batch in in_order]).tolist() == list(range(len(clips)))


@pytest.mark.parametrize("num_workers", [0, 2])
def test_parts_of_the_ranks_are_the_batches(store, num_workers):
    clips = dataset(store, crop=RandomCrop(20), mirror=True)
    options = {"batch_size": 4, "seed": 7, "first": 1, "last": 6, "classes": clips.items.labels()}
    whole, *parts = (
        list(
            train_loader(
                clips, TrainingOrder(len(clips), **options, part=part), num_workers=num_workers, pin_memory=False
            )
        )
        for part in ((0, 1), (0, 2), (1, 2))
    )
    for batch, *shares in zip(whole, *parts, strict=True):
        *tensors, _ = zip(*shares, strict=True)
        assert_same(Batch(*map(torch.cat, tensors)), batch)


def test_loader_processes_compute_with_one_thread(store):
    threads = cv2.getNumThreads()
    try:
        cv2.setNumThreads(2)
        loader = eval_loader(Threads(), batch_size=1, num_workers=2, pin_memory=False)
        assert cv2.getNumThreads() == 1, "OpenCV's threads would be missing in a forked process"
        assert list(loader) == [(1, 1)] * 4
    finally:
        cv2.setNumThreads(threads)


class Threads(torch.utils.data.Dataset):
    """Each batch is the number of threads that OpenCV and torch use in the process that made it."""

    def __len__(self):
        return 4

    def __getitems__(self, keys):
        return cv2.getNumThreads(), torch.get_num_threads()


def test_loaders_leave_the_global_generator_alone(store):
    clips = dataset(store)
    torch.manual_seed(3)
    state = torch.get_rng_state()
    list(eval_loader(clips, batch_size=5, num_workers=2, pin_memory=False))
    assert torch.equal(torch.get_rng_state(), state)


def test_clips_that_need_frames_a_sparse_extraction_left_out(store):
    sparse = [Video("a", "train", "walk", 6, stored_step=2), Video("b", "train", "run", 4, stored_step=4)]
    assert len(dataset(store, videos=sparse, clip_step=4)) == 3
    for geometry in ({"clip_step": 3}, {"clip_len": 3, "frame_stride": 1, "clip_step": 4}):
        with pytest.raises(BadInputError, match="'a' was extracted with --frame_step=2.*multiple of 2"):
            dataset(store, videos=sparse, **geometry)
    with pytest.raises(
        BadInputError, match="'b' was extracted with --frame_step=4, so not all frames at step 2 are stored"
    ):
        dataset(store, videos=sparse, clip_step=2)


NUM_FRAMES = 13


@pytest.fixture(scope="module")
def extracted(tmp_path_factory):
    """Frame step (1, 2, 3) -> a data root with two moving pictures that was extracted with it."""
    folder = tmp_path_factory.mktemp("extracted")
    for seed in (0, 1):
        wide = noise_image(seed, width=64 + 2 * NUM_FRAMES)
        pictures = np.stack([wide[:, 2 * k : 2 * k + 64] for k in range(NUM_FRAMES - seed)])
        toy.write_video(folder / f"{seed}.mkv", pictures)
    for step in (1, 2, 3):
        settings = ExtractionSettings(short_side=0, stored_step=step, flow=(FlowSettings("farneback"),))
        for seed in (0, 1):
            extract_video(ExtractionJob(str(folder / str(step)), f"v{seed}", str(folder / f"{seed}.mkv"), settings))
    return {step: folder / str(step) for step in (1, 2, 3)}


@pytest.mark.parametrize("input_type", ["rgb", "farneback"])
@pytest.mark.parametrize(
    ("stored_step", "geometry"),
    [
        (2, {"clip_step": 2}),
        (2, {"clip_step": 6}),
        (2, {"clip_len": 3, "frame_stride": 2, "clip_step": 2}),
        (2, {"clip_len": 2, "frame_stride": 4, "clip_step": 6}),
        (3, {"clip_step": 3}),
        (3, {"clip_len": 2, "frame_stride": 6, "clip_step": 3}),
        (3, {"clip_len": 9, "frame_stride": 3, "clip_step": 3}),  # longer than the videos
    ],
)
def test_training_set_of_a_sparse_extraction_is_that_of_a_full_one(extracted, input_type, stored_step, geometry):
    """Same clips, same pixels, and a fraction of the images."""
    sets, images = {}, {}
    for step in (1, stored_step):
        store = FrameFolders(extracted[step], input_type)
        videos = [Video(f"v{k}", "train", CLASSES[k], *store.facts(f"v{k}")) for k in (0, 1)]
        assert [(video.num_frames, video.stored_step) for video in videos] == [
            (NUM_FRAMES, step),
            (NUM_FRAMES - 1, step),
        ]
        sets[step] = dataset(store, videos=videos, crop=RandomCrop(20), mirror=True, seed=5, **geometry)
        images[step] = sum(len(store.frame_indices(video.id)) for video in videos)
    full, sparse = sets[1], sets[stored_step]
    assert images[stored_step] == sum(-(-video.num_frames // stored_step) for video in full.items.videos) < images[1]
    assert len(sparse) == len(full) > 0
    keys = [(epoch, clip) for epoch in (0, 1) for clip in range(len(full))]
    assert_same(sparse.__getitems__(keys), full.__getitems__(keys))
    with pytest.raises(BadInputError, match=f"--frame_step={stored_step}"):
        dataset(store, videos=videos, **(geometry | {"clip_step": geometry["clip_step"] + 1}))


def test_a_sparse_extraction_suits_some_frame_rates(store):
    """Every second frame of 30 a second: enough for 15 and 7.5 a second, not for 10 and 20."""
    videos = [Video("a", "train", "walk", 6, 30.0, 2), Video("b", "train", "run", 4, 30.0, 2)]
    for rate in (15, 7.5):
        assert len(dataset(store, videos=videos, clip_len=2, frame_rate=rate, num_clips=1)) == 2
    for rate in (10, 20):
        with pytest.raises(
            BadInputError, match=f"'a', 30 frames a second, .*--frame_step=2, .* --frame_rate={rate} needs"
        ):
            dataset(store, videos=videos, clip_len=3, frame_rate=rate, num_clips=1)
    assert len(dataset(store, videos=videos, clip_len=1, frame_rate=10, num_clips=1)) == 2, "one frame needs no other"


def test_clips_at_a_frame_rate(store):
    """10 frames a second of videos with 20 and 5: every second frame, and each frame twice."""
    videos = [Video("a", "train", "walk", 6, 20.0), Video("b", "train", "run", 4, 5.0)]
    clips = dataset(store, videos=videos, clip_len=3, frame_rate=10.0, num_clips=1)
    expected = [[level(0, frame) for frame in (0, 2, 4)], [level(1, frame) for frame in (1, 1, 2)]]
    np.testing.assert_allclose(levels(clips.__getitems__([0, 1]))[:, 0, :, 0], expected, atol=3)
    text = dataset(store, videos=videos, clip_len=8, frame_rate=10.0, num_clips=1).items.short_videos()
    assert "1 of 2 videos are shorter than the 0.70 s of a clip (--seq_len=8, --gap=1, --frame_rate=10)" in text


def test_a_frame_rate_needs_the_rates_of_the_videos(store, tmp_path):
    videos = [VIDEOS[0], replace(VIDEOS[1], fps=25.0)]
    annotations = make_annotations(videos, classes=CLASSES, path=tmp_path / "annotations.json")
    assert len(usable_videos(annotations, "train", store)[0]) == 2
    with pytest.raises(BadInputError, match="1 video of split 'train' without .*'a'.*--frame_rate=15") as error:
        usable_videos(annotations, "train", store, frame_rate=15)
    assert_commands_work(str(error.value))
    known = annotations.with_rate(12.5)
    assert known.videos.fps.tolist() == [12.5, 25.0]
    assert len(usable_videos(known, "train", store, frame_rate=15)[0]) == 2


def test_segments_of_a_sparse_extraction_are_stored_frames(extracted):
    for step in (1, 2, 3):
        store = FrameFolders(extracted[step], "rgb")
        videos = [Video(f"v{k}", "train", CLASSES[k], *store.facts(f"v{k}")) for k in (0, 1)]
        for geometry in ({}, {"clip_len": 2, "frame_stride": step}, {"clip_len": 9, "frame_stride": 2 * step}):
            clips = dataset(store, videos=videos, num_segments=3, **geometry)
            assert len(clips.__getitems__([(epoch, k) for epoch in range(10) for k in (0, 1)]).clips) == 20
        if step > 1:
            with pytest.raises(BadInputError, match=f"--frame_step={step}, so not all frames at step 1 .* use a --gap"):
                dataset(store, videos=videos, num_segments=3, clip_len=2)


@pytest.mark.parametrize("clip_len, frame_stride", [(1, 1), (4, 1), (3, 3), (9, 1), (2, 30)])
@pytest.mark.parametrize("choice", [{"clip_step": 1}, {"clip_step": 4}, {"num_clips": 3}, {"num_segments": 2}])
def test_clips_that_repeat_frames_are_counted(clip_len, frame_stride, choice):
    """Compared with the frames of every item."""
    counts = (1, 2, 3, 6, 7, 8, 9, 10, 31)
    videos = VideoTable.of([Video(f"v{n:02}", "train", "run", n) for n in counts], CLASSES)
    stream = StreamConfig("rgb", "resnet18", CLASSES, 20, clip_len, frame_stride)
    items = Items(videos, stream, crop=CentreCrop(20), **choice)
    drawn = [items._draw(0, number) for number in range(len(items))]
    clips = [np.reshape(item.frames, (-1, clip_len)) for item in drawn]
    short = [
        item for item, frames in zip(drawn, clips, strict=True) if any(len(set(clip)) < clip_len for clip in frames)
    ]
    text = items.short_videos()
    if not short:
        assert text == ""
    else:
        num_videos = len({item.video for item in short})
        assert text.startswith(
            f"{len(short)} of {len(items)} clips repeat frames: {num_videos} of {len(counts)} videos are"
        )
        assert f"the {(clip_len - 1) * frame_stride + 1} frames of a clip" in text


def test_a_loader_process_reports_no_connection_that_the_program_has_closed(capsys, monkeypatch):
    """The thread of multiprocessing that passes shared memory on calls sys.excepthook with what it has caught."""
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    _prepare_worker(0)
    for error in (ConnectionResetError(104, "Connection reset by peer"), EOFError(), BrokenPipeError()):
        sys.excepthook(type(error), error, None)
    assert capsys.readouterr().err == ""
    sys.excepthook(ZeroDivisionError, ZeroDivisionError("a bug"), None)
    assert "a bug" in capsys.readouterr().err


def test_usable_videos(store):
    annotations = Annotations(
        CLASSES,
        (*VIDEOS, Video("c", "train", "run", 9), Video("d", "val", "run", 9), Video("e", "train", "walk", 0)),
    )
    (store.folder / "e").mkdir()
    assert usable_videos(annotations, "train", store) == (VIDEOS, ["c", "e"])
    with pytest.raises(BadInputError, match="none of the 1 video of split 'val' has images.*run twostream extract"):
        usable_videos(annotations, "val", store)


# ------------------------------------------------------------------------------------------------- overlapping clips


@pytest.fixture
def noisy(tmp_path):
    """VIDEOS, with frames that differ everywhere and from each other."""
    store = FrameFolders(tmp_path, "rgb")
    for number, video in enumerate(VIDEOS):
        with store.writer(video.id) as writer:
            for frame in range(video.num_frames):
                picture = noise_image(10 * number + frame, height=30, width=40)
                writer.write(frame, encode_jpeg(picture, quality=95, chroma_subsampling=True))
            writer.publish({"num_frames": video.num_frames})
    return store


class CountingStore:
    """A store, and which images were read."""

    def __init__(self, store):
        self.store, self.input_type, self.read = store, store.input_type, []

    def read_regions(self, video_id, frame_indices, choose, out):
        self.read += [(video_id, index) for index in frame_indices]
        self.store.read_regions(video_id, frame_indices, choose, out)


@pytest.mark.parametrize(
    "clip_len, frame_stride, options",
    [(3, 1, {}), (2, 2, {"num_clips": 4}), (8, 1, {}), (2, 1, {"crop": None, "views": make_views("ten", 20)})],
    ids=str,
)
def test_overlapping_clips_read_each_image_once(noisy, clip_len, frame_stride, options):
    """Those of a batch; also a clip that repeats frames, as it is longer than its video."""
    counting = CountingStore(noisy)
    stream = StreamConfig("rgb", "inception_v3", CLASSES, 20, clip_len, frame_stride)
    items = Items(VideoTable.of(VIDEOS, CLASSES), stream, **{"crop": CentreCrop(20)} | options)
    clips, keys = ClipDataset(items, counting), list(range(len(items)))
    batch = clips.__getitems__(keys)
    assert len(counting.read) == len(set(counting.read)) and len(keys) > 1
    counting.read.clear()
    assert_same(batch, one_by_one(clips, keys))
    assert len(counting.read) > len(set(counting.read)) or clip_len == 8


def test_clips_with_parts_of_their_own_share_nothing(noisy):
    """In training, each clip sees another part of the same images."""
    clips = dataset(noisy, clip_len=3, crop=RandomCrop(20), mirror=True)
    keys = [(0, 0), (0, 1), (1, 0), (1, 1)]
    assert_same(clips.__getitems__(keys), one_by_one(clips, keys))


# ---------------------------------------------------------------------------------------------- unreadable images


@pytest.fixture
def folders(tmp_path):
    """Videos a, b and c of six frames; the last three of b are unreadable: missing, truncated, and no picture."""
    store = FrameFolders(tmp_path, "rgb")
    for number, video_id in enumerate("abc"):
        with store.writer(video_id) as writer:
            for frame in range(6):
                picture = np.full((30, 40, 3), (level(number, frame), 100, 200), np.uint8)
                writer.write(frame, encode_jpeg(picture, quality=95, chroma_subsampling=False))
            writer.publish({"num_frames": 6})
    missing, truncated, no_picture = (store.video_folder("b") / f"0000{k}.jpg" for k in (4, 5, 6))
    missing.unlink()
    truncated.write_bytes(truncated.read_bytes()[:300])
    no_picture.write_text("no picture")
    return store


THREE = [Video(video_id, "train", "walk", 6) for video_id in "abc"]
BAD = ["00004.jpg", "00005.jpg"]  # the last frame is never used


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("first, name", [(8, "00004.jpg"), (9, "00005.jpg")])
def test_an_unreadable_image_stops_and_is_named_in_one_line(folders, num_workers, first, name):
    """Items 0 to 4 are of a, 5 to 9 of b; 8 is its missing frame, 9 the truncated one."""
    clips = torch.utils.data.Subset(dataset(folders, videos=THREE), [5, 6, first])
    batches = iter(eval_loader(clips, batch_size=2, num_workers=num_workers, pin_memory=False))
    with pytest.raises(BadInputError) as error:
        list(batches)
    if num_workers:  # else they wait for the garbage collector, which waits ten seconds for them
        batches._shutdown_workers()
    assert str(folders.video_folder("b") / name) in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("options", [{}, {"num_segments": 3}], ids=str)
def test_the_item_after_an_unreadable_one_takes_its_place(folders, num_workers, options):
    """With its own label, number and draws; the batch names each unreadable image, and all of them are in b."""
    videos = [replace(video, label=label) for video, label in zip(THREE, ("walk", "run", "walk"), strict=True)]
    clips = dataset(folders, videos=videos, crop=RandomCrop(20), mirror=True, max_unreadable=2, **options)
    strict = dataset(folders, videos=videos, crop=RandomCrop(20), mirror=True, **options)
    order = TrainingOrder(len(clips), batch_size=4, seed=0, first=0, last=12)
    found = 0
    for keys, batch in zip(order, train_loader(clips, order, num_workers=num_workers, pin_memory=False), strict=True):
        expected, names = [], []
        for epoch, number in keys:
            while True:
                try:
                    strict.__getitems__([(epoch, number)])
                    break
                except BadInputError as error:
                    names.append(str(error))
                    number = (number + 1) % len(clips)
            expected.append((epoch, number))
        assert_same(batch, one_by_one(strict, expected)._replace(unreadable=tuple(names)))
        assert all(any(f"b/{bad}" in name for bad in BAD) and "\n" not in name for name in names)
        found += len(names)
    assert found > 3


def test_more_unreadable_images_than_allowed_are_an_error(folders):
    assert dataset(folders, videos=THREE, max_unreadable=2).__getitems__([8]).numbers.tolist() == [10]
    with pytest.raises(BadInputError, match="00005.jpg: 300 bytes"):
        dataset(folders, videos=THREE, max_unreadable=1).__getitems__([8])


def test_a_folder_that_cannot_be_read_counts_as_unreadable(folders):
    """Like any error of the system, such as a failing disk."""
    path = folders.video_folder("b") / "00001.jpg"
    path.unlink()
    path.mkdir()
    (message,) = dataset(folders, videos=THREE, max_unreadable=1).__getitems__([5]).unreadable
    assert str(path) in message


def test_images_of_different_sizes_are_no_clip(folders):
    path = folders.video_folder("a") / "00002.jpg"
    path.write_bytes(encode_jpeg(noise_image(height=30, width=44), quality=90, chroma_subsampling=True))
    assert dataset(folders, videos=THREE).__getitems__([1]).numbers.tolist() == [1]
    for keys in ([0], [0, 1]):
        with pytest.raises(BadInputError, match="a/00002.jpg is 44x30, but other images of this video are 40x30"):
            dataset(folders, videos=THREE, clip_len=2).__getitems__(keys)
    path.unlink()
    path.with_name("00003.jpg").write_bytes(
        encode_jpeg(noise_image(height=30, width=44), quality=90, chroma_subsampling=True)
    )
    folders.video_folder("a").joinpath("00002.jpg").write_bytes(
        folders.video_folder("a").joinpath("00001.jpg").read_bytes()
    )
    with pytest.raises(BadInputError, match="a/00003.jpg is 44x30, but other images of this video are 40x30"):
        dataset(folders, videos=THREE, clip_len=2).__getitems__(
            [0, 1]
        )  # the only image that the second clip has to read


# ------------------------------------------------------------------------------------------------ a million videos


class GreyStore:
    """A store that holds every video, and no file."""

    folder, input_type = Path("grey-images"), "grey"

    def __init__(self, ids):
        self.ids = ids

    def video_ids(self):
        return list(self.ids)

    def read_regions(self, video_id, frame_indices, choose, out):
        out[...] = len(video_id)


def many_videos(count: int):
    """Videos in no order, as in a list, with ids as long as those of Kinetics."""
    for position in range(count):
        number = position * 7919 % count  # a prime that divides none of the counts
        split = "val" if number % 20 == 0 else "train"
        start = number % 600
        yield Video(f"{number:011x}_{start:06d}_{start + 10:06d}", split, f"class {number % 400}", 300, 29.97)


def training_clips(annotations: Annotations) -> ClipDataset:
    videos, missing = usable_videos(annotations, "train", GreyStore(annotations.videos.ids))
    assert not missing
    stream = StreamConfig("grey", "inception_v3", annotations.classes, 2)
    return ClipDataset(Items(videos, stream, clip_step=6, crop=CentreCrop(2)), GreyStore(()))


def megabytes(file: str, *names: str) -> float:
    """Sum of the named lines of a file of /proc."""
    lines = (line.split() for line in Path("/proc", file).read_text().splitlines())
    return sum(int(line[1]) for line in lines if line[0].rstrip(":") in names) / 1024


def worker_megabytes(clips: ClipDataset) -> float:
    """Private memory of a forked loader process that has made clips of videos all over the data set."""
    order = TrainingOrder(len(clips), batch_size=64, seed=0, first=0, last=400)
    batches = iter(train_loader(clips, order, num_workers=2, pin_memory=False))
    for _ in range(380):  # while the processes are still at work
        next(batches)
    files = [f"{child.pid}/smaps_rollup" for child in multiprocessing.active_children()]
    return max(megabytes(file, "Private_Clean", "Private_Dirty") for file in files)


def measure(root: str) -> None:
    """Print the memory that the videos of a data root take, as JSON. To be run in a process of its own."""
    tiny = worker_megabytes(training_clips(make_annotations(many_videos(100))))
    before = megabytes("self/status", "VmRSS")
    clips = training_clips(read_annotations(root))
    reader = megabytes("self/status", "VmHWM") - before
    print(json.dumps({"reader": reader, "worker": worker_megabytes(clips) - tiny, "videos": len(clips.items.videos)}))


@pytest.mark.parametrize(
    ("count", "reader_limit", "worker_limit"),
    [(100_000, 30, 5), pytest.param(1_000_000, 250, 50, marks=pytest.mark.slow)],
)
@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="memory is measured by Linux's /proc")
def test_memory_of_many_videos(tmp_path, count, reader_limit, worker_limit):
    """Limits in megabytes: to read the videos and join them with a store, and of each loader process's private memory."""
    write_annotations(tmp_path / "annotations.json", make_annotations(many_videos(count)))
    command = [sys.executable, "-c", f"from tests.clips.test_dataset import measure; measure({str(tmp_path)!r})"]
    result = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=900)
    assert result.returncode == 0, result.stderr
    cost = json.loads(result.stdout)
    assert cost["videos"] == count * 19 // 20
    assert cost["reader"] <= reader_limit and cost["worker"] <= worker_limit, cost


def test_a_spawned_loader_process_is_sent_little():
    """Less than 100 bytes for each video, its id included."""
    clips = training_clips(make_annotations(many_videos(10_000)))
    sent = pickle.dumps(clips)
    assert len(sent) < 100 * len(clips.items.videos)
    assert pickle.loads(sent).items.videos == clips.items.videos
