"""The paper's claims: one function each, which returns the comparison of logged runs that tests it.

Owns the list of all claims, in families, and the nets, measure and direction of those on CIFAR nets. The others are in
`analysis.imagenet_claims` and `analysis.detection_claims`, those decided by counting in `analysis.counted_claims`.
The sentence of each claim, by its id, is in `analysis/paper/claims.yaml`. `compare(a, b, measure, 1)` tests that a is
above b, -1 that it is below, 0 that they are equal within a margin.
Must not know how comparisons become verdicts (`analysis.decision`), nor where runs are kept.
"""

import math
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace

import numpy as np
import pandas as pd

from analysis import detection_claims, imagenet_claims, paper, starts
from analysis.comparisons import (
    CLEAN,
    TEST,
    TRAIN,
    Counted,
    NotTestable,
    Part,
    Study,
    Tested,
    against,
    chance,
    compare,
    diverged,
    first_iteration,
    mean,
    net,
    only_on_cifar10,
    record_every,
    resolution,
    some,
    title,
    trend,
)
from analysis.convergence import log_likelihoods
from analysis.nets import serving
from analysis.runs import IMAGES, IMAGES_ELSE
from analysis.statistics import estimate
from analysis.verdicts import Kind
from experiments import (
    bottlenecks,
    budget,
    budget_grid,
    depth_scaling,
    initial_layers,
    learning_rate,
    plain_vs_residual,
    shortcut_options,
)
from study.store.account import RESULTS, Outcome

MAIN, OPTIONS, DEEP = plain_vs_residual.NAME, shortcut_options.NAME, depth_scaling.NAME
RATE, BOTTLENECKS = learning_rate.NAME, bottlenecks.NAME


def _nets(study: Study, family: str, deepest: int) -> list[pd.DataFrame]:
    depths = [depth for depth in sorted(plain_vs_residual.depths(study.profile)) if depth <= deepest]
    return [net(study, MAIN, family, depth) for depth in depths]


# Sec. 1 and 4.2: plain nets


def plain_train(study: Study) -> Tested:
    """Plain-56 minus plain-20 in running training error at the end; above 0."""
    plain20, plain56 = net(study, MAIN, "plain", 20), net(study, MAIN, "plain", 56)
    return Tested([compare(plain56, plain20, TRAIN, 1)])


def plain_test(study: Study) -> Tested:
    """Plain-56 minus plain-20 in test error of the last iterate; above 0."""
    plain20, plain56 = net(study, MAIN, "plain", 20), net(study, MAIN, "plain", 56)
    return Tested([compare(plain56, plain20, TEST, 1)])


def no_overfitting(study: Study) -> Tested:
    """Training error rises, and more than half of what test error rises by is no growth of the generalisation gap.

    The gap is test minus clean training error of the last iterate. A half, because a cause of less than half of an
    effect is not its main one.
    """
    shallow, deep = net(study, MAIN, "plain", 20), net(study, MAIN, "plain", 56)
    test, clean = deep[TEST] - shallow[TEST], deep[CLEAN] - shallow[CLEAN]
    gap = Part(
        what="half of the growth of test error from plain-20 to plain-56 minus the growth of its gap to training error",
        values=(test / 2 - (test - clean)).dropna(),
        direction=1,
        nets=(deep, shallow),
        resolution=resolution(deep, TEST),
    )
    growth = mean((test - clean).dropna())
    note = "" if growth is None else f"The gap of test over clean training error grows by {growth:.2f} points."
    return Tested([*plain_train(study).parts, gap], note)


def plain_starts(study: Study) -> Tested | Counted:
    """The running training error at the end of the first tenth of training: 5 points below chance, as in S42-8."""
    parts = []
    for depth in (20, 56):
        rows = net(study, MAIN, "plain", depth)
        at_chance, above_chance, never = chance(study) - 5, {}, []
        for seed, row in rows[rows["outcome"].isin(RESULTS)].iterrows():
            curve = study.curves[study.curves["id"] == row["id"]]
            curve = curve[curve["iteration"] <= row["iterations"] / 10]
            if len(curve):
                above_chance[seed] = float(curve["train_error_pct"].iloc[-1]) - at_chance
            if row["outcome"] == Outcome.DIVERGED and not math.isfinite(above_chance.get(seed, math.nan)):
                never.append(row["id"])
        if never:
            return Counted(Kind.CONTRADICTED, f"Diverged within the first tenth of training: {some(never)}.", (rows,))
        parts.append(
            Part(
                what=f"training error of {title(rows)} after a tenth of training minus 5 below chance ({at_chance:g})",
                values=pd.Series(above_chance, dtype=float),
                direction=-1,
                nets=(rows,),
                resolution=resolution(rows, TRAIN),
            )
        )
    return Tested(parts)


