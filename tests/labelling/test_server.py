"""The server of the page: what it refuses, in one line each; it serves the videos of its folder and nothing else."""

import http.client
import json
import os
import socket

import pytest

from tests.labelling.conftest import write_videos


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    return write_videos(tmp_path_factory.mktemp("videos"), "a.mkv")


@pytest.fixture
def server(serve, videos, tmp_path):
    (tmp_path / "in").mkdir()
    os.link(videos / "a.mkv", tmp_path / "in" / "a.mkv")
    (tmp_path / "in" / "b.mp4").write_bytes(b"no video")
    (tmp_path / "in" / "c.mkv").symlink_to(videos / "a.mkv")
    (tmp_path / "in" / "d.mkv").symlink_to(tmp_path / "nowhere")
    return serve(tmp_path / "in")


def ask(server, method, path, body=None, **headers):
    """Status and text of an answer; `path` is behind the token unless it begins with a slash."""
    path = path if path.startswith("/") else f"/{server.token}/{path}"
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=30)
    headers = {name.replace("_", "-"): value for name, value in headers.items()}
    if method == "POST":
        headers = {"Origin": f"http://127.0.0.1:{server.server_port}", "Content-Type": "application/json"} | headers
    data = body if isinstance(body, bytes | None) else json.dumps(body).encode()
    connection.request(method, path, data, {name: value for name, value in headers.items() if value is not None})
    answer = connection.getresponse()
    text = answer.read().decode()
    connection.close()
    assert answer.headers["X-Content-Type-Options"] == "nosniff" and answer.headers["Cache-Control"] == "no-store"
    assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
    return answer.status, text


def assert_refused(answer, status, found=""):
    assert answer[0] == status, answer
    assert answer[1].count("\n") == 1 and answer[1].endswith("\n") and found in answer[1], answer
    assert "Traceback" not in answer[1] and "<" not in answer[1]


def test_the_page_and_its_parts_are_served(server):
    status, text = ask(server, "GET", "")
    assert status == 200 and text.startswith("<!DOCTYPE html>") and f'nonce="{server.nonce}"' in text
    status, text = ask(server, "GET", "state", Host=f"localhost:{server.server_port}")
    assert status == 200 and [video["name"] for video in json.loads(text)["videos"]] == [
        "a.mkv",
        "b.mp4",
        "c.mkv",
        "d.mkv",
    ]
    assert json.loads(ask(server, "GET", "facts?video=0")[1])["seconds"] == 2.5
    for kind, count in (("rgb", 20), ("flow", 20)):
        pictures = json.loads(ask(server, "GET", f"pictures?video=0&chunk=0&kind={kind}")[1])
        assert len(pictures) == count and all(picture.startswith("data:image/jpeg;base64,") for picture in pictures)


def test_only_this_machine_can_connect(server):
    assert server.server_address[0] == "127.0.0.1"
    assert len(server.token) >= 32


@pytest.mark.parametrize(
    "path", ["/", "/x/", "/x/state", "/favicon.ico", "//", "/%2e%2e/", "/%e4%00/state", "*", "http://evil/"]
)
def test_a_wrong_token_opens_nothing(server, path):
    path = path if path.startswith("/") else f"/{path}"
    for method in ("GET", "POST"):
        assert_refused(ask(server, method, path, {} if method == "POST" else None), 403, "wrong address")
    assert_refused(ask(server, "GET", f"/{server.token[:-1]}/state"), 403)
    assert_refused(ask(server, "GET", f"/{server.token}x/state"), 403)


@pytest.mark.parametrize(
    "path",
    [
        "labels.csv", "a.mkv", "../labels.csv", "..%2f..%2fetc/passwd", "%2e%2e/%2e%2e/etc/passwd", "/etc/passwd", "state/",
        "facts?video=../../etc/passwd", "facts?video=-1", "facts?video=4", "facts?video=0.0", "facts?video=", "facts",
        "facts?video=" + "9" * 400, "pictures?video=0&chunk=0&kind=../x", "pictures?video=0&chunk=-1&kind=rgb",
        "pictures?video=0&chunk=99&kind=rgb", "pictures?video=0&chunk=99999999&kind=rgb", "pictures?video=0&kind=rgb",
        "pictures?video=%D9%A3&chunk=0&kind=rgb",
    ],
)  # fmt: skip
def test_no_request_names_a_path(server, path):
    status, text = ask(server, "GET", path)
    assert_refused((status, text), 403 if path.startswith("/") else 404)
    assert "root:" not in text


def test_links_out_of_the_folder_are_not_followed(server, tmp_path):
    assert_refused(ask(server, "GET", "facts?video=2"), 422, "outside of the folder")
    assert_refused(ask(server, "GET", "pictures?video=2&chunk=0&kind=rgb"), 422, "outside of the folder")
    assert_refused(ask(server, "GET", "facts?video=3"), 422)
    assert ask(server, "GET", "facts?video=0")[0] == 200
    (tmp_path / "in" / "a.mkv").rename(tmp_path / "moved.mkv")  # while the server runs
    (tmp_path / "in" / "a.mkv").symlink_to(tmp_path / "moved.mkv")
    assert_refused(ask(server, "GET", "facts?video=0"), 422, "outside of the folder")


def test_an_unreadable_video_is_said_in_one_line(server):
    assert_refused(ask(server, "GET", "facts?video=1"), 422, "cannot be shown: ")


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1", "localhost", "127.0.0.1:1", "evil.example:80", ""])
def test_another_host_is_refused(server, host):
    """A page elsewhere whose name leads to this machine, by rebinding."""
    assert_refused(ask(server, "GET", "state", Host=host), 403, "host")
    assert_refused(ask(server, "POST", "classes", {"name": "jump"}, Host=host), 403, "host")
    assert server.table.classes == []


