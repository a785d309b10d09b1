"""Finished nets are tested, and their folders keep how well they did.

Owns which weights a trial's net has and that its numbers are kept with it; imported weights have no trial, and nothing
of them is kept. How a net is tested is `study/tasks/protocols.py`.
"""

import pickle
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch
from torch import nn

from study.data.arrays import load
from study.execution import Execution
from study.nets.resnet import BatchNorm, Net, build
from study.nets.torchvision_names import from_torchvision
from study.run.worker import device_of, set_up_torch
from study.spec import Data, InputError, Model, Trial
from study.store.layout import TrialFolder
from study.store.records import add_evaluations, columns, read_evaluations, table_digest
from study.tasks.protocols import as_evaluated, check_protocol, errors_pct, measures, probabilities, split_of
from study.training import checkpoints

Row = dict[str, Any]
Nets = tuple[Trial, ...]  # one, or those of an ensemble


class Testing:
    """Tests nets and keeps their numbers in the trial folder, protocol by protocol: a kill loses what was being tested.

    For whoever holds the store's lock. A result is sealed, and only its own weights are tested: what was measured once
    stays true, and is measured anew only if `again`.
    """

    def __init__(self, execution: Execution, tags: dict[str, dict[str, str]], again: bool = False) -> None:
        """`tags`: what each trial's account says, by its id."""
        self.execution, self.tags, self.again = execution, tags, again
        self.device = device_of(execution)
        set_up_torch(execution)
        self.rows: list[Row] = []  # what is now known of the nets, measured now or before
        self.lacking: dict[str, str] = {}  # trials that could not be tested, and why
        self._data: Any = None

    def test(self, trials: Sequence[Trial], protocols: Sequence[str], together: bool = False) -> None:
        """Test each of these nets and, if `together`, all as an ensemble, whose numbers are kept with the first.

        Nets that are tested together are in memory together, and read each image once. Raises `InputError` for data
        that are missing or not those that the nets were trained on.
        """
        nets: dict[Trial, Any] | None = None
        subjects: list[Nets] = [(trial,) for trial in trials] + ([tuple(trials)] if together else [])
        for protocol in protocols:
            new = [of for of in subjects if self.again or not self._known(of, protocol)]
            if new:
                nets = self._nets(trials) if nets is None else nets
                measured = self._measured(nets, protocol) if nets else {}
                for of in (of for of in new if of in measured):
                    self._add(of, protocol, *measured[of])
            for of in subjects:
                if known := self._known(of, protocol):
                    self.rows.append(_row(of, known) | {"new": of in new})

    def _nets(self, trials: Sequence[Trial]) -> dict[Trial, Any]:
        """The final nets of those trials whose weights are here."""
        nets = {}
        for trial in trials:
            saved = checkpoints.load_newest(TrialFolder(self._folder((trial,))).checkpoints, self.device)
            if lack := lack_of(saved, self.tags[trial.id], columns(trial)):
                self.lacking[trial.id] = lack
                continue
            assert saved is not None
            nets[trial] = net = _placed(self._built(trial), self.device)
            net.load_state_dict(saved["net"])
        return nets

    def _built(self, trial: Trial) -> nn.Module:
        return build(trial)

    def _load(self, trial: Trial) -> Any:
        return load(trial.data, self.execution.data_root, self.device, trial.seed)

    def _split(self, trial: Trial) -> str:
        return split_of(trial.data)

    def _measures(self, trial: Trial) -> Sequence[str]:
        return measures(trial.data.classes)

    def _measured(self, nets: dict[Trial, Any], protocol: str) -> dict[Nets, tuple[dict[str, float], int]]:
        """Errors of each net, and of all together, by measure; and over how many images."""
        data = self._loaded(next(iter(nets)))
        with ExitStack() as tested:
            forwards = [tested.enter_context(as_evaluated(net, trial.recipe, data)) for trial, net in nets.items()]
            errors, images = errors_pct(probabilities(forwards, data, protocol, self.device))
        return {of: (each, images) for of, each in zip([*((t,) for t in nets), tuple(nets)], errors, strict=True)}

    def _loaded(self, trial: Trial) -> Any:
        """The trial's data, in memory until others are asked for."""
        if self._data is None or self._data.spec != trial.data:
            self._data = None
            self._data = self._load(trial)
        check_digest(self._data.digest, trial, self.tags[trial.id], self.execution)
        return self._data

    def _add(self, of: Nets, protocol: str, errors: dict[str, float], images: int) -> None:
        same = self._key(of, protocol) | {"images": images}
        add_evaluations(
            self._folder(of), [same | {"measure": measure, "value": value} for measure, value in errors.items()]
        )

    def _known(self, of: Nets, protocol: str) -> list[Row]:
        """The rows kept on these nets tested so, one a measure; none if one is missing."""
        table, wanted = read_evaluations(self._folder(of)), self._measures(of[0])
        key = self._key(of, protocol)
        rows = [row for row in table.to_pylist() if key.items() <= row.items()] if table else []
        found = {row["measure"]: row for row in rows}
        return [found[measure] for measure in wanted] if found.keys() >= set(wanted) else []

    def _folder(self, of: Nets) -> Path:
        return self.execution.trial_folder(of[0].id)

    def _key(self, of: Nets, protocol: str) -> dict[str, str]:
        nets = ",".join(trial.id for trial in of) if len(of) > 1 else ""
        return {"split": self._split(of[0]), "protocol": protocol, "nets": nets}


