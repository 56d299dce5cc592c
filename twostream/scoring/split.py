"""Score the videos of a split by one network: the clips are chosen, cut into parts, computed, and written as a score file."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

import twostream
from twostream.annotations.class_names import class_difference
from twostream.annotations.videos import Annotations, VideoTable
from twostream.clips.crops import make_views
from twostream.clips.dataset import eval_loader, usable_videos
from twostream.clips.items import Items
from twostream.clips.online_flow import network_inputs, open_dataset
from twostream.clips.testing import Sampling
from twostream.counts import counted
from twostream.engine.distributed import ALONE, World
from twostream.engine.loops import predict
from twostream.errors import BadInputError
from twostream.files import sha256
from twostream.flow.methods import same_levels
from twostream.frames.stores import open_store
from twostream.scores.parts import Scoring
from twostream.scores.table import ScoreTable
from twostream.scoring.networks import ScoredNetwork


@dataclass(frozen=True)
class ScoringOptions:
    """Which clips of a split are scored, and how."""

    split: str = "val"
    """one of SPLITS"""
    sampling: Sampling = Sampling(num_clips=0)
    amp: str = "off"
    """a key of AMP"""
    batch_size: int = 128
    """views of clips at once"""
    num_workers: int = 4
    shard: tuple[int, int] = (0, 1)
    """(i, n): this process, with its ranks, scores part i of n; the last to finish makes the score file"""
    rescore: bool = False
    """score again where the score file exists with these settings"""
    command: str = ""
    """the command line that the score file names"""


def score_split(
    network: ScoredNetwork, root: Path, annotations: Annotations, options: ScoringOptions, *, device: torch.device,
    log: Callable[[str], object], show_progress: Callable[..., Any], world: World = ALONE,
) -> Path | None:  # fmt: skip
    """Score a network on a split of a data root; returns the score file, None while other shards score parts of it.

    Parts that an earlier call has finished are kept, and so is a score file with these settings. All ranks must call this;
    only the first writes to `log`. `show_progress(iterable, desc=..., disable=...)` passes the batches on and draws a bar,
    whose `write` prints a line. Raises BadInputError if classes or flow of the root are not those of the training.
    """
    stream, sampling, num_shards = network.stream, options.sampling, options.shard[1]
    store = open_store(root, stream.stored_type)
    _check_data(network, annotations.classes, store.tree_flow_coding())
    videos, ids_without_images = usable_videos(annotations, options.split, store)
    videos = videos[_sorting_order(videos.ids)]
    views = make_views(sampling.views, stream.input_size, stream.resize_side)
    items = Items(videos, stream, views=views, clip_step=sampling.clip_step, num_clips=sampling.num_clips)
    clips = open_dataset(items, store)
    table = _table_to_fill(network, annotations.split(options.split), items, options)
    scoring = Scoring(network.scores, table, len(views))

    if not world.is_first:
        log = _ignore
    log(
        f"{network.path}: {counted(len(clips), 'clip')} of {counted(len(videos), 'video')}, split {options.split}, "
        f"views {sampling.views}; {device}"
    )
    if ids_without_images:
        log(
            f"{counted(len(ids_without_images), 'video')} of {options.split} without {store.input_type} images: "
            f"{', '.join(ids_without_images[:5])}"
        )
    if text := items.short_videos():
        log(f"WARNING: {text}")
    if world.broadcast_from_first(world.is_first and scoring.is_done() and not options.rescore):
        log(f"{scoring.target} exists already with these settings; --rescore scores it again")
        scoring.remove_parts()  # a second scoring at the same time may have left some
        return scoring.target
    since = scoring.file_state()
    first_part = options.shard[0] * world.size + world.rank
    own_parts = [p for p in scoring.missing() if p % (num_shards * world.size) == first_part]
    world.wait()  # no process writes a part before all have looked which are missing
    if num_done := scoring.num_parts - len(scoring.missing()):
        log(f"{num_done} of {counted(scoring.num_parts, 'part is', 'parts are')} scored already")

    loader = eval_loader(
        clips, num_workers=options.num_workers, pin_memory=device.type == "cuda",
        batch_sampler=list(scoring.batches(own_parts, num_clips=max(options.batch_size // len(views), 1))),
    )  # fmt: skip
    bar = show_progress(loader, desc=f"score {stream.input_type}", disable=not world.is_first or None)
    results = predict(
        network.load(), network_inputs(bar, stream, device), device=device, amp=options.amp, log=bar.write
    )
    for _ in scoring.write_parts(own_parts, (logits.numpy() for _, _, logits in results)):
        pass
    world.wait()
    return _finish(scoring, since, log, world)


def _ignore(line: str) -> None:
    """The log of ranks other than the first."""


def _finish(scoring: Scoring, since: tuple[int, int] | None, log: Callable[[str], object], world: World) -> Path | None:
    """Make the score file if all parts are there, and return it; `since`: see `Scoring.finish`."""
    if world.is_first and not scoring.missing() and (kept := scoring.keep_earlier()):
        log(kept)
    if world.broadcast_from_first(world.is_first and scoring.finish(since=since)):
        log(f"wrote {scoring.target}")
        for folder in scoring.unfinished():
            log(
                f"{folder} has parts of a scoring with other settings that was not finished; remove it if it is not needed"
            )
        return scoring.target
    log(
        f"{len(scoring.missing())} of {counted(scoring.num_parts, 'part is', 'parts are')} not scored yet; other shards write "
        f"them to {scoring.folder}"
    )
    return None


def _sorting_order(ids: Sequence[str]) -> np.ndarray:
    """Indices that sort the ids."""
    return np.argsort(np.array(list(ids)), kind="stable")


def _table_to_fill(network: ScoredNetwork, split: VideoTable, items: Items, options: ScoringOptions) -> ScoreTable:
    """All rows to score, without logits: each clip's views, in order of video, start and view."""
    path, stream, sampling = network.path, network.stream, options.sampling
    order = _sorting_order(split.ids)
    video_ids = np.array(list(split.ids))[order]
    video, start = items.index.locate(np.arange(len(items)))
    index_in_split = np.searchsorted(video_ids, np.array(list(items.videos.ids)))  # of each video that has images
    clip_choice = {"num_clips": sampling.num_clips} if sampling.num_clips else {"frame_step": sampling.clip_step}
    return ScoreTable(
        stream=stream.to_json(),
        split=options.split,
        video_ids=video_ids,
        labels=split.label_index[order].astype(np.int32),
        video_index=np.repeat(index_in_split[video], len(items.views)).astype(np.int32),
        start=np.repeat(start, len(items.views)).astype(np.int32),
        view=np.tile([view.number for view in items.views], len(start)).astype(np.int16),
        logits=np.empty((0, len(stream.classes)), np.float32),
        provenance={"checkpoint": path.name, "sha256": sha256(path), "run": path.parent.name}
        | network.provenance
        | clip_choice
        | {"views": sampling.views, "amp": options.amp}
        | {"twostream": twostream.__version__, "torch": torch.__version__, "command": options.command},
    )


def _check_data(network: ScoredNetwork, classes: tuple[str, ...], flow_coding: dict[str, Any] | None) -> None:
    """BadInputError if the classes or the flow of the data root are not those of the training."""
    path, stream = network.path, network.stream
    if classes != stream.classes:
        raise BadInputError(
            f"{path} and the annotations have {class_difference(stream.classes, classes)}; "
            "expected the same classes in the same order"
        )
    if stream.flow_coding and flow_coding and not same_levels(flow_coding, stream.flow_coding):
        raise BadInputError(
            f"{path} was trained on flow made with {stream.flow_coding}, but the flow of the data root was made with "
            f"{flow_coding}; extract flow with the settings of the training"
        )
