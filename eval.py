#!/usr/bin/env python3
"""Reduce the score files of the streams to videos, fuse them, print and save the report.

  python eval.py --save_root=runs --input_types=rgb,farneback
  python eval.py --scores rgb.npz flow.npz --fusion_weights=1,1.5 --report=report.json

Rows are joined by video id and frame. Videos without scores count as wrong. Imports no torch.
Exit codes: 0 done; 2 wrong command line; 3 score files are missing, damaged or do not belong together.
"""

import argparse
import math

from twostream import options, report
from twostream.fusion import Consensus
from twostream.run_folder import STREAM_NAME, find_run, find_scores
from twostream.scores import read_scores


# fmt: off
def build_parser() -> options.Parser:
    parser = options.Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    group = parser.add_argument_group("streams")
    add = group.add_argument
    add("--scores", type=options.folder, nargs="+", metavar="FILE", help="score files of test.py, one per stream")
    add("--save_root", type=options.folder, metavar="DIR", help="or: folder of the runs (default: --root)")
    add("--root", type=options.folder, metavar="DIR", help="data root, where --save_root was not given in training")
    add("--dataset", default="kinetics", metavar="NAME", help="sub-folder of --root, if the runs are there (default: kinetics)")
    add("--input_types", "--input_type", "--input", "-i", type=options.words, default=("rgb", "farneback"), metavar="A,B", help="whose runs to take there (default: rgb,farneback)")
    add("--runs", type=options.words, default=(), metavar="A,B", help="names of those runs, where there are several of an input type")
    add("--split", default="val", metavar="NAME", help="(default: val)")
    add("--test_iteration", type=int, default=None, metavar="N", help="(default: the latest that was scored)")

    group = parser.add_argument_group("fusion")
    add = group.add_argument
    add("--consensus", default="softmax-mean", metavar="RULE", help="clips of a video -> one: mean, max or clstk-K (mean of each class's best K frames) on logits, softmax-mean ... on softmax (default: softmax-mean)")
    add("--fusion_weights", type=options.numbers, default=None, metavar="W,W", help="of the streams (default: equal)")
    add("--report", type=options.folder, default=None, metavar="FILE", help="where to save the table as JSON (default: report.json beside the runs, or here)")
    options.add_ignored_flags(parser, "--arch -a", "--datasubset", "--workers -j", "--seq_len", "--gap", "--frame_step",
                              "--batch_size -b", "--test_batch_size -tb", "--ngpu", "--lr --learning_rate",
                              "--print_freq -p", "--global_models_dir", "--pretrained")
    return parser
# fmt: on


def find_runs_folder(args: argparse.Namespace):
    """--save_root, or where the runs are that were trained without it; None when neither is named."""
    if args.save_root or not args.root:
        return args.save_root
    nested = args.root / args.dataset
    return nested if any(nested.glob(f"*/{STREAM_NAME}")) else args.root


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

    paths = args.scores
    if not paths:
        names = args.runs or ("",) * len(args.input_types)
        runs = [find_run(runs_folder, input_type=t, name=n) for t, n in zip(args.input_types, names, strict=True)]
        paths = [find_scores(run, split=args.split, iteration=args.test_iteration) for run in runs]
    weights = args.fusion_weights or (1.0,) * len(paths)
    if len(weights) != len(paths) or min(weights) < 0 or not 0 < sum(weights) < math.inf:
        parser.error(f"--fusion_weights {weights}, expected {len(paths)} numbers, none negative, not all 0")

    tables = [read_scores(path) for path in paths]
    for path in paths:
        print(f"scores: {path}")
    result = report.build_report(tables, row_names(tables), consensus=consensus, weights=weights)
    print(f"\n{report.to_text(result)}\n")
    target = args.report or (runs_folder / "report.json" if runs_folder else options.folder("report.json"))
    report.write_json(target, result)
    print(f"wrote {target}")
    return 0


def row_names(tables) -> list[str]:
    """RGB, Flow, or where that is not enough to tell them apart, input type and network."""
    names = ["RGB" if table.stream["input_type"] == "rgb" else "Flow" for table in tables]
    if len(set(names)) < len(names):
        names = [f"{table.stream['input_type']}-{table.stream['backbone']}" for table in tables]
    if len(set(names)) < len(names):
        names = [f"{number}:{name}" for number, name in enumerate(names, 1)]
    return names


if __name__ == "__main__":
    options.run(main)
