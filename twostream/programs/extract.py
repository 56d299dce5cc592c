"""Videos -> RGB frames and optical-flow images, each video decoded once.

Writes <root>/rgb-images/<video id>/00001.jpg ... and <root>/farneback-images/<video id>/00001.jpg ..., or with
--store=packed a few tar files. A video appears when it is complete; running the command again skips what is done and
tries the rest. With --store=videos the RGB frames of each video become one short H.264 file, <root>/rgb-images/<video
id>/video.mp4, a fifth as large as JPEG images, from which training decodes the frames that it needs. Without --videos,
flow is computed from the frames in <root>/rgb-images, of all videos or of those of --list, at their size and rate.

Many machines: --shard=0/16 ... 15/16 in one job each, or --scheduler with a Dask cluster.

With --flow_device=cuda, a GPU computes the flow for all workers, which decode, encode and write. The images equal the
ones of the CPU except for rounding, so a data root begun with one may be continued with the other. So may one begun with
--flow_engine=numba, which takes half of OpenCV's time on the CPU.

Exit codes: 0 all done; 2 wrong command line; 3 a list is wrong, or settings differ from the ones of the existing images;
4 disk full or program missing; 5 done, but some videos were bad and are listed in <root>/failed_videos.jsonl;
130 Ctrl-C; 143 SIGTERM.
"""

import argparse
import os
import re
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from twostream.annotations.lists import READERS, read_lists
from twostream.attempts import sweep_files
from twostream.counts import counted
from twostream.errors import EXIT_DONE, EXIT_SOME_BAD, BadInputError, EnvironmentFaultError
from twostream.flow.coding import FlowCoding
from twostream.flow.methods import (
    FARNEBACK_PRESETS,
    FLOW_ENGINES,
    FLOW_METHODS,
    FarnebackParameters,
    FlowSettings,
    flow_types,
)
from twostream.flow.service import FlowService, NoGpuError
from twostream.frames.encoded import EncodedVideos
from twostream.frames.store import FrameStore
from twostream.frames.stores import EXTRACTED_STORES, open_store
from twostream.preparation.extraction import Extracted, ExtractionJob, extract_video
from twostream.preparation.failures import add_failure, is_known, log_path, read_failures, rewrite_failures
from twostream.preparation.plan import make_plan
from twostream.preparation.settings import (
    ExtractionSettings,
    claim_tree,
    settings_for_stored_frames,
    takes_square_pixels,
)
from twostream.preparation.workers import PROGRAM_ERROR, Failure, raise_program_errors, run_jobs
from twostream.programs import options
from twostream.programs.options import list_file
from twostream.stream import MOTION_VECTORS, RGB
from twostream.terminal import printable
from twostream.threads import available_cpus
from twostream.video.encoder import VideoEncoding, check_h264_encoder
from twostream.video.ffmpeg import VideoError, find_ffmpeg
from twostream.video.ids import check_video_id, find_videos
from twostream.video.random_access import import_av

NUM_SHOWN = 20
"""bad videos printed at the end; failed_videos.jsonl has all"""

Segment = tuple[float, float]
"""start and end in seconds"""
Source = tuple[Path | None, Segment | None]
"""the file of a video, None where its frames are stored already; and what is cut out of it, None where nothing is"""


def flow_device(text: str) -> str:
    """The name of a device, as --flow_device takes it."""
    if not re.fullmatch(r"cpu|torch-cpu|cuda(:\d+)?", text):
        raise argparse.ArgumentTypeError(f"{text!r}, expected cpu, cuda, cuda:1 or torch-cpu")
    return text


