#!/usr/bin/env python3
"""Speed of preparation, side by side with the sum of its parts, with ffmpeg's own command and with other ways.

  python benchmarks/prep.py --video=clip.mp4                         # all rows
  python benchmarks/prep.py --video=clip.mp4 --only=rgb,ffmpeg       # some
  python benchmarks/prep.py --video=clip.mp4 --only=cores,device --flow_device=cuda --copies=200

Costs are CPU-seconds, user and system, of this process and its children, so that other programs hardly affect them.
Only the rows of prep/extract.py are wall-clock times, and need idle cores. The rows cores and device report the times
that it prints itself, which begin when the device is ready, and need many copies of the clip. The rows take turns, in
reverse order every other time, each in a new temporary folder (in TMPDIR), and their medians are compared. All decode,
scale and encode with one thread, which costs least. The other ways are written again here with the calls of these
programs:

- 2D-kinectics: an ffmpeg command writes JPEG files of the video's own size at -qscale:v 15; a second program reads
  them and writes flow images of that size. Once with its Farneback parameters, once with ours.
- MMAction2's script for raw frames: decode, resize and cv2.imwrite; for flow it decodes again, and writes images of x
  and of y.
"""

import argparse
import os
import platform
import random
import re
import resource
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from datetime import date
from itertools import pairwise
from multiprocessing import get_context
from pathlib import Path
from statistics import median

import cv2
import numpy as np

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPOSITORY))

from twostream.errors import BadInputError, EnvironmentFaultError
from twostream.flow.coding import FlowCoding
from twostream.flow.methods import FARNEBACK_PRESETS, FlowSettings
from twostream.frames.jpeg import encode_jpeg
from twostream.frames.store import checksum, frame_name
from twostream.frames.stores import STORES, open_store
from twostream.preparation.extraction import ExtractionJob, extract_video
from twostream.preparation.settings import ExtractionSettings
from twostream.preparation.workers import prepare_process
from twostream.programs import options
from twostream.stream import RGB
from twostream.video.decoder import Decoder
from twostream.video.ffmpeg import VideoError, ffmpeg_version, find_ffmpeg
from twostream.video.random_access import import_av

SHORT_SIDE = 256
QUALITY = 90
FARNEBACK, DIS, VECTORS = FlowSettings("farneback"), FlowSettings("dis"), FlowSettings("mv")
OLD_CODING = FlowCoding(bound=8, integer_scale=True)
WRITTEN_VIDEOS = 5
"""how often the rows of writing write the images of the clip; a single clip takes too little time"""


class Clip:
    """The video, and the inputs of the rows that measure single parts."""

    def __init__(self, path: Path, folder: Path, *, copies: int, flow_device: str):
        self.path = path
        self.flow_device = flow_device
        try:
            with closing(iter(Decoder(path))) as native:
                self.native_height, self.native_width = next(native).shape[:2]
            self.frames = list(Decoder(path, short_side=SHORT_SIDE))  # as our rows get them
        except VideoError as error:
            raise BadInputError(f"--video {path}: {error}") from None
        if len(self.frames) < 2:
            raise BadInputError(f"--video {path} has one frame, expected at least two for flow")
        self.height, self.width = self.frames[0].shape[:2]
        self.gray = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in self.frames]
        function = FARNEBACK.function()
        self.flow = [function(*pair) for pair in pairwise(self.gray)]
        self.jpegs = [encode_jpeg(frame, quality=QUALITY, chroma_subsampling=True) for frame in self.frames]
        self.stored = folder / "stored"
        for store in STORES:
            write(store=store)(self, self.stored / store)
        self.copies = folder / "copies"
        self.num_copies = copies
        self.copies.mkdir()
        for number in range(copies):
            shutil.copy(path, self.copies / f"clip{number}{path.suffix}")


Run = Callable[[Clip, Path], int]
"""One row: does its work in an empty folder and returns the number of frames"""


# --------------------------------------------------------------------------------------------------------- our own way


def extraction(*, store: str = "folders", **settings) -> Run:
    def run(clip: Clip, folder: Path) -> int:
        all_settings = ExtractionSettings(short_side=SHORT_SIDE, quality=QUALITY, **settings)
        job = ExtractionJob(str(folder), "clip", str(clip.path), all_settings, store=store)
        return extract_video(job).num_frames

    return run


def program(*, workers: int | None = None, on_device: bool = False, flow: bool = True) -> Run:
    def run(clip: Clip, folder: Path) -> int:
        words = ["--videos", str(clip.copies), "--root", str(folder), f"--workers={workers or os.cpu_count()}"]
        words += [] if flow else ["--input_types=rgb"]
        words += [f"--flow_device={clip.flow_device}"] if on_device else []
        output = call([sys.executable, str(REPOSITORY / "prep" / "extract.py"), *words])
        (folder / OUTPUT).write_text(output)
        return len(clip.frames) * clip.num_copies

    return run


