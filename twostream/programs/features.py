"""Write features of videos: what the networks of a recognizer compute before their last layer, for each clip.

  twostream features videos/ --model recognizer --out features
  twostream features videos/ --model recognizer --out features --layers=pool,softmax --frame_step=8 --shard=0/4

For each video there is a file <out>/<name>.npz with arrays <stream>_pool (M, D), <stream>_softmax (M, K), and of each
clip <stream>_starts (frame), <stream>_seconds and <stream>_views. Files that exist are left as they are, so the command
can be run again, and by several processes with --shard; one that was made of another video, or with another recognizer,
other layers or clips, is an error of that source. SOURCE and --model are as for twostream predict.
Exit codes: 0 done; 2 wrong command line; 3 the recognizer is missing or damaged, or no source exists; 4 a file cannot be
written, memory; 5 some sources could not be read, or a file of other features was there, and are listed; 130 interrupted,
finished files are kept.
"""

import argparse
import json
import re
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from twostream.errors import EXIT_DONE, EXIT_SOME_BAD, BadInputError
from twostream.files import write_file
from twostream.inference.sources import Source
from twostream.programs import options

LAYERS = ("pool", "final_avg", "softmax", "sigmoid")


# fmt: off
def build_parser() -> options.Parser:
    """The flags of this program."""
    parser = options.Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_source_flags(parser)
    parser.add_argument("--out", type=options.folder, required=True, metavar="DIR", help="folder of the files")
    parser.add_argument("--layers", type=options.words, default=("pool",), metavar="A,B", help="pool: the input of the last layer; softmax: class probabilities, which of a multi-label recognizer are sigmoid; final_avg is VMZ's name of pool (default: pool)")
    parser.add_argument("--shard", type=options.part, default=(0, 1), metavar="I/N", help="do every Nth video, from the Ith on (default: 0/1, all)")
    options.add_sampling_flags(parser, default="as the recognizer says")
    return parser
# fmt: on


def main() -> int:
    """Run the program; returns its exit code."""
    parser = build_parser()
    args = parser.parse_args()
    sampling = options.chosen_sampling(parser, args)
    if not args.layers or set(args.layers) - set(LAYERS):
        parser.error(f"--layers={','.join(args.layers)}, expected {', '.join(LAYERS)} with commas between them")
    sources, failures = options.chosen_sources(parser, args)

    from twostream.inference.features import MADE_OF, FeatureExtractor, check_layers, check_made_of, columns, made_of
    from twostream.inference.loading import load

    recognizer = load(args.model, device=args.device).with_sampling(**sampling)
    check_layers(recognizer, args.layers)
    extractor = FeatureExtractor(recognizer)
    shard, num_shards = args.shard
    targets = list(zip(sources, target_names(sources), strict=True))[shard::num_shards]
    num_written = 0
    for source, name in options.progress_bar(targets, desc="features", disable=None, leave=False):
        target, record = args.out / f"{name}.npz", made_of(recognizer, source, args.layers)
        try:
            if target.exists():
                check_made_of(target, record)
                continue
            arrays = columns(extractor.extract(source), args.layers) | {MADE_OF: np.array(json.dumps(record))}
        except BadInputError as error:
            failures.append(str(error))
            continue
        write_file(target, lambda file, arrays=arrays: np.savez(file, **arrays))  # type: ignore[misc]
        num_written += 1
    for failure in failures:
        print(f"error: {failure}", file=sys.stderr)
    print(
        f"wrote {num_written} files into {args.out}, {len(targets) - num_written} of {len(targets)} were there or failed"
    )
    return EXIT_SOME_BAD if failures else EXIT_DONE


def target_names(sources: Sequence[Source]) -> list[str]:
    """Name of each source's file: its own without folders; with them, where two would be the same."""
    names = [Path(source.name).name for source in sources]
    counts = Counter(names)
    return [
        name if counts[name] == 1 else re.sub(r"[/\\]+", "__", source.name.strip("/"))
        for source, name in zip(sources, names, strict=True)
    ]
