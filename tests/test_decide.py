"""Sequences of paired seeds end with a wrong decision as rarely as they say, and train nothing but what is compared."""

import json
import math
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from planted import frames
from scipy import integrate, stats
from test_share import study

from analysis import comparisons, paper, report
from analysis.comparisons import Part, Study
from analysis.decision import outcome_of
from analysis.sequential import Seen, e_level, e_value, further, looks, next_look, see, spent_levels
from analysis.statistics import ALPHA, estimate
from analysis.verdicts import Kind
from experiments import depth_scaling, learning_rate, plain_vs_residual, profiles, shortcut_options
from experiments.profiles import QUICK, SMOKE, Depths
from study.spec import Trial
from study.store import bundle

ROOT = Path(__file__).parents[1]
TESTABLE = replace(SMOKE, untestable={})
SEQUENCES = 300
Command = Callable[..., tuple[int, str, str]]


def part(values: np.ndarray, direction: int = 1, margin: float = 0.0) -> Part:
    series = pd.Series(values)
    return Part(what="difference", values=series, direction=direction, margin=margin, nets=(), resolution=0.0)


def sequence(
    *differences: np.ndarray, direction: int = 1, margin: float = 0.0, resumed: bool = False
) -> Iterator[Seen]:
    """The looks at a claim of which these are the differences of its parts, up to the one that decides."""
    n = len(differences[0])
    for look in looks(None, n) if resumed else looks(n):
        seen = see(comparisons.Tested([part(each[: look.seeds], direction, margin) for each in differences]), look)
        yield seen
        if seen.verdict != Kind.UNDECIDED:
            return


def last(*differences: np.ndarray, direction: int = 1, margin: float = 0.0, resumed: bool = False) -> Seen:
    return list(sequence(*differences, direction=direction, margin=margin, resumed=resumed))[-1]


def test_looks_are_at_every_seed_or_at_22_of_many() -> None:
    assert [look.seeds for look in looks(24)] == [*range(3, 25)]
    assert [look.seeds for look in looks(3)] == [3] and len(looks(500)) <= 22 and looks(500)[-1].seeds == 500
    assert [look.seeds for look in looks(None, 7)] == [5, 6, 7]  # four values have no e-value of 20


@pytest.mark.parametrize(("most", "alpha"), [(3, 0.05), (24, 0.05), (24, 0.0125), (100, 0.05)])
def test_levels_are_passed_by_alpha_of_null_sequences(most: int, alpha: float) -> None:
    x = np.random.default_rng(5).normal(size=(20_000, most))
    passed = np.zeros(len(x), dtype=bool)
    for look, level in zip(looks(most), spent_levels(most, alpha), strict=True):
        passed |= stats.ttest_1samp(x[:, : look.seeds], 0.0, axis=1).pvalue < level
    assert abs(passed.mean() - alpha) < 4 * np.sqrt(alpha / len(x))
    assert math.isclose(spent_levels(3, alpha)[0], alpha, rel_tol=0.02)  # one look is the t test


def test_the_e_value_is_the_ratio_of_integrals_over_effect_and_deviation() -> None:
    values = np.array([0.3, 1.1, 0.9, -0.2, 1.4])

    def likelihood(effect: float) -> float:
        """Of the values, over the deviation with its right Haar prior, 1 / deviation."""

        def at(log_sd: float) -> float:
            return float(np.exp(stats.norm.logpdf(values, effect * np.exp(log_sd), np.exp(log_sd)).sum()))

        return float(integrate.quad(at, -6, 6, limit=200)[0])

    above = integrate.quad(lambda effect: likelihood(effect) * stats.norm.pdf(effect), -8, 8)[0]
    assert math.isclose(e_value(list(values)), above / likelihood(0.0), rel_tol=1e-6)


def test_the_level_without_a_most_is_the_p_value_where_the_e_value_is_its_inverse() -> None:
    for n, alpha in ((5, 0.05), (9, 0.01), (40, 0.05)):
        t = stats.t.isf(e_level(n, alpha) / 2, n - 1)
        values = np.arange(n) - (n - 1) / 2
        values += t * values.std(ddof=1) / np.sqrt(n)
        assert math.isclose(e_value(list(values)), 1 / alpha, rel_tol=1e-9)
    assert e_level(4, 0.05) == 0


