"""`pochi list` and `pochi show`: the experiments that are there. Loads no torch."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
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
    table = Table(box=SIMPLE_HEAD)
    for name in COLUMNS:
        table.add_column(
            _titles()[name], justify="right" if name in ("epochs", "best") else "left", no_wrap=name == "id"
        )
    for info in infos:
        table.add_row(*(_text(info, name) for name in COLUMNS))
    console.print(table)


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
        _("status"): status_of(experiment, manifest),
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
    width = max(len(name) for name in rows)
    for name, value in rows.items():
        if value:
            console.print(f"{name:<{width}}  {value}")
