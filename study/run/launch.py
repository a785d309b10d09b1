"""Fan trials out onto whatever there is; the only module that imports ray.

Owns placement, retries, resumption and interruption. Ray Tune, in a process of its own, places and retries; what is
done is decided by accounts and MLflow alone, so every launch simply works on what has no result yet. Does not know why
a trial is run.
"""

import ctypes
import hashlib
import logging
import multiprocessing
import os
import secrets
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from study import cost
from study.execution import Execution
from study.run.placement import Node, Share, gpus, share, this_machine, waves
from study.spec import InputError, Trial
from study.store import atomic, heartbeat, layout
from study.store.account import REASON_CHARACTERS, Account, Failure, Outcome, has_result, read_account, write_account
from study.store.layout import Store, TrialFolder

ACTOR_DEATHS = 100  # of one trial; whatever kills a process this often before it can say a word will not stop
RAY_DEATHS = 3  # of Ray in a row, without any trial having come further
END_RAY = signal.SIGUSR2  # from the launcher to the process that runs Ray Tune
GRACE_SECONDS = 60.0  # for trials to save when asked to stop
log = logging.getLogger(__name__)
Tags = Mapping[str, dict[str, str]]
OnStart = Callable[[list[Trial], Execution], Any]


def launch(trials: Sequence[Trial], execution: Execution, tags: Tags, on_start: OnStart) -> None:
    """Run every trial that has no result yet, longest first; `tags` of each id go to its run.

    Raises `InputError` if the store is in use or data are missing, before anything runs, and `KeyboardInterrupt` on
    SIGINT or SIGTERM, with everything resumable and no run left running. Trials that fail are retried, then left with
    outcome 'failed' while the rest goes on. Results that MLflow could not take are in the storage, for the next launch.
    """
    layout.create(execution.storage)
    with only_launcher(execution.storage), _Fan(execution) as fan:
        if not execution.local and any(not has_result(execution.trial_folder(trial.id)) for trial in trials):
            fan.start()  # Ray takes seconds to start, and so does what follows
        from study.store.mlflow import client  # here: workers import this module, too, and need no mlflow
        from study.store.mlflow.mirror import Mirror, mirroring

        client.create_store(execution)
        close_stale(execution, "its launcher was killed")
        mirror = Mirror(execution, trials)
        mirror.update()
        done = mirror.results() | {trial.id for trial in trials if has_result(execution.trial_folder(trial.id))}
        todo = [trial for trial in trials if trial.id not in done]
        if execution.profile_trace not in ("", "longest", *(trial.id for trial in todo)):
            raise InputError(
                f"profile-trace {execution.profile_trace!r} is no trial that is still to run;"
                " `python -m experiments plan` lists them"
            )
        if not todo:
            return
        todo.sort(key=lambda trial: -float(tags[trial.id].get("predicted_seconds", cost.predicted_seconds(trial))))
        if execution.profile_trace == "longest":
            execution = replace(execution, profile_trace=todo[0].id)
        execution = replace(execution, launch=secrets.token_hex(4))
        try:
            with _launch_file(execution), mirroring(mirror):
                check(todo, execution)
                on_start(todo, execution)
                with _stopping_on_signals(execution) as stopped:
                    for wave in waves(todo):
                        if stopped():
                            break
                        if execution.local:
                            _run_locally(wave, execution, tags, stopped)
                        else:
                            _run_on_ray(fan, wave, execution, tags, stopped)
        finally:
            fan.end()
            close_stale(execution, "interrupted")
            mirror.update()


def close_stale(execution: Execution, reason: str) -> None:
    """Say of every trial that nobody runs any more that it was interrupted; for whoever holds the store's lock."""
    for folder in Store(execution.storage).begun():
        account = read_account(folder)
        if account.outcome != Outcome.RUNNING:
            continue
        try:
            write_account(folder, replace(account, outcome=Outcome.INTERRUPTED, reason=reason))
        except OSError as error:
            if not atomic.is_full(error):
                raise
            log.warning("%s stays 'running' on the full disk; the next launch mends that", folder.name)


