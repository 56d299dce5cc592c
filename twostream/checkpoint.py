"""Checkpoints of a run: `checkpoint_<iteration>.pth`, written whole or not at all, checked when read.

A checkpoint is a torch file, that is a zip archive with a CRC-32 of each part; `python -m zipfile -t FILE` checks one.
It holds tensors and plain values only: format, stream, weights, optimizer, iteration, random state, meters, settings.
"""

import hashlib
import re
from pathlib import Path
from typing import BinaryIO

import torch
from torch import nn

from twostream import atomic
from twostream.errors import BadInputError
from twostream.models.weights import read_torch_file
from twostream.stream import StreamConfig

FORMAT = 1


def checkpoint_path(run_dir: str | Path, iteration: int) -> Path:
    return Path(run_dir, f"checkpoint_{iteration:06d}.pth")


def checkpoint_iterations(run_dir: str | Path) -> list[int]:
    """Iterations of the checkpoints in a run's folder, ascending."""
    names = (re.fullmatch(r"checkpoint_(\d+)\.pth", path.name) for path in Path(run_dir).glob("checkpoint_*.pth"))
    return sorted(int(match.group(1)) for match in names if match)


def write_checkpoint(
    run_dir: str | Path, *, stream: StreamConfig, backbone: nn.Module, optimizer: torch.optim.Optimizer,
    iteration: int, settings: dict, progress: dict,
) -> Path:  # fmt: skip
    """Save all that the next iterations depend on.

    `settings` are the flags that decide the result; `progress` is what the caller's loop must have back (meters,
    best value), both of plain values. Raises BadInputError rather than save weights that are not finite.
    """
    weights = backbone.state_dict()
    broken = [name for name, tensor in weights.items() if not bool(torch.isfinite(tensor).all())]
    if broken:
        raise BadInputError(
            f"iteration {iteration}: {len(broken)} tensors have values that are not finite (first: {broken[0]}); "
            f"nothing was saved, the last good checkpoint is kept: lower --lr, or look at the images of {stream.input_type}"
        )
    content = {
        "format": FORMAT,
        "stream": stream.to_json(),
        "iteration": iteration,
        "weights": weights,
        "optimizer": optimizer.state_dict(),
        "random_state": torch.get_rng_state(),
        "random_state_cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "settings": settings,
        "progress": progress,
        "versions": {"torch": torch.__version__.partition("+")[0], "threads": torch.get_num_threads()},
    }
    path = checkpoint_path(run_dir, iteration)
    atomic.write_file(path, lambda file: _save(content, file))
    return path


def _save(content: dict, file: BinaryIO) -> None:
    try:
        torch.save(content, file)
    except RuntimeError as error:
        # What torch says when the file takes no more, e.g. on a full disk; the file's own error is its context.
        raise error.__context__ if isinstance(error.__context__, OSError) else OSError(str(error)) from None


def read_checkpoint(path: str | Path) -> dict:
    """The content of a checkpoint; BadInputError when it is damaged, foreign or of another format."""
    content = read_torch_file(path)
    if content.get("format") != FORMAT:
        raise BadInputError(
            f"{path}: format {content.get('format')!r}, expected a checkpoint of train.py, format {FORMAT}; "
            "weights of other programs go into train.py --init_from"
        )
    return content


def checkpoint_stream(path: str | Path, content: dict) -> StreamConfig:
    """The stream that a checkpoint was trained for."""
    try:
        return StreamConfig.from_json(content["stream"])
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise BadInputError(f"{path}: {error}; expected a checkpoint of this version") from None


def load_weights_of(backbone: nn.Module, content: dict) -> None:
    """Put a checkpoint's weights into its network, name by name; BadInputError when they are another network's."""
    try:
        backbone.load_state_dict(content["weights"])
    except (RuntimeError, KeyError, TypeError, AttributeError) as error:
        reason = " ".join(str(error).split())[:150]
        raise BadInputError(f"the checkpoint's weights do not fit its own network: {reason}") from None


def restore(content: dict, backbone: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Put everything back as it was, the random state last."""
    load_weights_of(backbone, content)
    optimizer.load_state_dict(content["optimizer"])
    torch.set_rng_state(content["random_state"])
    if torch.cuda.is_available() and len(content["random_state_cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(content["random_state_cuda"])


def sha256(path: str | Path) -> str:
    """Of a whole file, hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
