#!/usr/bin/env python3
"""The cost of flow, on one core and in tensor operations, its distance to the truth, and the loss of storing it.

  python benchmarks/flow.py --video=clip.mp4                            # any video; without it a moving texture
  python benchmarks/flow.py --video=clip.mp4 --ground_truth=middlebury  # end-point errors too
  python benchmarks/flow.py --video=clip.mp4 --device=cuda              # Farneback in batches on a GPU too

Methods take turns on the same pairs, so that a busy machine slows all of them down; times are CPU time, medians. A
folder of ground truth has, at any depth, folders with two images (in order of name) and a Middlebury .flo file. The
end-point error is the distance to the true flow in pixels, over all pixels whose flow is known; "coded" is the flow as
read from its flow image, which is stored as `twostream extract` does. If numba is installed, its Farneback (`extract
--flow_engine=numba`) is compared with OpenCV's; "times as fast" is the median over pairs that both compute in turn.

With --device, Farneback in tensor operations (twostream/flow/farneback.py) and, on a GPU, in kernels takes turns with
OpenCV on all cores; times are wall-clock time, and frames are in the device's memory before. "MB a pair" is counted, not
measured: the tensors that each operation, or kernel, reads and writes, once each. "Of a copy's" compares with the bytes
that a copy on the device reads and writes in the same time.
"""

import argparse
import itertools
import os
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from unittest.mock import patch

import cv2
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from twostream.errors import BadInputError, one_line
from twostream.flow.coding import FlowCoding
from twostream.flow.methods import FARNEBACK_PRESETS, FlowFunction, FlowSettings
from twostream.frames.jpeg import decode_jpeg, encode_jpeg
from twostream.preparation.settings import ExtractionSettings
from twostream.programs import options
from twostream.video.decoder import Decoder
from twostream.video.ffmpeg import VideoError

METHODS = {
    "farneback": FlowSettings("farneback"),
    "farneback, 2d-kinectics": FlowSettings("farneback", farneback=FARNEBACK_PRESETS["2d-kinectics"]),
    "dis": FlowSettings("dis"),
    "tvl1": FlowSettings("tvl1"),
}
CODING = FlowCoding()
QUALITY = 90
UNKNOWN_FLOW = 1e9
"""pixels; Middlebury's mark for flow that is not known"""
LARGE_ERROR = 3
"""pixels"""


def moving_texture(num_frames: int) -> list[np.ndarray]:
    """Grey frames (256, 340) of a texture that moves by 3 and 1 pixels per frame."""
    noise = np.random.default_rng(0).random((600, 800), np.float32)
    texture = cv2.normalize(cv2.GaussianBlur(noise, (0, 0), 3), None, 0, 255, cv2.NORM_MINMAX).astype(np.uint8)
    return [texture[k : k + 256, 3 * k : 3 * k + 340].copy() for k in range(num_frames)]


def read_grey(path: Path, num_frames: int) -> list[np.ndarray]:
    """The first frames of a video, grey, with a short side of 256 pixels."""
    try:
        with closing(iter(Decoder(path, short_side=256))) as decoded:
            frames = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in itertools.islice(decoded, num_frames)]
    except VideoError as error:
        raise BadInputError(f"--video {path}: {error}") from None
    if len(frames) < 2:
        raise BadInputError(f"--video {path} has one frame, expected two or more, for flow")
    return frames


def print_row(*cells: object) -> None:
    print(f"| {' | '.join(map(str, cells))} |")


def print_head(*cells: object) -> None:
    print()
    print_row(*cells)
    print(f"|{'---|' * len(cells)}")


# ---------------------------------------------------------------------------------------------------------- cost


def timed(function: FlowFunction, pair: tuple[np.ndarray, np.ndarray]) -> tuple[np.ndarray, float]:
    """The flow, and the CPU time it took in milliseconds."""
    start = time.process_time()
    flow = function(*pair)
    return flow, 1000 * (time.process_time() - start)


def compare_costs(functions: dict[str, FlowFunction], frames: list[np.ndarray]) -> list[np.ndarray]:
    """Print the costs of the methods; returns the flow of the default method."""
    costs: dict[str, list[float]] = {name: [] for name in functions}
    flows = []
    for pair in itertools.pairwise(frames):
        for name, function in functions.items():
            flow, cost = timed(function, pair)
            costs[name].append(cost)
            if name == "farneback":
                flows.append(flow)
    print_head("method", "ms a pair", "times the default")
    for name, values in costs.items():
        print_row(name, f"{median(values):,.2f}", f"{median(values) / median(costs['farneback']):.2f}")
    return flows