def check(trials: Sequence[Trial], execution: Execution) -> None:
    """Raise `InputError` for what the user is to mend before any trial starts: processes, data, weights, machine."""
    for trial in trials:
        execution.batch_share(trial)
    if execution.local:
        return _check(trials, execution)
    process, answer = _start(_answer_check, trials, execution)  # it takes torch and the data out of memory at its end
    try:
        problem = answer.recv()
    except EOFError:
        process.join()
        problem = InputError(f"the process that loads the data to check them ended with {process.exitcode}; try again")
    finally:
        process.kill()
        process.join()
    if problem:
        raise problem


def _check(trials: Sequence[Trial], execution: Execution) -> None:
    from study.run.machine import check_machine
    from study.run.worker import check_data

    if not execution.address:  # a cluster's nodes are not this machine
        check_machine(execution)
    check_data(trials, execution)


def _answer_check(trials: Sequence[Trial], execution: Execution, launcher: Connection) -> None:
    try:
        _check(trials, execution)
        launcher.send(None)
    except InputError as error:
        launcher.send(error)


def _start(target: Callable[..., None], *arguments: Any) -> tuple[SpawnProcess, Connection]:
    """Run `target(*arguments, pipe)` in a process of its own; returns it and the other end of the pipe.

    A terminal's Ctrl-C, which reaches every process, does not stop it: the launcher decides.
    """
    spawn = multiprocessing.get_context("spawn")
    ours, theirs = spawn.Pipe()
    process = spawn.Process(target=target, args=(*arguments, theirs))
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        process.start()
    finally:
        signal.signal(signal.SIGINT, before)
    theirs.close()
    return process, ours


def _run_locally(trials: Sequence[Trial], execution: Execution, tags: Tags, stopped: Callable[[], bool]) -> None:
    for trial in trials:
        ended = False
        while not ended and not stopped():
            with suppress(Exception):  # logged, and tried again until it returns
                outcome = _attempt(trial, execution, tags[trial.id])
                ended = True
                if isinstance(outcome, Failure):
                    log.error("trial %s failed: %s", trial.id, outcome.message)


def _attempt(trial: Trial, execution: Execution, tags: dict[str, str], *peers: Any) -> Outcome | Failure:
    """Run the trial; bad input ends it like any other failure that trying again cannot mend."""
    from study.run.worker import run_trial

    try:
        return run_trial(trial, execution, tags, *peers)
    except InputError as error:
        return Failure(str(error))


def _run_on_ray(
    fan: "_Fan", trials: Sequence[Trial], execution: Execution, tags: Tags, stopped: Callable[[], bool]
) -> None:
    """Let Ray fan the trials out; if it dies, start another one for those that are left."""
    if not fan.process:
        fan.start()
    left, deaths, reached = list(trials), 0, None
    while left and not stopped():
        problem = fan.out(left, execution, tags, stopped)
        if problem == "":
            return fan.end()
        left = [trial for trial in left if not _ended(execution, trial)]
        before, reached = reached, [heartbeat.read(execution.trial_folder(trial.id)) for trial in left]
        deaths = deaths + 1 if reached == before else 0
        if deaths > RAY_DEATHS:
            raise InputError(f"Ray died {deaths} times before any trial came further, at last with {problem}")
        if left and not stopped():
            log.warning("Ray died (%s); starting it again for the %d trials that are left", problem, len(left))
            fan.end()
            fan.start()


def _ended(execution: Execution, trial: Trial) -> bool:
    """Whether this launch has nothing more to do for the trial."""
    account = read_account(execution.trial_folder(trial.id))
    failed = account.outcome == Outcome.FAILED and account.launch == execution.launch
    return account.has_result or (failed and account.failures > execution.retries)


