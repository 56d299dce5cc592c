"""Flow from video files by their motion vectors, with nothing on disk: what extraction would store, but for JPEG."""

import numpy as np
import pytest
import torch

from tests import toy
from tests.motion_vectors.moving import H264, MPEG4
from twostream.annotations.videos import Video, VideoTable
from twostream.clips.crops import CentreCrop
from twostream.clips.items import Items
from twostream.clips.online_flow import network_inputs, open_dataset
from twostream.clips.vector_images import VectorImages
from twostream.errors import BadInputError
from twostream.flow.coding import FlowCoding
from twostream.flow.methods import FlowSettings
from twostream.frames.jpeg import Region
from twostream.frames.stores import open_store
from twostream.frames.videos import VideoFiles
from twostream.motion_vectors import kept_frames
from twostream.preparation.extraction import ExtractionJob, extract_video
from twostream.preparation.settings import ExtractionSettings
from twostream.stream import StreamConfig

pytest.importorskip("av")

SETTINGS = FlowSettings("mv", FlowCoding(bound=8))
STREAM = StreamConfig("mv", "resnet18", ("a", "b"), 40, flow_coding=SETTINGS.to_json()).with_flow("online")
FILES = {
    "groups.mp4": (*H264, "-bf", "2", "-g", "7"),
    "long.mkv": (*H264, "-bf", "0", "-g", "250"),
    "single.mp4": (*H264, "-g", "250"),
    "xvid.avi": (*MPEG4, "-bf", "2", "-g", "8"),
}
REGION = Region(0, 0, 80, 80)
"""the whole picture, at its own size"""


@pytest.fixture(scope="module")
def roots(tmp_path_factory):
    """A root with the flow images of extraction, and one with nothing but an index of the video files."""
    folder = tmp_path_factory.mktemp("vectors")
    store = VideoFiles.claim(folder / "files", folder / "videos", short_side=80)
    settings = ExtractionSettings(short_side=80, rgb=False, flow=(SETTINGS,), flow_quality=100)
    for name, codec in FILES.items():
        path = folder / "videos" / name
        toy.write_video(path, toy.frames(3, "red", "left")[: 1 if "single" in name else None], codec=codec)
        store.add(path.stem, path)
        extract_video(ExtractionJob(str(folder / "stored"), path.stem, str(path), settings))
    toy.write_video(folder / "videos" / "none.mkv", toy.frames(3, "red", "left"))
    store.add("none", folder / "videos" / "none.mkv")
    return folder


def read(images, video_id, frame_indices):
    out = np.empty((1, len(frame_indices), 80, 80, 2), np.uint8)
    images.read_regions(video_id, frame_indices, lambda height, width: [REGION], out)
    return out[0].astype(int)


@pytest.mark.parametrize("video_id", ["groups", "long", "single", "xvid"])
def test_each_image_is_the_one_that_extraction_stores(video_id, roots):
    images = VectorImages(open_store(roots / "files", "rgb"), STREAM)
    stored = open_store(roots / "stored", "mv")
    assert images.picture_size(video_id) == (80, 80)
    last = stored.count(video_id) - 1
    for frame_indices in ([0], [last], [last, 0], *([k, k + 2] for k in range(0, last - 1, 3))):
        difference = np.abs(read(images, video_id, frame_indices) - read(stored, video_id, frame_indices))
        assert difference.max() <= 3, f"frames {frame_indices}; JPEG of quality 100 rounds a level or two"
    if last:
        assert np.abs(read(images, video_id, [5]) - 128).max() > 20, "something moves"


@pytest.mark.parametrize("video_id", ["groups", "xvid"])
def test_a_frame_is_found_from_the_key_frame_before_it(video_id, roots, monkeypatch):
    """The file is not read from its start, not even AVI, which has times of decoding only."""
    seconds, read_steps = [], kept_frames.read_steps

    def noted(*args, **kwargs):
        for step in read_steps(*args, **kwargs):
            seconds.append(step.seconds)
            yield step

    monkeypatch.setattr(kept_frames, "read_steps", noted)
    read(VectorImages(open_store(roots / "files", "rgb"), STREAM), video_id, [24])
    assert seconds[0] * 15 >= 14 and 24 <= seconds[-1] * 15 <= 26


def test_batches_need_no_device(roots):
    store = open_store(roots / "files", "rgb")
    videos = VideoTable.of([Video("groups", "train", "a", 30), Video("xvid", "train", "b", 30)], STREAM.classes)
    items = Items(videos, STREAM, crop=CentreCrop(40))
    dataset = open_dataset(items, store)
    batch = dataset.__getitems__([(0, 3), (0, len(items) - 1)])
    assert batch.clips.shape == (2, 1, 1, 40, 40, 2) and batch.clips.dtype == torch.uint8
    assert network_inputs([batch], STREAM, torch.device("cpu")) == [batch]


def test_what_has_no_vectors_is_named(roots):
    images = VectorImages(open_store(roots / "files", "rgb"), STREAM)
    with pytest.raises(BadInputError, match=r"none\.mkv: no motion vectors: codec ffv1"):
        read(images, "none", [4])
    with pytest.raises(BadInputError, match="--frames=videos"):
        VectorImages(open_store(roots / "stored", "mv"), STREAM)
