"""The networks that are scored, and where their scores are written."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from twostream.engine.checkpoint import checkpoint_network, checkpoint_stream, read_checkpoint
from twostream.engine.device import split_over_gpus
from twostream.engine.run_folder import scores_path
from twostream.stream import StreamConfig


class ScoredNetwork(NamedTuple):
    """A network to score."""

    path: Path
    """its file"""
    stream: StreamConfig
    scores: Path
    """the score file to write"""
    provenance: dict[str, Any]
    """what the score file says about it, beside `path`"""
    load: Callable[[], nn.Module]


def network_of_checkpoint(path: Path, *, split: str, device: torch.device, num_gpus: int = 1) -> ScoredNetwork:
    """The network of a checkpoint in the folder of a run, to be scored on a split. BadInputError if it cannot be read."""
    content = read_checkpoint(path)
    stream, iteration = checkpoint_stream(path, content), content["iteration"]
    return ScoredNetwork(
        path, stream, scores_path(path.parent, split=split, iteration=iteration), {"iteration": iteration},
        functools.partial(_load, stream, content, device, num_gpus),
    )  # fmt: skip


def _load(stream: StreamConfig, content: dict[str, Any], device: torch.device, num_gpus: int) -> nn.Module:
    return split_over_gpus(checkpoint_network(stream, content, device=device), num_gpus)
