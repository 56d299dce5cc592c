#!/usr/bin/env python3
"""Speed of loading, compared with the bare decoder, with 2D-kinectics' way and with torchvision's.

  python benchmarks/loader.py                                   # generated images of 340x256
  python benchmarks/loader.py --root=data --videos=20 --workers=8

Costs are CPU-seconds of one process with one thread, for the same images in the same random order, read from the system's
memory. Rows take turns, every other time backwards, and their medians are compared. Our cost does not include what the
training device does once per batch: mirroring, normalisation and the conversion to floats.

- bare: open and read the file, cv2.imdecode, cut, cv2.resize into an existing array; the same cut each time.
- 2D-kinectics: PIL, its short side scaled to 1.1 of the crop, random crop, flip, float, normalised; torch's default_collate.
- torchvision: its classification reference on tensors: decode_image, random resized crop, flip, float, normalised;
  torch's default_collate.

The other ways are written here with the calls that those programs make. They read flow from images with three colours, as
their users have it; ours and bare read the planes that `twostream extract` writes. With --workers, a DataLoader is measured
too, in wall-clock time, from idle processes to the last batch; its CPU-seconds are those of all processes.
"""

import argparse
import itertools
import os
import platform
import random
import re
import resource
import shlex
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from statistics import median

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Subset, default_collate

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from twostream.annotations.videos import Video, VideoTable
from twostream.clips.crops import RandomCrop
from twostream.clips.dataset import ClipDataset, eval_loader
from twostream.clips.items import Items
from twostream.errors import BadInputError
from twostream.frames.jpeg import encode_jpeg
from twostream.frames.store import FrameStore
from twostream.frames.stores import STORES, CopyJob, copy_video, input_types, open_store
from twostream.programs import options
from twostream.stream import RGB, StreamConfig

try:
    import torchvision
    from PIL import Image
    from torchvision.io import ImageReadMode, decode_image, read_file
    from torchvision.transforms import v2
except (ImportError, RuntimeError) as error:  # RuntimeError where its version does not fit torch's
    torchvision, MISSING = None, f"skipped: {error}"

HEIGHT, WIDTH = 256, 340
FLOW = "farneback"
COLOURS = "colours"
"""input type of flow images as the other ways read them"""
FRAMES = 20
"""in a generated video"""
LOADER_PASSES = 8
"""how often the rows of loaders read all images: a process takes a while to start"""
IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}


# ------------------------------------------------------------------------------------------------------------ images


def generate(root: Path, *, num_videos: int) -> None:
    """Videos whose files are as large as those of real frames: smooth shapes with the noise of a camera."""
    rng = np.random.default_rng(0)

    def picture(channels: int) -> np.ndarray:
        noise = rng.normal(size=(2, HEIGHT, WIDTH, channels)).astype(np.float32)
        shapes = cv2.GaussianBlur(noise[0], (0, 0), 5).reshape(noise[0].shape)
        return np.clip(128 + 40 * shapes / shapes.std() + 3 * noise[1], 0, 255).astype(np.uint8)

    frames = [encode_jpeg(picture(3), quality=90, chroma_subsampling=True) for _ in range(FRAMES)]
    planes = [np.vstack([*picture(2).transpose(2, 0, 1)]) for _ in range(FRAMES)]
    flow = [encode_jpeg(image, quality=75, chroma_subsampling=False) for image in planes]
    for input_type, jpegs in ((RGB, frames), (FLOW, flow)):
        for number in range(num_videos):
            with open_store(root, input_type, kind="folders").writer(f"video{number}") as writer:
                for frame_index, jpeg in enumerate(jpegs):
                    writer.write(frame_index, jpeg)
                writer.publish({"num_frames": len(jpegs)})


