#!/usr/bin/env python3
"""Run the programs of an earlier commit and of this one on the same files, and compare what they write, to the digit.

  git worktree add ../before e1274cd
  python tests/compare_with.py --checkout=../before

Each program is started as a user starts it, with one thread and the same seed: extraction and annotations of a generated
world, 40 iterations of each network on RGB frames, stored flow and flow made online, scoring, and evaluation. Prints one
table. Compared are numbers and files, never words: losses, accuracies and rates of log.jsonl, arrays of score files,
report.json but for provenance. Times are left out.

Exit codes: 0 all is equal; 1 something differs.
"""

import argparse
import contextlib
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

REPOSITORY = Path(__file__).resolve().parent.parent
ITERATIONS = 40
TRAIN = [
    "--dataset=toy", f"--max_iterations={ITERATIONS}", "--val_interval=20", "--print_freq=1", "--stepvalues=25,35",
    "--keep_checkpoints=2", "--frame_step=2", "--mirror=False", "--lr=0.002", "--pretrained=False", "--workers=0",
    "--device=cpu", "--seed=5",
]  # fmt: skip
NETWORKS = {
    "inception_v3": ["--input_size=80", "--batch_size=8"],
    "vgg16": ["--input_size=32", "--batch_size=4"],
    "vgg16_reducedfc": ["--input_size=96", "--batch_size=2"],
    "resnet18": ["--input_size=64", "--batch_size=8", "--crop=corners", "--schedule=cosine", "--ema=0.9", "--clip_norm=5"],
    "resnet50": ["--input_size=48", "--batch_size=4", "--batch_norm=partial", "--norm_decay=False", "--first_layer_factor=5"],
    "squeezenet1_1": ["--input_size=32", "--batch_size=4", "--num_segments=2", "--class_balance", "--amp=fp16"],
    "mobilenet_v3_large": ["--input_size=64", "--batch_size=8", "--seq_len=3", "--gap=2", "--accumulate=2",
                           "--label_smoothing=0.1", "--warm_up=5"],
}  # fmt: skip
"""backbone -> its flags: small pictures, and between them all options that change what is learnt on a CPU"""
STREAMS = {
    "rgb": ["--input_type=rgb"],
    "farneback": ["--input_type=farneback"],
    "online": ["--input_type=farneback", "--flow=online"],
}
ONLINE = ("inception_v3", "resnet18", "squeezenet1_1", "mobilenet_v3_large")
"""networks that are trained on flow made online, too; there it is the flow that counts"""
DEMO = "inception_v3"
"""the network whose two streams are scored and fused, as in `make demo`"""
EVALUATIONS = [
    [],
    ["--sweep"],
    ["--consensus=clstk-10", "--fusion_weights=1,1.5", "--fit_weights=global,class,temperature"],
]


@dataclass
class Row:
    """One line of the table."""

    what: str
    earlier: str
    now: str
    equal: bool

    @property
    def verdict(self) -> str:
        return "equal" if self.equal else "different"


@dataclass
class Result:
    """What one program run came to: an exit code with the last line of an error, and what it wrote, as text to compare."""

    code: int
    error: str = ""
    lines: list[str] = field(default_factory=list)
    """must be the same, line by line"""
    summary: str = ""
    """for people"""


