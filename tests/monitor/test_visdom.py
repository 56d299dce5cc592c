"""Visdom with a real, a dead and a silent server."""

import base64
import contextlib
import socket
import time

import cv2
import numpy as np
import pytest

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
        assert monitor.curves.points()["Train-Loss"][-1][0] == 2040
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
