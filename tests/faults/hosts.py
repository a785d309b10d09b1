"""Faults over three hosts: a Ray cluster in network namespaces, MLflow with PostgreSQL on a fourth, hold against any.

`python tests/faults/hosts.py --faults 100 --seed 0` runs small studies by the real command line, from a head without
CPUs on two workers of one CPU each, and injects faults: hosts that lose power and come back or never do, cut links,
links of 200 ms and 5 % loss, killed trials (also while they write a checkpoint), raylets, control services, launchers,
servers and databases. What ends is started again, as a service manager or a user would; what is gone for good is
replaced by a host of another name and address. Each study must end with the undisturbed one's numbers. The seed fixes
which faults come, where and when, not which instruction they hit. `hosts_net.py` says what a host is, and takes.
"""

import argparse
import hashlib
import itertools
import json
import os
import pwd
import random
import secrets
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import psutil

sys.path.insert(0, str(Path(__file__).parents[1]))
from common import Processes, complete_and_equal, execution_of, results, training, wait_for
from hosts_net import Lan, address, lacking
from tiny import PROFILE, TINY

from experiments import planned
from study.spec import Trial

SEEDS = 6  # of each of the two nets: a study of 12 trials
URI, HEAD = "http://tracking:5000", f"{address('head')}:6379"
PYTHON = sys.executable
RAY = [PYTHON, "-m", "ray.scripts.scripts", "start", "--block", "--disable-usage-stats"]
RAY += ["--object-store-memory=80000000", "--include-log-monitor=false"]
# Ray takes a node that does not answer for dead after 65 s; with these settings of the head, after 15 s. Nodes give a
# head up that is gone after 60 s; with this one, after 20.
IMPATIENT = {
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "2000",
    "RAY_gcs_rpc_server_reconnect_timeout_s": "20",
}
FAULTS_A_STUDY = 25  # at most: it must come to its end
QUIET_SECONDS = 600  # a small study that takes longer after its last fault hangs
AGAIN_SECONDS = 3.0  # from one start of a service to the next
Undo = Callable[[], object]


def trials(seeds: int) -> list[Trial]:
    return list(planned(TINY.with_seeds(seeds), ["learning-rate"]))


def installed(name: str) -> str:
    """The path of a program of PostgreSQL; '' where there is none."""
    found = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
    return shutil.which(name) or (str(found[-1]) if found else "")


def missing() -> str:
    """What this machine lacks for this command, in words; '' where nothing."""
    if lacking():
        return lacking()
    programs = [name for name in ("initdb", "postgres", "createdb") if not installed(name)]
    if programs or not shutil.which("setpriv"):
        return f"the tracking host takes setpriv and PostgreSQL's {', '.join(programs)}"
    try:
        pwd.getpwnam("postgres")
    except KeyError:
        return "the tracking host takes the user postgres"
    return ""


