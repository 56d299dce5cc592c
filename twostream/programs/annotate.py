"""A data set's own list and what was extracted -> <root>/annotations.json.

  --format folder            --videos DIR: class folders of videos, with or without train/val/test folders above them
  --format csv               columns video,label[,split][,group][,start_seconds,end_seconds], as twostream label writes
  --format kinetics_csv      label,youtube_id,time_start,time_end,split[,is_cc] of Kinetics-400, 600, 700
  --format ucf101            folder with classInd.txt, trainlist0N.txt and testlist0N.txt; --split N
  --format hmdb51            folder with <class>_test_splitN.txt; --split N
  --format mmaction2_frames  dir total_frames label, or dir start total_frames label; with --classes FILE
  --format mmaction2_videos  path label; with --classes FILE
  --format activitynet       JSON of ActivityNet, or of a Kinetics release
  --format charades          Charades_v1_train.csv and Charades_v1_test.csv, beside Charades_v1_classes.txt; multi-label
  --format 2d-kinectics      hfiles/finalannots.json, to make annotations.json for such a tree

If a list has no splits, name them on the command line: --list train=FILE val=FILE. Where the lists have no val,
--val_fraction of the groups of each class is held out of train and becomes "val"; test videos stay "test". A group is
what column "group" says (--group_by names another column), the video that clips were cut from (Kinetics, ActivityNet,
and by their names UCF101 and HMDB51), or else one video. The test lists of UCF101 and HMDB51 become "val", the split on
which twostream train and twostream test report; with --val_fraction they become "test".

The order of the classes is that of --classes, of the list (classInd.txt of UCF101, class_list.txt of HMDB51, the numbers of
2D-kinectics and MMAction2), or else alphabetical. annotations.json says which ("class_order"), and with which flags it
was made ("annotate_flags").

With --multi_label, a video may have any number of labels: several rows or entries of it in any list; labels separated by
semicolons in a csv, where a semicolon alone means none of the classes; several class numbers in a line of MMAction2
(dir total_frames label label ..., path label label ...). annotations.json then has a list of labels for each video, and
twostream train uses a sigmoid for each class.

A part of a video (CSV with start_seconds, Kinetics, ActivityNet) is matched with the extracted video <id>_<start>_<end>, in seconds with six
digits each (with milliseconds where they are not whole), or with <id> if no other row has that id.

With --write and --out, lists for MMAction2 are written from the annotations: PREFIX_train.txt, ..., PREFIX_classes.txt.
--write=mmaction2_videos keeps the folders below --videos, or below the folder that the annotations were made from.

With --frames=videos, nothing needs to be extracted: the files below --videos are indexed, which takes seconds for a
thousand of them, and twostream train and twostream test decode the frames that they need. Streams of flow then need
--flow=online. Run the command again when videos were added or have changed. It also says how many clips a core reads from
such videos in a second, which decides how fast a training can be; --plan says only that, beside the rates of videos that
twostream extract encodes again and of images, and writes nothing.

  twostream annotate --root=data --videos=videos --frames=videos
  twostream train --root=data --input_type=rgb

Exit codes: 0 done, also with warnings; 2 wrong command line; 3 a list or the data root is wrong; 4 PyAV is missing
(--frames=videos), or the disk is full; 5 done, but some videos cannot be used (--frames=videos): they are listed.
"""

import argparse
import itertools
import os
import shlex
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from twostream.annotations.class_names import ClassOrder, read_classes
from twostream.annotations.join import build_annotations
from twostream.annotations.json_file import FILE_NAME, read_annotations, write_annotations
from twostream.annotations.list_writers import WRITERS, write_lists
from twostream.annotations.lists import READERS, read_class_order, read_lists
from twostream.annotations.splits import VAL_FRACTION
from twostream.annotations.videos import SPLITS, Annotations, VideoTable
from twostream.counts import counted
from twostream.errors import EXIT_DONE, EXIT_SOME_BAD, BadInputError
from twostream.frames.encoded import EncodedVideos
from twostream.frames.store import FrameStore
from twostream.frames.stores import image_stores, open_store
from twostream.frames.videos import IndexJob, VideoFiles, index_for_store
from twostream.preparation.findings import OTHER_TOOL, remake
from twostream.preparation.reading_rate import measure_rates
from twostream.preparation.settings import ExtractionSettings
from twostream.preparation.workers import Failure, raise_program_errors, run_jobs
from twostream.programs import options
from twostream.programs.options import list_file
from twostream.stream import RGB
from twostream.terminal import printable
from twostream.threads import available_cpus
from twostream.video.encoder import VideoEncoding
from twostream.video.ffmpeg import VideoError
from twostream.video.ids import check_video_id, find_videos
from twostream.video.random_access import import_av


