"""From a folder of your own clips to a recognizer: looks at them, chooses, trains, tests, fuses and reports.

  twostream start my_clips
  twostream start my_clips/annotations.csv --minutes=15 --out=result

SOURCE is a folder of class folders in a layout that twostream annotate understands, a folder that holds a CSV with columns
video and label (and perhaps split, and group or person), or such a CSV; with --format, a list of another kind. Each choice
is a line with its reason. What runs are ordinary commands, which OUT/commands.sh has in order. Killed, the same command goes
on where it was.

Writes to OUT: plan.json, videos.csv, commands.sh, log/, data/ (frames, flow, annotations), runs/ (networks, scores),
report.html, report.json, and recognizer/, which twostream predict takes as --model.

Nothing is chosen on the val videos: strength, confidence, fusion weights and what is trained are decided by cross-validation
over the training videos.

Exit codes: 0 done; 2 wrong command line; 3 something is wrong with the clips or the list; 4 disk, device or memory; 5 done, but
some videos were bad and are listed; 130 Ctrl-C; 143 SIGTERM.
"""

import argparse
import hashlib
import importlib.util
import json
import shlex
import shutil
import time
from collections.abc import Iterable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import twostream
from twostream.annotations.json_file import read_annotations
from twostream.annotations.lists import READERS
from twostream.annotations.splits import choose_folds
from twostream.counts import counted
from twostream.errors import EXIT_DONE, EXIT_SOME_BAD, BadInputError
from twostream.files import read_json, write_text
from twostream.own_clips.collection import Collection, find_clips, shown, write_list
from twostream.own_clips.looks import Look, look_at, sample_motion, short_side_of
from twostream.own_clips.plan import Plan, afford_fps, check_enough, choose_fps, describe, make_plan
from twostream.own_clips.selection import compare, select
from twostream.own_clips.sources import split_clips
from twostream.own_clips.steps import Step, Steps
from twostream.own_clips.streams import CELLS, CELLS_SIZE, CELLS_TRUNK, TRAINED_SIZE, HeadPlan, Speed, StreamPlan
from twostream.own_clips.trunks import SMALL, Trunk, find_trunk, measure_rate
from twostream.probes.record import RECORD_NAME
from twostream.programs import options
from twostream.threads import available_cpus

PLAN_NAME, LIST_NAME = "plan.json", "videos.csv"
NUM_FOLDS = 4
"""one of them is held out to compare a trained stream with its linear head"""
SEED = 123


# fmt: off
def build_parser() -> options.Parser:
    """The flags of this program."""
    parser = options.Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("source", type=options.folder, metavar="SOURCE", help="folder of class folders, folder with a CSV of videos and labels, or list")
    add("--out", type=options.folder, default=None, metavar="DIR", help="folder to write into (default: the name of SOURCE with -recognizer, in the current folder)")
    add("--minutes", type=options.number(0.1, 100_000), default=5.0, metavar="M", help="what is tried must fit in about this time; the linear heads are always made (default: 5)")
    add("--videos", type=options.folder, default=None, metavar="DIR", help="folder of the files of a list (default: videos/ beside the list, or the folder of the list)")
    add("--format", choices=tuple(name for name in READERS if name != "folder"), default="csv", help="kind of list, as for twostream annotate (default: csv)")
    add("--weights", type=options.folder, default=None, metavar="FILE", help="weights of a network of pictures, such as mobilenet_v2-7ebf99e0.pth (default: the best ones in --global_models_dir)")
    add("--global_models_dir", type=options.folder, default=options.PRETRAINED, metavar="DIR", help="folder of published weights (default: pretrained/)")
    add("--arch", default=None, metavar="NAME", help="network of the weights (default: by their file name)")
    add("--workers", "-j", type=options.integer(0, options.MAX_PROCESSES), default=max(available_cpus() - 1, 0), metavar="N", help="processes that load images (default: one less than the CPUs that may be used, %(default)s here)")
    options.add_boolean(parser, "--dry_run", default=False, help="print the plan and stop")
    return parser
# fmt: on


