"""Make a recognizer from trained runs: a folder with the weights and everything else that prediction needs.

  twostream export --runs runs/RGB_RUN runs/FLOW_RUN --out recognizer
  twostream export --runs RGB_RUN FLOW_RUN --fusion_weights=1,1.5 --num_clips=25 --views=ten --out recognizer
  twostream export --report runs/report.json --out recognizer

The folder holds recognizer.json, a .safetensors file for each stream, and a README.md that a model hub shows. It needs no
data root and no run any more; twostream predict takes it as --model. --report makes what twostream eval has measured: the
checkpoints, the clips, the consensus and the weights of a row of its table, with its accuracy.
--onnx adds ONNX files, which predict takes, too, without torch.
Exit codes: 0 done; 2 wrong command line; 3 a run or checkpoint is missing, damaged or does not fit the others; 4 a file
cannot be written.
"""

import argparse
import math
import shlex

from twostream.counts import counted
from twostream.errors import EXIT_DONE, BadInputError
from twostream.frames.stores import input_types
from twostream.fusion.consensus import Consensus
from twostream.inference.contract import CONTRACT_NAME
from twostream.inference.sources import Source, find_sources
from twostream.programs import options
from twostream.runtimes.onnx_network import require_packages
from twostream.stream import RGB


# fmt: off
def build_parser() -> options.Parser:
    """The flags of this program."""
    parser = options.Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=options.folder, nargs="+", default=[], metavar="RUN", help="folders of runs, whose newest checkpoint is taken, or checkpoints; one for each stream (default with --report: the runs that it names, beside it)")
    parser.add_argument("--report", type=options.folder, default=None, metavar="FILE", help="report.json of twostream eval: take its consensus, its weights, and the checkpoints and clips that were scored")
    parser.add_argument("--row", default="", metavar="NAME", help="row of the report, by its name (default: the only stream; of several, the row with fitted weights or else with --fusion_weights)")
    parser.add_argument("--out", type=options.folder, required=True, metavar="DIR", help="folder to write, new or empty")
    parser.add_argument("--root", type=options.folder, default=None, metavar="DIR", help="data root of the training, for runs that do not record the size and rate of their frames")
    parser.add_argument("--consensus", default=None, metavar="RULE", help="rule from clips to a video, see twostream eval --help (default: softmax-mean)")
    parser.add_argument("--fusion_weights", type=options.numbers, default=(), metavar="W,W", help="weights of the streams (default: equal)")
    options.add_boolean(parser, "--onnx", default=False, help="also write ONNX files, compared with torch: <stream>.onnx and, for RGB and Farneback, recognizer.onnx with everything inside, from frames to probabilities")
    parser.add_argument("--check", default="", metavar="SOURCE", help="video, folder or data root whose first video the ONNX files are compared on; its size is that of the frames of recognizer.onnx (default: the data root, if it is --root or beside the runs)")
    options.add_sampling_flags(parser, default="as in the report, otherwise 25 clips, centre")
    return parser
# fmt: on


def main() -> int:
    """Run the program; returns its exit code."""
    parser = build_parser()
    args = parser.parse_args()
    sampling = options.chosen_sampling(parser, args)
    consensus = check_fusion(parser, args)
    if args.out.exists() and not args.out.is_dir() or args.out.is_dir() and any(args.out.iterdir()):
        raise BadInputError(f"{args.out} exists and is not an empty folder; choose another --out, or remove it")

    source = source_to_compare(parser, args) if args.onnx else None
    if source:
        require_packages()

    from twostream.inference.export import recognizer_of_report, recognizer_of_runs, write_recognizer

    if args.report:
        recognizer = recognizer_of_report(args.report, row=args.row, runs=args.runs, root=args.root)
    else:
        recognizer = recognizer_of_runs(args.runs, consensus=consensus, weights=args.fusion_weights, root=args.root)
    recognizer = recognizer.with_sampling(**sampling)
    write_recognizer(recognizer, args.out)
    names = " + ".join(stream.name for stream in recognizer.contract.streams)
    print(f"wrote {args.out / CONTRACT_NAME}: {names}, {counted(len(recognizer.classes), 'class', 'classes')}")
    if source:
        from twostream.onnx.export import write_onnx

        print(f"making ONNX files and comparing them on {source.name}; this takes up to a minute")
        for line in write_onnx(recognizer, args.out, source):
            print(line)
    print(f"next: twostream predict VIDEO --model {shlex.quote(str(args.out))}")
    return EXIT_DONE


def check_fusion(parser: argparse.ArgumentParser, args: argparse.Namespace) -> Consensus | None:
    """The value of --consensus; exit code 2 if flags about fusion are wrong or do not fit together."""
    if not (args.runs or args.report):
        parser.error("give the runs with --runs RUN RUN, or a report of twostream eval with --report FILE")
    if args.report and (args.consensus or args.fusion_weights):
        parser.error("--report has the consensus and the weights; leave out --consensus and --fusion_weights")
    if args.row and not args.report:
        parser.error("--row chooses a row of a report; give it with --report FILE")
    weights = args.fusion_weights
    if weights and (len(weights) != len(args.runs) or min(weights) < 0 or not 0 < sum(weights) < math.inf):
        parser.error(
            f"--fusion_weights {weights}, expected {counted(len(args.runs), 'number')}, none negative, not all 0"
        )
    try:
        return Consensus.parse(args.consensus) if args.consensus else None
    except ValueError as error:
        parser.error(f"--consensus: {error}")


def source_to_compare(parser: argparse.ArgumentParser, args: argparse.Namespace) -> Source:
    """The video on which ONNX files are compared with torch; exit code 2 if there is none."""
    roots = [
        path
        for path in (args.root, *(run.parent for run in args.runs or [args.report]))
        if path and RGB in input_types(path)
    ]
    if not (place := args.check or next(map(str, roots), "")):
        parser.error("--onnx compares with torch on real frames, and found none; give a video with --check VIDEO")
    sources = find_sources(place)
    if not sources:
        raise BadInputError(f"{place} has no video, expected one to compare on; give another with --check VIDEO")
    return sources[0]
