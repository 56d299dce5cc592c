"""Lines for people, in the form of 2D-kinectics' logs."""

import re

from tests.monitor.samples import train_values, validation_values
from twostream.monitor.console import ConsoleMonitor


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


def test_another_run_is_named_at_each_validation(tmp_path):
    monitor = ConsoleMonitor(tmp_path)
    monitor.compare_with("linear head x", 0.5812)
    monitor.validation(validation_values(120))
    monitor.validation(validation_values(140))
    lines = (tmp_path / "train.log").read_text().splitlines()
    assert lines.count("val top-1 25.0, linear head x 58.1") == 2


def test_log_keeps_what_earlier_starts_wrote(tmp_path):
    for text in ("first start", "second start, \udcff"):
        monitor = ConsoleMonitor(tmp_path)
        monitor.message(text)
        monitor.close()
    assert (tmp_path / "train.log").read_text() == "first start\nsecond start, \\udcff\n"
