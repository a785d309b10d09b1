"""Weights under anybody's names: renamed to ours, and the net that they are of, as far as they determine it.

Owns what a state dict says of its net, and what it does not. The names themselves are data, in `weight_names.yaml`.

What differs between repositories beside names: biases of convolutions, which the BatchNorm behind them takes over, and
where option A adds its channels, which is an order of channels. Both are exact up to rounding.
No file says where bottlenecks have their stride: torchvision's, and most ports, in the 3x3 (v1.5), the paper's and
Caffe's in the first 1x1. Nor whether shortcuts without parameters are there at all.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from study.nets.resnet import Net
from study.spec import IMAGENET_STAGES, InputError, Model, check_choice

TABLE = Path(__file__).with_name("weight_names.yaml")
EPSILON = 1e-5  # BatchNorm's, in the nets here as in PyTorch, Caffe and Detectron2
CENTRED = "A-centred"  # option A with zeros on both sides of the channels; here they are behind them
SHORTCUTS = ("A", CENTRED, "A-average", "B", "C", "none")
_PART = r"stages\.\d+\.\d+\.(?:convs|norms|shortcut)\.\d"
_OURS = re.compile(rf"(stem|stem_norm|classifier|{_PART})\.(weight|bias|running_mean|running_var)")


@dataclass(frozen=True)
class Named:
    """Tensors under the names of `study/nets/resnet.py`."""

    tensors: dict[str, Tensor]
    names: dict[str, str]  # what their file calls them
    option_a: str  # which option A the names are of, if they tell: one of SHORTCUTS, or ''
    whose: str  # the repository whose names tell it

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self.tensors[name].shape)


def another(what: str) -> InputError:
    return InputError(f"the weights are of another net: {what}")


@cache
def _table() -> dict[str, Any]:
    table: dict[str, Any] = yaml.safe_load(TABLE.read_text())
    return table


def unwrapped(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights without the wrappers before their names, and without what tools add. See `_unwrap`."""
    kept = {name: tensor for name, tensor in weights.items() if not re.search(_table()["ignore"], name)}
    return dict(zip(_unwrap(kept), kept.values(), strict=True))


def _unwrap(names: Iterable[str]) -> list[str]:
    """Names without what all of them begin with, and without known wrappers, which some may have."""
    names = list(names)
    while len({name.partition(".")[0] for name in names}) == 1 and all("." in name for name in names):
        names = [name.partition(".")[2] for name in names]
    pattern, replacement = _table()["rename"][0]
    return [re.sub(pattern, replacement, name) for name in names]


def named(weights: Mapping[str, Tensor]) -> Named:
    """Weights under our names. Raises `InputError` for names that are of no net here, and of two that mean one part."""
    table = _table()
    tensors: dict[str, Tensor] = {}
    names: dict[str, str] = {}
    kept = {name: tensor for name, tensor in weights.items() if not re.search(table["ignore"], name)}
    for name in kept:
        for pattern, what in table["differ"]:
            if re.search(pattern, name):
                raise another(f"{what} ({name})")
    for ours, (name, tensor) in zip(_unwrap(kept), kept.items(), strict=True):
        for pattern, replacement in table["rename"][1:]:
            ours = re.sub(pattern, replacement, ours)
        if ours in names:
            raise another(f"{names[ours]} and {name} are two, and would be one part of a net here")
        tensors[ours], names[ours] = tensor, name
    tensors, names = _from_zero(tensors), _from_zero(names)
    _fold_biases(tensors)
    _complete_classifier(tensors)
    for norm in {name.rpartition(".")[0] for name in names if re.search(table["folded"], names[name])}:
        tensors.setdefault(f"{norm}.running_mean", torch.zeros_like(tensors[f"{norm}.weight"]))
        tensors.setdefault(f"{norm}.running_var", torch.full_like(tensors[f"{norm}.weight"], 1 - EPSILON))
    if unknown := [names[name] for name in tensors if name in names and not _OURS.fullmatch(name)]:
        raise another(f"{len(unknown)} of {len(names)} names are of no part of one here: {_some(unknown)}")
    told = [rule for rule in table["option_a"] if any(re.search(rule["names"], name) for name in names.values())]
    rule = told[0] if told else {"shortcut": "", "whose": ""}
    return Named(tensors, names, rule["shortcut"], rule["whose"])


