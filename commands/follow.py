"""`python -m experiments status --follow`: a study's standing on a terminal, or as lines, until it is complete.

Owns how it looks there; the numbers are those of `commands/status.py`.
"""

import json
import time
from collections.abc import Iterable, Iterator

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from commands import live
from commands.live import LOOK_SECONDS, SAY_SECONDS, percent
from commands.options import Selection
from commands.status import Onlooker, Row, Standing, tracked
from study.cost import duration
from study.store import atomic
from study.store.account import Outcome

NEWEST = 5  # results and failures that are shown on a terminal


def follow(selected: Selection, console: Console, as_json: bool) -> None:
    """Show where the study stands until every trial has a result. With `as_json` one line of JSON a look.

    Without a terminal: a line for each trial that ends, and a summary at its end and every 20 seconds.
    """
    with tracked(selected) as tracker:
        standings = looks(Onlooker(selected, tracker), rest_seconds(selected))
        if as_json:
            for standing in standings:
                print(json.dumps(standing.plain()), flush=True)
        elif console.is_terminal:
            with Live(console=console, refresh_per_second=2) as screen:
                for standing in standings:
                    screen.update(picture(standing))
        else:
            for line in lines(standings):
                console.print(line, markup=False, soft_wrap=True)


def rest_seconds(selected: Selection) -> float:
    """Between two looks: longer where each file is a request."""
    return LOOK_SECONDS if atomic.is_local(selected.execution.storage) else 10 * LOOK_SECONDS


def looks(onlooker: Onlooker, rest: float) -> Iterator[Standing]:
    """The study now and again, until every trial has a result."""
    while not (standing := onlooker.look()).complete:
        yield standing
        time.sleep(rest)
    yield standing


def lines(standings: Iterable[Standing]) -> Iterator[str]:
    """What is new, one line each: trials that ended since the first look, then the summary, which also comes alone."""
    known: int | None = None
    said = -SAY_SECONDS
    for standing in standings:
        rows = {row.id: row for row in standing.rows}
        new = standing.ended[len(standing.ended) if known is None else known :]
        known = len(standing.ended)
        yield from (ending(rows[id]) for id in new)
        if new or standing.complete or time.monotonic() - said >= SAY_SECONDS:
            yield f"{standing.sentence()}; {standing.time_left()}{standing.remark()}"
            said = time.monotonic()


def ending(row: Row) -> str:
    """How one trial ended, and how far its prediction was off."""
    error = live.ending(row.outcome, row.train_error_pct)
    took = "" if row.seconds is None else f", {duration(row.seconds)} (predicted {duration(row.predicted_seconds)})"
    return f"{row.id}: {error} after {row.iteration} iterations{took}"


def picture(standing: Standing) -> Group:
    """The same on a terminal: the summary, what runs, and how the last ones ended."""
    table = Table()
    for column in ("running trial", "iteration", "training error", "left"):
        table.add_column(column, justify="left" if column == "running trial" else "right")
    for row in standing.of(Outcome.RUNNING):
        left = "-" if row.seconds_left is None else duration(row.seconds_left)
        table.add_row(row.id, f"{row.iteration} / {row.iterations}", percent(row.train_error_pct), left)
    rows = {row.id: row for row in standing.rows}
    ended = [ending(rows[id]) for id in standing.ended[-NEWEST:]]
    failed = [f"{row.outcome}: {row.id} {row.reason}" for row in standing.of(Outcome.FAILED, Outcome.UNUSABLE)[:NEWEST]]
    summary = f"{standing.sentence()}; {standing.time_left()}{standing.remark()}"
    return Group(Text(summary), table, *map(Text, (*failed, *ended)))
