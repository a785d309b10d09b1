"""Claims about batches of arrays, and about the specifications of data sets."""

import dataclasses
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from study.data import arrays, sources
from study.seeds import generator
from study.spec import InputError

NOWHERE = Path("/nonexistent")


def synthetic(**changes: object) -> arrays.Dataset:
    spec = arrays.describe("synthetic", NOWHERE)
    return arrays.load(dataclasses.replace(spec, **changes), NOWHERE)  # type: ignore[arg-type]


def flat(batches: Iterator[tuple[torch.Tensor, torch.Tensor]]) -> torch.Tensor:
    return torch.cat([images for images, _ in batches])


# ---------------------------------------------------------------- batches


def test_a_batch_is_a_pure_function_of_seed_and_iteration() -> None:
    one, other = (synthetic(padding=1, flip=True) for _ in range(2))
    forwards = [one.batch(3, i, 50) for i in range(12)]
    backwards = [other.batch(3, i, 50) for i in reversed(range(12))][::-1]
    for (images, labels), (images_again, labels_again) in zip(forwards, backwards, strict=True):
        assert torch.equal(images, images_again) and torch.equal(labels, labels_again)
    assert not torch.equal(one.batch(4, 0, 50)[0], forwards[0][0])
    assert forwards[0][0].shape == (50, 1, 8, 8) and forwards[0][0].dtype == torch.float32
    assert forwards[0][1].shape == (50,) and forwards[0][1].dtype == torch.int64


def test_global_random_state_neither_matters_nor_changes() -> None:
    dataset = synthetic(padding=1, flip=True)
    torch.manual_seed(1)
    first = dataset.batch(0, 0, 16)[0]
    torch.manual_seed(2)
    state = torch.get_rng_state()
    assert torch.equal(first, dataset.batch(0, 0, 16)[0]) and torch.equal(state, torch.get_rng_state())


def test_an_epoch_shows_every_image_once_and_drops_the_ragged_rest() -> None:
    dataset = synthetic()
    everything = {image.numpy().tobytes() for image in flat(dataset.clean("train", 256))}
    for size, shown in ((64, 256), (100, 200)):
        per_epoch = 256 // size
        epochs = [
            [
                image.numpy().tobytes()
                for i in range(per_epoch)
                for image in dataset.batch(0, e * per_epoch + i, size)[0]
            ]
            for e in range(2)
        ]
        assert [len(set(epoch)) for epoch in epochs] == [shown, shown]
        assert set(epochs[0]) <= everything and epochs[0] != epochs[1]


def test_order_and_flips_do_not_depend_on_padding_so_conditions_are_paired() -> None:
    plain, flipped, padded = synthetic(), synthetic(flip=True), synthetic(padding=2)
    for i in range(5):
        assert torch.equal(plain.batch(0, i, 32)[1], padded.batch(0, i, 32)[1])
    before, after = plain.batch(0, 0, 32)[0], flipped.batch(0, 0, 32)[0]
    same = [torch.equal(a, b) for a, b in zip(before, after, strict=True)]
    mirrored = [torch.equal(a, b.flip(2)) for a, b in zip(before, after, strict=True)]
    assert all(s != m for s, m in zip(same, mirrored, strict=True)) and any(same) and any(mirrored)


@pytest.mark.parametrize(("channels", "size", "padding"), [(3, 6, 2), (1, 8, 1), (2, 5, 0)])
def test_crop_and_flip_agree_with_a_loop_over_samples(channels: int, size: int, padding: int) -> None:
    images = torch.randn(40, channels, size, size, generator=generator("images"))
    corners = torch.randint(2 * padding + 1, (2, 40), generator=generator("corners"))
    flipped = torch.randint(2, (40,), generator=generator("flips")).bool()
    expected = []
    for image, y, x, flip in zip(images, *corners.tolist(), flipped.tolist(), strict=True):
        padded = np.pad(image.numpy(), ((0, 0), (padding, padding), (padding, padding)))
        crop = padded[:, y : y + size, x : x + size]
        expected.append(crop[:, :, ::-1] if flip else crop)
    assert np.array_equal(arrays._augmented(images, padding, corners, flipped).numpy(), np.stack(expected))


def test_every_crop_and_flip_occurs() -> None:
    dataset = synthetic(padding=1, flip=True)
    dataset.train_images = torch.arange(64, dtype=torch.uint8).reshape(1, 1, 8, 8).expand(256, 1, 8, 8)
    dataset.mean, dataset.scale = torch.full((1, 1, 1), -1.0), torch.ones(1, 1, 1)
    assert len({image.numpy().tobytes() for image in dataset.batch(0, 0, 256)[0]}) == 2 * 3 * 3


def test_augmentation_differs_between_seeds_and_iterations() -> None:
    dataset = synthetic(padding=1, flip=True, normalise="scalar")
    dataset.train_images[:] = dataset.train_images[0].clone()  # whatever the order, only augmentation can differ
    first, later, other = (dataset.batch(*at, 64)[0] for at in ((0, 0), (0, 1), (1, 0)))
    assert not torch.equal(first, later) and not torch.equal(first, other)