def main() -> int:
    """Run the program; returns its exit code."""
    begin = time.monotonic()
    args = build_parser().parse_args()
    out = args.out or Path(f"{args.source.absolute().name.removesuffix('.csv') or 'clips'}-recognizer")
    collection = find_clips(args.source, videos=args.videos, list_format=args.format)
    plan, num_unreadable = plan_of(args, collection, out)
    for reason in plan.reasons:
        print(reason)
    if args.dry_run:
        print("nothing was written; without --dry_run, this is done")
        return EXIT_SOME_BAD if num_unreadable else EXIT_DONE
    steps = Steps(out.absolute(), say=lambda line: print(line, flush=True))
    row = do(args, collection, plan, steps)
    print(f"done in {(time.monotonic() - begin) / 60:.1f} minutes")
    if num_unreadable:
        print(
            f"{counted(num_unreadable, 'video')} could not be read and {'was' if num_unreadable == 1 else 'were'} left out, see the beginning"
        )
    for line in results(steps.out, row):
        print(line)
    return EXIT_SOME_BAD if steps.some_bad or num_unreadable else EXIT_DONE


def plan_of(args: argparse.Namespace, collection: Collection, out: Path) -> tuple[Plan, int]:
    """The plan that OUT has, or else a new one, which is kept there with its list; and how many videos cannot be read.

    BadInputError if OUT has the plan of other clips or flags.
    """
    trunks = trunks_at_hand(args)
    key = fingerprint(args, collection, trunks)
    path = out / PLAN_NAME
    if path.exists():
        content = read_json(path)
        if content.get("made_from") != key:
            raise BadInputError(
                f"{path} is a plan for other clips, flags or weights than these; choose another --out, or remove {out} to begin again"
            )
        print(f"going on with the plan in {path}")
        return plan_from_json(content, path), int(content["unreadable"])
    plan, rows, num_unreadable = new_plan(args, collection, *trunks)
    if not args.dry_run:
        out.mkdir(parents=True, exist_ok=True)
        write_list(out / LIST_NAME, rows, folder=collection.folder)
        content = asdict(plan) | {"made_from": key, "unreadable": num_unreadable, "twostream": twostream.__version__}
        write_text(path, json.dumps(content, indent=1) + "\n")
    return plan, num_unreadable


def trunks_at_hand(args: argparse.Namespace) -> tuple[Trunk | None, Trunk | None]:
    """The network whose features are used, and CELLS_TRUNK if it is another one; None where there are no weights.

    BadInputError if there are none of --arch.
    """
    trunk = find_trunk(args.global_models_dir, weights=args.weights, backbone=args.arch)
    if args.arch and trunk is None:
        words = shlex.join(["twostream", "fetch", args.arch, f"--folder={args.global_models_dir}"])
        raise BadInputError(f"{args.global_models_dir} has no weights of --arch={args.arch}: {words} brings them")
    second = None if args.weights or args.arch else find_trunk(args.global_models_dir, backbone=CELLS_TRUNK)
    return trunk, second if second != trunk else None


def fingerprint(args: argparse.Namespace, collection: Collection, trunks: Iterable[Trunk | None]) -> str:
    """A digest of the clips, their files, the flags and the weights that a plan depends on."""
    flags = [str(args.minutes), *(str(trunk) for trunk in trunks)]
    files = [(str(c.path.absolute()), c.label, c.split, c.group, c.segment, _state(c.path)) for c in collection.clips]
    return hashlib.sha256(json.dumps([flags, files]).encode()).hexdigest()


def _state(path: Path) -> list[int]:
    status = path.stat() if path.exists() else None  # a broken link
    return [status.st_size, status.st_mtime_ns] if status else []


def plan_from_json(content: dict[str, Any], path: Path) -> Plan:
    """The plan in plan.json; BadInputError if it is none."""
    try:
        streams = tuple(
            StreamPlan(
                s["name"], s["input_type"],
                {name: HeadPlan(**{part: tuple(flags) for part, flags in h.items()}) for name, h in s["heads"].items()},
                tuple(s["trained"]),
            )
            for s in content["streams"]
        )  # fmt: skip
        return Plan(tuple(content["extract"]), streams, tuple(content["test"]), tuple(content["reasons"]))
    except (LookupError, TypeError, AttributeError) as error:
        raise BadInputError(
            f"{path} is no plan of twostream start ({type(error).__name__} {error}); remove it"
        ) from None


