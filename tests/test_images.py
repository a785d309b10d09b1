"""Intervals for new seeds and new images: they know how few the images are, and how the seeds differ."""

from dataclasses import replace

import numpy as np
import pytest
from planted import Run, planted, put
from scipy import stats

from analysis import page
from analysis.decision import evaluate
from analysis.images import resampled
from analysis.runs import load
from analysis.statistics import contrast
from analysis.verdicts import Verdict, entry, from_json, to_json
from experiments import planned
from experiments.profiles import QUICK, Profile
from study.spec import DetectionTrial, Trial
from study.store.records import Wrong

IMAGES = 360
SIX = QUICK.with_seeds(6)


def error(trial: Trial) -> float:
    """Plain-56 is worse by 12 points than plain-20, and every other net as good as that."""
    return 20.0 if trial.model.family == "plain" and trial.model.depth == 56 else 8.0


def with_bits(run: Run, seed_sd: float = 0.05) -> Run:
    """The run with wrong test images: some images are hard for every net, others for one net alone."""
    if run.outcome != "finished" or isinstance(run.trial, DetectionTrial):
        return run
    name = [*run.trial.condition.encode()]
    own, every, seed = (np.random.default_rng(key) for key in ([0, *name], 1, [1, run.trial.seed, *name]))
    parts = [2.0 * every.standard_normal(IMAGES), 0.7 * own.standard_normal(IMAGES), seed.standard_normal(IMAGES)]
    below = stats.norm.ppf(error(run.trial) / 100) * np.sqrt(2.0**2 + 0.7**2 + 1 + seed_sd**2)
    flags = sum(parts) + seed_sd * seed.standard_normal() + below > 0
    (shown,) = put(run, "test_error_pct", 100 * flags.sum() / IMAGES)
    return replace(shown, wrong=Wrong.of(flags))


def verdicts(profile: Profile, runs: list[Run]) -> dict[str, Verdict]:
    return {verdict.claim.id: verdict for verdict in evaluate(load(planned(profile), runs), profile)}


def width(interval: tuple[float, float] | None) -> float:
    assert interval is not None
    return interval[1] - interval[0]


def test_few_images_make_the_interval_wider_and_it_holds_the_planted_effect() -> None:
    runs = [with_bits(run) for run in planted(SIX)]
    worse = verdicts(SIX, runs)["S1-2"]
    assert worse.interval_images is not None
    assert worse.interval_images[0] < 12.0 < worse.interval_images[1]
    assert width(worse.interval_images) > 1.5 * width(worse.interval)
    assert worse.interval_images[0] < worse.effect < worse.interval_images[1]


def test_it_follows_every_claim_about_test_errors_and_no_other_number_changes() -> None:
    runs = [with_bits(run) for run in planted(SIX)]
    found, without = verdicts(SIX, runs), verdicts(SIX, [replace(run, wrong=None) for run in runs])
    have = {name for name, verdict in found.items() if verdict.interval_images}
    assert have >= {"S1-2", "S41-15"}
    assert {name: replace(verdict, interval_images=None) for name, verdict in found.items()} == without
    training = {name for name, verdict in found.items() if "of training error" in verdict.reason}
    assert not have & training


def test_it_is_on_the_page_and_in_both_files_of_verdicts() -> None:
    study = load(planned(SIX), [with_bits(run) for run in planted(SIX)])
    judged = evaluate(study, SIX)
    (worse,) = (verdict for verdict in judged if verdict.claim.id == "S1-2")
    assert worse.interval_images is not None
    nothing = {"tables": [], "charts": {}, "pictures": [], "problems": [], "facts": {}, "notebooks": [], "command": ""}
    shown = page.render(page.Content(profile=SIX, finals=study.finals, verdicts=judged, **nothing))
    assert "new images, too: [{:.3g}, {:.3g}]".format(*worse.interval_images) in shown
    assert entry(worse)["interval_images"] == worse.interval_images
    assert from_json(to_json(judged)) == judged


@pytest.mark.parametrize("lacking", ["the bits of one run", "a third seed", "the same images"])
def test_there_is_none_without(lacking: str) -> None:
    profile = QUICK.with_seeds(2) if lacking == "a third seed" else SIX
    runs = [with_bits(run) for run in planted(profile)]
    (one,) = (run for run in runs if run.trial.seed == 1 and error(run.trial) == 20.0 and _is_main(run.trial))
    if lacking == "the bits of one run":
        runs = [replace(run, wrong=None) if run == one else run for run in runs]
    if lacking == "the same images":
        runs = [replace(run, wrong=Wrong.of(np.ones(359, bool))) if run == one else run for run in runs]
    found = verdicts(profile, runs)["S1-2"]
    assert found.interval_images is None and found.interval is not None


def _is_main(trial: Trial) -> bool:
    return "plain-vs-residual" in planned(QUICK.with_seeds(6)).get(trial, [])


def test_without_a_deviation_of_images_it_is_about_welchs() -> None:
    """A seed that is wrong everywhere or nowhere: every image counts alike."""
    wrong = {share: np.tile(np.arange(6)[:, None] < share, IMAGES) for share in (4, 2)}
    nets = [(1.0, wrong[4]), (-1.0, wrong[2])]
    expected = contrast([(weight, list(100.0 * each.mean(1))) for weight, each in nets])
    assert resampled(nets) == pytest.approx((expected.low, expected.high), abs=0.08 * (expected.high - expected.low))


def test_without_a_deviation_of_seeds_it_is_that_of_paired_images() -> None:
    rng = np.random.default_rng(2)
    one, other = (np.tile(rng.random(IMAGES) < share, (3, 1)) for share in (0.3, 0.2))
    difference = 100.0 * (one[0].astype(float) - other[0])
    error = difference.std() / np.sqrt(IMAGES)
    expected = difference.mean() - 1.96 * error, difference.mean() + 1.96 * error
    assert resampled([(1.0, one), (-1.0, other)]) == pytest.approx(expected, abs=0.2 * error)
    assert resampled([(1.0, one), (-1.0, one)]) == (0.0, 0.0)  # all nets see the same resampled images


def test_it_is_the_same_each_time() -> None:
    nets = [(1.0, np.random.default_rng(3).random((4, IMAGES)) < 0.5)]
    assert resampled(nets) == resampled(nets)
