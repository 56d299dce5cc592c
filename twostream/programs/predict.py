"""Name the classes of videos with a trained recognizer: one decode, flow where it is needed, all streams, fused.

  twostream predict clip.mp4 --model recognizer
  twostream predict videos/ 'more/*.avi' --model runs/RGB_RUN runs/FLOW_RUN --jsonl predictions.jsonl
  twostream predict frames/ --fps 25 --model recognizer

SOURCE is a video file, a folder of videos (at any depth), a folder of images in order, or a pattern. --model is a folder
that twostream export wrote, or runs or checkpoints of twostream train, one for each stream.
Exit codes: 0 done; 2 wrong command line; 3 the recognizer is missing or damaged, or no source exists; 4 a file cannot be
written, memory; 5 some sources could not be read, and are listed; 130 interrupted, what was predicted is kept.
"""

import argparse
import csv
import io
import json
import sys
from collections.abc import Sequence
from contextlib import ExitStack

from twostream.errors import EXIT_DONE, EXIT_SOME_BAD, BadInputError
from twostream.files import write_text
from twostream.inference.prediction import Prediction
from twostream.inference.sources import Source, find_sources
from twostream.programs import options

FUSED = "fused"


# fmt: off
def build_parser() -> options.Parser:
    """The flags of this program."""
    parser = options.Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sources", nargs="+", metavar="SOURCE", help="video file, folder of videos or of images, or pattern")
    parser.add_argument("--model", "-m", type=options.folder, nargs="+", required=True, metavar="DIR", help="recognizer, or runs or checkpoints, one for each stream")
    parser.add_argument("--top", "-k", type=options.positive, default=5, metavar="K", help="classes to name for each video (default: 5)")
    parser.add_argument("--device", type=options.device, default="auto", metavar="NAME", help="auto, cpu, cuda or cuda:1; auto uses a GPU if there is one (default: auto)")
    parser.add_argument("--fps", type=options.rate, default=0.0, metavar="RATE", help="frames per second of folders of images (default: unknown)")
    options.add_sampling_flags(parser, default="as the recognizer says")
    group = parser.add_argument_group("output")
    group.add_argument("--json", type=options.folder, default=None, metavar="FILE", help="also write all predictions as one JSON file")
    group.add_argument("--jsonl", type=options.folder, default=None, metavar="FILE", help="also write a line of JSON for each video, as soon as it is predicted")
    group.add_argument("--csv", type=options.folder, default=None, metavar="FILE", help="also write a table: source, stream, rank, class, probability")
    return parser
# fmt: on


def main() -> int:
    """Run the program; returns its exit code."""
    parser = build_parser()
    args = parser.parse_args()
    sampling = options.chosen_sampling(parser, args)
    sources, failures = find_all(args.sources, fps=args.fps)
    if not sources:
        raise BadInputError("; ".join(failures))

    from twostream.inference.export import load

    recognizer = load(args.model, device=args.device).with_sampling(**sampling)
    predictions: list[Prediction] = []
    try:
        with ExitStack() as stack:
            lines = stack.enter_context(open(args.jsonl, "w", encoding="utf-8")) if args.jsonl else None
            bar = stack.enter_context(
                options.progress_bar(total=len(sources), desc="predict", disable=None, leave=False)
            )
            for result in recognizer.predict_all(sources):
                bar.update()
                if not isinstance(result, Prediction):
                    failures.append(f"{result.source}: {result.reason}")
                    continue
                predictions.append(result)
                bar.write(to_text(result, k=args.top))
                if lines:
                    print(json.dumps(result.to_json(k=args.top)), file=lines, flush=True)
    finally:  # also after Ctrl-C
        if args.json and predictions:
            write_text(args.json, json.dumps([p.to_json(k=args.top) for p in predictions], indent=1) + "\n")
        if args.csv and predictions:
            write_text(args.csv, to_csv(predictions, k=args.top))
    for failure in failures:
        print(f"error: {failure}", file=sys.stderr)
    for path in filter(None, (args.json, args.jsonl, args.csv)):
        print(f"wrote {path}")
    return EXIT_SOME_BAD if failures else EXIT_DONE


def find_all(texts: Sequence[str], *, fps: float) -> tuple[list[Source], list[str]]:
    """The sources that the arguments name, and a line for each argument that names none."""
    sources: list[Source] = []
    failures = []
    for text in texts:
        try:
            sources += find_sources(text, fps=fps)
        except BadInputError as error:
            failures.append(str(error))
    return sources, failures


def to_text(prediction: Prediction, *, k: int) -> str:
    """The source, and a line of classes for the fusion and for each stream."""
    seconds = f", {prediction.num_frames / prediction.fps:.1f} s" if prediction.fps else ""
    notes = "".join(f"; {note}" for note in prediction.notes)
    lines = [f"{prediction.source} ({prediction.num_frames} frames{seconds}{notes})"]
    names = [stream.name for stream in prediction.streams]
    width = max(map(len, [*names, FUSED]))
    for name in [None, *names] if len(names) > 1 else names:
        answers = "  ".join(f"{a.label} {a.probability:.3f}" for a in prediction.top(k, stream=name))
        lines.append(f"  {name or FUSED:{width}}  {answers}")
    return "\n".join(lines)


def to_csv(predictions: Sequence[Prediction], *, k: int) -> str:
    """A line for each of the best k classes of each source, fused and by stream."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["source", "stream", "rank", "class", "probability"])
    for prediction in predictions:
        for name in (None, *(stream.name for stream in prediction.streams)):
            for rank, answer in enumerate(prediction.top(k, stream=name), 1):
                writer.writerow([prediction.source, name or FUSED, rank, answer.label, f"{answer.probability:.6f}"])
    return text.getvalue()