# ------------------------------------------------------------------------------------------------------- its parts


def decode_on_all_cores(clip: Clip, folder: Path) -> int:
    """Our decoder, each core with its share of the copies; its frames are discarded."""
    copies = sorted(clip.copies.iterdir())
    start = time.perf_counter()
    with ProcessPoolExecutor(os.cpu_count(), mp_context=get_context("fork")) as processes:
        num_frames = sum(processes.map(count_frames, copies))
    rate = num_frames / (time.perf_counter() - start)
    (folder / OUTPUT).write_text(f"{num_frames} images, by their own clock ({rate:.0f} images/s)\n")
    return num_frames


def count_frames(path: Path) -> int:
    return sum(1 for _ in Decoder(path, short_side=SHORT_SIDE))


def decode_and_scale(clip: Clip, folder: Path) -> int:
    """ffmpeg into a pipe, with our filters; its output is discarded."""
    filters = f"scale={clip.width}:{clip.height}:flags=area,scale"
    command = ffmpeg(clip, "-vf", filters, "-f", "rawvideo", "-pix_fmt", "rgb24", "pipe:1")
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        num_bytes = 0
        while pixels := process.stdout.read(clip.frames[0].nbytes):
            num_bytes += len(pixels)
    return num_bytes // clip.frames[0].nbytes


def bare_farneback(clip: Clip, folder: Path) -> int:
    function = FARNEBACK.function()
    for pair in pairwise(clip.gray):
        function(*pair)
    return len(clip.gray)


def code_rgb(clip: Clip, folder: Path) -> int:
    for frame in clip.frames:
        encode_jpeg(frame, quality=QUALITY, chroma_subsampling=True)
    return len(clip.frames)


def code_flow(clip: Clip, folder: Path) -> int:
    quality = ExtractionSettings().flow_quality
    for flow in clip.flow:
        encode_jpeg(FARNEBACK.coding.encode_planes(flow), quality=quality, chroma_subsampling=False)
    return len(clip.frames)


def check(clip: Clip, folder: Path) -> int:
    for jpeg in clip.jpegs:
        checksum(jpeg)
    return len(clip.jpegs)


def write(*, store: str) -> Run:
    def run(clip: Clip, folder: Path) -> int:
        for number in range(WRITTEN_VIDEOS):
            with open_store(folder, RGB, kind=store).writer(f"clip{number}") as writer:
                for frame_index, jpeg in enumerate(clip.jpegs):
                    writer.write(frame_index, jpeg)
                writer.publish({"num_frames": len(clip.jpegs)})
        return WRITTEN_VIDEOS * len(clip.jpegs)

    return run


def read(*, store: str) -> Run:
    def run(clip: Clip, folder: Path) -> int:
        images = open_store(clip.stored / store, RGB)
        frames = [(f"clip{number}", k) for number in range(WRITTEN_VIDEOS) for k in range(len(clip.jpegs))]
        random.Random(0).shuffle(frames)
        for video_id, frame_index in frames:
            images.read_bytes(video_id, frame_index)
        return len(frames)

    return run


# ------------------------------------------------------------------------------------------------------ other ways


def ffmpeg(clip: Clip, *words: str) -> list[str]:
    """An ffmpeg command with one thread each for decoding, scaling and encoding, and each frame of the file once."""
    start = [find_ffmpeg(), "-nostdin", "-loglevel", "error", "-filter_threads", "1", "-threads", "1"]
    source = ["-i", f"file:{clip.path.absolute()}", "-map", "0:V:0", "-fps_mode", "passthrough"]
    return [*start, *source, "-threads", "1", *words]


def call(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, errors="replace")
    if done.returncode:
        raise EnvironmentFaultError(f"exit code {done.returncode} of {shlex.join(command)}\n{done.stderr}")
    return done.stdout


def ffmpeg_jpegs(clip: Clip, folder: Path) -> int:
    call(ffmpeg(clip, "-vf", f"scale={clip.width}:{clip.height}", "-qscale:v", "2", str(folder / "%05d.jpg")))
    return sum(1 for _ in folder.iterdir())


