"""Trainings in processes of their own: one that is killed or runs out of memory takes no other, and no study, along.

The parent never trains and never touches a GPU. It hands out `Work`, is asked after each epoch whether to go on, and
gets an `Outcome`. A worker loads the config itself, from the text that the parent read: lambdas and objects of the
user's cannot travel.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import types
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout, suppress
from dataclasses import dataclass, field
from multiprocessing import forkserver, resource_tracker
from multiprocessing.connection import Connection, wait
from typing import Any, Protocol

import torch

from pochitrain.config.identity import canonical_settings
from pochitrain.config.loader import load_config, replace_settings
from pochitrain.config.schema import Config
from pochitrain.data.cache import share_memory
from pochitrain.data.source import Data, load_data
from pochitrain.engine.run import build_run
from pochitrain.engine.signals import StopRequest
from pochitrain.errors import ConfigError, DiskError, PochiError, Problem
from pochitrain.history import History, Record
from pochitrain.leaving import let_go
from pochitrain.locale import _
from pochitrain.reports.trials import INTERRUPTED
from pochitrain.tasks.trial import Outcome, Trainer, Work

TICK_SECONDS = 0.25  # between two looks at the clock while all workers train

_context = multiprocessing.get_context("forkserver")  # a fork of the parent would share its threads' locks, and CUDA


class Source(Protocol):
    """Where work comes from and results go. Called in the parent, one call at a time."""

    def next(self) -> Work | None:
        """Return what is to be done next, None when there is nothing (now, or at all)."""

    def over(self) -> bool:
        """Return whether nothing will come any more. Asked when nobody is at work."""

    def goes_on(self, work: Work, record: Record) -> bool: ...

    def keeps(self, work: Work, history: History) -> bool: ...

    def end(self, work: Work, outcome: Outcome) -> None: ...

    def tick(self) -> None:
        """Called several times a second."""


@dataclass
class Worker:
    """A process, what it is doing, and the parent's end of the pipe to it."""

    process: Any
    pipe: Connection
    work: Work | None = None
    experiment: str = ""  # id and folder of the training that it has begun
    folder: str = ""
    told_to_stop: bool = False
    ready: bool = False  # it has shown that it can train


def import_ahead() -> None:
    """Begin the process that all workers are forked from: it imports torch, once for all of them. Waits for nothing."""
    _context.set_forkserver_preload(["pochitrain.tasks.workers"])
    resource_tracker.ensure_running()  # its start would let the signal through again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # inherited: Ctrl+C is for the parent alone
    try:
        forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class Workers:
    """`count` processes that train what a source has."""

    def __init__(self, config: Config, data: Data, count: int) -> None:
        self.config, self.data, self.count = config, data, count
        self.workers: list[Worker] = []

    def start(self) -> None:
        """Start them all; `wait` before they are given work."""
        import_ahead()
        self.workers = [self._begin(place) for place in range(self.count)]

    def wait(self, tick: Callable[[], None]) -> None:
        """Return when each has shown that the file's own setting can be trained here.

        Args:
            tick: called several times a second meanwhile.

        Raises:
            ConfigError, DataError: it cannot. Nothing has been written.
        """
        for place in range(self.count):
            self._greet(place, tick)

    def train(self, source: Source, request: StopRequest) -> None:
        """Train until the source is over, or until a signal came and everything has stopped.

        Raises:
            DiskError: a worker could not write.
        """
        while True:
            busy = [worker for worker in self.workers if worker.work is not None]
            if not request():
                for place, worker in enumerate(self.workers):
                    if worker.work is None and (work := source.next()) is not None:
                        self._send(source, place, work)
                busy = [worker for worker in self.workers if worker.work is not None]
                if not busy and source.over():
                    return
            elif not busy:
                return
            for worker in busy if request() else ():
                self._stop(worker)
            source.tick()
            for pipe in wait([worker.pipe for worker in busy], TICK_SECONDS) if busy else self._idle():
                self._hear(source, next(n for n, worker in enumerate(self.workers) if worker.pipe is pipe), request)

    def close(self) -> None:
        """End the processes that are idle, and kill those that are not."""
        for worker in self.workers:
            with suppress(OSError):  # it is dead already
                worker.pipe.send(None)
            if worker.work is not None or not worker.ready:
                worker.process.kill()
        for worker in self.workers:
            worker.process.join()
            worker.pipe.close()
        self.workers = []

    # -- one worker

    def _begin(self, place: int) -> Worker:
        ours, theirs = _context.Pipe()
        origin = self.config.origin
        assert origin.path is not None, "checked before"
        start = Start(
            path=str(origin.path),
            text=origin.text,
            overrides=dict(origin.overrides),
            data=self.data if self.config.dataset is None else None,
            place=place,
            count=self.count,
            settings=canonical_settings(self.config),
        )
        with _no_main_module():
            process = _context.Process(target=work_for_ever, args=(theirs, start), daemon=False)
            process.start()
        theirs.close()
        return Worker(process, ours)

    def _greet(self, place: int, tick: Callable[[], None]) -> None:
        worker = self.workers[place]
        while not worker.pipe.poll(TICK_SECONDS):  # importing and reading the data may take minutes
            tick()
        try:
            answer = worker.pipe.recv()
        except (EOFError, OSError):
            worker.process.join()
            code = worker.process.exitcode
            raise ConfigError(
                _("A worker process ended before its first trial (exit code {code})", code=code),
                "optuna.n_jobs",
                _("is there memory for so many processes? Does `pochi config check` succeed?"),
            ) from None
        if answer is not None:
            raise answer.error()
        worker.ready = True

    def _send(self, source: Source, place: int, work: Work) -> None:
        worker = self.workers[place]
        try:
            worker.pipe.send(work)
        except OSError:  # it died while it was idle
            self._replace(place, source)
            worker = self.workers[place]
            worker.pipe.send(work)
        worker.work, worker.experiment, worker.folder = work, "", ""

    def _hear(self, source: Source, place: int, request: StopRequest) -> None:
        worker = self.workers[place]
        work = worker.work
        assert work is not None
        try:
            kind, message = worker.pipe.recv()
        except (EOFError, OSError):
            stopping = request()
            if not stopping:
                self._replace(place, source)
            worker.work = None
            there = os.path.isdir(worker.folder)
            name, folder = (worker.experiment, worker.folder) if there else ("", "")
            source.end(work, Outcome(INTERRUPTED, experiment=name, folder=folder, gracefully=stopping))
            return
        if kind == "begins":
            worker.experiment, worker.folder = message
        elif kind == "record":
            self._answer(worker, source.goes_on(work, message))
        elif kind == "history":
            self._answer(worker, source.keeps(work, message))
        elif kind == "error":
            worker.work = None
            raise message.error()
        else:
            worker.work = None
            source.end(work, message)

    def _answer(self, worker: Worker, answer: bool) -> None:
        with suppress(OSError):  # it died meanwhile, which the next look at its pipe shows
            worker.pipe.send(answer)

    def _stop(self, worker: Worker) -> None:
        if not worker.told_to_stop:
            worker.told_to_stop = True
            worker.process.terminate()  # as `kill` does it: the training saves and ends

    def _replace(self, place: int, source: Source) -> None:
        dead = self.workers[place]
        dead.process.join()
        dead.pipe.close()
        self.workers[place] = self._begin(place)
        self._greet(place, source.tick)

    def _idle(self) -> list[Any]:
        threading.Event().wait(TICK_SECONDS)
        return []