@pytest.mark.slow
@pytest.mark.parametrize(("effect", "least", "most"), [(0.0, 0.0, 0.05), (0.5, 0.5, 0.6), (1.0, 0.95, 1.0)])
def test_24_seeds_find_an_effect_of_one_deviation_and_half_of_those_of_half(
    effect: float, least: float, most: float
) -> None:
    rng = np.random.default_rng(6)
    found = np.mean([last(rng.normal(effect, 1.0, 24)).verdict != Kind.UNDECIDED for _ in range(SEQUENCES)])
    assert stats.binom.ppf(0.001, SEQUENCES, least) <= SEQUENCES * found <= stats.binom.ppf(0.999, SEQUENCES, most)


@pytest.mark.slow
@pytest.mark.parametrize("resumed", [False, True])
def test_an_absent_difference_is_rarely_decided_wherever_the_sequence_ends(resumed: bool) -> None:
    rng = np.random.default_rng(0)
    one = [last(rng.normal(size=24), resumed=resumed).verdict for _ in range(SEQUENCES)]
    both_parts = [last(*rng.normal(size=(2, 24)), resumed=resumed).verdict for _ in range(SEQUENCES)]
    for verdicts in (one, both_parts):
        assert sum(verdict != Kind.UNDECIDED for verdict in verdicts) <= stats.binom.ppf(0.999, SEQUENCES, ALPHA)


@pytest.mark.parametrize("resumed", [False, True])
def test_a_difference_at_the_margin_is_rarely_called_equivalent(resumed: bool) -> None:
    rng = np.random.default_rng(1)
    ends = [last(x, direction=0, margin=3.0, resumed=resumed).verdict for x in rng.normal(3.0, 1.0, (SEQUENCES, 24))]
    assert ends.count(Kind.SUPPORTED) <= stats.binom.ppf(0.999, SEQUENCES, ALPHA)


@pytest.mark.parametrize(("mean", "verdict"), [(4.0, Kind.SUPPORTED), (-4.0, Kind.CONTRADICTED)])
def test_a_large_difference_is_decided_with_few_seeds(mean: float, verdict: str) -> None:
    rng = np.random.default_rng(2)
    ends = [last(rng.normal(mean, 1.0, 24)) for _ in range(100)]
    assert {seen.verdict for seen in ends} == {verdict}
    assert np.median([seen.look.seeds for seen in ends]) <= 5


def test_equal_nets_are_found_equivalent() -> None:
    rng = np.random.default_rng(3)
    ends = [last(rng.normal(0.0, 1.0, 24), direction=0, margin=3.0) for _ in range(50)]
    assert {seen.verdict for seen in ends} == {Kind.SUPPORTED}


def test_the_interval_of_the_look_that_decides_is_the_first_without_zero() -> None:
    *undecided, decided = sequence(np.random.default_rng(4).normal(2.0, 1.0, 24))
    assert undecided and all(seen.interval[0] < 0 < seen.interval[1] for seen in undecided if seen.interval)
    assert decided.interval is not None and decided.interval[0] > 0
    found = estimate(np.random.default_rng(4).normal(2.0, 1.0, 24)[: decided.look.seeds], 0.0, 1 - decided.level)
    assert decided.interval == (found.low, found.high)


def test_a_look_that_would_not_decide_is_passed_over_by_half_as_many_seeds_at_most() -> None:
    every = looks(24)

    def seen(*values: float) -> Seen:
        return see(comparisons.Tested([part(np.array(values))]), every[len(values) - 3])

    assert next_look(seen(1.0, 1.4, 2.0), every[1:]).seeds == 4
    for values in ([1.0, 3.0, 2.0, 0.1], [0.1, -0.1, 0.3, -0.2]):  # decided by a dozen seeds, or by none
        assert next_look(seen(*values), every[2:]).seeds == 6
    assert next_look(seen(0.1, -0.1, 0.0), every[21:]).seeds == 24  # the last there is
    needs = further(seen(1.0, 3.0, 2.0, 0.1), every[2:])
    assert needs is not None and needs.seeds > 6


def test_one_seed_is_not_looked_at() -> None:
    seen = see(comparisons.Tested([part(np.array([1.0]))]), looks(3)[0])
    assert (seen.verdict, seen.p, seen.n) == (Kind.UNDECIDED, None, 1) and "Only 1 of 3 seeds" in seen.reason


