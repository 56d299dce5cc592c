"""The network of a stream: mirroring, normalisation and a backbone."""

from collections.abc import Mapping, Sequence

import torch
from torch import nn

from twostream.errors import BadInputError
from twostream.flow.coding import ZERO, FlowCoding
from twostream.flow.methods import FlowSettings
from twostream.models.backbones import BACKBONES, Backbone, backbone_name
from twostream.stream import StreamConfig

HEAD_STD = 0.01
"""standard deviation of the random weights of a new head; small, so that training starts from nearly equal scores"""


class StreamNetwork(nn.Module):
    """Clips as loaders yield them, uint8 (N, S, T, H, W, C), see `Batch` -> logits, float32 (N, K).

    Mirroring, the order of channels and normalisation are part of the network, so that they cannot differ between
    programs, and are computed for whole batches. All weights are in `.backbone`.
    """

    scale: torch.Tensor
    """(1, 3T, 1, 1), or (1, C, 1, 1, 1) for the layout 3d: a pixel in 0 ... 255 is normalised as scale * pixel + shift"""
    shift: torch.Tensor
    frozen_norms: tuple[nn.Module, ...] = ()
    """batch norms that keep their statistics in training too, see `freeze_batch_norm`"""

    def __init__(
        self, backbone: nn.Module, *, mean: tuple[float, ...], std: tuple[float, ...], clip_len: int, modality: str,
        layout: str = "2d",
    ):  # fmt: skip
        """`mean` and `std` are those of the C channels of a frame, for pixels in 0 ... 1."""
        super().__init__()
        self.backbone, self.modality, self.layout = backbone, modality, layout
        shape, times = ((1, -1, 1, 1, 1), 1) if layout == "3d" else ((1, -1, 1, 1), clip_len)
        means, stds = (255 * torch.tensor(values * times).view(shape) for values in (mean, std))
        self.register_buffer("scale", 1 / stds, persistent=False)
        self.register_buffer("shift", -means / stds, persistent=False)

    def forward(self, clips: torch.Tensor, mirrored: torch.Tensor | None = None) -> torch.Tensor:
        """`mirrored` is bool (N,). The logits are the mean over the S segments (TSN's consensus; ECCV 2016)."""
        # Rearranged as bytes and turned into normalised floats in one pass.
        if self.layout == "3d":
            # (N S, T, H, W, C) -> (N S, C, T, H, W); of flow, x and y
            seen = mirrored_where(clips, mirrored, self.modality).flatten(0, 1)
            frames = seen.permute(0, 4, 1, 2, 3).contiguous()
        else:
            # (N S, T, H, W, 3) -> (N S, 3T, H, W): all channels of frame 0, then all of frame 1 ...
            seen = as_seen(clips, mirrored, self.modality).flatten(0, 1)
            frames = seen.permute(0, 1, 4, 2, 3).flatten(1, 2).contiguous()
        logits: torch.Tensor = self.backbone(torch.addcmul(self.shift, frames, self.scale))
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
    clips = mirrored_where(clips, mirrored, modality)
    if modality == "flow":
        x, y = clips.float().sub_(ZERO).unbind(-1)
        magnitude = (x * x + y * y).sqrt_().add_(ZERO).round_().clamp_(max=255)
        clips = torch.cat([clips, magnitude.to(torch.uint8).unsqueeze(-1)], dim=-1)
    return clips