class Site:
    """The hosts, what runs on each, and what brings it back."""

    def __init__(self, lan: Lan) -> None:
        self.lan, self.folder = lan, lan.folder
        self.disk = lan.folder / "tracking.disk"  # which the host keeps when its power goes
        self.token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
        self.running: dict[tuple[str, str], Processes] = {}  # by host and service
        self.started: dict[tuple[str, str], float] = {}
        self.held: dict[tuple[str, str], float] = {}  # services that stay down until then
        self.repairs: list[tuple[float, Undo]] = []
        self.workers, self.database, self.joined = ["worker-1", "worker-2"], "", 2
        self._make_database_disk()
        for name in ("head", "tracking", *self.workers):
            lan.host(name)

    def _make_database_disk(self) -> None:
        user = pwd.getpwnam("postgres")
        data = self.disk / "database"
        data.mkdir(parents=True)
        os.chown(data, user.pw_uid, user.pw_gid)
        self.as_postgres = ["setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups"]
        command = [installed("initdb"), "--pgdata", str(data), "--auth=trust", "--username=postgres"]
        done = Processes([*self.as_postgres, *command], self.folder / "initdb.log")
        assert done.process.wait() == 0, done.output()

    def services(self, host: str) -> dict[str, list[str]]:
        """The commands that are to run on a host, by name."""
        if host == "tracking":
            postgres = [installed("postgres"), "-D", str(self.disk / "database"), "-c", "listen_addresses=127.0.0.1"]
            mlflow = [PYTHON, "-m", "mlflow", "server", "--host", "0.0.0.0", "--port", "5000", "--workers", "1"]
            mlflow += ["--backend-store-uri", f"postgresql+psycopg2://postgres@127.0.0.1/{self.database}"]
            mlflow += ["--artifacts-destination", str(self.disk / self.database)]
            mlflow += ["--allowed-hosts", "tracking,tracking:5000"]
            wanted = {"postgres": [*self.as_postgres, *postgres, "-c", "unix_socket_directories="]}
            return wanted | ({"mlflow": mlflow} if self.database else {})
        here = [f"--node-ip-address={address(host)}"]
        if host == "head":
            own = ["--head", "--port=6379", "--num-cpus=0", "--include-dashboard=false"]
            return {"ray": [*RAY, *here, *own, f"--temp-dir={self.lan.own}/ray"]}
        return {"ray": [*RAY, *here, f"--address={HEAD}", "--num-cpus=1"]}

    def keep_up(self) -> None:
        """Do the repairs that are due, and start what ended."""
        now = time.monotonic()
        for repair in [one for one in self.repairs if one[0] <= now]:
            self.repairs.remove(repair)
            repair[1]()
        for name, host in list(self.lan.up.items()):
            for service, command in self.services(name).items():
                key = name, service
                before = self.running.get(key)
                if before and before.process.poll() is None:
                    continue
                if max(self.held.get(key, 0.0), self.started.get(key, 0.0) + AGAIN_SECONDS) > now:
                    continue
                if before:
                    before.kill_all()
                if service == "postgres":  # as at a boot: the process that it names may be another one by now
                    (self.disk / "database" / "postmaster.pid").unlink(missing_ok=True)
                environment = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
                environment |= self.token | IMPATIENT
                self.running[key] = host.start(command, self.folder / f"{name}-{service}.log", **environment)
                self.started[key] = now

    def wait(self, condition: Callable[[], object], what: str, seconds: float = 180.0) -> None:
        """Keep all up until the condition is met."""

        def met() -> object:
            self.keep_up()
            return condition()

        wait_for(met, what, seconds)

    def use_database(self, name: str) -> None:
        """Let MLflow start anew on a new database."""
        self.database = ""
        self.stop("tracking", "mlflow")
        create = [installed("createdb"), "--host=127.0.0.1", "--username=postgres", name]

        def created() -> bool:
            with suppress(AssertionError, KeyError):
                self.lan.up["tracking"].run(*create)
                return True
            return False

        self.wait(created, "PostgreSQL answers")
        self.database = name
        self.wait(self.tracking_answers, "MLflow answers")

    def tracking_answers(self) -> bool:
        ask = "import urllib.request as u; u.urlopen('http://127.0.0.1:5000/health', timeout=5)"
        with suppress(AssertionError, KeyError):
            self.lan.up["tracking"].run(PYTHON, "-c", ask)
            return True
        return False

    def stop(self, host: str, service: str, seconds: float = 0.0) -> None:
        """Kill all processes of a service, which stays down for so long."""
        self.held[host, service] = time.monotonic() + seconds
        if process := self.running.get((host, service)):
            process.kill_all()

    def later(self, seconds: float, repair: Undo) -> None:
        self.repairs.append((time.monotonic() + seconds, repair))

    def power_off(self, host: str) -> None:
        self.lan.up[host].power_off()
        for key, process in self.running.items():
            if key[0] == host:
                process.kill_all()  # what entered the host's namespaces from outside
                self.held.pop(key, None)

    def named(self, *parts: str) -> list[psutil.Process]:
        """Processes of Ray's, on any host, whose command line has one of these parts."""
        return [p for (host, _), one in self.running.items() if host in self.lan.up for p in one.named(*parts)]

    def replace(self, gone: str) -> None:
        """Another host takes the place of one that is gone for good."""
        self.joined += 1
        self.workers[self.workers.index(gone)] = new = f"worker-{self.joined}"
        self.lan.host(new)

    def heal(self) -> None:
        """Do all repairs now."""
        self.repairs = [(0.0, repair) for _, repair in self.repairs]
        self.held.clear()
        self.keep_up()

    def end(self) -> None:
        """Kill whatever is left of any host."""
        for process in self.running.values():
            process.kill_all()


