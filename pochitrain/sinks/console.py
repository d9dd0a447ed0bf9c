"""What a run says: to the terminal with a progress bar, to a pipe in plain lines, and both to train.log."""

from __future__ import annotations

import contextlib
import io
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from rich.cells import cell_len
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.tree import Tree

from pochitrain.durable import disk_error
from pochitrain.errors import PochiError, Problem
from pochitrain.history import Record
from pochitrain.leaving import silence
from pochitrain.locale import _

LEVELS = {"debug": 0, "info": 1, "warning": 2}
BAR_FROM = 80  # columns: a narrower terminal needs the room of the bar for its figures


class Log:
    """Says lines to the reader; they also go to a file once `write_to` names one.

    A closed pipe or a full disk ends the saying, never the run.

    Args:
        quiet: only the file hears of it.
        strict: a full disk is an error, because what is said is all that the command leaves.
    """

    def __init__(self, level: str = "info", *, quiet: bool = False, strict: bool = False) -> None:
        self.level = LEVELS[level]
        self.strict = strict
        terminal = False if quiet else None
        self.console = _Console(
            highlight=False, markup=False, emoji=False, soft_wrap=True, quiet=quiet, force_terminal=terminal
        )
        self._path: Path | None = None
        self._early: list[str] = []

    def write_to(self, path: Path) -> None:
        """Append to `path` from now on, what was said so far included."""
        self._path = path
        lines, self._early = self._early, []
        self._append(lines)

    def debug(self, text: str) -> None:
        self._say(text, 0)

    def info(self, text: str = "") -> None:
        self._say(text, 1)

    def warning(self, text: str) -> None:
        self._say(_("warning: {text}", text=text), 2, style="yellow")

    def note(self, text: str) -> None:
        """Write lines into the file only: an error, which whoever catches it says to the reader."""
        self._append(text.splitlines())

    def table(self, table: Table | Tree) -> None:
        """Show a table or a tree; the log file holds it as text."""
        self._print(table, 1)
        if self.level <= 1:
            self._append(as_text(table).splitlines())

    def _say(self, text: str, level: int, style: str | None = None) -> None:
        self._print(text, level, style)
        if level >= self.level:
            self._append(text.splitlines() or [""])

    def _print(self, what: Any, level: int, style: str | None = None) -> None:
        if level < self.level:
            return
        try:
            self.console.print(what, style=style)
        except UnicodeEncodeError:  # a terminal of another encoding
            text = what if isinstance(what, str) else as_text(what)
            text = text.encode(self.console.encoding, errors="replace").decode(self.console.encoding)
            self.console.print(text, style=style)
        except OSError as error:
            if self.strict:
                raise
            self.console.on_broken_pipe()
            self.warning(first_line(disk_error(error, Path("stdout"))))

    def _append(self, lines: list[str]) -> None:
        if self._path is None:
            self._early += lines
            return
        stamp = time.strftime("%Y-%m-%d %H:%M:%S")
        try:
            with self._path.open("a", encoding="utf-8", errors="backslashreplace") as file:
                file.writelines(f"{stamp} {line}\n" for line in lines)
        except OSError as error:
            path, self._path = self._path, None
            self.warning(first_line(disk_error(error, path)))


class _Console(Console):
    """A console whose reader may leave; Rich would end the program then."""

    def on_broken_pipe(self) -> None:
        self.quiet = True
        silence()


def as_text(figure: Table | Tree) -> str:
    """Return a table or a tree as plain lines of at most 120 characters; a class may be called `[red]` or `:smile:`."""
    file = io.StringIO()
    Console(highlight=False, markup=False, emoji=False, width=120, no_color=True, file=file).print(figure)
    return file.getvalue()


def first_line(error: PochiError) -> str:
    problem: Problem = error.problems[0]
    return f"{problem.what} ({problem.where})" if problem.where else problem.what


def reason_of(error: BaseException) -> str:
    """Return one line for an error, our own or that of a user's function."""
    return first_line(error) if isinstance(error, PochiError) else f"{type(error).__name__}: {error}"


class EpochBar:
    """The bar of the epoch that is running, none between two epochs; shows nothing in a pipe.

    A narrow terminal shows no bar; one that is narrower still no accuracy, then no speed, then no loss.
    """

    def __init__(self, log: Log) -> None:
        wide = log.console.width >= BAR_FROM
        self.progress = Progress(
            TextColumn("{task.description}", markup=False),
            *([BarColumn(bar_width=None)] if wide else []),
            MofNCompleteColumn(),
            TextColumn("{task.fields[figures]}", markup=False),
            TimeRemainingColumn(),
            console=log.console,
            transient=True,
            expand=wide,
            disable=not log.console.is_terminal or log.level > 1,
            refresh_per_second=5,
        )
        self.task = self.progress.add_task("", total=None, visible=False, figures="")
        self._next = 0.0
        self._what = ""
        self._since = (0.0, 0)  # when it began with what it shows, and the images that were done by then

    @contextlib.contextmanager
    def shown(self) -> Iterator[EpochBar]:
        with self.progress:
            yield self

    @property
    def due(self) -> bool:
        """Whether it is time to show new figures; reading them from a GPU costs a wait."""
        return not self.progress.disable and time.monotonic() >= self._next

    def update(self, description: str, done: int, total: int, record: Record, images: int) -> None:
        """Show `done` of `total` steps, and loss and accuracy in `record`.

        The speed counts from the first call with this `description`: what an earlier life of the run has done of the
        epoch, and what the phase before this one took, is no part of it.
        """
        now = time.monotonic()
        self._next = now + 0.2
        show: Callable[..., None] = self.progress.update
        if description != self._what:
            self._what, self._since = description, (now, images)
            show = self.progress.reset  # which forgets the speed of the steps, too
        began, before = self._since
        figures = [f"{value:.2f} %" if name.endswith("accuracy") else f"{value:.4f}" for name, value in record.items()]
        if images > before:
            figures.append(f"{(images - before) / (now - began):.0f} " + _("images/s"))
        room = self.progress.console.width - cell_len(f"{description} {done}/{total}  0:00:00")
        while figures and cell_len("  ".join(figures)) > room:
            del figures[min(1, len(figures) - 1)]
        show(self.task, description=description, completed=done, total=total, visible=True, figures="  ".join(figures))

    def restart(self) -> None:
        """Show nothing until the next epoch has something to show."""
        if not self.progress.disable:
            self.progress.update(self.task, visible=False, refresh=True)
        self._next, self._what = 0.0, ""
