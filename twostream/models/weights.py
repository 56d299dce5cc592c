"""Weight files: found by name, read without running code, fitted to a stream's network, and reported."""

import pickle
import re
import struct
import zipfile
import zlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import nn

from twostream.errors import BadInputError
from twostream.models.backbones import BACKBONES, Backbone
from twostream.models.network import fit_first_layer
from twostream.stream import RGB, StreamConfig

ZIP_FOLDER_BIT = 0x10
"""of a zip entry's attributes, as MS-DOS had it"""


@dataclass
class WeightReport:
    """What became of each tensor, by name."""

    path: Path
    loaded: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    """in the file, but not in the network"""
    random: list[str] = field(default_factory=list)
    """in the network, but not in the file"""

    def __str__(self) -> str:
        def layers(names: list[str]) -> str:
            unique = list(dict.fromkeys(name.rpartition(".")[0] or name for name in names))
            shown = ", ".join(unique[:6]) + (f" and {len(unique) - 6} more layers" if len(unique) > 6 else "")
            return f"{len(names)} tensors ({shown})" if names else "none"

        return (
            f"weights of {self.path}: loaded {len(self.loaded)} tensors, "
            f"skipped {layers(self.skipped)}, left random {layers(self.random)}"
        )


def find_pretrained(folder: Path, backbone: str) -> Path:
    """The ImageNet weights of a backbone in a folder; raises BadInputError when there are none, or several."""
    patterns = BACKBONES[backbone].weight_files
    found = sorted({path for pattern in patterns for path in folder.glob(pattern)})
    if not found:
        raise BadInputError(
            f"no ImageNet weights of {backbone} in {folder} (looked for {', '.join(patterns)}): "
            f"run pretrained/fetch.py {backbone}, name their folder by --global_models_dir, or give --pretrained=False"
        )
    if len(found) > 1:
        names = ", ".join(path.name for path in found)
        raise BadInputError(f"{folder} has {names}: choose one by --init_from=FILE")
    return found[0]


def read_torch_file(path: str | Path) -> dict:
    """Read a torch file that holds tensors and plain values only; the one place where torch files are opened.

    Raises BadInputError for anything else: other files, damaged ones (checksums of the file's parts are compared),
    and pickles that would run code.
    """
    path = Path(path)
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as parts:
                # A part marked as a folder passes Python's check, and torch leaves its tensor unfilled.
                folders = [part.filename for part in parts.infolist() if part.external_attr & ZIP_FOLDER_BIT]
                damaged = parts.testzip() or next(iter(folders), None)
            if damaged:
                raise BadInputError(f"{path}: {damaged} does not match its checksum; take another copy of the file")
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise BadInputError(f"{path}: there is no such file") from None
    except (pickle.UnpicklingError, zipfile.BadZipFile, zlib.error, struct.error, RuntimeError, EOFError, ValueError,
            OSError, LookupError, AttributeError, TypeError, AssertionError, ArithmeticError) as error:  # fmt: skip
        # What torch says runs over a page; the first sentence names the kind of damage.
        reason = re.split(r"[.\n]", str(error) or type(error).__name__)[0]
        size = path.stat().st_size if path.is_file() else 0
        raise BadInputError(f"{path} ({size} bytes) is no file of tensors that can be trusted: {reason}") from None
    if not isinstance(content, dict):
        raise BadInputError(f"{path}: found a {type(content).__name__}, expected named tensors")
    return content


