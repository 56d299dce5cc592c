#!/usr/bin/env python3
"""Fuse score files and report: the same program as `twostream eval`, in twostream/programs/evaluate.py."""

from twostream.programs.evaluate import main
from twostream.programs.options import run

if __name__ == "__main__":
    run(main)