def two_d_kinectics(settings: FlowSettings) -> Run:
    function = settings.function()

    def run(clip: Clip, folder: Path) -> int:
        rgb, flow = folder / "rgb-images", folder / "farneback-images"
        rgb.mkdir()
        flow.mkdir()
        call(ffmpeg(clip, "-qscale:v", "15", str(rgb / "%05d.jpg")))
        names = sorted(path.name for path in rgb.iterdir())
        frames = (cv2.imread(str(rgb / name), cv2.IMREAD_GRAYSCALE) for name in names)
        for name, pair in zip(names, pairwise(frames), strict=False):
            image = cv2.cvtColor(OLD_CODING.encode(function(*pair)), cv2.COLOR_RGB2BGR)
            cv2.imwrite(str(flow / name), image)
        cv2.imwrite(str(flow / names[-1]), image)  # repeats the last pair
        return len(names)

    return run


def mmaction2(clip: Clip, folder: Path) -> int:
    for frame_index, frame in enumerate(captured(clip)):
        cv2.imwrite(str(folder / f"img_{frame_name(frame_index)}"), frame)  # quality 95
    function = FARNEBACK.function()
    gray = (cv2.cvtColor(frame, cv2.COLOR_BGR2GRAY) for frame in captured(clip))
    for frame_index, pair in enumerate(pairwise(gray)):
        for axis, plane in zip("xy", cv2.split(function(*pair)), strict=True):
            levels = cv2.addWeighted(plane, 255 / 40, plane, 0, 255 / 2, dtype=cv2.CV_8U)  # -20 to 20 pixels
            cv2.imwrite(str(folder / f"flow_{axis}_{frame_name(frame_index)}"), levels)
    return sum(1 for _ in folder.glob("img_*"))


def captured(clip: Clip) -> Iterator[np.ndarray]:
    """Frames as OpenCV decodes them, BGR, at the size of our frames."""
    video = cv2.VideoCapture(str(clip.path), cv2.CAP_FFMPEG, [cv2.CAP_PROP_N_THREADS, 1])
    while (frame := video.read()[1]) is not None:
        yield cv2.resize(frame, (clip.width, clip.height))


# ------------------------------------------------------------------------------------------------- rows and goals

OLD_FARNEBACK = FlowSettings("farneback", farneback=FARNEBACK_PRESETS["2d-kinectics"])

ROWS: dict[str, tuple[str, Run]] = {
    "rgb": ("ours: RGB", extraction()),
    "rgb-packed": ("ours: RGB, packed", extraction(store="packed")),
    "farneback": ("ours: RGB and Farneback", extraction(flow=(FARNEBACK,))),
    "step6": ("ours: RGB and Farneback, `--frame_step=6`", extraction(flow=(FARNEBACK,), stored_step=6)),
    "dis": ("ours: RGB and DIS", extraction(flow=(DIS,))),
    "mv": ("ours: RGB and motion vectors", extraction(flow=(VECTORS,))),
    "ffmpeg": ("ffmpeg: `-vf scale -qscale:v 2 %05d.jpg`", ffmpeg_jpegs),
    "2d-kinectics": ("2D-kinectics: RGB and Farneback", two_d_kinectics(OLD_FARNEBACK)),
    "2d-kinectics-ours": ("2D-kinectics: the same, with our Farneback parameters", two_d_kinectics(FARNEBACK)),
    "mmaction2": ("MMAction2: RGB and Farneback, our parameters", mmaction2),
    "decode": ("part: ffmpeg decodes and scales into a pipe", decode_and_scale),
    "code-rgb": ("part: RGB -> JPEG", code_rgb),
    "bare-farneback": ("part: `cv2.calcOpticalFlowFarneback` alone", bare_farneback),
    "code-flow": ("part: flow -> JPEG", code_flow),
    "checksum": ("part: checksum of an RGB image, which both ways of writing compute", check),
    "write-folders": ("part: write RGB, a file for each frame", write(store="folders")),
    "write-packed": ("part: write RGB, packed", write(store="packed")),
    "read-folders": ("part: read an RGB image at random, a file for each frame", read(store="folders")),
    "read-packed": ("part: read an RGB image at random, packed", read(store="packed")),
    "workers-1": ("`prep/extract.py --workers=1`, wall-clock", program(workers=1)),
    "workers-2": ("`prep/extract.py --workers=2`, wall-clock", program(workers=2)),
    "cores": ("`prep/extract.py` on all cores, by its own clock", program()),
    "device": ("the same with `--flow_device`", program(on_device=True)),
    "cores-rgb": ("the same, RGB only", program(flow=False)),
    "cores-decode": ("part: decode, on all cores", decode_on_all_cores),
}
OURS = {"rgb", "rgb-packed", "farneback", "step6", "dis", "mv"}
OWN_CLOCK = {"cores", "device", "cores-rgb", "cores-decode"}
WALL_CLOCK = {"workers-1", "workers-2"} | OWN_CLOCK
OUTPUT = "output.txt"
"""what prep/extract.py printed, in the folder of the row"""

