"""Name the classes of videos with a trained recognizer: one decode, flow where it is needed, all streams, fused.

  twostream predict clip.mp4 --model recognizer
  twostream predict videos/ 'more/*.avi' --model runs/RGB_RUN runs/FLOW_RUN --jsonl predictions.jsonl
  twostream predict frames/ --fps 25 --model recognizer
  twostream predict videos/ --model recognizer --html page.html
  twostream predict match.mp4 --model recognizer --timeline --background=other --srt match.srt
  twostream predict https://host/clip.mp4 --network --model recognizer
  twostream predict 0 --live --model recognizer --jsonl answers.jsonl
  twostream predict rtsp://host/1 --network --live --model recognizer --jsonl=-

SOURCE is a video file, a folder of videos (at any depth), a folder of images in order, a data root, or a pattern; a camera
(0, /dev/video0), an address (--network), or - for a video that is piped in. --model is a folder that twostream export wrote,
its ONNX files, or runs or checkpoints of twostream train, one for each stream.
With --live, one source is answered about while it is going on, until it ends, --seconds are over, or Ctrl-C.
Exit codes: 0 done; 2 wrong command line; 3 the recognizer is missing or damaged, or no source exists; 4 a file cannot be
written, memory; 5 some sources could not be read, and are listed; 130 Ctrl-C and 143 SIGTERM, what was predicted is kept.
"""

import argparse
import csv
import io
import json
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, closing, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from twostream.display.annotated_video import write_annotated
from twostream.display.page import Shown, take_pictures, write_page
from twostream.display.status_line import StatusLine
from twostream.errors import EXIT_DONE, EXIT_SOME_BAD, BadInputError, exit_code
from twostream.files import write_cell, write_text
from twostream.inference.prediction import Prediction
from twostream.inference.sources import Source
from twostream.inference.timeline import Timeline, to_srt
from twostream.programs import options
from twostream.threads import share_the_machine

if TYPE_CHECKING:
    from twostream.inference.recognizer import Recognizer

FUSED = "fused"
STDOUT = Path("-")
"""as a file to write: standard output"""
DEFAULT_WINDOW_SECONDS = 2.0
DEFAULT_STRIDE_SECONDS = 0.5
"""of a timeline"""
COLUMNS = ("source", "stream", "rank", "class", "probability")
TIMELINE_COLUMNS = ("source", "start_seconds", "end_seconds", "class", "confidence")


# fmt: off
def build_parser() -> options.Parser:
    """The flags of this program."""
    parser = options.Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_source_flags(parser)
    parser.add_argument("--top", "-k", type=options.positive, default=5, metavar="K", help="classes to name for each video (default: 5)")
    options.add_sampling_flags(parser, default="as the recognizer says")
    group = parser.add_argument_group("timeline")
    options.add_boolean(group, "--timeline", default=False, help="say what happens from when to when, instead of one answer for the video")
    group.add_argument("--window", type=options.number(0.1, 3600), default=None, metavar="SECONDS", help="length of the windows that are looked at, also with --live (default: 2)")
    group.add_argument("--stride", type=options.number(0.04, 3600), default=None, metavar="SECONDS", help="time from the start of a window to the start of the next one, and with --live from an answer to the next one (default: 0.5, and with --live as short as the machine allows)")
    group.add_argument("--threshold", type=options.share, default=0.5, metavar="P", help="probability from which a class makes a segment and, of a recognizer for videos with several labels, from which it is one of them (default: 0.5)")
    group.add_argument("--background", default=None, metavar="CLASS", help="class that stands for nothing of interest, and makes no segments")
    group = parser.add_argument_group("live")
    options.add_boolean(group, "--live", default=False, help="answer while the source is going on; what there is no time for is dropped and counted")
    options.add_boolean(group, "--pace", default=False, help="play a file at its own speed, as if it were live; without it, every frame of a file is looked at")
    group = parser.add_argument_group("output")
    group.add_argument("--json", type=options.folder, default=None, metavar="FILE", help="also write all predictions as one JSON file")
    group.add_argument("--jsonl", type=options.folder, default=None, metavar="FILE", help="also write a line of JSON for each video, as soon as it is predicted, and with --live for each answer; - is standard output, in place of text")
    group.add_argument("--csv", type=options.folder, default=None, metavar="FILE", help="also write a table with a line for each class named, or for each segment; not with --live")
    group.add_argument("--html", type=options.folder, default=None, metavar="FILE", help="also write a page to look at: frames and flow of each video, its classes over time, or its timeline")
    group.add_argument("--annotate", type=options.folder, default=None, metavar="FILE", help="also write one video again, without sound, with its classes drawn in")
    group.add_argument("--srt", type=options.folder, default=None, metavar="FILE", help="also write the segments of one video as subtitles")
    return parser
# fmt: on


