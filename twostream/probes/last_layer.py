"""The step of --head=linear: the last layer is fitted to the features of all training videos, saved and validated."""

import itertools
from collections.abc import Iterator, Sequence

import numpy as np

from twostream.annotations.splits import draw_folds
from twostream.architectures.flow_fisher import FlowFisher
from twostream.clips.dataset import Batch, ClipDataset, eval_loader
from twostream.clips.online_flow import FrameDataset, network_inputs
from twostream.engine.session import Session
from twostream.models.backbones import BACKBONES
from twostream.models.features import set_head
from twostream.probes.codebook import MAX_CLIPS, Blocks, fit_codebook
from twostream.probes.features import video_features
from twostream.probes.linear import fit_linear_head
from twostream.probes.record import record_head

NUM_FOLDS, NUM_DRAWS = 5, 3
"""of the cross-validation, and how often they are drawn: with few videos, it matters which of them share a fold"""
MAX_DRAWN = 3000
"""examples; with more, the folds are drawn once: on two cores, each further draw of 2,100 takes three seconds"""


def fit_last_layer(
    session: Session, clips: ClipDataset | FrameDataset, *, num_workers: int, batch_size: int, amp: str, seed: int,
    choose_mirroring: bool, balance: bool, learn_codebook: bool,
) -> bool:  # fmt: skip
    """Fit, save and validate, as iteration 1 of the session; False if a signal stopped it.

    `clips` are those of the training videos, with the views to fit to; `batch_size` counts views;
    `choose_mirroring` and `balance` are those of `fit_linear_head`; with `learn_codebook`, a network with a codebook gets
    that of these videos first. Until the layer is saved, nothing is, so a training that was killed starts over.
    """
    items, stop, network = clips.items, session.stop, session.state.network

    def inputs(numbers: Sequence[int], what: str) -> Iterator[Batch]:
        """The batches of these items, on the device, until a signal comes."""
        size = max(batch_size // len(items.views), 1)
        groups = [
            part for first in range(0, len(numbers), size) for part in items.of_one_shape(numbers[first : first + size])
        ]
        loader = eval_loader(
            clips, num_workers=num_workers, pin_memory=session.device.type == "cuda", batch_sampler=groups
        )
        bar = session.show_progress(
            stop.start(loader), total=len(loader), desc=f"{what} of {session.stream.input_type}"
        )
        batches = network_inputs(bar, session.stream, session.device)
        return itertools.takewhile(lambda _: not stop.requested, batches)

    if learn_codebook and isinstance(network.backbone, FlowFisher):
        numbers = np.unique(np.linspace(0, len(items) - 1, min(len(items), MAX_CLIPS)).astype(int)).tolist()
        blocks = Blocks(len(numbers), seed)
        blocks.collect(network, inputs(numbers, "local motion"), device=session.device)
        if stop.requested:
            return False
        fit_codebook(network.backbone, blocks.all(), seed=seed)
    features = video_features(network, inputs(range(len(items)), "features"), items, device=session.device, amp=amp)
    if stop.requested:
        return False
    videos = items.videos
    features_of_rows = features.reshape(len(videos), -1, features.shape[-1])
    num_draws = NUM_DRAWS if len(videos) * features_of_rows.shape[1] <= MAX_DRAWN else 1
    folds = draw_folds(videos.label_index, videos.group, num_folds=NUM_FOLDS, num_draws=num_draws, seed=seed)
    head = fit_linear_head(
        features_of_rows, videos.label_index, folds,
        classes=session.stream.classes, mirrored=[view.mirrored for view in items.views] * features.shape[1],
        choose_mirroring=choose_mirroring, balance=balance,
    )  # fmt: skip
    set_head(network.backbone, BACKBONES[session.stream.backbone].head, head.weight, head.bias)
    session.monitors.message(str(head))
    record_head(session.saver.run_dir, head, videos, session.stream)
    session.save(1, to_validate=True, final=True)
    return session.validate(1)
