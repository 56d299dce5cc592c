"""Flow methods by name, with their parameters and presets."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

import cv2
import numpy as np

from twostream.errors import EnvironmentFaultError
from twostream.flow.coding import ZERO, FlowCoding
from twostream.stream import MOTION_VECTORS


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
    """standard deviation of the Gaussian weights of that neighbourhood, pixels"""

    def __post_init__(self) -> None:
        for flag, value, is_valid, expected in [
            ("--pyr_scale", self.pyr_scale, 0 < self.pyr_scale < 1, "between 0 and 1"),
            ("--levels", self.levels, self.levels >= 1, "1 or more"),
            ("--win_size", self.win_size, self.win_size >= 1, "1 or more"),
            ("--iterations", self.iterations, self.iterations >= 1, "1 or more"),
            ("--poly_n", self.poly_n, self.poly_n in (5, 7), "5 or 7"),
            ("--poly_sigma", self.poly_sigma, self.poly_sigma > 0, "above 0"),
        ]:
            if not is_valid:
                raise ValueError(f"{flag} is {value:g}, expected {expected}")


FARNEBACK_PRESETS = {
    "default": FarnebackParameters(),
    # The defaults of OpenCV's class, which the flow program of 2D-kinectics used; 2.3 times the cost (benchmarks/flow.py).
    "2d-kinectics": FarnebackParameters(levels=5, win_size=13, iterations=10, poly_sigma=1.1),
}

DIS_MIN_SIDE = 32
"""pixels; below, OpenCV 5.0 sizes its pyramid by the width alone, which crashes the process on long frames"""

NO_GUESS: Any = None
"""flow to start from; typed so because OpenCV's types do not allow None there"""

FlowFunction = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""Two grey images (H, W) uint8 -> flow (H, W, 2) float32, pixels, x to the right and y down.

Raises ValueError where the method does not support their size.
"""


def _farneback(parameters: FarnebackParameters) -> FlowFunction:
    p = parameters

    def compute(first: np.ndarray, second: np.ndarray) -> np.ndarray:
        flow: np.ndarray = cv2.calcOpticalFlowFarneback(
            first, second, NO_GUESS, p.pyr_scale, p.levels, p.win_size, p.iterations, p.poly_n, p.poly_sigma, 0
        )
        return flow

    return compute


def _dis(parameters: FarnebackParameters) -> FlowFunction:
    """Kroeger et al., Fast Optical Flow using Dense Inverse Search, ECCV 2016: a ninth of Farneback's time."""
    method = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_FAST)

    def compute(first: np.ndarray, second: np.ndarray) -> np.ndarray:
        if min(first.shape) < DIS_MIN_SIDE:
            height, width = first.shape
            raise ValueError(
                f"flow method dis needs frames of {DIS_MIN_SIDE} pixels or more in height and width, found {width}x{height}"
            )
        flow: np.ndarray = method.calc(first, second, NO_GUESS)
        return flow

    return compute


def _tvl1(parameters: FarnebackParameters) -> FlowFunction:
    """Zach et al., A Duality Based Approach for Realtime TV-L1 Optical Flow, 2007: 84 times Farneback's time."""
    if not hasattr(getattr(cv2, "optflow", None), "DualTVL1OpticalFlow_create"):
        raise ValueError("flow method tvl1 needs OpenCV's contrib modules: pip install opencv-contrib-python")
    method = cv2.optflow.DualTVL1OpticalFlow.create()

    def compute(first: np.ndarray, second: np.ndarray) -> np.ndarray:
        flow: np.ndarray = method.calc(first, second, NO_GUESS)
        return flow

    return compute


FLOW_METHODS: dict[str, Callable[[FarnebackParameters], FlowFunction]] = {
    "farneback": _farneback,
    "dis": _dis,
    "tvl1": _tvl1,
}
"""name -> the method with these parameters"""

FLOW_ENGINES = ("opencv", "numba")
"""what computes Farneback's flow on the CPU: OpenCV, or its steps compiled by numba; the same flow but for rounding"""


def flow_types() -> tuple[str, ...]:
    """The input types that are flow: motion vectors, and the methods, with those that a user has added."""
    return *FLOW_METHODS, MOTION_VECTORS


@dataclass(frozen=True)
class FlowSettings:
    """Everything that decides the pixels of a flow image, given two frames."""

    method: str
    coding: FlowCoding = field(default_factory=FlowCoding)
    farneback: FarnebackParameters = field(default_factory=FarnebackParameters)

    def __post_init__(self) -> None:
        if self.method not in flow_types():
            raise ValueError(f"flow method {self.method!r}, expected one of {', '.join(flow_types())}")

    def function(self, engine: str = "opencv") -> FlowFunction:
        """The method with its parameters, for one thread at a time; engine: one of FLOW_ENGINES, numba for farneback only.

        Raises ValueError where this OpenCV does not have the method, or it needs the video file; EnvironmentFaultError
        where numba is missing.
        """
        if self.method == MOTION_VECTORS:
            raise ValueError(f"flow method {MOTION_VECTORS} reads encoded videos, and cannot be computed from pictures")
        if engine == "opencv":
            return FLOW_METHODS[self.method](self.farneback)
        if self.method != "farneback":
            raise ValueError(f"numba computes only farneback, not {self.method}")
        try:
            from twostream.flow.farneback_compiled import CompiledFarneback
        except ImportError as error:
            raise EnvironmentFaultError(
                f"flow by numba needs the package numba ({error}): pip install 'twostream-video[numba]'"
            ) from None
        return CompiledFarneback(**asdict(self.farneback))

    def to_json(self) -> dict[str, Any]:
        """A record of these settings, which `from_json` reads."""
        coding = asdict(self.coding) | {"scale": self.coding.scale, "zero": ZERO}
        parameters = asdict(self.farneback) if self.method == "farneback" else {}
        return {"method": self.method, "coding": coding, "parameters": parameters}

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> "FlowSettings":
        """The settings of a record; raises ValueError where it is not one."""
        try:
            coding = {name: value for name, value in content["coding"].items() if name not in ("scale", "zero")}
            return cls(content["method"], FlowCoding(**coding), FarnebackParameters(**content["parameters"]))
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"expected a record of flow settings, found {content}") from error


def same_levels(first: dict[str, Any], second: dict[str, Any]) -> bool:
    """Whether two records of FlowSettings give the same grey levels, no matter how these are stored."""
    return _levels_of(first) == _levels_of(second)


def _levels_of(record: dict[str, Any]) -> list[Any]:
    coding = record.get("coding", {})
    return [record.get("method"), record.get("parameters"), coding.get("scale"), coding.get("zero")]