# fmt: off
def build_parser() -> options.Parser:
    """The flags of the program."""
    parser = options.Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--videos", type=options.folder, metavar="DIR", help="folder of videos, at any depth (default: use the frames in --root)")
    add("--root", type=options.folder, required=True, metavar="DIR", help="data root to write into")
    add("--input_types", type=options.names, default=None, metavar="A,B",
        help="rgb and flow methods: farneback; dis (a ninth of its time); tvl1 (84 times its time); mv: no flow is computed, but the motion vectors of the video files are read, see docs/motion.md (default: rgb,farneback; rgb with --store=videos)")
    add("--workers", "-j", type=options.integer(1, options.MAX_PROCESSES), default=available_cpus(), metavar="N", help="processes (default: all CPUs that may be used, %(default)s here)")
    add("--store", choices=tuple(EXTRACTED_STORES), default=None, help="images in a folder for each video, or packed into a few tar files; or videos, encoded again, of the RGB frames (default: what --root has, else folders)")
    add("--ids", choices=("stem", "path"), default="stem", help="video id: the file's stem, or its path below --videos with __ for / (default: stem)")

    group = parser.add_argument_group("a part of the videos")
    group.add_argument("--list", type=list_file, nargs="+", action="extend", metavar="FILE", help="only the videos of this list, as for twostream annotate; without --videos, those of them whose frames are stored")
    group.add_argument("--format", choices=tuple(READERS), default="csv", help="kind of list (default: csv)")
    group.add_argument("--split", type=int, choices=(1, 2, 3), default=1, help="which split of ucf101 and hmdb51 (default: 1)")
    options.add_boolean(group, "--trim", default=False, help="cut videos to the list's segments; their ids are <id>_<start>_<end>")
    group.add_argument("--shard", type=options.part, default=None, metavar="I/N", help="part I of N of the videos, I from 0, as in a Slurm array")

    group = parser.add_argument_group("running")
    options.add_boolean(group, "--plan", default=False, help="print what is left to do, how long it takes and whether it fits on the disk, then stop")
    options.add_boolean(group, "--check_space", default=True, help="do not start if the disk is too small for the plan (default: True)")
    options.add_boolean(group, "--retry_failed", default=False, help="also try videos that failed before and have not changed")
    group.add_argument("--time_limit", type=options.number(0, 1_000_000), default=120, metavar="S", help="seconds to wait for ffmpeg, plus 30 s for each second of video (default: 120)")
    group.add_argument("--max_seconds", type=options.number(0, 1_000_000), default=3600, metavar="S", help="longer videos are listed as bad; 0: no limit (default: 3600)")
    group.add_argument("--scheduler", default="", metavar="ADDRESS", help="run on a Dask cluster, such as tcp://host:8786; its workers need the same paths")

    group = parser.add_argument_group("frames")
    group.add_argument("--short_side", type=options.not_negative, default=256, metavar="PX", help="resize frames to this short side; 0: keep the size (default: 256)")
    group.add_argument("--fps", type=options.rate, default=0, metavar="N", help="resample to this rate; 0: every frame of the file, once (default: 0)")
    group.add_argument("--frame_step", type=options.integer(1, 1_000_000), default=1, metavar="N", help="store only every Nth frame and its flow (default: 1)")
    group.add_argument("--quality", type=options.not_negative, default=None, metavar="Q", help=f"JPEG quality of frames (default: {ExtractionSettings.quality})")
    group.add_argument("--gop", type=options.integer(1, 1000), default=None, metavar="N", help=f"for --store=videos: a key frame every N frames; half as many are decoded before the first frame of a clip (default: {VideoEncoding.gop})")
    group.add_argument("--crf", type=options.not_negative, default=None, metavar="Q", help=f"for --store=videos: constant quality of H.264, 0 to 51; lower is better and larger (default: {VideoEncoding.crf}, which looks like the original)")
    group.add_argument("--sar", choices=("square", "ignore"), default=None,
                       help="pixels that are not square: scale the width until they are, or ignore it, as version 0.1 did (default: what --root has, else square)")
    options.add_boolean(group, "--accept_partial", default=False, help="keep the readable frames of a damaged video (default: list it as bad)")

    group = parser.add_argument_group("flow")
    group.add_argument("--flow_device", type=flow_device, default="cpu", metavar="NAME",
                       help="cpu: each worker; cuda, cuda:1: Farneback for all workers on that GPU, or each worker if there is none; torch-cpu: the code for GPUs on the CPU, for tests (default: cpu)")
    group.add_argument("--flow_engine", choices=FLOW_ENGINES, default="opencv",
                       help="how workers compute farneback: by OpenCV, or the same steps compiled by numba, in half the time; needs pip install numba (default: opencv)")
    group.add_argument("--mv_fallback", choices=tuple(FLOW_METHODS), default="", help="for --input_types=mv: compute this flow for videos whose files have no motion vectors, and record it with them (default: list them as bad)")
    group.add_argument("--bound", type=options.rate, default=None, metavar="PX", help="largest motion that a flow image can hold in its 8 bits (default: 20; 8 with the coding of 2D-kinectics)")
    group.add_argument("--flow_coding", choices=("planes", "colour", "2d-kinectics"), default="planes",
                       help="planes: x above y in one grey image; colour: x, y and magnitude as colours; 2d-kinectics: colour with its 128//bound levels per pixel (default: planes)")
    group.add_argument("--flow_quality", type=options.not_negative, default=None, metavar="Q", help="JPEG quality of flow images (default: 75; 90 for colours); planes of motion vectors always have 100")
    group.add_argument("--flow_preset", choices=tuple(FARNEBACK_PRESETS), default="default",
                       help="Farneback parameters: OpenCV's usual call, or the ones of 2D-kinectics' flow and weights, at 2.3 times the cost")
    for name, help_text in [
        ("pyr_scale", "size of a pyramid level relative to the one below it"),
        ("levels", "pyramid levels"),
        ("win_size", "averaging window, pixels"),
        ("iterations", "iterations per level"),
        ("poly_n", "neighbourhood of the polynomial expansion, 5 or 7 pixels"),
        ("poly_sigma", "standard deviation of its Gaussian, pixels"),
    ]:
        default = getattr(FARNEBACK_PRESETS["default"], name)
        group.add_argument(f"--{name}", type=options.rate if isinstance(default, float) else options.integer(1, 1000), metavar="N", help=f"Farneback: {help_text} (default: the preset's, {default})")
    return parser
