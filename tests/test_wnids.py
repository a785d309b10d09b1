"""Claims about ImageNet's classes by WNID, and nets of all of them on folders of some."""

from pathlib import Path

import pytest
import torch
from test_divided import fill

from study.data.arrays import describe
from study.data.wnids import WNIDS, outputs_of
from study.execution import Execution
from study.nets.resnet import BatchNorm, Net
from study.run.evaluate import _restrict
from study.spec import InputError, Model

IMAGENETTE = {  # its README's folders, and the numbers of torchvision's meta["categories"] of those names
    **{"n01440764": "tench", "n02102040": "English springer", "n02979186": "cassette player", "n03000684": "chain saw"},
    **{"n03028079": "church", "n03394916": "French horn", "n03417042": "garbage truck", "n03425413": "gas pump"},
    **{"n03445777": "golf ball", "n03888257": "parachute"},
}


def test_wnids_are_numbered_as_torchvisions_nets_have_them() -> None:
    models = pytest.importorskip("torchvision.models")
    names = models.ResNet18_Weights.IMAGENET1K_V1.meta["categories"]
    assert len(WNIDS) == len(names) == 1000 and list(WNIDS) == sorted(set(WNIDS))
    assert [names[at] for at in outputs_of(list(IMAGENETTE))] == list(IMAGENETTE.values())
    assert outputs_of([*IMAGENETTE, "n99999999"]) == outputs_of(["cat", "dog"]) == []


def test_a_net_of_imagenet_keeps_the_outputs_of_the_classes_that_are_tested(tmp_path: Path) -> None:
    chosen = ("n02979186", "n01440764", "n03888257")
    fill(tmp_path / "some", *chosen)
    fill(tmp_path / "other", "cat", "dog")
    execution = Execution(storage=tmp_path / "store", data_root=tmp_path)
    model = Model.cifar(family="residual", depth=8, shortcut="A", width=4)
    net = Net(model, 3, 1000, lambda channels: BatchNorm(channels, 1)).eval()
    images = torch.rand(4, 3, 16, 16)
    whole = net(images)
    _restrict(net, describe("folder:some", tmp_path), Path("w.pth"), execution)
    torch.testing.assert_close(net(images), whole[:, [WNIDS.index(wnid) for wnid in sorted(chosen)]])
    with pytest.raises(InputError, match="tells 3 classes apart, and folder:other has 2; choose data of its classes"):
        _restrict(net, describe("folder:other", tmp_path), Path("w.pth"), execution)
