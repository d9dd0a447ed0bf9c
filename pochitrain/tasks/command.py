"""`pochi train` on the command line: what surrounds `train` there, and only there."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pochitrain.config.loader import replace_settings
from pochitrain.config.mistakes import located
from pochitrain.errors import ConfigError
from pochitrain.history import monitored
from pochitrain.locale import _
from pochitrain.sinks.console import Log
from pochitrain.tasks.config import settings_tree
from pochitrain.tasks.prepare import checked_config
from pochitrain.tasks.train import Trained, train


def run_train(path: Path, overrides: Mapping[str, Any], *, restart: bool, strict_env: bool) -> Trained:
    """Train what a config file describes; the monitored metric is printed last."""
    config = checked_config(path, overrides)
    if config.ignore_warnings:
        warnings.simplefilter("ignore")
    if config.enforce_tags and not config.tags:
        config = replace_settings(config, {"tags": ask_tags()})
    log = Log(config.log_level)
    if config.print_config:
        log.table(settings_tree(config))
    try:
        trained = train(config, restart=restart, strict_env=strict_env, log=log)
    except ConfigError as error:
        raise located(error, config) from error
    name = monitored(trained.history, config.early_stopping.monitor)
    log.info(f"{name} {trained.metric:.4f}")
    return trained


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
