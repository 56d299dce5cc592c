"""Motion vectors of blocks -> fields of motion, and fields -> flow.

A field is float32 (h, w, 2) on cells of CELL x CELL stored pixels: the motion of each cell from a frame to a later one,
in stored pixels, x to the right and y down, forward in time.
"""

import cv2
import numpy as np

CELL = 4
"""side of a cell, stored pixels; blocks of all codecs are whole cells"""

MACROBLOCK = 16
"""side of the squares with which encoders cover the picture, beyond its right and lower end"""

NEIGHBOURHOOD = 9
"""side of the square around an intra cell whose known motion it takes the mean of, cells: its macroblock and the next ones"""

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
    motion = np.stack([vectors["motion_x"] * factor, vectors["motion_y"] * factor], -1).astype(np.float32)
    sizes = np.stack([vectors["w"], vectors["h"]], -1).astype(np.intp) // CELL
    ends = np.stack([vectors["dst_x"], vectors["dst_y"]], -1).astype(np.intp) // CELL - sizes // 2
    origins = ends - np.rint(motion / CELL).astype(np.intp)
    field = np.full((-(-height // MACROBLOCK) * 4, -(-width // MACROBLOCK) * 4, 2), np.nan, np.float32)
    # A block is where it ends, unless what moves comes from there: so the still ground stays behind an object.
    for direction in (False, True):
        _put(field, motion, ends, sizes, is_past == direction)
    moves = (origins != ends).any(axis=1)
    for direction in (False, True):
        _put(field, motion, origins, sizes, moves & (is_past == direction))
    return _filled(field)


def _put(field: np.ndarray, motion: np.ndarray, places: np.ndarray, sizes: np.ndarray, chosen: np.ndarray) -> None:
    """Write the motion of the chosen blocks; places and sizes are in cells, x before y. Blocks must be inside."""
    cells = field.view(np.complex64)[..., 0]  # NumPy writes single numbers faster than pairs
    height, width = cells.shape
    chosen = chosen & (places >= 0).all(axis=1) & (places + sizes <= (width, height)).all(axis=1)
    for num_columns, num_rows in {*map(tuple, sizes[chosen].tolist())}:
        of_size = chosen & (sizes == (num_columns, num_rows)).all(axis=1)
        x, y = places[of_size].T[..., None, None]
        values = motion[of_size].view(np.complex64)[..., None]
        cells[y + np.arange(num_rows)[:, None], x + np.arange(num_columns)] = values


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
    """A field -> flow of the upright picture's cells, float32 (h, w, 2): pixels of that picture, x to the right and y down.

    `stored_size` and `size` are width and height of the frame as it is stored, and of the picture that it becomes. `turns`
    are the filters that turn it upright, keys of TURNS. Scaled to `size`, it is the flow of each pixel.
    """
    stored_width, stored_height = stored_size
    flow = field[: -(-stored_height // CELL), : -(-stored_width // CELL)]
    if sum(TURNS[name][0] for name in turns) % 2:
        stored_width, stored_height = stored_height, stored_width
    for name in turns:
        flow = _turn(flow, *TURNS[name])
    return flow * np.array([size[0] / stored_width, size[1] / stored_height], np.float32)


def _turn(flow: np.ndarray, exchange: bool, reverse_x: bool, reverse_y: bool) -> np.ndarray:
    if exchange:
        flow = flow.transpose(1, 0, 2)[..., ::-1]
    if reverse_x:
        flow = flow[:, ::-1] * np.array([-1, 1], np.float32)
    if reverse_y:
        flow = flow[::-1] * np.array([1, -1], np.float32)
    return flow
