"""Flow methods by name, with their parameters and presets."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, field

import cv2
import numpy as np

from twostream.flow.coding import ZERO, FlowCoding


@dataclass(frozen=True)
class FarnebackParameters:
    """Parameters of `cv2.calcOpticalFlowFarneback`; the defaults are its documentation's usual call.

    Farneback, Two-Frame Motion Estimation Based on Polynomial Expansion, SCIA 2003.
    """

    pyr_scale: float = 0.5
    """size of each pyramid level relative to the one below it"""
    levels: int = 3
    """pyramid levels"""
    win_size: int = 15
    """side of the averaging window, pixels"""
    iterations: int = 3
    """iterations on each level"""
    poly_n: int = 5
    """side of the neighbourhood of the polynomial expansion, pixels: 5 or 7"""
    poly_sigma: float = 1.2
    """standard deviation of the Gaussian that weighs that neighbourhood, pixels"""

    def __post_init__(self):
        for flag, value, good, expected in [
            ("--pyr_scale", self.pyr_scale, 0 < self.pyr_scale < 1, "between 0 and 1"),
            ("--levels", self.levels, self.levels >= 1, "1 or more"),
            ("--win_size", self.win_size, self.win_size >= 1, "1 or more"),
            ("--iterations", self.iterations, self.iterations >= 1, "1 or more"),
            ("--poly_n", self.poly_n, self.poly_n in (5, 7), "5 or 7"),
            ("--poly_sigma", self.poly_sigma, self.poly_sigma > 0, "above 0"),
        ]:
            if not good:
                raise ValueError(f"{flag} is {value:g}, expected {expected}")


FARNEBACK_PRESETS = {
    "default": FarnebackParameters(),
    # The class defaults of OpenCV, which the flow program of 2D-kinectics used; 2.3 times the cost (benchmarks/flow.py).
    "2d-kinectics": FarnebackParameters(levels=5, win_size=13, iterations=10, poly_sigma=1.1),
}

DIS_MIN_SIDE = 32
"""pixels; below, OpenCV 5.0 takes its pyramid by the width alone and crashes the process on long frames"""

FlowFunction = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""Two grey images (H, W) uint8 -> flow (H, W, 2) float32; ValueError where the method cannot do with their size."""


def _farneback(parameters: FarnebackParameters) -> FlowFunction:
    p = parameters

    def compute(first: np.ndarray, second: np.ndarray) -> np.ndarray:
        return cv2.calcOpticalFlowFarneback(
            first, second, None, p.pyr_scale, p.levels, p.win_size, p.iterations, p.poly_n, p.poly_sigma, 0
        )

    return compute


def _dis(parameters: FarnebackParameters) -> FlowFunction:
    """Kroeger et al., Fast Optical Flow using Dense Inverse Search, ECCV 2016: a ninth of Farneback's time."""
    method = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_FAST)

    def compute(first: np.ndarray, second: np.ndarray) -> np.ndarray:
        if min(first.shape) < DIS_MIN_SIDE:
            height, width = first.shape
            raise ValueError(
                f"flow method dis needs {DIS_MIN_SIDE} pixels or more each way, frames are {width}x{height}"
            )
        return method.calc(first, second, None)

    return compute


def _tvl1(parameters: FarnebackParameters) -> FlowFunction:
    """Zach et al., A Duality Based Approach for Realtime TV-L1 Optical Flow, 2007: 84 times Farneback's."""
    if not hasattr(getattr(cv2, "optflow", None), "DualTVL1OpticalFlow_create"):
        raise ValueError("flow method tvl1 needs OpenCV's contrib modules: pip install opencv-contrib-python")
    method = cv2.optflow.DualTVL1OpticalFlow_create()
    return lambda first, second: method.calc(first, second, None)


FLOW_METHODS: dict[str, Callable[[FarnebackParameters], FlowFunction]] = {
    "farneback": _farneback,
    "dis": _dis,
    "tvl1": _tvl1,
}


@dataclass(frozen=True)
class FlowSettings:
    """Everything that decides the pixels of a flow image, given two frames."""

    method: str
    coding: FlowCoding = field(default_factory=FlowCoding)
    farneback: FarnebackParameters = field(default_factory=FarnebackParameters)

    def __post_init__(self):
        if self.method not in FLOW_METHODS:
            raise ValueError(f"flow method {self.method!r}, expected one of {', '.join(FLOW_METHODS)}")

    def function(self) -> FlowFunction:
        return FLOW_METHODS[self.method](self.farneback)

    def to_json(self) -> dict:
        coding = asdict(self.coding) | {"scale": self.coding.scale, "zero": ZERO}
        parameters = asdict(self.farneback) if self.method == "farneback" else {}
        return {"method": self.method, "coding": coding, "parameters": parameters}

    @classmethod
    def from_json(cls, content: dict) -> "FlowSettings":
        """What `to_json` gave; ValueError where it is something else."""
        try:
            coding = {name: value for name, value in content["coding"].items() if name not in ("scale", "zero")}
            return cls(content["method"], FlowCoding(**coding), FarnebackParameters(**content["parameters"]))
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"no settings of flow: {content}") from error


def same_levels(one: dict, other: dict) -> bool:
    """Do two records of FlowSettings stand for the same grey levels, however these are stored?"""
    return _levels_of(one) == _levels_of(other)


def _levels_of(record: dict) -> list:
    coding = record.get("coding", {})
    return [record.get("method"), record.get("parameters"), coding.get("scale"), coding.get("zero")]
