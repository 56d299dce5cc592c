"""Windows on a Visdom server, in the environment that is named after the run."""

import html
import logging
import sys
import threading
import time
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import numpy as np
from tqdm import tqdm

from twostream.errors import one_line
from twostream.metrics.confusion import most_confused, row_shares
from twostream.monitor.contract import Monitor
from twostream.monitor.curves import FIGURES, Curves, Point

MAX_NAMED_CLASSES = 60
"""with more classes, the commonest mistakes are listed instead of a map, where the names would not fit"""


class VisdomMonitor(Monitor):
    """Shows the figures, the newest grid of inputs and the newest confusion matrix.

    A separate thread sends them. The training only hands them over, so a slow server does not delay it. If the server is
    dead or silent, one warning says so. A server that was restarted gets everything back with the next update, because
    whole curves are sent each time. Memory is bounded: curves of bounded length, one grid, one matrix.
    """

    TIMEOUT_SECONDS = 10.0
    """longest wait for an answer"""
    PAUSE_SECONDS = 1.0
    """between two updates; doubled after each one that fails"""
    MAX_ANSWER_BYTES = 1 << 20
    """Visdom answers with names of windows"""
    MAX_PAUSE_SECONDS = 60.0

    def __init__(
        self, *, server: str, port: int, env: str, history: Sequence[dict[str, Any]] = (),
        username: str | None = None, password: str | None = None,
    ):  # fmt: skip
        """`server` is an address such as http://localhost; `history`: the entries of log.jsonl of the run so far."""
        self.server, self.port, self.env = server, port, env.replace("/", "_")
        self.username, self.password = username, password
        self.curves = Curves(history)
        self.pictures: dict[str, tuple[Any, ...]] = {}
        """"grid" or "confusion", which is also the name of the window -> the arguments of its last call"""
        self.news = threading.Condition()
        """guards `curves`, `pictures` and `waiting`"""
        self.waiting = {"curves"} if history else set()
        """which of curves, grid and confusion have changed since they were sent"""
        self.closing = threading.Event()
        self.sent, self.warned = 0, False
        self.thread = threading.Thread(target=self._send_for_ever, name="visdom", daemon=True)
        self.thread.start()

    def compare_with(self, name: str, top1: float) -> None:
        with self.news:
            self.curves.compare_with(html.escape(name), top1)

    def train(self, values: dict[str, float]) -> None:
        with self.news:
            self.curves.add("train", values)
            self._announce("curves")

    def validation(self, values: dict[str, float]) -> None:
        with self.news:
            self.curves.add("validation", values)
            self._announce("curves")

    def grid(self, iteration: int, picture: np.ndarray) -> None:
        with self.news:
            self.pictures["grid"] = (iteration, picture)
            self._announce("grid")

    def confusion(self, iteration: int, matrix: np.ndarray, classes: tuple[str, ...]) -> None:
        with self.news:
            self.pictures["confusion"] = (iteration, matrix, classes)
            self._announce("confusion")

    def close(self) -> None:
        """Give the thread some time to send what is left, but do not wait for a silent server."""
        with self.news:
            self.closing.set()
            self.news.notify()
        self.thread.join(timeout=self.TIMEOUT_SECONDS)
        if self.thread.is_alive():
            self._warn(TimeoutError("it does not answer"))

    def _announce(self, what: str) -> None:
        self.waiting.add(what)
        self.news.notify()

    def _send_for_ever(self) -> None:
        client, pause = None, self.PAUSE_SECONDS
        while True:
            with self.news:
                self.news.wait_for(lambda: self.waiting or self.closing.is_set())
                if not self.waiting:
                    return
                # A server that could not be reached may have been restarted since, without any of the windows.
                sends_all = client is None
                figures = self.curves.figures() if sends_all or "curves" in self.waiting else {}
                pictures = {name: last for name, last in self.pictures.items() if sends_all or name in self.waiting}
                self.waiting.clear()
            try:
                client = client or self._connect()
                self._send(client, figures, pictures)
                pause = self.PAUSE_SECONDS
            except Exception as error:  # whatever Visdom raises, training goes on
                client, pause = None, min(2 * pause, self.MAX_PAUSE_SECONDS)
                self._warn(error)
            self.closing.wait(pause)  # not for news, which would wake the thread at each iteration

    def _connect(self) -> Any:
        import requests
        import visdom

        base: Any = visdom.Visdom  # its stub lacks parameters and attributes

        class Session(requests.Session):
            """Follows no redirection: that would read all of an answer, however long it is, and Visdom has none."""

            def get_redirect_target(self, resp: requests.Response) -> None:
                return None

        class Client(base):
            """Visdom's client, except that no server can make it wait for ever, or fill the memory with its answer."""

            @cached_property
            def session(client) -> requests.Session:
                session = Session()
                if client.username:
                    login = {"username": client.username, "password": client.password}
                    self._post(session, f"{client.server}:{client.port}{client.base_url}", json=login)
                return session

            def _handle_post(client, url: str, data: Any = None) -> str:
                return self._post(client.session, url, data=data or {})

        logging.getLogger("visdom").setLevel(logging.ERROR)  # without this, each connection prints two warnings
        return Client(
            server=self.server, port=self.port, env=self.env, raise_exceptions=True, use_incoming_socket=False,
            username=self.username, password=self.password,
        )  # fmt: skip

    def _post(self, session: Any, url: str, **content: Any) -> str:
        """Post something in a session of `requests`; returns the text of the answer."""
        text, deadline = b"", time.monotonic() + self.TIMEOUT_SECONDS
        with session.post(url, **content, timeout=self.TIMEOUT_SECONDS, stream=True) as answer:
            if answer.status_code in (400, 401, 403):  # Visdom's client would treat these as an empty answer
                raise PermissionError(
                    f"it answers with status {answer.status_code}; if it has a login (-enable_login), set "
                    "VISDOM_USERNAME and VISDOM_PASSWORD"
                )
            answer.raise_for_status()
            for piece in answer.iter_content(4096):
                text += piece
                if len(text) > self.MAX_ANSWER_BYTES or time.monotonic() > deadline:
                    raise TimeoutError(f"its answer does not end: {len(text)} bytes so far")
        return text.decode(errors="replace")

    def _send(
        self, client: Any, figures: dict[str, dict[str, list[Point]]], pictures: dict[str, tuple[Any, ...]]
    ) -> None:
        for window, curves in figures.items():
            figure = FIGURES[window]
            # One call for all curves of a window: points, and the number of the curve (from 1) of each. A second
            # `line` with update="replace" would remove the first curve again.
            client.scatter(
                X=np.array([point for points in curves.values() for point in points], np.float64),
                Y=np.repeat(np.arange(len(curves)) + 1, [len(points) for points in curves.values()]),
                win=window,
                opts={"title": figure.title, "xlabel": "Iteration", "legend": list(curves), "showlegend": True, "mode": "lines",
                      "dash": np.array(["solid" if name in figure.curves else "dash" for name in curves]),
                      "layoutopts": {"plotly": {"yaxis": {"rangemode": "tozero"}}}},
            )  # fmt: skip
        draw: dict[str, Callable[..., None]] = {"grid": self._draw_grid, "confusion": self._draw_confusion}
        for window, last in pictures.items():
            draw[window](client, *last)
        client.save([self.env])
        self.sent += 1

    @staticmethod
    def _draw_grid(client: Any, iteration: int, picture: np.ndarray) -> None:
        title = f"What the network sees, iteration {iteration}"
        client.image(picture.transpose(2, 0, 1), win="grid", opts={"title": title, "jpgquality": 85})

    @staticmethod
    def _draw_confusion(client: Any, iteration: int, matrix: np.ndarray, classes: tuple[str, ...]) -> None:
        names = [html.escape(name) for name in classes]  # Visdom's page interprets text as HTML
        if len(names) <= MAX_NAMED_CLASSES:
            axis, side = {"automargin": True, "dtick": 1}, 280 + 18 * len(names)
            opts = {
                "title": f"% of each true class (row), iteration {iteration}", "rownames": names, "columnnames": names,
                "xmin": 0, "xmax": 100, "width": side + 80, "height": side,
                "layoutopts": {"plotly": {"xaxis": axis, "yaxis": axis | {"autorange": "reversed"}}},
            }  # fmt: skip
            client.heatmap(100 * row_shares(matrix), win="confusion", opts=opts)
        else:
            pairs = [f"{names[t]} predicted as {names[p]}: {count}" for t, p, count in most_confused(matrix)]
            text = "<br>".join([f"Most confused, iteration {iteration}, clips", *pairs])
            client.text(text, win="confusion", opts={"title": "Confusion"})

    def _warn(self, error: Exception) -> None:
        with self.news:  # both threads may warn; the second one waits until the first has printed
            if self.warned:
                return
            self.warned = True
            tqdm.write(
                f"warning: no Visdom at {self.server}:{self.port} ({one_line(error)}); training goes on, and log.jsonl has "
                f"all values. To start a server: python -m visdom.server -port {self.port} -bind_local",
                file=sys.stderr,
            )