def new_plan(
    args: argparse.Namespace, collection: Collection, trunk: Trunk | None, second: Trunk | None
) -> tuple[Plan, list[Any], int]:
    """Look at the clips and choose; the plan, the clips with their split and group, and how many cannot be read."""
    found = look_at(collection.clips, progress=show_progress)
    looks = {clip_id: look for clip_id, look in found.items() if isinstance(look, Look)}
    bad = {clip_id: error for clip_id, error in found.items() if not isinstance(error, Look)}
    clips = [clip for clip in collection.clips if clip.id not in bad]
    reasons = list(collection.notes)
    if bad:
        error = next(iter(bad.values()))
        reasons.append(f"left out: {counted(len(bad), 'video')} that cannot be read: {shown(list(bad))} ({error})")
    if not looks:
        raise BadInputError(f"{args.source}: no video can be read; {reasons[-1]}")
    reasons += describe(clips, list(looks.values()))
    prints = {clip_id: look.fingerprint for clip_id, look in looks.items()}
    chosen, sentences = split_clips(clips, prints, group_column=collection.group_column, seed=SEED)
    rows = [replace(clip, split=split, group=group) for clip, (split, group) in zip(clips, chosen, strict=True)]
    check_enough(rows, [split for split, _ in chosen])
    fps, sentence = choose_fps(list(looks.values()))
    sampled = [clip for clip in clips if clip.id in looks]
    short_side = short_side_of(list(looks.values()))
    engine = "numba" if importlib.util.find_spec("numba") else "opencv"
    motion = sample_motion(sampled, fps=fps, short_side=short_side, engine=engine, progress=show_progress)
    slower, why = afford_fps(
        list(looks.values()), motion, fps=fps, num_clips=len(clips), num_cpus=available_cpus(), minutes=args.minutes
    )
    if slower:
        fps, sentence = slower, why
        motion = sample_motion(sampled, fps=fps, short_side=short_side, engine=engine, progress=show_progress)
    speed = measure(trunk, second, collection.classes)
    plan = make_plan(
        rows, [split for split, _ in chosen], list(looks.values()), motion, fps=fps, engine=engine,
        trunk=trunk, second=second, fetch="twostream fetch mobilenet_v2", speed=speed, minutes=args.minutes,
    )  # fmt: skip
    return replace(plan, reasons=(*reasons, *sentences, sentence, *plan.reasons)), rows, len(bad)


def measure(trunk: Trunk | None, second: Trunk | None, classes: list[str]) -> Speed:
    """What this machine does with the networks of the plan."""
    from twostream.models.backbones import BACKBONES

    size = BACKBONES[trunk.backbone].input_size if trunk else 2 * TRAINED_SIZE
    return Speed(
        available_cpus(),
        trunk=measure_rate(trunk.backbone if trunk else SMALL, input_size=size, classes=classes),
        cells=measure_rate(CELLS, input_size=CELLS_SIZE, classes=classes) if second else 0.0,
        small=measure_rate(SMALL, input_size=TRAINED_SIZE, classes=classes),
    )


def show_progress(results: Iterable[Any], total: int, name: str) -> Iterable[Any]:
    """A bar for what takes more than a second."""
    bar: Iterable[Any] = options.progress_bar(results, total=total, desc=name, delay=1, leave=False)
    return bar


def do(args: argparse.Namespace, collection: Collection, plan: Plan, steps: Steps) -> list[str]:
    """Run the commands of a plan; returns the runs of the streams that the recognizer is made of."""
    out = steps.out
    root, runs, listed = f"--root={out / 'data'}", f"--save_root={out / 'runs'}", str(out / LIST_NAME)
    ids = f"--ids={collection.id_from}"
    parts = ["--trim"] if any(clip.segment for clip in collection.clips) else []
    extract = ("extract", f"--videos={collection.folder}", root, ids, "--list", listed, *parts, *plan.extract)
    steps.run(Step("extract", extract, line="{} || [ $? -eq 5 ]"))  # 5: some videos were bad, and are listed
    annotate = ("annotate", root, "--format=csv", ids, "--list", listed)
    steps.run(Step("annotate", annotate, "data/annotations.json"))
    heads: dict[str, list[str]] = {}  # by stream, the best first
    trained: dict[str, str] = {}  # by the head that lost to a training, the run of that training without a fold
    for stream in plan.streams:
        common = [
            root,
            runs,
            "--dataset=clips",
            f"--input_type={stream.input_type}",
            f"--seed={SEED}",
            f"--workers={args.workers}",
        ]
        heads[stream.name] = fit_heads(stream, plan, steps, [*common, "--resume=auto"])
        best = heads[stream.name][0]
        if compared := train_stream(stream, best, plan, steps, [*common, "--resume=auto"]):
            trained[best] = compared
    linear = choose_heads(heads, steps)
    judged = [trained.get(run, run) for run in linear]
    chosen = [run.replace("-fold", "-trained") for run in judged]
    fuse(steps, chosen, judged, linear)
    recognizer = out / "recognizer"
    if recognizer.is_dir() and not (recognizer / "recognizer.json").is_file():
        shutil.rmtree(recognizer)  # an export that was killed
    export = (
        "export", f"--report={out / 'report.json'}", "--runs", *(str(out / "runs" / name) for name in chosen),
        f"--out={recognizer}",
    )  # fmt: skip
    again = shlex.join(["rm", "-rf", str(recognizer)]).replace("{", "{{").replace("}", "}}")
    steps.run(Step("export", export, "recognizer/recognizer.json", line=f"{again}; {{}}"))
    return chosen


