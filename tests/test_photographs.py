"""Claims about photographs: batches, augmentation and damaged images, and that trials train on them."""

import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from pictures import load, refused, same, shards, write, zoo
from PIL import Image
from torchvision.transforms import functional as reference

from study.data import arrays, photographs
from study.execution import Execution
from study.run import worker
from study.seeds import generator
from study.spec import InputError, Model, Trial
from study.store.account import read_account
from study.store.records import RECALIBRATED, read_records, run_in
from study.training.loop import train
from study.training.state import TrainState

CPU = torch.device("cpu")


# ---------------------------------------------------------------- batches


def test_a_batch_is_a_pure_function_however_calls_are_ordered_and_threads_are_many(tmp_path: Path) -> None:
    spec = replace(zoo(tmp_path), flip=True, colour="pca")
    one, many, other = load(spec, tmp_path, threads=1), load(spec, tmp_path, threads=4), load(spec, tmp_path)
    torch.manual_seed(1)
    forwards = [one.batch(3, i, 5) for i in range(7)]
    state = torch.get_rng_state()
    backwards = [many.batch(3, i, 5) for i in reversed(range(7))][::-1]
    assert torch.equal(state, torch.get_rng_state())
    assert all(map(same, forwards, backwards))
    list(other.clean("test", 2))
    assert same(other.batch(3, 4, 5), forwards[4]) and same(other.batch(3, 4, 5), forwards[4])
    assert not torch.equal(other.batch(4, 4, 5)[0], forwards[4][0])
    images, labels = forwards[0]
    assert images.shape == (5, 3, 16, 16) and images.dtype == torch.float32 and labels.dtype == torch.int64
    epoch = torch.cat([one.batch(3, i, 8)[1] for i in range(2)])
    assert epoch.bincount().tolist() == [8, 8]


def test_a_part_of_a_batch_is_what_the_whole_has_there(tmp_path: Path) -> None:
    spec = replace(zoo(tmp_path), flip=True, colour="pca")
    synthetic = replace(arrays.describe("synthetic", tmp_path), padding=1, flip=True)
    for found in (load(spec, tmp_path), arrays.load(synthetic, tmp_path)):
        for i in range(3):
            images, labels = found.batch(0, i, 8)
            for part in (slice(0, 4), slice(4, 8), slice(6, None)):
                assert same(found.batch(0, i, 8, part), (images[part], labels[part]))


@pytest.mark.parametrize("normalise", ["pixel-mean", "channel"])
def test_a_batch_is_what_sections_3_4_says_image_by_image(tmp_path: Path, normalise: str) -> None:
    """Against whole images resized by torchvision, and moments and eigenvectors by numpy."""
    spec = replace(zoo(tmp_path), flip=True, colour="pca", normalise=normalise)
    found, folder = load(spec, tmp_path), tmp_path / "zoo" / "train"
    files = [folder / label / f"{number}.jpg" for label in ("cat", "dog") for number in range(8)]
    centres = []
    for file in files:
        resized = reference.resize(Image.open(file), 18)
        centres.append(np.asarray(reference.center_crop(resized, [16, 16]), np.float64) / 255)
    pixels = np.stack(centres)  # [N, S, S, 3]
    mean = pixels.mean(0) if normalise == "pixel-mean" else pixels.mean((0, 1, 2))
    deviation = 1 if normalise == "pixel-mean" else pixels.std((0, 1, 2))
    values, vectors = np.linalg.eigh(np.cov(pixels.reshape(-1, 3).T, bias=True))
    vectors = vectors * np.sign(vectors.sum(0))
    clean = torch.cat([images for images, _ in found.clean("train", 5)]).permute(0, 2, 3, 1).numpy()
    level = 0.005 / np.min(deviation)  # of 255: see `test_a_crop_is_what_resizing_the_whole_image_and_cropping_gives`
    off = np.abs(clean - (pixels - mean) / deviation)
    assert off.max() < level and np.median(off) < 1e-3

    for i in range(4):
        draw = generator(7, "augment", i)
        sides = torch.randint(18, 35, (4,), generator=draw).tolist()
        corners = torch.rand((4, 2), generator=draw, dtype=torch.float64)
        flips = torch.randint(2, (4,), generator=draw).tolist()
        shifts = torch.randn((4, 3), generator=draw, dtype=torch.float64).numpy() * 0.1
        order = torch.randperm(16, generator=generator(7, "order", 0))[4 * i :][:4].tolist()
        images = found.batch(7, i, 4)[0].permute(0, 2, 3, 1).numpy()
        for row, at in enumerate(order):
            resized = np.asarray(reference.resize(Image.open(files[at]), sides[row]), np.float64) / 255
            y, x = ((corners[row] * (torch.tensor(resized.shape[:2]) - 15)).int()).tolist()
            crop = resized[y : y + 16, x : x + 16]
            crop = crop[:, ::-1] if flips[row] else crop
            expected = (crop - mean + vectors @ (shifts[row] * values)) / deviation
            off = np.abs(images[row] - expected)
            assert off.max() < level and np.median(off) < 1e-3


