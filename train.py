#!/usr/bin/env python3
"""Train one stream: the same program as `twostream train`, in twostream/programs/train.py."""

from twostream.programs.options import run
from twostream.programs.train import main

if __name__ == "__main__":
    run(main)
