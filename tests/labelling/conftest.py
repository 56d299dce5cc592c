"""A running server of the page for a folder of small videos."""

import threading
from pathlib import Path

import numpy as np
import pytest

from tests import toy
from tests.video.samples import numbered_pictures
from twostream.flow.methods import FlowSettings
from twostream.labelling.pictures import Pictures
from twostream.labelling.server import LabelServer
from twostream.labelling.table import LabelTable, cell_of
from twostream.video.ids import find_videos


def write_videos(folder: Path, *names: str, num_frames: int = 25) -> Path:
    """Videos of this many numbered frames, ten a second; returns the folder."""
    pictures = numbered_pictures(num_frames)
    for name in names:
        toy.write_video(folder / name, np.ascontiguousarray(pictures), fps=10)
    return folder


def open_table(folder: Path, **keywords) -> LabelTable:
    """The table of the videos in a folder, as the program opens it."""
    videos, _ = find_videos(folder)
    cells = {video_id: cell_of(video_id, path.relative_to(folder), id_from="stem") for video_id, path in videos.items()}
    return LabelTable(folder / "labels.csv", cells, **{"classes_path": folder / "classes.txt"} | keywords)


@pytest.fixture
def serve():
    """serve(folder) -> a server of its videos, which runs until the test ends."""
    servers = []

    def start(folder: Path) -> LabelServer:
        videos, _ = find_videos(folder)
        server = LabelServer(folder, videos, open_table(folder), Pictures(FlowSettings("dis")))
        servers.append(server)
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}).start()
        return server

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()
