"""The options that several commands share, as typed values, and the trials that they select.

Each group of options is decorated once and reaches its command as one dataclass. Owns no command.
"""

import functools
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import click

from experiments import EXPERIMENTS, name_of, planned
from experiments.command import Command
from experiments.profiles import PROFILES, Profile, profile
from study.addresses import apart
from study.data.detection_sets import is_scenes
from study.execution import Execution
from study.spec import InputError, Trial, detection_of
from study.store import atomic

DATA_ROOT = Path("data")
Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


@dataclass(frozen=True, kw_only=True)
class Choice:
    """What a person chose, before it is looked up: names, not trials."""

    profile: str = "quick"
    experiments: str = ""  # names, separated by spaces; '' is all
    seeds: int | None = None  # None: the profile's
    data: str = ""  # '' is the profile's
    held_out: int = 0


@dataclass(frozen=True)
class Selection:
    """The trials a command is about, with the experiments each serves, and how and where they are run."""

    profile: Profile
    serves: dict[Trial, list[str]]
    execution: Execution
    choice: Choice = Choice()

    @property
    def trials(self) -> list[Trial]:
        return list(self.serves)

    def command(self, results: Path = Path("results")) -> Command:
        """What selects the same trials again, in the same store, and renders into the same folder."""
        choice, execution = self.choice, self.execution
        options = {
            "held-out": str(choice.held_out or ""),
            "data-root": "" if execution.data_root == DATA_ROOT else str(execution.data_root),
            "tracking-uri": execution.tracking_uri,
        }
        return Command(
            profile=choice.profile,
            experiments=choice.experiments,
            seeds=self.profile.seeds,
            data=choice.data,
            store=str(execution.storage),
            results=str(results),
            options=tuple(word for name, value in options.items() if value for word in (f"--{name}", value)),
        )


@dataclass(frozen=True, kw_only=True)
class Costs:
    """What running costs, and how much of it is allowed."""

    price: float | None = None  # of an hour of one GPU in use; without GPUs, of one core
    watts: float | None = None  # of the same
    budget: str = ""  # '12h', '5kWh', a number of money, or '' for none


@dataclass(frozen=True, kw_only=True)
class Hardware:
    """The nodes that a plan is made for."""

    gpus: int | None = None  # of each node; None: this machine's
    nodes: int = 1


@dataclass(frozen=True, kw_only=True)
class Deciding:
    """A sequence of paired seeds."""

    until_decided: str = ""  # id of a claim; '' is no sequence
    max_seeds: int | None = None
    results: Path | None = None


class LocalPath(click.ParamType[Path]):
    """A file or folder of this machine, as `atomic.local` reads it."""

    name = "path"

    def convert(self, value: str | Path, parameter: click.Parameter | None, context: click.Context | None) -> Path:
        return atomic.local(value)


PATH = LocalPath()


def without_password(context: click.Context, parameter: click.Parameter, value: str) -> str:
    """The tracking address without its password, which goes where MLflow looks for it."""
    address, variables = apart(value)
    os.environ.update(variables)
    return address


TRACKING_URI = click.option(
    "--tracking-uri",
    default="",
    callback=without_password,
    help="An MLflow server, instead of the store's own database.",
)
CHOICE_OPTIONS = (
    click.option("--profile", default="quick", help=f"{', '.join(p.name for p in PROFILES)} (default: quick)."),
    click.option("--experiments", default="", help="Names, separated by spaces; all if none is given."),
    click.option("--seeds", type=int, help="Seeds of every condition, instead of the profile's."),
    click.option(
        "--data",
        default="",
        help="Other data: digits, fashion-mnist, cifar10, cifar100 or folder:NAME; or photographs: imagenet,"
        " images:NAME, shards:NAME, photographs (made here); for detection-* voc:NAME or coco:NAME. NAME is a folder of"
        " --data-root.",
    ),
    click.option(
        "--held-out", type=int, default=0, help="Training images kept for validation: 5000 is the 45k/5k split."
    ),
)
# Each of the following is a field of `Execution`.
PLACE_OPTIONS = (
    click.option("--data-root", type=PATH, default=DATA_ROOT, help="Where data sets are kept (default: data)."),
    click.option("--storage", default="store", help="Folder of the store, or s3://bucket/folder (default: store)."),
    TRACKING_URI,
    click.option("--cpus", type=int, default=0, help="Cores to fill (default: all that this process may use)."),
    click.option("--processes", type=int, default=1, help="Processes that share each batch of a trial (default: 1)."),
    click.option("--threads", type=int, default=1, help="CPU threads of each process (default: 1)."),
)


