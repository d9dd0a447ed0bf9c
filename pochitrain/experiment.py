"""One experiment on disk: where its files lie, how it is found again, and who is at work on it."""

from __future__ import annotations

import difflib
import fcntl
import json
import os
import re
import shlex
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from pochitrain import durable
from pochitrain.errors import AlreadyRunningError, ConfigError, DataError, DiskError
from pochitrain.locale import _

ID_LENGTH = 12
"""Hex digits of the id that name the folder: 48 bits, two of a million experiments meet once in 500 work folders."""

_FOLDER = re.compile(rf"[0-9a-f]{{{ID_LENGTH}}}")
_ENDED = ("complete", "stopped", "failed")


@dataclass(frozen=True)
class Experiment:
    """A folder `work_dir/<task>/<model>/<first 12 digits of the id>/` and the paths inside it."""

    dir: Path
    id: str

    @classmethod
    def at(cls, work_dir: Path, task: str, model: str, full_id: str) -> Experiment:
        """Return the experiment of `full_id`, whether its folder exists or not. Writes nothing.

        Raises:
            DataError: the folder is that of another experiment whose id begins with the same 12 digits.
        """
        experiment = cls(work_dir / task / model / full_id[:ID_LENGTH], full_id)
        try:
            there = read_manifest(experiment).get("id", full_id)
        except DataError:
            return experiment  # new, or killed before its manifest was written
        if there != full_id:
            raise DataError(
                _("Another experiment with the same first {digits} digits is here: {id}", digits=ID_LENGTH, id=there),
                str(experiment.dir),
                _("choose another work_dir or task for this one: {id}", id=full_id),
            )
        return experiment

    @property
    def config_py(self) -> Path:
        return self.dir / "config.py"

    @property
    def config_json(self) -> Path:
        return self.dir / "config.json"

    @property
    def identity_json(self) -> Path:
        return self.dir / "identity.json"

    @property
    def experiment_json(self) -> Path:
        return self.dir / "experiment.json"

    @property
    def data_manifest(self) -> Path:
        return self.dir / "data_manifest.json.gz"

    @property
    def split_csv(self) -> Path:
        return self.dir / "split.csv"

    @property
    def metrics_csv(self) -> Path:
        return self.dir / "metrics.csv"

    @property
    def gradients_csv(self) -> Path:
        return self.dir / "gradients.csv"

    @property
    def train_log(self) -> Path:
        return self.dir / "train.log"

    @property
    def tags_log(self) -> Path:
        return self.dir / "tags.log"

    @property
    def config_tree_log(self) -> Path:
        return self.dir / "config_tree.log"

    @property
    def failure_json(self) -> Path:
        return self.dir / "failure.json"

    @property
    def plots_dir(self) -> Path:
        return self.dir / "plots"

    @property
    def checkpoints_dir(self) -> Path:
        return self.dir / "checkpoints"

    @property
    def best_pt(self) -> Path:
        return self.dir / "best.pt"

    @property
    def last_pt(self) -> Path:
        return self.dir / "last.pt"

    @property
    def tensorboard_dir(self) -> Path:
        return self.dir / "tensorboard"

    @property
    def infer_dir(self) -> Path:
        return self.dir / "infer"


@dataclass(frozen=True)
class ExperimentInfo:
    """An experiment as a list shows it.

    `status` is "running" while somebody holds the lock, "broken" when `experiment.json` cannot be read, and else what
    it says: "complete", "stopped", "failed", or "interrupted" when the run ended without writing how.
    """

    experiment: Experiment
    task: str
    model: str
    status: str
    manifest: dict[str, Any] = field(default_factory=dict)


def write_manifest(experiment: Experiment, data: dict[str, Any]) -> None:
    """Write `experiment.json`: `data` with the id. A run that starts leaves out `status`; one that ends sets it."""
    durable.write_json(experiment.experiment_json, {"id": experiment.id, **data})


def read_manifest(experiment: Experiment) -> dict[str, Any]:
    """Return what `experiment.json` holds.

    Raises:
        DataError: it is not there, or is not the JSON object that was written.
    """
    path = experiment.experiment_json
    try:
        data = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise DataError(_("experiment.json cannot be read: {error}", error=error), str(path)) from error
    if not isinstance(data, dict):
        raise DataError(_("experiment.json cannot be read: {error}", error=type(data).__name__), str(path))
    return data


def find_experiments(work_dir: Path) -> list[ExperimentInfo]:
    """Return every experiment under `work_dir`, by task, model and id; folders set aside are not among them."""
    return [_info(folder) for folder in sorted(work_dir.glob("*/*/*/")) if _FOLDER.fullmatch(folder.name)]


def same_id(work_dir: Path, full_id: str) -> list[Experiment]:
    """Return the experiments with this id, under whatever task and model."""
    infos = [_info(folder) for folder in sorted(work_dir.glob(f"*/*/{full_id[:ID_LENGTH]}/"))]
    return [info.experiment for info in infos if info.experiment.id == full_id]


def find_experiment(work_dir: Path, text: str) -> Experiment:
    """Return the experiment that `text` names: the beginning of an id, its folder, or a file inside the folder.

    Raises:
        ConfigError: no experiment, or more than one, is meant by it.
    """
    path = Path(text).absolute()
    for folder in (path, *path.parents) if text and path.exists() else ():
        if (folder / "experiment.json").is_file():
            return _info(folder).experiment
    found = find_experiments(work_dir)
    matches = [info for info in found if text and info.experiment.id.startswith(text.lower())]
    if len(matches) == 1:
        return matches[0].experiment
    if matches:
        raise ConfigError(
            _("More than one experiment begins with {text}:", text=text) + _lines(matches),
            str(work_dir),
            _("give more digits of the id, or the folder of the experiment"),
        )
    raise ConfigError(
        _("No experiment is meant by {text}", text=text or '""') + _lines(_similar(found, text)),
        str(work_dir),
        _("give the beginning of an id from `pochi list`, the experiment's folder, or a checkpoint in it"),
    )


