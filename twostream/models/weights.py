"""Weight files: found by name, read without running code, fitted to a stream's network; and a report of what was used."""

import json
import mmap
import pickle
import re
import shlex
import struct
import zipfile
import zlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from twostream.errors import BadInputError, one_line
from twostream.files import check_regular, check_zip
from twostream.models.backbones import BACKBONES, Backbone
from twostream.models.network import fit_weight
from twostream.safe_pickle import check_pickle
from twostream.stream import RGB, StreamConfig

CAFFE2_SUFFIXES = (".pkl", ".minidb", ".mdl")
"""of files that twostream convert turns into torch files"""
ZIP_FOLDER_BIT = 0x10
"""in the attributes of a zip entry, from MS-DOS"""
MAX_REPEATED_BYTES = 512 << 20
"""of a tensor that repeats numbers; the largest of vgg16 has 411 million"""
SHOWN_LAYERS = 6
"""at most, in a line of the report"""


@dataclass
class WeightReport:
    """The names of the tensors that were loaded, skipped, or left random."""

    path: Path
    loaded: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    """in the file, but not in the network"""
    random: list[str] = field(default_factory=list)
    """in the network, but not in the file, or not usable"""

    def random_below(self, head: str) -> list[str]:
        """The tensors outside the last layer that were left random."""
        return [name for name in self.random if not name.startswith(f"{head}.")]

    def __str__(self) -> str:
        def layers(names: list[str]) -> str:
            if not names:
                return "none"
            unique = list(dict.fromkeys(name.rpartition(".")[0] or name for name in names))
            shown = ", ".join(unique[:SHOWN_LAYERS])
            if len(unique) > SHOWN_LAYERS:
                shown += f" and {len(unique) - SHOWN_LAYERS} more layers"
            return f"{len(names)} tensors ({shown})"

        return (
            f"weights of {self.path}: loaded {len(self.loaded)} tensors, "
            f"skipped {layers(self.skipped)}, left random {layers(self.random)}"
        )


def find_pretrained(folder: Path, backbone: str) -> Path:
    """The published weights of a backbone in a folder; raises BadInputError when there is no such file, or several."""
    patterns = BACKBONES[backbone].weight_files
    if not patterns:
        raise BadInputError(
            f"{backbone} has no weights under its own name: give a file with --init_from (twostream fetch --list lists published ones), or "
            "use --pretrained=False"
        )
    found = sorted({path for pattern in patterns for path in folder.glob(pattern)})
    if not found:
        raise BadInputError(
            f"no weights of {backbone} in {folder} (looked for {', '.join(patterns)}): "
            f"run twostream fetch {backbone}, give their folder with --global_models_dir, or use --pretrained=False"
        )
    if len(found) > 1:
        names = ", ".join(path.name for path in found)
        raise BadInputError(f"{folder} has {names}: choose one with --init_from=FILE")
    return found[0]


