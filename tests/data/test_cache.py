"""The cache of decoded images: filled by several, found again, never trusted blindly, never larger than allowed."""

from __future__ import annotations

import errno
import multiprocessing
import os
import resource
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision import transforms
from typer.testing import CliRunner

from pochitrain.cli import app
from pochitrain.data import cache
from pochitrain.data.cache import disk_store, memory_store, open_store, pipeline_key
from pochitrain.data.reading import Samples
from pochitrain.data.store import Pixels, Store, stored_pipelines
from pochitrain.errors import ConfigError
from tests.data.pictures import picture

STEPS = (transforms.Resize((8, 8)),)
KEY = pipeline_key(STEPS)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("POCHI_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(cache, "_in_memory", {})
    return tmp_path / "cache"


def on_disk(limit_bytes: int = 10**7) -> Store:
    return disk_store(KEY, STEPS, limit_bytes)


def pixels(number: int) -> Pixels:
    return np.random.default_rng(number).integers(0, 256, (8, 8, 3), dtype=np.uint8)


def key(number: int) -> bytes:
    return number.to_bytes(16, "little")


def never() -> tuple[str, Pixels]:
    raise AssertionError("made again")


@pytest.mark.parametrize("lasting", [True, False])
def test_what_was_added_is_read_again_also_by_others(lasting: bool) -> None:
    store = on_disk() if lasting else memory_store("x", 10**7)
    for number in range(20):
        store.add([key(number)], "RGB", pixels(number))
    other = Store(*store.paths, 10**7, lasting=lasting)
    for number in range(20):
        place = other.find(key(number))
        assert place is not None
        assert np.array_equal(other.read(place), pixels(number))
    assert other.find(key(20)) is None
    assert (other.count(), other.used_bytes) == (20, 20 * 192)


@pytest.mark.parametrize("kind", ["L", "image", "tensor"])
def test_every_kind_comes_back_in_its_shape(kind: str) -> None:
    array = np.arange(5 * 7, dtype=np.uint8).reshape(5, 7)
    array = array if kind == "L" else np.stack([array, array + 1, array + 2])
    store = on_disk()
    place = store.add([key(1)], kind, array)
    assert place is not None
    assert np.array_equal(store.read(place), array)


def _fill(paths: tuple[str, str], numbers: list[int]) -> None:
    store = Store(*paths, 10**7, lasting=True)
    for number in numbers:
        store.add([key(number)], "RGB", pixels(number))


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_processes_that_fill_it_at_once_add_each_image_once() -> None:
    store, fork = on_disk(), multiprocessing.get_context("fork")
    orders = [list(range(200)), list(reversed(range(200))), list(range(100, 200)) + list(range(100))]
    processes = [fork.Process(target=_fill, args=(store.paths, order)) for order in orders]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0
    assert store.find(key(199)) is not None
    assert (store.count(), store.used_bytes) == (200, 200 * 192)
    for number in range(200):
        place = store.find(key(number))
        assert place is not None
        assert np.array_equal(store.read(place), pixels(number))


def test_a_file_is_found_by_its_content_after_a_copy_and_anew_after_a_change(tmp_path: Path) -> None:
    path, made = tmp_path / "a.png", []

    def make() -> tuple[str, Pixels]:
        made.append(1)
        return "RGB", pixels(len(made))

    picture(1).save(path)
    first = on_disk().image(str(path), make)
    assert on_disk().image(str(path), never) == first  # a later run
    copy = tmp_path / "elsewhere.png"
    copy.write_bytes(path.read_bytes())
    assert on_disk().image(str(copy), never) == first
    picture(2).save(path)
    assert on_disk().image(str(path), make) != first
    assert len(made) == 2


def samples_of(paths: list[str], store: Store) -> Samples:
    samples = Samples(paths, [0] * len(paths), transforms.Compose([*STEPS, transforms.ToTensor()]), 1, "val")
    samples.keep_in(store)
    return samples


def test_a_damaged_image_is_decoded_again(tmp_path: Path) -> None:
    paths = [str(tmp_path / f"{number}.png") for number in range(3)]
    for number, path in enumerate(paths):
        picture(number).save(path)
    positions = [(1, index) for index in range(3)]
    wanted, _labels, _failures = samples_of(paths, on_disk()).__getitems__(positions)
    file = Path(on_disk().paths[0])
    data = bytearray(file.read_bytes())
    data[192 + 5] ^= 1
    file.write_bytes(data)
    store = on_disk()
    place = store.image(paths[1], never)
    assert place is not None
    with pytest.raises(OSError, match="damaged"):
        store.read(place)
    samples = samples_of(paths, store)
    for _epoch in range(2):
        images, _labels, failures = samples.__getitems__(positions)
        assert torch.equal(images, wanted)
        assert failures == []


def test_a_record_that_was_cut_off_or_damaged_is_passed_over() -> None:
    store = on_disk()
    for number in range(3):
        store.add([key(number)], "RGB", pixels(number))
    index = Path(store.paths[1])
    data = bytearray(index.read_bytes())
    data[-60] ^= 1  # in the record before the last
    index.write_bytes(data[:-1])
    store = on_disk()
    assert [store.find(key(number)) is not None for number in range(3)] == [True, False, False]
    for number in range(3):
        place = store.add([key(number)], "RGB", pixels(number))
        assert place is not None
        assert np.array_equal(store.read(place), pixels(number))
    again = on_disk()
    assert [again.find(key(number)) is not None for number in range(3)] == [True, True, True]


def test_a_disk_that_is_full_ends_the_filling_not_the_training() -> None:
    store = on_disk()
    store.add([key(0)], "RGB", pixels(0))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (300, hard))
    try:
        assert store.add([key(1)], "RGB", pixels(1)) is None
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert store.full
    place = on_disk().find(key(0))
    assert place is not None
    assert np.array_equal(on_disk().read(place), pixels(0))
    assert on_disk().find(key(1)) is None


