"""A short training of a config in a process of its own, which may be killed on the way. Used by `pochi verify-resume`.

It is `train` as always; only the data is cut to a few batches, and each step is saved.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import json
import math
import multiprocessing
import os
import re
import signal
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch.utils.data import Subset

from pochitrain import durable
from pochitrain.config.inject import name_of
from pochitrain.config.loader import load_config
from pochitrain.config.schema import Config
from pochitrain.data.reading import Samples
from pochitrain.data.source import Data, Split, load_data
from pochitrain.engine.checkpoint import Checkpoints, Loaded
from pochitrain.errors import ConfigError, PochiError
from pochitrain.locale import _
from pochitrain.tasks.train import train

EPOCHS = 2
_TRIED_SAMPLES = 8
_NOT_DETERMINISTIC = re.compile(r"(\S+) does not have a deterministic implementation")

# It tells nobody and draws nothing: no key here is in the identity.
_QUIET: dict[str, Any] = {
    "epochs": EPOCHS,
    "task": "short",
    "checkpoint_every_minutes": None,
    "early_stopping.enabled": False,
    "enable_metrics_export": False,
    "enable_tensorboard": False,
    "observers": [],
    "plots": [],
}


@dataclass(frozen=True)
class Tried:
    """What the transforms made of one sample: after each of them, the digests of two tries."""

    sample: str
    values: list[tuple[str, str, str]]


@dataclass(frozen=True)
class Told:
    """What a short training tells beside its checkpoint."""

    saves: int  # checkpoints that it would have written, saving after each step
    operations: list[str]  # of torch, without a deterministic form
    tried: list[Tried]


@dataclass(frozen=True)
class ShortTraining:
    """Two epochs of `steps` batches of the config at `path`, in `folder`."""

    path: Path
    overrides: dict[str, Any]
    steps: int
    folder: Path

    def run(self) -> None:
        """Train to the end, from where a killed process left it.

        Raises:
            ConfigError: it fails.
        """
        self._live(expected=0)

    def kill(self, save: int) -> None:
        """Train, saving after each step, until SIGKILL in the midst of writing checkpoint number `save`."""
        self._live(expected=-signal.SIGKILL, kill_at=save)

    def newest(self) -> Loaded | None:
        """Return the newest checkpoint."""
        directory = next(self.folder.glob("*/*/*/checkpoints"), self.folder)
        return Checkpoints(directory).load_newest()

    def told(self) -> Told:
        told = json.loads((self.folder / "told.json").read_text(encoding="utf-8"))
        tried = [Tried(sample, [tuple(value) for value in values]) for sample, values in told["tried"]]
        return Told(told["saves"], told["operations"], tried)

    def _live(self, expected: int, kill_at: int = 0) -> None:
        self.folder.mkdir(exist_ok=True)
        code, said = in_a_fork(functools.partial(_train, self, kill_at), self.folder / "said.txt")
        if code != expected:
            what = _("A short training ended with exit code {code}", code=code)
            raise ConfigError(f"{what}\n{said}", str(self.path))


def in_a_fork(work: Callable[[], object], output: Path) -> tuple[int, str]:
    """Do `work` in a process of its own; return its exit code, a signal's number negative, and what it said.

    Call it from a process that has imported torch and done nothing with it: there are no threads of torch and no GPU in
    it that a fork could spoil, and the work begins at once, where a fresh process imports torch for seconds.
    """
    process = multiprocessing.get_context("fork").Process(target=_work, args=(work, output))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # the threads of NumPy's BLAS, which knows of forks
        process.start()
    pid = process.pid
    assert pid is not None
    try:
        process.join()
    finally:  # also when Ctrl+C has ended the waiting, and loading processes that outlive a killed training
        process.kill()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)
        process.join()
    assert process.exitcode is not None
    return process.exitcode, output.read_text(encoding="utf-8", errors="replace").strip()


def _work(work: Callable[[], object], output: Path) -> None:
    os.setsid()
    descriptor = os.open(output, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    for number, stream in ((1, "stdout"), (2, "stderr")):
        os.dup2(descriptor, number)
        setattr(sys, stream, os.fdopen(number, "w", buffering=1, encoding="utf-8", closefd=False))
    try:
        work()
    except PochiError as error:
        print(error, file=sys.stderr)
        sys.exit(error.exit_code)


def _train(training: ShortTraining, kill_at: int) -> None:
    quiet = {**_QUIET, "work_dir": str(training.folder)}
    if kill_at:
        durable.event = _killer(kill_at)
        quiet["checkpoint_every_minutes"] = 1e-9
    config = load_config(training.path, {**training.overrides, **quiet})
    data = shortened(load_data(config), training.steps * config.batch_size)
    with _operations() as operations:
        train(config, data=data)
    steps = math.ceil(len(data.train) / config.batch_size) if config.train_epoch is None else 0
    told = Told(EPOCHS * (steps + 1), operations, [])
    durable.write_json(training.folder / "told.json", {**vars(told), "tried": try_transforms(config, data)})


def _killer(save: int) -> Callable[..., None]:
    """Return what kills this process when a part of checkpoint number `save` is on the disk."""
    begun = chunks = 0

    def happen(what: str, path: Path, *_to: Path) -> None:
        nonlocal begun, chunks
        if path.parent.name == "checkpoints":
            begun += what == "create"
            chunks = 0 if what == "create" else chunks + (what == "chunk")
            if (begun, chunks) == (save, 2):
                os.kill(os.getpid(), signal.SIGKILL)

    return happen


@contextlib.contextmanager
def _operations() -> Iterator[list[str]]:
    """Collect the names of the operations that torch warns of because they are not deterministic."""
    names: list[str] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield names
    found = (_NOT_DETERMINISTIC.match(str(warning.message)) for warning in caught)
    names += dict.fromkeys(match[1] for match in found if match)


def shortened(data: Data, count: int) -> Data:
    """Return `count` images of each split, spread evenly; everything else, the weights of the classes too, stays."""
    val = None if data.val is None else _some(data.val, count)
    return dataclasses.replace(data, train=_some(data.train, count), val=val)


def _some(split: Split, count: int) -> Split:
    count = min(count, len(split))
    chosen = [number * len(split) // count for number in range(count)]
    if split.labels is None:
        return dataclasses.replace(split, items=Subset(split.items, chosen), extremes=(0,))
    items, labels = [split.items[index] for index in chosen], [split.labels[index] for index in chosen]
    return dataclasses.replace(split, items=items, labels=labels, extremes=(0,))


def try_transforms(config: Config, data: Data) -> list[tuple[str, list[tuple[str, str, str]]]]:
    """Return, for a few samples, what they are after each transform: (sample, [(transform, digest, digest again)])."""
    splits = [(data.train, config.train_transform, "augment")]
    splits += [(data.val, config.val_transform, "val")] if data.val else []
    found = []
    for split, transform, purpose in splits:
        steps = list(getattr(transform, "transforms", [transform]))
        names = [_("reading the image"), *map(name_of, steps)]
        until = [
            Samples(split.items, split.labels, functools.partial(_in_turn, steps[:end]), config.seed, purpose)
            for end in range(len(names))
        ]
        for index in range(min(_TRIED_SAMPLES, len(split))):
            values = [
                (name, _digest(part[1, index]), _digest(part[1, index]))
                for name, part in zip(names, until, strict=True)
            ]
            found.append((until[0].name(index), values))
    return found


def _in_turn(steps: list[Callable[[Any], Any]], image: Any) -> Any:
    for step in steps:
        image = step(image)
    return image


def _digest(sample: Any) -> str:
    """Return what stands for the image of a sample; a failure stands for itself."""
    image = sample[0] if isinstance(sample, tuple) else sample
    if isinstance(image, Image.Image):
        content = image.mode.encode() + image.tobytes()
    elif isinstance(image, torch.Tensor):
        content = image.contiguous().numpy().tobytes()
    else:
        content = repr(image).encode()
    return hashlib.sha256(content).hexdigest()[:16]
