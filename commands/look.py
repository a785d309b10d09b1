"""`python -m dashboards ui`, `watch`, `metrics`, `screenshots`: look at a study."""

import click

from commands import screenshots, ui
from commands.prometheus import metrics_command
from commands.watch import watch_command


@click.group()
def cli() -> None:
    """Look at a study."""


for command in (ui.command, watch_command, metrics_command, screenshots.command):
    cli.add_command(command)
