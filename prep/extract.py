#!/usr/bin/env python3
"""Videos -> RGB frames and optical-flow images, each video decoded once.

Writes <root>/rgb-images/<video id>/00001.jpg ... and <root>/farneback-images/<video id>/00001.jpg ...
A video's folder appears when it is complete; running the command again skips what is done and tries the rest.
Without --videos, flow is computed from the frames in <root>/rgb-images, at their size and rate.

Exit codes: 0 all done; 2 wrong command line; 3 settings differ from the tree's; 4 disk or program missing;
5 done, but some videos were bad and are listed in <root>/failed_videos.json.
"""

import argparse
import json
import os
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from twostream import atomic, options
from twostream.errors import EXIT_DONE, EXIT_SOME_BAD, BadInputError
from twostream.extraction import (
    ExtractionJob,
    ExtractionSettings,
    claim_tree,
    extract_video,
    missing_input_types,
    settings_for_stored_frames,
)
from twostream.flow import FARNEBACK_PRESETS, FLOW_METHODS, FarnebackParameters, FlowCoding, FlowSettings
from twostream.frame_store import check_video_id, open_store
from twostream.parallel import Failure, run_jobs
from twostream.stream import RGB
from twostream.video import VideoError, find_ffmpeg, find_videos

FAILURES_NAME = "failed_videos.json"


# fmt: off
def build_parser() -> options.Parser:
    parser = options.Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--videos", type=options.folder, metavar="DIR", help="folder of videos, at any depth (default: use the frames in --root)")
    add("--root", type=options.folder, required=True, metavar="DIR", help="data root to write into")
    add("--input_types", type=options.words, default=("rgb", "farneback"), metavar="A,B",
        help="rgb and flow methods: farneback; dis (a ninth of the time); tvl1 (84 times of it) (default: rgb,farneback)")
    add("--workers", "-j", type=options.positive, default=os.cpu_count(), metavar="N", help="processes (default: all cores, %(default)s here)")
    add("--ids", choices=("stem", "path"), default="stem", help="video id: the file's stem, or its path below --videos with __ for / (default: stem)")

    group = parser.add_argument_group("frames")
    group.add_argument("--short_side", type=int, default=256, metavar="PX", help="resize frames to this short side; 0: keep (default: 256)")
    group.add_argument("--fps", type=float, default=0, metavar="N", help="resample to this rate; 0: every frame of the file, once (default: 0)")
    group.add_argument("--frame_step", type=options.positive, default=1, metavar="N", help="store every Nth frame, and its flow, only (default: 1)")
    group.add_argument("--quality", type=int, default=90, metavar="Q", help="JPEG quality (default: 90)")
    options.add_boolean(group, "--accept_partial", default=False, help="keep what can be read of a damaged video (default: list it as bad)")

    group = parser.add_argument_group("flow")
    group.add_argument("--bound", type=float, default=None, metavar="PX", help="motion that fills the 8 bits of a flow image (default: 20; 8 with the old coding)")
    group.add_argument("--flow_coding", choices=("exact", "2d-kinectics"), default="exact",
                       help="grey levels per pixel: 128/bound, or 128//bound as in 2D-kinectics trees (default: exact)")
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
    coding = FlowCoding(bound=usual_bound if args.bound is None else args.bound, integer_scale=old_coding)
    farneback = FarnebackParameters(**(vars(preset) | given))
    methods = [input_type for input_type in dict.fromkeys(args.input_types) if input_type != RGB]
    return ExtractionSettings(
        short_side=args.short_side,
        fps=args.fps,
        frame_step=args.frame_step,
        quality=args.quality,
        flow=tuple(FlowSettings(method, coding=coding, farneback=farneback) for method in methods),
        rgb=RGB in args.input_types,
        accept_partial=args.accept_partial,
    )


def list_jobs(args: argparse.Namespace, settings: ExtractionSettings) -> list[ExtractionJob]:
    """All videos asked for, whether done or not."""
    if args.videos is None:
        video_ids = open_store(args.root, RGB).video_ids()
        if not video_ids:
            raise BadInputError(f"{args.root}/rgb-images has no videos: name a folder of videos with --videos")
        paths = dict.fromkeys(video_ids)
    else:
        if not args.videos.is_dir():
            raise BadInputError(f"--videos {args.videos} is no folder")
        try:
            paths, others = find_videos(args.videos, id_from=args.ids)
        except ValueError as error:
            raise BadInputError(f"{error}: rename one, or add --ids=path (here and to build_annotations.py)") from None
        if not paths:
            raise BadInputError(f"--videos {args.videos} holds no video files ({others} other files)")
        print(f"{args.videos}: {len(paths)} videos, {others} other files")
    return [
        ExtractionJob(str(args.root), check_video_id(video_id), path and str(path), settings)
        for video_id, path in paths.items()
    ]


def main() -> int:
    parser = build_parser()
    args = parser.parse_args()
    try:
        settings = build_settings(args)
    except ValueError as error:
        parser.error(str(error))
    if args.videos is None and settings.rgb:
        parser.error("--input_types has rgb, so --videos must name the folder of videos")
    if args.videos:
        find_ffmpeg()
    else:
        settings = settings_for_stored_frames(args.root, settings)
    jobs = list_jobs(args, settings)
    claim_tree(args.root, settings)

    open_jobs = [job for job in jobs if missing_input_types(args.root, job.video_id, settings)]
    print(f"{len(jobs) - len(open_jobs)} of {len(jobs)} videos are done already; {args.workers} workers")
    failures, images, num_bytes, partial = {}, 0, 0, 0
    start = time.perf_counter()
    with options.progress_bar(total=len(open_jobs), unit="video", desc="extract") as bar:
        for job, result in run_jobs(extract_video, open_jobs, num_workers=args.workers, expected=VideoError):
            bar.update()
            if isinstance(result, Failure):
                failures[job.video_id] = {"file": job.path, "reason": result.reason}
                bar.set_postfix(bad=len(failures))
            else:
                images += result.num_images
                num_bytes += result.num_bytes
                partial += bool(result.damage)
    seconds = time.perf_counter() - start

    failures_path = args.root / FAILURES_NAME
    if failures:
        atomic.write_text(failures_path, json.dumps(failures, indent=1, sort_keys=True) + "\n")
    else:
        failures_path.unlink(missing_ok=True)
    done = len(jobs) - len(failures)
    print(f"{images} images, {num_bytes / 1e6:.1f} MB in {seconds:.1f} s ({images / max(seconds, 1e-9):.0f} images/s)")
    print(f"{done} of {len(jobs)} videos are in {args.root}: {', '.join(f'{t}-images' for t in settings.input_types)}")
    if partial:
        print(f"{partial} damaged videos were kept in part, as asked")
    if failures:
        print(f"{len(failures)} bad videos:", file=sys.stderr)
        for video_id, failure in sorted(failures.items()):
            print(f"  {failure['file'] or video_id}: {failure['reason']}", file=sys.stderr)
        print(f"they are listed in {failures_path}; mended files are taken when you run this again", file=sys.stderr)
        return EXIT_SOME_BAD
    return EXIT_DONE


if __name__ == "__main__":
    options.run(main)