def test_shorter_sides_are_drawn_from_all_scales_alike(tmp_path: Path) -> None:
    found = load(replace(zoo(tmp_path), scales=(20, 23)), tmp_path)
    sides = torch.cat([found.draws(0, i, 16).sides for i in range(100)])
    counts = sides.bincount(minlength=24)
    assert counts[:20].sum() == 0 and counts[20:].min() > 340 and len(counts) == 24


def test_every_condition_sees_the_same_crops(tmp_path: Path) -> None:
    spec = zoo(tmp_path)
    plain, coloured, flipped = (load(replace(spec, **c), tmp_path) for c in ({}, {"colour": "pca"}, {"flip": True}))
    images, labels = plain.batch(0, 0, 8)
    shifted, same_labels = coloured.batch(0, 0, 8)
    difference = (shifted - images).flatten(2)
    assert torch.equal(labels, same_labels) and difference.std(2).max() < 1e-6 and difference[:, :, 0].std() > 1e-3
    pixels = [found.batch(0, 0, 8)[0] * 255 + found.mean for found in (plain, flipped)]
    kept = [torch.allclose(a, b, atol=1e-3) for a, b in zip(*pixels, strict=True)]
    mirrored = [torch.allclose(a, b.flip(2), atol=1e-3) for a, b in zip(*pixels, strict=True)]
    assert all(k != m for k, m in zip(kept, mirrored, strict=True)) and any(kept) and any(mirrored)


def test_shuffled_labels_are_the_seeds_and_true_in_tests(tmp_path: Path) -> None:
    spec = replace(zoo(tmp_path), labels="shuffled")
    labels = [next(load(spec, tmp_path, seed=seed).clean("train", 16))[1] for seed in (1, 1, 2)]
    assert torch.equal(labels[0], labels[1]) and not torch.equal(labels[0], labels[2])
    assert labels[0].bincount().tolist() == [8, 8]
    assert next(load(spec, tmp_path, seed=1).clean("test", 6))[1].tolist() == [0, 0, 0, 1, 1, 1]


@pytest.mark.parametrize("labels", ["true", "shuffled"])
def test_seeds_that_train_together_share_threads_and_have_the_batches_they_have_alone(
    tmp_path: Path, labels: str
) -> None:
    spec = replace(zoo(tmp_path), labels=labels, held_out=4, colour="pca", flip=True)
    threads = set(threading.enumerate())
    first = load(spec, tmp_path, seed=1, threads=2)
    seeds = {1: first, 2: first.for_seed(2), 3: first.for_seed(3)}
    together = [(seed, i, found.batch(seed, i, 5)) for i in range(4) for seed, found in seeds.items()]
    assert len(set(threading.enumerate()) - threads) == 2
    alone = {seed: load(spec, tmp_path, seed=seed) for seed in seeds}
    assert all(same(batch, alone[seed].batch(seed, i, 5)) for seed, i, batch in together)
    for split in ("validation", "test"):
        assert same(next(seeds[3].clean(split, 4)), next(alone[3].clean(split, 4)))


def test_held_out_images_leave_training_and_its_mean(tmp_path: Path) -> None:
    spec = zoo(tmp_path)
    every, some = load(spec, tmp_path), load(replace(spec, held_out=5), tmp_path)
    assert [some.count(split) for split in ("train", "validation", "test")] == [11, 5, 6]
    assert every.digest == some.digest
    assert not torch.equal(every.mean, some.mean)


