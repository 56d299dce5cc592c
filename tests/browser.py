"""Fixtures that open a page in headless Chromium; tests that use them are skipped if none is installed."""

import shutil
import subprocess

import cv2
import numpy as np
import pytest

FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--hide-scrollbars", "--allow-file-access-from-files",
)  # fmt: skip


@pytest.fixture
def browse(tmp_path):
    """browse(url, *flags, milliseconds=0) -> what headless Chromium prints when the page is loaded, or that much later by its
    own clock.
    """
    program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if program is None:
        pytest.skip("no Chromium or Chrome is installed")

    def run(url: str, *flags: str, milliseconds: int = 0) -> str:
        budget = [f"--virtual-time-budget={milliseconds}"] if milliseconds else []
        command = [program, *FLAGS, f"--user-data-dir={tmp_path / 'profile'}", *budget, *flags, url]
        return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout

    return run


@pytest.fixture
def photograph(browse, tmp_path):
    """photograph(url, width, height, *flags) -> RGB uint8 (H, W, 3)."""

    def shoot(url: str, width: int, height: int, *flags: str, milliseconds: int = 2000) -> np.ndarray:
        path = tmp_path / "page.png"
        path.unlink(missing_ok=True)
        browse(url, f"--window-size={width},{height}", f"--screenshot={path}", *flags, milliseconds=milliseconds)
        return cv2.imread(str(path))[..., ::-1]

    return shoot
