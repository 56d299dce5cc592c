#!/usr/bin/env python3
"""Give hostile inputs to all programs, and count tracebacks, hangs and large processes; see hostile.py for the inputs.

Worker processes import torch once, then run programs within themselves, one input after the other, each in its own copy
of a small data root and its run. A worker that takes too long or too much memory is killed and replaced, and its input
counts as a fault; so does the input of a worker that dies.

  python tests/fuzz.py --inputs=10000            the record
  python tests/fuzz.py --only=1234 --show        one input again, with what the program prints
"""

import argparse
import collections
import contextlib
import importlib
import io
import json
import os
import platform
import selectors
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPOSITORY))

MAX_SECONDS = 10.0
"""for one input"""
MAX_BYTES = 2_000_000_000
"""of memory of one process"""
START_SECONDS = 120
"""for a worker to import torch"""
DOCUMENTED = (0, 2, 3, 4, 5)
"""exit codes"""


@dataclass
class Outcome:
    """What a program did with one input."""

    number: int
    kind: str = ""
    program: str = ""
    what: str = ""
    code: int = 0
    seconds: float = 0.0
    num_bytes: int = 0
    """most memory of the process during this input"""
    fault: str = ""
    """"" if the input was read or refused as it should be"""
    text: str = ""
    """the command line and what the program printed"""


@dataclass
class Tally:
    """Counts over all inputs."""

    outcomes: list[Outcome] = field(default_factory=list)
    seconds: float = 0.0

    def faults(self, name: str) -> int:
        """Number of inputs with a fault of this name."""
        return sum(outcome.fault.startswith(name) for outcome in self.outcomes)


# ------------------------------------------------------------------------------------------------------------ a worker


def run_here(program: str, words: list[str]) -> tuple[int | None, str, str]:
    """Run a program in this process: its exit code (None: it raised an exception), its output, and its traceback."""
    from tests.conftest import ALL_PROGRAMS
    from twostream.programs import options

    module = importlib.import_module(f"twostream.programs.{ALL_PROGRAMS[program]}")
    output = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)}
    argv, sys.argv = sys.argv, [program, *words]
    code, trace = None, ""
    try:
        with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output), warnings.catch_warnings():
            options.run(module.main)
    except SystemExit as end:
        code = int(end.code or 0)
    except BaseException:
        trace = traceback.format_exc()
    finally:
        sys.argv = argv
        for number, handler in handlers.items():
            signal.signal(number, handler)
    return code, output.buffer.getvalue().decode(errors="replace"), trace  # type: ignore[attr-defined]


def prepare() -> None:
    """Import what the programs need, and keep them within this process."""
    from tests import hostile  # noqa: F401  imports torch and most of the package
    from tests.conftest import ALL_PROGRAMS, JobsHere
    from twostream.preparation import workers

    for name in ALL_PROGRAMS.values():
        importlib.import_module(f"twostream.programs.{name}")
    workers._Processes = JobsHere  # type: ignore[misc,assignment]


def judge(outcome: Outcome, code: int | None, output: str, trace: str) -> None:
    """Note exit code and fault of an outcome."""
    outcome.code = -1 if code is None else code
    if trace or "Traceback" in output:
        last = (trace or output).strip().splitlines()[-1]
        outcome.fault = f"traceback: {last[:150]}"
    elif code not in DOCUMENTED:
        outcome.fault = f"exit code {code}"
    elif code in (3, 4) and output.count("error: ") != 1:
        outcome.fault = f"message: {output.count('error: ')} errors for exit code {code}"
    elif outcome.num_bytes > MAX_BYTES:
        outcome.fault = f"memory: {outcome.num_bytes / 1e9:.1f} GB"


