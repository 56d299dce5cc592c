"""Motion vectors of blocks -> fields of motion, and fields -> flow.

A field is float32 (h, w, 2) on cells of CELL x CELL stored pixels: the motion of each cell from a frame to a later one,
in stored pixels, x to the right and y down, forward in time.
"""

import cv2
import numpy as np

from twostream.flow.coding import FlowCoding

VECTOR = np.dtype(
    {
        "names": "source w h src_x src_y dst_x dst_y flags motion_x motion_y motion_scale".split(),
        "formats": "i4 u1 u1 i2 i2 i2 i2 u8 i4 i4 u2".split(),
    },
    align=True,
)
"""AVMotionVector of FFmpeg's libavutil/motion_vector.h"""

CELL = 8
"""side of a cell, stored pixels: FFmpeg hands out no smaller blocks"""

MACROBLOCK = 16
"""side of the squares with which encoders cover the picture, beyond its right and lower end: two cells"""

BORDER = MACROBLOCK // CELL
"""cells around a field in which a block has place"""

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
    """How the cells of the frame before move to this one, by its vectors, an array of VECTOR.

    `width` and `height` are those of the stored frame; `past` and `future` the distances in frames to the frames that it
    refers to, over which motion is taken to be steady. Where a block has both vectors, the past one counts.
    """
    is_past = vectors["source"] < 0
    if not is_past.all():  # of two that are written to one place, the second stays
        order = np.argsort(is_past, kind="stable")
        # NumPy copies records ten times as fast when it does not know their fields.
        vectors, is_past = vectors.view(f"V{VECTOR.itemsize}")[order].view(VECTOR), is_past[order]
    # A block comes from where its vector points: to a past frame it points against the motion.
    factor = np.where(is_past, np.float32(-1 / past), np.float32(1 / future)) / np.maximum(vectors["motion_scale"], 1)
    motion = np.empty(len(vectors), np.complex64)  # x and y as one number, which is copied at once
    motion.real, motion.imag = vectors["motion_x"] * factor, vectors["motion_y"] * factor

    # What lies outside is written to a border, which is cut off.
    num_rows, num_columns = -(-height // MACROBLOCK) * 2, -(-width // MACROBLOCK) * 2
    field = np.full((num_rows + 2 * BORDER, num_columns + 2 * BORDER), np.nan, np.complex64)
    columns = (vectors["dst_x"] - vectors["w"] // np.int16(2)) // CELL + BORDER
    rows = (vectors["dst_y"] - vectors["h"] // np.int16(2)) // CELL + BORDER
    # All blocks have four cells; those of a smaller block are partly the same.
    right, down = vectors["w"] > CELL, (vectors["h"] > CELL) * np.intp(field.shape[1])
    _write(field, rows, columns, right, down, motion)
    # A cell is where it ends, unless one that moves comes from there: so the still ground stays behind an object.
    back_x, back_y = np.rint(motion.real / -CELL).astype(np.intp), np.rint(motion.imag / -CELL).astype(np.intp)
    moves = np.flatnonzero(back_x | back_y)
    if len(moves):
        rows, columns = rows[moves] + back_y[moves], columns[moves] + back_x[moves]
        _write(field, rows, columns, right[moves], down[moves], motion[moves])
    inside = field[BORDER:-BORDER, BORDER:-BORDER].copy()
    return _filled(inside.view(np.float32).reshape(num_rows, num_columns, 2))


def _write(
    field: np.ndarray, rows: np.ndarray, columns: np.ndarray, right: np.ndarray, down: np.ndarray, motion: np.ndarray
) -> None:
    """Write the motion of blocks to their four cells: the first one, and those `right` and `down` from it."""
    height, width = field.shape
    first = np.minimum(np.maximum(rows, 0), height - BORDER) * np.intp(width)
    first += np.minimum(np.maximum(columns, 0), width - BORDER)
    cells = field.ravel()
    for cell in (first, first + right, first + down, first + down + right):
        cells[cell] = motion


def _filled(field: np.ndarray) -> np.ndarray:
    """The field with the mean motion around them in its unknown cells; 0 where nothing around is known."""
    is_unknown = np.isnan(field[..., 0])
    unknown = np.flatnonzero(is_unknown)
    if len(unknown):
        cells = field.reshape(-1, 2)
        cells[unknown] = 0
        around = (NEIGHBOURHOOD, NEIGHBOURHOOD)
        # The share is a sum of rounded numbers, so it is not exactly 0 where nothing is known.
        share = cv2.blur(1 - is_unknown.astype(np.float32), around).ravel()[unknown]
        mean = cv2.blur(field, around).reshape(-1, 2)[unknown]
        cells[unknown] = mean / np.maximum(share, 1 / NEIGHBOURHOOD**2)[:, None]
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
    for name in turns:
        flow = _turn(flow, *TURNS[name])
        if TURNS[name][0]:
            stored_width, stored_height = stored_height, stored_width
    return flow * np.array([size[0] / stored_width, size[1] / stored_height], np.float32)


def to_planes(
    field: np.ndarray | None,
    stored_size: tuple[int, int],
    size: tuple[int, int],
    turns: tuple[str, ...],
    coding: FlowCoding,
) -> np.ndarray:
    """The planes of the flow image of a field on its cells, uint8 (2h, w), see `to_flow`; of a still picture where there is none.

    A picture that is smaller than the field has the planes of its pixels.
    """
    flow = np.zeros((1, 1, 2), np.float32) if field is None else to_flow(field, stored_size, size, turns)
    if flow.shape[0] > size[1] or flow.shape[1] > size[0]:
        flow = cv2.resize(flow, size)
    return coding.encode_planes(flow)


def _turn(flow: np.ndarray, exchange: bool, reverse_x: bool, reverse_y: bool) -> np.ndarray:
    if exchange:
        flow = flow.transpose(1, 0, 2)[..., ::-1]
    if reverse_x:
        flow = flow[:, ::-1] * np.array([-1, 1], np.float32)
    if reverse_y:
        flow = flow[::-1] * np.array([1, -1], np.float32)
    return flow