@pytest.mark.parametrize(
    "origin", ["http://evil.example", "null", None, "http://127.0.0.1", "https://127.0.0.1:{port}", ""]
)
def test_other_pages_cannot_change_labels(server, origin):
    origin = origin and origin.format(port=server.server_port)
    assert_refused(ask(server, "POST", "classes", {"name": "jump"}, Origin=origin), 403, "origin")
    assert server.table.classes == []


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 400), (b"{", 400), (b"[]", 400), (b"7", 400), (b"\xff", 400), (b'{"name": 1}', 400), (b'{"a": 1, "a": 2}', 400),
        (b"[" * 100_000, 400), (b"9" * 9999, 400), (b'{"name": "\\ud800"}', 422), (b'{"name": ""}', 422),
    ],
)  # fmt: skip
def test_bad_json_is_refused(server, body, status):
    assert_refused(ask(server, "POST", "classes", body), status)
    assert ask(server, "GET", "state")[0] == 200


@pytest.mark.parametrize(
    "change",
    [
        {"video": -1}, {"video": 4}, {"video": "0"}, {"video": True}, {"video": None}, {"video": 0.0}, {"version": 3}, {"version": None},
        {"group": []}, {"entries": None}, {"entries": [["jump"]]}, {"entries": [["jump", 1, 2, 3]]}, {"entries": [[3, None, None]]},
        {"entries": [["jump", "1", "2"]]}, {"entries": [["jump", None, 2]]}, {"entries": [["jump", True, 2]]}, {"entries": {"a": 1}},
        {"entries": [["jump", 10**400, 1]]}, {"entries": ["abc"]},
    ],
)  # fmt: skip
def test_labels_of_another_form_are_refused(server, change):
    server.table.add_class("jump")
    content = {"video": 0, "version": server.table.of("a").version, "entries": [["jump", None, None]], "group": ""}
    assert_refused(ask(server, "POST", "labels", content | change), 400, "expected")
    assert not server.table.path.exists()
    assert ask(server, "POST", "labels", content)[0] == 200 and server.table.path.exists()


def test_rules_and_stale_versions_have_their_own_status(server):
    server.table.add_class("jump")
    content = {"video": 0, "version": server.table.of("a").version, "entries": [["jump", 2, 1]], "group": ""}
    assert_refused(ask(server, "POST", "labels", content), 422, "2 to 1 s")
    assert_refused(ask(server, "POST", "labels", content | {"entries": [["jump", float("nan"), 1]]}), 422)
    good = content | {"entries": [["jump", 1, 2]]}
    status, text = ask(server, "POST", "labels", good)
    assert status == 200 and json.loads(text)["entries"] == [["jump", 1.0, 2.0]]
    assert_refused(ask(server, "POST", "labels", good), 409, "another window")


def test_huge_and_unsized_bodies_are_refused_unread(server):
    for length, status in (("99999999999", 413), (None, 411), ("-1", 411), ("1e3", 411), ("9" * 99, 411)):
        with socket.create_connection(("127.0.0.1", server.server_port), timeout=30) as connection:
            host = f"127.0.0.1:{server.server_port}"
            size = f"Content-Length: {length}\r\n" if length else ""
            head = f"POST /{server.token}/labels HTTP/1.1\r\nHost: {host}\r\nOrigin: http://{host}\r\n{size}\r\n"
            connection.sendall(head.encode())
            answer = connection.makefile("rb").read().decode()
        assert answer.startswith(f"HTTP/1.1 {status} ") and answer.count("\n\n") == 0


def test_other_types_methods_and_places_are_refused(server):
    assert_refused(ask(server, "POST", "classes", {"name": "jump"}, Content_Type="text/plain"), 415)
    assert_refused(ask(server, "POST", "state", {}), 404)
    assert_refused(ask(server, "GET", "labels"), 404)
    for method in ("PUT", "DELETE", "OPTIONS", "TRACE"):
        assert_refused(ask(server, method, "state"), 501)
    assert server.table.classes == []


@pytest.mark.parametrize(
    "text",
    [
        b"\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"\x16\x03\x01\x02\x00",
        b"GET /" + b"x" * 70_000 + b" HTTP/1.1\r\n\r\n",
    ],
)
def test_what_is_no_request_harms_nothing(server, text, capsys):
    with socket.create_connection(("127.0.0.1", server.server_port), timeout=30) as connection:
        connection.sendall(text)
        connection.shutdown(socket.SHUT_WR)
        connection.makefile("rb").read()
    assert ask(server, "GET", "state")[0] == 200
    assert "Traceback" not in capsys.readouterr().err


def test_a_browser_that_goes_away_is_no_error(server, capsys):
    for _ in range(3):
        with socket.create_connection(("127.0.0.1", server.server_port), timeout=30) as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")  # closed by a reset
            connection.sendall(
                f"GET /{server.token}/ HTTP/1.1\r\nHost: 127.0.0.1:{server.server_port}\r\n\r\n".encode()
            )
    assert ask(server, "GET", "state")[0] == 200
    assert "Traceback" not in capsys.readouterr().err


def test_a_disk_that_cannot_be_written_is_said(server, tmp_path):
    server.table.add_class("jump")
    (tmp_path / "file").touch()
    server.table.path = tmp_path / "file" / "labels.csv"
    content = {"video": 0, "version": server.table.of("a").version, "entries": [["jump", None, None]], "group": ""}
    assert_refused(ask(server, "POST", "labels", content), 500, "cannot write")
    assert server.table.of("a").entries == ()