def compare_engines(frames: list[np.ndarray]) -> None:
    """Print the costs of Farneback by OpenCV and by numba, and how far they agree."""
    if not find_spec("numba"):
        print("\nnumba is not installed: pip install 'twostream-video[numba]' to compare it with OpenCV")
        return
    print_head(
        *("Farneback on one core", "OpenCV, ms a pair", "numba, ms a pair", "times as fast", "first pair, s"),
        *("within 0.1 px, %", "same bytes, %"),
    )
    for preset, parameters in FARNEBACK_PRESETS.items():
        settings = FlowSettings("farneback", farneback=parameters)
        functions = settings.function(), settings.function("numba")
        first_cost = timed(functions[1], (frames[0], frames[0]))[1] / 1000  # compiled, or loaded from the disk
        rows = [[timed(function, pair) for function in functions] for pair in itertools.pairwise(frames)]
        truth, found = (np.stack([row[k][0] for row in rows]) for k in (0, 1))
        costs = np.array([[cost for _, cost in row] for row in rows])
        print_row(
            preset,
            *(f"{cost:.2f}" for cost in np.median(costs, axis=0)),
            f"{np.median(costs[:, 0] / costs[:, 1]):.2f}",
            f"{first_cost:.1f}",
            *(f"{share:.4f}" for share in agreement(found, truth)),
        )


# ---------------------------------------------------------------------------------------------------------- accuracy


