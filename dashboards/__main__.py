"""`python -m dashboards ui | watch | metrics | screenshots`: an entry point into `commands/`."""

from commands.look import cli
from commands.options import main

if __name__ == "__main__":
    main(cli)
