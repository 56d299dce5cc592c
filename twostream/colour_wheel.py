"""Flow images as people read them: hue is the direction of motion, strength of colour its speed."""

import cv2
import numpy as np

from twostream.flow import ZERO


def flow_colours(images: np.ndarray) -> np.ndarray:
    """Flow images, uint8 (..., H, W, 3) -> RGB of the same shape: white is still, right red, down green, left cyan.

    After the colour coding of Baker et al., A Database and Evaluation Methodology for Optical Flow, IJCV 2011, with
    hues in equal steps. Saturation is the root of the speed, 1 at the coding's bound, so that slow motion shows too.
    """
    x, y = (images[..., axis].astype(np.float32) - ZERO for axis in (0, 1))
    hue = np.round(np.degrees(np.arctan2(y, x)) / 2) % 180  # OpenCV's 8-bit hue: half degrees
    saturation = 255 * np.sqrt(np.minimum(np.hypot(x, y) / ZERO, 1))
    hsv = np.stack([hue, saturation, np.full_like(hue, 255)], axis=-1).round().astype(np.uint8)
    return cv2.cvtColor(hsv.reshape(-1, images.shape[-2], 3), cv2.COLOR_HSV2RGB).reshape(images.shape)