# fmt: on


def build_settings(args: argparse.Namespace) -> ExtractionSettings:
    """Flags -> settings; raises ValueError naming the flag."""
    encoding = build_encoding(args)
    input_types = args.input_types or ((RGB,) if encoding else (RGB, "farneback"))
    for input_type in input_types:
        if input_type not in (RGB, *flow_types()):
            raise ValueError(f"--input_types: {input_type!r}, expected {', '.join((RGB, *flow_types()))}")
    preset = FARNEBACK_PRESETS[args.flow_preset]
    given = {name: getattr(args, name) for name in vars(preset) if getattr(args, name) is not None}
    old_coding = args.flow_coding == "2d-kinectics"
    planes = args.flow_coding == "planes"
    default_bound = 8 if old_coding else 20
    bound = default_bound if args.bound is None else args.bound
    default_quality = 75 if planes else 90
    coding = FlowCoding(bound=bound, integer_scale=old_coding, planes=planes)
    farneback = FarnebackParameters(**(vars(preset) | given))
    methods = [input_type for input_type in dict.fromkeys(input_types) if input_type != RGB]
    return ExtractionSettings(
        short_side=args.short_side,
        fps=args.fps,
        stored_step=args.frame_step,
        quality=ExtractionSettings.quality if args.quality is None else args.quality,
        flow_quality=default_quality if args.flow_quality is None else args.flow_quality,
        flow=tuple(FlowSettings(method, coding=coding, farneback=farneback) for method in methods),
        rgb=RGB in input_types,
        square_pixels=args.sar != "ignore",
        accept_partial=args.accept_partial,
        max_seconds=args.max_seconds,
        time_limit=args.time_limit,
        mv_fallback=args.mv_fallback,
        encoding=encoding,
    )


def build_encoding(args: argparse.Namespace) -> VideoEncoding | None:
    """How a store of videos is encoded; None for stores of images. Raises ValueError naming the flag."""
    given = {name: getattr(args, name) for name in ("gop", "crf") if getattr(args, name) is not None}
    if args.store != EncodedVideos.kind:
        if given:
            raise ValueError(f"--{next(iter(given))} is for --store=videos")
        return None
    if args.quality is not None:
        raise ValueError("--quality is for JPEG images, and --crf for --store=videos")
    if flow := [input_type for input_type in args.input_types or () if input_type != RGB]:
        raise ValueError(
            f"--store=videos has RGB frames only, not {', '.join(flow)}: leave out --input_types, and train streams of flow with "
            "--flow=online"
        )
    return VideoEncoding(**given)


def list_jobs(args: argparse.Namespace, settings: ExtractionSettings) -> list[ExtractionJob]:
    """All videos that the flags select, whether done or not, in order of id.

    Their paths are absolute, for workers of a cluster that were started in other folders.
    """
    sources = find_stored(args) if args.videos is None else find_sources(args)
    selected = sorted(sources)[slice(args.shard[0], None, args.shard[1]) if args.shard else slice(None)]
    root = str(args.root.absolute())
    return [
        ExtractionJob(root, check_video_id(video_id), file, settings, segment, args.store)
        for video_id in selected
        for path, segment in [sources[video_id]]
        for file in [None if path is None else str(path.absolute())]
    ]