def plain_train_trend(study: Study) -> Tested:
    """Training error rises over the plain nets of 20 to 56 layers: one contrast, no step the other way."""
    return trend(_nets(study, "plain", 56), TRAIN, 1)


def plain_test_trend(study: Study) -> Tested:
    """Test error rises over the plain nets of 20 to 56 layers: one contrast, no step the other way."""
    return trend(_nets(study, "plain", 56), TEST, 1)


def _plain110(study: Study) -> pd.DataFrame:
    """Of the paper's schedule; or of the longest in the experiment budget, if that is longer than the profile's own."""
    rows = net(study, MAIN, "plain", 110)
    longer = pd.concat([serving(study.finals, name) for name in (budget.NAME, budget_grid.NAME)])
    longer = longer.drop_duplicates("id").query("title == 'plain-110'")
    longer = longer[longer["iterations"] > rows["iterations"].max()]
    if len(longer):
        longest: pd.DataFrame = longer[longer["iterations"] == longer["iterations"].max()]
        return longest.set_index("seed", drop=False).sort_index()
    if rows["iterations"].max() < paper.ITERATIONS:
        raise NotTestable(
            f"a net that was never trained is above 60 %, too: needs plain-110 on more than its"
            f" {rows['iterations'].max():,} iterations; the paper's has {paper.ITERATIONS:,}"
        )
    return rows


def plain110_fails(study: Study) -> Tested | Counted:
    """'Higher than 60 %', in training and test, on the paper's schedule or on a longer one than the profile's."""
    rows = _plain110(study)
    lost, finished = rows[rows["outcome"] == Outcome.DIVERGED], rows[rows["outcome"] == Outcome.FINISHED]
    above = ((finished[TRAIN] > 60) & (finished[TEST] > 60)).all()
    if len(lost) and len(finished) < 2 and len(lost) + len(finished) >= 2 and above:
        reason = f"Every seed fails: {len(lost)} diverged, {len(finished)} above 60 %."
        return Counted(Kind.SUPPORTED, reason, (rows,))
    note = f"{len(lost)} diverged seeds fail as well." if len(lost) else ""
    return Tested([against(rows, TRAIN, 60, 1), against(rows, TEST, 60, 1)], note)


def plain_bottlenecks(study: Study) -> Tested:
    """The deepest plain bottleneck net minus the shallowest, in training error; above 0."""
    depths = sorted(bottlenecks.depths(study.profile))
    if len(depths) < 2:
        raise NotTestable("this profile does not compare two depths of bottleneck nets")
    shallow, deep = (net(study, BOTTLENECKS, "plain", d, block="bottleneck") for d in (depths[0], depths[-1]))
    return Tested([compare(deep, shallow, TRAIN, 1)])


def plain_rates(study: Study) -> Tested:
    """'Exponentially low convergence rates': iterations until the test error is at most 20 %, against depth.

    Two models of equal size, log T linear in depth or in its logarithm (`analysis.convergence`), over all depths of
    plain nets; times that are not reached within the schedule are censored, not left out. By seed, the difference of
    their log-likelihoods (Vuong, Econometrica 57, 1989); above 0 is exponential. And T must grow at all.
    """
    nets = _nets(study, "plain", 110)
    if len(nets) < 3:
        raise NotTestable("an exponential and a power of depth differ at three depths or more")
    times = pd.concat([_between_evaluations(study, rows, 20) for rows in nets], ignore_index=True)
    likelihoods = [
        log_likelihoods(times["after"].to_numpy(float), times["by"].to_numpy(float), covariate)
        for covariate in (times["depth"].to_numpy(float), np.log(times["depth"].to_numpy(float)))
        if len(times)
    ]
    gains = pd.Series(likelihoods[0] - likelihoods[1], index=times["seed"]) if likelihoods else pd.Series(dtype=float)
    shallowest, deepest = (first_iteration(study, rows, 20, TEST) for rows in (nets[0], nets[-1]))
    exponential = Part(
        what="log-likelihood of times to 20 % test error, exponential minus power of depth",
        values=gains.groupby(level=0).sum(),
        direction=1,
        nets=tuple(nets),
        resolution=0.0,
        unit="nats",
    )
    rises = Part(
        what=f"log2 of the iterations to 20 % test error, {title(nets[-1])} over {title(nets[0])} (at least)",
        values=(deepest / shallowest).map(math.log2).dropna(),
        direction=1,
        nets=(nets[-1], nets[0]),
        resolution=0.0,
        unit="doublings",
    )
    return Tested([exponential, rises])


