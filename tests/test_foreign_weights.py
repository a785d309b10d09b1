"""Weights of the field: other repositories' nets give here what they give there, and what is no such net is named."""

import argparse
import io
import json
import re
import zipfile
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import foreign_nets as nets
import numpy as np
import pytest
import torch
import torchvision
from foreign_nets import Foreign as Net
from foreign_nets import Layout, trained
from PIL import Image
from safetensors.torch import save_file
from test_faster_rcnn import RESNET, trial
from torch import Tensor, nn

from study.data.arrays import describe, load
from study.data.constants import constants, names
from study.data.photographs import Photographs
from study.execution import Execution
from study.nets.faster_rcnn import Detector, build, file_backbone
from study.nets.weight_files import read_weights
from study.nets.weight_names import named
from study.run import starting_weights
from study.run.evaluate import Foreign, _net_of
from study.spec import InputError

Command = Callable[..., tuple[int, str, str]]
State = dict[str, Tensor]


def flat(state: State) -> Any:
    return state


def parallel(state: State) -> State:
    return {f"module.{name}": tensor for name, tensor in state.items()}


def of_akamaster(state: State) -> Any:
    return {"epoch": 200, "state_dict": parallel(state), "best_prec1": 91.7}


def of_bearpaw(state: State) -> Any:
    optimizer = {"state": {0: {"momentum_buffer": torch.ones(4, 4, 3, 3)}}, "param_groups": [{"lr": 0.1}]}
    accuracies = {"acc": torch.tensor(93.0), "best_acc": np.float64(93.1)}
    return {"epoch": 164, "state_dict": parallel(state), **accuracies, "optimizer": optimizer}


def of_kuangliu(state: State) -> Any:
    return {"net": parallel(state), "acc": 93.02, "epoch": 1}


def of_a_paper(state: State) -> Any:
    """In a wrapper that nobody knows, in a list, with a convolution as classifier."""
    state = {name: tensor[:, :, None, None] if name == "fc.weight" else tensor for name, tensor in state.items()}
    return [{f"our_net.cnn.{name}": tensor for name, tensor in state.items()}, 3]


def of_timm(state: State) -> Any:
    other = {name: torch.zeros_like(tensor) for name, tensor in state.items()}
    beside = {"epoch": 3, "arch": "resnet18", "args": argparse.Namespace(lr=0.1), "metric": 80.0}
    return {"state_dict": state, "state_dict_ema": other, **beside}


def of_lightning(state: State) -> Any:
    compiled = {f"model._orig_mod.{name}": tensor for name, tensor in state.items()}
    return {"pytorch-lightning_version": "2.0", "state_dict": compiled, "loops": {}, "hyper_parameters": {"lr": 0.1}}


def of_detectron2(state: State) -> Any:
    """The norms below their convolutions."""
    renamed = {}
    for name, tensor in state.items():
        name = name.replace("stem.norm1", "stem.conv1.norm").replace("shortcut_norm", "shortcut.norm")
        for number in "123":
            name = name.replace(f".norm{number}.", f".conv{number}.norm.")
        renamed[name] = tensor
    return {"model": renamed, "iteration": 7}


def without_counters(state: State) -> Any:
    return {name: tensor for name, tensor in state.items() if "num_batches" not in name}


def of_thop(state: State) -> Any:
    return {"model_state_dict": {**state, "total_ops": torch.zeros(1), "layer1.total_params": torch.zeros(1)}}


