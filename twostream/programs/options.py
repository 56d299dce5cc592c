"""Command-line flags shared by the programs, the parsers of their values, and how a program ends.

Underscores are canonical: hyphens in flag names are read as underscores, `name=value` without dashes is read as
`--name=value` where the flag exists, and abbreviations are off. Only programs import this module.
"""

import argparse
import math
import re
import shutil
import signal
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

from tqdm import tqdm

from twostream.annotations.videos import SPLITS
from twostream.errors import EXIT_ENVIRONMENT, Terminated, UserError, exit_code


def list_file(text: str) -> tuple[str | None, Path]:
    """`val=FILE` -> the split of all its entries, and the file; `FILE` alone says no split."""
    split, equals, path = text.partition("=")
    if equals and split in SPLITS:
        return split, Path(path).expanduser()
    return None, Path(text).expanduser()


_REPOSITORY = Path(__file__).resolve().parents[2]
PRETRAINED = _REPOSITORY / "pretrained" if (_REPOSITORY / "pretrained").is_dir() else Path("pretrained")
"""folder of ImageNet weights: the checkout's, or one in the current folder where the package was installed without it"""


class Parser(argparse.ArgumentParser):
    """argparse with the spelling rules above."""

    def __init__(self, **keywords):
        keywords.setdefault("formatter_class", argparse.ArgumentDefaultsHelpFormatter)
        super().__init__(allow_abbrev=False, **keywords)

    def parse_known_args(self, args=None, namespace=None):
        args = sys.argv[1:] if args is None else args
        return super().parse_known_args([self._canonical(word) for word in args], namespace)

    def _canonical(self, word: str) -> str:
        match = re.fullmatch(r"(--)?([A-Za-z][\w-]*)(=.*)?", word, re.DOTALL)
        if not match:
            return word
        dashes, name, value = match.groups()
        flag = "--" + name.replace("-", "_")
        if flag in self._option_string_actions and (dashes or value):
            return flag + (value or "")
        return word


def boolean(text: str) -> bool:
    """True or False, as written."""
    if text.lower() in ("true", "1", "yes"):
        return True
    if text.lower() in ("false", "0", "no"):
        return False
    raise argparse.ArgumentTypeError(f"{text!r}, expected True or False")


def add_boolean(group, *flags: str, default: bool, help: str) -> None:
    """A flag that may stand alone (True) or with a value: --visdom, --visdom=True, --visdom False."""
    group.add_argument(*flags, type=boolean, nargs="?", const=True, default=default, metavar="True|False", help=help)


def integers(text: str) -> tuple[int, ...]:
    """Comma-separated whole numbers; empty for none."""
    try:
        return tuple(int(part) for part in text.split(",") if part.strip())
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r}, expected whole numbers with commas between them") from None


def numbers(text: str) -> tuple[float, ...]:
    """Comma-separated numbers."""
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r}, expected numbers with commas between them") from None


def words(text: str) -> tuple[str, ...]:
    """Comma-separated words."""
    return tuple(part.strip() for part in text.split(",") if part.strip())


def positive(text: str) -> int:
    """A whole number above 0."""
    if not re.fullmatch(r"\+?\d+", text) or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}, expected a whole number above 0")
    return int(text)


def not_negative(text: str) -> int:
    """A whole number, 0 or more."""
    return 0 if re.fullmatch(r"\+?0+", text) else positive(text)


def rate(text: str) -> float:
    """A finite number, 0 or more."""
    value = float(text)  # argparse says what is wrong when it is none
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r}, expected a finite number, 0 or more")
    return value


def share(text: str) -> float:
    """A number from 0 up to 1."""
    if not 0 <= (value := float(text)) <= 1:
        raise argparse.ArgumentTypeError(f"{text!r}, expected a number from 0 up to 1")
    return value


def part(text: str) -> tuple[int, int]:
    """Part i of n, as `i/n` with i from 0."""
    match = re.fullmatch(r"(\d+)/(\d+)", text)
    if not match or not int(match[1]) < int(match[2]):
        raise argparse.ArgumentTypeError(f"{text!r}, expected i/n with i from 0 up to n - 1, as 0/16")
    return int(match[1]), int(match[2])


def folder(text: str) -> Path:
    """A path; `~` is the home folder."""
    return Path(text).expanduser()


