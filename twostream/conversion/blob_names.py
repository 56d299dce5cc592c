"""What Caffe2's programs call the tensors of our networks.

VMZ numbers its residual blocks through all stages (facebookresearch/VMZ, c2/lib/models/r3d_model.py and builder/video_model.py);
video-nonlocal-net, whose weights pytorch-resnet3d uses, names stage and block (lib/models/resnet_video.py).

Batch norm is scale `_s`, shift `_b`, running mean `_rm` and running variance `_riv`. The last one is named after an inverse,
which it was in the earliest versions of Caffe2; the SpatialBN of these networks adds epsilon to it and takes the root
(caffe2/operators/spatial_batch_norm_op.cc), so it is PyTorch's running_var. Filters are (O, C, T, H, W) in both. Epsilon
is in neither file: it is .001 in VMZ and .00001 in video-nonlocal-net, and so in our networks.
"""

import re
from collections.abc import Iterable

NORM = {"weight": "s", "bias": "b", "running_mean": "rm", "running_var": "riv"}
LAYER = {"weight": "w", "bias": "b"}

VMZ_BLOCK = (
    (r"conv(\d)\.0\.0", "comp_{block}_conv_{number}_middle"),
    (r"conv(\d)\.0\.1", "comp_{block}_spatbn_{number}_middle"),
    (r"conv(\d)(?:\.0(?:\.[23])?)?", "comp_{block}_conv_{number}"),
    (r"(?:conv(\d)\.1|bn(\d))", "comp_{block}_spatbn_{number}"),
    (r"downsample\.0", "shortcut_projection_{block}"),
    (r"downsample\.1", "shortcut_projection_{block}_spatbn"),
)
"""layer of a block -> blob, without its last part"""
VMZ_ENDS = {
    "conv1": "conv1", "bn1": "conv1_spatbn_relu", "stem.0": "conv1", "stem.1": "conv1_spatbn_relu",
    "stem.3": "conv1", "stem.4": "conv1_spatbn_relu",
}  # fmt: skip
"""layer outside the blocks -> blob"""
VMZ_FACTORED_STEM = VMZ_ENDS | {"stem.0": "conv1_middle", "stem.1": "conv1_middle_spatbn_relu"}
NON_LOCAL_BLOCK = (
    (r"conv(\d)", "res{stage}_{block}_branch2{letter}"),
    (r"bn(\d)", "res{stage}_{block}_branch2{letter}_bn"),
    (r"downsample\.0", "res{stage}_{block}_branch1"),
    (r"downsample\.1", "res{stage}_{block}_branch1_bn"),
    (r"nl\.(\w+)", "nonlocal_conv{stage}_{block}_{number}"),
)
NON_LOCAL_ENDS = {"conv1": "conv1", "bn1": "res_conv1_bn", "fc": "pred"}

HEAD = re.compile(r"(?:last_out_L\d+|pred)_w")
"""the weight of the last layer; VMZ's says the number of classes in its name"""
OTHER_HEADS = re.compile(r"(?:last_out|pred|pred_logit)(?:_L\d+)?_[wb]")
OF_TRAINING = re.compile(
    r".*_(?:momentum|grad)|(?i:lr|iter|model_iter|epoch|one|weight_decay(?:_bn)?|optimizer_iteration)"
)
"""blobs that are no part of a network"""


def has_blob_names(backbone: str) -> bool:
    """Is this a network that a program of Caffe2 has too?"""
    return backbone.startswith(("vmz_", "i3d_"))


def blob_names(backbone: str, tensors: Iterable[str], *, num_classes: int) -> dict[str, str]:
    """Name of a tensor in our network -> name of its blob, for all `tensors` of the network that Caffe2 stores."""
    tensors = list(tensors)
    layers = dict.fromkeys(name.rpartition(".")[0] for name in tensors)
    norms = {name.removesuffix(".running_mean") for name in tensors if name.endswith(".running_mean")}
    of_layer = _non_local(layers) if backbone.startswith("i3d_") else _vmz(backbone, layers, num_classes)
    names = {}
    for name in tensors:
        layer, _, part = name.rpartition(".")
        ending = (NORM if layer in norms else LAYER).get(part)
        if ending:  # Caffe2 does not count batches
            names[name] = f"{of_layer[layer]}_{ending}"
    return names


def _vmz(backbone: str, layers: Iterable[str], num_classes: int) -> dict[str, str]:
    """Layer of a network of VMZ -> blob."""
    blocks = list(dict.fromkeys(match[0] for layer in layers if (match := re.match(r"layer\d\.\d+\.", layer))))
    numbers = (
        {"1": 1, "2": 3, "3": 4} if "ir_csn" in backbone else {"1": 1, "2": 2, "3": 3}
    )  # VMZ counts its second twice
    ends = (VMZ_FACTORED_STEM if "stem.3" in layers else VMZ_ENDS) | {"fc": f"last_out_L{num_classes}"}
    names = {}
    for layer in layers:
        if layer in ends:
            names[layer] = ends[layer]
            continue
        block = re.match(r"layer\d\.\d+\.", layer)[0]  # type: ignore[index]
        match, form = _pattern(layer.removeprefix(block), VMZ_BLOCK)
        number = numbers.get(next(filter(None, match.groups()), ""), 0)
        names[layer] = form.format(block=blocks.index(block), number=number)
    return names


def _non_local(layers: Iterable[str]) -> dict[str, str]:
    """Layer of a network of video-nonlocal-net -> blob."""
    names = {}
    for layer in layers:
        if layer in NON_LOCAL_ENDS:
            names[layer] = NON_LOCAL_ENDS[layer]
            continue
        _, stage, block, rest = re.split(r"^layer(\d)\.(\d+)\.", layer)
        match, form = _pattern(rest, NON_LOCAL_BLOCK)
        number = next(iter(match.groups()), "")
        names[layer] = form.format(
            stage=int(stage) + 1, block=block, number=number, letter={"1": "a", "2": "b", "3": "c"}.get(number)
        )
    return names


def _pattern(layer: str, patterns: tuple[tuple[str, str], ...]) -> tuple[re.Match[str], str]:
    """The pattern that a layer fits, and the form of its blob."""
    return next((match, form) for pattern, form in patterns if (match := re.fullmatch(pattern, layer)))