Case = tuple[Layout, tuple[int, ...], int, Callable[[State], Any], dict[str, str], str]
FIRST, V15 = {"stride": "first"}, {"stride": "3x3"}
CASES: dict[str, Case] = {
    "akamaster": (nets.AKAMASTER, (3, 3, 3), 16, of_akamaster, {}, "ResNet-20"),
    "akamaster, 56 layers": (nets.AKAMASTER, (9, 9, 9), 4, of_akamaster, {}, "ResNet-56"),
    "kuangliu's names": (nets.KUANGLIU, (3, 3, 3), 8, of_kuangliu, {}, "ResNet-20 (B)"),
    "chenyaofo": (nets.CHENYAOFO, (3, 3, 3), 16, flat, {}, "ResNet-20 (B)"),
    "another's": (nets.CHENYAOFO, (3, 3, 3), 8, of_a_paper, {}, "ResNet-20 (B)"),
    "bearpaw": (nets.BEARPAW, (5, 5, 5), 8, of_bearpaw, {}, "ResNet-32 (B)"),
    "bearpaw, bottlenecks": (nets.BEARPAW_DEEP, (3, 3, 3), 4, of_bearpaw, V15, "ResNet-29 (B) v1.5 bottleneck"),
    "D-X-Y": (nets.DXY, (3, 3, 3), 8, of_akamaster, {}, "ResNet-20"),
    "hysts": (nets.HYSTS, (3, 3, 3), 8, of_thop, {}, "ResNet-20 (B)"),
    "weiaicunzai's names": (nets.WEIAICUNZAI, (3, 3, 3), 8, flat, {}, "ResNet-20 (B)"),
    "weiaicunzai's bottlenecks": (nets.WEIAICUNZAI_DEEP, (1, 1, 1), 8, flat, V15, "ResNet-11 (B) v1.5 bottleneck"),
    "torchvision": (nets.TORCHVISION, (2, 2, 2, 2), 8, flat, {}, "ResNet-18 (B)"),
    "timm": (nets.TORCHVISION, (3, 4, 6, 3), 4, of_timm, {}, "ResNet-34 (B)"),
    "Lightning, compiled": (nets.TORCHVISION_DEEP, (3, 4, 6, 3), 4, of_lightning, V15, "ResNet-50 v1.5"),
    "Caffe's stride": (
        Layout(**{**vars(nets.TORCHVISION_DEEP), "stride": 0}),
        (3, 4, 6, 3),
        4,
        without_counters,
        FIRST,
        "ResNet-50",
    ),
    "Cadene's fbresnet, with biases": (nets.CADENE, (3, 8, 36, 3), 2, flat, V15, "ResNet-152 v1.5"),
    "Hugging Face": (nets.HUGGING_FACE, (2, 2, 2, 2), 8, flat, {}, "ResNet-18 (B)"),
    "Hugging Face, bottlenecks": (nets.HUGGING_FACE_DEEP, (3, 4, 6, 3), 4, flat, V15, "ResNet-50 v1.5"),
    "MMPretrain": (nets.MMPRETRAIN, (3, 4, 23, 3), 2, of_akamaster, V15, "ResNet-101 v1.5"),
    "Detectron2": (nets.DETECTRON2, (3, 4, 6, 3), 4, of_detectron2, FIRST, "ResNet-50"),
}


def logits(path: Path, images: Tensor, **known: str) -> tuple[Tensor, dict[str, Any]]:
    """What our evaluation's net makes of images."""
    net, about = _net_of(read_weights(path), Foreign(path=path, **known))  # type: ignore[arg-type]
    with torch.no_grad():
        return net.eval()(images), about


def assert_equal(ours: Tensor, theirs: Tensor) -> None:
    """To rounding: a different order of channels sums in another order."""
    assert theirs.std() > 0.1, "outputs that say something"
    torch.testing.assert_close(ours, theirs, rtol=2e-4, atol=2e-4 * theirs.abs().max().item())


@pytest.mark.parametrize("case", CASES)
def test_nets_of_other_repositories_give_their_own_outputs(case: str, tmp_path: Path) -> None:
    layout, blocks, width, exported, known, title = CASES[case]
    theirs = trained(Net(layout, blocks, width, classes=7))
    torch.save(exported(theirs.state_dict()), tmp_path / "net.th")
    images = torch.randn(3, 3, 33, 40)
    with torch.no_grad():
        expected = theirs(images)
    ours, about = logits(tmp_path / "net.th", images, **known)
    assert_equal(ours, expected)
    assert (about["title"], about["width"], about["classes"]) == (title, width, 7)


@pytest.mark.parametrize("case", ["akamaster", "timm", "Hugging Face"])
def test_safetensors_are_read(case: str, tmp_path: Path) -> None:
    layout, blocks, width, _, known, _ = CASES[case]
    theirs, images = trained(Net(layout, blocks, width, classes=7)), torch.randn(2, 3, 32, 32)
    save_file(theirs.state_dict(), tmp_path / "model.safetensors")
    with torch.no_grad():
        assert_equal(logits(tmp_path / "model.safetensors", images, **known)[0], theirs(images))


def test_torchvisions_and_the_old_format_of_torch_are_read(tmp_path: Path) -> None:
    theirs, images = trained(torchvision.models.resnet18(num_classes=5)), torch.randn(1, 3, 64, 64)
    torch.save({"model": theirs.state_dict()}, tmp_path / "a.pth", _use_new_zipfile_serialization=False)
    with torch.no_grad():
        assert_equal(logits(tmp_path / "a.pth", images)[0], theirs(images))


