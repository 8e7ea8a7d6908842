"""An HTTP proxy before an object store that fails as real ones do: seeded, counted, and switched off when asked.

What can go wrong with a request: an answer 500 or 503, a slow one, a connection cut before the store has seen the
request, after it has done what was asked (so that the answer is lost), or in the middle of the answer.
"""

import http.client
import random
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

FAULTS = ("500", "503", "slow", "unsent", "unanswered", "half")
_HOP_BY_HOP = {"connection", "transfer-encoding", "content-length", "expect"}


class FlakyStore(ThreadingHTTPServer):
    """Passes requests on to `host:port`; `fault_ratio` of them meet a fault, all are cut off `down_until` a moment."""

    daemon_threads = True

    def __init__(self, target: str, *, seed: int, fault_ratio: float) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.target, self.fault_ratio, self.down_until = target, fault_ratio, 0.0
        self.num_requests, self.seen = 0, Counter[str]()
        self._random, self._lock = random.Random(seed), threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def draw(self) -> str | None:
        """The fault that the next request meets."""
        with self._lock:
            self.num_requests += 1
            fault = self._random.choice(FAULTS) if self._random.random() < self.fault_ratio else None
            fault = "down" if time.monotonic() < self.down_until else fault
            self.seen.update([fault] if fault else [])
            return fault

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that went away are no news here."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: FlakyStore

    def log_message(self, *_: object) -> None:
        """Say nothing of every request."""

    def _serve(self) -> None:
        body, fault = self._body(), self.server.draw()
        if fault in ("down", "unsent"):
            return self._cut()
        if fault in ("500", "503"):
            code = "InternalError" if fault == "500" else "SlowDown"
            text = f'<?xml version="1.0"?><Error><Code>{code}</Code><Message>try again</Message></Error>'
            return self._answer(int(fault), {"Content-Type": "application/xml"}, text.encode())
        if fault == "slow":
            time.sleep(2.0)
        status, headers, data = self._forward(body)
        if fault == "unanswered":
            return self._cut()
        return self._answer(status, headers, data, is_cut=fault == "half")

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = _serve

    def _body(self) -> bytes:
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _forward(self, body: bytes) -> tuple[int, dict[str, str], bytes]:
        connection = http.client.HTTPConnection(self.server.target, timeout=60)
        headers = {name: value for name, value in self.headers.items() if name.lower() not in _HOP_BY_HOP}
        connection.request(self.command, self.path, body=body or None, headers=headers)
        response = connection.getresponse()
        data = response.read()
        connection.close()
        kept = {name: value for name, value in response.getheaders() if name.lower() != "connection"}
        return response.status, kept, data

    def _answer(self, status: int, headers: dict[str, str], data: bytes, *, is_cut: bool = False) -> None:
        self.send_response_only(status)
        given = {name.lower() for name in headers}
        for name, value in headers.items():
            if name.lower() != "transfer-encoding":
                self.send_header(name, value)
        if "content-length" not in given:
            self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data[: len(data) // 2] if is_cut else data)
        if is_cut:
            self._cut()

    def _cut(self) -> None:
        self.close_connection = True


@contextmanager
def flaky_store(target: str, *, seed: int = 0, fault_ratio: float = 0.0) -> Iterator[FlakyStore]:
    """A proxy on a free port of loopback that ends with the block; `target` is `host:port`."""
    store = FlakyStore(target, seed=seed, fault_ratio=fault_ratio)
    thread = threading.Thread(target=store.serve_forever, daemon=True)
    thread.start()
    try:
        yield store
    finally:
        store.shutdown()
        store.server_close()
        thread.join()