def test_clean_and_mixed_batches_are_as_those_of_other_data_sets(tmp_path: Path) -> None:
    found = load(zoo(tmp_path), tmp_path)
    assert [len(labels) for _, labels in found.clean("train", 6)] == [6, 6, 4]
    assert [len(labels) for _, labels in found.clean("train", 6, limit=8)] == [6, 2]
    assert list(found.clean("validation", 6)) == [] and list(found.mixed(4, 0)) == []
    batches = list(found.mixed(4, 11))
    assert [len(labels) for _, labels in batches] == [4, 4]
    assert all(map(same, batches, found.mixed(4, 11)))
    with pytest.raises(InputError, match="draws from 16 is too small"):
        found.mixed(4, 17)
    with pytest.raises(InputError, match="split 'tset' is unknown"):
        found.count("tset")


def test_whole_images_are_resized_by_their_shorter_side_and_normalised_by_the_mean_image_resized(
    tmp_path: Path,
) -> None:
    found = load(zoo(tmp_path), tmp_path)
    images = list(found.resized("test", 24))
    assert [label for _, label in images] == [0, 0, 0, 1, 1, 1] and len(list(found.resized("test", 24, limit=2))) == 2
    for (image, _), number in zip(images, (0, 1, 2, 0, 1, 2), strict=True):
        with Image.open(tmp_path / "zoo/val/cat" / f"{number}.jpg") as original:
            assert image.shape[:0:-1] == reference.resize(original, 24).size and min(image.shape[1:]) == 24
    expected = np.asarray(reference.resize(Image.open(tmp_path / "zoo/val/cat/0.jpg"), 24))
    assert np.array_equal(images[0][0].permute(1, 2, 0).numpy(), expected)
    grey = torch.full((2, 3, 16, 16), 255, dtype=torch.uint8)
    assert torch.allclose(found.normalised(grey)[0], 1 - found.mean[0] / 255, atol=1e-6)
    wide = found.normalised(torch.zeros((1, 3, 20, 40), dtype=torch.uint8))
    mean = torch.nn.functional.interpolate(found.mean, (20, 40), mode="bilinear")
    assert wide.shape == (1, 3, 20, 40) and torch.allclose(wide, -mean / 255, atol=1e-6)


def test_what_does_not_go_with_photographs_is_refused(tmp_path: Path) -> None:
    spec = zoo(tmp_path)
    refused(replace(spec, padding=4), tmp_path, "padding 4")
    refused(replace(spec, held_out=16), tmp_path, "held_out 16 leaves no training image")
    refused(replace(spec, classes=3), tmp_path, "has classes 2, not 3")
    with pytest.raises(InputError, match="size 16 is for photographs"):
        arrays.describe("digits", tmp_path, size=16)
    with pytest.raises(InputError, match="batch 17 is larger than the 16 training images"):
        load(spec, tmp_path).batch(0, 0, 17)


def test_an_epoch_of_shards_shows_every_image_once_and_reads_few_shards_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(photographs, "SHARD_GROUP", 2)
    found = load(replace(shards(tmp_path, 6, 4), held_out=3), tmp_path)
    split = found._split("train")
    orders = [split.shuffled(generator(0, "order", epoch)) for epoch in range(2)]
    for order in orders:
        assert sorted(order.tolist()) == list(range(21))
        archives = split.index.archive[split.chosen[order]]
        seen = [set(archives[at:].tolist()) for at in range(21)]
        assert len(seen[0] - seen[8]) <= 2  # two shards of at most four images each are over after eight
    assert orders[0].tolist() != orders[1].tolist()


