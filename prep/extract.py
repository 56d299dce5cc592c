#!/usr/bin/env python3
"""Extract RGB frames and flow images from videos: the same program as `twostream extract`, in twostream/programs/extract.py."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from twostream.programs.extract import main
from twostream.programs.options import run

if __name__ == "__main__":
    run(main)
