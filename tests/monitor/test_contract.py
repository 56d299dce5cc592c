"""The contract of all monitors, and each of them; Visdom with a real, a dead and a silent server."""

import base64
import contextlib
import doctest
import json
import math
import os
import re
import socket
import subprocess
import sys
import time
import urllib.request

import cv2
import numpy as np
import pytest

from tests.monitor.test_page import points_of_page
from twostream.errors import BadInputError, EnvironmentFaultError
from twostream.monitor import console, page
from twostream.monitor.console import ConsoleMonitor
from twostream.monitor.contract import Monitor, Monitors
from twostream.monitor.curves import FIGURES, Curve, Curves
from twostream.monitor.log import JsonMonitor, read_confusion, read_log
from twostream.monitor.page import PageMonitor
from twostream.monitor.tensorboard import TensorBoardMonitor
from twostream.monitor.visdom import VisdomMonitor

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


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def picture(seed: int, *, height: int = 40, width: int = 60) -> np.ndarray:
    colours = np.random.default_rng(seed).integers(0, 256, (2, 3, 3), np.uint8)
    return cv2.resize(colours, (width, height), interpolation=cv2.INTER_LINEAR)


@contextlib.contextmanager
def visdom_server(port: int, folder, *words: str, **environment: str):
    """Start a server as docs/train.md does: without downloading the page's scripts, and for this machine only."""
    program = "from visdom.server.run_server import main; main()"
    command = [sys.executable, "-c", program, "-port", str(port), "-bind_local", "-env_path", str(folder), *words]
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


@pytest.fixture(scope="module")
def port(tmp_path_factory):
    number = free_port()
    with visdom_server(number, tmp_path_factory.mktemp("visdom")):
        yield number


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


def console_losses(run_dir, port):
    text = (run_dir / "train.log").read_text()
    trained = re.findall(r"\[(\d+)/50\] .*Loss \S+ \((\S+)\)", text)
    validated = re.findall(r"Validation @ (\d+): .* Loss (\S+)", text)
    return trained, validated


def json_losses(run_dir, port):
    entries = read_log(run_dir)
    return (
        [(e["iteration"], e["mean_loss"]) for e in entries if e["event"] == "train"],
        [(e["iteration"], e["loss"]) for e in entries if e["event"] == "validation"],
    )


def visdom_losses(run_dir, port):
    curves = drawn(port, run_dir.name)["loss"]
    return curves["Train-Loss"], curves["Val-Loss"]


def tensorboard_losses(run_dir, port):
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    accumulator = events.EventAccumulator(str(run_dir / "tensorboard"))
    accumulator.Reload()
    return [[(e.step, e.value) for e in accumulator.Scalars(f"loss/{name}")] for name in ("Train-Loss", "Val-Loss")]


def page_losses(run_dir, port):
    curves = points_of_page((run_dir / "curves.html").read_text())["Train & Val Losses"]
    return [[(round(x), y) for x, y in curves[name]] for name in ("Train-Loss", "Val-Loss")]


def make_tensorboard(run_dir, port):
    pytest.importorskip("tensorboard")
    return TensorBoardMonitor(run_dir, first=0)


