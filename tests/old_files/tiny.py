#!/usr/bin/env python3
"""A network small enough for files in the repository, and a way to run a checkout's programs with it.

  python tests/old_files/tiny.py <checkout> train.py --arch=tiny ...

The programs of the checkout run as they are, in a process whose table of networks has one line more.
"""

import dataclasses
import importlib
import runpy
import socket
import sys
from collections import OrderedDict

from torch import nn


def build(num_classes: int, input_size: int, dropout: float) -> nn.Module:
    """(N, 3, S, S) float32 -> logits (N, num_classes); 536 weights for two classes."""
    return nn.Sequential(
        OrderedDict(
            first=nn.Conv2d(3, 6, 3, stride=2),
            norm=nn.BatchNorm2d(6),
            relu=nn.ReLU(),
            second=nn.Conv2d(6, 6, 3, stride=2),
            second_norm=nn.BatchNorm2d(6),
            second_relu=nn.ReLU(),
            pool=nn.AdaptiveAvgPool2d(1),
            flat=nn.Flatten(),
            dropout=nn.Dropout(dropout),
            head=nn.Linear(6, num_classes),
        )
    )


def backbones() -> dict:
    """The table of networks by name, of whichever twostream is first on the path."""
    try:
        return importlib.import_module("twostream.models.backbones").BACKBONES
    except ModuleNotFoundError:  # up to e1274cd the table was in the package itself
        return importlib.import_module("twostream.models").BACKBONES


def record():
    """The line of that table."""
    changes = {"build": build, "input_size": 24, "min_input_size": 16, "first_layer": "first", "head": "head"}
    return dataclasses.replace(backbones()["resnet18"], **changes)


if __name__ == "__main__":
    checkout, program, *words = sys.argv[1:]
    sys.path[0] = checkout
    backbones()["tiny"] = record()
    socket.gethostname = lambda: "somewhere"  # run.lock names the machine
    sys.argv = [program, *words]
    runpy.run_path(f"{checkout}/{program}", run_name="__main__")
