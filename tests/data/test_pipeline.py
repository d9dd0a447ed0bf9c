"""However a batch is made (cached or not, in processes or threads, whole or image by image), it is the same to the bit."""

from __future__ import annotations

import functools
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter
from torch import Tensor, nn
from torchvision import transforms as v1
from torchvision.transforms import v2

from pochitrain import deterministic
from pochitrain.data import cache, reading
from pochitrain.data.cache import disk_store, memory_store, pipeline_key
from pochitrain.data.decode import decode_image
from pochitrain.data.loaders import Loader
from pochitrain.data.pipeline import Plan, plan_of
from pochitrain.data.reading import Samples
from pochitrain.data.store import Store
from pochitrain.engine import feed
from pochitrain.engine.feed import reading_ahead, typical, usable_cores
from pochitrain.engine.predict import predict
from pochitrain.errors import DataError
from pochitrain.randomness import permutation, seed_everything
from tests.data import zoo
from tests.data.pictures import picture

CPU = torch.device("cpu")
pytestmark = [
    pytest.mark.filterwarnings("ignore:This DataLoader will create"),
    pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning"),
]
MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
V2_END = [v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, STD)]


@deterministic
def sharpened(image: Image.Image) -> Image.Image:
    return image.filter(ImageFilter.SHARPEN)


