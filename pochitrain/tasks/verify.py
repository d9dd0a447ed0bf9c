"""`pochi verify-resume`: kill short trainings of the user's own config, let them go on, and compare every bit.

Each training is a process of its own, made by `train` as always; only its data is cut to a few batches, and it saves
after each step. SIGKILL comes out of the writer of files, at moments spread over the whole training.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import json
import multiprocessing
import os
import re
import shutil
import signal
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from rich.box import SIMPLE_HEAD
from rich.table import Table
from torch.utils.data import Subset

from pochitrain import durable
from pochitrain.config.inject import name_of
from pochitrain.config.loader import load_config
from pochitrain.config.schema import Config
from pochitrain.data.loaders import Samples
from pochitrain.data.source import Data, Split, load_data
from pochitrain.engine.checkpoint import Checkpoints, Loaded
from pochitrain.errors import ConfigError, PochiError
from pochitrain.history import TIMING
from pochitrain.locale import _
from pochitrain.sinks.console import Log
from pochitrain.tasks.prepare import checked_config
from pochitrain.tasks.train import train

NOT_REPRODUCIBLE = 6  # exit code
EPOCHS = 2
KILLS = 3
PARTS = {"weights": "model", "optimizer": "optimizer", "scheduler": "scheduler", "metrics": "history"}
_TRIED_SAMPLES = 8
_NOT_DETERMINISTIC = re.compile(r"(\S+) does not have a deterministic implementation")

# A short training saves after each step, tells nobody, and draws nothing: none of it is in the identity.
_QUIET: dict[str, Any] = {
    "epochs": EPOCHS,
    "task": "verify",
    "checkpoint_every_minutes": 1e-9,
    "early_stopping.enabled": False,
    "enable_metrics_export": False,
    "enable_tensorboard": False,
    "observers": [],
    "plots": [],
}


@dataclass(frozen=True)
class Life:
    """One short training that came to its end, and how it differs from the first straight one."""

    name: str
    seconds: float
    differences: dict[str, str]  # part → its first difference


@dataclass(frozen=True)
class Verification:
    """What `verify_resume` found."""

    lives: list[Life]
    causes: list[str]  # what explains the differences, a sentence each

    @property
    def identical(self) -> bool:
        return not any(life.differences for life in self.lives)


def run_verify(path: Path, overrides: Mapping[str, Any], steps: int) -> int:
    """Say what `verify_resume` finds about a config file; return 0, or 6 when something differs."""
    log = Log()
    found = verify_resume(checked_config(path, overrides), steps=steps, log=log)
    table = Table(box=SIMPLE_HEAD)
    table.add_column(_("training"))
    for part in PARTS:
        table.add_column(_PART_NAMES[part]())
    for life in found.lives:
        table.add_row(life.name, *(_("differs") if part in life.differences else _("equal") for part in PARTS))
    log.table(table)
    for life in [life for life in found.lives if life.differences][:1]:
        for part, difference in life.differences.items():
            log.info(f"{life.name}, {_PART_NAMES[part]()}: {difference}")
    for cause in found.causes:
        log.warning(cause)
    log.info(_("bit-identical") if found.identical else _("not bit-identical"))
    return 0 if found.identical else NOT_REPRODUCIBLE


def verify_resume(config: Config, *, steps: int = 4, log: Log | None = None) -> Verification:
    """Train two epochs of `steps` batches twice straight, and killed and resumed at three moments; compare the ends.

    Costs eight processes and some ten saves of each; a minute for a ResNet-18. Nothing is left behind.

    Raises:
        ConfigError: the config was not read from a file, or a short training of it fails.
    """
    if config.origin.path is None:
        raise ConfigError(_("Only a config that is a file can be verified"), "config", _("give load_config a path"))
    log = log or Log()
    start = functools.partial(_start, config.origin.path, dict(config.origin.overrides), steps)
    with tempfile.TemporaryDirectory(prefix="pochi-verify-") as temporary:
        folder = Path(temporary)
        straight = [_straight(start, folder / name) for name in ("straight", "again")]
        state = _newest(folder / "straight").state
        lives = [
            Life(_("straight"), straight[0].seconds, {}),
            Life(_("straight, again"), straight[1].seconds, differences(state, _newest(folder / "again").state)),
        ]
        for life in lives:
            log.info(_("{name}: {seconds:.1f} s", name=life.name, seconds=life.seconds))
        for number in range(1, KILLS + 1):
            at = straight[0].events * number // (KILLS + 1)
            lives.append(_killed(start, folder / "killed", at, state))
            log.info(_("{name}: {seconds:.1f} s", name=lives[-1].name, seconds=lives[-1].seconds))
    return Verification(lives, _causes(lives, straight))


def _causes(lives: list[Life], straight: list[Told]) -> list[str]:
    """Return why the lives differ, as far as it can be told; [] when they do not."""
    if not any(life.differences for life in lives):
        return []
    pairs = zip(straight[0].tried, straight[1].tried, strict=True)
    unequal = dict(reversed([found for pair in pairs if (found := _unequal_transform(*pair))]))
    causes = [
        _("{name} gives other values each time, from a generator that the seed does not reach", name=name)
        + f" ({sample})"
        for name, sample in unequal.items()
    ]
    causes += [_("{name} of torch is not deterministic here", name=name) for name in straight[0].operations]
    if causes:
        return causes
    if lives[1].differences:
        return [
            _(
                "Two straight trainings differ already, and neither a transform nor an operation of torch that is "
                "known for it is the cause: look for random numbers of another generator (np.random.default_rng(), "
                "random.Random(), the time) in model, loss, optimizer, dataset and train_epoch"
            )
        ]
    return [
        _(
            "Straight trainings are equal, resumed ones are not: something that decides about the training lives "
            "outside the checkpoint, such as a counter in a loss, a transform or train_epoch"
        )
    ]


def _unequal_transform(first: Tried, again: Tried) -> tuple[str, str] | None:
    """Return the first transform that gave a sample more than one value, and the sample; None when all gave one."""
    for (name, *once), (_name, *later) in zip(first.values, again.values, strict=True):
        if len({*once, *later}) > 1:
            return name, first.sample
    return None


# ----------------------------------------------------------------------------------------------- what is told by a life


@dataclass(frozen=True)
class Tried:
    """What the transforms made of one sample: after each of them, the digests of two tries."""

    sample: str
    values: list[tuple[str, str, str]]


@dataclass(frozen=True)
class Told:
    """What a straight training tells beside its checkpoint."""

    events: int
    operations: list[str]
    tried: list[Tried]
    seconds: float = 0.0


Start = Callable[[Path, int], int]  # (folder, number of the event to be killed at, 0 for none) → exit code


def _straight(start: Start, folder: Path) -> Told:
    seconds = _ended(start, folder)
    told = json.loads((folder / "told.json").read_text(encoding="utf-8"))
    tried = [Tried(sample, [tuple(value) for value in values]) for sample, values in told["tried"]]
    return Told(told["events"], told["operations"], tried, seconds)


def _killed(start: Start, folder: Path, at: int, expected: Mapping[str, Any]) -> Life:
    begun = time.monotonic()
    if (code := start(folder, at)) != -signal.SIGKILL:
        raise _failed(folder, code)
    name = _("killed before the first save")
    if (loaded := Checkpoints(_checkpoints_dir(folder)).load_newest()) is not None:
        name = _("killed in epoch {epoch} after step {step}", epoch=loaded.epoch + 1, step=loaded.step)
    _ended(start, folder)
    life = Life(name, time.monotonic() - begun, differences(expected, _newest(folder).state))
    shutil.rmtree(folder)
    return life


def _ended(start: Start, folder: Path) -> float:
    begun = time.monotonic()
    if (code := start(folder, 0)) != 0:
        raise _failed(folder, code)
    return time.monotonic() - begun


def _failed(folder: Path, code: int) -> ConfigError:
    said = (folder / "said.txt").read_text(encoding="utf-8", errors="replace").strip()
    return ConfigError(_("A short training ended with exit code {code}", code=code) + f"\n{said}", "verify-resume")


def _checkpoints_dir(folder: Path) -> Path:
    return next(folder.glob("verify/*/*/checkpoints"), folder)


def _newest(folder: Path) -> Loaded:
    loaded = Checkpoints(_checkpoints_dir(folder)).load_newest()
    assert loaded is not None
    return loaded


# -------------------------------------------------------------------------------------------------- the life of a child


def _start(path: Path, overrides: dict[str, Any], steps: int, folder: Path, at: int) -> int:
    """Run a short training in a new process and return its exit code, -9 when it was killed.

    The processes are forked from one that has imported torch and done nothing with it: no threads, no GPU.
    """
    folder.mkdir(exist_ok=True)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["pochitrain.tasks.verify"])
    method = multiprocessing.get_start_method()  # how loading processes start; the child would use its own way
    process = context.Process(target=_live, args=(path, overrides, steps, folder, at, method))
    process.start()
    process.join()
    return process.exitcode or 0


def _live(path: Path, overrides: dict[str, Any], steps: int, folder: Path, at: int, method: str) -> None:
    multiprocessing.set_start_method(method, force=True)
    with (folder / "said.txt").open("a", encoding="utf-8") as said:
        os.dup2(said.fileno(), 1)
        os.dup2(said.fileno(), 2)
    events = 0

    def happen(_what: str, *paths: Path) -> None:
        nonlocal events
        events += "checkpoints" in paths[-1].parts[-2:]
        if 0 < at == events:
            os.kill(os.getpid(), signal.SIGKILL)

    durable.event = happen
    try:
        config = load_config(path, {**overrides, **_QUIET, "work_dir": str(folder)})
        data = shortened(load_data(config), steps * config.batch_size)
        with _operations() as operations:
            train(config, data=data)
        told = {"events": events, "operations": operations, "tried": try_transforms(config, data)}
        durable.write_json(folder / "told.json", told)
    except PochiError as error:
        print(error, file=sys.stderr)
        sys.exit(error.exit_code)


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
    val = None if data.val is None else _first(data.val, count)
    return dataclasses.replace(data, train=_first(data.train, count), val=val)


def _first(split: Split, count: int) -> Split:
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
    """Return what stands for the image of a sample; a failure says by its reason what it is."""
    image = sample[0] if isinstance(sample, tuple) else sample
    if isinstance(image, Image.Image):
        content = image.mode.encode() + image.tobytes()
    elif isinstance(image, torch.Tensor):
        content = image.contiguous().numpy().tobytes()
    else:
        content = repr(image).encode()
    return hashlib.sha256(content).hexdigest()[:16]


# ------------------------------------------------------------------------------------------------------------ comparing


def differences(expected: Mapping[str, Any], state: Mapping[str, Any]) -> dict[str, str]:
    """Return part → its first difference, for the parts of two checkpoints that differ."""
    found = {part: next(_unequal(expected[key], state[key], ""), "") for part, key in PARTS.items()}
    return {part: difference for part, difference in found.items() if difference}


def _unequal(a: Any, b: Any, path: str) -> Iterator[str]:
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        if a.dtype != b.dtype or a.shape != b.shape:
            yield f"{path} {a.dtype} {tuple(a.shape)} ≠ {b.dtype} {tuple(b.shape)}"
        elif not torch.equal(a, b):
            apart = (a.double() - b.double()).abs()
            count = _("{count} of {all} values differ", count=int((apart > 0).sum()), all=a.numel())
            yield f"{path}: {count}, {_('at most by {most:.2g}', most=float(apart.max()))}"
    elif isinstance(a, dict) and isinstance(b, dict):
        for key in dict.fromkeys([*a, *b]):
            if key not in TIMING:
                yield from _unequal(a.get(key), b.get(key), f"{path}.{key}".lstrip("."))
    elif isinstance(a, list | tuple) and isinstance(b, list | tuple) and len(a) == len(b):
        for number, (one, other) in enumerate(zip(a, b, strict=True)):
            yield from _unequal(one, other, f"{path}[{number}]")
    elif a != b:
        yield f"{path}: {a!r} ≠ {b!r}"


_PART_NAMES: dict[str, Callable[[], str]] = {
    "weights": lambda: _("weights"),
    "optimizer": lambda: _("optimizer"),
    "scheduler": lambda: _("scheduler"),
    "metrics": lambda: _("metrics"),
}
