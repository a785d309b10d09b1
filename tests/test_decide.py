"""Sequences of paired seeds end with a wrong decision as rarely as they say, and train nothing but what is compared."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from planted import frames
from test_share import study

from analysis import comparisons, paper, report
from analysis.comparisons import Part, Study
from analysis.decision import outcome_of
from analysis.sequential import Seen, further, looks, next_look, see
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


def sequence(*differences: np.ndarray, direction: int = 1, margin: float = 0.0) -> Iterator[Seen]:
    """The looks at a claim of which these are the differences of its parts, up to the one that decides."""
    for look in looks(len(differences[0])):
        seen = see(comparisons.Tested([part(each[: look.seeds], direction, margin) for each in differences]), look)
        yield seen
        if seen.verdict != Kind.UNDECIDED:
            return


def last(*differences: np.ndarray, direction: int = 1, margin: float = 0.0) -> Seen:
    return list(sequence(*differences, direction=direction, margin=margin))[-1]


def test_levels_of_all_looks_sum_to_alpha() -> None:
    assert [look.seeds for look in looks(50)] == [2, 3, 4, 6, 8, 12, 16, 24, 32, 48]
    assert looks(23) == looks(16) and [look.number for look in looks(4)] == [1, 2, 3]
    assert 0.98 * ALPHA < sum(look.level for look in looks(2**40)) < ALPHA


@pytest.mark.slow
def test_an_absent_difference_is_rarely_decided_wherever_the_sequence_ends() -> None:
    rng = np.random.default_rng(0)
    one = [last(rng.normal(size=24)).verdict for _ in range(SEQUENCES)]
    both_parts = [last(rng.normal(size=24), rng.normal(size=24)).verdict for _ in range(SEQUENCES)]
    for verdicts in (one, both_parts):
        assert sum(verdict != Kind.UNDECIDED for verdict in verdicts) <= ALPHA * SEQUENCES


def test_a_difference_at_the_margin_is_rarely_called_equivalent() -> None:
    rng = np.random.default_rng(1)
    ends = [last(rng.normal(3.0, 1.0, 24), direction=0, margin=3.0).verdict for _ in range(SEQUENCES)]
    assert sum(verdict != Kind.UNDECIDED for verdict in ends) <= ALPHA * SEQUENCES


@pytest.mark.parametrize(("mean", "verdict"), [(4.0, Kind.SUPPORTED), (-4.0, Kind.CONTRADICTED)])
def test_a_large_difference_is_decided_with_few_seeds(mean: float, verdict: str) -> None:
    rng = np.random.default_rng(2)
    ends = [last(rng.normal(mean, 1.0, 24)) for _ in range(100)]
    assert {seen.verdict for seen in ends} == {verdict}
    assert np.median([seen.look.seeds for seen in ends]) <= 4


def test_equal_nets_are_found_equivalent() -> None:
    rng = np.random.default_rng(3)
    ends = [last(rng.normal(0.0, 1.0, 24), direction=0, margin=3.0) for _ in range(50)]
    assert {seen.verdict for seen in ends} == {Kind.SUPPORTED}


def test_the_interval_of_the_look_that_decides_is_the_first_without_zero() -> None:
    *undecided, decided = sequence(np.random.default_rng(4).normal(2.0, 1.0, 24))
    assert undecided and all(seen.interval[0] < 0 < seen.interval[1] for seen in undecided if seen.interval)
    assert decided.interval is not None and decided.interval[0] > 0
    found = estimate(np.random.default_rng(4).normal(2.0, 1.0, 24)[: decided.look.seeds], 0.0, 1 - decided.look.level)
    assert decided.interval == (found.low, found.high)


def test_a_look_that_would_not_decide_is_passed_over_and_seeds_at_most_doubled() -> None:
    every = looks(24)
    clear = see(comparisons.Tested([part(np.array([1.0, 1.1]))]), every[0])
    assert (clear.verdict, next_look(clear, every[1:]).seeds) == (Kind.UNDECIDED, 3)
    for values in ([1.0, 3.0], [0.1, -0.1]):  # decided by 6 seeds, or by none
        assert next_look(see(comparisons.Tested([part(np.array(values))]), every[0]), every[1:]).seeds == 4
    assert next_look(clear, every[7:]).seeds == 24  # the last there is
    needs = further(see(comparisons.Tested([part(np.array([1.0, 3.0]))]), every[0]), every[1:])
    assert needs is not None and needs.seeds > 4


def test_one_pair_is_not_looked_at() -> None:
    seen = see(comparisons.Tested([part(np.array([1.0]))]), looks(3)[1])
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
    assert [look["seeds"] for look in record["looks"]] == [2, 3, 4]
    assert record["reason"].endswith("Ended: more than 4 seeds were not asked for.")


def test_a_budget_that_two_seeds_exceed_ends_the_sequence_before_anything_runs(
    decide: Command, options: list[str], tmp_path: Path
) -> None:
    code, said, _ = decide("decide", "--until-decided", "S1-1", "--budget", "0.001h", *options)
    assert code == 1 and "undecided (needs 2 more seeds for a test)" in said
    assert "2 seeds would take 0.00" in said and "core-hours, more than the budget of 0.001" in said
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--until-decided", "S9-9"], "claim 'S9-9' is unknown; choose one of S1-1, S1-2"),
        (["--until-decided", "S43-1"], "claim S43-1 cannot be decided by seeds: not testable in this profile. Needs"),
        (["--until-decided", "S1-1", "--profile", "smoke"], "A few iterations exercise the machinery"),
        (["--until-decided", "S3-1"], "claim S3-1 needs no seeds: supported. Counted equal"),
        (["--until-decided", "S1-1", "--seeds", "4"], "--seeds does not go with --until-decided"),
        (["--until-decided", "S1-1", "--max-seeds", "1"], "max-seeds 1 is too small; it must be at least 2"),
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

    def trained_and_looks(seeds: int, *more: str) -> tuple[set[str], int]:
        asked = ["--profile", "smoke", "--until-decided", "S1-2", "--max-seeds", str(seeds)]
        code, said, _ = decide("decide", *asked, *more, *options)
        assert code == 1
        return {path.name for path in tmp_path.glob("store/trials/*")}, said.count("\nlook ")

    def ids(seeds: int) -> set[str]:
        return {trial.id for net in nets for trial in TESTABLE.trials(net, TESTABLE.recipe(net), seeds)}

    assert trained_and_looks(2) == (ids(2), 1)
    assert trained_and_looks(3, "--budget", "1h") == (ids(3), 2)
    assert trained_and_looks(3, "--budget", "0h") == (ids(3), 2)  # nothing is left to pay for
    assert trained_and_looks(4, "--budget", "0h") == (ids(3), 2)