# fmt: off
def build_parser() -> options.Parser:
    """The flags of the program."""
    parser = options.Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--root", type=options.folder, required=True, metavar="DIR", help="data root that twostream extract wrote")
    add("--format", choices=tuple(READERS), default="folder", help="kind of list (default: folder)")
    add("--videos", type=options.folder, metavar="DIR", help="folder of class folders, for --format folder; folder of the videos, for --write=mmaction2_videos")
    add("--frames", choices=("images", "videos"), default="images", help="images: what twostream extract wrote to --root; videos: the files below --videos themselves, without extraction, for every --format (default: images)")
    add("--short_side", type=options.integer(0, 8192), default=ExtractionSettings.short_side, metavar="PX", help="for --frames=videos: scale frames until their short side has this many pixels, as twostream extract does; 0 keeps the size (default: %(default)s)")
    add("--workers", "-j", type=options.integer(1, options.MAX_PROCESSES), default=available_cpus(), metavar="N", help="for --frames=videos: processes that index videos (default: all CPUs that may be used, %(default)s here)")
    options.add_boolean(parser, "--plan", default=False, help="for --frames=videos: print how fast frames are read from these videos, from videos encoded again and from images, then stop")
    add("--list", type=list_file, nargs="+", metavar="[SPLIT=]FILE", help="list files, for the other formats (for ucf101 and hmdb51: the folder with the lists)")
    add("--split", type=int, choices=(1, 2, 3), default=1, help="which of the three splits of ucf101 and hmdb51 (default: 1)")
    add("--classes", type=options.folder, metavar="FILE", help="class names, one per line, or with their numbers, or as JSON: the allowed labels in their order; of class folders, the folders that are classes (default: the order that the lists bring, or the labels in alphabetical order)")
    options.add_boolean(parser, "--multi_label", default=False, help="videos may have several labels, or none of the classes (default: False; charades: True)")
    add("--ids", choices=("stem", "path"), default="stem", help="as given to twostream extract (default: stem)")
    add("--val_fraction", type=options.share, default=None, metavar="F", help=f"share of val if the lists have none: of the videos without a split, or of the train videos, by group where there is one; the test lists of ucf101 and hmdb51 then are test. 0: no val (default: {VAL_FRACTION}; test lists of ucf101 and hmdb51 are val)")
    add("--fps", type=options.rate, default=0.0, metavar="RATE", help="frames per second of the videos whose images do not say it, because another tool made them; twostream train --frame_rate needs it (default: unknown)")
    add("--group_by", default="", metavar="COLUMN", help="csv column of the groups (default: group, if it exists)")
    add("--seed", type=options.seed, default=123, metavar="N", help="seed for the choice of val (default: 123)")
    add("--write", choices=tuple(WRITERS), help="write this kind of list from the annotations of --root; reads no list")
    add("--out", type=options.folder, metavar="PREFIX", help="beginning of the names of the files that --write writes")
    return parser
# fmt: on


def find_video_files(args: argparse.Namespace) -> dict[str, Path]:
    """Id -> file of the videos below --videos, as an absolute path without ..; BadInputError if there is none."""
    folder = Path(os.path.abspath(args.videos))
    if not folder.is_dir():
        raise BadInputError(f"--videos {args.videos} is not a folder")
    videos, num_others = find_videos(folder, id_from=args.ids)
    if not videos:
        raise BadInputError(f"--videos {args.videos} holds no video files ({counted(num_others, 'other file')})")
    return videos


