"""Motion vectors of blocks -> fields of motion, and fields -> flow.

A field is float32 (h, w, 2) on cells of CELL x CELL stored pixels: the motion of each cell from a frame to a later one,
in stored pixels, x to the right and y down, forward in time.
"""

import cv2
import numpy as np

from twostream.flow.coding import FlowCoding

CELL = 8
"""side of a cell, stored pixels: FFmpeg hands out no smaller blocks"""

MACROBLOCK = 16
"""side of the squares with which encoders cover the picture, beyond its right and lower end: two cells"""

NEIGHBOURHOOD = 5
"""side of the square around an intra cell of whose known motion it gets the mean, cells"""

TURNS = {
    "transpose=clock": (True, True, False),
    "transpose=cclock": (True, False, True),
    "transpose=cclock_flip": (True, False, False),
    "transpose=clock_flip": (True, True, True),
    "hflip": (False, True, False),
    "vflip": (False, False, True),
}
"""ffmpeg's filter -> does it exchange x and y, and does it then reverse x, and y"""


def paint(vectors: np.ndarray, width: int, height: int, *, past: float, future: float) -> np.ndarray:
    """How the cells of the frame before move to this one, by its vectors, an array of FFmpeg's AVMotionVector.

    `width` and `height` are those of the stored frame; `past` and `future` the distances in frames to the frames that it
    refers to, over which motion is taken to be steady. Where a block has both vectors, the past one counts.
    """
    is_past = vectors["source"] < 0
    # A block comes from where its vector points: to a past frame it points against the motion.
    factor = np.where(is_past, -1 / past, 1 / future) / np.maximum(vectors["motion_scale"], 1)
    motion = np.empty((len(vectors), 2), np.float32)
    motion[:, 0], motion[:, 1] = vectors["motion_x"] * factor, vectors["motion_y"] * factor

    # From blocks to cells, those of the future first: of two that are written to one place, the second stays.
    num_columns = np.maximum(vectors["w"].astype(np.intp) // CELL, 1)
    num_cells = num_columns * np.maximum(vectors["h"] // CELL, 1)
    in_order = np.concatenate([np.flatnonzero(~is_past), np.flatnonzero(is_past)])
    block = np.repeat(in_order, num_cells[in_order])
    firsts = np.cumsum(num_cells[in_order]) - num_cells[in_order]
    number = np.arange(len(block)) - np.repeat(firsts, num_cells[in_order])
    columns = ((vectors["dst_x"].astype(np.intp) - vectors["w"] // 2) // CELL)[block] + number % num_columns[block]
    rows = ((vectors["dst_y"].astype(np.intp) - vectors["h"] // 2) // CELL)[block] + number // num_columns[block]

    # A cell is where it ends, unless one that moves comes from there: so the still ground stays behind an object.
    back = np.rint(motion / -CELL).astype(np.intp)[block]
    moves = back.any(axis=1)
    rows = np.concatenate([rows, (rows + back[:, 1])[moves]])
    columns = np.concatenate([columns, (columns + back[:, 0])[moves]])
    block = np.concatenate([block, block[moves]])
    field = np.full((-(-height // MACROBLOCK) * 2, -(-width // MACROBLOCK) * 2, 2), np.nan, np.float32)
    is_inside = (rows >= 0) & (rows < field.shape[0]) & (columns >= 0) & (columns < field.shape[1])
    field[rows[is_inside], columns[is_inside]] = motion[block[is_inside]]
    return _filled(field)


def _filled(field: np.ndarray) -> np.ndarray:
    """The field with the mean motion around them in its unknown cells; 0 where nothing around is known."""
    unknown = np.isnan(field[..., 0])
    if unknown.any():
        field[unknown] = 0
        around = (NEIGHBOURHOOD, NEIGHBOURHOOD)
        # The share is a sum of rounded numbers, so it is not exactly 0 where nothing is known.
        share = np.maximum(cv2.blur((~unknown).astype(np.float32), around)[unknown], 1 / NEIGHBOURHOOD**2)
        field[unknown] = cv2.blur(field, around)[unknown] / share[:, None]
    return field


def add_step(total: np.ndarray, step: np.ndarray) -> np.ndarray:
    """Motion until a frame, and from it to the next frame -> the motion until that next frame.

    Each cell is followed to where it has moved, as Wu et al. accumulate vectors (Compressed Video Action Recognition, CVPR
    2018), who follow them back.
    """
    height, width = total.shape[:2]
    cells = np.rint(total / CELL).astype(np.intp)
    rows = np.clip(np.arange(height)[:, None] + cells[..., 1], 0, height - 1)
    columns = np.clip(np.arange(width) + cells[..., 0], 0, width - 1)
    return total + step[rows, columns]


def to_flow(
    field: np.ndarray, stored_size: tuple[int, int], size: tuple[int, int], turns: tuple[str, ...] = ()
) -> np.ndarray:
    """A field -> flow on the cells of the upright picture, float32 (h, w, 2): its pixels, x to the right and y down.

    `stored_size` and `size` are width and height of the frame as it is stored, and of the picture that it becomes. `turns`
    are the filters that turn it upright, keys of TURNS.
    """
    stored_width, stored_height = stored_size
    flow = field[: -(-stored_height // CELL), : -(-stored_width // CELL)]
    if sum(TURNS[name][0] for name in turns) % 2:
        stored_width, stored_height = stored_height, stored_width
    for name in turns:
        flow = _turn(flow, *TURNS[name])
    return flow * np.array([size[0] / stored_width, size[1] / stored_height], np.float32)


def to_planes(
    field: np.ndarray | None,
    stored_size: tuple[int, int],
    size: tuple[int, int],
    turns: tuple[str, ...],
    coding: FlowCoding,
) -> np.ndarray:
    """The planes of the flow image of a field, uint8 (2H, W), see `to_flow`; of a still picture where there is none.

    They are coded on the cells, then scaled to the picture: in a tenth of the time of coding the flow of each pixel.
    """
    flow = np.zeros((1, 1, 2), np.float32) if field is None else to_flow(field, stored_size, size, turns)
    return cv2.vconcat([cv2.resize(plane, size) for plane in np.vsplit(coding.encode_planes(flow), 2)])


def _turn(flow: np.ndarray, exchange: bool, reverse_x: bool, reverse_y: bool) -> np.ndarray:
    if exchange:
        flow = flow.transpose(1, 0, 2)[..., ::-1]
    if reverse_x:
        flow = flow[:, ::-1] * np.array([-1, 1], np.float32)
    if reverse_y:
        flow = flow[::-1] * np.array([1, -1], np.float32)
    return flow
