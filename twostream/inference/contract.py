"""recognizer.json: everything that makes a recognizer's answer, beside the weights of its streams.

A recognizer is a folder with recognizer.json, a .safetensors file for each stream, and a README.md for people. Reading
one runs no code from it: JSON and safetensors hold values only.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from twostream.clips.testing import Sampling, is_count
from twostream.counts import counted
from twostream.errors import BadInputError
from twostream.files import read_json, write_text
from twostream.flow.methods import FlowSettings
from twostream.fusion.consensus import Consensus
from twostream.fusion.fitting import FittedWeights
from twostream.fusion.streams import fuse
from twostream.inference.sources import Geometry
from twostream.stream import StreamConfig

CONTRACT_NAME = "recognizer.json"
FORMAT = 1
MAX_SIDE, MAX_FPS, MAX_WEIGHT = 8192, 1000, 1e9
"""largest values; the first two are also those of an extraction"""


def _is_number(value: object, highest: float) -> bool:
    """Is it a number from 0 to `highest`?"""
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= highest


@dataclass(frozen=True)
class StreamContract:
    """One stream of a recognizer. Raises ValueError for values that are not allowed."""

    name: str
    """as results name it, and its file: <name>.safetensors"""
    config: StreamConfig
    short_side: int
    """pixels of the frames' shorter side in the training data; 0: as in the video"""
    fps: float
    """frames per second of the training data, if videos were resampled to a rate; 0: all frames of the video"""
    square_pixels: bool
    """were videos whose pixels are not square scaled?"""
    quality: int
    """JPEG quality of the images it was trained on, 1 to 100, or 0 if they were not JPEG; of a stream whose flow was
    computed while training, the quality of the RGB frames"""
    sampling: Sampling
    sha256: str = ""
    """of the file of weights"""
    source: dict[str, Any] = field(default_factory=dict)
    """where the weights come from: run, iteration, SHA-256 of the checkpoint"""

    def __post_init__(self) -> None:
        if not (is_count(self.short_side, 0, MAX_SIDE) and _is_number(self.fps, MAX_FPS)):
            raise ValueError(
                f"short_side {self.short_side!r}, fps {self.fps!r}; expected 0 to {MAX_SIDE} pixels, and 0 to {MAX_FPS}"
            )
        if not isinstance(self.square_pixels, bool):
            raise ValueError(f"square_pixels {self.square_pixels!r}, expected true or false")
        if not is_count(self.quality, 0, 100):
            raise ValueError(f"JPEG quality {self.quality!r}, expected 0 to 100")
        self.flow_settings()
        if self.sampling.sees_whole_pictures and not self.config.takes_any_shape:
            raise ValueError(
                f"stream {self.name!r} is to see whole pictures by {self.config.backbone}, which only twostream test does; choose "
                "other --views"
            )

    @property
    def geometry(self) -> Geometry:
        """How frames are taken from a video."""
        return Geometry(self.short_side, self.fps, self.square_pixels)

    @property
    def file_name(self) -> str:
        """Name of the file of weights."""
        return f"{self.name}.safetensors"

    @property
    def reads_vectors(self) -> bool:
        """Is its flow read from encoded videos, instead of computed from frames?"""
        return self.config.reads_vectors

    def flow_settings(self) -> FlowSettings | None:
        """How its flow is made; None for an RGB stream. Raises ValueError if that was never recorded."""
        if self.config.modality == "rgb":
            return None
        record = (self.config.flow_coding or {}) and self.config.with_flow("stored").flow_coding
        if not record:
            raise ValueError(
                f"stream {self.name!r} does not say how its flow was made, because its data were made by another program"
            )
        return FlowSettings.from_json(record)


@dataclass(frozen=True)
class Fusion:
    """How the clip scores of the streams become one score for each class."""

    consensus: Consensus
    weights: tuple[Any, ...]
    """for each stream a number or, if fitted for each class, K numbers"""
    temperatures: tuple[float, ...] = ()
    """for each stream, if the weights were fitted; empty: the weights apply to the scores of the consensus as they are"""
    is_product: bool = False
    """are probabilities raised to the weights and multiplied, instead of mixed? See FittedWeights"""

    def fuse(self, scores: Sequence[np.ndarray]) -> np.ndarray:
        """Video scores of each stream, (V, K) each, as the consensus makes them -> fused probabilities (V, K)."""
        if self.temperatures:
            fitted = FittedWeights(np.array(self.weights), np.array(self.temperatures), self.is_product)
            return fitted.fuse([self.probabilities(part) for part in scores])
        return self.probabilities(fuse(list(scores), self.weights))

    def probabilities(self, scores: np.ndarray) -> np.ndarray:
        """Video scores (V, K) as the consensus makes them -> class probabilities (V, K)."""
        return self.consensus.probabilities(scores)


