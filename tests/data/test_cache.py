"""The cache of decoded images: filled by several, found again, never trusted blindly, never larger than allowed."""

from __future__ import annotations

import errno
import fcntl
import multiprocessing
import os
import pickle
import resource
import sys
import threading
import time
from pathlib import Path
from typing import Any

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


@pytest.mark.parametrize("sealed", [True, False])
def test_an_image_is_looked_at_in_place_where_its_file_cannot_shrink(
    sealed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_given: Any) -> int:
        raise OSError(errno.EINVAL, "no seals here")

    if not sealed:
        monkeypatch.setattr(fcntl, "fcntl", refused)
    monkeypatch.setattr(cache, "_in_memory", {})
    store = memory_store(f"seen, sealed {sealed}", 10**7)
    seen = []
    for number in range(3000):  # the file grows, and an array that was given stays good
        place = store.add([key(number)], "RGB", pixels(number))
        assert place is not None
        if number % 500 == 0:
            seen.append((number, store.view(place)))
    assert all(np.array_equal(array, pixels(number)) for number, array in seen)
    assert [array.flags.writeable for _number, array in seen] == [not sealed] * 6
    if sealed:
        with pytest.raises(PermissionError):
            os.truncate(store.paths[0], 0)


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


@pytest.mark.parametrize("lasting", [True, False])
def test_a_file_that_is_rewritten_in_place_is_made_anew_even_with_its_old_date(tmp_path: Path, lasting: bool) -> None:
    path, store = tmp_path / "a.png", on_disk() if lasting else memory_store("x", 10**7)
    path.write_bytes(b"first")
    status = os.stat(path)
    first = store.image(str(path), lambda: ("RGB", pixels(1)))
    while os.stat(path).st_ctime_ns == status.st_ctime_ns:  # the clock of a file system ticks in milliseconds
        path.write_bytes(b"other")
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    second = store.image(str(path), lambda: ("RGB", pixels(2)))
    assert first is not None
    assert second is not None
    assert np.array_equal(store.read(second), pixels(2))


def test_a_file_that_is_replaced_while_it_is_decoded_is_not_kept(tmp_path: Path) -> None:
    path, store = tmp_path / "a.png", on_disk()
    path.write_bytes(b"first")

    def make() -> tuple[str, Pixels]:
        (tmp_path / "new").write_bytes(b"second")
        os.replace(tmp_path / "new", path)
        return "RGB", pixels(2)

    assert store.image(str(path), make) is None
    path.write_bytes(b"first")
    assert store.image(str(path), lambda: ("RGB", pixels(1))) is not None
    assert store.count() == 1


def test_threads_that_look_at_once_miss_nothing_of_what_another_process_adds() -> None:
    """Both would pass over the same records, and the image that comes next would be written over another one."""
    store, count, interval = memory_store("x", 10**7), 0, sys.getswitchinterval()
    other = Store(*store.paths, 10**7, lasting=False)
    sys.setswitchinterval(1e-6)
    try:
        for _round in range(60):
            threads = [threading.Thread(target=store.find, args=(key(10**9),)) for _ in range(8)]
            for adding in (other, other, other, None, other, store):
                if adding is None:
                    for thread in threads:
                        thread.start()
                    for thread in threads:
                        thread.join()
                else:
                    adding.add([key(count)], "RGB", pixels(count))
                    count += 1
    finally:
        sys.setswitchinterval(interval)
    again = Store(*store.paths, 10**7, lasting=False)
    for number in range(count):
        place = again.find(key(number))
        assert place is not None
        assert np.array_equal(again.read(place), pixels(number))


def samples_of(paths: list[str], store: Store) -> Samples:
    samples = Samples(paths, [0] * len(paths), transforms.Compose([*STEPS, transforms.ToTensor()]), 1, "val")
    samples.keep_in(store)
    return samples


def test_a_damaged_image_is_decoded_again_once(tmp_path: Path) -> None:
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
    later = on_disk()
    mended = later.image(paths[1], never)
    assert mended is not None
    assert mended != place
    assert later.read(mended).tobytes() == STEPS[0](picture(1)).tobytes()


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
    assert newest.limit_bytes - newest.others_bytes() == 1
    assert newest.add([key(1)], "RGB", pixels(1)) is None


@pytest.mark.parametrize("wanted", ["memory", "disk"])
def test_the_stores_of_a_training_keep_the_limit_together(wanted: str) -> None:
    stores = [open_store(wanted, (transforms.Resize(size),), 10, 192, 1921e-9) for size in (8, 9)]
    for number in range(10):
        for store in stores:
            assert store is not None
            store.add([key(number)], "RGB", pixels(number))
    assert [store.used_bytes for store in stores if store is not None] == [5 * 192, 5 * 192]


