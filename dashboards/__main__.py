"""`python -m dashboards ui`: the MLflow UI on loopback over the study's store, with its address printed."""

import os
import socket
import sys
from pathlib import Path

import click

from dashboards.metrics import metrics_command
from dashboards.watch import watch_command
from experiments.command import main
from study.spec import InputError

HOST = "127.0.0.1"


@click.group()
def cli() -> None:
    """Look at a study."""


@cli.command()
@click.option("--storage", type=Path, default=Path("store"), help="Folder of the store (default: store).")
@click.option("--port", type=int, default=5000, help="Port to try first (default: 5000).")
def ui(storage: Path, port: int) -> None:
    """Serve the MLflow UI on loopback until Ctrl-C."""
    from study.ledger import is_store

    if not is_store(storage):
        raise InputError(f"store {storage} does not exist; run `make degradation-study` first, or name another store")
    port = free_port(port)
    print(f"MLflow UI: http://{HOST}:{port} (Ctrl-C stops it)", flush=True)
    os.environ.update(MLFLOW_DISABLE_TELEMETRY="true", MLFLOW_SERVER_ENABLE_JOB_EXECUTION="false")
    store = storage.resolve()
    server = [sys.executable, "-m", "mlflow", "server", "--host", HOST, "--port", str(port), "--workers", "1"]
    server += ["--backend-store-uri", f"sqlite:///{store / 'mlflow.db'}"]
    server += ["--default-artifact-root", (store / "artifacts").as_uri(), "--no-serve-artifacts"]
    os.execv(sys.executable, server)  # the server takes this process's place, so that nothing outlives Ctrl-C


def free_port(first: int) -> int:
    """`first`, or the next port that nothing on loopback listens on."""
    for port in range(first, first + 100):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((HOST, port))
            except OSError:
                continue
            return port
    raise InputError(f"ports {first} to {first + 99} are all taken; name another with --port")


cli.add_command(watch_command)
cli.add_command(metrics_command)

if __name__ == "__main__":
    main(cli)
