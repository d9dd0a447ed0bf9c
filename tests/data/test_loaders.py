"""Batches: what is in them, in which order, and what happens when a sample or a loading process fails."""

from __future__ import annotations

import contextlib
import gc
import multiprocessing
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torchvision import transforms

from pochitrain import load_config, train
from pochitrain.data import loaders
from pochitrain.data.loaders import Batches, Loader, watching
from pochitrain.data.reading import Samples
from pochitrain.engine.loop import fit
from pochitrain.errors import DataError
from pochitrain.history import History
from pochitrain.randomness import permutation
from tests.conftest import pochi
from tests.engine.tiny import fitted, run_of, same_weights, untimed, weights

WriteConfig = Callable[..., Path]
# On a machine with one core torch advises against two workers; from Python 3.12 on, forking beside threads warns.
pytestmark = [
    pytest.mark.filterwarnings("ignore:This DataLoader will create"),
    pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning"),
]


def plain(image: Tensor) -> Tensor:
    return image


def loader_of(items: Any, transform: Callable[[Any], Any] = plain, **settings: Any) -> Loader:
    """Return a loader of (tensor, label) items; with `labels` given the items are paths."""
    labels = settings.pop("labels", None)
    seed, purpose = settings.pop("seed", 42), "augment" if settings.get("shuffle", True) else "val"
    defaults = {
        "batch_size": 4,
        "shuffle": True,
        "workers": 0,
        "device": torch.device("cpu"),
        "pin_memory": False,
        "timeout_seconds": 20,
        "skip_failures": False,
    }
    return Loader(Samples(items, labels, transform, seed, purpose), **{**defaults, **settings})


def numbered(count: int) -> list[tuple[Tensor, int]]:
    """Return samples whose label is their index."""
    return [(torch.full((3, 2, 2), float(index)), index) for index in range(count)]


def seen(loader: Loader, epoch: int = 1, start: int = 0) -> list[list[int]]:
    batches = []
    with contextlib.closing(loader):
        for images, labels in loader.epoch(epoch, start):
            assert images[:, 0, 0, 0].tolist() == labels.tolist()
            batches.append(labels.tolist())
    return batches


# -- order


@pytest.mark.parametrize("count", [1, 2, 7, 8, 9, 23])
@pytest.mark.parametrize("batch_size", [1, 2, 4, 7, 22, 100])
@pytest.mark.parametrize("shuffle", [True, False])
def test_every_image_once_and_none_alone(count: int, batch_size: int, shuffle: bool) -> None:
    batches = Batches(count, batch_size, 42, shuffle=shuffle)
    for epoch in (1, 2):
        batches.epoch = epoch
        found = list(batches)
        assert sorted(index for batch in found for _epoch, index in batch) == list(range(count))
        assert all(number == epoch for batch in found for number, _index in batch)
        sizes = [len(batch) for batch in found]
        assert set(sizes[:-1]) <= {batch_size}
        assert 1 <= sizes[-1] <= batch_size + (batch_size > 1)
        assert sizes[-1] > 1 or batch_size == 1 or count == 1
        assert len(batches) == len(found)


def test_the_order_follows_from_seed_and_epoch_alone() -> None:
    loader = loader_of(numbered(10))
    first, second = seen(loader, 1), seen(loader, 2)
    assert [index for batch in first for index in batch] == permutation(10, 42, "order", 1)
    assert first != second
    assert seen(loader, 1) == first
    assert seen(loader_of(numbered(10), seed=1), 1) != first
    assert seen(loader_of(numbered(10), shuffle=False), 2) == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_start_in_mid_epoch_reads_no_skipped_sample(tmp_path: Path, workers: int) -> None:
    log = tmp_path / "reads"

    class Items:
        def __len__(self) -> int:
            return 14

        def __getitem__(self, index: int) -> tuple[Tensor, int]:
            with log.open("a") as file:
                file.write(f"{index}\n")
            return numbered(14)[index]

    loader = loader_of(Items(), workers=workers)
    order = permutation(14, 42, "order", 3)
    assert seen(loader, epoch=3, start=2) == [order[8:12], order[12:]]
    assert sorted(map(int, log.read_text().split())) == sorted(order[8:])
    log.unlink()
    assert seen(loader, epoch=3, start=4) == []
    assert not log.exists()
    assert [sorted(batch) for batch in seen(loader, epoch=4)] == [
        sorted(b) for b in split(permutation(14, 42, "order", 4))
    ]


def test_a_closed_loader_begins_again() -> None:
    loader = loader_of(numbered(9), workers=1)
    assert seen(loader) == seen(loader)
    assert not children()


