"""Download published weights into the folder where training looks for them, and check them.

  twostream fetch inception_v3
  twostream fetch r2.5d_d18_l16
  twostream fetch --list

NAME is a network, or a file of the list. Files of Caffe2 are converted too (twostream convert). A file that exists already
is only checked. Training never downloads anything by itself.

Exit codes: 0 the file exists and is right; 2 wrong command line; 3 the file is wrong; 4 no network or no space.
"""

import argparse
import hashlib
import http.client
import shlex
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from twostream.conversion.published import PUBLISHED, PublishedWeights
from twostream.counts import counted
from twostream.errors import EXIT_DONE, BadInputError, EnvironmentFaultError, one_line
from twostream.files import sha256, write_file
from twostream.programs import options

TIMEOUT_SECONDS = 30.0
"""longest silence of a server"""
MAX_BYTES = 2 << 30
"""of a file; the largest one, of vgg16, has 553 million"""
PIECE_BYTES = 1 << 20
"""read at a time"""


@dataclass(frozen=True)
class WeightFile:
    """Where the weights of a network come from."""

    url: str
    sha256_prefix: str
    """first digits of the file's SHA-256; "" if its author states none, and only the tensors can be checked"""

    @property
    def name(self) -> str:
        """Name of the file."""
        return self.url.rsplit("/", 1)[-1]


def weight_files() -> dict[str, WeightFile]:
    """Name of a network -> the file that training looks for. The URLs of torchvision's networks are read from torchvision.

    Their file names end in the first digits of the SHA-256.
    """
    from torchvision.models import get_model_weights

    sha256_prefixes = {
        "inception_v3": "0cc3c7bd",
        "vgg16": "397923af",
        "resnet18": "f37072fd",
        "resnet34": "b627a593",
        "resnet50": "0676ba61",
        "resnet101": "63fe2227",
        "resnet152": "394f9c45",
        "squeezenet1_1": "b8a52dc0",
        "mobilenet_v2": "b0353104",
        "mobilenet_v3_large": "8738ca79",
    }
    files = {
        name: WeightFile(get_model_weights(name).IMAGENET1K_V1.url, prefix) for name, prefix in sha256_prefixes.items()
    }
    kinetics = {"r3d_18": "b3b3357e", "mc3_18": "a90a0ba3", "r2plus1d_18": "91a641e6"}
    files |= {name: WeightFile(get_model_weights(name).KINETICS400_V1.url, prefix) for name, prefix in kinetics.items()}
    files |= dict.fromkeys(("i3d_r50", "i3d_nl_r50"), files["resnet50"])
    files |= {
        "squeezenet1_1_3d": files["squeezenet1_1"],
        "squeezenet1_1_cells": files["squeezenet1_1"],
        "mobilenet_v2_halves": files["mobilenet_v2"],
        "mobilenet_v2_cells": files["mobilenet_v2"],
    }
    return files | {"vgg16_reducedfc": WeightFile("https://s3.amazonaws.com/amdegroot-models/vgg16_reducedfc.pth", "")}


def build_parser() -> options.Parser:
    """The flags of this program."""
    parser = options.Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "name",
        nargs="?",
        default="",
        metavar="NAME",
        help="network, as for --arch of twostream train, or a file of --list",
    )
    parser.add_argument("--list", action="store_true", help="list the published files, and end")
    parser.add_argument(
        "--folder",
        type=options.folder,
        default=options.PRETRAINED,
        metavar="DIR",
        help="where to put the file (default: pretrained/)",
    )
    parser.add_argument(
        "--url",
        type=options.url,
        default=None,
        help="download the file from here, such as from a mirror; it is checked in the same way",
    )
    return parser


def main() -> int:
    """Download and check the file that the command line names; returns the exit code."""
    parser = build_parser()
    args = parser.parse_args()
    if args.list:
        print_list()
    elif not args.name:
        parser.error("NAME: expected a network or a file of --list")
    elif args.name in PUBLISHED:
        fetch_published(PUBLISHED[args.name], args.folder, args.url)
    else:
        fetch_network(args.name, args.folder, args.url)
    return EXIT_DONE


def print_list() -> None:
    """Print the published files: name, network, what it was trained on, and where it is."""
    rows = [
        (name, weights.backbone, f"{weights.trained_on}; {weights.clip_len} frames", weights.url)
        for name, weights in PUBLISHED.items()
    ]
    rows += [(network, network, "the default of --pretrained", file.url) for network, file in weight_files().items()]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)][:-1]
    for row in rows:
        print("  ".join([*(cell.ljust(width) for cell, width in zip(row[:-1], widths, strict=True)), row[-1]]))


