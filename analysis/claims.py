"""A verdict for each of the paper's 74 claims, from the frames alone.

Owns which comparison tests a claim and how comparisons become verdicts. Must not know where runs are kept, nor what
the tables and figures show.

How a verdict is reached:
- One number per seed: nets that share a seed share data order and, where shapes agree, initial weights, so
  differences are paired. Only trials of one experiment, hence one recipe per net, are compared.
- Only finished trials have an error. Missing and diverged ones are left out and named; claims about failing count them.
- A claim in several parts holds if all hold: its p value is the largest of the parts', and its effect is that of the
  weakest part. It is contradicted if one part is (corrected for the number of parts).
- Holm's correction runs over the claims tested of each family (`FAMILIES`: one question of the paper each).
  supported: p < 0.05, one-sided in the stated direction. contradicted: p < 0.05, two-sided, in the other direction.
  Otherwise undecided, with the further seeds that would decide it if
  effect and deviation stayed as observed. Fewer than two paired seeds are never decided.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from analysis import paper
from analysis.counts import imagenet_multiply_adds, vgg19_multiply_adds
from analysis.runs import IMAGES, IMAGES_ELSE, Frames, one_image_pct
from analysis.statistics import (
    ALPHA,
    believed_sd,
    estimate,
    further_seeds,
    holm,
    p_equivalent,
    p_greater,
)
from experiments.profiles import Profile
from experiments.recipes import PAPER_DATA, PAPER_WIDTH
from study import cost
from study.spec import Model

SUPPORTED, CONTRADICTED, NOT_TESTABLE = "supported", "contradicted", "not testable in this profile"

TRAIN, CLEAN, TEST = "final_train_error_pct", "clean_train_error_pct", "test_error_pct"
WORDS = {TRAIN: "training error", CLEAN: "clean training error", TEST: "test error"}
MAIN, OPTIONS, DEEP, RATE, BOTTLENECKS = (
    "plain-vs-residual",
    "shortcut-options",
    "depth-scaling",
    "learning-rate",
    "bottlenecks",
)


class NotTestable(Exception):
    """This profile, or what is planned of it, cannot test the claim; the message says why."""


@dataclass(frozen=True)
class Study:
    """What a claim may look at."""

    finals: pd.DataFrame
    curves: pd.DataFrame
    layers: pd.DataFrame
    profile: Profile


@dataclass(frozen=True, kw_only=True)
class Part:
    """One comparison: a number per seed, and the sign that the claim gives it."""

    what: str
    values: pd.Series  # by seed; the effect is their mean
    direction: int  # 1: the claim says above 0; -1: below; 0: within `margin` of 0
    nets: tuple[pd.DataFrame, ...]  # the rows of finals it is made of
    resolution: float
    margin: float = 0.0
    tested: pd.Series | None = None  # by seed; where the test is on another number than the effect
    clean: float | None = None  # the same effect with the clean training error
    unit: str = "points"

    @property
    def sample(self) -> list[float]:
        return list(self.values if self.tested is None else self.tested)

    def p_for(self) -> float:
        if self.direction == 0:
            return p_equivalent(self.sample, self.margin, self.resolution)
        return p_greater([self.direction * value for value in self.sample], 0.0, self.resolution)

    def p_against(self) -> float:
        """Two-sided p of the opposite; 1 where the mean is on the claim's side."""
        side = -1.0 if self.direction > 0 or (self.direction == 0 and np.mean(self.sample) < 0) else 1.0
        one_sided = p_greater([side * value for value in self.sample], self.margin, self.resolution)
        return min(1.0, 2 * one_sided)


@dataclass(frozen=True)
class Tested:
    """A claim to be decided by tests: all parts must hold. `note` is a sentence for the reason."""

    parts: list[Part]
    note: str = ""


@dataclass(frozen=True)
class Counted:
    """A claim decided by counting, without a p value."""

    verdict: str
    reason: str
    nets: tuple[pd.DataFrame, ...] = ()


# Nets and comparisons


def net(
    study: Study, experiment: str, family: str, depth: int, shortcut: str = "A", block: str = "basic"
) -> pd.DataFrame:
    """The planned trials of one condition in one experiment, by seed. Raises `NotTestable` if there are none."""
    model = study.profile.model(family, depth, shortcut, block)
    finals = study.finals
    serves = finals["experiments"].map(lambda names: experiment in names.split(","))
    wanted = finals[serves & (finals["title"] == model.title)]
    if wanted.empty:
        raise NotTestable(f"no trial of {model.title} is planned in {experiment}")
    assert wanted["condition"].nunique() == 1, "an experiment gives a net one recipe"
    return wanted.set_index("seed", drop=False).sort_index()


def title(rows: pd.DataFrame) -> str:
    return rows["title"].iloc[0]


def resolution(study: Study, measure: str) -> float:
    """One image, in percent of those the error is counted over."""
    return one_image_pct(study.profile.data.name, measure)