def test_in_memory_the_oldest_make_room_but_not_the_store_of_the_same_training() -> None:
    limit = 10 * 192
    for name in ("old", "training"):
        store = memory_store(name, limit, 5 * 192)
        for number in range(5):
            store.add([key(number)], "RGB", pixels(number))
    assert set(cache._in_memory) == {"old", "training"}
    memory_store("validation", limit, 5 * 192)
    assert set(cache._in_memory) == {"training", "validation"}
    memory_store("large", limit, 50 * 192)
    assert set(cache._in_memory) == {"validation", "large"}


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
    monkeypatch.setattr(cache, "_in_memory", {})
    assert opened("auto", 6) == "memory 1000"
    other = open_store("auto", (transforms.Resize((9, 9)),), 6, 100, None)
    assert other is not None
    assert other.lasting  # beside the first it would not fit
    monkeypatch.setattr(cache, "_sharers", 1)
    cache.share_memory(4)
    assert opened("memory", 10) == "memory 250"
    assert opened("memory", 10, 5e-7) == "memory 500"
    assert cache.free_memory() > 0


@pytest.mark.parametrize("place", ["file/cache", "n" * 300])
def test_without_a_folder_that_can_be_written_memory_serves_who_did_not_ask_for_the_disk(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("POCHI_CACHE_DIR", str(tmp_path / place))
    monkeypatch.setattr(cache, "free_memory", lambda: 2000)
    store = open_store("auto", STEPS, 11, 100, None)
    assert store is not None
    assert (store.lasting, store.limit_bytes) == (False, 1000)


def test_in_a_container_files_that_were_read_do_not_count_as_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache, "_CGROUP", tmp_path)
    monkeypatch.setattr(cache, "_OUR_GROUPS", tmp_path / "ours")
    (tmp_path / "ours").write_text("0::/job/task\n")
    folder = tmp_path / "job"  # the limit of a group around ours counts
    folder.mkdir()
    (folder / "memory.current").write_text("1000000\n")
    (folder / "memory.stat").write_text("anon 300000\ninactive_file 600000\n")
    (folder / "memory.max").write_text("1000000\n")
    assert cache.free_memory() == 600000
    (folder / "memory.max").write_text("max\n")
    assert cache.free_memory() > 600000
    (tmp_path / "ours").write_text("5:cpu:/\n3:memory,hugetlb:/docker/7\n")  # version 1; inside, its folder is the root
    folder = tmp_path / "memory"
    folder.mkdir()
    (folder / "memory.usage_in_bytes").write_text("1000000\n")
    (folder / "memory.stat").write_text("inactive_file 1\ntotal_inactive_file 500000\n")
    (folder / "memory.limit_in_bytes").write_text("1000000\n")
    assert cache.free_memory() == 500000


def test_a_smaller_limit_begins_anew_and_spares_the_other_part_of_the_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("POCHI_CACHE_DIR", str(tmp_path))
    for key in ("a" * 24, "b" * 24, "c" * 24):
        store = disk_store(key, STEPS, 10_000)
        assert store.add([key[:16].encode()], "RGB", np.zeros((20, 20, 3), np.uint8)) is not None
    assert disk_store("b" * 24, STEPS, 1500).used_bytes == 1200
    assert sorted(folder.name[0] for folder in tmp_path.iterdir()) == ["b", "c"]
    assert disk_store("c" * 24, STEPS, 1000).used_bytes == 0


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


def test_what_a_power_failure_left_of_a_folder_can_be_listed_and_cleared(folder: Path) -> None:
    on_disk().add([key(1)], "RGB", pixels(1))
    (folder / KEY / "pipeline.json").write_text("")
    (folder / "photos").mkdir()  # POCHI_CACHE_DIR may be a folder that holds other things
    for name in ("pixels", "index", "pipeline.json"):
        (folder / "photos" / name).write_text("{}")
    assert [(one.key, one.steps, one.images) for one in stored_pipelines()] == [(KEY, "?", 1)]
    on_disk()
    assert [one.steps for one in stored_pipelines()] == ["Resize"]
    assert CliRunner().invoke(app, ["cache", "clear"]).exit_code == 0
    assert [path.name for path in folder.iterdir()] == ["photos"]


def test_a_loading_process_that_comes_after_the_clearing_does_without(tmp_path: Path) -> None:
    picture(1).save(tmp_path / "a.png")
    samples = samples_of([str(tmp_path / "a.png")], on_disk())
    wanted, _labels, _failures = samples.__getitems__([(1, 0)])
    travelling = pickle.dumps(samples)  # as to a process that is spawned
    CliRunner().invoke(app, ["cache", "clear"])
    there = pickle.loads(travelling)
    assert there.store is None
    assert torch.equal(there.__getitems__([(1, 0)])[0], wanted)
