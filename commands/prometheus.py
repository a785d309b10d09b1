"""`python -m dashboards metrics`: a study's standing for Prometheus. Reads only."""

import socket
import threading

import click

from commands.onlooker import Onlooker, tracked
from commands.options import Selection, selecting
from commands.server import ALLOWED_HOSTS, ThisMachine, serving_at
from study.spec import InputError


@click.command("metrics")
@selecting()
@click.option("--port", type=click.IntRange(0, 65535), default=9464, help="Port (default: 9464).")
@click.option(
    "--host",
    default="127.0.0.1",
    help="Address to listen on (default: loopback). 0.0.0.0: whoever reaches this machine reads ids of trials.",
)
@ALLOWED_HOSTS
def metrics_command(selected: Selection, port: int, host: str, allowed_hosts: tuple[str, ...]) -> None:
    """Serve where the study stands as Prometheus metrics, until Ctrl-C.

    There is no password and no encryption. On loopback only this machine reads them; with --host 0.0.0.0 everybody who
    reaches the port by an allowed name learns profile, counts and ids of running trials, and can do nothing else.
    """
    try:
        from prometheus_client import CollectorRegistry, make_asgi_app  # optional

        from commands.exporter import Exporter
    except ImportError:
        raise InputError("metrics need the package prometheus-client; `pip install '.[cluster]'` adds it") from None
    with tracked(selected) as tracker:
        registry = CollectorRegistry()
        registry.register(Exporter(Onlooker(selected, tracker)))
        try:
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            bound = socket.create_server((host, port), family=family)
        except OSError as error:
            raise InputError(f"{host}:{port} cannot be had ({error.strerror}); name another --port or --host") from None
        with bound, serving_at(bound, ThisMachine(make_asgi_app(registry), (host, *allowed_hosts))):
            print(f"metrics: http://{host}:{bound.getsockname()[1]}/metrics (Ctrl-C stops it)", flush=True)
            try:
                threading.Event().wait()
            except KeyboardInterrupt:  # how a server is meant to end
                print()
