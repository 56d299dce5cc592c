"""Score files of other toolkits: which toolkit a file is from, found by its content, and what is in it.

Most of them do not name their videos: their rows are in the order of the list that was tested. `foreign.py` adds names.
"""

import json
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from twostream.counts import counted
from twostream.errors import BadInputError, one_line
from twostream.files import check_regular, check_zip, distinct_names
from twostream.safe_pickle import read_pickle
from twostream.scores.npz import UNREADABLE, read_header
from twostream.scores.scale import AUTO, LOGITS, PROBABILITIES, SUM_OF_SOFTMAX, sum_of

JEFFREYYIHUANG_VIEWS = 19
"""frames of each video that jeffreyyihuang's two-stream tests: `val_sample20` and `val_sample19` of its loaders"""


@dataclass(frozen=True)
class ForeignScores:
    """What is in a file, before its videos are looked up in the split."""

    kind: str
    """the toolkit"""
    level: str
    """what a row is, see ScoreTable.level"""
    videos: list[np.ndarray] = field(default_factory=list)
    """for each video the scores (T, K) of its clips, logits or probabilities; empty if the file has `entries`"""
    entries: list[dict[str, float]] | None = None
    """the challenge's file: for each video the scores of some classes, by class name"""
    names: list[str] | None = None
    """of the videos; None: the videos are in the order of the list that was tested"""
    list_indices: list[int] | None = None
    """position of each video in that list, from 0; None: 0, 1, 2, ..."""
    labels: list[int] | None = None
    """of the videos, if the file has them; -1 without a label"""
    starts: list[np.ndarray] | None = None
    """for each video the first frame index (T,) of its clips, if the file has it"""
    orders: tuple[str, ...] = ("list",)
    """possible orders of the videos, the more likely first: that of the "list", or of the "sorted" list (tsn-pytorch)"""
    scale: str = AUTO
    """what the scores are, as far as the format says it: see `scale.to_logits`"""


def recognise(path: Path) -> ForeignScores:
    """Read a file of any supported toolkit; BadInputError if it is not one, or is damaged."""
    check_regular(path)
    data = path.read_bytes()
    content: Any
    if data[:2] == b"PK":
        content, readers = _read_arrays(path), ARCHIVES
    elif data.lstrip()[:1] in (b"{", b"["):
        content, readers = _read_json(path, data), JSON_FILES
    else:
        content, readers = read_pickle(path, data), PICKLES
    del data
    for kind, read in readers.items():
        try:
            found = read(content)
        except UNREADABLE as error:
            raise BadInputError(
                f"{path}: looks like a file of {kind}, but {one_line(error)}; export it again"
            ) from None
        if found:
            return found
    raise BadInputError(f"{path}: unknown kind of score file; supported: {', '.join(KINDS)}")


def _read_arrays(path: Path) -> dict[str, Any]:
    """The arrays of TSN's .npz; those of objects are pickles, which are read safely."""
    content = {}
    with zipfile.ZipFile(path) as parts:
        for name in ("scores.npy", "labels.npy"):
            try:
                check_zip(parts)
                with parts.open(name) as file:
                    shape, order, dtype = read_header(file, parts.getinfo(name).file_size)
                    data = file.read()
                    if dtype.hasobject:
                        content[name] = read_pickle(path, data)
                    else:
                        content[name] = np.frombuffer(data, dtype).reshape(shape, order=order)
            except UNREADABLE as error:
                raise BadInputError(f"{path}: {name} cannot be read ({one_line(error)}); export it again") from None
    return content


