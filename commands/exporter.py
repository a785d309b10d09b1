"""A study's standing as Prometheus metrics, computed when Prometheus asks.

Owns names and units. Gauges of trials exist for running ones only, so that there are never more series than trials
that run at once. Needs the package prometheus-client, which is optional.
"""

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from commands.onlooker import Onlooker
from commands.standing import STATES, Standing
from study.store.account import Outcome

FRESH_SECONDS = 5.0  # several scrapers make one look
NAME = "degradation"


class Exporter:
    """Collects the metrics of one study, with a look that is no older than some seconds."""

    def __init__(self, onlooker: Onlooker, clock: Callable[[], float] = time.monotonic) -> None:
        self.onlooker, self.clock = onlooker, clock
        self.lock = threading.Lock()
        self.at: float | None = None
        self.iterations = Rising()
        self.failures = Rising()

    def collect(self) -> Iterator[Metric]:
        """What `prometheus_client` asks for at every scrape."""
        with self.lock:
            if self.at is None or self.clock() - self.at > FRESH_SECONDS:
                self.standing, self.at = self.onlooker.look(), self.clock()
                self.iterations.see({row.id: row.iteration for row in self.standing.rows})
                self.failures.see({id: account.failures for id, account in self.onlooker.accounts.items()})
            yield from self._metrics(self.standing)

    def _metrics(self, standing: Standing) -> Iterator[Metric]:
        def gauge(name: str, text: str, value: float | None) -> GaugeMetricFamily:
            family = GaugeMetricFamily(f"{NAME}_{name}", text, labels=["profile"])
            if value is not None:  # what is not known is absent, which no number could say
                family.add_metric([profile], value)
            return family

        def counter(name: str, text: str, value: float) -> CounterMetricFamily:
            family = CounterMetricFamily(f"{NAME}_{name}", text, labels=["profile"])
            family.add_metric([profile], value)
            return family

        profile, interval, tracker = standing.profile, standing.interval, self.onlooker.tracker
        trials = GaugeMetricFamily(f"{NAME}_trials", "Planned trials, by how they stand.", labels=["profile", "state"])
        for state in STATES:
            trials.add_metric([profile, state], standing.counts[state])
        yield trials
        reasons = GaugeMetricFamily(
            f"{NAME}_failed_trials", "Trials that have failed, by kind of reason.", labels=["profile", "reason"]
        )
        for reason, count in Counter(row.cause or "other" for row in standing.of(Outcome.FAILED)).items():
            reasons.add_metric([profile, reason], count)
        yield reasons
        yield counter(
            "iterations", "Iterations trained; those done again after a kill count again.", self.iterations.total
        )
        yield counter("failures", "Attempts at trials that failed.", self.failures.total)
        yield gauge("planned_iterations", "Iterations of all planned trials.", sum(r.iterations for r in standing.rows))
        yield gauge("iterations_per_second", "Pace of the trials that run, together.", standing.rate)
        end = "Seconds until the last trial is predicted to end"
        yield gauge("predicted_end_seconds", f"{end}.", standing.seconds_left)
        low, high = (interval.low, interval.high) if interval else (None, None)
        yield gauge("predicted_end_low_seconds", f"{end}: low end of the interval, once five have finished.", low)
        yield gauge("predicted_end_high_seconds", f"{end}: high end of the interval, once five have finished.", high)
        yield gauge("launch_running", "1 while a launch shows signs of life, else 0.", standing.launch == "running")
        known = tracker.accounts is not None
        up = not tracker.problem if known or tracker.problem else None
        yield gauge("tracker_up", "1 if MLflow answered when last asked, else 0.", up)
        behind = {id for id, account in self.onlooker.accounts.items() if account.has_result} - tracker.results()
        yield gauge(
            "tracker_lag_trials", "Results in the store that MLflow does not show.", len(behind) if known else None
        )
        yield from _running(standing)


def _running(standing: Standing) -> Iterator[Metric]:
    """Gauges of the trials that run now."""
    labels = ["profile", "trial"]
    part = GaugeMetricFamily(f"{NAME}_trial_progress_ratio", "Part of a running trial's iterations.", labels=labels)
    error = GaugeMetricFamily(f"{NAME}_trial_train_error_ratio", "Running training error, 0 to 1.", labels=labels)
    left = GaugeMetricFamily(
        f"{NAME}_trial_left_seconds", "Seconds left of a running trial, by its pace.", labels=labels
    )
    for row in standing.of(Outcome.RUNNING):
        values = [standing.profile, row.id]
        part.add_metric(values, row.iteration / row.iterations)
        if row.train_error_pct is not None:
            error.add_metric(values, row.train_error_pct / 100)
        if row.seconds_left is not None:
            left.add_metric(values, row.seconds_left)
    yield from (part, error, left)


class Rising:
    """The sum of what numbers rose by: a trial that goes back to its checkpoint makes no counter fall."""

    def __init__(self) -> None:
        self.total = 0.0
        self.before: dict[str, float] = {}

    def see(self, now: Mapping[str, float]) -> None:
        self.total += sum(max(0.0, value - self.before.get(id, 0.0)) for id, value in now.items())
        self.before |= now
