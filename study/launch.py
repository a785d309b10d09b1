"""Fan trials out onto whatever there is; the only module that imports ray.

Owns placement, retries, resumption and interruption. Ray Tune places and retries; what is done is decided by the
tracking store alone, so every launch simply works on what has no result yet. Does not know why a trial is run.
"""

import hashlib
import logging
import os
import secrets
import shutil
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from study import progress, tracking
from study.cost import predicted_seconds
from study.spec import Execution, InputError, Trial

log = logging.getLogger(__name__)
Tags = Mapping[str, dict[str, str]]


def launch(trials: Sequence[Trial], execution: Execution, tags: Tags, on_start: Callable[[list[Trial]], Any]) -> None:
    """Run every trial that has no result yet, longest first; `tags` of each id go to its run.

    Raises `InputError` if the store is in use or data are missing, before anything runs, and `KeyboardInterrupt` on
    SIGINT or SIGTERM, with everything resumable and no run left running. Trials that fail are retried, then left with
    outcome 'failed' while the rest goes on.
    """
    tracking.create_store(execution)
    with _only_launcher(execution.storage):
        tracking.close_stale(execution, "its launcher was killed")
        done = {run.trial.id for run in tracking.read(execution, trials, False) if run.outcome in tracking.RESULTS}
        todo = [trial for trial in trials if trial.id not in done]
        if execution.profile_trace not in ("", "longest", *(trial.id for trial in todo)):
            raise InputError(
                f"profile-trace {execution.profile_trace!r} is no trial that is still to run;"
                " `python -m experiments plan` lists them"
            )
        if not todo:
            return
        _check_data(todo, execution)
        if not execution.address:  # a cluster's nodes are not this machine
            from study.worker import check_machine

            check_machine(execution)
        progress.stop_file(execution.storage).unlink(missing_ok=True)
        todo.sort(key=predicted_seconds, reverse=True)
        if execution.profile_trace == "longest":
            execution = replace(execution, profile_trace=todo[0].id)
        on_start(todo)
        try:
            (_run_locally if execution.local else _run_on_ray)(todo, execution, tags)
        finally:
            tracking.close_stale(execution, "interrupted")


def _check_data(trials: Sequence[Trial], execution: Execution) -> None:
    """Load each data set once before any trial starts: a missing one is the user's to mend, not a failed trial."""
    from study.data import load

    for data in {trial.data: None for trial in trials}:
        load(data, execution.data_root)


def _run_locally(trials: Sequence[Trial], execution: Execution, tags: Tags) -> None:
    from study.worker import run_trial

    with _stopping_on_signals(execution):
        for trial in trials:
            for attempt in range(execution.retries + 1):
                try:
                    if run_trial(trial, execution, tags[trial.id]) == "interrupted":
                        raise KeyboardInterrupt
                    break
                except Exception:
                    log.exception("trial %s failed (attempt %d of %d)", trial.id, attempt + 1, execution.retries + 1)


def _run_on_ray(trials: Sequence[Trial], execution: Execution, tags: Tags) -> None:
    with _scratch(execution.storage) as scratch:
        _set_environment(execution)
        import ray
        from ray import tune

        try:
            _start_ray(ray, execution, scratch)
            resources = _resources(ray, execution)
            slots = int(min(ray.cluster_resources()[kind] / share for kind, share in resources.items()))
            if slots < 1:
                raise InputError(f"a trial takes {resources}, but Ray has only {ray.cluster_resources()}")
            by_id = {trial.id: (trial, tags[trial.id]) for trial in trials}

            def trial_function(config: dict[str, str], by_id: dict[str, Any]) -> dict[str, str]:
                from study.worker import run_trial

                trial, its_tags = by_id[config["trial_id"]]
                return {"outcome": run_trial(trial, execution, its_tags)}

            tuner = tune.Tuner(
                tune.with_resources(tune.with_parameters(trial_function, by_id=by_id), resources),
                param_space={"trial_id": tune.grid_search([trial.id for trial in trials])},
                tune_config=tune.TuneConfig(
                    max_concurrent_trials=slots,  # so that the order given is the order started
                    reuse_actors=True,  # imports are paid once a slot, not once a trial
                    trial_name_creator=lambda t: t.config["trial_id"],
                    trial_dirname_creator=lambda t: t.config["trial_id"],
                ),
                run_config=tune.RunConfig(
                    name="tune",
                    storage_path=str(scratch),
                    failure_config=tune.FailureConfig(max_failures=execution.retries),
                    verbose=0,
                ),
            )
            with _stopping_on_signals(execution):  # inside, because ray.init sets a handler of its own
                grid = tuner.fit()
            results = [grid[index] for index in range(len(grid))]
        finally:
            ray.shutdown()
    for result in results:
        if result.error is not None:
            trial, _ = by_id[(result.config or {})["trial_id"]]
            tracking.fail(execution, trial, str(result.error))
            log.error("trial %s failed: %s", trial.id, str(result.error).strip().splitlines()[-1])


