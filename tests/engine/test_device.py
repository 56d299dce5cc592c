"""The choice of a device."""

import pytest
import torch

from tests.engine.samples import CPU
from twostream.engine.device import choose_device
from twostream.errors import EnvironmentFaultError


def test_devices(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device("auto") == choose_device("cpu") == CPU
    for name in ("cuda", "cuda:1", "mps", "meta", "gpu", ""):
        with pytest.raises(EnvironmentFaultError, match="--device"):
            choose_device(name)
    with pytest.raises(EnvironmentFaultError, match="--ngpu=2, but 0 GPUs"):
        choose_device("auto", num_gpus=2)
