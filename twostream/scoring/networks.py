"""The networks that are scored, and where their scores are written."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from twostream.annotations.class_names import class_difference
from twostream.counts import counted
from twostream.engine.checkpoint import checkpoint_network, checkpoint_stream, read_checkpoint
from twostream.engine.device import split_over_gpus
from twostream.engine.run_folder import scores_path
from twostream.errors import BadInputError
from twostream.models.backbones import BACKBONES
from twostream.models.inference_copy import inference_copy
from twostream.models.network import build_model
from twostream.models.weights import load_weights, named_tensors, own_name, read_weight_file
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


def network_of_weights(
    path: Path, stream: StreamConfig, *, scores: Path, device: torch.device, num_gpus: int = 1
) -> ScoredNetwork:
    """The network of a file of weights, such as a published one, and the score file to write.

    `stream` says what the file does not: network, classes, geometry. Raises BadInputError if the file is of another
    network or for other classes, or leaves a part of this one random.
    """
    network = build_model(stream)
    report = load_weights(network.backbone, path, stream)
    content = read_weight_file(path)
    recorded = content["stream"].get("classes") if isinstance(content.get("stream"), dict) else None
    if isinstance(recorded, list) and recorded != list(stream.classes):
        raise BadInputError(
            f"{path} and the annotations have {class_difference(recorded, stream.classes)}; expected the same classes in the "
            "same order"
        )
    head = f"{BACKBONES[stream.backbone].head}.weight"
    if head in report.random:
        raise BadInputError(
            f"{path}: {_found_head(content, head, stream)}, expected one for the {counted(len(stream.classes), 'class', 'classes')} of "
            "the annotations; make these with the classes that the network was trained on, by --classes of twostream annotate, "
            "or train a head, by --init_from of twostream train"
        )
    if report.random:
        raise BadInputError(
            f"{path} leaves {counted(len(report.random), 'tensor')} of {stream.backbone} random, as {report.random[0]}; give "
            "its own --arch, or other weights"
        )
    network = inference_copy(network.to(device), device)
    return ScoredNetwork(path, stream, scores, {}, functools.partial(split_over_gpus, network, num_gpus))


def _found_head(content: dict[Any, Any], head: str, stream: StreamConfig) -> str:
    """What kind of head a weight file has, in words."""
    tensors = named_tensors(content)
    shapes = [t.shape for name, t in tensors.items() if own_name(name, BACKBONES[stream.backbone]) == head]
    return f"its head is for {counted(shapes[0][0], 'class', 'classes')}" if shapes else "it has no head"


def _load(stream: StreamConfig, content: dict[str, Any], device: torch.device, num_gpus: int) -> nn.Module:
    network = checkpoint_network(stream, content, device=device)
    return split_over_gpus(inference_copy(network, device), num_gpus)
