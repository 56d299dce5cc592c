#!/usr/bin/env python3
"""Make annotations.json from lists and what was extracted: the same program as `twostream annotate`, in twostream/programs/annotate.py."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from twostream.programs.annotate import main
from twostream.programs.options import run

if __name__ == "__main__":
    run(main)