def compare(
    study: Study, minuend: pd.DataFrame, subtrahend: pd.DataFrame, measure: str, direction: int, margin: float = 0.0
) -> Part:
    """Paired difference of two nets in one measure."""

    def difference(of: str) -> pd.Series:
        return (minuend[of] - subtrahend[of]).dropna()

    return Part(
        what=f"{WORDS[measure]} of {title(minuend)} minus {title(subtrahend)}",
        values=difference(measure),
        direction=direction,
        margin=margin,
        nets=(minuend, subtrahend),
        resolution=resolution(study, measure),
        clean=_mean(difference(CLEAN)) if measure == TRAIN else None,
    )


def against(study: Study, rows: pd.DataFrame, measure: str, threshold: float, direction: int) -> Part:
    """A net's error against a fixed number of the paper."""
    return Part(
        what=f"{WORDS[measure]} of {title(rows)} minus {threshold:g}",
        values=(rows[measure] - threshold).dropna(),
        direction=direction,
        nets=(rows,),
        resolution=resolution(study, measure),
        clean=_mean((rows[CLEAN] - threshold).dropna()) if measure == TRAIN else None,
    )


def trend(study: Study, nets: list[pd.DataFrame], measure: str, direction: int) -> Tested:
    """Does an error rise or fall with depth? Effect: deepest minus shallowest; test: slopes over depth, one a seed."""
    errors = _by_depth(nets, measure)
    part = _trend_part(study, nets, errors, WORDS[measure], measure, direction)
    if measure == TRAIN:
        clean = _by_depth(nets, CLEAN)
        part = replace(part, clean=_mean(clean.iloc[:, -1] - clean.iloc[:, 0]))
    ordered: list[str] = []
    not_ordered: list[str] = []
    for left, right in zip(errors.columns[:-1], errors.columns[1:], strict=True):
        holds = len(errors) > 0 and bool((direction * (errors[right] - errors[left]) > 0).all())
        (ordered if holds else not_ordered).append(f"{left}{'<' if direction > 0 else '>'}{right}")
    note = f"Neighbours in the stated order in every seed: {', '.join(ordered) or 'none'}"
    return Tested([part], note + (f"; not: {', '.join(not_ordered)}." if not_ordered else "."))


def _trend_part(
    study: Study, nets: list[pd.DataFrame], errors: pd.DataFrame, words: str, measure: str, direction: int
) -> Part:
    depths = np.array(errors.columns, dtype=float)
    if len(depths) < 2:
        raise NotTestable("a trend with depth needs two depths")
    slopes = errors.apply(lambda row: np.polyfit(depths, row.to_numpy(float), 1)[0] * np.ptp(depths), axis=1)
    return Part(
        what=f"{words} at depth {depths[-1]:.0f} minus depth {depths[0]:.0f} (p: slopes over {len(depths)} depths)",
        values=errors.iloc[:, -1] - errors.iloc[:, 0],
        tested=slopes if len(errors) else pd.Series(dtype=float),
        direction=direction,
        nets=tuple(nets),
        resolution=resolution(study, measure),
    )


def _by_depth(nets: list[pd.DataFrame], measure: str) -> pd.DataFrame:
    """Errors [seed, depth] of the seeds that finished at every depth."""
    return pd.DataFrame({rows["depth"].iloc[0]: rows[measure] for rows in nets}).dropna()


def _nets(study: Study, family: str, deepest: int) -> list[pd.DataFrame]:
    depths = [depth for depth in sorted(study.profile.depths) if depth <= deepest]
    return [net(study, MAIN, family, depth) for depth in depths]


def first_iteration(study: Study, rows: pd.DataFrame, at_most: float) -> pd.Series:
    """By seed, the first record whose running training error is at most `at_most`, for finished trials.

    A trial that never gets there counts with its whole length, which is the least it can be.
    """
    found = {}
    for seed, row in rows[rows["outcome"] == "finished"].iterrows():
        curve = study.curves[study.curves["id"] == row["id"]]
        reached = curve.loc[curve["train_error_pct"] <= at_most, "iteration"]
        found[seed] = float(reached.min()) if len(reached) else float(row["iterations"])
    return pd.Series(found, dtype=float)


def _record_every(study: Study, rows: pd.DataFrame) -> float:
    iterations = study.curves.loc[study.curves["id"].isin(rows["id"]), "iteration"]
    return float(iterations.min()) if len(iterations) else 0.0


def _chance(study: Study) -> float:
    return 100 * (1 - 1 / study.profile.data.classes)


def _only_on_cifar10(study: Study) -> None:
    if study.profile.data.name != PAPER_DATA.name:
        raise NotTestable("the number it is compared with is a CIFAR-10 error")


