"""`evaluate`: trained nets get the numbers they were recorded with, once, in the ledger and in MLflow."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from test_protocols import SPEC, Photographs

from experiments import planned
from experiments.profiles import SMOKE
from experiments.recipes import minutes
from study.data import arrays
from study.data.arrays import describe, load
from study.execution import Execution
from study.run import evaluate as evaluating
from study.run.worker import run_trial
from study.spec import Model, Trial
from study.store.account import Account, Outcome, read_account, write_account
from study.store.mlflow import reader
from study.store.records import NUMBERS, add_evaluations, read_evaluations, read_records, seal_result
from study.tasks.names import CENTRE, MULTI_SCALE, TEN_CROP, TOP1, TOP5
from study.training import checkpoints
from study.training.state import TrainState

Command = Callable[..., tuple[int, str, str]]
ALL = list(planned(SMOKE))
TRIALS = [trial for trial in ALL if trial.recipe.iterations == 6 and trial.model.depth == 20][:4]
IDS = " ".join(trial.id for trial in TRIALS[:3])


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> Execution:
    """A store with three finished trials of smoke."""
    root = tmp_path_factory.mktemp("trained")
    shutil.copytree(empty_store, root / "store")
    execution = Execution(storage=root / "store", data_root=root / "data", local=True)
    for trial in TRIALS[:3]:
        assert run_trial(trial, execution, {"profile": "smoke"}) == "finished"
    return execution


@pytest.fixture
def trained(template: Execution, execution: Execution) -> Execution:
    shutil.copytree(template.storage, execution.storage)
    return execution


@pytest.fixture
def evaluate(execution: Execution, command: Command) -> Command:
    """The command on this store, as text or, with --json, decoded: exit code, output, errors."""

    def run(*arguments: object) -> tuple[int, Any, str]:
        weights = "--weights" in arguments
        where = () if weights else ("--profile", "smoke", "--storage", execution.storage)
        code, out, err = command("evaluate", *where, "--data-root", execution.data_root, *arguments)
        return code, json.loads(out) if "--json" in arguments and out else out, err

    return run


def recorded_pct(trial: Trial, execution: Execution) -> float:
    return read_records(execution.trial_folder(trial.id))["test_error_pct"][-1].as_py()


def rows_of(trial: Trial, execution: Execution) -> list[dict[str, Any]]:
    table = read_evaluations(execution.trial_folder(trial.id))
    return [] if table is None else table.to_pylist()


def test_the_centre_crop_is_the_recorded_test_error_in_the_ledger_in_mlflow_and_in_the_answer(
    trained: Execution, evaluate: Command
) -> None:
    code, found, _ = evaluate("--trials", IDS, "--json")
    assert code == 0 and found["without_weights"] == {} and found["not_finished"] == []
    for trial in TRIALS[:3]:
        error = recorded_pct(trial, trained)
        (said,) = (row for row in found["evaluations"] if row["ids"] == [trial.id])
        assert said[TOP1] == error and said["new"]
        assert {name: said[name] for name in ("net", "seed", "data", "split", "protocol", "images")} == {
            **{"net": trial.model.title, "seed": trial.seed, "data": "digits", "split": "test"},
            **{"protocol": CENTRE, "images": 360},
        }
        top1, top5 = rows_of(trial, trained)
        assert top1 == {
            **{"split": "test", "protocol": CENTRE, "measure": TOP1, "nets": ""},
            **{"value": error, "images": 360},
        }
        assert top5["measure"] == TOP5 and top5["value"] == said[TOP5] < error
    for run in reader.read(trained, TRIALS[:3]):
        assert run.evaluations is not None and run.evaluations.to_pylist() == rows_of(run.trial, trained)


@pytest.mark.parametrize("how", [{}, {"recalibrate": 128}, {"precision": "bf16"}])
def test_nets_are_tested_as_their_recipe_evaluates_them(
    how: dict[str, Any], small: Callable[..., Trial], store: Execution
) -> None:
    trial = small(**how)
    assert run_trial(trial, store, {"profile": "smoke"}) == "finished"
    tests = evaluating.Testing(store, {trial.id: read_account(store.trial_folder(trial.id)).tags})
    tests.test([trial], [CENTRE])
    assert [row[TOP1] for row in tests.rows] == [recorded_pct(trial, store)]


def test_what_is_known_is_not_measured_again_unless_asked_for(trained: Execution, evaluate: Command) -> None:
    trial = TRIALS[0]
    evaluate("--trials", trial.id)
    (folder, (top1, _)) = trained.trial_folder(trial.id), rows_of(trial, trained)
    add_evaluations(folder, [top1 | {"value": 12.5}])
    code, found, _ = evaluate("--trials", trial.id, "--json")
    assert code == 0 and [(row[TOP1], row["new"]) for row in found["evaluations"]] == [(12.5, False)]
    code, found, _ = evaluate("--trials", trial.id, "--again", "--json")
    assert [(row[TOP1], row["new"]) for row in found["evaluations"]] == [(top1["value"], True)]
    (run,) = reader.read(trained, [trial])
    assert run.evaluations is not None and top1 in run.evaluations.to_pylist()


def test_a_measure_that_is_missing_is_measured(trained: Execution, evaluate: Command) -> None:
    (trial, folder) = TRIALS[0], trained.trial_folder(TRIALS[0].id)
    evaluate("--trials", trial.id)
    both = rows_of(trial, trained)
    (folder / "evaluations.parquet").unlink()
    add_evaluations(folder, both[:1])
    assert "1 tested" in evaluate("--trials", trial.id)[1] and rows_of(trial, trained) == both


def test_runs_without_weights_are_named_and_the_others_are_tested(trained: Execution, evaluate: Command) -> None:
    lost, other, kept = TRIALS[:3]
    shutil.rmtree(trained.trial_folder(lost.id) / "checkpoints")
    state = TrainState.restore_or_create(other, trained.trial_folder(other.id) / "checkpoints", torch.device("cpu"))
    state.records[-1]["train_loss"] += 1  # as of another run of the trial
    state.save(trained.trial_folder(other.id) / "checkpoints")
    code, out, _ = evaluate("--trials", IDS)
    assert code == 1
    assert f"not tested: {lost.id}: its weights are not in this store\n" in out
    assert f"not tested: {other.id}: the newest state is not the one it ended with\n" in out
    assert "1 tested, 0 were already, 0 trials are not finished" in out
    assert rows_of(kept, trained) and not rows_of(lost, trained) and not rows_of(other, trained)


def test_trials_that_are_not_finished_are_left_out(trained: Execution, evaluate: Command) -> None:
    code, found, _ = evaluate("--trials", f"{TRIALS[0].id} {TRIALS[3].id}", "--json")
    assert code == 0 and found["not_finished"] == [TRIALS[3].id] and len(found["evaluations"]) == 1


def test_an_ensemble_is_kept_once_with_the_first_of_its_nets(trained: Execution, evaluate: Command) -> None:
    code, found, _ = evaluate("--trials", IDS, "--ensemble", "--json")
    assert code == 0
    *each, ensemble = found["evaluations"]
    ids = sorted(IDS.split())
    assert ensemble["net"] == "ensemble of 3" and ensemble["ids"] == ids and len(each) == 3
    data, probability = load(TRIALS[0].data, trained.data_root), 0
    images, labels = next(data.clean("test", 500))
    for trial in TRIALS[:3]:
        folder = trained.trial_folder(trial.id) / "checkpoints"
        net = TrainState.restore_or_create(trial, folder, torch.device("cpu")).net.eval()
        with torch.no_grad():
            probability = probability + net(images).softmax(1) / 3
    assert ensemble[TOP1] == pytest.approx(100 * (probability.argmax(1) != labels).float().mean().item())
    first = next(trial for trial in TRIALS if trial.id == ids[0])
    assert {row["nets"] for row in rows_of(first, trained)} == {"", ",".join(ids)}
    code, out, _ = evaluate("--trials", " ".join(reversed(ids)), "--ensemble")
    assert "0 tested, 4 were already" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--protocol", TEN_CROP), "protocol '10-crop' is for photographs, and digits has images of one size"),
        (("--protocol", CENTRE, "--protocol", "12-crop"), "protocol '12-crop' is unknown"),
        (("--trials", "resnet20"), f"trial 'resnet20' is not among the {len(ALL)} selected"),
        (("--ensemble",), f"an ensemble is of all selected nets, and {len(ALL) - 3} of {len(ALL)} are"),
        (("--ensemble", "--trials", TRIALS[0].id), "an ensemble has two nets or more"),
        (("--trials", TRIALS[3].id), "none of the 1 selected trials is finished"),
        (("--model", "resnet50"), "--model is for --weights; leave it out"),
        (("--weights", "w.pth", "--model", "resnet18", "--seeds", "1"), "--seeds is for trials; leave it out"),
        (("--weights", "w.pth", "--model", "resnet18", "--ensemble"), "--ensemble is for trials"),
        (("--weights", "w.pth", "--model", "vgg16"), "model 'vgg16' is unknown; choose one of resnet18"),
        (("--weights", "w.pth", "--model", "resnet50"), "say --stride 3x3, as torchvision's, or --stride first"),
        (("--weights", "w.pth", "--model", "resnet18"), "say --data imagenet, or --data images:NAME"),
        (("--weights", "w.pth", "--model", "resnet18", "--stride", "3x3"), "stride of a basic block '3x3' is unknown"),
        (
            ("--weights", "w.pth", "--model", "resnet18", "--data", "cifar10", "--protocol", TEN_CROP),
            "is for photographs, and",
        ),
        (("--weights", "w.pth", "--model", "resnet18", "--data", "cifar10"), "w.pth is missing: there is no such file"),
        (("--weights", "w.pth", "--model", "resnet18", "--trials", "a"), "--trials is for trials"),
    ],
)
def test_what_cannot_be_tested_is_refused_in_one_line(
    arguments: tuple[str, ...], message: str, trained: Execution, evaluate: Command
) -> None:
    code, out, err = evaluate(*arguments)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert message in err and err.startswith("error: ")


def test_other_data_than_the_nets_were_trained_on_are_refused(trained: Execution, evaluate: Command) -> None:
    folder = trained.trial_folder(TRIALS[0].id)
    said = read_account(folder)
    write_account(folder, replace(said, tags=said.tags | {"data_digest": "0" * 64}))
    code, _, err = evaluate("--trials", TRIALS[0].id)
    assert code == 2 and f"is not what {TRIALS[0].id} was trained with (digest " in err


def test_imported_weights_are_tested_and_nothing_is_kept(
    execution: Execution, evaluate: Command, tmp_path: Path
) -> None:
    """torchvision's net on two classes of pictures, against its own pass over them."""
    draw = np.random.default_rng(0)
    for split, label, index in ((s, c, i) for s in ("train", "test") for c in "ab" for i in range(8)):
        path = execution.data_root / "pictures" / split / label / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draw.integers(256, size=(40, 40, 3), dtype=np.uint8)).save(path)
    torch.manual_seed(0)
    theirs = torchvision.models.resnet18(num_classes=2).eval()
    for module in theirs.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.running_var, 0.5, 1.5)
    torch.save(theirs.state_dict(), tmp_path / "theirs.pth")
    code, found, _ = evaluate(
        *("--weights", tmp_path / "theirs.pth", "--model", "resnet18", "--data", "folder:pictures", "--json")
    )
    data = load(describe("folder:pictures", execution.data_root, normalise="imagenet"), execution.data_root)
    images, labels = next(data.clean("test", 100))
    with torch.no_grad():
        error = 100 * (theirs(images).argmax(1) != labels).double().mean().item()
    assert code == 0 and found["evaluations"] == [
        {
            **{"net": "ResNet-18 (B)", "data": "folder:pictures", "split": "test", "protocol": CENTRE},
            **{"images": 16, TOP1: error},
        }
    ]
    assert not execution.storage.exists()
    torch.save(torchvision.models.resnet34(num_classes=2).state_dict(), tmp_path / "other.pth")
    for file, message in (("other.pth", "the weights are of another net"), ("text.pth", "is no state dict")):
        (tmp_path / "text.pth").write_text("no weights")
        code, _, err = evaluate("--weights", tmp_path / file, "--model", "resnet18", "--data", "folder:pictures")
        assert code == 2 and message in err


