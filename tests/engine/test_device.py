"""The choice of a device."""

import pytest
import torch

from tests.engine.samples import CPU
from twostream.engine.device import choose_device, fastest_options
from twostream.errors import EnvironmentFaultError


def test_devices(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device("auto") == choose_device("cpu") == CPU
    for name in ("cuda", "cuda:1", "mps", "meta", "gpu", ""):
        with pytest.raises(EnvironmentFaultError, match="--device"):
            choose_device(name)
    with pytest.raises(EnvironmentFaultError, match="--ngpu=2, but 0 GPUs"):
        choose_device("auto", num_gpus=2)


def test_fastest_options():
    assert fastest_options(CPU) == {"amp": "off", "channels_last": False}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_fastest_options_on_a_gpu():
    has_bf16 = torch.cuda.get_device_capability()[0] >= 8
    assert fastest_options(torch.device("cuda")) == {"amp": "bf16" if has_bf16 else "off", "channels_last": True}
