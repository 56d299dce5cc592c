"""Features of videos whose clips have known ones: the number of the clip, and of the view."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from twostream.clips.sampling import ClipIndex
from twostream.models.network import build_model
from twostream.probes import features
from twostream.stream import StreamConfig

STREAM = StreamConfig("rgb", "squeezenet1_1", ("a", "b"), input_size=32)
NUM_CLIPS = np.array([6, 1, 4])
"""of each video"""
NUM_VIEWS = 2


@pytest.fixture
def found(monkeypatch):
    """found(rows, parts) -> (V, parts, views, 2), with these limits: number of the clip within its video, and of its view."""

    def found(max_rows: int, max_parts: int = features.MAX_PARTS) -> np.ndarray:
        monkeypatch.setattr(features, "MAX_ROWS", max_rows)
        monkeypatch.setattr(features, "MAX_PARTS", max_parts)
        index = ClipIndex(NUM_CLIPS + 1, span=1, clip_step=1)  # the last frame begins no clip
        items = SimpleNamespace(stream=STREAM, videos=NUM_CLIPS, views=range(NUM_VIEWS), index=index)
        clips = np.concatenate([np.arange(count) for count in NUM_CLIPS]).repeat(NUM_VIEWS)
        views = np.tile(np.arange(NUM_VIEWS), NUM_CLIPS.sum())
        outputs = torch.tensor(np.stack([clips, views, *np.zeros((2, len(clips)))], axis=1))
        numbers = torch.arange(len(clips))
        order = torch.randperm(len(clips), generator=torch.Generator().manual_seed(0)).split(5)
        monkeypatch.setattr(
            features, "predict", lambda *given, **named: ((numbers[n], None, outputs[n]) for n in order)
        )
        return features.video_features(build_model(STREAM), [], items, device=torch.device("cpu"))

    return found


def test_no_part_is_empty(found):
    """Of a video with fewer clips than parts, some clips are there several times."""
    result = found(1000, 9)
    assert result.shape == (3, 6, NUM_VIEWS, 2) and (result[..., 1] == [0, 1]).all()
    assert (result[:, :, 0, 0] == [[0, 1, 2, 3, 4, 5], [0] * 6, [0, 0, 1, 2, 2, 3]]).all()


def test_few_videos_have_two_parts_and_many_have_one(found):
    assert (found(1000)[:, :, 0, 0] == [[1, 4], [0, 0], [0.5, 2.5]]).all()
    assert (found(1)[:, :, 0, 0] == [[2.5], [0], [1.5]]).all()