class Study:
    """One small study, launched from the head as often as it takes."""

    def __init__(self, site: Site, storage: Path, seeds: int) -> None:
        self.site, self.storage, self.seeds = site, storage, seeds
        self.trials, self.execution = trials(seeds), execution_of(storage)
        self.launcher: Processes | None = None
        self.codes: list[int] = []  # how launches ended

    def command(self) -> list[str]:
        command = [PYTHON, "-m", "experiments", "run", "--profile", PROFILE, "--experiments", "learning-rate"]
        command += ["--seeds", str(self.seeds), "--checkpoint-seconds", "0.5", "--storage", str(self.storage)]
        return [*command, "--tracking-uri", URI, "--address", HEAD]

    def ended(self) -> bool:
        return self.launcher is None or self.launcher.process.poll() is not None

    def keep_up(self) -> None:
        """Launch it if it is not complete and no launch is on."""
        self.site.keep_up()
        if self.complete() or not self.ended() or "head" not in self.site.lan.up:
            return
        if self.launcher:
            self.note_end()
        log = self.storage.with_suffix(f".{len(self.codes) + 1}.log")
        self.launcher = self.site.lan.up["head"].start(self.command(), log, **self.site.token)

    def note_end(self) -> None:
        assert self.launcher
        output = self.launcher.output()
        assert "Traceback" not in output, f"see {self.launcher.log}"
        self.codes.append(self.launcher.process.wait())
        self.launcher.kill_all()
        *_, last = output.splitlines() or [""]
        print(f"     launch {len(self.codes)} ended with {self.codes[-1]}: {last[:160]}", flush=True)

    def complete(self) -> bool:
        """Whether a launch has said that all is done, and shown."""
        if self.launcher is None or self.launcher.process.poll() != 0:
            return False
        return "MLflow lacks" not in self.launcher.output()

    def is_training(self) -> bool:
        return bool(training(self.execution, 0, self.trials))

    def worker_that_writes(self, seconds: float = 10.0) -> psutil.Process | None:
        """The process of a trial that is writing a checkpoint right now."""
        until = time.monotonic() + seconds
        folders = [self.execution.trial_folder(trial.id) / "checkpoints" for trial in self.trials]
        while time.monotonic() < until:
            for folder in folders:
                with suppress(OSError):
                    if any(entry.name.startswith(".") for entry in os.scandir(folder)):
                        running = self.site.named("ImplicitFunc.train")
                        for process in running:
                            with suppress(psutil.Error):
                                if any(str(folder) in file.path for file in process.open_files()):
                                    return process
                        if len(running) == 1:
                            return running[0]
        return None