def find_stored(args: argparse.Namespace) -> dict[str, Source]:
    """The videos whose frames are stored below --root, by id: neither file nor segment."""
    stored = dict.fromkeys(open_store(args.root, RGB).video_ids())
    if not stored:
        raise BadInputError(f"{args.root}/rgb-images has no videos: name a folder of videos with --videos")
    return select_listed(args, stored, f"{args.root}/rgb-images")


def find_sources(args: argparse.Namespace) -> dict[str, Source]:
    """Video id -> its file, and the segment to cut out of it (None: the whole file)."""
    if not args.videos.is_dir():
        raise BadInputError(f"--videos {args.videos} is not a folder")
    files, num_others = find_videos(args.videos, id_from=args.ids)
    if not files:
        raise BadInputError(f"--videos {args.videos} holds no video files ({counted(num_others, 'other file')})")
    print(f"{args.videos}: {counted(len(files), 'video')}, {counted(num_others, 'other file')}")
    return select_listed(args, files, str(args.videos))


def select_listed(args: argparse.Namespace, files: Mapping[str, Path | None], where: str) -> dict[str, Source]:
    """Of the videos in a folder, which messages call `where`: those of --list and their segments; all without a list."""
    if not args.list:
        return {video_id: (path, None) for video_id, path in files.items()}
    sources: dict[str, Source] = {}
    missing = []
    for listed in read_lists(args.format, args.list, id_from=args.ids, split_number=args.split):
        found = next((video_id for video_id in listed.ids if video_id in files), None)
        if found is None:
            missing.append(listed.ids[0])
        elif args.trim and listed.segment and found != listed.ids[0]:
            sources[listed.ids[0]] = files[found], listed.segment
        else:  # a file named after its segment is already cut
            sources[found] = files[found], None
    examples = missing[:5] + (["..."] if len(missing) > 5 else [])
    print(f"{len(sources)} of {counted(len(sources) + len(missing), 'listed video')} exist", end="")
    print(f"; missing: {', '.join(examples)}" if missing else "")
    if not sources:
        raise BadInputError(f"none of the videos listed in {args.list[0][1]} is in {where}; compare the ids (--ids)")
    return sources


def open_flow_service(args: argparse.Namespace, settings: ExtractionSettings, stack: ExitStack) -> FlowService | None:
    """The process that computes flow on --flow_device, until `stack` is closed; None where the workers compute it."""
    if args.flow_device == "cpu" or not settings.flow:
        return None
    (farneback,) = settings.flow
    try:
        service = stack.enter_context(FlowService(args.flow_device, farneback, stored_step=settings.stored_step))
    except NoGpuError as error:
        engine = "OpenCV" if args.flow_engine == "opencv" else args.flow_engine
        print(f"--flow_device={args.flow_device}: {error}; flow is computed by {engine} on the CPU")
        return None
    if service.note:
        print(f"{service.device.name}: {service.note}")
    return service


def compile_flow(settings: ExtractionSettings, engine: str) -> None:
    """Compile an engine's code, which workers then find on the disk, or load it from there."""
    start, still = time.perf_counter(), np.zeros((64, 64), np.uint8)
    for flow in settings.flow:
        flow.function(engine)(still, still)
        print(f"--flow_engine={engine}: compiled or loaded in {time.perf_counter() - start:.1f} s", flush=True)


def sweep_stores(stores: list[FrameStore]) -> None:
    """Remove what workers left that a signal ended while they were removing it themselves.

    Errors are ignored, so that the reason for the end of the run is reported and not an error of this.
    """
    for store in stores:
        with suppress(OSError):  # the next run sweeps too, and reports it
            store.sweep()


