"""Reduce the score files of the streams to videos, fuse them, print and save the report.

  python eval.py --save_root=runs --input_types=rgb,farneback
  python eval.py --scores rgb.npz flow.npz --fusion_weights=1,1.5 --report=report.json
  python eval.py --save_root=runs --root=data --html=report.html
  python eval.py --scores rgb.npz theirs.pkl --names=val_list.txt --fit_weights=global --write markdown=table.md

Rows are joined by video id, frame and view. Videos without scores count as wrong. Imports no torch.
Exit codes: 0 done; 2 wrong command line; 3 score files are missing, damaged or do not belong together; 4 a file cannot be written.
"""

import argparse
import math
import shlex
import sys
from pathlib import Path

from twostream.frames.stores import input_types
from twostream.fusion.consensus import Consensus, in_threads
from twostream.fusion.fitting import METHODS
from twostream.programs import options
from twostream.report import results
from twostream.report.text import to_text
from twostream.report.writers import WRITERS
from twostream.scores.foreign import Split, is_own, on_split, read_names, read_result
from twostream.scores.table import ScoreTable


# fmt: off
def build_parser() -> options.Parser:
    parser = options.Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    group = parser.add_argument_group("streams")
    add = group.add_argument
    add("--scores", type=options.folder, nargs="+", metavar="FILE", help="score files, one per stream: of test.py, 2D-kinectics, MMAction2, TSN, PySlowFast, VMZ, jeffreyyihuang's two-stream, or the challenge's JSON")
    add("--names", type=options.folder, default=None, metavar="FILE", help="for files of others that name no videos: the list that was tested")
    add("--annotations", type=options.folder, default=None, metavar="DIR", help="data root whose annotations are the official list (default: the list in the score files), and whose images --html shows")
    add("--intersect", action="store_true", help="take the videos and frames that all streams have, where they differ; otherwise that is refused")
    add("--save_root", type=options.folder, metavar="DIR", help="or: folder of the runs (default: --root)")
    add("--root", type=options.folder, metavar="DIR", help="data root, where --save_root was not given in training; or whose images --html shows")
    add("--dataset", default="kinetics", metavar="NAME", help="sub-folder of --root, if the runs are there (default: kinetics)")
    add("--input_types", "--input_type", "--input", "-i", type=options.words, default=("rgb", "farneback"), metavar="A,B", help="whose runs to take there (default: rgb,farneback)")
    add("--runs", type=options.words, default=(), metavar="A,B", help="names of those runs, where there are several of an input type")
    add("--split", default="val", metavar="NAME", help="(default: val)")
    add("--test_iteration", type=int, default=None, metavar="N", help="(default: the latest that was scored)")

    group = parser.add_argument_group("fusion")
    add = group.add_argument
    add("--consensus", default="softmax-mean", metavar="RULE", help="clips of a video -> one: mean, max, clstk-K (mean of each class's best K frames), trimmed-P (mean without P percent at each end) or segment-S (mean of S frames evenly spread) on logits, softmax-mean ... on softmax (default: softmax-mean)")
    add("--sweep", action="store_true", help="also judge every rule at several frame strides, and accuracy over the number of frames")
    add("--fusion_weights", type=options.numbers, default=None, metavar="W,W", help="of the streams (default: equal)")
    add("--fit_weights", type=options.words, default=(), metavar="A,B", help=f"also fuse by weights fitted to the split, each video by those of the other videos: {'; '.join(f'{name} ({what})' for name, what in METHODS.items())}")

    group = parser.add_argument_group("output")
    add = group.add_argument
    add("--report", type=options.folder, default=None, metavar="FILE", help="where to save the table as JSON (default: report.json beside the runs, or here)")
    add("--write", nargs="+", default=(), metavar="KIND=FILE", help=f"also write {', '.join(WRITERS)}; what holds one row of each video is of the last fusion")
    add("--html", type=options.folder, default=None, metavar="FILE", help="also write the report as a page for any browser, one file: classes, confusion, example videos with their images (of --root or --annotations), accuracy over frames, calibration, provenance")
    options.add_ignored_flags(parser, "--arch -a", "--datasubset", "--workers -j", "--seq_len", "--gap", "--frame_step",
                              "--batch_size -b", "--test_batch_size -tb", "--ngpu", "--lr --learning_rate",
                              "--print_freq -p", "--global_models_dir", "--pretrained")
    return parser
# fmt: on


def find_runs_folder(args: argparse.Namespace):
    """--save_root, or where the runs are that were trained without it; None when neither is named, or files are."""
    if args.save_root or args.scores or not args.root:
        return args.save_root
    from twostream.engine.run_folder import STREAM_NAME

    nested = args.root / args.dataset
    return nested if any(nested.glob(f"*/{STREAM_NAME}")) else args.root


def find_score_files(args: argparse.Namespace, runs_folder: Path) -> list[Path]:
    """Of the runs of each input type."""
    from twostream.engine.run_folder import (
        find_run,
        find_scores,  # by way of the annotations it brings OpenCV
    )

    names = args.runs or ("",) * len(args.input_types)
    runs = [find_run(runs_folder, input_type=t, name=n) for t, n in zip(args.input_types, names, strict=True)]
    return [find_scores(run, split=args.split, iteration=args.test_iteration) for run in runs]


