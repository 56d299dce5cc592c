"""Command-line flags that programs share, parsers of their values, and how a program ends.

Flag names have underscores; hyphens in them are read as underscores. `name=value` without dashes is read as
`--name=value` if that flag exists. Abbreviations are not allowed. Only programs import this module.
"""

import argparse
import io
import math
import os
import re
import select
import shutil
import signal
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from tqdm import tqdm

from twostream.annotations.videos import SPLITS
from twostream.errors import EXIT_ENVIRONMENT, EXIT_PIPE, EXIT_USAGE, BadInputError, Terminated, UserError, exit_code
from twostream.stream import ResizeSide
from twostream.terminal import Terminal
from twostream.threads import share_the_machine

if TYPE_CHECKING:
    from twostream.inference.sources import Source

_REPOSITORY = Path(__file__).resolve().parents[2]
PRETRAINED = _REPOSITORY / "pretrained" if (_REPOSITORY / "pretrained").is_dir() else Path("pretrained")
"""folder of ImageNet weights: that of the clone, or pretrained/ in the current folder if there is no clone"""


MAX_COUNT = 2**31 - 1
"""largest integer of a flag, unless the flag has a limit of its own"""
MAX_NUMBER = 1e38
"""largest number of a flag; float32 ends at 3.4e38"""
MAX_PROCESSES = 512
MAX_MESSAGE = 600
"""characters of the message about a wrong command line"""
MAX_SHOWN = 60
"""characters of a wrong value in a message"""


class Parser(argparse.ArgumentParser):
    """argparse with the spelling rules above."""

    def __init__(self, **keywords: Any):
        """Takes the keywords of argparse.ArgumentParser."""
        keywords.setdefault("formatter_class", argparse.ArgumentDefaultsHelpFormatter)
        super().__init__(allow_abbrev=False, **keywords)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        args = sys.argv[1:] if args is None else args
        return super().parse_known_args([self._canonical(word) for word in args], namespace)

    def error(self, message: str) -> NoReturn:
        """End the program with one line. argparse would print all flags before it, of which some programs have eighty."""
        text = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in message)
        if len(text) > MAX_MESSAGE:  # it quotes a long value
            text = f"{text[: MAX_MESSAGE // 2]} ... {text[-MAX_MESSAGE // 2 :]}"
        self.exit(EXIT_USAGE, f"{self.prog}: error: {text} (--help lists all flags)\n")

    def _canonical(self, word: str) -> str:
        match = re.fullmatch(r"(--)?([A-Za-z][\w-]*)(=.*)?", word, re.DOTALL)
        if not match:
            return word
        dashes, name, value = match.groups()
        flag = "--" + name.replace("-", "_")
        if flag in self._option_string_actions and (dashes or value):
            if value == "=--":  # argparse would take it for an empty list of values
                self.error(f"argument {flag}: '--', expected a value")
            return flag + (value or "")
        return word


def boolean(text: str) -> bool:
    """True or False; also 1 and 0, yes and no, in any case."""
    if text.lower() in ("true", "1", "yes"):
        return True
    if text.lower() in ("false", "0", "no"):
        return False
    raise argparse.ArgumentTypeError(f"{_found(text)}, expected True or False")


def add_boolean(group: argparse._ActionsContainer, *flags: str, default: bool, help: str) -> None:
    """Add a flag that means True alone, and may have a value: --visdom, --visdom=True, --visdom False."""
    group.add_argument(*flags, type=boolean, nargs="?", const=True, default=default, metavar="True|False", help=help)


def _found(text: str) -> str:
    """A value as a message shows it: quoted, and not longer than a line."""
    return repr(text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}...")


def integer(lowest: int, highest: int = MAX_COUNT) -> Callable[[str], int]:
    """The parser of an integer from `lowest` to `highest`."""

    def parse(text: str) -> int:
        if not re.fullmatch(r"[+-]?[0-9]{1,20}", text.strip()) or not lowest <= int(text) <= highest:
            raise argparse.ArgumentTypeError(f"{_found(text)}, expected an integer from {lowest} to {highest}")
        return int(text)

    return parse


def number(lowest: float, highest: float) -> Callable[[str], float]:
    """The parser of a number from `lowest` to `highest`, which are finite."""

    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not lowest <= value <= highest:
            raise argparse.ArgumentTypeError(f"{_found(text)}, expected a number from {lowest:g} to {highest:g}")
        return value

    return parse