# transform → how many steps are done (once per image, per image and epoch), and whether whole batches are finished
PIPELINES: dict[str, tuple[Any, tuple[int, int, bool]]] = {
    "ToTensor alone": (v1.Compose([v1.Resize((20, 20)), v1.ToTensor()]), (1, 0, True)),
    "validation": (
        v1.Compose([v1.Resize(24), v1.CenterCrop(20), v1.ToTensor(), v1.Normalize(MEAN, STD)]), (2, 0, True),
    ),
    "grey": (
        v1.Compose([v1.Grayscale(3), v1.Resize((20, 22)), v1.ToTensor(), v1.Normalize([0.5], [0.5])]), (2, 0, True),
    ),
    "padded and flipped": (
        v1.Compose([
            v1.Resize((20, 20)), v1.Pad(2), v1.RandomCrop(20), v1.RandomHorizontalFlip(), v1.ToTensor(),
            v1.Normalize(MEAN, STD),
        ]), (2, 2, True),
    ),
    "random crop": (
        v1.Compose([
            v1.RandomResizedCrop(16), v1.RandomHorizontalFlip(), v1.ColorJitter(0.2, 0.2, 0.2, 0.1), v1.ToTensor(),
            v1.Normalize(MEAN, STD),
        ]), (0, 3, True),
    ),
    "padded crop": (
        v1.Compose([
            v1.Resize((20, 20)), v1.RandomCrop(20, padding=4), v1.RandomHorizontalFlip(), v1.ToTensor(),
            v1.Normalize(MEAN, STD),
        ]), (1, 2, True),
    ),
    "crop of v2, of the image": (
        v2.Compose([v2.RandomResizedCrop(16), v2.RandomVerticalFlip(), v2.ToImage(), *V2_END]), (0, 2, True),
    ),
    "crop of grey": (
        v1.Compose([v1.Grayscale(), v1.RandomCrop(16), v1.RandomHorizontalFlip(), v1.ToTensor()]), (1, 2, True),
    ),
    "erasing": (
        v1.Compose([v1.Resize((20, 20)), v1.ToTensor(), v1.Normalize(MEAN, STD), v1.RandomErasing(0.5)]), (1, 3, False),
    ),
    "random choice": (
        v1.Compose([
            v1.Resize((20, 20)), v1.RandomChoice([v1.RandomRotation(20), v1.RandomHorizontalFlip(1.0)]),
            v1.RandomApply([v1.GaussianBlur(3)]), v1.ToTensor(),
        ]), (1, 2, True),
    ),
    "autoaugment": (v1.Compose([v1.Resize((20, 20)), v1.TrivialAugmentWide(), v1.ToTensor()]), (1, 1, True)),
    "nested": (
        v1.Compose([v1.Compose([v1.Resize((20, 20))]), nn.Sequential(v1.CenterCrop(16)), v1.ToTensor()]), (2, 0, True),
    ),
    "dtype": (
        v1.Compose([v1.Resize((20, 20)), v1.PILToTensor(), v1.ConvertImageDtype(torch.float32)]), (1, 0, True),
    ),
    "v2 validation": (v2.Compose([v2.ToImage(), v2.Resize((20, 20)), v2.CenterCrop(16), *V2_END]), (3, 0, True)),
    "v2 on PIL": (v2.Compose([v2.Resize((20, 20)), v2.ToImage(), *V2_END, v2.ToPureTensor()]), (1, 0, True)),
    "v2 training": (
        v2.Compose([v2.ToImage(), v2.RandomResizedCrop(16), v2.RandomHorizontalFlip(), *V2_END]), (0, 3, True),
    ),
    "v2, padded crop": (
        v2.Compose([
            v2.Resize((20, 20)), v2.ToImage(), v2.RandomCrop(20, padding=4), v2.RandomVerticalFlip(), *V2_END,
        ]), (1, 3, True),
    ),
    "v2, bicubic": (
        v2.Compose([
            v2.ToImage(), v2.RandomResizedCrop(16, interpolation=v2.InterpolationMode.BICUBIC), *V2_END,
        ]), (0, 2, True),
    ),
    "v2, crop and colours": (
        v2.Compose([v2.ToImage(), v2.RandomResizedCrop(16), v2.ColorJitter(0.2, 0.2), *V2_END]), (1, 2, True),
    ),
    "crop of a tensor": (
        v1.Compose([
            v1.PILToTensor(), v1.RandomResizedCrop(16), v1.RandomHorizontalFlip(),
            v1.ConvertImageDtype(torch.float32), v1.Normalize(MEAN, STD),
        ]), (0, 3, True),
    ),
    "v2 float first": (
        v2.Compose([
            v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Resize((20, 20)), v2.RandomHorizontalFlip(),
            v2.Normalize(MEAN, STD),
        ]), (1, 4, False),
    ),
    "drawn in the order of memory": (
        v2.Compose([v2.ToImage(), v2.Resize((20, 20)), v2.ToDtype(torch.float32, scale=True), v2.GaussianNoise()]),
        (2, 2, False),
    ),
    "drawn for each byte": (
        v1.Compose([
            v1.PILToTensor(), v1.CenterCrop(20), v1.Lambda(lambda image: image | torch.randint_like(image, 2)),
            v1.ConvertImageDtype(torch.float32),
        ]), (2, 1, True),
    ),
    "one channel three times": (
        v2.Compose([
            v2.ToImage(), v2.Resize((20, 20)), v2.Grayscale(3), v2.ToDtype(torch.float32, scale=True),
            v2.GaussianNoise(),
        ]), (3, 2, False),
    ),
    "sometimes one channel": (
        v2.Compose([
            v2.ToImage(), v2.Resize((20, 20)), v2.RandomApply([v2.Grayscale(1)], 0.4),
            v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, STD),
        ]), (2, 1, True),
    ),
    "own step": (v1.Compose([v1.Resize((20, 20)), sharpened, v1.ToTensor()]), (2, 0, True)),
    "own lambda": (v1.Compose([v1.Resize((20, 20)), v1.Lambda(lambda image: image), v1.ToTensor()]), (1, 1, True)),
    "own function": (lambda image: v1.functional.to_tensor(image.resize((9, 9))), (0, 1, False)),
    "own end": (v1.Compose([v1.Resize((20, 20)), v1.ToTensor(), lambda tensor: tensor * 2]), (1, 2, False)),
}  # fmt: skip


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Return thirteen images of different sizes and shapes."""
    folder = tmp_path_factory.mktemp("images")
    for number in range(13):
        picture(number, (30 + 3 * number, 50 - 2 * number)).save(folder / f"{number:02}.png")
    return sorted(map(str, folder.iterdir()))


def loader_of(
    paths: list[str], transform: Any, purpose: str, *, store: Store | None = None, workers: int = 0, together: int = 1
) -> Loader:
    samples = Samples(paths, list(range(len(paths))), transform, 7, purpose)
    samples.confirm_plan((0, 1), CPU)
    if store is not None:
        samples.keep_in(store)
    return Loader(
        samples, batch_size=5, shuffle=purpose == "augment", workers=workers, device=CPU, pin_memory=False,
        timeout_seconds=20, skip_failures=False, channels_last=True, ahead=0 if workers else 4, threads=2,
        together=together,
    )  # fmt: skip


def expected(paths: list[str], transform: Any, epoch: int, purpose: str) -> Tensor:
    """Return the images of an epoch as the transform itself makes them, one by one."""
    augmented = purpose == "augment"
    order = permutation(len(paths), 7, "order", epoch) if augmented else range(len(paths))
    images = []
    for index in order:
        seed_everything(7, purpose, epoch if augmented else 0, index)
        images.append(transform(decode_image(paths[index])).as_subclass(Tensor))
    return torch.stack(images)


def given(loader: Loader, epoch: int) -> Tensor:
    return torch.cat([images for images, _labels in loader.epoch(epoch)])


@pytest.mark.parametrize("name", PIPELINES)
def test_a_plan_gives_what_the_transform_gives(
    name: str, paths: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("POCHI_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(reading, "WORTH_SECONDS", 0)  # what threads may crop, they do
    transform, parts = PIPELINES[name]
    plan = plan_of(transform)
    assert (len(plan.once), len(plan.each), plan.finish is not None) == parts
    for purpose in ("augment", "val"):
        wanted = [expected(paths, transform, epoch, purpose) for epoch in (1, 2)]
        for store in (None, memory_store(name + purpose, 10**8), disk_store(pipeline_key(plan.once), plan.once, 10**8)):
            loader = loader_of(paths, transform, purpose, store=store, together=1 if store is None else 3)
            assert (loader.samples.plan.once, loader.samples.plan.each) == (plan.once, plan.each)  # found to be right
            for epoch in (1, 2):
                images = given(loader, epoch)
                assert images.dtype == torch.float32
                assert torch.equal(images, wanted[epoch - 1])
            loader.close()
            assert store is None or store.count() == (0 if name == "one channel three times" else len(paths))


@pytest.mark.parametrize("random", [[], [v1.RandomHorizontalFlip()]], ids=["fixed", "flipped"])
@pytest.mark.parametrize(
    ("step", "none_to_do"),
    [
        (v1.Resize((20, 30)), True),
        (v2.Resize([20, 30]), True),
        (v1.CenterCrop((20, 30)), True),
        (v1.Resize(20), False),  # the shorter side: nothing to do either, but that is for the step to know
        (v1.Resize((30, 20)), False),
        (v2.CenterCrop(20), False),
        (v1.Grayscale(3), False),
    ],
    ids=repr,
)
def test_a_step_is_spared_an_image_that_has_its_size(
    step: Any, none_to_do: bool, random: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(3):
        picture(number, (30, 20)).save(tmp_path / f"{number}.jpg")
    files, transform = sorted(map(str, tmp_path.iterdir())), v1.Compose([step, *random, v1.ToTensor()])
    wanted = [expected(files, transform, epoch, "augment") for epoch in (1, 2)]
    monkeypatch.setattr(cache, "_in_memory", {})
    loader = loader_of(files, transform, "augment", store=memory_store("spared", 10**8))
    prepared: list[Any] = []
    prepare = Plan.prepare
    monkeypatch.setattr(Plan, "prepare", lambda plan, image: prepared.append(image) or prepare(plan, image))
    assert all(torch.equal(given(loader, epoch), wanted[epoch - 1]) for epoch in (1, 2))
    assert len(prepared) == (0 if none_to_do else 3)
    loader.close()


LARGE = {  # what torch computes otherwise in two threads than in one, from 32 768 values on
    "colours": [
        v1.Resize((224, 224)), v1.ToTensor(), v1.ColorJitter(0.3, 0.3, 0.3, 0.1), v1.RandomCrop(112),
        v1.Normalize(MEAN, STD),
    ],
    "crop without antialias": [
        v1.PILToTensor(), v1.RandomResizedCrop(112, antialias=False), v1.RandomHorizontalFlip(),
        v1.ConvertImageDtype(torch.float32),
    ],
    "resized without antialias": [
        v1.PILToTensor(), v1.Resize((150, 150), antialias=False), v1.RandomHorizontalFlip(),
        v1.ConvertImageDtype(torch.float32),
    ],
    "crop of v2": [v2.ToImage(), v2.RandomResizedCrop(112), v2.RandomHorizontalFlip(), *V2_END],
    "crop of v1": [v1.RandomResizedCrop(112), v1.RandomHorizontalFlip(), v1.ToTensor()],
}  # fmt: skip


@pytest.mark.parametrize("name", LARGE)
def test_the_number_of_threads_changes_nothing(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(7):
        picture(number, (180 + 9 * number, 250 - 7 * number)).save(tmp_path / f"{number}.png")
    files, transform = sorted(map(str, tmp_path.iterdir())), v1.Compose(LARGE[name])
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        wanted = torch.cat([expected(files, transform, epoch, "augment") for epoch in (1, 2)])
        torch.set_num_threads(2)
        several = torch.cat([expected(files, transform, epoch, "augment") for epoch in (1, 2)])
        assert torch.equal(several, wanted) == name.startswith("crop of")  # else nothing would be tried here
        for workers, cached, worth_seconds in ((0, False, 0), (0, True, 0), (0, True, 9), (1, True, 0)):
            monkeypatch.setattr(reading, "WORTH_SECONDS", worth_seconds)
            monkeypatch.setattr(cache, "_in_memory", {})
            store = memory_store(name, 10**8) if cached else None
            loader = loader_of(files, transform, "augment", store=store, workers=workers)
            assert torch.equal(torch.cat([given(loader, epoch) for epoch in (1, 2)]), wanted)
            loader.close()
            assert torch.get_num_threads() == 2
            with ThreadPoolExecutor(1) as later:
                assert later.submit(torch.get_num_threads).result() == 2
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("name", ["validation", "padded and flipped"])
def test_loading_processes_share_the_store_and_change_nothing(name: str, paths: list[str]) -> None:
    transform, store = PIPELINES[name][0], memory_store(f"shared {name}", 10**8)
    loader = loader_of(paths, transform, "augment", store=store, workers=2)
    for epoch in (1, 2, 3):
        assert torch.equal(given(loader, epoch), expected(paths, transform, epoch, "augment"))
    loader.close()
    store.find(b"")  # learn of what the processes have added
    assert store.count() == len(paths)


def test_a_full_store_keeps_what_fits(paths: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "_in_memory", {})  # whose sizes count
    transform, store = PIPELINES["validation"][0], memory_store("small", 3 * 20 * 20 * 3)
    loader = loader_of(paths, transform, "val", store=store)
    for epoch in (1, 2):
        assert torch.equal(given(loader, epoch), expected(paths, transform, epoch, "val"))
    assert store.count() == 3
    assert store.used_bytes <= store.limit_bytes


def test_a_step_that_draws_although_it_is_marked_is_found_out(paths: list[str]) -> None:
    @deterministic
    def noisy(image: Image.Image) -> Image.Image:
        return image.rotate(float(torch.rand(1)) * 90)

    transform = v1.Compose([noisy, v1.Resize((20, 20)), v1.ToTensor()])
    loader = loader_of(paths, transform, "augment")
    assert loader.samples.plan.each == (transform,)
    assert torch.equal(given(loader, 2), expected(paths, transform, 2, "augment"))


def test_a_step_that_is_derived_from_a_known_one_is_not_known() -> None:
    class Shaken(v1.Resize):
        def forward(self, image: Any) -> Any:
            return super().forward(v1.RandomRotation(30)(image))

    assert plan_of(v1.Compose([Shaken((8, 8)), v1.ToTensor()])).once == ()


def test_a_step_that_is_derived_from_a_marked_one_is_not_marked() -> None:
    @deterministic
    class Sharpened:
        def __call__(self, image: Image.Image) -> Image.Image:
            return sharpened(image)

    class Sometimes(Sharpened):
        def __call__(self, image: Image.Image) -> Image.Image:
            return super().__call__(image) if torch.rand(1) < 0.9 else image

    @functools.wraps(sharpened)
    def turned(image: Image.Image) -> Image.Image:
        return sharpened(image).rotate(float(torch.rand(1)) * 90)

    class Shaken(v1.Lambda):
        def __call__(self, image: Image.Image) -> Image.Image:
            return v1.RandomRotation(30)(super().__call__(image))

    for known in (Sharpened(), sharpened, v1.Lambda(sharpened)):
        assert len(plan_of(v1.Compose([known, v1.ToTensor()])).once) == 1
    for unknown in (Sometimes(), turned, Shaken(sharpened)):
        assert plan_of(v1.Compose([unknown, v1.ToTensor()])).once == ()


def test_a_sequence_of_nothing_does_nothing() -> None:
    tail = v1.ToTensor()
    assert plan_of(v1.Compose([])).each == ()
    assert plan_of(v1.Compose([v1.Compose([]), nn.Sequential(), tail])).finish is not None


def test_a_class_of_steps_can_be_marked() -> None:
    @deterministic
    class Turned:
        def __call__(self, image: Image.Image) -> Image.Image:
            return image.rotate(90)

    assert len(plan_of(v1.Compose([Turned(), v1.ToTensor()])).once) == 1


def test_an_image_without_colours_can_be_written_to_when_it_comes_from_the_store(paths: list[str]) -> None:
    def dotted(image: Image.Image) -> Image.Image:
        pixels: Any = image.load()
        pixels[0, 0] = 255
        return image

    three = v1.Lambda(lambda tensor: tensor.expand(3, -1, -1))
    transform = v1.Compose([v1.Resize((8, 8)), v1.Grayscale(1), dotted, v1.ToTensor(), three])
    loader = loader_of(paths, transform, "val", store=memory_store("dotted", 10**8))
    for epoch in (1, 2):
        assert torch.equal(given(loader, epoch), expected(paths, transform, epoch, "val"))
    loader.close()


def test_an_unreadable_image_does_not_hide_that_a_plan_is_wrong(paths: list[str], tmp_path: Path) -> None:
    @deterministic
    def turned(image: Image.Image) -> Image.Image:
        return image.rotate(float(torch.rand(1)) * 90)

    (tmp_path / "broken.png").write_bytes(b"no image")
    files = [str(tmp_path / "broken.png"), *paths]
    transform = v1.Compose([turned, v1.Resize((8, 8)), v1.ToTensor()])
    samples = Samples(files, [0] * len(files), transform, 7, "val")
    samples.confirm_plan((0, 1), CPU)
    assert samples.plan.each == (transform,)
    judged = predict(
        Pixels(), [str(n) for n in range(192)], files, None, transform,
        batch_size=5, workers=0, device=CPU, precision="fp32", seed=7,
    )  # fmt: skip
    assert len(judged.broken) == 1
    wanted = []
    for index, path in enumerate(paths, 1):
        seed_everything(7, "val", 0, index)
        wanted.append(transform(decode_image(path)))
    assert torch.equal(torch.from_numpy(judged.logits).view(-1, 3, 8, 8), torch.stack(wanted))


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="Linux alone binds processes to cores")
def test_only_cores_that_this_process_may_use_count() -> None:
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(allowed)})
    try:
        assert usable_cores() == 1
        assert reading_ahead(32, 150_000, 0.01)["threads"] == 1
    finally:
        os.sched_setaffinity(0, allowed)


@pytest.mark.parametrize(
    ("size", "seconds", "expected"),
    [
        (3_000, 5e-5, {"threads": 1, "together": 16, "ahead": 64}),  # 32 px: Python's work alone
        (150_000, 4e-4, {"threads": 3, "together": 5, "ahead": 64}),
        (150_000, 2e-3, {"threads": 6, "together": 1, "ahead": 64}),
        (36_000_000, 0.07, {"threads": 6, "together": 1, "ahead": 7}),  # 12 megapixels: few are ready
        (0, 0.0, {"threads": 6, "together": 1, "ahead": 64}),
    ],
)
def test_small_images_are_left_to_few_threads(
    size: int, seconds: float, expected: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feed, "usable_cores", lambda: 6)
    assert reading_ahead(32, size, seconds) == expected


def test_a_task_leaves_room_for_the_next_where_batches_are_small() -> None:
    assert reading_ahead(4, 3_000, 5e-5) == {"threads": 1, "together": 4, "ahead": 8}


def test_an_image_is_measured_by_those_that_can_be_read(paths: list[str], tmp_path: Path) -> None:
    transform = v1.Compose([v1.Resize((20, 10)), v1.ToTensor()])
    missing = [str(tmp_path / "missing.png")]
    size, seconds = typical(Samples([*missing, *paths], [0] * 14, transform, 7, "val"))
    assert size == 20 * 10 * 3
    assert 0 < seconds < 1
    assert typical(Samples(missing, [0], transform, 7, "val")) == (0, 0.0)


@pytest.mark.parametrize(
    "end",
    [
        [v2.ToImage(), v2.ToDtype(torch.float32)],  # 0 to 255: not scaled
        [v1.ToTensor(), v1.Normalize(MEAN, STD), v1.Normalize(MEAN, STD)],
        [v1.PILToTensor(), v1.ConvertImageDtype(torch.float64)],
        [v1.ToTensor(), v1.Normalize([0.5, 0.5], [1.0, 1.0])],  # fails on three channels, whoever does it
    ],
)
def test_ends_that_are_not_known_stay_per_image(end: list[Any]) -> None:
    plan = plan_of(v1.Compose([v1.Resize((8, 8)), *end]))
    assert plan.finish is None
    assert list(plan.each) == end


class Pixels(nn.Module):
    """Logits that are the pixels: what a model is given can be read off its answers."""

    def forward(self, images: Tensor) -> Tensor:
        return images.flatten(1)


def zoo_files(folder: Path) -> list[str]:
    for specimen in zoo.good_ones():
        (folder / specimen.name).write_bytes(specimen.content)
    return [str(folder / specimen.name) for specimen in zoo.good_ones()]


def test_what_is_cut_out_of_every_kind_of_file_is_the_same_on_arrays(tmp_path: Path) -> None:
    files = zoo_files(tmp_path)
    for number in range(3):
        files.append(str(tmp_path / f"photo{number}.jpg"))
        picture(number).save(files[-1], quality=90)
    transform = v1.Compose([v1.RandomResizedCrop(8), v1.RandomHorizontalFlip(), v1.ToTensor()])
    training = loader_of(files, transform, "augment", store=memory_store("zoo, cut", 10**8))
    assert len(training.samples.plan.arrays) == 2
    for epoch in (1, 2, 3):
        assert torch.equal(given(training, epoch), expected(files, transform, epoch, "augment"))


CROPPED = v1.Compose([v1.RandomResizedCrop(8), v1.RandomHorizontalFlip(), v1.ToTensor()])


@pytest.mark.parametrize(("worth_seconds", "where"), [(0, {"crop", "MainThread"}), (9, {"MainThread"})])
def test_crops_are_made_by_threads_where_that_pays_and_drawn_by_none(
    worth_seconds: float, where: set[str], paths: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first of a batch is made at once: how long that takes decides on the others."""
    monkeypatch.setattr(reading, "WORTH_SECONDS", worth_seconds)
    threads = set()
    resize = v2.functional.resize

    def noted(*given: Any) -> Any:
        threads.add(threading.current_thread().name.partition("_")[0])
        return resize(*given)

    monkeypatch.setattr(cache, "_in_memory", {})
    by_threads, alone = (loader_of(paths, CROPPED, "augment", store=memory_store(name, 10**8)) for name in "ab")
    alone.ahead = 0
    monkeypatch.setattr(v2.functional, "resize", noted)
    for epoch in (1, 2, 3):
        batches, states = [], []
        for loader in (by_threads, alone):
            threads.clear()
            for images, _labels in loader.epoch(epoch):
                batches.append(images)
                states.append(torch.get_rng_state())  # an epoch of the user's own may draw from here on
            assert threads == (where if loader is by_threads else {"MainThread"})
        half = len(by_threads)
        assert len(states) == 2 * half == 6
        assert all(torch.equal(a, b) for a, b in zip(states[:half], states[half:], strict=True))
        for seen in (batches[:half], batches[half:]):
            assert torch.equal(torch.cat(seen), expected(paths, CROPPED, epoch, "augment"))
    by_threads.close()