def test_a_damaged_image_gives_its_place_to_the_next_and_is_named(tmp_path: Path) -> None:
    zoo(tmp_path)
    bad = tmp_path / "zoo" / "train" / "cat" / "7.jpg"  # the next image is of the other class
    content = bad.read_bytes()
    bad.unlink()
    write(bad, content[: len(content) // 2])
    for name in ("0.jpg", "1.jpg"):
        write(tmp_path / "zoo" / "val" / "dog" / name, b"no image")
    spec = arrays.describe("images:zoo", tmp_path, size=16)
    found = load(spec, tmp_path)
    labels = next(found.clean("train", 16))[1]
    assert labels.tolist() == [0] * 7 + [1] * 9
    images, labels = next(found.clean("test", 6))
    assert torch.equal(images[3], images[5]) and torch.equal(images[4], images[5]) and len(labels) == 6
    assert sorted(found.damaged) == ["train/cat/7.jpg", "val/dog/0.jpg", "val/dog/1.jpg"]
    assert "truncated" in found.damaged["train/cat/7.jpg"]
    again = load(spec, tmp_path, threads=3)
    assert all(same(found.batch(0, i, 8), again.batch(0, i, 8)) for i in (0, 3, 1))
    bad.write_bytes(content)  # in place, after it was indexed
    changed = load(spec, tmp_path)
    assert next(changed.clean("train", 16))[1].tolist() == [0] * 7 + [1] * 9
    assert f"has {len(content)} bytes, not the {len(content) // 2} of its index" in changed.damaged["train/cat/7.jpg"]
    bad.unlink()
    with pytest.raises(FileNotFoundError):  # a file or disk that is gone is no damaged image: the attempt fails
        list(changed.clean("train", 16))


def test_a_set_without_one_image_that_can_be_decoded_is_refused(tmp_path: Path) -> None:
    for split in ("train", "val"):
        write(tmp_path / "zoo" / split / "cat" / "0.jpg", b"no image")
        write(tmp_path / "zoo" / split / "dog" / "0.jpg", b"no image")
    refused(arrays.describe("images:zoo", tmp_path, size=16), tmp_path, "can be decoded", "/0.jpg")


def test_no_thread_outlives_its_data_set_or_keeps_a_process_alive(tmp_path: Path) -> None:
    spec = zoo(tmp_path)

    before = set(threading.enumerate())
    found = load(spec, tmp_path, threads=3)
    found.batch(0, 0, 8)
    started = set(threading.enumerate()) - before
    assert started
    del found
    for thread in started:
        thread.join(timeout=20)
    assert not started & set(threading.enumerate())
    script = (
        "from pathlib import Path; from study.data import arrays\n"
        f"root = Path({str(tmp_path)!r}); spec = arrays.describe('images:zoo', root, size=16)\n"
        "found = arrays.load(spec, root, threads=2); found.batch(0, 0, 8); print('done'); raise SystemExit(3)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (3, "done\n", "")


# ---------------------------------------------------------------- trials


@pytest.fixture
def trial(small: Callable[..., Trial], execution: Execution) -> Callable[..., Trial]:
    """ResNet-18 of width 8 on the shipped pictures for some iterations."""

    def make(**changes: object) -> Trial:
        spec = arrays.describe("photographs", execution.data_root, size=32, flip=True, colour="pca")
        short = {"iterations": 8, "drops": (6,), "batch": 16, "bn_batch": 8, "record_every": 2, "evaluate_every": 4}
        model = Model.imagenet(family="residual", depth=18, shortcut="B", width=8)
        return replace(small(**short), model=model, data=replace(spec, **changes))  # type: ignore[arg-type]

    return make


def test_a_trial_trains_on_photographs_and_survives_a_kill_bit_for_bit(
    trial: Callable[..., Trial], execution: Execution
) -> None:
    its, killed = trial(), replace(execution, storage=execution.storage.with_name("killed"))
    state = TrainState(its, CPU)
    for _ in islice(train(its, state, arrays.load(its.data, execution.data_root)), 5):
        pass
    state.save(killed.trial_folder(its.id) / "checkpoints")
    tags = []
    for one in (execution, killed):
        assert worker.run_trial(its, one, {"profile": "test"}) == "finished"
        tags.append(read_account(one.trial_folder(its.id)).tags)
    for name in ("records_sha256", "layers_sha256", "test_wrong_sha256", "data_digest", *RECALIBRATED):
        assert tags[0][name] == tags[1][name]
    assert tags[0]["data_digest"] == its.data.digest and "damaged_images" not in tags[0]
    weights = [
        TrainState.restore_or_create(its, one.trial_folder(its.id) / "checkpoints", CPU).net.state_dict()
        for one in (execution, killed)
    ]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    records = read_records(execution.trial_folder(its.id)).to_pylist()
    assert [record["iteration"] for record in records] == [2, 4, 6, 8]
    wrong = run_in(execution.trial_folder(its.id), its).wrong
    assert wrong is not None and records[-1]["test_error_pct"] == 100 * int(wrong.flags().sum()) / wrong.images


def test_a_run_names_the_images_that_were_damaged(trial: Callable[..., Trial], execution: Execution) -> None:
    trial()
    for number in range(12):
        write(execution.data_root / "photographs" / "train" / "china" / f"{number:03d}.jpg", b"no image")
    its = trial(held_out=0)
    assert worker.run_trial(its, execution, {"profile": "test"}) == "finished"
    said = read_account(execution.trial_folder(its.id)).tags["damaged_images"]
    assert said.startswith("12: train/china/000.jpg, train/china/001.jpg, ") and said.endswith("009.jpg, ...")
