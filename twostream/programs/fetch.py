"""Download ImageNet weights into this folder and check them. Training never downloads by itself.

  python pretrained/fetch.py inception_v3

Exit codes: 0 there and right; 2 wrong command line; 3 the file is not what it must be; 4 no network, no space.
"""

import argparse
from dataclasses import dataclass
from pathlib import Path

from twostream.errors import BadInputError, EnvironmentFaultError
from twostream.programs import options


@dataclass(frozen=True)
class WeightFile:
    """Where the weights of a backbone come from."""

    url: str
    sha256_prefix: str
    """"" where the author gives none: then the file's tensors are checked against the network"""

    @property
    def name(self) -> str:
        return self.url.rsplit("/", 1)[-1]


def weight_files() -> dict[str, WeightFile]:
    """By backbone. torchvision's addresses come from torchvision, and end in the first digits of the SHA-256."""
    from torchvision.models import get_model_weights

    sha256_prefixes = {
        "inception_v3": "0cc3c7bd",
        "vgg16": "397923af",
        "resnet18": "f37072fd",
        "resnet50": "0676ba61",
        "resnet101": "63fe2227",
        "squeezenet1_1": "b8a52dc0",
        "mobilenet_v3_large": "8738ca79",
    }
    files = {
        name: WeightFile(get_model_weights(name).IMAGENET1K_V1.url, prefix) for name, prefix in sha256_prefixes.items()
    }
    return files | {"vgg16_reducedfc": WeightFile("https://s3.amazonaws.com/amdegroot-models/vgg16_reducedfc.pth", "")}


def build_parser() -> options.Parser:
    parser = options.Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("network", metavar="NAME", help="whose weights: what train.py takes as --arch")
    parser.add_argument(
        "--folder", type=options.folder, default=options.PRETRAINED, metavar="DIR", help="(default: pretrained/)"
    )
    parser.add_argument(
        "--url", default="", help="take the file from here, such as a mirror; it is checked all the same"
    )
    return parser


def main() -> int:
    args = build_parser().parse_args()

    from torch.hub import download_url_to_file

    from twostream.models.backbones import backbone_name

    args.network = backbone_name(args.network)
    file = weight_files()[args.network]
    target = args.folder / file.name
    if target.exists():
        print(f"{target} is there already")
    else:
        url = args.url or file.url
        args.folder.mkdir(parents=True, exist_ok=True)
        try:
            download_url_to_file(url, str(target), hash_prefix=file.sha256_prefix or None)
        except RuntimeError as error:  # what torch raises for a wrong checksum
            raise BadInputError(f"{url}: {error}; nothing was kept, try again or another --url") from None
        except (OSError, ValueError) as error:
            raise EnvironmentFaultError(
                f"cannot fetch {url}: {error}; fetch it elsewhere and put it into {args.folder} as {file.name}"
            ) from None
    check(target, args.network, file.sha256_prefix)
    return 0


def check(path: Path, network: str, sha256_prefix: str) -> None:
    """Raise BadInputError unless the file has the checksum and fits the network."""
    from twostream.files import sha256
    from twostream.models.backbones import BACKBONES
    from twostream.models.network import build_model
    from twostream.models.weights import load_weights
    from twostream.stream import StreamConfig

    digest = sha256(path)
    if not digest.startswith(sha256_prefix):
        raise BadInputError(
            f"{path} has SHA-256 {digest[:8]}..., expected {sha256_prefix}...; delete it, fetch it again"
        )
    classes = tuple(map(str, range(1000)))
    stream = StreamConfig("rgb", network, classes, BACKBONES[network].input_size)
    print(load_weights(build_model(stream).backbone, path, stream))
    print(f"{path}: SHA-256 {digest}")