class _Fan:
    """The process that has Ray, which starts at once and then fans trials out. Leaving the block ends it."""

    def __init__(self, execution: Execution) -> None:
        self.execution = execution
        self.process: SpawnProcess | None = None

    def __enter__(self) -> "_Fan":
        return self

    def start(self) -> None:
        _set_environment(self.execution)
        self.scratch = _make_scratch(self.execution.storage)
        self.process, self.pipe = _start(_fan_out, self.execution, self.scratch)

    def out(self, trials: list[Trial], execution: Execution, tags: Tags, stopped: Callable[[], bool]) -> str:
        """Until the trials, or Ray, came to an end; returns what Ray died of, '' if it did not."""
        with suppress(BrokenPipeError):
            self.pipe.send((trials, execution, dict(tags)))
        while not self.pipe.poll(0.5) and not stopped():  # the end of the process, too, ends a poll
            pass
        if stopped():
            _wait_for_trials(trials, execution)
            return ""
        try:
            problem = self.pipe.recv()
        except (EOFError, ConnectionResetError):
            return "no word"
        if isinstance(problem, InputError):
            raise problem
        return problem

    def end(self) -> None:
        if not self.process:
            return
        if self.process.is_alive() and self.process.pid:
            os.kill(self.process.pid, END_RAY)
        self.process.join(30)
        self.process.kill()
        self.process.join()
        self.process = None
        shutil.rmtree(self.scratch, ignore_errors=True)

    def __exit__(self, *_: object) -> None:
        self.end()


def _wait_for_trials(trials: list[Trial], execution: Execution) -> None:
    """Until every trial that runs has saved, as it was asked to."""
    until = time.monotonic() + GRACE_SECONDS
    running = trials
    while running and time.monotonic() < until:
        accounts = {trial: read_account(execution.trial_folder(trial.id)) for trial in running}
        running = [trial for trial, account in accounts.items() if account.outcome == Outcome.RUNNING]
        time.sleep(0.2)


def _fan_out(execution: Execution, scratch: Path, launcher: Connection) -> None:
    """The whole life of Ray: what `_Fan` starts. Answers '' at its end, or with the `InputError` that ended it."""
    signal.signal(signal.SIGTERM, lambda *_: None)  # `ray job stop` and Slurm signal every process, too
    signal.signal(END_RAY, lambda *_: sys.exit(0))
    with suppress(OSError, AttributeError):  # Linux: end with the launcher, however it ends
        ctypes.CDLL(None).prctl(1, END_RAY)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    import ray

    try:
        _start_ray(ray, execution, scratch)
        signal.signal(signal.SIGTERM, lambda *_: None)  # ray.init sets a handler of its own
        from ray import tune  # noqa: F401  (while the launcher gets ready)

        trials, execution, tags = launcher.recv()
        _tune(ray, trials, execution, tags, scratch)
        launcher.send("")
    except EOFError:  # there was nothing to do
        pass
    except InputError as error:
        launcher.send(error)
    except Exception as error:  # of Ray, whose processes may die; the launcher starts it again
        log.debug("Ray failed", exc_info=True)
        launcher.send(f"{type(error).__name__}: {error}")
    finally:
        signal.signal(END_RAY, signal.SIG_IGN)
        ray.shutdown()
        launcher.close()
        os._exit(0)  # taking every module down in order would take another second


def _tune(ray: Any, trials: list[Trial], execution: Execution, tags: Tags, scratch: Path) -> None:
    from ray import tune

    class Telling(tune.Callback):
        def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
            log.warning("the process of trial %s died; the trial goes on in another", trial.config["trial_id"])

    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # it would print a traceback for each
    nodes = _nodes(ray, execution)
    gpu_bytes = {trial.id: int(tags[trial.id].get("probed_gpu_bytes", 0)) for trial in trials}
    shares = {trial.id: _share(trial, execution, nodes, gpu_bytes[trial.id]) for trial in trials}
    by_id = {trial.id: (trial, _as_placed(execution, shares[trial.id]), tags[trial.id]) for trial in trials}

    def trial_function(config: dict[str, str], by_id: dict[str, Any]) -> dict[str, str]:
        outcome = _attempt(*by_id[config["trial_id"]], _peers_on_ray())
        return {"failure": outcome.message if isinstance(outcome, Failure) else ""}

    def resources(config: dict[str, str]) -> Any:
        taken = shares[config["trial_id"]]
        bundle = {"CPU": taken.cpus, **({"GPU": taken.gpus} if taken.gpus else {})}
        return tune.PlacementGroupFactory([bundle] * taken.processes, strategy="PACK")  # one node if it has room

    at_once = _at_once(nodes, list(shares.values()))
    mixed = len(set(shares.values())) > 1
    os.environ["TUNE_MAX_PENDING_TRIALS_PG"] = (
        "1" if mixed else str(at_once)
    )  # of different shapes, small ones overtake
    tuner = tune.Tuner(
        tune.with_resources(tune.with_parameters(trial_function, by_id=by_id), resources),
        param_space={"trial_id": tune.grid_search([trial.id for trial in trials])},
        tune_config=tune.TuneConfig(
            max_concurrent_trials=at_once,  # so that the order given is kept
            reuse_actors=True,  # imports are paid once a slot, not once a trial
            trial_name_creator=lambda t: t.config["trial_id"],
            trial_dirname_creator=lambda t: t.config["trial_id"],
        ),
        run_config=tune.RunConfig(
            name="tune",
            storage_path=str(scratch),
            failure_config=tune.FailureConfig(max_failures=execution.retries + ACTOR_DEATHS),  # workers count retries
            callbacks=[Telling()],
            verbose=0,
        ),
    )
    with _killing_the_silent(ray, trials, execution):
        grid = tuner.fit()
    for result in (grid[index] for index in range(len(grid))):
        trial, *_ = by_id[(result.config or {})["trial_id"]]
        if result.error is not None:
            _say_failed(execution, trial, str(result.error))
        elif message := (result.metrics or {}).get("failure"):
            log.error("trial %s failed: %s", trial.id, message)


