#!/usr/bin/env python3
"""Score a split with a trained stream: the same program as `twostream test`, in twostream/programs/test.py."""

from twostream.programs.options import run
from twostream.programs.test import main

if __name__ == "__main__":
    run(main)
