"""Clips as training and testing get them."""

import json
import multiprocessing
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from tests import toy
from tests.conftest import REPOSITORY, noise_image
from twostream.annotations import Annotations, Video, VideoTable, make_annotations, read_annotations, write_annotations
from twostream.dataset import ClipDataset, test_loader, train_loader, usable_videos
from twostream.errors import BadInputError
from twostream.extraction import ExtractionJob, ExtractionSettings, extract_video
from twostream.flow import FlowSettings
from twostream.frame_store import FrameFolders, FrameFolderWriter, encode_jpeg
from twostream.sampling import TrainingOrder
from twostream.stream import StreamConfig
from twostream.transforms import CentreCrop, TrainCrop


def level(video: int, frame: int) -> int:
    """Grey level by which a frame can be told: 10 more for each frame."""
    return 40 * video + 10 * frame + 5


@pytest.fixture
def store(tmp_path):
    """Two videos, a of 6 and b of 4 frames: red has the frame's level, green 100 and blue 200."""
    store = FrameFolders(tmp_path, "rgb")
    for number, (video_id, count) in enumerate((("a", 6), ("b", 4))):
        with FrameFolderWriter(store, video_id) as writer:
            for frame in range(count):
                picture = np.full((30, 40, 3), (level(number, frame), 100, 200), np.uint8)
                writer.write(frame, encode_jpeg(picture, quality=95, chroma_subsampling=False))
            writer.publish({"num_frames": count})
    return store


CLASSES = ("run", "walk")
VIDEOS = [Video("a", "train", "walk", 6), Video("b", "train", "run", 4)]


def dataset(store, *, clip_len=1, frame_stride=1, clip_step=1, videos=VIDEOS, transform=None, seed=0):
    stream = StreamConfig("rgb", "inception_v3", CLASSES, 20, clip_len, frame_stride)
    table = VideoTable.of(videos, CLASSES)
    return ClipDataset(table, store, stream, clip_step=clip_step, transform=transform or CentreCrop(20), seed=seed)


def test_items(store):
    clips = dataset(store, clip_step=2)
    items = [clips[k] for k in range(len(clips))]
    assert [(label, number) for _, label, number in items] == [(1, 0), (1, 1), (1, 2), (0, 3), (0, 4)]
    for (clip, _, _), (video, frame) in zip(items, [(0, 0), (0, 2), (0, 4), (1, 0), (1, 2)], strict=True):
        assert clip.shape == (3, 20, 20) and clip.dtype == torch.uint8
        # JPEG at quality 95 moves a flat colour by up to 3 levels.
        assert torch.allclose(clip.float().mean((1, 2)), torch.tensor([level(video, frame), 100.0, 200.0]), atol=3)


def test_channels_of_a_clip_are_frame_after_frame(store):
    clip, _, _ = dataset(store, clip_len=3, frame_stride=2)[0]
    expected = [value for frame in (0, 2, 4) for value in (level(0, frame), 100, 200)]
    assert clip.shape == (9, 20, 20)
    assert torch.allclose(clip.float().mean((1, 2)), torch.tensor(expected, dtype=torch.float), atol=3)


def test_video_without_label(store):
    assert dataset(store, videos=[Video("a", "test", None, 6), VIDEOS[1]])[0][1] == -1


@pytest.mark.parametrize("num_workers", [0, 2])
def test_loaders_give_the_same_with_and_without_workers(store, num_workers):
    """Crops are a function of (seed, epoch, clip), wherever they are made."""
    clips = dataset(store, transform=TrainCrop(20, "rgb"), seed=7)
    order = TrainingOrder(len(clips), batch_size=3, seed=7, first=2, last=8)
    batches = list(train_loader(clips, order, num_workers=num_workers, pin_memory=False))
    assert len(batches) == 6
    for keys, (pictures, labels, numbers) in zip(order, batches, strict=True):
        expected = [clips[key] for key in keys]
        assert torch.equal(pictures, torch.stack([clip for clip, _, _ in expected]))
        assert labels.tolist() == [label for _, label, _ in expected]
        assert numbers.tolist() == [clip for _, clip in keys]
    in_order = list(test_loader(clips, batch_size=5, num_workers=num_workers, pin_memory=False))
    assert torch.cat([numbers for _, _, numbers in in_order]).tolist() == list(range(len(clips)))


