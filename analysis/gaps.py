"""What a reader must know before any number: results that cannot be used, gaps, single seeds, runs of other versions.

Pure functions of the frames: the page, the terminal and the manifest show them. Must not know where runs are kept.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum

import pandas as pd

from analysis.nets import serving
from experiments import EXPERIMENTS, name_of, scale_of
from experiments.command import Command
from experiments.profiles import Profile
from study.spec import PROTOCOL, SCHEMA
from study.store.account import RESULTS, Outcome

NAMED = 8  # in a sentence; the page and the manifest have all names


class Kind(StrEnum):
    """Why a number may be missing or weak."""

    UNUSABLE = "unusable"  # a trial whose result cannot be one
    NOT_SELECTED = "not selected"  # experiments of the profile
    NOT_RUN = "not run"  # an experiment without any run
    INCOMPLETE = "incomplete"  # an experiment of which some trials lack a result
    OTHER_VERSION = "other version"  # runs of another schema or protocol
    SINGLE_SEED = "single seed"  # conditions with one finished seed


@dataclass(frozen=True)
class Problem:
    """One thing to know: its kind, a sentence, and the names of what it concerns (trials or nets), if any."""

    kind: Kind
    text: str
    names: tuple[str, ...] = ()

    def __str__(self) -> str:
        rest = len(self.names) - NAMED
        names = ", ".join(self.names[:NAMED]) + (f" and {rest} more" if rest > 0 else "")
        return f"{self.text}: {names}" if names else self.text


def problems(
    finals: pd.DataFrame, profile: Profile, others: Mapping[str, list[str]], command: Command | None = None
) -> list[Problem]:
    """Unusable trials one by one, then gaps, runs of `others` (ids, by their version) and conditions of one seed.

    `command` is what selected these trials, for commands that mend a gap.
    """
    command = command or Command(profile=profile.name)
    return [*_unusable(finals), *_gaps(finals, profile, command), *_other_versions(others), *_single_seeds(finals)]


def _unusable(finals: pd.DataFrame) -> Iterator[Problem]:
    for row in finals[finals["outcome"] == Outcome.UNUSABLE].to_dict("records"):
        yield Problem(Kind.UNUSABLE, f"{row['id']} is unusable: {row['problem']}")


def _gaps(finals: pd.DataFrame, profile: Profile, selecting: Command) -> Iterator[Problem]:
    """Experiments that the profile plans without request and that were not selected; that have no run, or lack some."""
    selected = [name for name in map(name_of, EXPERIMENTS) if len(serving(finals, name))]
    left_out = []
    for experiment in EXPERIMENTS:
        name, planned = name_of(experiment), serving(finals, name_of(experiment))
        scale = scale_of(experiment, profile)
        undone = planned[~planned["outcome"].isin((*RESULTS, Outcome.UNUSABLE))]
        ids = tuple(f"{row['id']} ({row['outcome']})" for row in undone.to_dict("records"))
        command = selecting.of(name).make()
        if planned.empty and scale and not scale.on_request and experiment.trials(profile):
            left_out.append(name)
        elif len(planned) and (planned["outcome"] == Outcome.MISSING).all():
            yield Problem(Kind.NOT_RUN, f"{name} has no run; {command} runs its {len(planned)} trials", ids)
        elif ids:
            text = f"{len(ids)} of {len(planned)} trials of {name} lack a result; {command} runs them"
            yield Problem(Kind.INCOMPLETE, text, ids)
    if left_out:
        text = f"{len(left_out)} experiments were not selected; {selecting.of(*selected, *left_out).make()} adds them"
        yield Problem(Kind.NOT_SELECTED, text, tuple(left_out))


def _other_versions(others: Mapping[str, list[str]]) -> Iterator[Problem]:
    this = f"this code has schema {SCHEMA}, protocol {PROTOCOL}"
    for version, ids in others.items():
        yield Problem(Kind.OTHER_VERSION, f"{len(ids)} runs of {version} are not shown: {this}", tuple(ids))


def _single_seeds(finals: pd.DataFrame) -> Iterator[Problem]:
    done = finals[finals["outcome"] == Outcome.FINISHED]
    single = done[done.groupby("condition")["id"].transform("size") == 1]
    nets = tuple(f"{', '.join(rows['title'])} ({names})" for names, rows in single.groupby("experiments", sort=False))
    if nets:
        yield Problem(Kind.SINGLE_SEED, "one finished seed only, hence no deviation, interval or test", nets)
