"""Score files of other toolkits: what kind a file is, by its content, and what is in it.

Most of them name no video: their rows are in the order of the list that was tested. `result_files` gives them names.
"""

import json
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from twostream.errors import BadInputError
from twostream.safe_pickle import read_pickle
from twostream.scores.npz import UNREADABLE


@dataclass
class Found:
    """What is in a file, before the videos are looked up in the split."""

    kind: str
    level: str
    """see ScoreTable.level"""
    videos: list[np.ndarray]
    """of each video its clips' scores (T, K), logits or probabilities"""
    names: list[str] | None = None
    """of the videos; None: they are in the order of a list"""
    places: list[int] | None = None
    """of the videos in that list, where they are not simply 0, 1, ..."""
    labels: list[int] | None = None
    """of the videos, where the file has them"""
    starts: list[np.ndarray] | None = None
    """first frame of each clip, where known"""
    orders: tuple[str, ...] = ("list",)
    """what order it may be, the likelier first: that of the "list", or of the list "sorted" (tsn-pytorch)"""


def recognise(path: Path) -> Found:
    data = path.read_bytes()
    if data[:2] == b"PK":
        content, readers = _arrays(path), (_tsn,)
    elif data.lstrip()[:1] in (b"{", b"["):
        content, readers = _json(path, data), (_challenge, _mmaction2_old)
    else:
        content, readers = read_pickle(path, data), PICKLES
    del data
    for reader in readers:
        try:
            found = reader(content)
        except UNREADABLE as error:
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            raise BadInputError(f"{path}: like a file of {_kind(reader)}, but {reason}; export it again") from None
        if found:
            return found
    raise BadInputError(f"{path}: no score file that is known; known are those of {', '.join(KINDS)}")


def _arrays(path: Path) -> dict[str, object]:
    """Arrays of an .npz, also those of objects, whose pickles are read safely."""
    content = {}
    with zipfile.ZipFile(path) as parts:
        for name in ("scores.npy", "labels.npy"):
            try:
                with parts.open(name) as file:
                    major, _ = np.lib.format.read_magic(file)
                    read = np.lib.format.read_array_header_1_0 if major == 1 else np.lib.format.read_array_header_2_0
                    shape, _, dtype = read(file)
                    if dtype.hasobject:
                        content[name] = read_pickle(path, file.read())
                        continue
                with parts.open(name) as file:
                    content[name] = np.lib.format.read_array(file, allow_pickle=False)
            except UNREADABLE as error:
                reason = " ".join(str(error).split())[:200] or type(error).__name__
                raise BadInputError(f"{path}: {name} cannot be read ({reason}); export it again") from None
    return content