def test_loaders_leave_the_global_generator_alone(store):
    clips = dataset(store)
    torch.manual_seed(3)
    state = torch.get_rng_state()
    list(test_loader(clips, batch_size=5, num_workers=2, pin_memory=False))
    assert torch.equal(torch.get_rng_state(), state)


def test_clips_that_a_sparse_extraction_cannot_give(store):
    sparse = [Video("a", "train", "walk", 6, frame_step=2), Video("b", "train", "run", 4, frame_step=4)]
    assert len(dataset(store, videos=sparse, clip_step=4)) == 3
    for geometry in ({"clip_step": 3}, {"clip_len": 3, "frame_stride": 1, "clip_step": 4}):
        with pytest.raises(BadInputError, match="'a' was extracted with --frame_step=2.*multiple of 2"):
            dataset(store, videos=sparse, **geometry)
    with pytest.raises(BadInputError, match="'b' was extracted with --frame_step=4, so frames at step 2 are"):
        dataset(store, videos=sparse, clip_step=2)


NUM_FRAMES = 13


@pytest.fixture(scope="module")
def extracted(tmp_path_factory):
    """Data roots with two moving pictures, in full and at --frame_step 2 and 3: by frame step."""
    folder = tmp_path_factory.mktemp("extracted")
    for seed in (0, 1):
        wide = noise_image(seed, width=64 + 2 * NUM_FRAMES)
        pictures = np.stack([wide[:, 2 * k : 2 * k + 64] for k in range(NUM_FRAMES - seed)])
        toy.write_video(folder / f"{seed}.mkv", pictures)
    for step in (1, 2, 3):
        settings = ExtractionSettings(short_side=0, frame_step=step, flow=(FlowSettings("farneback"),))
        for seed in (0, 1):
            extract_video(ExtractionJob(str(folder / str(step)), f"v{seed}", str(folder / f"{seed}.mkv"), settings))
    return {step: folder / str(step) for step in (1, 2, 3)}