def _between_evaluations(study: Study, rows: pd.DataFrame, at_most: float) -> pd.DataFrame:
    """Of finished trials: depth, seed, and the evaluations between which the test error first came to `at_most`."""
    found = []
    for seed, row in rows[rows["outcome"] == Outcome.FINISHED].iterrows():
        curve = study.curves[study.curves["id"] == row["id"]].dropna(subset=[TEST])
        reached = curve.loc[curve[TEST] <= at_most, "iteration"].min()
        earlier = curve.loc[~(curve["iteration"] >= reached), "iteration"]
        found.append((row["depth"], seed, earlier.max() if len(earlier) else 0, reached))
    times = pd.DataFrame(found, columns=["depth", "seed", "after", "by"])
    return times.assign(by=times["by"].fillna(math.inf))


def as_on_imagenet(study: Study) -> Tested:
    """'Similar': on both, the deeper plain net trains worse. The nets on MNIST are [42]'s, not the paper's."""
    return Tested([*plain_train(study).parts, *imagenet_claims.plain_train(study).parts])


# Sec. 4.1 and 4.2: residual nets


def residual_train_trend(study: Study) -> Tested:
    """Training error falls over the residual nets of 20 to 110 layers: one contrast, no step the other way."""
    return trend(_nets(study, "residual", 110), TRAIN, -1)


def residual_test_trend(study: Study) -> Tested:
    """Test error falls over the residual nets of 20 to 110 layers: one contrast, no step the other way."""
    return trend(_nets(study, "residual", 110), TEST, -1)


def residual_beats_plain(study: Study) -> Tested:
    """At each depth, in training and test."""
    plain, residual = _nets(study, "plain", 56), _nets(study, "residual", 56)
    return Tested(
        [compare(p, r, measure, 1) for p, r in zip(plain, residual, strict=True) for measure in (TRAIN, TEST)]
    )


def residual_converges_faster(study: Study) -> Tested:
    """Without ImageNet nets, a proxy: iterations until the running training error is at most 20 %, 20 layers."""
    with suppress(NotTestable):
        return imagenet_claims.converges_faster_at_18(study)
    plain, residual = net(study, MAIN, "plain", 20), net(study, MAIN, "residual", 20)
    part = Part(
        what="first iteration with training error at most 20 %, plain-20 minus ResNet-20",
        values=(first_iteration(study, plain, 20) - first_iteration(study, residual, 20)).dropna(),
        direction=1,
        nets=(plain, residual),
        resolution=record_every(study, plain),
        unit="iterations",
    )
    return _proxy(study, [part], "the 18-layer")


def options_beat_plain(study: Study) -> Tested:
    """'Considerably better'. Without ImageNet nets, a proxy: at the compared depth that is nearest to 34."""
    with suppress(NotTestable):
        return imagenet_claims.options_beat_plain(study)
    plain, *options = _nearest_to_34(study)
    by = imagenet_claims.MARGIN
    return _proxy(study, [compare(plain, rows, TEST, 1, by=by) for rows in options], "the 34-layer")


def b_beats_a(study: Study) -> Tested:
    """Without ImageNet nets, a proxy, as for S41-15."""
    with suppress(NotTestable):
        return imagenet_claims.b_beats_a(study)
    _, a, b, _ = _nearest_to_34(study)
    return _proxy(study, [compare(a, b, TEST, 1)], "the 34-layer")


