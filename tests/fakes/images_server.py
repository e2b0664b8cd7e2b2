"""A web server on loopback that misbehaves by path."""

import threading
from collections import Counter
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

Answer = Callable[["Handler"], None]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 5
    server: "ImagesServer"

    def do_GET(self):
        path = self.path.partition("?")[0]
        self.server.note(path, dict(self.headers))
        try:
            self.server.answers[path](self)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True
        finally:
            self.server.leave()

    def send(self, status, body=b"", **headers):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        if "Content_Length" not in headers:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        pass


class ImagesServer(ThreadingHTTPServer):
    """Counts requests by path and how many were served at once."""

    daemon_threads = True

    def __init__(self, tls=None):
        super().__init__(("127.0.0.1", 0), Handler)
        self.answers: dict[str, Answer] = {}
        self.requests = Counter()
        self.headers = {}
        self.at_once = self.most_at_once = 0
        self._lock = threading.Lock()
        if tls is not None:
            self.socket = tls.wrap_socket(self.socket, server_side=True)

    @property
    def port(self):
        return self.server_address[1]

    def __enter__(self):
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *exception):
        self.shutdown()
        self.server_close()

    def note(self, path, headers):
        with self._lock:
            self.requests[path] += 1
            self.headers[path] = headers
            self.at_once += 1
            self.most_at_once = max(self.most_at_once, self.at_once)

    def leave(self):
        with self._lock:
            self.at_once -= 1

    def image(self, path, content):
        self.answers[path] = lambda handler: handler.send(200, content, Content_Type="image/png")

    def redirect(self, path, target, status=302):
        self.answers[path] = lambda handler: handler.send(status, Location=target)

    def in_turn(self, path, *answers):
        """The first request gets the first answer, and so on."""
        waiting = iter(answers)
        self.answers[path] = lambda handler: next(waiting)(handler)


def failing(status, **headers):
    return lambda handler: handler.send(status, b"sorry", **headers)