def _peers_on_ray() -> Any:
    """The other processes of a trial as actors in the placement group that Tune gave it, one in each other bundle.

    For the process that runs the trial: the actors are its own, so that Ray ends them when it dies.
    """
    import ray
    from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

    from study.training.distributed import END_SECONDS, Assist, Ended, Meeting, Peers

    @contextmanager
    def start(size: int, meeting: Meeting, assist: Assist) -> Iterator[Ended]:
        group: Any = ray.util.get_current_placement_group()
        peer: Any = ray.remote(_Peer)
        actors, ends = [], {}
        for rank in range(1, size):
            bundle = group.bundle_specs[rank]
            there = PlacementGroupSchedulingStrategy(placement_group=group, placement_group_bundle_index=rank)
            options = {"num_cpus": bundle["CPU"], "num_gpus": bundle.get("GPU", 0), "scheduling_strategy": there}
            actors.append(peer.options(**options).remote())
            ends[actors[-1].live.remote(assist, meeting, rank)] = rank

        def ended() -> str:
            done, _ = ray.wait(list(ends), num_returns=len(ends), timeout=0)
            return ", ".join(f"process {ends[end]} of the trial ended{_how(ray, end)}" for end in done)

        try:
            yield ended
            ray.wait(list(ends), num_returns=len(ends), timeout=END_SECONDS)
        finally:
            for actor in actors:
                ray.kill(actor)

    return Peers(ray.util.get_node_ip_address(), start)


class _Peer:
    """The actor that another process of a trial is."""

    def live(self, assist: Callable[..., None], meeting: Any, rank: int) -> None:
        import ray

        assist(meeting, rank, ray.util.get_node_ip_address())


def _how(ray: Any, end: Any) -> str:
    try:
        ray.get(end)
    except Exception as error:
        return f": {error}"
    return ""


def _say_failed(execution: Execution, trial: Trial, reason: str) -> None:
    folder = execution.trial_folder(trial.id)
    account = read_account(folder)
    log.error("trial %s failed: %s", trial.id, reason.strip().splitlines()[-1])
    if account.outcome != Outcome.MISSING and not account.has_result:
        failed = replace(account, outcome=Outcome.FAILED, reason=reason[:REASON_CHARACTERS])
        write_account(folder, replace(failed, failures=execution.retries + 1))


