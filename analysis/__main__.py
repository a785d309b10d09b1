"""`python -m analysis study | report | figures | notebooks | decide`: an entry point into `commands/`."""

from commands.options import main
from commands.render import cli

if __name__ == "__main__":
    main(cli)
