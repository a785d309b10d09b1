"""Claims about the generated scenes: what is in them, and that both formats have the same."""

import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from detection_files import refused, write
from PIL import Image
from pycocotools.coco import COCO
from torchvision.datasets import VOCDetection

from study.data import annotations, pasted
from study.data.annotation_files import Example


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data root with the generated scenes."""
    root = tmp_path_factory.mktemp("data")
    annotations.load("pasted-voc", root)
    return root


@pytest.fixture
def root(made: Path, tmp_path: Path) -> Path:
    """The same, to be spoilt."""
    shutil.copytree(made, tmp_path / "data")
    return tmp_path / "data"


def both(root: Path) -> Iterator[tuple[Example, Example]]:
    ours, theirs = (annotations.load(name, root) for name in ("pasted-voc", "pasted-coco"))
    assert ours.classes == theirs.classes and ours.labelled and theirs.labelled
    yield from zip(ours.train + ours.test, theirs.train + theirs.test, strict=True)


def test_both_formats_have_the_same_scenes(made: Path) -> None:
    flags = {"difficult": 0, "crowd": 0}
    for ours, theirs in both(made):
        assert int(ours.image_id) == int(theirs.image_id) and ours.path.read_bytes() == theirs.path.read_bytes()
        assert (ours.width, ours.height) == (theirs.width, theirs.height) == Image.open(ours.path).size
        assert np.array_equal(ours.boxes, theirs.boxes) and np.array_equal(ours.labels, theirs.labels)
        assert (theirs.areas < ours.areas).all()  # ink of its box
        assert not ours.crowd.any() and not theirs.difficult.any() and (ours.difficult >= theirs.crowd).all()
        flags = {"difficult": flags["difficult"] + ours.difficult.sum(), "crowd": flags["crowd"] + theirs.crowd.sum()}
    assert 0 < flags["crowd"] < flags["difficult"] < 30


def test_scenes_have_what_their_docstring_says(made: Path) -> None:
    found = annotations.load("pasted-coco", made)
    assert (len(found.train), len(found.test)) == (160, 60)
    for split in (found.train, found.test):
        assert {len(e.boxes) for e in split} == {0, 1, 2, 3} and sum(not len(e.boxes) for e in split) == 1
        assert {*np.concatenate([e.labels for e in split]).tolist()} == {1, 2, 3, 4}
        assert 0.1 < np.mean([e.height > e.width for e in split]) < 0.4
        boxes = np.concatenate([e.boxes[~e.crowd] for e in split])
        assert (boxes >= 0).all() and 15 < (boxes[:, 3] - boxes[:, 1]).min() < (boxes[:, 3] - boxes[:, 1]).max() <= 64
        assert any(e.boxes[:, 2].max(initial=0) == e.width for e in split)


def test_a_box_is_tight_around_its_ink() -> None:
    """Pixels that differ from the photograph: what is pasted last is all in its box, and touches its four sides."""
    before: list[Image.Image] = []
    looked_at = 0
    paste = Image.Image.paste

    def kept(image: Image.Image, *arguments: Any) -> None:
        before.append(image.copy())
        paste(image, *arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Image.Image, "paste", kept)
        for image, things in pasted.scenes("pasted-voc", "test"):
            if things and things[-1].kind is not pasted.Kind.FAINT:
                changed = np.asarray(image).astype(int) - np.asarray(before[-1])
                x1, y1, x2, y2 = things[-1].box
                left, top, right, bottom = Image.fromarray((changed != 0).any(2)).getbbox()  # type: ignore[misc]
                assert x1 <= left < x1 + 3 and y1 <= top < y1 + 3 and x2 - 3 < right <= x2 and y2 - 3 < bottom <= y2
                looked_at += 1
    assert looked_at > 50


def test_other_programs_read_what_is_written(made: Path) -> None:
    """torchvision's VOC and the official COCO reader."""
    found = annotations.load("pasted-voc", made)
    for split, examples in (("trainval", found.train), ("test", found.test)):
        theirs = VOCDetection(made / "pasted", year="2007", image_set=split)
        assert len(theirs) == len(examples)
        for example, (image, tree) in zip(examples, theirs, strict=True):
            assert image.size == (example.width, example.height)
            objects = tree["annotation"].get("object", [])
            assert [thing["name"] for thing in objects] == [found.classes[label - 1] for label in example.labels]
            corners = [[int(thing["bndbox"][c]) for c in ("xmin", "ymin", "xmax", "ymax")] for thing in objects]
            assert np.array_equal(np.array(corners).reshape(-1, 4) - (1, 1, 0, 0), example.boxes)
    api = COCO(made / "pasted/coco/annotations/instances_val2014.json")
    for example in annotations.load("pasted-coco", made).test:
        things = api.loadAnns(api.getAnnIds([int(example.image_id)]))
        assert [thing["area"] for thing in things] == example.areas.tolist()
        assert [api.cats[thing["category_id"]]["name"] for thing in things] == [
            found.classes[label - 1] for label in example.labels
        ]


def test_scenes_are_made_once_whoever_asks_and_always_the_same(made: Path, tmp_path: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(annotations.load, ["pasted-voc", "pasted-coco"] * 2, [tmp_path / "new"] * 4))
    assert found[0].digest == found[2].digest == annotations.load("pasted-voc", made).digest
    assert found[1].digest == found[3].digest == annotations.load("pasted-coco", made).digest
    for place in ("pasted/VOCdevkit", "pasted/coco"):
        for path in sorted((made / place).rglob("*.*")):
            assert path.read_bytes() == (tmp_path / "new" / path.relative_to(made)).read_bytes()
    assert not (tmp_path / "new/.part-pasted").exists()


def test_scenes_that_lost_a_file_say_how_to_have_it_back(root: Path) -> None:
    (root / "pasted/VOCdevkit/VOC2007/JPEGImages/000003.jpg").unlink()
    refused("pasted-voc", root, "000003.jpg is missing; delete the folder pasted, which is then made anew")
    shutil.rmtree(root / "pasted")
    annotations.load("pasted-voc", root)


def test_a_data_root_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    write(tmp_path / "file", "")
    refused("pasted-voc", tmp_path / "file", f"cannot be made in {tmp_path / 'file/pasted'}", "writable")