def main() -> int:
    """Run the program; returns its exit code."""
    parser = build_parser()
    args = parser.parse_args()
    sampling = options.chosen_sampling(parser, args)
    if args.live:
        check_live_flags(parser, args)
        return watch(args, sampling)
    sources, failures = options.chosen_sources(parser, args)
    check_flags(parser, args, len(sources))
    refuse_overwriting(parser, args, [source.name for source in sources])

    from twostream.inference.loading import load

    first = None if sampling or args.timeline else sources[0]  # these look at other clips
    recognizer = load(args.model, device=args.device, first=first).with_sampling(**sampling)
    if args.background not in (None, *recognizer.classes):
        raise BadInputError(f"--background={args.background}, expected one of {', '.join(recognizer.classes)}")
    answers: list[Answer] = []
    shown: list[Shown] = []
    to_stdout = args.jsonl == STDOUT
    try:
        with ExitStack() as stack:
            lines = stack.enter_context(open_lines(args.jsonl)) if args.jsonl else None
            bar = stack.enter_context(
                options.progress_bar(total=len(sources), desc="predict", disable=None, leave=False)
            )
            for source, result in ask(recognizer, sources, failures, args):
                bar.update()
                answers.append(to_answer(result, args))
                if not to_stdout:
                    bar.write(answers[-1].text)
                sys.stdout.flush()  # to those who read it through a pipe, too
                if lines:
                    print(json.dumps(answers[-1].content), file=lines, flush=True)
                if args.annotate:
                    choice = {"threshold": args.threshold, "background": args.background}
                    write_annotated(args.annotate, source, result, **choice)
                if args.html:
                    shown.append(Shown(result, take_pictures(source, recognizer.contract, result.num_frames)))
    finally:  # also after Ctrl-C
        write_files(args, answers)
        if args.html:
            write_page(args.html, shown, k=args.top, threshold=args.threshold, background=args.background)
    for failure in failures:
        print(f"error: {failure}", file=sys.stderr)
    of_one_video = (args.srt, args.annotate) if answers else ()
    for path in (args.json, args.jsonl, args.csv, args.html, *of_one_video):
        if path not in (None, STDOUT):
            print(f"wrote {path}", file=sys.stderr if to_stdout else sys.stdout)
    return EXIT_SOME_BAD if failures else EXIT_DONE


def check_flags(parser: argparse.ArgumentParser, args: argparse.Namespace, num_sources: int) -> None:
    """Leave with exit code 2 if flags do not fit together."""
    if args.pace:
        parser.error("--pace plays a file as if it were live; add --live")
    advice = (
        "is not for --timeline, which looks all along the video; use --stride"
        if args.timeline
        else "is for timelines; add --timeline"
    )
    for flag in OF_ANSWERS if args.timeline else OF_TIMELINES:
        if getattr(args, flag) is not None:
            parser.error(f"--{flag} {advice}")
    if args.timeline and stride_of_timeline(args) > window(args):
        parser.error(
            f"--stride={stride_of_timeline(args):g} is longer than --window={window(args):g}; parts would not be looked at"
        )
    for flag in ("srt", "annotate"):
        if getattr(args, flag) and num_sources > 1:
            parser.error(f"--{flag} needs one source, found {num_sources}; for several videos write --json or --csv")


def refuse_overwriting(parser: argparse.ArgumentParser, args: argparse.Namespace, names: Sequence[str]) -> None:
    """Leave with exit code 2 if a file to write is one of the videos to read, by any of its names."""
    for flag in OUTPUTS:
        path = getattr(args, flag)
        if path and path.is_file() and any(os.path.isfile(name) and path.samefile(name) for name in names):
            parser.error(f"--{flag}={path} is a video to read; choose another name")


def window(args: argparse.Namespace) -> float:
    """--window, in seconds."""
    return DEFAULT_WINDOW_SECONDS if args.window is None else float(args.window)


def stride_of_timeline(args: argparse.Namespace) -> float:
    """--stride, whose default depends on what is asked for."""
    return DEFAULT_STRIDE_SECONDS if args.stride is None else float(args.stride)


OUTPUTS = ("json", "jsonl", "csv", "html", "annotate", "srt")
OF_ANSWERS = ("num_clips", "frame_step")
OF_TIMELINES = ("window", "stride", "background", "srt")
NOT_LIVE = ("timeline", *(flag for flag in OUTPUTS if flag != "jsonl"), "background", "fps", "split", *OF_ANSWERS)