def test_caffe2s_batchnorm_without_averages_is_an_offset_and_a_scale(tmp_path: Path) -> None:
    """As Detectron2 reads `res2_0_branch2a_bn_s`: mean 0, variance 1 with epsilon."""
    theirs = trained(Net(nets.TORCHVISION_DEEP, (3, 4, 6, 3), 4, classes=7))
    for module in theirs.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.zero_()
            module.running_var.fill_(1 - 1e-5)
    state = {}
    for name, tensor in theirs.state_dict().items():
        if "running" in name or "num_batches" in name:
            continue
        parts = name.split(".")
        leaf = {"weight": "w", "bias": "b"}[parts[-1]]
        if parts[0] == "fc":
            state[f"pred_{leaf}"] = tensor
        elif len(parts) == 2:
            state["conv1_w" if parts[0] == "conv1" else f"res_conv1_bn_{leaf.replace('w', 's')}"] = tensor
        else:
            block = f"res{int(parts[0][-1]) + 1}_{parts[1]}"
            norm = parts[2].startswith("bn") or parts[3] == "1"
            branch = "branch1" if parts[2] == "downsample" else f"branch2{'abc'[int(parts[2][-1]) - 1]}"
            state[f"{block}_{branch}" + (f"_bn_{leaf.replace('w', 's')}" if norm else f"_{leaf}")] = tensor
    assert {"res2_0_branch2a_w", "res2_0_branch2a_bn_s", "res3_0_branch1_bn_b"} < set(state)
    torch.save(state, tmp_path / "net.pth")
    images = torch.randn(2, 3, 40, 40)
    with torch.no_grad():
        assert_equal(logits(tmp_path / "net.pth", images, stride="3x3")[0], theirs(images))


@pytest.mark.slow
def test_nets_of_timm_and_transformers_give_their_own_outputs(tmp_path: Path) -> None:
    """Of the packages themselves, where they are installed: the study does not need them."""
    timm, transformers = pytest.importorskip("timm"), pytest.importorskip("transformers")
    images, file = torch.randn(2, 3, 64, 64), tmp_path / "model.safetensors"
    config = transformers.ResNetConfig(num_labels=9, downsample_in_bottleneck=True)
    hugging_face = trained(transformers.ResNetForImageClassification(config))
    hugging_face.save_pretrained(tmp_path)  # type: ignore[operator]
    with torch.no_grad():
        assert_equal(logits(file, images, stride="first")[0], hugging_face(images).logits)
        for name, known in (("resnet18", {}), ("resnet50", V15)):
            theirs = trained(timm.create_model(name, num_classes=9))
            save_file(theirs.state_dict(), file)
            assert_equal(logits(file, images, **known)[0], theirs(images))


@pytest.mark.parametrize("dtype", [torch.half, torch.bfloat16, torch.double])
def test_other_precisions_are_the_numbers_they_hold(dtype: torch.dtype, tmp_path: Path) -> None:
    theirs = trained(Net(nets.AKAMASTER, (1, 1, 1), 8, classes=7)).to(dtype)
    torch.save(theirs.state_dict(), tmp_path / "net.pth")
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        assert_equal(logits(tmp_path / "net.pth", images)[0], theirs.float()(images))


def test_weights_that_share_memory_are_read(tmp_path: Path) -> None:
    theirs = trained(Net(nets.CHENYAOFO, (1, 1, 1), 8, classes=7))
    stored = torch.cat([tensor.flatten().float() for tensor in theirs.state_dict().values()])
    sizes = [tensor.numel() for tensor in theirs.state_dict().values()]
    parts = zip(theirs.state_dict().items(), stored.split(sizes), strict=True)
    torch.save({name: part.view(tensor.shape) for (name, tensor), part in parts}, tmp_path / "net.pth")
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        assert_equal(logits(tmp_path / "net.pth", images)[0], theirs(images))


def test_one_of_several_keys_is_chosen(tmp_path: Path) -> None:
    theirs = trained(Net(nets.CHENYAOFO, (1, 1, 1), 4, classes=7)).state_dict()
    path = tmp_path / "net.pth"
    torch.save(of_timm(theirs), path)
    assert read_weights(path).key == "state_dict" and read_weights(path).others == ("state_dict_ema",)
    assert not read_weights(path, "state_dict_ema").tensors["fc.weight"].any()
    torch.save({"teacher": theirs, "student": theirs}, path)
    with pytest.raises(InputError, match="has weights under several keys; choose one with --key: teacher, student"):
        read_weights(path)
    with pytest.raises(InputError, match="has no weights under the key 'x'; choose one of 'teacher', 'student'"):
        read_weights(path, "x")
    torch.save({"lit": {"model": theirs}}, path)
    assert read_weights(path).key == "lit.model"


# What detectors start from


def detector(state: Any, root: Path, how: str = "detectron2", **of: Any) -> Detector:
    """A detector of ResNet-50 that starts from a file of these weights."""
    torch.save(state, root / "net")
    name = f"R-50-{sha256((root / 'net').read_bytes()).hexdigest()[:8]}.pth"
    (root / "net").rename(root / name)
    built = build(trial(RESNET, weights=f"{how}:{name}", **of))
    file_backbone(built, root)
    return built.eval()


