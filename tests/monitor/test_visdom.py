"""Visdom with a real, a dead and a silent server."""

import base64
import contextlib
import re
import shutil
import socket
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import visdom
from visdom.server.build import download_scripts

from tests.conftest import REPOSITORY
from tests.monitor.samples import CLASSES, MATRIX, picture, train_values, validation_values
from tests.monitor.visdom_server import drawn, free_port, visdom_server, window_content
from twostream.monitor.visdom import VisdomMonitor


def expected_windows(iterations, validations):
    def curve(values_of, key, where):
        return [(i, pytest.approx(values_of(i)[key])) for i in where]

    return {
        "loss": {
            "title": "Train & Val Losses",
            "Train-Loss": curve(train_values, "mean_loss", iterations),
            "Val-Loss": curve(validation_values, "loss", validations),
        },
        "accuracy": {
            "title": "Train & Val Accuracies",
            "trainTop3": curve(train_values, "mean_top3", iterations),
            "valTop3": curve(validation_values, "top3", validations),
            "trainTop1": curve(train_values, "mean_top1", iterations),
            "valTop1": curve(validation_values, "top1", validations),
        },
    }


def wait_for(condition) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_windows_and_curves(port):
    """The updates come one after the other, so that curves are created, extended and replaced."""
    monitor = VisdomMonitor(server="localhost", port=port, env="a/b run")
    for iteration in (20, 40, 60):
        sent = monitor.sent
        monitor.train(train_values(iteration))
        wait_for(lambda sent=sent: monitor.sent > sent)
        if iteration >= 40:
            monitor.validation(validation_values(iteration))
    monitor.close()
    assert drawn(port, "a_b run") == expected_windows((20, 40, 60), (40, 60))


def test_history_of_a_resumed_run_is_drawn_too(port):
    history = [{"event": "train"} | train_values(20), {"event": "validation"} | validation_values(20)]
    monitor = VisdomMonitor(server="http://localhost", port=port, env="resumed", history=history)
    monitor.train(train_values(40))
    monitor.validation(validation_values(40))
    monitor.close()
    assert drawn(port, "resumed") == expected_windows((20, 40), (20, 40))


def test_the_line_of_another_run_is_dashed(port):
    monitor = VisdomMonitor(server="http://localhost", port=port, env="compared")
    monitor.compare_with("linear head <x>", 0.58)
    monitor.train(train_values(20))
    monitor.validation(validation_values(40))
    monitor.close()
    *curves, line = window_content(port, "compared", "accuracy")["data"]
    assert (line["name"], line["line"]["dash"]) == ("linear head &lt;x&gt;", "dash")
    assert (line["x"], line["y"]) == ([20, 40], [0.58, 0.58])
    assert [curve["line"]["dash"] for curve in curves] == ["solid"] * 4


def test_a_restarted_server_gets_everything_back(tmp_path, capfd):
    number = free_port()
    monitor = VisdomMonitor(server="http://localhost", port=number, env="run", history=[])
    for folder in (tmp_path / "first", tmp_path / "second"):
        folder.mkdir()
    with visdom_server(number, tmp_path / "first"):
        monitor.grid(20, picture(0))
        monitor.confusion(20, MATRIX, CLASSES)
        monitor.train(train_values(20))
        wait_for(lambda: not monitor.waiting and monitor.sent)
    monitor.validation(validation_values(20))  # while no server runs
    wait_for(lambda: monitor.warned)
    with visdom_server(number, tmp_path / "second"):
        monitor.train(train_values(40))
        monitor.validation(validation_values(40))
        monitor.close()
        assert drawn(number, "run") == expected_windows((20, 40), (20, 40))
        assert window_content(number, "run", "grid") and window_content(number, "run", "confusion")
    assert capfd.readouterr().err.count("warning: no Visdom") == 1


def test_closed_port_costs_one_warning(capfd):
    number = free_port()
    monitor = VisdomMonitor(server="http://localhost", port=number, env="run")
    for iteration in range(5):
        monitor.train(train_values(iteration))
        monitor.validation(validation_values(iteration))
        time.sleep(0.05)
    monitor.close()
    lines = capfd.readouterr().err.splitlines()
    assert len(lines) == 1, lines
    assert f"warning: no Visdom at http://localhost:{number}" in lines[0] and "-bind_local" in lines[0]