def _diverged(*nets: pd.DataFrame) -> Counted | None:
    """The verdict on a claim that a net converges, where a seed of it did not."""
    lost = [row_id for rows in nets for row_id in rows.loc[rows["outcome"] == "diverged", "id"]]
    return Counted(CONTRADICTED, f"Diverged: {_some(lost)}.", nets) if lost else None


# Sec. 1 and 4.2: plain nets


def plain_train(study: Study) -> Tested:
    plain20, plain56 = net(study, MAIN, "plain", 20), net(study, MAIN, "plain", 56)
    return Tested([compare(study, plain56, plain20, TRAIN, 1)])


def plain_test(study: Study) -> Tested:
    plain20, plain56 = net(study, MAIN, "plain", 20), net(study, MAIN, "plain", 56)
    return Tested([compare(study, plain56, plain20, TEST, 1)])


def no_overfitting(study: Study) -> Tested:
    """Training and test error rise together; the gap between them is reported, not tested."""
    train, test = plain_train(study).parts[0], plain_test(study).parts[0]
    growth = _mean((test.values - train.values).dropna())
    note = "" if growth is None else f"The gap of test over training error grows by {growth:.2f} points."
    return Tested([train, test], note)


def plain_starts(study: Study) -> Tested | Counted:
    """The running training error at the end of the first tenth of training, against chance."""
    parts = []
    for depth in (20, 56):
        rows = net(study, MAIN, "plain", depth)
        chance, found, never = _chance(study), {}, []
        for seed, row in rows[rows["outcome"].isin(("finished", "diverged"))].iterrows():
            curve = study.curves[study.curves["id"] == row["id"]]
            curve = curve[curve["iteration"] <= row["iterations"] / 10]
            if len(curve):
                found[seed] = float(curve["train_error_pct"].iloc[-1]) - chance
            if row["outcome"] == "diverged" and not math.isfinite(found.get(seed, math.nan)):
                never.append(row["id"])
        if never:
            return Counted(CONTRADICTED, f"Diverged within the first tenth of training: {_some(never)}.", (rows,))
        parts.append(
            Part(
                what=f"training error of {title(rows)} after a tenth of training minus chance ({chance:g})",
                values=pd.Series(found, dtype=float),
                direction=-1,
                nets=(rows,),
                resolution=resolution(study, TRAIN),
            )
        )
    return Tested(parts)


def plain_train_trend(study: Study) -> Tested:
    return trend(study, _nets(study, "plain", 56), TRAIN, 1)


def plain_test_trend(study: Study) -> Tested:
    return trend(study, _nets(study, "plain", 56), TEST, 1)


def plain110_fails(study: Study) -> Tested | Counted:
    rows = net(study, MAIN, "plain", 110)
    diverged, finished = rows[rows["outcome"] == "diverged"], rows[rows["outcome"] == "finished"]
    above = ((finished[TRAIN] > 60) & (finished[TEST] > 60)).all()
    if len(diverged) and len(finished) < 2 and len(diverged) + len(finished) >= 2 and above:
        reason = f"Every seed fails: {len(diverged)} diverged, {len(finished)} above 60 %."
        return Counted(SUPPORTED, reason, (rows,))
    note = f"{len(diverged)} diverged seeds fail as well." if len(diverged) else ""
    return Tested([against(study, rows, TRAIN, 60, 1), against(study, rows, TEST, 60, 1)], note)


def plain_bottlenecks(study: Study) -> Tested:
    depths = sorted(study.profile.bottleneck_depths)
    if len(depths) < 2:
        raise NotTestable("this profile does not compare two depths of bottleneck nets")
    shallow, deep = (net(study, BOTTLENECKS, "plain", d, block="bottleneck") for d in (depths[0], depths[-1]))
    return Tested([compare(study, deep, shallow, TRAIN, 1)])


# Sec. 4.1 and 4.2: residual nets


def residual_train_trend(study: Study) -> Tested:
    return trend(study, _nets(study, "residual", 110), TRAIN, -1)


def residual_test_trend(study: Study) -> Tested:
    return trend(study, _nets(study, "residual", 110), TEST, -1)


def residual_beats_plain(study: Study) -> Tested:
    """At each depth, in training and test; and the gap grows with depth."""
    plain, residual = _nets(study, "plain", 56), _nets(study, "residual", 56)
    parts = [
        compare(study, p, r, measure, 1) for p, r in zip(plain, residual, strict=True) for measure in (TRAIN, TEST)
    ]
    for measure in (TRAIN, TEST):
        gaps = (_by_depth(plain, measure) - _by_depth(residual, measure)).dropna()
        words = f"plain minus residual {WORDS[measure]}"
        parts.append(_trend_part(study, plain + residual, gaps, words, measure, 1))
    return Tested(parts)


