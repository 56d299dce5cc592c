"""Windows of a Visdom server, in the environment named after the run."""

import html
import logging
import sys
import threading

import numpy as np
from tqdm import tqdm

from twostream.metrics import confusion
from twostream.metrics.confusion import row_shares
from twostream.monitor.contract import Monitor
from twostream.monitor.curves import FIGURES, Curves, Point

MAX_NAMED_CLASSES = 60  # more do not fit beside a window's map


class VisdomMonitor(Monitor):
    """The figures, the newest grid of inputs and the newest confusion matrix.

    A thread of its own sends them. The training only leaves its news there: a slow server costs nothing, a dead or
    silent one costs one warning, and a restarted one has everything back at the next update, because whole curves are
    sent each time. What waits is bounded: `Curves` of bounded length, one grid, one matrix. `history` are the entries
    of log.jsonl of the run so far.
    """

    TIMEOUT_SECONDS = 10.0
    PAUSE_SECONDS = 1.0  # between two updates; each one in vain doubles it
    MAX_PAUSE_SECONDS = 60.0

    def __init__(
        self, *, server: str, port: int, env: str, history: list[dict] = (),
        username: str | None = None, password: str | None = None,
    ):  # fmt: skip
        self.server, self.port, self.env = server, port, env.replace("/", "_")
        self.username, self.password = username, password
        self.curves = Curves(history)
        self.pictures: dict[str, tuple] = {}
        """name of the window -> what `grid` or `confusion` was told last"""
        self.news = threading.Condition()
        self.waiting = {"curves"} if history else set()
        """what the server does not have yet: curves, grid, confusion"""
        self.closing = threading.Event()
        self.sent, self.warned = 0, False
        self.thread = threading.Thread(target=self._send_for_ever, name="visdom", daemon=True)
        self.thread.start()

    def train(self, numbers: dict) -> None:
        with self.news:
            self.curves.add("train", numbers)
            self._leave("curves")

    def validation(self, numbers: dict) -> None:
        with self.news:
            self.curves.add("validation", numbers)
            self._leave("curves")

    def grid(self, iteration: int, picture: np.ndarray) -> None:
        with self.news:
            self.pictures["grid"] = (iteration, picture)
            self._leave("grid")

    def confusion(self, iteration: int, matrix: np.ndarray, classes: tuple[str, ...]) -> None:
        with self.news:
            self.pictures["confusion"] = (iteration, matrix, classes)
            self._leave("confusion")

    def close(self) -> None:
        """Give the thread a moment to send what is left; a silent server is not waited for."""
        with self.news:
            self.closing.set()
            self.news.notify()
        self.thread.join(timeout=self.TIMEOUT_SECONDS)
        if self.thread.is_alive():
            self._warn(TimeoutError("it does not answer"))

    def _leave(self, what: str) -> None:
        self.waiting.add(what)
        self.news.notify()

    def _send_for_ever(self) -> None:
        client, pause = None, self.PAUSE_SECONDS
        while True:
            with self.news:
                self.news.wait_for(lambda: self.waiting or self.closing.is_set())
                if not self.waiting:
                    return
                # A server that could not be reached may be another one now, which has nothing.
                sends_all = client is None
                curves = self.curves.points() if sends_all or "curves" in self.waiting else {}
                pictures = {n: told for n, told in self.pictures.items() if sends_all or n in self.waiting}
                self.waiting.clear()
            try:
                client = client or self._connect()
                self._send(client, curves, pictures)
                pause = self.PAUSE_SECONDS
            except Exception as error:  # whatever a plotting library raises, training goes on
                client, pause = None, min(2 * pause, self.MAX_PAUSE_SECONDS)
                self._warn(error)
            self.closing.wait(pause)  # and not for news, which would wake it at each number

    def _connect(self):
        import visdom

        class Client(visdom.Visdom):
            """Visdom's own waits for ever for a server that accepts and is silent."""

            def _handle_post(client, url, data=None):
                answer = client.session.post(url, data=data or {}, timeout=self.TIMEOUT_SECONDS)
                if answer.status_code in (400, 401, 403):  # which Visdom itself takes for an empty answer
                    raise PermissionError(
                        f"it refuses with {answer.status_code}; if it has a login (-enable_login), set VISDOM_USERNAME "
                        "and VISDOM_PASSWORD"
                    )
                answer.raise_for_status()
                return answer.text

        logging.getLogger("visdom").setLevel(logging.ERROR)  # it greets each connection with two warnings
        return Client(
            server=self.server, port=self.port, env=self.env, raise_exceptions=True, use_incoming_socket=False,
            username=self.username, password=self.password,
        )  # fmt: skip

    def _send(self, client, curves: dict[str, list[Point]], pictures: dict[str, tuple]) -> None:
        for window, figure in FIGURES.items():
            shown = [name for name in figure.curves if name in curves]
            if shown:
                # One call for all curves of a window: points, and to which curve (from 1 on) each belongs. A second
                # `line` with update="replace" takes the first curve out again.
                client.scatter(
                    X=np.array([point for name in shown for point in curves[name]], np.float64),
                    Y=np.repeat(np.arange(len(shown)) + 1, [len(curves[name]) for name in shown]),
                    win=window,
                    opts={"title": figure.title, "xlabel": "Iteration", "legend": shown, "showlegend": True,
                          "mode": "lines", "layoutopts": {"plotly": {"yaxis": {"rangemode": "tozero"}}}},
                )  # fmt: skip
        draw = {"grid": self._draw_grid, "confusion": self._draw_confusion}
        for window, told in pictures.items():
            draw[window](client, *told)
        client.save([self.env])
        self.sent += 1

    @staticmethod
    def _draw_grid(client, iteration: int, picture: np.ndarray) -> None:
        title = f"What the network sees, iteration {iteration}"
        client.image(picture.transpose(2, 0, 1), win="grid", opts={"title": title, "jpgquality": 85})

    @staticmethod
    def _draw_confusion(client, iteration: int, matrix: np.ndarray, classes: tuple[str, ...]) -> None:
        names = [html.escape(name) for name in classes]  # Visdom's page takes text for HTML
        if len(names) <= MAX_NAMED_CLASSES:
            axis, side = {"automargin": True, "dtick": 1}, 280 + 18 * len(names)
            opts = {
                "title": f"% of each true class (row), iteration {iteration}", "rownames": names, "columnnames": names,
                "xmin": 0, "xmax": 100, "width": side + 80, "height": side,
                "layoutopts": {"plotly": {"xaxis": axis, "yaxis": axis | {"autorange": "reversed"}}},
            }  # fmt: skip
            client.heatmap(100 * row_shares(matrix), win="confusion", opts=opts)
        else:
            pairs = [f"{names[t]} taken for {names[p]}: {times}" for t, p, times in confusion.most_confused(matrix)]
            text = "<br>".join([f"Most confused, iteration {iteration}, clips", *pairs])
            client.text(text, win="confusion", opts={"title": "Confusion"})

    def _warn(self, error: Exception) -> None:
        if not self.warned:
            self.warned = True
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            tqdm.write(
                f"warning: no Visdom at {self.server}:{self.port} ({reason[:150]}); training goes on, the numbers are "
                f"in log.jsonl. Start one: python -m visdom.server -port {self.port} -bind_local",
                file=sys.stderr,
            )
