"""The watch page over HTTP: on loopback, read only, for names of this machine alone.

Owns addresses, headers and who is answered. What is shown is a `Site`.
"""

import mimetypes
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from commands.ports import listening

# A page of another name, which might be made to resolve to this machine (DNS rebinding), must not read this one.
NAMES = ("127.0.0.1", "localhost", "[::1]")
HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "frame-ancestors 'self'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}


class Site(Protocol):
    """What is served."""

    html: bytes

    def status(self) -> dict[str, Any]: ...

    def file(self, path: str) -> bytes | None: ...


class ThisMachine:
    """Refuses requests that were sent to another name, and adds the headers that every answer has.

    Starlette's TrustedHostMiddleware does not know addresses of IPv6 in brackets.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = [(name.lower().encode(), value.encode()) for name, value in HEADERS.items()]
                message["headers"] = [*message["headers"], *headers]
            await send(message)

        host = Request(scope).headers.get("Host", "")
        if host in NAMES or host.rpartition(":")[0] in NAMES:
            await self.app(scope, receive, send_with_headers)
        else:
            refusal = PlainTextResponse("this server answers to 127.0.0.1 and localhost only\n", 403)
            await refusal(scope, receive, send_with_headers)


def application(site: Site) -> ASGIApp:
    """`/` is the page, `/status.json` its live numbers, and below `/page/` are the rendered files."""

    def page(request: Request) -> Response:
        return Response(site.html, media_type="text/html")

    def status(request: Request) -> Response:
        return JSONResponse(site.status())

    def file(request: Request) -> Response:
        path = request.path_params["path"]
        content = site.file(path)
        if content is None:
            return not_found(request, None)
        return Response(content, media_type=mimetypes.guess_type(path)[0] or "application/octet-stream")

    def not_found(request: Request, _: Exception | None) -> Response:
        return PlainTextResponse("there is no such page\n", 404)

    routes = [Route("/", page), Route("/status.json", status), Route("/page/{path:path}", file)]
    routed = Starlette(routes=routes, exception_handlers={404: not_found})
    routed.router.redirect_slashes = False
    return ThisMachine(routed)


@contextmanager
def serving(site: Site, first: int) -> Iterator[int]:
    """Serve the site on loopback while the block runs; yields the port, `first` or the next free one."""
    config = uvicorn.Config(
        application(site),
        lifespan="off",
        access_log=False,  # a line every two seconds would hide what matters
        log_level="error",
        timeout_graceful_shutdown=1,
    )
    with listening(first) as bound:
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]}, daemon=True)
        thread.start()
        try:
            yield int(bound.getsockname()[1])
        finally:
            server.should_exit = True
            thread.join()
