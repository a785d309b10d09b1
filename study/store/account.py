"""The account of a trial: how far it came, how it is run, and whether it has a result. It is `run.json` in its folder.

Owns what an outcome means; nothing else decides whether a trial has a result. Does not know the curve that a result's
tags seal (`study/store/records.py`). Standard library only, as commands that read nothing else start at once.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from enum import StrEnum
from pathlib import Path

from study.printable import printable
from study.spec import InputError, Trial, is_of
from study.store import atomic
from study.store.layout import TrialFolder

OUT_OF_MEMORY, PROCESS_DIED = "out of memory", "process died"  # causes that are no exception's name
REASON_CHARACTERS = 5000  # that are kept of a reason: a traceback can be long


class Outcome(StrEnum):
    """How a trial stands. Its value is what files, tags and tables hold."""

    RUNNING = "running"
    FINISHED = "finished"
    DIVERGED = "diverged"  # its loss was not finite: an observation, not an error
    FAILED = "failed"
    INTERRUPTED = "interrupted"
    UNUSABLE = "unusable"  # never written: a result that differs from what was sealed, or that cannot be one
    MISSING = "missing"  # never written: there is no account

    @property
    def is_result(self) -> bool:
        """Whether the trial is never run again."""
        return self in (Outcome.FINISHED, Outcome.DIVERGED)


RESULTS = tuple(outcome for outcome in Outcome if outcome.is_result)


@dataclass(frozen=True)
class Account:
    """What a trial's folder, or its run in MLflow, says of the trial."""

    launch: str = ""  # the name of the launch that runs it, or ran it last
    started: int | None = None  # ms since the epoch, by the clock of its node
    failures: int = 0  # attempts of this launch that ended with an error
    deaths: int = 0  # of its process in a row, at the checkpoint of iteration `died_at`
    died_at: int | None = None
    outcome: Outcome = Outcome.MISSING
    reason: str = ""  # why there is no result, for people
    cause: str = ""  # what kind of failure it is, for counts: the name of an exception, or one of those above
    host: str = ""  # where it runs: with `pid` and `process_started` the one process that may write the account
    pid: int | None = None
    process_started: float | None = None  # s since the epoch
    tags: dict[str, str] = field(default_factory=dict)  # how it is run, what it took; of a result, the seals

    @property
    def has_result(self) -> bool:
        return self.outcome.is_result

    @property
    def cohort(self) -> int:
        """How many trials its process trains, or trained, together with it, itself included."""
        return int(self.tags.get("cohort", "1"))

    @property
    def process(self) -> tuple[str, str, int | None, float | None]:
        """What tells one attempt from another."""
        return self.launch, self.host, self.pid, self.process_started


@dataclass(frozen=True)
class Failure:
    """Why a trial cannot be run here: its user has to mend the input, and another attempt would fail, too."""

    message: str


# Tags that are read as numbers: counts, which are whole and 1 or more, and measurements.
COUNTS = ("cohort", "processes", "probed_gpu_bytes", "diverged_at", "started")
MEASUREMENTS = (
    *("seconds", "predicted_seconds", "gpu_watts"),
    *("recalibrated_clean_train_error_pct", "recalibrated_test_error_pct"),
)
DIGITS = 15  # of the largest number that a tag may be: no time, size or count comes near it


def sound(tags: Mapping[str, str]) -> dict[str, str]:
    """The tags without those that should be numbers and are none: files and databases may be anybody's."""
    return {name: value for name, value in tags.items() if _is_sound(name, value)}


def _is_sound(name: str, value: str) -> bool:
    if name in COUNTS:
        return value.isascii() and value.isdigit() and len(value) <= DIGITS and int(value) > 0
    if name in MEASUREMENTS:
        try:
            return bool(0 <= float(value) < 10**DIGITS)
        except ValueError:
            return False
    return True


def read_account(folder: Path) -> Account:
    """The account in a trial's folder; its outcome is `missing` where there is none, or none that can be read."""
    content = atomic.read(TrialFolder(folder).account)
    if content is None:
        return Account()
    known = {field.name: field.type for field in fields(Account)}
    try:
        values = {name: value for name, value in atomic.decoded(content).items() if name in known}
        values["outcome"] = Outcome(values["outcome"])
    except (ValueError, KeyError, AttributeError):
        return Account()
    if not all(is_of(known[name], value) for name, value in values.items()):
        return Account()
    texts = {name: printable(value) for name, value in values.items() if isinstance(value, str)}
    tags = {printable(name): printable(value) for name, value in values.get("tags", {}).items()}
    return Account(**values | texts | {"outcome": values["outcome"], "tags": sound(tags)})


def write_account(folder: Path, account: Account) -> None:
    """Replace the account in a trial's folder. Raises `OSError`."""
    assert account.outcome not in (Outcome.UNUSABLE, Outcome.MISSING)
    atomic.write(TrialFolder(folder).account, encoded(account))


def encoded(account: Account) -> bytes:
    """The content of `run.json`; without the cause where there is none, as before causes were kept."""
    values = asdict(account) | {"reason": printable(account.reason)}  # which may quote an address with its password
    if not account.cause:
        del values["cause"]
    return json.dumps(values, indent=1).encode()


def specification(trial: Trial) -> bytes:
    """The content of `spec.json`."""
    return json.dumps(trial.to_dict(), indent=2).encode()


def keep_specification(folder: Path, trial: Trial) -> None:
    """Write the specification into the trial's folder. Raises `InputError` if another one is there under its id."""
    path, spec = TrialFolder(folder).spec, specification(trial)
    present = atomic.read(path)
    if present is None:
        atomic.write(path, spec)
    elif present != spec:
        raise InputError(f"{path} holds another specification than {trial.id}; move {folder} away")


def has_result(folder: Path) -> bool:
    """Whether the trial of this folder has a result, by its account."""
    return read_account(folder).has_result
