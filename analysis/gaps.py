"""What a reader must know before any number: results that cannot be used, gaps, single seeds, runs of other versions.

Pure functions of the frames: page, terminal and manifest say their sentences. Must not know where runs are kept.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import pandas as pd

from analysis.nets import serving
from experiments import EXPERIMENTS, name_of
from experiments.profiles import Profile
from study.spec import PROTOCOL, SCHEMA
from study.store.account import RESULTS, Outcome

NAMED = 8  # in a sentence; the page and the manifest have all names


@dataclass(frozen=True)
class Problem:
    """One thing to know, and the names of what it concerns: trials, nets or none."""

    said: str
    names: list[str]

    def __str__(self) -> str:
        rest = len(self.names) - NAMED
        names = ", ".join(self.names[:NAMED]) + (f" and {rest} more" if rest > 0 else "")
        return f"{self.said}: {names}" if names else self.said


def problems(finals: pd.DataFrame, profile: Profile, others: Mapping[str, list[str]]) -> list[Problem]:
    """Unusable trials one by one, then gaps, runs of `others` (ids, by their version) and conditions of one seed."""
    unusable = finals[finals["outcome"] == Outcome.UNUSABLE]
    ours = f"this code has schema {SCHEMA}, protocol {PROTOCOL}"
    return [
        *(Problem(f"{row['id']} is unusable: {row['problem']}", []) for row in unusable.to_dict("records")),
        *_gaps(finals, profile),
        *(Problem(f"{len(ids)} runs of {version} are not shown: {ours}", ids) for version, ids in others.items()),
        *_single_seeds(finals),
    ]


def _gaps(finals: pd.DataFrame, profile: Profile) -> Iterator[Problem]:
    """Experiments of the profile that were not selected, have no run at all, or lack results."""
    for experiment in EXPERIMENTS:
        name, planned = name_of(experiment), serving(finals, name_of(experiment))
        undone = planned[~planned["outcome"].isin((*RESULTS, Outcome.UNUSABLE))]
        ids = [f"{row['id']} ({row['outcome']})" for row in undone.to_dict("records")]
        command = f"make degradation-study PROFILE={profile.name} EXPERIMENTS={name}"
        if planned.empty and list(experiment.trials(profile)):
            yield Problem(f"{name} was not selected; {command} adds it", [])
        elif len(planned) and (planned["outcome"] == "missing").all():
            yield Problem(f"no run of {name} is there; {command} runs its {len(planned)} trials", ids)
        elif ids:
            yield Problem(f"{len(ids)} of {len(planned)} trials of {name} lack a result; {command} runs them", ids)


def _single_seeds(finals: pd.DataFrame) -> Iterator[Problem]:
    done = finals[finals["outcome"] == "finished"]
    single = done[done.groupby("condition")["id"].transform("size") == 1]
    nets = [f"{', '.join(rows['title'])} ({names})" for names, rows in single.groupby("experiments", sort=False)]
    if nets:
        yield Problem("one finished seed only, hence no deviation, interval or test", nets)
