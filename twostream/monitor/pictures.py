"""Pictures for monitors: the network's inputs as a grid, a confusion matrix as a map of colours."""

import unicodedata

import cv2
import numpy as np

from twostream.flow.coding import flow_colours
from twostream.metrics.confusion import row_shares

GRID_WIDTH = 1200  # pixels, about
CAPTION_HEIGHT, GAP = 18, 4  # pixels
PAPER = (225, 225, 225)  # not white, which is flow that stands still
COLUMNS = 4  # of single frames; a longer clip is a row
MAX_FRAMES = 10  # of a clip that are shown


def clip_grid(clips: np.ndarray, captions: list[str], *, modality: str) -> np.ndarray:
    """Clips uint8 (N, T, H, W, 3) as the network sees them -> one RGB picture; flow by the colour wheel.

    Single frames stand side by side, longer clips below each other.
    """
    frames = clips[:, :MAX_FRAMES]
    frames = flow_colours(frames) if modality == "flow" else frames
    num_clips, clip_len, height, width = frames.shape[:4]
    in_row = min(COLUMNS, num_clips) if clip_len == 1 else 1  # clips
    # Small pictures are made larger by whole numbers, so that each of their pixels can be seen.
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
    """A strip with as much of the text as fits; OpenCV's letters are ASCII."""
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode() or "?"
    font = {"fontFace": cv2.FONT_HERSHEY_SIMPLEX, "fontScale": 0.4, "thickness": 1}
    while len(plain) > 1 and cv2.getTextSize(plain, *font.values())[0][0] > width - 4:
        plain = plain[:-1]
    strip = np.full((CAPTION_HEIGHT, width, 3), PAPER, np.uint8)
    return cv2.putText(strip, plain, (2, CAPTION_HEIGHT - 5), **font, color=(40, 40, 40), lineType=cv2.LINE_AA)


def confusion_map(matrix: np.ndarray) -> np.ndarray:
    """A confusion matrix as a picture of one pixel for each pair of classes, RGB uint8 (K, K, 3): bright is often."""
    levels = np.round(255 * row_shares(matrix)).astype(np.uint8)
    return cv2.cvtColor(cv2.applyColorMap(levels, cv2.COLORMAP_VIRIDIS), cv2.COLOR_BGR2RGB)


def encoded(picture: np.ndarray, kind: str) -> bytes:
    """RGB uint8 (H, W, 3) -> the bytes of a file: kind is .png, or .jpg of middle quality."""
    options = [cv2.IMWRITE_JPEG_QUALITY, 80] if kind == ".jpg" else []
    return cv2.imencode(kind, cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), options)[1].tobytes()
