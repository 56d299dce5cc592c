"""Motion vectors of blocks -> fields of motion, and fields -> flow.

A field is float32 (h, w, 2) on cells of CELL x CELL stored pixels: the motion of each cell of a frame since an earlier frame,
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
    """A field of motion per frame, by the vectors of a frame of this stored size, an array of FFmpeg's AVMotionVector.

    past, future: distance in frames to the frames that it refers to. Where a block has both, the past one counts. Cells
    without a vector are NaN: they are intra coded, and their motion is unknown.
    """
    field = np.full((-(-height // MACROBLOCK) * 4, -(-width // MACROBLOCK) * 4, 2), np.nan, np.float32)
    is_past = vectors["source"] < 0
    # A block comes from where its vector points: to a past frame it points against the motion.
    factor = np.where(is_past, -1 / past, 1 / future) / np.maximum(vectors["motion_scale"], 1)
    motion = np.stack([vectors["motion_x"] * factor, vectors["motion_y"] * factor], -1).astype(np.float32)
    columns, rows = vectors["w"].astype(np.intp) // CELL, vectors["h"].astype(np.intp) // CELL
    left = vectors["dst_x"].astype(np.intp) // CELL - columns // 2
    top = vectors["dst_y"].astype(np.intp) // CELL - rows // 2
    is_inside = (left >= 0) & (top >= 0) & (left + columns <= field.shape[1]) & (top + rows <= field.shape[0])
    for direction in (False, True):
        for num_rows, num_columns in {*zip(rows.tolist(), columns.tolist(), strict=True)}:
            blocks = is_inside & (is_past == direction) & (rows == num_rows) & (columns == num_columns)
            y = top[blocks, None, None] + np.arange(num_rows)[:, None]
            x = left[blocks, None, None] + np.arange(num_columns)
            field[y, x] = motion[blocks, None, None]
    return field


def fill_unknown(field: np.ndarray) -> np.ndarray:
    """The field with the mean motion around them in its cells of unknown motion; 0 where nothing around is known."""
    unknown = np.isnan(field[..., 0])
    if not unknown.any():
        return field
    around = (NEIGHBOURHOOD, NEIGHBOURHOOD)
    motion = cv2.blur(np.where(unknown[..., None], np.float32(0), field), around)
    share = cv2.blur((~unknown).astype(np.float32), around)
    # The share is a sum of rounded numbers, so it is not exactly 0 where nothing is known.
    mean = motion / np.maximum(share, 1 / NEIGHBOURHOOD**2)[..., None]
    return np.where(unknown[..., None], mean, field)


def add_step(total: np.ndarray, step: np.ndarray) -> np.ndarray:
    """Motion until a frame, and from it to the next frame -> the motion until that next frame.

    Each cell is followed back along its step: the accumulated vectors of Wu et al., Compressed Video Action Recognition,
    CVPR 2018.
    """
    return step + total[_origins(step)]


def to_flow(
    field: np.ndarray, stored_size: tuple[int, int], size: tuple[int, int], turns: tuple[str, ...] = ()
) -> np.ndarray:
    """A field -> flow (H, W, 2) float32 between the upright pictures: pixels, x to the right and y down.

    `stored_size` and `size` are width and height of the frame as it is stored, and of the picture that it becomes. `turns`
    are the filters that turn it upright, keys of TURNS. Encoders give motion where it ends; flow has it where it begins.
    """
    exchanges = sum(TURNS[name][0] for name in turns) % 2
    (stored_width, stored_height), (width, height) = stored_size, size[::-1] if exchanges else size
    scale = np.array([width / stored_width, height / stored_height], np.float32)
    cells = _at_origin(cv2.merge([cv2.medianBlur(plane, 3) for plane in cv2.split(field)])) * scale
    # The cells cover more than the picture: pixel (x, y) of it is at the place (x / scale / CELL) among them.
    matrix = (
        np.array([[1 / scale[0], 0, 0.5 / scale[0] - CELL / 2], [0, 1 / scale[1], 0.5 / scale[1] - CELL / 2]]) / CELL
    )
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    flow = cv2.warpAffine(cells, matrix, (width, height), flags=flags, borderMode=cv2.BORDER_REPLICATE)
    for name in turns:
        flow = _turn(flow, *TURNS[name])
    return np.ascontiguousarray(flow)


def _at_origin(field: np.ndarray) -> np.ndarray:
    """The motion of each cell at the place where it begins. Where nothing comes from, what ends there stays."""
    moves = (field != 0).any(axis=2)  # what is still is hidden and shown by what moves
    rows, columns = _origins(field)
    moved = field.copy()
    moved[rows[moves], columns[moves]] = field[moves]
    return moved


def _origins(field: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Row and column of the cell that each cell comes from; of the nearest one where that is outside."""
    height, width = field.shape[:2]
    cells = np.rint(field / CELL).astype(np.intp)
    rows = np.clip(np.arange(height)[:, None] - cells[..., 1], 0, height - 1)
    columns = np.clip(np.arange(width) - cells[..., 0], 0, width - 1)
    return rows, columns


def _turn(flow: np.ndarray, exchange: bool, reverse_x: bool, reverse_y: bool) -> np.ndarray:
    if exchange:
        flow = flow.transpose(1, 0, 2)[..., ::-1]
    if reverse_x:
        flow = flow[:, ::-1] * np.array([-1, 1], np.float32)
    if reverse_y:
        flow = flow[::-1] * np.array([1, -1], np.float32)
    return flow