class Images:
    """A few videos of a data root, in both kinds of store, and their flow images as colours."""

    def __init__(self, root: Path, folder: Path, *, num_videos: int):
        self.folder = folder
        self.videos: dict[str, VideoTable] = {}
        for input_type in [name for name in (RGB, FLOW) if name in input_types(root)]:
            source = open_store(root, input_type)
            ids = source.video_ids()[:num_videos]
            for kind, video_id in itertools.product(STORES, ids):
                copy_video(CopyJob(str(root), str(folder / kind), input_type, video_id, kind))
            facts = [(video_id, *source.facts(video_id)) for video_id in ids]
            self.videos[input_type] = VideoTable.of([Video(i, "train", "class", *rest) for i, *rest in facts])
        if not self.videos:
            raise BadInputError(
                f"--root {root} has neither {RGB}-images nor {FLOW}-images; run twostream extract first"
            )

    def store(self, kind: str, input_type: str) -> FrameStore:
        return open_store(self.folder / kind, input_type)

    def dataset(self, kind: str, input_type: str, size: int) -> ClipDataset:
        videos = self.videos[input_type]
        stream = StreamConfig(input_type, "", videos.classes, size)
        step = int(np.lcm.reduce(videos.stored_step))
        items = Items(videos, stream, clip_step=step, crop=RandomCrop(size), mirror=True)
        return ClipDataset(items, self.store(kind, input_type))

    def mean_bytes(self, input_type: str) -> int:
        store, frames = self.store("folders", input_type), self.frames(self.dataset("folders", input_type, 1))
        return sum(len(store.read_bytes(*frame)) for frame in frames) // len(frames)

    def frames(self, dataset: ClipDataset) -> list[tuple[str, int]]:
        """Video id and frame index of each item."""
        items = dataset.items
        videos, starts = items.index.locate(np.arange(len(items)))
        return [(items.videos.ids[video], int(start)) for video, start in zip(videos, starts, strict=True)]

    def files(self, input_type: str, dataset: ClipDataset) -> list[str]:
        """Paths of the images of all items, flow as colours; written where they do not exist yet."""
        source, kind = self.store("folders", input_type), input_type if input_type == RGB else COLOURS
        frames = self.frames(dataset)
        paths = [self.folder / "folders" / f"{kind}-images" / v / f"{k + 1:05d}.jpg" for v, k in frames]
        for path, (video_id, frame_index) in zip(paths, frames, strict=True):
            if not path.exists():
                path.parent.mkdir(parents=True, exist_ok=True)
                image = source.read(video_id, [frame_index])[0]
                path.write_bytes(encode_jpeg(image, quality=90, chroma_subsampling=False))
        return list(map(str, paths))


# -------------------------------------------------------------------------------------------------------------- ways


class Files(Dataset):
    """Each item is one file, read by a function; torch collates."""

    def __init__(self, paths: list[str], read: Callable[[str], torch.Tensor]):
        self.paths, self.read = paths, read

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, item: int) -> tuple[torch.Tensor, int, int]:
        return self.read(self.paths[item]), 0, item


def two_d_kinectics(size: int) -> Callable[[str], torch.Tensor]:
    steps = torchvision.transforms
    transform = steps.Compose([
        steps.Resize(int(1.1 * size)), steps.RandomCrop(size), steps.RandomHorizontalFlip(), steps.ToTensor(),
        steps.Normalize(**IMAGENET),
    ])  # fmt: skip
    return lambda path: transform(Image.open(path).convert("RGB"))


def torchvision_reference(size: int) -> Callable[[str], torch.Tensor]:
    transform = v2.Compose([
        v2.RandomResizedCrop(size, antialias=True), v2.RandomHorizontalFlip(), v2.ToDtype(torch.float32, scale=True),
        v2.Normalize(**IMAGENET),
    ])  # fmt: skip
    return lambda path: transform(decode_image(read_file(path), mode=ImageReadMode.RGB))


OTHER_WAYS = {"2D-kinectics": two_d_kinectics, "torchvision": torchvision_reference}

Run = Callable[[list[list[int]]], None]
"""One row: reads batches of items"""


def in_batches(dataset: ClipDataset) -> Run:
    def run(batches: list[list[int]]) -> None:
        for items in batches:
            dataset.__getitems__(items)

    return run


def collated(dataset: Files) -> Run:
    def run(batches: list[list[int]]) -> None:
        for items in batches:
            default_collate([dataset[item] for item in items])

    return run


def bare(images: Images, dataset: ClipDataset, input_type: str) -> Run:
    """The work that every loader has to do."""
    names = images.frames(dataset)
    folder, size = images.store("folders", input_type).folder, dataset.items.crop_size
    paths = [f"{folder}/{video_id}/{frame_index + 1:05d}.jpg" for video_id, frame_index in names]
    flags = cv2.IMREAD_COLOR_RGB if input_type == RGB else cv2.IMREAD_GRAYSCALE

    def decoded(path: str) -> np.ndarray:
        with open(path, "rb") as file:
            return cv2.imdecode(np.frombuffer(file.read(), np.uint8), flags)

    height, width = decoded(paths[0]).shape[:2]
    num_planes = 1 if input_type == RGB else 2
    height //= num_planes
    y, x, side, _ = dataset.items.views[0].crop(height, width, random.Random(0))
    shape = (size, size, 3) if input_type == RGB else (2, size, size)

    def run(batches: list[list[int]]) -> None:
        batch = np.empty((max(map(len, batches)), *shape), np.uint8)
        for items in batches:
            for item, out in zip(items, batch, strict=False):
                picture = decoded(paths[item])
                for plane in range(num_planes):
                    top = plane * height + y
                    target = out if num_planes == 1 else out[plane]
                    cv2.resize(picture[top : top + side, x : x + side], (size, size), dst=target)

    return run