positive = integer(1)
not_negative = integer(0)
seed = integer(0, 2**63 - 1)
num_processes = integer(0, MAX_PROCESSES)
"""for --workers, where 0 means that the program itself does the work"""
rate = number(0, MAX_NUMBER)
share = number(0, 1)


def resize_side(text: str) -> ResizeSide:
    """A short side, or height x width, in pixels."""
    height, times, width = text.partition("x")
    side = integer(1, 10_000)
    return (side(height), side(width)) if times else side(text)


def integers(text: str) -> tuple[int, ...]:
    """Comma-separated integers, 0 or more; "" is none."""
    return tuple(not_negative(part) for part in text.split(",") if part.strip())


def numbers(text: str) -> tuple[float, ...]:
    """Comma-separated numbers, 0 or more."""
    return tuple(rate(part) for part in text.split(","))


def words(text: str) -> tuple[str, ...]:
    """Comma-separated words; "" is none."""
    return tuple(part.strip() for part in text.split(",") if part.strip())


def name(text: str) -> str:
    """The name of a folder: no path."""
    if text in ("", ".", "..") or re.search(r"[/\0]", text):
        raise argparse.ArgumentTypeError(f"{_found(text)}, expected a name without a slash")
    return _short_enough(text)


def optional_name(text: str) -> str:
    """The name of a folder, or "" for none."""
    return name(text) if text else ""


def names(text: str) -> tuple[str, ...]:
    """Comma-separated names of folders, at least one."""
    if not (found := words(text)):
        raise argparse.ArgumentTypeError(f"{_found(text)}, expected names with commas between them")
    return tuple(map(name, found))


def device(text: str) -> str:
    """The name of a device, which may not exist."""
    if not re.fullmatch(r"auto|cpu|cuda(:[0-9]{1,3})?", text):
        raise argparse.ArgumentTypeError(f"{_found(text)}, expected auto, cpu, cuda or cuda:1")
    return text


def url(text: str) -> str:
    """An address of the web or of a file."""
    if not re.match(r"(https?|file)://[^/]|file:///", text):
        raise argparse.ArgumentTypeError(f"{_found(text)}, expected an address such as http://localhost")
    return text


def part(text: str) -> tuple[int, int]:
    """`i/n` -> (i, n): part i of n, counted from 0."""
    match = re.fullmatch(r"([0-9]{1,9})/([0-9]{1,9})", text)
    if not match or not int(match[1]) < int(match[2]):
        raise argparse.ArgumentTypeError(f"{_found(text)}, expected i/n with i from 0 to n - 1, such as 0/16")
    return int(match[1]), int(match[2])


def folder(text: str) -> Path:
    """The path of a folder or of a file, in which `~` is the home folder."""
    if not text.strip() or "\0" in text:
        raise argparse.ArgumentTypeError(f"{_found(text)}, expected a path")
    try:
        return Path(_short_enough(text)).expanduser()
    except RuntimeError:  # what expanduser raises
        raise argparse.ArgumentTypeError(f"{_found(text)}, but there is no such user here, so no home folder") from None


def _short_enough(path: str) -> str:
    """The path itself; ArgumentTypeError if it is longer than file systems allow."""
    encoded = os.fsencode(path)
    if len(encoded) > 4095 or max(map(len, encoded.split(b"/"))) > 255:
        raise argparse.ArgumentTypeError(
            f"{_found(path)} has {len(encoded)} bytes, expected up to 255 in each name and 4095 in the path"
        )
    return path


def list_file(text: str) -> tuple[str | None, Path]:
    """`val=FILE` -> the split of all entries, and the file; with `FILE` alone, the split is None."""
    split, equals, path = text.partition("=")
    if equals and split in SPLITS:
        return split, folder(path)
    return None, folder(text)


# fmt: off
def add_data_flags(parser: argparse.ArgumentParser) -> None:
    """Add flags that say where the data and the runs are."""
    group = parser.add_argument_group("data")
    group.add_argument(
        "--root", type=folder, required=True, metavar="DIR",
        help="data root: the folder of annotations.json and rgb-images/, or the folder above it",
    )
    group.add_argument("--dataset", type=name, default="kinetics", metavar="NAME", help="name of the data set: part of the run's name, and perhaps a folder in --root (default: kinetics)")
    group.add_argument("--datasubset", type=optional_name, default="", metavar="N", help="read hfiles/Annots_N.json of a data root of 2D-kinectics")
    group.add_argument("--save_root", type=folder, default=None, metavar="DIR", help="folder that holds the runs (default: --root)")


