"""`python -m dashboards screenshots`: pictures of every screen, of a finished store and of a small study that runs.

Owns which screens there are and how they are photographed: wide and as on a phone, light and dark. Needs Chromium, and
the package playwright, which `make` installs.
"""

import contextlib
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import urlopen

import click

from commands.options import PATH
from commands.ports import free_port
from dashboards.views import LANGUAGE_MODELS_ASIDE, address, views
from experiments import planned
from experiments.command import Command
from experiments.profiles import profile
from study.execution import Execution
from study.spec import InputError
from study.store.layout import is_store
from study.store.mlflow import reader

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
WIDE, PHONE = (1440, 900), (390, 844)
SETTLED_MS = 1_500  # until charts have been drawn
MLFLOW_MS = 30_000  # for MLflow's pages to load and draw
# MLflow's page opens its assistant by itself once, and has a colour scheme of its own.
MLFLOW_SETTINGS = """
localStorage.setItem("mlflow.assistant.fab.autoOpenedOnFirstLoad_v1", "true");
localStorage.setItem("mlflow.assistant.panelOpen_v1", "false");
localStorage.setItem("_mlflow_dark_mode_toggle_enabled", "%s");
"""
Shoot = Callable[..., None]


@click.command("screenshots")
@click.option("--profile", "name", default="quick", help="Of which profile (default: quick).")
@click.option("--storage", type=PATH, default=Path("store"), help="Folder of a store with its runs (default: store).")
@click.option(
    "--results", type=PATH, default=Path("results"), help="Folder of its rendered results (default: results)."
)
@click.option("--to", type=PATH, default=Path("docs/screens"), help="Folder of the pictures (default: docs/screens).")
def screenshots_command(name: str, storage: Path, results: Path, to: Path) -> None:
    """Photograph the study page, the MLflow UI, and the watch page while the smoke profile is trained."""
    page = results / name / "index.html"
    if not page.exists():
        command = Command(profile=name, store=str(storage), results=str(results))
        raise InputError(f"{page} does not exist; render it first: {command.make()}")
    _check_runs(name, storage)
    with _browser() as browser, tempfile.TemporaryDirectory() as scratch:
        to.mkdir(parents=True, exist_ok=True)

        def shoot(url: str, picture: str, size: tuple[int, int], scheme: str = "light", **look: Any) -> None:
            _shoot(browser, url, to / f"{picture}.png", size, scheme, **look)

        for scheme in ("light", "dark"):
            shoot(page.resolve().as_uri(), f"page_{scheme}", WIDE, scheme)
            shoot(page.resolve().as_uri(), f"page_charts_{scheme}", WIDE, scheme, at="#figures")
            shoot(page.resolve().as_uri(), f"page_phone_{scheme}", PHONE, scheme, at="#figures")
        _mlflow(shoot, name, storage)
        _watch(shoot, Path(scratch))
    print(f"{len(list(to.glob('*.png')))} pictures are in {to}")


def _check_runs(name: str, storage: Path) -> None:
    """Raise `InputError` unless the store has runs of the profile."""
    known = reader.profiles(Execution(storage=storage, data_root=storage)) if is_store(storage) else {}
    if name not in known:
        raise InputError(
            f"store {storage} has runs of {', '.join(known) or 'no profile'}, and not of {name}; name another --storage"
        )


def _shoot(
    browser: Any, url: str, path: Path, size: tuple[int, int], scheme: str, at: str = "", ms: int = SETTLED_MS
) -> None:
    """A picture of an address, scrolled to the element `at`, when it has had `ms` to draw."""
    tab = browser.new_page(viewport={"width": size[0], "height": size[1]}, color_scheme=scheme)
    if url.startswith("http"):
        tab.add_init_script(MLFLOW_SETTINGS % ("true" if scheme == "dark" else "false"))
    tab.goto(url)
    if at:
        tab.locator(at).scroll_into_view_if_needed()
        tab.evaluate("id => document.querySelector(id).scrollIntoView()", at)
    tab.wait_for_timeout(ms)
    tab.screenshot(path=str(path))
    tab.close()
    print(path)


def _mlflow(shoot: Shoot, name: str, storage: Path) -> None:
    """The list, the charts, and one run."""
    execution, chosen = Execution(storage=storage, data_root=storage), profile(name)
    experiment = reader.profiles(execution)[name]
    port = free_port(5000)
    server = f"http://127.0.0.1:{port}"
    with _running("ui", "--storage", str(storage), "--port", str(port)):
        _wait_for(server)
        every, compared, *_ = views(chosen)
        shoot(address(server, experiment, every), "mlflow_runs", WIDE, ms=MLFLOW_MS // 2)
        shoot(address(server, experiment, compared), "mlflow_charts", WIDE, ms=MLFLOW_MS)
        one = next(iter(planned(chosen)))
        (run,) = reader.read(execution, [one], records=False)
        page = f"{server}/#/experiments/{experiment}/runs/{run.run_id}/model-metrics?{LANGUAGE_MODELS_ASIDE}"
        shoot(page, "mlflow_run", WIDE, ms=MLFLOW_MS // 3)
        shoot(address(server, experiment, compared), "mlflow_charts_dark", WIDE, "dark", ms=MLFLOW_MS)


def _watch(shoot: Shoot, scratch: Path) -> None:
    """While a study of the smoke profile is trained in a temporary store."""
    port = free_port(8000)
    selected = ("--profile", "smoke", "--storage", str(scratch / "store"))
    with (
        _running("run", *selected, module="experiments"),
        _running("watch", *selected, "--port", str(port)),
    ):
        _wait_for(f"http://127.0.0.1:{port}")
        time.sleep(45)  # until some trials have ended and a page was rendered
        for scheme in ("light", "dark"):
            shoot(f"http://127.0.0.1:{port}", f"watch_{scheme}", WIDE, scheme, ms=5_000)
            shoot(f"http://127.0.0.1:{port}", f"watch_phone_{scheme}", PHONE, scheme, ms=5_000)


@contextlib.contextmanager
def _browser() -> Iterator[Any]:
    executable = next(filter(None, map(shutil.which, BROWSERS)), None)
    if executable is None:
        raise InputError(f"screenshots take a browser, and none of {', '.join(BROWSERS)} is found; install Chromium")
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        raise InputError("screenshots take the package playwright; python -m pip install playwright") from None
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=["--no-sandbox", "--disable-gpu"])
        try:
            yield browser
        finally:
            browser.close()


@contextlib.contextmanager
def _running(*words: str, module: str = "dashboards") -> Iterator[None]:
    """A command of the study while the block runs; stopped as by Ctrl-C."""
    process = subprocess.Popen([sys.executable, "-m", module, *words], stdout=subprocess.DEVNULL)
    try:
        yield
    finally:
        process.terminate()
        process.wait(60)


def _wait_for(url: str, seconds: float = 60) -> None:
    until = time.monotonic() + seconds
    while True:
        try:
            urlopen(url, timeout=5).close()
            return
        except (URLError, OSError):
            if time.monotonic() > until:
                raise
            time.sleep(0.5)