@pytest.mark.parametrize("input_type", ["rgb", "farneback"])
@pytest.mark.parametrize(
    ("frame_step", "geometry"),
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
def test_training_set_of_a_sparse_extraction_is_that_of_a_full_one(extracted, input_type, frame_step, geometry):
    """Same clips, same pixels, and a fraction of the images."""
    sets, images = {}, {}
    for step in (1, frame_step):
        store = FrameFolders(extracted[step], input_type)
        videos = [Video(f"v{k}", "train", CLASSES[k], *store.facts(f"v{k}")) for k in (0, 1)]
        assert [(video.num_frames, video.frame_step) for video in videos] == [
            (NUM_FRAMES, step),
            (NUM_FRAMES - 1, step),
        ]
        sets[step] = dataset(store, videos=videos, transform=TrainCrop(20, "rgb"), seed=5, **geometry)
        images[step] = sum(len(store.frame_indices(video.id)) for video in videos)
    full, sparse = sets[1], sets[frame_step]
    assert images[frame_step] == sum(-(-video.num_frames // frame_step) for video in full.videos) < images[1]
    assert len(sparse) == len(full) > 0
    for key in [(epoch, clip) for epoch in (0, 1) for clip in range(len(full))]:
        (clip, *rest), (truth, *expected) = sparse[key], full[key]
        assert torch.equal(clip, truth) and rest == expected
    with pytest.raises(BadInputError, match=f"--frame_step={frame_step}"):
        dataset(store, videos=videos, **(geometry | {"clip_step": geometry["clip_step"] + 1}))


def test_usable_videos(store):
    annotations = Annotations(
        CLASSES,
        (*VIDEOS, Video("c", "train", "run", 9), Video("d", "val", "run", 9), Video("e", "train", "walk", 0)),
    )
    (store.folder / "e").mkdir()
    assert usable_videos(annotations, "train", store) == (VIDEOS, ["c", "e"])
    with pytest.raises(BadInputError, match="none of the 1 videos of split 'val' has images.*extract.py"):
        usable_videos(annotations, "val", store)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_missing_image_is_named_in_one_line(store, num_workers):
    path = store.video_folder("b") / "00002.jpg"
    path.unlink()
    with pytest.raises(BadInputError) as caught:
        list(test_loader(dataset(store), batch_size=4, num_workers=num_workers, pin_memory=False))
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


# ------------------------------------------------------------------------------------------------ a million videos


class GreyStore:
    """A store that holds every video, and no file."""

    folder, input_type = Path("grey-images"), "grey"

    def __init__(self, ids):
        self.ids = ids

    def video_ids(self):
        return list(self.ids)

    def read(self, video_id, frame_indices):
        return np.full((len(frame_indices), 2, 2, 3), len(video_id), np.uint8)


def many_videos(count: int):
    """Videos as a list has them: in no order, with ids as long as those of Kinetics."""
    for number in range(count):
        place = number * 7919 % count  # a prime that divides none of the counts
        split = "val" if place % 20 == 0 else "train"
        yield Video(f"{place:011x}_{place % 600:06d}_{place % 600 + 10:06d}", split, f"class {place % 400}", 300, 29.97)


def training_clips(annotations: Annotations) -> ClipDataset:
    videos, missing = usable_videos(annotations, "train", GreyStore(annotations.videos.ids))
    assert not missing
    stream = StreamConfig("grey", "inception_v3", annotations.classes, 2)
    return ClipDataset(videos, GreyStore(()), stream, clip_step=6, transform=lambda clip, rng: clip)


def megabytes(file: str, *names: str) -> float:
    """Sum of these lines of a file of /proc."""
    lines = (line.split() for line in Path("/proc", file).read_text().splitlines())
    return sum(int(line[1]) for line in lines if line[0].rstrip(":") in names) / 1024


def worker_megabytes(clips: ClipDataset) -> float:
    """Private memory of a forked loader process that has made clips of videos all over the data set."""
    order = TrainingOrder(len(clips), batch_size=64, seed=0, first=0, last=400)
    batches = iter(train_loader(clips, order, num_workers=2, pin_memory=False))
    for _ in range(380):  # while they are still at work
        next(batches)
    files = [f"{child.pid}/smaps_rollup" for child in multiprocessing.active_children()]
    return max(megabytes(file, "Private_Clean", "Private_Dirty") for file in files)


def measure(root: str) -> None:
    """Print what the videos of a data root cost, as JSON. To be run in a process of its own."""
    tiny = worker_megabytes(training_clips(make_annotations(many_videos(100))))
    before = megabytes("self/status", "VmRSS")
    clips = training_clips(read_annotations(root))
    reader = megabytes("self/status", "VmHWM") - before
    print(json.dumps({"reader": reader, "worker": worker_megabytes(clips) - tiny, "videos": len(clips.videos)}))


@pytest.mark.parametrize(
    ("count", "reader_limit", "worker_limit"),
    [(100_000, 30, 5), pytest.param(1_000_000, 250, 50, marks=pytest.mark.slow)],
)
@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="memory is measured by Linux's /proc")
def test_memory_of_many_videos(tmp_path, count, reader_limit, worker_limit):
    """Megabytes at most to read the videos and join them with a store, and of each loader process' own."""
    write_annotations(tmp_path / "annotations.json", make_annotations(many_videos(count)))
    command = [sys.executable, "-c", f"from tests.test_dataset import measure; measure({str(tmp_path)!r})"]
    result = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=900)
    assert result.returncode == 0, result.stderr
    cost = json.loads(result.stdout)
    assert cost["videos"] == count * 19 // 20
    assert cost["reader"] <= reader_limit and cost["worker"] <= worker_limit, cost


def test_a_spawned_loader_process_is_sent_little():
    """Less than 100 bytes of a video, its id included."""
    clips = training_clips(make_annotations(many_videos(10_000)))
    clips.transform = None
    sent = pickle.dumps(clips)
    assert len(sent) < 100 * len(clips.videos)
    assert pickle.loads(sent).videos == clips.videos