def split(order: list[int]) -> list[list[int]]:
    return [order[start : start + 4] for start in range(0, len(order), 4)]


def test_names_of_a_batch() -> None:
    loader = loader_of([f"{n}.png" for n in range(9)], labels=[0] * 9)
    order = permutation(9, 42, "order", 2)
    assert loader.names(2, 1) == [f"{index}.png" for index in order[4:]]
    assert loader_of(numbered(3)).names(1, 0) == [f"sample {index}" for index in permutation(3, 42, "order", 1)]


# -- randomness

DRAWS = """
import random
import numpy as np
optimizer = "Adam"

def train_transform(image):
    tensor = transforms.ToTensor()(image)
    return tensor * random.random() + float(np.random.rand()) + torch.rand(1)
"""


@pytest.mark.parametrize("lines", [DRAWS, DRAWS + "val_transform = train_transform\nval_data_root = train_data_root\n"])
def test_the_number_of_workers_leaves_weights_and_records_alone(write_config: WriteConfig, lines: str) -> None:
    path = write_config(lines)
    alone, history = fitted(path, epochs=3)
    helped, other = fitted(path, epochs=3, num_workers=2)
    assert same_weights(weights(alone), weights(helped))
    assert untimed(history) == untimed(other)


def test_augmentation_differs_between_epochs_and_validation_does_not() -> None:
    def noise(_image: Any) -> Tensor:
        return torch.rand(3, 1, 1)

    from PIL import Image

    items = [(Image.new("RGB", (1, 1)), 0)] * 4
    train, val = loader_of(items, noise), loader_of(items, noise, shuffle=False)
    first, again, second = (sorted(next(train.epoch(n))[0].flatten().tolist()) for n in (1, 1, 2))
    assert first == again
    assert not set(first) & set(second)
    assert len(set(first)) == 12, "every sample draws its own numbers"
    assert torch.equal(next(val.epoch(1))[0], next(val.epoch(2))[0])


# -- samples that cannot be used


class Broken:
    """Nine samples; what `bad` holds is raised or returned instead of the image."""

    def __init__(self, bad: dict[int, Any]) -> None:
        self.bad = bad

    def __len__(self) -> int:
        return 9

    def __getitem__(self, index: int) -> tuple[Any, int]:
        image = self.bad.get(index, torch.zeros(3, 2, 2))
        if isinstance(image, Exception):
            raise image
        return image, index


def problem(loader: Loader) -> tuple[str, str, str]:
    with contextlib.closing(loader), pytest.raises(DataError) as caught:
        list(loader.epoch(1))
    [found] = caught.value.problems
    return found.what, found.where, found.mend


@pytest.mark.parametrize("workers", [0, 1])
def test_a_sample_that_raises_is_named_with_its_reason(workers: int) -> None:
    what, where, mend = problem(loader_of(Broken({5: ZeroDivisionError("by zero")}), workers=workers))
    assert what == "A sample cannot be used: ZeroDivisionError: by zero"
    assert where == "sample 5"
    assert re.match(
        r"correct your code \(.*test_loaders.py:\d+, __getitem__\) or the sample, or set on_bad_image", mend
    )


@pytest.mark.parametrize("workers", [0, 1])
def test_sizes_that_do_not_stack_name_two_samples(workers: int) -> None:
    loader = loader_of(Broken({5: torch.zeros(3, 2, 4)}), workers=workers, skip_failures=True)
    what, where, mend = problem(loader)
    assert "(3, 2, 2)" in what
    assert "(3, 2, 4)" in what
    assert "sample 5" in where.splitlines()[0] + where.splitlines()[1]
    assert len(where.splitlines()) == 2
    assert "Resize" in mend


@pytest.mark.parametrize("workers", [0, 1])
def test_grey_among_colour_is_not_a_matter_of_size(workers: int) -> None:
    what, where, mend = problem(loader_of(Broken({5: torch.zeros(1, 2, 2)}), workers=workers))
    assert "(1, 2, 2)" in what
    assert "sample 5" in where
    assert "Grayscale" in mend
    assert "Resize" not in mend


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float64])
def test_a_sample_of_another_kind_of_numbers_is_named(dtype: torch.dtype) -> None:
    """Stacked, the batch would hold 0 to 255 beside 0 to 1, or be of a kind that no model takes."""
    what, where, mend = problem(loader_of(Broken({5: torch.zeros(3, 2, 2, dtype=dtype)}), skip_failures=True))
    assert what == f"A sample cannot be used: an image of {dtype}, not of torch.float32"
    assert where == "sample 5"
    assert "ToDtype(torch.float32, scale=True)" in mend


