"""Frames in memory, read as a frame store; that they equal stored ones is tested with inference."""

import threading

import numpy as np

from twostream.clips.footage import Footage
from twostream.flow.methods import FlowSettings
from twostream.threads import MAX_THREADS


def test_flow_is_computed_in_the_same_threads_again_and_again(monkeypatch):
    """A new thread for each time makes a live recognizer grow: OpenCV's Farneback leaves memory behind in each."""
    threads = set()
    compute = Footage._compute

    def note_thread(footage, pair):
        threads.add(threading.current_thread())  # kept, so that no later thread has its number
        return compute(footage, pair)

    monkeypatch.setattr(Footage, "_compute", note_thread)
    frames = dict(enumerate(np.random.default_rng(0).integers(0, 256, (9, 48, 64, 3), np.uint8)))
    footage = Footage({"0": (frames, 9)}, flow=FlowSettings("dis"), keeps_flow=True)
    for _ in range(20):
        footage.compute_flow(("0", index) for index in range(8))
        footage.move_on("0", frames, by=8)
    assert len(threads) <= MAX_THREADS