def fuse(steps: Steps, chosen: list[str], judged: list[str], heads: list[str]) -> None:
    """Fit the weights of the streams to training videos that the runs `judged` had not seen, and report on the runs `chosen`.

    The linear heads have a report of their own, if they are not what is chosen. Clips are averaged as logits, for which the
    confidence of a linear head was fitted. Heads look at clips and views of their own, so videos are fused (--intersect), not clips.
    """
    out = steps.out

    def evaluate(runs: list[str], split: str) -> tuple[str, ...]:
        files = (str(score_file(out, run, split)) for run in runs)
        return ("eval", "--consensus=mean", "--intersect", "--scores", *files)

    fit = ("--fit_weights=product", f"--report={out / 'fusion.json'}")
    steps.run(Step("fusion weights", (*evaluate(judged, "train"), *fit), "fusion.json"))
    show = (f"--annotations={out / 'data'}", f"--weights_from={out / 'fusion.json'}")
    page = (*show, f"--report={out / 'report.json'}", f"--html={out / 'report.html'}")
    steps.run(Step("report", (*evaluate(chosen, "val"), *page), "report.html"))
    if chosen != heads:
        beside = (show[0], f"--report={out / 'linear.json'}", f"--html={out / 'linear.html'}")
        steps.run(Step("report on the linear heads", (*evaluate(heads, "val"), *beside), "linear.html"))


def fit_heads(stream: StreamPlan, plan: Plan, steps: Steps, common: list[str]) -> list[str]:
    """Fit the linear heads of a stream; their runs, the one with the smallest loss in cross-validation over the training videos first.

    With few videos, losses say more than how many are right. Flags of a stream come last, as its views are its own.
    """
    found = {}
    for name, head in stream.heads.items():
        run = f"{stream.name}-{name}"
        words = ("train", *common, f"--run={run}", "--test_last", *plan.test, *head_flags(head))
        steps.run(Step(f"{stream.name} {name}", words, f"runs/{run}/scores_val_*.npz"))
        found[run] = head_record(steps.out, run)
    measures = ", ".join(
        f"{run} {100 * record['cross_validated_top1']:.1f} % right, loss {record['cross_validated_loss']:.3f}"
        + ("" if record["mirrored"] else " without mirror images")
        for run, record in found.items()
    )
    num_videos = counted(next(iter(found.values()))["videos"], "training video")
    steps.say(f"{stream.name}, cross-validated over {num_videos}: {measures}")
    return sorted(found, key=lambda run: float(found[run]["cross_validated_loss"]))  # of equals the quicker one


def head_flags(head: HeadPlan) -> tuple[str, ...]:
    """Flags of twostream train for a linear head."""
    return ("--head=linear", *head.clips, *head.fit, *head.seen)


def head_record(out: Path, run: str) -> dict[str, Any]:
    """What a run has written of its linear head."""
    record: dict[str, Any] = read_json(out / "runs" / run / RECORD_NAME)
    return record


def choose_heads(heads: dict[str, list[str]], steps: Steps) -> list[str]:
    """Of the linear heads of each stream, the best first: the best of each, and those that make the fusion of all better."""
    scores = {run: score_file(steps.out, run, "train") for runs in heads.values() for run in runs}
    selected = select(scores, [runs[0] for runs in heads.values()])
    steps.say("fused, cross-validated: " + ", with ".join(f"{run} loss {loss:.3f}" for run, loss in selected))
    order = [run for run, _ in selected]
    return [run for runs in heads.values() for run in runs if run in order]


