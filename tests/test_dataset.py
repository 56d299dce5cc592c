"""Clips as training and testing get them."""

import numpy as np
import pytest
import torch

from twostream.annotations import Annotations, Video
from twostream.dataset import ClipDataset, test_loader, train_loader, usable_videos
from twostream.errors import BadInputError
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


VIDEOS = [Video("a", "train", "walk", 6), Video("b", "train", "run", 4)]


def dataset(store, *, clip_len=1, frame_stride=1, clip_step=1, labels=(1, 0), videos=VIDEOS, transform=None, seed=0):
    stream = StreamConfig("rgb", "inception_v3", ("run", "walk"), 20, clip_len, frame_stride)
    return ClipDataset(
        videos, list(labels), store, stream, clip_step=clip_step, transform=transform or CentreCrop(20), seed=seed
    )


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
    assert dataset(store, labels=(-1, 0))[0][1] == -1


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
    sparse = [Video("a", "train", "walk", 6, frame_step=2)]
    assert len(dataset(store, videos=sparse, labels=(1,), clip_step=4)) == 2
    for geometry in ({"clip_step": 3}, {"clip_len": 3, "frame_stride": 1, "clip_step": 2}):
        with pytest.raises(BadInputError, match="'a' was extracted with --frame_step=2.*multiple of 2"):
            dataset(store, videos=sparse, labels=(1,), **geometry)


def test_usable_videos(store):
    annotations = Annotations(("run", "walk"), (*VIDEOS, Video("c", "train", "run", 9), Video("d", "val", "run", 9)))
    assert usable_videos(annotations, "train", store) == (VIDEOS, ["c"])
    with pytest.raises(BadInputError, match="none of the 1 videos of split 'val' has images.*extract.py"):
        usable_videos(annotations, "val", store)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_missing_image_is_named_in_one_line(store, num_workers):
    path = store.video_folder("b") / "00002.jpg"
    path.unlink()
    with pytest.raises(BadInputError) as caught:
        list(test_loader(dataset(store), batch_size=4, num_workers=num_workers, pin_memory=False))
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)
