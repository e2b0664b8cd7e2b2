"""A server on loopback that speaks the chat-completions protocol, and misbehaves on demand."""

import asyncio
import base64
import json
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

import pytest


class Asked(NamedTuple):
    """One request: what a test may decide its answer by."""

    body: dict[str, Any]
    headers: dict[str, str]

    @property
    def system(self) -> str:
        return str(self.body["messages"][0]["content"][0]["text"])

    @property
    def prompt(self) -> str:
        return str(self.body["messages"][1]["content"][-1]["text"])

    @property
    def images(self) -> list[bytes]:
        urls = [part["image_url"]["url"] for part in self.body["messages"][1]["content"][:-1]]
        return [base64.b64decode(url.removeprefix("data:image/jpeg;base64,")) for url in urls]


Answer = Callable[[Asked], tuple[int, Any]]


def completion(text: str | None, finish_reason: str = "stop") -> tuple[int, Any]:
    message = {"role": "assistant", "content": text}
    return 200, {
        "id": "c",
        "object": "chat.completion",
        "created": 1,
        "model": "m",
        "choices": [{"index": 0, "message": message, "finish_reason": finish_reason}],
        "usage": {"prompt_tokens": 50, "completion_tokens": 7, "total_tokens": 57},
    }


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: "ChatServer"

    def do_POST(self) -> None:
        content = self.rfile.read(int(self.headers["Content-Length"]))
        asked = Asked(
            json.loads(content), {name.lower(): value for name, value in self.headers.items()}
        )
        with self.server.lock:
            self.server.asked.append(asked)
        status, answer = self.server.answer(asked)
        body = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Retry-After-Ms", "1")
        if self.server.location:
            self.send_header("Location", self.server.location)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        pass


class ChatServer(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128  # a busy machine accepts late, and a client that is refused asks again

    def __init__(self, answer: Answer) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answer = answer
        self.asked: list[Asked] = []
        self.location = ""
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    def __enter__(self) -> "ChatServer":
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.shutdown()
        self.server_close()


def shorten_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests are repeated as ever, a hundred times sooner."""
    sleep = asyncio.sleep
    monkeypatch.setattr(asyncio, "sleep", lambda seconds: sleep(seconds / 100))
    monkeypatch.setattr("openai._base_client.INITIAL_RETRY_DELAY", 0.005)
