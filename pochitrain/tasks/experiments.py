"""`pochi list` and `pochi show`: the experiments that are there. Loads no torch."""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.cells import cell_len, set_cell_size
from rich.console import Console
from rich.table import Table

from pochitrain.errors import ConfigError
from pochitrain.experiment import ID_LENGTH, ExperimentInfo, find_experiment, find_experiments, read_manifest, status_of
from pochitrain.locale import _

COLUMNS: dict[str, Callable[[ExperimentInfo], Any]] = {
    "id": lambda info: info.experiment.id[:ID_LENGTH],
    "task": lambda info: info.task,
    "model": lambda info: info.model,
    "epochs": lambda info: info.manifest.get("epochs_finished", 0),
    "best": lambda info: best_value(info.manifest),
    "monitor": lambda info: str(info.manifest.get("monitor", "")),
    "status": lambda info: info.status,
    "when": lambda info: str(info.manifest.get("updated", "")),
    "tags": lambda info: ", ".join(info.manifest.get("tags") or ()),
}


def best_value(manifest: dict[str, Any]) -> float:
    """Return the monitored metric at the best epoch, NaN when there is none yet."""
    value = (manifest.get("best") or {}).get(manifest.get("monitor", ""))
    return float(value) if isinstance(value, int | float) else math.nan


def list_experiments(work_dir: Path, sort: str, reverse: bool) -> None:
    """Print every experiment, one line each.

    Raises:
        ConfigError: `sort` is no column.
    """
    if sort not in COLUMNS:
        raise ConfigError(
            _("There is no column {name}", name=repr(sort)), "--sort", _("columns: {names}", names=", ".join(COLUMNS))
        )
    infos = find_experiments(work_dir)
    infos.sort(key=lambda info: _order(COLUMNS[sort](info)), reverse=reverse)
    console = Console(highlight=False, markup=False, emoji=False, soft_wrap=True)
    if not infos:
        console.print(_("No experiments in {path}", path=work_dir))
        return
    if not console.is_terminal:  # one line per experiment for other programs: tabs, no padding
        for line in (COLUMNS, *([_text(info, name) for name in COLUMNS] for info in infos)):
            print("\t".join(line))  # not through Rich, which turns tabs into blanks
        return
    console.print(experiments_table(infos))


def experiments_table(infos: list[ExperimentInfo]) -> Table:
    """Return the list for a terminal: in 80 columns, numbers and times are never cut."""
    names, titles = list(COLUMNS), _titles()
    monitors = {str(monitor) for info in infos if (monitor := info.manifest.get("monitor"))}
    if len(monitors) == 1:  # one metric for all is the title of its column
        names.remove("monitor")
        titles["best"] = monitors.pop()
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    for name in names:
        folds = name in ("task", "model", "tags")
        table.add_column(
            titles[name],
            justify="right" if name in ("epochs", "best") else "left",
            no_wrap=not folds,
            overflow="fold" if folds else "ellipsis",
        )
    for info in infos:
        table.add_row(*(_shown(info, name) for name in names))
    return table


def _shown(info: ExperimentInfo, name: str) -> str:
    """Return the text of a cell for a person: the status in words, the time without the year when it is this one."""
    if name == "status":
        return status_words(info.status)
    text = _text(info, name)
    return text.removeprefix(f"{datetime.now():%Y}-") if name == "when" else text


def status_words(status: str) -> str:
    """Return a status in the reader's language."""
    words = {
        "running": _("running"),
        "complete": _("complete"),
        "stopped": _("stopped"),
        "failed": _("failed"),
        "interrupted": _("interrupted"),
        "broken": _("broken"),
    }
    return words[status]


def _titles() -> dict[str, str]:
    return {
        "id": _("id"),
        "task": _("task"),
        "model": _("model"),
        "epochs": _("epochs"),
        "best": _("best"),
        "monitor": _("chosen by"),
        "status": _("status"),
        "when": _("when"),
        "tags": _("tags"),
    }


def _order(value: Any) -> Any:
    return -math.inf if isinstance(value, float) and math.isnan(value) else value


def _text(info: ExperimentInfo, name: str) -> str:
    value = COLUMNS[name](info)
    if name == "best":
        return "-" if math.isnan(value) else f"{value:.4f}"
    if name == "epochs":
        return f"{value}/{info.manifest.get('epochs', '?')}"
    return str(value).replace("T", " ")[:16] if name == "when" else str(value)


def show_experiment(work_dir: Path, text: str) -> None:
    """Print what is known of one experiment."""
    experiment = find_experiment(work_dir, text)
    manifest = read_manifest(experiment)
    best = manifest.get("best") or {}
    rows = {
        _("id"): experiment.id,
        _("folder"): str(experiment.dir),
        _("status"): status_words(status_of(experiment, manifest)),
        _("epochs"): f"{manifest.get('epochs_finished', 0)}/{manifest.get('epochs', '?')}",
        _("best epoch"): f"{manifest.get('best_epoch')} ({manifest.get('monitor')})",
        **{
            name: f"{value:.6g}"
            for name, value in best.items()
            if name.startswith(("train_", "val_")) and value is not None
        },
        _("duration"): _("{seconds} s", seconds=manifest.get("seconds", 0)),
        _("classes"): ", ".join(manifest.get("classes", ())),
        _("tags"): ", ".join(manifest.get("tags") or ()),
        _("notes"): manifest.get("notes", ""),
        _("config"): manifest.get("config_path", ""),
        _("created"): str(manifest.get("created", "")).replace("T", " ")[:19],
        _("updated"): str(manifest.get("updated", "")).replace("T", " ")[:19],
        **{name: str(value) for name, value in manifest.get("resolved", {}).items()},
        **{name: str(value) for name, value in manifest.get("environment", {}).items()},
    }
    if failure := manifest.get("failure"):
        rows[_("failure")] = f"{failure.get('error')}: {failure.get('what')}"
    console = Console(highlight=False, markup=False, emoji=False, soft_wrap=True)
    width = max(cell_len(name) for name in rows)
    for name, value in rows.items():
        if value:
            console.print(f"{set_cell_size(name, width)}  {value}")
