"""What every command line of the study shares: the options that select trials, plain tables, and the exit codes.

Exit codes: 0 done, 1 something failed or is missing, 2 the user's input is wrong (one line, no traceback), 130
interrupted (the same command continues).
"""

import functools
import logging
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import click

from experiments import planned
from experiments.profiles import PROFILES, Profile, profile
from study.execution import Execution
from study.spec import InputError, Trial
from study.store import atomic, mlflow


@dataclass(frozen=True)
class Selection:
    """The trials a command is about, with the experiments each serves, and how and where they are run."""

    profile: Profile
    serves: dict[Trial, list[str]]
    execution: Execution
    arguments: dict[str, Any] = field(repr=False)

    @property
    def trials(self) -> list[Trial]:
        return list(self.serves)


OPTIONS = (
    click.option("--profile", default="quick", help=f"{', '.join(p.name for p in PROFILES)} (default: quick)."),
    click.option("--experiments", default="", help="Names, separated by spaces; all if none is given."),
    click.option("--seeds", type=int, help="Seeds of every condition, instead of the profile's."),
    click.option("--data", default="", help="Other data: digits, fashion-mnist, cifar10, cifar100 or folder:NAME."),
    click.option(
        "--held-out", type=int, default=0, help="Training images kept for validation: 5000 is the 45k/5k split."
    ),
    click.option("--data-root", type=Path, default=Path("data"), help="Where data sets are kept (default: data)."),
    click.option("--storage", default="store", help="Folder of the store, or s3://bucket/folder (default: store)."),
    click.option("--tracking-uri", default="", help="An MLflow server, instead of the store's own database."),
    click.option("--cpus", type=int, default=0, help="Cores to fill (default: all)."),
    click.option("--processes", type=int, default=1, help="Processes that share each batch of a trial (default: 1)."),
    click.option("--threads", type=int, default=1, help="CPU threads of each process (default: 1)."),
)
COST_OPTIONS = (
    click.option("--device", default="auto", help="auto, cpu or cuda (default: auto)."),
    click.option(
        "--gpus-per-trial",
        type=float,
        default=1.0,
        help="Share of a GPU that each process of a trial takes; 0: what it needs (default: 1).",
    ),
    click.option(
        "--memory-gib", type=float, default=0.0, help="Memory each process may take (default: an equal share)."
    ),
    click.option("--local", is_flag=True, help="A plain for-loop in this process, without Ray."),
    click.option("--probe", is_flag=True, help="First time some updates of each condition, for better predictions."),
    click.option("--price", type=float, help="Money for an hour of one GPU in use; without GPUs, of one core."),
    click.option("--watts", type=float, help="Power of one GPU in use; without GPUs, of one core."),
    click.option(
        "--budget",
        default="",
        help="Refuse more: GPU-hours (without GPUs core-hours) as 12h, energy as 5kWh, or money as a number.",
    ),
)
RUN_OPTIONS = (
    *COST_OPTIONS,
    click.option("--retries", type=int, default=2, help="Further attempts at a trial that failed (default: 2)."),
    click.option("--checkpoint-seconds", type=float, default=30.0, help="Work lost by a kill, at most (default: 30)."),
    click.option("--compile", is_flag=True, help="torch.compile the training pass: for trials of an hour and more."),
    click.option("--deterministic/--no-deterministic", default=True, help="On a GPU: results that repeat (default)."),
    click.option(
        "--profile-trace",
        is_flag=False,
        flag_value="longest",
        default="",
        help="Profile three updates of the trial of this id (default: the first that is started).",
    ),
    click.option("--address", default="", help="A running Ray cluster, instead of this machine."),
)
DECIDING_OPTIONS = (
    click.option(
        "--until-decided",
        metavar="CLAIM",
        default="",
        help="Instead of everything: add paired seeds of what the claim compares until it is decided.",
    ),
    click.option("--max-seeds", type=int, help="With --until-decided: no more than so many seeds (default: 24)."),
    click.option("--results", type=Path, help="With --until-decided: folder of results (default: results)."),
)


def selecting(*more: Callable[..., Any]) -> Callable[..., Any]:
    """Decorate a click command: `OPTIONS` and `more` become its first argument, a `Selection`."""

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(command)
        def wrapped(**arguments: Any) -> Any:
            return command(select(arguments))

        return accepting(*more)(wrapped)

    return decorate


def accepting(*more: Callable[..., Any]) -> Callable[..., Any]:
    """Decorate a click command: `OPTIONS` and `more` become its keywords, from which `select` makes a `Selection`."""

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        for option in reversed((*OPTIONS, *more)):
            command = option(command)
        return command

    return decorate


def select(arguments: dict[str, Any]) -> Selection:
    """The trials that these values of `OPTIONS` select."""
    chosen = profile(arguments["profile"])
    if arguments["seeds"] is not None:
        chosen = chosen.with_seeds(arguments["seeds"])
    name, root, ours = arguments["data"], arguments["data_root"], chosen.data
    if name and name != ours.name:
        from study.data.arrays import describe

        theirs = describe(name, root, padding=ours.padding, flip=ours.flip, normalise=ours.normalise)
        chosen = chosen.with_data(theirs)
    if arguments["held_out"]:
        chosen = chosen.with_data(replace(chosen.data, held_out=arguments["held_out"]))
    place = arguments["storage"] = atomic.place(arguments["storage"])
    if not atomic.is_local(place) and not arguments["tracking_uri"]:
        raise InputError(
            f"storage {place} cannot hold the tracking database; name an MLflow server with --tracking-uri"
        )
    execution = Execution(**{name: arguments[name] for name in Execution.__dataclass_fields__ if name in arguments})
    return Selection(chosen, planned(chosen, arguments["experiments"].split()), execution, arguments)


def print_aligned(lines: Sequence[tuple[str, ...]]) -> None:
    """A table of which no cell is ever cut, because ids are there to be copied: the first column left, others right."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for first, *others in lines:
        cells = [first.ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True))]
        print("  ".join(cells).rstrip())


def main(cli: click.Command) -> None:
    """Run a command line and exit with the study's exit codes."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    mlflow.configure()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C
    try:
        sys.exit(cli.main(standalone_mode=False) or 0)
    except InputError as error:
        message = str(error)
    except click.ClickException as error:
        message = error.format_message()
    except (KeyboardInterrupt, click.Abort):
        print("interrupted; the same command continues where this one stopped", file=sys.stderr)
        sys.exit(130)
    print(f"error: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(2)
