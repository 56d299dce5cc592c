#!/usr/bin/env python3
"""Convert between image folders and packed frame stores: the same program as `twostream pack`, in twostream/programs/pack.py."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from twostream.programs.options import run
from twostream.programs.pack import main

if __name__ == "__main__":
    run(main)
