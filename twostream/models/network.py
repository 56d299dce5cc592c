"""The network of a stream: mirroring, normalisation and a backbone."""

import torch
from torch import nn

from twostream.errors import BadInputError
from twostream.flow.coding import ZERO
from twostream.models.backbones import BACKBONES, backbone_name
from twostream.stream import StreamConfig

HEAD_STD = 0.01
"""standard deviation of the random weights of a new head; small, so that training starts from nearly equal scores"""


class StreamNetwork(nn.Module):
    """Clips as loaders yield them, uint8 (N, S, T, H, W, C), see `Batch` -> logits, float32 (N, K).

    Mirroring, the order of channels and normalisation are part of the network, so that they cannot differ between
    programs, and are computed for whole batches. All weights are in `.backbone`.
    """

    scale: torch.Tensor
    """(1, 3T, 1, 1): a pixel in 0 ... 255 is normalised as scale * pixel + shift"""
    shift: torch.Tensor
    frozen_norms: tuple[nn.Module, ...] = ()
    """batch norms that keep their statistics in training too, see `freeze_batch_norm`"""

    def __init__(
        self, backbone: nn.Module, *, mean: tuple[float, ...], std: tuple[float, ...], clip_len: int, modality: str
    ):
        super().__init__()
        self.backbone, self.modality = backbone, modality
        means, stds = (255 * torch.tensor(values * clip_len).view(1, -1, 1, 1) for values in (mean, std))
        self.register_buffer("scale", 1 / stds, persistent=False)
        self.register_buffer("shift", -means / stds, persistent=False)

    def forward(self, clips: torch.Tensor, mirrored: torch.Tensor | None = None) -> torch.Tensor:
        """`mirrored` is bool (N,). The logits are the mean over the S segments (TSN's consensus; ECCV 2016)."""
        # (N S, T, H, W, 3) -> (N S, 3T, H, W): all channels of frame 0, then all of frame 1 ...; rearranged as bytes and
        # turned into normalised floats in one pass.
        seen = as_seen(clips, mirrored, self.modality).flatten(0, 1)
        pictures = seen.permute(0, 1, 4, 2, 3).flatten(1, 2).contiguous()
        logits: torch.Tensor = self.backbone(torch.addcmul(self.shift, pictures, self.scale))
        return logits.float().unflatten(0, clips.shape[:2]).mean(dim=1)

    def train(self, mode: bool = True) -> "StreamNetwork":
        super().train(mode)
        for norm in self.frozen_norms:
            norm.eval()
        return self


def as_seen(clips: torch.Tensor, mirrored: torch.Tensor | None, modality: str) -> torch.Tensor:
    """Clips as loaders yield them -> uint8 (N, S, T, H, W, 3): mirrored where `mirrored`, bool (N,), is true.

    Flow gets its magnitude as the third channel, from the grey levels of x and y as in flow.coding.from_planes.
    """
    if mirrored is not None:
        clips = torch.where(mirrored.view(-1, 1, 1, 1, 1, 1), mirror(clips, modality), clips)
    if modality == "flow":
        x, y = clips.float().sub_(ZERO).unbind(-1)
        magnitude = (x * x + y * y).sqrt_().add_(ZERO).round_().clamp_(max=255)
        clips = torch.cat([clips, magnitude.to(torch.uint8).unsqueeze(-1)], dim=-1)
    return clips


def mirror(clips: torch.Tensor, modality: str) -> torch.Tensor:
    """The clips of the video mirrored left to right, uint8 (..., W, C): pixels mirrored, and x of flow negated.

    For any bound, level v becomes 256 - v, and 0 (more than -bound) becomes 255, the nearest that 8 bits allow.
    """
    mirrored = clips.flip(-2)
    if modality == "flow":
        x = mirrored[..., 0]
        x.copy_(256 - x.clamp(min=1).int())
    return mirrored


BATCH_NORM = {"train": None, "partial": 1, "frozen": 0}
"""--batch_norm -> how many of the first batch norms learn and update their statistics; None: all"""


def freeze_batch_norm(network: StreamNetwork, kind: str) -> None:
    """Fix statistics, scale and shift of all batch norms ("frozen"), of all but the first ("partial"), or none ("train").

    Partial is TSN's (ECCV 2016): a few videos change ImageNet's statistics at random, but flow needs statistics of its
    own in the first layer. Raises BadInputError for an unknown kind, and for a network without batch norm.
    """
    if kind not in BATCH_NORM:
        raise BadInputError(f"--batch_norm {kind!r}, expected {', '.join(BATCH_NORM)}")
    if BATCH_NORM[kind] is None:
        return
    norms = [module for module in network.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    if not norms:
        raise BadInputError(f"--batch_norm={kind}, but the network has no batch norm; leave out the flag")
    network.frozen_norms = tuple(norms[BATCH_NORM[kind] :])
    for norm in network.frozen_norms:
        norm.eval().requires_grad_(False)


def build_model(stream: StreamConfig, *, dropout: float = 0.6, batch_norm: str = "train") -> StreamNetwork:
    """The network of a stream, with random weights drawn from torch's generator; `batch_norm`: see `freeze_batch_norm`.

    Raises BadInputError when there is no such network, when it does not take pictures of that size, or when it has no
    batch norm to freeze.
    """
    backbone = BACKBONES[backbone_name(stream.backbone)]
    if stream.input_size < backbone.min_input_size:
        raise BadInputError(
            f"--input_size {stream.input_size}, expected {backbone.min_input_size} or more for {stream.backbone}"
        )
    module = backbone.build(len(stream.classes), stream.input_size, dropout)
    head = module.get_submodule(backbone.head)
    nn.init.normal_(head.get_parameter("weight"), std=HEAD_STD)
    nn.init.zeros_(head.get_parameter("bias"))
    if stream.clip_len > 1:
        _widen(module, backbone.first_layer, stream.num_channels)
    network = StreamNetwork(
        module, mean=backbone.mean, std=backbone.std, clip_len=stream.clip_len, modality=stream.modality
    )
    freeze_batch_norm(network, batch_norm)
    return network


def _widen(module: nn.Module, name: str, num_channels: int) -> None:
    """Replace the first convolution by one for more channels, whose output for a still clip is that for its frame."""
    parent_name, _, child = name.rpartition(".")
    parent = module.get_submodule(parent_name)
    old = getattr(parent, child)
    new = nn.Conv2d(num_channels, old.out_channels, old.kernel_size, old.stride, old.padding, bias=old.bias is not None)
    state = old.state_dict()
    new.load_state_dict(state | {"weight": fit_first_layer(state["weight"], num_channels=num_channels, modality="rgb")})
    setattr(parent, child, new)


def fit_first_layer(weight: torch.Tensor, *, num_channels: int, modality: str) -> torch.Tensor:
    """The weight of an RGB network's first convolution, fitted to C = `num_channels` channels: (O, 3, k, k) -> (O, C, k, k).

    rgb: repeated for each frame of the clip and divided by their number, so that a still clip and its frame have the
    same output. flow: the mean over R, G, B in each channel (cross-modality initialisation; Wang et al., Temporal
    Segment Networks, ECCV 2016), on the same scale. A weight that does not have three channels is returned unchanged.
    """
    if weight.ndim != 4 or weight.shape[1] != 3:
        return weight
    frames = num_channels // 3
    if modality == "flow":
        weight = weight.mean(dim=1, keepdim=True).expand(-1, 3, -1, -1)
    return weight.repeat(1, frames, 1, 1) / frames