# fmt: off
def add_data_flags(parser: argparse.ArgumentParser) -> None:
    """Where the data and the runs are."""
    group = parser.add_argument_group("data")
    group.add_argument(
        "--root", type=folder, required=True, metavar="DIR",
        help="data root: the folder with annotations.json and rgb-images/, or the folder above it",
    )
    group.add_argument("--dataset", default="kinetics", metavar="NAME", help="name in the run's name; sub-folder of --root")
    group.add_argument("--datasubset", default="", metavar="N", help="read hfiles/Annots_N.json of a 2D-kinectics tree")
    group.add_argument("--save_root", type=folder, default=None, metavar="DIR", help="folder of the runs (default: --root)")


def add_stream_flags(parser: argparse.ArgumentParser) -> None:
    """Which stream: what the network looks at, and which network."""
    group = parser.add_argument_group("stream")
    group.add_argument(
        "--input_type", "--input", "-i", default="rgb", metavar="TYPE", help="rgb, or a flow method: farneback, dis, tvl1"
    )
    group.add_argument(
        "--arch", "-a", default=None, metavar="NAME",
        help="network: inception_v3, vgg16, vgg16_reducedfc, resnet18, resnet50, resnet101, squeezenet1_1 or "
        "mobilenet_v3_large (inceptionV3 and vgg are accepted)",
    )


def add_loading_flags(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("machine")
    group.add_argument("--workers", "-j", type=not_negative, default=4, metavar="N", help="processes that load and decode images")
    group.add_argument("--device", default="auto", metavar="NAME", help="auto, cpu, cuda or cuda:1; auto takes a GPU if any")
    group.add_argument("--ngpu", type=positive, default=1, metavar="N", help="GPUs that share each batch in one process; torchrun, a process for each, is faster")
# fmt: on


def add_ignored_flags(parser: argparse.ArgumentParser, *flags: str) -> None:
    """Flags of old command lines that have nothing to say here; each text is the spellings of one."""
    group = parser.add_argument_group("accepted from old command lines, without effect")
    for spellings in flags:
        group.add_argument(*spellings.split(), metavar="X", help="found in the run, or not needed")


def progress_bar(items: Iterable | None = None, **keywords) -> tqdm:
    """A bar with ETA on a terminal; elsewhere, as in a job's log file, a line every half minute."""
    return tqdm(items, mininterval=0.2 if sys.stderr.isatty() else 30, dynamic_ncols=True, **keywords)


def run(main: Callable[[], int | None]) -> None:
    """Run a program and leave with its documented exit code; the user's errors are one line, without traceback."""
    # Output may be piped into `head`, or hold names that the terminal cannot show.
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="backslashreplace")
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_DFL:  # `nohup` has its way
            signal.signal(number, _terminate)
    try:
        code = main() or 0
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        code = exit_code(error)
    except KeyboardInterrupt as error:
        print("interrupted; what is finished is kept, run the command again to go on", file=sys.stderr)
        code = exit_code(error)
    except (OSError, MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and not MEMORY.search(str(error)):
            raise
        print(f"error: {_in_one_line(error)}", file=sys.stderr)
        code = EXIT_ENVIRONMENT
    # Nothing is left to be stopped but Python's own end, in which a signal would only spoil the exit code.
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1):
        if signal.getsignal(number) is _terminate:
            signal.signal(number, signal.SIG_IGN)
    sys.exit(code)


MEMORY = re.compile(r"out of memory|DataLoader worker \(pid|unable to \w+ .*(shared memory|</torch_)")
"""what torch says, as RuntimeError, when memory is too small or the system has killed a process for it"""


def _in_one_line(error: Exception) -> str:
    """A fault of the machine, and its remedy."""
    lines = str(error).splitlines() or [type(error).__name__]
    # A loader's process wraps the error in its own traceback, whose last line is the error itself.
    reason = (lines[-1] if "Original Traceback" in str(error) else lines[0]).partition(". ")[0]
    if re.search(r"shared memory|Bus error|</torch_", str(error)):
        total, _, free = shutil.disk_usage("/dev/shm") if Path("/dev/shm").is_dir() else (0, 0, 0)
        return (
            f"{reason}: the processes of --workers pass batches on in shared memory, and /dev/shm has {total >> 20} MiB, "
            f"{free >> 20} of them free. Take fewer --workers or a smaller --batch_size, or enlarge it (docker run "
            "--shm-size=8g), then go on"
        )
    if MEMORY.search(str(error)):
        return f"{reason}; take a smaller --batch_size or fewer --workers, then go on"
    return f"{reason}; mend it, then run the command again"


def _terminate(signal_number: int, frame: object) -> None:
    raise Terminated