def residual_converges_faster(study: Study) -> Tested:
    """Proxy of the ImageNet claim: iterations until the running training error is at most 20 %, 20 layers."""
    plain, residual = net(study, MAIN, "plain", 20), net(study, MAIN, "residual", 20)
    part = Part(
        what="first iteration with training error at most 20 %, plain-20 minus ResNet-20",
        values=(first_iteration(study, plain, 20) - first_iteration(study, residual, 20)).dropna(),
        direction=1,
        nets=(plain, residual),
        resolution=_record_every(study, plain),
        unit="iterations",
    )
    return Tested([part], _proxy(study, "the 18-layer"))


def options_beat_plain(study: Study) -> Tested:
    """Proxy of the ImageNet claim, at the deepest compared depth, where plain nets degrade."""
    depth = max(study.profile.shortcut_depths, default=0)
    if depth not in study.profile.depths:
        raise NotTestable(f"no plain net of {depth} layers to compare options A, B and C with")
    plain = net(study, MAIN, "plain", depth)
    options = [net(study, OPTIONS, "residual", depth, shortcut) for shortcut in "ABC"]
    for rows in options:
        if rows["deviations"].iloc[0] != plain["deviations"].iloc[0]:
            raise NotTestable(f"{title(rows)} and {title(plain)} were trained by different recipes")
    return Tested([compare(study, plain, rows, TEST, 1) for rows in options], _proxy(study, "the 34-layer"))


def _proxy(study: Study, nets: str) -> str:
    return f"A proxy on {study.profile.data.name}: the paper shows {nets} ImageNet nets."


def no_warmup(study: Study) -> Tested:
    """Footnote 5: at 0.1 from the start, ResNet-110 starts after several (here: two) epochs and ends alike.

    To start is to be 5 points below chance: windows of an untrained net scatter around chance itself.
    """
    if ("residual", 110) not in study.profile.rate_nets:
        raise NotTestable("this profile does not train ResNet-110 at learning rate 0.1 from the start")
    without, with_warmup = net(study, RATE, "residual", 110), net(study, MAIN, "residual", 110)
    images = IMAGES.get(study.profile.data.name, IMAGES_ELSE)[0]
    epochs = 2 * images / study.profile.recipe(study.profile.model("residual", 110)).batch
    start = Part(
        what=f"first iteration of ResNet-110 without warm-up 5 points below chance, minus two epochs ({epochs:.0f})",
        values=first_iteration(study, without, _chance(study) - 5) - epochs,
        direction=1,
        nets=(without,),
        resolution=_record_every(study, without),
        unit="iterations",
    )
    alike = compare(study, without, with_warmup, TEST, 0, margin=0.5)
    return Tested([start, replace(alike, what="test error of ResNet-110 without minus with warm-up")])


def warmup_length(study: Study) -> Tested:
    """At 0.01 the training error falls below 80 % after about 400 iterations: within a factor of two of it."""
    _only_on_cifar10(study)
    recipe = study.profile.recipe(study.profile.model("residual", 110))
    if recipe.warmup != "threshold" or recipe.warmup_learning_rate != 0.01:
        raise NotTestable("this profile trains ResNet-110 without the paper's warm-up")
    rows = net(study, MAIN, "residual", 110)
    reached = first_iteration(study, rows, 80)
    part = Part(
        what="log2 of the first iteration of ResNet-110 with training error at most 80 %, over 400",
        values=np.log2(reached / 400),
        direction=0,
        margin=1.0,
        nets=(rows,),
        resolution=math.log2(1 + _record_every(study, rows) / 400),
        unit="doublings",
    )
    return Tested([part])


def residual110_converges(study: Study) -> Tested | Counted:
    rows = net(study, MAIN, "residual", 110)
    return _diverged(rows) or Tested([against(study, rows, TRAIN, 5, -1)])


def residual110_state_of_the_art(study: Study) -> Tested:
    """Against 7.72 %, the best mean that Table 6 gives for an earlier net (Highway, 19 layers, 2.3M parameters)."""
    _only_on_cifar10(study)
    rows = net(study, MAIN, "residual", 110)
    found = estimate(rows[TEST].dropna())
    note = f"It has {rows['params'].iloc[0] / 1e6:.2f}M parameters; FitNet has 2.5M, Highway 2.3M (19) and 1.25M (32)."
    if found.n:
        note += f" Best {rows[TEST].min():.2f}, mean {found.mean:.2f} +- {found.sd:.2f}; the paper: 6.43, 6.61 +- 0.16."
    return Tested([against(study, rows, TEST, 7.72, -1)], note)


# Sec. 4.2: 1202 layers


def _deep(study: Study) -> tuple[pd.DataFrame, pd.DataFrame]:
    return net(study, DEEP, "residual", 1202), net(study, DEEP, "residual", 110)


def residual1202_trains(study: Study) -> Tested | Counted:
    rows = _deep(study)[0]
    return _diverged(rows) or Tested([against(study, rows, TRAIN, 0.1, -1)])


