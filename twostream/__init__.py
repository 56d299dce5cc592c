"""Two-stream action recognition on single frames: from a folder of videos to a fused, measured recognizer.

Letters in shape comments: N batch, T frames of a clip, C channels, H W pixels, K classes, M scored clips,
V videos, S streams. NumPy images are RGB, uint8, (H, W, 3); torch clips are uint8, (N, 3T, H, W).
"""

__version__ = "0.1.0"
