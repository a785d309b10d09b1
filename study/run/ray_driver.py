"""The code that runs inside Ray; the only file that imports ray.

Owns how cohorts become Ray Tune's trials: their resources, their order, retries after a death, and the other processes
of a trial. Does not decide which trials are run, nor when Ray is started again.
"""

import logging
import os
import pickle
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray
from ray import tune
from ray.tune.execution import class_cache
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy, PlacementGroupSchedulingStrategy

from study.execution import EngineError, Execution
from study.limits import cores
from study.run.cohorts import name
from study.run.local import Tags, attempt, cohorts_to_run, log_failure
from study.run.placement import Cohort, Node, Share, gpus, share, this_machine
from study.run.processes import STARTED, RayDied
from study.run.watchdog import killing_the_silent
from study.spec import InputError, Trial
from study.store import atomic
from study.store.account import REASON_CHARACTERS, Account, Failure, Outcome, read_account, write_account
from study.store.layout import Store

if TYPE_CHECKING:  # with torch, which the driver need not load
    from study.training.distributed import Assist, Ended, Meeting, Peers

SILENT_DEATHS = 6  # of processes in a row before their first word: whatever kills them kills all
ACTOR_DEATHS = 100  # of one trial; after so many deaths without progress the cause is permanent
# Tune would pass these on as a runtime environment, which Ray writes into its logs. Nodes have them in their own.
KEPT_OUT_OF_LOGS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SECURITY_TOKEN", "AWS_SESSION_TOKEN")
NODE_SECONDS = 120.0  # for a node to join that has a CPU, and for every node to answer
NODE_POLL_SECONDS = 1.0
log = logging.getLogger(__name__)


def drive(execution: Execution, scratch: Path, launcher: Connection) -> RayDied | None:
    """Start Ray, run the trials that the launcher sends, and return what Ray died of, if it did.

    Raises `InputError` for what its user has to mend, and `EngineError` where processes die before they begin.
    """
    started = False
    try:
        _start(execution, scratch)
        started = True
        (scratch / STARTED).touch()
        signal.signal(signal.SIGTERM, lambda *_: None)  # ray.init sets a handler of its own
        trials, execution, tags = launcher.recv()
        _run(trials, execution, tags, scratch)
    except EOFError:  # there was nothing to do
        return None
    except (InputError, EngineError):
        raise
    except Exception as error:  # Ray's own processes may die
        log.debug("Ray failed", exc_info=True)
        return RayDied(f"{type(error).__name__}: {error}", started)
    return None


def shut_down() -> None:
    """End Ray, if it was started here."""
    ray.shutdown()


def _start(execution: Execution, scratch: Path) -> None:
    if execution.address:
        workers = {"env_vars": {"MALLOC_ARENA_MAX": "1"}}  # as in the environment of those started here
        ray.init(address=execution.address, runtime_env=workers, log_to_driver=False, logging_level=logging.ERROR)
        return
    ray.init(
        num_cpus=execution.cpus or cores(),
        include_dashboard=False,
        object_store_memory=100 * 2**20,  # holds specifications only
        _temp_dir=str(scratch / "ray"),
        log_to_driver=False,
        logging_level=logging.ERROR,
    )


class _Recoveries(tune.Callback):
    """Logs the cohorts whose process died, and counts deaths that nothing can come of."""

    def __init__(self, cohorts: Mapping[str, Cohort], execution: Execution) -> None:
        self.cohorts, self.execution = cohorts, execution
        self.silent = 0  # deaths in a row of processes that had not begun
        self.reason = ""  # of the last
        self.over = {id: self._began(id) for id in cohorts}  # the processes that began each, and have ended

    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        id = trial.config["trial_id"]
        began, self.reason = self._began(id), _reason(trial)
        self.silent = self.silent + 1 if began == self.over[id] else 0
        self.over[id] = began
        log.warning("the process of %s died (%s); training goes on in another", name(self.cohorts[id]), self.reason)

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self.over[trial.config["trial_id"]] = self._began(trial.config["trial_id"])
        self.silent = 0
        # Tune keeps each trial to the end, with a history of every number that it reported: 10 kB.
        trial.run_metadata.metric_analysis.clear()
        trial.run_metadata.metric_n_steps.clear()

    def hopeless(self) -> bool:
        """Whether so many processes died before they began, and none that did begin is still there."""
        return self.silent >= SILENT_DEATHS and all(self._began(id) == over for id, over in self.over.items())

    def _began(self, id: str) -> set[object]:
        return {read_account(self.execution.trial_folder(trial.id)).process for trial in self.cohorts[id]}


class _Hopeless(tune.Stopper):
    """Ends Tune where whatever kills processes kills all of them."""

    def __init__(self, recoveries: _Recoveries) -> None:
        self.recoveries = recoveries

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        return self.recoveries.hopeless()