def _cohort(context: click.Context, parameter: click.Parameter, value: str) -> int:
    """How many seeds train together, as `Execution` has it."""
    if value == "auto":
        return 0
    if not value.isascii() or not value.isdigit() or int(value) < 1:
        raise InputError(f"cohort {value!r} is not understood; choose auto, 1 (alone) or more seeds to train together")
    return int(value)


DEVICE = click.option("--device", default="auto", help="auto, cpu or cuda (default: auto).")
DEVICE_OPTIONS = (
    DEVICE,
    click.option(
        "--gpus-per-trial",
        type=float,
        default=1.0,
        help="Share of a GPU that each process of a trial takes; 0: what it needs (default: 1).",
    ),
    click.option(
        "--cohort",
        default="auto",
        callback=_cohort,
        help="Seeds of a condition that train together as one net: a number, or auto, by the GPU's memory; on a CPU"
        " alone (default: auto).",
    ),
    click.option(
        "--memory-gib", type=float, default=0.0, help="Memory each process may take (default: an equal share)."
    ),
    click.option("--local", is_flag=True, help="A plain for-loop in this process, without Ray."),
)
RUN_OPTIONS = (
    *DEVICE_OPTIONS,
    click.option("--retries", type=int, default=2, help="Further attempts at a trial that failed (default: 2)."),
    click.option("--checkpoint-seconds", type=float, default=30.0, help="Work lost by a kill, at most (default: 30)."),
    click.option("--compile", is_flag=True, help="torch.compile the training pass: for trials of an hour and more."),
    click.option("--capture/--no-capture", default=True, help="On a GPU: updates as CUDA graphs (default)."),
    click.option("--deterministic/--no-deterministic", default=True, help="On a GPU: results that repeat (default)."),
    click.option(
        "--profile-trace",
        is_flag=False,
        flag_value="longest",
        default="",
        help="Profile three updates of the trial of this id (default: the longest).",
    ),
    click.option("--address", default="", help="A running Ray cluster, instead of this machine."),
)
JSON = click.option("--json", "as_json", is_flag=True, help="Machine-readable output.")
PROBE = click.option("--probe", is_flag=True, help="First time some updates of each condition: better predictions.")
RESULTS = click.option(
    "--results",
    type=PATH,
    default=Path("results"),
    help="Folder of results (default: results).",
)
STORAGE = click.option("--storage", default="store", help="Folder of the store (default: store).")


def _taken(values: dict[str, Any], kind: type[Any]) -> dict[str, Any]:
    """The values of the fields of a dataclass, removed from `values`."""
    return {field.name: values.pop(field.name) for field in fields(kind) if field.name in values}


def grouped(kind: type[Any], *options: Decorator) -> Decorator:
    """Decorate a click command: the options become one `kind`, its keyword of that name in lower case."""

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(command)
        def wrapped(**values: Any) -> Any:
            group = kind(**_taken(values, kind))
            return command(**values, **{kind.__name__.lower(): group})

        return _with(options, wrapped)

    return decorate


def choosing(*more: Decorator) -> Decorator:
    """Decorate a click command that gets a `choice`, and an `execution` of `PLACE_OPTIONS` and `more`."""

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(command)
        def wrapped(**values: Any) -> Any:
            choice, execution = Choice(**_taken(values, Choice)), _taken(values, Execution)
            execution["storage"] = place = atomic.place(execution["storage"])
            if not atomic.is_local(place) and not execution["tracking_uri"]:
                raise InputError(
                    f"storage {place} cannot hold the tracking database; name an MLflow server with --tracking-uri"
                )
            try:  # raises for a name that is too long, and where this user must not look
                for folder in (place, execution["data_root"]):
                    atomic.check_folder(folder)
            except OSError as error:
                raise InputError(f"{folder} cannot be used ({error.strerror}); choose another place") from None
            return command(choice=choice, execution=Execution(**execution), **values)

        return _with((*CHOICE_OPTIONS, *PLACE_OPTIONS, *more), wrapped)

    return decorate


def selecting(*more: Decorator) -> Decorator:
    """Decorate a click command that gets the `selected` trials; `more` are further options of `Execution`."""

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(command)
        def wrapped(choice: Choice, execution: Execution, **values: Any) -> Any:
            return command(selected=select(choice, execution), **values)

        return choosing(*more)(wrapped)

    return decorate


def _with(options: Sequence[Decorator], command: Callable[..., Any]) -> Callable[..., Any]:
    for option in reversed(options):
        command = option(command)
    return command


