"""Monitors show how a training goes: on the console, in log files, as a page of curves, in Visdom and TensorBoard."""

from twostream.monitor.console import ConsoleMonitor
from twostream.monitor.contract import Monitor, Monitors
from twostream.monitor.log import JsonMonitor, read_confusion, read_log
from twostream.monitor.page import PageMonitor
from twostream.monitor.pictures import clip_grid
from twostream.monitor.tensorboard import TensorBoardMonitor
from twostream.monitor.visdom import VisdomMonitor
from twostream.monitor.warnings import WarningMonitor

__all__ = [
    "ConsoleMonitor",
    "JsonMonitor",
    "Monitor",
    "Monitors",
    "PageMonitor",
    "TensorBoardMonitor",
    "VisdomMonitor",
    "WarningMonitor",
    "clip_grid",
    "read_confusion",
    "read_log",
]
