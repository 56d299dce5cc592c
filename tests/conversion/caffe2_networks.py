"""Networks of VMZ and of video-nonlocal-net as their programs build them: names of blobs, and what the blobs compute.

Each function follows the building program step by step and computes on the way, with random blobs: so names, shapes and
output come from one description, which knows nothing of this package's networks.
"""

import torch
import torch.nn.functional as F

BLOCKS = {10: (1, 1, 1, 1), 16: (2, 2, 2, 1), 18: (2, 2, 2, 2), 26: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3),
          101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}  # fmt: skip


class Caffe2:
    """Operators of Caffe2 in test mode, whose blobs are random; `blobs` is what its programs save."""

    def __init__(self, seed: int = 0, device: str = "cpu"):
        """On the device "meta" there are names and shapes only."""
        self.blobs: dict[str, torch.Tensor] = {}
        self.generator = torch.Generator().manual_seed(seed)
        self.device = device

    def _blob(self, name: str, *shape: int, low: float = -1.0, high: float = 1.0) -> torch.Tensor:
        assert name not in self.blobs, f"two operators would share {name}"
        self.blobs[name] = torch.empty(shape, device=self.device)
        if self.device == "cpu":
            self.blobs[name].uniform_(low, high, generator=self.generator)
        return self.blobs[name]

    def conv(self, x, name, channels, kernel, stride=(1, 1, 1), pad=(0, 0, 0), group=1, bias=False):
        """ConvNd: NCTHW."""
        fan_in = x.shape[1] // group * kernel[0] * kernel[1] * kernel[2]
        limit = (6 / fan_in) ** 0.5  # so that features keep their size through the ReLUs
        weight = self._blob(f"{name}_w", channels, x.shape[1] // group, *kernel, low=-limit, high=limit)
        return F.conv3d(x, weight, self._blob(f"{name}_b", channels) if bias else None, stride, pad, groups=group)

    def spatial_bn(self, x, name, epsilon):
        """SpatialBN with is_test: scale * (x - mean) / sqrt(var + epsilon) + bias, where `riv` is the variance."""
        scale, bias, mean = (self._blob(f"{name}_{end}", x.shape[1]) for end in ("s", "b", "rm"))
        variance = self._blob(f"{name}_riv", x.shape[1], low=0.001, high=2.0)
        scale, bias, mean, variance = (part.view(1, -1, 1, 1, 1) for part in (scale, bias, mean, variance))
        return scale * (x - mean) * torch.rsqrt(variance + epsilon) + bias

    def affine(self, x, name):
        """AffineNd, into which batch norm is frozen."""
        scale, bias = self._blob(f"{name}_s", x.shape[1]), self._blob(f"{name}_b", x.shape[1])
        return scale.view(1, -1, 1, 1, 1) * x + bias.view(1, -1, 1, 1, 1)

    def head(self, x, name, num_classes):
        """AveragePool over all that is left, and FC."""
        weight = self._blob(f"{name}_w", num_classes, x.shape[1], low=-0.1, high=0.1)
        return F.linear(x.mean(dim=(2, 3, 4)), weight, self._blob(f"{name}_b", num_classes))


# ---------------------------------------------------------------------------------------------------------------- VMZ


class VmzBuilder:
    """VideoModelBuilder: numbers the blocks (comp_count) and, within one, the convolutions (comp_idx)."""

    def __init__(self, net: Caffe2, x: torch.Tensor):
        self.net, self.x = net, x
        self.comp_count = self.comp_idx = 0

    def norm(self, suffix=""):
        name = f"comp_{self.comp_count}_spatbn_{self.comp_idx}{suffix}"
        self.x = self.net.spatial_bn(self.x, name, 1e-3)

    def conv(self, channels, kernel, stride=(1, 1, 1), pad=(0, 0, 0), kind="3d"):
        self.comp_idx += 1
        name = f"comp_{self.comp_count}_conv_{self.comp_idx}"
        inside = self.x.shape[1]
        if kind == "2.5d":
            middle = 3 * inside * channels * kernel[1] * kernel[2]
            middle = int(middle / (inside * kernel[1] * kernel[2] + 3 * channels))
            one, two = (1, stride[1], stride[2]), (stride[0], 1, 1)
            self.x = self.net.conv(self.x, f"{name}_middle", middle, (1, *kernel[1:]), one, (0, *pad[1:]))
            self.norm("_middle")
            self.x = self.net.conv(F.relu(self.x), name, channels, (kernel[0], 1, 1), two, (pad[0], 0, 0))
        elif kind == "0.3d":  # interaction-preserved CSN
            self.x = self.net.conv(self.x, f"{name}_middle", channels, (1, 1, 1))
            self.norm("_middle")
            self.x = self.net.conv(self.x, name, channels, kernel, stride, pad, group=channels)
        elif kind == "3d-sep":  # interaction-reduced CSN; add_channelwise_conv counts once more
            self.comp_idx += 1
            name = f"comp_{self.comp_count}_conv_{self.comp_idx}"
            self.x = self.net.conv(self.x, name, channels, kernel, stride, pad, group=channels)
        else:
            self.x = self.net.conv(self.x, name, channels, kernel, stride, pad)

    def block(self, channels, base, down=False, kind="3d", real_3d=True, bottleneck=False):
        self.comp_idx, shortcut = 0, self.x
        kernel, pad = ((3, 3, 3), (1, 1, 1)) if real_3d else ((1, 3, 3), (0, 1, 1))
        stride = ((2, 2, 2) if real_3d else (1, 2, 2)) if down else (1, 1, 1)
        if bottleneck:
            self.conv(base, (1, 1, 1))
            self.norm()
            self.x = F.relu(self.x)
            self.conv(base, kernel, stride, pad, kind)
            self.norm()
            self.x = F.relu(self.x)
            self.conv(channels, (1, 1, 1))
        else:
            self.conv(channels, kernel, stride, pad, kind)
            self.norm()
            self.x = F.relu(self.x)
            self.conv(channels, kernel, pad=pad, kind=kind)
        self.norm()
        if channels != shortcut.shape[1] or down:
            name = f"shortcut_projection_{self.comp_count}"
            shortcut = self.net.conv(shortcut, name, channels, (1, 1, 1), stride)
            shortcut = self.net.spatial_bn(shortcut, f"{name}_spatbn", 1e-3)
        self.x = F.relu(shortcut + self.x)
        self.comp_count += 1


def vmz(name: str, depth: int, clip: torch.Tensor, *, num_classes: int, seed: int = 0) -> tuple[dict, torch.Tensor]:
    """r3d_model.create_model: the blobs of a network, and its logits for a clip (N, C, T, H, W)."""
    net = Caffe2(seed, clip.device.type)
    level = int(name[-1]) if "mc" in name else 0
    if name == "r2plus1d":
        x = net.conv(clip, "conv1_middle", 45, (1, 7, 7), (1, 2, 2), (0, 3, 3))
        x = F.relu(net.spatial_bn(x, "conv1_middle_spatbn_relu", 1e-3))
        x = net.conv(x, "conv1", 64, (3, 1, 1), pad=(1, 0, 0))
    else:
        flat = name == "r2df" or name.startswith("rmc")
        frames = clip.shape[2] if name == "r2d" else 1 if flat else 3
        x = net.conv(clip, "conv1", 64, (frames, 7, 7), (1, 2, 2), (1 if frames == 3 else 0, 3, 3))
    x = F.relu(net.spatial_bn(x, "conv1_spatbn_relu", 1e-3))
    if "csn" in name:
        x = F.max_pool3d(x, (1, 3, 3), (1, 2, 2), (0, 1, 1))  # use_pool1
    kind = {"r2plus1d": "2.5d", "ir_csn": "3d-sep", "ip_csn": "0.3d"}.get(name, "3d")
    bottleneck = depth > 18 and depth != 34
    widths = [(64, 64), (128, 128), (256, 256), (512, 512)]
    if depth > 34:
        widths = [(256, 64), (512, 128), (1024, 256), (2048, 512)]
    builder = VmzBuilder(net, x)
    for stage, ((channels, base), number) in enumerate(zip(widths, BLOCKS[depth], strict=True), 2):
        real_3d = {"r2d": False, "r2df": False}.get(name, True)
        if level:
            real_3d = stage < level if name.startswith("mc") else stage >= level
        for index in range(number):
            builder.block(channels, base, stage > 2 and index == 0, kind, real_3d, bottleneck)
    return net.blobs, net.head(builder.x, f"last_out_L{num_classes}", num_classes)


# --------------------------------------------------------------------------------------------------- video-nonlocal-net


def non_local(net: Caffe2, x: torch.Tensor, prefix: str, *, affine: bool) -> torch.Tensor:
    """spacetime_nonlocal with its default settings."""
    inner, pooled = x.shape[1] // 2, F.max_pool3d(x, (1, 2, 2))
    theta, phi, g = (
        net.conv(part, f"{prefix}_{name}", inner, (1, 1, 1), bias=True).flatten(2)
        for name, part in (("theta", x), ("phi", pooled), ("g", pooled))
    )
    weights = torch.softmax(theta.transpose(1, 2) @ phi * inner**-0.5, dim=2)
    y = (g @ weights.transpose(1, 2)).view(x.shape[0], inner, *x.shape[2:])
    y = net.conv(y, f"{prefix}_out", x.shape[1], (1, 1, 1), bias=True)
    return x + (net.affine(y, f"{prefix}_bn") if affine else net.spatial_bn(y, f"{prefix}_bn", 1e-5))


def i3d(clip, *, num_classes: int, with_non_local=False, affine=False, seed: int = 0) -> tuple[dict, torch.Tensor]:
    """resnet_video_org.create_model for I3D-ResNet-50 with clips of 32 frames, 2 apart."""
    net = Caffe2(seed, clip.device.type)

    def conv_norm(x, name, channels, kernel, stride=(1, 1, 1), pad=(0, 0, 0), norm=None):
        x = net.conv(x, name, channels, kernel, stride, pad)
        return net.affine(x, norm or f"{name}_bn") if affine else net.spatial_bn(x, norm or f"{name}_bn", 1e-5)

    x = F.relu(conv_norm(clip, "conv1", 64, (5, 7, 7), (2, 2, 2), (2, 3, 3), norm="res_conv1_bn"))
    x = F.max_pool3d(x, (2, 3, 3), 2)
    temporal = [(1, 1, 1), (1, 0, 1, 0), (1, 0, 1, 0, 1, 0), (0, 1, 0)]
    for stage, uses in enumerate(temporal, 2):
        width = 64 * 2 ** (stage - 2)
        for index, t in enumerate(uses):
            step = (1, 2, 2) if stage > 2 and index == 0 else (1, 1, 1)
            prefix = f"res{stage}_{index}"
            y = F.relu(conv_norm(x, f"{prefix}_branch2a", width, (1 + 2 * t, 1, 1), pad=(t, 0, 0)))
            y = F.relu(conv_norm(y, f"{prefix}_branch2b", width, (1, 3, 3), step, (0, 1, 1)))
            y = conv_norm(y, f"{prefix}_branch2c", 4 * width, (1, 1, 1))
            x = F.relu(y + (conv_norm(x, f"{prefix}_branch1", 4 * width, (1, 1, 1), step) if index == 0 else x))
            if with_non_local and stage in (3, 4) and index % 2 == 1:
                x = non_local(net, x, f"nonlocal_conv{stage}_{index}", affine=affine)
        if stage == 2:
            x = F.max_pool3d(x, (2, 1, 1), (2, 1, 1))
    return net.blobs, net.head(x, "pred", num_classes)