def c_beats_b(study: Study) -> Tested:
    """Without ImageNet nets, a proxy, as for S41-15."""
    with suppress(NotTestable):
        return imagenet_claims.c_beats_b(study)
    _, _, b, c = _nearest_to_34(study)
    return _proxy(study, [compare(b, c, TEST, 1)], "the 34-layer")


def options_differ_little(study: Study) -> Tested:
    """Largest difference among A, B and C below half of the gap from plain to A; a proxy as for S41-15."""
    with suppress(NotTestable):
        return imagenet_claims.options_differ_little(study)
    plain, *options = _nearest_to_34(study)
    errors = pd.DataFrame({title(rows): rows[TEST] for rows in options}).dropna()
    spread = errors.max(axis=1) - errors.min(axis=1)
    part = Part(
        what=f"largest difference among options in test error minus half of the gap from {title(plain)} to A",
        values=(spread - (plain[TEST] - options[0][TEST]) / 2).dropna(),
        direction=-1,
        nets=(plain, *options),
        resolution=resolution(plain, TEST),
    )
    return _proxy(study, [part], "the 34-layer")


def _nearest_to_34(study: Study) -> list[pd.DataFrame]:
    """Plain, A, B and C at the depth nearest to that of the paper's nets. Raises `NotTestable`."""
    depths = set(shortcut_options.depths(study.profile)) & set(plain_vs_residual.depths(study.profile))
    if not depths:
        raise NotTestable("no depth has a plain net and options A, B and C")
    depth = min(depths, key=lambda layers: abs(layers - 34))
    plain = net(study, MAIN, "plain", depth)
    options = [net(study, OPTIONS, "residual", depth, shortcut) for shortcut in "ABC"]
    for rows in options:
        if rows["deviations"].iloc[0] != plain["deviations"].iloc[0]:
            raise NotTestable(f"{title(rows)} and {title(plain)} were trained by different recipes")
    return [plain, *options]


def _proxy(study: Study, parts: list[Part], nets: str) -> Tested:
    """A test on the profile's own data; the paper's claim is about `nets` on ImageNet."""
    return Tested(parts, f"A proxy on {study.profile.data.name}: the paper shows {nets} ImageNet nets.", proxy=True)


def no_warmup(study: Study) -> Tested:
    """Footnote 5: at 0.1 from the start, ResNet-110 starts after several (here: two) epochs and ends alike.

    To start is to be 5 points below chance: windows of an untrained net scatter around chance itself.
    """
    if ("residual", 110) not in learning_rate.nets(study.profile):
        raise NotTestable("this profile does not train ResNet-110 at learning rate 0.1 from the start")
    without, with_warmup = net(study, RATE, "residual", 110), net(study, MAIN, "residual", 110)
    images = IMAGES.get(study.profile.data.name, IMAGES_ELSE)[0]
    epochs = 2 * images / study.profile.recipe(study.profile.model("residual", 110)).batch
    start = Part(
        what=f"first iteration of ResNet-110 without warm-up 5 points below chance, minus two epochs ({epochs:.0f})",
        values=first_iteration(study, without, chance(study) - 5) - epochs,
        direction=1,
        nets=(without,),
        resolution=record_every(study, without),
        unit="iterations",
    )
    alike = compare(without, with_warmup, TEST, 0, margin=0.5)
    return Tested([start, replace(alike, what="test error of ResNet-110 without minus with warm-up")])


def warmup_length(study: Study) -> Tested:
    """At 0.01 the training error falls below 80 % after about 400 iterations: within a factor of two of it."""
    only_on_cifar10(study)
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
        resolution=math.log2(1 + record_every(study, rows) / 400),
        unit="doublings",
    )
    return Tested([part])


def residual110_converges(study: Study) -> Tested | Counted:
    """'Converges well': to a training error below 1 %; the paper's curve ends at about 0.05 %."""
    rows = net(study, MAIN, "residual", 110)
    return diverged(rows) or Tested([against(rows, TRAIN, 1, -1)])


def residual110_state_of_the_art(study: Study) -> Tested:
    """Against 7.72 %, the best mean that Table 6 gives for an earlier net (Highway, 19 layers, 2.3M parameters)."""
    only_on_cifar10(study)
    rows = net(study, MAIN, "residual", 110)
    error = estimate(rows[TEST].dropna())
    note = f"It has {rows['params'].iloc[0] / 1e6:.2f}M parameters; FitNet has 2.5M, Highway 2.3M (19) and 1.25M (32)."
    if error.n:
        note += f" Best {rows[TEST].min():.2f}, mean {error.mean:.2f} +- {error.sd:.2f}; the paper: 6.43, 6.61 +- 0.16."
    return Tested([against(rows, TEST, 7.72, -1)], note)


