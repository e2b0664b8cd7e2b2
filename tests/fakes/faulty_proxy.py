"""A proxy before a real chat server: some requests fail in the ways of the internet."""

import contextlib
import random
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

SILENCE_S = 2.0
FAULTS = ("busy", "broken", "silent", "cut_off", "not_json")


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: "FaultyProxy"

    def do_POST(self) -> None:
        question = self.rfile.read(int(self.headers["Content-Length"]))
        fault = self.server.draw()
        if fault == "busy":
            self._send(429, b'{"error": {"message": "slow down"}}')
        elif fault == "broken":
            self._send(500, b"<html>oops</html>")
        elif fault == "silent":
            time.sleep(SILENCE_S)
            self.close_connection = True
        elif fault == "not_json":
            self._send(200, b"<html>Welcome to the hotel's network</html>")
        else:
            self._pass_on(question, cut_off=fault == "cut_off")

    def _pass_on(self, question: bytes, *, cut_off: bool) -> None:
        """What is cut off has been answered, and the server would want its money."""
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(self.server.upstream, question, headers)
        try:
            with urllib.request.urlopen(request) as response:
                answer = response.read()
        except urllib.error.HTTPError as error:
            self._send(error.code, error.read())
            return
        with self.server.lock:
            self.server.answered[question] += 1
        self._send(200, answer[: len(answer) // 2] if cut_off else answer)

    def _send(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Retry-After-Ms", "5")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def handle(self) -> None:
        with contextlib.suppress(ConnectionError):  # who asked was killed meanwhile
            super().handle()

    def log_message(self, *args: object) -> None:
        pass


class FaultyProxy(ThreadingHTTPServer):
    """Counts what each question was answered; ``faults`` counts what was done wrong."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, upstream: str, share: float) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.upstream = upstream
        self.answered: Counter[bytes] = Counter()
        self.faults: Counter[str] = Counter()
        self.lock = threading.Lock()
        self._share = share
        self._random = random.Random(0)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    def draw(self) -> str | None:
        """The fault of the next request, or None."""
        with self.lock:
            if self._random.random() >= self._share:
                return None
            fault = self._random.choice(FAULTS)
            self.faults[fault] += 1
            return fault

    def __enter__(self) -> "FaultyProxy":
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.shutdown()
        self.server_close()
