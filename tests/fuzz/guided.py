"""The parsers by a coverage-guided fuzzer, atheris: bytes in, a value or the error that the parser promises out.

`python tests/fuzz/guided.py [RUNS] [--seed N] [--only NAME]` runs every parser so often, each in a process of its own,
and prints a table. Exit code 1 if one raised another error. atheris has wheels for Linux on x86-64 (CPython 3.11 to
3.13); elsewhere the kinds of `python tests/fuzz` alone try the parsers.
"""

import argparse
import contextlib
import io
import json
import os
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path

FOLDERS = [str(Path(__file__).parents[1]), str(Path(__file__).parents[2])]
SLOW_SECONDS = 5.0
Parser = tuple[Callable[[Path], object], tuple[type[Exception], ...], str, list[bytes]]  # with errors, file, examples


def parsers() -> dict[str, Parser]:
    """Each with the errors that its callers take for bad input, the name of its file, and files to begin with."""
    import kinds
    import pyarrow as pa

    from study.data import annotation_files, annotations, folders, indexes, sources
    from study.data.detection_sets import COCO_CLASSES
    from study.nets import weight_files, weight_names
    from study.run import timing
    from study.spec import VOC_CLASSES, InputError, Trial
    from study.store import account, atomic, bundle, heartbeat, layout, records, versions
    from study.training import checkpoints

    def voc(path: Path) -> object:
        with annotation_files.reading("voc", path):
            return annotations._voc_example(path, path, VOC_CLASSES)

    def coco(path: Path) -> object:
        with annotation_files.reading("coco", path):
            return annotations._coco_columns(path, COCO_CLASSES)

    def weights(path: Path) -> object:
        return weight_names.named(weight_files.read_weights(path).tensors)

    def curve(path: Path) -> object:
        tags = {"records": "1", "records_sha256": "x"}
        trial = Trial.from_dict(kinds._specification()["Trial"])
        return records.assembled("", trial, account.Outcome.FINISHED, tags, lambda file: path.read_bytes(), "x")

    specification = json.dumps(kinds._specification()["DetectionTrial"]).encode()
    voc_xml = kinds.VOC_XML.format(w=9, h=9, name="cat", difficult=0, x1=1, y1=1, x2=5, y2=5).encode()
    coco_json = (
        b'{"images": [{"id": 1, "file_name": "1.jpg", "width": 9, "height": 9}], "categories": [], "annotations": []}'
    )
    account_json = account.encoded(account.Account(outcome=account.Outcome.FAILED, tags={"seconds": "1"}))
    table = records.parquet(pa.table({"iteration": [1, 2]}))
    state = kinds._saved({"records": []})
    import hashlib

    return {
        "specification": (
            lambda path: Trial.from_dict(atomic.decoded(path.read_bytes())),
            (ValueError,),
            "spec.json",
            [specification],
        ),
        "version": (lambda path: versions.version(path.parent), (), "spec.json", [specification]),
        "account": (lambda path: account.read_account(path.parent), (), "run.json", [account_json]),
        "heartbeat": (
            lambda path: heartbeat.read(path.parent),
            (),
            "progress.json",
            [b'{"launch": "x", "iteration": 3, "outcome": "finished"}'],
        ),
        "store": (lambda path: layout.is_store(path.parent), (InputError,), "store.json", [b'{"version": 1}']),
        "probes": (lambda path: timing.load(path.parent), (), "probes.json", [json.dumps([kinds._probe()]).encode()]),
        "bundle": (bundle.read, (InputError,), "x.zip", [kinds.OTHER_FILES[-8], _zip()]),
        "curve": (curve, (InputError,), "records.parquet", [table]),
        "checkpoint": (
            lambda path: checkpoints.load_newest(path.parent),
            (),
            "000000001.checkpoint",
            [hashlib.sha256(state).hexdigest().encode() + b"\n" + state],
        ),
        "weights": (weights, (InputError,), "x.pth", [kinds._saved({"conv1.weight": kinds.torch.ones(4, 3, 3, 3)})]),
        "safetensors": (weights, (InputError,), "x.safetensors", [b"\x02" + bytes(7) + b"{}"]),
        "IDX": (lambda path: sources.idx(path.read_bytes()), (ValueError,), "x", [kinds._idx((2, 3))]),
        "VOC": (voc, (InputError,), "x.xml", [voc_xml]),
        "COCO": (coco, (InputError,), "x.json", [coco_json]),
        "image": (
            lambda path: folders._decode_image("x", path),
            (InputError,),
            "x.png",
            [kinds._image("PNG", (8, 8), "RGB"), kinds._image("JPEG", (8, 8), "L")],
        ),
        "tar": (lambda path: list(indexes._members("x", path)), (InputError,), "x.tar", [_tar()]),
    }