def main() -> int:
    parser = build_parser()
    args = parser.parse_args()
    try:
        consensus = Consensus.parse(args.consensus)
    except ValueError as error:
        parser.error(f"--consensus: {error}")
    runs_folder = find_runs_folder(args)
    if not args.scores and not runs_folder:
        parser.error("name the streams by --scores FILE FILE, or their folder by --save_root DIR")
    if not args.input_types:
        parser.error("--input_types is empty, expected for example rgb,farneback")
    if args.runs and len(args.runs) != len(args.input_types):
        parser.error(f"--runs names {len(args.runs)} runs for {len(args.input_types)} input types")

    if unknown := [name for name in args.fit_weights if name not in METHODS]:
        parser.error(f"--fit_weights {unknown[0]!r}, expected {', '.join(METHODS)}")
    targets = [text.partition("=") for text in args.write]
    if wrong := [
        text for text, (kind, _, path) in zip(args.write, targets, strict=True) if kind not in WRITERS or not path
    ]:
        parser.error(f"--write {wrong[0]!r}, expected {'=FILE, '.join(WRITERS)}=FILE")

    paths = args.scores or find_score_files(args, runs_folder)
    weights = args.fusion_weights or (1.0,) * len(paths)
    if args.fit_weights and len(paths) == 1:
        parser.error("--fit_weights is for several streams, there is one")
    if len(weights) != len(paths) or min(weights) < 0 or not 0 < sum(weights) < math.inf:
        parser.error(f"--fusion_weights {weights}, expected {len(paths)} numbers, none negative, not all 0")

    names = read_names(args.names) if args.names else None
    tables = read_tables(paths, names, annotations=args.annotations, split=args.split, intersect=args.intersect)
    for path in paths:
        print(f"scores: {path}")
    result = results.build_report(
        tables, row_names(tables), consensus=consensus, weights=weights, fit=args.fit_weights,
        intersect=args.intersect, swept=args.sweep, unlabelled=bool(targets),
    )  # fmt: skip
    print(f"\n{to_text(result)}\n")
    target = args.report or (runs_folder / "report.json" if runs_folder else options.folder("report.json"))
    results.write_json(target, result)
    print(f"wrote {target}")
    for kind, _, path in targets:
        WRITERS[kind](options.folder(path), result, tables, names)
        print(f"wrote {path}")
    if args.html:
        from twostream.report.page import write_page  # brings OpenCV

        command = shlex.join(["python", "eval.py", *sys.argv[1:]])
        write_page(args.html, result, root=find_images(args), command=command, files=paths)
        print(f"wrote {args.html}")
    return 0


def find_images(args: argparse.Namespace) -> Path | None:
    """The data root that was named, or the folder of the data set in it; None where none was."""
    named = args.annotations or args.root
    nested = named and named / args.dataset
    return nested if nested and input_types(nested) else named


def read_tables(
    paths: list[Path], names: list[str] | None, *, annotations: Path | None, split: str, intersect: bool
) -> list[ScoreTable]:
    """The score files; of others, by the videos of the annotations, or else of the first file of our own."""
    official = read_split(annotations, split) if annotations else None
    own_paths = [path for path in dict.fromkeys(paths) if is_own(path)]
    own = dict(zip(own_paths, in_threads(read_result, own_paths), strict=True))
    if own and not official:
        return [
            own.get(path)
            or read_result(path, split=Split.of_table(next(iter(own.values()))), names=names, intersect=intersect)
            for path in paths
        ]
    return [
        on_split(path, own[path], official, intersect=intersect) if path in own
        else read_result(path, split=official, names=names, intersect=intersect)
        for path in paths
    ]  # fmt: skip


def read_split(root: Path, name: str) -> Split:
    """The official list of a data root."""
    import numpy as np

    from twostream.annotations.json_file import (
        find_root,
        read_annotations,  # brings OpenCV, which is not needed otherwise
    )
    from twostream.errors import BadInputError

    annotations = read_annotations(find_root(root, ""))
    videos = annotations.split(name)
    if not len(videos):
        raise BadInputError(f"{annotations.path} has no videos of split {name!r}; name another --split")
    return Split(name, annotations.classes, np.array(list(videos.ids)), videos.label_index)


def row_names(tables) -> list[str]:
    """RGB, Flow, the name of another toolkit's file; or where that is not enough to tell them apart, more."""
    names = [
        table.stream["input_type"] if "kind" in table.provenance
        else "RGB" if table.stream["input_type"] == "rgb" else "Flow"
        for table in tables
    ]  # fmt: skip
    if len(set(names)) < len(names):
        names = [f"{table.stream['input_type']}-{table.stream['backbone']}" for table in tables]
    if len(set(names)) < len(names):
        names = [f"{number}:{name}" for number, name in enumerate(names, 1)]
    return names
