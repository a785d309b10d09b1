"""Pages and metrics over HTTP: on loopback, read only, for names of this machine alone unless others are allowed.

Owns addresses, headers and who is answered. What is shown is a `Site`.
"""

import ipaddress
import mimetypes
import socket
import threading
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import click
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from commands.ports import listening

# A page of another name, which might be made to resolve to this machine (DNS rebinding), must not read this one.
NAMES = ("127.0.0.1", "localhost", "[::1]")
ALLOWED_HOSTS = click.option(
    "--allowed-hosts",
    default="",
    callback=lambda _, __, names: tuple(name.strip() for name in names.split(",") if name.strip()),
    help="Further names, with commas between them, by which browsers may call this server (default: this machine's).",
)
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

    def __init__(self, app: ASGIApp, allowed: Collection[str] = ()) -> None:
        self.app, self.names = app, {*NAMES, *allowed}

    def knows(self, host: str) -> bool:
        """Whether requests to this name are answered. Addresses are no names that could resolve to another machine."""
        name = host if host in self.names or host.endswith("]") else host.rpartition(":")[0] or host
        try:
            ipaddress.ip_address(name.strip("[]"))
        except ValueError:
            return name in self.names
        return True

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = [(name.lower().encode(), value.encode()) for name, value in HEADERS.items()]
                message["headers"] = [*message["headers"], *headers]
            await send(message)

        host = Request(scope).headers.get("Host", "")
        if self.knows(host):
            await self.app(scope, receive, send_with_headers)
        else:
            names = ", ".join(sorted(self.names))
            text = f"this server answers to the names {names} only; start it with --allowed-hosts NAME for another\n"
            refusal = PlainTextResponse(text, 403)
            await refusal(scope, receive, send_with_headers)


def application(site: Site, allowed: Collection[str] = ()) -> ASGIApp:
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
    return ThisMachine(routed, allowed)


@contextmanager
def serving(site: Site, first: int, allowed: Collection[str] = ()) -> Iterator[int]:
    """Serve the site on loopback while the block runs; yields the port, `first` or the next free one."""
    with listening(first) as bound, serving_at(bound, application(site, allowed)):
        yield int(bound.getsockname()[1])


@contextmanager
def serving_at(bound: socket.socket, app: ASGIApp) -> Iterator[None]:
    """Serve the application at this socket while the block runs."""
    config = uvicorn.Config(
        app,
        lifespan="off",
        access_log=False,  # a line every two seconds would hide what matters
        log_level="error",
        timeout_graceful_shutdown=1,
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]}, daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.should_exit = True
        thread.join()
