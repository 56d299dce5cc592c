"""Features of videos: what a network, as it is, computes before its last layer."""

from collections.abc import Iterable

import numpy as np
import torch

from twostream.clips.dataset import Batch
from twostream.clips.items import Items
from twostream.engine.loops import predict
from twostream.models.backbones import BACKBONES
from twostream.models.features import WithFeatures
from twostream.models.inference_copy import inference_copy
from twostream.models.network import StreamNetwork

MAX_PARTS = 2
"""of a video: on UT-Interaction, yoga and basketball, one part or two were best in cross-validation, for RGB and for flow"""
MAX_ROWS = 2500
"""examples in all, as far as videos are divided into parts: fitting a head to them takes a minute"""


def video_features(
    network: StreamNetwork, inputs: Iterable[Batch], items: Items, *, device: torch.device, amp: str = "off"
) -> np.ndarray:
    """Features of each video of `items`, float32 (V, parts, views, D): means over the clips of equal parts of the video.

    With few videos there are MAX_PARTS, as more examples make a better head; with many, a video is a single part, so that
    the result needs little memory. A video with fewer clips than parts has some of them repeatedly. `inputs` are the batches
    of all items, on the device; without any, because a signal came first, D is 0.
    """
    head = BACKBONES[items.stream.backbone].head
    num_classes, num_videos, num_views = len(items.stream.classes), len(items.videos), len(items.views)
    num_clips = np.diff(items.index.ends, prepend=0)
    num_parts = max(min(num_clips.max(initial=1), MAX_PARTS, MAX_ROWS // max(num_videos * num_views, 1)), 1)
    sums, counts = np.zeros((num_videos, num_parts, num_views, 0)), np.zeros((num_videos, num_parts, num_views, 1))
    with_features = WithFeatures(inference_copy(network, device), head)
    for numbers, _, outputs in predict(with_features, inputs, device=device, amp=amp):
        features = outputs[:, :-num_classes].double().numpy()
        if sums.shape[-1] == 0:
            sums = np.zeros((*sums.shape[:3], features.shape[1]))
        clips, views = np.divmod(numbers.numpy(), num_views)
        videos = items.index.locate(clips)[0]
        first = items.index.ends[videos] - num_clips[videos]
        parts = (clips - first) * num_parts // np.maximum(num_clips[videos], num_parts)
        np.add.at(sums, (videos, parts, views), features)
        np.add.at(counts, (videos, parts, views), 1)
    filled = np.minimum(num_clips, num_parts)[:, None]  # of the parts of each video
    used = np.arange(num_parts) * filled // num_parts
    rows = np.arange(num_videos)[:, None]
    return (sums[rows, used] / np.maximum(counts[rows, used], 1)).astype(np.float32)
