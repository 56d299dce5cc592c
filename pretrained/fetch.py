#!/usr/bin/env python3
"""Download ImageNet weights and check them: the same program as `twostream fetch`, in twostream/programs/fetch.py."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from twostream.programs.fetch import main
from twostream.programs.options import run

if __name__ == "__main__":
    run(main)
