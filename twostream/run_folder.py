"""The folder of a run (one training of one stream): its name, what is in it, and how to find it again.

<save_root>/<run>/stream.json  train.log  log.jsonl  checkpoint_025000.pth ...  scores_val_025000.npz ...
"""

import json
import re
from pathlib import Path

from twostream import atomic
from twostream.annotations import read_json
from twostream.errors import BadInputError
from twostream.stream import StreamConfig

STREAM_NAME = "stream.json"


def run_name(stream: StreamConfig, *, dataset: str, clip_step: int, batch_size: int, learning_rate: float) -> str:
    """Name of a run, in the form of 2D-kinectics: kinetics-inception_v3-rgb-sl01-g1-fs6-64-000500."""
    return (
        f"{dataset}-{stream.backbone}-{stream.input_type}-sl{stream.clip_len:02d}-g{stream.frame_stride}"
        f"-fs{clip_step}-{batch_size}-{round(learning_rate * 1e6):06d}"
    )


def write_stream(run_dir: Path, stream: StreamConfig, settings: dict) -> None:
    """Say what the run is; `settings` are the flags that decide its result."""
    content = {"stream": stream.to_json(), "settings": settings}
    atomic.write_text(run_dir / STREAM_NAME, json.dumps(content, indent=1) + "\n")


def find_run(save_root: Path, *, input_type: str, backbone: str | None = None, name: str = "") -> Path:
    """The folder of the one run of this input type (and network, and name, where given).

    Raises BadInputError when there is none, or several to choose from.
    """
    runs = {}
    for path in sorted(Path(save_root).glob(f"*/{STREAM_NAME}")):
        stream = read_json(path).get("stream")
        if not isinstance(stream, dict):
            raise BadInputError(f"{path}: found no settings of a stream; it is no run of train.py, move it elsewhere")
        right = stream.get("input_type") == input_type and backbone in (None, stream.get("backbone"))
        if right and name in ("", path.parent.name):
            runs[path.parent.name] = path.parent
    what = " ".join(filter(None, [input_type, backbone, name]))
    if not runs:
        raise BadInputError(f"{save_root} has no run of {what}: train it with train.py, or name another --save_root")
    if len(runs) > 1:
        raise BadInputError(
            f"{save_root} has several runs of {what}: choose with --run or --runs among {', '.join(runs)}"
        )
    return next(iter(runs.values()))


def scores_path(run_dir: Path, *, split: str, iteration: int) -> Path:
    return run_dir / f"scores_{split}_{iteration:06d}.npz"


def find_scores(run_dir: Path, *, split: str, iteration: int | None) -> Path:
    """A run's score file of a split: of that iteration, or else of the highest one."""
    if iteration is not None:
        return scores_path(run_dir, split=split, iteration=iteration)
    names = (re.fullmatch(rf"scores_{re.escape(split)}_(\d+)\.npz", path.name) for path in run_dir.glob("scores_*.npz"))
    iterations = [int(match.group(1)) for match in names if match]
    if not iterations:
        raise BadInputError(f"{run_dir} has no scores of split {split!r}: run test.py first")
    return scores_path(run_dir, split=split, iteration=max(iterations))
