"""`python -m experiments`: an entry point into `commands/`."""

from commands.options import main
from commands.study import cli

if __name__ == "__main__":
    main(cli)
