"""10-crop, multi-scale and ensembles are what they say, computed another way on photographs of several shapes."""

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from experiments import recipes
from study.nets.resnet import BatchNorm, Net
from study.spec import Data, InputError, Model
from study.tasks import protocols
from study.tasks.names import CENTRE, CLASSIFIER_PROTOCOLS, MULTI_SCALE, TEN_CROP, TOP1, TOP5
from study.tasks.protocols import errors_pct, probabilities

CPU = torch.device("cpu")
SIZE, CLASSES = 32, 7
SPEC = replace(recipes.PAPER_DATA, name="photographs", size=SIZE, classes=CLASSES, padding=0, scales=(36, 68))
SHAPES = ((80, 80), (96, 75), (75, 96), (75, 96), (90, 61))  # of the photographs before they are resized


class Photographs:
    """Random images of several shapes: what testing asks of photographs, without files. Their mean image is random."""

    def __init__(self, count: int = 10, spec: Data = SPEC, shapes: tuple[tuple[int, int], ...] = SHAPES) -> None:
        draw = torch.Generator().manual_seed(0)
        self.spec = spec
        self.images = [
            torch.randint(256, (3, *shapes[n % len(shapes)]), generator=draw, dtype=torch.uint8) for n in range(count)
        ]
        self.labels = torch.randint(spec.classes, (count,), generator=draw).tolist()
        self.mean = 255 * torch.rand(1, 3, spec.size, spec.size, generator=draw)

    def resized(self, split: str, side: int) -> Iterator[tuple[Tensor, int]]:
        assert split == "test"
        for image, label in zip(self.images, self.labels, strict=True):
            height, width = image.shape[1:]
            scale = side / min(height, width)
            shape = (round(height * scale), round(width * scale))
            resized = functional.interpolate(image[None].float(), shape, mode="bilinear", antialias=True)[0]
            yield resized.round().to(torch.uint8), label

    def clean(self, split: str, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        crops = [middle(image, self.spec.size) for image, _ in self.resized(split, round(self.spec.size * 256 / 224))]
        for start in range(0, len(crops), size):
            batch, labels = torch.stack(crops[start : start + size]), self.labels[start : start + size]
            yield self.normalised(batch), torch.tensor(labels)

    def normalised(self, images: Tensor) -> Tensor:
        return (images.float() - functional.interpolate(self.mean, images.shape[2:], mode="bilinear")) / 255


def middle(image: Tensor, size: int) -> Tensor:
    y, x = (round((length - size) / 2) for length in image.shape[1:])
    return image[:, y : y + size, x : x + size]


@pytest.fixture(scope="module")
def nets() -> list[Net]:
    """Nets in float64, whose BatchNorm has averages as if trained."""
    torch.manual_seed(0)
    made = []
    for family, shortcut in (("plain", "none"), ("residual", "A"), ("residual", "B")):
        model = Model.imagenet(family=family, depth=18, shortcut=shortcut, width=4)
        net = Net(model, 3, CLASSES, lambda channels: BatchNorm(channels, 8)).double()
        for module in net.modules():
            if isinstance(module, BatchNorm):
                torch.nn.init.uniform_(module.running_mean, -0.1, 0.1)
                torch.nn.init.uniform_(module.running_var, 0.1, 0.5)
        net.classifier.weight.data *= 10  # probabilities that are not all alike
        made.append(net.eval())
    return made


def seen_by(net: Net) -> protocols.Forward:
    return lambda images: net(images.double())


def whole(nets: list[Net], photographs: Photographs, protocol: str) -> Tensor:
    tested = list(probabilities([seen_by(net) for net in nets], photographs, protocol, CPU))
    assert torch.cat([labels for _, labels in tested]).tolist() == photographs.labels
    return torch.cat([each for each, _ in tested], dim=1)


def once(net: Net, photographs: Photographs, view: Tensor) -> Tensor:
    """Probabilities of one view [3, H, W], in a pass of its own."""
    with torch.no_grad():
        return net(photographs.normalised(view[None]).double()).softmax(1)[0]


def close(found: Tensor, expected: list[Tensor]) -> None:
    assert found.dtype == torch.float64
    torch.testing.assert_close(found, torch.stack(expected), rtol=0, atol=1e-6)
    assert found.std() > 0.05  # or anything would be close


def test_ten_crops_are_ten_passes_averaged(nets: list[Net]) -> None:
    photographs = Photographs()
    expected = []
    for image, _ in photographs.resized("test", 37):  # 32 * 256 / 224, rounded
        _, height, width = image.shape
        corners = [(0, 0), (0, width - 32), (height - 32, 0), (height - 32, width - 32)]
        crops = [image[:, y : y + 32, x : x + 32] for y, x in corners] + [middle(image, 32)]
        crops += [crop[:, :, range(31, -1, -1)] for crop in crops]
        expected.append(sum(once(nets[1], photographs, crop) for crop in crops) / 10)
    close(whole(nets[1:2], photographs, TEN_CROP)[0], expected)


def test_ten_crops_of_an_image_that_is_no_larger_are_itself_and_its_mirror() -> None:
    image = torch.arange(3 * 5 * 5).reshape(3, 5, 5)
    crops = protocols.views(image, TEN_CROP, 5)
    assert len(crops) == 10
    assert all(torch.equal(crop, image) for crop in crops[:5]) and all(
        torch.equal(crop, image.flip(2)) for crop in crops[5:]
    )


def test_a_centre_crop_is_one_pass_over_the_middle(nets: list[Net]) -> None:
    photographs = Photographs()
    expected = [once(nets[0], photographs, middle(image, 32)) for image, _ in photographs.resized("test", 37)]
    close(whole(nets[:1], photographs, CENTRE)[0], expected)


def test_at_the_one_side_of_the_crop_a_square_image_is_scored_by_the_plain_pass(
    nets: list[Net], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protocols, "SIDES", (224,))
    photographs = Photographs(6, shapes=((40, 40), (80, 80)))
    expected = [once(nets[1], photographs, image) for image, _ in photographs.resized("test", 32)]
    close(whole(nets[1:2], photographs, MULTI_SCALE)[0], expected)


def test_at_224_pixels_too(monkeypatch: pytest.MonkeyPatch, nets: list[Net]) -> None:
    monkeypatch.setattr(protocols, "SIDES", (224,))
    photographs = Photographs(2, replace(SPEC, size=224, scales=(256, 480)), ((256, 256),))
    expected = [once(nets[2], photographs, image) for image, _ in photographs.resized("test", 224)]
    torch.testing.assert_close(whole(nets[2:], photographs, MULTI_SCALE)[0], torch.stack(expected), rtol=0, atol=1e-6)


def test_multi_scale_is_the_mean_over_five_sides_of_whole_images(nets: list[Net]) -> None:
    photographs = Photographs()
    assert protocols.sides(MULTI_SCALE, 224) == (224, 256, 384, 480, 640)
    assert protocols.sides(MULTI_SCALE, 32) == (32, 37, 55, 69, 91)
    each = [
        torch.stack([once(nets[1], photographs, image) for image, _ in photographs.resized("test", side)])
        for side in (32, 37, 55, 69, 91)
    ]
    close(whole(nets[1:2], photographs, MULTI_SCALE)[0], list(torch.stack(each).mean(0)))


@pytest.mark.parametrize("protocol", CLASSIFIER_PROTOCOLS)
def test_neither_blocks_nor_batches_nor_other_nets_change_a_probability(
    protocol: str, nets: list[Net], monkeypatch: pytest.MonkeyPatch
) -> None:
    photographs = Photographs()
    together = whole(nets, photographs, protocol)
    monkeypatch.setattr(protocols, "BLOCK", 3)
    monkeypatch.setattr(protocols, "BATCH_PIXELS", 1)
    for index, net in enumerate(nets):
        torch.testing.assert_close(whole([net], photographs, protocol)[0], together[index], rtol=0, atol=1e-9)


def test_an_ensemble_is_the_mean_of_its_nets_probabilities(nets: list[Net]) -> None:
    photographs = Photographs()
    each = whole(nets, photographs, TEN_CROP)
    labels = torch.tensor(photographs.labels)
    errors, images = errors_pct(iter([(each, labels)]))
    assert images == 10 and len(errors) == 4
    for found, of_net in zip(errors, [*each, each.mean(0)], strict=True):
        top5 = of_net.topk(5, dim=1).indices
        assert found[TOP1] == 100 * (top5[:, 0] != labels).sum().item() / 10
        assert found[TOP5] == 100 * (top5 != labels[:, None]).all(1).sum().item() / 10


def test_an_ensemble_of_one_net_is_that_net_and_of_opposites_the_surer_one() -> None:
    labels = torch.tensor([0, 1])
    sure, unsure = torch.tensor([[0.9, 0.1], [0.2, 0.8]]), torch.tensor([[0.4, 0.6], [0.7, 0.3]])
    assert errors_pct(iter([(unsure[None].double(), labels)]))[0] == [{TOP1: 100.0}] * 2
    errors, _ = errors_pct(iter([(torch.stack([sure, unsure]).double(), labels)]))
    assert [each[TOP1] for each in errors] == [0.0, 100.0, 0.0]


def test_top_5_is_measured_of_more_than_five_classes() -> None:
    labels = torch.tensor([5, 4])
    falling = torch.tensor([0.3, 0.25, 0.2, 0.15, 0.07, 0.03]).expand(1, 2, 6).double()
    assert errors_pct(iter([(falling, labels)]))[0][0] == {TOP1: 100.0, TOP5: 50.0}
    assert list(errors_pct(iter([(falling[..., :5], labels - 1)]))[0][0]) == [TOP1]


def test_what_is_no_number_is_counted_as_in_training() -> None:
    scores = torch.tensor([[0.0, float("nan"), 1.0], [0.0, 1.0, float("inf")], [2.0, 2.0, 1.0]])
    found = protocols._softmax([lambda images: scores], torch.empty(3))
    assert found[0].argmax(1).tolist() == scores.argmax(1).tolist() == [1, 2, 0]
    assert errors_pct(iter([(found, scores.argmax(1))]))[0][0] == {TOP1: 0.0}


def test_close_scores_keep_their_order() -> None:
    """In float32 their probabilities are equal."""
    scores = torch.tensor([[30.0, torch.nextafter(torch.tensor(30.0), torch.tensor(31.0))]])
    assert protocols._softmax([lambda images: scores], torch.empty(1))[0].argmax(1).tolist() == [1]


@pytest.mark.parametrize("protocol", [TEN_CROP, MULTI_SCALE])
def test_images_of_one_size_have_a_single_view(protocol: str) -> None:
    with pytest.raises(InputError, match=f"'{protocol}' is for photographs, and cifar10 has images of one size"):
        protocols.check_protocol(protocol, recipes.PAPER_DATA)
    with pytest.raises(InputError, match="protocol '5-crop' is unknown; choose one of centre crop, 10-crop, multi"):
        protocols.check_protocol("5-crop", SPEC)
