"""How flags may be spelled, which values they take, and how a program ends."""

import argparse
import signal
import subprocess
import sys
from pathlib import Path

import cv2
import pytest

from tests.conftest import PROGRAMS, REPOSITORY, parser_of
from twostream.models.backbones import BACKBONES
from twostream.programs import options, train


def parse(*words):
    return train.build_parser().parse_args(["--root=data", *words])


@pytest.mark.parametrize(
    ("words", "name", "value"),
    [
        # All spellings of 2D-kinectics and of its README.
        (["--input=farneback"], "input_type", "farneback"),
        (["--input", "farneback"], "input_type", "farneback"),
        (["-i", "farneback"], "input_type", "farneback"),
        (["--input_type=farneback"], "input_type", "farneback"),
        (["--input-type", "farneback"], "input_type", "farneback"),
        (["-a", "inceptionV3"], "arch", "inceptionV3"),
        (["--arch=vgg"], "arch", "vgg"),
        (["--is=112"], "input_size", 112),
        (["--isize", "112"], "input_size", 112),
        (["--input-size=112"], "input_size", 112),
        (["-j", "0"], "workers", 0),
        (["--workers=2"], "workers", 2),
        (["--seq_len=5"], "seq_len", 5),
        (["--gap=2"], "gap", 2),
        (["--frame-step=4"], "frame_step", 4),
        (["--max-iterations=7"], "max_iterations", 7),
        (["--start-iteration", "3"], "start_iteration", 3),
        (["-b", "8"], "batch_size", 8),
        (["-b8"], "batch_size", 8),
        (["--batch-size=8"], "batch_size", 8),
        (["--ngpu=2"], "ngpu", 2),
        (["--lr=0.1"], "lr", 0.1),
        (["--learning-rate", "1e-3"], "lr", 1e-3),
        (["--learning_rate=0.1"], "lr", 0.1),
        (["--weight-decay=0"], "weight_decay", 0.0),
        (["--wd", "1e-4"], "weight_decay", 1e-4),
        (["--momentum=0.5"], "momentum", 0.5),
        (["--stepvalues=300000,425000"], "stepvalues", (300_000, 425_000)),
        (["--step_values=300000,425000"], "stepvalues", (300_000, 425_000)),
        (["--step-values", "5"], "stepvalues", (5,)),
        (["--stepvalues="], "stepvalues", ()),
        (["--gamma=0.1"], "gamma", 0.1),
        (["--print-freq=1"], "print_freq", 1),
        (["-p", "1"], "print_freq", 1),
        (["--dataset=ucf"], "dataset", "ucf"),
        (["--datasubset=400"], "datasubset", "400"),
        (["--resume"], "resume", True),
        (["--resume=True"], "resume", True),
        (["--resume", "False"], "resume", False),
        (["--resume=0"], "resume", False),
        (["--visdom=False"], "visdom", False),
        (["--visdom=true"], "visdom", True),
        (["--visdom", "True"], "visdom", True),
        (["--pretrained=0"], "pretrained", False),
        (["--pretrained"], "pretrained", True),
        (["--global_models_dir=w"], "global_models_dir", Path("w")),
        (["--global-models-dir", "w"], "global_models_dir", Path("w")),
        (["global_models_dir=w"], "global_models_dir", Path("w")),
        (["--save_root=~/runs"], "save_root", Path.home() / "runs"),
        (["--global_models_dir", "~"], "global_models_dir", Path.home()),
    ],
)
def test_spellings(words, name, value):
    assert getattr(parse(*words), name) == value


DEFAULTS = {
    "dataset": "kinetics", "input_type": "rgb", "workers": 4, "gap": 1, "frame_step": 6,
    "max_iterations": 500_000, "start_iteration": 0, "batch_size": 64, "ngpu": 1, "lr": 0.0005, "momentum": 0.9,
    "weight_decay": 1e-4, "stepvalues": (250_000, 400_000), "gamma": 0.2, "print_freq": 20, "resume": False,
    "visdom": False, "pretrained": True, "val_interval": 25_000, "dropout": 0.6, "seed": 123,
}  # fmt: skip


