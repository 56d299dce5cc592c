#!/usr/bin/env python3
"""How fast a network trains, compared with what the device can compute and what the loader can read.

  python benchmarks/train.py --arch=inception_v3 --batch_size=64,256 --amp=bf16 --channels_last
  python benchmarks/train.py --arch=inception_v3 --batch_size=64,256 --amp=bf16 --channels_last --compile=default --batch_norm=frozen
  python benchmarks/train.py --arch=inception_v3 --batch_size=64,256 --amp=bf16 --channels_last --data=flow,online
  python benchmarks/train.py --arch=r2plus1d_18 --batch_size=16,64 --amp=bf16 --channels_last --data=synthetic,folders

All rows use `fit` of the engine, with a learning rate of 0. "synthetic" is one batch that stays on the device. "folders"
and "packed" are JPEG images of 340x256 that are generated here and read by the loader of twostream train, again and
again, so they are in the system's memory. "flow" is the same with stored flow images, "online" with flow computed from
the frames in folders, as --flow=online does; "online-in-turn" computes it on the GPU's stream of the network. The matrix rate is that of one large product in the format of --amp. torch
counts the operations: an addition and a multiplication are two. For networks of clips, an "image" is a clip of the network's
usual length. --save then times single iterations of each network, two of which save a checkpoint.
"""

import argparse
import contextlib
import functools
import itertools
import json
import platform
import re
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from statistics import median

import cv2
import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from twostream.annotations.json_file import read_annotations
from twostream.clips.crops import RandomCrop
from twostream.clips.dataset import Batch, train_loader, usable_videos
from twostream.clips.items import Items
from twostream.clips.online_flow import OnlineFlow, network_inputs, open_dataset
from twostream.clips.sampling import TrainingOrder
from twostream.engine.checkpoint import CheckpointSaver
from twostream.engine.device import AMP, choose_device, use_deterministic_algorithms
from twostream.engine.loops import FitOptions, fit
from twostream.engine.optimizer import build_optimizer
from twostream.engine.progress import Progress
from twostream.errors import EnvironmentFaultError
from twostream.flow.methods import FlowSettings
from twostream.frames.stores import open_store
from twostream.models.backbones import BACKBONES, backbone_name
from twostream.models.network import BATCH_NORM, StreamNetwork, build_model
from twostream.preparation.settings import ExtractionSettings
from twostream.programs import options
from twostream.stream import StreamConfig
from twostream.threads import map_in_threads

DATA = {
    "synthetic": "rgb", "folders": "rgb", "packed": "rgb", "flow": "farneback", "online": "farneback",
    "online-in-turn": "farneback",
}  # fmt: skip
"""row -> input type of its stream"""
NUM_CLASSES = 400
HEIGHT, WIDTH = 256, 340
SCHEDULE_ITERATIONS, SCHEDULE_BATCH_SIZE = 500_000, 64
"""2D-kinectics' schedule"""
SCHEDULE = f"{SCHEDULE_ITERATIONS:,} x {SCHEDULE_BATCH_SIZE}"

REAL_OF_SYNTHETIC = 0.95
H200_GOALS = {  # network, side of its crops, compiled -> images/s on one H200 with --amp; hours of the schedule
    ("inception_v3", 299, False): (1900, 5.0),
    ("inception_v3", 299, True): (2800, 3.2),
    ("vgg16", 224, False): (1500, None),
    ("vgg16_reducedfc", 300, False): (800, None),
}


def matrix_rate(device: torch.device, dtype: torch.dtype, side: int, *, repeats: int = 20) -> float:
    """Operations per second of a product of two square matrices; on a GPU float32 is TF32, as in twostream train."""
    a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    for _turn in range(2):  # the first one warms up
        wait_for(device)
        start = time.perf_counter()
        for _ in range(repeats):
            torch.mm(a, b)
        wait_for(device)
    return 2 * side**3 * repeats / (time.perf_counter() - start)


