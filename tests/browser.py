"""Fixtures that open a page in headless Chromium; tests that use them are skipped if none is installed."""

import fcntl
import json
import os
import select
import shutil
import subprocess
import time
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pytest

FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--hide-scrollbars", "--allow-file-access-from-files",
)  # fmt: skip


def chromium() -> str:
    """The program; the test is skipped if there is none."""
    program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if program is None:
        pytest.skip("no Chromium or Chrome is installed")
    return program


NO_BACKGROUND = (
    "--disable-background-timer-throttling",
    "--disable-renderer-backgrounding",
    "--disable-backgrounding-occluded-windows",
)
"""flags: all tabs run as if each were the one in front"""


@pytest.fixture
def browse(tmp_path):
    """browse(url, *flags, milliseconds=0) -> what headless Chromium prints when the page is loaded, or that much later by its
    own clock.
    """
    program = chromium()

    def run(url: str, *flags: str, milliseconds: int = 0) -> str:
        budget = [f"--virtual-time-budget={milliseconds}"] if milliseconds else []
        command = [program, *FLAGS, f"--user-data-dir={tmp_path / 'profile'}", *budget, *flags, url]
        return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout

    return run


@pytest.fixture
def photograph(browse, tmp_path):
    """photograph(url, width, height, *flags) -> RGB uint8 (H, W, 3)."""

    def shoot(url: str, width: int, height: int, *flags: str, milliseconds: int = 2000) -> np.ndarray:
        path = tmp_path / "page.png"
        path.unlink(missing_ok=True)
        browse(url, f"--window-size={width},{height}", f"--screenshot={path}", *flags, milliseconds=milliseconds)
        return cv2.imread(str(path))[..., ::-1]

    return shoot


class Tab:
    """A page in a running browser, which takes real key presses and mouse clicks."""

    def __init__(self, browser: "Browser", url: str):
        self.browser = browser
        target = browser.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = browser.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        self.call("Page.enable")
        self.call("Page.addScriptToEvaluateOnNewDocument", source=RECORD_ERRORS)
        self.open(url)

    def call(self, method: str, **parameters: object) -> dict:
        return self.browser.call(method, session=self.session, **parameters)

    def open(self, url: str) -> None:
        """Load another page, or the same again."""
        self.call("Page.navigate", url=url)
        self.browser.expect("Page.loadEventFired", session=self.session)

    def evaluate(self, expression: str) -> object:
        """The value of an expression in the page, as JSON; of a promise, when it is kept."""
        answer = self.call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def wait(self, condition: str, *, seconds: float = 30) -> None:
        """Return when the condition holds in the page; TimeoutError with the text of the page if it never does."""
        end = time.monotonic() + seconds
        while not self.evaluate(f"new Promise(done => setTimeout(() => done(Boolean({condition})), 10))"):
            if time.monotonic() > end:
                raise TimeoutError(f"{condition}\n{self.evaluate('document.body.innerText')}")

    def press(self, *keys: str) -> None:
        """Press keys, one after the other: characters, or names such as ArrowDown; Shift+ArrowLeft."""
        for name in keys:
            shift, _, key = name.rpartition("Shift+") if "Shift+" in name else ("", "", name)
            code = f"Digit{key}" if key.isdigit() else {" ": "Space"}.get(key, key)
            event = {"key": key, "code": code, "modifiers": 8 if "Shift+" in name else 0}
            text = {"Enter": "\r"}.get(key, key if len(key) == 1 else "")
            event |= {"windowsVirtualKeyCode": {"Enter": 13, "Tab": 9, " ": 32}.get(key, 0)}
            self.call("Input.dispatchKeyEvent", type="keyDown", text=text, **event)
            self.call("Input.dispatchKeyEvent", type="keyUp", **event)

    def click(self, element: str) -> None:
        """Click into the middle of an element, given as an expression."""
        x, y = self.evaluate(
            f"(() => {{ const e = {element}; e.scrollIntoView({{block: 'center'}}); const r = e.getBoundingClientRect(); "
            "return [r.x + r.width / 2, r.y + r.height / 2]; })()"
        )
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def errors(self) -> list[str]:
        """What went wrong in the page since it was loaded: errors of the script, and addresses that it tried to load."""
        return self.evaluate("pageErrors")


RECORD_ERRORS = """window.pageErrors = [];
addEventListener("error", event => pageErrors.push(event.message));
addEventListener("unhandledrejection", event => pageErrors.push(String(event.reason)));
addEventListener("securitypolicyviolation", event => pageErrors.push("tried to load " + event.blockedURI));"""


class Browser:
    """A running Chromium, spoken to through pipes by its DevTools protocol: messages of JSON, each ended by a zero byte."""

    def __init__(self, program: str, profile: Path):
        (commands, self._commands), (self._answers, answers) = os.pipe(), os.pipe()

        def use_3_and_4() -> None:  # the descriptors that Chromium reads and writes
            copies = fcntl.fcntl(commands, fcntl.F_DUPFD, 10), fcntl.fcntl(answers, fcntl.F_DUPFD, 10)
            os.dup2(copies[0], 3)
            os.dup2(copies[1], 4)

        self._process = subprocess.Popen(
            [program, *FLAGS, *NO_BACKGROUND, "--remote-debugging-pipe", f"--user-data-dir={profile}", "--window-size=1280,900"],
            preexec_fn=use_3_and_4, close_fds=False, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        os.close(commands)
        os.close(answers)
        self._received = b""
        self._events: list[dict] = []
        self._count = 0

    def call(self, method: str, *, session: str = "", **parameters: object) -> dict:
        """The result of a command."""
        self._count += 1
        message = {"id": self._count, "method": method, "params": parameters} | (
            {"sessionId": session} if session else {}
        )
        os.write(self._commands, json.dumps(message).encode() + b"\0")
        self._events.clear()
        while (answer := self._receive()).get("id") != self._count:
            self._events.append(answer)
        assert "error" not in answer, answer
        return answer["result"]

    def expect(self, event: str, *, session: str) -> None:
        """Return when an event has happened since the last command was sent."""
        while not any((e.get("method"), e.get("sessionId")) == (event, session) for e in self._events):
            self._events.append(self._receive())

    def _receive(self) -> dict:
        while b"\0" not in self._received:
            ready, _, _ = select.select([self._answers], [], [], 60)
            data = os.read(self._answers, 1 << 16) if ready else b""
            assert data, "the browser does not answer"
            self._received += data
        text, _, self._received = self._received.partition(b"\0")
        return json.loads(text)

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._commands)
        os.close(self._answers)


@pytest.fixture(scope="module")
def open_tab(tmp_path_factory):
    """open_tab(url) -> a Tab of a browser that all tests of a module share."""
    browser = Browser(chromium(), tmp_path_factory.mktemp("browser"))
    yield partial(Tab, browser)
    browser.close()
