"""The step of --head=linear: the last layer is fitted to the features of all training videos, saved and validated."""

import itertools

from twostream.annotations.splits import choose_folds
from twostream.clips.dataset import ClipDataset, eval_loader
from twostream.clips.online_flow import FrameDataset, network_inputs
from twostream.engine.session import Session
from twostream.models.backbones import BACKBONES
from twostream.models.features import set_head
from twostream.probes.features import video_features
from twostream.probes.linear import fit_linear_head
from twostream.probes.record import record_head

NUM_FOLDS = 5
"""of the cross-validation"""


def fit_last_layer(
    session: Session, clips: ClipDataset | FrameDataset, *, num_workers: int, batch_size: int, amp: str, seed: int,
    choose_mirroring: bool, balance: bool,
) -> bool:  # fmt: skip
    """Fit, save and validate, as iteration 1 of the session; False if a signal stopped it.

    `clips` are those of the training videos, with the views to fit to; `batch_size` counts views;
    `choose_mirroring` and `balance` are those of `fit_linear_head`. Until the layer is saved,
    nothing is, so a training that was killed starts over.
    """
    items, stop, network = clips.items, session.stop, session.state.network
    loader = eval_loader(
        clips, num_workers=num_workers, pin_memory=session.device.type == "cuda",
        batch_size=max(batch_size // len(items.views), 1),
    )  # fmt: skip
    bar = session.show_progress(stop.start(loader), total=len(loader), desc=f"features of {session.stream.input_type}")
    inputs = network_inputs(bar, session.stream, session.device)
    batches = itertools.takewhile(lambda _: not stop.requested, inputs)
    features = video_features(network, batches, items, device=session.device, amp=amp)
    if stop.requested:
        return False
    videos = items.videos
    head = fit_linear_head(
        features.reshape(len(videos), -1, features.shape[-1]), videos.label_index, choose_folds(videos.label_index, videos.group, num_folds=NUM_FOLDS, seed=seed),
        classes=session.stream.classes, mirrored=[view.mirrored for view in items.views] * features.shape[1],
        choose_mirroring=choose_mirroring, balance=balance,
    )  # fmt: skip
    set_head(network.backbone, BACKBONES[session.stream.backbone].head, head.weight, head.bias)
    session.monitors.message(str(head))
    record_head(session.saver.run_dir, head, videos, session.stream)
    session.save(1, to_validate=True, final=True)
    return session.validate(1)
