"""Claims about named data sets: what is embedded, and what is read from archives, which are tiny stand-ins here."""

import dataclasses
import gzip
import os
import pickle
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from archives import CIFAR10, md5, tiny_cifar, use_tiny_cifar, use_tiny_fashion_mnist, write

from study.data import arrays, sources
from study.spec import InputError

NOWHERE = Path("/nonexistent")


@pytest.fixture
def cifar(monkeypatch: pytest.MonkeyPatch) -> tuple[bytes, dict[str, bytes]]:
    return use_tiny_cifar(monkeypatch)


@pytest.fixture
def idx(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, bytes]:
    return use_tiny_fashion_mnist(monkeypatch, tmp_path)


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STUDY_OFFLINE", "1")


def synthetic(**changes: object) -> arrays.Dataset:
    spec = arrays.describe("synthetic", NOWHERE)
    return arrays.load(dataclasses.replace(spec, **changes), NOWHERE)  # type: ignore[arg-type]


def flat(batches: Iterator[tuple[torch.Tensor, torch.Tensor]]) -> torch.Tensor:
    return torch.cat([images for images, _ in batches])


# ---------------------------------------------------------------- embedded sets


def test_digits_are_embedded_stratified_and_fixed() -> None:
    dataset = arrays.load(arrays.describe("digits", NOWHERE), NOWHERE)
    assert (dataset.count("train"), dataset.count("test")) == (1437, 360)
    assert dataset.train_images.shape == (1437, 1, 8, 8) and int(dataset.train_images.max()) == 240
    shares = dataset.test_labels.bincount() / (dataset.train_labels.bincount() + dataset.test_labels.bincount())
    assert (shares - 0.2).abs().max() < 0.01
    # Golden: made by this module's first version from scikit-learn 1.x; another digest means another split.
    assert dataset.digest == "dbf881ad19878f287516ad8903efadc5fa4aa17c4fd172a69f27e8669abc039a"


def test_synthetic_images_can_be_learned_and_take_any_shape() -> None:
    dataset = synthetic(channels=3, size=16, classes=7)
    assert dataset.train_images.shape == (256, 3, 16, 16) and dataset.count("test") == 64
    train, test = flat(dataset.clean("train", 256)).flatten(1), flat(dataset.clean("test", 64)).flatten(1)
    centres = torch.stack([train[dataset.train_labels == label].mean(0) for label in range(7)])
    assert torch.equal(torch.cdist(test, centres).argmin(1), dataset.test_labels)
    assert synthetic(classes=1000).count("train") == 1000


# ---------------------------------------------------------------- archives


@pytest.mark.usefixtures("offline")
@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_cifar_is_read_from_its_archive_and_from_its_folder(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive, files = tiny_cifar(name)
    for file, content in {sources.CIFAR[name].archive: archive, **files}.items():
        monkeypatch.setitem(sources.CHECKSUMS, file, md5(content))
        write(tmp_path / ("packed" if file == sources.CIFAR[name].archive else "unpacked") / file, content)
    spec = arrays.describe(name, NOWHERE)
    packed, unpacked = (arrays.load(spec, tmp_path / place) for place in ("packed", "unpacked"))
    assert packed.digest == unpacked.digest
    first = pickle.loads(next(iter(files.values())))
    assert packed.train_images[0].flatten().tolist() == first["data"][0].tolist()
    assert packed.train_labels[: spec.classes].tolist() == first[sources.CIFAR[name].labels]
    assert packed.count("train") == spec.classes * (len(files) - 1) and packed.count("test") == spec.classes


@pytest.mark.usefixtures("offline")
def test_an_archive_is_decoded_once(tmp_path: Path, cifar: tuple[bytes, dict[str, bytes]]) -> None:
    write(tmp_path / "cifar-10-python.tar.gz", cifar[0])
    first = arrays.load(CIFAR10, tmp_path)
    (kept,) = (tmp_path / ".cache").glob("cifar10-*.npz")
    (tmp_path / "cifar-10-python.tar.gz").unlink()
    again = arrays.load(CIFAR10, tmp_path)
    assert isinstance(first, arrays.Dataset) and isinstance(again, arrays.Dataset)
    assert torch.equal(first.train_images, again.train_images) and first.digest == again.digest
    kept.write_bytes(kept.read_bytes()[:1000])
    with pytest.raises(InputError, match="cannot be kept in .*cifar10.*delete what is there"):
        arrays.load(CIFAR10, tmp_path)


@pytest.mark.usefixtures("offline", "idx")
def test_archives_are_read_from_where_nothing_can_be_kept(
    tmp_path: Path, cifar: tuple[bytes, dict[str, bytes]], idx: dict[str, bytes]
) -> None:
    root = tmp_path / "root"
    write(root / "cifar-10-python.tar.gz", cifar[0])
    for file, content in idx.items():
        write(root / "FashionMNIST/raw" / f"{file}.gz", gzip.compress(content))
    (root / ".cache").write_text("not a folder")
    for name, count in (("cifar10", 50), ("fashion-mnist", 20)):
        assert arrays.load(arrays.describe(name, root), root).count("train") == count


@pytest.mark.usefixtures("offline")
def test_missing_data_say_where_what_and_how_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputError) as error:
        arrays.load(CIFAR10, tmp_path)
    message = str(error.value)
    assert "\n" not in message
    for part in (
        str(tmp_path / "cifar-10-python.tar.gz"),
        str(tmp_path / "cifar-10-batches-py"),
        "c58f30108f718f92721af3b95e74349a",
        "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
        "STUDY_OFFLINE",
        "PROFILE=quick runs on the embedded digits without any download",
    ):
        assert part in message