def _zip() -> bytes:
    import zipfile

    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("manifest.json", b'{"format": 2, "members": {}, "trials": [], "schema": 2, "protocol": 1}')
    return buffer.getvalue()


def _tar() -> bytes:
    import tarfile

    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        info = tarfile.TarInfo("x.jpg")
        info.size = 3
        tar.addfile(info, io.BytesIO(b"abc"))
    return buffer.getvalue()


def guide(name: str, runs: int, seed: int) -> None:
    """Run one parser; prints a line of JSON and ends the process."""
    import atheris

    with atheris.instrument_imports(include=["study"]):
        parse, errors, file, examples = parsers()[name]
    folder = Path(tempfile.mkdtemp(prefix="study-guided-"))
    (folder / "examples").mkdir()
    (folder / "case").mkdir()
    for number, example in enumerate(examples):
        (folder / "examples" / str(number)).write_bytes(example)
    counts, faults = Counter[str](), {}
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # libFuzzer's progress

    def one(data: bytes) -> None:
        path = folder / "case" / file
        path.write_bytes(data)
        counts["inputs"] += 1
        began = time.monotonic()
        try:
            with contextlib.redirect_stderr(io.StringIO()):
                parse(path)
        except errors:
            counts["refused"] += 1
        except Exception as error:
            counts["faults"] += 1
            frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "/study/" in frame.filename]
            place = f"{Path(frames[-1].filename).name}:{frames[-1].name}" if frames else "?"
            faults.setdefault(f"{place}: {type(error).__name__}: {str(error)[:80]}"[:160], repr(data[:200]))
        if time.monotonic() - began > SLOW_SECONDS:
            counts["faults"] += 1
            faults.setdefault(f"takes {time.monotonic() - began:.0f} s", repr(data[:200]))
        if counts["inputs"] >= runs:
            print(json.dumps({"counts": counts, "faults": faults}), flush=True)
            os._exit(0)

    import logging

    logging.disable(logging.CRITICAL)
    atheris.Setup([name, f"-seed={seed}", "-max_len=4096", "-rss_limit_mb=0", str(folder / "examples")], one)
    atheris.Fuzz()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", type=int, nargs="?", default=20_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", default="")
    parser.add_argument("--guide", action="store_true", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    sys.path[1:1] = FOLDERS
    if chosen.guide:
        guide(chosen.only, chosen.runs, chosen.seed)
    failed = False
    print(f"{'parser':16}{'inputs':>9}{'refused':>9}{'faults':>8}")
    for name in [chosen.only] if chosen.only else parsers():
        line = [sys.executable, __file__, str(chosen.runs), "--seed", str(chosen.seed), "--only", name, "--guide"]
        done = subprocess.run(line, capture_output=True, text=True)
        try:
            answer = json.loads(done.stdout.strip().splitlines()[-1])
        except (IndexError, ValueError):
            answer = {"counts": {"faults": 1}, "faults": {f"exit code {done.returncode}": done.stderr[-500:]}}
        counts, failed = answer["counts"], failed or bool(answer["faults"])
        print(
            f"{name:16}{counts.get('inputs', 0):>9}{counts.get('refused', 0):>9}{counts.get('faults', 0):>8}",
            flush=True,
        )
        for fault, data in answer["faults"].items():
            print(f"    {fault}\n        {data}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
