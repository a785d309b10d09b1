"""Claims about somebody's own folders of images: what is read as the field reads it, what is counted and refused."""

import os
import sys
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from pictures import refused
from PIL import Image

from study.data import arrays, decoding
from study.data.listing import ENDINGS, listing
from study.data.looks import ALPHA, DEEP, OTHERWISE, SEVERAL, TURNED
from study.data.summary import summary
from study.spec import Data, InputError

SIDE = 6
LEVELS = np.random.default_rng(0).integers(0, 256, (40, SIDE, SIDE, 3), dtype=np.uint8)


def paint(path: Path, number: int = 0, mode: str = "RGB", **how: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(LEVELS[number % len(LEVELS)]).convert(mode).save(path, **how)
    return path


def fill(folder: Path, *classes: str, count: int = 12, ending: str = "png") -> Path:
    for one in classes:
        for number in range(count):
            paint(folder / one / f"{number}.{ending}", number)
    return folder


def described(name: str, root: Path) -> Data:
    return arrays.describe(name, root)


def notes(name: str, root: Path) -> str:
    found = summary(described(name, root), root)
    assert found
    return "; ".join(found.notes)


# ---------------------------------------------------------------- classes


@pytest.mark.parametrize("kind", ["folder", "images"])
def test_no_class_vanishes_for_the_ending_of_its_files(kind: str, tmp_path: Path) -> None:
    for one, ending in (("a", "png"), ("b", "webp"), ("c", "bmp"), ("d", "TIFF"), ("e", "JPG"), ("f", "gif")):
        fill(tmp_path / "zoo", one, ending=ending)
    assert described(f"{kind}:zoo", tmp_path).classes == 6
    for number in range(12):
        (tmp_path / f"zoo/b/{number}.webp").rename(tmp_path / f"zoo/b/{number}.avif")
    refused(f"{kind}:zoo", tmp_path, "has no training image of class 'b'", "12 .avif")


@pytest.mark.parametrize("kind", ["folder", "images"])
def test_what_is_no_image_is_passed_over_and_counted(kind: str, tmp_path: Path) -> None:
    fill(tmp_path / "zoo", "cat", "dog")
    before = described(f"{kind}:zoo", tmp_path)
    for file in (
        "cat/Thumbs.db",
        "cat/.hidden.png",
        ".DS_Store",
        "__MACOSX/cat/._0.png",
        "dog/desktop.ini",
        "notes.txt",
    ):
        (tmp_path / "zoo" / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "zoo" / file).write_bytes(b"x")
    assert described(f"{kind}:zoo", tmp_path) == before
    assert "passed over: 1 .db, 1 .ini, 1 .txt, 3 hidden" in notes(f"{kind}:zoo", tmp_path)


@pytest.mark.parametrize("kind", ["folder", "images"])
def test_classes_are_numbered_as_imagefolder_numbers_them(kind: str, tmp_path: Path) -> None:
    folders = pytest.importorskip("torchvision.datasets.folder")
    fill(tmp_path / "zoo/train", *map(str, range(12)), "Zebra", "ant", count=1)
    fill(tmp_path / "zoo/test", "10", "2", count=1)
    theirs, _ = folders.find_classes(str(tmp_path / "zoo/train"))
    found = summary(described(f"{kind}:zoo", tmp_path), tmp_path)
    assert found and list(found.labels) == theirs and found.labels[2] == "10"
    assert set(folders.IMG_EXTENSIONS) <= set(ENDINGS)


def test_images_may_lie_in_folders_of_a_class_unless_these_are_classes_or_splits(tmp_path: Path) -> None:
    for number in range(10):
        paint(tmp_path / f"tiny/train/cat/images/{number}.png", number)
        paint(tmp_path / f"tiny/train/dog/images/{number}.png", number)
        paint(tmp_path / f"tiny/val/{'cat' if number % 2 else 'dog'}/{number}.png", number)
        for split in ("first", "second"):
            paint(tmp_path / f"odd/{split}/cat/{number}.png", number)
            paint(tmp_path / f"odd/{split}/dog/{number}.png", number)
        paint(tmp_path / f"wrapped/pets/cat/{number}.png", number)
        paint(tmp_path / f"wrapped/pets/dog/{number}.png", number)
    assert described("folder:tiny", tmp_path).classes == 2
    refused(
        "folder:odd", tmp_path, "has folders 'cat' and 'dog' in both 'first' and 'second'", "call them train and test"
    )
    refused("images:wrapped", tmp_path, "has one class, 'pets'", f"--data-root {tmp_path}/wrapped")


@pytest.mark.parametrize("kind", ["folder", "images"])
def test_splits_have_their_usual_names_and_a_third_is_counted(kind: str, tmp_path: Path) -> None:
    fill(tmp_path / "zoo/Training", "cat", "dog", count=5)
    fill(tmp_path / "zoo/valid", "cat", "dog", count=2)
    found = summary(described(f"{kind}:zoo", tmp_path), tmp_path)
    assert found and (found.train, found.test) == (10, 4)
    fill(tmp_path / "zoo/TEST", "cat", "dog", count=3)
    found = summary(described(f"{kind}:zoo", tmp_path), tmp_path)
    tested, unused = (6, "4 in valid/") if kind == "folder" else (4, "6 in TEST/")
    assert found and found.test == tested and f"{unused} are not used" in found.notes
    fill(tmp_path / "zoo/train", "cat")
    refused(f"{kind}:zoo", tmp_path, "has two folders of one split", "Training and train")


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    fill(tmp_path / "zoo", "train", "car", "bus")
    assert described("folder:zoo", tmp_path).classes == 3
    fill(tmp_path / "flat", "train", "test")
    refused("folder:flat", tmp_path, "out of place", "SPLIT/CLASS/")
    fill(tmp_path / "half/train", "cat", "dog")
    refused("folder:half", tmp_path, "has images in train and none in test or val/CLASS/")


def test_one_class_and_no_class_are_refused(tmp_path: Path) -> None:
    fill(tmp_path / "zoo", "cat")
    refused("folder:zoo", tmp_path, "has one class, 'cat', and a classifier needs two")
    (tmp_path / "zoo/dog").mkdir()
    refused("images:zoo", tmp_path, "has no training image of class 'dog'", "nothing else there")


# ---------------------------------------------------------------- names and links


def test_a_decomposed_name_is_the_composed_one(tmp_path: Path) -> None:
    mac = unicodedata.normalize("NFD", "Café")
    fill(tmp_path / "zoo/train", mac, "Tee", count=2)
    fill(tmp_path / "zoo/test", "Café", "Tee", count=2)
    found = summary(described("folder:zoo", tmp_path), tmp_path)
    assert found and found.labels == ("Café", "Tee")
    fill(tmp_path / "zoo/train", "Café", count=1)
    refused("folder:zoo", tmp_path, "'Café' and 'Café'", "how their accents are written alone")


def test_names_that_differ_in_case_alone_are_refused(tmp_path: Path) -> None:
    fill(tmp_path / "zoo", "Cat", "cat")
    refused("images:zoo", tmp_path, "has classes 'Cat' and 'cat'", "upper and lower case alone")


@pytest.mark.skipif(sys.platform != "linux", reason="other file systems take no such name")
def test_a_name_that_is_no_text_is_read(tmp_path: Path) -> None:
    fill(tmp_path / "zoo", "cat", os.fsdecode(b"caf\xe9"))
    found = summary(described("folder:zoo", tmp_path), tmp_path)
    assert found and found.labels == ("caf�", "cat")


@pytest.mark.parametrize("kind", ["folder", "images"])
def test_links_are_followed_and_those_that_lead_nowhere_refused(kind: str, tmp_path: Path) -> None:
    fill(tmp_path / "elsewhere", "cat", "dog")
    (tmp_path / "zoo").mkdir()
    for one in ("cat", "dog"):
        (tmp_path / "zoo" / one).symlink_to(tmp_path / "elsewhere" / one)
    (tmp_path / "zoo/cat/zz.png").mkdir()
    assert described(f"{kind}:zoo", tmp_path).classes == 2
    (tmp_path / "zoo/cat/gone.png").symlink_to(tmp_path / "nowhere")
    refused(f"{kind}:zoo", tmp_path, "a link that leads nowhere", "cat/gone.png")
    (tmp_path / "zoo/cat/gone.png").unlink()
    os.mkfifo(tmp_path / "zoo/cat/pipe.png")
    refused(f"{kind}:zoo", tmp_path, "no ordinary file", "cat/pipe.png")
    (tmp_path / "zoo/cat/pipe.png").unlink()
    (tmp_path / "zoo/cat/loop").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere/again").symlink_to(tmp_path / "elsewhere")
    refused(f"{kind}:zoo", tmp_path, "has a link to a folder above itself")


@pytest.mark.parametrize("kind", ["folder", "images", "voc", "coco"])
def test_the_sets_own_folder_as_data_root_is_named(kind: str, tmp_path: Path) -> None:
    from study.data import annotations

    fill(tmp_path / "zoo", "cat", "dog")
    with pytest.raises(InputError, match=f"is the set's own folder: say --data-root {tmp_path}") as error:
        (annotations.load if kind in ("voc", "coco") else arrays.describe)(f"{kind}:zoo", tmp_path / "zoo")
    assert "\n" not in str(error.value)


# ---------------------------------------------------------------- pixels


def test_every_kind_of_pixel_is_read_as_the_field_reads_it_and_counted(tmp_path: Path) -> None:
    fill(tmp_path / "zoo/train", "cat", "dog", count=2)
    fill(tmp_path / "zoo/test", "cat", count=1)
    place = tmp_path / "zoo/train/eel"
    files = [paint(place / f"{mode}.png", 1, mode) for mode in ("1", "L", "LA", "P", "RGBA")]
    files.append(paint(place / "cmyk.jpg", 1, "CMYK", quality=100))
    Image.fromarray(np.full((SIDE, SIDE), 200 * 256 + 99, np.uint16)).save(place / "deep.png")
    frames = [Image.fromarray(LEVELS[n]) for n in range(3)]
    frames[0].save(place / "several.gif", save_all=True, append_images=frames[1:])
    paint(place / "wrong.jpg", 1, format="PNG")
    dataset = arrays.load(described("folder:zoo", tmp_path), tmp_path)
    assert isinstance(dataset, arrays.Dataset) and dataset.train_labels.tolist() == [0] * 2 + [1] * 2 + [2] * 9
    read = {path.name: pixels for path, pixels in zip(sorted(place.iterdir()), dataset.train_images[4:], strict=True)}
    for file in files:  # Pillow's conversion, as ImageFolder has it
        theirs = np.asarray(Image.open(file).convert("RGB")).transpose(2, 0, 1)
        assert np.array_equal(read[file.name].numpy(), theirs), file
    assert (read["deep.png"] == 200).all()
    assert np.array_equal(read["wrong.jpg"].numpy(), LEVELS[1].transpose(2, 0, 1))
    found = notes("folder:zoo", tmp_path)
    for what in (
        f"2 {ALPHA}",
        f"1 {DEEP}",
        f"1 {SEVERAL}",
        f"1 {OTHERWISE}",
        "2 classes without a test image: dog, eel",
    ):
        assert what in found


def test_an_image_is_turned_as_its_camera_says(tmp_path: Path) -> None:
    fill(tmp_path / "zoo", "cat", "dog")
    before = {kind: described(f"{kind}:zoo", tmp_path) for kind in ("folder", "images")}
    exif = Image.Exif()
    exif[decoding.ORIENTATION] = 6
    plain = paint(tmp_path / "plain.png", 3)
    (tmp_path / "zoo/cat/0.png").unlink()
    path = paint(tmp_path / "zoo/cat/0.png", 3, exif=exif)
    contents = path.read_bytes()
    turned = np.rot90(np.asarray(Image.open(plain)), -1)
    dataset = arrays.load(described("folder:zoo", tmp_path), tmp_path)
    assert isinstance(dataset, arrays.Dataset)
    images = [*dataset.train_images.numpy(), *dataset.test_images.numpy()]
    assert any(np.array_equal(image, turned.transpose(2, 0, 1)) for image in images)
    assert np.array_equal(decoding.whole(contents, SIDE, turned=True), turned)
    assert np.array_equal(decoding.whole(contents, SIDE), np.asarray(Image.open(plain)))
    for kind, spec in before.items():
        assert described(f"{kind}:zoo", tmp_path).digest != spec.digest
        assert f"1 {TURNED}" in notes(f"{kind}:zoo", tmp_path)


def test_a_listing_is_sorted_as_text_with_links_and_without_hidden_files(tmp_path: Path) -> None:
    for file in ("b/1.png", "a/2.PNG", "a b/3.png", ".c/4.png", "a/.5.png", "a/6.txt"):
        paint((tmp_path / file).with_suffix(".png"))
        (tmp_path / file).with_suffix(".png").rename(tmp_path / file)
    found = listing("folder:zoo", tmp_path)
    assert found.images == sorted(["b/1.png", "a/2.PNG", "a b/3.png"]) and found.others == ["a/6.txt"]
    assert found.hidden == 2
