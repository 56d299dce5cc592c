"""Videos -> RGB frames and optical-flow images, each video decoded once.

Writes <root>/rgb-images/<video id>/00001.jpg ... and <root>/farneback-images/<video id>/00001.jpg ..., or with
--store=packed a few tar files. A video appears when it is complete; running the command again skips what is done and
tries the rest. Without --videos, flow is computed from the frames in <root>/rgb-images, at their size and rate.

Many machines: --shard=0/16 ... 15/16 in one job each, or --scheduler with a Dask cluster.

With --flow_device=cuda a GPU computes the flow of all workers, which decode, encode and write. The images are those of
the CPU but for rounding, so a tree that was begun with one may be continued with the other.

Exit codes: 0 all done; 2 wrong command line; 3 a list, or settings that differ from the tree's; 4 disk or program
missing; 5 done, but some videos were bad and are listed in <root>/failed_videos.jsonl; 130 Ctrl-C; 143 SIGTERM.
"""

import argparse
import os
import re
import sys
import time
from collections import Counter
from contextlib import ExitStack, closing, suppress
from dataclasses import replace
from pathlib import Path

from twostream.annotations.lists import READERS, read_lists
from twostream.errors import EXIT_DONE, EXIT_SOME_BAD, BadInputError, EnvironmentFaultError
from twostream.flow.coding import FlowCoding
from twostream.flow.methods import FARNEBACK_PRESETS, FLOW_METHODS, FarnebackParameters, FlowSettings
from twostream.flow.service import FlowService, NoGpuError
from twostream.frames.store import FrameStore
from twostream.frames.stores import STORES, open_store
from twostream.preparation.extraction import ExtractionJob, extract_video
from twostream.preparation.failures import add_failure, is_known, log_path, read_failures, rewrite_failures
from twostream.preparation.plan import make_plan
from twostream.preparation.settings import ExtractionSettings, claim_tree, settings_for_stored_frames
from twostream.preparation.workers import Failure, run_jobs
from twostream.programs import options
from twostream.programs.options import list_file
from twostream.stream import RGB
from twostream.video.ffmpeg import VideoError, find_ffmpeg
from twostream.video.ids import check_video_id, find_videos

NUM_SHOWN = 20
"""bad videos printed at the end; the file has all"""


def flow_device(text: str) -> str:
    """A device, or a word for one."""
    if not re.fullmatch(r"cpu|torch-cpu|cuda(:\d+)?", text):
        raise argparse.ArgumentTypeError(f"{text!r}, expected cpu, cuda, cuda:1 or torch-cpu")
    return text