def _from_zero(by_name: dict[str, Any]) -> dict[str, Any]:
    """Stages, blocks and convolutions counted from 0, whatever the first of each is called."""
    place = re.compile(r"stages\.(\d+)\.(\d+)\.(convs|norms|shortcut)\.(\d+)\.(.*)")
    found = {name: match for name in by_name if (match := place.fullmatch(name))}
    stage = min((int(match[1]) for match in found.values()), default=0)
    block = min((int(match[2]) for match in found.values()), default=0)
    part = min((int(match[4]) for match in found.values() if match[3] != "shortcut"), default=0)
    counted = {}
    for name, value in by_name.items():
        if match := found.get(name):
            number = int(match[4]) - (part if match[3] != "shortcut" else 0)
            name = f"stages.{int(match[1]) - stage}.{int(match[2]) - block}.{match[3]}.{number}.{match[5]}"
        counted[name] = value
    return counted


def _fold_biases(tensors: dict[str, Tensor]) -> None:
    """Leave out the bias of a convolution: the mean that its BatchNorm subtracts is less by as much."""
    for name in [name for name in tensors if re.fullmatch(r"stem\.bias|.*\.(convs\.\d|shortcut\.0)\.bias", name)]:
        conv = name.removesuffix(".bias")
        norm = {"stem": "stem_norm"}.get(conv, conv.replace("convs", "norms").replace("shortcut.0", "shortcut.1"))
        if (mean := f"{norm}.running_mean") in tensors and tensors[mean].shape == tensors[name].shape:
            tensors[mean] = tensors[mean].double() - tensors.pop(name).double()


def _complete_classifier(tensors: dict[str, Tensor]) -> None:
    """A 1x1 convolution on one pixel is a linear classifier, and one without a bias has zeros."""
    weight = tensors.get("classifier.weight")
    if weight is not None:
        tensors["classifier.weight"] = weight.flatten(1) if weight.shape[2:] == (1, 1) else weight
        tensors.setdefault("classifier.bias", torch.zeros(len(weight)))


def model_of(found: Named, *, family: str = "", stride: str = "", shortcut: str = "") -> Model:
    """The net that the weights are of.

    `family`, `stride` and `shortcut` ('' if unknown) say what the weights do not: `family` and `shortcut` matter where
    no shortcut has parameters, `stride` with bottlenecks. Raises `InputError` for what is missing of these, what the
    weights contradict, and nets that are none of Table 1 or Sec. 4.2.
    """
    blocks, kernels = _blocks(found)
    width, channels, size, _ = found.shape("stem.weight")
    if size not in (3, 7):
        raise another(f"its first convolution is {size}x{size}; of nets here it is 7x7 (Table 1) or 3x3 (Sec. 4.2)")
    stem = "imagenet" if size == 7 else "cifar"
    kind = {(3, 3): "basic", (1, 3, 1): "bottleneck"}.get(kernels)
    if kind is None:
        raise another(f"its blocks have kernels {kernels}; of nets here (3, 3) or (1, 3, 1)")
    _check_norms(found, blocks, width)
    _check_widths(found, blocks, width)
    counts = tuple(len(stage) for stage in blocks)
    depth = _depth(stem, kind, counts, width)
    if kind == "basic" and stride == "3x3":
        check_choice("stride of a basic block", stride, ("first",))
    if kind == "bottleneck" and not stride:
        raise InputError(
            f"weights do not say where the bottlenecks of ResNet-{depth} stride; say --stride 3x3, as torchvision's,"
            " or --stride first, as the paper's"
        )
    option = _shortcut(found, blocks, kind, family, shortcut)
    return Model(
        family="plain" if option == "none" else "residual",
        stem=stem,
        block=kind,
        stride=stride if kind == "bottleneck" else "first",
        depth=depth,
        shortcut="A" if option == CENTRED else option,
        width=width,
    )


