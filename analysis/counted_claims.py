"""The paper's claims that are decided by counting layers, parameters and multiply-adds; without any run."""

from collections.abc import Callable, Iterable
from typing import Any

from analysis import paper
from analysis.comparisons import Counted
from analysis.verdicts import Kind
from experiments.recipes import IMAGENET_DATA, PAPER_DATA, PAPER_WIDTH
from study import cost
from study.spec import Model


def _paper_net(family: str, depth: int, shortcut: str = "A") -> Model:
    return Model.cifar(family=family, block="basic", depth=depth, shortcut=shortcut, width=PAPER_WIDTH)


def _counted(holds: bool, reason: str) -> Counted:
    return Counted(Kind.SUPPORTED if holds else Kind.CONTRADICTED, reason)


def equal_counts() -> Counted:
    """Parameters and multiply-adds of plain and residual nets (A) at every depth; equal."""
    depths = [row["depth"] for row in paper.table("cifar_architecture")["rows"]]
    for depth in depths:
        plain, residual = _paper_net("plain", depth, "none"), _paper_net("residual", depth)
        for count in (cost.parameters, cost.multiply_adds):
            if count(plain, PAPER_DATA) != count(residual, PAPER_DATA):
                return _counted(False, f"At depth {depth} the {count.__name__} of plain and residual nets differ.")
    return _counted(True, f"Counted equal in parameters and multiply-adds at depths {_listed(depths)}.")


def imagenet_net(depth: int) -> Model:
    """The residual net of a row of Table 1, with the shortcut option that Table 3 gives it."""
    return Model.imagenet(family="residual", depth=depth, shortcut="A" if depth < 50 else "B")


def vgg19_multiply_adds() -> int:
    """VGG-19: 3x3 convolutions in five stages, three fully connected layers."""
    channels, total = 3, 25_088 * 4096 + 4096 * 4096 + 4096 * IMAGENET_DATA.classes
    for width, layers, size in ((64, 2, 224), (128, 2, 112), (256, 4, 56), (512, 4, 28), (512, 4, 14)):
        for _ in range(layers):
            total += cost.Layer(channels, width, 3, size, size).multiply_adds
            channels = width
    return total


def baseline34_counts() -> Counted:
    """Multiply-adds of plain-34; 3.6e9 within 0.1e9, and 18 % of VGG-19's within a point."""
    (row,) = (row for row in paper.table("table_1")["rows"] if row["depth"] == 34)
    plain, vgg = cost.multiply_adds(imagenet_net(34), IMAGENET_DATA), vgg19_multiply_adds()
    share = 100 * plain / vgg
    holds = abs(plain - row["flops"]) < 0.1e9 and abs(share - 18) < 1
    return _counted(holds, f"Counted {plain / 1e9:.2f}e9, {share:.1f} % of VGG-19's {vgg / 1e9:.2f}e9.")


def imagenet_counts() -> Counted:
    """Multiply-adds of the five nets of Table 1, each within 0.1e9 of it; 152 layers below VGG-16."""
    table = paper.table("table_1")
    counts = {row["depth"]: cost.multiply_adds(imagenet_net(row["depth"]), IMAGENET_DATA) for row in table["rows"]}
    close = all(abs(counts[row["depth"]] - row["flops"]) < 0.1e9 for row in table["rows"])
    holds = close and counts[152] < min(vgg["flops"] for vgg in table["vgg"].values())
    listed = ", ".join(f"{depth}: {count / 1e9:.2f}" for depth, count in counts.items())
    return _counted(holds, f"Counted {listed} e9; each within 0.1 of Table 1, 152 layers below VGG-16's printed 15.3.")


_BASIC = (cost.Layer(64, 64, 3),) * 2
_BOTTLENECK = tuple(cost.Layer(*shape) for shape in ((256, 64, 1), (64, 64, 3), (64, 256, 1)))


def block_costs() -> Counted:
    """Multiply-adds of a bottleneck block over those of a basic one (Fig. 5); 1 within a tenth: 'similar'."""
    basic, bottleneck = (sum(c.multiply_adds for c in block) for block in (_BASIC, _BOTTLENECK))
    ratio = bottleneck / basic
    return _counted(0.9 < ratio < 1.1, f"Counted {basic} and {bottleneck} multiply-adds a position, ratio {ratio:.2f}.")


def projection_costs() -> Counted:
    """Weights and multiply-adds of a bottleneck block with a projection over one without; 2, give or take 0.2."""
    identity = sum(c.multiply_adds for c in _BOTTLENECK)
    projected = identity + cost.Layer(256, 256, 1).multiply_adds
    ratio = projected / identity
    reason = f"Counted {identity} and {projected} weights, and multiply-adds a position, ratio {ratio:.2f}."
    return _counted(1.8 < ratio < 2.2, reason)


def parameter_counts() -> Counted:
    """Parameters of the CIFAR nets, as Table 6 prints them."""
    rows = paper.table("cifar_architecture")["rows"]
    counts = {row["depth"]: cost.parameters(_paper_net("residual", row["depth"]), PAPER_DATA) for row in rows}
    printed = [f"{n / 1e6:.{2 if n < 1e6 else 1}f}M" for n in counts.values()]
    holds = printed == [row["params_printed"] for row in rows]
    return _counted(holds, f"Counted {_listed(counts.values())}, which print as {_listed(printed)}.")


def layer_counts() -> Counted:
    """Weighted layers and blocks of the CIFAR nets; 6n+2 and 3n."""
    for row in paper.table("cifar_architecture")["rows"]:
        model = _paper_net("plain", row["depth"], "none")
        convolutions = len(list(cost.convolutions(model, PAPER_DATA.channels, PAPER_DATA.size, PAPER_DATA.size)))
        blocks = sum(model.stages)
        if (convolutions + 1, blocks) != (6 * row["n"] + 2, 3 * row["n"]):
            return _counted(False, f"At n = {row['n']}: {convolutions + 1} weighted layers and {blocks} shortcuts.")
    return _counted(True, "Counted 6n+2 weighted layers and 3n blocks, a shortcut each, for n from 3 to 200.")


def _listed(items: Iterable[Any]) -> str:
    *most, last = map(str, items)
    return f"{', '.join(most)} and {last}" if most else last


CLAIMS: dict[str, Callable[[], Counted]] = {
    "S3-1": equal_counts,
    "S3-3": baseline34_counts,
    "S41-21": block_costs,
    "S41-22": projection_costs,
    "S41-23": imagenet_counts,
    "S42-21": parameter_counts,
    "S42-22": layer_counts,
}