def add_stream_flags(parser: argparse.ArgumentParser) -> None:
    """Add flags that choose the stream: what the network sees, and which network it is."""
    group = parser.add_argument_group("stream")
    group.add_argument(
        "--input_type", "--input", "-i", type=name, default="rgb", metavar="TYPE", help="rgb, or a flow method: farneback, dis, tvl1 (default: rgb)"
    )
    group.add_argument(
        "--arch", "-a", default=None, metavar="NAME",
        help="network: inception_v3, vgg16, vgg16_reducedfc, resnet18, resnet34, resnet50, resnet101, resnet152, "
        "squeezenet1_1, squeezenet1_1_cells, mobilenet_v2, mobilenet_v2_cells or mobilenet_v3_large; of clips: r3d_18, mc3_18, r2plus1d_18, r2plus1d_10_quarter, squeezenet1_1_3d, mobilenet_v2_halves, "
        "i3d_r50, i3d_nl_r50, flow_histograms and flow_fisher (need no weights), or one of VMZ, as "
        "vmz_r2plus1d_34 (docs/clip_streams.md); inceptionV3 and vgg are accepted too",
    )


def add_source_flags(parser: argparse.ArgumentParser) -> None:
    """Add the videos that a recognizer is asked about, and the flags that choose the recognizer and its device."""
    parser.add_argument("sources", nargs="+", metavar="SOURCE", help="video file, folder of videos or of images, data root, pattern, camera (0 or /dev/video0), address, or - for standard input")
    parser.add_argument("--model", "-m", type=folder, nargs="+", required=True, metavar="DIR", help="recognizer; ONNX files of twostream export --onnx; or runs or checkpoints, one for each stream")
    parser.add_argument("--device", type=device, default="auto", metavar="NAME", help="auto, cpu, cuda or cuda:1; auto uses a GPU if there is one (default: auto)")
    parser.add_argument("--fps", type=rate, default=0.0, metavar="RATE", help="frames per second of folders of images (default: unknown)")
    parser.add_argument("--split", choices=SPLITS, default="", help="of a data root: only the videos of this split (default: all)")
    add_boolean(parser, "--network", default=False, help="open addresses such as https:// and rtsp://; without it, nothing is read from the network")
    parser.add_argument("--seconds", type=number(0, 1e9), default=0.0, metavar="N", help="of cameras and streams: look at the next N seconds (default: no limit, which only --live allows)")


def add_sampling_flags(parser: argparse.ArgumentParser, *, default: str) -> None:
    """Add flags that choose the clips of each video; `default` says what holds without them."""
    from twostream.clips.crops import VIEWS, WHOLE_VIEWS  # late: it loads OpenCV, which not every program needs

    group = parser.add_argument_group("clips")
    group.add_argument("--num_clips", type=positive, default=None, metavar="N", help=f"look at this many clips of each video, evenly spaced (default: {default})")
    group.add_argument("--frame_step", type=positive, default=None, metavar="N", help="instead: look at a clip every N frames")
    group.add_argument("--views", choices=tuple(name for name in VIEWS if name not in WHOLE_VIEWS), default=None, help=f"crops of each clip, see twostream test --help (default: {default})")


def add_loading_flags(parser: argparse.ArgumentParser) -> None:
    """Add flags that say what loads images and what computes."""
    group = parser.add_argument_group("machine")
    group.add_argument("--workers", "-j", type=num_processes, default=4, metavar="N", help="number of processes that load images (default: 4)")
    group.add_argument("--device", type=device, default="auto", metavar="NAME", help="auto, cpu, cuda or cuda:1; auto uses a GPU if there is one (default: auto)")
    group.add_argument("--ngpu", type=integer(1, 1024), default=1, metavar="N", help="number of GPUs that share each batch in one process; torchrun, with a process per GPU, is faster (default: 1)")
# fmt: on


def chosen_sources(parser: argparse.ArgumentParser, args: argparse.Namespace) -> "tuple[list[Source], list[str]]":
    """The sources that the command line names, and a line for each word that names none; BadInputError if all are bad."""
    from twostream.inference.sources import Pictures, Recording, find_all_sources

    sources, failures = find_all_sources(
        args.sources, fps=args.fps, split=args.split, network=args.network, seconds=args.seconds
    )
    if not sources:
        raise BadInputError("; ".join(failures))
    if args.seconds and not any(isinstance(source, Recording) for source in sources):
        parser.error("--seconds is for cameras, streams and standard input, but the sources are files")
    if args.fps and not any(isinstance(source, Pictures) for source in sources):
        parser.error("--fps is for folders of images, but the sources are videos, which have rates of their own")
    if args.split and not any(source.is_stored for source in sources):
        parser.error("--split is for data roots, but the sources are videos and folders of images")
    return sources, failures


