"""Reduce the score files of streams to videos, fuse them, print and save the report.

  twostream eval --save_root=runs --input_types=rgb,farneback
  twostream eval --scores rgb.npz flow.npz --fusion_weights=1,1.5 --report=report.json
  twostream eval --save_root=runs --root=data --html=report.html
  twostream eval --timelines=timelines.json --ground_truth=activity_net.v1-3.min.json
  twostream eval --scores rgb.npz theirs.pkl --names=val_list.txt --fit_weights=global --write markdown=table.md
  twostream eval --save_root=runs --split=test --weights_from=val.json --report=test.json --write challenge=test_results.json

Rows are joined by video id, frame and view. Videos without scores count as wrong. Imports no torch.
Exit codes: 0 done; 2 wrong command line; 3 score files are missing, damaged or do not belong together; 4 a file cannot be
written.
"""

import argparse
import json
import math
import os
import shlex
import sys
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from twostream.annotations.class_names import read_classes
from twostream.annotations.json_file import find_root, read_annotations
from twostream.annotations.videos import SPLITS
from twostream.counts import counted
from twostream.engine.run_folder import STREAM_NAME, find_run, find_scores
from twostream.errors import BadInputError
from twostream.files import write_text
from twostream.fusion.consensus import Consensus
from twostream.fusion.fitting import METHODS
from twostream.fusion.report_file import read_weights
from twostream.metrics.confusion import confusion_matrix, exchanged_classes
from twostream.metrics.detection import TIOU_THRESHOLDS, judge
from twostream.programs import options
from twostream.report import results
from twostream.report.text import row_text, to_text
from twostream.report.writers import ONE_ROW, WRITERS
from twostream.scores.foreign import ForeignOptions, Split, apply_split, is_own_file, read_names, read_result
from twostream.scores.scale import parse_scale
from twostream.scores.table import ScoreTable
from twostream.scores.timelines import read_timelines, read_truth
from twostream.stream import RGB
from twostream.threads import map_in_threads

DEFAULT_SPLIT = "val"
OF_SCORES = (
    "scores", "annotations", "sweep", "fusion_weights", "fit_weights", "weights_from", "write", "write_row", "html",
)  # fmt: skip
"""flags without effect on timelines"""


def scales(text: str) -> tuple[str, ...]:
    """Comma-separated scales."""
    try:
        return tuple(parse_scale(part.strip()) for part in text.split(","))
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def target(text: str) -> tuple[str, Path]:
    """Value of --write: the kind of file, and where to write it."""
    kind, _, path = text.partition("=")
    if kind not in WRITERS or not path:
        raise argparse.ArgumentTypeError(f"{text!r}, expected {'=FILE, '.join(WRITERS)}=FILE")
    return kind, options.folder(path)