class Faults:
    """The kinds of faults. Each injects one, arranges its repair, and returns what it did; '' where it cannot now."""

    KINDS = (
        *("cut", "cut_tracking", "slow", "worker_gone", "head_gone", "tracking_gone", "mlflow", "postgres"),
        *("launcher", "trial", "trial", "checkpoint", "checkpoint", "raylet", "gcs", "frozen"),
    )

    def __init__(self, site: Site, chance: random.Random, kinds: Sequence[str] = ()) -> None:
        self.site, self.lan, self.chance = site, site.lan, chance
        self.kinds = itertools.cycle(kinds) if kinds else iter(lambda: chance.choice(self.KINDS), None)

    def inject(self, kind: str, study: Study) -> str:
        return str(getattr(self, kind)(study))

    def _seconds(self, most: float) -> float:
        return self.chance.uniform(1.0, most)

    def _worker(self) -> str:
        up = [name for name in self.site.workers if name in self.lan.up]
        return self.chance.choice(up) if up else ""

    def _cut(self, a: str, b: str) -> str:
        if not (a and b):
            return ""
        seconds = self._seconds(40.0)
        self.lan.cut(a, b)
        self.site.later(seconds, lambda: self.lan.join(a, b))
        return f"{a} and {b} cut off from each other for {seconds:.0f} s"

    def cut(self, study: Study) -> str:
        return self._cut("head", self._worker())

    def cut_tracking(self, study: Study) -> str:
        return self._cut("head", "tracking")

    def slow(self, study: Study) -> str:
        host, seconds = self.chance.choice(sorted(self.lan.up)), self._seconds(40.0)
        self.lan.slow(host)
        self.site.later(seconds, lambda: self.lan.fast(host))
        return f"200 ms and 5 % loss for {host} for {seconds:.0f} s"

    def worker_gone(self, study: Study) -> str:
        if not (gone := self._worker()):
            return ""
        seconds = self._seconds(15.0)
        self.site.power_off(gone)
        self.site.later(seconds, lambda: self.site.replace(gone))
        return f"{gone} gone for good, another host after {seconds:.0f} s"

    def _off_and_on(self, host: str) -> str:
        if host not in self.lan.up:
            return ""
        seconds = self._seconds(10.0)
        self.site.power_off(host)
        self.site.later(seconds, lambda: self.lan.host(host))
        return f"{host} without power for {seconds:.0f} s"

    def head_gone(self, study: Study) -> str:
        return self._off_and_on("head")

    def tracking_gone(self, study: Study) -> str:
        return self._off_and_on("tracking")

    def _stop(self, service: str) -> str:
        if "tracking" not in self.lan.up:
            return ""
        seconds = self._seconds(15.0)
        self.site.stop("tracking", service, seconds)
        return f"{service} killed, back after {seconds:.0f} s"

    def mlflow(self, study: Study) -> str:
        return self._stop("mlflow")

    def postgres(self, study: Study) -> str:
        return self._stop("postgres")

    def _kill(self, found: list[psutil.Process], what: str) -> str:
        with suppress(psutil.Error):
            if found:
                self.chance.choice(sorted(found, key=lambda process: process.pid)).kill()
                return f"{what} killed"
        return ""

    def launcher(self, study: Study) -> str:
        if study.ended() or study.launcher is None:
            return ""
        outside = study.launcher.process.pid  # the program that entered the host's namespaces
        return self._kill([p for p in study.launcher.named(" experiments run ") if p.pid != outside], "launcher")

    def trial(self, study: Study) -> str:
        return self._kill(self.site.named("ImplicitFunc.train"), "trial")

    def checkpoint(self, study: Study) -> str:
        process = study.worker_that_writes()
        return self._kill([process], "trial, while it wrote a checkpoint,") if process else ""

    def raylet(self, study: Study) -> str:
        return self._kill(self.site.named("raylet/raylet "), "raylet")

    def gcs(self, study: Study) -> str:
        return self._kill(self.site.named("gcs_server"), "control service")

    def frozen(self, study: Study) -> str:
        """A worker whose machine stands still, as one that is moved."""
        if not (host := self._worker()) or not (service := self.site.running.get((host, "ray"))):
            return ""
        seconds, still = self._seconds(30.0), sorted(service.alive(), key=lambda process: process.create_time())
        for process in still:
            with suppress(psutil.Error):
                process.suspend()

        def go_on() -> None:
            for process in reversed(still):  # the program that entered the namespaces stops whenever its child does
                with suppress(psutil.Error):
                    process.resume()
            time.sleep(0.2)
            for process in still[:1]:
                with suppress(psutil.Error):
                    process.resume()

        self.site.later(seconds, go_on)
        return f"{host} stands still for {seconds:.0f} s"