def _blocks(found: Named) -> tuple[list[list[int]], tuple[int, ...]]:
    """Numbers of the blocks of each stage, and the kernels of each block's convolutions.

    Raises `InputError` for weights without a stem, and unless all blocks are alike and counted without a gap.
    """
    if "stem.weight" not in found.tensors or found.tensors["stem.weight"].dim() != 4:
        raise another("it has no first convolution by any name known here")
    kernels: dict[tuple[int, int], dict[int, int]] = {}
    for name, tensor in found.tensors.items():
        if (match := re.fullmatch(r"stages\.(\d+)\.(\d+)\.convs\.(\d)\.weight", name)) and tensor.dim() == 4:
            kernels.setdefault((int(match[1]), int(match[2])), {})[int(match[3])] = tensor.shape[-1]
    stages = sorted({stage for stage, _ in kernels})
    blocks = [sorted(block for at, block in kernels if at == stage) for stage in stages]
    if not blocks or stages != list(range(len(stages))) or any(b != list(range(len(b))) for b in blocks):
        raise another(f"its stages have blocks {blocks}, which are none, or not counted without a gap")
    alike = {tuple(sizes[number] for number in sorted(sizes)) for sizes in kernels.values()}
    if len(alike) > 1:
        raise another(f"its blocks are of several kinds, with kernels {' and '.join(map(str, sorted(alike)))}")
    return blocks, alike.pop()


def _check_norms(found: Named, blocks: list[list[int]], width: int) -> None:
    """Raise `InputError` unless BatchNorm, with its averages, follows every convolution."""
    before = "it normalises before its convolutions (pre-activated); nets here normalise behind each"
    if "stem_norm.weight" not in found.tensors:
        raise another(f"no BatchNorm is behind its first convolution: {before}, or it has none at all")
    if found.shape("stem_norm.weight") != (width,):
        raise another(f"{before} ({found.names['stem_norm.weight']})")
    for stage, numbers in enumerate(blocks):
        for number in numbers:
            place = f"stages.{stage}.{number}"
            conv, norm = found.shape(f"{place}.convs.0.weight"), f"{place}.norms.0.weight"
            if norm in found.tensors and found.shape(norm) == (conv[1],) != (conv[0],):
                raise another(f"{before} ({found.names[norm]})")


def _check_widths(found: Named, blocks: list[list[int]], width: int) -> None:
    """Raise `InputError` unless stages are 1, 2, 4 (and 8) times as wide as the stem, without groups."""
    for stage, numbers in enumerate(blocks):
        for number in numbers:
            first, second = (f"stages.{stage}.{number}.convs.{place}.weight" for place in (0, 1))
            outputs, inner = found.shape(first)[0], width * 2**stage
            if found.shape(second)[1] != outputs:
                raise another(f"its convolutions have groups, as those of ResNeXt ({found.names[second]})")
            if outputs != inner:
                raise another(
                    f"stage {stage + 1} is {outputs} wide and would be {inner} behind a stem of {width}, as a wide"
                    f" ResNet's ({found.names[first]})"
                )


def _depth(stem: str, kind: str, counts: tuple[int, ...], width: int) -> int:
    layers = 2 if kind == "basic" else 3
    if stem == "imagenet":
        for depth, stages in IMAGENET_STAGES[kind].items():
            if stages == counts:
                return depth
        known = ", ".join(f"{stages}: {depth} layers" for depth, stages in IMAGENET_STAGES[kind].items())
        raise another(f"its stages have {counts} {kind} blocks; those of Table 1 have {known}")
    if len(counts) != 3:
        raise another(
            f"it has {len(counts)} stages behind a 3x3 convolution, the first {width} wide (as kuangliu's and"
            " weiaicunzai's ResNet-18); nets of Sec. 4.2 have three, the paper's 16 wide"
        )
    if len(set(counts)) > 1:
        raise another(f"its stages have {counts} blocks; those of nets of Sec. 4.2 have equally many")
    return 3 * layers * counts[0] + 2


