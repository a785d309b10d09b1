"""`python -m dashboards watch`: the study page on loopback while trials run, below the live numbers.

Owns when the page is rendered anew; `commands/server.py` serves it. Reads only: a rendering goes into a temporary
folder, never into results or the store, and takes no lock that a launch needs.
"""

import json
import multiprocessing
import os
import shutil
import signal
import tempfile
import time
from contextlib import suppress
from dataclasses import asdict
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any

import click

from analysis.files import MANIFEST
from analysis.templates import environment
from commands.onlooker import Onlooker, tracked
from commands.options import Choice, Selection, select, selecting
from commands.ports import HOST
from commands.server import ALLOWED_HOSTS, serving
from commands.standing import WAITING, Standing
from study.execution import Execution
from study.store.account import Outcome
from study.store.layout import Store

PAGES = Path(__file__).parents[1] / "dashboards" / "pages"
NEWEST = 8  # results that are listed
RENDER_SECONDS = 30.0  # between the starts of two renderings, at least
RENDER_PART = 0.25  # of the time may be spent on rendering, on a processor that trials want
RUNNING_SECONDS = 600.0  # after which curves of running trials alone are worth a rendering


@click.command("watch")
@selecting()
@click.option("--port", type=int, default=8000, help="Port to try first (default: 8000).")
@ALLOWED_HOSTS
def watch_command(selected: Selection, port: int, allowed_hosts: tuple[str, ...]) -> None:
    """Serve the study page on loopback, refreshed from the store while trials run, until Ctrl-C."""
    with tempfile.TemporaryDirectory(prefix="study-page-") as folder, tracked(selected) as tracker:
        site = Site(selected, Path(folder), Onlooker(selected, tracker))
        with serving(site, port, allowed_hosts) as port:
            print(f"study page: http://{HOST}:{port} (Ctrl-C stops it)", flush=True)
            try:
                site.keep()
            except KeyboardInterrupt:  # how a server is meant to end
                print()


class Site:
    """The live numbers, and the study page as it was last rendered, in numbered folders: page 3 in `folder/3`."""

    def __init__(self, selected: Selection, folder: Path, onlooker: Onlooker) -> None:
        self.selected, self.folder, self.onlooker = selected, folder, onlooker
        self.page = 0  # the newest that is complete; 0 before the first
        self.shown = 0  # results on it
        self.problem = ""
        self.process: SpawnProcess | None = None
        self.rendering: set[str] = set()  # what MLflow, of which pages are made, had when the last one was begun
        self.started, self.took = 0.0, 0.0
        self.standing, self.at = onlooker.look(), time.monotonic()
        pages = environment(PAGES)
        self.html = pages.get_template("watch.html").render(profile=selected.profile).encode()

    def keep(self) -> None:
        """Look, and render what is new, for ever. Leaving ends a rendering."""
        try:
            while True:
                self.look()
                time.sleep(self.onlooker.rest_seconds)
        finally:
            if self.process:
                self.process.kill()
                self.process.join()

    def look(self) -> None:
        """Read the store once; take over a page that was completed; start the next one if it is due."""
        with suppress(OSError):  # a disk that is out of reach for a while; the page says how old its numbers are
            self.standing, self.at = self.onlooker.look(), time.monotonic()
        if self.process and not self.process.is_alive():
            self._take()
        if not self.process and self._due():
            self._render()

    def _due(self) -> bool:
        since = time.monotonic() - self.started
        pause = self.took / RENDER_PART if self.standing.launch == "running" else 0.0
        if self.started and since < max(RENDER_SECONDS, pause):
            return False
        grown = bool(self.standing.of(Outcome.RUNNING)) and since >= RUNNING_SECONDS
        return not self.started or self.onlooker.tracker.results() != self.rendering or grown

    def _render(self) -> None:
        self.started, self.rendering = time.monotonic(), self.onlooker.tracker.results()
        self.process = multiprocessing.get_context("spawn").Process(
            target=render,
            args=(self.selected.choice, self.selected.execution, self.folder / str(self.page + 1)),
            daemon=True,
        )
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's Ctrl-C is ours alone
        try:
            self.process.start()
        finally:
            signal.signal(signal.SIGINT, before)

    def _take(self) -> None:
        assert self.process
        failed, self.process, self.took = self.process.exitcode, None, time.monotonic() - self.started
        self.problem = "the page below could not be rendered anew; the terminal says why" if failed else ""
        if failed:
            return
        self.page += 1
        self.shown = len(json.loads((self.folder / str(self.page) / MANIFEST).read_bytes())["results"])
        shutil.rmtree(self.folder / str(self.page - 2), ignore_errors=True)  # the one before may still be read

    def status(self) -> dict[str, Any]:
        """What the script of the live part shows."""
        standing = self.standing
        rows = {row.id: row for row in standing.rows}
        counts, interval = standing.counts, standing.interval
        results = [rows[id].plain() for id in reversed(standing.ended[-NEWEST:])]
        return {
            "sentence": standing.sentence() + ".",
            "planned": len(rows),
            "counts": counts | {"waiting": sum(counts[name] for name in WAITING)},
            "seconds_left": standing.seconds_left,
            "interval": asdict(interval) if interval else None,
            "rate": standing.rate,
            "remarks": [
                text for text in (remark(standing, self.selected), self.problem, self.onlooker.tracker.problem) if text
            ],
            "running": [
                row.plain() | {"title": f"{row.title}, seed {row.seed}"} for row in standing.of(Outcome.RUNNING)
            ],
            "results": results,
            "failures": [row.plain() for row in standing.of(Outcome.FAILED, Outcome.UNUSABLE)],
            "page": self.page,
            "page_results": self.shown,
            "age_seconds": time.monotonic() - self.at,
        }

    def file(self, path: str) -> bytes | None:
        """The rendered file of an address below /page/; None for what is none, or lies outside."""
        try:
            target = (self.folder / path).resolve()
            return target.read_bytes() if target.is_relative_to(self.folder.resolve()) else None
        except (OSError, ValueError):  # a folder, a name that is too long, or has a NUL
            return None


def remark(standing: Standing, selected: Selection) -> str:
    """What a reader should know of the launch; '' while all is well."""
    if standing.launch == "none" and not standing.complete:
        return f"No launch is running: {selected.command().make()} starts one, or goes on where the last one stopped."
    if standing.launch == "silent":
        return "The launch has been silent for two minutes: the same command goes on with its trials."
    return ""


def render(choice: Choice, execution: Execution, folder: Path) -> None:
    """Render the study page of what was chosen into `folder`, without the lecture; for a process of its own."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.nice(5)  # trials go first, but not so far that the page never comes
    # Only this process renders: the server spares itself pandas, matplotlib and mlflow.
    from analysis import report, runs
    from commands.render import so_far
    from study.store import provenance
    from study.store.mlflow import reader

    selected = select(choice, execution)
    profile = selected.profile
    logged_anywhere = execution.tracking_uri or Store(execution.storage).database.exists()  # reading would create it
    trials = selected.trials if logged_anywhere else []
    logged = (so_far(run, execution) for run in (reader.iterate(execution, trials) if trials else ()))
    frames = runs.load(selected.serves, logged)
    others = reader.foreign(execution, profile.name, trials) if trials else {}
    report.write(frames, profile, folder, provenance.tags(), others, lecture=False)