def test_half_downloaded_archive_is_refused_and_left_alone(
    tmp_path: Path, cifar: tuple[bytes, dict[str, bytes]]
) -> None:
    path = tmp_path / "cifar-10-python.tar.gz"
    half = cifar[0][: len(cifar[0]) // 2]
    path.write_bytes(half)
    with pytest.raises(InputError) as error:
        arrays.load(CIFAR10, tmp_path)
    for part in (str(path), "half-downloaded", md5(half), md5(cifar[0]), "delete it", "PROFILE=quick"):
        assert part in str(error.value)
    assert path.read_bytes() == half


def test_a_pickle_with_a_wrong_checksum_is_never_opened(tmp_path: Path, cifar: tuple[bytes, dict[str, bytes]]) -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, tuple[object, ...]]:
            return os.mkdir, (str(tmp_path / "evil"),)

    for file, content in cifar[1].items():
        write(tmp_path / file, pickle.dumps(Evil()) if file.endswith("test_batch") else content)
    with pytest.raises(InputError, match="test_batch is damaged"):
        arrays.load(CIFAR10, tmp_path)
    assert not (tmp_path / "evil").exists()


@pytest.mark.usefixtures("offline")
def test_fashion_mnist_is_the_same_from_torchvisions_files_and_debians(tmp_path: Path, idx: dict[str, bytes]) -> None:
    spec = arrays.describe("fashion-mnist", NOWHERE)
    for file, content in idx.items():
        write(tmp_path / "plain/FashionMNIST/raw" / file, content)
        write(tmp_path / "zipped/FashionMNIST/raw" / f"{file}.gz", gzip.compress(content))
    datasets = [arrays.load(spec, tmp_path / place) for place in ("plain", "zipped")]
    for file, content in idx.items():
        write(sources.DEBIAN / f"{file}.gz", gzip.compress(content, mtime=1))
    datasets.append(arrays.load(spec, tmp_path / "empty"))
    assert len({dataset.digest for dataset in datasets}) == 1
    assert datasets[0].train_images[3].flatten().tolist() == list(
        idx["train-images-idx3-ubyte"][16:][3 * 784 : 4 * 784]
    )
    assert datasets[0].test_labels.tolist() == list(range(10))


@pytest.mark.usefixtures("offline")
def test_truncated_gzip_is_refused(tmp_path: Path, idx: dict[str, bytes]) -> None:
    for file, content in idx.items():
        write(tmp_path / "FashionMNIST/raw" / f"{file}.gz", gzip.compress(content)[:-20])
    with pytest.raises(InputError, match="train-images-idx3-ubyte.gz is damaged or half-downloaded .*PROFILE=quick"):
        arrays.load(arrays.describe("fashion-mnist", NOWHERE), tmp_path)


@pytest.mark.skipif(not sources.DEBIAN.is_dir(), reason="needs Debian's dataset-fashion-mnist")
@pytest.mark.usefixtures("offline")
def test_debians_fashion_mnist_is_the_real_one(tmp_path: Path) -> None:
    dataset = arrays.load(arrays.describe("fashion-mnist", NOWHERE, held_out=5000), tmp_path)
    assert [dataset.count(split) for split in ("train", "validation", "test")] == [55000, 5000, 10000]
    labels = torch.cat([dataset.train_labels, dataset.validation_labels])
    assert labels.bincount().tolist() == [6000] * 10 and dataset.test_labels.bincount().tolist() == [1000] * 10
    mean = torch.cat([dataset.train_images, dataset.validation_images]).double().mean() / 255
    assert abs(float(mean) - 0.2860) < 1e-4  # the mean everybody normalises Fashion-MNIST with
