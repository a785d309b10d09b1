"""The study page in a browser: its size, and how long until a reader can use it.

Pages of planted studies of each profile, opened from disk in Chromium, a new browser each time; medians of `TIMES`.
Text: verdicts can be read. First chart: the script has run, Fig. 1 is drawn and answers a pointer. All charts: every
one was brought into view, one after another.
"""

import os
import shutil
import statistics
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import common
from playwright.sync_api import sync_playwright

sys.path.insert(0, str(Path(__file__).parents[1]))
from planted import planted

from analysis import report
from analysis.runs import load
from experiments import planned
from experiments.profiles import PAPER, QUICK, SMOKE, Profile
from study.limits import cores

TIMES = int(os.environ.get("TIMES", "5"))
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
DRAWN = "count => document.querySelectorAll('.panel.js-plotly-plot').length >= count"


def rendered(profile: Profile, folder: Path) -> float:
    """Write the report of a planted study, whose runs say what was predicted; returns how long that took."""
    runs = [replace(run, tags=run.tags | {"predicted_seconds": "100"}) for run in planted(profile)]
    frames, started = load(planned(profile), runs), time.perf_counter()
    report.write(frames, profile, folder, lecture=False)
    return time.perf_counter() - started


def opened(path: Path, browser: str) -> dict[str, float]:
    """Seconds until each of what the head of this file names."""
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=browser, args=["--no-sandbox", "--disable-gpu"])
        page = chromium.new_page(viewport={"width": 1440, "height": 900})
        page.goto(path.as_uri())
        page.wait_for_function(DRAWN, arg=2)
        first = page.evaluate("performance.now()") / 1000
        text = page.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime") / 1000
        started = time.perf_counter()
        panels = page.locator(".panel").all()
        for panel in panels:
            panel.scroll_into_view_if_needed()
        page.wait_for_function(DRAWN, arg=len(panels))
        drawn = time.perf_counter() - started
        chromium.close()
    return {"text (s)": text, "first chart (s)": first, "all charts (s)": drawn}


def main() -> None:
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        sys.exit(f"error: the page is measured in a browser; install one of {', '.join(BROWSERS)}")
    rows: list[dict[str, Any]] = []
    for profile in (SMOKE, QUICK, PAPER):
        with tempfile.TemporaryDirectory() as temporary:
            took, path = rendered(profile, Path(temporary)), Path(temporary) / "index.html"
            times = [opened(path, browser) for _ in range(TIMES)]
            medians = {name: statistics.median(each[name] for each in times) for name in times[0]}
            size = path.stat().st_size / 1e6
            rows.append(
                {"profile": profile.name, "trials": len(planned(profile)), "MB": size, "rendering (s)": took} | medians
            )
    common.write("page", f"{cores()} cores, {TIMES} times", rows)


if __name__ == "__main__":
    main()
