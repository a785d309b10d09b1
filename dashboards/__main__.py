"""`python -m dashboards ui`, `watch`, `metrics`, `screenshots`: look at a study."""

import click

from dashboards import screenshots, ui
from dashboards.metrics import metrics_command
from dashboards.watch import watch_command
from experiments.command import main


@click.group()
def cli() -> None:
    """Look at a study."""


for command in (ui.command, watch_command, metrics_command, screenshots.command):
    cli.add_command(command)

if __name__ == "__main__":
    main(cli)