@pytest.mark.parametrize("normalise", ["imagenet", "pixel-mean"])
def test_a_detector_starts_from_detectron2s_weights_on_its_own_pixels(normalise: str, tmp_path: Path) -> None:
    """The classifier sees 0 to 255, blue first; the detector what its data say, from the same picture."""
    theirs = trained(Net(nets.DETECTRON2, (3, 4, 6, 3), 4, classes=7))
    ours = detector(of_detectron2(theirs.state_dict()), tmp_path, normalise=normalise)
    image = torch.rand(3, 96, 96)
    blue_first = 255 * image.flip(0) - torch.tensor([103.53, 116.28, 123.675])[:, None, None]
    batch, _ = ours.transform([image])
    with torch.no_grad():
        scores = theirs.linear(ours.backbone(batch.tensors))  # type: ignore[operator]
        assert_equal(scores, theirs(blue_first[None]))


@pytest.mark.parametrize("case", ["Caffe's stride", "Detectron2"])
def test_a_detector_starts_from_any_names(case: str, tmp_path: Path) -> None:
    layout, blocks, width, exported, _, _ = CASES[case]
    theirs = trained(Net(layout, blocks, width, classes=7))
    state = exported(theirs.state_dict())
    ours = detector(
        {f"module.{name}": tensor for name, tensor in state.get("model", state).items()}, tmp_path, "imagenet"
    )
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        scores = theirs.get_submodule(layout.classifier)(ours.backbone(images))
        assert_equal(scores, theirs(images))


def test_what_a_detector_cannot_start_from_is_refused(tmp_path: Path) -> None:
    state = Net(nets.TORCHVISION_DEEP, (3, 4, 6, 3), 4, classes=7).state_dict()
    with pytest.raises(InputError, match="weights 'imagenet:R-50.pth' name a file without its checksum; call it NAME"):
        trial(RESNET, weights="imagenet:R-50.pth")
    with pytest.raises(InputError, match="are of pixels less another mean than ImageNet's"):
        detector(state, tmp_path, "caffe")
    with pytest.raises(InputError, match="normalise 'torch' is unknown; choose one of imagenet"):
        detector(state, tmp_path, "torch")
    with pytest.raises(InputError, match="another net: ResNet-18 .B. of width 4, not ResNet-50 of width 4"):
        detector(Net(nets.TORCHVISION, (2, 2, 2, 2), 4, classes=7).state_dict(), tmp_path)
    with pytest.raises(InputError, match="R-50-00000000.pth is missing: there is no such file"):
        file_backbone(build(trial(RESNET, weights="imagenet:R-50-00000000.pth")), tmp_path)
    torch.save(state, tmp_path / "R-50-00000000.pth")
    with pytest.raises(InputError, match="is damaged or half-downloaded: its SHA-256 is .* must begin with 00000000"):
        file_backbone(build(trial(RESNET, weights="imagenet:R-50-00000000.pth")), tmp_path)


def test_the_file_that_a_detector_starts_from_is_looked_at_before_anything_runs(execution: Execution) -> None:
    (execution.data_root / "weights").mkdir(parents=True)
    (execution.data_root / "weights" / "R-50-00000000.pth").write_bytes(POINTER)
    starting = trial(RESNET, weights="imagenet:R-50-00000000.pth")
    assert not starting.needs
    with pytest.raises(InputError, match="R-50-00000000.pth is no state dict, but a Git LFS pointer"):
        starting_weights.check([starting], execution)


# What no file says


def test_the_file_does_not_tell_a_plain_net_from_option_a_nor_where_bottlenecks_stride(tmp_path: Path) -> None:
    path, images = tmp_path / "net.pth", torch.randn(2, 3, 32, 32)
    theirs = trained(Net(Layout(zeros="behind"), (1, 1, 1), 8, classes=7))
    torch.save(theirs.state_dict(), path)
    with pytest.raises(InputError, match="may be a plain net's, or of option A; say --shortcut none .plain., A "):
        logits(path, images)
    with torch.no_grad():
        assert_equal(logits(path, images, shortcut="A")[0], theirs(images))
    assert logits(path, images, family="plain")[1]["title"] == "plain-8"
    outputs = [logits(path, images, shortcut=option)[0] for option in ("A", "A-centred", "A-average", "none")]
    assert not any(torch.allclose(outputs[0], other, rtol=1e-2) for other in outputs[1:])
    torch.save(trained(Net(nets.BEARPAW_DEEP, (1, 1, 1), 4, classes=7)).state_dict(), path)
    with pytest.raises(InputError, match="do not say where the bottlenecks of ResNet-11 stride; say --stride 3x3"):
        logits(path, images)


