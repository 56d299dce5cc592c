"""Download the ImageNet weights of a network into the folder where training looks for them, and check them.

  twostream fetch inception_v3

A file that exists already is only checked. Training never downloads anything by itself.

Exit codes: 0 the file exists and is right; 2 wrong command line; 3 the file is wrong; 4 no network or no space.
"""

import argparse
from dataclasses import dataclass
from pathlib import Path

from twostream.errors import BadInputError, EnvironmentFaultError
from twostream.programs import options


@dataclass(frozen=True)
class WeightFile:
    """Where the ImageNet weights of a network come from."""

    url: str
    sha256_prefix: str
    """first digits of the file's SHA-256; "" if its author states none, and only the tensors can be checked"""

    @property
    def name(self) -> str:
        """Name of the file."""
        return self.url.rsplit("/", 1)[-1]


def weight_files() -> dict[str, WeightFile]:
    """Name of a network -> its file. The URLs of torchvision's networks are read from torchvision.

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
        "mobilenet_v3_large": "8738ca79",
    }
    files = {
        name: WeightFile(get_model_weights(name).IMAGENET1K_V1.url, prefix) for name, prefix in sha256_prefixes.items()
    }
    return files | {"vgg16_reducedfc": WeightFile("https://s3.amazonaws.com/amdegroot-models/vgg16_reducedfc.pth", "")}


def build_parser() -> options.Parser:
    """The flags of this program."""
    parser = options.Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("network", metavar="NAME", help="network, as for --arch of twostream train")
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
    args = build_parser().parse_args()

    from torch.hub import download_url_to_file

    from twostream.models.backbones import backbone_name

    args.network = backbone_name(args.network)
    file = weight_files()[args.network]
    target = args.folder / file.name
    if target.exists():
        print(f"{target} exists already")
    else:
        url = args.url or file.url
        args.folder.mkdir(parents=True, exist_ok=True)
        try:
            download_url_to_file(url, str(target), hash_prefix=file.sha256_prefix or None)
        except RuntimeError as error:  # what torch raises for a wrong checksum
            raise BadInputError(f"{url}: {error}; the file was not kept, try again or use another --url") from None
        except (OSError, ValueError) as error:
            raise EnvironmentFaultError(
                f"cannot download {url}: {error}; download it on another machine and copy it to {target}"
            ) from None
    check(target, args.network, file.sha256_prefix)
    return 0


def check(path: Path, network: str, sha256_prefix: str) -> None:
    """Print what a weight file holds; raises BadInputError unless it has the checksum and fits the network."""
    from twostream.files import sha256
    from twostream.models.backbones import BACKBONES
    from twostream.models.network import build_model
    from twostream.models.weights import load_weights
    from twostream.stream import StreamConfig

    digest = sha256(path)
    if not digest.startswith(sha256_prefix):
        raise BadInputError(
            f"{path} has SHA-256 {digest[:8]}..., expected {sha256_prefix}...; delete it and download it again"
        )
    classes = tuple(map(str, range(1000)))
    stream = StreamConfig("rgb", network, classes, BACKBONES[network].input_size)
    print(load_weights(build_model(stream).backbone, path, stream))
    print(f"{path}: SHA-256 {digest}")