# fmt: off
def build_parser() -> options.Parser:
    parser = options.Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--videos", type=options.folder, metavar="DIR", help="folder of videos, at any depth (default: use the frames in --root)")
    add("--root", type=options.folder, required=True, metavar="DIR", help="data root to write into")
    add("--input_types", type=options.words, default=("rgb", "farneback"), metavar="A,B",
        help="rgb and flow methods: farneback; dis (a ninth of the time); tvl1 (84 times of it) (default: rgb,farneback)")
    add("--workers", "-j", type=options.positive, default=os.cpu_count(), metavar="N", help="processes (default: all cores, %(default)s here)")
    add("--store", choices=tuple(STORES), default=None, help="a folder for each video, or packed into a few tar files (default: as it is there, else folders)")
    add("--ids", choices=("stem", "path"), default="stem", help="video id: the file's stem, or its path below --videos with __ for / (default: stem)")

    group = parser.add_argument_group("a part of the videos")
    group.add_argument("--list", type=list_file, nargs="+", metavar="FILE", help="only the videos of this list, as for build_annotations.py")
    group.add_argument("--format", choices=tuple(READERS), default="csv", help="kind of list (default: csv)")
    group.add_argument("--split", type=int, choices=(1, 2, 3), default=1, help="which split of ucf101 and hmdb51 (default: 1)")
    options.add_boolean(group, "--trim", default=False, help="cut videos to the list's segments; their ids are <id>_<start>_<end>")
    group.add_argument("--shard", type=options.part, default=None, metavar="I/N", help="part I of N of the videos, I from 0, as in a Slurm array")

    group = parser.add_argument_group("running")
    options.add_boolean(group, "--plan", default=False, help="say what is to do, how long it takes and whether it fits, and stop")
    options.add_boolean(group, "--check_space", default=True, help="do not start where the disk is too small for the plan (default: True)")
    options.add_boolean(group, "--retry_failed", default=False, help="try videos again that failed before and have not changed")
    group.add_argument("--time_limit", type=options.rate, default=120, metavar="S", help="wait so long for ffmpeg, and 30 s for each second of video, in all (default: 120)")
    group.add_argument("--max_seconds", type=options.rate, default=3600, metavar="S", help="longer videos are listed as bad; 0: none is too long (default: 3600)")
    group.add_argument("--scheduler", default="", metavar="ADDRESS", help="run on a Dask cluster, as tcp://host:8786; its workers need the same paths")

    group = parser.add_argument_group("frames")
    group.add_argument("--short_side", type=int, default=256, metavar="PX", help="resize frames to this short side; 0: keep (default: 256)")
    group.add_argument("--fps", type=float, default=0, metavar="N", help="resample to this rate; 0: every frame of the file, once (default: 0)")
    group.add_argument("--frame_step", type=options.positive, default=1, metavar="N", help="store every Nth frame, and its flow, only (default: 1)")
    group.add_argument("--quality", type=int, default=90, metavar="Q", help="JPEG quality of frames (default: 90)")
    options.add_boolean(group, "--accept_partial", default=False, help="keep what can be read of a damaged video (default: list it as bad)")

    group = parser.add_argument_group("flow")
    group.add_argument("--flow_device", type=flow_device, default="cpu", metavar="NAME",
                       help="cpu: OpenCV in each worker; cuda, cuda:1: Farneback of all workers on that GPU, or by OpenCV where there is none; torch-cpu: as on a GPU, but on the CPU, for tests (default: cpu)")
    group.add_argument("--bound", type=float, default=None, metavar="PX", help="motion that fills the 8 bits of a flow image (default: 20; 8 with the old coding)")
    group.add_argument("--flow_coding", choices=("planes", "colour", "2d-kinectics"), default="planes",
                       help="x above y in one grey picture; x, y, magnitude as colours; or these with 2D-kinectics' 128//bound levels per pixel (default: planes)")
    group.add_argument("--flow_quality", type=int, default=None, metavar="Q", help="JPEG quality of flow images (default: 75; 90 for colours)")
    group.add_argument("--flow_preset", choices=tuple(FARNEBACK_PRESETS), default="default",
                       help="Farneback parameters: OpenCV's usual call, or those of 2D-kinectics' flow and weights, 2.3 times the cost")
    for name, help_text in [
        ("pyr_scale", "size of a pyramid level relative to the one below"),
        ("levels", "pyramid levels"),
        ("win_size", "averaging window, pixels"),
        ("iterations", "iterations per level"),
        ("poly_n", "neighbourhood of the polynomial expansion, 5 or 7 pixels"),
        ("poly_sigma", "its Gaussian, pixels"),
    ]:
        default = getattr(FARNEBACK_PRESETS["default"], name)
        group.add_argument(f"--{name}", type=type(default), metavar="N", help=f"Farneback: {help_text} (default: the preset's, {default})")
    return parser
# fmt: on


def build_settings(args: argparse.Namespace) -> ExtractionSettings:
    """Flags -> settings; raises ValueError with the flag's name."""
    for input_type in args.input_types:
        if input_type not in (RGB, *FLOW_METHODS):
            raise ValueError(f"--input_types: {input_type!r}, expected {', '.join((RGB, *FLOW_METHODS))}")
    preset = FARNEBACK_PRESETS[args.flow_preset]
    given = {name: getattr(args, name) for name in vars(preset) if getattr(args, name) is not None}
    old_coding = args.flow_coding == "2d-kinectics"
    usual_bound = 8 if old_coding else 20
    planes = args.flow_coding == "planes"
    bound = usual_bound if args.bound is None else args.bound
    coding = FlowCoding(bound=bound, integer_scale=old_coding, planes=planes)
    farneback = FarnebackParameters(**(vars(preset) | given))
    methods = [input_type for input_type in dict.fromkeys(args.input_types) if input_type != RGB]
    return ExtractionSettings(
        short_side=args.short_side,
        fps=args.fps,
        stored_step=args.frame_step,
        quality=args.quality,
        flow_quality=(75 if planes else 90) if args.flow_quality is None else args.flow_quality,
        flow=tuple(FlowSettings(method, coding=coding, farneback=farneback) for method in methods),
        rgb=RGB in args.input_types,
        accept_partial=args.accept_partial,
        max_seconds=args.max_seconds,
        time_limit=args.time_limit,
    )


