"""The tensors of a weight file as another kind of file needs them: found, renamed, and compared with the network."""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from twostream.architectures.video_resnets import BLOCKS
from twostream.conversion.blob_names import HEAD, OF_TRAINING, OTHER_HEADS, blob_names, has_blob_names
from twostream.conversion.weight_files import CAFFE2, WeightFile
from twostream.counts import counted
from twostream.errors import BadInputError
from twostream.models.backbones import BACKBONES
from twostream.models.weights import own_name

NUM_CLASSES = 400
"""of a network whose file has no last layer"""
FRAME_CHANNELS = 3
"""of a picture, in the first layer of R2D, which reads all frames of a clip as channels"""


@dataclass
class Conversion:
    """The tensors to write, and what became of those that were read."""

    tensors: dict[str, torch.Tensor]
    backbone: str = ""
    """"" where no network was needed, because no name changes"""
    names: dict[str, str] = field(default_factory=dict)
    """name of a tensor that is written -> its name in the file that was read"""
    left_out: dict[str, str] = field(default_factory=dict)
    """name of a tensor that was read -> why it is not written"""
    missing: list[str] = field(default_factory=list)
    """tensors of the network that the file does not have; training starts them at random"""
    made: dict[str, str] = field(default_factory=dict)
    """tensors of the network that follow from others -> how"""

    def lines(self) -> list[str]:
        """The report for people: a line for each tensor, or one if all keep their names."""
        width = max([0, *map(len, self.names.values())])
        lines = [
            f"{source:{width}} -> {name}  {tuple(self.tensors[name].shape)}" for name, source in self.names.items()
        ]
        if not self.backbone:
            lines = ["all tensors keep their names"]
        lines += [f"made: {name}, {how}" for name, how in self.made.items()]
        lines += [f"left out: {name}, {reason}" for name, reason in self.left_out.items()]
        return lines + [f"missing: {name}" for name in self.missing]

    def to_json(self) -> dict[str, Any]:
        """The key map: what each tensor was called, and what is different."""
        return {
            "network": self.backbone or None,
            "names": self.names,
            "made": self.made,
            "left_out": self.left_out,
            "missing": self.missing,
        }


def convert(file: WeightFile, kind: str, *, backbone: str = "") -> Conversion:
    """The tensors of a file as a file of `kind` (a value of SUFFIXES) needs them.

    Between files of Caffe2, and between files of PyTorch, all tensors keep their names, unless a `backbone` is given:
    then only its tensors are written. Between the two, `backbone` is found by names and shapes if it is not given.
    Raises BadInputError where the file is of another network, or of none that both have.
    """
    to_caffe2 = kind in CAFFE2
    if to_caffe2 == file.is_caffe2 and not backbone:
        return Conversion(file.tensors, names={name: name for name in file.tensors}, left_out=file.left_out)
    backbone = backbone or (file.stream.backbone if file.stream else "") or find_backbone(file)
    if to_caffe2 and not has_blob_names(backbone):
        raise BadInputError(
            f"{file.path} is of {backbone}, which no program of Caffe2 has; write a .pth or .safetensors file"
        )
    result = _as_own(file, backbone)
    _check_values(file.path, result)
    if to_caffe2 and file.is_caffe2:
        blobs = {name: file.tensors[name] for name in result.names.values()}
        return Conversion(blobs, backbone, {name: name for name in blobs}, result.left_out)
    return _as_blobs(file.path, result) if to_caffe2 else result


def find_backbone(file: WeightFile) -> str:
    """The network of VMZ or of video-nonlocal-net whose names and shapes a file has; BadInputError if it has none's."""
    num_blocks = len(
        {match[0] for name in file.tensors if (match := re.match(r"comp_\d+_|res\d_\d+_|layer\d\.\d+\.", name))}
    )
    candidates = [name for name in BACKBONES if has_blob_names(name)]
    # R2D last: of clips of one frame or three, it would have the shapes of f-R2D and MC2.
    for name in sorted(candidates, key=lambda name: name.startswith("vmz_r2d_")):
        if num_blocks == _num_blocks(name):
            try:
                _as_own(file, name)
            except BadInputError:
                continue
            return name
    listed = ", ".join(list(file.tensors)[:3])
    raise BadInputError(
        f"{file.path} has {counted(len(file.tensors), 'tensor')} ({listed} ...), in which no network of VMZ or of "
        "video-nonlocal-net was found; name theirs with --arch, and the message says what differs"
    )


def _num_blocks(backbone: str) -> int:
    """Residual blocks of a network of VMZ or of video-nonlocal-net, whose names end in their depth."""
    return sum(BLOCKS[int(re.findall(r"\d+$", backbone)[0])])


def _as_own(file: WeightFile, backbone: str) -> Conversion:
    """The tensors of a file under the names and in the shapes of our network.

    Raises BadInputError if a tensor has another shape, if one is missing, or if a layer of the file would be lost; but
    the last layer may be missing, or be one of several.
    """
    record, num_classes = BACKBONES[backbone], _num_classes(file, backbone)
    with torch.device("meta"):
        network = record.build(num_classes, record.input_size, 0.5)
    own = network.state_dict()
    if file.is_caffe2:
        sources = blob_names(backbone, own, num_classes=num_classes) if has_blob_names(backbone) else {}
    else:
        sources = {own_name(name, record): name for name in file.tensors}
    result = Conversion({}, backbone, left_out=dict(file.left_out))
    for name, expected in own.items():
        source = sources.get(name, "")
        if source in file.tensors:
            is_first = name == f"{record.first_layer}.weight"
            tensor = _reshaped(file.tensors[source], expected.ndim)
            if tensor.shape[:1] + tensor.shape[1 + is_first :] != expected.shape[:1] + expected.shape[1 + is_first :]:
                raise BadInputError(
                    f"{file.path}: {source} has shape {tuple(file.tensors[source].shape)}, expected "
                    f"{tuple(expected.shape)} for {name} of {backbone}; give the file's own --arch"
                )
            if not tensor.is_floating_point() and not name.endswith("num_batches_tracked"):
                raise BadInputError(f"{file.path}: {source} has numbers of type {tensor.dtype}, expected weights")
            result.tensors[name], result.names[name] = tensor, source
    _make_statistics(result, network)
    used = set(result.names.values())
    result.left_out |= {name: _reason(name, record.ignored) for name in file.tensors if name not in used}
    result.missing = [name for name in own if name not in result.tensors and not name.endswith("num_batches_tracked")]
    _check_complete(file.path, result, sources)
    return result


