"""Flow as 8-bit flow images and back, and flow as colours for people.

What a grey level means is defined here. Two other modules code tensors on their device to the same levels, which tests
assert: farneback.encode (flow to images) and models.network.as_seen (x and y to the magnitude).
"""

from dataclasses import dataclass

import cv2
import numpy as np

ZERO = 128
"""Grey level of no motion. On a whole level, so that noise of 1e-7 pixels cannot move it."""


@dataclass(frozen=True)
class FlowCoding:
    """How flow in pixels becomes a flow image and back."""

    bound: float = 20.0
    """motion that reaches the end of the 8-bit range, pixels"""
    integer_scale: bool = False
    """True: `128 // bound` grey levels per pixel, as in trees made for 2D-kinectics, whose bound was 8"""
    planes: bool = True
    """stored as planes, which at equal size lose half of what colour pictures lose (benchmarks/flow.py)"""

    def __post_init__(self) -> None:
        if not 0 < self.bound <= ZERO:
            raise ValueError(f"--bound is {self.bound:g}, expected a number of pixels above 0 and up to {ZERO}")

    @property
    def scale(self) -> float:
        """Grey levels per pixel of motion."""
        return float(ZERO // self.bound) if self.integer_scale else ZERO / self.bound

    def encode(self, flow: np.ndarray) -> np.ndarray:
        """Flow (H, W, 2) float32, pixels -> flow image (H, W, 3) uint8: x, y and magnitude, clipped at the bound."""
        x, y = cv2.split(flow)
        return self._levels(cv2.merge([x, y, cv2.magnitude(x, y)]))

    def encode_planes(self, flow: np.ndarray) -> np.ndarray:
        """Flow (H, W, 2) float32, pixels -> the planes of its flow image, (2H, W) uint8: x above y."""
        return cv2.vconcat(cv2.split(self._levels(flow)))

    def _levels(self, values: np.ndarray) -> np.ndarray:
        # One saturating pass; rounds half to even, as np.rint does.
        return cv2.addWeighted(values, self.scale, values, 0, ZERO, dtype=cv2.CV_8U)

    def decode(self, image: np.ndarray) -> np.ndarray:
        """Flow image (H, W, 3) uint8 -> flow (H, W, 2) float32, pixels: exact to half a grey level, if not clipped."""
        return (image[..., :2].astype(np.float32) - ZERO) / np.float32(self.scale)


def from_planes(planes: np.ndarray) -> np.ndarray:
    """Planes (2H, W) uint8 -> flow image (H, W, 3) uint8, the magnitude from the grey levels of x and y.

    Raises ValueError where there are not two planes.
    """
    height, odd = divmod(len(planes), 2)
    if odd:
        raise ValueError(f"found {len(planes)} rows, expected two planes of equal height")
    # OpenCV's types do not know that a scalar is accepted for an image.
    motion = cv2.subtract(planes, ZERO, dtype=cv2.CV_32F)  # type: ignore[call-overload]
    magnitude = cv2.add(cv2.magnitude(motion[:height], motion[height:]), ZERO, dtype=cv2.CV_8U)  # type: ignore[call-overload]
    return cv2.merge([planes[:height], planes[height:], magnitude])


def flow_colours(images: np.ndarray) -> np.ndarray:
    """Flow images, uint8 (..., H, W, 3) -> RGB of the same shape: white is still, right red, down green, left cyan.

    After the colour coding of Baker et al., A Database and Evaluation Methodology for Optical Flow, IJCV 2011, with
    hues in equal steps. Saturation is the root of the speed, 1 at the coding's bound, so that slow motion is visible.
    """
    x, y = (images[..., axis].astype(np.float32) - ZERO for axis in (0, 1))
    hue = np.round(np.degrees(np.arctan2(y, x)) / 2) % 180  # OpenCV's 8-bit hue: half degrees
    saturation = 255 * np.sqrt(np.minimum(np.hypot(x, y) / ZERO, 1))
    hsv = np.stack([hue, saturation, np.full_like(hue, 255)], axis=-1).round().astype(np.uint8)
    return cv2.cvtColor(hsv.reshape(-1, images.shape[-2], 3), cv2.COLOR_HSV2RGB).reshape(images.shape)