def planted_looks(number: int, effect: float) -> Iterator[Seen]:
    """Claim S1-1 on planted studies, by its own function; noise of one point, other for each number."""
    recipe = QUICK.recipe
    small = replace(
        QUICK,
        recipe=lambda model: replace(recipe(model), record_every=180, evaluate_every=360),
        scales={
            plain_vs_residual.NAME: Depths(depths=(20, 56), seeds=3),
            shortcut_options.NAME: None,
            depth_scaling.NAME: None,
            learning_rate.NAME: None,
        },
    ).with_data(replace(QUICK.data, digest=str(number)))

    def error(trial: Trial) -> float:
        return 30.0 + effect * (trial.model.depth == 56)

    def plain(trial: Trial) -> str:
        return "finished" if trial.model.family == "plain" else "missing"

    (claim,) = (claim for claim in paper.claims() if claim.id == "S1-1")
    for look in looks(8):
        profile = small.with_seeds(look.seeds)
        found = frames(profile, error=error, noise=1.0, outcomes=plain)
        outcome = outcome_of(claim, Study(found.finals, found.curves, found.layers, found.evaluations, profile))
        yield see(outcome, look)


@pytest.mark.slow
def test_planted_studies_are_decided_where_there_is_an_effect() -> None:
    null = [seen.verdict for number in range(12) for seen in planted_looks(number, 0.0)]
    assert sum(verdict != Kind.UNDECIDED for verdict in null) <= 1
    assert all(list(planted_looks(number, 9.0))[-1].verdict == Kind.SUPPORTED for number in range(3))


# The command


@pytest.fixture
def decide(command: Command, tmp_path: Path) -> Command:
    """The command on a store of its own: exit code, output, errors."""

    def run(*words: object, entry: str = "analysis") -> tuple[int, str, str]:
        return command(*words, "--storage", tmp_path / "store", entry=entry)

    return run


@pytest.fixture
def options(tmp_path: Path) -> list[str]:
    return ["--local", "--results", str(tmp_path), "--data-root", str(tmp_path)]


def plant(decide: Command, folder: Path, effect: float, seeds: int) -> None:
    """Import runs of quick's plain-20 and plain-56, the deeper worse by so many points; noise of one."""

    def outcome(trial: Trial) -> str:
        ours = trial.recipe == QUICK.recipe(trial.model) and trial.model.title in ("plain-20", "plain-56")
        return "finished" if ours else "missing"

    def error(trial: Trial) -> float:
        return 30.0 + effect * (trial.model.depth == 56)

    bundle.write(
        folder / "planted.zip", study(QUICK.with_seeds(seeds), outcomes=outcome, error=error, noise=1.0), "quick"
    )
    assert decide("import", str(folder / "planted.zip"), entry="experiments")[0] == 0


