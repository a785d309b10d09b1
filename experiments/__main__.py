"""`python -m experiments`: an entry point into `commands/`."""

from commands.app import main

if __name__ == "__main__":
    main("experiments")