def one_study(study: Study, faults: Faults, wanted: int, counts: Counter[str]) -> None:
    """Inject faults while any are left, until the study is complete."""
    until = time.monotonic() + QUIET_SECONDS
    chance, site, most = faults.chance, study.site, min(wanted, counts["faults"] + FAULTS_A_STUDY)
    while not study.complete():
        study.keep_up()
        assert time.monotonic() < until, f"hangs; see {study.launcher.log if study.launcher else site.folder}"
        if counts["faults"] >= most:
            time.sleep(0.2)
            continue
        kind, pause, starting = next(faults.kinds), chance.uniform(0.5, 12.0), chance.random() < 0.3
        pause_until, training_until = time.monotonic() + pause, time.monotonic() + 90
        while time.monotonic() < pause_until or not (starting or study.is_training()):
            study.keep_up()
            if study.complete() or time.monotonic() > training_until:
                break
            time.sleep(0.1)
        if study.complete():
            break
        if what := faults.inject(kind, study):
            counts.update((kind, "faults"))
            until = time.monotonic() + QUIET_SECONDS
            print(f"{counts['faults']:4} {time.strftime('%H:%M:%S')} {what}", flush=True)
    site.heal()
    site.wait(site.tracking_answers, "MLflow answers")


def undisturbed_study(folder: Path, seeds: int) -> Path:
    """The storage of a study that the plain loop ran without any fault."""
    storage = folder / "undisturbed"
    command = [PYTHON, "-m", "experiments", "run", "--profile", PROFILE, "--experiments", "learning-rate", "--local"]
    ran = Processes([*command, "--seeds", str(seeds), "--storage", str(storage)], folder / "undisturbed.log")
    assert ran.process.wait() == 0, ran.output()
    return storage


def verify(storage: Path, undisturbed: Path, seeds: int, uri: str) -> str:
    """Hold a study against the undisturbed one; the SHA-256 of all its records. Raises `AssertionError`."""
    wanted = results(execution_of(undisturbed), trials(seeds))
    assert {outcome for outcome, *_ in wanted.values()} == {"finished"}
    assert complete_and_equal(execution_of(storage, uri), wanted, trials(seeds))
    whole = json.dumps({id: wanted[id][1] for id in sorted(wanted)}, sort_keys=True)
    return hashlib.sha256(whole.encode()).hexdigest()


def torment(folder: Path, wanted: int, seed: int, seeds: int = SEEDS, kinds: Sequence[str] = ()) -> Counter[str]:
    """Inject `wanted` faults; how many of each kind, and how many studies, launches and frames there were.

    `kinds`: in this order, again and again, instead of at random. Raises `AssertionError` for anything lost, doubled or
    different.
    """
    chance, counts = random.Random(seed), Counter[str]()
    undisturbed = undisturbed_study(folder, seeds)
    with Lan(folder, seed) as lan:
        site = Site(lan)
        faults = Faults(site, chance, kinds)
        try:
            while counts["faults"] < wanted or not counts["studies"]:
                counts.update(studies=1)
                number = counts["studies"]
                site.use_database(f"study_{number}")
                study = Study(site, folder / f"study-{number}", seeds)
                one_study(study, faults, wanted, counts)
                study.note_end()
                check = ["--verify", str(study.storage), "--undisturbed", str(undisturbed), "--seeds", str(seeds)]
                digest = lan.up["head"].run(PYTHON, __file__, *check).strip()
                counts.update(launches=len(study.codes))
                counts.update(f"launches that ended with {code}" for code in study.codes)
                print(f"     study {number} is complete and equal ({digest}); launches: {study.codes}", flush=True)
        finally:
            site.end()
        counts.update({f"frames {what}": number for what, number in lan.switch.frames().items()})
    return counts


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--faults", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--keep", type=Path, help="a folder for all files, which stay")
    parser.add_argument("--verify", type=Path, help="only hold this store against --undisturbed, on a host")
    parser.add_argument("--undisturbed", type=Path)
    options = parser.parse_args()
    if options.verify:
        print(verify(options.verify, options.undisturbed, options.seeds, URI))
        sys.exit()
    if reason := missing():
        sys.exit(f"error: {reason}")
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="hosts-", dir="/var/tmp") as temporary:
        place = options.keep or Path(temporary)
        place.mkdir(parents=True, exist_ok=True)
        place.chmod(0o755)
        counted = torment(place, options.faults, options.seed, options.seeds)
    print(f"{counted['faults']} faults in {(time.monotonic() - began) / 60:.0f} min: {dict(counted)}")
    print("every trial finished with the undisturbed records and final weights; nothing lost, doubled or left RUNNING")
