"""The ordinary commands that do the work, one after the other; each is done or not done by the file that it writes."""

import ctypes
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from twostream.errors import (
    EXIT_BAD_INPUT,
    EXIT_DONE,
    EXIT_ENVIRONMENT,
    EXIT_SOME_BAD,
    BadInputError,
    EnvironmentFaultError,
    UserError,
    one_line,
)  # fmt: skip
from twostream.files import write_text

PR_SET_PDEATHSIG = 1
"""of prctl: the signal that a process gets when the one that started it has ended"""
TAIL_BYTES = 4000
"""of a log, in which the error is looked for"""


@dataclass(frozen=True)
class Step:
    """One command."""

    name: str
    """for people, and of its log"""
    words: tuple[str, ...]
    """behind `twostream`"""
    writes: str = ""
    """pattern below the folder of the results: the step is done when such a file is there; "": the command finds out itself"""
    line: str = "{}"
    """the command as a line of commands.sh, which stops at the first exit code that is not 0"""


@dataclass
class Steps:
    """Runs steps, and keeps what they are in commands.sh."""

    out: Path
    say: Callable[[str], object]
    """shows a line to the user"""
    commands: list[str] = field(default_factory=list)
    some_bad: bool = False
    """did a command end with exit code 5: some videos were bad?"""

    def run(self, step: Step) -> None:
        """Run a step unless it is done. Raises UserError with the command's own words."""
        command = shlex.join(["twostream", *step.words])
        self.commands.append(step.line.format(command))
        path = f'PATH="$PATH":{shlex.quote(str(Path(sys.executable).parent))}'  # where no environment is activated
        write_text(self.out / "commands.sh", "\n".join(["#!/bin/sh -e", path, *self.commands, ""]))
        if step.writes and any(self.out.glob(step.writes)):
            self.say(f"{step.name}: done already")
            return
        log = self.out / "log" / f"{step.name.replace(' ', '_')}.txt"
        log.parent.mkdir(parents=True, exist_ok=True)
        begin = time.monotonic()
        code = run_command(step.words, log)
        seconds = time.monotonic() - begin
        self.some_bad |= code == EXIT_SOME_BAD
        if code not in (EXIT_DONE, EXIT_SOME_BAD):
            raise _error(step, code, log)
        if step.writes and not any(self.out.glob(step.writes)):
            raise EnvironmentFaultError(f"{command} ended without {self.out / step.writes}; its output is in {log}")
        note = f"; some videos were bad and are left out, see {log}" if code == EXIT_SOME_BAD else ""
        self.say(f"{step.name}: {seconds:.0f} s{note}")


def run_command(words: Sequence[str], log: Path) -> int:
    """Run a command of twostream in a process of its own, which ends with this one; its output goes to `log`."""
    with open(log, "wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "twostream", *words], stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT,
            preexec_fn=_end_with_this_process,
        )  # fmt: skip
        try:
            return process.wait()
        except BaseException:  # a signal to end: the command saves what it has done
            process.terminate()
            process.wait()
            raise


def _end_with_this_process() -> None:
    """In the new process: ask the system for SIGTERM when the one that started it ends, also when it is killed."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def _error(step: Step, code: int, log: Path) -> UserError:
    """What a command has said of its failure."""
    lines = [line.rpartition("\r")[2].strip() for line in _tail(log).splitlines()]
    said = [line for line in lines if line.startswith("error: ") or ": error: " in line] or list(filter(None, lines))[
        -1:
    ]
    reason = one_line(Exception(said[-1].removeprefix("error: ")), max_length=600) if said else f"exit code {code}"
    kind = {EXIT_BAD_INPUT: BadInputError}.get(code, EnvironmentFaultError)
    if code not in (EXIT_BAD_INPUT, EXIT_ENVIRONMENT):
        reason += f" (exit code {code})"
    return kind(f"{step.name}: {reason}; all output is in {log}; the same command goes on from here")


def _tail(log: Path) -> str:
    with open(log, "rb") as file:
        file.seek(max(log.stat().st_size - TAIL_BYTES, 0))
        return file.read().decode(errors="replace")