SUMS = {
    "rgb-parts": ("decode", "code-rgb"),
    "farneback-parts": ("decode", "code-rgb", "bare-farneback", "code-flow"),
}
WITHOUT_CHECKSUM = {"folders-alone": "write-folders", "packed-alone": "write-packed"}


@dataclass(frozen=True)
class Goal:
    """The cost of row `more` divided by the cost of row `less`, and what this ratio should be."""

    text: str
    more: str
    less: str
    at_least: float | None = None
    at_most: float | None = None

    def verdict(self, ratio: float) -> tuple[str, str]:
        if self.at_least is not None:
            return f">= {self.at_least:g}", "met" if ratio >= self.at_least else "not met"
        if self.at_most is not None:
            return f"<= {self.at_most:g}", "met" if ratio <= self.at_most else "not met"
        return "-", "-"


GOALS = [
    Goal("RGB: ffmpeg's command / ours", "ffmpeg", "rgb", at_least=1.0),
    Goal("RGB: ours / sum of its parts", "rgb", "rgb-parts"),
    Goal("RGB and Farneback: ours / bare Farneback", "farneback", "bare-farneback", at_most=1.12),
    Goal("RGB and Farneback: ours / sum of its parts", "farneback", "farneback-parts"),
    Goal(
        "2D-kinectics' way / ours, same parameters, goal on a 480p clip", "2d-kinectics-ours", "farneback", at_least=2.5
    ),
    Goal("2D-kinectics' way as it was / ours", "2d-kinectics", "farneback"),
    Goal("MMAction2's way / ours", "mmaction2", "farneback"),
    Goal("Farneback / DIS, with RGB", "farneback", "dis", at_least=4),
    Goal("Farneback / motion vectors, with RGB", "farneback", "mv", at_least=15),
    Goal("motion vectors with RGB / RGB", "mv", "rgb", at_most=1.4),
    Goal("every flow / every sixth, with RGB", "farneback", "step6", at_least=4.5),
    Goal("RGB: folders / packed", "rgb", "rgb-packed"),
    Goal("writing: a file for each frame / packed", "folders-alone", "packed-alone", at_least=5),
    Goal("reading at random: a file for each frame / packed", "read-folders", "read-packed", at_least=1),
    Goal("one worker / two, wall-clock", "workers-1", "workers-2", at_least=1.8),
    Goal("all cores / the same with `--flow_device`", "cores", "device"),
]


def cpu_seconds() -> float:
    """User and system time of this process and of its children that have ended."""
    usages = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def timed(name: str, clip: Clip, folder: Path) -> tuple[float, int, str, str]:
    """Seconds and frames of one row, in a process of its own; cells about its cores; and what it printed about a flow device.

    For our rows the process is prepared as prep/extract.py prepares its workers.
    """
    if hasattr(os, "sched_setaffinity") and name not in WALL_CLOCK:
        # On two cores that share caches, ffmpeg would slow the other process down.
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    if name in OURS:
        prepare_process()
    if name == "mv":
        import_av()  # once in a worker, as all other imports, which this process has from its parent
    start, start_cpu = time.perf_counter(), cpu_seconds()
    num_frames = ROWS[name][1](clip, folder)
    seconds, cpu = time.perf_counter() - start, cpu_seconds() - start_cpu
    if name not in OWN_CLOCK:
        return (seconds if name in WALL_CLOCK else cpu), num_frames, "", ""
    output = (folder / OUTPUT).read_text()
    images, rate = re.search(r"^(\d+) images, .* \((\d+) images/s\)$", output, re.MULTILINE).groups()
    device = re.search(r"^flow on .*", output, re.MULTILINE)
    cores = f"{1000 * cpu / num_frames:.2f} | {cpu / seconds:.1f}"
    return int(images) / max(int(rate), 1), num_frames, cores, device[0] if device else ""


def measure(
    clip: Clip, names: list[str], *, repeats: int
) -> tuple[dict[str, float], dict[str, int], dict[str, str], str]:
    """Median seconds per frame of each row; its number of frames; cells about the cores in its last repeat, for rows with
    a clock of their own; and what the last row with a flow device printed."""
    seconds: dict[str, list[float]] = {name: [] for name in names}
    frames, cores, device = {}, {}, ""
    for repeat in range(repeats):
        for name in names if repeat % 2 == 0 else reversed(names):
            with tempfile.TemporaryDirectory() as folder:
                with ProcessPoolExecutor(1, mp_context=get_context("fork")) as process:
                    spent, frames[name], cores[name], printed = process.submit(timed, name, clip, Path(folder)).result()
            device = printed or device
            if frames[name] == 0:
                raise EnvironmentFaultError(f"{name}: no frame of {clip.path}; name the other rows with --only")
            seconds[name].append(spent / frames[name])
    return {name: median(values) for name, values in seconds.items()}, frames, cores, device