class ExtractionSummary:
    """Adds up the results of an extraction, and prints them at the end."""

    def __init__(self, failures: dict[str, dict[str, Any]], *, failures_path: Path):
        """`failures`: videos that failed before and are not tried again, by id; new ones go to `failures_path` too."""
        self.failures = failures
        self.failures_path = failures_path
        self.num_images = self.num_bytes = self.num_partial = 0
        self.notes: Counter[str] = Counter()
        self.program_errors: list[Failure] = []
        self.seconds = 0.0
        self.flow_report = ""
        """what the flow device has done; "" without one"""

    def add(self, job: ExtractionJob, result: Extracted | Failure) -> None:
        """Take the result of one job."""
        if isinstance(result, Failure):
            self.failures[job.video_id] = add_failure(self.failures_path, job, result)
            self.program_errors += [result] if result.kind == PROGRAM_ERROR else []
        else:
            self.num_images += result.num_images
            self.num_bytes += result.num_bytes
            self.num_partial += bool(result.damage)
            self.notes.update(result.notes)

    def print_results(self, root: Path, input_types: Sequence[str], *, num_videos: int, noun: str) -> None:
        """Print what was written, images or frames (`noun`); `num_videos` counts all videos that were asked for."""
        rate = self.num_images / max(self.seconds, 1e-9)
        print(
            f"{counted(self.num_images, noun)}, {self.num_bytes / 1e6:.1f} MB in {self.seconds:.1f} s ({rate:.0f} {noun}s/s)"
        )
        folders = ", ".join(f"{input_type}-images" for input_type in input_types)
        print(
            f"{num_videos - len(self.failures)} of {counted(num_videos, 'video is', 'videos are')} in {root}: {folders}"
        )
        if self.flow_report:
            print(self.flow_report)
        if self.num_partial:
            print(f"kept in part (--accept_partial): {counted(self.num_partial, 'damaged video')}")
        for note, count in self.notes.most_common():
            print(f"{counted(count, 'video')}: {printable(note)}")

    def print_failures(self, *, max_seconds: float) -> None:
        """Print the bad videos to stderr, and what to do about them."""
        kinds = Counter(failure["kind"] for failure in self.failures.values())
        counts = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common())
        print(f"{counted(len(self.failures), 'bad video')}: {counts}", file=sys.stderr)
        for _, failure in sorted(self.failures.items())[:NUM_SHOWN]:
            print(f"  {printable(failure['file'] or failure['id'])}: {printable(failure['reason'])}", file=sys.stderr)
        if kinds["too long"]:
            print(f"videos over {max_seconds:g} s were not decoded: --max_seconds=0 allows any length", file=sys.stderr)
        print(f"all are listed in {self.failures_path}; run this command again after fixing files", file=sys.stderr)


def check_flags(parser: options.Parser, args: argparse.Namespace) -> ExtractionSettings:
    """The settings of the flags; ends the program with a message where flags contradict each other."""
    try:
        settings = build_settings(args)
    except ValueError as error:
        parser.error(str(error))
    if args.videos is None and settings.rgb:
        parser.error("--input_types has rgb, so --videos must name the folder of videos")
    if args.videos is None and MOTION_VECTORS in settings.input_types:
        parser.error("--input_types has mv, which is read from encoded videos, so --videos must name their folder")
    if args.mv_fallback and MOTION_VECTORS not in settings.input_types:
        parser.error("--mv_fallback is for --input_types=mv")
    if settings.encoding and Path(os.path.realpath(args.root)).is_relative_to(os.path.realpath(args.videos)):
        parser.error(
            f"--root {args.root} is inside --videos {args.videos}, so the new videos would be among the old ones"
        )
    if args.trim and not (args.videos and args.list):
        parser.error("--trim needs --videos, and --list with the segments")
    others = ", ".join(flow.method for flow in settings.flow if flow.method != "farneback")
    if others and args.flow_engine != "opencv":
        parser.error(f"--flow_engine={args.flow_engine} computes only farneback, not {others}")
    if args.flow_device != "cpu":
        if others:
            parser.error(f"--flow_device={args.flow_device} computes only farneback, not {others}")
        if settings.flow and args.scheduler:
            parser.error("--flow_device is for the workers of one machine: use --shard instead of --scheduler")
    return settings


def find_open_jobs(
    args: argparse.Namespace, jobs: list[ExtractionJob], stores: list[FrameStore]
) -> tuple[list[ExtractionJob], dict[str, dict[str, Any]]]:
    """The jobs that are left to do, and the listed failures of videos that would fail again, by id."""
    done = set.intersection(*(set(store.video_ids()) for store in stores))  # faster than asking for each video
    open_jobs = [job for job in jobs if job.video_id not in done]
    num_done = len(jobs) - len(open_jobs)
    known = {} if args.retry_failed else read_failures(args.root)
    failures = {job.video_id: known[job.video_id] for job in open_jobs if is_known(job, known)}
    print(f"{num_done} of {counted(len(jobs), 'video is', 'videos are')} already done", end="")
    print(f", {len(failures)} failed before and have not changed (--retry_failed tries them)" if failures else "")
    return [job for job in open_jobs if job.video_id not in failures], failures


