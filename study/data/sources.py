"""Where the images of named data sets come from: finding, checking and decoding digits, Fashion-MNIST and CIFAR.

Owns places, checksums and formats. Knows neither batches nor training. What is missing, damaged or other than expected
is an `InputError`; no other data set ever takes its place.

Looked for under the data root: torchvision's `FashionMNIST/raw/`, and CIFAR's archives or the folders they unpack to;
what is missing is downloaded (see `study.data.downloads`). Folders of images are `study.data.folders`.
"""

import gzip
import hashlib
import io
import pickle
import tarfile
import zlib
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch

from study.data.downloads import download, urls_of
from study.printable import bare
from study.seeds import generator
from study.spec import Data, InputError, check_choice

SHAPES = {  # name: channels, size, classes; those of 'synthetic' are only what `describe` proposes
    "digits": (1, 8, 10),
    "fashion-mnist": (1, 28, 10),
    "cifar10": (3, 32, 10),
    "cifar100": (3, 32, 100),
    "synthetic": (1, 8, 4),
}
DEBIAN = Path("/usr/share/datasets/fashion-mnist")  # of the package dataset-fashion-mnist
MIRRORS = {
    "fashion-mnist": ("http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",),
    "cifar10": ("https://www.cs.toronto.edu/~kriz/",),
    "cifar100": ("https://www.cs.toronto.edu/~kriz/",),
}


@dataclass(frozen=True)
class CifarFiles:
    """What an archive of CIFAR holds."""

    archive: str
    train: tuple[str, ...]
    test: str
    labels: str  # key of the labels in each file


CIFAR = {
    "cifar10": CifarFiles(
        archive="cifar-10-python.tar.gz",
        train=tuple(f"cifar-10-batches-py/data_batch_{i}" for i in range(1, 6)),
        test="cifar-10-batches-py/test_batch",
        labels="labels",
    ),
    "cifar100": CifarFiles(
        archive="cifar-100-python.tar.gz",
        train=("cifar-100-python/train",),
        test="cifar-100-python/test",
        labels="fine_labels",
    ),
}
# MD5. CIFAR's are torchvision's. Fashion-MNIST's are of the unpacked files, because Debian's gzip headers differ from
# the official ones; putting name and time back into Debian's headers gives the MD5s that torchvision lists.
CHECKSUMS = {
    "train-images-idx3-ubyte": "f4a8712d7a061bf5bd6d2ca38dc4d50a",
    "train-labels-idx1-ubyte": "9018921c3c673c538a1fc5bad174d6f9",
    "t10k-images-idx3-ubyte": "8181f5470baa50b63fa0f6fddb340f0a",
    "t10k-labels-idx1-ubyte": "15d484375f8d13e6eb1aabb0c3f46965",
    "cifar-10-python.tar.gz": "c58f30108f718f92721af3b95e74349a",
    "cifar-10-batches-py/data_batch_1": "c99cafc152244af753f735de768cd75f",
    "cifar-10-batches-py/data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
    "cifar-10-batches-py/data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
    "cifar-10-batches-py/data_batch_4": "634d18415352ddfa80567beed471001a",
    "cifar-10-batches-py/data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
    "cifar-10-batches-py/test_batch": "40351d587109b95175f43aff81a1287e",
    "cifar-100-python.tar.gz": "eb9058c3a382ffc7106e4002c42a8d85",
    "cifar-100-python/train": "16019d7e3df5f24257cddd939b257f8d",
    "cifar-100-python/test": "f0ef6b0ae62326f3e7ffdfab6717acfc",
}
IDX = tuple(file for file in CHECKSUMS if file.endswith("ubyte"))  # Fashion-MNIST's
SUFFIXES = (".png", ".jpg", ".jpeg")


