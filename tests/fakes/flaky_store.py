"""An S3 server that answers every request in the same way: it forbids, is too busy, or hangs up."""

import contextlib
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

CODES = {403: "AccessDenied", 404: "NoSuchBucket", 503: "SlowDown"}


class _Answering(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: "FlakyStore"

    def _answer(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        status = self.server.status
        body = f"<Error><Code>{CODES[status]}</Code><Message>no</Message></Error>".encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _answer

    def handle(self) -> None:
        with contextlib.suppress(ConnectionError):  # who asked did not wait
            super().handle()

    def log_message(self, *args: object) -> None:
        pass


class FlakyStore(ThreadingHTTPServer):
    """Use it as a context manager; ``status`` is what it answers."""

    daemon_threads = True

    def __init__(self, status: int) -> None:
        super().__init__(("127.0.0.1", 0), _Answering)
        self.status = status

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def __enter__(self) -> "FlakyStore":
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.shutdown()
        self.server_close()


def environment(url: str) -> dict[str, str]:
    """What points Arrow, obstore and the readers of tables at a server."""
    return {
        "AWS_ENDPOINT_URL": url,
        "AWS_ALLOW_HTTP": "true",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "NO_PROXY": "127.0.0.1",
        "no_proxy": "127.0.0.1",
    }
