#!/usr/bin/env python3
"""The picture of README.md from a finished `make demo`: an RGB frame, its flow image, and the fused table.

python tests/picture.py --demo=demo --picture=docs/two_streams.png
"""

import argparse
import json
import sys
from pathlib import Path

import cv2
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from twostream.frames.folders import FrameFolders

SCALE = 3
INK = (40, 40, 40)
COLUMNS = {"frame_top1": "frame top-1", "video_top1": "video top-1", "mean_error": "mean error"}


def draw_text(canvas: np.ndarray, text: str, x: int, y: int, size: float = 0.6) -> None:
    cv2.putText(canvas, text, (x, y), cv2.FONT_HERSHEY_SIMPLEX, size, INK, 1, cv2.LINE_AA)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--demo", type=Path, default=Path("demo"))
    parser.add_argument("--picture", type=Path, default=Path("docs/two_streams.png"))
    args = parser.parse_args()

    rows = json.loads((args.demo / "runs" / "report.json").read_text())["rows"]
    video_id, frame_index = "red_right_10000", 9
    canvas = np.full((SCALE * 96 + 60, 1130, 3), 255, np.uint8)
    for column, (input_type, title) in enumerate((("rgb", "RGB frame"), ("farneback", "flow image"))):
        image = FrameFolders(args.demo / "data", input_type).read(video_id, [frame_index])[0]
        large = cv2.resize(image, None, fx=SCALE, fy=SCALE, interpolation=cv2.INTER_NEAREST)
        x = 10 + column * (large.shape[1] + 20)
        canvas[45 : 45 + large.shape[0], x : x + large.shape[1]] = large
        draw_text(canvas, title, x, 30)
    left = 20 + 2 * (SCALE * 96 + 20)
    draw_text(canvas, "videos never trained on, percent", left, 30)
    for line, cells in enumerate(
        [["", *COLUMNS.values()], *([row["name"], *(f"{100 * row[key]:.1f}" for key in COLUMNS)] for row in rows)]
    ):
        for cell, text in enumerate(cells):
            draw_text(canvas, text, left + (0, 110, 235, 365)[cell], 90 + 50 * line, 0.55)
    args.picture.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(args.picture), cv2.cvtColor(canvas, cv2.COLOR_RGB2BGR))
    print(f"wrote {args.picture}")


if __name__ == "__main__":
    main()
