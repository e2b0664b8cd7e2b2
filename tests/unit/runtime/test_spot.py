"""What a spot machine's metadata service says, by a server of this machine."""

import contextlib
import datetime as dt
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from raypipe.runtime.spot import drain_node, seconds_left, watch

NOW = dt.datetime(2026, 1, 1, 12, 0, 0, tzinfo=dt.UTC)
NOTICE = '{"action": "terminate", "time": "2026-01-01T12:01:30Z"}'


@dataclass
class Metadata:
    """Version 2 of the service: no answer without a token."""

    address: str = ""
    answers: list[tuple[int, str]] = field(default_factory=lambda: [(404, "")])
    """Of one question after the other; the last one stays."""


@pytest.fixture
def metadata() -> Iterator[Metadata]:
    scripted = Metadata()

    class Handler(BaseHTTPRequestHandler):
        def do_PUT(self) -> None:
            asked = self.headers.get("X-aws-ec2-metadata-token-ttl-seconds") is not None
            is_token = self.path == "/latest/api/token"
            self._say(200 if asked and is_token else 400, "the-token")

        def do_GET(self) -> None:
            if self.headers.get("X-aws-ec2-metadata-token") != "the-token":
                return self._say(401, "")
            if self.path != "/latest/meta-data/spot/instance-action":
                return self._say(400, "")
            left = scripted.answers
            return self._say(*(left.pop(0) if len(left) > 1 else left[0]))

        def _say(self, code: int, text: str) -> None:
            self.send_response(code)
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    scripted.address = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield scripted
    server.shutdown()
    server.server_close()


def test_a_machine_that_stays_has_no_notice(metadata: Metadata) -> None:
    assert seconds_left(metadata.address, NOW) is None


@pytest.mark.parametrize(
    ("answer", "left"),
    [
        (NOTICE, 90),
        ('{"action": "stop", "time": "2026-01-01T11:59:00Z"}', 0),
        ('{"action": "terminate", "time": "2036-01-01T12:00:00Z"}', 120),
        ('{"action": "terminate", "time": "soon"}', 120),
        ('{"action": "terminate", "time": "2026-01-01T12:01:30"}', 120),
        ('{"action": "terminate"}', 120),
        ("[]", 120),
        ("not JSON", 120),
        ("[" * 4000, 120),
    ],
)
def test_a_notice_says_how_long_is_left(metadata: Metadata, answer: str, left: int) -> None:
    metadata.answers = [(200, answer)]
    assert seconds_left(metadata.address, NOW) == left


def test_a_service_that_fails_is_no_notice_and_is_told(metadata: Metadata) -> None:
    metadata.answers = [(500, "")]
    with pytest.raises(OSError, match="500"):
        seconds_left(metadata.address, NOW)
    with pytest.raises(OSError, match="refused"):
        seconds_left("http://127.0.0.1:9", NOW)


def test_the_node_is_drained_once_and_again_when_ray_did_not_hear(metadata: Metadata) -> None:
    metadata.answers = [(404, ""), (500, ""), (200, NOTICE)]
    asked: list[int] = []

    def drain(left: int) -> bool:
        asked.append(left)
        return len(asked) == 2

    watch(metadata.address, drain, interval_s=0.01)
    assert asked == [0, 0]  # the notice's time has long been over


GARBAGE = [
    b"",
    b"NONSENSE\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nZZZ\r\n",
    b"HTTP/1.1 200 " + b"a" * 70_000 + b"\r\n\r\n",
    b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 200 + b"\r\n",
    b"HTTP/1.1 302 F\r\nLocation: file:///etc/passwd\r\nContent-Length: 0\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\na\r\nb",
    b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n\xff\x00\xfe",
]


@pytest.mark.parametrize("reply", GARBAGE)
def test_a_service_that_answers_garbage_does_not_end_the_watch(reply: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def answer() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = listening.accept()
                    with connection, contextlib.suppress(OSError):
                        connection.recv(4096)
                        connection.sendall(reply)

        threading.Thread(target=answer, daemon=True).start()
        with pytest.raises(OSError, match=r".+"):
            seconds_left(f"http://127.0.0.1:{listening.getsockname()[1]}", NOW)


def test_a_ray_that_cannot_be_asked_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object, **__: object) -> None:
        raise OSError(12, "Cannot allocate memory")

    monkeypatch.setattr("subprocess.run", fails)
    assert not drain_node(120)
