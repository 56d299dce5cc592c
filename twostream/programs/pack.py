"""Image folders <-> packed frames: copy a data root into another one of the other kind, byte for byte.

  --store packed   a thousand videos in a tar file, with its index: few files, quick to write, copy and delete
  --store folders  a folder for each video, a file for each image: any tool can read them

Each image is checked against its video's record on the way. Running the command again goes on where it ended.
Images that other tools made are copied as they are, unchecked: they have no records.
annotations.json (hfiles/*.json of 2D-kinectics) and the settings of each tree are copied too.

Exit codes: 0 all done; 2 wrong command line; 3 --root has no images, or --to holds something else; 4 disk full or not
writable; 5 done, but some videos are damaged: they are listed, and not in --to.
"""

import argparse
import os
import sys
from collections.abc import Iterable
from pathlib import Path

from twostream.annotations.json_file import FILE_NAME
from twostream.errors import EXIT_DONE, EXIT_SOME_BAD, BadInputError
from twostream.files import write_file
from twostream.frames.store import SETTINGS_NAME
from twostream.frames.stores import STORES, CopyJob, copy_video, input_types, open_store
from twostream.preparation.workers import Failure, run_jobs
from twostream.programs import options

ANNOTATIONS = (FILE_NAME, "hfiles/*.json")


# fmt: off
def build_parser() -> options.Parser:
    parser = options.Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--root", type=options.folder, required=True, metavar="DIR", help="data root to read")
    add("--to", type=options.folder, required=True, metavar="DIR", help="data root to write, another folder")
    add("--store", choices=tuple(STORES), required=True, help="what to write")
    add("--input_types", type=options.words, default=(), metavar="A,B", help="what to copy (default: all that --root has)")
    add("--workers", "-j", type=options.positive, default=os.cpu_count(), metavar="N", help="processes (default: all cores, %(default)s here)")
    return parser
# fmt: on


def files_to_copy(source: Path, target: Path, patterns: Iterable[str]) -> dict[Path, Path]:
    """From where to where; those that are there already left out. BadInputError where one has other content."""
    pairs = {path: target / path.relative_to(source) for pattern in patterns for path in sorted(source.glob(pattern))}
    for path, there in pairs.items():
        if there.exists() and there.read_bytes() != path.read_bytes():
            raise BadInputError(
                f"{there} is not the same as {path}: take another --to, or delete the one that is wrong"
            )
    return {path: there for path, there in pairs.items() if not there.exists()}


def copy_files(pairs: dict[Path, Path]) -> None:
    for path, there in pairs.items():
        content = path.read_bytes()
        write_file(there, lambda file, content=content: file.write(content))


def list_jobs(args: argparse.Namespace, types: Iterable[str]) -> list[CopyJob]:
    """The videos that --to does not have."""
    jobs = []
    for input_type in types:
        source = open_store(args.root, input_type)
        target = open_store(args.to, input_type, kind=args.store)
        video_ids = source.video_ids()
        if not video_ids:
            raise BadInputError(f"{source.folder} has no videos, expected images that prep/extract.py wrote")
        target.sweep()
        done = set(target.video_ids())
        missing = [video_id for video_id in video_ids if video_id not in done]
        print(f"{source.folder}: {len(video_ids)} videos, {len(video_ids) - len(missing)} of them are done already")
        jobs += [CopyJob(str(args.root), str(args.to), input_type, video_id, args.store) for video_id in missing]
    return jobs


def main() -> int:
    parser = build_parser()
    args = parser.parse_args()
    if args.root.resolve() == args.to.resolve():
        parser.error(f"--to {args.to} is --root itself, expected another folder")
    types = dict.fromkeys(args.input_types or input_types(args.root))
    if not types:
        raise BadInputError(f"{args.root} has no images (rgb-images/, farneback-images/, ...), expected a data root")
    settings = files_to_copy(args.root, args.to, [f"{input_type}-images/{SETTINGS_NAME}" for input_type in types])
    annotations = files_to_copy(args.root, args.to, ANNOTATIONS)
    jobs = list_jobs(args, types)
    copy_files(settings)

    reasons, num_bytes = [], 0
    with options.progress_bar(total=len(jobs), unit="video", desc="pack") as bar:
        for _, result in run_jobs(copy_video, jobs, num_workers=args.workers, expected=BadInputError):
            bar.update()
            if isinstance(result, Failure):
                reasons.append(result.reason)
                bar.set_postfix(bad=len(reasons))
            else:
                num_bytes += result
    copy_files(annotations)  # last, so that nothing trains on half of the videos unawares
    print(f"{len(jobs) - len(reasons)} videos, {num_bytes / 1e6:.1f} MB, copied to {args.to}: {', '.join(types)}")
    if reasons:
        print(f"{len(reasons)} bad videos:", *sorted(reasons), sep="\n  ", file=sys.stderr)
        return EXIT_SOME_BAD
    return EXIT_DONE