@dataclass(frozen=True)
class Row:
    """One way to read one kind of images."""

    case: str
    """what is read, and the side of the crops"""
    name: str
    run: Run


def case_of(input_type: str, size: int) -> str:
    return f"{'RGB' if input_type == RGB else 'flow'} {size}"


def rows_of(images: Images, sizes: tuple[int, ...]) -> list[Row]:
    rows = []
    for input_type, size in itertools.product(images.videos, sizes):
        case = case_of(input_type, size)
        datasets = {kind: images.dataset(kind, input_type, size) for kind in STORES}
        rows += [Row(case, f"ours, {kind}", in_batches(dataset)) for kind, dataset in datasets.items()]
        rows.append(Row(case, "bare", bare(images, datasets["folders"], input_type)))
        if torchvision:
            paths = images.files(input_type, datasets["folders"])
            rows += [Row(case, name, collated(Files(paths, way(size)))) for name, way in OTHER_WAYS.items()]
    return rows


def loader_rows(images: Images, size: int, *, workers: int, batch_size: int) -> list[Row]:
    """The same through DataLoaders."""
    input_type = RGB if RGB in images.videos else FLOW

    def run(make: Callable[..., DataLoader], dataset: Dataset) -> Run:
        def all_batches(batches: list[list[int]]) -> None:
            items = Subset(dataset, sum(batches, []) * LOADER_PASSES)
            for _ in make(items, batch_size=batch_size, num_workers=workers, pin_memory=False):
                pass

        return all_batches

    datasets = {kind: images.dataset(kind, input_type, size) for kind in STORES}
    runs = {f"ours, {kind}": run(eval_loader, dataset) for kind, dataset in datasets.items()}
    if torchvision:
        paths = images.files(input_type, datasets["folders"])
        runs |= {name: run(DataLoader, Files(paths, way(size))) for name, way in OTHER_WAYS.items()}
    return [Row(case_of(input_type, size), name, row) for name, row in runs.items()]


# --------------------------------------------------------------------------------------------------------- measuring


def cpu_seconds() -> float:
    """User and system time of this process and of its children that have ended, in seconds."""
    usages = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def measure(rows: list[Row], batches: dict[str, list[list[int]]], *, repeats: int) -> list[tuple[float, float]]:
    """CPU-seconds and wall-clock seconds of each row, medians."""
    found: list[list[tuple[float, float]]] = [[] for _ in rows]
    for repeat in range(repeats):
        for index in range(len(rows)) if repeat % 2 == 0 else reversed(range(len(rows))):
            cpu, wall = cpu_seconds(), time.perf_counter()
            rows[index].run(batches[rows[index].case])
            found[index].append((cpu_seconds() - cpu, time.perf_counter() - wall))
    return [tuple(median(column) for column in zip(*values, strict=True)) for values in found]


@dataclass(frozen=True)
class Goal:
    """The ratio of the costs of rows `more` and `less`, and what it should be at least."""

    text: str
    more: str
    less: str
    at_least: float | None = None

    def verdict(self, ratio: float) -> str:
        if self.at_least is None:
            return "- | -"
        return f">= {self.at_least:g} | {'met' if ratio >= self.at_least else 'not met'}"


GOALS = [
    *(Goal(f"2D-kinectics / ours, {kind}", "2D-kinectics", f"ours, {kind}", at_least=4) for kind in STORES),
    *(Goal(f"torchvision / ours, {kind}", "torchvision", f"ours, {kind}") for kind in STORES),
    *(Goal(f"bare / ours, {kind}", "bare", f"ours, {kind}", at_least=0.8) for kind in STORES),
]


def print_ratios(costs: dict[tuple[str, str], float]) -> None:
    print("\n| images | cost | ratio | goal | |\n|---|---|---|---|---|")
    for case in dict.fromkeys(case for case, _ in costs):
        for goal in GOALS:
            if costs.keys() >= {(case, goal.more), (case, goal.less)}:
                ratio = costs[case, goal.more] / costs[case, goal.less]
                print(f"| {case} | {goal.text} | {ratio:.2f} | {goal.verdict(ratio)} |")


