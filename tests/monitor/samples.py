"""Values and pictures of a small training, as monitors get them."""

import cv2
import numpy as np

CLASSES = ("clap", "wave & <b>run</b>")
MATRIX = np.array([[3, 1], [0, 2]])


def train_values(iteration: int) -> dict:
    means = {"seconds": 0.5, "data_seconds": 0.1, "loss": 3 - iteration / 100, "top1": iteration / 1000, "top3": 0.5}
    return (
        {"iteration": iteration, "epoch": iteration // 50, "batches_per_epoch": 50, "learning_rate": 0.0005}
        | {"images": 16, "seconds_left": 11_525.2}
        | {name: value * 1.01 for name, value in means.items()}
        | {f"mean_{name}": value for name, value in means.items()}
    )


def validation_values(iteration: int) -> dict:
    return {
        "iteration": iteration, "loss": 2.5 - iteration / 100, "top1": 0.25, "top3": 0.75, "best_top1": 0.3, "seconds": 9.0
    }  # fmt: skip


def picture(seed: int, *, height: int = 40, width: int = 60) -> np.ndarray:
    colours = np.random.default_rng(seed).integers(0, 256, (2, 3, 3), np.uint8)
    return cv2.resize(colours, (width, height), interpolation=cv2.INTER_LINEAR)