# Sec. 4.2: 1202 layers


def _deep(study: Study) -> tuple[pd.DataFrame, pd.DataFrame]:
    return net(study, DEEP, "residual", 1202), net(study, DEEP, "residual", 110)


def residual1202_trains(study: Study) -> Tested | Counted:
    """Training error of ResNet-1202 minus 0.1 %, the paper's bound; below 0. No more than 5 % of seeds diverge."""
    rows = _deep(study)[0]
    return diverged(rows) or Tested([against(rows, TRAIN, 0.1, -1)])


def residual1202_test(study: Study) -> Tested | Counted:
    """'Still fairly good': no worse than 8.75 %, the paper's ResNet-20."""
    only_on_cifar10(study)
    rows = _deep(study)[0]
    return diverged(rows) or Tested([against(rows, TEST, 8.75, -1)], "8.75 % is ResNet-20 in Table 6.")


def residual1202_tests_worse(study: Study) -> Tested:
    """Test error of ResNet-1202 minus ResNet-110; above 0."""
    return Tested([compare(*_deep(study), TEST, 1)])


def residual1202_trains_alike(study: Study) -> Tested:
    """Training error of ResNet-1202 minus ResNet-110; within 0.1 points, the bound that the paper names."""
    return Tested([compare(*_deep(study), TRAIN, 0, margin=0.1)])


def residual1202_overfits(study: Study) -> Tested:
    """A larger gap at equal training error is S42-17 and S42-18 again, and does not show overfitting.

    It would be decided by both nets on fractions of the data, stopped early, and regularised alike.
    """
    raise NotTestable("needs ResNet-110 and ResNet-1202 on fractions of the training data, or regularised alike")


# Sec. 4.1 and 4.2: what layers do


def _layers(study: Study, rows: pd.DataFrame) -> pd.DataFrame:
    """The layer measurements of the finished trials. Raises `NotTestable` where their runs have none."""
    layers = study.layers[study.layers["id"].isin(rows["id"])]
    if layers.empty and (rows["outcome"] == Outcome.FINISHED).any():
        raise NotTestable(f"the runs of {title(rows)} are from before layers were measured")
    return layers


def _at_the_end(study: Study, rows: pd.DataFrame, column: str) -> pd.Series:
    """By seed, the mean over layers of what was measured at the end of training."""
    layers = _layers(study, rows)
    return layers[layers["iteration"] > 0].groupby("seed")[column].mean()


def _change(study: Study, rows: pd.DataFrame, column: str) -> pd.Series:
    """By seed, the mean over layers at the end of training minus that at the start."""
    layers = _layers(study, rows)
    start = layers[layers["iteration"] == 0].groupby("seed")[column].mean()
    return (_at_the_end(study, rows, column) - start).dropna()


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


def _plain_with_layers(study: Study) -> list[tuple[pd.DataFrame, pd.DataFrame]]:
    """Plain nets of every depth with their layers; those without any only if none has. Raises `NotTestable`."""
    nets = [(rows, study.layers[study.layers["id"].isin(rows["id"])]) for rows in _nets(study, "plain", 110)]
    finished = [(rows, layers) for rows, layers in nets if (rows["outcome"] == Outcome.FINISHED).any()]
    measured = [(rows, layers) for rows, layers in finished if len(layers)]
    if finished and not measured:
        raise NotTestable(f"the runs of {title(finished[0][0])} are from before layers were measured")
    return measured or nets


def plain_signals(study: Study) -> Tested:
    """Trained, no layer's response is ten times smaller or larger than 1, BatchNorm's unit, at any depth.

    Both ways, because a signal that explodes is no healthier than one that vanishes. A factor of ten, as before.
    """
    parts = []
    for rows, layers in _plain_with_layers(study):
        decades = np.log10(layers.loc[layers["iteration"] > 0, "response_std"].clip(1e-30))
        by_seed = decades.groupby(layers["seed"]).agg(["min", "max"])
        farther = by_seed["max"].where(by_seed["max"].abs() >= by_seed["min"].abs(), by_seed["min"])
        parts.append(
            Part(
                what=f"log10 of the response of a layer of {title(rows)} at the end that is farthest from 1",
                values=farther.astype(float),
                direction=0,
                margin=1.0,
                nets=(rows,),
                resolution=0.0,
                unit="decades",
            )
        )
    return Tested(parts, "Before training every response is 1 by construction: BatchNorm makes it so.")