def fetch_network(name: str, folder: Path, url: str | None) -> None:
    """Download the weights that training looks for, or only check them."""
    from twostream.models.backbones import backbone_name

    network = backbone_name(name)
    file = weight_files().get(network)
    if file is None:
        names = [name for name, weights in PUBLISHED.items() if weights.backbone == network]
        raise BadInputError(
            f"{network} has no weights under its own name: "
            + (f"choose one of {', '.join(names)}" if names else "none are known; train it with --pretrained=False")
        )
    target = folder / file.name
    _download_unless_there(url or file.url, target, file.sha256_prefix)
    check(target, network, file.sha256_prefix)


def fetch_published(weights: PublishedWeights, folder: Path, url: str | None) -> None:
    """Download a published file, check it, and convert it if it is Caffe2's."""
    from twostream.conversion import weight_files as files
    from twostream.conversion.convert import convert

    source = folder / weights.file_name
    _download_unless_there(url or weights.url, source, weights.sha256_prefix)
    check_digest(source, weights.sha256_prefix)
    result = convert(files.read(source), "torch file", backbone=weights.backbone)
    target = source
    if weights.is_caffe2:
        target = source.with_suffix(".pth")
        files.write(target, result.tensors)
        print(f"wrote {target}")
    tensors = counted(len(result.names), "tensor")
    print(
        f"{source}: {tensors} of {weights.backbone}, trained on {weights.trained_on}, {weights.clip_len} frames a clip"
    )
    print(f"next: {next_command(weights, target)}")


def next_command(weights: PublishedWeights, target: Path) -> str:
    """The command that trains on from a published file, on clips like those that it was trained on."""
    from twostream.models.backbones import BACKBONES

    stride = BACKBONES[weights.backbone].frame_stride
    words = ["twostream", "train", "--root=ROOT", *(["--input_type=farneback"] if weights.is_for_flow else [])]
    words += [
        f"--arch={weights.backbone}",
        f"--seq_len={weights.clip_len}",
        *([f"--gap={stride}"] if stride > 1 else []),
    ]
    return shlex.join([*words, f"--init_from={target}"])


def _download_unless_there(url: str, target: Path, sha256_prefix: str) -> None:
    if target.exists():
        print(f"{target} exists already")
    else:
        download(url, target, sha256_prefix)


def download(url: str, target: Path, sha256_prefix: str) -> None:
    """Download a file with a progress bar; it is kept only if it is complete and has the checksum.

    Raises BadInputError where the server sends another file or more than MAX_BYTES, and EnvironmentFaultError where it
    cannot be reached, is silent for TIMEOUT_SECONDS, or ends too early.
    """

    def fill(file: BinaryIO) -> None:
        digest, received = hashlib.sha256(), 0
        for piece in _pieces(url, target):
            received += len(piece)
            if received > MAX_BYTES:
                raise BadInputError(f"{url}: more than {MAX_BYTES} bytes, expected weights; use another --url")
            digest.update(piece)
            file.write(piece)
        if not digest.hexdigest().startswith(sha256_prefix):
            raise BadInputError(
                f"{url}: {received} bytes with SHA-256 {digest.hexdigest()[:8]}..., expected {sha256_prefix}...; the file "
                "was not kept, try again or use another --url"
            )

    write_file(target, fill)


def _pieces(url: str, target: Path) -> Iterator[bytes]:
    """The content of a URL, with a progress bar."""
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT_SECONDS) as answer:
            length = int(answer.headers.get("Content-Length") or 0)
            with options.progress_bar(total=length or None, unit="B", unit_scale=True, desc=target.name) as bar:
                while piece := answer.read(PIECE_BYTES):
                    yield piece
                    bar.update(len(piece))
                if bar.n < length:
                    raise EOFError(f"{bar.n} of {length} bytes arrived")
    except (OSError, ValueError, EOFError, http.client.HTTPException) as error:  # ValueError: not a URL
        raise EnvironmentFaultError(
            f"cannot download {url}: {one_line(error)}; download it on another machine and copy it to {target}"
        ) from None


def check(path: Path, network: str, sha256_prefix: str) -> None:
    """Print what a weight file holds; raises BadInputError unless it has the checksum and fits the network."""
    from twostream.models.backbones import BACKBONES
    from twostream.models.network import build_model
    from twostream.models.weights import load_weights
    from twostream.stream import StreamConfig

    digest = check_digest(path, sha256_prefix)
    classes = tuple(map(str, range(1000)))
    record = BACKBONES[network]
    stream = StreamConfig("rgb", network, classes, record.input_size, record.clip_len)
    print(load_weights(build_model(stream).backbone, path, stream))
    print(f"{path}: SHA-256 {digest}")


def check_digest(path: Path, sha256_prefix: str) -> str:
    """The SHA-256 of a file; BadInputError unless it begins with `sha256_prefix`."""
    digest = sha256(path)
    if not digest.startswith(sha256_prefix):
        raise BadInputError(
            f"{path} has SHA-256 {digest[:8]}..., expected {sha256_prefix}...; delete it and download it again"
        )
    return digest
