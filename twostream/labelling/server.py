"""The server of the page: on this machine only, with an address that nobody can guess, for one folder of videos.

    GET  /<token>/                                   the page
    GET  /<token>/state                              classes, and the labels of all videos
    GET  /<token>/facts?video=3                      how long video 3 is, and how it is shown
    GET  /<token>/pictures?video=3&chunk=0&kind=rgb  frames of video 3, or with kind=flow their flow, as addresses of data
    POST /<token>/labels                             {"video": 3, "version": "...", "entries": [["run", 1.5, 3], ["run", null, null]], "group": ""}
    POST /<token>/classes                            {"name": "run"}

Videos are named by their position in the list, and their files are only decoded, so that no request can name a path. A
request that is refused is answered by one line of text.
"""

import hmac
import json
import os
import re
import secrets
import sys
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from twostream.errors import BadInputError, UserError, one_line
from twostream.files import DECODER
from twostream.labelling.page import to_html
from twostream.labelling.pictures import Facts, Pictures, read_facts
from twostream.labelling.table import Entry, Labels, LabelTable, StaleError
from twostream.pages.page import data_url
from twostream.terminal import printable
from twostream.video.ffmpeg import VideoError

HOST = "127.0.0.1"
MAX_BODY = 1 << 20
"""bytes; ten thousand segments have fewer"""
TIMEOUT_SECONDS = 60
"""without a byte, until a connection is closed"""
POLICY = (
    "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'nonce-{nonce}'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


class RefusedError(Exception):
    """A request that is not answered, with the status and the line that are sent instead."""

    def __init__(self, status: HTTPStatus, line: str):
        super().__init__(line)
        self.status = status


class LabelServer(ThreadingHTTPServer):
    """Serves the page for the videos of a folder; `url` is its address. Close it to end the decoders."""

    daemon_threads = True
    block_on_close = False

    def __init__(self, folder: Path, videos: dict[str, Path], table: LabelTable, pictures: Pictures, *, port: int = 0):
        """`videos`: video id -> its file below the folder. Port 0 is any that is free. Raises OSError if it is not."""
        self.table, self.pictures = table, pictures
        super().__init__((HOST, port), _Handler)
        self.folder = folder.resolve()
        self.ids, self.paths = list(videos), list(videos.values())
        self.names = [path.relative_to(folder) for path in self.paths]
        self.token, self.nonce = secrets.token_urlsafe(24), secrets.token_urlsafe(16)
        self.hosts = {f"{name}:{self.server_port}" for name in (HOST, "localhost")}
        self.page = to_html(str(folder), table.path.name, nonce=self.nonce).encode("utf-8", "replace")
        self._facts: dict[tuple[Path, int, int], Facts] = {}

    @property
    def url(self) -> str:
        """The address of the page, which is its password: with it, the labels can be read and changed."""
        return f"http://{HOST}:{self.server_port}/{self.token}/"

    def server_close(self) -> None:
        """Close the port and end the decoders."""
        super().server_close()
        self.pictures.close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A browser that leaves the page closes its connections; all else is an error of this program."""
        if not isinstance(sys.exception(), ConnectionError | TimeoutError):
            super().handle_error(request, client_address)

    # ------------------------------------------------------------------------------------------------- answers

    def state(self) -> dict[str, Any]:
        """Classes, and all videos with their labels."""
        self.table.refresh()
        videos = [
            {"name": printable(name)} | to_json(self.table.of(video_id))
            for name, video_id in zip(self.names, self.ids, strict=True)
        ]
        return {"classes": self.table.classes, "can_add": self.table.can_add, "videos": videos}

    def facts(self, video: int) -> Facts:
        """How a video is shown. Raises VideoError if it cannot be."""
        path = self._path(video)
        status = path.stat()
        key = path, status.st_mtime_ns, status.st_size
        if key not in self._facts:
            self._facts[key] = read_facts(path)
        return self._facts[key]

    def chunk(self, video: int, chunk: int, kind: str) -> list[str]:
        """The pictures of a chunk as addresses of data. Raises VideoError if they cannot be decoded."""
        facts, path = self.facts(video), self._path(video)
        if chunk * facts.chunk_len >= facts.seconds * facts.rate + 1:
            raise RefusedError(HTTPStatus.NOT_FOUND, f"chunk {chunk} of a video of {facts.seconds:.1f} s")
        make = {"rgb": self.pictures.rgb, "flow": self.pictures.flow_colours}[kind]
        return [data_url(picture, "image/jpeg") for picture in make(path, facts, chunk)]

    def _path(self, video: int) -> Path:
        """The file of a video; VideoError if it is outside of the folder by now."""
        path = Path(os.path.realpath(self.paths[video]))
        if not path.is_relative_to(self.folder):
            raise VideoError("a link to a file outside of the folder, which is not opened; copy the file", "missing")
        if not path.is_file():
            raise VideoError("no such file (a broken link?)", "missing")
        return path

    def replace(self, content: dict[str, Any]) -> dict[str, Any]:
        """Replace the labels of a video, as POST /labels names them."""
        try:
            video, version, group = content["video"], content["version"], content["group"]
            entries = [Entry(label, _segment(start, end)) for label, start, end in content["entries"]]
            texts = [version, group, *(entry.label for entry in entries)]
            if type(video) is not int or not 0 <= video < len(self.ids) or not all(isinstance(t, str) for t in texts):
                raise TypeError
        except (LookupError, TypeError, ValueError, OverflowError):
            raise RefusedError(
                HTTPStatus.BAD_REQUEST,
                'expected {"video": number, "version", "entries": [[class, start, end]], "group"}',
            ) from None
        return to_json(self.table.replace(self.ids[video], entries, group, version=version))

    def add_class(self, content: dict[str, Any]) -> dict[str, Any]:
        """Add a class, as POST /classes names it."""
        if not isinstance(content.get("name"), str):
            raise RefusedError(HTTPStatus.BAD_REQUEST, 'expected {"name": text}')
        self.table.add_class(content["name"])
        return {"classes": self.table.classes}


def to_json(labels: Labels) -> dict[str, Any]:
    """Labels as the page reads them; a whole video has start and end null."""
    entries = [[label, *(segment or (None, None))] for label, segment in labels.entries]
    return {"entries": entries, "group": labels.group, "version": labels.version}


def _segment(start: Any, end: Any) -> tuple[float, float] | None:
    if start is None and end is None:
        return None
    if isinstance(start, bool) or isinstance(end, bool):
        raise TypeError
    return start + 0.0, end + 0.0


class _Handler(BaseHTTPRequestHandler):
    server: LabelServer
    protocol_version = "HTTP/1.1"
    server_version, sys_version = "twostream", ""
    timeout = TIMEOUT_SECONDS

    def do_GET(self) -> None:
        self._answer(self._get)

    def do_POST(self) -> None:
        self._answer(self._post)

    def _answer(self, find: Any) -> None:
        try:
            content = find(self._checked_path())
        except RefusedError as error:
            self.send_error(error.status, str(error))
        except StaleError as error:
            self.send_error(HTTPStatus.CONFLICT, str(error))
        except VideoError as error:
            self.send_error(HTTPStatus.UNPROCESSABLE_ENTITY, f"cannot be shown: {error}")
        except BadInputError as error:
            self.send_error(HTTPStatus.UNPROCESSABLE_ENTITY, str(error))
        except (UserError, OSError) as error:
            if isinstance(error, ConnectionError | TimeoutError):
                raise
            self.send_error(HTTPStatus.INTERNAL_SERVER_ERROR, str(error))
        else:
            is_page = isinstance(content, bytes)
            body = content if is_page else json.dumps(content).encode()
            self._send(HTTPStatus.OK, "text/html; charset=utf-8" if is_page else "application/json", body)

    def _checked_path(self) -> str:
        """What follows the token in the address; RefusedError unless the request is from the page or for it."""
        host, origin = self.headers.get("Host", ""), self.headers.get("Origin")
        if host not in self.server.hosts:
            raise RefusedError(HTTPStatus.FORBIDDEN, f"host {host!a}, expected {HOST}:{self.server.server_port}")
        if origin not in ({f"http://{host}"} if self.command == "POST" else {None, f"http://{host}"}):
            raise RefusedError(HTTPStatus.FORBIDDEN, f"origin {origin!a}, expected the page itself")
        _, token, *rest = [*urlsplit(self.path).path.split("/", 2), ""][:3]
        if not hmac.compare_digest(token.encode("utf-8", "replace"), self.server.token.encode()):
            raise RefusedError(HTTPStatus.FORBIDDEN, "wrong address: use the one that twostream label has printed last")
        return rest[0]

    def _get(self, path: str) -> Any:
        server, query = self.server, dict(parse_qsl(urlsplit(self.path).query))
        if path == "" and urlsplit(self.path).path.endswith("/"):
            return server.page
        if path == "state":
            return server.state()
        if path == "facts":
            return vars(server.facts(self._number(query, "video", len(server.ids))))
        if path == "pictures" and query.get("kind") in ("rgb", "flow"):
            video, chunk = self._number(query, "video", len(server.ids)), self._number(query, "chunk", 10**7)
            return server.chunk(video, chunk, query["kind"])
        raise RefusedError(HTTPStatus.NOT_FOUND, "no such page")

    def _number(self, query: dict[str, str], name: str, end: int) -> int:
        text = query.get(name, "")
        if not re.fullmatch(r"[0-9]{1,9}", text) or int(text) >= end:
            raise RefusedError(HTTPStatus.NOT_FOUND, f"{name} {text[:20]!a}, expected a number below {end}")
        return int(text)

    def _post(self, path: str) -> Any:
        actions = {"labels": self.server.replace, "classes": self.server.add_class}
        if path not in actions:
            raise RefusedError(HTTPStatus.NOT_FOUND, "no such page")
        return actions[path](self._body())

    def _body(self) -> dict[str, Any]:
        length = self.headers.get("Content-Length", "")
        if not re.fullmatch(r"[0-9]{1,15}", length):
            raise RefusedError(HTTPStatus.LENGTH_REQUIRED, "no Content-Length")
        if int(length) > MAX_BODY:
            raise RefusedError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"{length} bytes, expected at most {MAX_BODY}")
        if self.headers.get_content_type() != "application/json":
            raise RefusedError(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "expected application/json")
        try:
            content = DECODER.decode(self.rfile.read(int(length)).decode())
        except (ValueError, RecursionError) as error:
            raise RefusedError(HTTPStatus.BAD_REQUEST, f"expected JSON: {one_line(error)}") from None
        if not isinstance(content, dict):
            raise RefusedError(HTTPStatus.BAD_REQUEST, f"found a {type(content).__name__}, expected a JSON object")
        return content

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """One line of text; the connection ends, because the body of a refused request was not read."""
        self.close_connection = True
        line = printable(message or HTTPStatus(code).phrase)
        self._send(code, "text/plain; charset=utf-8", f"{line}\n".encode())

    def _send(self, status: int, content_type: str, body: bytes) -> None:
        self.send_response(status)
        for name, value in {
            "Content-Type": content_type,
            "Content-Length": str(len(body)),
            "Content-Security-Policy": POLICY.format(nonce=self.server.nonce),
            "Cache-Control": "no-store",
            "Cross-Origin-Resource-Policy": "same-origin",
            "Referrer-Policy": "no-referrer",
            "X-Content-Type-Options": "nosniff",
        }.items():
            self.send_header(name, value)
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *values: Any) -> None:
        """Requests are no news."""
