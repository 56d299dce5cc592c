"""Image folders <-> packed frames: copy a data root to another one of the other kind, byte for byte.

  --store packed   a tar file and its index for each thousand videos: few files, quick to write, copy and delete
  --store folders  a folder for each video, a file for each image: any tool can read them

Each image is checked against its video's record while it is copied. Running the command again continues where it
stopped. Images that other tools made have no records and are copied unchecked. annotations.json (hfiles/*.json of
2D-kinectics) and the settings of each input type are copied too.

Exit codes: 0 all done; 2 wrong command line; 3 --root has no images, or --to holds something else; 4 disk full or not
writable; 5 done, but some videos are damaged: they are listed and not copied.
"""

import argparse
import os
import sys
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import BinaryIO

from twostream.annotations.json_file import FILE_NAME
from twostream.counts import counted
from twostream.errors import EXIT_DONE, EXIT_SOME_BAD, BadInputError
from twostream.files import check_regular, write_file
from twostream.frames.store import SETTINGS_NAME
from twostream.frames.stores import STORES, CopyJob, copy_video, input_types, open_store
from twostream.preparation.workers import Failure, raise_program_errors, run_jobs
from twostream.programs import options
from twostream.terminal import printable
from twostream.threads import available_cpus

ANNOTATIONS = (FILE_NAME, "hfiles/*.json")


# fmt: off
def build_parser() -> options.Parser:
    """The flags of the program."""
    parser = options.Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--root", type=options.folder, required=True, metavar="DIR", help="data root to read")
    add("--to", type=options.folder, required=True, metavar="DIR", help="data root to write, another folder")
    add("--store", choices=tuple(STORES), required=True, help="kind of frame store to write")
    add("--input_types", type=options.names, default=(), metavar="A,B", help="what to copy (default: everything in --root)")
    add("--workers", "-j", type=options.integer(1, options.MAX_PROCESSES), default=available_cpus(), metavar="N", help="processes (default: all CPUs that may be used, %(default)s here)")
    return parser
# fmt: on


def files_to_copy(source: Path, target: Path, patterns: Iterable[str]) -> dict[Path, Path]:
    """File -> its copy, for each file that has no copy yet. BadInputError where a copy has other content."""
    pairs = {path: target / path.relative_to(source) for pattern in patterns for path in sorted(source.glob(pattern))}
    for path, copy in pairs.items():
        check_regular(path)
        if copy.exists() and copy.read_bytes() != path.read_bytes():
            raise BadInputError(f"{copy} differs from {path}: use another --to, or delete the wrong one")
    return {path: copy for path, copy in pairs.items() if not copy.exists()}


def copy_files(pairs: dict[Path, Path]) -> None:
    """Copy each file, whole or not at all."""
    for path, copy in pairs.items():
        write_file(copy, partial(_write_bytes, path.read_bytes()))


def _write_bytes(content: bytes, file: BinaryIO) -> None:
    file.write(content)


def list_jobs(args: argparse.Namespace, types: Iterable[str]) -> list[CopyJob]:
    """The videos that are not in --to yet."""
    jobs = []
    for input_type in types:
        source = open_store(args.root, input_type)
        if source.kind not in STORES:
            raise BadInputError(
                f"{source.folder} has no images, but the frames of videos: run twostream extract --videos=VIDEOS "
                f"--root={args.to} --store={args.store}"
            )
        target = open_store(args.to, input_type, kind=args.store)
        video_ids = source.video_ids()
        if not video_ids:
            raise BadInputError(f"{source.folder} has no videos, expected images that twostream extract wrote")
        target.sweep()
        done = set(target.video_ids())
        missing = [video_id for video_id in video_ids if video_id not in done]
        print(
            f"{source.folder}: {counted(len(video_ids), 'video')}, {len(video_ids) - len(missing)} of them are already copied"
        )
        jobs += [CopyJob(str(args.root), str(args.to), input_type, video_id, args.store) for video_id in missing]
    return jobs


def main() -> int:
    """Run the program; returns its exit code."""
    parser = build_parser()
    args = parser.parse_args()
    if os.path.realpath(args.root) == os.path.realpath(args.to):
        parser.error(f"--to {args.to} is the same folder as --root, expected another one")
    types = dict.fromkeys(args.input_types or input_types(args.root))
    if not types:
        raise BadInputError(f"{args.root} has no images (rgb-images/, farneback-images/, ...), expected a data root")
    settings = files_to_copy(args.root, args.to, [f"{input_type}-images/{SETTINGS_NAME}" for input_type in types])
    annotations = files_to_copy(args.root, args.to, ANNOTATIONS)
    jobs = list_jobs(args, types)
    copy_files(settings)

    failures: list[Failure] = []
    num_bytes = 0
    with options.progress_bar(total=len(jobs), unit="video", desc="pack") as bar:
        for _, result in run_jobs(copy_video, jobs, num_workers=args.workers, expected=BadInputError):
            bar.update()
            if isinstance(result, Failure):
                failures.append(result)
                bar.set_postfix(bad=len(failures))
            else:
                num_bytes += result
    copy_files(annotations)  # last, so that no training starts on half of the videos by mistake
    print(
        f"{counted(len(jobs) - len(failures), 'video')}, {num_bytes / 1e6:.1f} MB, copied to {args.to}: {', '.join(types)}"
    )
    if failures:
        reasons = sorted(printable(failure.reason) for failure in failures)
        print(f"{counted(len(reasons), 'bad video')}:", *reasons, sep="\n  ", file=sys.stderr)
        raise_program_errors(failures)
        return EXIT_SOME_BAD
    return EXIT_DONE
