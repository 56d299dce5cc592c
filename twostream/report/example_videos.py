"""Example videos for the page: which ones, what the streams said frame by frame, and pictures of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from twostream.errors import BadInputError
from twostream.frames.stores import input_types
from twostream.fusion.consensus import Consensus, softmax
from twostream.fusion.streams import fuse
from twostream.report.outcomes import Judgement
from twostream.scores.table import ScoreTable
from twostream.stream import RGB

MAX_POINTS = 60
"""of a curve"""
SHORT_SIDE = 120
"""of a thumbnail, pixels"""
QUALITY = 70
"""of its JPEG, percent"""


@dataclass(frozen=True)
class Curve:
    """Probabilities over a video's frames, by one row of the report."""

    name: str
    frames: list[int]
    """as their files count, from 1; the middle of each clip"""
    true: list[float]
    """of the true class"""
    rival: list[float]
    """of the class that the row took the video for; where it is right, of the next best"""
    rival_label: int


@dataclass(frozen=True)
class Picture:
    """One image of a video, as a JPEG file."""

    input_type: str
    jpeg: bytes | None
    """None where there is none to be read"""


@dataclass(frozen=True)
class Example:
    """A video that is shown."""

    place: int
    """in the split"""
    label: int
    curves: list[Curve]
    frame: int | None
    """that is shown, from 1: where the fusion is surest of the class it chose"""
    pictures: list[Picture]


def choose(videos: np.ndarray, judged: Judgement, count: int) -> list[int]:
    """Places of up to `count` of the videos (booleans): half are those it is surest of and wrong, half right.

    Where there are few of one kind there are more of the other. A class comes again only when all others have come.
    """
    candidates = np.flatnonzero(videos & judged.scored)
    order = candidates[np.lexsort((candidates, -judged.confidence[candidates]))]
    kinds = [_spread(order[judged.right[order] == is_right], judged.labels) for is_right in (False, True)]
    wanted = min(len(kinds[0]), max(count // 2, count - len(kinds[1])))
    return [*kinds[0][:wanted], *kinds[1][: count - wanted]]


def _spread(places: np.ndarray, labels: np.ndarray) -> list[int]:
    """In rounds: the first one of each class, then the second ones, ..."""
    turn: dict[int, int] = {}
    rounds = []
    for place in places.tolist():
        label = int(labels[place])
        turn[label] = turn.get(label, -1) + 1
        rounds.append(turn[label])
    return places[np.argsort(rounds, kind="stable")].tolist() if rounds else []


def make_example(
    place: int, tables: Sequence[ScoreTable], judged: Sequence[Judgement], consensus: Consensus,
    weights: tuple[float, ...], root: Path | None,
) -> Example:  # fmt: skip
    """`judged` of each stream, and last of their fusion where there are several."""
    label = int(judged[-1].labels[place])
    by_name = {one.name: one for one in judged}
    curves, frame = [], None
    for name, frames, probabilities in _by_frame(place, tables, judged, consensus, weights):
        one = by_name[name]
        rival = int(one.runner_up[place] if one.right[place] else one.taken[place])
        chosen = np.unique(np.linspace(0, len(frames) - 1, min(MAX_POINTS, len(frames))).round().astype(int))
        pair = (probabilities[chosen, column].round(4).tolist() for column in (label, rival))
        curves.append(Curve(name, (frames[chosen] + 1).tolist(), *pair, rival))
        # Of the last one: the fusion, if it has frames.
        frame = int(frames[probabilities[:, judged[-1].taken[place]].argmax()])
    pictures = _pictures(root, str(tables[0].video_ids[place]), frame or 0, tables) if root else []
    return Example(place, label, curves, None if frame is None else frame + 1, pictures)


def _by_frame(place, tables, judged, consensus, weights):
    """Of each stream, and of their fusion: name, middle frames (n,) from 0, class probabilities (n, K)."""
    parts = []
    for table, one in zip(tables, judged, strict=False):
        first, end = np.searchsorted(table.video_index, [place, place + 1])
        if table.level == "video" or first == end:
            continue
        keys = [tuple(key) for key in np.stack([table.start[first:end], table.view[first:end]], 1).tolist()]
        logits = np.asarray(table.logits[first:end])
        parts.append((keys, logits))
        yield one.name, *_of_times(keys, softmax(logits), table.clip_extent)
    if len(judged) > len(tables) > 1 and len(parts) == len(tables) and all(t.level == "frames" for t in tables):
        common = sorted(set.intersection(*(set(keys) for keys, _ in parts)))
        if not common:
            return
        rows = [[keys.index(key) for key in common] for keys, _ in parts]
        clips = [consensus.clip_scores(logits[chosen]) for (_, logits), chosen in zip(parts, rows, strict=True)]
        fused = fuse(clips, weights)
        extent = max(table.clip_extent for table in tables)
        yield judged[-1].name, *_of_times(common, fused if consensus.on_softmax else softmax(fused), extent)


def _of_times(keys: list[tuple[int, int]], probabilities: np.ndarray, extent: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean over the views of each time."""
    starts, which = np.unique([start for start, _ in keys], return_inverse=True)
    sums = np.zeros((len(starts), probabilities.shape[1]))
    np.add.at(sums, which, probabilities)
    return starts + extent // 2, sums / np.bincount(which)[:, None]


def image_types(root: Path, tables: Sequence[ScoreTable]) -> list[str]:
    """RGB and the first flow type of the streams, or else of the data root; those that are there."""
    there = input_types(root)
    flows = [table.stream["input_type"] for table in tables if table.stream["input_type"] != RGB]
    flow = next((name for name in [*flows, *there] if name in there and name != RGB), None)
    return [name for name in (RGB, flow) if name in there]


def _pictures(root: Path, video_id: str, frame: int, tables: Sequence[ScoreTable]) -> list[Picture]:
    return [Picture(kind, _thumbnail(root, kind, video_id, frame)) for kind in image_types(root, tables)]


def _thumbnail(root: Path, input_type: str, video_id: str, frame: int) -> bytes | None:
    """The image nearest to a frame, flow by the colour wheel; None where it cannot be read."""
    import cv2  # late: whoever wants no pictures needs no OpenCV

    from twostream.flow.coding import flow_colours
    from twostream.frames.jpeg import encode_jpeg
    from twostream.frames.stores import open_store

    try:
        store = open_store(root, input_type)
        indices = store.frame_indices(video_id)
        if not indices:
            return None
        image = store.read(video_id, [min(indices, key=lambda index: abs(index - frame))])[0]
    except (BadInputError, OSError):
        return None
    if input_type != RGB:
        image = flow_colours(image)
    factor = SHORT_SIDE / min(image.shape[:2])
    if factor < 1:
        size = [max(1, round(factor * side)) for side in image.shape[1::-1]]
        image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    return encode_jpeg(image, quality=QUALITY, chroma_subsampling=True)
