"""The watch page: live over real HTTP, to this machine only, and without a trace in the store."""

import contextlib
import http.client
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from commands.onlooker import Onlooker, Tracked, tracked
from commands.options import Choice, Selection, select
from commands.ports import HOST
from commands.server import serving
from commands.watch import Site
from experiments.profiles import SMOKE
from study.execution import Execution
from study.run import launch as launching
from study.spec import Trial
from study.store import heartbeat
from study.store.account import Account, Outcome, write_account
from study.store.heartbeat import Progress

ROOT = Path(__file__).parents[1]
Small = Callable[..., Trial]


def answer(port: int, path: str, method: str = "GET", host: str = "") -> tuple[int, http.client.HTTPMessage, bytes]:
    """Status, headers and content, of a path that no client tidies up."""
    connection = http.client.HTTPConnection(HOST, port, timeout=10)
    connection.putrequest(method, path, skip_host=True)
    connection.putheader("Host", host or f"{HOST}:{port}")
    connection.endheaders()
    response = connection.getresponse()
    content = response.read()
    connection.close()
    return response.status, response.headers, content


def selection(execution: Execution, trials: list[Trial]) -> Selection:
    return Selection(SMOKE, {trial: ["test"] for trial in trials}, execution)


@pytest.fixture
def site(execution: Execution, small: Small, tmp_path: Path) -> Site:
    """Of one running, one failed and two waiting trials."""
    running, failed, *_ = trials = [small(seed=seed) for seed in range(4)]
    for trial, account in (
        (running, Account(outcome=Outcome.RUNNING)),
        (failed, Account(outcome=Outcome.FAILED, reason="<b>why</b>: x")),
    ):
        write_account(execution.trial_folder(trial.id), account)
    progress = Progress(iteration=12, train_error_pct=41.7, seconds=3.0, seconds_left=5.0)
    heartbeat.write(execution.trial_folder(running.id), progress)
    selected = selection(execution, trials)
    (tmp_path / "pages" / "1").mkdir(parents=True)
    (tmp_path / "pages" / "1" / "index.html").write_text("<title>a study</title>")
    (tmp_path / "secret").write_text("not for readers")
    return Site(selected, tmp_path / "pages", Onlooker(selected, Tracked()))


@pytest.fixture
def port(site: Site) -> Iterator[int]:
    with serving(site, 8000) as port:
        yield port


def test_the_numbers_are_those_of_the_store(site: Site, port: int) -> None:
    status, headers, content = answer(port, "/status.json")
    now = json.loads(content)
    assert status == 200 and headers["Content-Type"] == "application/json" and headers["Cache-Control"] == "no-store"
    assert now["sentence"] == "0 of 4 trials have a result, 1 running, 2 waiting, 1 failed."
    assert (now["planned"], now["counts"]["waiting"], now["interval"], now["page"]) == (4, 2, None, 0)
    assert [(row["title"], row["iteration"], row["iterations"]) for row in now["running"]] == [
        ("ResNet-8, seed 0", 12, 24)
    ]
    assert [row["reason"] for row in now["failures"]] == ["<b>why</b>: x"]
    assert now["remarks"] == [
        f"No launch is running: {site.selected.command().make()} starts one, or goes on where the last one stopped."
    ]


def test_it_answers_to_the_names_of_this_machine_only(port: int) -> None:
    for host in ("127.0.0.1", f"localhost:{port}", "localhost:9999", f"[::1]:{port}"):  # others, by a forwarded port
        assert answer(port, "/", host=host)[0] == 200
    for host in ("evil.example", f"evil.example:{port}", "127.0.0.1.evil.example", "localhost.evil.example:80"):
        for path in ("/", "/status.json", "/page/1/index.html"):
            assert answer(port, path, host=host)[0] == 403


def test_it_only_reads(port: int) -> None:
    for method in ("POST", "PUT", "DELETE", "PATCH", "OPTIONS"):
        assert answer(port, "/status.json", method)[0] == 405


@pytest.mark.parametrize(
    "path",
    [
        "/page/../secret",
        "/page/1/../../secret",
        "/page/%2e%2e/secret",
        "/page/1%2f..%2f..%2fsecret",
        "/page//etc/passwd",
        "/page/%2fetc%2fpasswd",
        "/page/1",
        "/page/",
        "/page/1/index.html%00",
        f"/page/{'x' * 5000}",
        "/elsewhere",
        "/page/2/index.html",
    ],
)
def test_only_rendered_files_are_served(port: int, path: str) -> None:
    status, _, content = answer(port, path)
    assert (status, content) == (404, b"there is no such page\n")
    assert answer(port, "/page/1/index.html?query")[::2] == (200, b"<title>a study</title>")


def test_a_link_out_of_the_rendered_folder_leads_nowhere(site: Site, port: int) -> None:
    (site.folder / "1" / "link").symlink_to(site.folder.parent / "secret")
    assert answer(port, "/page/1/link")[0] == 404