# fmt: off
def build_parser() -> options.Parser:
    """The flags of this program."""
    parser = options.Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    group = parser.add_argument_group("streams")
    add = group.add_argument
    add("--scores", type=options.folder, nargs="+", metavar="FILE", help="score files, one per stream: of twostream test, 2D-kinectics, MMAction2, TSN, PySlowFast, VMZ, jeffreyyihuang's two-stream, or the challenge's JSON")
    add("--names", type=options.folder, default=None, metavar="FILE", help="for files of other toolkits that do not name their videos: the list that was tested, one video a line")
    add("--classes", type=options.folder, default=None, metavar="FILE", help="for files of other toolkits that do not name their classes: the class list of their training, in the order of their columns, such as classInd.txt (default: the order of --annotations or, without it, of the first score file of twostream test)")
    add("--scale", type=scales, default=("auto",), metavar="A,B", help="what the scores of other toolkits are, one for all or one for each file: auto, logits, probabilities, or sum-N for sums of N views (default: auto, by the format or by the rows; the output says which)")
    add("--annotations", type=options.folder, default=None, metavar="DIR", help="data root: its annotations are the official list (default: the list in the score files), and --html shows its images")
    add("--intersect", action="store_true", help="if the streams have different videos or frames, use those that all have (default: an error)")
    add("--save_root", type=options.folder, metavar="DIR", help="instead of --scores: folder of the runs (default: --root)")
    add("--root", type=options.folder, metavar="DIR", help="data root: --html shows its images; without --save_root it is also the folder of the runs")
    add("--dataset", type=options.name, default="kinetics", metavar="NAME", help="sub-folder of --root, if the runs or images are there (default: kinetics)")
    add("--input_types", "--input_type", "--input", "-i", type=options.names, default=("rgb", "farneback"), metavar="A,B", help="a run of each of these input types (default: rgb,farneback)")
    add("--runs", type=options.names, default=(), metavar="A,B", help="folder names of these runs, if there are several of an input type")
    add("--split", choices=SPLITS, default=None, help="split whose scores to use (default: val, or that of the files of --scores)")
    add("--test_iteration", "--test_iterations", type=options.integers, default=(), metavar="N,N", help="iterations whose scores to use; several make a report each, report_<iteration>.json (default: the latest scored one)")

    group = parser.add_argument_group("timelines")
    add = group.add_argument
    add("--timelines", type=options.folder, default=None, metavar="FILE", help="instead of scores: what twostream predict --timeline --json wrote, or ActivityNet's results")
    add("--ground_truth", type=options.folder, default=None, metavar="FILE", help="true segments of --split, as ActivityNet has them")

    group = parser.add_argument_group("fusion")
    add = group.add_argument
    add("--consensus", default="softmax-mean", metavar="RULE", help="rule from clips to a video: mean, max, clstk-K (mean of each class's best K frames), trimmed-P (mean without P percent at each end) or segment-S (mean of S evenly spaced frames) on logits; with softmax- before it, on softmax (default: softmax-mean)")
    add("--sweep", action="store_true", help="also evaluate every rule at several frame strides, and accuracy over the number of frames")
    add("--fusion_weights", type=options.numbers, default=None, metavar="W,W", help="weights of the streams (default: equal)")
    add("--fit_weights", type=options.words, default=(), metavar="A,B", help=f"also fuse with weights fitted to the split, for each video on the other videos: {'; '.join(f'{name} ({description})' for name, description in METHODS.items())}")
    add("--weights_from", type=options.folder, default=None, metavar="FILE", help="also fuse with the weights that --fit_weights saved in this report, for example on another split")

    group = parser.add_argument_group("output")
    add = group.add_argument
    add("--report", type=options.folder, default=None, metavar="FILE", help="where to save the report as JSON (default: report.json in the folder of the runs, or in the current folder)")
    add("--write", type=target, nargs="+", default=(), metavar="KIND=FILE", help=f"also write {', '.join(WRITERS)}; {', '.join(ONE_ROW)} hold one row of the table, see --write_row")
    add("--write_row", default="", metavar="NAME", help="the row of the table for --write, by its name (default: the fusion with --weights_from, else the one with --fusion_weights, else the only stream)")
    add("--html", type=options.folder, default=None, metavar="FILE", help="also write the report as one HTML file: classes, confusion, example videos with their images (from --root or --annotations), accuracy over frames, calibration, provenance")
    options.add_ignored_flags(parser, "--arch -a", "--datasubset", "--workers -j", "--seq_len", "--gap", "--frame_step",
                              "--batch_size -b", "--test_batch_size -tb", "--ngpu", "--lr --learning_rate",
                              "--print_freq -p", "--global_models_dir", "--pretrained")
    return parser
# fmt: on


def find_runs_folder(args: argparse.Namespace) -> Path | None:
    """--save_root, or the folder of runs that were trained without it; None if score files or no folder are given."""
    if args.save_root or args.scores or not args.root:
        return args.save_root
    nested = args.root / args.dataset
    return nested if any(nested.glob(f"*/{STREAM_NAME}")) else args.root


