"""`python -m experiments status`, and the one view of a study on a terminal: a live table, or plain lines elsewhere.

Owns how a `Standing` looks there. `status --follow` and a run show the same.
"""

import json
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress

import click
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from commands.accounts import accounts, compared, other_versions, versions_line
from commands.onlooker import Onlooker, tracked
from commands.options import JSON, Selection, print_aligned, selecting
from commands.plan import accuracy
from commands.standing import Row, Standing, forecasts_of, standing_of
from study.cost import duration
from study.store.account import Outcome

SUMMARY_SECONDS = 20.0  # between two summaries where there is no terminal
NEWEST = 5  # results and failures that are shown on a terminal


@click.command("status")
@selecting()
@JSON
@click.option("--follow", "following", is_flag=True, help="Again and again, until every trial has a result.")
def status_command(selected: Selection, as_json: bool, following: bool) -> None:
    """Where each trial of the study stands now, how long it will take, and how far predictions were off.

    With --follow until every trial has a result (exit code 0), or until Ctrl-C (130), which stops no trial.
    """
    if following:
        return follow(selected, Console(highlight=False), as_json)
    known = accounts(selected, checked=True)
    expected = forecasts_of(selected, known)
    standing = standing_of(selected, known, expected, others=other_versions(selected))
    if as_json:
        print(json.dumps(standing.plain(), indent=2))
        return
    print_aligned(rows(standing))
    counts = standing.counts
    print("\n" + ", ".join(f"{counts[outcome]} {outcome}" for outcome in sorted(counts) if counts[outcome]))
    for row in standing.of(Outcome.FAILED, Outcome.UNUSABLE):
        print(_failure(row))
    if not standing.complete:
        print(standing.time_left())
    if off := accuracy(compared(known, selected.trials)):
        print(off)
    if standing.others:
        print(versions_line(standing.others))


def rows(standing: Standing) -> list[tuple[str, ...]]:
    """A header, and a row a trial."""
    lines: list[tuple[str, ...]] = [
        ("trial", "outcome", "iteration", "last training error", "predicted", "took", "left")
    ]
    for row in standing.rows:
        took, left = ("" if value is None else duration(value) for value in (row.seconds, row.seconds_left))
        error, predicted = percent(row.train_error_pct), duration(row.predicted_seconds)
        lines.append((row.id, row.outcome, f"{row.iteration} / {row.iterations}", error, predicted, took, left))
    return lines


def follow(selected: Selection, console: Console, as_json: bool) -> None:
    """Show where the study stands until every trial has a result. With `as_json` one line of JSON a look."""
    with tracked(selected) as tracker:
        standings = looks(Onlooker(selected, tracker))
        if as_json:
            for standing in standings:
                print(json.dumps(standing.plain()), flush=True)
        else:
            show(standings, console)


@contextmanager
def shown(onlooker: Onlooker, console: Console) -> Iterator[None]:
    """Show the study while the block runs, and once more at its end."""
    over = threading.Event()
    standings = looks(onlooker, over)
    thread = threading.Thread(target=show, args=(standings, console), kwargs={"transient": True}, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def looks(onlooker: Onlooker, over: threading.Event | None = None) -> Iterator[Standing]:
    """The study now and again, until every trial has a result, or until one look after `over` is set."""
    over = over or threading.Event()
    yield (standing := onlooker.look())
    while not standing.complete and not over.is_set():
        over.wait(onlooker.rest_seconds)
        with suppress(OSError):  # a storage that is out of reach for a while
            yield (standing := onlooker.look())


def show(standings: Iterable[Standing], console: Console, transient: bool = False) -> None:
    """A table that is drawn anew at each look, below the trials that ended; without a terminal plain lines."""
    if console.is_terminal:
        with Live(console=console, refresh_per_second=2, transient=transient) as screen:
            for standing in standings:
                screen.update(picture(standing))
    else:
        for line in lines(standings):
            console.print(line, markup=False, soft_wrap=True)


def lines(standings: Iterable[Standing]) -> Iterator[str]:
    """A line for each trial that ended since the first look, then the summary, which also comes alone now and then."""
    known: int | None = None
    summarised = -SUMMARY_SECONDS
    for standing in standings:
        by_id = {row.id: row for row in standing.rows}
        new = standing.ended[len(standing.ended) if known is None else known :]
        known = len(standing.ended)
        yield from (ending(by_id[id]) for id in new)
        if new or standing.complete or time.monotonic() - summarised >= SUMMARY_SECONDS:
            yield standing.summary()
            summarised = time.monotonic()


def picture(standing: Standing) -> Group:
    """The summary, what runs, and how the last trials ended."""
    table = Table()
    for column in ("running trial", "iteration", "last training error", "left"):
        table.add_column(column, justify="left" if column == "running trial" else "right")
    for row in standing.of(Outcome.RUNNING):
        left = "-" if row.seconds_left is None else duration(row.seconds_left)
        name = Text(f"{row.title}, seed {row.seed}\n{row.id}")
        table.add_row(name, f"{row.iteration} / {row.iterations}", percent(row.train_error_pct), left)
    by_id = {row.id: row for row in standing.rows}
    ended = [ending(by_id[id]) for id in standing.ended[-NEWEST:]]
    failed = [_failure(row) for row in standing.of(Outcome.FAILED, Outcome.UNUSABLE)[:NEWEST]]
    return Group(Text(standing.summary()), table, *map(Text, (*failed, *ended)))


def ending(row: Row) -> str:
    """How one trial ended, and how far its prediction was off."""
    error: str = row.outcome  # of a net that diverged, and of a detector, which has no training error
    if row.outcome != Outcome.DIVERGED and row.train_error_pct is not None:
        error = f"{percent(row.train_error_pct)} training error at last"
    took = "" if row.seconds is None else f", {duration(row.seconds)} (predicted {duration(row.predicted_seconds)})"
    return f"{row.id}: {error} after {row.iteration} iterations{took}"


def percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f} %"


def _failure(row: Row) -> str:
    return f"{row.outcome}: {row.id} {row.reason}"