def test_padding_is_zero_after_normalisation() -> None:
    dataset = synthetic(padding=8, normalise="scalar")
    images = dataset.batch(0, 0, 256)[0]
    corner = images[:, 0, 0, 0]
    assert (corner == 0).any()  # a crop that starts in the padding
    assert not (dataset._normalised(dataset.train_images) == 0).any()  # no image has such a pixel itself


def test_batch_larger_than_the_training_set_is_refused() -> None:
    dataset = synthetic(held_out=56)
    assert len(dataset.batch(0, 5, 200)[1]) == 200
    with pytest.raises(InputError, match="batch 201 is larger than the 200 training images of synthetic"):
        dataset.batch(0, 0, 201)
    with pytest.raises(InputError, match="batch 0"):
        dataset.batch(0, 0, 0)


def test_clean_batches_are_in_order_complete_and_limited() -> None:
    dataset = synthetic(padding=2, flip=True)
    images = flat(dataset.clean("test", 48))
    assert torch.equal(images, dataset._normalised(dataset.test_images))
    assert [len(labels) for _, labels in dataset.clean("train", 100)] == [100, 100, 56]
    assert [len(labels) for _, labels in dataset.clean("train", 100, limit=150)] == [100, 50]
    assert list(dataset.clean("validation", 10)) == [] and dataset.count("validation") == 0
    with pytest.raises(InputError, match="split 'tset' is unknown; choose one of train, validation, test"):
        dataset.clean("tset", 10)


@pytest.mark.parametrize("normalise", ["pixel-mean", "pixel-mean-128", "scalar", "channel", "imagenet"])
def test_normalisation_agrees_with_numpy(normalise: str) -> None:
    dataset = synthetic(normalise=normalise, held_out=100, channels=3)
    pixels = dataset.train_images.numpy().astype(np.float64) / 255
    each = {"axis": (0, 2, 3), "keepdims": True}
    colours = np.array([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]]).reshape(2, 3, 1, 1)
    mean, deviation = {
        "pixel-mean": (pixels.mean(0), 1),
        "pixel-mean-128": (pixels.mean(0), 128 / 255),
        "scalar": (pixels.mean(), pixels.std()),
        "channel": (pixels.mean(**each), pixels.std(**each)),
        "imagenet": colours,
    }[normalise]
    assert np.abs(flat(dataset.clean("train", 64)).numpy() - (pixels - mean) / deviation).max() < 2e-6


@pytest.mark.parametrize("normalise", ["scalar", "channel"])
def test_images_of_one_value_have_no_deviation_to_divide_by(normalise: str, tmp_path: Path) -> None:
    for label in ("cat", "dog"):
        for split in ("train", "test"):
            place = tmp_path / "grey" / split / label / "0.png"
            place.parent.mkdir(parents=True)
            Image.new("L", (4, 4), 7).save(place)
    spec = arrays.describe("folder:grey", tmp_path, normalise=normalise)
    with pytest.raises(InputError, match=f"one single value, which '{normalise}' cannot normalise"):
        arrays.load(spec, tmp_path)


def test_images_that_lie_class_by_class_are_mixed_in_full_batches_without_augmentation() -> None:
    dataset = synthetic(padding=2, flip=True)
    order = dataset.train_labels.argsort()
    dataset.train_images, dataset.train_labels = dataset.train_images[order], dataset.train_labels[order]
    everything = {image.numpy().tobytes() for image in flat(dataset.clean("train", 256))}
    batches = list(dataset.mixed(48, 200))
    assert [len(labels) for _, labels in batches] == [48] * 4
    assert all(len(labels.unique()) > 1 for _, labels in batches)
    shown = [image.numpy().tobytes() for images, _ in batches for image in images]
    assert len(set(shown)) == 192 and set(shown) <= everything
    assert [len(labels) for _, labels in dataset.mixed(100, 256)] == [100, 100]
    with pytest.raises(InputError, match="draws from 256 is too small; it must be at least 257"):
        next(dataset.mixed(100, 257))
    assert torch.equal(flat(dataset.mixed(48, 200)), torch.cat([images for images, _ in batches]))


def test_held_out_images_are_the_same_for_every_number_and_leave_the_training_set() -> None:
    none, some, more = synthetic(), synthetic(held_out=50), synthetic(held_out=100)
    assert [dataset.count("train") for dataset in (none, some, more)] == [256, 206, 156]

    def images(dataset: arrays.Dataset, split: str) -> set[bytes]:
        return {image.numpy().tobytes() for image in getattr(dataset, f"{split}_images")}

    assert images(some, "validation") < images(more, "validation")
    assert not images(some, "validation") & images(some, "train")
    assert images(some, "validation") | images(some, "train") == images(none, "train")
    assert none.digest == some.digest
    with pytest.raises(InputError, match="held_out 256 leaves no training image of synthetic; choose at most 255"):
        synthetic(held_out=256)


