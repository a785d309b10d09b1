"""Small stand-ins for the files of VOC and COCO, laid out as the official ones."""

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from study.data import annotations, detection_sets
from study.spec import InputError


def jpeg(size: tuple[int, int] = (60, 40)) -> bytes:
    stored = io.BytesIO()
    Image.new("RGB", size, "teal").save(stored, "JPEG")
    return stored.getvalue()


def write(path: Path, content: str | bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)


def voc_object(box: tuple[float, float, float, float] = (1, 1, 20, 20), name: str = "dog", more: str = "") -> str:
    corners = "".join(f"<{c}>{at}</{c}>" for c, at in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True))
    return f"<object><name>{name}</name>{more}<bndbox>{corners}</bndbox></object>"


def voc_file(*objects: str, size: tuple[int, int] = (60, 40)) -> str:
    width, height = size
    size_ = f"<size><width>{width}</width><height>{height}</height><depth>3</depth></size>"
    return f"<annotation>{size_}{''.join(objects)}</annotation>"


def add_voc(root: Path, monkeypatch: pytest.MonkeyPatch, year: int, split: str, files: dict[str, str | None]) -> None:
    """A split of stand-ins, one image a file; None has no annotation."""
    folder = f"VOCdevkit/VOC{year}"
    for i, content in files.items():
        write(root / folder / f"JPEGImages/{i}.jpg", jpeg())
        if content is not None:
            write(root / folder / f"Annotations/{i}.xml", content)
    write(root / folder / f"ImageSets/Main/{split}.txt", "".join(f"{i}\n" for i in files))
    monkeypatch.setitem(detection_sets.COUNTS, (folder, split), len(files))


def small_voc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Makes `tmp_path` a data root with all of VOC 2007 and 2012, of two images a split."""
    one = voc_file(voc_object())
    add_voc(tmp_path, monkeypatch, 2007, "trainval", {"000005": one, "000007": one})
    add_voc(tmp_path, monkeypatch, 2007, "test", {"000001": one, "000002": one})
    add_voc(tmp_path, monkeypatch, 2012, "trainval", {"2007_000027": one, "2007_000032": one})
    add_voc(tmp_path, monkeypatch, 2012, "test", {"2008_000001": None, "2008_000004": None})
    return tmp_path


def small_coco(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Makes `tmp_path` a data root with COCO, of two images a split."""
    for split, ids in (("train2014", (9, 2500000000)), ("val2014", (42, 73))):
        images = [
            {"id": i, "file_name": f"COCO_{split}_{i:012d}.jpg", "width": 60, "height": 40} for i in reversed(ids)
        ]
        for image in images:
            write(tmp_path / "coco" / split / str(image["file_name"]), jpeg())
        things = [coco_object(1, ids[1], 90, [3, 2, 10.5, 20]), coco_object(2, ids[0], 1, [0, 0, 5, 5], iscrowd=1)]
        things += [coco_object(3, ids[1], 13, [30, 30, 5, 8])]
        # The official ids: 1 to 90 without these ten
        numbers = [i for i in range(1, 91) if i not in (12, 26, 29, 30, 45, 66, 68, 69, 71, 83)]
        categories = [{"id": i, "name": c} for i, c in zip(numbers, detection_sets.COCO_CLASSES, strict=True)]
        whole = {"images": images, "annotations": things, "categories": categories[::-1]}
        write(tmp_path / f"coco/annotations/instances_{split}.json", json.dumps(whole))
        monkeypatch.setitem(detection_sets.COUNTS, ("coco", split), 2)
    return tmp_path


def coco_object(
    i: int, image: int, category: int, box: list[float], area: float = 7, iscrowd: int = 0
) -> dict[str, Any]:
    return {"id": i, "image_id": image, "category_id": category, "bbox": box, "area": area, "iscrowd": iscrowd}


def edit_coco(root: Path, edit: Callable[[dict[str, Any]], object]) -> Path:
    path = root / "coco/annotations/instances_train2014.json"
    whole = json.loads(path.read_text())
    edit(whole)
    write(path, json.dumps(whole))
    return path


def refused(name: str, root: Path, *parts: str) -> None:
    """Refused in one line that has all of `parts`."""
    with pytest.raises(InputError) as error:
        annotations.load(name, root)
    assert "\n" not in str(error.value)
    for part in parts:
        assert part in str(error.value)
