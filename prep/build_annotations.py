#!/usr/bin/env python3
"""A data set's own list + what was extracted -> <root>/annotations.json.

  --format folder        class folders of videos, with or without train/val folders above them
  --format csv           columns video,label[,split][,group]
  --format kinetics_csv  label,youtube_id,time_start,time_end,split[,is_cc], one or several files

Where the list has no splits, --val_fraction of each class becomes "val", or of the groups of column "group"
(--group_by names another column), which are never torn apart.

Exit codes: 0 done; 2 wrong command line; 3 the list or the data root is not as it must be.
"""

import argparse
import sys
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from twostream import options
from twostream.annotations import FILE_NAME, SPLITS, write_annotations
from twostream.errors import BadInputError
from twostream.lists import READERS, assign_splits, build_annotations


# fmt: off
def build_parser() -> options.Parser:
    parser = options.Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--root", type=options.folder, required=True, metavar="DIR", help="data root that prep/extract.py wrote")
    add("--format", choices=tuple(READERS), default="folder", help="kind of list (default: folder)")
    add("--videos", type=options.folder, metavar="DIR", help="folder of class folders, for --format folder")
    add("--list", type=options.folder, nargs="+", metavar="FILE", help="list files, for the other formats")
    add("--ids", choices=("stem", "path"), default="stem", help="as given to extract.py (default: stem)")
    add("--val_fraction", type=float, default=0.2, metavar="F", help="share of val where the list has no splits (default: 0.2)")
    add("--group_by", default="", metavar="COLUMN", help="csv column of the groups (default: group, if there is one)")
    add("--seed", type=int, default=123, metavar="N", help="seed of that choice (default: 123)")
    return parser
# fmt: on


def main() -> int:
    parser = build_parser()
    args = parser.parse_args()
    if not 0 <= args.val_fraction < 1:
        parser.error(f"--val_fraction is {args.val_fraction:g}, expected 0 or more and less than 1")
    paths = [args.videos] if args.format == "folder" else args.list
    if not paths or paths == [None]:
        parser.error(f"--format {args.format} needs {'--videos DIR' if args.format == 'folder' else '--list FILE'}")

    reader = READERS[args.format]
    listed = [entry for path in paths for entry in reader(path, id_from=args.ids, group_by=args.group_by)]
    if not listed:
        raise BadInputError(f"{paths[0]} lists no videos")
    if any(entry.split is None for entry in listed):
        print(f"no splits in {paths[0]}: --val_fraction={args.val_fraction:g} --seed={args.seed} decide")
    annotations = build_annotations(assign_splits(listed, val_fraction=args.val_fraction, seed=args.seed), args.root)
    write_annotations(args.root / FILE_NAME, annotations)

    trained = {video.label for video in annotations.videos if video.split == "train" and video.num_frames}
    for split in SPLITS:
        videos = [video for video in annotations.videos if video.split == split]
        if not videos:
            continue
        missing = [video.id for video in videos if video.num_frames == 0]
        frames = sum(video.num_frames for video in videos)
        print(f"{split}: {len(videos)} videos, {frames} frames, {len({v.label for v in videos})} classes")
        if missing:
            print(f"  {len(missing)} of them are not extracted: {', '.join(missing[:5])}{' ...' * (len(missing) > 5)}")
    untrained = [f"{name} ({count} videos)" for name, count in sorted(Counter(
        video.label for video in annotations.videos if video.label and video.label not in trained).items())]  # fmt: skip
    if untrained and trained:
        print(f"warning: no train videos of {', '.join(untrained)}")
    print(f"wrote {args.root / FILE_NAME}: {len(annotations.classes)} classes")
    return 0


if __name__ == "__main__":
    options.run(main)
