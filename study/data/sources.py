"""Where images come from: finding, checking, downloading and decoding each data set.

Owns places, checksums and formats. Knows neither batches nor training. What is missing, damaged or other than expected
is an `InputError`; no other data set ever takes its place.

Looked for under the data root: torchvision's `FashionMNIST/raw/`, CIFAR's archives or the folders they unpack to, and
folders of images, `NAME/{train,test}/CLASS/*.png` or `NAME/CLASS/*.png` (.jpg too; other files are not images and are
passed over). STUDY_DATA_MIRRORS (base URLs, separated by commas) are tried before the official places; with
STUDY_OFFLINE=1 nothing is downloaded.
"""

import glob
import gzip
import hashlib
import http.client
import io
import logging
import os
import pickle
import re
import shutil
import tarfile
import urllib.request
import zipfile
import zlib
from collections.abc import Callable, Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock

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
CIFAR = {  # name: archive, its training files, its test file, key of the labels
    "cifar10": (
        "cifar-10-python.tar.gz",
        *(f"cifar-10-batches-py/data_batch_{i}" for i in range(1, 6)),
        "cifar-10-batches-py/test_batch",
        "labels",
    ),
    "cifar100": ("cifar-100-python.tar.gz", "cifar-100-python/train", "cifar-100-python/test", "fine_labels"),
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
SUFFIXES = (".png", ".jpg", ".jpeg")


def decode(spec: Data, root: Path) -> list[np.ndarray]:
    """Training images uint8 [N, C, H, W] and labels int64 [N], test images and labels."""
    check_choice("data set", spec.name, [*SHAPES, "folder:NAME"])
    match spec.name:
        case "digits":
            return digits()
        case "synthetic":
            return _synthetic(spec)
        case "fashion-mnist":
            return _fashion_mnist(root)
    return _cifar(spec.name, root)


def refusal(name: str, problem: str) -> InputError:
    """The error for data that cannot be used, as one line."""
    line = f"data set {name} {problem}; PROFILE=quick runs on the embedded digits without any download"
    return InputError(" ".join(line.split()))


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


def _fashion_mnist(root: Path) -> list[np.ndarray]:
    def read(file: str) -> np.ndarray:  # the IDX format: type and dimensions, sizes as big-endian integers, bytes
        raw = root / "FashionMNIST" / "raw"
        contents = _obtain("fashion-mnist", file, [raw / file, DEBIAN / f"{file}.gz", raw / f"{file}.gz"])
        sizes = np.frombuffer(contents, ">i4", contents[3], 4)
        return np.frombuffer(contents, np.uint8, offset=4 + 4 * len(sizes)).reshape(sizes)

    arrays = []
    for part in ("train", "t10k"):
        arrays.append(read(f"{part}-images-idx3-ubyte")[:, None])
        arrays.append(read(f"{part}-labels-idx1-ubyte").astype(np.int64))
    return arrays


def _cifar(name: str, root: Path) -> list[np.ndarray]:
    archive, *files, key = CIFAR[name]  # the last file is the test set
    if all((root / file).exists() for file in files):
        parts = [_obtain(name, file, [root / file]) for file in files]
    else:
        contents = _obtain(name, archive, [(root / files[0]).parent, root / archive])
        with tarfile.open(fileobj=io.BytesIO(contents)) as tar:
            members = [tar.extractfile(file) for file in files]
            parts = [member.read() for member in members if member]
    # Unpickling can run any code; these bytes are the ones whose MD5 was just checked.
    batches = [pickle.loads(part, encoding="latin1") for part in parts]
    images = [np.asarray(batch["data"], np.uint8).reshape(-1, 3, 32, 32) for batch in batches]
    labels = [np.asarray(batch[key], np.int64) for batch in batches]
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
    """Contents, unpacked if an IDX file. They are checked in memory, so that what was checked is what is used."""
    contents = path.read_bytes()
    if path.name.endswith("ubyte.gz"):
        try:
            contents = gzip.decompress(contents)
        except (OSError, EOFError, zlib.error) as error:
            raise ValueError(f"is damaged or half-downloaded ({error}); unpacked it must have MD5 {md5}") from error
    found = hashlib.md5(contents, usedforsecurity=False).hexdigest()
    if found != md5:
        raise ValueError(f"is damaged or half-downloaded: its MD5 is {found} and must be {md5}")
    return contents


def urls_of(file: str, official: Sequence[str]) -> list[str]:
    """Where a file may be had: below the mirrors that the user names, and below the `official` base URLs."""
    own = [base.strip() for base in os.environ.get("STUDY_DATA_MIRRORS", "").split(",") if base.strip()]
    return [f"{base.rstrip('/')}/{file}" for base in (*own, *official)]


def _download(name: str, file: str, places: list[Path]) -> Path:
    """Download to the last of `places`."""
    lacking = f"is missing: {file} (MD5 {CHECKSUMS[file]}) was looked for at {', '.join(map(str, places))}"
    urls, verified = urls_of(places[-1].name, MIRRORS[name]), partial(_verified, md5=CHECKSUMS[file])
    return download(places[-1], urls, verified, lambda problem: refusal(name, lacking + problem))


def download(
    target: Path, urls: Sequence[str], verified: Callable[[Path], object], refused: Callable[[str], InputError]
) -> Path:
    """Download from the first of `urls` that works. Others that need the file wait for the holder of its lock.

    `verified` raises `ValueError` for a file that is not what it should be. Raises what `refused` makes of the problem.
    """
    if os.environ.get("STUDY_OFFLINE", "0") not in ("", "0"):
        raise refused(f"; STUDY_OFFLINE forbids to download it; put it there from {', '.join(urls)}")
    part = target.with_name(f".part-{target.name}")  # only the holder of the lock writes it; a rest is overwritten
    failures = []
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(target.with_name(f".{target.name}.lock")):
            if target.exists():
                return target
            for url in urls:
                logging.getLogger(__name__).info("downloading %s", url)
                try:
                    with urllib.request.urlopen(url, timeout=60) as response, part.open("wb") as out:
                        shutil.copyfileobj(response, out)
                    verified(part)
                    part.replace(target)
                    return target
                except (OSError, ValueError, http.client.HTTPException) as error:
                    failures.append(f"{url}: {error}")
    except OSError as error:
        failures.append(f"{target.parent}: {error}")
    raise refused(
        f", and could not be downloaded ({'; '.join(failures)}); put it there by hand,"
        " or name a mirror in STUDY_DATA_MIRRORS"
    )


def folder_of_images(name: str, root: Path) -> tuple[list[np.ndarray], str]:
    """Decode root/NAME, once: the arrays are kept in root/.cache under the SHA-256 of all image names and bytes."""
    label = name.removeprefix("folder:")
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", label):
        raise InputError(f"data set {name!r} must be folder:NAME, with NAME of letters, digits and _ . - only")
    folder = root / label
    if not folder.is_dir():
        raise refusal(name, f"is missing: {folder} was looked for; put images there as CLASS/*.png or *.jpg")
    # glob follows links to folders, unlike Path.rglob, and passes over hidden files
    files = sorted(file for file in glob.glob("**", root_dir=folder, recursive=True) if file.lower().endswith(SUFFIXES))
    sha = hashlib.sha256()
    for file in files:
        sha.update(f"{file}\0".encode() + hashlib.sha256((folder / file).read_bytes()).digest())
    digest = sha.hexdigest()
    cache = root / ".cache" / f"{label}-{digest[:16]}.npz"
    try:
        cache.parent.mkdir(exist_ok=True)
        with FileLock(cache.with_suffix(".lock")):
            if not cache.exists():
                with cache.with_suffix(".part").open("wb") as out:
                    np.savez(out, *_decode_folder(name, folder, files))
                cache.with_suffix(".part").replace(cache)
        with cache.open("rb") as stored, np.load(stored) as arrays:
            decoded = list(arrays.values())
    except (OSError, zipfile.BadZipFile) as error:
        raise refusal(
            name, f"cannot be kept in {cache} ({error}); make it writable, or delete what is there"
        ) from error
    return decoded, digest


def _decode_folder(name: str, folder: Path, files: list[str]) -> list[np.ndarray]:
    """Classes are the sub-folders in order of name. Without train/ and test/, a hash makes one file in five a test."""
    split = (folder / "train").is_dir() and (folder / "test").is_dir()
    train: list[str] = []
    test: list[str] = []
    for file in files:
        parts = file.split("/")
        if len(parts) != 2 + split or (split and parts[0] not in ("train", "test")):
            raise refusal(name, f"has an image out of place: {folder / file} is not in {'{train,test}/' * split}CLASS/")
        testing = parts[0] == "test" if split else hashlib.sha256(file.encode()).digest()[0] % 5 == 0
        (test if testing else train).append(file)
    classes = sorted({Path(file).parent.name for file in train})
    untrained = {Path(file).parent.name for file in test} - set(classes)
    if not train or not test or untrained:
        counts = f"{len(train)} training and {len(test)} test images"
        raise refusal(name, f"in {folder} has {counts}, and none to train {', '.join(sorted(untrained)) or 'or test'}")
    images = [_decode_image(name, folder / file) for file in train + test]
    for file, image in zip(train + test, images, strict=True):
        if image.shape[1] != image.shape[2] or image.shape[1:] != images[0].shape[1:]:
            sizes = [f"{folder / f} is {i.shape[2]}x{i.shape[1]}" for f, i in ((file, image), (train[0], images[0]))]
            raise refusal(name, f"must have square images of one size: {', '.join(sizes)} (width x height)")
    channels = max(len(image) for image in images)  # a grey image among coloured ones becomes coloured
    pixels = np.stack([np.broadcast_to(image, (channels, *image.shape[1:])) for image in images])
    labels = np.array([classes.index(Path(file).parent.name) for file in train + test], np.int64)
    count = len(train)
    return [pixels[:count], labels[:count], pixels[count:], labels[count:]]


def _decode_image(name: str, path: Path) -> np.ndarray:
    """uint8 [1 or 3, H, W]."""
    from PIL import Image

    try:
        with Image.open(path) as image:
            mode = image.mode
            pixels = np.asarray(image.convert("L" if mode in ("1", "L") else "RGB"))
    except Exception as error:  # decoders of damaged files raise nearly anything
        raise refusal(name, f"has a damaged image: {path} ({error})") from error
    if mode not in ("1", "L", "P", "RGB"):
        raise refusal(name, f"has an image of mode {mode}: {path}; convert it to 8-bit grey or RGB")
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
