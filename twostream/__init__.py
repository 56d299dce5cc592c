"""Two-stream action recognition: from a folder of videos to a fused, measured recognizer.

The names below are meant for use from Python. Each is loaded when it is first used, so that `import twostream` is quick
and what needs no torch does not load it.

>>> import twostream
>>> str(twostream.Consensus.parse("softmax-mean"))
'softmax-mean'

Letters in shapes: N batch, T frames of a clip, C channels, H W pixels, K classes, M scored clips, V videos, S streams.
NumPy images are RGB, uint8, (H, W, 3).
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from twostream.annotations.json_file import read_annotations as read_annotations
    from twostream.engine.checkpoint import load_stream as load_stream
    from twostream.flow.farneback import farneback as farneback
    from twostream.flow.methods import FlowSettings as FlowSettings
    from twostream.frames.stores import open_store as open_store
    from twostream.fusion.consensus import Consensus as Consensus
    from twostream.fusion.streams import fuse as fuse
    from twostream.inference.loading import load as load
    from twostream.models.network import build_model as build_model
    from twostream.report.results import build_report as build_report
    from twostream.scores.npz import read_scores as read_scores
    from twostream.stream import StreamConfig as StreamConfig
    from twostream.video.decoder import Decoder as decode

__version__ = "0.1.0"

_HOMES = {
    "Consensus": ("twostream.fusion.consensus", "Consensus"),
    "FlowSettings": ("twostream.flow.methods", "FlowSettings"),
    "StreamConfig": ("twostream.stream", "StreamConfig"),
    "build_model": ("twostream.models.network", "build_model"),
    "build_report": ("twostream.report.results", "build_report"),
    "decode": ("twostream.video.decoder", "Decoder"),
    "farneback": ("twostream.flow.farneback", "farneback"),
    "fuse": ("twostream.fusion.streams", "fuse"),
    "load": ("twostream.inference.loading", "load"),
    "load_stream": ("twostream.engine.checkpoint", "load_stream"),
    "open_store": ("twostream.frames.stores", "open_store"),
    "read_annotations": ("twostream.annotations.json_file", "read_annotations"),
    "read_scores": ("twostream.scores.npz", "read_scores"),
}
"""public name -> the module that defines it, and its name there"""

__all__ = [
    "Consensus",
    "FlowSettings",
    "StreamConfig",
    "build_model",
    "build_report",
    "decode",
    "farneback",
    "fuse",
    "load",
    "load_stream",
    "open_store",
    "read_annotations",
    "read_scores",
]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'twostream' has no attribute {name!r}; it has {', '.join(__all__)}")
    module, attribute = _HOMES[name]
    return getattr(importlib.import_module(module), attribute)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
