"""What a run keeps of a linear head, beside its checkpoint; and the head that a training is compared with."""

import contextlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import twostream
from twostream.annotations.videos import VideoTable
from twostream.counts import counted
from twostream.engine.run_folder import scores_path, similar_runs
from twostream.errors import BadInputError
from twostream.files import write_text
from twostream.monitor import read_log
from twostream.scores.npz import write_scores
from twostream.scores.table import ScoreTable
from twostream.stream import StreamConfig

if TYPE_CHECKING:  # of what fits a head, a comparison needs nothing
    from twostream.probes.linear import LinearHead

RECORD_NAME = "linear_head.json"


def record_head(run_dir: Path, head: "LinearHead", videos: VideoTable, stream: StreamConfig) -> None:
    """Write linear_head.json, and the cross-validated logits of the training videos as scores of split train.

    No video of these scores was judged by a head that had seen it, so fusion weights may be fitted to them (twostream eval
    --split=train --fit_weights). `videos` are those that the head was fitted to, in order. Raises EnvironmentFaultError
    where a file cannot be written.
    """
    write_text(run_dir / RECORD_NAME, json.dumps(head.record(), indent=1) + "\n")
    count = np.arange(len(videos))
    table = ScoreTable(
        stream=stream.to_json(),
        split="train",
        video_ids=np.array(list(videos.ids)),
        labels=head.labels.astype(np.int32),
        video_index=count.astype(np.int32),
        start=np.zeros(len(count), np.int32),
        view=np.zeros(len(count), np.int16),
        logits=head.logits.astype(np.float32),
        provenance={
            "run": run_dir.name,
            "iteration": 1,
            "level": "video",
            "cross_validation": f"{head.num_folds} folds, {counted(head.num_draws, 'draw')}",
        }
        | {"twostream": twostream.__version__},
    )
    write_scores(scores_path(run_dir, split="train", iteration=1), table)


def find_head(
    run_dir: Path, stream: StreamConfig, settings: dict[str, Any], *, val_split: str, name: str | None = None
) -> tuple[str, float] | None:
    """The linear head that the training in `run_dir` is compared with: its run, and its accuracy on the validation clips.

    It is the newest one beside `run_dir`, or the one of run `name`, that was fitted to images of this input type and to
    these training videos, and validated on the videos of fingerprint `val_split`; its network may be any. None if there is
    none. Raises BadInputError if `name` is given and that run is no such head.
    """
    found: dict[str, tuple[float, float]] = {}  # run -> when it was fitted, its accuracy
    for path, content in similar_runs(run_dir.parent, stream, settings, any_backbone=True).items():
        record = path / RECORD_NAME
        if path == run_dir or not record.is_file() or content.get("val_split") not in (None, val_split):
            continue  # None: of an older version, which did not record it
        with contextlib.suppress(BadInputError, OSError):  # of a damaged log, or one that may not be read
            top1 = [e["top1"] for e in read_log(path) if e["event"] == "validation" and "top1" in e]
            found |= {path.name: (record.stat().st_mtime, top1[-1])} if top1 else {}
    if name is not None and name not in found:
        raise BadInputError(
            f"{run_dir.parent} has no linear head {name!r} of {stream.input_type} that was fitted to these training videos and validated on "
            f"these validation videos, found {', '.join(found) or 'none'}: name another run, or leave out --compare_with"
        )
    if not found:
        return None
    name = name or max(found, key=lambda run: found[run][0])
    return name, found[name][1]