def residual1202_test(study: Study) -> Tested | Counted:
    """'Still fairly good': no worse than 8.75 %, the paper's ResNet-20."""
    _only_on_cifar10(study)
    rows = _deep(study)[0]
    return _diverged(rows) or Tested([against(study, rows, TEST, 8.75, -1)], "8.75 % is ResNet-20 in Table 6.")


def residual1202_tests_worse(study: Study) -> Tested:
    return Tested([compare(study, *_deep(study), TEST, 1)])


def residual1202_trains_alike(study: Study) -> Tested:
    return Tested([compare(study, *_deep(study), TRAIN, 0, margin=0.1)])


def residual1202_overfits(study: Study) -> Tested:
    """A larger gap of test over clean training error, at a training error that is alike."""
    deeper, shallower = _deep(study)
    gap = Part(
        what="gap of test over clean training error, ResNet-1202 minus ResNet-110",
        values=((deeper[TEST] - deeper[CLEAN]) - (shallower[TEST] - shallower[CLEAN])).dropna(),
        direction=1,
        nets=(deeper, shallower),
        resolution=resolution(study, TEST),
    )
    return Tested([gap, *residual1202_trains_alike(study).parts])


# Sec. 4.1 and 4.2: what layers do


def _layers(study: Study, rows: pd.DataFrame) -> pd.DataFrame:
    """What the layers of the finished trials do. Raises `NotTestable` where their runs do not say."""
    found = study.layers[study.layers["id"].isin(rows["id"])]
    if found.empty and (rows["outcome"] == "finished").any():
        raise NotTestable(f"the runs of {title(rows)} are from before layers were measured")
    return found


def _at_the_end(study: Study, rows: pd.DataFrame, column: str) -> pd.Series:
    """By seed, the mean over layers of what was measured at the end of training."""
    layers = _layers(study, rows)
    return layers[layers["iteration"] > 0].groupby("seed")[column].mean()


def _smaller(study: Study, minuend: pd.DataFrame, subtrahend: pd.DataFrame, column: str, words: str) -> Part:
    return Part(
        what=f"mean {words} of {title(minuend)} minus {title(subtrahend)}",
        values=(_at_the_end(study, minuend, column) - _at_the_end(study, subtrahend, column)).dropna(),
        direction=-1,
        nets=(minuend, subtrahend),
        resolution=0.0,
        unit="",
    )


def _at_depths(study: Study, family: str, *depths: int) -> list[pd.DataFrame]:
    return [net(study, MAIN, family, depth) for depth in depths]


def plain_signals(study: Study) -> Tested:
    """The smallest response of any layer, before and after training: above 0.1, where 1 is BatchNorm's unit."""
    parts = []
    for rows in _at_depths(study, "plain", 20, 56):
        least = _layers(study, rows).groupby("seed")["response_std"].min()
        parts.append(
            Part(
                what=f"smallest response of a layer of {title(rows)}, at the start or the end, minus 0.1",
                values=least - 0.1,
                direction=1,
                nets=(rows,),
                resolution=0.0,
                unit="",
            )
        )
    return Tested(parts)


def plain_gradients(study: Study) -> Tested:
    """Gradient over weight norm of the first and of the last 3x3 layer: within three decades of each other.

    Of the start and the end of training, the one that is farther apart.
    """
    parts = []
    for rows in _at_depths(study, "plain", 20, 56):
        layers = _layers(study, rows)
        relative = layers.assign(relative=layers["gradient_norm"] / layers["weight_norm"])
        ends = relative.sort_values("layer").groupby(["seed", "iteration"])["relative"].agg(["first", "last"])
        decades = np.log10(ends["last"].clip(1e-30)) - np.log10(ends["first"].clip(1e-30))
        farther = decades.dropna().groupby("seed").agg(lambda each: each.loc[each.abs().idxmax()])
        parts.append(
            Part(
                what=f"log10 of the relative gradient of the last layer of {title(rows)} over the first's",
                values=farther.astype(float),
                direction=0,
                margin=3.0,
                nets=(rows,),
                resolution=0.0,
                unit="decades",
            )
        )
    return Tested(parts)


def residual_responses(study: Study) -> Tested:
    """Fig. 7, at 20 and 56 layers."""
    nets = zip(_at_depths(study, "residual", 20, 56), _at_depths(study, "plain", 20, 56), strict=True)
    return Tested([_smaller(study, residual, plain, "response_std", "layer response") for residual, plain in nets])


def residual_responses_fall(study: Study) -> Tested:
    """Fig. 7: 20, 56 and 110 layers."""
    shallow, middle, deep = _at_depths(study, "residual", 20, 56, 110)
    return Tested(
        [
            _smaller(study, deeper, shallower, "response_std", "layer response")
            for shallower, deeper in ((shallow, middle), (middle, deep))
        ]
    )