def print_plan(args: argparse.Namespace) -> None:
    """Print how fast frames are read from the videos below --videos, and how fast they would be after extraction."""
    import_av()
    videos = find_video_files(args)
    rates = measure_rates(list(videos.values()), short_side=args.short_side, compare=True)
    if rates is None:
        raise BadInputError(f"--videos {args.videos}: none of its {counted(len(videos), 'video')} can be read")
    num_frames = rates.mean_frames * len(videos)
    print(
        f"plan: {counted(len(videos), 'video')}, about {num_frames:.0f} frames; "
        f"{counted(rates.num_measured, 'video')} measured at --short_side={args.short_side}"
    )
    print(rates.to_text(num_workers=args.workers))
    extract = ["twostream", "extract", f"--videos={args.videos}", "--root=DIR", f"--short_side={args.short_side}"]
    for rate, *flags in [
        (rates.encoded, "--store=videos", f"--gop={VideoEncoding.gop}"),
        (rates.images, "--input_types=rgb", "--store=packed"),
    ]:
        if rate:
            size = f"about {num_frames * rate.frame_bytes / 1e6:.0f} MB"
            print(f"rate: {rate.to_text()}; {size}, after {shlex.join([*extract, *flags])}")


def index_videos(args: argparse.Namespace) -> int:
    """Index the files below --videos that are new or have changed; returns how many cannot be used, which are listed."""
    import_av()  # before the workers need it
    if isinstance(open_store(args.root, RGB), EncodedVideos):
        print(f"{args.root} has the videos that twostream extract encoded: they are indexed already")
        return 0
    videos = find_video_files(args)
    store = VideoFiles.claim(args.root, args.videos, short_side=args.short_side)
    store.sweep()
    for video_id in set(store.video_ids()) - videos.keys():
        store.remove(video_id)
    jobs = [IndexJob(str(args.root), check_video_id(video_id), path) for video_id, path in videos.items()]
    failures: dict[Path, Failure] = {}
    num_frames = num_damaged = 0
    with options.progress_bar(total=len(jobs), unit="video", desc="index", delay=1) as bar:
        for job, result in run_jobs(index_for_store, jobs, num_workers=args.workers, expected=VideoError):
            bar.update()
            if isinstance(result, Failure):
                failures[job.path] = result
                with suppress(FileNotFoundError):
                    store.remove(job.video_id)
            else:
                num_frames += result.num_frames
                num_damaged += bool(result.damage)
    print(f"{args.videos}: {counted(len(jobs) - len(failures), 'video')}, {counted(num_frames, 'frame')}")
    if rates := measure_rates([path for path in videos.values() if path not in failures], short_side=args.short_side):
        print(f"{rates.to_text(num_workers=args.workers)}; --plan compares this with extraction")
    if num_damaged:
        print(
            f"warning: {counted(num_damaged, 'video ends', 'videos end')} before the declared end; what there is, is used"
        )
    if failures:
        print(f"{counted(len(failures), 'bad video')}:", file=sys.stderr)
        for path, failure in sorted(failures.items()):
            print(f"  {printable(str(path))}: {printable(failure.reason)}", file=sys.stderr)
    raise_program_errors(failures.values())
    return len(failures)


def build(args: argparse.Namespace, files: list[tuple[str | None, Path]]) -> None:
    """Write annotations.json from lists: for each the split of its entries (None: not given) and its path."""
    order = (
        ClassOrder(read_classes(args.classes), args.classes.name)
        if args.classes
        else read_class_order(args.format, [path for _, path in files])
    )
    entries = read_lists(
        args.format,
        files,
        id_from=args.ids,
        group_by=args.group_by,
        split_number=args.split,
        test_split="test" if args.val_fraction else "val",
        classes=order.names if args.classes and order else (),
        multi_label=args.multi_label,
    )
    first = next(entries, None)
    if first is None:
        raise BadInputError(f"{files[0][1]} lists no videos")
    if args.format == "mmaction2_frames" and len(first.ids) > 1:
        print(f"{first.path}: lines with three numbers are read as start, number of frames and label")
    annotations, notes, warnings, lacks_parts = build_annotations(
        options.progress_bar(itertools.chain([first], entries), unit="line", desc="read", delay=1),
        args.root,
        classes=order,
        are_numbers=args.format.startswith("mmaction2"),
        multi_label=args.multi_label,
        val_fraction=args.val_fraction,
        seed=args.seed,
        annotate_flags=flags_of(args, files),
        progress=lambda videos, total: options.progress_bar(videos, total=total, unit="video", desc="join", delay=1),
    )
    if args.format == "folder" and not args.classes and len(annotations.classes) == 1:
        raise BadInputError(
            f"{files[0][1]} has one class folder, {annotations.classes[0]!r}, expected {files[0][1]}/<class>/<video> with two "
            "classes or more; if there is one class only, name it with --classes FILE"
        )
    if args.fps:
        annotations = annotations.with_rate(args.fps)
    write_annotations(args.root / FILE_NAME, annotations)
    for note in notes:
        print(note)
    for warning in warnings:
        print(f"warning: {warning}")
    report(annotations)
    names = ", ".join([*annotations.classes[:5], *(["..."] if len(annotations.classes) > 5 else [])])
    print(f"classes: {names}; order: {annotations.class_order}")
    print(f"wrote {args.root / FILE_NAME}: {counted(len(annotations.classes), 'class', 'classes')}")
    print(f"next: {'; or '.join(next_steps(args, annotations, files if lacks_parts else []))}")