def load_weights(module: nn.Module, path: str | Path, stream: StreamConfig) -> WeightReport:
    """Fill a backbone with the weights of a file and say what was used.

    Files: torchvision's and 2D-kinectics' ImageNet weights, 2D-kinectics' `model_*.pth`, our checkpoints; with or
    without the prefix of DataParallel. The first layer is fitted to the stream's channels, see `fit_first_layer`;
    a head for other classes, and all behind the last layer of the file, is left random. Raises BadInputError when the
    file is of another network: another layer has another shape, there are gaps, or nothing fits.
    """
    path = Path(path)
    backbone = BACKBONES[stream.backbone]
    content = read_torch_file(path)
    source = _named_tensors(content, backbone)
    if not source and "param_groups" in content:
        weights = path.with_name(path.name.replace("optimizer", "model")).name
        raise BadInputError(
            f"{path} is the state of an optimizer, which 2D-kinectics writes beside the weights; name those, as {weights}, or "
            "its latest.pth, which names both"
        )
    theirs = content["stream"].get("backbone") if isinstance(content.get("stream"), dict) else None
    if theirs not in (None, stream.backbone):
        raise BadInputError(
            f"{path} is of {theirs}, asked is {stream.backbone}: give --arch={theirs}, or other weights"
        )
    adapt_to = stream.modality if _sees_rgb(content) else "rgb"
    report, given = WeightReport(path), list(source)
    own = module.state_dict()
    for name, tensor in own.items():
        new = source.pop(name, None)
        if new is not None and name == f"{backbone.first_layer}.weight":
            new = fit_first_layer(new, num_channels=tensor.shape[1], modality=adapt_to)
        is_head = name.startswith(f"{backbone.head}.")
        if new is None or not bool(torch.isfinite(new).all()) or (is_head and new.shape != tensor.shape):
            # Old files have no num_batches_tracked, and training does not need it.
            if not name.endswith("num_batches_tracked"):
                report.random.append(name)
        elif new.shape != tensor.shape:
            raise BadInputError(
                f"{path}: {name} has shape {tuple(new.shape)}, {stream.backbone} at {stream.input_size} pixels with "
                f"{stream.clip_len} frames has {tuple(tensor.shape)}; the file is of another network, --arch or size"
            )
        else:
            tensor.copy_(new)
            report.loaded.append(name)
    report.skipped = [name for name in source if not re.match(backbone.ignored, name)]
    # A file may be the beginning of the network, or have a little more; one with gaps, or mostly unused, is another's.
    gaps = [name for name in _before_the_last_of(report.loaded, own) if name in report.random and name not in given]
    more = [name for name in _before_the_last_of(report.loaded, given) if name in report.skipped]
    more = more or (report.skipped if len(report.skipped) > len(report.loaded) else [])
    if report.loaded and (gaps or more):
        raise BadInputError(
            f"{path} is of another network than {stream.backbone}: {len(report.loaded)} tensors fit, but it lacks "
            f"{len(gaps)} between them and has {len(more)} of no use, as {(gaps + more)[0]}; give its --arch, or other weights"
        )
    if f"{backbone.first_layer}.weight" not in report.loaded:
        raise BadInputError(
            f"{path}: {len(report.loaded)} of its {len(report.skipped) + len(report.loaded)} tensors fit "
            f"{stream.backbone}, among them not {backbone.first_layer}; it holds {', '.join(report.skipped[:3])} ..."
        )
    return report


def _before_the_last_of(names: list[str], all_names: Iterable[str]) -> list[str]:
    """All names up to the last one of `names`, in their order."""
    all_names = list(all_names)
    return all_names[: max((all_names.index(name) for name in names if name in all_names), default=0)]


def _sees_rgb(content: dict) -> bool:
    """Was the network of this file made for RGB pictures? ImageNet's were; of 2D-kinectics' own we are not told."""
    if isinstance(content.get("stream"), dict):
        return content["stream"].get("input_type") == RGB
    return not any("fc_kin." in str(name) or "extra_layers." in str(name) for name in content)


def _named_tensors(content: dict, backbone: Backbone) -> dict[str, torch.Tensor]:
    """Tensors of a weight file under the names of the module."""
    for wrapper in ("weights", "state_dict"):
        if isinstance(content.get(wrapper), dict):
            content = content[wrapper]
    tensors = {}
    for name, value in content.items():
        if isinstance(name, str) and isinstance(value, torch.Tensor):
            name = re.sub(r"^(module\.)+", "", name)
            for pattern, replacement in backbone.renames:
                name = re.sub(pattern, replacement, name)
            tensors[name] = value
    return tensors
