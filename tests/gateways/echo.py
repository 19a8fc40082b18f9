"""The application behind the gateways: answers what it was asked, as JSON, and sets a cookie of its own.

Below /page it answers a page instead, with all that a page loads; at /worker.js a service worker that passes everything
on. After /cookie? comes the cookie to set, with its attributes, percent-encoded.
"""

import contextlib
import http.server
import json
import sys
import threading
import urllib.parse
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from tests.gateways.processes import HOST

PAGE = b"""<!doctype html><title>A page</title>
<link rel="icon" href="/icon.png"><link rel="stylesheet" href="/style.css"><link rel="prefetch" href="/prefetched">
<script type="speculationrules">{"prerender": [{"urls": ["/prerendered"], "eagerness": "immediate"}]}</script>
<script src="/script.js"></script><script>fetch("/api/cart")</script>
<img src="/1.png"><img src="/2.png"><img src="/3.png"><img src="/4.png"><iframe src="/frame"></iframe>
"""
WORKER = b"addEventListener('fetch', event => event.respondWith(fetch(event.request)))"


@dataclass
class Echo:
    """Where it listens, and every request that reached it."""

    port: int = 0
    seen: list[dict[str, Any]] = field(default_factory=list)


class QuietServer(http.server.ThreadingHTTPServer):
    """A gateway or a browser may hang up at any time; that is no news."""

    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)  # type: ignore[arg-type]  # as it was given


@contextlib.contextmanager
def echo() -> Iterator[Echo]:
    """Listens until the end of the block."""
    record = Echo()

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            request = {
                "method": self.command,
                "path": self.path,
                "headers": [[name.lower(), value] for name, value in self.headers.items()],
                "body": body.decode(),
            }
            record.seen.append(request)
            content_type, reply = "application/json", json.dumps(request).encode()
            if self.path.startswith("/page"):
                content_type, reply = "text/html", PAGE
            elif self.path == "/worker.js":
                content_type, reply = "text/javascript", WORKER
            path, _, query = self.path.partition("?")
            cookie = urllib.parse.unquote(query, "latin-1") if path == "/cookie" else "theme=dark; Path=/"
            self.send_response(200)
            self.send_header("Content-Type", content_type)
            self.send_header("Set-Cookie", cookie)
            self.send_header("Content-Length", str(len(reply)))
            self.end_headers()
            self.wfile.write(reply)

        do_GET = do_POST = do_OPTIONS = answer  # noqa: N815  (the names that http.server looks for)

        def log_message(self, *_: object) -> None:
            pass

    with QuietServer((HOST, 0), Handler) as server:
        record.port = server.server_address[1]
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield record
        finally:
            server.shutdown()
