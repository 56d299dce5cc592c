"""Command-line flags that programs share, parsers of their values, and how a program ends.

Flag names have underscores; hyphens in them are read as underscores. `name=value` without dashes is read as
`--name=value` if that flag exists. Abbreviations are not allowed. Only programs import this module.
"""

import argparse
import io
import math
import re
import shutil
import signal
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from tqdm import tqdm

from twostream.annotations.videos import SPLITS
from twostream.errors import EXIT_ENVIRONMENT, Terminated, UserError, exit_code
from twostream.terminal import Terminal


def list_file(text: str) -> tuple[str | None, Path]:
    """`val=FILE` -> the split of all entries, and the file; with `FILE` alone, the split is None."""
    split, equals, path = text.partition("=")
    if equals and split in SPLITS:
        return split, Path(path).expanduser()
    return None, Path(text).expanduser()


_REPOSITORY = Path(__file__).resolve().parents[2]
PRETRAINED = _REPOSITORY / "pretrained" if (_REPOSITORY / "pretrained").is_dir() else Path("pretrained")
"""folder of ImageNet weights: that of the clone, or pretrained/ in the current folder if there is no clone"""


class Parser(argparse.ArgumentParser):
    """argparse with the spelling rules above."""

    def __init__(self, **keywords: Any):
        """Takes the keywords of argparse.ArgumentParser."""
        keywords.setdefault("formatter_class", argparse.ArgumentDefaultsHelpFormatter)
        super().__init__(allow_abbrev=False, **keywords)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
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
    """True or False; also 1 and 0, yes and no, in any case."""
    if text.lower() in ("true", "1", "yes"):
        return True
    if text.lower() in ("false", "0", "no"):
        return False
    raise argparse.ArgumentTypeError(f"{text!r}, expected True or False")


def add_boolean(group: argparse._ActionsContainer, *flags: str, default: bool, help: str) -> None:
    """Add a flag that means True alone, and may have a value: --visdom, --visdom=True, --visdom False."""
    group.add_argument(*flags, type=boolean, nargs="?", const=True, default=default, metavar="True|False", help=help)


def integers(text: str) -> tuple[int, ...]:
    """Comma-separated integers; "" is none."""
    try:
        return tuple(int(part) for part in text.split(",") if part.strip())
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r}, expected integers with commas between them") from None


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
    """An integer above 0."""
    if not re.fullmatch(r"\+?\d+", text) or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}, expected an integer above 0")
    return int(text)


def not_negative(text: str) -> int:
    """An integer, 0 or more."""
    return 0 if re.fullmatch(r"\+?0+", text) else positive(text)


def rate(text: str) -> float:
    """A finite number, 0 or more."""
    value = float(text)  # argparse turns ValueError into a message
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r}, expected a finite number, 0 or more")
    return value


def share(text: str) -> float:
    """A number from 0 to 1."""
    if not 0 <= (value := float(text)) <= 1:
        raise argparse.ArgumentTypeError(f"{text!r}, expected a number from 0 to 1")
    return value


def part(text: str) -> tuple[int, int]:
    """`i/n` -> (i, n): part i of n, counted from 0."""
    match = re.fullmatch(r"(\d+)/(\d+)", text)
    if not match or not int(match[1]) < int(match[2]):
        raise argparse.ArgumentTypeError(f"{text!r}, expected i/n with i from 0 to n - 1, such as 0/16")
    return int(match[1]), int(match[2])


def folder(text: str) -> Path:
    """A path, in which `~` is the home folder."""
    return Path(text).expanduser()


# fmt: off
def add_data_flags(parser: argparse.ArgumentParser) -> None:
    """Add flags that say where the data and the runs are."""
    group = parser.add_argument_group("data")
    group.add_argument(
        "--root", type=folder, required=True, metavar="DIR",
        help="data root: the folder of annotations.json and rgb-images/, or the folder above it",
    )
    group.add_argument("--dataset", default="kinetics", metavar="NAME", help="name of the data set: part of the run's name, and perhaps a folder in --root (default: kinetics)")
    group.add_argument("--datasubset", default="", metavar="N", help="read hfiles/Annots_N.json of a data root of 2D-kinectics")
    group.add_argument("--save_root", type=folder, default=None, metavar="DIR", help="folder that holds the runs (default: --root)")


