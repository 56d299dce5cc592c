"""Features of clips: what a network computes before its last layer, for other models to learn from."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from twostream.errors import BadInputError
from twostream.files import check_regular
from twostream.fusion.consensus import class_probabilities
from twostream.inference.recognizer import Recognizer
from twostream.inference.sources import Source
from twostream.models.backbones import BACKBONES
from twostream.models.features import WithFeatures
from twostream.runtimes.torch_network import TorchNetwork, run_by_torch
from twostream.scores.npz import UNREADABLE

LAYERS = {"pool": "pool", "final_avg": "pool", "softmax": "probabilities", "sigmoid": "probabilities"}
"""name of a layer, also as VMZ's extract_features calls it -> what it is here"""


def check_layers(recognizer: Recognizer, names: Sequence[str]) -> None:
    """Raise BadInputError for probabilities of the other kind: sigmoids are those of multi-label recognizers only."""
    own, other = ("sigmoid", "softmax") if recognizer.contract.is_multi_label else ("softmax", "sigmoid")
    if other in names:
        raise BadInputError(f"--layers={','.join(names)}: the probabilities of this recognizer are {own}; use {own}")


@dataclass(frozen=True)
class StreamFeatures:
    """Features of a video's M clips (and views) by one stream."""

    name: str
    pool: np.ndarray
    """(M, D) float32: what the last layer is given; of a convolution, the mean over its positions"""
    probabilities: np.ndarray
    """(M, K) float32: class probabilities"""
    starts: np.ndarray
    """(M,) first frame of each clip"""
    seconds: np.ndarray
    """(M,) time of that frame; NaN if the rate is unknown"""
    views: np.ndarray
    """(M,) number of each row's view, see clips.crops.VIEWS"""

    def layer(self, name: str) -> np.ndarray:
        """The features of a name in LAYERS."""
        layer: np.ndarray = getattr(self, LAYERS[name])
        return layer


MADE_OF = "made_of"
"""name of the array that says what a file of features was made of, see `made_of`"""
DIGITS = 16
"""of a SHA-256 that are recorded"""


def made_of(recognizer: Recognizer, source: Source, layers: Sequence[str]) -> dict[str, str]:
    """What decides the features of a video: its place and size, the layers, and of each stream the weights and the clips."""
    record = {"source": source.place}
    if source.path and source.path.is_file():
        record["bytes"] = str(source.path.stat().st_size)
    record["layers"] = ",".join(sorted(layers))
    for stream in recognizer.contract.streams:
        weights = str(stream.source.get("checkpoint", "") or stream.sha256)  # of the run, also if it was exported since
        record[f"weights of {stream.name}"] = weights[:DIGITS]
        record[f"clips of {stream.name}"] = " ".join(f"{k}={v}" for k, v in stream.sampling.to_json().items())
    return record


def check_made_of(path: Path, expected: dict[str, str]) -> None:
    """Raise BadInputError if a file of features is damaged, or was made of something else; older files do not say it."""
    check_regular(path)
    try:
        with np.load(path, allow_pickle=False) as arrays:
            found = json.loads(str(arrays[MADE_OF])) if MADE_OF in arrays else expected
        if _is_moved(found, expected):
            found = found | {"source": expected["source"]}
        differences = [
            f"{name} {found.get(name)} instead of {expected.get(name)}"
            for name in {**expected, **found}
            if found.get(name) != expected.get(name)
        ]
    except PermissionError:
        raise  # a fault of the machine, not of the file
    except UNREADABLE:
        raise BadInputError(
            f"{path} is there, but is no file of features, or damaged; choose another --out, or remove it"
        ) from None
    if differences:
        raise BadInputError(f"{path} is there, but has {', '.join(differences)}; choose another --out, or remove it")


def _is_moved(found: dict[str, str], expected: dict[str, str]) -> bool:
    """Is it the same file in another folder, as where each job has a disk of its own?"""
    names = {Path(record["source"]).name for record in (found, expected)}
    return len(names) == 1 and "bytes" in expected and found.get("bytes") == expected["bytes"]


class FeatureExtractor:
    """The networks of a recognizer, asked for features."""

    def __init__(self, recognizer: Recognizer):
        networks = [
            TorchNetwork(WithFeatures(network.module, BACKBONES[stream.config.backbone].head), network.device)
            for network, stream in zip(run_by_torch(recognizer.networks), recognizer.contract.streams, strict=True)
        ]
        self.recognizer = Recognizer(recognizer.contract, networks)

    def extract(self, source: Source) -> list[StreamFeatures]:
        """The features of one video by each stream. Raises BadInputError if no frame of it can be read."""
        tables, decoded = self.recognizer.score(source)
        found = []
        for stream, table, part in zip(self.recognizer.contract.streams, tables, decoded, strict=True):
            num_classes = len(stream.config.classes)
            pool, logits = table.logits[:, :-num_classes], table.logits[:, -num_classes:]
            seconds = table.start / part.fps if part.fps else np.full(len(table.start), np.nan)
            probabilities = class_probabilities(logits, multi_label=stream.config.multi_label).astype(np.float32)
            found.append(
                StreamFeatures(stream.name, pool, probabilities, table.start, seconds.astype(np.float32), table.view)
            )
        return found


def columns(features: Sequence[StreamFeatures], layers: Sequence[str]) -> dict[str, np.ndarray]:
    """Arrays by name, as a file holds them: <stream>_<layer>, <stream>_starts, <stream>_seconds, <stream>_views."""
    arrays: dict[str, np.ndarray] = {}
    for part in features:
        arrays |= {f"{part.name}_{layer}": part.layer(layer) for layer in layers}
        arrays |= {f"{part.name}_{name}": getattr(part, name) for name in ("starts", "seconds", "views")}
    return arrays
