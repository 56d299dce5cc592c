#!/usr/bin/env python3
"""Add a flow method to the table, and extract with it: here the motion of the whole picture, as a shaking camera makes it.

  python examples/new_flow_method.py extract --videos=videos --root=data --input_types=rgb,shift

A stream is trained on it like on any other flow: twostream train --root=data --input_type=shift. A method that is to
stay goes into twostream/flow/methods.py; the contract tests then run on it.
"""

import cv2
import numpy as np

from twostream.__main__ import main
from twostream.flow.methods import FLOW_METHODS, FarnebackParameters, FlowFunction


def shift(parameters: FarnebackParameters) -> FlowFunction:
    """One displacement for all pixels, by phase correlation (Kuglin and Hines, 1975). It has no use for the parameters."""

    def compute(first: np.ndarray, second: np.ndarray) -> np.ndarray:
        """Grey frames uint8 (H, W) -> flow float32 (H, W, 2): pixels to the right, pixels down."""
        window = cv2.createHanningWindow(first.shape[::-1], cv2.CV_32F)
        displacement, _ = cv2.phaseCorrelate(first.astype(np.float32), second.astype(np.float32), window)
        return np.full((*first.shape, 2), displacement, np.float32)

    return compute


# At the top of the module, not below: worker processes import it to know the method.
FLOW_METHODS["shift"] = shift

if __name__ == "__main__":
    main()