def sealed(trial: Trial, execution: Execution) -> dict[str, str]:
    """A finished trial with its initial weights, though nobody trained it; returns what it says of itself."""
    state = TrainState(trial, torch.device("cpu"))
    state.records = [dict.fromkeys(NUMBERS, 50.0) | {"iteration": trial.recipe.iterations}]
    folder = execution.trial_folder(trial.id)
    checkpoints.save(folder / "checkpoints", 1, {"net": state.net.state_dict(), "records": state.records})
    return seal_result(folder, Outcome.FINISHED, state.records, Account(tags={"data_digest": "random"})).tags


def test_numbers_of_photographs_are_kept_by_protocol_on_the_validation_images(
    execution: Execution, monkeypatch: pytest.MonkeyPatch
) -> None:
    photographs = Photographs()
    photographs.digest = "random"  # type: ignore[attr-defined]
    photographs.mixed = lambda size, limit: iter(())  # type: ignore[attr-defined]
    monkeypatch.setattr(arrays, "load", lambda *_: photographs)
    nets = [Model.imagenet(family="residual", depth=18, shortcut=option, width=4) for option in "AB"]
    trials = [Trial(model=net, data=SPEC, recipe=replace(minutes(net), iterations=1, drops=()), seed=0) for net in nets]
    tests = evaluating.Testing(execution, {trial.id: sealed(trial, execution) for trial in trials})
    tests.test(trials, [TEN_CROP, MULTI_SCALE], together=True)
    assert [(row["protocol"], row["net"]) for row in tests.rows] == [
        (protocol, net)
        for protocol in (TEN_CROP, MULTI_SCALE)
        for net in ("ResNet-18", "ResNet-18 (B)", "ensemble of 2")
    ]
    assert all(row["images"] == 10 and row["split"] == "validation" and {TOP1, TOP5} < set(row) for row in tests.rows)
    assert len(rows_of(trials[0], execution)) == 8 and len(rows_of(trials[1], execution)) == 4


def test_numbers_of_different_protocols_never_stand_in_one_column(capsys: pytest.CaptureFixture[str]) -> None:
    from commands.evaluate import _print

    rows = [
        {"net": "ResNet-18", "data": "photographs", "seed": 0, "protocol": protocol, TOP1: error, "images": 10}
        for error, protocol in ((30.0, CENTRE), (28.0, TEN_CROP), (31.0, CENTRE))
    ]
    _print({"evaluations": rows}, as_json=False)
    first, second, _ = capsys.readouterr().out.split("\n\n")
    assert [line.split("  ")[0] for line in first.splitlines()] == ["net", "ResNet-18", "ResNet-18"]
    assert "30.00 %" in first and "31.00 %" in first and "28.00 %" in second and TEN_CROP not in first