def _reason(trial: Any) -> str:
    """Why the process of Tune's trial died, as Ray has it: one line of its account."""
    try:
        text = Path(trial.error_file or "").read_text(errors="replace")
    except OSError:
        text = ""
    lines = [line.strip() for line in text.rpartition("Failure #")[2].splitlines()[1:] if line.strip()]
    telling = [line for line in lines if "memory" in line] or lines or ["no reason given"]
    return telling[0][:400]


def _run(trials: list[Trial], execution: Execution, tags: Tags, scratch: Path) -> None:
    """Let Tune run the trials, longest cohort first: FIFO, a grid over the ids of first members."""
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # it would print a traceback for each
    class_cache.ENV_VARS_TO_PROPAGATE.difference_update(KEPT_OUT_OF_LOGS)
    nodes = _nodes(execution)
    cohorts = {cohort[0].id: cohort for cohort in cohorts_to_run(trials, execution, nodes, tags)}
    shares = {}
    for id, cohort in cohorts.items():
        shares[id] = _share(cohort, execution, nodes, int(tags[id].get("probed_gpu_bytes", 0)))
    by_id = {  # as bytes: a worker reads all of them for each cohort
        id: pickle.dumps((cohort, _as_placed(execution, shares[id]), {trial.id: tags[trial.id] for trial in cohort}))
        for id, cohort in cohorts.items()
    }

    def trial_function(config: dict[str, str], by_id: dict[str, bytes]) -> dict[str, str]:
        cohort, placed, own_tags = pickle.loads(by_id[config["trial_id"]])
        end = attempt(cohort, placed, own_tags, _peers())
        return {"failure": end.message if isinstance(end, Failure) else ""}

    def resources(config: dict[str, str]) -> Any:
        taken = shares[config["trial_id"]]
        bundle = {"CPU": taken.cpus, **({"GPU": taken.gpus} if taken.gpus else {})}
        return tune.PlacementGroupFactory([bundle] * taken.processes, strategy="PACK")  # one node if it has room

    at_once = _at_once(nodes, list(shares.values()))
    mixed = len(set(shares.values())) > 1  # of different shapes, small trials would overtake
    os.environ["TUNE_MAX_PENDING_TRIALS_PG"] = "1" if mixed else str(at_once)
    recoveries = _Recoveries(cohorts, execution)
    tuner = tune.Tuner(
        tune.with_resources(tune.with_parameters(trial_function, by_id=by_id), resources),
        param_space={"trial_id": tune.grid_search(list(cohorts))},
        tune_config=tune.TuneConfig(
            max_concurrent_trials=at_once,  # so that the order given is kept
            reuse_actors=True,  # imports are paid once a slot, not once a cohort
            trial_name_creator=lambda t: t.config["trial_id"],
            trial_dirname_creator=lambda t: t.config["trial_id"],
        ),
        run_config=tune.RunConfig(
            name="tune",
            storage_path=str(scratch),
            failure_config=tune.FailureConfig(max_failures=execution.retries + ACTOR_DEATHS),  # workers count retries
            callbacks=[recoveries],
            stop=_Hopeless(recoveries),
            verbose=0,
        ),
    )
    with killing_the_silent(trials, execution, _kill):
        grid = tuner.fit()
    if recoveries.hopeless():
        raise EngineError(
            f"{recoveries.silent} processes of trials died before they could begin, at last: {recoveries.reason}"
        )
    for result in (grid[index] for index in range(len(grid))):
        cohort = cohorts[(result.config or {})["trial_id"]]
        if result.error is not None:
            _fail(execution, cohort, str(result.error))
        elif message := (result.metrics or {}).get("failure"):
            log_failure(cohort, Failure(message))


def _fail(execution: Execution, cohort: Cohort, reason: str) -> None:
    """Give the cohort up in this launch, as its worker could not write that itself."""
    log.error("%s failed: %s", name(cohort), reason.strip().splitlines()[-1])
    for trial in cohort:
        folder = execution.trial_folder(trial.id)
        account = read_account(folder)
        if account.outcome != Outcome.MISSING and not account.has_result:
            failed = replace(account, outcome=Outcome.FAILED, reason=reason[:REASON_CHARACTERS])
            write_account(folder, replace(failed, failures=execution.retries + 1))


def _kill(account: Account) -> None:
    """Kill the process that wrote this account, on the host where it runs, if it is still that process."""

    def kill() -> None:
        import psutil  # here: this function travels to the host by value

        with suppress(psutil.Error):
            process = psutil.Process(account.pid)
            if process.create_time() == account.process_started:
                process.kill()

    for node in ray.nodes():  # machines that were copied may share a name
        if node["Alive"] and node["NodeManagerHostname"] == account.host:
            place = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            ray.remote(kill).options(num_cpus=0, scheduling_strategy=place).remote()