def decode(spec: Data, root: Path) -> list[np.ndarray]:
    """Training images uint8 [N, C, H, W] and labels int64 [N], test images and labels."""
    check_choice("data set", spec.name, [*SHAPES, "folder:NAME"])
    match spec.name:
        case "digits":
            return digits()
        case "synthetic":
            return _synthetic(spec)
    try:
        return _fashion_mnist(root) if spec.name == "fashion-mnist" else _cifar(spec.name, root)
    except InputError:
        raise
    except Exception as error:  # formats that can hold anything, read by decoders that raise nearly anything
        reason = f"it lacks {error}" if isinstance(error, KeyError) else error
        problem = f"cannot be decoded ({reason}); delete its files in {root}, then run again"
        raise refusal(spec.name, problem) from error


def checksum(name: str) -> str | None:
    """Of all files of an archive, whose decoding can be kept under it; None for what is made in memory."""
    if name not in MIRRORS:
        return None
    files = (CIFAR[name].archive, *CIFAR[name].train, CIFAR[name].test) if name in CIFAR else IDX
    return hashlib.sha256("".join(CHECKSUMS[file] for file in files).encode()).hexdigest()


def refusal(name: str, problem: str) -> InputError:
    """The error for data that cannot be used, as one line."""
    line = f"data set {name} {problem}; PROFILE=quick runs on the embedded digits without any download"
    return InputError(bare(" ".join(line.split())))


def check_described(spec: Data, root: Path, facts: dict[str, object]) -> None:
    """Raise `InputError` unless the data found in `root` have these facts, by field of the specification."""
    for what, value in facts.items():
        if value != getattr(spec, what):
            raise refusal(spec.name, f"in {root} has {what} {value}, not {getattr(spec, what)}; describe it anew")


def digits() -> list[np.ndarray]:
    """1,437 training and 360 test images. Of a fixed permutation sorted by class, every fifth image is for testing."""
    package = find_spec("sklearn")  # its file alone: importing scikit-learn would cost every worker 1.6 s
    assert package and package.origin
    with gzip.open(Path(package.origin).parent / "datasets/data/digits.csv.gz") as file:
        *pixels, labels = np.loadtxt(file, np.uint8, delimiter=",", unpack=True)
    images = (np.stack(pixels, 1) * 15).reshape(-1, 1, 8, 8)  # the values 0..16 become 0..240
    order = torch.randperm(len(labels), generator=generator("digits", "split")).numpy()
    order = order[np.argsort(labels[order], kind="stable")]
    test = np.arange(len(labels)) % 5 == 0
    parts = np.sort(order[~test]), np.sort(order[test])
    return [array[part] for part in parts for array in (images, labels.astype(np.int64))]


def _synthetic(spec: Data) -> list[np.ndarray]:
    """256 training (or one a class, if more) and 64 test images: a pattern per class, and as much noise."""
    draw = generator("synthetic", spec.channels, spec.size, spec.classes)
    shape = (spec.channels, spec.size, spec.size)
    patterns = torch.randint(128, (spec.classes, *shape), generator=draw)
    count = max(256, spec.classes)
    labels = torch.arange(count + 64) % spec.classes
    images = (patterns[labels] + torch.randint(128, (count + 64, *shape), generator=draw)).to(torch.uint8)
    return [part.numpy() for part in (images[:count], labels[:count], images[count:], labels[count:])]


class _Arrays(pickle.Unpickler):
    """Reads pickles of plain values and NumPy's arrays, which is what CIFAR's files are; others could run any code."""

    NAMES = (("numpy", "ndarray"), ("numpy", "dtype"), ("_codecs", "encode"))

    def find_class(self, module: str, name: str) -> Any:
        made = name == "_reconstruct" and module in ("numpy.core.multiarray", "numpy._core.multiarray")
        if not made and (module, name) not in self.NAMES:
            raise pickle.UnpicklingError(f"{module}.{name} is no part of an array")
        return super().find_class(module, name)


# Not by torchvision's readers of IDX and CIFAR: they take unpacked files only, so neither Debian's nor an archive in a
# data root that cannot be written, and they read a file again after its MD5 was checked.


