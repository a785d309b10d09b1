"""An S3 server on loopback, in memory, that refuses every request while a file is there: `bucket.py PORT FILE`."""

import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import run_simple

SLOW_DOWN = (
    b"<?xml version='1.0'?><Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"
)


class Refusing:
    """The server, and what S3 answers when it is overloaded."""

    def __init__(self, refuse: Path) -> None:
        self.server, self.refuse = DomainDispatcherApplication(create_backend_app), refuse

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        if not self.refuse.exists():
            return self.server(environ, start_response)
        start_response("503 Slow Down", [("Content-Type", "application/xml")])
        return [SLOW_DOWN]


if __name__ == "__main__":
    run_simple("127.0.0.1", int(sys.argv[1]), Refusing(Path(sys.argv[2])), threaded=True)