def score_file(out: Path, run: str, split: str) -> Path:
    """The scores of a run; of the training videos, those which it had not seen."""
    return next((out / "runs" / run).glob(f"scores_{split}_*.npz"))


def train_stream(stream: StreamPlan, linear: str, plan: Plan, steps: Steps, common: list[str]) -> str:
    """Train a stream without a fold of the videos, and if it beats the run `linear` there, with all.

    It is trained from random weights, or from that linear head, which is then fitted without the fold too. Returns the run
    whose scores of the fold judge it, or "" if the linear head stays, or nothing is to be trained.
    """
    head = stream.heads[linear.removeprefix(f"{stream.name}-")]
    if not (stream.trained or head.tuned):
        return ""
    out, name = steps.out, f"{stream.name}-fold"
    train = read_annotations(out / "data").split("train")
    train = train[train.num_frames > 0]
    folds = choose_folds(train.label_index, train.group, num_folds=NUM_FOLDS, seed=SEED)
    fold = f"--fold=0/{folds.max() + 1}"
    seen = plan.test if stream.trained else (*plan.test, *head.seen)
    flags = (*(stream.trained or (*head.clips, *head.tuned)), f"--mirror={head_record(out, linear)['mirrored']}")
    from_fold, from_all = (
        () if stream.trained else (f"--init_from={out / 'runs' / start}",) for start in (f"{linear}-fold", linear)
    )
    if from_fold:
        words = ("train", *common, f"--run={linear}-fold", *head_flags(head), fold)
        steps.run(Step(f"{linear} without a fold", words, f"runs/{linear}-fold/confusion.json"))
    words = ("train", *common, f"--run={name}", *flags, *from_fold, fold)
    steps.run(Step(f"{stream.name} trained without a fold", words, f"runs/{name}/confusion.json"))
    data = [word for word in common if word.startswith(("--root=", "--save_root=", "--input_type=", "--workers="))]
    words = ("test", *data, f"--run={name}", "--split=train", fold, f"--seed={SEED}", *seen)
    steps.run(Step(f"{stream.name} tested on the fold", words, f"runs/{name}/scores_train_*.npz"))
    comparison = compare(score_file(out, linear, "train"), score_file(out, name, "train"))
    is_better = comparison.second_is_clearly_better
    verdict = "it is used" if is_better else "the linear head stays"
    steps.say(f"{stream.name}: {comparison.sentence('the linear head', 'the trained network')}: {verdict}")
    if not is_better:
        return ""
    run = f"{stream.name}-trained"
    words = ("train", *common, f"--run={run}", *flags, *from_all, "--test_last", *seen)
    steps.run(Step(f"{stream.name} trained", words, f"runs/{run}/scores_val_*.npz"))
    return name


def results(out: Path, runs: list[str]) -> list[str]:
    """The tables in a few lines, and what to do next."""
    report = read_json(out / "report.json")
    lines = [_row(row) for row in report["rows"]]
    if any(run.endswith("-trained") for run in runs):
        lines += [f"by linear heads alone, {_row(row)}" for row in read_json(out / "linear.json")["rows"]]
    weights = ", ".join(f"{run} {weight:.2f}" for run, weight in zip(runs, _weights(report), strict=True))
    lines.append(f"powers of the streams in their product, from the training videos: {weights}")
    lines.append(f"page: {out / 'report.html'}; all commands: {out / 'commands.sh'}")
    lines.append(f"next: twostream predict VIDEO {shlex.quote('--model=' + str(out / 'recognizer'))}")
    return lines


def _row(row: dict[str, Any]) -> str:
    """A row of a report: its accuracy with the interval."""
    low, high = row["video_top1_interval"]
    name = row["name"].replace("weights of fusion.json: product", "with fitted powers")
    return f"{name}: {100 * row['video_top1']:.1f} % of {counted(row['num_videos'], 'val video')} right (95 %: {100 * low:.0f} to {100 * high:.0f})"


def _weights(report: dict[str, Any]) -> list[float]:
    fitted = next(iter(report["fitted"].values()))
    return [float(weight) for weight in fitted["of_all_videos"]["weights"]]