def test_shuffled_labels_are_the_true_ones_in_another_order_and_test_labels_stay_true() -> None:
    true = synthetic()
    shuffled, again = (synthetic(labels="shuffled") for _ in range(2))
    assert torch.equal(shuffled.train_labels, again.train_labels)
    assert torch.equal(shuffled.train_labels.bincount(), true.train_labels.bincount())
    agree = (shuffled.train_labels == true.train_labels).double().mean()
    assert 0.15 < agree < 0.35  # four classes: a quarter by chance
    assert torch.equal(shuffled.test_labels, true.test_labels)
    assert torch.equal(shuffled.train_images, true.train_images) and shuffled.digest == true.digest


def test_shuffled_labels_are_the_seeds_whatever_is_held_out_or_augmented() -> None:
    spec = dataclasses.replace(arrays.describe("synthetic", NOWHERE), labels="shuffled")

    def label_of_each(seed: int, **changes: Any) -> dict[bytes, int]:
        loaded = arrays.load(dataclasses.replace(spec, **changes), NOWHERE, seed=seed)
        parts = ((loaded.train_images, loaded.train_labels), (loaded.validation_images, loaded.validation_labels))
        return {
            image.numpy().tobytes(): int(label)
            for images, labels in parts
            for image, label in zip(images, labels, strict=True)
        }

    assert label_of_each(3) == label_of_each(3, held_out=100) == label_of_each(3, padding=1, flip=True)
    assert label_of_each(3) != label_of_each(4)


@pytest.mark.parametrize("labels", ["true", "shuffled"])
def test_seeds_that_train_together_share_all_but_what_is_the_seeds(labels: str) -> None:
    spec = dataclasses.replace(arrays.describe("synthetic", NOWHERE), labels=labels, held_out=100)
    first = arrays.load(spec, NOWHERE, seed=1)
    assert isinstance(first, arrays.Dataset)
    other, alone = first.for_seed(2), arrays.load(spec, NOWHERE, seed=2)
    for split in ("train", "validation", "test"):
        assert all(torch.equal(*pair) for pair in zip(other._split(split), alone._split(split), strict=True))
        assert other._split(split)[0] is first._split(split)[0]
    assert (other.train_labels is first.train_labels) == (labels == "true")
    assert other.digest == alone.digest and other.mean is first.mean
    order = first.epochs.order(1, 0)
    assert other.epochs.order(2, 0) is not order and first.epochs.order(1, 0) is order  # each keeps its own


def test_an_image_keeps_its_shuffled_label_from_epoch_to_epoch() -> None:
    dataset = synthetic(labels="shuffled")

    def epoch(number: int) -> set[tuple[bytes, int]]:
        batches = (dataset.batch(0, 4 * number + step, 64) for step in range(4))
        pairs = (pair for images, labels in batches for pair in zip(images, labels, strict=True))
        return {(image.numpy().tobytes(), int(label)) for image, label in pairs}

    assert epoch(0) == epoch(5)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="a GPU's bits are compared with a CPU's: needs both")
def test_a_gpu_sees_the_same_bits_as_a_cpu() -> None:
    spec = arrays.describe("digits", NOWHERE, padding=1, flip=True, normalise="scalar")
    cpu, gpu = arrays.load(spec, NOWHERE), arrays.load(spec, NOWHERE, "cuda")
    for i in (0, 20):
        assert torch.equal(cpu.batch(0, i, 128)[0], gpu.batch(0, i, 128)[0].cpu())


# ---------------------------------------------------------------- names


def test_describe_is_instant_and_reads_nothing() -> None:
    start = time.perf_counter()
    specs = [arrays.describe(name, NOWHERE) for name in sources.SHAPES]
    assert time.perf_counter() - start < 0.05
    assert [(s.name, s.channels, s.size, s.classes) for s in specs][:4] == [
        ("digits", 1, 8, 10),
        ("fashion-mnist", 1, 28, 10),
        ("cifar10", 3, 32, 10),
        ("cifar100", 3, 32, 100),
    ]
    spec = arrays.describe("cifar10", NOWHERE, held_out=5000, padding=4, flip=True, normalise="scalar")
    assert (spec.held_out, spec.padding, spec.flip, spec.normalise, spec.digest) == (5000, 4, True, "scalar", "")


def test_unknown_names_are_refused_with_the_alternatives() -> None:
    with pytest.raises(InputError, match="data set 'cifar' is unknown; choose one of digits, .*folder:NAME"):
        arrays.describe("cifar", NOWHERE)
    spec = dataclasses.replace(arrays.describe("digits", NOWHERE), name="mnist")
    with pytest.raises(InputError, match="'mnist' is unknown"):
        arrays.load(spec, NOWHERE)
    for name in ("folder:", "folder:../x", "folder:a/b", "folder:.cache"):
        with pytest.raises(InputError, match="must be folder:NAME"):
            arrays.describe(name, NOWHERE)


@pytest.mark.parametrize("change", [{"channels": 3}, {"size": 9}, {"classes": 9}, {"digest": "abc"}])
def test_data_other_than_the_specification_are_refused(change: dict[str, object]) -> None:
    spec = dataclasses.replace(arrays.describe("digits", NOWHERE), **change)  # type: ignore[arg-type]
    (what,) = change
    with pytest.raises(InputError, match=f"data set digits in .* has {what} .*PROFILE=quick"):
        arrays.load(spec, NOWHERE)
