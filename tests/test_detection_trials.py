"""Detection trials: trained from other trials' nets, stopped and continued, tested, and refused in one line."""

import json
import os
import shutil
import signal
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from experiments import detection_voc, planned
from experiments.profiles import PAPER, SMOKE, Detectors
from experiments.recipes import Deviation, deviations
from study import cost
from study.data import scenes
from study.data.scenes import Scenes
from study.execution import Execution
from study.nets.faster_rcnn import build
from study.run import evaluate, placement, starting_weights, worker
from study.run import launch as launching
from study.run.attempt import Attempt
from study.run.worker import run_trial
from study.spec import TORCHVISION, DetectionTrial, InputError, Model, Recipe, Trial
from study.store import atomic
from study.store.account import Account, Outcome, read_account, write_account
from study.store.records import LOSSES, flaw_of, read_evaluations, read_records
from study.training import checkpoints

TAGS = {"profile": "smoke"}
CPU = torch.device("cpu")


def short(detectors: Detectors) -> Detectors:
    """The smoke profile's, in 8 iterations."""
    recipe = detectors.recipe

    def brief(data: Any) -> Recipe:
        return replace(recipe(data), iterations=8, drops=(6,), record_every=2, evaluate_every=8)

    return replace(detectors, recipe=brief)


def trials(seeds: int = 1, **changes: Any) -> list[Trial]:
    """The residual backbone, VGG-16's detectors and the residual ones, a seed after another."""
    assert SMOKE.detectors
    profile = replace(SMOKE, detectors=replace(short(SMOKE.detectors), **changes)).with_seeds(seeds)
    return detection_voc.trials(profile)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Execution:
    """A store in which the trials of two seeds ran without a stop."""
    root = tmp_path_factory.mktemp("whole")
    execution = Execution(storage=root / "store", data_root=root / "data", local=True)
    torch.set_num_threads(1)
    for trial in trials(2):
        assert run_trial(trial, execution, TAGS) == "finished"
    return execution


def end_of(trial: Trial, execution: Execution) -> tuple[dict[str, Any], list[Any], list[Any]]:
    """Final state, records and evaluations."""
    folder = execution.trial_folder(trial.id)
    state, evaluations = checkpoints.load_newest(folder / "checkpoints"), read_evaluations(folder)
    assert state is not None and evaluations is not None
    return state, read_records(folder).to_pylist(), evaluations.to_pylist()


def stopping_at(iteration: int) -> Callable[..., None]:
    real = Attempt.reached

    def reached(self: Attempt, state: Any, *arguments: Any, **more: Any) -> None:
        real(self, state, *arguments, **more)
        self.stopping = self.stopping or state.iteration == iteration

    return reached


@pytest.mark.parametrize("which", [1, 2], ids=["VGG-16", "ResNet-18"])
def test_a_detector_stopped_between_any_two_updates_ends_bit_for_bit_as_one_that_was_not(
    whole: Execution, execution: Execution, monkeypatch: pytest.MonkeyPatch, which: int
) -> None:
    """Also one that was stopped before its first update, and one whose backbone has gone by the time it goes on.

    What it started from is known nevertheless.
    """
    backbone, *_ = trials()
    trial = trials()[which]
    execution = replace(execution, data_root=whole.data_root)
    shutil.copytree(whole.trial_folder(backbone.id), execution.trial_folder(backbone.id))
    for iteration in (0, 1, 5):
        with monkeypatch.context() as patch:
            patch.setattr(Attempt, "reached", stopping_at(iteration))
            assert run_trial(trial, execution, TAGS) == "interrupted"
        if iteration:
            shutil.rmtree(execution.trial_folder(backbone.id), ignore_errors=True)
    worker.check_data([trial], execution)
    assert run_trial(trial, execution, TAGS) == "finished"
    source = [read_account(e.trial_folder(trial.id)).tags.get(starting_weights.SEAL) for e in (execution, whole)]
    assert source[0] == source[1] and bool(source[0]) is bool(trial.needs)
    (state, *rest), (theirs, *others) = end_of(trial, execution), end_of(trial, whole)
    assert rest == others
    assert state["net"].keys() == theirs["net"].keys()
    assert all(torch.equal(tensor, theirs["net"][name]) for name, tensor in state["net"].items())