def add_stream_flags(parser: argparse.ArgumentParser) -> None:
    """Add flags that choose the stream: what the network sees, and which network it is."""
    group = parser.add_argument_group("stream")
    group.add_argument(
        "--input_type", "--input", "-i", default="rgb", metavar="TYPE", help="rgb, or a flow method: farneback, dis, tvl1 (default: rgb)"
    )
    group.add_argument(
        "--arch", "-a", default=None, metavar="NAME",
        help="network: inception_v3, vgg16, vgg16_reducedfc, resnet18, resnet50, resnet101, squeezenet1_1 or "
        "mobilenet_v3_large; inceptionV3 and vgg are accepted too",
    )


def add_loading_flags(parser: argparse.ArgumentParser) -> None:
    """Add flags that say what loads images and what computes."""
    group = parser.add_argument_group("machine")
    group.add_argument("--workers", "-j", type=not_negative, default=4, metavar="N", help="number of processes that load images (default: 4)")
    group.add_argument("--device", default="auto", metavar="NAME", help="auto, cpu, cuda or cuda:1; auto uses a GPU if there is one (default: auto)")
    group.add_argument("--ngpu", type=positive, default=1, metavar="N", help="number of GPUs that share each batch in one process; torchrun, with a process per GPU, is faster (default: 1)")
# fmt: on


def add_ignored_flags(parser: argparse.ArgumentParser, *flags: str) -> None:
    """Accept flags of old command lines that have no effect here; each of `flags` has the spellings of one flag."""
    group = parser.add_argument_group("accepted from old command lines, without effect")
    for spellings in flags:
        group.add_argument(*spellings.split(), metavar="X", help="read from the run, or not needed")


def progress_bar(items: Iterable[Any] | None = None, **keywords: Any) -> Any:
    """tqdm over the items: on a terminal, a bar with the time that is left; in a log file, a line every 30 seconds."""
    return tqdm(items, mininterval=0.2 if sys.stderr.isatty() else 30, dynamic_ncols=True, **keywords)


def run(main: Callable[[], int | None]) -> None:
    """Run a program and exit with its documented code; an error that a user can fix is one line, without a traceback."""
    sys.stdout, sys.stderr = _terminal(sys.stdout), _terminal(sys.stderr)
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_DFL:  # under `nohup`, SIGHUP is ignored, and stays so
            signal.signal(number, _terminate)
    try:
        code = main() or 0
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        code = exit_code(error)
    except KeyboardInterrupt as error:
        print("interrupted; finished work is kept, run the command again to continue", file=sys.stderr)
        code = exit_code(error)
    except (OSError, MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and not MEMORY.search(str(error)):
            raise
        print(f"error: {_fault_of_machine(error)}", file=sys.stderr)
        code = EXIT_ENVIRONMENT
    # The program is done. A signal while Python shuts down would only change the exit code.
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1):
        if signal.getsignal(number) is _terminate:
            signal.signal(number, signal.SIG_IGN)
    sys.exit(code)


def _terminal(stream: Any) -> Any:
    """The stream, safe for names of files: what could control the terminal, or what it cannot show, is escaped."""
    if isinstance(stream, io.TextIOWrapper):
        stream.reconfigure(errors="backslashreplace")
    return stream if isinstance(stream, Terminal) else Terminal(stream)


MEMORY = re.compile(r"out of memory|DataLoader worker \(pid|unable to \w+ .*(shared memory|</torch_)")
"""texts of RuntimeErrors that torch raises if memory is too small, or the system killed a process to get memory"""


def _fault_of_machine(error: Exception) -> str:
    """The error in one line, and what to do about it."""
    lines = str(error).splitlines() or [type(error).__name__]
    # An error of a loader process arrives with that process's traceback, whose last line is the error itself.
    reason = (lines[-1] if "Original Traceback" in str(error) else lines[0]).partition(". ")[0]
    if re.search(r"shared memory|Bus error|</torch_", str(error)):
        total, _, free = shutil.disk_usage("/dev/shm") if Path("/dev/shm").is_dir() else (0, 0, 0)
        return (
            f"{reason}: loader processes pass batches on in shared memory, but /dev/shm has {total >> 20} MiB, "
            f"{free >> 20} MiB of them free. Use fewer --workers or a smaller --batch_size, or enlarge /dev/shm (docker run "
            "--shm-size=8g), then run the command again"
        )
    if MEMORY.search(str(error)):
        return f"{reason}; use a smaller --batch_size or fewer --workers, then run the command again"
    return f"{reason}; fix this, then run the command again"


def _terminate(signal_number: int, frame: object) -> None:
    raise Terminated
