"""Pictures for monitors: the network's inputs as a grid, a confusion matrix as a map of colours."""

import unicodedata

import cv2
import numpy as np

from twostream.flow.coding import flow_colours
from twostream.metrics.confusion import row_shares

GRID_WIDTH = 1200
"""pixels, approximately"""
CAPTION_HEIGHT, GAP = 18, 4
"""pixels"""
PAPER = (225, 225, 225)
"""RGB of the background; not white, because flow without motion is white"""
COLUMNS = 4
"""single frames in a row; a longer clip fills its own row"""
MAX_FRAMES = 10
"""frames shown of each clip"""


def clip_grid(clips: np.ndarray, captions: list[str], *, modality: str) -> np.ndarray:
    """Clips as the network sees them, uint8 (N, T, H, W, 3), and a caption for each -> one picture, RGB uint8 (H', W', 3).

    `modality` is "rgb", or "flow", which is drawn in the colours of the flow wheel. Single frames are drawn side by
    side, longer clips one below the other.
    """
    frames = clips[:, :MAX_FRAMES]
    frames = flow_colours(frames) if modality == "flow" else frames
    num_clips, clip_len, height, width = frames.shape[:4]
    in_row = min(COLUMNS, num_clips) if clip_len == 1 else 1  # clips
    # Small pictures are enlarged by an integer factor, so that their pixels stay visible.
    scale = GRID_WIDTH / (in_row * clip_len * width)
    scale = min(int(scale), 4) if scale >= 1 else scale
    size = max(round(scale * width), 1), max(round(scale * height), 1)
    interpolation = cv2.INTER_NEAREST if scale >= 1 else cv2.INTER_AREA
    cells = []
    for clip, caption in zip(frames, captions, strict=True):
        row = cv2.hconcat([cv2.resize(frame, size, interpolation=interpolation) for frame in clip])
        cell = cv2.vconcat([_caption(caption, row.shape[1]), row])
        cells.append(cv2.copyMakeBorder(cell, 0, GAP, 0, GAP, cv2.BORDER_CONSTANT, value=PAPER))
    cells += [np.full_like(cells[0], PAPER)] * (-num_clips % in_row)
    return cv2.vconcat([cv2.hconcat(cells[start : start + in_row]) for start in range(0, len(cells), in_row)])


def _caption(text: str, width: int) -> np.ndarray:
    """A strip with as much of the text as fits. OpenCV's fonts have ASCII letters only."""
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode() or "?"
    font, font_scale, thickness = cv2.FONT_HERSHEY_SIMPLEX, 0.4, 1
    while len(plain) > 1 and cv2.getTextSize(plain, font, font_scale, thickness)[0][0] > width - 4:
        plain = plain[:-1]
    strip = np.full((CAPTION_HEIGHT, width, 3), PAPER, np.uint8)
    cv2.putText(strip, plain, (2, CAPTION_HEIGHT - 5), font, font_scale, (40, 40, 40), thickness, cv2.LINE_AA)
    return strip


def confusion_map(matrix: np.ndarray) -> np.ndarray:
    """A confusion matrix, counts (K, K), as a picture with a pixel for each pair of classes, RGB uint8 (K, K, 3).

    The larger the share of its row, the brighter a pixel is.
    """
    levels = np.round(255 * row_shares(matrix)).astype(np.uint8)
    return cv2.cvtColor(cv2.applyColorMap(levels, cv2.COLORMAP_VIRIDIS), cv2.COLOR_BGR2RGB)


def encoded(picture: np.ndarray, kind: str) -> bytes:
    """RGB uint8 (H, W, 3) -> the bytes of an image file; `kind` is ".png", or ".jpg", which gets quality 80."""
    options = [cv2.IMWRITE_JPEG_QUALITY, 80] if kind == ".jpg" else []
    return cv2.imencode(kind, cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), options)[1].tobytes()