def _json(path: Path, data: bytes) -> object:
    try:
        return json.loads(data, object_pairs_hook=_unique, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise BadInputError(f"{path}: {str(error)[:200]}; expected JSON, export it again") from None


def _unique(pairs: list[tuple[str, object]]) -> dict:
    content = dict(pairs)
    if len(content) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{next(name for name in names if names.count(name) > 1)!r} stands there twice")
    return content


def _refuse_constant(name: str):
    raise ValueError(f"{name} is no number of JSON")


# ------------------------------------------------------------------------------- readers: content -> Found, or None


def _challenge(content: object) -> Found | None:
    """The challenge's JSON: {"version", "external_data", "results": {id: [{"label", "score"}, ...]}}."""
    if not isinstance(content, dict) or not isinstance(content.get("results"), dict):
        return None
    videos, names = [], []
    for name, entries in content["results"].items():
        listed = {entry["label"]: float(entry["score"]) for entry in entries}
        if len(listed) < len(entries):
            raise ValueError(f"video {name!r} lists a class twice")
        if listed:
            videos.append(listed)
            names.append(name)
    return Found("the challenge", "video", videos, names)


def _2d_kinectics(content: object) -> Found | None:
    """2D-kinectics: {id: {"scores": (T, K) logits, "fids": (T,) frame numbers from 1, "count": T}}."""
    if not _is_dict_of(content, dict):
        return None
    videos, starts = [], []
    for name, entry in content.items():
        scores, numbers = _scores(entry["scores"], name), np.asarray(entry["fids"])
        count = int(entry["count"])
        if count > min(len(scores), len(numbers)) or (numbers[:count] < 1).any():
            raise ValueError(f"video {name!r} has {count} frames, {len(scores)} rows and frame numbers {numbers[:5]}")
        videos.append(scores[:count])
        starts.append(numbers[:count].astype(np.int64) - 1)
    return Found("2D-kinectics", "frames", videos, list(content), starts=starts)


def _vmz(content: object) -> Found | None:
    """VMZ's extract_features: {"softmax": (M, K), "label": (M,), "video_id": (M,)}; ids are places in the list."""
    if not isinstance(content, dict) or not {"softmax", "video_id"} <= content.keys():
        return None
    scores, places = _scores(content["softmax"], "softmax"), np.asarray(content["video_id"]).ravel()
    labels = np.asarray(content.get("label", np.full(len(places), -1))).ravel()
    if not len(scores) == len(places) == len(labels):
        raise ValueError(f"{len(scores)} rows of softmax, {len(places)} video_id, {len(labels)} label")
    if not len(places) or (places < 0).any() or (places != places.astype(int)).any():
        raise ValueError("video_id are no places in a list")
    order = np.argsort(places, kind="stable")
    unique, first = np.unique(places[order], return_index=True)
    return Found(
        "VMZ", "clips", np.split(scores[order], first[1:]),
        places=unique.astype(int).tolist(),
        labels=labels[order][first].astype(int).tolist() if "label" in content else None,
    )  # fmt: skip


def _jeffreyyihuang(content: object) -> Found | None:
    """jeffreyyihuang's two-stream: {name of the video: (K,) sums of logits}."""
    if not _is_dict_of(content, np.ndarray):
        return None
    return Found("jeffreyyihuang's two-stream", "video", [_one(v, n) for n, v in content.items()], list(content))


def _mmaction2_new(content: object) -> Found | None:
    """MMAction2 1.x --dump: [{"pred_score": (K,), "gt_label": (1,)}, ...]; 1.0.0 has "pred_scores": {"item": ...}."""
    if not _is_list_of(content, dict):
        return None

    def of(entry: dict, new: str, old: str) -> object:
        return entry[new] if new in entry else entry[old]["item"]

    videos = [_one(of(entry, "pred_score", "pred_scores"), place) for place, entry in enumerate(content)]
    labelled = "gt_label" in content[0] or "gt_labels" in content[0]
    labels = [int(np.ravel(of(e, "gt_label", "gt_labels"))[0]) for e in content] if labelled else None
    return Found("MMAction2", "video", videos, labels=labels)


def _pyslowfast(content: object) -> Found | None:
    """PySlowFast's TEST.SAVE_RESULTS_PATH: [scores (N, K), labels (N,)]."""
    if not (_is_list_of(content, np.ndarray) and [part.ndim for part in content] == [2, 1]):
        return None
    scores, labels = content
    if len(scores) != len(labels):
        raise ValueError(f"{len(scores)} rows and {len(labels)} labels")
    return Found(
        "PySlowFast", "video", [_one(row, n) for n, row in enumerate(scores)], labels=labels.astype(int).tolist()
    )


def _mmaction2_old(content: object) -> Found | None:
    """MMAction2 0.x --out, pickle or JSON: [(K,), ...]."""
    if not _is_list_of(content, np.ndarray | list):
        return None
    return Found("MMAction2", "video", [_one(row, place) for place, row in enumerate(content)])


def _tsn(content: object) -> Found | None:
    """TSN's --save_scores: scores of each video as (array (T, crops, K), label), and labels."""
    videos, labels, crops = [], [], set()
    for place, entry in enumerate(content["scores.npy"]):
        scores, label = entry, None
        if len(entry) == 2 and not np.ndim(entry[1]):
            scores, label = entry
        scores = np.asarray(scores, np.float64)
        if scores.ndim not in (2, 3):
            raise ValueError(f"video {place} has scores of shape {scores.shape}, expected frames, crops and classes")
        scores = scores.reshape(len(scores), -1, scores.shape[-1])
        crops.add(scores.shape[1])
        videos.append(scores.mean(axis=1))
        labels.append(label)
    saved = np.ravel(content["labels.npy"])
    if len(saved) != len(videos) or any(label not in (None, other) for label, other in zip(labels, saved, strict=True)):
        raise ValueError(f"{len(videos)} videos and {len(saved)} labels, or labels that differ")
    # tsn-pytorch takes the mean over the crops and sorts the list before it saves; TSN does neither.
    orders = ("sorted", "list") if crops == {1} else ("list", "sorted")
    return Found("TSN", "clips", videos, labels=[int(label) for label in saved], orders=orders)


def _is_dict_of(content: object, kind: type) -> bool:
    return isinstance(content, dict) and bool(content) and all(isinstance(part, kind) for part in content.values())


def _is_list_of(content: object, kind: type) -> bool:
    return isinstance(content, list) and bool(content) and all(isinstance(part, kind) for part in content)


def _scores(array: object, name: object) -> np.ndarray:
    """(T, K), of a video or a blob."""
    array = np.asarray(array)
    if array.ndim != 2 or array.dtype.kind not in "fiu":
        raise ValueError(f"{name!r} has scores of type {array.dtype} and shape {array.shape}, expected rows of numbers")
    return array


def _one(array: object, name: object) -> np.ndarray:
    """(1, K), of a whole video."""
    array = np.asarray(array)
    if array.ndim != 1:
        raise ValueError(f"{name!r} has scores of shape {array.shape}, expected one row")
    return _scores(array[None], name)


PICKLES: tuple[Callable[[object], Found | None], ...] = (
    _vmz, _2d_kinectics, _jeffreyyihuang, _mmaction2_new, _pyslowfast, _mmaction2_old,
)  # fmt: skip
KINDS = ("test.py (.npz)", "2D-kinectics (.pkl)", "MMAction2 (.pkl, .json)", "TSN (.npz)", "PySlowFast (.pkl)",
         "VMZ (.pkl)", "jeffreyyihuang's two-stream (.pickle)", "the challenge (.json)")  # fmt: skip


def _kind(reader: Callable) -> str:
    return reader.__doc__.partition(":")[0]