DARK = """
def darker(image):
    if image.getpixel((0, 0)) == {pixel!r}:
        raise ValueError("too dark")
    return image
train_transform = transforms.Compose([darker, transforms.ToTensor()])
num_workers = {workers}
"""


@pytest.mark.parametrize("workers", [0, 1])
def test_a_step_of_the_users_that_raises_is_no_damaged_file(
    write_config: WriteConfig, victim: tuple[str, tuple[int, ...]], workers: int
) -> None:
    name, pixel = victim
    path = write_config(DARK.format(pixel=pixel, workers=workers))
    with pytest.raises(DataError) as caught:
        fitted(path, epochs=1)
    [found] = caught.value.problems
    assert found.what == "A sample cannot be used: ValueError: too dark"
    assert found.where == name
    line = next(n for n, text in enumerate(path.read_text().splitlines(), 1) if "too dark" in text)
    assert found.mend.startswith("correct the transform (")
    assert f"{path.name}:{line}, darker)" in found.mend
    assert "on_bad_image" in found.mend


def test_a_step_of_a_library_that_raises_is_no_damaged_file(images: Path) -> None:
    files = sorted(map(str, (images / "train").rglob("*.png")))
    what, _where, mend = problem(loader_of(files, transforms.RandomCrop(1000), labels=[0] * len(files)))
    assert "Required crop size" in what
    assert mend == 'correct the transform, or set on_bad_image = "skip"'


@pytest.mark.parametrize("workers", [0, 1])
def test_a_sample_that_is_no_tensor_is_named(workers: int) -> None:
    """The transform is tried on a few images at the start; another one may still come out as something else."""
    what, where, mend = problem(loader_of(Broken({5: "text"}), workers=workers))
    assert what == "A sample cannot be used: the transform gave str, not a tensor"
    assert where == "sample 5"
    assert "ToTensor" in mend


def test_a_label_that_is_no_integer_is_not_cut_off() -> None:
    class Halves(Broken):
        def __getitem__(self, index: int) -> tuple[Any, Any]:
            return super().__getitem__(index)[0], index / 2

    what, where, _mend = problem(loader_of(Halves({}), shuffle=False))
    assert "'float' object cannot be interpreted as an integer" in what
    assert where.startswith("sample 0")


def test_skipped_samples_are_counted_and_all_others_used() -> None:
    bad = {index: OSError("gone") for index in (0, 1, 2)}
    loader = loader_of(Broken(bad), shuffle=False, skip_failures=True)
    batches = [labels.tolist() for _images, labels in loader.epoch(1)]
    assert batches == [[3], [4, 5, 6, 7, 8]]
    assert loader.skipped == dict.fromkeys(["sample 0", "sample 1", "sample 2"], "OSError: gone")
    batches = [labels.tolist() for _images, labels in loader_of(Broken(bad), skip_failures=True).epoch(1)]
    assert len(batches) == 2
    assert all(len(batch) != 1 for batch in batches), "BatchNorm cannot train on one image"


def test_a_batch_of_failures_is_an_empty_batch() -> None:
    loader = loader_of(Broken({index: OSError("gone") for index in range(4)}), shuffle=False, skip_failures=True)
    assert [labels.tolist() for _images, labels in loader.epoch(1)] == [[], [4, 5, 6, 7, 8]]


@pytest.mark.parametrize("damaged", ["one", "all"])
def test_damage_that_no_header_tells_of_is_skipped_from_the_start_on(
    write_config: WriteConfig, images: Path, tmp_path: Path, damaged: str
) -> None:
    """The images of the most different shapes are tried before the first epoch: here the widest is one of the bad."""
    from PIL import Image

    data = shutil.copytree(images, tmp_path / "data")
    wide = data / "train" / "bee" / "wide.png"
    Image.effect_noise((90, 20), 50).save(wide)
    for path in [wide] if damaged == "one" else data.glob("train/*/*.png"):
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 255
        path.write_bytes(content)
    lines = "train_transform = transforms.Compose([transforms.Resize((8, 8)), transforms.ToTensor()])\n"
    path = write_config(lines + "val_data_root = None\n", data=data)
    if damaged == "all":
        with pytest.raises(DataError, match="No image"):
            fitted(path, epochs=1, on_bad_image="skip")
        return
    run, history = fitted(path, epochs=2, on_bad_image="skip")
    assert list(run.train_loader.skipped) == [str(wide)]
    assert "checksum" in run.train_loader.skipped[str(wide)]
    assert len(history) == 2


