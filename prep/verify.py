#!/usr/bin/env python3
"""Check a data root for damage: the same program as `twostream verify`, in twostream/programs/verify.py."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from twostream.programs.options import run
from twostream.programs.verify import main

if __name__ == "__main__":
    run(main)