@contextlib.contextmanager
def monitor_of_silent_server():
    """A monitor, and the connection that its first update opened to a server which reads and answers nothing."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monitor = VisdomMonitor(server="http://127.0.0.1", port=silent.getsockname()[1], env="run")
        monitor.train(train_values(20))
        silent.settimeout(60)
        connection, _ = silent.accept()
        with connection:
            yield monitor, connection


@pytest.mark.parametrize(
    "greeting", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n", b"HTTP/1.1 500 No\r\n\r\n"]
)
def test_a_server_that_does_not_answer_does_not_stop_the_training(monkeypatch, capfd, greeting):
    """It accepts and is silent, stops in the middle of an answer, or answers with an error."""
    monkeypatch.setattr(VisdomMonitor, "TIMEOUT_SECONDS", 0.3)
    with monitor_of_silent_server() as (monitor, connection):
        connection.sendall(greeting)
        for iteration in range(40, 200, 20):
            monitor.train(train_values(iteration))
            monitor.validation(validation_values(iteration))
        monitor.close()
    assert capfd.readouterr().err.count("warning: no Visdom") == 1


@pytest.mark.parametrize("status", ["200 OK", "302 Found\r\nLocation: /events", "400 No"])
def test_an_answer_without_end_fills_no_memory(capfd, status):
    """The server sends as long as anybody reads; the monitor stops after a megabyte, and says so once."""
    sent = 0
    with monitor_of_silent_server() as (monitor, connection):
        connection.sendall(f"HTTP/1.1 {status}\r\nContent-Length: 99999999999\r\n\r\n".encode())
        with contextlib.suppress(OSError):  # the monitor has closed the connection
            while sent < 100 << 20:
                sent += connection.send(bytes(65536))
        monitor.close()
    assert sent < 30 << 20, "buffers of the sockets, and a megabyte"
    assert capfd.readouterr().err.count("warning: no Visdom") == 1


def test_a_silent_server_is_not_waited_for(capfd, monkeypatch):
    """It accepts but reads nothing, while a thousand updates come; of the pictures, only the newest is kept."""
    monkeypatch.setattr(VisdomMonitor, "TIMEOUT_SECONDS", 30.0)
    with monitor_of_silent_server() as (monitor, connection):
        for iteration in range(40, 2041, 2):
            monitor.train(train_values(iteration))
            monitor.validation(validation_values(iteration))
            monitor.grid(iteration, picture(iteration % 7))
            monitor.confusion(iteration, MATRIX, CLASSES)
        assert monitor.sent == 0 and not monitor.warned, "the first request has not been answered yet"
        assert monitor.waiting == {"curves", "grid", "confusion"}
        assert {name: last[0] for name, last in monitor.pictures.items()} == {"grid": 2040, "confusion": 2040}
        assert monitor.curves.figures()["loss"]["Train-Loss"][-1][0] == 2040
        monkeypatch.setattr(VisdomMonitor, "TIMEOUT_SECONDS", 0.1)
        monitor.close()


def test_grid_and_confusion_matrix(port):
    monitor = VisdomMonitor(server="localhost", port=port, env="pictures")
    monitor.grid(20, picture(1))
    monitor.confusion(20, MATRIX, CLASSES)
    monitor.close()
    kind, _, data = window_content(port, "pictures", "grid")["src"].partition(",")
    decoded = cv2.imdecode(np.frombuffer(base64.b64decode(data), np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
    assert kind == "data:image/jpeg;base64"
    assert np.abs(decoded.astype(int) - picture(1)).mean() < 6  # what JPEG costs
    heat = window_content(port, "pictures", "confusion")["data"][0]
    assert heat["z"] == [[75, 25], [0, 100]]
    assert heat["x"] == heat["y"] == ["clap", "wave &amp; &lt;b&gt;run&lt;/b&gt;"]


def test_many_classes_are_reduced_to_the_commonest_mistakes(port):
    classes = tuple(f"<{k}>" for k in range(400))
    matrix = np.diag(np.full(400, 50))
    matrix[7, 9], matrix[3, 1] = 12, 30
    monitor = VisdomMonitor(server="localhost", port=port, env="many")
    monitor.confusion(20, matrix, classes)
    monitor.close()
    text = window_content(port, "many", "confusion")
    assert text.split("<br>")[1:] == ["&lt;3&gt; predicted as &lt;1&gt;: 30", "&lt;7&gt; predicted as &lt;9&gt;: 12"]


def scripts_of_the_page(port: int) -> dict[str, int]:
    """Address of each script and style sheet of the server's page -> status of the answer."""
    with urllib.request.urlopen(f"http://localhost:{port}/") as answer:
        text = re.sub(r"<!--.*?-->", "", answer.read().decode(), flags=re.DOTALL)
    found = re.findall(r"<(?:script|link)[^>]*?(?:src|href)=[\"']?([^\"' >]+\.(?:js|css)[^\"' >]*)", text)
    statuses = {}
    for address in found:
        try:
            with urllib.request.urlopen(f"http://localhost:{port}{address}") as answer:  # no address of another server
                statuses[address] = answer.status
        except urllib.error.HTTPError as error:
            statuses[address] = error.code
    return statuses