def plain_gradients(study: Study) -> Tested:
    """First and last layer's gradient over weight norm differ at most tenfold, at the start and the end of training.

    Estimand: the growth a layer towards the input, a slope of the logarithm over the 3x3 layers, times their number. A
    factor of ten over the whole net, as for responses (S41-3), whichever way; residual nets are the control. The bound
    was chosen after quick's numbers had been seen. At the start the nets of `initial-layers`, where it was planned.
    """
    parts = []
    for trained, _ in _plain_with_layers(study):
        initial = _initial(study, trained)
        for when, rows, of in (
            ("start", initial, _growth(study, initial).query("iteration == 0")),
            ("end", trained, _growth(study, trained).query("iteration > 0")),
        ):
            parts.append(
                Part(
                    what=f"growth of the gradient over {title(rows)} towards the input, at the {when}",
                    values=of.set_index("seed")["decades"],
                    direction=0,
                    margin=1.0,
                    nets=(rows,),
                    resolution=0.0,
                    unit="decades",
                )
            )
    nets = [*_nets(study, "plain", 110), *_nets(study, "residual", 110)]
    factors = [factor for rows in nets if (factor := _factor_a_layer(study, _initial(study, rows)))]
    return Tested(parts, f"A layer, at the start: {', '.join(factors)}." if factors else "")


def _factor_a_layer(study: Study, rows: pd.DataFrame) -> str:
    """`plain-56 1.160`: by what the relative gradient grows a layer before training; '' without a measurement."""
    growth = _growth(study, rows)
    slope = mean(growth.loc[growth["iteration"] == 0, "a_layer"])
    return "" if slope is None else f"{title(rows)} {10**slope:.3f}"


def _initial(study: Study, rows: pd.DataFrame) -> pd.DataFrame:
    """The nets of this title that show the start of training: more seeds of `initial-layers`, if they are planned."""
    more = serving(study.finals, initial_layers.NAME)
    more = more[more["title"] == title(rows)]
    return more.set_index("seed", drop=False).sort_index() if len(more) else rows


def _growth(study: Study, nets: pd.DataFrame) -> pd.DataFrame:
    """By seed and iteration, decades by which the relative gradient grows towards the input, `a_layer` and over all."""
    layers, rows = study.layers[study.layers["id"].isin(nets["id"])], []
    for (seed, iteration), one in layers.groupby(["seed", "iteration"]):
        relative = (one["gradient_norm"] / one["weight_norm"]).clip(1e-30)
        if relative.notna().all() and len(one) > 1:
            slope = -float(np.polyfit(one["layer"], np.log10(relative), 1)[0])
            rows.append((seed, iteration, slope, slope * float(np.ptp(one["layer"]))))
    return pd.DataFrame(rows, columns=["seed", "iteration", "a_layer", "decades"])


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
    """What training does to the deviation of F(x) over that of x: end minus start.

    The ratio itself is smaller in residual and in deeper nets before any training: BatchNorm makes a block's branch a
    share of a stream that grows with depth (De and Smith 2020, arXiv 2002.10444).
    """
    shallow, middle, deep = _at_depths(study, "residual", 20, 56, 110)
    plain20, plain56 = _at_depths(study, "plain", 20, 56)
    parts = [
        Part(
            what=f"change through training of mean std(F(x)) / std(x) of {title(one)} minus {title(other)}",
            values=(_change(study, one, "branch_over_input") - _change(study, other, "branch_over_input")).dropna(),
            direction=-1,
            nets=(one, other),
            resolution=0.0,
            unit="",
        )
        for one, other in ((shallow, plain20), (middle, plain56), (middle, shallow), (deep, middle))
    ]
    return Tested(parts)


# What the paper says without a test of its own, and no net of this study could test


