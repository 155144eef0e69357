"""Who may ask the server what: nobody without the token, no other page, no other host, nothing but the images."""

import asyncio
import contextlib
import io
import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event
from typing import Any

import httpx
import pytest
from annotation_run import add_round, make_run, votes_of
from command_line import command, environment, metaselect, run_process
from filelock import FileLock
from PIL import Image

from metaselect.annotation.formats.base import ClassNote
from metaselect.annotation.rounds import find_round
from metaselect.cli.main import main
from metaselect.run.layout import Run
from metaselect.web import INSTALL
from metaselect.web.labeling_session import LabelingSession
from metaselect.web.request_filter import MAX_HEADER_BYTES
from metaselect.web.server import MAX_REQUEST_BYTES, Server, bind, make_server

TOKEN, PORT = "the-token", 8765
HERE = f"http://127.0.0.1:{PORT}"
ASK = {"session": "s", "annotator": "anna"}
ANSWER = {**ASK, "key": 0, "status": "done", "label": 1}


@pytest.fixture
def run(tmp_path: Path) -> Run:
    made = make_run(tmp_path / "run")
    add_round(made, 1, ["s3", "s1"])
    return made


@pytest.fixture
def server(run: Run, tmp_path: Path) -> Iterator[Server]:
    picture = tmp_path / "p.png"
    picture.write_bytes(b"\x89PNG of s1")
    (tmp_path / "secret.png").write_bytes(b"secret")
    session = LabelingSession(run, find_round(run, None), ("cat", "dog", "owl"))
    yield Server(session, {"s1": picture}, annotator="", suggest=lambda: {"s3": "owl"})
    session.close()


def ask(server: Server, method: str, path: str, **more: Any) -> httpx.Response:
    """One request, as our own page makes it unless told otherwise; a header of None is left out."""
    headers = {"Host": f"127.0.0.1:{PORT}", "Sec-Fetch-Site": "same-origin", **more.pop("headers", {})}
    if method == "POST":
        headers = {"Origin": HERE, "Content-Type": "application/json", **headers}
        more.setdefault("content", json.dumps(ASK))

    async def send() -> httpx.Response:
        transport = httpx.ASGITransport(server.app(TOKEN, PORT))
        async with httpx.AsyncClient(transport=transport, base_url=HERE) as client:
            kept = {name: value for name, value in headers.items() if value is not None}
            return await client.request(method, path, headers=kept, **more)

    # Not in this thread, where the browser of other tests has a loop running.
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(lambda: asyncio.run(send())).result()


