"""Features of videos: what a network, as it is, computes before its last layer."""

from collections.abc import Iterable

import numpy as np
import torch

from twostream.clips.dataset import Batch
from twostream.clips.items import Items
from twostream.engine.loops import predict
from twostream.models.backbones import BACKBONES
from twostream.models.features import WithFeatures
from twostream.models.network import StreamNetwork, use_channels_last


def video_features(
    network: StreamNetwork, inputs: Iterable[Batch], items: Items, *, device: torch.device, amp: str = "off"
) -> np.ndarray:
    """Mean features of each video of `items` over its clips, for each of its views: float32 (V, views, D).

    `inputs` are the batches of all items, on the device; without any, because a signal came first, D is 0. A video with
    many clips counts as much as one with few, and the features of a large data set need no more memory than this result.
    """
    head = BACKBONES[items.stream.backbone].head
    use_channels_last(network, clips=device.type != "cpu")  # a third faster for pictures, see runtimes.torch_network
    num_classes, num_views = len(items.stream.classes), len(items.views)
    sums = np.zeros((len(items.videos), num_views, 0))
    with_features = WithFeatures(network, head)
    for numbers, _, outputs in predict(with_features, inputs, device=device, amp=amp):
        features = outputs[:, :-num_classes].double().numpy()
        if sums.shape[-1] == 0:
            sums = np.zeros((*sums.shape[:2], features.shape[1]))
        clips, views = np.divmod(numbers.numpy(), num_views)
        np.add.at(sums, (items.index.locate(clips)[0], views), features)
    with_features.hook.remove()
    num_clips = np.diff(items.index.ends, prepend=0)
    return (sums / num_clips[:, None, None]).astype(np.float32)