def test_an_image_of_another_size_than_was_drawn_for_is_drawn_anew(
    paths: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache, "_in_memory", {})
    monkeypatch.setattr(reading, "WORTH_SECONDS", 0)
    loader = loader_of(paths, CROPPED, "augment", store=memory_store("grown", 10**8))
    given(loader, 1)
    samples = loader.samples
    prepare, grown = samples.prepare, np.full((70, 90, 3), 7, dtype=np.uint8)
    grown[20:40] = 200
    for whose in (samples, samples.ahead):
        monkeypatch.setattr(whose, "prepare", lambda index: grown if index == 3 else prepare(index))
    place = permutation(len(paths), 7, "order", 2).index(3)
    seed_everything(7, "augment", 2, 3)
    wanted = CROPPED(Image.fromarray(grown))
    assert torch.equal(given(loader, 2)[place], wanted)
    loader.close()


@pytest.mark.parametrize("worth_seconds", [0, 9])
def test_what_fails_when_it_is_cropped_is_told_with_its_sample(
    worth_seconds: float, paths: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "WORTH_SECONDS", worth_seconds)
    monkeypatch.setattr(cache, "_in_memory", {})
    loader = loader_of(paths, CROPPED, "augment", store=memory_store("failing", 10**8))

    resized, left = v2.functional.resize, [2]

    def fail(*given: Any) -> Any:
        if not left[0]:
            raise ValueError("no such size")
        left[0] -= 1
        return resized(*given)

    monkeypatch.setattr(v2.functional, "resize", fail)
    with pytest.raises(DataError, match="no such size") as told:
        given(loader, 1)
    assert paths[permutation(len(paths), 7, "order", 1)[2]] in str(told.value)
    loader.close()


