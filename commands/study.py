"""`python -m experiments list | plan | run | status | evaluate | verify | export | import | merge | shard`.

What could be run, what would be, run it, how far it is; how finished nets are tested is in `commands/evaluate.py`,
results that travel in `commands/share.py`, rendered files that must be trusted in `commands/verify.py`.
"""

import json
import os
import sys
from pathlib import Path

import click
from rich.console import Console

from commands import plan
from commands.evaluate import evaluate_command
from commands.follow import follow
from commands.live import percent
from commands.options import COST_OPTIONS, DECIDING_OPTIONS, RUN_OPTIONS, Selection, print_aligned, selecting
from commands.run import accounts, compared, run_missing
from commands.share import COMMANDS
from commands.status import forecasts_of, standing_of
from commands.verify import verify_command
from experiments import EXPERIMENTS, name_of
from experiments.profiles import PROFILES
from study.cost import duration
from study.spec import InputError
from study.store.account import Outcome

JSON = click.option("--json", "as_json", is_flag=True, help="Machine-readable output.")
console = Console(highlight=False)


@click.group()
def cli() -> None:
    """The study of 'Deep Residual Learning for Image Recognition' (He et al., CVPR 2016)."""


@cli.command("list")
@JSON
def list_command(as_json: bool) -> None:
    """Experiments and profiles."""
    experiments = {name_of(experiment): (experiment.__doc__ or "").strip() for experiment in EXPERIMENTS}
    profiles = {profile.name: profile.summary for profile in PROFILES}
    if as_json:
        print(json.dumps({"experiments": experiments, "profiles": profiles}, indent=2))
        return
    for name, text in experiments.items():
        print(f"{name}\n    " + text.replace("\n", "\n    ").replace("    \n", "\n") + "\n")
    for name, text in profiles.items():
        print(f"PROFILE={name:8}{text}")


@cli.command("plan")
@selecting(JSON, *COST_OPTIONS, *plan.HARDWARE_OPTIONS)
def plan_command(selected: Selection) -> None:
    """Every trial with what it is predicted to take, longest first, where and when, before anything runs."""
    arguments = selected.arguments
    price, watts = arguments["price"], arguments["watts"]
    found = plan.plan_of(selected, accounts(selected), lambda text: print(text, file=sys.stderr))
    plan.check_budget(found, arguments)
    if arguments["as_json"]:
        trials = {"profile": selected.profile.name, "trials": plan.rows(found, selected.serves)}
        print(json.dumps({**trials, **plan.totals(found, price, watts)}, indent=2))
        return
    print_aligned(plan.table(found))
    print("", *plan.sentences(found, selected.execution.storage, price, watts), sep="\n")


@cli.command()
@selecting(*RUN_OPTIONS, *DECIDING_OPTIONS)
def run(selected: Selection) -> int:
    """Run what has no result yet. Exit code 1 if a trial then still has none, or the claim is still undecided."""
    if selected.arguments["until_decided"]:
        command = [sys.executable, "-m", "analysis", "decide", *sys.argv[2:]]
        os.execv(sys.executable, command)  # this layer may not import what reads results and judges claims
    for name in ("max_seeds", "results"):
        if selected.arguments[name] is not None:
            raise InputError(f"--{name.replace('_', '-')} is for --until-decided; leave it out, or name a claim")
    return 1 if run_missing(selected, console) else 0


@cli.command()
@selecting(JSON, click.option("--follow", is_flag=True, help="Again and again, until every trial has a result."))
def status(selected: Selection) -> None:
    """Where each trial of the study stands now, how long it will take, and how far predictions were off.

    With --follow until every trial has a result (exit code 0), or until Ctrl-C (130), which stops no trial.
    """
    if selected.arguments["follow"]:
        return follow(selected, console, selected.arguments["as_json"])
    said = accounts(selected, checked=True)
    standing = standing_of(selected, said, forecasts_of(selected, said))
    if selected.arguments["as_json"]:
        print(json.dumps(standing.plain(), indent=2))
        return
    lines = [("trial", "outcome", "iteration", "training error", "predicted", "took", "left")]
    for row in standing.rows:
        reached = f"{row.iteration} / {row.iterations}"
        took, left = ("" if value is None else duration(value) for value in (row.seconds, row.seconds_left))
        error, predicted = percent(row.train_error_pct), duration(row.predicted_seconds)
        lines.append((row.id, row.outcome, reached, error, predicted, took, left))
    print_aligned(lines)
    counts = standing.counts
    print("\n" + ", ".join(f"{counts[outcome]} {outcome}" for outcome in sorted(counts) if counts[outcome]))
    for row in standing.of(Outcome.FAILED, Outcome.UNUSABLE):
        print(f"{row.outcome}: {row.id} {row.reason}")
    if not standing.complete:
        print(standing.time_left())
    if off := plan.accuracy(compared(said, selected.trials)):
        print(off)


@cli.command()
@click.argument("source")
@click.argument("name")
@click.option("--data-root", type=Path, default=Path("data"), help="Folder of data sets (default: data).")
@click.option("--shard-mib", type=click.IntRange(min=1), default=256, help="Size of a shard (default: 256).")
def shard(source: str, name: str, data_root: Path, shard_mib: int) -> None:
    """Write the photographs of SOURCE (imagenet, images:NAME or photographs) into WebDataset shards, shards:NAME.

    For storage that reads long files faster than many small ones.
    """
    from study.data import indexes  # torch comes with it

    folder, counts = indexes.write_shards(source, name, data_root, shard_mib)
    print(f"{counts['train']} training and {counts['val']} validation images are in {folder}: data set shards:{name}")


for command in (evaluate_command, verify_command, *COMMANDS):
    cli.add_command(command)
