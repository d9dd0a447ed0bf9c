"""`pochi config`: settings looked at without training."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text
from rich.tree import Tree

from pochitrain import durable
from pochitrain.config.describe import plain_settings
from pochitrain.config.idle import idle_settings
from pochitrain.config.mistakes import located, shown
from pochitrain.config.schema import Config
from pochitrain.errors import ConfigError, DataError, PochiError
from pochitrain.experiment import find_experiment
from pochitrain.locale import _


def settings_tree(config: Config) -> Tree:
    """Return every resolved setting; those that the file or the command line gave are set in bold."""
    tree = Tree(Text(shown(config.origin.path) if config.origin.path else _("settings")))
    for name, value in plain_settings(config).items():
        style = "bold" if name in config.model_fields_set else "dim"
        _grow(tree, name, value, style)
    return tree


def _grow(tree: Tree, name: str, value: Any, style: str) -> None:
    if isinstance(value, dict) and value:
        branch = tree.add(Text(name, style=style))
        for key, item in value.items():
            _grow(branch, key, item, style)
    else:
        tree.add(Text(f"{name} = {value!r}", style=style))


def show_config(path: Path, overrides: Mapping[str, Any]) -> None:
    """Print the tree of settings."""
    from pochitrain.tasks.prepare import checked_config

    Console(soft_wrap=True).print(settings_tree(checked_config(path, overrides, device=False)))


def check_config(path: Path, overrides: Mapping[str, Any]) -> None:
    """Go as far as `pochi train` does before it writes anything, and say that it would start."""
    from pochitrain.data.source import load_data
    from pochitrain.engine.run import build_run
    from pochitrain.sinks.console import Log
    from pochitrain.tasks.prepare import begun_in, checked_config, plan
    from pochitrain.tasks.summary import say_start

    config = checked_config(path, overrides)
    log = Log(strict=True)
    for line in idle_settings(config):
        log.warning(line)
    durable.require_writable(Path(config.work_dir))
    try:
        chosen = plan(config, load_data(config))
        precision = begun_in(config, chosen.experiment)
        say_start(log, chosen, build_run(config, chosen.data, precision=precision))
    except ConfigError as error:
        raise located(error, config) from error
    log.info(_("The config is right."))


def print_schema() -> None:
    """Print the JSON schema of a config."""
    print(json.dumps(Config.model_json_schema(), ensure_ascii=False, indent=2))


def print_ids(paths: Sequence[Path], overrides: Mapping[str, Any], explain: bool) -> int:
    """Print one line for each file, its full id and its path; return the exit code.

    A file that is refused says why on stderr, and the others go on. The first of them decides about the code.

    Args:
        explain: print what the id is made of, below its line.
    """
    from pochitrain.data.source import load_data
    from pochitrain.tasks.prepare import checked_config, plan

    code = 0
    for path in paths:
        try:
            config = checked_config(path, overrides, device=False)
            chosen = plan(config, load_data(config))
        except PochiError as error:
            print(error, file=sys.stderr)
            code = code or error.exit_code
            continue
        print(f"{chosen.experiment.id}  {path}")
        for part in (chosen.identity.settings, chosen.identity.data) if explain else ():
            print("\n".join(f"  {key} = {part[key]}" for key in sorted(part)))
    return code


def print_difference(work_dir: Path, first: str, second: str) -> bool:
    """Print in which settings two config files or experiments differ; return whether they do."""
    from pochitrain.config.identity import settings_difference

    (settings, data), (others, other_data) = _parts_of(work_dir, first), _parts_of(work_dir, second)
    lines = settings_difference(settings, others)
    if data is not None and other_data is not None:
        changed = sorted(name for name in data.keys() | other_data.keys() if data.get(name) != other_data.get(name))
        lines += [_("{name} changed", name=name) for name in changed]
        same = _("no difference: the same experiment")
    else:
        same = _("no difference in the settings")
    print("\n".join(lines) if lines else same)
    return bool(lines)


def _parts_of(work_dir: Path, text: str) -> tuple[dict[str, str], dict[str, str] | None]:
    """Return settings and data in the identity of an experiment, by its id or folder; of a file the settings."""
    from pochitrain.config.identity import canonical_settings
    from pochitrain.tasks.prepare import checked_config, read_identity

    if text.endswith(".py"):
        return canonical_settings(checked_config(text, device=False)), None
    experiment = find_experiment(work_dir, text)
    identity = read_identity(experiment)
    if identity is None:
        raise DataError(
            _("The identity of this experiment cannot be read"),
            str(experiment.identity_json),
            _("give the config file"),
        )
    return identity.settings, identity.data