MONITORS = {
    "console": (lambda run_dir, port: ConsoleMonitor(run_dir), console_losses),
    "json": (lambda run_dir, port: JsonMonitor(run_dir, resumed_at=None), json_losses),
    "page": (lambda run_dir, port: PageMonitor(run_dir), page_losses),
    "tensorboard": (make_tensorboard, tensorboard_losses),
    "visdom": (
        lambda run_dir, port: VisdomMonitor(server="http://localhost", port=port, env=run_dir.name), visdom_losses
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", MONITORS)
def test_all_values_arrive_in_order(name, tmp_path, port):
    make, read = MONITORS[name]
    monitor = Monitors([make(tmp_path, port)])
    monitor.message("what is trained")
    monitor.grid(20, picture(0))
    for iteration in range(20, 201, 20):
        monitor.train(train_values(iteration))
        if iteration % 100 == 0:
            monitor.validation(validation_values(iteration))
            monitor.confusion(iteration, MATRIX, CLASSES)
            monitor.grid(iteration, picture(iteration))
    monitor.close()
    trained, validated = read(tmp_path, port)
    trained, validated = ([(int(i), float(v)) for i, v in curve] for curve in (trained, validated))
    assert [i for i, _ in trained] == list(range(20, 201, 20))
    # Values of the page are read from its drawing, to a hundredth of these losses.
    assert [v for _, v in trained] == pytest.approx([3 - i / 100 for i in range(20, 201, 20)], abs=0.01)
    assert validated == [(100, pytest.approx(1.5, abs=0.01)), (200, pytest.approx(0.5, abs=0.01))]


@pytest.mark.parametrize("name", MONITORS)
def test_values_that_are_not_finite_stop_no_monitor(name, tmp_path, port):
    make, read = MONITORS[name]
    monitor = make(tmp_path, port)
    for iteration, loss in ((20, math.nan), (40, math.inf), (60, 2.0)):
        monitor.train(train_values(iteration) | {"loss": loss, "mean_loss": loss})
        monitor.validation(validation_values(iteration) | {"loss": loss})
    monitor.close()
    for curve in read(tmp_path, port):
        assert (int(curve[-1][0]), float(curve[-1][1])) == (60, pytest.approx(2.0))


def test_a_full_disk_is_reported_once_for_each_monitor(tmp_path, capfd, monkeypatch):
    monkeypatch.setattr(PageMonitor, "PAUSE_SECONDS", 0.0)
    monitors = Monitors([PageMonitor(tmp_path), JsonMonitor(tmp_path, resumed_at=None), ConsoleMonitor(tmp_path)])
    for name in ("curves.html", "confusion.json"):
        (tmp_path / name).mkdir()  # a file cannot replace it
    for iteration in (20, 40):
        monitors.train(train_values(iteration))
        monitors.validation(validation_values(iteration))
        monitors.confusion(iteration, MATRIX, CLASSES)
    monitors.close()
    warnings = [line for line in capfd.readouterr().err.splitlines() if "warning" in line]
    assert len(warnings) == 2 and "PageMonitor" in warnings[0] and "JsonMonitor" in warnings[1]
    assert [entry["iteration"] for entry in read_log(tmp_path)] == [20, 20, 40, 40]


def test_a_failing_monitor_does_not_stop_the_others(tmp_path, capfd):
    class Broken(Monitor):
        def train(self, values):
            raise KeyError("no such number")

    monitors = Monitors([Broken(), JsonMonitor(tmp_path, resumed_at=None)])
    for iteration in (20, 40):
        monitors.train(train_values(iteration))
    monitors.close()
    assert len(read_log(tmp_path)) == 2
    errors = capfd.readouterr().err
    assert errors.count("\n") == 1 and "Broken" in errors and "KeyError: 'no such number'" in errors


# ------------------------------------------------------------------------------------------------------- curves


@pytest.mark.parametrize("count", [1, 2, 999, 1000, 1001, 2500, 300_000])
def test_long_curves_are_thinned_and_keep_their_ends(count):
    curve = Curve()
    for iteration in range(count):
        curve.add((iteration, -iteration))
        assert len(curve.kept) <= Curve.MAX_POINTS  # memory is bounded too
    iterations = [iteration for iteration, _ in curve.points()]
    assert [value for _, value in curve.points()] == [-iteration for iteration in iterations]
    assert min(count, 500) <= len(iterations) <= 1000
    assert (iterations[0], iterations[-1]) == (0, count - 1)
    steps = {later - earlier for earlier, later in zip(iterations[:-2], iterations[1:-1], strict=True)}
    assert len(steps) <= 1, "evenly spaced"


def test_speed_and_split_of_time():
    """16 clips in 0.5 s, a fifth of it waiting. An older log, which lacks the number of images, has the other curves."""
    values = train_values(20)
    points = Curves([{"event": "train"} | values]).points()
    assert points["images/s"] == [(20, 32.0)]
    assert points["waiting for data"] == [(20, pytest.approx(0.2))] and points["computing"] == [
        (20, pytest.approx(0.8))
    ]
    del values["images"]
    older = Curves([{"event": "train"} | values]).points()
    assert points.keys() - older.keys() == {"images/s"}


# ------------------------------------------------------------------------------------------------------ console


def test_regexes_for_logs_of_2d_kinectics_match(tmp_path):
    monitor = ConsoleMonitor(tmp_path)
    monitor.train(train_values(120))
    monitor.validation(validation_values(120))
    monitor.close()
    text = (tmp_path / "train.log").read_text()
    pair = r"([\d.]+) \(([\d.]+)\)"
    line = rf"Epoch: \[(\d+)\]\[(\d+)/(\d+)\] Time {pair} Data {pair}Loss {pair} Prec@1 {pair} Prec@3 {pair}"
    assert re.search(line, text).groups() == (
        "2", "120", "50", "0.505", "0.500", "0.101", "0.100", "1.8180", "1.8000", "12.120", "12.000", "50.500", "50.000"
    )  # fmt: skip
    assert text.splitlines()[0].endswith(" lr 0.0005 ETA 3:12:05")
    validation = re.search(r"Validation @ (\d+): Top1 ([\d.]+) Top3 ([\d.]+) Loss ([\d.]+)", text)
    assert validation.groups() == ("120", "25.00", "75.00", "1.300")
    assert re.search(r"Best Top1 sofar ([\d.]+)", text)[1] == "30.000"


def test_examples_of_the_docstrings():
    for module in (console, page):
        result = doctest.testmod(module)
        assert result.attempted and not result.failed


def test_log_keeps_what_earlier_starts_wrote(tmp_path):
    for text in ("first start", "second start, \udcff"):
        monitor = ConsoleMonitor(tmp_path)
        monitor.message(text)
        monitor.close()
    assert (tmp_path / "train.log").read_text() == "first start\nsecond start, \\udcff\n"


# --------------------------------------------------------------------------------------------------------- JSON


def test_entries_after_the_resumed_iteration_are_dropped(tmp_path):
    monitor = JsonMonitor(tmp_path, resumed_at=None)
    for iteration in (20, 40, 60):
        monitor.train(train_values(iteration))
    monitor.close()
    with open(tmp_path / "log.jsonl", "a") as log:
        log.write('{"event": "train", "itera')  # killed while writing

    resumed = JsonMonitor(tmp_path, resumed_at=40)
    resumed.train(train_values(60) | {"loss": 7.0})
    resumed.close()
    assert [(e["iteration"], e["loss"] == 7.0) for e in read_log(tmp_path)] == [(20, False), (40, False), (60, True)]
    JsonMonitor(tmp_path, resumed_at=None).close()
    assert read_log(tmp_path) == []


def test_damaged_line_of_a_log_is_named(tmp_path):
    (tmp_path / "log.jsonl").write_text('{"iteration": 1}\n{"itera\n')
    with pytest.raises(BadInputError, match="line 2"):
        read_log(tmp_path)
    (tmp_path / "log.jsonl").write_text('{"iteration": 1}\n{"itera')  # a killed run
    assert read_log(tmp_path) == [{"iteration": 1}]


def test_the_newest_confusion_matrix_is_kept_beside_the_log(tmp_path):
    monitor = JsonMonitor(tmp_path, resumed_at=None)
    monitor.confusion(20, MATRIX.T, CLASSES)
    monitor.confusion(40, MATRIX, CLASSES)
    monitor.close()
    iteration, matrix, classes = read_confusion(tmp_path, last=40)
    assert (iteration, matrix.tolist(), classes) == (40, MATRIX.tolist(), CLASSES)
    assert read_log(tmp_path) == []
    JsonMonitor(tmp_path, resumed_at=40).close()
    assert read_confusion(tmp_path, last=40)
    JsonMonitor(tmp_path, resumed_at=20).close()  # 40 will be repeated
    assert read_confusion(tmp_path, last=40) is None


@pytest.mark.parametrize("text", ["", "{", '{"iteration": 3}', "[]"])
def test_damaged_confusion_matrix_is_named(tmp_path, text):
    (tmp_path / "confusion.json").write_text(text)
    with pytest.raises(BadInputError, match="confusion.json.*delete it"):
        read_confusion(tmp_path, last=40)


# -------------------------------------------------------------------------------------------------- TensorBoard


def test_a_resumed_run_hides_repeated_iterations(tmp_path):
    pytest.importorskip("tensorboard")
    for first, iterations, lost in ((0, (20, 40, 60), 0.5), (40, (60, 80), 0.0)):
        monitor = TensorBoardMonitor(tmp_path, first=first)
        for iteration in iterations:
            monitor.train(train_values(iteration) | {"mean_loss": iteration + lost})
            monitor.validation(validation_values(iteration))
        monitor.close()
    trained, _ = tensorboard_losses(tmp_path, None)
    assert trained == [(20, 20.5), (40, 40.5), (60, 60.0), (80, 80.0)]


def test_pictures_and_every_figure_are_in_the_event_files(tmp_path):
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    monitor = make_tensorboard(tmp_path, None)
    monitor.train(train_values(20))
    monitor.validation(validation_values(20))
    monitor.grid(20, picture(0))
    monitor.confusion(20, MATRIX, CLASSES)
    monitor.close()
    accumulator = events.EventAccumulator(str(tmp_path / "tensorboard"))
    accumulator.Reload()
    expected = {f"{window}/{name}" for window, figure in FIGURES.items() for name in figure.curves}
    found = {
        tag.replace("_", " ") for tag in accumulator.Tags()["scalars"]
    }  # some versions of torch replace blanks by _
    assert found == {tag.replace("_", " ") for tag in expected}
    image = accumulator.Images("inputs")[0]
    decoded = cv2.imdecode(np.frombuffer(image.encoded_image_string, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
    assert np.array_equal(decoded, picture(0))


def test_a_missing_package_is_reported_before_training(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(EnvironmentFaultError, match="pip install"):
        TensorBoardMonitor(tmp_path, first=0)


# ------------------------------------------------------------------------------------------------------- Visdom


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


@pytest.mark.parametrize(
    "greeting", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n", b"HTTP/1.1 500 No\r\n\r\n"]
)
def test_a_server_that_does_not_answer_does_not_stop_the_training(monkeypatch, capfd, greeting):
    """It accepts and is silent, stops in the middle of an answer, or answers with an error."""
    monkeypatch.setattr(VisdomMonitor, "TIMEOUT_SECONDS", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monitor = VisdomMonitor(server="http://127.0.0.1", port=silent.getsockname()[1], env="run")
        monitor.train(train_values(20))
        silent.settimeout(60)
        connection, _ = silent.accept()
        with connection:
            connection.sendall(greeting)
            for iteration in range(40, 200, 20):
                monitor.train(train_values(iteration))
                monitor.validation(validation_values(iteration))
            monitor.close()
    assert capfd.readouterr().err.count("warning: no Visdom") == 1


def test_a_silent_server_is_not_waited_for(capfd, monkeypatch):
    """It accepts but reads nothing, while a thousand updates come; of the pictures, only the newest is kept."""
    monkeypatch.setattr(VisdomMonitor, "TIMEOUT_SECONDS", 30.0)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monitor = VisdomMonitor(server="http://127.0.0.1", port=silent.getsockname()[1], env="run")
        monitor.train(train_values(20))
        silent.settimeout(60)
        connection, _ = silent.accept()
        with connection:
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
    assert "VISDOM_USERNAME" in lines[0] and "Authentication failed" in lines[1]
