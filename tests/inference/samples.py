"""Runs of the toy world with random weights, written as a training writes them."""

from pathlib import Path

import torch

from tests.toy import CLASSES
from twostream.engine.checkpoint import write_checkpoint
from twostream.engine.optimizer import build_optimizer
from twostream.engine.run_folder import write_stream
from twostream.flow.methods import FlowSettings
from twostream.models.backbones import BACKBONES
from twostream.models.network import build_model
from twostream.stream import RGB, StreamConfig

SIZE = 80
"""of the crops: of the toy world's 96 pixels no JPEG decoder would leave out any, so pixels in memory are those of a store"""


def make_run(folder: Path, input_type: str, *, seed: int = 0, frames: dict | None = None, **config) -> Path:
    """A run of one iteration of resnet18 on the toy world's classes; returns its folder."""
    coding = None if input_type == RGB else FlowSettings(input_type).to_json()
    stream = StreamConfig(
        **{
            "input_type": input_type,
            "backbone": "resnet18",
            "classes": CLASSES,
            "input_size": SIZE,
            "flow_coding": coding,
        }
        | config
    )
    torch.manual_seed(seed)
    network = build_model(stream)
    for parameter in network.backbone.get_submodule(BACKBONES[stream.backbone].head).parameters():
        torch.nn.init.normal_(parameter)  # scores that differ between videos
    run = folder / f"{input_type}-{seed}"
    optimizer = build_optimizer(network, learning_rate=0.1, momentum=0.9, weight_decay=0)
    write_stream(
        run,
        stream,
        {},
        frames=frames or {"short_side": 96, "fps": 0, "frame_step": 1, "quality": 90 if input_type == RGB else 75},
    )
    write_checkpoint(
        run, stream=stream, backbone=network.backbone, optimizer=optimizer, iteration=1, settings={}, progress={}
    )  # fmt: skip
    return run
