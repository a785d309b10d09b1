"""The application: every command, under the entry point by which it is typed, and the exit codes.

Exit codes: 0 done, 1 something failed or is missing, 2 the user's input is wrong (one line, no traceback), 130
interrupted (the same command continues). Each command is `<name>_command` of its module, which is imported when the
command is used: a plan takes neither pandas nor matplotlib, which take seconds to import.
"""

import importlib
import logging
import signal
import sys

import click

from study.spec import InputError
from study.store import mlflow

EXPERIMENTS = {
    "list": "catalogue",
    "plan": "plan",
    "run": "run",
    "status": "status",
    "evaluate": "evaluate",
    "verify": "verify",
    "export": "share",
    "import": "share",
    "merge": "share",
    "shard": "shard",
}
ANALYSIS = {
    "study": "render",
    "report": "render",
    "figures": "render",
    "notebooks": "render",
    "decide": "decide",
    "preregister": "preregister",
}
DASHBOARDS = {
    "ui": "ui",
    "watch": "watch",
    "metrics": "prometheus",
    "screenshots": "screenshots",
}


class Commands(click.Group):
    """A group of commands, each in a module of `commands/` that is imported when the command is used."""

    def __init__(self, name: str, modules: dict[str, str], summary: str) -> None:
        super().__init__(name, help=summary)
        self.modules = modules

    def list_commands(self, context: click.Context) -> list[str]:
        return list(self.modules)

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        if name not in self.modules:
            return None
        command = getattr(importlib.import_module(f"commands.{self.modules[name]}"), f"{name}_command")
        assert isinstance(command, click.Command)
        return command


experiments = Commands(
    "experiments",
    EXPERIMENTS,
    "The study of 'Deep Residual Learning for Image Recognition' (He et al., CVPR 2016): plan it, run it, see it.",
)
analysis = Commands(
    "analysis",
    ANALYSIS,
    "The paper's tables, figures and claims from the logged runs alone.",
)
dashboards = Commands(
    "dashboards",
    DASHBOARDS,
    "Look at a study.",
)
app = click.Group(commands=[experiments, analysis, dashboards], help="Everything that the study is asked to do.")


def main(entry: str) -> None:
    """Run the command line of `python -m ENTRY` and exit with the study's exit codes."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    mlflow.configure()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C
    try:
        sys.exit(app.commands[entry].main(prog_name=f"python -m {entry}", standalone_mode=False) or 0)
    except InputError as error:
        message = str(error)
    except click.ClickException as error:
        message = error.format_message()
    except (KeyboardInterrupt, click.Abort):
        print("interrupted; the same command continues where this one stopped", file=sys.stderr)
        sys.exit(130)
    print(f"error: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(2)
