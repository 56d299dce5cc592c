"""Make a recognizer from trained runs: a folder with the weights and everything else that prediction needs.

  twostream export --runs runs/RGB_RUN runs/FLOW_RUN --out recognizer
  twostream export --runs RGB_RUN FLOW_RUN --fusion_weights=1,1.5 --num_clips=25 --views=ten --out recognizer

The folder holds recognizer.json, a .safetensors file for each stream, and a README.md that a model hub shows. It needs no
data root and no run any more; twostream predict takes it as --model. --onnx adds ONNX files, which predict takes, too, without
torch.
Exit codes: 0 done; 2 wrong command line; 3 a run or checkpoint is missing, damaged or does not fit the others; 4 a file
cannot be written.
"""

import argparse
import math

from twostream.counts import counted
from twostream.errors import EXIT_DONE, BadInputError
from twostream.frames.stores import input_types
from twostream.fusion.consensus import Consensus
from twostream.inference.contract import CONTRACT_NAME, Sampling
from twostream.inference.sources import Source, find_sources
from twostream.programs import options
from twostream.stream import RGB


# fmt: off
def build_parser() -> options.Parser:
    """The flags of this program."""
    parser = options.Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=options.folder, nargs="+", required=True, metavar="RUN", help="folders of runs, whose newest checkpoint is taken, or checkpoints; one for each stream")
    parser.add_argument("--out", type=options.folder, required=True, metavar="DIR", help="folder to write, new or empty")
    parser.add_argument("--root", type=options.folder, default=None, metavar="DIR", help="data root of the training, for runs that do not record the size and rate of their frames")
    parser.add_argument("--consensus", default="softmax-mean", metavar="RULE", help="rule from clips to a video, see twostream eval --help (default: softmax-mean)")
    parser.add_argument("--fusion_weights", type=options.numbers, default=(), metavar="W,W", help="weights of the streams (default: equal)")
    options.add_boolean(parser, "--onnx", default=False, help="also write ONNX files, compared with torch: <stream>.onnx and, for RGB and Farneback, recognizer.onnx with everything inside, from frames to probabilities")
    parser.add_argument("--check", default="", metavar="SOURCE", help="video, folder or data root whose first video the ONNX files are compared on; its size is that of the frames of recognizer.onnx (default: the data root, if it is --root or beside the runs)")
    options.add_sampling_flags(parser, default="25 clips, centre")
    return parser
# fmt: on


def main() -> int:
    """Run the program; returns its exit code."""
    parser = build_parser()
    args = parser.parse_args()
    sampling = Sampling(**options.chosen_sampling(parser, args))
    weights = args.fusion_weights
    if weights and (len(weights) != len(args.runs) or min(weights) < 0 or not 0 < sum(weights) < math.inf):
        parser.error(
            f"--fusion_weights {weights}, expected {counted(len(args.runs), 'number')}, none negative, not all 0"
        )
    try:
        consensus = Consensus.parse(args.consensus)
    except ValueError as error:
        parser.error(f"--consensus: {error}")
    if args.out.exists() and not args.out.is_dir() or args.out.is_dir() and any(args.out.iterdir()):
        raise BadInputError(f"{args.out} exists and is not an empty folder; choose another --out, or remove it")

    source = source_to_compare(parser, args) if args.onnx else None

    from twostream.inference.export import recognizer_of_runs, write_recognizer

    recognizer = recognizer_of_runs(
        args.runs, consensus=consensus, weights=weights, sampling=sampling, root=args.root
    )  # fmt: skip
    write_recognizer(recognizer, args.out)
    names = " + ".join(stream.name for stream in recognizer.contract.streams)
    print(f"wrote {args.out / CONTRACT_NAME}: {names}, {counted(len(recognizer.classes), 'class', 'classes')}")
    if source:
        from twostream.onnx.export import write_onnx

        print(f"making ONNX files and comparing them on {source.name}; this takes up to a minute")
        for line in write_onnx(recognizer, args.out, source):
            print(line)
    print(f"next: twostream predict VIDEO --model {args.out}")
    return EXIT_DONE


def source_to_compare(parser: argparse.ArgumentParser, args: argparse.Namespace) -> Source:
    """The video on which ONNX files are compared with torch; exit code 2 if there is none."""
    roots = [path for path in (args.root, *(run.parent for run in args.runs)) if path and RGB in input_types(path)]
    if not (place := args.check or next(map(str, roots), "")):
        parser.error("--onnx compares with torch on real frames, and found none; give a video with --check VIDEO")
    sources = find_sources(place)
    if not sources:
        raise BadInputError(f"{place} has no video, expected one to compare on; give another with --check VIDEO")
    return sources[0]