def read_truth(folder: Path) -> dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Name -> two grey images (H, W) uint8 and the flow (H, W, 2) float32 between them."""
    truth = {}
    for path in sorted(folder.rglob("*.flo")):
        images = sorted(p for p in path.parent.iterdir() if p.suffix.lower() in (".png", ".jpg", ".ppm"))
        if len(images) != 2:
            raise BadInputError(f"{path.parent} has {len(images)} images beside {path.name}, expected two")
        first, second = (cv2.imread(str(image), cv2.IMREAD_GRAYSCALE) for image in images)
        truth[path.parent.name] = first, second, cv2.readOpticalFlow(str(path))
    if not truth:
        raise BadInputError(f"--ground_truth {folder} has no .flo file below it")
    return truth


def end_point_errors(flow: np.ndarray, truth: np.ndarray) -> tuple[float, float]:
    """Mean end-point error in pixels, and the percentage of pixels where it is above LARGE_ERROR."""
    known = (np.abs(truth) < UNKNOWN_FLOW).all(axis=-1)
    lengths = np.linalg.norm(flow[known] - truth[known], axis=-1)
    return lengths.mean(), 100 * (lengths > LARGE_ERROR).mean()


def stored(flow: np.ndarray) -> np.ndarray:
    """The flow as it comes back from its flow image."""
    quality = ExtractionSettings().flow_quality
    jpeg = encode_jpeg(CODING.encode_planes(flow), quality=quality, chroma_subsampling=False)
    return CODING.decode(decode_jpeg(jpeg, "farneback"))


def compare_accuracy(functions: dict[str, FlowFunction], folder: Path, *, repeats: int) -> None:
    """Print time and end-point errors of each method on each pair with ground truth."""
    print_head(
        "method", "pair", "ms", "error, px", f"> {LARGE_ERROR} px, %", "coded: error, px", f"> {LARGE_ERROR} px, %"
    )
    for pair_name, (first, second, truth) in read_truth(folder).items():
        costs: dict[str, list[float]] = {name: [] for name in functions}
        flows = {}
        for _ in range(repeats):
            for name, function in functions.items():
                flows[name], cost = timed(function, (first, second))
                costs[name].append(cost)
        for name, flow in flows.items():
            errors = *end_point_errors(flow, truth), *end_point_errors(stored(flow), truth)
            print_row(name, pair_name, f"{median(costs[name]):,.1f}", *(f"{error:.3f}" for error in errors))


# ------------------------------------------------------------------------------------------------------------ coding


Code = Callable[[np.ndarray], tuple[np.ndarray, int]]
"""A flow image (H, W, 3) uint8 -> its x and y (H, W, 2) after JPEG, and the number of bytes"""


def three_channels(chroma_subsampling: bool) -> Code:
    """x, y and magnitude as the colours of one image."""

    def code(image: np.ndarray) -> tuple[np.ndarray, int]:
        jpeg = encode_jpeg(image, quality=QUALITY, chroma_subsampling=chroma_subsampling)
        return cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR_RGB)[..., :2], len(jpeg)

    return code


def grey_plane(plane: np.ndarray, quality: int) -> tuple[np.ndarray, int]:
    jpeg = cv2.imencode(".jpg", plane, [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
    return cv2.imdecode(jpeg, cv2.IMREAD_GRAYSCALE), len(jpeg)


def two_planes(quality: int) -> Code:
    """x and y as two grey images."""

    def code(image: np.ndarray) -> tuple[np.ndarray, int]:
        planes, sizes = zip(*(grey_plane(image[..., axis], quality) for axis in (0, 1)), strict=True)
        return np.stack(planes, axis=-1), sum(sizes)

    return code


def stacked_planes(quality: int) -> Code:
    """x above y in one grey image."""

    def code(image: np.ndarray) -> tuple[np.ndarray, int]:
        plane, size = grey_plane(np.vstack([image[..., 0], image[..., 1]]), quality)
        return np.stack(np.vsplit(plane, 2), axis=-1), size

    return code


CODINGS: dict[str, Code] = {
    "x, y, magnitude, quality 90 (`--flow_coding=colour`)": three_channels(False),
    "the same with chroma subsampling": three_channels(True),
    "x and y, two grey images, quality 90": two_planes(90),
    "x and y, two grey images, quality 75": two_planes(75),
    "x above y, one grey image, quality 90": stacked_planes(90),
    "x above y, one grey image, quality 75 (ours)": stacked_planes(75),
}


def compare_codings(flows: list[np.ndarray]) -> None:
    """Print error and size of each way to store flow images as JPEG."""
    images = [CODING.encode(flow) for flow in flows]
    print_head("coding", "error in x and y, grey levels", "bytes a pair")
    for name, code in CODINGS.items():
        errors, sizes = [], []
        for image in images:
            decoded, size = code(image)
            errors.append(np.abs(decoded.astype(float) - image[..., :2]).mean())
            sizes.append(size)
        print_row(name, f"{np.mean(errors):.2f}", f"{np.mean(sizes):,.0f}")


# ----------------------------------------------------------------------------------------------------------- devices


def on_all_cores(function: FlowFunction, frames: list[np.ndarray]) -> None:
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:  # OpenCV releases Python's lock
        for _ in pool.map(function, frames[:-1], frames[1:]):
            pass


def seconds(work: Callable[[], object], synchronize: Callable[[], None]) -> float:
    synchronize()
    start = time.perf_counter()
    work()
    synchronize()
    return time.perf_counter() - start


def num_bytes(values: object) -> int:
    """Size of the tensors in nested tuples and lists; what is repeated by a stride of 0 counts once."""
    import torch

    if isinstance(values, torch.Tensor):
        sizes = [size for size, stride in zip(values.shape, values.stride(), strict=True) if stride]
        return int(np.prod(sizes)) * values.element_size()
    return sum(map(num_bytes, values)) if isinstance(values, tuple | list) else 0


def count_bytes(work: Callable[[], object]) -> int:
    """Bytes that the operations of `work` read and write, and our kernels among them."""
    from torch.utils._python_dispatch import TorchDispatchMode

    total = 0

    class Counter(TorchDispatchMode):
        def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
            nonlocal total
            result = operation(*args, **(kwargs or {}))
            name = operation.overloadpacket.__name__
            if name in ("index_select", "copy_", "_to_copy"):  # these read as much as they write
                total += 2 * num_bytes(result)
            elif not operation.is_view and "empty" not in name:
                total += num_bytes(args) + num_bytes(result)
            return result

    with ExitStack() as counters:
        if find_spec("triton"):
            from twostream.flow import farneback_kernels

            run = farneback_kernels.run

            def counted(kernel, programs, *inputs, **constants):
                nonlocal total
                total += num_bytes(inputs)
                run(kernel, programs, *inputs, **constants)

            counters.enter_context(patch.object(farneback_kernels, "run", counted))
        counters.enter_context(Counter())
        work()
    return total


def agreement(found: np.ndarray, truth: np.ndarray) -> tuple[float, float]:
    """Percent of pixels within 0.1 pixels of the true flow (N, H, W, 2), and of flow images' bytes that are the same."""
    same = [CODING.encode_planes(a) == CODING.encode_planes(b) for a, b in zip(found, truth, strict=True)]
    return 100 * float((np.abs(found - truth) < 0.1).all(-1).mean()), 100 * float(np.mean(same))