def test_our_own_page_is_answered(server: Server, run: Run) -> None:
    page = ask(server, "GET", f"/{TOKEN}/", headers={"Sec-Fetch-Site": "none"})
    assert (page.status_code, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert TOKEN not in page.text
    state = ask(server, "POST", f"/{TOKEN}/next").json()
    assert state["item"] == {"key": 0, "id": "s3"}
    state = ask(server, "POST", f"/{TOKEN}/answer", content=json.dumps(ANSWER)).json()
    assert state["item"] == {"key": 1, "id": "s1", "image": "image/1"}
    image = ask(server, "GET", f"/{TOKEN}/image/1")
    assert (image.content, image.headers["content-type"]) == (b"\x89PNG of s1", "image/png")
    assert ask(server, "POST", f"/{TOKEN}/suggest", content=json.dumps(ANSWER)).json() == {"label": "owl"}
    assert ask(server, "POST", f"/{TOKEN}/undo").json()["item"]["id"] == "s3"
    assert ask(server, "POST", f"/{TOKEN}/release").json() == {}
    assert [vote[3] for vote in votes_of(run)] == ["done", "withdrawn"]


def test_earlier_answers_and_notes_come_with_their_pictures(run: Run, tmp_path: Path) -> None:
    picture = tmp_path / "p.png"
    Image.new("RGB", (1200, 600), "red").save(picture)
    session = LabelingSession(run, find_round(run, None), ("cat", "dog", "owl"))
    notes = (ClassNote(0, "purrs"), ClassNote(1, "barks", ("image/jpeg", b"a dog")))
    server = Server(session, {"s1": picture, "s3": picture}, annotator="", suggest=None, notes=notes)
    assert ask(server, "POST", f"/{TOKEN}/next").json()["ahead"] == ["image/1"]
    ask(server, "POST", f"/{TOKEN}/answer", content=json.dumps(ANSWER))
    (answered,) = ask(server, "POST", f"/{TOKEN}/answered").json()["answers"]
    assert answered == {"key": 0, "id": "s3", "status": "done", "label": "dog", "thumbnail": "thumbnail/0"}
    small = ask(server, "GET", f"/{TOKEN}/thumbnail/0")
    assert Image.open(io.BytesIO(small.content)).size == (96, 48)
    again = ask(server, "POST", f"/{TOKEN}/revisit", content=json.dumps({**ASK, "key": 0})).json()
    assert (again["item"]["image"], again["earlier"]["label"]) == ("image/0", "dog")
    note = ask(server, "GET", f"/{TOKEN}/class-image/1")
    assert (note.content, note.headers["content-type"]) == (b"a dog", "image/jpeg")
    for path in (
        "class-image/0",
        "class-image/2",
        "class-image/-1",
        "class-image/..",
        "thumbnail/2",
        "thumbnail/p.png",
    ):
        assert ask(server, "GET", f"/{TOKEN}/{path}").status_code == 404
    changed = {**ANSWER, "label": 2, "replaces": again["earlier"]}
    ask(server, "POST", f"/{TOKEN}/answer", content=json.dumps(changed))
    assert [vote[1] for vote in votes_of(run)] == ["dog", "owl"]
    session.close()


def test_a_thumbnail_of_what_is_no_image_is_none(server: Server) -> None:
    assert ask(server, "GET", f"/{TOKEN}/thumbnail/1").status_code == 404


@pytest.mark.parametrize(
    "token", ["the-toke", "the-tokenx", "THE-TOKEN", "", "%74he-toke", "the-token%00", "\u00e9"]
)
@pytest.mark.parametrize("verb", ["", "next", "answered", "image/1", "thumbnail/1", "class-image/0"])
def test_without_the_token_there_is_nothing(server: Server, token: str, verb: str) -> None:
    path = f"/{token}/{verb}" if token else f"/{verb}"
    refused = ask(server, "POST" if verb in ("next", "answered") else "GET", path)
    assert refused.status_code == 404
    assert b"PNG" not in refused.content


@pytest.mark.parametrize("path", [f"/{TOKEN}", f"/x/{TOKEN}/", "/favicon.ico"])
def test_the_token_stands_at_one_place(server: Server, path: str) -> None:
    assert ask(server, "GET", path).status_code == 404


@pytest.mark.parametrize(
    "host",
    ["example.org", f"example.org:{PORT}", "127.0.0.1", "127.0.0.1:8766", f"127.0.0.1.example.org:{PORT}",
     f"0.0.0.0:{PORT}", ""],
)  # fmt: skip
@pytest.mark.parametrize(("method", "path"), [("GET", ""), ("GET", "image/1"), ("POST", "next")])
def test_another_host_is_refused(server: Server, host: str, method: str, path: str) -> None:
    """As when a foreign name is made to point to this machine."""
    assert ask(server, method, f"/{TOKEN}/{path}", headers={"Host": host}).status_code == 403


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://example.org"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:8766"},
        {"Origin": f"https://127.0.0.1:{PORT}"},
        {"Origin": f"{HERE}.example.org"},
        {"Origin": None},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"},
    ],
)
def test_another_pages_request_is_refused(server: Server, run: Run, headers: dict[str, str | None]) -> None:
    refused = ask(server, "POST", f"/{TOKEN}/answer", content=json.dumps(ANSWER), headers=headers)
    assert refused.status_code == 403
    assert not run.path("annotate").exists()


def test_another_page_can_show_no_image_but_a_link_can_be_followed(server: Server) -> None:
    foreign = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"}
    assert ask(server, "GET", f"/{TOKEN}/image/1", headers=foreign).status_code == 403
    followed = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}
    assert ask(server, "GET", f"/{TOKEN}/", headers=followed).status_code == 200
    assert ask(server, "GET", f"/{TOKEN}/", headers={"Origin": "http://example.org"}).status_code == 403