def _peers() -> "Peers":
    """The other processes of a trial as actors in the placement group that Tune gave it, one in each other bundle.

    For the process that runs the trial: the actors are its own, so that Ray ends them when it dies.
    """
    from study.training.distributed import END_SECONDS, Peers  # here, in a worker, which has torch

    @contextmanager
    def start(size: int, meeting: "Meeting", assist: "Assist") -> Iterator["Ended"]:
        group: Any = ray.util.get_current_placement_group()
        peer: Any = ray.remote(_Peer)
        actors, ends = [], {}
        for rank in range(1, size):
            bundle = group.bundle_specs[rank]
            place = PlacementGroupSchedulingStrategy(placement_group=group, placement_group_bundle_index=rank)
            options = {
                "num_cpus": bundle["CPU"],
                "num_gpus": bundle.get("GPU", 0),
                "scheduling_strategy": place,
            }
            actors.append(peer.options(**options).remote())
            ends[actors[-1].live.remote(assist, meeting, rank)] = rank

        def ended() -> str:
            done, _ = ray.wait(list(ends), num_returns=len(ends), timeout=0)
            return ", ".join(f"process {ends[end]} of the trial ended{_how(end)}" for end in done)

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
        assist(meeting, rank, ray.util.get_node_ip_address())


def _how(end: Any) -> str:
    try:
        ray.get(end)
    except Exception as error:
        return f": {error}"
    return ""


def _nodes(execution: Execution) -> list[Node]:
    """This machine, or the nodes of the cluster that can run trials.

    Raises `InputError` for nodes that do not see the storage: their trials would be lost with them.
    """
    if not execution.address:
        return [this_machine(execution)]

    def check(where: str, root: Path) -> tuple[str, int]:
        """What is wrong with the storage on that node, and the bytes of its smallest GPU."""
        try:
            atomic.write(root / f".seen-by-{where}", b"")
            (root / f".seen-by-{where}").unlink()
            return "" if Store(root).marker.exists() else "there is no store.json", gpus()[1]
        except OSError as error:
            return str(error), 0

    able = _able_nodes()
    asked = [
        ray.remote(check)
        .options(num_cpus=0, scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False))
        .remote(node["NodeID"][:8], execution.storage)
        for node in able
    ]
    nodes, wrong = [], {}
    for node, (problem, gpu_bytes) in zip(able, ray.get(asked, timeout=NODE_SECONDS), strict=True):
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


def _able_nodes() -> list[dict[str, Any]]:
    """The nodes of the cluster that live and have a CPU for trials. They may join after the head: it waits for one.

    Raises `InputError` where none joins.
    """
    until, waits = time.monotonic() + NODE_SECONDS, False
    while not (able := [node for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU", 0) > 0]):
        if time.monotonic() > until:
            raise InputError("no node of the cluster has a CPU for trials; start one with `ray start --num-cpus N`")
        if not waits:
            log.warning("no node of the cluster has a CPU for trials yet; waiting up to %d s for one", NODE_SECONDS)
        waits = True
        time.sleep(NODE_POLL_SECONDS)
    return able


def _share(cohort: Cohort, execution: Execution, nodes: list[Node], gpu_bytes: int) -> Share:
    """What the cohort takes of the largest node. Raises `InputError` where no node has that much."""
    largest = max(nodes, key=lambda node: (node.gpus, node.cpus))
    if execution.device == "cpu":
        largest = replace(largest, gpus=0)
    elif execution.device == "cuda" and not largest.gpus:
        raise InputError("device 'cuda' is on no node of the cluster; choose cpu or auto")
    taken = share(cohort[0], execution, largest, gpu_bytes, len(cohort))
    if taken.cpus > largest.cpus or taken.gpus > largest.gpus:
        raise InputError(f"a trial takes {taken}, but the largest node has {largest}")
    if not _at_once(nodes, [taken]):
        raise InputError(f"a trial takes {taken}, but all nodes together do not have as much; choose fewer --processes")
    return taken


def _as_placed(execution: Execution, taken: Share) -> Execution:
    return replace(execution, threads=int(taken.cpus), gpus_per_trial=taken.gpus or execution.gpus_per_trial)


def _at_once(nodes: list[Node], shares: list[Share]) -> int:
    """How many cohorts the cluster can run at a time, at most; 0 where it is too small for any."""
    cpus, gpus = min(taken.cpus for taken in shares), min(taken.gpus for taken in shares)
    processes = sum(min(n.cpus // cpus, n.gpus // gpus if gpus else n.cpus) for n in nodes)
    return int(processes // min(taken.processes for taken in shares))