def print_plan(args: argparse.Namespace, jobs: list[ExtractionJob]) -> None:
    """Print what the jobs will take; raises EnvironmentFaultError where the disk is too small."""
    plan = make_plan(jobs, num_workers=args.workers)
    print(f"{plan.to_text()}; {args.scheduler or f'{args.workers} workers'}", flush=True)
    if plan.shortage and args.check_space:
        raise EnvironmentFaultError(
            f"{args.root}: {plan.shortage}; free some space, use --store=packed, --store=videos or a smaller --short_side, "
            "or continue with --check_space=False"
        )


def run_extraction(
    args: argparse.Namespace,
    settings: ExtractionSettings,
    jobs: list[ExtractionJob],
    stores: list[FrameStore],
    summary: ExtractionSummary,
) -> None:
    """Print the plan for these jobs and, without --plan, do them; their results go to `summary`."""
    with ExitStack() as stack:
        if not args.plan:
            stack.callback(sweep_stores, stores)
        service = open_flow_service(args, settings, stack) if jobs else None
        if service:
            jobs = [replace(job, flow_device=service.device) for job in jobs]
        elif jobs and args.flow_engine != "opencv":
            compile_flow(settings, args.flow_engine)
            jobs = [replace(job, flow_engine=args.flow_engine) for job in jobs]
        if jobs:
            print_plan(args, jobs)
        if args.plan:
            return

        start = time.perf_counter()
        results = run_jobs(extract_video, jobs, num_workers=args.workers, expected=VideoError, scheduler=args.scheduler)
        stack.enter_context(closing(results))
        with options.progress_bar(total=len(jobs), unit="video", desc="extract") as bar:
            for job, result in results:
                bar.update()
                summary.add(job, result)
                if isinstance(result, Failure):
                    bar.set_postfix(bad=len(summary.failures))
        summary.seconds = time.perf_counter() - start
        if service and (statistics := service.statistics()):
            summary.flow_report = f"flow on {service.device.name}: {statistics.to_text()}"


def main() -> int:
    """Run the program; returns its exit code."""
    parser = build_parser()
    args = parser.parse_args()
    has_videos = isinstance(open_store(args.root, RGB), EncodedVideos)
    if args.store is None and has_videos and args.videos and RGB in (args.input_types or (RGB,)):
        args.store = EncodedVideos.kind
    settings = check_flags(parser, args)
    if settings.encoding:
        check_h264_encoder()
    if settings.encoding or MOTION_VECTORS in settings.input_types:
        import_av()  # at once, and not when the first video is read
    if args.videos:
        find_ffmpeg()
        if args.sar is None and (square_pixels := takes_square_pixels(args.root)) is not None:
            settings = replace(settings, square_pixels=square_pixels)
    else:
        settings = settings_for_stored_frames(args.root, settings)
    jobs = list_jobs(args, settings)
    if not args.plan:
        claim_tree(args.root, settings, store=args.store)

    stores = [open_store(args.root, input_type, kind=args.store) for input_type in settings.input_types]
    if not args.plan:
        sweep_files(args.root)
        for store in stores:
            store.sweep()
    open_jobs, failures = find_open_jobs(args, jobs, stores)
    part = f"{args.shard[0]}-of-{args.shard[1]}" if args.shard else ""
    summary = ExtractionSummary(failures, failures_path=log_path(args.root, part))
    run_extraction(args, settings, open_jobs, stores, summary)
    if args.plan:
        return EXIT_DONE

    rewrite_failures(args.root, summary.failures, tried=[job.video_id for job in jobs], path=summary.failures_path)
    noun = "frame" if settings.encoding else "image"
    summary.print_results(args.root, settings.input_types, num_videos=len(jobs), noun=noun)
    if summary.failures:
        summary.print_failures(max_seconds=args.max_seconds)
        raise_program_errors(summary.program_errors)
        return EXIT_SOME_BAD
    return EXIT_DONE