def test_records_begin_with_the_untrained_detector_and_evaluations_have_every_protocol(whole: Execution) -> None:
    _, vgg, *_ = (trial for trial in trials() if trial.seed == 0)
    _, records, evaluations = end_of(vgg, whole)
    assert [record["iteration"] for record in records] == [0, 2, 4, 6, 8]
    assert [record["map_50"] is not None for record in records] == [True, False, False, False, True]
    assert records[1]["train_loss"] == pytest.approx(sum(records[1][name] for name in LOSSES))
    tested = {row["protocol"]: row["value"] for row in evaluations if row["measure"] == "map"}
    assert tested.keys() == {"untrained", "single scale", "+box refinement"}
    assert (tested["untrained"], tested["single scale"]) == (records[0]["map_50"], records[-1]["map_50"])
    classes = {row["measure"] for row in evaluations if row["measure"].startswith("ap_")}
    assert len(classes) == vgg.data.classes and {row["images"] for row in evaluations} == {60}


def test_a_detector_starts_from_the_final_net_of_the_trial_of_its_seed(whole: Execution) -> None:
    for trial in trials(2)[4:]:
        assert isinstance(trial, DetectionTrial) and trial.needs == (f"{trial.detection.weights}-s{trial.seed}",)
        detector = build(trial)
        starting_weights.take(detector, trial, whole, CPU, None)
        saved = checkpoints.load_newest(whole.trial_folder(trial.needs[0]) / "checkpoints")
        assert saved is not None
        for name, tensor in detector.backbone.state_dict().items():
            recalibrated = "running" in name  # over images of the backbone's own data, before it is frozen or moves on
            assert torch.equal(tensor, saved["net"][name]) != recalibrated, name
        sealed = read_account(whole.trial_folder(trial.needs[0])).tags["records_sha256"]
        assert read_account(whole.trial_folder(trial.id)).tags["weights_records_sha256"] == sealed


def test_detectors_of_one_condition_start_from_their_own_seeds() -> None:
    assert len({trial.condition for trial in trials(2)}) == 3


def test_a_backbone_that_has_not_finished_or_has_no_weights_is_named(whole: Execution, execution: Execution) -> None:
    execution = replace(execution, data_root=whole.data_root)
    backbone, _, trial = trials()
    message = f"^{trial.id} cannot start from {backbone.id}: "
    with pytest.raises(InputError, match=message + "neither its result nor its weights are in this store"):
        run_trial(trial, execution, TAGS)
    there = execution.trial_folder(backbone.id)
    shutil.copytree(whole.trial_folder(backbone.id), there)
    saved = checkpoints.load_newest(there / "checkpoints")
    assert saved is not None
    checkpoints.save(there / "checkpoints", saved["iteration"] + 1, {**saved, "records": saved["records"][:-1]})
    with pytest.raises(InputError, match=message + "the newest state is not the one it ended with; import a bundle"):
        run_trial(trial, execution, TAGS)
    shutil.rmtree(there / "checkpoints")
    with pytest.raises(InputError, match=message + "its weights are not in this store"):
        run_trial(trial, execution, TAGS)
    write_account(there, replace(read_account(there), outcome=Outcome.FAILED))
    with pytest.raises(InputError, match=message + "it is failed; run it to its end"):
        run_trial(trial, execution, TAGS)


def launched(trials: list[Trial], execution: Execution) -> list[Trial]:
    """Launch the trials; those that were started."""
    started: list[Trial] = []
    launching.launch(
        trials, execution, dict.fromkeys((t.id for t in trials), TAGS), lambda todo, _: started.extend(todo)
    )
    return started


def test_a_backbone_that_has_a_result_and_no_weights_is_named_before_anything_runs(
    whole: Execution, store: Execution
) -> None:
    """Whether the ledger has the result or, when the folder is gone, MLflow alone."""
    execution = replace(store, data_root=whole.data_root)
    backbone, vgg, trial = trials()
    there = execution.trial_folder(backbone.id)
    shutil.copytree(whole.trial_folder(backbone.id), there)
    for gone, lack in (there / "checkpoints", "its weights are not in this"), (there, "neither its result nor its wei"):
        shutil.rmtree(gone)
        with pytest.raises(InputError, match=f"{trial.id} cannot start from {backbone.id}: {lack}"):
            launched([backbone, vgg, trial], execution)
        assert not execution.trial_folder(vgg.id).exists()