def list_jobs(args: argparse.Namespace, settings: ExtractionSettings) -> list[ExtractionJob]:
    """All videos asked for, whether done or not, in order of id."""
    if args.videos is None:
        sources = {video_id: (None, None) for video_id in open_store(args.root, RGB).video_ids()}
        if not sources:
            raise BadInputError(f"{args.root}/rgb-images has no videos: name a folder of videos with --videos")
    else:
        sources = find_sources(args)
    chosen = sorted(sources)[slice(args.shard[0], None, args.shard[1]) if args.shard else slice(None)]
    return [
        ExtractionJob(str(args.root), check_video_id(video_id), path and str(path), settings, segment, args.store)
        for video_id in chosen
        for path, segment in [sources[video_id]]
    ]


def find_sources(args: argparse.Namespace) -> dict[str, tuple[Path, tuple[float, float] | None]]:
    """Video id -> its file, and the segment to cut out of it."""
    if not args.videos.is_dir():
        raise BadInputError(f"--videos {args.videos} is no folder")
    try:
        files, others = find_videos(args.videos, id_from=args.ids)
    except ValueError as error:
        raise BadInputError(f"{error}: rename one, or add --ids=path (here and to build_annotations.py)") from None
    if not files:
        raise BadInputError(f"--videos {args.videos} holds no video files ({others} other files)")
    print(f"{args.videos}: {len(files)} videos, {others} other files")
    if not args.list:
        return {video_id: (path, None) for video_id, path in files.items()}
    sources, absent = {}, []
    for listed in read_lists(args.format, args.list, id_from=args.ids, split_number=args.split):
        there = next((video_id for video_id in listed.ids if video_id in files), None)
        if there is None:
            absent.append(listed.ids[0])
        elif args.trim and listed.segment and there != listed.ids[0]:
            sources[listed.ids[0]] = files[there], listed.segment
        else:  # a file named after its segment is cut already
            sources[there] = files[there], None
    print(f"{len(sources)} of {len(sources) + len(absent)} listed videos are there", end="")
    print(f"; not: {', '.join(absent[:5])}{' ...' * (len(absent) > 5)}" if absent else "")
    if not sources:
        raise BadInputError(f"none of the videos listed in {args.list[0][1]} is in {args.videos}")
    return sources


def open_flow_service(device: str, settings: ExtractionSettings, stack: ExitStack) -> FlowService | None:
    """None where there is no GPU."""
    (farneback,) = settings.flow
    try:
        service = stack.enter_context(FlowService(device, farneback, stored_step=settings.stored_step))
    except NoGpuError as error:
        print(f"--flow_device={device}: {error}; flow is computed by OpenCV on the CPU")
        return None
    if service.note:
        print(f"{service.device.name}: {service.note}")
    return service


def sweep_at_the_end(stores: list[FrameStore]) -> None:
    """A signal may have found a worker removing its folder already. What ended the run is told, not a fault of this."""
    for store in stores:
        with suppress(OSError):  # the next run sweeps, too, and says so
            store.sweep()


