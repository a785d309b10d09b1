"""`python -m experiments run`: run what has no result yet, or add seeds until a claim is decided."""

import click
from rich.console import Console

from commands.options import PROBE, RUN_OPTIONS, Costs, Deciding, Selection, costs, deciding, selecting
from commands.train import run_missing
from study.spec import InputError


@click.command("run")
@selecting(*RUN_OPTIONS)
@costs
@PROBE
@deciding
def run_command(selected: Selection, costs: Costs, probe: bool, deciding: Deciding) -> int:
    """Run what has no result yet. Exit code 1 if a trial then still has none, or the claim is still undecided."""
    console = Console(highlight=False)
    if deciding.until_decided:
        from commands.decide import decide  # with pandas and scipy: a second that a run without a claim does not take

        return decide(selected, costs, probe, deciding, console)
    for name, value in (("max-seeds", deciding.max_seeds), ("results", deciding.results)):
        if value is not None:
            raise InputError(f"--{name} is for --until-decided; leave it out, or name a claim")
    return 1 if run_missing(selected, costs, probe, console) else 0