@pytest.mark.parametrize(
    "key",
    ["../secret.png", "..%2fsecret.png", "%2e%2e/secret.png", "%2e%2e%2fsecret.png", "p.png", "secret.png", "2", "-1",
     "0", "1/", "1.png", "01x", "%00", "1%00", "%31%2f..%2fsecret.png", "s1", "9" * 30, "²", "١", "", "1;",
     "/etc/passwd", "%2fetc%2fpasswd", "..\\secret.png", "file:///etc/passwd"],
)  # fmt: skip
def test_images_are_found_by_their_number_alone(server: Server, key: str) -> None:
    refused = ask(server, "GET", f"/{TOKEN}/image/{key}")
    assert refused.status_code == 404
    assert b"secret" not in refused.content


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "CONNECT", "PROPFIND"])
@pytest.mark.parametrize("path", ["", "next", "answer", "image/1"])
def test_other_methods_are_refused(server: Server, method: str, path: str) -> None:
    for origin in (HERE, None):
        refused = ask(
            server, method, f"/{TOKEN}/{path}", headers={"Origin": origin}, content=json.dumps(ANSWER)
        )
        assert refused.status_code == (405 if origin else 403)


def test_votes_are_not_given_by_reading(server: Server) -> None:
    for verb in ("next", "answer", "undo", "release", "suggest"):
        assert ask(server, "GET", f"/{TOKEN}/{verb}").status_code == 405
    assert ask(server, "POST", f"/{TOKEN}/").status_code == 405


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (
            json.dumps(ANSWER),
            "text/plain",
        ),  # what a form of another page could send without being asked first
        (json.dumps(ANSWER), "application/x-www-form-urlencoded"),
        (json.dumps(ANSWER), ""),
        ("", "application/json"),
        ("{", "application/json"),
        ("[" * 9000, "application/json"),
        ("[]", "application/json"),
        ("{}", "application/json"),
        (b"\xff", "application/json"),
        (json.dumps({**ANSWER, "session": 1}), "application/json"),
        (json.dumps({**ANSWER, "session": "x" * 65}), "application/json"),
        (json.dumps({**ANSWER, "annotator": None}), "application/json"),
        (json.dumps({**ANSWER, "key": 2}), "application/json"),
        (json.dumps({**ANSWER, "key": "../s"}), "application/json"),
        (json.dumps({**ANSWER, "status": {}}), "application/json"),
        (json.dumps({**ANSWER, "replaces": "dog"}), "application/json"),
        (json.dumps({**ANSWER, "replaces": {"status": "done"}}), "application/json"),
        (json.dumps({**ANSWER, "note": "x" * MAX_REQUEST_BYTES}), "application/json"),
    ],
)
def test_what_is_no_answer_is_refused(server: Server, run: Run, content: str | bytes, kind: str) -> None:
    refused = ask(server, "POST", f"/{TOKEN}/answer", content=content, headers={"Content-Type": kind})
    assert refused.status_code == 400
    assert refused.json()["error"]
    assert not run.path("annotate").exists()


@pytest.mark.parametrize(
    "path", ["/", f"/{TOKEN}/", f"/{TOKEN}/image/1", f"/{TOKEN}/image/7", f"/{TOKEN}/nothing"]
)
def test_every_response_forbids_what_it_can(server: Server, path: str) -> None:
    headers = ask(server, "GET", path).headers
    policy = dict(part.split(" ", 1) for part in headers["content-security-policy"].split("; "))
    assert policy["default-src"] == "'none'"
    assert policy["img-src"] == policy["connect-src"] == "'self'"
    assert policy["frame-ancestors"] == policy["base-uri"] == policy["form-action"] == "'none'"
    for name in ("script-src", "style-src"):
        assert policy[name].startswith("'sha256-")
        assert "unsafe" not in policy[name]
    assert headers["cache-control"] == "no-store"
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"
    assert headers["cross-origin-resource-policy"] == "same-origin"
    assert "server" not in headers
    assert not any("access-control" in name for name in headers)