def compare_devices(frames: list[np.ndarray], device_name: str, *, num_pairs: int | None, repeats: int) -> None:
    import torch

    from twostream.flow.farneback import Farneback

    try:
        device = torch.device(device_name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:  # AssertionError from a torch without CUDA
        raise BadInputError(f"--device {device_name} cannot be used: {one_line(error)}") from None
    on_gpu = device.type == "cuda"
    synchronize = (lambda: torch.cuda.synchronize(device)) if on_gpu else (lambda: None)
    values = torch.zeros((1 << 30) if on_gpu else (1 << 24), device=device)
    bandwidth = 2 * values.nbytes / min(seconds(values.clone, synchronize) for _ in range(5))
    del values
    print(f"\ntorch {torch.__version__} on {torch.cuda.get_device_name(device) if on_gpu else device.type}:", end=" ")
    print(f"a copy reads and writes {bandwidth / 1e9:,.0f} GB/s; OpenCV on {len(os.sched_getaffinity(0))} cores")
    print_head(
        *("Farneback", "pairs at a time", "pairs/s", "times OpenCV's", "MB a pair", "GB/s", "of a copy's"),
        *("within 0.1 px, %", "same bytes, %"),
    )
    for preset, parameters in FARNEBACK_PRESETS.items():
        function = FlowSettings("farneback", farneback=parameters).function()
        truth = np.stack([function(*pair) for pair in itertools.pairwise(frames)])
        # The work, its number of pairs, bytes and agreement.
        works: dict[str, tuple[Callable[[], object], int, float, tuple[float, float]]] = {
            "OpenCV, all cores": (lambda function=function: on_all_cores(function, frames), len(truth), 0, (100, 100))
        }
        for fused in (False, True)[: 1 + on_gpu]:
            method = Farneback(*frames[0].shape, device=device, fused=fused, **asdict(parameters))
            found = method.sequence(torch.from_numpy(np.stack(frames))).cpu().numpy()
            num = num_pairs or method.chunk()
            batch = torch.from_numpy(np.stack([frames[k % len(frames)] for k in range(num + 1)])).to(device)
            for name, work in (
                ("pairs", lambda method=method, batch=batch: method.pairs(batch[:-1], batch[1:])),
                ("a sequence", lambda method=method, batch=batch: method.sequence(batch)),
            ):
                work()  # compiles the kernels
                moved = count_bytes(work) / num
                works[f"{'kernels' if fused else 'plain operations'}, {name}"] = (
                    work,
                    num,
                    moved,
                    agreement(found, truth),
                )
        times: dict[str, list[float]] = {name: [] for name in works}
        for _ in range(repeats):
            for name, (work, *_) in works.items():
                times[name].append(seconds(work, synchronize))
        rates = {name: num / median(times[name]) for name, (_, num, *_) in works.items()}
        for name, (_, num, moved, agreements) in works.items():
            ratio = f"{rates[name] / rates['OpenCV, all cores']:.2f}"
            memory = [f"{moved / 1e6:,.1f}", f"{moved * rates[name] / 1e9:,.1f}"]
            share = f"{100 * moved * rates[name] / bandwidth:.0f} %"
            print_row(
                f"{preset}: {name}",
                num,
                f"{rates[name]:,.1f}",
                ratio,
                *([*memory, share] if moved else "---"),
                *(f"{a:.4f}" for a in agreements),
            )


def build_parser() -> options.Parser:
    parser = options.Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--video", type=options.folder, metavar="FILE", help="decoded to short side 256")
    add("--pairs", type=options.positive, default=20, metavar="N", help="pairs of its frames (default: 20)")
    add("--ground_truth", type=options.folder, metavar="DIR", help="image pairs with the flow between them")
    add("--repeats", type=options.positive, default=5, metavar="N", help="runs on each of these pairs (default: 5)")
    add("--tvl1", action="store_true", help="measure tvl1 too, which takes seconds for a pair")
    add(
        "--device",
        metavar="NAME",
        help="measure Farneback in tensor operations too, on this device: cpu, cuda or cuda:1",
    )
    add(
        "--batch",
        type=options.positive,
        metavar="N",
        help="pairs at a time on this device (default: as many as the memory allows)",
    )
    return parser


def main() -> None:
    args = build_parser().parse_args()
    cv2.setNumThreads(1)
    frames = read_grey(args.video, args.pairs + 1) if args.video else moving_texture(args.pairs + 1)
    height, width = frames[0].shape
    print(f"{len(frames) - 1} pairs of {width}x{height}, one thread, OpenCV {cv2.__version__}")
    methods = {name: settings for name, settings in METHODS.items() if settings.method != "tvl1" or args.tvl1}
    functions = {name: settings.function() for name, settings in methods.items()}
    compare_codings(compare_costs(functions, frames))
    compare_engines(frames)
    if args.ground_truth:
        compare_accuracy(functions, args.ground_truth, repeats=args.repeats)
    if args.device:
        compare_devices(frames, args.device, num_pairs=args.batch, repeats=args.repeats)


if __name__ == "__main__":
    options.run(main)