def check_live_flags(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Leave with exit code 2 if flags do not fit to --live."""
    refuse_overwriting(parser, args, args.sources)
    if len(args.sources) > 1:
        parser.error(f"--live answers about one source, found {len(args.sources)}")
    for flag in NOT_LIVE:
        if getattr(args, flag):
            parser.error(
                f"--{flag} is not for --live, which looks at the newest frames and has no end; it writes --jsonl"
            )


def watch(args: argparse.Namespace, sampling: dict[str, Any]) -> int:
    """--live: answers about one source until it ends; returns the exit code."""
    share_the_machine(os.environ, networks_at_once=2)  # before torch is loaded; a single stream leaves cores to ffmpeg
    from twostream.inference.loading import load

    recognizer = load(args.model, device=args.device).with_sampling(**sampling)
    to_stdout = args.jsonl == STDOUT
    status = StatusLine(sys.stderr if to_stdout else sys.stdout, top=args.top, shows_answers=not to_stdout)
    with ExitStack() as stack:
        lines = stack.enter_context(open_lines(args.jsonl)) if args.jsonl else None
        answers = recognizer.stream(
            args.sources[0], window_seconds=window(args), stride_seconds=args.stride or 0.0, max_seconds=args.seconds,
            paced=args.pace, network=args.network, log=status.say,
        )  # fmt: skip
        stack.enter_context(closing(answers))
        try:
            for answer in answers:
                if lines:
                    print(json.dumps(answer.to_json(k=args.top, threshold=args.threshold)), file=lines, flush=True)
                status.show(answer)
        except KeyboardInterrupt as interrupt:  # the usual end
            return exit_code(interrupt)
        finally:
            status.finish()
            if args.jsonl and not to_stdout:
                status.say(f"wrote {args.jsonl}")
    return EXIT_DONE


@dataclass(frozen=True)
class Answer:
    """What is printed and written about one source."""

    text: str
    content: dict[str, Any]
    """for JSON"""
    rows: list[tuple[Any, ...]]
    """for CSV"""
    subtitles: str = ""


def ask(
    recognizer: "Recognizer", sources: Sequence[Source], failures: list[str], args: argparse.Namespace
) -> Iterator[tuple[Source, Prediction | Timeline]]:
    """What the recognizer says of each source that can be read; `failures` gets a line for each other one."""
    if args.timeline:
        for source in sources:
            try:
                yield (
                    source,
                    recognizer.timeline(source, window_seconds=window(args), stride_seconds=stride_of_timeline(args)),
                )
            except BadInputError as error:
                failures.append(str(error))
        return
    for source, result in zip(sources, recognizer.predict_all(sources), strict=True):
        if isinstance(result, Prediction):
            yield source, result
        else:
            failures.append(f"{result.source}: {result.reason}")


def to_answer(result: Prediction | Timeline, args: argparse.Namespace) -> Answer:
    """What is printed and written about a prediction or a timeline."""
    if isinstance(result, Prediction):
        return prediction_answer(result, k=args.top, threshold=args.threshold)
    return timeline_answer(result, threshold=args.threshold, background=args.background)


def open_lines(path: Path) -> AbstractContextManager[IO[str]]:
    """--jsonl, to be written line by line; its folder is made."""
    if path == STDOUT:
        return nullcontext(sys.stdout)
    path.parent.mkdir(parents=True, exist_ok=True)
    return open(path, "w", encoding="utf-8")


def write_files(args: argparse.Namespace, answers: Sequence[Answer]) -> None:
    """Write --json, --csv and --srt with the answers that there are."""
    if args.json:
        write_text(args.json, json.dumps([answer.content for answer in answers], indent=1) + "\n")
    if args.csv:
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(TIMELINE_COLUMNS if args.timeline else COLUMNS)
        writer.writerows([write_cell(str(cell)) for cell in row] for answer in answers for row in answer.rows)
        write_text(args.csv, text.getvalue())
    if args.srt and answers:
        write_text(args.srt, answers[0].subtitles)


def prediction_answer(prediction: Prediction, *, k: int, threshold: float) -> Answer:
    """The best k classes, fused and by stream; in place of the fused ones, all above the threshold if it is multi-label."""
    names = [stream.name for stream in prediction.streams]
    width = max(map(len, [*names, FUSED]))
    lines, rows = [_headline(prediction.source, prediction.seconds, prediction.notes)], []
    for name in [None, *names] if len(names) > 1 else [None]:
        best = prediction.top(k, stream=name)
        note = ""
        if prediction.multi_label and name is None:
            best = prediction.above(threshold) or best[:1]
            note = f"  (below {threshold:g}, as all classes are)" if best[0].probability < threshold else ""
        lines.append(f"  {name or FUSED:{width}}  " + "  ".join(f"{a.label} {a.probability:.3f}" for a in best) + note)
        rows += [
            (prediction.source, name or FUSED, rank, a.label, f"{a.probability:.6f}") for rank, a in enumerate(best, 1)
        ]
    return Answer("\n".join(lines), prediction.to_json(k=k, threshold=threshold), rows)


def timeline_answer(timeline: Timeline, *, threshold: float, background: str | None) -> Answer:
    """The segments of a timeline."""
    segments = timeline.segments(threshold=threshold, background=background)
    lines = [_headline(timeline.source, timeline.seconds, timeline.notes)]
    lines += [f"  {s.start_seconds:8.1f} {s.end_seconds:8.1f}  {s.label} {s.confidence:.3f}" for s in segments]
    rows = [
        (timeline.source, f"{s.start_seconds:.3f}", f"{s.end_seconds:.3f}", s.label, f"{s.confidence:.6f}")
        for s in segments
    ]
    content = timeline.to_json(threshold=threshold, background=background)
    return Answer("\n".join(lines), content, rows, to_srt(segments))


def _headline(source: str, seconds: float, notes: Sequence[str]) -> str:
    facts = [*([f"{seconds:.1f} s"] if seconds else []), *notes]
    return source + (f" ({'; '.join(facts)})" if facts else "")
