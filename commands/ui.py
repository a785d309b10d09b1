"""`python -m dashboards ui`: the MLflow UI on loopback over the study's store, with its addresses printed.

Owns the server's command line. It runs in this process's place, and nothing outlives it.
"""

import logging
import os
import subprocess
import sys
from pathlib import Path

import click

from commands.options import PATH, without_password
from commands.ports import HOST, free_port
from commands.server import ALLOWED_HOSTS, NAMES
from dashboards.views import address, note, views
from experiments.command import Command
from experiments.profiles import PROFILES
from study.execution import Execution
from study.spec import InputError
from study.store.layout import Store, is_store

# What else the server would do: ask MLflow's makers what to tell them, start seven processes that judge language
# models, offer a gateway to them, and fetch their prices from GitHub.
QUIET = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    "MLFLOW_ENABLE_AI_GATEWAY": "false",
    "MLFLOW_MODEL_CATALOG_URI": "",
}
log = logging.getLogger(__name__)


@click.command("ui")
@click.option("--storage", type=PATH, default=Path("store"), help="Folder of the store (default: store).")
@click.option("--port", type=int, default=5000, help="Port to try first (default: 5000).")
@click.option(
    "--tracking-uri",
    default="",
    callback=without_password,
    help="Describe the runs of this MLflow server, and serve nothing.",
)
@ALLOWED_HOSTS
def ui_command(storage: Path, port: int, tracking_uri: str, allowed_hosts: tuple[str, ...]) -> None:
    """Serve the MLflow UI on loopback until Ctrl-C."""
    if not tracking_uri and not is_store(storage):
        first = Command(store=str(storage)).make()
        raise InputError(f"store {storage} does not exist; run `{first}` first, or name another store")
    if not tracking_uri and not Store(storage).database.exists():
        raise InputError(f"store {storage} has no mlflow.db: its runs are on a server; name it with --tracking-uri")
    server = tracking_uri.rstrip("/") or f"http://{HOST}:{free_port(port)}"
    print(f"MLflow UI: {server}" + ("" if tracking_uri else " (Ctrl-C stops it)"), flush=True)
    for line in described(Execution(storage=storage, data_root=storage, tracking_uri=tracking_uri), server):
        print(line, flush=True)
    if not tracking_uri:
        serve(storage, server, allowed_hosts)


def described(execution: Execution, server: str) -> list[str]:
    """Give every profile that has runs its description and its views; lines with the address of each view."""
    from study.store.mlflow import decoration, reader  # and with it mlflow: seconds after the first line

    lines, known = [], {profile.name: profile for profile in PROFILES}
    for name, experiment in sorted(reader.profiles(execution).items()):
        if name not in known:
            continue
        profile = known[name]
        try:
            decoration.describe(execution, experiment, note(profile, experiment), views(profile))
        except InputError as error:
            log.warning("the UI opens without the study's views: %s", error)
        lines += [f"  {name}: {view.name:24} {address(server, experiment, view)}" for view in views(profile)]
    return lines


def serve(storage: Path, server: str, allowed: tuple[str, ...] = ()) -> None:
    """Become the server of the store's database and artifacts; of a read-only store, serve a copy of its database."""
    from study.store.mlflow.client import address as address_of
    from study.store.mlflow.client import readable, rebase

    store, port = storage.resolve(), server.rpartition(":")[2]
    own = Store(store).database
    database = readable(own)
    words = [sys.executable, "-m", "mlflow", "server", "--host", HOST, "--port", port, "--workers", "1"]
    words += ["--backend-store-uri", address_of(database)]
    words += ["--default-artifact-root", Store(store).artifacts.as_uri(), "--no-serve-artifacts"]
    if allowed:  # instead of MLflow's own, which are those of this machine and of private networks
        words += ["--allowed-hosts", ",".join(name + port for name in (*NAMES, *allowed) for port in ("", ":*"))]
    os.environ.update(QUIET)
    if database == own:
        os.execv(sys.executable, words)  # so that nothing outlives Ctrl-C
    rebase(database, store)
    child = subprocess.Popen(words)  # this process has the copy to remove
    try:
        sys.exit(child.wait())
    finally:
        child.terminate()
        child.wait()