def find_score_files(args: argparse.Namespace, runs_folder: Path | None, iteration: int | None) -> list[Path]:
    """The files of --scores, or else the score file of one run for each input type."""
    if args.scores:
        return list(args.scores)
    assert runs_folder is not None, "check_flags asks for --scores or a folder of runs"
    names = args.runs or ("",) * len(args.input_types)
    runs = [find_run(runs_folder, input_type=t, name=n) for t, n in zip(args.input_types, names, strict=True)]
    return [find_scores(run, split=args.split or DEFAULT_SPLIT, iteration=iteration) for run in runs]


def main() -> int:
    """Run the program; returns its exit code."""
    parser = build_parser()
    args = parser.parse_args()
    try:
        consensus = Consensus.parse(args.consensus)
    except ValueError as error:
        parser.error(f"--consensus: {error}")
    if args.timelines or args.ground_truth:
        if not (args.timelines and args.ground_truth):
            parser.error("timelines are judged by the truth; give both --timelines and --ground_truth")
        for flag in OF_SCORES:
            if getattr(args, flag) != parser.get_default(flag):
                parser.error(f"--{flag} is for scores, not for --timelines, whose measures --report writes")
        judge_timelines(args)
        return 0
    runs_folder = find_runs_folder(args)
    check_flags(parser, args, runs_folder)
    report_path = args.report or (runs_folder / "report.json" if runs_folder else Path("report.json"))
    several = len(args.test_iteration) > 1
    reports = {
        n: report_path.with_stem(f"{report_path.stem}_{n:06d}") if several else report_path
        for n in args.test_iteration or (None,)
    }
    if args.weights_from and os.path.realpath(args.weights_from) in map(os.path.realpath, reports.values()):
        parser.error(
            f"--weights_from: the new report would replace {args.weights_from}; give it another name with --report"
        )
    for iteration, path in reports.items():
        if several:
            print(f"iteration {iteration}")
        evaluate(parser, args, runs_folder, consensus, path, iteration=iteration)
    return 0


def judge_timelines(args: argparse.Namespace) -> None:
    """Compare timelines with the true segments, print the measures, and write them with --report."""
    found = judge(read_truth(args.ground_truth, args.split or DEFAULT_SPLIT), read_timelines(args.timelines))
    print(
        f"{counted(found.num_true, 'true segment')} of {counted(found.num_classes, 'class', 'classes')}, "
        f"{found.num_predicted} predicted"
    )
    for tiou, value in zip(TIOU_THRESHOLDS, found.mean_average_precision, strict=True):
        print(f"mAP at tIoU {tiou:.2f}: {100 * value:6.2f}")
    print(f"average mAP:         {100 * float(np.mean(found.mean_average_precision)):6.2f}")
    for number, value in found.recall_at.items():
        print(f"AR@{number}:{' ' * (17 - len(str(number)))}{100 * value:6.2f}")
    if args.report:
        write_text(args.report, json.dumps(found.to_json(), indent=1) + "\n")
        print(f"wrote {args.report}")