def check_digest(digest: str, trial: Trial, tags: dict[str, str], execution: Execution) -> None:
    """Raise `InputError` unless data of that digest are those that the trial, of these tags, was trained on."""
    if digest != (trained_on := tags.get("data_digest", "")):
        raise InputError(
            f"{trial.data.name} in {execution.data_root} is not what {trial.id} was trained with (digest"
            f" {digest[:12]}, not {trained_on[:12]}); name the folder of those data with --data-root"
        )


def _row(of: Nets, known: Sequence[Row]) -> Row:
    first = of[0]
    net = first.title if len(of) == 1 else f"ensemble of {len(of)}"
    about = {"ids": [trial.id for trial in of], "net": net, "seed": first.seed, "data": first.data.name}
    tested = {name: known[0][name] for name in ("split", "protocol", "images")}
    return about | tested | {row["measure"]: row["value"] for row in known}


def lack_of(saved: dict[str, Any] | None, tags: dict[str, str], schema: pa.Schema) -> str:
    """Why a state is not the one that was sealed with the result; '' if it is."""
    if saved is None:
        return "its weights are not in this store"
    records = pa.Table.from_pylist(saved["records"], schema=schema)
    return "" if table_digest(records) == tags["records_sha256"] else "the newest state is not the one it ended with"


def _placed(net: nn.Module, device: torch.device) -> Any:
    """On the device, laid out in memory as for training."""
    return net.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]


def tested_weights(path: Path, model: Model, data: Data, protocols: Sequence[str], execution: Execution) -> list[Row]:
    """How well a net does with the weights of a file, a state dict under torchvision's names.

    Raises `InputError` for a file that is none, weights of another net, and data that are missing.
    """
    for protocol in protocols:
        check_protocol(protocol, data)
    device = device_of(execution)
    set_up_torch(execution)
    net = Net(model, data.channels, data.classes, lambda channels: BatchNorm(channels, 1)).eval()
    try:
        from_torchvision(net, torch.load(path, map_location="cpu", weights_only=True))
    except (OSError, EOFError, RuntimeError, pickle.UnpicklingError, AttributeError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise InputError(
            f"{path} is no state dict ({reason}); save one by torch.save(net.state_dict(), PATH)"
        ) from None
    net, images_of = _placed(net, device), load(data, execution.data_root, device)
    rows = []
    for protocol in protocols:
        (errors, _), images = errors_pct(probabilities([net], images_of, protocol, device))
        about = {"net": model.title, "data": data.name, "split": split_of(data), "protocol": protocol}
        rows.append(about | {"images": images} | errors)
    return rows