def test_a_busy_run_is_a_reason_to_ask_again(
    server: Server, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("metaselect.web.server.BUSY_TRIES", 2)
    with FileLock(run.root / ".lock"):
        busy = ask(server, "POST", f"/{TOKEN}/answer", content=json.dumps(ANSWER))
    assert busy.status_code == 503
    assert "Another metaselect command" in busy.json()["error"]
    assert ask(server, "POST", f"/{TOKEN}/answer", content=json.dumps(ANSWER)).status_code == 200


def test_a_slow_disk_holds_up_no_other_request(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """While an answer waits for the disk, the event loop answers other requests."""
    from metaselect.annotation.votes import append_votes

    writing, may_go_on = Event(), Event()

    def slow(*values: Any) -> bytes:
        writing.set()
        assert may_go_on.wait(20)
        return append_votes(*values)

    async def send() -> tuple[httpx.Response, httpx.Response, bool]:
        transport = httpx.ASGITransport(server.app(TOKEN, PORT))
        own = {"Origin": HERE, "Content-Type": "application/json", "Sec-Fetch-Site": "same-origin"}
        async with httpx.AsyncClient(transport=transport, base_url=HERE, headers=own) as client:
            answer = asyncio.create_task(client.post(f"/{TOKEN}/answer", content=json.dumps(ANSWER)))
            while not writing.is_set():
                await asyncio.sleep(0.001)
            page = await client.get(f"/{TOKEN}/")
            was_waiting = not answer.done()
            may_go_on.set()
            return page, await answer, was_waiting

    monkeypatch.setattr("metaselect.web.live_ledger.append_votes", slow)
    with ThreadPoolExecutor(1) as thread:
        page, answered, was_waiting = thread.submit(lambda: asyncio.run(send())).result()
    assert was_waiting
    assert (page.status_code, answered.status_code) == (200, 200)


def test_a_full_disk_is_said(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("metaselect.web.live_ledger.append_votes", full)
    refused = ask(server, "POST", f"/{TOKEN}/answer", content=json.dumps(ANSWER))
    assert refused.status_code == 500
    assert "No space left" in refused.json()["error"]


@pytest.mark.parametrize("where", ["one", "many", "path", "query"])
def test_headers_are_bounded(server: Server, where: str) -> None:
    long = "x" * MAX_HEADER_BYTES
    headers = {"one": {"X-Long": long}, "many": {f"X-{n}": "y" * 40 for n in range(400)}}.get(where, {})
    path = {"path": f"/{TOKEN}/{long}", "query": f"/{TOKEN}/?{long}"}.get(where, f"/{TOKEN}/")
    refused = ask(server, "GET", path, headers=headers)
    assert refused.status_code == 431
    assert (
        ask(server, "GET", f"/{TOKEN}/", headers={"X-Long": long[: MAX_HEADER_BYTES // 2]}).status_code == 200
    )


@pytest.fixture
def port(server: Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """Of a server in a thread of this process, with half a second for each request."""
    monkeypatch.setattr("metaselect.web.timed_protocol.REQUEST_SECONDS", 0.5)
    listener = bind(0)
    number: int = listener.getsockname()[1]
    running = make_server(server.app(TOKEN, number))
    with ThreadPoolExecutor(1) as thread:
        ended = thread.submit(running.run, [listener])
        while not running.started and not ended.done():
            time.sleep(0.01)
        yield number
        running.should_exit = True
        ended.result(timeout=20)


def closed_after(port: int, first: bytes, more: bytes = b"") -> float:
    """Seconds until the server closes a connection on which ``more`` comes again and again behind ``first``."""
    started = time.monotonic()
    with socket.create_connection(("127.0.0.1", port), timeout=0.1) as connection:
        connection.sendall(first)
        while time.monotonic() - started < 10:
            try:
                if more:
                    connection.sendall(more)
                if not connection.recv(65536):
                    break
            except TimeoutError:
                continue
            except ConnectionError:
                break
    return time.monotonic() - started


def head(port: int, *lines: str) -> bytes:
    return "\r\n".join([*lines, f"Host: 127.0.0.1:{port}", ""]).encode()


def test_idle_and_slow_connections_are_closed(port: int) -> None:
    page = head(port, f"GET /{TOKEN}/ HTTP/1.1")
    own = ("Content-Type: application/json", f"Origin: http://127.0.0.1:{port}", "Content-Length: 9999")
    post = head(port, f"POST /{TOKEN}/next HTTP/1.1", *own)
    slow = {
        "nothing": (b"",),
        "headers": (page, b"X: y\r\n"),
        "body": (post + b"\r\n", b" "),
        "idle after a response": (page + b"\r\n",),
    }
    seconds = {kind: closed_after(port, *parts) for kind, parts in slow.items()}
    assert {kind: 0.4 < each < 5 for kind, each in seconds.items()} == dict.fromkeys(slow, True), seconds
    assert raw_request(port, f"/{TOKEN}/").startswith(b"HTTP/1.1 200")


def test_a_reader_that_does_not_read_is_cut_off(port: int, server: Server) -> None:
    server.page = "x" * (32 << 20)
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        connection.sendall(head(port, f"GET /{TOKEN}/ HTTP/1.1") + b"\r\n")
        time.sleep(1.5)
        got = 0
        with contextlib.suppress(ConnectionError):
            while part := connection.recv(1 << 20):
                got += len(part)
    assert 0 < got < len(server.page)


def test_endless_headers_are_refused(port: int) -> None:
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        sent, reply = 0, b""
        with contextlib.suppress(ConnectionError):
            connection.sendall(head(port, f"GET /{TOKEN}/ HTTP/1.1"))
            while sent < 1 << 22:
                sent += connection.send(b"X-More: y\r\n" * 100)
        with contextlib.suppress(ConnectionError):
            reply = connection.recv(1000)
    assert sent < 1 << 22
    assert reply[:12] in (b"", b"HTTP/1.1 400")


@pytest.fixture
def process(run: Run) -> Iterator[tuple[subprocess.Popen[str], dict[str, Any]]]:
    """`annotate serve` and what it says under --json."""
    started = subprocess.Popen(
        command("annotate", "serve", "--json", run=run.root), stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True, env=environment(),
    )  # fmt: skip
    with started:
        assert started.stdout
        yield started, json.loads(started.stdout.readline())
        started.kill()


def raw_request(port: int, target: str, host: str = "") -> bytes:
    """A request as no client would send it, over a real socket."""
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        lines = (
            f"GET {target} HTTP/1.1",
            f"Host: {host or f'127.0.0.1:{port}'}",
            "Connection: close",
            "",
            "",
        )
        connection.sendall("\r\n".join(lines).encode())
        return b"".join(iter(lambda: connection.recv(65536), b""))


def test_the_real_server_listens_on_the_loopback_address_alone(process: Any, run: Run) -> None:
    started, said = process
    url = httpx.URL(said["url"])
    assert (url.host, said["samples"], said["missing"], said["round"], said["ok"]) == (
        "127.0.0.1",
        2,
        2,
        1,
        True,
    )
    token = url.path.strip("/")
    assert len(token) >= 43  # 256 bits
    port = url.port or 0
    assert raw_request(port, url.path).startswith(b"HTTP/1.1 200")
    for target in (
        "/../../etc/passwd",
        f"/{token}/image/../../../etc/passwd",
        f"/{token}/image/..%2f..%2fetc%2fpasswd",
    ):
        refused = raw_request(port, target)
        assert refused.startswith(b"HTTP/1.1 404")
        assert b"root:" not in refused
    assert raw_request(port, url.path, "example.org").startswith(b"HTTP/1.1 403")
    listening = Path("/proc/net/tcp")
    if listening.is_file():
        bound = [line.split()[1] for line in listening.read_text().splitlines() if line.split()[3] == "0A"]
        assert [address for address in bound if address.endswith(f":{port:04X}")] == [f"0100007F:{port:04X}"]
    # The run is not locked meanwhile, and the round counts as exported.
    assert metaselect("annotate", "status", "--json", run=run.root).json["rounds"][0]["exported"] is True
    (run.root.parent / "a.csv").write_text("sample_id,clean_label\ns1,cat\n")
    metaselect("annotate", "import", run.root.parent / "a.csv", run=run.root)
    started.send_signal(signal.SIGINT)
    out, err = started.communicate(timeout=30)
    assert (started.returncode, out) == (0, "")
    assert "Samples without an answer: 1." in err
    assert token not in err


def test_a_taken_port_and_a_bad_name_are_usage_errors(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        assert main(["annotate", "serve", "--run", str(run.root), "--port", port]) == 2
    assert f"--port {port}" in capsys.readouterr().err
    assert main(["annotate", "serve", "--run", str(run.root), "--annotator", "a\x07"]) == 2
    assert "--annotator" in capsys.readouterr().err
    assert not run.path("annotate").exists()


def test_without_the_extra_it_says_what_to_install(run: Run, tmp_path: Path) -> None:
    hidden = tmp_path / "hidden" / "starlette"
    hidden.mkdir(parents=True)
    (hidden / "__init__.py").write_text("raise ModuleNotFoundError('no', name='starlette')\n")
    path = os.pathsep.join([str(hidden.parent), os.environ.get("PYTHONPATH", "")])
    said = run_process("annotate", "serve", run=run.root, code=2, env={"PYTHONPATH": path})
    assert INSTALL in said.err
    assert INSTALL in (Path(__file__).parent.parent / "docs/annotation.md").read_text()
