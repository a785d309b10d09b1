"""`python -m experiments list`: what could be run."""

import json

import click

from commands.options import JSON
from experiments import EXPERIMENTS, name_of
from experiments.profiles import PROFILES


@click.command("list")
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