costs = grouped(
    Costs,
    click.option("--price", type=float, help="Money for an hour of one GPU in use; without GPUs, of one core."),
    click.option("--watts", type=float, help="Power of one GPU in use; without GPUs, of one core."),
    click.option(
        "--budget",
        default="",
        help="Refuse more: GPU-hours (without GPUs core-hours) as 12h, energy as 5kWh, or money as a number.",
    ),
)
hardware = grouped(
    Hardware,
    click.option("--gpus", type=int, help="GPUs of each node to plan for (default: this machine's)."),
    click.option("--nodes", type=int, default=1, help="Nodes to plan for, all alike (default: 1)."),
)
deciding = grouped(
    Deciding,
    click.option(
        "--until-decided",
        metavar="CLAIM",
        default="",
        help="Instead of everything: add seeds of what the claim compares until it is decided.",
    ),
    click.option("--max-seeds", type=int, help="With --until-decided: the most seeds, which sets the rule."),
    click.option("--results", type=PATH, help="With --until-decided: folder of results (default: results)."),
)


def select(choice: Choice, execution: Execution) -> Selection:
    """The trials that were chosen. Raises `InputError` for names and data that do not exist, and if there are none."""
    chosen = profile(choice.profile)
    if choice.seeds is not None:
        chosen = chosen.with_seeds(choice.seeds)
    if choice.data and choice.data != chosen.data.name:
        chosen = _with_data(chosen, choice.data, execution.data_root)
    if choice.held_out:
        chosen = chosen.with_held_out(choice.held_out)
    names = choice.experiments.split()
    serves = planned(chosen, names)
    if choice.data or choice.held_out:
        choice = _heeding(choice, serves)
        serves = planned(chosen, choice.experiments.split())
    used = {name for some in serves.values() for name in some}
    for name in names or ([] if serves else [""]):
        if name not in used:
            raise InputError(_without_trials(chosen, name))
    return Selection(chosen, serves, execution, choice)


def _with_data(chosen: Profile, name: str, root: Path) -> Profile:
    """The profile on the data of that name."""
    if is_scenes(name):
        if not chosen.detectors:
            having = " or ".join(other.name for other in PROFILES if other.detectors)
            raise InputError(f"data {name} are of objects, and profile {chosen.name} has no detector; choose {having}")
        from study.data.scenes import describe as described  # with torch, as below

        like = next(trial.data for trial in planned(chosen) if detection_of(trial))
        return chosen.on_data(described(name, root, like))
    from study.data.arrays import describe  # with torch: a second that the profile's own data do not take

    own = chosen.data
    return chosen.on_data(describe(name, root, padding=own.padding, flip=own.flip, normalise=own.normalise))


def _heeding(choice: Choice, serves: dict[Trial, list[str]]) -> Choice:
    """The choice of those experiments that the chosen data, or held-out images, are for: all of them are named.

    Nothing that is chosen is ignored: raises `InputError` if another experiment is named, or none is left.
    """
    trials: dict[str, list[Trial]] = {}
    for trial, served in serves.items():
        for name in served:
            trials.setdefault(name, []).append(trial)
    deaf: dict[str, str] = {}
    for name, some in trials.items():
        if choice.data and not any(trial.data.name == choice.data for trial in some):
            own = ", ".join(dict.fromkeys(trial.data.name for trial in some))
            deaf[name] = f"--data {choice.data} is not for experiment {name}, which is trained on {own}"
        elif choice.held_out and any(detection_of(t) or t.data.held_out != choice.held_out for t in some):
            deaf[name] = f"--held-out {choice.held_out} is not for experiment {name}, which chooses that itself"
    if not deaf:
        return choice
    left = [name for name in trials if name not in deaf]
    if choice.experiments or not left:
        others = f"; it is for {', '.join(left)}" if left else ""
        raise InputError(f"{next(iter(deaf.values()))}{others}; leave it out, or choose other --experiments")
    chosen = f"--data {choice.data}" if choice.data else f"--held-out {choice.held_out}"
    print(f"{chosen} is for {', '.join(left)}; not planned: {', '.join(deaf)}", file=sys.stderr)
    return replace(choice, experiments=" ".join(left))


def _without_trials(chosen: Profile, name: str) -> str:
    """What to say of an experiment that has no trial in the profile; of a profile without any, if it has no name."""
    if not name:
        return f"profile {chosen.name} has no trial; name experiments: {', '.join(map(name_of, EXPERIMENTS))}"
    others = [other.name for other in PROFILES if other.name != chosen.name and planned(other, [name])]
    where = f"it has some in {', '.join(others)}: --profile {others[0]}" if others else "nor in any other; leave it out"
    return f"experiment {name} has no trial in profile {chosen.name}; {where}"


def print_aligned(lines: Sequence[tuple[str, ...]]) -> None:
    """A table of which no cell is ever cut, because ids are there to be copied: the first column left, others right."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for first, *others in lines:
        cells = [first.ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True))]
        print("  ".join(cells).rstrip())