def _shortcut(found: Named, blocks: list[list[int]], kind: str, family: str, shortcut: str) -> str:
    """Which of SHORTCUTS the net has: as the weights tell, then as their names do, then as is said."""
    if shortcut:
        check_choice("shortcut", shortcut, SHORTCUTS)
    every = {(stage, number) for stage, numbers in enumerate(blocks) for number in numbers}
    changing = {(stage, number) for stage, number in every if number == 0 and (stage or kind == "bottleneck")}
    projected = {place for place in every if f"stages.{place[0]}.{place[1]}.shortcut.0.weight" in found.tensors}
    if projected:
        if projected not in (changing, every):
            stage, number = min(projected ^ changing)
            raise another(
                f"shortcuts are projected in {len(projected)} of {len(every)} blocks (stage {stage + 1}, block"
                f" {number + 1}); of option B in {len(changing)}, of option C in all"
            )
        told = "B" if projected == changing else "C"
        if shortcut not in ("", told) or family == "plain":
            raise another(f"its shortcuts are of option {told}, not {shortcut or 'none, as of a plain net'}")
        return told
    if shortcut in ("B", "C"):
        raise another(f"its shortcuts have no parameters, so they are not of option {shortcut}")
    if family == "plain" or shortcut == "none":
        if family == "residual" or shortcut not in ("", "none"):
            raise InputError(f"shortcut {shortcut!r} does not go with a {family} net; leave out one of the two")
        return "none"
    if not (option := shortcut or found.option_a):
        raise InputError(
            "weights without shortcuts of their own may be a plain net's, or of option A; say --shortcut none (plain),"
            f" A (zeros behind the channels, as fb.resnet.torch), {CENTRED} (zeros on both sides, as akamaster) or"
            " A-average (pooled)"
        )
    return option


@torch.no_grad()
def take(net: Net, found: Named, *, classifier: bool = True) -> None:
    """Copy the weights into the net, all of them; without a `classifier`, all but that.

    Raises `InputError` unless they are those of such a net.
    """
    own = {name: tensor for name, tensor in net.state_dict().items() if classifier or "classifier" not in name}
    tensors = {name: tensor for name, tensor in found.tensors.items() if classifier or "classifier" not in name}
    lacking = [name for name in own if name not in tensors]
    if lacking and all("running_" in name for name in lacking):
        called = _some(_called(name, found) for name in lacking)
        raise InputError(f"the weights lack averages of BatchNorm ({called}), without which no net can be evaluated")
    if lacking and all("classifier" in name for name in lacking):
        raise InputError("the weights have no classifier by any name known here, so there is nothing to evaluate")
    if wrong := sorted([_called(name, found) for name in (*lacking, *(set(tensors) - set(own)))]):
        raise another(_some(wrong))
    for name, tensor in own.items():
        if tensors[name].shape != tensor.shape:
            raise InputError(
                f"{found.names[name]} is {found.shape(name)}, and {tuple(tensor.shape)} in the net: the weights are of"
                " another, or of other classes"
            )
        if name.endswith("running_var") and (tensors[name] < 0).any():
            raise InputError(f"{found.names[name]} has values below 0, and is a variance; the file is damaged")
    for name, tensor in own.items():
        tensor.copy_(tensors[name])


def zeros_behind(found: Named, model: Model) -> None:
    """Put the channels of a net of option A in the order in which those that a shortcut adds come last.

    In the file they are on both sides of those that it passes on, equally many.
    """
    tensors, order = found.tensors, torch.arange(model.width)
    for stage, count in enumerate(model.stages):
        outputs = model.width * 2**stage * model.expansion
        for number in range(count):
            place = f"stages.{stage}.{number}"
            tensors[f"{place}.convs.0.weight"] = tensors[f"{place}.convs.0.weight"][:, order]
            if added := outputs - len(order):
                inside = order + added // 2
                outside = torch.tensor(sorted(set(range(outputs)) - set(inside.tolist())))
                order = torch.cat([inside, outside])
            last = model.convolutions_per_block - 1
            for part in (f"convs.{last}.weight", *(f"norms.{last}.{name}" for name in _NORM)):
                tensors[f"{place}.{part}"] = tensors[f"{place}.{part}"][order]
    if "classifier.weight" in tensors:
        tensors["classifier.weight"] = tensors["classifier.weight"][:, order]


_NORM = ("weight", "bias", "running_mean", "running_var")


def _called(name: str, found: Named) -> str:
    """What the file calls a part; of one that it lacks, as it calls the part's weight."""
    part, _, leaf = name.rpartition(".")
    if name not in found.names and (weight := found.names.get(f"{part}.weight", "")).endswith("weight"):
        return weight.removesuffix("weight") + leaf
    return found.names.get(name, name)


def _some(names: Iterable[str]) -> str:
    """The first few names."""
    names = list(names)
    return ", ".join(names[:4]) + (" ..." if len(names) > 4 else "")
