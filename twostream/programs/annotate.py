"""A data set's own list and what was extracted -> <root>/annotations.json.

  --format folder            --videos DIR: class folders of videos, with or without train/val folders above them
  --format csv               columns video,label[,split][,group]
  --format kinetics_csv      label,youtube_id,time_start,time_end,split[,is_cc] of Kinetics-400, 600, 700
  --format ucf101            folder with classInd.txt, trainlist0N.txt and testlist0N.txt; --split N
  --format hmdb51            folder with <class>_test_splitN.txt; --split N
  --format mmaction2_frames  dir total_frames label, or dir start total_frames label; with --classes FILE
  --format mmaction2_videos  path label; with --classes FILE
  --format activitynet       JSON of ActivityNet, or of a Kinetics release
  --format 2d-kinectics      hfiles/finalannots.json, to make annotations.json for such a tree

If a list has no splits, name them on the command line: --list train=FILE val=FILE. Otherwise --val_fraction of each
class becomes "val", or of the groups in column "group" (--group_by names another column), which are never split. The
test lists of UCF101 and HMDB51 become "val", the split on which twostream train and twostream test report.

A part of a video (Kinetics, ActivityNet) is matched with the extracted video <id>_<start>_<end>, in seconds with six
digits each (with milliseconds where they are not whole), or with <id> if no other row has that id.

With --write and --out, lists for MMAction2 are written from the annotations: PREFIX_train.txt, ..., PREFIX_classes.txt.

Exit codes: 0 done, also with warnings; 2 wrong command line; 3 a list or the data root is wrong.
"""

import argparse
import itertools
from pathlib import Path

import numpy as np

from twostream.annotations.join import build_annotations
from twostream.annotations.json_file import FILE_NAME, read_annotations, write_annotations
from twostream.annotations.list_writers import WRITERS, write_lists
from twostream.annotations.lists import READERS, read_classes, read_lists
from twostream.annotations.splits import assign_splits
from twostream.annotations.videos import SPLITS, Annotations
from twostream.errors import BadInputError
from twostream.programs import options
from twostream.programs.options import list_file


# fmt: off
def build_parser() -> options.Parser:
    """The flags of the program."""
    parser = options.Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--root", type=options.folder, required=True, metavar="DIR", help="data root that twostream extract wrote")
    add("--format", choices=tuple(READERS), default="folder", help="kind of list (default: folder)")
    add("--videos", type=options.folder, metavar="DIR", help="folder of class folders, for --format folder")
    add("--list", type=list_file, nargs="+", metavar="[SPLIT=]FILE", help="list files, for the other formats (for ucf101 and hmdb51: the folder with the lists)")
    add("--split", type=int, choices=(1, 2, 3), default=1, help="which of the three splits of ucf101 and hmdb51 (default: 1)")
    add("--classes", type=options.folder, metavar="FILE", help="class names, one per line: the allowed labels in their order (default: the labels in alphabetical order)")
    add("--ids", choices=("stem", "path"), default="stem", help="as given to twostream extract (default: stem)")
    add("--val_fraction", type=options.share, default=0.2, metavar="F", help="share of val if the list has no splits (default: 0.2)")
    add("--group_by", default="", metavar="COLUMN", help="csv column of the groups (default: group, if it exists)")
    add("--seed", type=options.seed, default=123, metavar="N", help="seed for the choice of val (default: 123)")
    add("--write", choices=tuple(WRITERS), help="write this kind of list from the annotations of --root; reads no list")
    add("--out", type=options.folder, metavar="PREFIX", help="beginning of the names of the files that --write writes")
    return parser
# fmt: on


def build(args: argparse.Namespace, files: list[tuple[str | None, Path]]) -> None:
    """Write annotations.json from lists: for each the split of its entries (None: not given) and its path."""
    classes = read_classes(args.classes) if args.classes else ()
    entries = read_lists(
        args.format, files, id_from=args.ids, group_by=args.group_by, split_number=args.split, classes=classes
    )
    first = next(entries, None)
    if first is None:
        raise BadInputError(f"{files[0][1]} lists no videos")
    if first.split is None:
        print(f"no splits in {files[0][1]}: val is chosen by --val_fraction={args.val_fraction:g} --seed={args.seed}")
    listed = assign_splits(itertools.chain([first], entries), val_fraction=args.val_fraction, seed=args.seed)
    annotations, warnings = build_annotations(listed, args.root, classes=classes)
    write_annotations(args.root / FILE_NAME, annotations)
    for warning in warnings:
        print(f"warning: {warning}")
    num_missing = report(annotations)
    print(f"wrote {args.root / FILE_NAME}: {len(annotations.classes)} classes")
    steps = []
    if num_missing < len(annotations.videos):
        steps.append(f"twostream train --root={args.root}")
    if num_missing:
        steps.append(
            f"twostream extract --root={args.root} for the {num_missing} videos without frames, then this command again"
        )
    print(f"next: {'; or '.join(steps)}")


def report(annotations: Annotations) -> int:
    """Print the size of each split; returns the number of videos that are not extracted."""
    for index, split in enumerate(SPLITS):
        videos = annotations.videos[annotations.videos.split_index == index]
        if videos:
            num_frames = videos.num_frames.sum(dtype=np.int64)
            num_classes = len(np.unique(videos.label_index[videos.label_index >= 0]))
            print(f"{split}: {len(videos)} videos, {num_frames} frames, {num_classes} classes")
            missing = np.flatnonzero(videos.num_frames == 0)
            names = [videos.ids[row] for row in missing[:5].tolist()] + (["..."] if len(missing) > 5 else [])
            if names:
                print(f"  {len(missing)} of them are not extracted: {', '.join(names)}")
    return int(np.count_nonzero(annotations.videos.num_frames == 0))


def write(args: argparse.Namespace) -> None:
    """Write lists from annotations.json."""
    annotations = read_annotations(args.root)
    written = write_lists(args.write, annotations, args.root, args.out)
    for path, num_lines in written.items():
        print(f"wrote {path}: {num_lines} lines")
    left_out = sum(not video.num_frames or video.label is None for video in annotations.videos)
    if left_out:
        print(f"{left_out} videos without frames or without a label are left out")
    if args.write == "mmaction2_frames":
        print(f"next, in MMAction2: data_prefix={args.root / 'rgb-images'}, filename_tmpl='{{:05}}.jpg', start_index=1")
    else:
        print("next, in MMAction2: data_prefix=<folder of the videos>")


def main() -> int:
    """Run the program; returns its exit code."""
    parser = build_parser()
    args = parser.parse_args()
    if not 0 <= args.val_fraction < 1:
        parser.error(f"--val_fraction is {args.val_fraction:g}, expected 0 or more and less than 1")
    files = [(None, args.videos)] if args.format == "folder" and args.videos else args.list
    if args.write:
        if files or not args.out:
            parser.error("--write needs --out PREFIX and reads no list")
        write(args)
    elif not files or (args.format != "folder" and args.videos):
        needed = "--videos DIR" if args.format == "folder" else "--list FILE"
        parser.error(f"--format {args.format} needs {needed}")
    else:
        build(args, files)
    return 0