@contextmanager
def _no_main_module() -> Iterator[None]:
    """Keep new processes from running the program's own file again: a worker needs nothing of it."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


# ---------------------------------------------------------------------------------------------------------- in a worker


@dataclass(frozen=True)
class Start:
    """All that a worker needs to know; plain values."""

    path: str
    text: str
    overrides: dict[str, Any]
    data: Data | None  # None: the user's own data set, which the worker makes itself
    place: int
    count: int
    settings: dict[str, str]  # what the parent's config means
    directory: str = field(default_factory=os.getcwd)
    environment: dict[str, str] = field(default_factory=lambda: dict(os.environ))
    threads: int = field(default_factory=torch.get_num_threads)
    search_path: list[str] = field(default_factory=lambda: list(sys.path))


@dataclass(frozen=True)
class Refusal:
    """An error of ours on its way to the parent."""

    kind: type[PochiError]
    problems: tuple[Problem, ...]

    def error(self) -> PochiError:
        return self.kind(problems=self.problems)


def work_for_ever(pipe: Connection, start: Start) -> None:
    """Do what comes through the pipe until the parent closes it or is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl+C reaches all, and the parent decides what it means
    threading.Thread(target=_follow_the_parent, daemon=True).start()
    os.chdir(start.directory)
    os.environ.clear()
    os.environ.update(start.environment)
    sys.path[:] = start.search_path
    torch.set_num_threads(max(1, start.threads // start.count))
    share_memory(start.count)
    with suppress(EOFError, OSError):  # of the pipe: the parent is gone
        _serve(pipe, start)
    for error in let_go():
        print(error, file=sys.stderr)


def _serve(pipe: Connection, start: Start) -> None:
    try:
        trainer = prepare(start)
    except PochiError as error:
        pipe.send(Refusal(type(error), error.problems))
        return
    pipe.send(None)

    def ask(kind: str) -> Callable[[Any], bool]:
        def asked(message: Any) -> bool:
            pipe.send((kind, message))
            return bool(pipe.recv())

        return asked

    def begins(name: str, folder: str) -> None:
        pipe.send(("begins", (name, folder)))

    while (work := pipe.recv()) is not None:
        try:
            outcome = trainer.run(work, ask("record"), ask("history"), begins)
        except DiskError as error:
            pipe.send(("error", Refusal(type(error), error.problems)))
        else:
            pipe.send(("outcome", outcome))


def prepare(start: Start) -> Trainer:
    """Load the config, and show that the file's own setting can be trained on this worker's device.

    Raises:
        ConfigError, DataError: it cannot.
    """
    with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere):  # the parent has said what the file prints
        config = load_config(start.path, start.overrides, text=start.text)
    if config.ignore_warnings:
        warnings.simplefilter("ignore")
    if canonical_settings(config) != start.settings:
        raise ConfigError(
            _("A module that the config imports has changed since the search began"),
            start.path,
            _("start the search again, under another study_name"),
        )
    device = device_of(start.place, config.device, torch.cuda.device_count())
    config = replace_settings(config, {"device": device}) if device != config.device else config
    data = start.data or load_data(config)
    build_run(config, data).close()
    return Trainer(config, data)


def device_of(place: int, device: str | None, gpus: int) -> str | None:
    """Return the device of a worker: the GPUs in turn, unless the config names one."""
    return f"cuda:{place % gpus}" if device in (None, "cuda") and gpus > 1 else device


def _follow_the_parent() -> None:
    """End this process when the parent is gone: nobody would hear what it finds."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
