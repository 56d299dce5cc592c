"""The command `twostream`: one program for each step, from a folder of videos to a fused, measured recognizer.

  twostream extract --help

Each command has a script in a clone of the repository that takes the same flags: `twostream extract` is
prep/extract.py, `twostream annotate` is prep/build_annotations.py, `twostream eval` is eval.py.
"""

import importlib
import sys

import twostream
from twostream.errors import EXIT_DONE, EXIT_USAGE

COMMANDS = {
    "label": ("label", "give classes to videos on a page in the browser"),
    "extract": ("extract", "videos -> RGB frames and flow images"),
    "annotate": ("annotate", "lists + extracted videos -> annotations.json"),
    "verify": ("verify", "check a data root for damage, and print the commands that fix it"),
    "pack": ("pack", "convert between image folders and packed frame stores"),
    "train": ("train", "train one stream"),
    "test": ("test", "score a split with a trained stream"),
    "eval": ("evaluate", "fuse the scores of streams, and report"),
    "export": ("export", "runs -> a recognizer: a folder with all that prediction needs"),
    "predict": ("predict", "name the classes of videos with a recognizer"),
    "features": ("features", "write features of videos, for other models to learn from"),
    "fetch": ("fetch", "download published weights and check them"),
    "convert": ("convert", "convert weight files: Caffe2's, PyTorch's, safetensors, checkpoints"),
}
"""command -> its module in twostream.programs, and what it does"""


def help_text() -> str:
    """The text of `twostream --help`."""
    width = max(map(len, COMMANDS))
    lines = [f"  {command:{width}}  {summary}" for command, (_, summary) in COMMANDS.items()]
    return "\n".join(
        ["usage: twostream COMMAND ...", "", *lines, "", "twostream COMMAND --help lists the flags of a command."]
    )


def main() -> None:
    """Run the command named by the first argument, as if it were a separate program."""
    command, *arguments = sys.argv[1:] or ["--help"]
    if command in ("--help", "-h"):
        print(help_text())
        sys.exit(EXIT_DONE)
    if command == "--version":
        print(f"twostream {twostream.__version__}")
        sys.exit(EXIT_DONE)
    if command not in COMMANDS:
        print(f"twostream: unknown command {command!r}, expected one of {', '.join(COMMANDS)}", file=sys.stderr)
        sys.exit(EXIT_USAGE)
    from twostream.programs.options import run  # late, so that --help is quick

    sys.argv = [f"twostream {command}", *arguments]
    run(importlib.import_module(f"twostream.programs.{COMMANDS[command][0]}").main)


if __name__ == "__main__":
    main()
