"""The application: every command, under the entry point by which it is typed, and the exit codes.

Exit codes: 0 done, 1 something failed or is missing, 2 the user's input is wrong (one line, no traceback), 130
interrupted (the same command continues). Each command is `<name>_command` of its module, which is imported when the
command is used: a plan takes neither pandas nor matplotlib, which take seconds to import.
"""

import codecs
import errno
import importlib
import io
import logging
import os
import signal
import sys
import warnings

import click

from study.execution import EngineError
from study.printable import configure_logs, printable
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

PICTURES = {"MPLBACKEND": "agg", "MATPLOTLIBRC": os.devnull}  # are files, alike whatever a user has set for screens
ELSEWHERE = "choose another place"
PLACES = {  # what to do where a place that was named is wrong
    errno.ENAMETOOLONG: "its file system takes no name as long; choose a shorter one",
    errno.ENOTDIR: f"a file is where a folder must be; {ELSEWHERE}",
    errno.EEXIST: f"something else has the name; {ELSEWHERE}",
    errno.EISDIR: f"a folder has the name of the file; {ELSEWHERE}",
    errno.ENOENT: f"nothing is there; {ELSEWHERE}",
    errno.ELOOP: f"its links lead in a circle; {ELSEWHERE}",
    errno.EROFS: f"its file system is read-only; {ELSEWHERE}",
    errno.EACCES: f"{ELSEWHERE}, or change its permissions",
    errno.EPERM: f"{ELSEWHERE}, or change its permissions",
}
REMEDIES = {
    errno.ENOSPC: "make room on its disk, then repeat the command: nothing is lost",
    errno.EDQUOT: "make room within the quota, then repeat the command: nothing is lost",
    errno.EMFILE: "allow more open files with `ulimit -n`",
    errno.EAGAIN: "allow more processes with `ulimit -u`",
    errno.ENOMEM: "make memory free, or let fewer trials run at a time with --cpus",
}
IN_ASCII = {
    "±": "+-",
    "—": "--",
    "–": "-",
    "−": "-",
    "·": "*",
    "×": "x",
    "≤": "<=",
    "≥": ">=",
    "≈": "~",
    "→": "->",
    "…": "...",
    "\xa0": " ",
    "\u202f": " ",
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
    _print_anywhere()
    os.environ.update(PICTURES)  # before matplotlib is imported
    _no_warning_is_an_error()
    os.umask(os.umask(0) | 0o002)  # nothing that a command writes can be written by everybody, whatever is usual here
    configure_logs()
    mlflow.configure()
    code = 2
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
    except EngineError as error:
        message, code = str(error), 1
    except OSError as error:
        logging.getLogger(__name__).debug("an error of the system", exc_info=True)
        message, code = of_the_system(error)
    print(f"error: {printable(' '.join(message.split()))}", file=sys.stderr)
    sys.exit(code)


def of_the_system(error: OSError) -> tuple[str, int]:
    """What an error of the operating system means for who typed the command, and the exit code: 2 for a wrong place."""
    reason = error.strerror or str(error) or type(error).__name__
    place = os.fsdecode(error.filename) if isinstance(error.filename, str | bytes) else ""
    if place and error.errno in PLACES:
        return f"{place} cannot be used ({reason}); {PLACES[error.errno]}", 2
    remedy = REMEDIES.get(error.errno or 0, "nothing is lost; try the same command again")
    if not place:
        place = "a file, or the output, of this command" if error.errno in REMEDIES else "something this command needs"
    return f"{place} cannot be used ({reason}); {remedy}", 1


def _print_anywhere() -> None:
    """Print in ASCII what the encoding of a terminal lacks: results have ± and —, and names any character."""
    codecs.register_error("in_ascii", _in_ascii)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="in_ascii")


def _no_warning_is_an_error() -> None:
    """Not here, nor in processes that this one starts: with PYTHONWARNINGS=error, MLflow could not be imported."""
    if any(option.startswith("error") for option in sys.warnoptions):
        sys.warnoptions.clear()
        os.environ.pop("PYTHONWARNINGS", None)
        warnings.simplefilter("default")
        for kind in (DeprecationWarning, PendingDeprecationWarning, ImportWarning, ResourceWarning):
            warnings.simplefilter("ignore", kind)


def _in_ascii(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeEncodeError)
    lacking = error.object[error.start : error.end]
    known = (IN_ASCII.get(one) or one.encode("ascii", "backslashreplace").decode() for one in lacking)
    return "".join(known), error.end