def try_input(world: Path, *, seed: int, number: int) -> Outcome:
    """Make one input, run its program, and judge the outcome."""
    from tests.hostile import make_case

    folder = world.parent / f"{number}-{os.getpid()}"
    outcome = Outcome(number)
    home, here = os.environ.get("HOME", ""), os.getcwd()
    try:
        case = make_case(world, folder, seed=seed, number=number)
        outcome.kind, outcome.program, outcome.what = case.kind, case.program, case.what
        os.environ["HOME"] = str(folder)
        os.chdir(folder)
        Path("/proc/self/clear_refs").write_text("5")  # the peak of the memory starts again
        start = time.monotonic()
        code, output, trace = run_here(case.program, case.words)
        outcome.seconds = time.monotonic() - start
        outcome.num_bytes = memory(os.getpid(), "VmHWM")
        outcome.text = f"{case.program} {' '.join(map(ascii, case.words))}\n{output}{trace}"
        judge(outcome, code, output, trace)
    except Exception:
        outcome.fault, outcome.text = "of this test", traceback.format_exc()
    finally:
        os.environ["HOME"] = home
        os.chdir(here)
        shutil.rmtree(folder, ignore_errors=True)
    return outcome


def memory(process: int, field_name: str) -> int:
    """A figure of /proc/<process>/status in bytes; 0 if the process has ended."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{process}/status").read_text().splitlines():
            if line.startswith(f"{field_name}:"):
                return 1024 * int(line.split()[1])
    return 0


def work(world: Path, seed: int) -> None:
    """Read numbers of inputs from standard input; write an outcome for each."""
    answers = os.fdopen(os.dup(1), "w")
    silent = os.open(os.devnull, os.O_RDWR)
    os.dup2(silent, 1)  # what C libraries print
    os.dup2(silent, 2)
    prepare()
    print("ready", file=answers, flush=True)
    for line in sys.stdin:
        outcome = try_input(world, seed=seed, number=int(line))
        print(json.dumps(vars(outcome)), file=answers, flush=True)


# --------------------------------------------------------------------------------------------------------- the parent


class Worker:
    """A worker process, and the input that it has."""

    def __init__(self, world: Path, seed: int):
        command = [sys.executable, __file__, f"--work={world}", f"--seed={seed}"]
        environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(REPOSITORY)}
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment, process_group=0
        )
        assert self.process.stdin and self.process.stdout
        self.input, self.output = self.process.stdin, self.process.stdout
        self.number: int | None = None
        self.deadline = time.monotonic() + START_SECONDS

    def give(self, number: int) -> None:
        """Start with an input."""
        self.number, self.deadline = number, time.monotonic() + MAX_SECONDS
        print(number, file=self.input, flush=True)

    def fault(self) -> str:
        """What is wrong with the process now; "" if nothing is."""
        if self.process.poll() is not None:
            return f"died: exit code {self.process.returncode}"
        if time.monotonic() > self.deadline:
            return f"hang: over {MAX_SECONDS:.0f} s"
        if memory(self.process.pid, "VmRSS") > MAX_BYTES:
            return f"memory: over {MAX_BYTES / 1e9:.0f} GB"
        return ""

    def kill(self) -> None:
        """End the process and all that it has started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.input.close()
        self.output.close()


def run_all(folder: Path, numbers: range, *, seed: int, jobs: int, max_seconds: float) -> Tally:
    """Give all inputs to `jobs` workers, for at most `max_seconds`."""
    from tests.hostile import build_world

    world = folder / "world"
    world.mkdir()
    prepare()
    build_world(world, lambda program, words: run_here(program, words)[0] or 0)
    tally, waiting, begin = Tally(), iter(numbers), time.monotonic()
    with selectors.DefaultSelector() as selector:
        for _ in range(min(jobs, len(numbers))):
            worker = Worker(world, seed)
            selector.register(worker.output, selectors.EVENT_READ, worker)
        while selector.get_map():
            ready = {key.data for key, _ in selector.select(0.05)}
            for worker in [key.data for key in selector.get_map().values()]:
                line = worker.output.readline() if worker in ready else ""
                if line.startswith("{"):
                    tally.outcomes.append(Outcome(**json.loads(line)))
                elif fault := worker.fault():
                    assert worker.number is not None, f"a worker cannot start: {fault}"
                    tally.outcomes.append(_describe(worker.number, fault, world, seed))
                    selector.unregister(worker.output)
                    worker.kill()
                    worker = Worker(world, seed)
                    selector.register(worker.output, selectors.EVENT_READ, worker)
                    continue
                elif not line:
                    continue
                number = next(waiting, None) if time.monotonic() - begin < max_seconds else None
                if number is None:
                    selector.unregister(worker.output)
                    worker.kill()
                else:
                    worker.give(number)
    tally.seconds = time.monotonic() - begin
    return tally