def wait_for(device: torch.device) -> None:
    """Wait until the device has done all work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def operations_per_image(network: StreamNetwork, batch: Batch) -> float:
    """Number of operations of a forward and a backward pass for one image."""
    clips = batch.clips[:2]
    with FlopCounterMode(display=False) as counter:
        network.forward(clips).sum().backward()
    network.zero_grad()
    return counter.get_total_flops() / len(clips)


def synthetic_batch(batch_size: int, stream: StreamConfig, device: torch.device) -> Batch:
    """A batch of noise on the device."""
    generator = torch.Generator().manual_seed(0)
    shape = (batch_size, 1, stream.clip_len, stream.input_size, stream.input_size, 3)
    clips = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
    numbers = torch.arange(batch_size)
    return Batch(clips.to(device), (numbers % 2 == 0).to(device), (numbers % NUM_CLASSES).to(device), numbers)


def write_images(root: Path, *, num_videos: int, num_frames: int) -> None:
    """A data root of two classes: frames of smooth noise, about 20 kB each, and flow images."""
    # A flow image is grey, with x above y.
    kinds = {"rgb": ((HEIGHT, WIDTH, 3), 90), "farneback": ((2 * HEIGHT, WIDTH), ExtractionSettings().flow_quality)}

    def write_video(number: int) -> None:
        rng = np.random.default_rng(number)
        for input_type, (shape, quality) in kinds.items():
            folder = root / f"{input_type}-images" / f"v{number}"
            folder.mkdir(parents=True)
            for k in range(num_frames):
                image = cv2.GaussianBlur(rng.integers(0, 256, shape, np.uint8), (0, 0), 1.5)
                cv2.imwrite(str(folder / f"{k + 1:05d}.jpg"), image, [cv2.IMWRITE_JPEG_QUALITY, quality])

    map_in_threads(write_video, range(num_videos))
    videos = {
        f"v{number}": {"split": "train", "label": "ab"[number % 2], "num_frames": num_frames}
        for number in range(num_videos)
    }
    (root / "annotations.json").write_text(json.dumps({"version": 1, "classes": ["a", "b"], "videos": videos}))


def pack(root: Path, packed: Path) -> None:
    """Copy a data root to a packed store."""
    program = Path(__file__).resolve().parent.parent / "prep" / "pack.py"
    command = [sys.executable, str(program), f"--root={root}", f"--to={packed}", "--store=packed", "--workers=1"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def real_loader(
    root: Path, stream: StreamConfig, *, batch_size: int, iterations: int, workers: int, device: torch.device,
    in_turn: bool,
) -> Iterable[Batch]:  # fmt: skip
    """The batches that twostream train would load from a data root; `in_turn`: with flow on the stream of the network."""
    store = open_store(root, stream.stored_type)
    videos, _ = usable_videos(read_annotations(root), "train", store)
    dataset = open_dataset(Items(videos, stream, crop=RandomCrop(stream.input_size), mirror=True), store)
    order = TrainingOrder(len(dataset), batch_size=batch_size, seed=0, first=0, last=iterations)
    loader = train_loader(dataset, order, num_workers=workers, pin_memory=device.type == "cuda")
    return map(OnlineFlow([], stream, device).compute, loader) if in_turn else network_inputs(loader, stream, device)


def stream_of(data: str, rgb: StreamConfig) -> StreamConfig:
    """The stream of a row, given the stream of RGB."""
    if DATA[data] == "rgb":
        return rgb
    flow = replace(rgb, input_type=DATA[data], flow_coding=FlowSettings("farneback").to_json())
    return flow if data == "flow" else flow.with_flow("online")


@dataclass
class Row:
    """What was measured."""

    batch_size: int
    data: str
    images_per_second: float | None = None
    """None if memory was too small"""
    waiting: float = 0.0
    """share of the time that was spent waiting for a batch"""
    peak_bytes: int = 0
    saving: str = ""
    """a row of the table about saving"""


def measure(
    row: Row, network: StreamNetwork, loader: Iterable[Batch], *, device: torch.device, fit_options: FitOptions,
    warm_up: int, iterations: int,
) -> None:  # fmt: skip
    """Fill in a row: run `warm_up` iterations, then measure `iterations` more."""
    optimizer = build_optimizer(network, learning_rate=0.0, momentum=0.9, weight_decay=1e-4)
    log = functools.partial(print, file=sys.stderr)
    steps = fit(network, loader, optimizer, lambda _: 0.0, device=device, first=0, options=fit_options, log=log)
    progress = Progress()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    for _ in itertools.islice(steps, warm_up):
        pass
    wait_for(device)
    start = time.perf_counter()
    for step in itertools.islice(steps, iterations):
        progress.add(step)
    wait_for(device)
    seconds = time.perf_counter() - start
    steps.close()
    row.images_per_second = row.batch_size * iterations / seconds
    row.waiting = progress.meters["data_seconds"].sum / seconds
    row.peak_bytes = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else 0


def saving_iterations(
    network: StreamNetwork, batch: Batch, stream: StreamConfig, *, device: torch.device, fit_options: FitOptions, iterations: int,
) -> tuple[list[float], list[float]]:  # fmt: skip
    """Seconds of the iterations that save a checkpoint, and of those that do not, each until the device is done.

    An eighth of them comes before the first save, and half before the second.
    """
    optimizer = build_optimizer(network, learning_rate=0.0, momentum=0.9, weight_decay=1e-4)
    steps = fit(network, itertools.repeat(batch), optimizer, lambda _: 0.0, device=device, first=0, options=fit_options)
    saving, others = [], []
    with tempfile.TemporaryDirectory() as folder, CheckpointSaver(
        Path(folder), keep=1, log=lambda line: None, stream=stream, settings={}, backbone=network.backbone,
        optimizer=optimizer,
    ) as saver:  # fmt: skip
        next(steps)
        wait_for(device)
        start = time.perf_counter()
        for number, step in enumerate(itertools.islice(steps, iterations)):
            saves = number in (iterations // 8, iterations // 2)
            if saves:
                saver.save(step.iteration, {}, final=False)
            saver.report()
            wait_for(device)
            (saving if saves else others).append(time.perf_counter() - start)
            start = time.perf_counter()
    steps.close()
    return saving, others


def measure_all(args: argparse.Namespace, rgb: StreamConfig, device: torch.device) -> Iterator[Row]:
    """The rows of the table, one after the other."""
    fit_options = FitOptions(amp=args.amp, channels_last=args.channels_last, compile=args.compile)
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as exit_stack:
        if args.deterministic:
            use_deterministic_algorithms(exit_stack)
        roots = {data: Path(folder, "packed" if data == "packed" else "folders") for data in DATA}
        if set(args.data) != {"synthetic"}:
            write_images(roots["folders"], num_videos=args.videos, num_frames=args.frames)
        if "packed" in args.data:
            pack(roots["folders"], roots["packed"])
        for batch_size in args.batch_size:
            # New networks for each size, because they are compiled for one size.
            networks = {}
            for data in args.data:
                stream = stream_of(data, rgb)
                if stream.modality not in networks:
                    networks[stream.modality] = build_model(stream, batch_norm=args.batch_norm).to(device)
                    fit_options.compile_network(networks[stream.modality])
                network = networks[stream.modality]
                row, warm_up = Row(batch_size, data), args.warm_up
                if data == "synthetic":
                    loader = itertools.repeat(synthetic_batch(batch_size, stream, device))
                else:
                    warm_up += 4 * args.workers  # so that few batches are left that were read in advance
                    loader = real_loader(
                        roots[data], stream, batch_size=batch_size, iterations=warm_up + args.iterations,
                        workers=args.workers, device=device, in_turn=data == "online-in-turn",
                    )  # fmt: skip
                with contextlib.suppress(EnvironmentFaultError):
                    measure(
                        row, network, loader, device=device, fit_options=fit_options, warm_up=warm_up,
                        iterations=args.iterations,
                    )  # fmt: skip
                yield row
                if args.save and data == "synthetic":
                    saving, others = saving_iterations(
                        network,
                        next(iter(loader)),
                        stream,
                        device=device,
                        fit_options=fit_options,
                        iterations=max(args.iterations, 4),
                    )
                    row.saving = f"| {batch_size} | {median(others):.4f} | {max(others):.4f} | {saving[0]:.4f} | {saving[1]:.4f} |"


def machine(device: torch.device) -> str:
    """Device, versions and date, for the heading."""
    cpus = re.findall(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text()) if sys.platform == "linux" else []
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else (cpus or [platform.processor()])[0].strip()
    return f"{name}, Python {platform.python_version()}, torch {torch.__version__.partition('+')[0]}, {date.today()}"


def row_names(text: str) -> tuple[str, ...]:
    """Value of --data: comma-separated names of rows."""
    names = options.words(text)
    if unknown := set(names).difference(DATA):
        raise argparse.ArgumentTypeError(f"{', '.join(sorted(unknown))}, expected some of {', '.join(DATA)}")
    return names


def build_parser() -> options.Parser:
    """The flags of this benchmark."""
    parser = options.Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--arch", type=backbone_name, default="inception_v3", metavar="NAME", help="network (default: inception_v3)")
    add("--input_size", type=options.positive, metavar="PX", help="side of the crops (default: the network's)")
    add("--batch_size", type=options.integers, default=(64,), metavar="N,N", help="batch sizes (default: 64)")
    add(
        "--data",
        type=row_names,
        default=("synthetic", "folders", "packed"),
        metavar="A,B",
        help=f"rows of the table: {', '.join(DATA)} (default: synthetic,folders,packed)",
    )
    add("--amp", choices=tuple(AMP), default="off", help="as in twostream train (default: off)")
    add("--compile", default="off", metavar="MODE", help="as in twostream train (default: off)")
    add("--batch_norm", choices=tuple(BATCH_NORM), default="train", help="as in twostream train (default: train)")
    options.add_boolean(parser, "--channels_last", default=False, help="as in twostream train (default: False)")
    options.add_boolean(parser, "--deterministic", default=False, help="as in twostream train (default: False)")
    options.add_boolean(
        parser, "--save", default=False, help="time iterations that save a checkpoint, too (default: False)"
    )
    add("--device", default="auto", metavar="NAME", help="as in twostream train (default: auto)")
    add(
        "--workers",
        type=options.not_negative,
        default=8,
        metavar="N",
        help="number of processes that load images (default: 8)",
    )
    add(
        "--iterations",
        type=options.positive,
        default=100,
        metavar="N",
        help="number of iterations to measure (default: 100)",
    )
    add(
        "--warm_up",
        type=options.not_negative,
        default=20,
        metavar="N",
        help="number of iterations before these, to which 4 per worker are added (default: 20)",
    )
    add("--videos", type=options.positive, default=64, metavar="N", help="number of videos to generate (default: 64)")
    add("--frames", type=options.positive, default=60, metavar="N", help="frames of each video (default: 60)")
    add("--matrix", type=options.positive, default=8192, metavar="N", help="side of the matrices (default: 8192)")
    return parser


def main() -> None:
    """Measure, and print the tables as Markdown."""
    args = build_parser().parse_args()
    device = choose_device(args.device)
    if device.type == "cuda":
        torch.set_float32_matmul_precision("high")
    input_size = args.input_size or BACKBONES[args.arch].input_size
    clip_len = BACKBONES[args.arch].clip_len
    stream = StreamConfig("rgb", args.arch, tuple(map(str, range(NUM_CLASSES))), input_size, clip_len)
    network = build_model(stream, batch_norm=args.batch_norm).to(device)
    operations = operations_per_image(network, synthetic_batch(2, stream, device))
    rate = matrix_rate(device, AMP[args.amp], args.matrix)
    print(f"`{shlex.join(['python', 'benchmarks/train.py', *sys.argv[1:]])}`\n\n{machine(device)}.", end=" ")
    print(f"Matrix rate: {rate / 1e12:.3g} TFLOP/s; an image: {operations / 1e9:.3g} GFLOP.\n")

    print("| batch size | data | images/s | of synthetic | of the matrix rate | waiting for data | peak GiB |")
    print("|---|---|---|---|---|---|---|")
    rows, ratios, synthetic = [], [], None
    for row in measure_all(args, stream, device):
        images = row.images_per_second
        if images is None:
            print(f"| {row.batch_size} | {row.data} | out of memory | - | - | - | - |")
            continue
        if row.data == "synthetic":
            synthetic = (row.batch_size, images)
        ratio = images / synthetic[1] if synthetic and synthetic[0] == row.batch_size else None
        ratios += [ratio] if ratio and row.data in ("folders", "packed") else []
        rows.append(row)
        print(
            f"| {row.batch_size} | {row.data} | {images:,.1f} | {f'{ratio:.3f}' if ratio else '-'} | "
            f"{images * operations / rate:.3f} | {row.waiting:.3f} | "
            f"{f'{row.peak_bytes / 2**30:.1f}' if row.peak_bytes else '-'} |",
            flush=True,
        )

    of_schedule = {row.data: row.images_per_second for row in rows if row.batch_size == SCHEDULE_BATCH_SIZE}
    if of_schedule:
        print(f"\n| data | images/s at batch size {SCHEDULE_BATCH_SIZE} | hours of {SCHEDULE} |\n|---|---|---|")
    for data, images in of_schedule.items():
        print(f"| {data} | {images:,.1f} | {schedule_hours(images):,.2f} |")
    best = {
        name: max(row.images_per_second for row in rows if row.data == name) for name in {r.data: None for r in rows}
    }
    if best.keys() >= {"flow", "online"}:
        print(f"\nonline / flow: {best['online'] / best['flow']:.3f}")
    if saving := [row.saving for row in rows if row.saving]:
        print(
            "\n| batch size | median iteration, s | longest | first that saves | second that saves |\n|---|---|---|---|---|"
        )
        print("\n".join(saving))
    goal = H200_GOALS.get((args.arch, input_size, args.compile != "off"))
    if device.type == "cuda" and goal and any(DATA[data] == "rgb" for data in best):
        at_best, at_schedule = (
            max((n for data, n in rates.items() if DATA[data] == "rgb"), default=None) for rates in (best, of_schedule)
        )
        print_goals(*goal, images=at_best, of_schedule=at_schedule, ratios=ratios)


def schedule_hours(images_per_second: float) -> float:
    """Hours of 2D-kinectics' schedule at the speed of its batch size."""
    return SCHEDULE_ITERATIONS * SCHEDULE_BATCH_SIZE / images_per_second / 3600


def print_goals(
    images_goal: int, hours_goal: float | None, *, images: float, of_schedule: float | None, ratios: list[float]
) -> None:
    """Print the goals for one H200 beside what was measured: images/s at best, and at the schedule's batch size."""
    print("\n| goal on one H200 | | measured | |\n|---|---|---|---|")
    print(f"| images/s | >= {images_goal:,} | {images:,.1f} | {verdict(images >= images_goal)} |")
    if hours_goal and of_schedule:
        hours = schedule_hours(of_schedule)
        print(f"| hours of {SCHEDULE} | <= {hours_goal} | {hours:.2f} | {verdict(hours <= hours_goal)} |")
    if ratios:
        met = verdict(max(ratios) >= REAL_OF_SYNTHETIC)
        print(f"| real / synthetic | >= {REAL_OF_SYNTHETIC} | {max(ratios):.3f} | {met} |")


def verdict(met: bool) -> str:
    """A cell of the table of goals."""
    return "met" if met else "not met"


if __name__ == "__main__":
    options.run(main)