def _fashion_mnist(root: Path) -> list[np.ndarray]:
    arrays = []
    for part in ("train", "t10k"):
        arrays.append(_idx(root, f"{part}-images-idx3-ubyte")[:, None])
        arrays.append(_idx(root, f"{part}-labels-idx1-ubyte").astype(np.int64))
    return arrays


def _idx(root: Path, file: str) -> np.ndarray:
    raw = root / "FashionMNIST" / "raw"
    contents = _obtain("fashion-mnist", file, [raw / file, DEBIAN / f"{file}.gz", raw / f"{file}.gz"])
    return idx(contents)


def idx(contents: bytes) -> np.ndarray:
    """The IDX format: 2 zero bytes, the type, the number of dimensions, sizes as big-endian integers, uint8 values.

    Raises `ValueError` for anything else.
    """
    if contents[:3] != b"\0\0\x08" or len(contents) < 4:
        raise ValueError("it does not begin as an IDX file of bytes does")
    dimensions = contents[3]
    sizes = np.frombuffer(contents, ">i4", dimensions, offset=4)
    return np.frombuffer(contents, np.uint8, offset=4 + 4 * dimensions).reshape(sizes)


def _cifar(name: str, root: Path) -> list[np.ndarray]:
    cifar = CIFAR[name]
    files = [*cifar.train, cifar.test]
    if all((root / file).exists() for file in files):
        parts = [_obtain(name, file, [root / file]) for file in files]
    else:
        contents = _obtain(name, cifar.archive, [(root / cifar.test).parent, root / cifar.archive])
        with tarfile.open(fileobj=io.BytesIO(contents)) as tar:
            members = [tar.extractfile(file) for file in files]
            parts = [member.read() for member in members if member]
    batches = [_Arrays(io.BytesIO(part), encoding="latin1").load() for part in parts]
    images = [np.asarray(batch["data"], np.uint8).reshape(-1, 3, 32, 32) for batch in batches]
    labels = [np.asarray(batch[cifar.labels], np.int64) for batch in batches]
    return [np.concatenate(images[:-1]), np.concatenate(labels[:-1]), images[-1], labels[-1]]


def _obtain(name: str, file: str, places: list[Path]) -> bytes:
    """The checked contents of `file` at the first of `places` that is a file, else downloaded to the last of them."""
    path = next((place for place in places if place.is_file()), None) or _download(name, file, places)
    try:
        return _verified(path, CHECKSUMS[file])
    except (OSError, ValueError) as error:
        urls = ", ".join(urls_of(places[-1].name, MIRRORS[name]))
        raise refusal(
            name, f"cannot be read: {path} {error}; delete it, then run again or get it from {urls}"
        ) from error


def _verified(path: Path, md5: str) -> bytes:
    """Contents, unpacked if an IDX file. They are checked in memory, so that the bytes used are the bytes checked."""
    contents = path.read_bytes()
    if path.name.endswith("ubyte.gz"):
        try:
            contents = gzip.decompress(contents)
        except (OSError, EOFError, zlib.error) as error:
            raise ValueError(f"is damaged or half-downloaded ({error}); unpacked it must have MD5 {md5}") from error
    actual = hashlib.md5(contents, usedforsecurity=False).hexdigest()
    if actual != md5:
        raise ValueError(f"is damaged or half-downloaded: its MD5 is {actual} and must be {md5}")
    return contents


def _download(name: str, file: str, places: list[Path]) -> Path:
    """Download to the last of `places`."""
    lacking = f"is missing: {file} (MD5 {CHECKSUMS[file]}) was looked for at {', '.join(map(str, places))}"
    urls, verified = urls_of(places[-1].name, MIRRORS[name]), partial(_verified, md5=CHECKSUMS[file])
    return download(places[-1], urls, verified, lambda problem: refusal(name, lacking + problem))