def flags_of(args: argparse.Namespace, files: list[tuple[str | None, Path]]) -> list[str]:
    """The flags that make the same annotations again, from any folder; flags with their default values are left out."""
    flags = [] if args.format == "folder" else [f"--format={args.format}"]
    paths = [(split, os.path.abspath(path)) for split, path in files]
    if args.videos:
        flags.append(f"--videos={os.path.abspath(args.videos)}")
    if args.format != "folder":
        flags += ["--list", *(f"{split}={path}" if split else path for split, path in paths)]
    if args.frames == "videos":
        flags.append("--frames=videos")
    if args.classes:
        flags.append(f"--classes={os.path.abspath(args.classes)}")
    defaults = build_parser()
    names = ("split", "ids", "multi_label", "val_fraction", "fps", "group_by", "seed", "short_side")
    return flags + [f"--{n}={getattr(args, n)}" for n in names if getattr(args, n) != defaults.get_default(n)]


def report(annotations: Annotations) -> None:
    """Print the size of each split, and which videos are not extracted."""
    for index, split in enumerate(SPLITS):
        videos = annotations.videos[annotations.videos.split_index == index]
        if videos:
            num_frames = int(videos.num_frames.sum(dtype=np.int64))
            print(f"{split}: {counted(len(videos), 'video')}, {counted(num_frames, 'frame')}, {classes_of(videos)}")
            missing = np.flatnonzero(videos.num_frames == 0)
            names = [videos.ids[row] for row in missing[:5].tolist()] + (["..."] if len(missing) > 5 else [])
            if names:
                print(
                    f"  {len(missing)} of them {'is' if len(missing) == 1 else 'are'} not extracted: {', '.join(names)}"
                )


def classes_of(videos: VideoTable) -> str:
    """The number of classes that occur in these videos and, of multi-label videos, how many a video has."""
    text = counted(len(videos.occurring() - {None}), "class", "classes")
    if not videos.is_multi_label:
        return text
    labels = videos.labels()[videos.label_index >= 0]
    return f"{text}, {labels.sum() / max(len(labels), 1):.2f} a video"


def next_steps(
    args: argparse.Namespace, annotations: Annotations, part_lists: list[tuple[str | None, Path]]
) -> list[str]:
    """What to run next: training, if train and val have videos with frames; extraction, if some have none.

    `part_lists`: as in `extract_commands`.
    """
    has_frames = annotations.videos.num_frames > 0
    num_missing = int(np.count_nonzero(~has_frames))
    split_index = annotations.videos.split_index
    steps = []
    if all((has_frames & (split_index == SPLITS.index(split))).any() for split in ("train", "val")):
        steps.append(shlex.join(["twostream", "train", f"--root={args.root}"]))
    if num_missing:
        elsewhere = " with --root=DATA and without --frames=videos" if part_lists and has_video_files(args.root) else ""
        steps.append(
            f"{extract_commands(args, part_lists)} for {counted(num_missing, 'video')} without frames, then this command again{elsewhere}"
        )
    absent = [split for split in ("train", "val") if not (split_index == SPLITS.index(split)).any()]
    if absent:
        steps.append(
            f"add lists of {' and '.join(absent)} videos to train on this root; without them, it can only be scored"
        )
    return steps


def has_video_files(root: Path) -> bool:
    """Are the frames of a data root those of video files, to which extraction can add none?"""
    return any(isinstance(store, VideoFiles) for store in image_stores(root))