def test_defaults_are_those_of_2d_kinectics():
    args = vars(parse())
    assert {name: args[name] for name in DEFAULTS} == DEFAULTS
    assert args["seq_len"] is None and all(
        BACKBONES[name].clip_len == 1 for name in ("inception_v3", "vgg16", "resnet34")
    )


@pytest.mark.parametrize(
    "words",
    [
        ["--batch=4"], ["--max_iter=4"], ["--vis"], ["--nonsense=1"], ["nonsense=1"], ["stray"],
        ["--batch_size=0"], ["--batch_size=-1"], ["--batch_size=1.5"], ["--workers=-1"], ["--max_iterations=0"],
        ["--start_iteration=-1"], ["--lr=-1"], ["--lr=nan"], ["--lr=inf"], ["--lr=x"], ["--momentum=-1"], ["--seed=-1"],
        ["--weight_decay=-1"], ["--dropout=1.5"], ["--dropout=-0.1"], ["--dropout=nan"], ["--stepvalues=1;2"],
        ["--stepvalues=1.5"], ["--resume=maybe"], ["--visdom", "sometimes"], ["--input_size=0"],
    ],
)  # fmt: skip
def test_refused_values(words, capsys):
    with pytest.raises(SystemExit) as caught:
        parse(*words)
    assert caught.value.code == 2
    assert words[0].partition("=")[0].lstrip("-") in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize("parser, text, value", [
    (options.words, "rgb, farneback,,", ("rgb", "farneback")),
    (options.words, "", ()),
    (options.integers, "1,2", (1, 2)),
    (options.numbers, "1,0.5", (1.0, 0.5)),
    (options.positive, "+3", 3),
    (options.not_negative, "00", 0),
])  # fmt: skip
def test_values(parser, text, value):
    assert parser(text) == value


def test_numbers_refused():
    with pytest.raises(argparse.ArgumentTypeError, match="'a'"):
        options.numbers("a,b")


def test_other_words_are_not_changed():
    """A value may look like a flag of another program, or contain any characters."""
    args = parse("--save_root", "a=b", "--dataset", "x-y=z\n")
    assert (args.save_root, args.dataset) == (Path("a=b"), "x-y=z\n")


@pytest.mark.parametrize(
    ("statement", "code", "words"),
    [
        ("return None", 0, ""),
        ("return 5", 5, ""),
        ("raise BadInputError('a file')", 3, "error: a file"),
        ("raise EnvironmentFaultError('a disk')", 4, "error: a disk"),
        ("raise BrokenPipeError('of ffmpeg')", 4, "error: of ffmpeg; fix this"),
        ("raise OSError(28, 'No space left on device', 'f')", 4, "No space left on device: 'f'"),
        ("raise MemoryError", 4, "MemoryError"),
        ("raise RuntimeError('CUDA out of memory. Tried to allocate 2 GiB. GPU 0')", 4, "--batch_size"),
        ("raise RuntimeError('a bug')", 1, "Traceback"),
        ("raise KeyboardInterrupt", 130, "interrupted"),
        ("import os; os.kill(os.getpid(), 15)", 143, "interrupted"),
        ("import os; os.kill(os.getpid(), 1)", 143, "interrupted"),
        ("import atexit, os; atexit.register(os.kill, os.getpid(), 15)", 0, ""),
        ("raise SystemExit(2)", 2, ""),
        ("raise ZeroDivisionError", 1, "Traceback"),  # a bug keeps its traceback
        (r"print('\udcff')", 0, ""),
    ],
)
def test_exit_codes(statement, code, words):
    program = "from twostream.programs import options\nfrom twostream.errors import *\n"
    program += f"def main():\n    {statement}\noptions.run(main)"
    result = subprocess.run([sys.executable, "-c", program], cwd=REPOSITORY, capture_output=True, text=True)
    assert result.returncode == code and words in result.stderr
    assert ("Traceback" in result.stderr) == (words == "Traceback")