def single_layer_functions(study: Study) -> Tested:
    """Sec. 3.2: y = W1 x + x has no advantage over W1 x.

    It would be decided by nets with a shortcut over every single layer beside plain nets of the same depths: training
    and test errors alike.
    """
    raise NotTestable("needs nets with shortcuts over a single layer, which a block of this study cannot have")


def padding_lacks_residuals(study: Study) -> Tested:
    """Sec. 4.1: B beats A because A's zero-padded channels have no residual learning.

    It would be decided by what the added channels do: nets of option A trained on while the padding of some blocks is
    replaced by projections of the other channels, which must close the gap to B.
    """
    raise NotTestable("needs nets that have projections for the zero-padded channels alone; no option of Sec. 4.1 has")


def projections_add_parameters(study: Study) -> Tested:
    """Sec. 4.1: C beats B because of the extra parameters of its thirteen projections.

    It would be decided by a net of option B widened to the 22.7M parameters of C, which must do as well as C.
    """
    raise NotTestable("needs ResNet-34 (B) with as many parameters as C; Table 1 fixes the widths")


def regularisation_helps(study: Study) -> Tested:
    """Sec. 4.2: maxout or dropout may improve the 1202-layer net.

    It would be decided by ResNet-1202 trained with dropout before the classifier, or with maxout, beside one without.
    """
    raise NotTestable("needs ResNet-1202 with maxout or dropout; the nets of the paper have neither")


# Families of claims that answer one question of the paper: Holm's correction runs within each. They were introduced
# after quick's first results had been printed, and before any run of class, one-gpu and paper.
FAMILIES: dict[str, dict[str, Callable[[Study], Tested | Counted]]] = {
    "degradation": {
        "S1-1": plain_train,
        "S1-2": plain_test,
        "S1-3": no_overfitting,
        "S1-4": plain_starts,
        "S41-27": plain_bottlenecks,
        "S1-5": starts.constructed,
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
    "explanations": {
        "S3-2": single_layer_functions,
        "S41-7": plain_rates,
        "S41-19": padding_lacks_residuals,
        "S41-20": projections_add_parameters,
        "S42-20": regularisation_helps,
        "S43-4": detection_claims.solely_representations,
    },
    "ImageNet: degradation": {
        "S41-1": imagenet_claims.plain_validation,
        "S41-2": imagenet_claims.plain_train,
        "S41-5": imagenet_claims.plain_competitive,
        "S41-6": imagenet_claims.plain_longer,
        "S42-7": as_on_imagenet,
    },
    "ImageNet: residual nets": {
        "S41-8": imagenet_claims.residual_gains,
        "S41-9": imagenet_claims.residual_train,
        "S41-10": imagenet_claims.residual_generalises,
        "S41-11": imagenet_claims.residual_beats_plain,
        "S41-12": imagenet_claims.gain_is_in_training,
        "S41-13": imagenet_claims.comparable_at_18,
    },
    "ImageNet: shortcuts": {
        "S3-5": imagenet_claims.identity_is_sufficient,
        "S41-16": b_beats_a,
        "S41-17": c_beats_b,
        "S41-18": options_differ_little,
    },
    "ImageNet: depth": {
        "S41-24": imagenet_claims.deep_beat_34,
        "S41-25": imagenet_claims.no_degradation_to_152,
        "S41-28": imagenet_claims.baselines_competitive,
        "S41-29": imagenet_claims.one_beats_ensembles,
        "S41-30": imagenet_claims.six_reach,
    },
    "detection": {
        "S43-1": detection_claims.voc_gain,
        "S43-2": detection_claims.coco_gain,
        "S43-3": detection_claims.localisation_gains_too,
        "SB-1": detection_claims.refinement,
        "SB-2": detection_claims.context,
        "SB-3": detection_claims.multi_scale,
        "SB-4": detection_claims.coco_systems,
        "SB-5": detection_claims.voc_systems,
        "SB-6": detection_claims.det_systems,
    },
    "localisation": {
        "SC-1": detection_claims.localisation_by_class,
        "SC-2": detection_claims.localisation_test,
    },
}
MEASURED = {name: test for family in FAMILIES.values() for name, test in family.items()}
# The same trials and the same test under a second name; tested once, so that Holm counts it once.
SAME = {"S3-4": "S42-14", "S41-26": "S42-5"}
