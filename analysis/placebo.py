"""The claims on nets that have hardly been trained: what is supported there is not about training.

Owns how the trials of the experiment `placebo` take the place of trained ones. Must not know how a verdict is reached.
"""

from dataclasses import replace

import pandas as pd

from analysis.decision import evaluate
from analysis.runs import Frames
from analysis.verdicts import Kind
from experiments import placebo
from experiments.profiles import Profile
from study.store.account import RESULTS


def frames_of(frames: Frames, profile: Profile) -> Frames | None:
    """The placebo's rows alone, as if they served the mirrored experiments; None where none has a result."""
    serves = {trial.id: ",".join(names) for trial, names in placebo.mirrored(profile).items()}
    finals = _placed(frames.finals, serves)
    if not finals["outcome"].isin(RESULTS).any():
        return None
    return replace(
        frames,
        finals=finals,
        curves=_placed(frames.curves, serves),
        layers=_placed(frames.layers, serves),
        evaluations=frames.evaluations.iloc[:0],
    )


def kinds(frames: Frames, profile: Profile) -> dict[str, Kind]:
    """What the placebo says of each claim, by its id; {} where no trial of it has a result."""
    instead = frames_of(frames, profile)
    return {verdict.claim.id: verdict.kind for verdict in evaluate(instead, profile)} if instead is not None else {}


def _placed(rows: pd.DataFrame, serves: dict[str, str]) -> pd.DataFrame:
    kept = rows[rows["id"].isin(list(serves))].copy()
    kept["experiments"] = kept["id"].astype(str).map(serves)
    return kept