def test_a_taken_port_is_passed_over(site: Site, port: int) -> None:
    with serving(site, port) as other:
        assert other > port and answer(other, "/")[0] == 200


def test_the_page_loads_nothing_from_elsewhere(port: int) -> None:
    page = answer(port, "/")[2].decode()
    assert "//" not in page.replace("<!doctype", "").split("</style>")[0] and "src=" not in page.split("<script>")[0]
    assert "innerHTML" not in page  # reasons are text, whatever they say


def files(storage: Path) -> dict[str, Any]:
    """Everything in a store; of the database its rows, because SQLite folds its journal into it as readers leave."""
    found = {str(path): path.stat().st_mtime_ns for path in storage.rglob("*") if not path.name.startswith("mlflow.db")}
    with contextlib.closing(sqlite3.connect(storage / "mlflow.db")) as database:
        return found | {"rows": list(database.iterdump())}


@pytest.mark.slow
def test_watching_renders_what_is_there_and_writes_nothing_into_the_store(
    store: Execution, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    selected = select(Choice(profile="smoke", experiments="plain-vs-residual"), store)
    trials = selected.trials
    launching.launch(trials[:2], store, {trial.id: {"profile": "smoke"} for trial in trials}, lambda *_: None)
    before = files(store.storage)
    folder = tmp_path / "pages"
    folder.mkdir()
    with tracked(selected, rest=0.2) as tracker:
        site = Site(selected, folder, Onlooker(selected, tracker))
        until = time.monotonic() + 200
        while not (site.page and site.shown == 2) and time.monotonic() < until:
            site.look()
            time.sleep(0.2)
            site.started = min(site.started, time.monotonic() - 1000)  # without waiting for the next page's turn
        now = site.status()
        assert (now["page_results"], now["counts"]["finished"], now["counts"]["missing"]) == (2, 2, len(trials) - 2)
        assert b"<html" in (site.file(f"{site.page}/index.html") or b"")
        with launching.only_launcher(store.storage):  # the lock is free
            pass
    assert files(store.storage) == before
    assert {path.name for path in tmp_path.iterdir()} <= {"store", "pages", "data"}  # nothing in results/


def python(*arguments: str, env: Mapping[str, str] = os.environ) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", *arguments]
    return subprocess.Popen(command, cwd=ROOT, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


@pytest.mark.slow
def test_a_browser_sees_a_study_run_from_before_its_start_to_its_end(tmp_path: Path) -> None:
    from axe_playwright_python.sync_playwright import Axe
    from playwright.sync_api import sync_playwright

    of = ("--profile", "smoke", "--experiments", "plain-vs-residual", "--storage", str(tmp_path / "store"))
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    watch, run = python("dashboards", "watch", *of, env=environment), None
    try:
        assert watch.stdout
        address = watch.stdout.readline().split()[2]
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(
                executable_path=shutil.which("chromium"), args=["--no-sandbox", "--disable-gpu"]
            )
            page, wrong = opened(browser, "light", address)
            page.get_by_text("8 waiting").wait_for()
            page.evaluate("window.first = true")
            assert not (tmp_path / "store").exists()
            run = python("experiments", "run", "--local", *of)
            page.locator("#running progress").first.wait_for(timeout=60_000)
            assert violations(Axe().run(page)) == []
            page.get_by_text("8 of 8 trials have a result").wait_for(timeout=120_000)
            page.locator("#show").click(timeout=120_000)
            page.frame_locator("#page").get_by_role("heading", name="Verdicts").wait_for()
            assert page.evaluate("window.first")  # it was never loaded again
            dark, wrong_in_dark = opened(browser, "dark", address)
            dark.get_by_text("8 of 8 trials have a result").wait_for()
            for seen in (page, dark):
                assert seen.evaluate("document.documentElement.scrollWidth") <= 390
                assert violations(Axe().run(seen)) == []
            assert wrong + wrong_in_dark == []
            browser.close()
        assert run and run.wait(60) == 0
        watch.send_signal(signal.SIGINT)
        output, _ = watch.communicate(timeout=20)
        assert watch.returncode == 0 and "Traceback" not in output
        assert not list(tmp_path.glob("study-page-*"))
    finally:
        for process in (watch, run):
            if process and process.poll() is None:
                process.kill()
                process.wait()


def opened(browser: Any, scheme: str, address: str) -> tuple[Any, list[str]]:
    """The page on a telephone, and what its console will complain of."""
    page, wrong = browser.new_page(viewport={"width": 390, "height": 844}, color_scheme=scheme), list[str]()
    page.on("console", lambda message: wrong.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.goto(address)
    return page, wrong


def violations(results: Any) -> list[str]:
    """What axe finds that is serious, or worse."""
    return [
        f"{found['id']}: {found['nodes'][0]['html']}"
        for found in results.response["violations"]
        if found["impact"] in ("serious", "critical")
    ]