def test_a_detector_whose_backbone_diverged_fails_once_and_is_refused_from_then_on(
    store: Execution, caplog: pytest.LogCaptureFixture, whole: Execution
) -> None:
    execution = replace(store, data_root=whole.data_root)
    backbone, _, trial = trials()
    assert isinstance(trial, DetectionTrial)
    backbone = replace(backbone, recipe=replace(backbone.recipe, learning_rate=1e30))
    trial = replace(trial, detection=replace(trial.detection, weights=backbone.condition))
    launched([trial, backbone], execution)
    said = [read_account(execution.trial_folder(each.id)) for each in (backbone, trial)]
    assert [each.outcome for each in said] == ["diverged", "failed"]
    message = f"{trial.id} cannot start from {backbone.id}: it diverged, so it has no weights"
    assert message in said[1].reason and caplog.text.count(message) == 1 and said[1].failures == 1
    with pytest.raises(InputError, match=f"{message}.* choose other --seeds or --experiments"):
        launched([trial, backbone], execution)


def test_data_that_a_finished_backbone_is_recalibrated_with_are_looked_for_before_anything_runs(
    execution: Execution, whole: Execution
) -> None:
    execution = replace(execution, data_root=whole.data_root)
    backbone, _, trial = trials()
    assert isinstance(trial, DetectionTrial) and trial.recipe.recalibrate
    backbone = replace(backbone, data=replace(backbone.data, name="images:gone"))
    trial = replace(trial, detection=replace(trial.detection, weights=backbone.condition))
    folder = execution.trial_folder(backbone.id)
    checkpoints.save(folder / "checkpoints", backbone.recipe.iterations, {})
    atomic.write(folder / "spec.json", json.dumps(backbone.to_dict()).encode())
    write_account(folder, Account(outcome=Outcome.FINISHED))
    with pytest.raises(InputError, match="images:gone"):
        worker.check_data([trial], execution)


def test_other_data_than_the_backbones_do_not_recalibrate_it(whole: Execution, execution: Execution) -> None:
    execution = replace(execution, data_root=whole.data_root)
    backbone, _, trial = trials()
    there = execution.trial_folder(backbone.id)
    shutil.copytree(whole.trial_folder(backbone.id), there)
    said = read_account(there)
    write_account(there, replace(said, tags=said.tags | {"data_digest": "another"}))
    with pytest.raises(InputError, match=f"is not what {backbone.id} was trained with"):
        run_trial(trial, execution, TAGS)