def _nodes(ray: Any, execution: Execution) -> list[Node]:
    """This machine, or the nodes of the cluster that can run trials.

    Raises `InputError` for nodes that do not see the storage: their trials would be lost with them.
    """
    if not execution.address:
        return [this_machine(execution)]
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    def look(where: str, root: Any) -> tuple[str, int]:
        """What is wrong with the storage there, and the bytes of the smallest GPU."""
        try:
            atomic.write(root / f".seen-by-{where}", b"")
            (root / f".seen-by-{where}").unlink()
            return "" if Store(root).marker.exists() else "there is no store.json", gpus()[1]
        except OSError as error:
            return str(error), 0

    able = [node for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU", 0) > 0]
    asked = [
        ray.remote(look)
        .options(num_cpus=0, scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False))
        .remote(node["NodeID"][:8], execution.storage)
        for node in able
    ]
    nodes, wrong = [], {}
    for node, (problem, gpu_bytes) in zip(able, ray.get(asked, timeout=120), strict=True):
        has = node["Resources"]
        nodes.append(Node(has["CPU"], has.get("GPU", 0), int(has.get("memory", 0)), gpu_bytes))
        if problem:
            wrong[node["NodeManagerHostname"]] = problem
    if wrong:
        raise InputError(
            f"storage {execution.storage} is not seen by {wrong}; mount it at the same path on every node, or choose"
            " a storage that all of them see"
        )
    return nodes


def _share(trial: Trial, execution: Execution, nodes: list[Node], gpu_bytes: int) -> Share:
    """What the trial takes of the largest node. Raises `InputError` where no node has that much."""
    if not nodes:
        raise InputError("no node of the cluster has a CPU for trials; start one with `ray start --num-cpus N`")
    largest = max(nodes, key=lambda node: (node.gpus, node.cpus))
    if execution.device == "cpu":
        largest = replace(largest, gpus=0)
    elif execution.device == "cuda" and not largest.gpus:
        raise InputError("device 'cuda' is on no node of the cluster; choose cpu or auto")
    taken = share(trial, execution, largest, gpu_bytes)
    if taken.cpus > largest.cpus or taken.gpus > largest.gpus:
        raise InputError(f"a trial takes {taken}, but the largest node has {largest}")
    if not _at_once(nodes, [taken]):
        raise InputError(f"a trial takes {taken}, but all nodes together do not have as much; choose fewer --processes")
    return taken


def _as_placed(execution: Execution, taken: Share) -> Execution:
    return replace(execution, threads=int(taken.cpus), gpus_per_trial=taken.gpus or execution.gpus_per_trial)