def mirrored_where(clips: torch.Tensor, mirrored: torch.Tensor | None, modality: str) -> torch.Tensor:
    """Clips as loaders yield them, those mirrored where `mirrored`, bool (N,), is true."""
    if mirrored is None:
        return clips
    return torch.where(mirrored.view(-1, 1, 1, 1, 1, 1), mirror(clips, modality), clips)


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
    own in the first layer. Raises BadInputError for an unknown kind, and for "partial" where there is no batch norm.
    """
    if kind not in BATCH_NORM:
        raise BadInputError(f"--batch_norm {kind!r}, expected {', '.join(BATCH_NORM)}")
    if BATCH_NORM[kind] is None:
        return
    norms = [module for module in network.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    if kind == "partial" and not norms:
        raise BadInputError("--batch_norm=partial, but the network has no batch norm; leave out the flag")
    network.frozen_norms = tuple(norms[BATCH_NORM[kind] :])
    for norm in network.frozen_norms:
        norm.eval().requires_grad_(False)


def freeze_trunk(network: StreamNetwork, head: str) -> None:
    """Let only the last layer, which is named `head`, learn; the statistics of batch norm are fixed too."""
    norms = (module for module in network.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm))
    network.frozen_norms = tuple(norms)
    network.train(network.training)
    network.backbone.requires_grad_(False)
    network.backbone.get_submodule(head).requires_grad_(True)


def build_model(stream: StreamConfig, *, dropout: float = 0.6, batch_norm: str = "train") -> StreamNetwork:
    """The network of a stream, with random weights drawn from torch's generator; `batch_norm`: see `freeze_batch_norm`.

    Raises BadInputError when there is no such network, when it does not take pictures of that size or clips of that
    length, or when it has no first batch norm to train.
    """
    network = _stream_network(stream, _build_backbone(stream, dropout))
    freeze_batch_norm(network, batch_norm)
    return network


def build_with_weights(stream: StreamConfig, weights: Mapping[str, torch.Tensor]) -> StreamNetwork:
    """The network of a stream with these weights of its backbone, in training mode; it may share their memory.

    No random weights are drawn first, which takes 1.4 seconds for InceptionV3. Raises BadInputError as `build_model` does,
    and RuntimeError if the weights do not fit.
    """
    with torch.device("meta"):  # tensors with a shape and no memory
        backbone = _build_backbone(stream)
    own = backbone.state_dict()
    fitted = {
        name: tensor.to(own[name].dtype).contiguous() if name in own else tensor for name, tensor in weights.items()
    }
    if any(name not in own for name, _ in (*backbone.named_parameters(), *backbone.named_buffers())):
        backbone = _build_backbone(stream)  # tensors that are not in files, and have to be computed
    backbone.load_state_dict(fitted, assign=True)
    return _stream_network(stream, backbone)


def _build_backbone(stream: StreamConfig, dropout: float = 0.6) -> nn.Module:
    backbone = BACKBONES[backbone_name(stream.backbone)]
    if backbone.flow_only and stream.modality != "flow":
        raise BadInputError(
            f"--arch={stream.backbone} --input_type={stream.input_type}: this network reads flow only; expected --input_type=farneback or "
            "the flow that was extracted"
        )
    if stream.input_size < backbone.min_input_size:
        raise BadInputError(
            f"--input_size {stream.input_size}, expected {backbone.min_input_size} or more for {stream.backbone}"
        )
    if stream.clip_len < backbone.min_clip_len:
        raise BadInputError(
            f"--seq_len {stream.clip_len}, expected {backbone.min_clip_len} or more frames for {stream.backbone}"
        )
    module = backbone.build(len(stream.classes), stream.input_size, dropout)
    head = module.get_submodule(backbone.head)
    nn.init.normal_(head.get_parameter("weight"), std=HEAD_STD)
    nn.init.zeros_(head.get_parameter("bias"))
    num_channels = len(normalisation(backbone, stream)[0])
    _widen(module, backbone.first_layer, num_channels * (1 if backbone.layout == "3d" else stream.clip_len))
    return module


def _stream_network(stream: StreamConfig, module: nn.Module) -> StreamNetwork:
    backbone = BACKBONES[backbone_name(stream.backbone)]
    mean, std = normalisation(backbone, stream)
    return StreamNetwork(
        module, mean=mean, std=std, clip_len=stream.clip_len, modality=stream.modality, layout=backbone.layout
    )


def normalisation(backbone: Backbone, stream: StreamConfig) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of the C channels of a frame, as the backbone sees it, for pixels in 0 ... 1.

    A network of pictures sees x, y and magnitude of flow as it sees R, G and B, as in 2D-kinectics. A network of clips
    sees x and y only, in units of its `flow_std`; flow whose coding is unknown is read as if it had the default coding.
    """
    if backbone.layout == "2d" or stream.modality == "rgb":
        return backbone.mean, backbone.std
    coding = FlowCoding()
    if stream.flow_coding:
        try:
            coding = FlowSettings.from_json(stream.with_flow("stored").flow_coding or {}).coding
        except ValueError as error:
            raise BadInputError(str(error)) from None
    return (ZERO / 255,) * 2, tuple(pixels * coding.scale / 255 for pixels in backbone.flow_std)