def test_training_judging_and_the_cache_see_the_same_tensors_for_every_kind_of_file(tmp_path: Path) -> None:
    files = zoo_files(tmp_path)
    transform = v1.Compose([v1.Resize((8, 8)), v1.ToTensor(), v1.Normalize(MEAN, STD)])
    plain = expected(files, transform, 1, "val")
    training = loader_of(files, transform, "val", store=memory_store("zoo", 10**8))
    first, cached = given(training, 1), given(training, 2)
    assert all(place is not None for place in training.samples.places)
    judged = predict(
        Pixels(), [str(n) for n in range(192)], files, None, transform,
        batch_size=5, workers=0, device=CPU, precision="fp32",
    )  # fmt: skip
    assert len(files) > 50
    for seen in (first, cached, torch.from_numpy(judged.logits).view(-1, 3, 8, 8)):
        assert torch.equal(seen, plain)


@pytest.mark.parametrize("together", [1, 3])
def test_what_is_read_ahead_is_bounded_and_let_go(paths: list[str], together: int) -> None:
    """A loop that ends in the middle of an epoch leaves no decoded images behind."""
    decoded: list[str] = []

    @deterministic
    def noted(image: Image.Image) -> Image.Image:
        decoded.append("")
        return image

    loader = loader_of(paths, v1.Compose([noted, v1.Resize((8, 8)), v1.ToTensor()]), "val", together=together)
    decoded.clear()
    batches = loader.epoch(1)
    next(batches)
    assert 5 <= len(decoded) <= 5 + 4 + 2  # the batch, those that are ready, and those in the two threads
    batches.close()  # type: ignore[attr-defined]
    assert loader.samples.ahead is not None
    assert loader.samples.ahead.begun == {}
    loader.close()