# What is another net


def changed(layout: Layout = nets.CHENYAOFO, blocks: tuple[int, ...] = (1, 1, 1), **tensors: Tensor | None) -> State:
    """A net's state with other tensors, or without some."""
    state = Net(layout, blocks, 4, classes=7).state_dict()
    state.update({name.replace("__", "."): tensor for name, tensor in tensors.items() if tensor is not None})
    return {name: tensor for name, tensor in state.items() if tensors.get(name.replace(".", "__"), tensor) is not None}


def preactivated() -> State:
    """bearpaw's preresnet: no BatchNorm behind the first convolution, one before the classifier."""
    state = changed(bn1__weight=torch.ones(16), layer2__0__bn1__weight=torch.ones(4))
    return {name.replace("bn1.", "bn.") if name.startswith("bn1.") else name: value for name, value in state.items()}


@pytest.mark.parametrize(
    ("state", "message"),
    [
        (preactivated(), "another net: it normalises before its convolutions (pre-activated)"),
        (changed(layer2__0__bn1__weight=torch.ones(4)), "it normalises before its convolutions (pre-activated)"),
        (changed(bn1__weight=None), "no BatchNorm is behind its first convolution"),
        (changed(bn_last__weight=torch.ones(16)), "it is pre-activated"),
        (changed(blocks=(1, 2, 1)), "its stages have (1, 2, 1) blocks"),
        (changed(nets.TORCHVISION, (1, 1, 1, 1)), "its stages have (1, 1, 1, 1) basic blocks; those of Table 1"),
        (
            changed(Layout(stages=("layer1", "layer2", "layer3", "layer4")), (2, 2, 2, 2)),
            "it has 4 stages behind a 3x3 convolution",
        ),
        (changed(conv1__weight=torch.ones(4, 3, 5, 5)), "its first convolution is 5x5"),
        (changed(layer1__0__se__fc__weight=torch.ones(4, 4)), "it has squeeze-and-excitation"),
        (changed(conv1__3__weight=torch.ones(4, 4, 3, 3)), "its stem has several convolutions"),
        (changed(features__0__weight=torch.ones(4, 3, 3, 3)), "it is of the kind of VGG"),
        (changed(layer1__0__conv1__weight_mask=torch.ones(4, 4, 3, 3)), "its weights are masked"),
        (
            changed(layer1__0__conv1__weight=torch.ones(4, 2, 3, 3)),
            "layer1.0.conv1.weight is (4, 2, 3, 3), and (4, 4, 3, 3) in the net",
        ),
        (changed(layer1__0__conv2__weight=torch.ones(4, 2, 3, 3)), "have groups, as those of ResNeXt (layer1.0.conv2."),
        (
            changed(
                layer2__0__conv1__weight=torch.ones(80, 4, 3, 3), layer2__0__conv2__weight=torch.ones(80, 80, 3, 3)
            ),
            "stage 2 is 80 wide and would be 8 behind a stem of 4, as a wide ResNet's (layer2.0.conv1.weight)",
        ),
        (changed(conv1__1__weight=torch.ones(4), conv1__3__weight=torch.ones(4, 4, 3, 3)), "its stem has several"),
        (changed(layer1__0__convs__1__weight=torch.ones(4, 4, 3, 3)), "beside each other (Res2Net)"),
        (changed(mystery__weight=torch.ones(4)), "1 of 48 names are of no part of one here: mystery.weight"),
        (changed(linear__weight=torch.ones(7, 16)), "fc.weight and linear.weight are two"),
        (changed(layer1__0__bn1__running_mean=None), "lack averages of BatchNorm (layer1.0.bn1.running_mean)"),
        (changed(bn1__running_var=-torch.ones(4)), "bn1.running_var has values below 0"),
        (changed(fc__weight=None, fc__bias=None), "has no classifier"),
        (changed(layer3__0__downsample__0__weight=None), "shortcuts are projected in 1 of 3 blocks"),
        (changed(bn1__weight=torch.full((4,), torch.nan)), "4 of 4 values of bn1.weight are not finite"),
        (changed(bn1__weight=torch.ones(4, dtype=torch.int8)), "bn1.weight is of int8"),
        (changed(bn1__weight=torch.ones(4, device="meta")), "bn1.weight has a shape and no values"),
        (changed(bn1__weight=torch.ones(4).to_sparse()), "bn1.weight is of layout sparse_coo"),
        (changed(fc__weight=torch.ones(1, 1).expand(10**6, 10**6)), "holds views of 40000"),
    ],
)
def test_what_differs_is_named(state: State, message: str, tmp_path: Path) -> None:
    torch.save(state, tmp_path / "net.pth")
    with pytest.raises(InputError) as error:
        logits(tmp_path / "net.pth", torch.zeros(1, 3, 32, 32))
    assert message in str(error.value) and "\n" not in str(error.value)