def evaluate(
    parser: argparse.ArgumentParser, args: argparse.Namespace, runs_folder: Path | None, consensus: Consensus,
    report_path: Path, *, iteration: int | None,
) -> None:  # fmt: skip
    """Read the score files, print the table, and write the report and what else was asked for."""
    paths = find_score_files(args, runs_folder, iteration)
    weights = args.fusion_weights or (1.0,) * len(paths)
    check_numbers(parser, args, weights, len(paths))
    tables = read_tables(paths, args)
    print_sources(paths, tables)
    names = row_names(tables)
    given = read_weights(args.weights_from, tables, consensus) if args.weights_from else []
    rows = results.names_of_rows(names, weights, fit=args.fit_weights, given=given)
    check_written_row(parser, args, rows, num_given=len(given))
    report = results.build_report(
        tables, names, consensus=consensus, weights=weights, fit=args.fit_weights, given=given, written=args.write_row,
        intersect=args.intersect, swept=args.sweep, unlabelled=bool(args.write), progress=show_progress,
    )  # fmt: skip
    print(f"\n{to_text(report)}\n")
    results.write_json(report_path, report)
    print(f"wrote {report_path}")
    tested = read_names(args.names) if args.names else None
    for kind, path in args.write:
        WRITERS[kind](path, report, tables, tested)
        print(f"wrote {path}" + (f": {row_text(report, report.predictions.main)}" if kind in ONE_ROW else ""))
    if args.html:
        from twostream.report.page import write_page  # late: only the page needs OpenCV, which takes time to load

        command = shlex.join(["twostream", "eval", *sys.argv[1:]])
        write_page(args.html, report, root=find_images(args), command=command, files=paths)
        print(f"wrote {args.html}")


def show_progress(results: Iterable[Any], total: int, name: str) -> Iterable[Any]:
    """A bar for what takes more than a second."""
    bar: Iterable[Any] = options.progress_bar(results, total=total, desc=name, delay=1, leave=False)
    return bar


def check_flags(parser: argparse.ArgumentParser, args: argparse.Namespace, runs_folder: Path | None) -> None:
    """Leave with exit code 2 if flags are wrong or do not fit together."""
    if not args.scores and not runs_folder:
        parser.error("give the score files with --scores FILE FILE, or the folder of the runs with --save_root DIR")
    for flag in ("runs", "test_iteration") if args.scores else ():
        if getattr(args, flag):
            parser.error(
                f"--{flag} chooses score files in a folder of runs, but --scores names them; leave one of them out"
            )
    if args.runs and len(args.runs) != len(args.input_types):
        parser.error(
            f"--runs has {counted(len(args.runs), 'run')} for {len(args.input_types)} input types, expected one for each"
        )
    for method in args.fit_weights:
        if method not in METHODS:
            parser.error(f"--fit_weights {method!r}, expected {', '.join(METHODS)}")
    if len(args.test_iteration) > 1 and (args.write or args.html):
        parser.error("several --test_iteration make several reports; give one with --write and --html")


def check_numbers(
    parser: argparse.ArgumentParser, args: argparse.Namespace, weights: tuple[float, ...], num_streams: int
) -> None:
    """Leave with exit code 2 if flags do not fit the number of streams."""
    for flag in ("fit_weights", "weights_from"):
        if getattr(args, flag) and num_streams == 1:
            parser.error(f"--{flag} needs several streams, but there is only one")
    if len(weights) != num_streams or min(weights) < 0 or not 0 < sum(weights) < math.inf:
        parser.error(f"--fusion_weights {weights}, expected {counted(num_streams, 'number')}, none negative, not all 0")
    if len(args.scale) not in (1, num_streams):
        parser.error(
            f"--scale has {len(args.scale)} values for {counted(num_streams, 'score file')}, expected one, or one for each"
        )


def check_written_row(
    parser: argparse.ArgumentParser, args: argparse.Namespace, rows: Sequence[str], *, num_given: int
) -> None:
    """Leave with exit code 2 unless it is clear which of the rows --write writes."""
    choice = ", ".join(map(repr, rows))
    if args.write_row and args.write_row not in rows:
        parser.error(f"--write_row {args.write_row!r}, expected one of {choice}")
    if not args.write_row and num_given > 1 and any(kind in ONE_ROW for kind, _ in args.write):
        parser.error(f"{args.weights_from} has {num_given} kinds of weights; choose the row with --write_row: {choice}")


def find_images(args: argparse.Namespace) -> Path | None:
    """The data root given by --annotations or --root, or the folder of the data set in it; None if none is given."""
    from twostream.frames.stores import input_types

    root: Path | None = args.annotations or args.root
    if root and input_types(root / args.dataset):
        return root / args.dataset
    return root