def main() -> int:
    parser = build_parser()
    args = parser.parse_args()
    try:
        settings = build_settings(args)
    except ValueError as error:
        parser.error(str(error))
    if args.videos is None and settings.rgb:
        parser.error("--input_types has rgb, so --videos must name the folder of videos")
    if args.trim and not (args.videos and args.list):
        parser.error("--trim needs --videos, and --list with the segments")
    on_device = settings.flow if args.flow_device != "cpu" else ()
    if others := [flow.method for flow in on_device if flow.method != "farneback"]:
        parser.error(f"--flow_device={args.flow_device} computes farneback only, not {', '.join(others)}")
    if on_device and args.scheduler:
        parser.error("--flow_device is for the workers of one machine: take --shard instead of --scheduler")
    if args.videos:
        find_ffmpeg()
    else:
        settings = settings_for_stored_frames(args.root, settings)
    jobs = list_jobs(args, settings)
    if not args.plan:
        claim_tree(args.root, settings, store=args.store)

    stores = [open_store(args.root, input_type, kind=args.store) for input_type in settings.input_types]
    if not args.plan:
        for store in stores:
            store.sweep()
    done = set.intersection(*(set(store.video_ids()) for store in stores))  # one look at each tree, not one a video
    open_jobs = [job for job in jobs if job.video_id not in done]
    num_done = len(jobs) - len(open_jobs)
    failures_path = log_path(args.root, f"{args.shard[0]}-of-{args.shard[1]}" if args.shard else "")
    known = {} if args.retry_failed else read_failures(args.root)
    failures = {job.video_id: known[job.video_id] for job in open_jobs if is_known(job, known)}
    open_jobs = [job for job in open_jobs if job.video_id not in failures]
    print(f"{num_done} of {len(jobs)} videos are done already", end="")
    print(f", {len(failures)} failed before and have not changed (--retry_failed tries them)" if failures else "")

    images, num_bytes, partial, noted, report = 0, 0, 0, Counter(), None
    with ExitStack() as stack:
        if not args.plan:
            stack.callback(sweep_at_the_end, stores)
        service = open_flow_service(args.flow_device, settings, stack) if open_jobs and on_device else None
        if service:
            open_jobs = [replace(job, flow_device=service.device) for job in open_jobs]
        if open_jobs:
            plan = make_plan(open_jobs, num_workers=args.workers)
            print(f"{plan.to_text()}; {args.scheduler or f'{args.workers} workers'}", flush=True)
            if plan.shortage and args.check_space:
                raise EnvironmentFaultError(
                    f"{args.root}: {plan.shortage}; make room, take --store=packed, a smaller --short_side or --quality, "
                    "or go on with --check_space=False"
                )
        if args.plan:
            return EXIT_DONE

        start = time.perf_counter()
        results = stack.enter_context(
            closing(
                run_jobs(
                    extract_video, open_jobs, num_workers=args.workers, expected=VideoError, scheduler=args.scheduler
                )
            )
        )
        with options.progress_bar(total=len(open_jobs), unit="video", desc="extract") as bar:
            for job, result in results:
                bar.update()
                if isinstance(result, Failure):
                    failures[job.video_id] = add_failure(failures_path, job, result)
                    bar.set_postfix(bad=len(failures))
                else:
                    images += result.num_images
                    num_bytes += result.num_bytes
                    partial += bool(result.damage)
                    noted.update(result.notes)
        seconds = time.perf_counter() - start
        report = service and service.report()

    rewrite_failures(args.root, failures, tried=[job.video_id for job in jobs], path=failures_path)
    print(f"{images} images, {num_bytes / 1e6:.1f} MB in {seconds:.1f} s ({images / max(seconds, 1e-9):.0f} images/s)")
    print(
        f"{len(jobs) - len(failures)} of {len(jobs)} videos are in {args.root}: {', '.join(f'{t}-images' for t in settings.input_types)}"
    )
    if report:
        print(f"flow on {service.device.name}: {report.to_text()}")
    if partial:
        print(f"{partial} damaged videos were kept in part, as asked")
    for note, count in noted.most_common():
        print(f"{count} videos: {note}")
    if failures:
        kinds = Counter(failure["kind"] for failure in failures.values())
        print(
            f"{len(failures)} bad videos: {', '.join(f'{n} {kind}' for kind, n in kinds.most_common())}",
            file=sys.stderr,
        )
        for _, failure in sorted(failures.items())[:NUM_SHOWN]:
            print(f"  {failure['file'] or failure['id']}: {failure['reason']}", file=sys.stderr)
        if kinds["too long"]:
            print(f"videos over {args.max_seconds:g} s were not decoded: --max_seconds=0 allows any", file=sys.stderr)
        print(f"all are listed in {failures_path}; mended files are taken when you run this again", file=sys.stderr)
        return EXIT_SOME_BAD
    return EXIT_DONE
