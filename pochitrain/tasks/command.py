"""`pochi train` on the command line: what surrounds `train` there, and only there."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pochitrain.config.idle import idle_settings
from pochitrain.config.loader import replace_settings
from pochitrain.config.mistakes import located
from pochitrain.config.schema import Config
from pochitrain.data.source import load_data
from pochitrain.engine.checkpoint import Checkpoints
from pochitrain.errors import ConfigError
from pochitrain.history import History, monitored
from pochitrain.locale import _
from pochitrain.sinks.console import Log
from pochitrain.tasks.config import settings_tree
from pochitrain.tasks.infer import infer
from pochitrain.tasks.prepare import checked_config, plan
from pochitrain.tasks.train import Trained, metric_of, train


def run_train(path: Path, overrides: Mapping[str, Any], *, restart: bool, strict_env: bool) -> Trained:
    """Train and judge what a config file describes, as its `train` and `test` say; the monitored metric comes last."""
    config = checked_config(path, overrides)
    if config.ignore_warnings:
        warnings.simplefilter("ignore")
    if config.enforce_tags and not config.tags:
        config = replace_settings(config, {"tags": ask_tags()})
    log = Log(config.log_level)
    if config.print_config:
        log.table(settings_tree(config))
    for line in idle_settings(config):
        log.warning(line)
    try:
        if config.train:
            trained = train(config, restart=restart, strict_env=strict_env, log=log)
        else:
            trained = already_trained(config)
        if config.test:
            infer(str(trained.experiment.dir), work_dir=Path(config.work_dir), log=log)
    except ConfigError as error:
        raise located(error, config) from error
    name = monitored(trained.history, config.early_stopping.monitor)
    log.info(f"{name} {trained.metric:.4f}")
    return trained


def already_trained(config: Config) -> Trained:
    """Return what an earlier training of the same experiment left behind.

    Raises:
        ConfigError: there was none.
    """
    experiment = plan(config, load_data(config)).experiment
    loaded = Checkpoints(experiment.checkpoints_dir).load_newest()
    if loaded is None:
        what = _("train is False, but there is no training to judge: {path}", path=experiment.dir)
        raise ConfigError(what, "train", _("train it first, with train = True"))
    history: History = loaded.state["history"]
    return Trained(experiment, history, metric_of(history, config))


def ask_tags() -> list[str]:
    """Ask for tags on a terminal.

    Raises:
        ConfigError: nobody can be asked, or nothing was answered.
    """
    answer = input(_("tags (comma separated): ")) if sys.stdin is not None and sys.stdin.isatty() else ""
    tags = [tag.strip() for tag in answer.split(",") if tag.strip()]
    if not tags:
        raise ConfigError(
            _("This config does not start without tags"),
            "enforce_tags",
            _("give them with --tag NAME, or set tags = [...]"),
        )
    return tags