def test_torchvisions_weights_are_looked_for_before_anything_runs(
    execution: Execution, whole: Execution, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STUDY_OFFLINE", "1")
    _, vgg, _ = trials()
    assert isinstance(vgg, DetectionTrial)
    data, detection = replace(vgg.data, normalise="imagenet"), replace(vgg.detection, weights=TORCHVISION)
    of = replace(vgg, model=Model.vgg(), data=data, detection=detection)
    with pytest.raises(InputError, match="vgg16-397923af.pth are missing; STUDY_OFFLINE forbids"):
        worker.check_data([of], replace(execution, data_root=whole.data_root))


@pytest.mark.parametrize("image", [3, 63, 123], ids=["untrained", "last record", "second protocol"])
def test_a_detector_stopped_while_it_is_tested_goes_on_and_tests_no_net_twice(
    whole: Execution, execution: Execution, monkeypatch: pytest.MonkeyPatch, image: int
) -> None:
    """60 images untrained, 60 at the last record, which are those of the first protocol, 60 by the second."""
    _, vgg, _ = trials()
    execution = replace(execution, data_root=whole.data_root)
    attempts: list[Attempt] = []
    tested, enter, test = 0, Attempt.__enter__, Scenes.test

    def entered(self: Attempt) -> Attempt:
        attempts.append(self)
        return enter(self)

    def counting(self: Scenes) -> Any:
        nonlocal tested
        for each in test(self):
            tested += 1
            attempts[-1].stopping |= tested == image
            yield each

    monkeypatch.setattr(Attempt, "__enter__", entered)
    monkeypatch.setattr(Scenes, "test", counting)
    assert run_trial(vgg, execution, TAGS) == "interrupted" and tested == image
    tested -= image % 60  # what was seen of a test that has to begin again
    if image > 120:
        tested -= 60  # and of the first protocol, which is not kept
    image = -1
    assert run_trial(vgg, execution, TAGS) == "finished" and tested == 180
    (state, *rest), (theirs, *others) = end_of(vgg, execution), end_of(vgg, whole)
    assert rest == others
    assert all(torch.equal(tensor, theirs["net"][name]) for name, tensor in state["net"].items())


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory"), MemoryError()], ids=["GPU", "CPU"])
def test_a_detector_that_runs_out_of_memory_says_what_to_change_and_is_not_tried_again(
    whole: Execution, execution: Execution, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    _, vgg, _ = trials()

    def exhausted(*arguments: Any) -> Any:
        raise error

    monkeypatch.setattr(worker, "train", exhausted)
    assert run_trial(vgg, replace(execution, data_root=whole.data_root), TAGS) == "failed"
    reason = read_account(execution.trial_folder(vgg.id)).reason
    assert reason.startswith("out of memory: about ") and "--memory-gib" in reason


def test_what_a_detector_cannot_be_asked_for_is_said(
    whole: Execution, execution: Execution, caplog: pytest.LogCaptureFixture
) -> None:
    _, vgg, _ = trials()
    asked = replace(execution, data_root=whole.data_root, compile=True, memory_gib=0.01)
    assert run_trial(vgg, asked, TAGS) == "finished"
    assert read_account(execution.trial_folder(vgg.id)).tags["compiled"] == "no"
    assert caplog.text.count(f"{vgg.id} is a detector, so it is not compiled") == 1
    assert caplog.text.count(f"memory may not suffice for {vgg.id}: about ") == 1
    assert end_of(vgg, asked)[1:] == end_of(vgg, whole)[1:]


def test_no_wave_is_begun_after_a_launch_was_stopped(
    store: Execution, whole: Execution, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would start Ray again."""
    waves: list[Any] = []

    def stopped_in(trials: Any, *arguments: Any) -> None:
        waves.append(trials)
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(launching, "run_locally", stopped_in)
    backbone, _, trial = trials()
    with pytest.raises(KeyboardInterrupt):
        launched([backbone, trial], replace(store, data_root=whole.data_root))
    assert waves == [[backbone]]


def test_several_processes_are_refused(execution: Execution) -> None:
    with pytest.raises(InputError, match="processes 2 cannot share faster-rcnn-vgg16-.*, a detector; choose 1"):
        run_trial(trials()[1], replace(execution, processes=2), TAGS)


def test_what_waits_for_a_training_error_is_refused(execution: Execution) -> None:
    vgg = trials()[1]
    for wrong in ({"warmup": "threshold", "warmup_iterations": 4}, {"schedule": "plateau", "patience": 1, "drops": ()}):
        with pytest.raises(InputError, match="a detector has no training error to wait for; choose"):
            run_trial(replace(vgg, recipe=replace(vgg.recipe, **wrong)), execution, TAGS)


def test_trials_that_need_others_are_launched_after_them() -> None:
    of_paper = list(planned(PAPER, ["detection-voc"]))
    waves = list(placement.waves(of_paper))
    assert [trial for wave in waves for trial in wave] != of_paper and sum(map(len, waves)) == len(of_paper)
    done: set[str] = set()
    for wave in waves:
        assert all(set(trial.needs) <= done for trial in wave)
        done |= {trial.id for trial in wave}
    assert len(waves) == 3  # ImageNet, COCO, VOC from COCO
    assert list(placement.waves(waves[-1])) == [waves[-1]]  # what is not launched is not waited for


def test_detectors_are_tested_together_and_what_was_known_is_not_measured_again(whole: Execution) -> None:
    vggs = [trial for trial in trials(2) if trial.model.family == "vgg"]
    tags = {trial.id: read_account(whole.trial_folder(trial.id)).tags for trial in vggs}
    testing = evaluate.Testing(whole, tags)
    testing.test(vggs, ["single scale"], together=True)
    first, second, both = testing.rows
    assert (first["new"], second["new"], both["new"]) == (False, False, True)
    assert first["map"] == end_of(vggs[0], whole)[1][-1]["map_50"]
    assert both["net"] == "ensemble of 2" and both["split"] == "pasted-voc test"
    again = evaluate.Testing(whole, tags)
    again.test(vggs, ["single scale"], together=True)
    assert [row["new"] for row in again.rows] == [False] * 3 and again.rows[2]["map"] == both["map"]


def test_a_test_set_without_annotations_gets_files_for_its_server(
    whole: Execution, execution: Execution, monkeypatch: pytest.MonkeyPatch
) -> None:
    load = scenes.load

    def secret(*arguments: Any) -> Any:
        data = load(*arguments)
        data.labelled = False
        return data

    monkeypatch.setattr(scenes, "load", secret)
    vgg = next(trial for trial in trials() if trial.model.family == "vgg")
    execution = replace(execution, data_root=whole.data_root)
    assert run_trial(vgg, execution, TAGS) == "finished"
    folder = execution.trial_folder(vgg.id)
    assert read_evaluations(folder) is None
    assert flaw_of(vgg, Outcome.FINISHED, read_records(folder)) == ""
    files = sorted((folder / "submission-box-refinement").glob("comp4_det_test_*.txt"))
    assert len(files) == vgg.data.classes
    lines = [line.split() for file in files for line in file.read_text().splitlines()]
    assert lines and all(len(line) == 6 and 0 < float(line[1]) <= 1 and float(line[2]) >= 1 for line in lines)


def test_vgg_is_a_backbone_only_and_has_no_normalisation_to_choose() -> None:
    _, vgg, _ = trials()
    assert isinstance(vgg, DetectionTrial)
    with pytest.raises(InputError, match="VGG-16 is trained as a detector's backbone only"):
        Trial(model=vgg.model, data=vgg.data, recipe=vgg.recipe, seed=0)
    with pytest.raises(InputError, match="norm 'group' is of BatchNorm, which VGG-16 has not; choose 'frozen'"):
        replace(vgg, detection=replace(vgg.detection, norm="group"))
    with pytest.raises(InputError, match="depth of a VGG net 19 is unknown; choose one of 16"):
        replace(Model.vgg(), depth=19)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"norm": "layer"}, "norm 'layer' is unknown; choose one of frozen, frozen-affine, batch, group"),
        ({"anchors": (256, 128)}, "anchors .* must rise strictly"),
        ({"anchors": ()}, "anchors .* must rise strictly"),
        ({"proposals": 0}, "proposals 0 is too small; it must be at least 1"),
        ({"weights": ""}, "weights '' name nothing; choose random, torchvision or the condition"),
        ({"fixed_stages": 6}, "fixed_stages of VGG-16 6 is unknown; choose one of 0, 1, 2, 3, 4, 5"),
    ],
)
def test_what_no_detector_has_is_refused_in_one_line(changes: dict[str, Any], message: str) -> None:
    _, vgg, _ = trials()
    assert isinstance(vgg, DetectionTrial)
    with pytest.raises(InputError, match=message):
        replace(vgg, detection=replace(vgg.detection, **changes))


def test_a_detection_trial_comes_back_from_json_and_any_field_changes_its_id() -> None:
    for trial in trials():
        assert Trial.from_dict(trial.to_dict()) == trial
    _, vgg, _ = trials()
    assert isinstance(vgg, DetectionTrial)
    others = {
        replace(vgg, detection=replace(vgg.detection, **change)).id
        for change in ({"context": True}, {"proposals": 51}, {"regions": 33}, {"longest": 193}, {"anchors": (24, 48)})
    }
    assert len(others | {vgg.id}) == 6


def test_the_papers_detectors_depart_from_the_paper_where_it_is_said() -> None:
    plan = {trial.id: trial for trial in planned(PAPER, ["detection-coco"])}
    departures = {trial.title: deviations(trial, plan) for trial in plan.values()}
    assert departures["Faster R-CNN, ResNet-101"] == (Deviation("recalibrate", "10000", "all of ImageNet"),)
    assert departures["Faster R-CNN, VGG-16"] == (Deviation("normalise", "imagenet", "pixel-mean"),)
    assert all(isinstance(t, DetectionTrial) is t.id.startswith("faster-rcnn") for t in planned(PAPER))
    vgg = next(
        t for t in planned(PAPER, ["detection-voc"]) if isinstance(t, DetectionTrial) and t.model.family == "vgg"
    )
    assert vgg.detection.weights == TORCHVISION
    assert cost.size(vgg)[0] == 137_073_622  # as many as the module has: tests/test_detection_cost.py


@pytest.mark.slow
def test_the_smoke_profiles_detectors_find_more_than_they_did_untrained(execution: Execution) -> None:
    for trial in planned(SMOKE, ["detection-voc", "detection-coco"]):
        assert run_trial(trial, execution, TAGS) == "finished"
        if isinstance(trial, DetectionTrial):
            first, *_, last = read_records(execution.trial_folder(trial.id)).to_pylist()
            assert last["map_50"] > first["map_50"] + 1, trial.id