@dataclass(frozen=True)
class Contract:
    """What recognizer.json holds. Raises ValueError if its parts do not fit together."""

    streams: tuple[StreamContract, ...]
    fusion: Fusion
    accuracy: dict[str, Any] = field(default_factory=dict)
    """of the fusion and of each stream, from a report: see `MeasuredRow`; empty if it was not measured"""
    versions: dict[str, str] = field(default_factory=dict)
    """of the programs that made it"""

    def __post_init__(self) -> None:
        names = [stream.name for stream in self.streams]
        if not names or len(set(names)) < len(names):
            raise ValueError(f"streams {names}, expected one or more, with different names")
        if len({stream.config.classes for stream in self.streams}) > 1:
            raise ValueError("the streams have different classes, expected the same in the same order")
        if len({stream.config.multi_label for stream in self.streams}) > 1:
            raise ValueError("some streams were trained on videos with one label, and some on lists of labels")
        # A rule says softmax or sigmoid for people; the streams decide which it is.
        consensus = self.fusion.consensus.for_labels(multi_label=self.is_multi_label)
        object.__setattr__(self, "fusion", replace(self.fusion, consensus=consensus))
        if self.is_multi_label and self.fusion.temperatures and set(self.fusion.temperatures) != {1.0}:
            raise ValueError("temperatures are for softmax, but its streams have sigmoids")
        if self.fusion.is_product and (self.is_multi_label or set(self.fusion.temperatures) != {1.0}):
            raise ValueError("a product of probabilities is for softmax, with temperatures of 1")
        for weight in (*np.ravel(self.fusion.weights).tolist(), *self.fusion.temperatures):
            if not _is_number(weight, MAX_WEIGHT):
                raise ValueError(f"weight or temperature {weight!r}, expected a number, 0 or more")
        shape = np.array(self.fusion.weights).shape
        if shape not in ((len(names),), (len(names), len(self.classes))):
            raise ValueError(
                f"fusion weights of shape {shape}, expected a number for each of the {counted(len(names), 'stream')}"
            )
        if len(self.fusion.temperatures) not in (0, len(names)):
            raise ValueError(f"{len(self.fusion.temperatures)} temperatures for {counted(len(names), 'stream')}")

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names in the order of the label indices."""
        return self.streams[0].config.classes

    @property
    def is_multi_label(self) -> bool:
        """Has a video any number of classes, so that their probabilities do not sum to 1?"""
        return self.streams[0].config.multi_label

    def to_json(self) -> dict[str, Any]:
        """The content of recognizer.json."""
        streams = []
        for stream in self.streams:
            record = asdict(stream)
            record["config"] = {name: value for name, value in stream.config.to_json().items() if name != "classes"}
            streams.append(record)
        return {
            "format": FORMAT,
            "classes": list(self.classes),
            "streams": streams,
            "consensus": str(self.fusion.consensus),
            "weights": list(self.fusion.weights),
            "temperatures": list(self.fusion.temperatures),
            **({"is_product": True} if self.fusion.is_product else {}),
            "accuracy": self.accuracy,
            "versions": self.versions,
        }

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> "Contract":
        """The reverse of `to_json`; raises ValueError, KeyError or TypeError for anything else."""
        if content["format"] != FORMAT:
            raise ValueError(f"format {content['format']!r}, expected {FORMAT}")
        classes = content["classes"]
        if not classes or not all(isinstance(name, str) for name in classes):
            raise ValueError("the classes are not a list of names")
        return cls(
            tuple(_stream_from_json(record, classes) for record in content["streams"]),
            Fusion(
                Consensus.parse(content["consensus"]),
                tuple(tuple(w) if isinstance(w, list) else w for w in content["weights"]),
                tuple(content["temperatures"]),
                content.get("is_product", False) is True,
            ),
            dict(content["accuracy"]),
            dict(content["versions"]),
        )


def _stream_from_json(record: dict[str, Any], classes: list[str]) -> StreamContract:
    names = {part.name for part in fields(StreamContract)}
    if record.keys() != names:
        raise ValueError(f"missing or unknown settings of a stream: {', '.join(sorted(names ^ record.keys()))}")
    if Path(record["name"]).name != record["name"] or record["name"].startswith("."):
        raise ValueError(f"stream name {record['name']!r}, expected a plain file name")
    return StreamContract(
        **record
        | {
            "config": StreamConfig.from_json(record["config"] | {"classes": classes}),
            "sampling": Sampling(**record["sampling"]),
        }
    )


def write_contract(folder: Path, contract: Contract) -> None:
    """Write recognizer.json, whole or not at all."""
    write_text(folder / CONTRACT_NAME, json.dumps(contract.to_json(), indent=1, allow_nan=False) + "\n")


def read_contract(folder: Path) -> Contract:
    """Read recognizer.json; BadInputError naming it if it is missing or not as twostream export writes it."""
    path = folder / CONTRACT_NAME
    if not path.is_file():
        raise BadInputError(
            f"{folder} has no {CONTRACT_NAME}, expected a recognizer, which twostream export makes from runs, or the folder of "
            "a run with a checkpoint"
        )
    try:
        return Contract.from_json(read_json(path))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadInputError(f"{path}: {error}; export the recognizer again with twostream export") from None