@pytest.mark.parametrize("statement", ["print('x' * 100_000, flush=True)", "print('x')"])
def test_output_that_nobody_reads_any_more(statement):
    """`| head` has ended: that is no fault of the machine."""
    program = f"from twostream.programs import options\ndef main():\n    input(); {statement}\noptions.run(main)"
    command = [sys.executable, "-c", program]
    pipes = {name: subprocess.PIPE for name in ("stdin", "stdout", "stderr")}
    with subprocess.Popen(command, cwd=REPOSITORY, text=True, **pipes) as process:
        process.stdout.close()
        process.stdin.write("\n")
        process.stdin.close()
        assert process.stderr.read() == "" and process.wait() == 141


@pytest.fixture
def last_words(capsys):
    """last_words(error) -> the only line that a program prints if this error ends it; the exit code is 4."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}

    def run(error: Exception) -> str:
        def fail():
            raise error

        with pytest.raises(SystemExit) as caught:
            options.run(fail)
        text = capsys.readouterr().err
        assert caught.value.code == 4 and text.count("\n") == 1 and "Traceback" not in text
        return text

    yield run
    for number, handler in handlers.items():
        signal.signal(number, handler)


WRAPPED = (
    "Caught {0} in DataLoader worker process 0.\nOriginal Traceback (most recent call last):\n  File ...\n{0}: {1}\n"
)


@pytest.mark.parametrize("error, words", [
    (RuntimeError("DataLoader worker (pid 7) is killed by signal: Bus error. It is possible that dataloader's workers are "
                  "out of shared memory. Please try to raise your shared memory limit."), "killed by signal: Bus error: "),
    (RuntimeError(WRAPPED.format("RuntimeError", "unable to allocate shared memory(shm) for file </torch_7_1_0>: No space "
                                 "left on device (28)")), "No space left on device (28): "),
    (RuntimeError("unable to open shared memory object </torch_7_1_0> in read-write mode: Too many open files (24)"),
     "Too many open files (24): "),
    (RuntimeError("unable to mmap 90 bytes from file </torch_7_1_0>: Cannot allocate memory (12)"), "(12): "),
])  # fmt: skip
def test_too_little_shared_memory(error, words, last_words):
    """One line that says what to do. The texts of the errors are torch's."""
    text = last_words(error)
    for part in (words, "--workers", "--batch_size", "/dev/shm has ", "--shm-size"):
        assert part in text


@pytest.mark.parametrize("error, words", [
    (RuntimeError("DataLoader worker (pid(s) 7) exited unexpectedly"), "pid(s) 7) exited unexpectedly; use"),
    (RuntimeError(WRAPPED.format("RuntimeError", "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't "
                                 "allocate memory: you tried to allocate 70 bytes. Error code 12 (Cannot allocate memory)")),
     "error: DefaultCPUAllocator: can't allocate memory: you tried to allocate 70 bytes; use a smaller --batch_size"),
    (MemoryError(WRAPPED.format("numpy._ArrayMemoryError", "Unable to allocate 7 TiB for an array")),
     "Unable to allocate 7 TiB for an array; use a smaller --batch_size or fewer --workers"),
    (MemoryError(), "error: MemoryError; use a smaller --batch_size"),
    (cv2.error("OpenCV(5.0.0) /io/alloc.cpp:73: error: (-4:Insufficient memory) Failed to allocate 9 bytes in function 'f'"),
     "Failed to allocate 9 bytes in function 'f'; use a smaller --batch_size"),
    (RuntimeError("received 0 items of ancdata"), "ancdata; use a smaller --batch_size or fewer --workers"),
    (RuntimeError("can't start new thread"), "can't start new thread; use"),
    (OSError(WRAPPED.format("OSError", "[Errno 5] Input/output error: 'a.jpg'")), "Input/output error: 'a.jpg'; fix this"),
])  # fmt: skip
def test_faults_in_loader_processes(error, words, last_words):
    assert words in last_words(error)


@pytest.mark.parametrize("program", PROGRAMS)
def test_two_dashes_are_no_value(program, capsys):
    flag = next(a.option_strings[0] for a in parser_of(program)._actions if a.option_strings and a.nargs is None)
    with pytest.raises(SystemExit) as end:
        parser_of(program).parse_args([f"{flag}=--"])
    assert end.value.code == 2 and f"argument {flag}: '--', expected a value" in capsys.readouterr().err