def test_run_decides_a_claim_on_the_runs_there_are_and_the_same_again(
    decide: Command, options: list[str], tmp_path: Path
) -> None:
    plant(decide, tmp_path, effect=5.0, seeds=6)
    asked = ["--until-decided", "S1-1", "--max-seeds", "6", *options]
    line = [sys.executable, "-m", "experiments", "run", *asked, "--storage", str(tmp_path / "store")]
    done = subprocess.run(line, capture_output=True, text=True, cwd=ROOT, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    record = json.loads((tmp_path / "quick" / "decisions" / "S1-1.json").read_text())
    assert (record["id"], record["verdict"], record["looks"][-1]["verdict"]) == ("S1-1", Kind.SUPPORTED, Kind.SUPPORTED)
    assert record["command"].startswith("python -m experiments run --until-decided S1-1 --max-seeds 6")
    assert len(record["runs"]) == 2 * record["looks"][-1]["seeds"]
    assert done.stdout.count("\nlook ") == len(record["looks"]) and "supported: S1-1" in done.stdout
    assert not report._digests(tmp_path / "quick")  # it is no part of a report, which would make it out of date
    code, said, _ = decide("decide", *asked)
    assert code == 0 and "to run" not in said
    assert json.loads((tmp_path / "quick" / "decisions" / "S1-1.json").read_text()) == record


def test_what_stays_undecided_says_how_many_seeds_are_missing(
    decide: Command, options: list[str], tmp_path: Path
) -> None:
    plant(decide, tmp_path, effect=0.0, seeds=4)
    code, said, _ = decide("decide", "--until-decided", "S1-1", "--max-seeds", "4", *options)
    record = json.loads((tmp_path / "quick" / "decisions" / "S1-1.json").read_text())
    assert code == 1 and record["verdict"].startswith("undecided (leaning ") and record["verdict"] in said
    assert [look["seeds"] for look in record["looks"]] == [3, 4]
    assert record["reason"].endswith("Ended: more than 4 seeds were not asked for.")


def test_a_budget_that_the_first_look_exceeds_ends_the_sequence_before_anything_runs(
    decide: Command, options: list[str], tmp_path: Path
) -> None:
    code, said, _ = decide("decide", "--until-decided", "S1-1", "--budget", "0.001h", *options)
    assert code == 1 and "undecided (needs 5 more seeds for a test)" in said
    assert "5 seeds would take 0.0" in said and "core-hours, more than the budget of 0.001" in said
    assert not (tmp_path / "store").exists()


def test_looks_by_another_rule_are_refused_in_one_line(decide: Command, options: list[str], tmp_path: Path) -> None:
    plant(decide, tmp_path, effect=0.0, seeds=5)
    asked, path = ["decide", "--until-decided", "S1-1", *options], tmp_path / "quick" / "decisions" / "S1-1.json"
    assert decide(*asked, "--max-seeds", "5")[0] == 1
    code, _, error = decide(*asked, "--max-seeds", "4")
    assert code == 2 and error.count("\n") == 1 and "has looks by --max-seeds 5; repeat that" in error
    old = json.loads(path.read_text())
    del old["max_seeds"]
    path.write_text(json.dumps(old))
    code, _, error = decide(*asked, "--max-seeds", "5")
    assert code == 2 and error.count("\n") == 1 and "has looks by the rule of an earlier version" in error
    path.unlink()
    assert decide(*asked, "--budget", "0h")[0] == 1 and json.loads(path.read_text())["max_seeds"] is None
    code, _, error = decide(*asked, "--max-seeds", "5")
    assert code == 2 and "the rule without --max-seeds" in error


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--until-decided", "S9-9"], "claim 'S9-9' is unknown; choose one of S1-1, S1-2"),
        (["--until-decided", "S43-1"], "claim S43-1 cannot be decided by seeds: not testable in this profile. Needs"),
        (["--until-decided", "S1-1", "--profile", "smoke"], "A few iterations exercise the machinery"),
        (["--until-decided", "S3-1"], "claim S3-1 needs no seeds: supported. Counted equal"),
        (["--until-decided", "S1-1", "--seeds", "4"], "--seeds does not go with --until-decided"),
        (["--until-decided", "S1-1", "--max-seeds", "2"], "max-seeds 2 is too small; it must be at least 3"),
        (["--until-decided", "S1-1", "--budget", "a lot"], "budget 'a lot' is not understood"),
    ],
)
def test_what_cannot_be_decided_is_one_line_and_exit_code_2(decide: Command, arguments: list[str], says: str) -> None:
    code, said, error = decide("decide", *arguments)
    assert code == 2 and says in error and not said
    assert error.count("\n") == 1 and error.startswith("error: ")


def test_no_option_of_deciding_is_ignored_without_a_claim(decide: Command) -> None:
    code, _, error = decide("run", "--max-seeds", "4", entry="experiments")
    assert code == 2 and "--max-seeds is for --until-decided; leave it out, or name a claim" in error


@pytest.mark.slow
def test_seeds_are_trained_in_rounds_of_the_compared_nets_alone_and_taken_up_again(
    decide: Command, options: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(profiles, "PROFILES", (TESTABLE,))
    nets = [TESTABLE.model("plain", depth) for depth in (20, 56)]

    def trained_and_looks(*more: str) -> tuple[set[str], int]:
        code, said, _ = decide("decide", "--profile", "smoke", "--until-decided", "S1-2", *options, *more)
        assert code == 1
        return {path.name for path in tmp_path.glob("store/trials/*")}, said.count("\nlook ")

    def ids(seeds: int) -> set[str]:
        return {trial.id for net in nets for trial in TESTABLE.trials(net, TESTABLE.recipe(net), seeds)}

    fresh = ["--results", str(tmp_path / "other")]  # another rule
    assert trained_and_looks("--max-seeds", "3") == (ids(3), 1)
    assert trained_and_looks("--max-seeds", "4", "--budget", "0h", *fresh) == (ids(3), 1)  # nothing is left to pay for
    assert trained_and_looks("--max-seeds", "4", *fresh) == (ids(4), 2)