def residual_functions_near_zero(study: Study) -> Tested:
    """What a block adds to its input, not what BatchNorm's scale is: deviation of F(x) over that of x."""
    shallow, middle, deep = _at_depths(study, "residual", 20, 56, 110)
    plain20, plain56 = _at_depths(study, "plain", 20, 56)
    pairs = ((shallow, plain20), (middle, plain56), (middle, shallow), (deep, middle))
    return Tested([_smaller(study, one, other, "branch_over_input", "std(F(x)) / std(x)") for one, other in pairs])


# Claims decided by arithmetic; they look at no run


def _paper_net(family: str, depth: int, shortcut: str = "A") -> Model:
    return Model(family=family, block="basic", depth=depth, shortcut=shortcut, width=PAPER_WIDTH)


def _counted(holds: bool, reason: str) -> Counted:
    return Counted(SUPPORTED if holds else CONTRADICTED, reason)


def equal_counts() -> Counted:
    depths = [row["depth"] for row in paper.table("cifar_architecture")["rows"]]
    for depth in depths:
        plain, residual = _paper_net("plain", depth, "none"), _paper_net("residual", depth)
        for count in (cost.parameters, cost.multiply_adds):
            if count(plain, PAPER_DATA) != count(residual, PAPER_DATA):
                return _counted(False, f"At depth {depth} the {count.__name__} of plain and residual nets differ.")
    return _counted(True, f"Counted equal in parameters and multiply-adds at depths {_listed(depths)}.")


def baseline34_counts() -> Counted:
    (row,) = (row for row in paper.table("table_1")["rows"] if row["depth"] == 34)
    plain, vgg = imagenet_multiply_adds(row), vgg19_multiply_adds()
    share = 100 * plain / vgg
    holds = abs(plain - row["flops"]) < 0.1e9 and abs(share - 18) < 1
    return _counted(holds, f"Counted {plain / 1e9:.2f}e9, {share:.1f} % of VGG-19's {vgg / 1e9:.2f}e9.")


def imagenet_counts() -> Counted:
    table = paper.table("table_1")
    counts = {row["depth"]: imagenet_multiply_adds(row) for row in table["rows"]}
    close = all(abs(counts[row["depth"]] - row["flops"]) < 0.1e9 for row in table["rows"])
    holds = close and counts[152] < min(vgg["flops"] for vgg in table["vgg"].values())
    found = ", ".join(f"{depth}: {count / 1e9:.2f}" for depth, count in counts.items())
    return _counted(holds, f"Counted {found} e9; each within 0.1 of Table 1, 152 layers below VGG-16's printed 15.3.")


_BASIC = (cost.Convolution(64, 64, 3, 1),) * 2
_BOTTLENECK = tuple(cost.Convolution(*shape, 1) for shape in ((256, 64, 1), (64, 64, 3), (64, 256, 1)))


def block_costs() -> Counted:
    basic, bottleneck = (sum(c.multiply_adds for c in block) for block in (_BASIC, _BOTTLENECK))
    ratio = bottleneck / basic
    return _counted(0.9 < ratio < 1.1, f"Counted {basic} and {bottleneck} multiply-adds a position, ratio {ratio:.2f}.")


def projection_costs() -> Counted:
    identity = sum(c.multiply_adds for c in _BOTTLENECK)
    projected = identity + cost.Convolution(256, 256, 1, 1).multiply_adds
    ratio = projected / identity
    reason = f"Counted {identity} and {projected} weights, and multiply-adds a position, ratio {ratio:.2f}."
    return _counted(1.8 < ratio < 2.2, reason)


def parameter_counts() -> Counted:
    rows = paper.table("cifar_architecture")["rows"]
    counts = {row["depth"]: cost.parameters(_paper_net("residual", row["depth"]), PAPER_DATA) for row in rows}
    printed = [f"{n / 1e6:.{2 if n < 1e6 else 1}f}M" for n in counts.values()]
    holds = printed == [row["params_printed"] for row in rows]
    return _counted(holds, f"Counted {_listed(counts.values())}, which print as {_listed(printed)}.")


def layer_counts() -> Counted:
    for row in paper.table("cifar_architecture")["rows"]:
        model = _paper_net("plain", row["depth"], "none")
        convolutions = len(list(cost.convolutions(model, PAPER_DATA)))
        blocks = 3 * model.blocks_per_stage
        if (convolutions + 1, blocks) != (6 * row["n"] + 2, 3 * row["n"]):
            return _counted(False, f"At n = {row['n']}: {convolutions + 1} weighted layers and {blocks} shortcuts.")
    return _counted(True, "Counted 6n+2 weighted layers and 3n blocks, a shortcut each, for n from 3 to 200.")