def test_what_was_skipped_is_told_with_its_reason(write_config: WriteConfig, images: Path, tmp_path: Path) -> None:
    data = shutil.copytree(images, tmp_path / "data")
    damaged = data / "train" / "bee" / "003.png"
    content = bytearray(damaged.read_bytes())
    content[len(content) // 2] ^= 255
    damaged.write_bytes(content)
    lines = "on_bad_image = 'skip'\nenable_metrics_export = False\nepochs = 1"
    experiment, _history, _metric = train(load_config(write_config(lines, data=data)))
    log = (experiment.dir / "train.log").read_text(encoding="utf-8")
    assert f"{damaged}: damaged: the checksum of its IDAT is wrong" in log


# -- processes

KILLED = """
import os, signal

def train_transform(image):
    if image.getpixel((0, 0)) == {pixel!r} and os.getpid() != parent:
        {act}
    return transforms.ToTensor()(image)
parent = os.getpid()
"""


@pytest.fixture
def victim(images: Path) -> tuple[str, tuple[int, ...]]:
    """Return the path of an image, and the colour of its first pixel, which no other has."""
    from PIL import Image

    colours = {str(path): Image.open(path).convert("RGB").getpixel((0, 0)) for path in images.glob("*/*/*.png")}
    path = str(images / "train" / "bee" / "003.png")
    assert list(colours.values()).count(colours[path]) == 1
    return path, colours[path]


def children() -> list[int]:
    """Return the pids of this process's children, dead and not yet buried ones too."""
    return [int(pid) for pid in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()]


@pytest.fixture
def no_child_is_left() -> Iterator[None]:
    before = set(children())
    yield
    assert not [p for p in multiprocessing.active_children() if p.pid not in before]
    assert set(children()) <= before


@pytest.mark.usefixtures("no_child_is_left")
# The death may be noticed while garbage is collected, and then once more where it matters.
@pytest.mark.filterwarnings("ignore:Exception ignored in. <Finalize:pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize(
    ("act", "seconds", "reason"),
    [
        ("os.kill(os.getpid(), signal.SIGKILL)", 60, "Killed|exited unexpectedly"),  # torch has two ways to notice
        ("os._exit(3)", 60, "exited unexpectedly"),
        ("import time; time.sleep(600)", 2, "no answer for 2 s"),
        ("while True: pass", 2, "no answer for 2 s"),
    ],
)
def test_a_process_that_dies_or_hangs_is_an_error_that_names_the_sample(
    write_config: WriteConfig, victim: tuple[str, tuple[int, ...]], act: str, seconds: int, reason: str
) -> None:
    path, pixel = victim
    run = run_of(write_config(KILLED.format(pixel=pixel, act=act)), num_workers=2, worker_timeout_seconds=seconds)
    started = time.monotonic()
    with pytest.raises(DataError) as caught:
        fit(run, [], epochs=1)
    assert time.monotonic() - started < 10
    assert caught.value.problems[0].where == path
    assert re.search(reason, caught.value.problems[0].what)


@pytest.mark.usefixtures("no_child_is_left")
@pytest.mark.parametrize("killed", [2, 5])
def test_only_the_sample_of_the_dead_is_named_and_the_others_are_ended(killed: int) -> None:
    """Of two processes, each at its own sample for longer than the test lasts, one dies."""

    class Items:
        def __len__(self) -> int:
            return 6

        def __getitem__(self, index: int) -> tuple[Tensor, int]:
            if index in (2, 5):
                time.sleep(0.5 if index == killed else 600)
                os._exit(1)
            return torch.zeros(3, 2, 2), index

    with pytest.raises(DataError) as caught:
        list(loader_of(Items(), batch_size=3, shuffle=False, workers=2).epoch(1))
    assert caught.value.problems[0].where == f"sample {killed}"


@pytest.mark.usefixtures("no_child_is_left")
def test_a_death_is_noticed_while_the_training_computes(
    write_config: WriteConfig, victim: tuple[str, tuple[int, ...]]
) -> None:
    """torch reports a death from a signal handler, in the middle of whatever runs: here the forward pass."""
    path, pixel = victim
    lines = """
import time
class Slow(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.body = nn.Linear(192, num_classes)
    def forward(self, images):
        if self.training:
            time.sleep(30)
        return self.body(images.flatten(1))
model = Slow
"""
    text = KILLED.format(pixel=pixel, act="time.sleep(0.5); os.kill(os.getpid(), signal.SIGKILL)") + lines
    run = run_of(write_config(text), num_workers=1, batch_size=1)
    position = run.train_loader.batches.order(1).index(run.train_loader.samples.items.index(path))
    started = time.monotonic()
    with pytest.raises(DataError) as caught:
        fit(run, [], epochs=1)
    if position:  # otherwise it dies before anything is computed
        assert time.monotonic() - started < 10
    assert caught.value.problems[0].where == path


@pytest.mark.usefixtures("no_child_is_left")
def test_a_loader_that_is_thrown_away_takes_its_processes_along() -> None:
    """In a notebook nobody closes anything, and what an error holds is garbage in a circle."""

    class Items:
        def __len__(self) -> int:
            return 9

        def __getitem__(self, index: int) -> tuple[Tensor, int]:
            time.sleep(600 if index == 8 else 0)
            return torch.zeros(3, 2, 2), index

    loader = loader_of(Items(), shuffle=False, workers=2)
    next(loader.epoch(1))
    loader.itself = loader  # type: ignore[attr-defined]
    started = time.monotonic()
    del loader
    gc.collect()
    assert time.monotonic() - started < 4


def test_other_errors_pass() -> None:
    with pytest.raises(RuntimeError, match="mat1"), watching(loader_of(numbered(1))):
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")


# Lambdas, local classes and functions that use helpers of the config file, in modules that no new process can import.
LOCAL = """
def make():
    class Scale:
        def __init__(self, factor):
            self.factor = factor
        def __call__(self, image):
            return image * self.factor
    return Scale(factor)
factor = 0.5

def shift(tensor):
    return tensor + torch.rand(1) * factor

train_transform = transforms.Compose([transforms.ToTensor(), make(), transforms.Lambda(lambda t: shift(t) - 0.1)])
val_transform = lambda image: make()(transforms.ToTensor()(image))
"""


@pytest.fixture
def start_method() -> Iterator[Callable[[str], None]]:
    old = multiprocessing.get_start_method()
    yield lambda name: multiprocessing.set_start_method(name, force=True)
    multiprocessing.set_start_method(old, force=True)


@pytest.mark.usefixtures("no_child_is_left")
def test_forked_workers_know_the_code_of_the_config_file(
    write_config: WriteConfig, start_method: Callable[[str], None]
) -> None:
    start_method("fork")
    path = write_config(LOCAL)
    run = run_of(path, num_workers=2)
    before = set(children())
    fit(run, [], epochs=2)
    assert set(children()) <= before, "they end with the training, not when the run is thrown away"
    assert same_weights(weights(run), weights(fitted(path)[0]))


def test_a_forkserver_knows_it_too_and_a_death_is_noticed(
    write_config: WriteConfig,
    start_method: Callable[[str], None],
    victim: tuple[str, tuple[int, ...]],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """Its workers are no children of ours: no signal tells of their end."""
    monkeypatch.setattr(loaders, "POLL_SECONDS", 1)
    start_method("forkserver")
    path, pixel = victim
    now = tmp_path / "now"
    deadly = f"""
import os
from pathlib import Path
now = Path({str(now)!r})
def last(image):
    if image.getpixel((0, 0)) == {pixel!r} and now.exists():
        now.touch()
        os._exit(1)
    return transforms.Compose([transforms.ToTensor(), make(), lambda t: shift(t) - 0.1])(image)
train_transform = last
val_data_root = None
"""
    config = write_config(LOCAL + deadly)
    alone = weights(fitted(config, epochs=1)[0])
    run = run_of(config, num_workers=1)
    kept: list[dict[str, Tensor]] = []

    def save(_epoch: int, _history: History) -> None:
        kept.append(weights(run))
        now.touch()

    with pytest.raises(DataError) as caught:
        fit(run, [], epochs=2, save=save)
    assert time.time() - now.stat().st_mtime < 10
    assert caught.value.problems[0].where == path
    assert len(kept) == 1
    assert same_weights(kept[0], alone)


def test_the_command_trains_with_spawned_workers(write_config: WriteConfig, tmp_path: Path) -> None:
    """A config that asks for `spawn` itself, as the platforms without fork do."""
    spawn = "import multiprocessing\nmultiprocessing.set_start_method('spawn', force=True)\n"
    spawn += "num_workers = 1\nepochs = 1\nval_data_root = None\n"
    found = pochi("train", "--config", write_config(LOCAL + spawn), cwd=tmp_path, OMP_NUM_THREADS="1")
    assert found.returncode == 0, found.stderr
    alone, _history = fitted(write_config(LOCAL + "val_data_root = None\n"), epochs=1)
    [saved] = tmp_path.glob("work_dirs/*/*/*/last.pt")
    assert same_weights(torch.load(saved, weights_only=True)["model"], weights(alone))