def read_torch_file(path: str | Path) -> dict[Any, Any]:
    """Read a torch file of tensors and plain values. All torch files are opened here.

    Raises BadInputError for anything else: other files, damaged files (the checksums of their parts are compared),
    pickles that would run code, and small files that stand for large ones.
    """
    path = Path(path)
    check_regular(path)
    try:
        if zipfile.is_zipfile(path):
            _check_archive(path)
        else:
            _check_old_file(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
        _check_tensors(content)
    except FileNotFoundError:
        raise BadInputError(f"{path}: no such file") from None
    except (pickle.UnpicklingError, zipfile.BadZipFile, zlib.error, struct.error, RuntimeError, EOFError, ValueError,
            OSError, LookupError, AttributeError, TypeError, AssertionError, ArithmeticError) as error:  # fmt: skip
        # torch's messages are as long as a page; the first sentence names the kind of damage.
        reason = one_line(error).split(". ")[0].removesuffix(".")
        size = path.stat().st_size if path.is_file() else 0
        raise BadInputError(
            f"{path} ({size} bytes) is not a file of tensors that can be trusted: {reason}; use another copy or another file"
        ) from None
    if not isinstance(content, dict):
        raise BadInputError(f"{path}: found a {type(content).__name__}, expected named tensors")
    return content


def read_weight_file(path: str | Path) -> dict[Any, Any]:
    """The content of a torch file, or of a .safetensors file: {"weights": tensors}, and its "stream" if it says one.

    The "weights" of our checkpoints are those that are tested: the averaged ones, if the training kept them (--ema). Raises
    BadInputError as `read_torch_file` does. Safetensors hold no code, and no tensor is larger than its file.
    """
    path = Path(path)
    check_regular(path)
    if not path.is_file() or not is_safetensors(path):
        try:
            content = read_torch_file(path)
        except BadInputError as error:
            if path.suffix.lower() not in CAFFE2_SUFFIXES or not path.is_file():
                raise
            words = shlex.join(["twostream", "convert", str(path), str(path.with_suffix(".pth"))])
            raise BadInputError(f"{error}; if it is a file of Caffe2, convert it first: {words}") from None
        if isinstance(content.get("stream"), dict) and isinstance(content.get("average"), dict):
            content["weights"] = content["average"]
        return content
    try:
        with safe_open(path, framework="pt") as file:
            content = {"weights": {name: file.get_tensor(name) for name in file.keys()}}
            stream = json.loads((file.metadata() or {}).get("stream", "null"))
    except (SafetensorError, ValueError, RecursionError) as error:
        raise BadInputError(
            f"{path}: not a file of safetensors that can be read ({one_line(error)}); take another copy of the file"
        ) from None
    return content | ({"stream": stream} if isinstance(stream, dict) else {})


def is_safetensors(path: Path) -> bool:
    """Does a file begin like safetensors: the length of a JSON header in eight bytes, then the header?"""
    with open(path, "rb") as file:
        head = file.read(9)
    return head[8:] == b"{" and int.from_bytes(head[:8], "little") < path.stat().st_size


def _check_archive(path: Path) -> None:
    """A torch file since 2020, a zip archive: its parts have their checksums, and no part unpacks to more than it is."""
    with zipfile.ZipFile(path) as parts:
        check_zip(parts)
        for part in parts.infolist():
            if part.compress_type != zipfile.ZIP_STORED:
                raise zipfile.BadZipFile(f"{part.filename} is compressed, which torch never does")
        # A part that is marked as a folder passes Python's check, and torch leaves its tensor unfilled.
        folders = [part.filename for part in parts.infolist() if part.external_attr & ZIP_FOLDER_BIT]
        if damaged := parts.testzip() or next(iter(folders), None):
            raise BadInputError(f"{path}: {damaged} does not match its checksum; take another copy of the file")
        for part in parts.infolist():
            if part.filename.endswith(".pkl"):
                with parts.open(part) as file:
                    check_pickle(file, part.file_size)


def _check_old_file(path: Path) -> None:
    """A torch file before 2020: five pickles, and behind them the numbers."""
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        for _ in range(5):
            check_pickle(data, len(data))


def _check_tensors(content: Any) -> None:
    """Raise ValueError where a tensor has far more numbers than the file: with a stride of 0, one stands for 10**9."""
    waiting, seen = [content], {id(content)}
    while waiting:
        part = waiting.pop()
        if isinstance(part, torch.Tensor):
            if part.layout is not torch.strided or part.device.type != "cpu":
                raise ValueError(f"a tensor of layout {part.layout} on {part.device}")
            num_bytes, stored_bytes = part.numel() * part.element_size(), part.untyped_storage().nbytes()
            if num_bytes > max(stored_bytes, MAX_REPEATED_BYTES):
                raise ValueError(f"a tensor of shape {tuple(part.shape)} in {stored_bytes} bytes")
        inner = part.values() if isinstance(part, dict) else part if isinstance(part, list | tuple) else ()
        for value in inner:
            if id(value) not in seen and isinstance(value, dict | list | tuple | torch.Tensor):
                seen.add(id(value))
                waiting.append(value)


def load_weights(module: nn.Module, path: str | Path, stream: StreamConfig) -> WeightReport:
    """Load the weights of a file into a backbone; returns which tensors were used.

    Files: ImageNet weights of torchvision and 2D-kinectics, `model_*.pth` of 2D-kinectics, our checkpoints; with or
    without DataParallel's prefix. The first layer is fitted to the stream's channels, unless the file's network was trained
    on flow already; and convolutions of a network of pictures are inflated for a network of clips: see `fit_weight`. A
    head for other classes, and all layers behind the last one of the file, are left random.

    Raises BadInputError when the file is of another network: a layer has another shape, there are gaps, or nothing
    fits. The backbone may be partly filled then.
    """
    path = Path(path)
    backbone = BACKBONES[stream.backbone]
    content = read_weight_file(path)
    source = _renamed(named_tensors(content), backbone)
    _check_kind(path, content, source, stream)
    target_modality = stream.modality if _reads_rgb(content) else "rgb"
    report, given = WeightReport(path), list(source)
    own = module.state_dict()
    for name, tensor in own.items():
        new = source.pop(name, None)
        if new is not None and tensor.ndim >= 4:
            is_first = name == f"{backbone.first_layer}.weight"
            new = fit_weight(new, tensor.shape, modality=target_modality if is_first else "rgb")
        is_head = name.startswith(f"{backbone.head}.")
        fits = new is not None and new.shape == tensor.shape
        if new is None or (is_head and not fits) or (fits and not bool(torch.isfinite(new).all())):
            # Old files have no num_batches_tracked, and training does not need it.
            if not name.endswith("num_batches_tracked"):
                report.random.append(name)
        elif not fits:
            raise BadInputError(
                f"{path}: {name} has shape {tuple(new.shape)}, expected {tuple(tensor.shape)} for {stream.backbone} at "
                f"{stream.input_size} pixels with {stream.clip_len} frames; give the file's own --arch and --input_size, or "
                "other weights"
            )
        else:
            tensor.copy_(new)
            report.loaded.append(name)
    report.skipped = [name for name in source if not re.match(backbone.ignored, name)]
    expected = [name for name in own if not re.search(backbone.added, name)]
    _check_fit(report, expected, given, stream.backbone)
    return report


def _check_kind(path: Path, content: dict[Any, Any], source: dict[str, torch.Tensor], stream: StreamConfig) -> None:
    """Raise BadInputError where a file says itself that it is not for this backbone."""
    if not source and "param_groups" in content:
        weights = path.with_name(path.name.replace("optimizer", "model")).name
        raise BadInputError(
            f"{path} is the state of an optimizer, which 2D-kinectics writes beside the weights: give the weights, as "
            f"{weights}, or its latest.pth, which names both"
        )
    theirs = content["stream"].get("backbone") if isinstance(content.get("stream"), dict) else None
    if theirs not in (None, stream.backbone):
        raise BadInputError(
            f"{path} is of {theirs}, expected {stream.backbone}: give --arch={theirs}, or other weights"
        )


def _check_fit(report: WeightReport, own: Iterable[str], given: list[str], backbone: str) -> None:
    """Raise BadInputError where the tensors that were loaded show that a file is of another network.

    own: the names that the file should have; given: the names that it has, both in order. A file may be the beginning of the
    network, or have a few more tensors; a file with gaps, or one that is mostly unused, is of another network.
    """
    first_layer = BACKBONES[backbone].first_layer
    gaps = [name for name in _up_to_the_last(report.loaded, own) if name in report.random and name not in given]
    unused = [name for name in _up_to_the_last(report.loaded, given) if name in report.skipped]
    if not unused and len(report.skipped) > len(report.loaded):
        unused = report.skipped
    if report.loaded and (gaps or unused):
        raise BadInputError(
            f"{report.path} is of another network than {backbone}: {len(report.loaded)} tensors fit, but {len(gaps)} between "
            f"them are missing and {len(unused)} are not used, as {(gaps + unused)[0]}; give its --arch, or other weights"
        )
    if f"{first_layer}.weight" not in report.loaded:
        raise BadInputError(
            f"{report.path}: {len(report.loaded)} of its {len(report.skipped) + len(report.loaded)} tensors fit {backbone}, "
            f"but none for its first layer {first_layer}; the file has {', '.join(report.skipped[:3])} ..."
        )


def _up_to_the_last(names: list[str], all_names: Iterable[str]) -> list[str]:
    """The part of `all_names` before the last one that is in `names`."""
    all_names = list(all_names)
    return all_names[: max((all_names.index(name) for name in names if name in all_names), default=0)]


def _reads_rgb(content: dict[Any, Any]) -> bool:
    """Whether the network of this file was made for RGB: ImageNet's are; files of 2D-kinectics do not say."""
    stream = content.get("stream")
    if isinstance(stream, dict):
        return bool(stream.get("input_type") == RGB)
    return not any(part in str(name) for name in content for part in ("fc_kin.", "fc_new.", "extra_layers."))


def named_tensors(content: dict[Any, Any]) -> dict[str, torch.Tensor]:
    """The tensors of a weight file, without the prefix of DataParallel; "model" is around those of torchvision's trainings."""
    for wrapper in ("weights", "state_dict", "model"):
        if isinstance(content.get(wrapper), dict):
            content = content[wrapper]
    return {
        re.sub(r"^(module\.)+", "", name): value
        for name, value in content.items()
        if isinstance(name, str) and isinstance(value, torch.Tensor)
    }


def _renamed(tensors: dict[str, torch.Tensor], backbone: Backbone) -> dict[str, torch.Tensor]:
    """The tensors under the names of the network."""
    return {own_name(name, backbone): tensor for name, tensor in tensors.items()}


def own_name(name: str, backbone: Backbone) -> str:
    """The name in the network of a tensor of a published file."""
    for pattern, replacement in backbone.renames:
        name = re.sub(pattern, replacement, name)
    return name