def test_images_that_are_read_from_the_store_do_not_stop_the_reading_ahead(
    paths: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    threads = set()

    @deterministic
    def noted(image: Image.Image) -> Image.Image:
        threads.add(threading.current_thread().name)
        return image

    monkeypatch.setattr(cache, "_in_memory", {})
    transform = v1.Compose([noted, v1.Resize((8, 8)), v1.ToTensor()])
    loader = loader_of(paths, transform, "val", store=memory_store("ahead", 10**8))
    loader.batches.batch_size = 2  # two batches are read ahead
    threads.clear()
    for _images, _labels in loader.epoch(1):
        time.sleep(0.05)  # so that what comes next lies in the store when it is asked for
    assert all(name.startswith("decode") for name in threads)
    loader.close()


def test_no_thread_is_at_work_after_an_epoch_that_was_left(paths: list[str]) -> None:
    """A process that is forked while a thread holds the lock of a store would wait for it for ever."""
    at_work: set[int] = set()
    seen: list[Image.Image] = []
    ahead = threading.Event()

    @deterministic
    def slow(image: Image.Image) -> Image.Image:
        at_work.add(threading.get_ident())
        seen.append(image)
        if len(seen) > 5:  # beyond the batch that is asked for
            ahead.set()
            time.sleep(0.2)
        at_work.discard(threading.get_ident())
        return image

    loader = loader_of(paths, v1.Compose([slow, v1.Resize((8, 8)), v1.ToTensor()]), "val")
    seen.clear()
    ahead.clear()
    batches = loader.epoch(1)
    next(batches)
    assert ahead.wait(30)
    batches.close()  # type: ignore[attr-defined]
    assert not at_work
    loader.close()


def test_what_was_waited_for_is_counted_until_it_is_asked_for(paths: list[str]) -> None:
    def slow(image: Image.Image) -> Image.Image:
        time.sleep(0.01)
        return image

    loader = loader_of(paths, v1.Compose([slow, v1.Resize((8, 8)), v1.ToTensor()]), "val")
    given(loader, 1)
    given(loader, 1)
    assert loader.take_waited() > 2 * 0.01 * len(paths)
    assert loader.take_waited() == 0
    loader.close()


def failing(_image: Image.Image) -> Image.Image:
    raise ValueError("no such colour")


@pytest.mark.parametrize("steps", [[deterministic(failing)], [v1.Lambda(failing)]])
@pytest.mark.parametrize("together", [1, 4])
def test_what_fails_ahead_is_told_with_its_sample(
    paths: list[str], steps: list[Callable[..., Any]], together: int
) -> None:
    loader = loader_of(paths, v1.Compose([*steps, v1.ToTensor()]), "val", together=together)
    sample = loader.samples[(1, 3)]
    assert getattr(sample, "reason", "") == "ValueError: no such colour"
    with pytest.raises(Exception, match="no such colour"):
        given(loader, 1)
