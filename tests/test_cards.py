"""What a trial is predicted to take on a GPU: held against every update that was measured."""

from dataclasses import replace

import pytest

from experiments.profiles import PAPER, SMOKE
from experiments.recipes import paper_cifar
from study import cost
from study.cards import H200, Measured, gpu_seconds
from study.spec import Trial


def of(measured: Measured) -> Trial:
    model = PAPER.model(measured.family, measured.depth)
    recipe = replace(paper_cifar(model), precision=measured.precision, batch=measured.batch, bn_batch=measured.batch)
    return Trial(model=model, data=PAPER.data, recipe=recipe, seed=0)


@pytest.mark.parametrize("measured", H200.updates, ids=str)
def test_a_measured_update_is_predicted_within_15_percent(measured: Measured) -> None:
    seconds = H200.update_seconds(of(measured), measured.cohort)
    assert 1000 * seconds == pytest.approx(measured.milliseconds, rel=0.15)


def test_a_member_takes_its_share_of_a_cohort() -> None:
    trial = of(H200.updates[0])
    alone, together = gpu_seconds(trial), gpu_seconds(trial, 8)
    assert alone > 2 * together
    evaluations = gpu_seconds(replace(trial, recipe=replace(trial.recipe, iterations=1, drops=())))
    training = trial.recipe.iterations * H200.update_seconds(trial, 8) / 8
    assert training < together < training + 64 * evaluations


def test_photographs_take_no_less_than_their_decoding() -> None:
    assert SMOKE.imagenet
    trial = SMOKE.imagenet.trials(SMOKE.imagenet.model("residual", 18, "A"), 1)[0]
    decoded = trial.recipe.iterations * trial.recipe.batch * cost.SECONDS_A_PHOTOGRAPH
    assert gpu_seconds(trial) >= decoded