def extract_commands(args: argparse.Namespace, part_lists: list[tuple[str | None, Path]]) -> str:
    """The commands that add videos to the trees of a data root, or make another one, DATA, where they cannot be added.

    `part_lists`: the lists by which parts are cut out of longer videos; empty where whole files are missing.
    """
    source = [f"--videos={os.path.abspath(args.videos)}" if args.videos else "--videos=VIDEOS"]
    source += [f"--ids={args.ids}"] if args.ids != "stem" else []
    if part_lists:
        source += [f"--format={args.format}", "--trim"]
        source += [f"--list={split + '=' if split else ''}{os.path.abspath(path)}" for split, path in part_lists]
    placeholder = "" if args.videos else " (VIDEOS: your folder of videos)"
    if has_video_files(args.root):
        if part_lists:
            return shlex.join(["twostream", "extract", "--root=DATA", *source]) + placeholder
        return "add their files to the folder of videos, or fix them, and give --frames=videos,"
    commands = [remake(str(args.root), store.input_type, settings_of(store)) for store in image_stores(args.root)]
    if OTHER_TOOL in commands:
        return "use the tool that made the other images"
    return "; ".join(commands).replace("--videos=VIDEOS", shlex.join(source)) + placeholder


def settings_of(store: FrameStore) -> dict[str, Any] | None:
    """The settings of a tree; None where another tool made it; empty where they cannot be read."""
    try:
        return store.tree_settings()
    except BadInputError:
        return {}


def write(args: argparse.Namespace) -> None:
    """Write lists from annotations.json."""
    annotations = read_annotations(args.root)
    folder = args.videos or recorded_videos(annotations) if args.write == "mmaction2_videos" else None
    id_from = "path" if "--ids=path" in annotations.annotate_flags else args.ids
    written = write_lists(args.write, annotations, args.root, args.out, paths=paths_below(folder, id_from))
    for path, num_lines in written.items():
        print(f"wrote {path}: {counted(num_lines, 'line')}")
    left_out = sum(not video.num_frames or not video.label for video in annotations.videos)
    if left_out:
        print(f"left out: {counted(left_out, 'video')} without frames or without a label")
    if args.write == "mmaction2_frames":
        print(f"next, in MMAction2: data_prefix={args.root / 'rgb-images'}, filename_tmpl='{{:05}}.jpg', start_index=1")
    elif folder:
        print(f"next, in MMAction2: data_prefix={folder}")
    else:
        print(
            "the lists have file names without folders: if the videos are in sub-folders, run this again with --videos DIR"
        )
        print("next, in MMAction2: data_prefix=<folder of the videos>")


def recorded_videos(annotations: Annotations) -> Path | None:
    """The folder of videos that the annotations were made from, if it still exists."""
    flags = [flag.partition("=")[2] for flag in annotations.annotate_flags if flag.startswith("--videos=")]
    return Path(flags[0]) if flags and Path(flags[0]).is_dir() else None


def paths_below(folder: Path | None, id_from: str) -> dict[str, Path]:
    """The video files below a folder by id, as paths relative to it; none without a folder."""
    if folder is None:
        return {}
    if not folder.is_dir():
        raise BadInputError(f"--videos {folder} is not a folder")
    try:
        videos, _ = find_videos(folder, id_from=id_from)
    except ValueError as error:
        raise BadInputError(str(error)) from None
    return {video_id: path.relative_to(folder) for video_id, path in videos.items()}


def main() -> int:
    """Run the program; returns its exit code."""
    parser = build_parser()
    args = parser.parse_args()
    if args.val_fraction is not None and not 0 <= args.val_fraction < 1:
        parser.error(f"--val_fraction is {args.val_fraction:g}, expected 0 or more and less than 1")
    args.multi_label = args.multi_label or args.format == "charades"
    files = [(None, args.videos)] if args.format == "folder" and args.videos else args.list
    if args.plan and (args.frames != "videos" or not args.videos or args.write):
        parser.error("--plan is for --frames=videos, and needs --videos DIR")
    if args.plan:
        print_plan(args)
    elif args.write:
        if args.list or not args.out or (args.videos and args.write != "mmaction2_videos"):
            parser.error("--write needs --out PREFIX and reads no list; --write=mmaction2_videos may have --videos DIR")
        write(args)
    elif not files or (args.format != "folder" and args.videos and args.frames == "images"):
        needed = "--videos DIR" if args.format == "folder" else "--list FILE"
        parser.error(f"--format {args.format} needs {needed}")
    elif args.frames == "videos" and not args.videos:
        parser.error("--frames=videos needs --videos DIR, the folder of the videos")
    else:
        num_bad = index_videos(args) if args.frames == "videos" else 0
        build(args, files)
        return EXIT_SOME_BAD if num_bad else EXIT_DONE
    return EXIT_DONE