def test_no_name_is_looked_for_that_the_study_itself_has_not() -> None:
    """Our own state dicts are read, too."""
    ours = {"stem.weight", "stem_norm.bias", "stages.0.0.convs.0.weight", "stages.1.0.shortcut.1.running_var"}
    assert set(named({name: torch.ones(1) for name in ours}).tensors) == ours


# What is no file of weights


def archive(*names: str, compressed: bool = False) -> bytes:
    contents = io.BytesIO()
    with zipfile.ZipFile(contents, "w", zipfile.ZIP_DEFLATED if compressed else zipfile.ZIP_STORED) as file:
        for name in names:
            file.writestr(name, b"\x80\x02}.")
    return contents.getvalue()


def saved(value: object, **how: Any) -> bytes:
    contents = io.BytesIO()
    torch.save(value, contents, **how)
    return contents.getvalue()


def arrays() -> bytes:
    contents = io.BytesIO()
    np.savez(contents, weight=np.ones(3))
    return contents.getvalue()


def script() -> bytes:
    contents = io.BytesIO()
    torch.jit.save(torch.jit.script(nn.Linear(2, 2)), contents)
    return contents.getvalue()


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2\nsize 102530333\n"
STATE = {"conv1.weight": torch.ones(4, 3, 3, 3)}


