"""A local S3 server, on the loopback interface."""

import logging
import threading
import urllib.request
from collections import Counter
from collections.abc import Callable
from typing import Any

from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server

from tests.fakes.flaky_store import environment


class S3Server:
    """Serves one bucket, ``bucket``.

    Args:
        busy_every: of so many requests one is refused with 503; 0 refuses none.
    """

    def __init__(self, busy_every: int = 0) -> None:
        self._busy_every = busy_every
        self.answered: Counter[int] = Counter()
        self._count = 0
        self._lock = threading.Lock()
        self._s3 = DomainDispatcherApplication(create_backend_app)
        self._server = make_server("127.0.0.1", 0, self._serve, threaded=True)
        logging.getLogger("werkzeug").setLevel(logging.ERROR)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self._server.port}"
        self._s3_request("PUT", "/bucket")

    def _serve(self, request: dict[str, Any], respond: Callable[..., Any]) -> Any:
        with self._lock:
            self._count += 1
            busy = self._busy_every > 0 and self._count % self._busy_every == 0
            self.answered[503 if busy else 200] += 1
        if not busy:
            return self._s3(request, respond)
        request["wsgi.input"].read(int(request.get("CONTENT_LENGTH") or 0))
        body = b"<Error><Code>SlowDown</Code><Message>Reduce your request rate.</Message></Error>"
        headers = [("Content-Type", "application/xml"), ("Content-Length", str(len(body)))]
        respond("503 Slow Down", headers)
        return [body]

    def _s3_request(self, method: str, path: str) -> None:
        credential = "AWS4-HMAC-SHA256 Credential=test/20260101/us-east-1/s3/aws4_request"
        headers = {"Authorization": credential}
        urllib.request.urlopen(
            urllib.request.Request(self.url + path, method=method, headers=headers)
        )

    @property
    def environment(self) -> dict[str, str]:
        """What points Arrow and obstore at it."""
        return environment(self.url)

    def close(self) -> None:
        self._server.shutdown()