@dataclass(frozen=True)
class Tree:
    """A checkout, and the folder that its programs write into."""

    checkout: Path
    folder: Path

    def run(self, program: str, *words: str) -> Result:
        """Run a program to its end; all that it prints goes to `output.txt` in the folder."""
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        environment |= {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
        command = [sys.executable, str(self.checkout / program), *map(str, words)]
        done = subprocess.run(
            command, cwd=self.folder, env=environment, capture_output=True, text=True, errors="replace"
        )
        with open(self.folder / "output.txt", "a") as file:
            file.write(f"$ {' '.join(command)}\n{done.stdout}{done.stderr}exit code {done.returncode}\n\n")
        error = (done.stderr.strip().splitlines() or [""])[-1] if done.returncode else ""
        return Result(done.returncode, error)


def both(trees: tuple[Tree, Tree], task, jobs: int) -> tuple[Result, Result]:
    """Do the same in both trees, at once where there are two jobs."""
    with ThreadPoolExecutor(jobs) as pool:
        earlier, now = pool.map(task, trees)
    return earlier, now


def compared(what: str, earlier: Result, now: Result) -> Row:
    """Exit codes, and what was written, line by line."""
    texts = []
    for result in (earlier, now):
        texts.append(f"exit code {result.code}: {result.error}" if result.code else result.summary)
    equal = earlier.code == now.code == 0 and earlier.lines == now.lines and bool(earlier.lines)
    if not equal and earlier.code == now.code == 0:
        pairs = zip(earlier.lines, now.lines, strict=False)
        first = next((k for k, (one, other) in enumerate(pairs) if one != other), None)
        texts[1] += (
            f"; {len(now.lines)} lines of {len(earlier.lines)}" if first is None else f"; first: {now.lines[first]}"
        )
        texts[0] += "" if first is None else f"; first: {earlier.lines[first]}"
    return Row(what, *texts, equal)


# ---------------------------------------------------------------------------------------------- what was written


def without(content: object, *patterns: str) -> object:
    """Plain values without the keys that match one of the patterns, at any depth."""
    if isinstance(content, dict):
        kept = {key: value for key, value in content.items() if not any(re.search(p, str(key)) for p in patterns)}
        return {key: without(value, *patterns) for key, value in kept.items()}
    return [without(part, *patterns) for part in content] if isinstance(content, list) else content


def exact(content: object) -> str:
    """A text that is the same only for the same values to the last digit."""
    return json.dumps(content, sort_keys=True)


def leaves(content: object, where: str = "") -> Iterator[str]:
    """A line for each plain value, so that a difference is named."""
    if isinstance(content, dict):
        for key in sorted(content):
            yield from leaves(content[key], f"{where}.{key}")
    elif isinstance(content, list):
        for number, part in enumerate(content):
            yield from leaves(part, f"{where}[{number}]")
    else:
        yield f"{where.removeprefix('.')} = {exact(content)}"


def log_lines(run_dir: Path) -> tuple[list[str], str]:
    """All of log.jsonl but times; and its first and last loss of training, and the last of validation."""
    entries = [json.loads(line) for line in (run_dir / "log.jsonl").read_text().splitlines()]
    losses = {event: [e["loss"] for e in entries if e["event"] == event] for event in ("train", "validation")}
    train, validation = losses["train"], losses["validation"]
    summary = f"{len(train)} losses, {train[0]:.6f} to {train[-1]:.6f}; validation {validation[-1]:.6f}"
    return [exact(without(entry, "seconds")) for entry in entries], summary


def score_lines(path: Path) -> tuple[list[str], str]:
    """The arrays of a score file and its header, but for the provenance."""
    lines = []
    with np.load(path, allow_pickle=False) as file:
        lines += leaves(without(json.loads(str(file["header"])), "^provenance$"), "header")
        for name in sorted(set(file.files) - {"header"}):
            array = file[name]
            lines.append(f"{name}: {array.dtype} {array.shape} {hashlib.sha256(array.tobytes()).hexdigest()}")
        summary = f"{len(file['logits'])} rows, sum of logits {file['logits'].sum(dtype=np.float64):.6f}"
    return lines, summary


def report_lines(path: Path) -> tuple[list[str], str]:
    content = json.loads(path.read_text())
    lines = list(leaves(without(content, "^provenance$", "seconds")))
    rows = ", ".join(f"{100 * row['video_top1']:.2f}" for row in content["rows"])
    return lines, f"{len(lines)} values; video top-1 {rows}"


def tree_lines(folder: Path) -> tuple[list[str], str]:
    """All files below a folder, by name and content."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    lines = [f"{p.relative_to(folder)} {hashlib.sha256(p.read_bytes()).hexdigest()}" for p in files]
    digest = hashlib.sha256("\n".join(lines).encode()).hexdigest()[:12]
    return lines, f"{len(lines)} files, SHA-256 {digest}"


def with_lines(result: Result, read, *where) -> Result:
    """The result, with what the program wrote."""
    if result.code == 0:
        result.lines, result.summary = read(*where)
    return result


# -------------------------------------------------------------------------------------------------- the programs


def compare_preparation(trees: tuple[Tree, Tree], videos: Path, jobs: int) -> Iterator[Row]:
    """Frames, flow and annotations; the same images as tar files and back again."""

    def prepare(tree: Tree) -> Result:
        root, packed, again = (tree.folder / name for name in ("data", "packed", "again"))
        for words in (
            ["prep/extract.py", f"--videos={videos}", f"--root={root}", "--short_side=96", "--workers=1"],
            ["prep/build_annotations.py", f"--videos={videos}", f"--root={root}"],
            ["prep/verify.py", f"--root={root}", "--workers=1"],
            ["prep/pack.py", f"--root={root}", f"--to={packed}", "--store=packed", "--workers=1"],
            ["prep/pack.py", f"--root={packed}", f"--to={again}", "--store=folders", "--workers=1"],
        ):
            result = tree.run(*words)
            if result.code:
                return result
        return with_lines(result, tree_lines, root)

    earlier, now = both(trees, prepare, jobs)
    yield compared("extract.py, build_annotations.py: all files", earlier, now)
    for result, tree in zip((earlier, now), trees, strict=True):
        with_lines(result, tree_lines, tree.folder / "again")
    yield compared("pack.py to tar files and back: all files", earlier, now)


def compare_training(trees: tuple[Tree, Tree], data: Path, network: str, stream: str, jobs: int) -> Row:
    run = f"{network}-{stream}"

    def train(tree: Tree) -> Result:
        words = [*TRAIN, f"--arch={network}", *NETWORKS[network], *STREAMS[stream]]
        result = tree.run("train.py", f"--root={data}", f"--save_root={tree.folder / 'runs'}", f"--run={run}", *words)
        if network != DEMO:  # those of some networks are a gigabyte each
            for checkpoint in (tree.folder / "runs" / run).glob("checkpoint_*"):
                checkpoint.unlink()
        return with_lines(result, log_lines, tree.folder / "runs" / run)

    return compared(f"train.py, {network}, {stream}", *both(trees, train, jobs))


def compare_scoring(trees: tuple[Tree, Tree], data: Path, stream: str, jobs: int) -> Row:
    run = f"{DEMO}-{stream}"

    def score(tree: Tree) -> Result:
        words = [STREAMS[stream][0], f"--run={run}", "--frame_step=2", "--workers=0", "--device=cpu"]
        result = tree.run("test.py", f"--root={data}", f"--save_root={tree.folder / 'runs'}", *words)
        return with_lines(result, score_lines, tree.folder / "runs" / run / f"scores_val_{ITERATIONS:06d}.npz")

    return compared(f"test.py, {DEMO}, {stream}", *both(trees, score, jobs))


def compare_evaluation(trees: tuple[Tree, Tree], files: list[Path], name: str, jobs: int) -> Iterator[Row]:
    for number, flags in enumerate(EVALUATIONS):

        def evaluate(tree: Tree, flags=flags, number=number) -> Result:
            report = tree.folder / f"report_{name.replace(' ', '_')}_{number}.json"
            return with_lines(
                tree.run("eval.py", "--scores", *files, *flags, f"--report={report}"), report_lines, report
            )

        yield compared(" ".join(["eval.py", *flags, f"({name})"]), *both(trees, evaluate, jobs))


def rows_of(args: argparse.Namespace, folder: Path) -> Iterator[Row]:
    trees = Tree(args.checkout.resolve(), folder / "earlier"), Tree(REPOSITORY, folder / "now")
    for tree in trees:
        tree.folder.mkdir(parents=True, exist_ok=True)
    videos = folder / "videos"
    world = [sys.executable, REPOSITORY / "tests" / "toy.py", f"--videos={videos}", "--num_train=2", "--num_val=2"]
    subprocess.run(world, check=True, stdout=subprocess.DEVNULL)
    yield from compare_preparation(trees, videos, args.jobs)

    data = trees[0].folder / "data"  # the same for both
    wanted = [network for network in NETWORKS if re.search(args.networks, network)]
    for network in wanted:
        for stream in STREAMS:
            if stream != "online" or network in ONLINE:
                yield compare_training(trees, data, network, stream, args.jobs)
    if DEMO in wanted:
        for stream in ("rgb", "farneback"):
            yield compare_scoring(trees, data, stream, args.jobs)
        scores = [
            trees[0].folder / "runs" / f"{DEMO}-{stream}" / f"scores_val_{ITERATIONS:06d}.npz"
            for stream in ("rgb", "farneback")
        ]
        yield from compare_evaluation(trees, scores, "scores from above", args.jobs)
    if args.demo:
        scores = [next(args.demo.glob(f"runs/*-{kind}-*/scores_val_*.npz")).resolve() for kind in ("rgb", "farneback")]
        yield from compare_evaluation(trees, scores, "make demo", args.jobs)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--checkout", type=Path, required=True, metavar="DIR", help="folder with the earlier commit")
    add("--networks", default="", metavar="REGEX", help="only the networks whose name matches (default: all)")
    add("--demo", type=Path, metavar="DIR", help="also evaluate the score files of `make demo` in this folder")
    add("--keep", type=Path, metavar="DIR", help="new folder for all that is written (default: removed at the end)")
    add("--jobs", type=int, choices=(1, 2), default=2, help="2: both versions at once, a core each (default: 2)")
    args = parser.parse_args()
    if args.keep and args.keep.exists():
        parser.error(f"--keep={args.keep} is there already")
    commits = [
        subprocess.run(["git", "describe", "--always", "--dirty"], cwd=checkout, capture_output=True, text=True)
        for checkout in (args.checkout, REPOSITORY)
    ]
    earlier, now = (commit.stdout.strip() or "unknown" for commit in commits)
    print(f"| what | {earlier} | {now} | |\n|---|---|---|---|", flush=True)
    begin, num_rows, num_different = time.monotonic(), 0, 0
    with contextlib.ExitStack() as stack:
        folder = args.keep or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        for row in rows_of(args, folder.resolve()):
            num_rows += 1
            num_different += not row.equal
            print(f"| {row.what} | {row.earlier} | {row.now} | {row.verdict} |", flush=True)
    if args.keep:
        shutil.rmtree(args.keep / "videos")
    minutes = (time.monotonic() - begin) / 60
    print(f"\n{num_rows - num_different} of {num_rows} equal, {num_different} different; {minutes:.1f} minutes")
    return int(num_different > 0)


if __name__ == "__main__":
    sys.exit(main())
