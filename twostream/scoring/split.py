"""Score the videos of a split by one network: the clips are chosen, cut into parts, computed, and written as a score file."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

import twostream
from twostream.annotations.class_names import class_difference
from twostream.annotations.videos import NO_LABEL, Annotations, VideoTable
from twostream.clips.dataset import eval_loader, usable_videos
from twostream.clips.items import Items
from twostream.clips.online_flow import network_inputs, open_dataset
from twostream.clips.testing import Sampling, items_as_tested
from twostream.counts import counted
from twostream.engine.distributed import ALONE, World
from twostream.engine.loops import predict
from twostream.errors import BadInputError
from twostream.files import sha256
from twostream.flow.methods import same_levels
from twostream.frames.stores import open_store
from twostream.models.every_position import apply_at_every_position, check_test_size
from twostream.models.network import StreamNetwork
from twostream.scores.parts import Scoring
from twostream.scores.table import ScoreTable
from twostream.scoring.networks import ScoredNetwork
from twostream.stream import StreamConfig


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
    _check_data(network, annotations, options.split, store.tree_flow_coding())
    videos, ids_without_images = usable_videos(annotations, options.split, store, frame_rate=stream.frame_rate)
    videos = videos[_sorting_order(videos.ids)]
    items = items_as_tested(videos, stream, sampling)
    clips = open_dataset(items, store)
    table = _table_to_fill(network, annotations.split(options.split), items, options)
    scoring = Scoring(network.scores, table, len(items.views))

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
    missing = _missing_parts(scoring, world)
    own_parts = [part for part in missing if part % num_shards == options.shard[0]][world.rank :: world.size]
    if num_done := scoring.num_parts - len(missing):
        log(f"{num_done} of {counted(scoring.num_parts, 'part is', 'parts are')} scored already")

    module = _prepared(network, sampling)
    batches = _Batches(scoring, own_parts, max(options.batch_size // len(items.views), 1), items)
    loader = eval_loader(
        clips, num_workers=options.num_workers, pin_memory=device.type == "cuda", batch_sampler=batches
    )
    bar = show_progress(loader, desc=f"score {stream.input_type}", disable=not world.is_first or None)
    inputs = network_inputs(bar, items.stream, device)
    results = predict(module, inputs, device=device, amp=options.amp, log=bar.write)
    for _ in scoring.write_parts(own_parts, (logits.numpy() for _, _, logits in results)):
        pass
    world.wait()
    return _finish(scoring, since, log, world)


def _missing_parts(scoring: Scoring, world: World) -> list[int]:
    """The parts that are not scored yet, as rank 0 sees it: another rank may see those that the first has written since."""
    is_missing = torch.zeros(scoring.num_parts, dtype=torch.int64)
    if world.is_first:
        is_missing[scoring.missing()] = 1
    return world.sum_patiently(is_missing).nonzero().flatten().tolist()


def _prepared(network: ScoredNetwork, sampling: Sampling) -> nn.Module:
    """The network, ready for pictures of the size in which it is tested. BadInputError if it takes no such pictures."""
    module, stream = network.load(), network.stream
    if not sampling.test_size and not sampling.sees_whole_pictures:
        return module
    inner = module.module if isinstance(module, nn.DataParallel) else module
    if not isinstance(inner, StreamNetwork):
        raise BadInputError(
            f"{network.path} takes pictures of {stream.input_size} pixels only: leave out --test_size and --views=full, or "
            "score the checkpoint"
        )
    if sampling.sees_whole_pictures:
        if stream.is_online:
            raise BadInputError("--views=full needs flow that is stored: extract it, or choose other --views")
        if not stream.takes_any_shape:
            apply_at_every_position(inner, stream)
    else:
        check_test_size(inner, stream, sampling.test_size)
    return module


@dataclass(frozen=True)
class _Batches:
    """Batches of clip numbers, made when they are needed: dense prediction has millions."""

    scoring: Scoring
    parts: list[int]
    num_clips: int
    items: Items

    def __iter__(self) -> Iterator[list[int]]:
        for batch in self.scoring.batches(self.parts, num_clips=self.num_clips):
            yield from self.items.of_one_shape(batch)

    def __len__(self) -> int:
        return sum(1 for _ in self)


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
    extents = None
    if stream.frame_rate:  # clips span other numbers of frames in videos of other rates
        extents = np.zeros(len(video_ids), np.int32)
        extents[index_in_split] = items.geometry.spans - 1
    return ScoreTable(
        stream=stream.to_json(),
        split=options.split,
        video_ids=video_ids,
        labels=_labels(split, stream)[order],
        video_index=np.repeat(index_in_split[video], len(items.views)).astype(np.int32),
        start=np.repeat(start, len(items.views)).astype(np.int32),
        view=np.tile([view.number for view in items.views], len(start)).astype(np.int16),
        logits=np.empty((0, len(stream.classes)), np.float32),
        provenance={"checkpoint": path.name, "sha256": sha256(path), "run": path.parent.name}
        | network.provenance
        | sampling.to_json()
        | {"amp": options.amp}
        | {"twostream": twostream.__version__, "torch": torch.__version__, "command": options.command},
        extents=extents,
    )


def _labels(split: VideoTable, stream: StreamConfig) -> np.ndarray:
    """The labels of the split as `ScoreTable.labels` has them; `_check_data` was called before."""
    if split.is_multi_label != stream.multi_label:  # no video has a label, which is of no kind
        return np.full((len(split), len(stream.classes)) if stream.multi_label else len(split), NO_LABEL)
    return split.labels()


def _check_data(
    network: ScoredNetwork, annotations: Annotations, split: str, flow_coding: dict[str, Any] | None
) -> None:  # fmt: skip
    """BadInputError if the classes, the kind of labels or the flow of the data root are not those of the training."""
    path, stream = network.path, network.stream
    if annotations.classes != stream.classes:
        raise BadInputError(
            f"{path} and the annotations have {class_difference(stream.classes, annotations.classes)}; "
            "expected the same classes in the same order"
        )
    videos = annotations.split(split)
    if videos.is_multi_label != stream.multi_label and (videos.label_index >= 0).any():
        kinds = ("one label", "a list of labels")
        raise BadInputError(
            f"{path} was trained on videos with {kinds[stream.multi_label]}, but {annotations.path} has "
            f"{kinds[videos.is_multi_label]} for each: score it on annotations like those of its training, or train on these"
        )
    if stream.flow_coding and flow_coding and not same_levels(flow_coding, stream.flow_coding):
        raise BadInputError(
            f"{path} was trained on flow made with {stream.flow_coding}, but the flow of the data root was made with "
            f"{flow_coding}; extract flow with the settings of the training"
        )