def test_pipelines_that_were_not_used_for_longest_make_room(folder: Path) -> None:
    steps = [(transforms.Resize(size),) for size in (8, 9, 10)]
    for age, one in enumerate(steps):
        store = disk_store(pipeline_key(one), one, 10**6)
        for number in range(5):
            store.add([key(number)], "RGB", pixels(number))
        os.utime(folder / pipeline_key(one), (time.time() - 100 + age,) * 2)
    newest = disk_store(pipeline_key(STEPS + STEPS), STEPS, 5 * 192 + 1)
    assert [one.key for one in stored_pipelines()] == [pipeline_key(STEPS + STEPS), pipeline_key(steps[2])]
    assert newest.limit_bytes == 1
    assert newest.add([key(1)], "RGB", pixels(1)) is None


def test_the_key_is_that_of_the_steps() -> None:
    assert pipeline_key((transforms.Resize((8, 8)),)) == KEY
    assert pipeline_key((transforms.Resize((8, 9)),)) != KEY
    assert pipeline_key(()) != KEY


def test_which_one_is_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "free_memory", lambda: 2000)
    monkeypatch.setattr(cache, "free_disk", lambda: 10000)

    def opened(wanted: str, count: int, limit_gb: float | None = None) -> str:
        store = open_store(wanted, STEPS, count, 100, limit_gb)
        return "none" if store is None else f"{'disk' if store.lasting else 'memory'} {store.limit_bytes}"

    assert opened("auto", 10) == "memory 1000"
    assert opened("auto", 11) == "disk 2000"
    assert opened("auto", 21) == "memory 1000"  # as many as fit
    assert opened("auto", 10, 5e-7) == "memory 500"
    assert opened("disk", 1) == "disk 2000"
    assert opened("off", 1) == "none"
    assert cache.free_memory() > 0


def test_a_folder_that_cannot_be_written_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("POCHI_CACHE_DIR", str(tmp_path / "file" / "cache"))
    with pytest.raises(ConfigError, match=os.strerror(errno.ENOTDIR)) as caught:
        on_disk()
    assert "POCHI_CACHE_DIR" in caught.value.problems[0].mend


def test_the_cache_is_listed_and_cleared() -> None:
    store = on_disk()
    for number in range(3):
        store.add([key(number), key(number + 10)], "RGB", pixels(number))
    run = CliRunner()
    listed = run.invoke(app, ["cache", "list"])
    assert listed.exit_code == 0
    assert KEY[:12] in listed.output
    assert "Resize" in listed.output
    assert " 3 " in listed.output
    assert isinstance(run.invoke(app, ["cache", "clear", "0" * 8]).exception, ConfigError)
    assert run.invoke(app, ["cache", "clear", KEY[:12]]).exit_code == 0
    assert stored_pipelines() == []
    place = store.find(key(1))
    assert place is not None
    assert np.array_equal(store.read(place), pixels(1))  # who reads it keeps it
    assert "empty" in run.invoke(app, ["cache", "list"]).output