def _num_classes(file: WeightFile, backbone: str) -> int:
    """Rows of the last layer of a file."""
    head = f"{BACKBONES[backbone].head}.weight"
    for name, tensor in file.tensors.items():
        is_head = HEAD.fullmatch(name) if file.is_caffe2 else own_name(name, BACKBONES[backbone]) == head
        if is_head and tensor.ndim and len(tensor):
            return len(tensor)
    return NUM_CLASSES


def _reshaped(tensor: torch.Tensor, num_dimensions: int) -> torch.Tensor:
    """A tensor with as many dimensions as our network has for it, where that only changes how its numbers are arranged."""
    if tensor.ndim == 5 and num_dimensions == 2 and tensor.shape[2:].numel() == 1:
        return tensor.flatten(1)  # a last layer that was tested as a convolution
    if tensor.ndim == 5 and num_dimensions == 4:  # R2D: (O, C, T, k, k) -> (O, TC, k, k), all channels of frame 0 first
        return tensor.transpose(1, 2).flatten(1, 2)
    return tensor


def _make_statistics(result: Conversion, network: nn.Module) -> None:
    """Mean and variance of norms that were frozen into a scale and a shift before a training, as I3D's of 32 x 4 frames.

    With a mean of 0 and a variance of 1 - epsilon, batch norm is that scale and shift.
    """
    for layer, norm in network.named_modules():
        if isinstance(norm, nn.modules.batchnorm._BatchNorm) and f"{layer}.weight" in result.tensors:
            statistics = {f"{layer}.running_mean": 0.0, f"{layer}.running_var": 1 - norm.eps}
            if not statistics.keys() & result.tensors.keys():
                for name, value in statistics.items():
                    result.tensors[name] = torch.full((norm.num_features,), value)
                    result.made[name] = f"{value:g}, because the file has scale and shift only"


def _reason(name: str, ignored: str) -> str:
    """Why a tensor of a file is not written."""
    if OF_TRAINING.fullmatch(name):
        return "of the training, not of the network"
    if OTHER_HEADS.fullmatch(name):
        return "another last layer"
    return "left out by design" if re.match(ignored, name) else ""


def _check_complete(path: Path, result: Conversion, sources: dict[str, str]) -> None:
    """Raise BadInputError if a layer is missing or would be lost."""
    head = f"{BACKBONES[result.backbone].head}."
    missing = [name for name in result.missing if not name.startswith(head)]
    lost = [name for name, reason in result.left_out.items() if not reason]
    if missing or lost:
        example = f"{sources.get(missing[0]) or missing[0]} is missing" if missing else f"it has no place for {lost[0]}"
        raise BadInputError(
            f"{path} is of another network than {result.backbone}: {counted(len(result.names), 'tensor')} would fit, but "
            f"{len(missing)} are missing and {len(lost)} would be lost, as {example}; give the file's own --arch"
        )


def _check_values(path: Path, result: Conversion) -> None:
    """Raise BadInputError for numbers that no training leaves: a negative variance, or what is not finite."""
    for name, tensor in result.tensors.items():
        if not bool(torch.isfinite(tensor).all()) or name.endswith("running_var") and bool((tensor < 0).any()):
            raise BadInputError(
                f"{path}: {result.names.get(name, name)} has numbers that are not finite, or variances below 0; take another copy "
                "of the file"
            )


def _as_blobs(path: Path, result: Conversion) -> Conversion:
    """The same tensors as Caffe2 names and shapes them."""
    record = BACKBONES[result.backbone]
    num_classes = len(result.tensors.get(f"{record.head}.weight", ())) or NUM_CLASSES
    names = blob_names(result.backbone, result.tensors, num_classes=num_classes)
    blobs = {}
    for name, blob in names.items():
        tensor = result.tensors[name]
        if tensor.ndim == 4:  # R2D, see `_reshaped`
            is_first = name == f"{record.first_layer}.weight"
            if is_first and tensor.shape[1] % FRAME_CHANNELS:
                raise BadInputError(
                    f"{path}: {name} reads {tensor.shape[1]} channels, expected {FRAME_CHANNELS} of each frame"
                )
            frames = (-1, FRAME_CHANNELS) if is_first else (1, -1)
            tensor = tensor.unflatten(1, frames).transpose(1, 2)
        blobs[blob] = tensor
    result.left_out |= {
        source: "Caffe2 does not count batches" for name, source in result.names.items() if name not in names
    }
    return Conversion(
        blobs,
        result.backbone,
        names={names[name]: source for name, source in result.names.items() if name in names},
        left_out=result.left_out,
        missing=list(blob_names(result.backbone, result.missing, num_classes=num_classes).values()),
        made={names[name]: how for name, how in result.made.items()},
    )