def read_tables(paths: Sequence[Path], args: argparse.Namespace) -> list[ScoreTable]:
    """The score files. The official list is that of the annotations, otherwise that of the first file of our own."""
    own_paths = [path for path in dict.fromkeys(paths) if is_own_file(path)]
    own = dict(zip(own_paths, map_in_threads(read_result, own_paths, progress=show_progress, name="read"), strict=True))
    for path, table in own.items():
        if args.split and table.split != args.split:
            raise BadInputError(
                f"{path}: it has scores of split {table.split!r}, not of --split={args.split}; leave the flag out, or give the "
                "scores of that split"
            )
    official = None
    if args.annotations:
        split = args.split or next((table.split for table in own.values()), DEFAULT_SPLIT)
        official = read_split(args.annotations, split)
        own = {path: apply_split(path, table, official, intersect=args.intersect) for path, table in own.items()}
    elif own:
        official = Split.from_table(own[own_paths[0]], str(own_paths[0]))
    if len(own_paths) == len(set(paths)):
        if args.classes or set(args.scale) != {"auto"}:
            raise BadInputError(
                f"--classes and --scale are for files of other toolkits, but {paths[0]} names its classes and holds logits; "
                "leave the two flags out"
            )
        return [own[path] for path in paths]
    given = ForeignOptions(
        names=read_names(args.names) if args.names else None,
        classes=read_classes(args.classes) if args.classes else (),
        classes_source=str(args.classes or ""),
        intersect=args.intersect,
    )
    scale_of_files = args.scale * len(paths) if len(args.scale) == 1 else args.scale
    return [
        own[path] if path in own else read_result(path, split=official, options=replace(given, scale=scale))
        for path, scale in zip(paths, scale_of_files, strict=True)
    ]


def read_split(root: Path, name: str) -> Split:
    """The official list of a data root."""
    annotations = read_annotations(find_root(root, ""))
    videos = annotations.split(name)
    if not len(videos):
        raise BadInputError(f"{annotations.path} has no videos of split {name!r}; choose another --split")
    source = f"{annotations.path}" + (f" ({annotations.class_order})" if annotations.class_order else "")
    return Split(name, annotations.classes, np.array(list(videos.ids)), videos.labels(), source)


def print_sources(paths: Sequence[Path], tables: Sequence[ScoreTable]) -> None:
    """Print the score files and, for those of other toolkits, how they were read."""
    for path, table in zip(paths, tables, strict=True):
        facts = table.provenance
        if "kind" not in facts:
            print(f"scores: {path}")
            continue
        print(f"scores: {path}: {facts['kind']}, {facts['scale']}; classes {facts['classes']}")
        if table.is_multi_label:
            continue
        has_label = table.row_labels >= 0
        matrix = confusion_matrix(table.logits[has_label], table.row_labels[has_label])
        if facts["classes"] != "by name" and (pairs := exchanged_classes(matrix)):
            first, second = (table.classes[index] for index in pairs[0])
            print(
                f"warning: {path}: {len(pairs)} classes look exchanged; most videos of {first!r} are predicted as {second!r}. "
                "If its columns are in another order, give the class list of its training with --classes"
            )


def row_names(tables: Sequence[ScoreTable]) -> list[str]:
    """RGB, Flow, or the name of another toolkit's file; longer names if two of them would be equal."""
    names = [_short_name(table) for table in tables]
    if len(set(names)) < len(names):
        names = [f"{table.stream['input_type']}-{table.stream['backbone']}" for table in tables]
    if len(set(names)) < len(names):
        names = [f"{number}:{name}" for number, name in enumerate(names, 1)]
    return names


def _short_name(table: ScoreTable) -> str:
    input_type: str = table.stream["input_type"]
    if "kind" in table.provenance:  # another toolkit's file
        return input_type
    return "RGB" if input_type == RGB else "Flow"
