"""The copy of a network that computes faster: its outputs are the network's, which stays as it was."""

import copy
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import nn

from twostream.models.backbones import BACKBONES
from twostream.models.inference_copy import inference_copy
from twostream.models.network import StreamNetwork, build_model
from twostream.stream import StreamConfig

CPU = torch.device("cpu")
ARCHITECTURES = ("resnet18", "mobilenet_v2", "inception_v3", "vgg16", "r3d_18", "i3d_nl_r50", "vmz_ir_csn_26")


def with_random_norms(network: nn.Module) -> nn.Module:
    """As after a training: with statistics, scale and shift that are not those of new batch norms."""
    for norm in batch_norms(network):
        nn.init.uniform_(norm.weight, 0.5, 1.5)
        nn.init.normal_(norm.bias, std=0.1)
        nn.init.normal_(norm.running_mean, std=0.1)
        nn.init.uniform_(norm.running_var, 0.5, 1.5)
    return network.eval()


def batch_norms(network: nn.Module) -> list[nn.Module]:
    return [part for part in network.modules() if isinstance(part, nn.modules.batchnorm._BatchNorm)]


def stream_network(backbone: nn.Module) -> StreamNetwork:
    network = StreamNetwork(backbone, mean=(0.5,) * 3, std=(0.2,) * 3, clip_len=1, modality="rgb")
    return with_random_norms(network)


def random_clips(size: int, clip_len: int = 1) -> torch.Tensor:
    return torch.randint(0, 256, (2, 1, clip_len, size, size, 3), dtype=torch.uint8)


@torch.no_grad()
def assert_same_outputs(network: nn.Module, clips: torch.Tensor) -> nn.Module:
    """Returns the copy; the network's own tensors and outputs are the same afterwards, to the last bit."""
    state, outputs = copy.deepcopy(network.state_dict()), network(clips)
    fast = inference_copy(network, CPU)
    torch.testing.assert_close(fast(clips), outputs, rtol=1e-4, atol=1e-4 * float(outputs.abs().max()))
    assert torch.equal(network(clips), outputs)
    assert all(torch.equal(tensor, state[name]) for name, tensor in network.state_dict().items())
    return fast


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_outputs_are_the_same(name):
    torch.manual_seed(0)
    record = BACKBONES[name]
    stream = StreamConfig("rgb", name, ("a", "b"), max(record.min_input_size, 64), clip_len=record.clip_len)
    network = with_random_norms(build_model(stream))
    fast = assert_same_outputs(network, random_clips(stream.input_size, stream.clip_len))
    unused = 9 if name == "inception_v3" else 0  # those of its second classifier
    assert len(batch_norms(fast)) == unused


class SharedConvolution(nn.Module):
    """A batch norm after a convolution that is used twice, and one after a convolution that a sum reads too."""

    def __init__(self):
        super().__init__()
        self.twice, self.read_twice = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)
        self.first, self.second = nn.BatchNorm2d(3), nn.BatchNorm2d(3)

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        features = self.read_twice(self.twice(self.first(self.twice(pictures))))
        return (features + self.second(features)).mean(dim=(2, 3))


def test_a_convolution_whose_output_is_used_elsewhere_is_left():
    torch.manual_seed(0)
    assert len(batch_norms(assert_same_outputs(stream_network(SharedConvolution()), random_clips(8)))) == 2


class SharedNorm(nn.Module):
    """A batch norm that is used twice, once where no convolution is before it."""

    def __init__(self):
        super().__init__()
        self.convolution, self.norm = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        return self.norm(self.norm(self.convolution(pictures)).relu()).mean(dim=(2, 3))


class DependsOnValues(SharedNorm):
    """Its path is known only when its input is."""

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        features = self.convolution(pictures)
        return (self.norm(features) if pictures.sum() > 0 else features).mean(dim=(2, 3))


class CountsPictures(SharedNorm):
    """It loops over its pictures, of which tracing has no number."""

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        features = self.norm(self.convolution(pictures))
        return torch.stack([features[k].mean(dim=(1, 2)) for k in range(len(pictures))])


class NamesItsInput(SharedNorm):
    """It calls its batch norm with a named input."""

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        return self.norm(input=self.convolution(pictures)).mean(dim=(2, 3))


@pytest.mark.parametrize("backbone", [SharedNorm, DependsOnValues, CountsPictures, NamesItsInput])
def test_what_cannot_be_followed_is_left(backbone):
    torch.manual_seed(0)
    assert len(batch_norms(assert_same_outputs(stream_network(backbone()), random_clips(8)))) == 1


def test_other_networks_compute_meanwhile_in_other_threads():
    """Copies are made in two threads, which replaces the call of all modules, while two more threads compute."""
    torch.manual_seed(0)
    network = stream_network(BACKBONES["resnet18"].build(2, 32, 0.0))
    clips, call = random_clips(32), nn.Module.__call__
    is_over = threading.Event()

    @torch.no_grad()
    def compute() -> list[torch.Tensor]:
        found = []
        while not is_over.is_set():
            found.append(network(clips))
        return found

    with ThreadPoolExecutor(4) as pool:
        computing = [pool.submit(compute) for _ in range(2)]
        copying = [pool.submit(lambda: [inference_copy(network, CPU) for _ in range(5)]) for _ in range(2)]
        try:
            copies = [fast for future in copying for fast in future.result()]
        finally:
            is_over.set()
        outputs = [logits for future in computing for logits in future.result()]
    assert nn.Module.__call__ is call and outputs and all(not batch_norms(fast) for fast in copies)
    with torch.no_grad():
        torch.testing.assert_close(outputs, [network(clips)] * len(outputs))


def test_convolutions_of_pictures_have_their_channels_last():
    backbone = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    fast = inference_copy(stream_network(backbone), CPU)
    assert fast.backbone[0].weight.is_contiguous(memory_format=torch.channels_last)


class KeepsALength(SharedNorm):
    """Its convolution keeps a length that the forward finds, as that of a shift in time does; while traced, that is the trace."""

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        self.convolution.length = pictures.shape[0]
        return self.norm(self.convolution(pictures)).mean(dim=(2, 3))


def test_no_module_keeps_the_trace():
    fast = assert_same_outputs(stream_network(KeepsALength()), random_clips(8))
    assert not batch_norms(fast)
    backbone = inference_copy(stream_network(KeepsALength()), CPU).backbone
    assert not hasattr(backbone.convolution, "length")
