"""Shared by all tests: small generated videos, and ways to run the programs as a user does."""

import argparse
import importlib
import io
import os
import re
import runpy
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import redirect_stderr, redirect_stdout
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests import toy
from twostream.__main__ import COMMANDS, main
from twostream.preparation import workers

REPOSITORY = Path(__file__).resolve().parent.parent
SHARED_DATA = REPOSITORY.parent / "shared" / "data"

cv2.setNumThreads(1)
# If the tests run as a shell's background job, they ignore Ctrl-C, and so would the programs that they start.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # the same for a closed terminal under nohup


PROGRAMS = {
    "prep/extract.py": "extract",
    "prep/build_annotations.py": "annotate",
    "prep/verify.py": "verify",
    "prep/pack.py": "pack",
    "train.py": "train",
    "test.py": "test",
    "eval.py": "evaluate",
    "pretrained/fetch.py": "fetch",
}
"""script of the repository -> module of twostream.programs"""
ALL_PROGRAMS = PROGRAMS | {
    f"twostream {command}": module for command, (module, _) in COMMANDS.items() if module not in PROGRAMS.values()
}
"""the same with the commands that have no script"""


def parser_of(program: str) -> argparse.ArgumentParser:
    """The parser of a script of the repository, or of a command without one."""
    return importlib.import_module(f"twostream.programs.{ALL_PROGRAMS[program]}").build_parser()


@pytest.fixture
def shared_data() -> Path:
    """Folder of real footage beside the repository; tests that need it are skipped without it."""
    if not SHARED_DATA.is_dir():
        pytest.skip("no real footage beside the repository")
    return SHARED_DATA


COMMAND = re.compile(rf"twostream ({'|'.join(COMMANDS)})((?: (?:'[^']*'|--?[a-z][^\s;,]*))+)")
"""a command with flags in a message; without flags, it is only the name of a program"""


def recommended_commands(text: str) -> list[list[str]]:
    """The commands that the messages of a program recommend, as words: ["twostream", "extract", "--root=..."]."""
    texts = (match[0].rstrip(").:`") for match in COMMAND.finditer(text))
    return [shlex.split(command) for command in dict.fromkeys(texts)]


def assert_commands_work(text: str) -> None:
    """Each command that a message recommends must be complete: its program accepts the flags as they are written.

    Words in capitals (VIDEOS, LIST) stand for what is not recorded; only FORMAT would not pass as a path.
    """
    for _, command, *words in recommended_commands(text):
        module = importlib.import_module(f"twostream.programs.{COMMANDS[command][0]}")
        parser, complaint = module.build_parser(), io.StringIO()
        try:
            with redirect_stderr(complaint):
                args = parser.parse_args([word.replace("--format=FORMAT", "--format=csv") for word in words])
                if command == "extract":
                    module.check_flags(parser, args)
        except SystemExit as end:
            assert not end.code, f"a message recommends: {command} {words}\n{complaint.getvalue()}"


@pytest.fixture
def run_program():
    """Run a program of the repository in a new process: run_program("train.py", "--root=x") -> its result.

    A traceback fails the test: bad input must never end in one. So does advice that cannot be followed.
    """

    def run(program: str, *arguments, cwd: Path = REPOSITORY, timeout: float = 300, env: dict | None = None):
        command = [sys.executable, str(REPOSITORY / program), *map(str, arguments)]
        environment = os.environ | {"CUDA_VISIBLE_DEVICES": ""} | (env or {})
        result = subprocess.run(
            command, cwd=cwd, env=environment, capture_output=True, text=True, errors="replace", timeout=timeout
        )
        assert "Traceback" not in result.stderr, result.stderr
        assert_commands_work(without_help(arguments, result))
        return result

    return run


def without_help(arguments: Sequence[object], result: subprocess.CompletedProcess) -> str:
    """What a program has printed, unless it was asked for its help, which has examples in part."""
    return "" if "--help" in arguments else result.stdout + result.stderr


class JobsHere:
    """In place of the worker processes of `run_jobs`, which take half a second each to start: does the jobs itself."""

    def __init__(self, num_workers: int, task: Callable):
        self.task = task

    def capacity(self) -> int:
        return 1

    def submit(self, job: object) -> Future:
        future: Future = Future()
        try:
            future.set_result(self.task(job))
        except Exception as error:
            future.set_exception(error)
        return future

    def result(self, future: Future) -> object:
        return future.result()

    def close(self) -> None:
        pass


def call(
    program: str, *arguments: object, cwd: Path | None = None, env: dict | None = None
) -> subprocess.CompletedProcess:
    """Run a script of the repository, or "twostream", as `run_program` does, but within this process, which has torch.

    That takes a tenth of the time of a new process. It has one thread, as in `make test`: results are promised bit for bit for
    the same number of threads. What child processes print is not captured.
    """
    words = list(map(str, [program, *arguments]))
    torch = sys.modules.get("torch")
    num_threads = torch.get_num_threads() if torch else 1
    # At its end a program ignores signals; processes that later tests start would inherit that.
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)}
    output, errors = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True) for _ in range(2))
    code = 0
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(output), redirect_stderr(errors):
        patch.setattr(sys, "argv", words)
        patch.setattr(workers, "_Processes", JobsHere)
        for name, value in ({"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"} | (env or {})).items():
            patch.setenv(name, value)
        if cwd:
            patch.chdir(cwd)
        if torch:
            torch.set_num_threads(1)
        try:
            main() if program == "twostream" else runpy.run_path(str(REPOSITORY / program), run_name="__main__")
        except SystemExit as end:
            code = end.code or 0
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)
            if torch:
                torch.set_num_threads(num_threads)
    texts = (stream.buffer.getvalue().decode(errors="replace") for stream in (output, errors))
    result = subprocess.CompletedProcess(words, code, *texts)
    assert "Traceback" not in result.stderr, result.stderr
    assert_commands_work(without_help(words, result))
    return result


@pytest.fixture
def run_here():
    """The same within this process, see `call`: run_here("train.py", "--root=x") -> its result."""
    return call


@pytest.fixture
def run_command():
    """The same for the command `twostream`: run_command("predict", "video.mp4", ...)."""
    return partial(call, "twostream")


@pytest.fixture(scope="session")
def toy_videos(tmp_path_factory) -> Path:
    """Folder with train/ and val/, each with class folders: the toy videos, one per class and split."""
    folder = tmp_path_factory.mktemp("toy") / "videos"
    toy.write_world(folder, num_train=1, num_val=1)
    return folder


@pytest.fixture(scope="session")
def toy_root(toy_videos) -> Path:
    """Data root with frames, Farneback flow and annotations of the toy videos."""
    root = toy_videos.parent / "data"
    call("prep/extract.py", "--videos", toy_videos, "--root", root, "--short_side=96")
    call("prep/build_annotations.py", "--root", root, "--videos", toy_videos)
    return root


def noise_image(seed: int = 0, *, height: int = 48, width: int = 64) -> np.ndarray:
    """A smooth random picture, uint8 (H, W, 3), that JPEG preserves well."""
    rng = np.random.default_rng(seed)
    return cv2.GaussianBlur(rng.integers(0, 256, (height, width, 3), np.uint8), (0, 0), 3)