def _read_json(path: Path, data: bytes) -> Any:
    try:
        return json.loads(data, object_pairs_hook=distinct_names, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise BadInputError(f"{path}: not valid JSON: {one_line(error)}; export it again") from None


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a number in JSON")


# --------------------------------------------------------- readers: content -> scores, or None if it is not their kind

Reader = Callable[[Any], ForeignScores | None]


def _challenge(content: Any) -> ForeignScores | None:
    """{"version", "external_data", "results": {id: [{"label", "score"}, ...]}}"""
    if not isinstance(content, dict) or not isinstance(content.get("results"), dict):
        return None
    videos, names = [], []
    for name, listed in content["results"].items():
        scores = {entry["label"]: float(entry["score"]) for entry in listed}
        if len(scores) < len(listed):
            raise ValueError(f"video {name!r} lists a class twice")
        if scores:
            videos.append(scores)
            names.append(name)
    return ForeignScores("the challenge", "video", entries=videos, names=names)


def _2d_kinectics(content: Any) -> ForeignScores | None:
    """{id: {"scores": (T, K) logits, "fids": (T,) frame numbers from 1, "count": T}}"""
    if not _is_dict_of(content, dict):
        return None
    videos, starts = [], []
    for name, entry in content.items():
        scores, frames = _rows(entry["scores"], name), np.asarray(entry["fids"])
        count = int(entry["count"])
        if count > min(len(scores), len(frames)) or (frames[:count] < 1).any():
            raise ValueError(
                f"video {name!r} has {counted(count, 'frame')}, {counted(len(scores), 'row')} and frame numbers {frames[:5]}"
            )
        videos.append(scores[:count])
        starts.append(frames[:count].astype(np.int64) - 1)
    return ForeignScores("2D-kinectics", "frames", videos, names=list(content), starts=starts, scale=LOGITS)


def _vmz(content: Any) -> ForeignScores | None:
    """extract_features: {"softmax": (M, K), "label": (M,), "video_id": (M,)}; ids are positions in the list."""
    if not isinstance(content, dict) or not {"softmax", "video_id"} <= content.keys():
        return None
    scores, indices = _rows(content["softmax"], "softmax"), np.asarray(content["video_id"]).ravel()
    labels = np.asarray(content.get("label", np.full(len(indices), -1))).ravel()
    if not len(scores) == len(indices) == len(labels):
        raise ValueError(f"{counted(len(scores), 'row')} of softmax, {len(indices)} video_id, {len(labels)} label")
    if not len(indices) or (indices < 0).any() or (indices != indices.astype(int)).any():
        raise ValueError("video_id are not positions in a list")
    order = np.argsort(indices, kind="stable")
    unique, first = np.unique(indices[order], return_index=True)
    return ForeignScores(
        "VMZ", "clips", np.split(scores[order], first[1:]),
        list_indices=unique.astype(int).tolist(),
        labels=labels[order][first].astype(int).tolist() if "label" in content else None,
        scale=PROBABILITIES,
    )  # fmt: skip


def _jeffreyyihuang(content: Any) -> ForeignScores | None:
    """{name of the video: (K,) sum of the logits of JEFFREYYIHUANG_VIEWS frames}"""
    if not _is_dict_of(content, np.ndarray):
        return None
    videos = [_one_row(scores, name) for name, scores in content.items()]
    scale = sum_of(JEFFREYYIHUANG_VIEWS)
    return ForeignScores("jeffreyyihuang's two-stream", "video", videos, names=list(content), scale=scale)


def _mmaction2_new(content: Any) -> ForeignScores | None:
    """--dump: [{"pred_score": (K,), "gt_label": (1,)}, ...]; version 1.0.0 has "pred_scores": {"item": ...}."""
    if not _is_list_of(content, dict):
        return None

    def get(entry: dict[str, Any], key: str, old_key: str) -> Any:
        return entry[key] if key in entry else entry[old_key]["item"]

    videos = [_one_row(get(entry, "pred_score", "pred_scores"), index) for index, entry in enumerate(content)]
    labels = None
    if "gt_label" in content[0] or "gt_labels" in content[0]:
        labels = [int(np.ravel(get(entry, "gt_label", "gt_labels"))[0]) for entry in content]
    return ForeignScores("MMAction2", "video", videos, labels=labels)


def _pyslowfast(content: Any) -> ForeignScores | None:
    """TEST.SAVE_RESULTS_PATH: [scores (N, K), labels (N,)]; a video's scores are the sum of the softmax of its views."""
    if not (_is_list_of(content, np.ndarray) and [part.ndim for part in content] == [2, 1]):
        return None
    scores, labels = content
    if len(scores) != len(labels):
        raise ValueError(f"{counted(len(scores), 'row')} and {counted(len(labels), 'label')}")
    videos = [_one_row(row, index) for index, row in enumerate(scores)]
    return ForeignScores("PySlowFast", "video", videos, labels=labels.astype(int).tolist(), scale=SUM_OF_SOFTMAX)


def _mmaction2_old(content: Any) -> ForeignScores | None:
    """--out, pickle or JSON: [(K,), ...]"""
    if not _is_list_of(content, np.ndarray, list):
        return None
    return ForeignScores("MMAction2", "video", [_one_row(row, index) for index, row in enumerate(content)])


def _tsn(content: Any) -> ForeignScores | None:
    """--save_scores: for each video (scores (T, crops, K), label), and all labels."""
    videos, labels, crops = [], [], set()
    for index, entry in enumerate(content["scores.npy"]):
        scores, label = entry, None
        if len(entry) == 2 and not np.ndim(entry[1]):
            scores, label = entry
        scores = np.asarray(scores, np.float64)
        if scores.ndim not in (2, 3):
            raise ValueError(f"video {index} has scores of shape {scores.shape}, expected frames, crops and classes")
        scores = scores.reshape(len(scores), -1, scores.shape[-1])
        crops.add(scores.shape[1])
        videos.append(scores.mean(axis=1))
        labels.append(label)
    saved = np.ravel(content["labels.npy"])
    if len(saved) != len(videos):
        raise ValueError(f"it has {counted(len(videos), 'video')} and {counted(len(saved), 'label')}")
    if any(label is not None and label != saved_label for label, saved_label in zip(labels, saved, strict=True)):
        raise ValueError("the labels of its videos differ from its list of labels")
    # tsn-pytorch takes the mean over the crops and sorts the list before it saves; TSN does neither.
    orders = ("sorted", "list") if crops == {1} else ("list", "sorted")
    return ForeignScores("TSN", "clips", videos, labels=[int(label) for label in saved], orders=orders)


def _is_dict_of(content: Any, kind: type) -> bool:
    return isinstance(content, dict) and bool(content) and all(isinstance(part, kind) for part in content.values())


def _is_list_of(content: Any, *kinds: type) -> bool:
    return isinstance(content, list) and bool(content) and all(isinstance(part, kinds) for part in content)


def _rows(content: Any, name: object) -> np.ndarray:
    """Scores (T, K); ValueError names them if they are anything else."""
    array = np.asarray(content)
    if array.ndim != 2 or array.dtype.kind not in "fiu":
        raise ValueError(f"{name!r} has scores of type {array.dtype} and shape {array.shape}, expected rows of numbers")
    return array


def _one_row(content: Any, name: object) -> np.ndarray:
    """Scores (K,) of a whole video -> (1, K)."""
    array = np.asarray(content)
    if array.ndim != 1:
        raise ValueError(f"{name!r} has scores of shape {array.shape}, expected one row")
    return _rows(array[None], name)


ARCHIVES: dict[str, Reader] = {"TSN": _tsn}
JSON_FILES: dict[str, Reader] = {"the challenge": _challenge, "MMAction2 0.x": _mmaction2_old}
PICKLES: dict[str, Reader] = {
    "VMZ": _vmz,
    "2D-kinectics": _2d_kinectics,
    "jeffreyyihuang's two-stream": _jeffreyyihuang,
    "MMAction2 1.x": _mmaction2_new,
    "PySlowFast": _pyslowfast,
    "MMAction2 0.x": _mmaction2_old,
}
"""readers by the toolkit's name in messages, in the order in which they are tried"""
KINDS = ("twostream test (.npz)", "2D-kinectics (.pkl)", "MMAction2 (.pkl, .json)", "TSN (.npz)", "PySlowFast (.pkl)",
         "VMZ (.pkl)", "jeffreyyihuang's two-stream (.pickle)", "the challenge (.json)")  # fmt: skip
"""what `recognise` and `read_scores` read, for messages"""
