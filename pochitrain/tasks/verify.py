"""`pochi verify-resume`: kill short trainings of the user's own config, let them go on, and compare every bit."""

from __future__ import annotations

import contextlib
import functools
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.box import SIMPLE_HEAD
from rich.table import Table

from pochitrain.history import TIMING
from pochitrain.locale import _
from pochitrain.sinks.console import Log
from pochitrain.tasks.prepare import checked_config
from pochitrain.tasks.short import ShortTraining, Told, Tried, in_a_fork

NOT_REPRODUCIBLE = 6  # exit code
KILLS = 3
PARTS: dict[str, Callable[[], str]] = {  # what a checkpoint holds → what a reader calls it
    "model": lambda: _("weights"),
    "optimizer": lambda: _("optimizer"),
    "scheduler": lambda: _("scheduler"),
    "history": lambda: _("metrics"),
}


@dataclass(frozen=True)
class Life:
    """One short training that came to its end, and how it differs from the first straight one."""

    name: str
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
    with tempfile.TemporaryDirectory(prefix="pochi-verify-") as folder:
        # The file may do anything with torch, and this process must not have done so when it forks.
        code, said = in_a_fork(functools.partial(checked_config, path, overrides), Path(folder, "said.txt"))
    if code:
        print(said, file=sys.stderr)
        return code
    log = Log(strict=True)
    found = verify_resume(path, overrides, steps=steps, log=log)
    table = Table(box=SIMPLE_HEAD)
    table.add_column(_("training"))
    for name in PARTS.values():
        table.add_column(name())
    for life in found.lives:
        table.add_row(life.name, *(_("differs") if part in life.differences else _("equal") for part in PARTS))
    log.table(table)
    for life in [life for life in found.lives if life.differences][:1]:
        for part, difference in life.differences.items():
            log.info(f"{life.name}, {PARTS[part]()}: {difference}")
    for cause in found.causes:
        log.warning(cause)
    log.info(_("bit-identical") if found.identical else _("not bit-identical"))
    return 0 if found.identical else NOT_REPRODUCIBLE


def verify_resume(path: Path, overrides: Mapping[str, Any], *, steps: int = 4, log: Log | None = None) -> Verification:
    """Train two epochs of `steps` batches twice straight, and killed and resumed at three moments; compare the ends.

    Costs eight processes, five short trainings, and a save after each step of those that are killed. Nothing is left
    behind. The caller has done nothing with torch yet (see `in_a_fork`).

    Raises:
        ConfigError: a short training fails.
    """
    log = log or Log()
    training = functools.partial(ShortTraining, path, dict(overrides), steps)
    with tempfile.TemporaryDirectory(prefix="pochi-verify-") as folder:
        straight, again = (training(Path(folder, name)) for name in ("straight", "again"))
        for one in (straight, again):
            with _timed(log) as names:
                one.run()
                names.append(_("straight"))
        killed = {}
        for save in killed_saves(straight.told().saves):
            one = training(Path(folder, f"killed in save {save}"))
            with _timed(log) as names:
                one.kill(save)
                names.append(_moment(one))
                one.run()
            killed[names[0]] = one
        expected = _state(straight)
        lives = [Life(_("straight"), {}), Life(_("straight, again"), differences(expected, _state(again)))]
        lives += [Life(name, differences(expected, _state(one))) for name, one in killed.items()]
        return Verification(lives, _causes(lives, straight.told(), again.told()))


def killed_saves(count: int) -> list[int]:
    """Return which of `count` saves a kill is to meet: up to three, spread over all but the first."""
    return list(dict.fromkeys(2 + (count - 1) * number // (KILLS + 1) for number in range(1, KILLS + 1)))


@contextlib.contextmanager
def _timed(log: Log) -> Iterator[list[str]]:
    """Say how long the block took, by the name that it puts into the list."""
    names: list[str] = []
    started = time.monotonic()
    yield names
    log.info(_("{name}: {seconds:.1f} s", name=names[0], seconds=time.monotonic() - started))


def _moment(training: ShortTraining) -> str:
    loaded = training.newest()
    assert loaded is not None, "the first checkpoint was written"
    if loaded.step == 0:
        return _("killed after epoch {epoch}", epoch=loaded.epoch)
    return _("killed in epoch {epoch} after step {step}", epoch=loaded.epoch + 1, step=loaded.step)


def _state(training: ShortTraining) -> dict[str, Any]:
    loaded = training.newest()
    assert loaded is not None
    return loaded.state


def differences(expected: Mapping[str, Any], state: Mapping[str, Any]) -> dict[str, str]:
    """Return part → its first difference, for the parts of two checkpoints that differ."""
    found = {part: next(_unequal(expected[part], state[part], ""), "") for part in PARTS}
    return {part: difference for part, difference in found.items() if difference}


def _unequal(a: Any, b: Any, path: str) -> Iterator[str]:
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        if a.dtype != b.dtype or a.shape != b.shape:
            yield f"{path} {a.dtype} {tuple(a.shape)} ≠ {b.dtype} {tuple(b.shape)}"
        elif not torch.equal(a, b):
            apart = (a.double() - b.double()).abs()
            count, most = int((apart > 0).sum()), float(apart.max())
            words = _("{count} of {all} values differ, at most by {most:.2g}", count=count, all=a.numel(), most=most)
            yield f"{path}: {words}"
    elif isinstance(a, dict) and isinstance(b, dict):
        for key in dict.fromkeys([*a, *b]):
            if key not in TIMING:
                yield from _unequal(a.get(key), b.get(key), f"{path}.{key}".lstrip("."))
    elif isinstance(a, list | tuple) and isinstance(b, list | tuple) and len(a) == len(b):
        for number, (one, other) in enumerate(zip(a, b, strict=True)):
            yield from _unequal(one, other, f"{path}[{number}]")
    elif a != b and (a == a or b == b):  # NaN, as the loss of an empty validation, is equal to itself here
        yield f"{path}: {a!r} ≠ {b!r}"


def _causes(lives: list[Life], told: Told, told_again: Told) -> list[str]:
    """Return why the lives differ, as far as it can be told; [] when they do not."""
    if not any(life.differences for life in lives):
        return []
    causes = [
        _("{name} gives other values each time, from a generator that the seed does not reach", name=name)
        + f" ({sample})"
        for name, sample in _unequal_transforms(told.tried, told_again.tried).items()
    ]
    causes += [_("{name} of torch is not deterministic here", name=name) for name in told.operations]
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


def _unequal_transforms(tried: list[Tried], tried_again: list[Tried]) -> dict[str, str]:
    """Return transform → a sample of which it made more than one value, for the first such transform of each sample."""
    found: dict[str, str] = {}
    for first, again in zip(tried, tried_again, strict=True):
        for (name, *once), (_name, *later) in zip(first.values, again.values, strict=True):
            if len({*once, *later}) > 1:
                found.setdefault(name, first.sample)
                break
    return found
