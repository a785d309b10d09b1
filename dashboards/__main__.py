"""`python -m dashboards ui`: look at a study."""

import click

from dashboards import ui
from experiments.command import main


@click.group()
def cli() -> None:
    """Look at a study."""


cli.add_command(ui.command)

if __name__ == "__main__":
    main(cli)
