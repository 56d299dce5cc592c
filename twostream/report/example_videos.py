"""Example videos for the page: which videos, what each stream predicted frame by frame, and their images."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from twostream.errors import BadInputError
from twostream.flow.coding import flow_colours
from twostream.frames.jpeg import encode_jpeg
from twostream.frames.stores import input_types, open_store
from twostream.fusion.consensus import Consensus, softmax
from twostream.fusion.streams import fuse
from twostream.report.outcomes import Outcomes
from twostream.scores.table import ScoreTable
from twostream.stream import RGB

MAX_POINTS = 60
"""of a curve"""
SHORT_SIDE = 120
"""of a thumbnail, pixels"""
QUALITY = 70
"""of a thumbnail's JPEG, percent"""


@dataclass(frozen=True)
class Curve:
    """Probabilities of two classes over a video's frames, by one row of the result table."""

    name: str
    frames: list[int]
    """middle frame of each clip, from 1 as the image files count"""
    true: list[float]
    """of the true class"""
    rival: list[float]
    """of the class that was predicted; if that is the true one, of the next best class"""
    rival_label: int


@dataclass(frozen=True)
class Picture:
    """One image of a video."""

    input_type: str
    jpeg: bytes | None
    """a JPEG file; None if no image can be read"""


@dataclass(frozen=True)
class Example:
    """A video that is shown."""

    index: int
    """of the video in the split"""
    label: int
    curves: list[Curve]
    frame: int | None
    """the frame that is shown, from 1: where the fusion gives its predicted class the highest probability; None without
    curves"""
    pictures: list[Picture]


def choose(videos: np.ndarray, outcomes: Outcomes, count: int) -> list[int]:
    """Indices of up to `count` of the videos (V,) booleans with the most confident predictions: half wrong, half right.

    If there are few of one kind, there are more of the other. A class occurs again only after all other classes.
    """
    candidates = np.flatnonzero(videos & outcomes.is_scored)
    order = candidates[np.lexsort((candidates, -outcomes.confidence[candidates]))]
    wrong, right = (
        _alternate_classes(order[outcomes.is_correct[order] == is_correct], outcomes.labels)
        for is_correct in (False, True)
    )
    num_wrong = min(len(wrong), max(count // 2, count - len(right)))
    return [*wrong[:num_wrong], *right[: count - num_wrong]]


def _alternate_classes(indices: np.ndarray, labels: np.ndarray) -> list[int]:
    """The indices in rounds: the first video of each class, then the second of each class, ..."""
    num_seen: dict[int, int] = {}
    rounds = []
    for index in indices.tolist():
        label = int(labels[index])
        rounds.append(num_seen.get(label, 0))
        num_seen[label] = rounds[-1] + 1
    ordered: list[int] = indices[np.argsort(rounds, kind="stable")].tolist() if rounds else []
    return ordered


def make_example(
    index: int, tables: Sequence[ScoreTable], outcomes: Sequence[Outcomes], consensus: Consensus,
    weights: tuple[float, ...], root: Path | None,
) -> Example:  # fmt: skip
    """The example of a video of the split. `outcomes`: of each stream, and last of the fusion of several streams.

    `root` is the data root with the images; None: no pictures.
    """
    main = outcomes[-1]
    label = int(main.labels[index])
    by_name = {row.name: row for row in outcomes}
    curves, frame = [], None
    for name, frames, probabilities in _scores_by_frame(index, tables, outcomes, consensus, weights):
        row = by_name[name]
        rival = int(row.runner_up[index] if row.is_correct[index] else row.predicted[index])
        chosen = np.unique(np.linspace(0, len(frames) - 1, min(MAX_POINTS, len(frames))).round().astype(int))
        true_curve, rival_curve = (probabilities[chosen, column].round(4).tolist() for column in (label, rival))
        curves.append(Curve(name, (frames[chosen] + 1).tolist(), true_curve, rival_curve, rival))
        # The last curve decides: that of the fusion, if it has frames.
        frame = int(frames[probabilities[:, main.predicted[index]].argmax()])
    pictures = _pictures(root, str(tables[0].video_ids[index]), frame or 0, tables) if root else []
    return Example(index, label, curves, None if frame is None else frame + 1, pictures)


def _scores_by_frame(
    index: int, tables: Sequence[ScoreTable], outcomes: Sequence[Outcomes], consensus: Consensus,
    weights: tuple[float, ...],
) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:  # fmt: skip
    """For each stream, and for their fusion: name, middle frames (n,) from 0, class probabilities (n, K)."""
    streams = []
    for table, row in zip(tables, outcomes, strict=False):
        first, end = np.searchsorted(table.video_index, [index, index + 1])
        if table.level == "video" or first == end:
            continue
        keys = list(zip(table.start[first:end].tolist(), table.view[first:end].tolist(), strict=True))
        logits = np.asarray(table.logits[first:end])
        streams.append((keys, logits))
        yield row.name, *_mean_over_views(keys, softmax(logits), int(table.clip_extents[index]))
    has_fusion = len(outcomes) > len(tables) > 1
    if has_fusion and len(streams) == len(tables) and all(table.level == "frames" for table in tables):
        common = sorted(set.intersection(*(set(keys) for keys, _ in streams)))
        if not common:
            return
        rows = [[keys.index(key) for key in common] for keys, _ in streams]
        clips = [consensus.clip_scores(logits[chosen]) for (_, logits), chosen in zip(streams, rows, strict=True)]
        fused = fuse(clips, weights)
        extent = max(int(table.clip_extents[index]) for table in tables)
        probabilities = fused if consensus.on_probabilities else softmax(fused)
        yield outcomes[-1].name, *_mean_over_views(common, probabilities, extent)


def _mean_over_views(
    keys: list[tuple[int, int]], probabilities: np.ndarray, extent: int
) -> tuple[np.ndarray, np.ndarray]:
    """Clips by (start, view) with probabilities (n, K) -> the middle frame of each start, and the means over its views."""
    starts, which = np.unique([start for start, _ in keys], return_inverse=True)
    sums = np.zeros((len(starts), probabilities.shape[1]))
    np.add.at(sums, which, probabilities)
    return starts + extent // 2, sums / np.bincount(which)[:, None]


def image_types(root: Path, tables: Sequence[ScoreTable]) -> list[str]:
    """Input types to show, of those in the data root: RGB, and the first flow type of the streams, or else of the root."""
    existing = input_types(root)
    candidates = [*(table.stream["input_type"] for table in tables), *existing]
    flow = [name for name in candidates if name in existing and name != RGB]
    return [name for name in (RGB, *flow[:1]) if name in existing]


def _pictures(root: Path, video_id: str, frame: int, tables: Sequence[ScoreTable]) -> list[Picture]:
    return [Picture(kind, _thumbnail(root, kind, video_id, frame)) for kind in image_types(root, tables)]


def _thumbnail(root: Path, input_type: str, video_id: str, frame: int) -> bytes | None:
    """JPEG of the image nearest to a frame, flow in colours; None if it cannot be read."""
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
        width, height = (max(1, round(factor * side)) for side in image.shape[1::-1])
        image = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
    return encode_jpeg(image, quality=QUALITY, chroma_subsampling=True)