def _at_once(nodes: list[Node], shares: list[Share]) -> int:
    """How many trials the cluster can run at a time, at most; 0 where it is too small for any."""
    cpus, gpus = min(taken.cpus for taken in shares), min(taken.gpus for taken in shares)
    processes = sum(min(n.cpus // cpus, n.gpus // gpus if gpus else n.cpus) for n in nodes)
    return int(processes // min(taken.processes for taken in shares))


@contextmanager
def _killing_the_silent(ray: Any, trials: list[Trial], execution: Execution) -> Iterator[None]:
    """Kill the process of a trial whose heartbeat has stopped, so that Tune starts it again elsewhere."""
    over, heard = threading.Event(), dict[str, tuple[Any, float]]()

    def listen() -> None:
        while not over.wait(heartbeat.BEAT_SECONDS):
            for trial in trials:
                folder, now = execution.trial_folder(trial.id), time.monotonic()
                file = TrialFolder(folder).progress
                beat = heartbeat.version(file)
                if heard.setdefault(trial.id, (beat, now))[0] != beat:
                    heard[trial.id] = beat, now
                if now - heard[trial.id][1] <= heartbeat.SILENCE_SECONDS:
                    continue
                account = read_account(folder)
                runs = account.outcome == Outcome.RUNNING and account.launch == execution.launch
                if runs and heartbeat.version(file) == beat:  # and has not begun just now
                    log.warning("trial %s is silent; its process is killed, and the trial goes on in another", trial.id)
                    _kill(ray, account)
                heard[trial.id] = beat, now  # killed, or it waits or has ended

    thread = threading.Thread(target=listen, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _kill(ray: Any, account: Account) -> None:
    """Kill the process that gave this account, on the host where it runs, if it is still that process."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    def kill() -> None:
        import psutil

        with suppress(psutil.Error):
            process = psutil.Process(account.pid)
            if process.create_time() == account.process_started:
                process.kill()

    for node in ray.nodes():
        if node["Alive"] and node["NodeManagerHostname"] == account.host:
            there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            ray.remote(kill).options(num_cpus=0, scheduling_strategy=there).remote()
            return


@contextmanager
def _launch_file(execution: Execution) -> Iterator[None]:
    """Beat while the block runs, and say when the disk is full, on which trials then wait for room."""
    file, over = heartbeat.Launch(execution), threading.Event()

    def beat() -> None:
        full = False
        while not over.wait(heartbeat.BEAT_SECONDS):
            if not file.path.exists():  # asked to stop
                continue
            file.beat()
            was, full = full, _is_full(execution.storage)
            if full != was:
                log.warning("the disk of %s %s", execution.storage, FULL if full else "has room again; trials go on")

    file.begin()
    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        file.end()


FULL = "is full: trials wait until there is room, and nothing is lost. Make room, or stop with Ctrl-C and go on later"


def _is_full(root: Path) -> bool:
    probe = root / ".room"
    try:
        atomic.write(probe, bytes(4096), durable=False)
        probe.unlink(missing_ok=True)
    except OSError as error:
        return atomic.is_full(error)
    return False


def _make_scratch(root: Path) -> Path:
    """Ray's folder, empty. A killed launch leaves it behind; the next one on the same store clears it.

    Its path is short because Ray puts sockets there, and only its owner may enter.
    """
    name = hashlib.sha256(str(root.resolve()).encode()).hexdigest()[:10]
    scratch = Path(f"/tmp/study-{os.getuid()}-{name}")
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(mode=0o700)
    return scratch


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
    )
    if not execution.address:  # other users of this machine stay out; a cluster brings its own token
        os.environ.update(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=secrets.token_hex(32))
        os.environ.update(
            {
                # The death of Ray's control service is final here; waiting a minute for another would be in vain.
                "RAY_gcs_rpc_server_reconnect_timeout_s": "10",
                # Tune's actors have an environment of their own, so they would never be idle workers started before.
                "RAY_prestart_worker_first_driver": "0",
                "RAY_enable_worker_prestart": "0",
            }
        )


def _start_ray(ray: Any, execution: Execution, scratch: Path) -> None:
    if execution.address:
        workers = {"env_vars": {"MALLOC_ARENA_MAX": "1"}}  # as `_set_environment` does for those started here
        ray.init(address=execution.address, runtime_env=workers, log_to_driver=False, logging_level="error")
        return
    ray.init(
        num_cpus=execution.cpus or os.cpu_count(),
        include_dashboard=False,
        object_store_memory=100 * 2**20,  # holds specifications only
        _temp_dir=str(scratch / "ray"),
        log_to_driver=False,
        logging_level="error",
    )


@contextmanager
def only_launcher(root: Path) -> Iterator[None]:
    """Two launchers on one store would run trials twice: the second is refused with `InputError`."""
    refusal = InputError(f"store {root} is in use by another launch; wait for it, or choose another store")
    if not atomic.is_local(root):  # no locks there: a launch that lives is one whose file goes on changing
        seen = heartbeat.version(Store(root).launch)
        if seen is not None:
            time.sleep(3 * heartbeat.BEAT_SECONDS)
            if heartbeat.version(Store(root).launch) not in (None, seen):
                raise refusal
        yield
        return
    lock = FileLock(Store(root).lock)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise refusal from None
    try:
        yield
    finally:
        lock.release()


@contextmanager
def _stopping_on_signals(execution: Execution) -> Iterator[Callable[[], bool]]:
    """The first Ctrl-C or SIGTERM asks every trial to save and stop; a second stops at once.

    Yields whether the first came; leaves the block with `KeyboardInterrupt` if it did.
    """
    file, signals, asked = heartbeat.Launch(execution), (signal.SIGINT, signal.SIGTERM), threading.Event()

    def handler(signum: int, frame: Any) -> None:
        asked.set()
        file.end()  # deleting it works on a full disk, too
        signal.signal(signal.SIGINT, signal.default_int_handler)

    before = [signal.signal(one, handler) for one in signals]
    try:
        yield asked.is_set
        if asked.is_set():
            raise KeyboardInterrupt
    finally:
        for one, previous in zip(signals, before, strict=True):
            signal.signal(one, previous)