def machine() -> str:
    """Cores, processor, versions and date, for the heading."""
    cpus = re.findall(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text()) if sys.platform == "linux" else []
    optional = f"torchvision {torchvision.__version__}, PIL {Image.__version__}" if torchvision else "no torchvision"
    return (
        f"{os.cpu_count()} cores of {cpus[0].strip() if cpus else platform.processor()}, Python "
        f"{platform.python_version()}, OpenCV {cv2.__version__}, torch {torch.__version__}, {optional}, {date.today()}"
    )


def build_parser() -> options.Parser:
    parser = options.Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add(
        "--root",
        type=options.folder,
        default=None,
        metavar="DIR",
        help="data root to take images from (default: generated ones)",
    )
    add("--videos", type=options.positive, default=40, metavar="N", help="videos that are read (default: 40)")
    add(
        "--images",
        type=options.positive,
        default=640,
        metavar="N",
        help="images read at random in each turn (default: 640)",
    )
    add(
        "--sizes",
        type=options.integers,
        default=(299, 224),
        metavar="PX,PX",
        help="sides of the crops (default: 299,224)",
    )
    add("--batch_size", type=options.positive, default=64, metavar="N", help="images a batch (default: 64)")
    add("--repeats", type=options.positive, default=5, metavar="N", help="turns of each row (default: 5)")
    add(
        "--workers",
        type=options.not_negative,
        default=0,
        metavar="N",
        help="measure DataLoaders with this many processes too (default: 0, none)",
    )
    return parser  # fmt: skip


def main() -> None:
    args = build_parser().parse_args()
    load = os.getloadavg()[0]
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        root = args.root
        if root is None:
            root = Path(folder, "generated")
            generate(root, num_videos=args.videos)
        images = Images(root, Path(folder, "copies"), num_videos=args.videos)
        rows = rows_of(images, args.sizes)
        batches = {}
        for input_type, size in itertools.product(images.videos, args.sizes):
            num_items = len(images.dataset("folders", input_type, size))
            items = random.Random(0).choices(range(num_items), k=args.images)
            batches[case_of(input_type, size)] = [
                items[k : k + args.batch_size] for k in range(0, len(items), args.batch_size)
            ]
        measure(rows, batches, repeats=1)  # so that files are in memory, and processors at full speed
        costs = measure(rows, batches, repeats=args.repeats)
        loaders = (
            loader_rows(images, args.sizes[0], workers=args.workers, batch_size=args.batch_size) if args.workers else []
        )
        loader_costs = measure(loaders, batches, repeats=args.repeats)
        mean_bytes = ", ".join(f"{name}: {images.mean_bytes(name):,} bytes" for name in images.videos)

    flags = [f"--root={args.root.name}"] if args.root else []
    flags += [f"--{name}={getattr(args, name)}" for name in ("videos", "images", "batch_size", "repeats", "workers")]
    flags.append(f"--sizes={','.join(map(str, args.sizes))}")
    print(f"`{shlex.join(['python', 'benchmarks/loader.py', *flags])}`\n")
    print(f"{args.images} images a turn, medians of {args.repeats}; {machine()}.", end=" ")
    busy = "the machine was not idle: wall-clock times do not count" if load > 0.5 else "idle"
    print(f"Load before: {load:.2f} ({busy}). Mean file sizes: {mean_bytes}.\n")

    print("| images | way | images per CPU-second | ms an image |\n|---|---|---|---|")
    for row, (cpu, _) in zip(rows, costs, strict=True):
        print(f"| {row.case} | {row.name} | {args.images / cpu:,.0f} | {1000 * cpu / args.images:.3f} |")
    if torchvision is None:
        for name in OTHER_WAYS:
            print(f"| all | {name} | {MISSING} | |")
    print_ratios({(row.case, row.name): cpu for row, (cpu, _) in zip(rows, costs, strict=True)})
    if loaders:
        num_images = args.images * LOADER_PASSES
        print(
            f"\n| DataLoader, {args.workers} processes | way | images a second | images per CPU-second |\n|---|---|---|---|"
        )
        for row, (cpu, wall) in zip(loaders, loader_costs, strict=True):
            print(f"| {row.case} | {row.name} | {num_images / wall:,.0f} | {num_images / cpu:,.0f} |")


if __name__ == "__main__":
    options.run(main)
