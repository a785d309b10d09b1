"""Commands as a person types them: which words of `make` select the same trials, store and results again.

The one place that makes them. Must not know how a command is run.
"""

import shlex
from dataclasses import dataclass, replace

RENDERING = ("degradation-study", "figures", "report", "notebooks")  # targets that write results


@dataclass(frozen=True, kw_only=True)
class Command:
    """What selects trials, and where they and their results are. `options` are further words of the command line."""

    profile: str = "quick"  # as it is typed: a name, or FILE.py:VARIABLE
    experiments: str = ""  # names, separated by spaces; '' is all
    seeds: int | None = None
    data: str = ""
    store: str = "store"
    results: str = "results"
    options: tuple[str, ...] = ()

    def make(self, target: str = "degradation-study") -> str:
        """The line for a shell, without what is the default."""
        words = {"STORE": "" if self.store == "store" else self.store}
        if target != "ui":  # which shows every profile
            words = {"PROFILE": self.profile, "EXPERIMENTS": self.experiments, "DATA": self.data} | words
            words["SEEDS"] = "" if self.seeds is None else str(self.seeds)
            words["ARGS"] = shlex.join(self.options)
        if target in RENDERING:
            words["RESULTS"] = "" if self.results == "results" else self.results
        # A dollar is a variable of make unless there are two.
        given = [f"{name}={shlex.quote(value.replace('$', '$$'))}" for name, value in words.items() if value]
        return " ".join(["make", target, *given])

    def of(self, *experiments: str) -> "Command":
        """The same for these experiments alone."""
        return replace(self, experiments=" ".join(experiments))