@pytest.mark.skipif(visdom.__version__ != "0.2.4", reason="the docs speak of Visdom 0.2.4")
def test_a_server_without_a_network(tmp_path, monkeypatch):
    """What docs/train.md says: what the first start downloads, how it ends without, and that a copied folder is enough."""
    package = tmp_path / "visdom"
    downloaded_here = shutil.ignore_patterns("mathjax", "*.min.js", "version.built")
    shutil.copytree(visdom.__path__[0], package, ignore=downloaded_here)
    nowhere = {f"{scheme}_proxy": "http://127.0.0.1:9" for scheme in ("http", "https")} | {"no_proxy": "localhost"}
    environment = nowhere | {"PYTHONPATH": str(tmp_path)}
    first_start = ("-m", "visdom.server")

    with visdom_server(number := free_port(), tmp_path, **environment):
        statuses = scripts_of_the_page(number)
    missing = {Path(address.partition("?")[0]).name for address, status in statuses.items() if status == 404}
    assert {"react-react.min.js", "jquery.min.js", "plotly-plotly.min.js", "MathJax.js"} <= missing
    with pytest.raises(AssertionError, match=r"cdnjs\.cloudflare\.com"):
        with visdom_server(free_port(), tmp_path, start=first_start, **environment):
            pass

    # A machine with a network: every download succeeds, and its address is one of those of the docs.
    addresses = []

    def download(request, **_):
        addresses.append(getattr(request, "full_url", request))
        return SimpleNamespace(read=lambda: b"// script", content=b"// script")

    monkeypatch.setattr(urllib.request, "build_opener", lambda *_: SimpleNamespace(open=download))
    monkeypatch.setattr(urllib.request, "install_opener", lambda _: None)
    monkeypatch.setattr("requests.get", download)
    download_scripts(install_dir=str(package))
    hosts = {urllib.parse.urlsplit(address).hostname for address in addresses}
    page = (REPOSITORY / "docs" / "train.md").read_text()
    assert all(host in page for host in hosts) and len(hosts) == 4
    monkeypatch.undo()
    with visdom_server(number := free_port(), tmp_path, start=first_start, **environment):
        statuses = scripts_of_the_page(number)
    assert not [address for address, status in statuses.items() if status != 200 and "/../" not in address]


def test_a_server_with_login(tmp_path, capfd):
    """Without a user name, Visdom's client silently draws nothing; the monitor warns."""
    number = free_port()
    (tmp_path / ".visdom").mkdir()
    secrets = {"VISDOM_USERNAME": "ann", "VISDOM_PASSWORD": "pass", "VISDOM_COOKIE": "some cookie"}
    with visdom_server(number, tmp_path, "-enable_login", VISDOM_USE_ENV_CREDENTIALS="1", **secrets):
        for login in ({}, {"username": "ann", "password": "other"}, {"username": "ann", "password": "pass"}):
            monitor = VisdomMonitor(server="http://localhost", port=number, env="run", **login)
            monitor.train(train_values(20))
            monitor.validation(validation_values(20))
            monitor.close()
        assert drawn(number, "run", **login) == expected_windows((20,), (20,))
    lines = capfd.readouterr().err.splitlines()
    assert len(lines) == 2
    assert all("VISDOM_USERNAME" in line for line in lines)