def machine() -> str:
    """Cores, processor, versions and date."""
    cpus = re.findall(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text()) if sys.platform == "linux" else []
    return (
        f"{os.cpu_count()} cores of {cpus[0].strip() if cpus else platform.processor()}, "
        f"Python {platform.python_version()}, OpenCV {cv2.__version__}, ffmpeg {ffmpeg_version(find_ffmpeg())}, "
        f"{date.today()}"
    )


def row_names(text: str) -> tuple[str, ...]:
    names = options.words(text)
    for name in names:
        if name not in ROWS:
            raise argparse.ArgumentTypeError(f"{name!r}, expected names of {', '.join(ROWS)}")
    return names


def build_parser() -> options.Parser:
    parser = options.Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--video", type=options.folder, required=True, metavar="FILE", help="the clip")
    add("--repeats", type=options.positive, default=5, metavar="N", help="repeats of each row (default: 5)")
    add("--only", type=row_names, default=tuple(ROWS), metavar="A,B", help=f"rows: {', '.join(ROWS)} (default: all)")
    add(
        "--copies",
        type=options.positive,
        default=6,
        metavar="N",
        help="copies of the clip for prep/extract.py (default: 6)",
    )
    add(
        "--flow_device",
        default="torch-cpu",
        metavar="NAME",
        help="flow device of the row device, as for prep/extract.py (default: torch-cpu)",
    )
    return parser


def main() -> None:
    args = build_parser().parse_args()
    load = os.getloadavg()[0]
    about = machine()  # asks ffmpeg for its version, once for all rows
    cv2.setNumThreads(1)
    names = [name for name in ROWS if name in args.only]
    with tempfile.TemporaryDirectory() as folder:
        clip = Clip(args.video, Path(folder), copies=args.copies, flow_device=args.flow_device)
        costs, frames, cores, device = measure(clip, names, repeats=args.repeats)

    only = [f"--only={','.join(names)}"] if len(names) < len(ROWS) else []
    rows = [f"--copies={args.copies}", f"--flow_device={args.flow_device}"] if OWN_CLOCK & set(names) else []
    command = ["python", "benchmarks/prep.py", f"--video={args.video.name}", f"--repeats={args.repeats}", *only, *rows]
    print(f"`{shlex.join(command)}`\n")
    print(f"{len(clip.frames)} frames of {clip.width}x{clip.height}, in the file {clip.native_width}x", end="")
    print(f"{clip.native_height}; medians of {args.repeats}; {about}.", end=" ")
    busy = "the machine was not idle, so wall-clock times do not count" if load > 0.5 else "idle"
    print(f"Load before: {load:.2f} ({busy}).\n")

    print("| row | | frames per CPU-second | ms per frame |\n|---|---|---|---|")
    titles = {name: title for name, (title, _) in ROWS.items()}
    titles |= {name: f"sum: {' + '.join(parts)}" for name, parts in SUMS.items()}
    costs |= {name: sum(costs[part] for part in parts) for name, parts in SUMS.items() if costs.keys() >= set(parts)}
    if "checksum" in costs:
        for name, whole in WITHOUT_CHECKSUM.items():
            if whole in costs:
                costs[name], titles[name] = costs[whole] - costs["checksum"], f"difference: {whole} - checksum"
    for name, cost in costs.items():
        count = f" ({frames[name]} frames)" if frames.get(name, 0) % len(clip.frames) else ""
        print(f"| {name} | {titles[name]}{count} | {1 / cost:,.1f} | {1000 * cost:.3f} |")

    if any(cores.values()):
        print("\nThe programs on all cores, with their start in the last two columns:\n")
        print("| row | frames/s | CPU ms per frame | cores busy |\n|---|---|---|---|")
        for name in filter(cores.get, cores):
            print(f"| {name} | {1 / costs[name]:,.0f} | {cores[name]} |")
    if device:
        print(f"\nThe last time: {device}.")
    print("\n| cost | ratio | goal | |\n|---|---|---|---|")
    for goal in GOALS:
        if costs.keys() >= {goal.more, goal.less}:
            ratio = costs[goal.more] / costs[goal.less]
            print(f"| {goal.text} | {ratio:.2f} | {' | '.join(goal.verdict(ratio))} |")


if __name__ == "__main__":
    options.run(main)
