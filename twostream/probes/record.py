"""What a run keeps of a linear head, beside its checkpoint."""

import json
from pathlib import Path

import numpy as np

import twostream
from twostream.annotations.videos import VideoTable
from twostream.engine.run_folder import scores_path
from twostream.files import write_text
from twostream.probes.linear import LinearHead
from twostream.scores.npz import write_scores
from twostream.scores.table import ScoreTable
from twostream.stream import StreamConfig

RECORD_NAME = "linear_head.json"


def record_head(run_dir: Path, head: LinearHead, videos: VideoTable, stream: StreamConfig) -> None:
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
            "cross_validation": f"{head.num_folds} folds",
        }
        | {"twostream": twostream.__version__},
    )
    write_scores(scores_path(run_dir, split="train", iteration=1), table)