# Families of claims that answer one question of the paper, fixed beforehand: Holm's correction runs within each.
FAMILIES: dict[str, dict[str, Callable[[Study], Tested | Counted]]] = {
    "degradation": {
        "S1-1": plain_train,
        "S1-2": plain_test,
        "S1-3": no_overfitting,
        "S1-4": plain_starts,
        "S41-27": plain_bottlenecks,
        "S42-1": plain_train_trend,
        "S42-2": plain_test_trend,
        "S42-3": plain110_fails,
    },
    "residual nets": {
        "S41-14": residual_converges_faster,
        "S41-15": options_beat_plain,
        "S42-4": residual_train_trend,
        "S42-5": residual_test_trend,
        "S42-6": residual_beats_plain,
        "S42-8": no_warmup,
        "S42-9": warmup_length,
        "S42-10": residual110_converges,
        "S42-11": residual110_state_of_the_art,
    },
    "layers": {
        "S41-3": plain_signals,
        "S41-4": plain_gradients,
        "S42-12": residual_responses,
        "S42-13": residual_responses_fall,
        "S42-14": residual_functions_near_zero,
    },
    "1202 layers": {
        "S42-15": residual1202_trains,
        "S42-16": residual1202_test,
        "S42-17": residual1202_tests_worse,
        "S42-18": residual1202_trains_alike,
        "S42-19": residual1202_overfits,
    },
}
MEASURED = {name: test for family in FAMILIES.values() for name, test in family.items()}
# The same trials and the same test under a second name; tested once, so that Holm counts it once.
SAME = {"S1-5": "S1-1", "S3-4": "S42-12", "S41-26": "S42-5"}
ARITHMETIC: dict[str, Callable[[], Counted]] = {
    "S3-1": equal_counts,
    "S3-3": baseline34_counts,
    "S41-21": block_costs,
    "S41-22": projection_costs,
    "S41-23": imagenet_counts,
    "S42-21": parameter_counts,
    "S42-22": layer_counts,
}
UNTESTED = {
    "S3-2": "no net with shortcuts over a single layer is part of the study",
    "S42-7": "the comparison needs plain nets trained on ImageNet",
}
NEEDS = {"imagenet": "needs nets trained on ImageNet", "detection": "needs detectors trained on VOC, COCO or ImageNet"}


_SIDE = {1: "weakest", -1: "one that speaks most against it"}


def evaluate(frames: Frames, profile: Profile) -> list[dict[str, Any]]:
    """An entry for every claim, in the paper's order.

    Each has id, section, statement, verdict, effect (percentage points; null where there is none or it is not in
    points), interval (95 %, of the effect alone, not corrected for many claims), n (paired seeds), runs (the ids of
    those used) and a one-paragraph reason with the numbers.
    """
    study = Study(frames.finals, frames.curves, frames.layers, profile)
    outcomes: dict[str, Tested | Counted] = {}
    for claim in paper.claims():
        if claim["id"] not in SAME:
            outcomes[claim["id"]] = _outcome(claim, study)
    decided = _decide(outcomes)
    entries = []
    for claim in paper.claims():
        entry = decided.get(claim["id"])
        if entry is None:
            other = SAME[claim["id"]]
            reason = profile.untestable.get(claim["id"])
            entry = (
                _entry(Counted(NOT_TESTABLE, _sentence(reason)))
                if reason
                else decided[other] | {"reason": f"Same trials and test as {other}. {decided[other]['reason']}"}
            )
        entries.append({key: claim[key] for key in ("id", "section", "statement")} | entry)
    return entries


def _outcome(claim: dict[str, Any], study: Study) -> Tested | Counted:
    name, untestable = claim["id"], study.profile.untestable
    if name in ARITHMETIC:
        return ARITHMETIC[name]()
    if name in MEASURED:
        reason = untestable.get(name) or untestable.get("*")
        if reason is None:
            try:
                return MEASURED[name](study)
            except NotTestable as why:
                reason = str(why)
    elif name in UNTESTED:
        reason = UNTESTED[name]
    elif claim["kind"] == "conjecture":
        reason = "the paper offers it as a conjecture without a test"
    else:
        reason = NEEDS[claim["cost"]]
    return Counted(NOT_TESTABLE, _sentence(reason))


def _decide(outcomes: dict[str, Tested | Counted]) -> dict[str, dict[str, Any]]:
    """Verdicts, after Holm's correction over the claims of each family that have a p value."""
    decided = {name: _entry(outcome) for name, outcome in outcomes.items() if isinstance(outcome, Counted)}
    for family, claims in FAMILIES.items():
        tests = {}
        for name in claims:
            outcome = outcomes[name]
            if isinstance(outcome, Counted):
                continue
            if min(len(part.values) for part in outcome.parts) < 2:
                decided[name] = _too_few(outcome)
            else:
                tests[name] = outcome, *_weigh(outcome.parts)
        adjusted = holm([p for _, p, _, _ in tests.values()])
        for (name, (outcome, p, side, part)), corrected in zip(tests.items(), adjusted, strict=True):
            verdict = {1: SUPPORTED, -1: CONTRADICTED}[side]
            if corrected >= ALPHA:
                verdict = _undecided(_seeds_to_decide(part, side, len(tests)))
            which = "" if len(outcome.parts) == 1 else f"Of {len(outcome.parts)} parts, the {_SIDE[side]}: "
            test = f"; p {_p(p)}, after Holm over {len(tests)} claims on {family} {_p(corrected)}."
            reason = _first_upper(which + _numbers(part)) + test + _remarks(outcome)
            decided[name] = _measured_entry(verdict, part, outcome.parts, reason)
    return decided


