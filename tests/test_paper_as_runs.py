"""The paper's own digitised curves, fed through the pipeline as if they were runs, give the paper's verdicts.

Each of five seeds has the curve of the net, shifted by noise of the size that Table 6 gives for five runs of ResNet-110
(0.16 points; a tenth of it in training error). Where the figure's axis cuts a curve off, it is at 25 %; plain-110,
which the paper does not draw, is at 65 %, because its caption says 'higher than 60%'.
"""

from dataclasses import replace

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from analysis import paper
from analysis.decision import evaluate
from analysis.runs import RECORD, load
from analysis.verdicts import Kind, Verdict
from experiments import planned, reimplementations
from experiments.profiles import PAPER
from study.spec import Trial
from study.store.account import Outcome
from study.store.records import LAYERS, Run

EVERY = 1_000
ABOVE_THE_AXIS_PCT, PLAIN_110_PCT = 25.0, 65.0
PROFILE = replace(
    PAPER,
    recipe=lambda model: replace(PAPER.recipe(model), record_every=EVERY),
    imagenet=None,
    scales={reimplementations.NAME: None},
)
DRAWN = (  # claims that the figures show
    *("S1-1", "S1-2", "S1-3", "S1-4", "S41-3", "S41-14", "S41-26"),
    *("S42-1", "S42-2", "S42-3", "S42-4", "S42-5", "S42-6", "S42-10", "S42-11", "S42-12", "S42-13"),
    # No curve tests S1-5, S3-4 and S42-19. Of S41-7 they do not tell an exponential from a power of depth.
    # The curve of S42-15 ends at 0.1 %, where the text says below.
    *("S42-16", "S42-17", "S42-18"),
)


def curve(title: str, series: str) -> pd.Series:
    """Error at every thousandth iteration."""
    iterations = range(EVERY, 64_001, EVERY)
    if title == "plain-110":
        return pd.Series(PLAIN_110_PCT, index=iterations)
    theirs = paper.curves(6).query(f"curve == '{title}' and series == '{series}'")
    found = theirs.drop_duplicates("iteration").set_index("iteration")["value"].reindex(iterations)
    drawn = found.dropna().index
    found[found.index < drawn[0]] = ABOVE_THE_AXIS_PCT
    return found.interpolate().ffill()


def run_of(trial: Trial) -> Run:
    title, rng = trial.model.title, np.random.default_rng([trial.seed, trial.model.depth])
    train = (curve(title, "train") + 0.016 * rng.standard_normal()).clip(lower=0)
    test = curve(title, "test") + 0.16 * rng.standard_normal()
    columns = dict.fromkeys(RECORD, pa.nulls(len(train), pa.float64()))
    columns |= {"iteration": pa.array(train.index), "train_error_pct": pa.array(train)}
    columns |= {"clean_train_error_pct": pa.array(train), "test_error_pct": pa.array(test)}
    responses = paper.responses()
    layers = responses[responses["curve"] == title].drop(columns="curve").assign(iteration=64_000)
    return Run(
        run_id=trial.id,
        trial=trial,
        outcome=Outcome.FINISHED,
        tags={},
        records=pa.table(columns),
        layers=pa.Table.from_pandas(layers.reindex(columns=LAYERS.names), schema=LAYERS, preserve_index=False),
    )


@pytest.fixture(scope="module")
def verdicts() -> dict[str, Verdict]:
    names = set(paper.curves(6)["curve"]) | {"plain-110"}
    study = planned(PROFILE)
    drawn = [trial for trial in study if trial.model.title in names and "learning-rate" not in study[trial]]
    frames = load(study, [run_of(trial) for trial in drawn])
    return {verdict.claim.id: verdict for verdict in evaluate(frames, PROFILE)}


def test_every_claim_that_the_figures_show_is_supported(verdicts):
    assert {name: verdicts[name].reason for name in DRAWN if verdicts[name].kind != Kind.SUPPORTED} == {}


def test_nothing_in_the_paper_contradicts_the_paper(verdicts):
    assert [name for name, verdict in verdicts.items() if verdict.kind == Kind.CONTRADICTED] == []


def test_the_effects_are_those_that_were_read_off_the_figures(verdicts):
    read = {claim.id: claim.paper for claim in paper.claims()}["S1-1"]["final_train_error"]
    assert verdicts["S1-1"].effect == pytest.approx(read[56] - read[20], abs=0.25)  # of a window from 55,000 on
    assert verdicts["S42-17"].effect == pytest.approx(7.86 - 6.6, abs=0.3)