@pytest.mark.parametrize(
    ("name", "contents", "message"),
    [
        ("a.pth", b"", "is empty"),
        ("a.pth", b"no weights", "is no state dict, but a text"),
        ("a.pth", b"Entry not found", "a text, as a server's error"),
        ("a.pth", b"\n<!DOCTYPE html><title>404</title>", "is no state dict, but an HTML page"),
        ("a.safetensors", b"<html>sign in</html>", "an HTML page"),
        ("a.pth", b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>", "an XML page"),
        ("a.safetensors", POINTER, "a Git LFS pointer"),
        ("a.th", POINTER, "a Git LFS pointer"),
        ("a.pth", saved(STATE)[:-200], "is damaged or half-downloaded"),
        ("a.pth", saved(STATE, _use_new_zipfile_serialization=False)[:-20], "cannot be read"),
        ("a.safetensors", b"\x40\0\0\0\0\0\0\0{}", "a damaged or half-downloaded file of safetensors"),
        ("a.zip", archive("a.txt"), "a zip archive without a pickle"),
        ("a.pth", archive("net/data.pkl", "net/data/0", compressed=True), "with compressed parts"),
        ("a.pt", script(), "an archive of TorchScript"),
        ("a.npz", arrays(), "an archive of NumPy's arrays"),
        ("a.npy", b"\x93NUMPY\x01\0", "an array of NumPy"),
        ("a.h5", b"\x89HDF\r\n\x1a\n", "an HDF5 file, as of Keras"),
        ("a.keras", archive("config.json", "model.weights.h5"), "a model of Keras"),
        ("a.onnx", b"\x08\x08\x12\x07pytorch", "a protocol buffer, as Caffe's, ONNX's and TensorFlow's models"),
        ("a.caffemodel", b"\x0a\x0aResNet-50", "a protocol buffer"),
        ("a.index", b"\0\0\x08", "a checkpoint of TensorFlow"),
        ("a.pkl", b"\x80\x04\x95\x00", "a pickle that torch.save did not write, as Detectron2's .pkl"),
        ("a.tar.gz", b"\x1f\x8b\x08", "an archive; unpack it"),
        ("a.json", b'{"weight_map": {}}', "JSON"),
        ("a.bin", bytes(999), "zeros"),
        ("a.pth", b"\x07\x99" * 50, "of no format known here"),
        ("a.pth", saved(nn.Linear(2, 2)), "holds a pickled object of class torch.nn.modules.linear.Linear"),
        ("a.pth", saved({"state_dict": {}, "epoch": 3}), "is no state dict of a convolutional net"),
        ("a.pth", saved([1, 2]), "is no state dict of a convolutional net"),
    ],
)
def test_what_is_no_file_of_weights_is_named_in_one_line(
    name: str, contents: bytes, message: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(contents)
    with pytest.raises(InputError) as error:
        read_weights(tmp_path / name)
    assert message in str(error.value) and "\n" not in str(error.value)
    assert "weights_only" not in str(error.value) and str(tmp_path / name) in str(error.value)


class Evil:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return Path.touch, (self.mark,)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("place", ["beside", "inside", "whole"])
def test_what_is_pickled_is_never_run(zipped: bool, place: str, tmp_path: Path) -> None:
    mark = tmp_path / "was run"
    evil: Any = {
        **{"beside": {"state_dict": STATE, "args": Evil(mark)}, "inside": {**STATE, "fc.bias": Evil(mark)}},
        "whole": Evil(mark),
    }[place]
    (tmp_path / "net.pth").write_bytes(saved(evil, _use_new_zipfile_serialization=zipped))
    with pytest.raises(InputError, match="holds a pickled object of class|cannot be read"):
        read_weights(tmp_path / "net.pth")
    assert not mark.exists()


def test_a_missing_file_and_a_folder_say_so(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="net.pth is missing: there is no such file"):
        read_weights(tmp_path / "net.pth")
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(InputError, match="is a folder; name the file in it: model.safetensors"):
        read_weights(tmp_path)


# The command


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Two classes of coloured pictures, of 32 pixels."""
    draw = np.random.default_rng(0)
    for split, label, index in ((s, c, i) for s in ("train", "test") for c in "abcdefg" for i in range(4)):
        path = tmp_path / "data" / "pictures" / split / label / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draw.integers(256, size=(32, 32, 3), dtype=np.uint8)).save(path)
    return tmp_path / "data"


def pixels(root: Path) -> tuple[Tensor, Tensor]:
    """The test pictures in 0..1, [28, 3, 32, 32], and their labels."""
    files = sorted((root / "pictures" / "test").glob("*/*.png"))
    images = np.stack([np.asarray(Image.open(file), np.float32) for file in files]) / 255
    return torch.from_numpy(images).permute(0, 3, 1, 2), torch.tensor(["abcdefg".index(f.parent.name) for f in files])


NORMALISED = {
    "": ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
    "cifar10": ([0.4914, 0.4822, 0.4465], [0.2023, 0.1994, 0.2010]),
    "none": ([0.0, 0.0, 0.0], [1.0, 1.0, 1.0]),
    "125.3,123.0,113.9/63.0,62.1,66.7/255": ([0.49137, 0.48235, 0.44667], [0.24706, 0.24353, 0.26157]),
    "0.5/0.25": ([0.5, 0.5, 0.5], [0.25, 0.25, 0.25]),
}


@pytest.mark.parametrize("normalise", NORMALISED)
def test_the_error_is_that_of_the_net_on_images_normalised_as_named(
    normalise: str, pictures: Path, command: Command, tmp_path: Path
) -> None:
    theirs = trained(Net(nets.AKAMASTER, (1, 1, 1), 16, classes=7))
    torch.save(of_akamaster(theirs.state_dict()), tmp_path / "net.th")
    options = ("--normalise", normalise) if normalise else ()
    where = ("--weights", tmp_path / "net.th", "--data-root", pictures, "--data", "folder:pictures")
    code, out, err = command("evaluate", *where, *options, "--json")
    assert code == 0, err
    images, labels = pixels(pictures)
    mean, std = (torch.tensor(values)[:, None, None] for values in NORMALISED[normalise])
    with torch.no_grad():
        order = theirs((images - mean) / std).argsort(1, descending=True)
    answer = json.loads(out)
    (row,) = answer["evaluations"]
    assert row["net"] == "ResNet-8" and row["images"] == 28
    assert row["top1_error_pct"] == pytest.approx(100 * (order[:, 0] != labels).float().mean().item())
    assert row["top5_error_pct"] == pytest.approx(100 * (order[:, :5] != labels[:, None]).all(1).float().mean().item())
    assert answer["normalise"]["name"] == (normalise or "imagenet") and answer["normalise"]["whose"]
    assert answer["normalise"]["mean"] == pytest.approx(
        NORMALISED[normalise][0][: len(answer["normalise"]["mean"])], 1e-4
    )
    assert answer["net"]["shortcut"] == "A-centred" and answer["net"]["key"] == "state_dict"
    assert answer["net"]["shortcut_by"] == "akamaster/pytorch_resnet_cifar10"


def test_nets_of_caffe_see_blue_first_and_0_to_255(pictures: Path, command: Command, tmp_path: Path) -> None:
    theirs = trained(Net(nets.TORCHVISION, (2, 2, 2, 2), 8, classes=7))
    torch.save(theirs.state_dict(), tmp_path / "net.pth")
    options = ("--data", "folder:pictures", "--data-root", pictures, "--normalise", "caffe")
    code, out, _ = command("evaluate", "--weights", tmp_path / "net.pth", *options)
    images, labels = pixels(pictures)
    blue_first = 255 * images.flip(1) - torch.tensor([103.939, 116.779, 123.68])[:, None, None]
    with torch.no_grad():
        error = 100 * (theirs(blue_first).argmax(1) != labels).float().mean().item()
    assert code == 0 and f"{error:.2f} %" in out
    assert "net: ResNet-18 (B), shortcut B, width 8, 7 classes\n" in out
    assert "normalised: caffe (Caffe, Keras' ResNet-50; 0 to 255, blue first" in out and "blue, green, red\n" in out


def test_the_mean_image_is_that_of_the_data_set(pictures: Path, command: Command, tmp_path: Path) -> None:
    torch.save(trained(Net(nets.AKAMASTER, (1, 1, 1), 16, classes=7)).state_dict(), tmp_path / "net.th")
    where = ("--weights", tmp_path / "net.th", "--data-root", pictures, "--data", "folder:pictures")
    code, out, _ = command("evaluate", *where, "--normalise", "pixel-mean")
    assert code == 0 and "normalised: pixel-mean (the mean image of this data set's training images" in out
    code, out, _ = command("evaluate", *where)
    assert "of pixels in 0..1, red, green, blue; the default, --normalise names others" in out


@pytest.mark.parametrize("name", ["images:pictures", "folder:pictures"])
def test_the_constants_of_imagenet_by_name_are_those_that_trials_have(name: str, pictures: Path) -> None:
    if name.startswith("images:"):
        (pictures / "pictures" / "test").rename(pictures / "pictures" / "val")
    own = load(describe(name, pictures, normalise="imagenet"), pictures)
    known = constants("imagenet")
    assert known is not None
    named = load(describe(name, pictures), pictures).normalised_by(known)
    for left, right in zip(own.clean("test", 4), named.clean("test", 4), strict=True):
        assert torch.equal(left[0], right[0])
    if isinstance(own, Photographs) and isinstance(named, Photographs):
        image, _ = next(own.resized("test", 96))
        assert torch.equal(own.normalised(image[None]), named.normalised(image[None]))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--normalise", "cifar"), "normalise 'cifar' is unknown; choose one of imagenet, inception, cifar10"),
        (("--normalise", "103,116,123/1"), "has a mean above 1, and is of pixels in 0..1; of pixels in 0..255 write"),
        (("--normalise", "0.5/0"), "has a deviation that is not above 0"),
        (("--normalise", "0.5,0.5/1"), "normalise '0.5,0.5/1' is unknown"),
        (("--data", "digits"), "normalise 'imagenet' has 3 channels, and the images have 1; choose one of pixel-mean"),
        (("--data", "digits", "--normalise", "none"), "takes images of 3 channels, and digits has 1"),
        (("--data", "cifar10"), "tells 7 classes apart, and cifar10 has 10; choose data of its classes"),
        (("--model", "resnet20"), "the weights are of another net: ResNet-8, and not one of 20 layers"),
        (("--model", "plain8", "--shortcut", "A"), "shortcut 'A' does not go with a plain net"),
        (("--shortcut", "B"), "its shortcuts have no parameters, so they are not of option B"),
        (("--shortcut", "D"), "shortcut 'D' is unknown; choose one of A, A-centred"),
        (("--key", "model"), "has no weights under the key 'model'; choose one of 'state_dict'"),
    ],
)
def test_what_does_not_go_with_the_weights_is_refused_in_one_line(
    options: tuple[str, ...], message: str, pictures: Path, command: Command, tmp_path: Path
) -> None:
    torch.save(of_akamaster(Net(nets.AKAMASTER, (1, 1, 1), 4, classes=7).state_dict()), tmp_path / "net.th")
    data = () if "--data" in options else ("--data", "folder:pictures")
    code, out, err = command("evaluate", "--weights", tmp_path / "net.th", "--data-root", pictures, *data, *options)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert message in err


def test_a_key_steers_no_terminal(pictures: Path, command: Command, tmp_path: Path) -> None:
    torch.save({"net\x1b[2J": Net(nets.AKAMASTER, (1, 1, 1), 4, classes=7).state_dict()}, tmp_path / "net.th")
    where = ("--weights", tmp_path / "net.th", "--data-root", pictures, "--data", "folder:pictures")
    code, out, _ = command("evaluate", *where)
    assert code == 0 and "key net\\x1b[2J\n" in out and "\x1b" not in out


def test_help_names_all_data_that_weights_are_tested_on(command: Command) -> None:
    code, out, _ = command("evaluate", "--help")
    words = " ".join(out.split())
    for name in ("imagenet", "images:NAME", "shards:NAME", "photographs", "folder:NAME", "cifar100", "safetensors"):
        assert code == 0 and name in words


def test_the_guide_lists_every_normalisation() -> None:
    table = (Path(__file__).parents[1] / "docs/guides/weights.md").read_text().split("## Normalisation")[1]
    cells = " ".join(line.split("|")[1] for line in table.splitlines() if line.startswith("| `"))
    assert re.findall(r"`([^`]+)`", cells) == names()
