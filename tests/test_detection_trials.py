"""Detection trials: trained from other trials' nets, stopped and continued, tested, and refused in one line."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from experiments import detection_voc, planned
from experiments.profiles import PAPER, SMOKE, Detectors
from experiments.recipes import deviations
from study import checkpoints, cost, ledger, worker
from study import launch as launching
from study.detection import worker as detecting
from study.detection.data import load
from study.detection.model import build
from study.detection.spec import TORCHVISION, DetectionTrial
from study.detection.testing import DetectorTesting
from study.spec import Execution, InputError, Model, Recipe, Trial
from study.worker import run_trial

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
    state, evaluations = checkpoints.load_newest(folder / "checkpoints"), ledger.read_evaluations(folder)
    assert state is not None and evaluations is not None
    return state, ledger.read_records(folder).to_pylist(), evaluations.to_pylist()


def stopping_at(iteration: int) -> Callable[..., None]:
    real = worker.Attempt.now

    def now(self: worker.Attempt, state: Any, *arguments: Any, **more: Any) -> None:
        real(self, state, *arguments, **more)
        self.stopping = self.stopping or state.iteration == iteration

    return now


@pytest.mark.parametrize("which", [1, 2], ids=["VGG-16", "ResNet-18"])
def test_a_detector_stopped_between_any_two_updates_ends_bit_for_bit_as_one_that_was_not(
    whole: Execution, execution: Execution, monkeypatch: pytest.MonkeyPatch, which: int
) -> None:
    """Also one that was stopped before its first update, and one whose backbone has gone by the time it goes on."""
    backbone, *_ = trials()
    trial = trials()[which]
    execution = replace(execution, data_root=whole.data_root)
    shutil.copytree(whole.trial_folder(backbone.id), execution.trial_folder(backbone.id))
    for iteration in (0, 1, 5):
        with monkeypatch.context() as patch:
            patch.setattr(worker.Attempt, "now", stopping_at(iteration))
            assert run_trial(trial, execution, TAGS) == "interrupted"
        if iteration:
            shutil.rmtree(execution.trial_folder(backbone.id) / "checkpoints", ignore_errors=True)
    assert run_trial(trial, execution, TAGS) == "finished"
    (state, *rest), (theirs, *others) = end_of(trial, execution), end_of(trial, whole)
    assert rest == others
    assert state["net"].keys() == theirs["net"].keys()
    assert all(torch.equal(tensor, theirs["net"][name]) for name, tensor in state["net"].items())


def test_records_begin_with_the_untrained_detector_and_evaluations_have_every_protocol(whole: Execution) -> None:
    _, vgg, *_ = (trial for trial in trials() if trial.seed == 0)
    _, records, evaluations = end_of(vgg, whole)
    assert [record["iteration"] for record in records] == [0, 2, 4, 6, 8]
    assert [record["map_50"] is not None for record in records] == [True, False, False, False, True]
    assert records[1]["train_loss"] == pytest.approx(sum(records[1][name] for name in ledger.LOSSES))
    tested = {row["protocol"]: row["value"] for row in evaluations if row["measure"] == "map"}
    assert tested.keys() == {"untrained", "single scale", "+box refinement"}
    assert (tested["untrained"], tested["single scale"]) == (records[0]["map_50"], records[-1]["map_50"])
    classes = {row["measure"] for row in evaluations if row["measure"].startswith("ap_")}
    assert len(classes) == vgg.data.classes and {row["images"] for row in evaluations} == {60}


def test_a_detector_starts_from_the_final_net_of_the_trial_of_its_seed(whole: Execution) -> None:
    for trial in trials(2)[4:]:
        assert isinstance(trial, DetectionTrial) and trial.needs == (f"{trial.detection.weights}-s{trial.seed}",)
        detector = build(trial)
        detecting._take_weights(detector, trial, whole, CPU)
        saved = checkpoints.load_newest(whole.trial_folder(trial.needs[0]) / "checkpoints")
        assert saved is not None
        for name, tensor in detector.backbone.state_dict().items():
            recalibrated = "running" in name  # over images of the backbone's own data, before it is frozen or moves on
            assert torch.equal(tensor, saved["net"][name]) != recalibrated, name
        sealed = ledger.account(whole.trial_folder(trial.needs[0]))["tags"]["records_sha256"]
        assert ledger.account(whole.trial_folder(trial.id))["tags"]["weights_records_sha256"] == sealed


def test_detectors_of_one_condition_start_from_their_own_seeds() -> None:
    assert len({trial.condition for trial in trials(2)}) == 3


def test_a_backbone_that_has_not_finished_or_has_no_weights_is_named(whole: Execution, execution: Execution) -> None:
    execution = replace(execution, data_root=whole.data_root)
    backbone, _, trial = trials()
    with pytest.raises(InputError, match=f"weights {backbone.id} are of a trial that is not there; run it first"):
        run_trial(trial, execution, TAGS)
    there = execution.trial_folder(backbone.id)
    shutil.copytree(whole.trial_folder(backbone.id), there)
    shutil.rmtree(there / "checkpoints")
    with pytest.raises(InputError, match=f"the weights of {backbone.id} are not in this store"):
        run_trial(trial, execution, TAGS)


def test_several_processes_are_refused(execution: Execution) -> None:
    with pytest.raises(InputError, match="processes 2 cannot share faster-rcnn-vgg16-.*, a detector; choose 1"):
        run_trial(trials()[1], replace(execution, processes=2), TAGS)


def test_trials_that_need_others_are_launched_after_them() -> None:
    of_paper = list(planned(PAPER, ["detection-voc"]))
    waves = list(launching._waves(of_paper))
    assert [trial for wave in waves for trial in wave] != of_paper and sum(map(len, waves)) == len(of_paper)
    done: set[str] = set()
    for wave in waves:
        assert all(set(trial.needs) <= done for trial in wave)
        done |= {trial.id for trial in wave}
    assert len(waves) == 3  # ImageNet, COCO, VOC from COCO
    assert list(launching._waves(waves[-1])) == [waves[-1]]  # what is not launched is not waited for


def test_detectors_are_tested_together_and_what_was_known_is_not_measured_again(whole: Execution) -> None:
    vggs = [trial for trial in trials(2) if trial.model.family == "vgg"]
    tags = {trial.id: ledger.account(whole.trial_folder(trial.id))["tags"] for trial in vggs}
    testing = DetectorTesting(whole, tags)
    testing.test(vggs, ["single scale"], together=True)
    first, second, both = testing.rows
    assert (first["new"], second["new"], both["new"]) == (False, False, True)
    assert first["map"] == end_of(vggs[0], whole)[1][-1]["map_50"]
    assert both["net"] == "ensemble of 2" and both["split"] == "pasted-voc test"
    again = DetectorTesting(whole, tags)
    again.test(vggs, ["single scale"], together=True)
    assert [row["new"] for row in again.rows] == [False] * 3 and again.rows[2]["map"] == both["map"]


def test_a_test_set_without_annotations_gets_files_for_its_server(
    whole: Execution, execution: Execution, monkeypatch: pytest.MonkeyPatch
) -> None:
    def secret(*arguments: Any) -> Any:
        scenes = load(*arguments)
        scenes.labelled = False
        return scenes

    monkeypatch.setattr(detecting, "load", secret)
    vgg = next(trial for trial in trials() if trial.model.family == "vgg")
    execution = replace(execution, data_root=whole.data_root)
    assert run_trial(vgg, execution, TAGS) == "finished"
    folder = execution.trial_folder(vgg.id)
    assert ledger.read_evaluations(folder) is None
    assert ledger.flaw(vgg, "finished", ledger.read_records(folder)) == ""
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
    departures = {
        trial.title: deviations(trial) for trial in planned(PAPER, ["detection-coco"]) if "R-CNN" in trial.title
    }
    assert departures["Faster R-CNN, ResNet-101"] == ["recalibrate: 10000 (paper: all of ImageNet)"]
    assert departures["Faster R-CNN, VGG-16"] == ["normalise: imagenet (paper: pixel-mean)"]
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
            first, *_, last = ledger.read_records(execution.trial_folder(trial.id)).to_pylist()
            assert last["map_50"] > first["map_50"] + 1, trial.id