def _describe(number: int, fault: str, world: Path, seed: int) -> Outcome:
    """The outcome of an input whose worker did not answer."""
    from tests.hostile import make_case

    with tempfile.TemporaryDirectory(dir=world.parent) as folder:  # images are linked, which needs one file system
        case = make_case(world, Path(folder, "case"), seed=seed, number=number)
        text = f"{case.program} {' '.join(map(ascii, case.words))}"
    return Outcome(number, case.kind, case.program, case.what, -1, MAX_SECONDS, 0, fault, text)


# ---------------------------------------------------------------------------------------------------------- the report


def report(tally: Tally, *, seed: int, jobs: int) -> str:
    """The record, in Markdown."""
    import torch

    kinds = collections.Counter(outcome.kind for outcome in tally.outcomes)
    codes = {kind: collections.Counter(o.code for o in tally.outcomes if o.kind == kind) for kind in kinds}
    rows = [
        f"| {kind} | {number} | " + " | ".join(str(codes[kind][code]) for code in DOCUMENTED) + " |"
        for kind, number in sorted(kinds.items())
    ]
    slowest = max((outcome.seconds for outcome in tally.outcomes), default=0)
    largest = max((outcome.num_bytes for outcome in tally.outcomes), default=0) / 1e9
    return "\n".join([
        f"# {len(tally.outcomes)} hostile inputs", "",
        f"`python tests/fuzz.py --inputs={len(tally.outcomes)} --seed={seed} --jobs={jobs}`, {date.today()}, "
        f"{tally.seconds / 60:.0f} minutes on", f"{os.cpu_count()} cores ({platform.machine()}), "
        f"Python {platform.python_version()}, torch {torch.__version__.partition('+')[0]}.", "", "| | |", "|---|---|",
        f"| inputs | {len(tally.outcomes)} |", f"| tracebacks | {tally.faults('traceback')} |",
        f"| inputs that took over {MAX_SECONDS:.0f} s | {tally.faults('hang')} |",
        f"| slowest input, s | {slowest:.1f} |",
        f"| processes over {MAX_BYTES / 1e9:.0f} GB | {tally.faults('memory')} |",
        f"| largest process, GB (0.8 of them are torch) | {largest:.1f} |",
        f"| processes that died | {tally.faults('died')} |",
        f"| refusals (exit code 3 or 4) without exactly one error message | {tally.faults('message')} |",
        f"| other exit codes than the documented ones | {tally.faults('exit code')} |", "",
        "What was hostile, and the exit codes of the programs: 0 the input could be used, 2 wrong command line, 3 bad",
        "input, 4 fault of the machine, 5 some videos are bad.", "",
        "| hostile | inputs | " + " | ".join(map(str, DOCUMENTED)) + " |", "|---" * (2 + len(DOCUMENTED)) + "|", *rows, "",
    ])  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=10_000)
    parser.add_argument("--first", type=int, default=0, help="number of the first input")
    parser.add_argument("--only", type=int, default=None, help="only the input of this number")
    parser.add_argument("--seed", type=int, default=123)
    parser.add_argument("--jobs", type=int, default=2, help="worker processes")
    parser.add_argument("--max_seconds", type=float, default=3600, help="for all inputs")
    parser.add_argument("--show", action="store_true", help="print what the programs print")
    parser.add_argument("--out", type=Path, help="Markdown file to write the record into")
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.work:
        work(args.work, args.seed)
        return 0
    first, count = (args.first, args.inputs) if args.only is None else (args.only, 1)
    memory_disk = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=memory_disk, ignore_cleanup_errors=True) as folder:
        tally = run_all(
            Path(folder), range(first, first + count), seed=args.seed, jobs=args.jobs, max_seconds=args.max_seconds
        )
    faulty = [outcome for outcome in tally.outcomes if outcome.fault]
    for outcome in tally.outcomes if args.show else faulty:
        print(
            f"input {outcome.number}: {outcome.kind}: {outcome.what}: {outcome.fault or outcome.code}", file=sys.stderr
        )
        print(outcome.text, file=sys.stderr)
    text = report(tally, seed=args.seed, jobs=args.jobs)
    print(text)
    if args.out:
        args.out.write_text(text, encoding="utf-8")
    return 1 if faulty else 0


if __name__ == "__main__":
    sys.exit(main())
