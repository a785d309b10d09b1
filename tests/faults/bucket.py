"""An S3 server on loopback, in memory, with outages: `bucket.py PORT FILE`.

While the file is there it answers every request as S3 does when it is overloaded, or, if the file says 'unreachable',
closes every connection.
"""

import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import ThreadedWSGIServer

SLOW_DOWN = b"<?xml version='1.0'?><Error><Code>SlowDown</Code><Message>Reduce your request rate.</Message></Error>"
server, outage = DomainDispatcherApplication(create_backend_app), Path(sys.argv[2])


def answer(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    if not outage.exists():
        return server(environ, start_response)
    environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
    start_response("503 Slow Down", [("Content-Type", "application/xml"), ("Content-Length", str(len(SLOW_DOWN)))])
    return [] if environ["REQUEST_METHOD"] == "HEAD" else [SLOW_DOWN]


class Server(ThreadedWSGIServer):
    def verify_request(self, *_: Any) -> bool:
        return not (outage.exists() and outage.read_text() == "unreachable")


if __name__ == "__main__":
    Server("127.0.0.1", int(sys.argv[1]), answer).serve_forever()