def use_channels_last(network: nn.Module, *, clips: bool = True) -> None:
    """Store the weights of convolutions in the memory order in which the channels of a position are neighbours.

    `clips`: those of clips, too, unless the network has some within each channel, as CSN has: these take seven times as
    long in this order (benchmarks/train.py on an H100). `Module.to(memory_format=...)` refuses networks that convolve both
    pictures and clips.
    """
    formats = {4: torch.channels_last}
    if clips and not any(isinstance(module, nn.Conv3d) and module.groups > 1 for module in network.modules()):
        formats[5] = torch.channels_last_3d
    for tensor in (*network.parameters(), *network.buffers()):
        if tensor.ndim in formats:
            tensor.data = tensor.data.to(memory_format=formats[tensor.ndim])


def _widen(module: nn.Module, name: str, num_channels: int) -> None:
    """Replace the first convolution by one for other channels, unless it has them; see `fit_weight`."""
    parent_name, _, child = name.rpartition(".")
    parent = module.get_submodule(parent_name)
    old = getattr(parent, child)
    if old.in_channels == num_channels:
        return
    new = type(old)(
        num_channels, old.out_channels, old.kernel_size, old.stride, old.padding, bias=old.bias is not None
    )  # fmt: skip
    weight = old.weight.data[:, :num_channels]  # random in any case, so for x and y of flow two of its channels will do
    new.load_state_dict(old.state_dict() | {"weight": fit_weight(weight, new.weight.shape, modality="rgb")})
    setattr(parent, child, new)


def fit_weight(weight: torch.Tensor, shape: Sequence[int], *, modality: str) -> torch.Tensor:
    """The weight of a convolution that reads R, G, B, or of a later one ("rgb"), fitted to `shape`, if it can be.

    Other channels, (O, 3, ...) to (O, C, ...): for T frames, 3T, it is repeated and divided by T, so that a still clip and
    its frame have the same output. For flow each channel gets the mean over R, G, B (cross-modality initialisation; Wang
    et al., Temporal Segment Networks, ECCV 2016), on the same scale: the sum over the channels stays the same.

    A time axis, (O, C, k, k) to (O, C, t, k, k): it is repeated and divided by t, so that a still clip and its frame have
    the same output (inflation; Carreira and Zisserman, CVPR 2017). A weight that differs from `shape` in another way is
    returned unchanged.
    """
    flat = (*shape[:2], *shape[3:]) if len(shape) == 5 and weight.ndim == 4 else tuple(shape)
    if len(flat) not in (4, 5) or (*weight.shape[:1], *weight.shape[2:]) != (flat[0], *flat[2:]):
        return weight
    channels = weight.shape[1]
    if channels == 3 and modality == "flow":
        weight = weight.mean(dim=1, keepdim=True).expand(-1, flat[1], *flat[2:]) * (3 / flat[1])
    elif channels == 3 and flat[1] % 3 == 0:
        frames = flat[1] // 3
        weight = weight.repeat(1, frames, *(1,) * (len(flat) - 2)) / frames
    if len(shape) > len(flat) and weight.shape[1] == shape[1]:
        weight = weight.unsqueeze(2).expand(*shape) / shape[2]
    return weight
