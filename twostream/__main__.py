"""The command `twostream`: one program for each step, from a folder of videos to a fused, measured recognizer.

  twostream extract --help

Each command takes the flags of the script of the same name in a checkout of the repository: `twostream extract` is
prep/extract.py, `twostream annotate` prep/build_annotations.py, `twostream eval` eval.py.
"""

import importlib
import sys

import twostream
from twostream.errors import EXIT_DONE, EXIT_USAGE

COMMANDS = {
    "extract": ("extract", "videos -> RGB frames and flow images"),
    "annotate": ("annotate", "lists and what was extracted -> annotations.json"),
    "verify": ("verify", "check a data root for damage, and name the command that fixes it"),
    "pack": ("pack", "convert between image folders and packed frame stores"),
    "train": ("train", "train one stream"),
    "test": ("test", "score a split with a trained stream"),
    "eval": ("evaluate", "fuse the scores of streams, and report"),
    "fetch": ("fetch", "download ImageNet weights and check them"),
}
"""command -> module of twostream.programs, and what it does"""


def help_text() -> str:
    """What `twostream --help` prints."""
    width = max(map(len, COMMANDS))
    lines = [f"  {command:{width}}  {summary}" for command, (_, summary) in COMMANDS.items()]
    return "\n".join(
        ["usage: twostream COMMAND ...", "", *lines, "", "twostream COMMAND --help lists the flags of a command."]
    )


def main() -> None:
    """Run the command that the first word names, as if it were a program of its own."""
    command, *words = sys.argv[1:] or ["--help"]
    if command in ("--help", "-h"):
        print(help_text())
        sys.exit(EXIT_DONE)
    if command == "--version":
        print(f"twostream {twostream.__version__}")
        sys.exit(EXIT_DONE)
    if command not in COMMANDS:
        print(f"twostream: no command {command!r}, expected {', '.join(COMMANDS)}", file=sys.stderr)
        sys.exit(EXIT_USAGE)
    from twostream.programs.options import run  # after the name is known, so that --help answers at once

    sys.argv = [f"twostream {command}", *words]
    run(importlib.import_module(f"twostream.programs.{COMMANDS[command][0]}").main)


if __name__ == "__main__":
    main()