def chosen_sampling(parser: argparse.ArgumentParser, args: argparse.Namespace) -> dict[str, Any]:
    """The fields of a Sampling that flags of `add_sampling_flags` change; exit code 2 if the flags contradict each other."""
    if args.num_clips and args.frame_step:
        parser.error("--num_clips and --frame_step are two ways to choose clips; give only one")
    chosen = {"num_clips": args.num_clips, "views": args.views}
    if args.frame_step:
        chosen |= {"num_clips": 0, "clip_step": args.frame_step}
    return {name: value for name, value in chosen.items() if value is not None}


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
    share_the_machine(os.environ)  # before `main` imports torch
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_DFL:  # under `nohup`, SIGHUP is ignored, and stays so
            signal.signal(number, _terminate)
    try:
        code = main() or 0
        sys.stdout.flush()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        code = exit_code(error)
    except KeyboardInterrupt as error:
        advice = str(error) or "finished work is kept, run the command again to continue"
        print(f"interrupted; {advice}", file=sys.stderr)
        code = exit_code(error)
    except Exception as error:
        if not isinstance(error, OSError | MemoryError) and not MEMORY.search(str(error)):
            raise
        if isinstance(error, BrokenPipeError) and _is_closed(sys.stdout):
            with open(os.devnull, "wb") as nobody:  # for what Python still has to write
                os.dup2(nobody.fileno(), sys.stdout.fileno())
            code = EXIT_PIPE
        else:
            print(f"error: {_fault_of_machine(error)}", file=sys.stderr)
            code = EXIT_ENVIRONMENT
    # The program is done. A signal while Python shuts down would only change the exit code.
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1):
        if signal.getsignal(number) is _terminate:
            signal.signal(number, signal.SIG_IGN)
    sys.exit(code)


def _is_closed(stream: Any) -> bool:
    """Has the program that reads this stream ended, as `| head` does?"""
    poller = select.poll()
    poller.register(stream.fileno(), 0)
    return any(event & select.POLLERR for _, event in poller.poll(0))


def _terminal(stream: Any) -> Any:
    """The stream, safe for names of files: what could control the terminal, or what it cannot show, is escaped."""
    stream = stream or open(os.devnull, "w")  # None: it was closed before the program began
    if isinstance(stream, io.TextIOWrapper):
        stream.reconfigure(errors="backslashreplace")
    return stream if isinstance(stream, Terminal) else Terminal(stream)


MEMORY = re.compile(
    r"out of memory|can't allocate memory|not enough memory|Insufficient memory|bad_alloc|can't start new thread|ancdata|"
    r"Too many open files|DataLoader worker \(pid|unable to \w+ .*(shared memory|</torch_)"
)
"""texts of errors that torch, OpenCV and Python raise if there is too little memory, or too few threads or files for a
process; or the system killed a process to get memory"""


def _fault_of_machine(error: Exception) -> str:
    """The error in one line, and what to do about it."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    # An error of a loader process arrives with that process's traceback, whose last line is the error itself.
    sentences = (lines[-1] if "Original Traceback" in str(error) else lines[0]).split(". ")
    reason = next(filter(MEMORY.search, sentences), sentences[0])
    if re.search(r"shared memory|Bus error|</torch_", str(error)):
        total, _, free = shutil.disk_usage("/dev/shm") if Path("/dev/shm").is_dir() else (0, 0, 0)
        return (
            f"{reason}: loader processes pass batches on in shared memory, but /dev/shm has {total >> 20} MiB, "
            f"{free >> 20} MiB of them free. Use fewer --workers or a smaller --batch_size, or enlarge /dev/shm (docker run "
            "--shm-size=8g), then run the command again"
        )
    if isinstance(error, MemoryError) or MEMORY.search(str(error)):
        return f"{reason}; use a smaller --batch_size or fewer --workers, then run the command again"
    return f"{reason}; fix this, then run the command again"


def _terminate(signal_number: int, frame: object) -> None:
    raise Terminated
