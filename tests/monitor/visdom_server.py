"""A real Visdom server, and what it has drawn."""

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
import urllib.request

WITHOUT_DOWNLOAD = ("-c", "from visdom.server.run_server import main; main()")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextlib.contextmanager
def visdom_server(port: int, folder, *words: str, start: tuple[str, ...] = WITHOUT_DOWNLOAD, **environment: str):
    """Start a server as docs/train.md does: without downloading the page's scripts, and for this machine only."""
    command = [sys.executable, *start, "-port", str(port), "-bind_local", "-env_path", str(folder), *words]
    environment = os.environ | {"HOME": str(folder)} | environment
    with open(folder / "server.log", "w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, cwd=folder, env=environment)
    try:
        deadline = time.monotonic() + 60
        while True:
            try:
                with urllib.request.urlopen(f"http://localhost:{port}/", timeout=5) as answer:
                    assert answer.status == 200
                break
            except urllib.error.HTTPError:
                raise  # 403: this version of tornado does not serve Visdom's page
            except OSError:
                assert time.monotonic() < deadline and process.poll() is None, (folder / "server.log").read_text()
                time.sleep(0.1)
        yield
    finally:
        process.terminate()
        process.wait()


def window_content(port: int, env: str, window: str, **login: str):
    """The content of a window on the server."""
    import visdom

    client = visdom.Visdom(port=port, env=env, use_incoming_socket=False, raise_exceptions=True, **login)
    return json.loads(client.get_window_data(win=window, env=env))["content"]


def drawn(port: int, env: str, **login: str) -> dict[str, dict[str, list]]:
    """{window: {curve: [(iteration, value), ...]}} on the server, for the figures that 2D-kinectics has too."""
    windows = {}
    for window in ("loss", "accuracy"):
        content = window_content(port, env, window, **login)
        windows[window] = {
            "title": content["layout"]["title"] if isinstance(content["layout"]["title"], str)
            else content["layout"]["title"]["text"]
        } | {curve["name"]: list(zip(curve["x"], curve["y"], strict=True)) for curve in content["data"]}  # fmt: skip
    return windows