@contextmanager
def _scratch(storage: Path) -> Iterator[Path]:
    """Ray's folder, gone afterwards. A killed launch leaves it behind; the next one on the same store clears it.

    Its path is short because Ray puts sockets there, and only its owner may enter.
    """
    name = hashlib.sha256(str(storage.resolve()).encode()).hexdigest()[:10]
    scratch = Path(f"/tmp/study-{os.getuid()}-{name}")
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(mode=0o700)
    try:
        yield scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _set_environment(execution: Execution) -> None:
    """Settings that Ray reads from the environment when it is imported, for this process and those it starts."""
    os.environ.update(
        MALLOC_ARENA_MAX="1",  # Tune runs each trial in a new thread, and glibc would keep what each one freed apart
        RAY_USAGE_STATS_ENABLED="0",
        RAY_AIR_NEW_OUTPUT="0",
        RAY_CHDIR_TO_TRIAL_DIR="0",
        RAY_ENABLE_UV_RUN_RUNTIME_ENV="0",
        TUNE_DISABLE_SIGINT_HANDLER="1",  # ours asks trials to save first
        TUNE_DISABLE_AUTO_CALLBACK_LOGGERS="1",  # MLflow has the results
        TUNE_MAX_PENDING_TRIALS_PG="1",  # keeps the order when resource shapes differ
    )
    if not execution.address:  # other users of this machine stay out; a cluster brings its own token
        os.environ.update(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=secrets.token_hex(32))


def _start_ray(ray: Any, execution: Execution, scratch: Path) -> None:
    if execution.address:
        ray.init(address=execution.address, log_to_driver=False, logging_level="error")
        return
    ray.init(
        num_cpus=execution.cpus or os.cpu_count(),
        include_dashboard=False,
        object_store_memory=100 * 2**20,  # holds specifications only
        _temp_dir=str(scratch / "ray"),
        log_to_driver=False,
        logging_level="error",
    )


def _resources(ray: Any, execution: Execution) -> dict[str, float]:
    resources = {"CPU": float(execution.threads)}
    if execution.device != "cpu" and ray.cluster_resources().get("GPU", 0):
        resources["GPU"] = execution.gpus_per_trial
    return resources


@contextmanager
def _only_launcher(storage: Path) -> Iterator[None]:
    """Two launchers on one store would run trials twice: the second is refused."""
    lock = FileLock(storage / "launch.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise InputError(f"store {storage} is in use by another launch; wait for it, or choose another store") from None
    try:
        yield
    finally:
        lock.release()


@contextmanager
def _stopping_on_signals(execution: Execution) -> Iterator[None]:
    """The first Ctrl-C or SIGTERM asks every trial to save and stop, and Tune to start no more; a second stops at once.

    Leaves the block with `KeyboardInterrupt` if the first came.
    """
    stop, signals = progress.stop_file(execution.storage), (signal.SIGINT, signal.SIGTERM)

    def handler(signum: int, frame: Any) -> None:
        stop.touch()
        signal.signal(signal.SIGINT, signal.default_int_handler)
        if signal.getsignal(signal.SIGUSR1) not in (signal.SIG_DFL, signal.SIG_IGN):  # Tune listens
            signal.raise_signal(signal.SIGUSR1)

    before = [signal.signal(one, handler) for one in signals]
    try:
        yield
        if stop.exists():
            raise KeyboardInterrupt
    finally:
        for one, previous in zip(signals, before, strict=True):
            signal.signal(one, previous)
        stop.unlink(missing_ok=True)
