"""Where numbers go while training; Visdom against a real server, a dead one and a silent one."""

import contextlib
import json
import re
import socket
import subprocess
import sys
import time
import urllib.request

import pytest

from twostream.errors import BadInputError
from twostream.monitor import ConsoleMonitor, JsonMonitor, Monitors, VisdomMonitor, read_log


def train_numbers(iteration: int) -> dict:
    means = {"seconds": 0.5, "data_seconds": 0.1, "loss": 3 - iteration / 100, "top1": iteration / 1000, "top3": 0.5}
    return (
        {"iteration": iteration, "epoch": iteration // 50, "batches_per_epoch": 50, "learning_rate": 0.0005}
        | {name: value * 1.01 for name, value in means.items()}
        | {f"mean_{name}": value for name, value in means.items()}
    )


def validation_numbers(iteration: int) -> dict:
    return {
        "iteration": iteration, "loss": 2.5 - iteration / 100, "top1": 0.25, "top3": 0.75, "best_top1": 0.3, "seconds": 9.0
    }  # fmt: skip


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextlib.contextmanager
def visdom_server(port: int, folder):
    """As README says to start one: no download of the page's scripts, this machine only."""
    program = "from visdom.server.run_server import main; main()"
    command = [sys.executable, "-c", program, "-port", str(port), "-bind_local", "-env_path", str(folder)]
    with open(folder / "server.log", "w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, cwd=folder)
    try:
        deadline = time.monotonic() + 60
        while True:
            try:
                with urllib.request.urlopen(f"http://localhost:{port}/", timeout=5) as answer:
                    assert answer.status == 200
                break
            except urllib.error.HTTPError:
                raise  # 403: a tornado that does not serve Visdom's page
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


def drawn(port: int, env: str) -> dict[str, dict[str, list]]:
    """{window: {curve: [(iteration, value), ...]}} as the server has them."""
    import visdom

    client = visdom.Visdom(port=port, env=env, use_incoming_socket=False, raise_exceptions=True)
    windows = {}
    for window in VisdomMonitor.WINDOWS:
        content = json.loads(client.get_window_data(win=window, env=env))["content"]
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


MONITORS = {
    "console": (lambda run_dir, port: ConsoleMonitor(run_dir), console_losses),
    "json": (lambda run_dir, port: JsonMonitor(run_dir, resumed_at=None), json_losses),
    "visdom": (
        lambda run_dir, port: VisdomMonitor(server="http://localhost", port=port, env=run_dir.name), visdom_losses
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", MONITORS)
def test_all_values_arrive_in_order(name, tmp_path, port):
    make, read = MONITORS[name]
    monitor = Monitors([make(tmp_path, port)])
    monitor.message("what is trained")
    for iteration in range(20, 201, 20):
        monitor.train(train_numbers(iteration))
        if iteration % 100 == 0:
            monitor.validation(validation_numbers(iteration))
    monitor.close()
    trained, validated = read(tmp_path, port)
    trained, validated = ([(int(i), float(v)) for i, v in curve] for curve in (trained, validated))
    assert [i for i, _ in trained] == list(range(20, 201, 20))
    assert [v for _, v in trained] == pytest.approx([3 - i / 100 for i in range(20, 201, 20)])
    assert validated == [(100, pytest.approx(1.5)), (200, pytest.approx(0.5))]


# ------------------------------------------------------------------------------------------------------ console


def test_regexes_for_logs_of_2d_kinectics_match(tmp_path):
    monitor = ConsoleMonitor(tmp_path)
    monitor.train(train_numbers(120))
    monitor.validation(validation_numbers(120))
    monitor.close()
    text = (tmp_path / "train.log").read_text()
    pair = r"([\d.]+) \(([\d.]+)\)"
    line = rf"Epoch: \[(\d+)\]\[(\d+)/(\d+)\] Time {pair} Data {pair}Loss {pair} Prec@1 {pair} Prec@3 {pair}"
    assert re.search(line, text).groups() == (
        "2", "120", "50", "0.505", "0.500", "0.101", "0.100", "1.8180", "1.8000", "12.120", "12.000", "50.500", "50.000"
    )  # fmt: skip
    validation = re.search(r"Validation @ (\d+): Top1 ([\d.]+) Top3 ([\d.]+) Loss ([\d.]+)", text)
    assert validation.groups() == ("120", "25.00", "75.00", "1.300")
    assert re.search(r"Best Top1 sofar ([\d.]+)", text)[1] == "30.000"


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
        monitor.train(train_numbers(iteration))
    monitor.close()
    with open(tmp_path / "log.jsonl", "a") as log:
        log.write('{"event": "train", "itera')  # killed while writing

    again = JsonMonitor(tmp_path, resumed_at=40)
    again.train(train_numbers(60) | {"loss": 7.0})
    again.close()
    assert [(e["iteration"], e["loss"] == 7.0) for e in read_log(tmp_path)] == [(20, False), (40, False), (60, True)]
    JsonMonitor(tmp_path, resumed_at=None).close()
    assert read_log(tmp_path) == []


# ------------------------------------------------------------------------------------------------------- Visdom


def expected_windows(iterations, validations):
    def curve(numbers, key, where):
        return [(i, pytest.approx(numbers(i)[key])) for i in where]

    return {
        "loss": {
            "title": "Train & Val Losses",
            "Train-Loss": curve(train_numbers, "mean_loss", iterations),
            "Val-Loss": curve(validation_numbers, "loss", validations),
        },
        "accuracy": {
            "title": "Train & Val Accuracies",
            "trainTop3": curve(train_numbers, "mean_top3", iterations),
            "valTop3": curve(validation_numbers, "top3", validations),
            "trainTop1": curve(train_numbers, "mean_top1", iterations),
            "valTop1": curve(validation_numbers, "top1", validations),
        },
    }


def wait_for(condition) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_windows_and_curves(port):
    """One update after the other, so that curves are made, added to and made again."""
    monitor = VisdomMonitor(server="localhost", port=port, env="a/b run")
    for iteration in (20, 40, 60):
        sent = monitor.sent
        monitor.train(train_numbers(iteration))
        wait_for(lambda sent=sent: monitor.sent > sent)
        if iteration >= 40:
            monitor.validation(validation_numbers(iteration))
    monitor.close()
    assert drawn(port, "a_b run") == expected_windows((20, 40, 60), (40, 60))


def test_history_of_a_resumed_run_is_drawn_too(port):
    history = [{"event": "train"} | train_numbers(20), {"event": "validation"} | validation_numbers(20)]
    monitor = VisdomMonitor(server="http://localhost", port=port, env="resumed", history=history)
    monitor.train(train_numbers(40))
    monitor.validation(validation_numbers(40))
    monitor.close()
    assert drawn(port, "resumed") == expected_windows((20, 40), (20, 40))


def test_a_restarted_server_gets_everything_back(tmp_path, capfd):
    number = free_port()
    monitor = VisdomMonitor(server="http://localhost", port=number, env="run", history=[])
    for folder in (tmp_path / "first", tmp_path / "second"):
        folder.mkdir()
    with visdom_server(number, tmp_path / "first"):
        monitor.train(train_numbers(20))
        wait_for(lambda: monitor.sent == 1)
    monitor.validation(validation_numbers(20))  # nobody is there
    wait_for(lambda: monitor.warned)
    with visdom_server(number, tmp_path / "second"):
        monitor.train(train_numbers(40))
        monitor.validation(validation_numbers(40))
        monitor.close()
        assert drawn(number, "run") == expected_windows((20, 40), (20, 40))
    assert capfd.readouterr().err.count("warning: no Visdom") == 1


def test_closed_port_costs_one_warning(capfd):
    number = free_port()
    monitor = VisdomMonitor(server="http://localhost", port=number, env="run")
    for iteration in range(5):
        monitor.train(train_numbers(iteration))
        monitor.validation(validation_numbers(iteration))
        time.sleep(0.05)
    monitor.close()
    lines = capfd.readouterr().err.splitlines()
    assert len(lines) == 1, lines
    assert f"warning: no Visdom at http://localhost:{number}" in lines[0] and "-bind_local" in lines[0]


@pytest.mark.parametrize(
    "greeting", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n", b"HTTP/1.1 500 No\r\n\r\n"]
)
def test_a_server_that_does_not_answer_stops_nobody(monkeypatch, capfd, greeting):
    """It accepts and is silent, or stops in the middle of an answer, or answers with an error."""
    monkeypatch.setattr(VisdomMonitor, "TIMEOUT_SECONDS", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monitor = VisdomMonitor(server="http://127.0.0.1", port=silent.getsockname()[1], env="run")
        monitor.train(train_numbers(20))
        silent.settimeout(60)
        connection, _ = silent.accept()
        with connection:
            connection.sendall(greeting)
            for iteration in range(40, 200, 20):
                monitor.train(train_numbers(iteration))
                monitor.validation(validation_numbers(iteration))
            monitor.close()
    assert capfd.readouterr().err.count("warning: no Visdom") == 1


def test_long_curves_are_thinned_and_keep_their_end(monkeypatch):
    monkeypatch.setattr(VisdomMonitor, "MAX_POINTS", 10)
    monitor = VisdomMonitor(server="http://localhost", port=free_port(), env="run")
    monitor.close()
    for length in (1, 10, 11, 95, 1000):
        points = [(iteration, 0.5) for iteration in range(length)]
        thinned = monitor._thinned(points)
        assert len(thinned) <= 10 and thinned[-1] == points[-1] and set(thinned) <= set(points)


def test_damaged_line_of_a_log_is_named(tmp_path):
    (tmp_path / "log.jsonl").write_text('{"iteration": 1}\n{"itera\n')
    with pytest.raises(BadInputError, match="line 2"):
        read_log(tmp_path)
    (tmp_path / "log.jsonl").write_text('{"iteration": 1}\n{"itera')  # a killed run
    assert read_log(tmp_path) == [{"iteration": 1}]