def set_aside(experiment: Experiment) -> Path:
    """Rename the folder to `<id>.old-<n>`, where no search finds it, and return its new path.

    Raises:
        AlreadyRunningError: somebody is at work in it.
    """
    assert experiment.dir.is_dir(), experiment.dir
    with lock(experiment):
        number = 1
        while (aside := experiment.dir.with_name(f"{experiment.dir.name}.old-{number}")).exists():
            number += 1
        try:
            experiment.dir.rename(aside)
            durable.sync_directory(aside.parent)
        except OSError as error:
            raise durable.disk_error(error, experiment.dir) from error
    return aside


def status_of(experiment: Experiment, manifest: dict[str, Any]) -> str:
    """Return "running", "complete", "stopped", "failed" or "interrupted" (see `ExperimentInfo`)."""
    if holder(experiment) is not None:
        return "running"
    status = manifest.get("status")
    return str(status) if status in _ENDED else "interrupted"


def _info(folder: Path) -> ExperimentInfo:
    experiment = Experiment(folder, folder.name)
    task, model = folder.parent.parent.name, folder.parent.name
    try:
        manifest = read_manifest(experiment)
    except DataError:
        running = holder(experiment) is not None
        return ExperimentInfo(experiment, task, model, "running" if running else "broken")
    experiment = Experiment(folder, str(manifest.get("id", folder.name)))
    return ExperimentInfo(experiment, task, model, status_of(experiment, manifest), manifest)


def _similar(found: list[ExperimentInfo], text: str) -> list[ExperimentInfo]:
    length = min(len(text), ID_LENGTH)
    near = difflib.get_close_matches(text[:length].lower(), [info.experiment.id[:length] for info in found], n=3)
    return [info for info in found if info.experiment.id[:length] in near]


def _lines(infos: list[ExperimentInfo]) -> str:
    return "".join(f"\n    {info.experiment.id[:ID_LENGTH]}  {info.task}/{info.model}  {info.status}" for info in infos)


# ---------------------------------------------------------------------------------------------------------------- lock
# flock belongs to the open file, so it goes with the process however that ends. A forked child (a loader's worker)
# shares the open file and would keep the lock when its parent is killed: each child therefore closes it first of all.

_open_locks: set[int] = set()


def _close_in_child() -> None:
    for descriptor in _open_locks:
        os.close(descriptor)
    _open_locks.clear()


os.register_at_fork(after_in_child=_close_in_child)


@contextmanager
def lock(experiment: Experiment) -> Iterator[None]:
    """Hold the experiment, whose folder is created if need be: nobody else can enter until this block or process ends.

    Raises:
        AlreadyRunningError: somebody else is in it; takes a fifth of a second to be sure.
        DiskError: the folder cannot be created or locked.
    """
    path = experiment.dir / ".lock"
    for _attempt in range(20):
        durable.make_directory(experiment.dir)
        with _lock_file(path, os.O_RDWR | os.O_CREAT) as descriptor:
            # A look by `holder` holds it for microseconds, and the folder may be set aside between open and flock.
            if _flock(descriptor, fcntl.LOCK_EX, path) and _is_at(descriptor, path):
                os.ftruncate(descriptor, 0)
                os.pwrite(descriptor, json.dumps(_this_process()).encode(), 0)
                yield
                return
            who = _read_holder(descriptor)
        time.sleep(0.01)
    raise _already_running(experiment, who)


def holder(experiment: Experiment) -> dict[str, Any] | None:
    """Return who holds the lock ({} while that is being written), None when nobody does. Creates nothing."""
    path = experiment.dir / ".lock"
    try:
        with _lock_file(path, os.O_RDONLY) as descriptor:
            return None if _flock(descriptor, fcntl.LOCK_SH, path) else _read_holder(descriptor)
    except DiskError:  # no such file: nobody ever began
        return None


def _already_running(experiment: Experiment, who: dict[str, Any]) -> AlreadyRunningError:
    known = {"pid": "?", "host": "?", "started": "?", "command": "?", **who}
    return AlreadyRunningError(
        _("This experiment is already running: process {pid} on {host}, since {started}", **known),
        str(experiment.dir),
        _("wait for it to end, or stop it (`kill {pid}`: it saves first). It was started as: {command}", **known),
    )


@contextmanager
def _lock_file(path: Path, flags: int) -> Iterator[int]:
    try:
        descriptor = os.open(path, flags | os.O_CLOEXEC, 0o666)
    except OSError as error:
        raise durable.disk_error(error, path) from error
    _open_locks.add(descriptor)
    try:
        yield descriptor
    finally:
        if descriptor in _open_locks:  # not in a child that was forked inside the block
            _open_locks.remove(descriptor)
            os.close(descriptor)


def _flock(descriptor: int, kind: int, path: Path) -> bool:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:  # a file system without locks
        raise durable.disk_error(error, path) from error
    return True


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _read_holder(descriptor: int) -> dict[str, Any]:
    try:
        who = json.loads(os.pread(descriptor, 1 << 16, 0))
    except ValueError:
        return {}
    return who if isinstance(who, dict) else {}


def _this_process() -> dict[str, Any]:
    return {
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "started": datetime.now().astimezone().isoformat(timespec="seconds"),
        "command": shlex.join(sys.orig_argv),
    }