def _weigh(parts: list[Part]) -> tuple[float, int, Part]:
    """The p value of the claim, the side it speaks for (1, or -1 against), and the part that it comes from."""
    weakest = max(parts, key=lambda part: part.p_for())
    worst = min(parts, key=lambda part: part.p_against())
    p_for, p_against = weakest.p_for(), min(1.0, len(parts) * worst.p_against())
    return (p_against, -1, worst) if p_against < p_for else (p_for, 1, weakest)


def _seeds_to_decide(part: Part, side: int, claims: int) -> int | None:
    """Further seeds at which the part would pass at a level divided by the number of claims."""
    mean = float(np.mean(part.sample))
    distance = part.margin - abs(mean) if part.direction == 0 else mean
    level = ALPHA / claims * (2 if side > 0 else 1)  # further_seeds is two-sided, support is one-sided
    return further_seeds(distance, believed_sd(part.sample, part.resolution), len(part.sample), level)


def _too_few(outcome: Tested) -> dict[str, Any]:
    part = min(outcome.parts, key=lambda part: len(part.values))
    n = len(part.values)
    have = "no seed" if n == 0 else "only one seed"
    reason = f"{_first_upper(part.what)}: {have} has every number it needs; two are the least that can be tested."
    if n:
        reason += f" That seed: {part.values.iloc[0]:.2f}{part.unit and ' ' + part.unit}."
    return _measured_entry(_undecided(2 - n), part, outcome.parts, reason + _remarks(outcome))


def _measured_entry(verdict: str, part: Part, parts: list[Part], reason: str) -> dict[str, Any]:
    found = estimate(part.values, part.resolution)
    in_points = part.unit == "points"
    return {
        "verdict": verdict,
        "effect": found.mean if in_points and found.n else None,
        "interval": [found.low, found.high] if in_points and found.n > 1 else None,
        "n": found.n,
        "runs": _runs(rows.loc[rows["seed"].isin(each.values.index)] for each in parts for rows in each.nets),
        "reason": reason,
    }


def _entry(outcome: Counted) -> dict[str, Any]:
    seeds = [int((rows["outcome"].isin(("finished", "diverged"))).sum()) for rows in outcome.nets]
    return {
        "verdict": outcome.verdict,
        "effect": None,
        "interval": None,
        "n": min(seeds, default=0),
        "runs": _runs(outcome.nets),
        "reason": outcome.reason,
    }


def _runs(nets: Iterable[pd.DataFrame]) -> list[str]:
    return list(dict.fromkeys(run for rows in nets for run in rows["run_id"] if run))


def _undecided(k: int | None) -> str:
    return f"undecided (needs {'more than 1000' if k is None else k} more seeds)"


def _numbers(part: Part) -> str:
    found = estimate(part.values, part.resolution)
    within = f" (to be within {part.margin:g})" if part.direction == 0 else ""
    return (
        f"{part.what}: {found.mean:.2f}{part.unit and ' ' + part.unit} [{found.low:.2f}, {found.high:.2f}]{within}"
        f" over {found.n} paired seeds"
    )


def _remarks(outcome: Tested) -> str:
    """What else a reader must know: notes, a clean error that disagrees, trials left out."""
    remarks = [outcome.note] if outcome.note else []
    for part in outcome.parts:
        mean = _mean(part.values)
        if part.clean is not None and mean is not None and part.direction and part.clean * mean < 0:
            remarks.append(f"Measured clean, {part.what} has the other sign: {part.clean:.2f} points.")
    absent = {
        row["id"]: row["outcome"]
        for part in outcome.parts
        for rows in part.nets
        for _, row in rows.iterrows()
        if row["outcome"] != "finished" and row["seed"] not in part.values.index
    }
    if absent:
        remarks.append(f"Left out: {_some([f'{name} ({how})' for name, how in absent.items()])}.")
    return "".join(f" {remark}" for remark in remarks)


def _some(names: list[str]) -> str:
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")


def _listed(items: Iterable[Any]) -> str:
    *most, last = map(str, items)
    return f"{', '.join(most)} and {last}" if most else last


def _mean(values: pd.Series) -> float | None:
    return float(values.mean()) if len(values) else None


def _p(p: float) -> str:
    return f"= {p:.2g}" if p >= 1e-4 else "< 0.0001"


def _first_upper(text: str) -> str:
    return text[:1].upper() + text[1:]


def _sentence(text: str) -> str:
    return _first_upper(text) + "."
